//! NumPy archives.

use std::path::Path;

use ffc_data::{DataError, Dataset, Features, LoadOptions, fuzz};
use rawzip::CompressionMethod;

use super::build::{folder, npy, npy_header, npz, zip};
use super::{bytes, floats, load_all, text};

fn read(file: &[u8]) -> Result<Dataset, DataError> {
    fuzz::npz(file, &LoadOptions::default())
}

/// Training features `x` with three labels, beside a matching test split.
fn with_train(x: Vec<u8>) -> Result<Dataset, DataError> {
    let labels = npy("<i8", "(3,)", &[0; 24]);
    read(&npz(x.clone(), labels.clone(), x, labels))
}

/// Training labels `y` for one sample of one feature.
fn with_labels(y: Vec<u8>) -> Result<Dataset, DataError> {
    let x = npy("|u1", "(1, 1)", &[7]);
    read(&npz(x.clone(), y, x, npy("|u1", "(1,)", &[0])))
}

fn message(result: Result<Dataset, DataError>) -> (String, Option<&'static str>) {
    let error = result.expect_err("the file is wrong");
    (error.to_string(), error.help())
}

fn le<const N: usize, T>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(bytes).collect()
}

#[test]
fn archives_that_numpy_wrote() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let images = load_all(&fixtures.join("images.npz")).unwrap();
    assert_eq!(images.shape, [1, 2, 3]);
    assert_eq!(bytes(&images.train.features), (0..36).collect::<Vec<u8>>());
    assert_eq!(bytes(&images.test.features), (36..54).collect::<Vec<u8>>());
    assert_eq!((images.train.labels, images.test.labels), (vec![0, 1, 2, 3, 0, 1], vec![2, 3, 0]));

    let features = load_all(&fixtures.join("features.npz")).unwrap();
    assert_eq!((features.shape, features.classes), (vec![5], 3));
    let expected: Vec<f32> = (0..35).map(|i| (-1.0 + 2.0 * f64::from(i) / 34.0) as f32).collect();
    for (found, expected) in
        floats(&features.train.features).iter().chain(floats(&features.test.features)).zip(&expected)
    {
        assert!((found - expected).abs() < 1e-7);
    }
    assert_eq!((features.train.labels, features.test.labels), (vec![0, 1, 2, 0], vec![1, 2, 0]));
}

#[test]
fn features_of_every_type() {
    for (descr, file) in [
        ("|i1", le(&[-1_i8, 2, 3], |x| x.to_le_bytes())),
        ("<i2", le(&[-1_i16, 2, 3], |x| x.to_le_bytes())),
        (">i4", le(&[-1_i32, 2, 3], |x| x.to_be_bytes())),
        ("<i8", le(&[-1_i64, 2, 3], |x| x.to_le_bytes())),
        ("<f4", le(&[-1_f32, 2.0, 3.0], |x| x.to_le_bytes())),
        (">f8", le(&[-1_f64, 2.0, 3.0], |x| x.to_be_bytes())),
    ] {
        let dataset = with_train(npy(descr, "(3, 1)", &file)).unwrap();
        assert_eq!(dataset.train.features, Features::F32(vec![-1.0, 2.0, 3.0]), "{descr}");
    }
    let dataset = with_train(npy("|u1", "(3, 1)", &[1, 2, 3])).unwrap();
    assert_eq!(dataset.train.features, Features::U8(vec![1, 2, 3].into()));
}

#[test]
fn shapes_become_features_or_images() {
    for (shape, expected) in
        [("(3, 12)", vec![12]), ("(3, 4, 3)", vec![1, 4, 3]), ("(3, 2, 3, 2)", vec![2, 3, 2])]
    {
        assert_eq!(with_train(npy("|u1", shape, &[5; 36])).unwrap().shape, expected);
    }
    let (text, help) = message(with_train(npy("|u1", "(3,)", &[0; 3])));
    assert_eq!(text, "'fuzz: x_train' has 1 dimensions");
    assert_eq!(help, Some("features have the shape [N, F], [N, H, W] or [N, C, H, W]"));
}

#[test]
fn limits_keep_the_first_samples() {
    let x = npy("<f4", "(3, 1)", &le(&[1_f32, 2.0, f32::NAN], |x| x.to_le_bytes()));
    let y = npy("|u1", "(3,)", &[1, 0, 9]);
    let file = npz(x.clone(), y.clone(), x, y);
    let options = LoadOptions { limit_train: Some(1), limit_test: Some(2), ..LoadOptions::default() };
    let dataset = fuzz::npz(&file, &options).unwrap();
    assert_eq!(floats(&dataset.train.features), [1.0]);
    assert_eq!(floats(&dataset.test.features), [1.0, 2.0]);
    assert_eq!(dataset.classes, 10);
}

#[test]
fn compressed_archives_are_read() {
    let x = npy("|u1", "(200, 300)", &[9; 60_000]);
    let y = npy("<u2", "(200, 1)", &[1; 400]);
    let entries = [("x_train.npy", &x), ("y_train.npy", &y), ("x_test.npy", &x), ("y_test.npy", &y)]
        .map(|(name, array)| (name, array.clone()));
    let file = zip(&entries, CompressionMethod::DEFLATE);
    assert!(file.len() < 2000);
    let dataset = read(&file).unwrap();
    assert_eq!((dataset.train.len(), dataset.classes), (200, 258));
    assert_eq!(dataset.train.labels[0], 257);
}

#[test]
fn values_that_are_not_finite() {
    let x = npy("<f4", "(3, 2)", &le(&[0., 1., 2., f32::NAN, 4., 5.], |x| x.to_le_bytes()));
    let (text, help) = message(with_train(x));
    assert_eq!(text, "'fuzz: x_train' row 1, column '1': NaN is not finite as a 32-bit float");
    assert_eq!(help, Some("remove or fill in such values"));
    let x = npy("<f8", "(3, 1)", &le(&[0., 1., 1e300], |x: &f64| x.to_le_bytes()));
    let (text, _) = message(with_train(x));
    assert_eq!(text, "'fuzz: x_train' row 2, column '0': 1e300 is not finite as a 32-bit float");
}

#[test]
fn labels_that_are_no_classes() {
    let (text, help) = message(with_labels(npy("<i4", "(1,)", &(-3_i32).to_le_bytes())));
    assert_eq!(text, "'fuzz: y_train' row 0, column 'y_train': label -3 is negative");
    assert_eq!(help, Some("number the classes from 0"));
    let (text, help) = message(with_labels(npy("<u8", "(1,)", &u64::MAX.to_le_bytes())));
    assert_eq!(text, "'fuzz: y_train' has label 18446744073709551615, beyond the 65536 classes possible");
    assert!(help.unwrap().starts_with("labels are classes"));
    let (text, help) = message(with_labels(npy("<f4", "(1,)", &[0; 4])));
    assert_eq!(text, "'fuzz: y_train' has labels that are floats, not integers");
    assert_eq!(help, Some("convert them with array.astype(numpy.int64)"));
    let (text, help) = message(with_labels(npy("|u1", "(1, 10)", &[0; 10])));
    assert_eq!(text, "'fuzz: y_train' has shape [1, 10], not one label per sample");
    assert_eq!(help, Some("for one-hot labels save array.argmax(axis=1)"));
}

#[test]
fn arrays_of_other_kinds() {
    let (text, help) = message(with_train(npy("<f2", "(3, 1)", &[0; 6])));
    assert_eq!(text, "'fuzz: x_train' has elements of type '<f2'");
    assert!(help.unwrap().contains("astype(numpy.float32)"));
    let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 1), }";
    let (text, help) = message(with_train(npy_header(fortran, &[0; 12])));
    assert_eq!(text, "'fuzz: x_train' is stored in Fortran order");
    assert_eq!(help, Some("save numpy.ascontiguousarray(array)"));
    let (text, _) = message(with_train(npy_header("nonsense", &[])));
    assert_eq!(text, "'fuzz: x_train' has a header that is no NumPy array header");
    let (text, _) = message(with_train(b"\x93NUMPY\x09\x00".to_vec()));
    assert_eq!(text, "'fuzz: x_train' has NumPy array format version 9, 1 to 3 are known");
    let (text, _) = message(with_train(b"PK, not NumPy".to_vec()));
    assert_eq!(text, "'fuzz: x_train' is no NumPy array: its magic is missing");
}

#[test]
fn arrays_that_do_not_fit_one_another() {
    let x = npy("|u1", "(2, 1)", &[0; 2]);
    let (text, _) = message(with_train(x));
    assert_eq!(text, "'fuzz: x_train' has 2 samples, but there are 3 labels for them");

    let y = npy("|u1", "(1,)", &[0]);
    let (a, b) = (npy("|u1", "(1, 2)", &[0; 2]), npy("|u1", "(1, 3)", &[0; 3]));
    let (text, _) = message(read(&npz(a.clone(), y.clone(), b, y.clone())));
    assert_eq!(
        text,
        "'fuzz' has splits that differ: train has samples of shape [2], test has samples of shape [3]"
    );
    let b = npy("|i1", "(1, 2)", &[0; 2]);
    let (text, _) = message(read(&npz(a, y.clone(), b, y)));
    assert_eq!(text, "'fuzz' has splits that differ: train has u8 features, test has f32 features");
}

#[test]
fn arrays_that_are_shorter_or_longer_than_promised() {
    let error = with_train(npy("<f4", "(3, 1)", &[0; 11])).unwrap_err();
    assert!(matches!(error, DataError::Truncated { promised: 12, found: 11, .. }));
    let error = with_train(npy("<f4", "(3, 1)", &[0; 13])).unwrap_err();
    assert!(matches!(error, DataError::TrailingBytes { promised: 12, .. }));
    let error = with_train(npy("<f4", "(3, 4611686018427387904)", &[0; 12])).unwrap_err();
    assert!(matches!(error, DataError::Truncated { promised: u64::MAX, found: 12, .. }), "{error}");
    let error = with_train(npy("|u1", "(3, 9223372036854775807)", &[0; 12])).unwrap_err();
    assert!(matches!(error, DataError::Malformed { .. }), "{error}");
}

#[test]
fn archives_that_lack_arrays_or_are_none() {
    let array = npy("|u1", "(1,)", &[0]);
    let file = zip(&[("y_train.npy", array.clone()), ("data\u{1b}[1m.npy", array)], CompressionMethod::STORE);
    let (text, help) = message(read(&file));
    assert_eq!(text, "'fuzz' lacks 'y_test'; it has 'y_train', 'data\\u{1b}[1m'");
    assert_eq!(help, Some("put every part of the data set beside the others"));
    let (text, _) = message(read(&zip(&[], CompressionMethod::STORE)));
    assert_eq!(text, "'fuzz' lacks 'y_train'; it has no arrays");

    let folder = folder(&[("data.npz", b"not a zip file")]);
    let error = load_all(&folder.path().join("data.npz")).unwrap_err();
    assert_eq!(
        super::text(&error, folder.path()),
        "'data.npz' is no readable zip file: missing end of central directory"
    );
}

#[test]
fn a_corrupt_archive() {
    let x = npy("|u1", "(1, 4)", b"pear");
    let y = npy("|u1", "(1,)", &[0]);
    let mut file = npz(x.clone(), y.clone(), x, y);
    let position = file.windows(4).position(|window| window == b"pear").unwrap();
    file[position] ^= 1;
    let folder = folder(&[("data.npz", &file)]);
    let error = load_all(&folder.path().join("data.npz")).unwrap_err();
    let text = text(&error, folder.path());
    assert!(text.starts_with("'data.npz: x_train' is corrupt: invalid checksum"), "{text}");
}
