//! CIFAR's binary batches.

use std::path::Path;

use ffc_data::{LoadOptions, load};

use super::build::{folder, write};
use super::{bytes, load_all, read, text};

const IMAGE: usize = 3072;

/// Records with these labels; the pixels of the n-th are n, and n + 100 in the last plane.
fn records(labels: &[u8], groups: bool, first: u8) -> Vec<u8> {
    labels
        .iter()
        .zip(first..)
        .flat_map(|(&label, shade)| {
            let group = if groups { &[9][..] } else { &[] };
            [group, &[label], &[shade; 2048], &[shade + 100; 1024]].concat()
        })
        .collect()
}

fn ten() -> tempfile::TempDir {
    let batches: Vec<Vec<u8>> = (0..5).map(|batch| records(&[batch, 9 - batch], false, 2 * batch)).collect();
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    folder(&[
        ("data_batch_1.bin", &batches[0]),
        ("data_batch_2.bin", &batches[1]),
        ("data_batch_3.bin", &batches[2]),
        ("data_batch_4.bin", &batches[3]),
        ("data_batch_5.bin", &batches[4]),
        ("test_batch.bin", &records(&[3, 4, 5], false, 50)),
        ("batches.meta.txt", names.as_bytes()),
    ])
}

fn refusal(folder: &Path) -> String {
    let error = load_all(folder).expect_err("the files are wrong");
    assert!(error.help().is_some());
    text(&error, folder).replace(&folder.display().to_string(), "FOLDER")
}

#[test]
fn cifar_10() {
    let folder = ten();
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!((dataset.shape.as_slice(), dataset.classes), (&[3, 32, 32][..], 10));
    assert_eq!(dataset.class_names[..2], ["airplane", "automobile"]);
    assert_eq!(dataset.train.labels, [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
    assert_eq!(dataset.test.labels, [3, 4, 5]);
    for (shade, pixels) in (0..).zip(bytes(&dataset.train.features).chunks(IMAGE)) {
        assert!(pixels[..2048].iter().all(|&pixel| pixel == shade));
        assert!(pixels[2048..].iter().all(|&pixel| pixel == shade + 100));
    }

    let streamed =
        load(folder.path(), &LoadOptions { in_memory: 13 * 3072 - 1, ..LoadOptions::default() }).unwrap();
    assert!(streamed.train.features.is_streamed() && streamed.test.features.is_streamed());
    assert_eq!(read(&streamed.train.features), bytes(&dataset.train.features));
    assert_eq!(read(&streamed.test.features), bytes(&dataset.test.features));
    assert_eq!(streamed.statistics(1.0).unwrap(), dataset.statistics(1.0).unwrap());

    for in_memory in [0, u64::MAX] {
        let options =
            LoadOptions { limit_train: Some(3), limit_test: Some(1), in_memory, ..LoadOptions::default() };
        let limited = load(folder.path(), &options).unwrap();
        assert_eq!((&limited.train.labels[..], limited.classes), (&[0, 9, 1][..], 10));
        assert_eq!(read(&limited.train.features), bytes(&dataset.train.features)[..3 * IMAGE]);
        assert_eq!(read(&limited.test.features), bytes(&dataset.test.features)[..IMAGE]);
    }

    std::fs::remove_file(folder.path().join("batches.meta.txt")).unwrap();
    assert_eq!(load_all(folder.path()).unwrap().class_names[..3], ["0", "1", "2"]);
}

#[test]
fn cifar_100() {
    let names: String = (0..100).map(|class| format!("name {class}\r\n")).collect();
    let folder = folder(&[
        ("train.bin", &records(&[99, 5], true, 0)),
        ("test.bin", &records(&[7], true, 7)),
        ("fine_label_names.txt", names.as_bytes()),
    ]);
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!((dataset.classes, dataset.class_names[99].as_str()), (100, "name 99"));
    assert_eq!((&dataset.train.labels[..], &dataset.test.labels[..]), (&[99, 5][..], &[7][..]));
    assert_eq!((bytes(&dataset.train.features)[IMAGE], bytes(&dataset.test.features)[2048]), (1, 107));
}

#[test]
fn files_that_are_wrong() {
    let folder = ten();
    let file = |name: &str| folder.path().join(name);
    write(&file("batches.meta.txt"), b"cat\x07\ndog\n");
    assert_eq!(
        refusal(folder.path()),
        "'batches.meta.txt' has 2 names, the first 'cat\\u{7}', but CIFAR has 10 classes"
    );
    let whole = records(&[1, 10], false, 0);
    write(&file("data_batch_4.bin"), &whole);
    assert_eq!(
        refusal(folder.path()),
        "'data_batch_4.bin' has label 10 in record 1, but CIFAR has 10 classes"
    );
    for wrong in [&whole[..whole.len() - 1], &[]] {
        write(&file("data_batch_4.bin"), wrong);
        let size = wrong.len();
        let text = format!("'data_batch_4.bin' has {size} bytes, no multiple of 3073, the size of a record");
        assert_eq!(refusal(folder.path()), text);
    }
    std::fs::remove_file(file("data_batch_4.bin")).unwrap();
    assert_eq!(refusal(folder.path()), "'FOLDER' lacks 'data_batch_4.bin'; it has 'data_batch_1.bin'");
    let error = load_all(&file("test_batch.bin")).unwrap_err();
    assert_eq!(text(&error, folder.path()), "'test_batch.bin' is one of the files of a CIFAR data set");
    assert_eq!(error.help(), Some("give the folder that holds all of them"));
}
