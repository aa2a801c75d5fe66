//! Fuzz targets: every reader on bytes that may be anything.
//!
//! They must return, with a data set or an error, whatever the bytes; the tests of this crate and
//! the fuzzers of the workspace call the same functions.

use crate::labels::Labels;
use crate::source::Source;
use crate::{DataError, Dataset, LoadOptions, cifar, idx, images, npz, table};

/// Reads `bytes` as a file of IDX labels; returns their number.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn idx_labels(bytes: &[u8]) -> Result<usize, DataError> {
    idx::labels(Source::bytes("fuzz", bytes), None).map(|labels| labels.total)
}

/// Reads `bytes` as a file of IDX images for `labels` labels; returns the number of pixels.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn idx_images(bytes: &[u8], labels: u16) -> Result<usize, DataError> {
    let labels = Labels::new(vec![0; usize::from(labels)], None);
    idx::images(Source::bytes("fuzz", bytes), labels).map(|(_, split)| split.features.len())
}

/// Reads `bytes` as an `.npz` file.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn npz(bytes: &[u8], options: &LoadOptions) -> Result<Dataset, DataError> {
    npz::load(Source::bytes("fuzz", bytes), options)
}

/// Reads `bytes` as a `.csv` file with both splits.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn csv(bytes: &[u8], options: &LoadOptions) -> Result<Dataset, DataError> {
    table::load_one(Source::bytes("fuzz", bytes), options)
}

/// Reads `train` and `test` as a `.csv` file each.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn csv_pair(train: &[u8], test: &[u8], options: &LoadOptions) -> Result<Dataset, DataError> {
    table::load_two(Source::bytes("fuzz train", train), Source::bytes("fuzz test", test), options)
}

/// Reads `bytes` as the labels of a CIFAR-10 batch; returns their number.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn cifar(bytes: &[u8]) -> Result<usize, DataError> {
    cifar::labels(&cifar::ALL[0], Source::bytes("fuzz", bytes)).map(|labels| labels.len())
}

/// Decodes `bytes` as an image; returns the number of bytes that it then has.
///
/// # Errors
///
/// With the reason, if it is no PNG or JPEG image of a size and kind that is taken.
pub fn image(bytes: &[u8]) -> Result<usize, String> {
    images::decode_any(bytes)
}

/// Reads `bytes` as an archive of images.
///
/// # Errors
///
/// As [`load`](crate::load).
pub fn tar(bytes: &[u8], options: &LoadOptions) -> Result<Dataset, DataError> {
    images::load(&mut images::Tar::new(Source::bytes("fuzz", bytes), b"fuzz".to_vec()), options, &mut ())
}

/// Reads `bytes` as what stands before the images in a file of decoded ones; tells whether it is valid.
pub fn cache_header(bytes: &[u8]) -> bool {
    images::parse_cache_header(bytes)
}
