//! What lies at a path, recognised or refused.

use ffc_data::DataError;

use super::build::{folder, idx};
use super::{load_all, text};

const ACCEPTED: &str = "accepted: a folder with IDX files (train-images-idx3-ubyte[.gz], \
    train-labels-idx1-ubyte[.gz], t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]); \
    a folder with CIFAR's binary batches (data_batch_1.bin, ..., test_batch.bin); a folder, .tar \
    or .tar.gz with images as train/<class>/*.png or *.jpg and test/<class>/...; an .npz file with \
    x_train, y_train, x_test and y_test; a .csv file with a 'label' column; a folder with \
    train.csv and test.csv";

/// The text and the help of the error for `name` in a folder of `files`; "" is the folder.
fn refusal(files: &[(&str, &[u8])], name: &str) -> (String, Option<&'static str>) {
    let folder = folder(files);
    let path = if name.is_empty() { folder.path().to_owned() } else { folder.path().join(name) };
    let error = load_all(&path).expect_err("the file is wrong");
    (text(&error, folder.path()).replace(&folder.path().display().to_string(), "FOLDER"), error.help())
}

#[test]
fn a_missing_path() {
    let (text, help) = refusal(&[], "nothing.npz");
    assert_eq!(text, "'nothing.npz' does not exist");
    assert_eq!(help, Some(ACCEPTED));
}

#[test]
fn an_unknown_file() {
    let (text, help) = refusal(&[("data.parquet", b"PAR1")], "data.parquet");
    assert_eq!(text, "'data.parquet' is no data set that ffc knows: a file with extension 'parquet'");
    assert_eq!(help, Some(ACCEPTED));
    let (text, _) = refusal(&[("data", b"")], "data");
    assert_eq!(text, "'data' is no data set that ffc knows: a file without an extension");
}

#[test]
fn an_unknown_folder() {
    let (text, help) = refusal(&[("notes.txt", b"")], "");
    assert_eq!(
        text,
        "'FOLDER' is no data set that ffc knows: a folder without IDX files, CIFAR batches, train.csv and test.csv, or \
         folders of images 'train' and 'test'"
    );
    assert_eq!(help, Some(ACCEPTED));
}

#[test]
fn one_of_four_idx_files() {
    let (text, help) = refusal(&[("t10k-labels-idx1-ubyte.gz", b"")], "t10k-labels-idx1-ubyte.gz");
    assert_eq!(text, "'t10k-labels-idx1-ubyte.gz' is one of the four IDX files of a data set");
    assert_eq!(help, Some("give the folder that holds all four"));
}

#[test]
fn a_part_is_missing() {
    let labels = idx(&[1], &[0]);
    let images = idx(&[1, 1, 1], &[0]);
    let files: [(&str, &[u8]); 3] = [
        ("train-images-idx3-ubyte", &images),
        ("train-labels-idx1-ubyte", &labels),
        ("t10k-images.idx3-ubyte", &images),
    ];
    let (text, help) = refusal(&files, "");
    assert_eq!(text, "'FOLDER' lacks 't10k-labels-idx1-ubyte[.gz]'; it has 'train-images-idx3-ubyte'");
    assert_eq!(help, Some("put every part of the data set beside the others"));

    let (text, _) = refusal(&[("train.csv", b"")], "");
    assert_eq!(text, "'FOLDER' lacks 'test.csv'; it has 'train.csv'");
    let (text, _) = refusal(&[("test.csv", b"")], "");
    assert_eq!(text, "'FOLDER' lacks 'train.csv'; it has 'test.csv'");
}

#[test]
fn a_folder_named_like_a_file_is_a_folder() {
    let (text, _) = refusal(&[("data.csv/notes.txt", b"")], "data.csv");
    assert!(text.starts_with("'data.csv' is no data set that ffc knows: a folder"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_device_is_no_file() {
    let folder = folder(&[]);
    let link = folder.path().join("endless.csv");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    let error = load_all(&link).unwrap_err();
    assert!(matches!(error, DataError::Unsuitable { .. }));
    assert_eq!(text(&error, folder.path()), "'endless.csv' is not a regular file");
}
