//! Data sets on disk, loaded as a user would: valid ones in full, and every way to get one wrong
//! with the text that the user sees.

mod build;
mod cache;
mod cifar;
mod folders;
mod idx;
mod images;
mod npz;
mod survival;
mod table;

use std::path::Path;

use ffc_data::{DataError, Dataset, Features, LoadOptions, Pixels, load};

/// Loads all of the data set at `path`.
fn load_all(path: &Path) -> Result<Dataset, DataError> {
    load(path, &LoadOptions::default())
}

/// The error's text, with the folder of the test left out.
fn text(error: &DataError, folder: &Path) -> String {
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

/// The values of 8-bit features.
fn bytes(features: &Features) -> &[u8] {
    match features {
        Features::U8(Pixels::Memory(values)) => values,
        _ => panic!("features are not bytes in memory"),
    }
}

/// The values of 8-bit features, wherever they are.
fn read(features: &Features) -> Vec<u8> {
    match features {
        Features::U8(pixels) => {
            pixels.read(0..pixels.len(), &mut Vec::new()).expect("it can be read").to_vec()
        }
        Features::F32(_) => panic!("features are f32"),
    }
}

/// The values of float features.
fn floats(features: &Features) -> &[f32] {
    match features {
        Features::U8(_) => panic!("features are u8"),
        Features::F32(values) => values,
    }
}
