//! Decoded images are kept in a file, and read from it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ffc_data::{Dataset, LoadOptions, Rows, Watcher, load, load_watched};

use super::build::{colour, folder, grey, tar, write};
use super::{bytes, read};

/// Counts decoded images and keeps warnings.
#[derive(Default)]
struct Log {
    decoded: usize,
    warnings: Vec<String>,
}

impl Watcher for Log {
    fn decoded(&mut self, done: usize, of: usize) {
        assert!(done > 0 && done <= of);
        self.decoded = done;
    }

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }
}

/// A data set of six images, and a folder for decoded ones.
struct Fixture {
    folder: tempfile::TempDir,
    cache: PathBuf,
}

fn fixture() -> Fixture {
    let images: Vec<(String, Vec<u8>)> =
        ["train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/a/1", "test/b/1"]
            .iter()
            .zip(0..)
            .map(|(name, shade)| (format!("{name}.png"), colour([2, 1], &[shade; 6])))
            .collect();
    let members: Vec<_> = images.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let archive = tar(&members);
    let folder = folder(&[("data.tar", &archive)]);
    members.iter().for_each(|(name, bytes)| write(&folder.path().join("data").join(name), bytes));
    let cache = folder.path().join("cache/of/images");
    Fixture { folder, cache }
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self) -> LoadOptions {
        LoadOptions { cache: Some(self.cache.clone()), ..LoadOptions::default() }
    }

    /// The data set, and how many images were decoded for it.
    fn load(&self, name: &str) -> (Dataset, usize) {
        let mut log = Log::default();
        let dataset = load_watched(&self.path(name), &self.options(), &mut log).expect("it is valid");
        assert_eq!(log.warnings, [""; 0]);
        (dataset, log.decoded)
    }

    /// The files in the folder of decoded images.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.cache).expect("the folder is there");
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    }
}

fn touch(path: &Path) {
    let later = SystemTime::now() + Duration::from_secs(5);
    let file = File::options().write(true).open(path).expect("the file is there");
    file.set_modified(later).expect("the temporary folder is writable");
}

#[test]
fn images_are_decoded_once() {
    let fixture = fixture();
    for name in ["data.tar", "data"] {
        let plain = load(&fixture.path(name), &LoadOptions::default()).unwrap();
        assert_eq!(fixture.load(name), (plain.clone(), 6), "{name}");
        assert_eq!(fixture.load(name), (plain, 0), "{name}");
    }
    assert_eq!(fixture.kept().len(), 2);
    // The same data set by another path.
    assert_eq!(fixture.load("data/../data.tar").1, 0);
}

#[test]
fn a_data_set_that_changed_is_decoded_anew() {
    let fixture = fixture();
    fixture.load("data.tar");
    fixture.load("data");
    touch(&fixture.path("data.tar"));
    assert_eq!((fixture.load("data.tar").1, fixture.load("data").1), (6, 0));
    touch(&fixture.path("data/train/b/2.png"));
    assert_eq!((fixture.load("data.tar").1, fixture.load("data").1), (0, 6));
    write(&fixture.path("data/train/b/3.png"), &grey([2, 1], &[9, 9]));
    let (dataset, decoded) = fixture.load("data");
    assert_eq!((dataset.train.len(), decoded), (5, 7));
    fs::rename(fixture.path("data/train/b/3.png"), fixture.path("data/train/b/0.png")).unwrap();
    assert_eq!(fixture.load("data").1, 7);
    assert_eq!(fixture.load("data").1, 0);
    // What is old has been replaced.
    assert_eq!(fixture.kept().len(), 2);
}

#[test]
fn a_damaged_file_is_made_anew() {
    let fixture = fixture();
    let (expected, _) = fixture.load("data.tar");
    let path = fixture.kept().remove(0);
    let whole = fs::read(&path).unwrap();
    let header = whole.len() - 6 * 6;
    let mut files: Vec<Vec<u8>> = vec![vec![], whole[..10].to_vec(), whole[..whole.len() - 1].to_vec()];
    files.push([&whole[..], &[0]].concat());
    files.extend((0..header).map(|index| {
        let mut damaged = whole.clone();
        damaged[index] ^= 0x81;
        damaged
    }));
    for damaged in files {
        fs::write(&path, damaged).unwrap();
        assert_eq!(fixture.load("data.tar"), (expected.clone(), 6));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    assert_eq!(fixture.load("data.tar").1, 0);
}

#[test]
fn where_images_cannot_be_kept_they_are_in_memory() {
    let fixture = fixture();
    let expected = load(&fixture.path("data"), &LoadOptions::default()).unwrap();
    write(&fixture.path("file"), b"");
    for cache in ["file", "file/cache"] {
        let options =
            LoadOptions { cache: Some(fixture.path(cache)), in_memory: 0, ..LoadOptions::default() };
        let mut log = Log::default();
        let dataset = load_watched(&fixture.path("data"), &options, &mut log).unwrap();
        assert_eq!(dataset, expected);
        let [warning] = log.warnings.as_slice() else { panic!("{:?}", log.warnings) };
        assert!(warning.starts_with("decoded images are not kept: "), "{warning}");
        assert!(warning.contains("data-") && warning.contains("cannot be written: "), "{warning}");
    }
}

#[test]
fn nothing_is_left_of_what_is_refused() {
    let fixture = fixture();
    write(&fixture.path("data/train/b/2.png"), b"\x89PNG\r\n\x1a\n");
    assert!(load(&fixture.path("data"), &fixture.options()).is_err());
    assert_eq!(fixture.kept(), [""; 0].map(PathBuf::from));
}

#[test]
fn colour_after_grey_is_kept_in_colour() {
    let fixture = fixture();
    write(&fixture.path("data/train/a/1.png"), &grey([2, 1], &[1, 2]));
    let (dataset, _) = fixture.load("data");
    assert_eq!((dataset.shape.clone(), fixture.load("data")), (vec![3, 1, 2], (dataset, 0)));
    assert_eq!(fixture.kept().len(), 1);
}

#[test]
fn large_data_sets_stay_in_the_file() {
    let fixture = fixture();
    let options = |in_memory| LoadOptions { in_memory, ..fixture.options() };
    let at = |in_memory| load(&fixture.path("data.tar"), &options(in_memory)).unwrap();
    let (small, large) = (at(36), at(35));
    assert!(!small.train.features.is_streamed() && !small.test.features.is_streamed());
    assert!(large.train.features.is_streamed() && large.test.features.is_streamed());
    assert_eq!((small.train.features.bytes_in_memory(), large.train.features.bytes_in_memory()), (24, 0));
    assert_eq!(read(&large.train.features), bytes(&small.train.features));
    assert_eq!(read(&large.test.features), bytes(&small.test.features));
    assert_eq!(large.statistics(1.0).unwrap(), small.statistics(1.0).unwrap());
    assert_eq!((&large.train.labels, &large.class_names), (&small.train.labels, &small.class_names));
    let mut buffer = vec![7; 100];
    assert_eq!(large.test.rows(1..2, &mut buffer).unwrap(), Rows::U8(&[5; 6]));

    // Limits keep what all splits together need.
    let limited = LoadOptions { limit_train: Some(3), limit_test: Some(1), ..options(23) };
    let dataset = load(&fixture.path("data.tar"), &limited).unwrap();
    assert!(dataset.train.features.is_streamed());
    assert_eq!(read(&dataset.train.features), bytes(&small.train.features)[..18]);
    assert_eq!((read(&dataset.test.features), dataset.test.labels.len()), (vec![4; 6], 1));

    // A file that is removed or replaced stays what it was; one that shrinks is an error.
    let kept = fixture.kept().remove(0);
    touch(&fixture.path("data.tar"));
    fixture.load("data.tar");
    assert_eq!(read(&large.train.features), bytes(&small.train.features));
    let again = at(0);
    let file = File::options().write(true).open(&kept).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let error = again.test.rows(0..2, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("'{}' became shorter while it was used", kept.display()));
    assert!(again.statistics(1.0).is_ok());
    file.set_len(file.metadata().unwrap().len() - 12).unwrap();
    assert!(again.statistics(1.0).is_err());
}
