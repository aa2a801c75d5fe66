//! IDX folders.

use std::path::Path;

use ffc_data::{DataError, LoadOptions, Rows, fuzz, load};

use super::build::{folder, gzip, idx, write};
use super::{bytes, load_all, read, text};

const NAMES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Three training images and two test images of 2 x 3.
fn files() -> [Vec<u8>; 4] {
    [
        idx(&[3, 2, 3], &(0..18).collect::<Vec<u8>>()),
        idx(&[3], &[1, 0, 4]),
        idx(&[2, 2, 3], &(100..112).collect::<Vec<u8>>()),
        idx(&[2], &[2, 3]),
    ]
}

fn valid() -> tempfile::TempDir {
    let files = files();
    folder(&std::array::from_fn::<_, 4, _>(|i| (NAMES[i], files[i].as_slice())))
}

/// The error's text when one of the files holds `bytes` instead.
fn refusal(name: &str, bytes: &[u8]) -> (DataError, String) {
    let folder = valid();
    write(&folder.path().join(name), bytes);
    let error = load_all(folder.path()).expect_err("the file is wrong");
    let text = text(&error, folder.path());
    (error, text)
}

#[test]
fn images_and_labels_are_read() {
    let folder = valid();
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!(dataset.shape, [1, 2, 3]);
    assert_eq!((dataset.classes, dataset.train.len(), dataset.test.len()), (5, 3, 2));
    assert_eq!(dataset.class_names, ["0", "1", "2", "3", "4"]);
    assert_eq!(dataset.train.labels, [1, 0, 4]);
    assert_eq!(bytes(&dataset.train.features), (0..18).collect::<Vec<u8>>());
    assert_eq!(dataset.train.rows(1..2, &mut Vec::new()).unwrap(), Rows::U8(&[6, 7, 8, 9, 10, 11]));
    assert_eq!(dataset.test.rows(1..2, &mut Vec::new()).unwrap(), Rows::U8(&[106, 107, 108, 109, 110, 111]));
    assert!(dataset.check_labels(5).is_ok());
}

#[test]
fn other_names_and_compression_make_no_difference() {
    let expected = load_all(valid().path()).unwrap();
    let files = files();
    let renamed = NAMES.map(|name| name.replace("-idx", ".idx") + ".gz");
    let compressed = files.each_ref().map(|file| gzip(file));
    let dots = folder(&std::array::from_fn::<_, 4, _>(|i| (&*renamed[i], &*compressed[i])));
    assert_eq!(load_all(dots.path()).unwrap(), expected);

    let misnamed = folder(&std::array::from_fn::<_, 4, _>(|i| (&*renamed[i], &*files[i])));
    assert_eq!(load_all(misnamed.path()).unwrap(), expected);
}

#[test]
fn gzip_members_are_read_on() {
    let [images, ..] = files();
    let members = [gzip(&images[..20]), gzip(&images[20..])].concat();
    let folder = valid();
    write(&folder.path().join(NAMES[0]), &members);
    assert_eq!(load_all(folder.path()).unwrap(), load_all(valid().path()).unwrap());
}

#[test]
fn limits_keep_the_first_samples_and_all_classes() {
    let options = LoadOptions { limit_train: Some(2), limit_test: Some(9), ..LoadOptions::default() };
    let dataset = load(valid().path(), &options).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.classes), (2, 2, 5));
    assert_eq!(bytes(&dataset.train.features), (0..12).collect::<Vec<u8>>());
    assert_eq!(dataset.train.labels, [1, 0]);

    let error = load(valid().path(), &LoadOptions { limit_test: Some(0), ..options.clone() }).unwrap_err();
    assert_eq!(error.to_string(), "the test split has no samples");
    assert!(error.help().unwrap().contains("limit"));
}

#[test]
fn labels_beyond_a_model_are_found() {
    let error = load_all(valid().path()).unwrap().check_labels(4).unwrap_err();
    assert_eq!(error.to_string(), "the train split's sample 2 has label 4, but there are 4 classes");
    assert!(error.help().is_some());
    let options = LoadOptions { limit_train: Some(2), limit_test: None, ..LoadOptions::default() };
    let error = load(valid().path(), &options).unwrap().check_labels(3).unwrap_err();
    assert_eq!(error.to_string(), "the test split's sample 1 has label 3, but there are 3 classes");
}

#[test]
fn a_wrong_magic_number() {
    let (error, text) = refusal(NAMES[0], &idx(&[3], &[1, 2, 3]));
    assert!(matches!(error, DataError::Malformed { .. }));
    assert_eq!(
        text,
        "'train-images-idx3-ubyte' starts with 0x00000801, not with 0x00000803, the mark of IDX images"
    );
    let (_, text) = refusal(NAMES[3], b"<!DOCTYPE html>");
    assert_eq!(
        text,
        "'t10k-labels-idx1-ubyte' starts with 0x3c21444f, not with 0x00000801, the mark of IDX labels"
    );
}

#[test]
fn a_truncated_file() {
    let [images, ..] = files();
    let (error, text) = refusal(NAMES[0], &images[..images.len() - 1]);
    assert!(matches!(error, DataError::Truncated { promised: 18, found: 17, .. }));
    assert_eq!(
        text,
        "'train-images-idx3-ubyte' is truncated: its header promises 18 bytes, at most 17 are there"
    );
    assert_eq!(error.help(), Some("fetch or write the file again"));
    let (error, _) = refusal(NAMES[0], &images[..9]);
    assert!(matches!(error, DataError::Truncated { promised: 4, found: 1, .. }));
    let (error, _) = refusal(NAMES[1], &[]);
    assert!(matches!(error, DataError::Truncated { promised: 4, found: 0, .. }));
}

#[test]
fn a_truncated_gzip_file() {
    let pixels: Vec<u8> = (0..4000_u32).map(|i| (i * i / 32) as u8).collect();
    let images = gzip(&idx(&[4000, 1, 1], &pixels));
    let labels = idx(&[4000], &[0; 4000]);
    let load_images = |images: &[u8]| {
        let folder = valid();
        write(&folder.path().join(NAMES[0]), images);
        write(&folder.path().join(NAMES[1]), &labels);
        let test = idx(&[2, 1, 1], &[1, 2]);
        write(&folder.path().join(NAMES[2]), &test);
        load_all(folder.path()).map_err(|error| text(&error, folder.path()))
    };
    assert!(load_images(&images).is_ok());
    let text = load_images(&images[..images.len() / 2]).unwrap_err();
    assert!(text.starts_with("'train-images-idx3-ubyte' is truncated: its header promises 4000 bytes"));
    assert_eq!(
        load_images(&images[..images.len() - 3]).unwrap_err(),
        "'train-images-idx3-ubyte' is truncated: it ends before its checksum"
    );
}

#[test]
fn a_corrupt_gzip_file() {
    let [images, ..] = files();
    let mut images = gzip(&images);
    let checksum = images.len() - 8;
    images[checksum] ^= 1;
    let (error, text) = refusal(NAMES[0], &images);
    assert!(matches!(error, DataError::Malformed { .. }));
    assert!(text.starts_with("'train-images-idx3-ubyte' is corrupt: corrupt gzip stream"), "{text}");
}

#[test]
fn a_header_that_promises_too_much() {
    let huge = [65536, 256, 256];
    let (error, text) = refusal(NAMES[0], &idx(&[3, u32::MAX, u32::MAX], &[0; 4]));
    assert!(matches!(error, DataError::Malformed { .. }));
    assert_eq!(text, "'train-images-idx3-ubyte' has dimensions that overflow");
    let (error, _) = refusal(NAMES[1], &idx(&[u32::MAX], &[1, 2, 3, 4]));
    assert!(matches!(error, DataError::Truncated { promised: 0xffff_ffff, found: 4, .. }));
    // A gzip file is bounded by the most that deflate can make of its size.
    let bomb = gzip(&idx(&huge, &[0; 4]));
    let error = fuzz::idx_images(&bomb, u16::MAX).unwrap_err();
    assert!(matches!(error, DataError::LengthMismatch { samples: 65536, .. }));
    let bomb = gzip(&idx(&[65535, 256, 256], &[0; 4]));
    let Err(DataError::Truncated { promised, found, .. }) = fuzz::idx_images(&bomb, u16::MAX) else {
        panic!("the promise is taken");
    };
    assert_eq!(promised, 65535 * 256 * 256);
    assert!(found <= bomb.len() as u64 * 1032);
}

#[test]
fn a_file_that_goes_on() {
    let [images, ..] = files();
    let longer = [images.as_slice(), &[0]].concat();
    for file in [longer.clone(), gzip(&longer)] {
        let (error, text) = refusal(NAMES[0], &file);
        assert!(matches!(error, DataError::TrailingBytes { promised: 18, .. }));
        assert_eq!(text, "'train-images-idx3-ubyte' goes on after the 18 bytes that its header promises");
    }
}

#[test]
fn images_and_labels_that_differ_in_number() {
    let (error, text) = refusal(NAMES[1], &idx(&[2], &[0, 1]));
    assert!(matches!(error, DataError::LengthMismatch { samples: 3, labels: 2, .. }));
    assert_eq!(text, "'train-images-idx3-ubyte' has 3 samples, but there are 2 labels for them");
}

#[test]
fn splits_that_differ_in_size() {
    let (_, text) = refusal(NAMES[2], &idx(&[2, 3, 2], &[0; 12]));
    assert_eq!(
        text,
        "'train-images-idx3-ubyte' has splits that differ: train has images of 2 x 3, test has \
         images of 3 x 2"
    );
}

#[test]
fn empty_splits_and_empty_images() {
    let folder = valid();
    write(&folder.path().join(NAMES[2]), &idx(&[0, 2, 3], &[]));
    write(&folder.path().join(NAMES[3]), &idx(&[0], &[]));
    let error = load_all(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), "the test split has no samples");

    write(&folder.path().join(NAMES[0]), &idx(&[3, 0, 3], &[]));
    write(&folder.path().join(NAMES[2]), &idx(&[0, 0, 3], &[]));
    let error = load_all(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), "'samples' have the impossible shape [1, 0, 3]");
}

#[test]
fn the_example_has_the_statistics_of_mnist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/mnist");
    let dataset = load_all(&folder).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (12_000, 2_000));
    assert_eq!((dataset.classes, dataset.shape.as_slice()), (10, &[1, 28, 28][..]));
    let statistics = dataset.statistics(dataset.default_scale()).unwrap();
    assert_eq!((statistics.mean.len(), statistics.std.len()), (1, 1));
    assert!((statistics.mean[0] - 0.1307).abs() < 2e-3, "{statistics:?}");
    assert!((statistics.std[0] - 0.3081).abs() < 2e-3, "{statistics:?}");
}

#[test]
fn large_files_are_read_where_they_are() {
    let folder = valid();
    let streamed = |folder: &Path, limit_train| {
        load(folder, &LoadOptions { limit_train, in_memory: 20, ..LoadOptions::default() })
    };
    let (small, large) = (load_all(folder.path()).unwrap(), streamed(folder.path(), None).unwrap());
    assert!(large.train.features.is_streamed() && large.test.features.is_streamed());
    assert_eq!(read(&large.train.features), bytes(&small.train.features));
    assert_eq!(read(&large.test.features), bytes(&small.test.features));
    assert_eq!((large.train.labels, large.shape), (small.train.labels, small.shape));
    let limited = streamed(folder.path(), Some(2)).unwrap();
    assert_eq!(read(&limited.train.features), (0..12).collect::<Vec<u8>>());

    let [images, ..] = files();
    let refused = |images: &[u8]| {
        write(&folder.path().join(NAMES[0]), images);
        let error = streamed(folder.path(), None).unwrap_err();
        assert_eq!(error.to_string(), load_all(folder.path()).unwrap_err().to_string());
        text(&error, folder.path())
    };
    let file = "'train-images-idx3-ubyte'";
    assert_eq!(
        refused(&images[..images.len() - 1]),
        format!("{file} is truncated: its header promises 18 bytes, at most 17 are there")
    );
    assert_eq!(
        refused(&[&images[..], &[0]].concat()),
        format!("{file} goes on after the 18 bytes that its header promises")
    );
    refused(&images[..9]);
    // What is compressed cannot be read in parts.
    write(&folder.path().join(NAMES[0]), &gzip(&images));
    assert!(!streamed(folder.path(), None).unwrap().train.features.is_streamed());
}
