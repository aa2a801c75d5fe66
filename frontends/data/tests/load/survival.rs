//! Readers return on any bytes, with a data set that holds what it promises, or with an error.

use std::ops::Range;

use ffc_data::{DataError, Dataset, Features, LoadOptions, fuzz};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rawzip::CompressionMethod;

use super::build::{colour, grey, gzip, idx, jpeg, npy, npz, tar, zip};

/// One change to a file's bytes.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    /// Writes 0xff, the way lengths become absurd.
    Fill(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, Index),
    Truncate(Index),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let range = |from: &Index, to: &Index, bytes: &[u8]| -> Range<usize> {
            let (a, b) = (from.index(bytes.len()), to.index(bytes.len()));
            a.min(b)..a.max(b)
        };
        match self {
            Edit::Set(at, value) => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Edit::Fill(at) => {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill(0xff);
            }
            Edit::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Remove(from, to) => {
                let range = range(from, to, bytes);
                bytes.drain(range);
            }
            Edit::Repeat(from, to) => {
                let copy = bytes[range(from, to, bytes)].to_vec();
                bytes.extend(copy);
            }
            Edit::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Edit::Set(at, value)),
        2 => at().prop_map(Edit::Fill),
        1 => (at(), vec(any::<u8>(), 1..5)).prop_map(|(at, new)| Edit::Insert(at, new)),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Remove(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Repeat(from, to)),
        1 => at().prop_map(Edit::Truncate),
    ]
}

/// One of the files with a few edits.
fn mutated(files: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (select(files), vec(edit(), 0..4)).prop_map(|(mut bytes, edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    })
}

fn options() -> impl Strategy<Value = LoadOptions> {
    let limit = || proptest::option::of(0..4_usize);
    (limit(), limit()).prop_map(|(limit_train, limit_test)| LoadOptions {
        limit_train,
        limit_test,
        ..LoadOptions::default()
    })
}

/// What a caller may rely on: errors that can be shown, data sets whose rows and statistics exist.
fn check(result: Result<Dataset, DataError>) {
    let dataset = match result {
        Ok(dataset) => dataset,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
            error.help();
            return;
        }
    };
    let width: usize = dataset.shape.iter().product();
    for split in [&dataset.train, &dataset.test] {
        assert!(!split.is_empty());
        assert_eq!((split.width(), split.features.len()), (width, split.len() * width));
        split.rows(split.len() - 1..split.len(), &mut Vec::new()).expect("rows can be read");
        if let Features::F32(values) = &split.features {
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
    dataset.check_labels(dataset.classes).expect("labels are below the classes");
    let statistics = dataset.statistics(dataset.default_scale()).expect("rows can be read");
    assert!(statistics.mean.iter().all(|mean| mean.is_finite()));
    assert!(statistics.std.iter().all(|&std| std.is_finite() && std > 0.0));
}

fn idx_files() -> Vec<Vec<u8>> {
    let images = idx(&[3, 2, 2], &[7; 12]);
    let labels = idx(&[3], &[0, 1, 2]);
    vec![gzip(&images), gzip(&labels), images, labels]
}

fn npz_files() -> Vec<Vec<u8>> {
    let (images, labels) = (npy("|u1", "(2, 2, 2)", &[9; 8]), npy("<i4", "(2,)", &[0; 8]));
    let features = npy("<f4", "(2, 3)", &[0; 24]);
    let doubles = npy(">f8", "(2, 3)", &[0; 48]);
    let entries = [("x_train.npy", &features), ("y_train.npy", &labels), ("x_test.npy", &doubles)]
        .map(|(name, array)| (name, array.clone()));
    let entries = [entries.as_slice(), &[("y_test.npy", labels.clone())]].concat();
    vec![
        npz(images.clone(), labels.clone(), images, labels.clone()),
        npz(features, labels.clone(), doubles, labels),
        zip(&entries, CompressionMethod::DEFLATE),
    ]
}

fn tables() -> Vec<Vec<u8>> {
    let rows = "1,2,0\n3,4,1\n5,6,2\n7,8,0\n9,1,1\n2,3,2\n";
    vec![
        format!("a,b,label\n{rows}").into_bytes(),
        b"a,label,split\n1,cat,train\n2,\"d\"\"og\",test\n-3e2,cat,train\n".to_vec(),
        b"label,x\r\n 0 , 1.5\r\n1,2\r\n".to_vec(),
    ]
}

/// Images of some 64 pixels, of all kinds that are read.
fn image_files() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..192_u32).map(|i| (i * i * 31 / 7) as u8).collect();
    let mut busy = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut busy, 60);
    encoder.encode(&noise, 8, 8, jpeg_encoder::ColorType::Rgb).expect("a vector takes all");
    vec![
        grey([8, 8], &noise[..64]),
        colour([8, 8], &noise),
        jpeg([9, 7], &[1, 2, 3], false),
        jpeg([9, 7], &[1, 2, 3], true),
        jpeg([8, 8], &[99], true),
        busy,
    ]
}

fn archives() -> Vec<Vec<u8>> {
    let image = grey([2, 1], &[1, 2]);
    let long = format!("train/a/{}.png", "x".repeat(150));
    let names =
        ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "train/", "test/b/", &long];
    let content = |name: &&str| if name.ends_with('/') { vec![] } else { image.clone() };
    let members: Vec<_> = names.iter().map(|name| (*name, content(name))).collect();
    vec![tar(&members), gzip(&tar(&members)), gzip(&tar(&members[..4]))]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn idx_survives_any_bytes(bytes in vec(any::<u8>(), 0..64), labels in 0..4_u16) {
        fuzz::idx_labels(&bytes).ok();
        fuzz::idx_images(&bytes, labels).ok();
        fuzz::idx_images(&[&[0, 0, 8, 3], bytes.as_slice()].concat(), labels).ok();
    }

    #[test]
    fn idx_survives_edits(bytes in mutated(idx_files())) {
        if let Ok(labels) = fuzz::idx_labels(&bytes) {
            prop_assert!(labels <= bytes.len() * 1032);
        }
        fuzz::idx_images(&bytes, 3).ok();
    }

    #[test]
    fn npz_survives_any_bytes(bytes in vec(any::<u8>(), 0..256), options in options()) {
        check(fuzz::npz(&bytes, &options));
        let labels = npy("<i8", "(1,)", &[0; 8]);
        let file = npz(bytes, labels.clone(), npy("|u1", "(1, 1)", &[0]), labels);
        check(fuzz::npz(&file, &options));
    }

    #[test]
    fn npz_survives_edits(bytes in mutated(npz_files()), options in options()) {
        check(fuzz::npz(&bytes, &options));
    }

    #[test]
    fn npy_survives_edits(
        array in mutated(vec![npy("<f4", "(2, 3)", &[0; 24]), npy("|u1", "(2, 1, 1, 2)", &[5; 4])]),
        labels in mutated(vec![npy("<i4", "(2,)", &[0; 8]), npy("|u1", "(2, 1)", &[1; 2])]),
        options in options(),
    ) {
        check(fuzz::npz(&npz(array.clone(), labels.clone(), array, labels), &options));
    }

    #[test]
    fn csv_survives_any_bytes(bytes in vec(any::<u8>(), 0..256), options in options()) {
        check(fuzz::csv(&bytes, &options));
        let table = [b"label,x\n".as_slice(), &bytes].concat();
        check(fuzz::csv(&table, &options));
        check(fuzz::csv_pair(&table, &table, &options));
    }

    #[test]
    fn csv_survives_edits(
        train in mutated(tables()),
        test in mutated(tables()),
        options in options(),
    ) {
        check(fuzz::csv(&train, &options));
        check(fuzz::csv_pair(&train, &test, &options));
    }

    #[test]
    fn cifar_survives_edits(bytes in mutated(vec![[&[3][..], &[0; 3072]].concat().repeat(2)])) {
        if let Ok(labels) = fuzz::cifar(&bytes) {
            prop_assert_eq!(labels * 3073, bytes.len());
        }
    }

    #[test]
    fn images_survive_any_bytes(bytes in vec(any::<u8>(), 0..256)) {
        for magic in [&b""[..], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"] {
            fuzz::image(&[magic, &bytes].concat()).ok();
        }
    }

    #[test]
    fn images_survive_edits(bytes in mutated(image_files())) {
        if let Ok(pixels) = fuzz::image(&bytes) {
            prop_assert!(pixels > 0 && pixels <= 3 * 4096 * 4096);
        }
    }

    #[test]
    fn archives_survive_any_bytes(bytes in vec(any::<u8>(), 0..2048), options in options()) {
        check(fuzz::tar(&bytes, &options));
        check(fuzz::tar(&gzip(&bytes), &options));
    }

    #[test]
    fn archives_survive_edits(bytes in mutated(archives()), options in options()) {
        check(fuzz::tar(&bytes, &options));
    }

    #[test]
    fn headers_of_decoded_images_survive_any_bytes(bytes in vec(any::<u8>(), 0..128)) {
        prop_assert!(!fuzz::cache_header(&[b"ffcimg\0\x01", bytes.as_slice()].concat()));
    }
}
