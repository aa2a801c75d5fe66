//! CIFAR-10 and CIFAR-100 as their binary batches: one record after the other, without a header.
//!
//! ```text
//! CIFAR-10: label | 32 x 32 red | 32 x 32 green | 32 x 32 blue      CIFAR-100: group | label | pixels
//! ```
//!
//! The records are already what training reads but for the labels between them, so the images of a large data set stay in
//! their files.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::LoadOptions;
use crate::dataset::{Dataset, Features, Split, SplitName};
use crate::error::{DataError, escape};
use crate::pixels::{FilePixels, Part, Pixels};
use crate::source::Source;

const SHAPE: [usize; 3] = [3, 32, 32];

/// Bytes of an image.
const IMAGE: usize = 3 * 32 * 32;

/// The longest file of names.
const MAX_NAMES: u64 = 1 << 16;

/// What the files of a data set are called, and what is in them.
#[derive(Debug)]
pub(crate) struct Batches {
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// A text file with the name of a class in each line.
    names: &'static str,
    classes: usize,
    /// Bytes before an image; the last is its label.
    labels: usize,
}

/// The data sets that there are.
pub(crate) const ALL: [Batches; 2] = [
    Batches {
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: &["test_batch.bin"],
        names: "batches.meta.txt",
        classes: 10,
        labels: 1,
    },
    Batches {
        train: &["train.bin"],
        test: &["test.bin"],
        names: "fine_label_names.txt",
        classes: 100,
        labels: 2,
    },
];

impl Batches {
    /// Whether one of these files is in `folder`.
    pub(crate) fn any_in(&self, folder: &Path) -> bool {
        self.train.iter().chain(self.test).any(|name| folder.join(name).is_file())
    }

    fn record(&self) -> usize {
        self.labels + IMAGE
    }

    /// The files of both splits.
    fn files(&self, folder: &Path) -> Result<[Vec<PathBuf>; 2], DataError> {
        let all = || self.train.iter().chain(self.test);
        let is_there = |name: &&&str| folder.join(name).is_file();
        if let (Some(missing), Some(present)) = (all().find(|name| !is_there(name)), all().find(is_there)) {
            return Err(DataError::Incomplete {
                file: folder.display().to_string(),
                present: format!("'{present}'"),
                missing: format!("'{missing}'"),
            });
        }
        Ok([self.train, self.test].map(|names| names.iter().map(|name| folder.join(name)).collect()))
    }
}

/// Loads the data set in `folder`.
pub(crate) fn load(batches: &Batches, folder: &Path, options: &LoadOptions) -> Result<Dataset, DataError> {
    let [train, test] = batches.files(folder)?;
    let train = Records::read(batches, &train, options.limit(SplitName::Train))?;
    let test = Records::read(batches, &test, options.limit(SplitName::Test))?;
    let stay = ((train.labels.len() + test.labels.len()) * IMAGE) as u64 > options.in_memory;
    let names = names(batches, &folder.join(batches.names))?;
    Dataset::new(train.split(stay)?, test.split(stay)?, names, SHAPE.to_vec())
}

/// The labels of a split, and where its images are.
struct Records {
    labels: Vec<u16>,
    parts: Vec<Part>,
}

impl Records {
    /// Reads all labels in `files`, and keeps `limit` of them.
    fn read(batches: &Batches, files: &[PathBuf], limit: Option<usize>) -> Result<Self, DataError> {
        let mut records = Self { labels: Vec::new(), parts: Vec::new() };
        for path in files {
            let source = Source::open(path)?;
            let labels = labels(
                batches,
                Source { reader: &source.reader, name: source.name.clone(), size: source.size },
            )?;
            let room = limit.map_or(labels.len(), |limit| limit.saturating_sub(records.labels.len()));
            let kept = labels.len().min(room);
            records.parts.push(part(batches, source, kept));
            records.labels.extend(&labels[..kept]);
        }
        Ok(records)
    }

    fn split(self, stay: bool) -> Result<Split, DataError> {
        let pixels = FilePixels::new(self.parts);
        let pixels = if stay { Pixels::Files(pixels) } else { pixels.into_memory()? };
        Ok(Split { features: Features::U8(pixels), labels: self.labels })
    }
}

/// The images of the first records of a file.
fn part(batches: &Batches, source: Source<File>, records: usize) -> Part {
    let Source { name, reader, .. } = source;
    Part {
        file: Arc::new(reader),
        name,
        offset: batches.labels as u64,
        run: IMAGE,
        stride: batches.record() as u64,
        len: records * IMAGE,
    }
}

/// The labels of all records in a file.
pub(crate) fn labels<R: Read>(batches: &Batches, source: Source<R>) -> Result<Vec<u16>, DataError> {
    let Source { name, size, reader } = source;
    let record = batches.record();
    if size == 0 || !size.is_multiple_of(record as u64) {
        let reason = format!("has {size} bytes, no multiple of {record}, the size of a record");
        return Err(DataError::malformed(&name, reason));
    }
    let mut reader = BufReader::with_capacity(16 * record, reader);
    let (mut bytes, mut labels) = (vec![0; record], Vec::new());
    for row in 0..size / record as u64 {
        reader.read_exact(&mut bytes).map_err(|error| DataError::Io { file: name.clone(), error })?;
        let label = bytes[batches.labels - 1];
        if usize::from(label) >= batches.classes {
            let reason =
                format!("has label {label} in record {row}, but CIFAR has {} classes", batches.classes);
            return Err(DataError::malformed(&name, reason));
        }
        labels.push(u16::from(label));
    }
    Ok(labels)
}

/// The names of the classes; their numbers where there is no file of names.
fn names(batches: &Batches, path: &Path) -> Result<Vec<String>, DataError> {
    let numbers = 0..batches.classes;
    if !path.exists() {
        return Ok(numbers.map(|class| class.to_string()).collect());
    }
    let size = fs::metadata(path).map_err(|error| DataError::io(path, error))?.len();
    let file = path.display().to_string();
    if size > MAX_NAMES {
        return Err(DataError::malformed(&file, "is too long for the names of the classes"));
    }
    let text = fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != batches.classes {
        let first = names.first().map_or(String::new(), |first| format!(", the first '{}'", escape(first)));
        let reason = format!("has {} names{first}, but CIFAR has {} classes", names.len(), batches.classes);
        return Err(DataError::malformed(&file, reason));
    }
    Ok(names)
}
