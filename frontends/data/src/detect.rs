//! Which format lies at a path.
//!
//! A file is recognised by its extension, a folder by the names in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cifar::{self, Batches};
use crate::error::DataError;
use crate::idx::{Files, SplitFiles};

/// A recognised format.
pub(crate) enum Format {
    Idx(Files),
    Cifar(&'static Batches),
    Folder,
    Tar,
    Npz,
    Table,
    Tables { train: PathBuf, test: PathBuf },
}

/// The stem and the number of dimensions in the name of each IDX file.
const IDX_NAMES: [(&str, u8); 4] =
    [("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)];

/// Recognises what lies at `path`.
pub(crate) fn format(path: &Path) -> Result<Format, DataError> {
    let metadata = fs::metadata(path).map_err(|error| DataError::io(path, error))?;
    if metadata.is_dir() { folder(path) } else { file(path) }
}

fn file(path: &Path) -> Result<Format, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let one_of = |reason: &str, help| Err(DataError::unsuitable(&path.display().to_string(), reason, help));
    if ends_with(&[".npz"]) {
        return Ok(Format::Npz);
    }
    if ends_with(&[".csv"]) {
        return Ok(Format::Table);
    }
    if ends_with(&[".tar", ".tar.gz", ".tgz"]) {
        return Ok(Format::Tar);
    }
    if ends_with(&[".bin"]) {
        return one_of("is one of the files of a CIFAR data set", "give the folder that holds all of them");
    }
    if ends_with(&["-ubyte", "-ubyte.gz"]) {
        return one_of("is one of the four IDX files of a data set", "give the folder that holds all four");
    }
    let found = match path.extension() {
        Some(extension) => format!("a file with extension '{}'", extension.display()),
        None => "a file without an extension".to_owned(),
    };
    Err(DataError::Unrecognized { path: path.to_owned(), found })
}

fn folder(path: &Path) -> Result<Format, DataError> {
    if let Some(files) = idx(path)? {
        return Ok(Format::Idx(files));
    }
    let (train, test) = (path.join("train.csv"), path.join("test.csv"));
    match (train.is_file(), test.is_file()) {
        (true, true) => return Ok(Format::Tables { train, test }),
        (true, false) => return Err(incomplete(path, "'train.csv'", "'test.csv'")),
        (false, true) => return Err(incomplete(path, "'test.csv'", "'train.csv'")),
        (false, false) => {}
    }
    if let Some(batches) = cifar::ALL.iter().find(|batches| batches.any_in(path)) {
        return Ok(Format::Cifar(batches));
    }
    if path.join("train").is_dir() || path.join("test").is_dir() {
        return Ok(Format::Folder);
    }
    Err(DataError::Unrecognized {
        path: path.to_owned(),
        found: "a folder without IDX files, CIFAR batches, train.csv and test.csv, or folders of images 'train' and \
                'test'"
            .to_owned(),
    })
}

/// The four IDX files in `folder`; `None` if there is none of them.
fn idx(folder: &Path) -> Result<Option<Files>, DataError> {
    let [train_images, train_labels, test_images, test_labels] =
        IDX_NAMES.map(|(stem, rank)| idx_file(folder, stem, rank));
    let found = [&train_images, &train_labels, &test_images, &test_labels];
    let Some(present) = found.iter().find_map(|file| file.as_deref()) else { return Ok(None) };
    let present = format!("'{}'", present.file_name().unwrap_or(OsStr::new("")).display());
    let missing = |index: usize| {
        let (stem, rank) = IDX_NAMES[index];
        incomplete(folder, &present, &format!("'{stem}-idx{rank}-ubyte[.gz]'"))
    };
    Ok(Some(Files {
        train: SplitFiles {
            images: train_images.ok_or_else(|| missing(0))?,
            labels: train_labels.ok_or_else(|| missing(1))?,
        },
        test: SplitFiles {
            images: test_images.ok_or_else(|| missing(2))?,
            labels: test_labels.ok_or_else(|| missing(3))?,
        },
    }))
}

/// The file of one IDX array, under any of the names it goes by; uncompressed before compressed.
fn idx_file(folder: &Path, stem: &str, rank: u8) -> Option<PathBuf> {
    ["", ".gz"]
        .iter()
        .flat_map(|end| ['-', '.'].map(|dot| format!("{stem}{dot}idx{rank}-ubyte{end}")))
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
}

fn incomplete(folder: &Path, present: &str, missing: &str) -> DataError {
    DataError::Incomplete {
        file: folder.display().to_string(),
        present: present.to_owned(),
        missing: missing.to_owned(),
    }
}
