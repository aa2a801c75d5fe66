//! Why a data set could not be loaded, for callers (the variants) and for people (the text).
//!
//! The text names the file, the place in it and the reason; [`DataError::help`] says what to do
//! where there is something to do. Text from a file is escaped, so that it cannot reach a terminal
//! as control characters.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::dataset::{MAX_CLASSES, SplitName};

/// What [`load`](crate::load) accepts, for the `help` of an unknown format.
const ACCEPTED: &str = "accepted: a folder with IDX files (train-images-idx3-ubyte[.gz], \
    train-labels-idx1-ubyte[.gz], t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]); \
    a folder with CIFAR's binary batches (data_batch_1.bin, ..., test_batch.bin); a folder, .tar \
    or .tar.gz with images as train/<class>/*.png or *.jpg and test/<class>/...; an .npz file with \
    x_train, y_train, x_test and y_test; a .csv file with a 'label' column; a folder with \
    train.csv and test.csv";

/// Where in a file a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A line of a text file; the first is 1.
    Line(u64),
    /// A row of an array; the first is 0.
    Row(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Line(line) => write!(f, "line {line}"),
            Position::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// Why a data set could not be loaded.
///
/// `file` is the file as errors name it: its path, and for an array inside a file `PATH: ARRAY`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing lies at the path.
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The operating system refused to read.
    Io {
        /// The file or folder.
        file: String,
        /// What the operating system said.
        error: io::Error,
    },
    /// What lies at the path is of no known format.
    Unrecognized {
        /// The path that was asked for.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// A part of the data set is missing: a file of a folder, an array of an archive.
    Incomplete {
        /// The folder or archive.
        file: String,
        /// The part that is there or the parts that are.
        present: String,
        /// The part that is not.
        missing: String,
    },
    /// The file's bytes are not what its format prescribes.
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is valid, but holds what this crate does not take.
    Unsuitable {
        /// The file.
        file: String,
        /// What is not taken.
        reason: String,
        /// How to change the file.
        help: &'static str,
    },
    /// The file ends before what its header promises.
    Truncated {
        /// The file.
        file: String,
        /// Bytes that should follow the header, or bytes of the header itself, decompressed.
        promised: u64,
        /// Bytes that do, decompressed; at most these where they were not decompressed to see.
        found: u64,
    },
    /// The file goes on after what its header promises.
    TrailingBytes {
        /// The file.
        file: String,
        /// Bytes that should follow the header, decompressed.
        promised: u64,
    },
    /// The samples do not fit into memory.
    OutOfMemory {
        /// The file.
        file: String,
        /// Bytes that were asked for.
        bytes: u64,
    },
    /// Samples and labels differ in number.
    LengthMismatch {
        /// The file or split.
        file: String,
        /// Number of samples.
        samples: u64,
        /// Number of labels.
        labels: u64,
    },
    /// The training split and the test split differ in what they must share.
    SplitsDiffer {
        /// The data set's file, or both.
        file: String,
        /// The training split's shape, type or columns.
        train: String,
        /// The test split's.
        test: String,
    },
    /// A split has no samples.
    EmptySplit {
        /// The split.
        split: SplitName,
    },
    /// A value is no number, or not one of those allowed in its column.
    BadValue {
        /// The file.
        file: String,
        /// The line or row.
        at: Position,
        /// The column's name or number.
        column: String,
        /// What is wrong with the value.
        reason: String,
        /// How to change the file.
        help: &'static str,
    },
    /// A feature is not a finite number once it is a 32-bit float.
    NonFinite {
        /// The file.
        file: String,
        /// The line or row.
        at: Position,
        /// The column's name or number.
        column: String,
        /// The value.
        value: String,
    },
    /// A label is not below the number of classes.
    LabelOutOfRange {
        /// The split.
        split: SplitName,
        /// The sample; the first is 0.
        row: usize,
        /// Its label.
        label: u16,
        /// The number of classes.
        classes: usize,
    },
    /// There are more classes than labels can number.
    TooManyClasses {
        /// The file.
        file: String,
        /// The first label that is too many or too large.
        label: String,
    },
}

impl DataError {
    /// What to do about it, where there is something to do.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NotFound { .. } | Self::Unrecognized { .. } => Some(ACCEPTED),
            Self::Incomplete { .. } => Some("put every part of the data set beside the others"),
            Self::Unsuitable { help, .. } | Self::BadValue { help, .. } => Some(help),
            Self::Malformed { .. } | Self::Truncated { .. } | Self::TrailingBytes { .. } => {
                Some("fetch or write the file again")
            }
            Self::LengthMismatch { .. } | Self::SplitsDiffer { .. } => {
                Some("all parts must come from one data set and be written the same way")
            }
            Self::OutOfMemory { .. } => Some("load fewer samples with a limit for each split"),
            Self::EmptySplit { .. } => Some(
                "each split needs a sample: raise its limit; a .csv file without a 'split' column \
                 needs at least 6 rows",
            ),
            Self::NonFinite { .. } => Some("remove or fill in such values"),
            Self::LabelOutOfRange { .. } => {
                Some("use a model with as many outputs as the data set has classes")
            }
            Self::TooManyClasses { .. } => Some(
                "labels are classes, not measured values: number them from 0, without gaps, or \
                 name them",
            ),
            Self::Io { .. } => None,
        }
    }

    pub(crate) fn malformed(file: &str, reason: impl Into<String>) -> Self {
        Self::Malformed { file: file.to_owned(), reason: reason.into() }
    }

    pub(crate) fn unsuitable(file: &str, reason: impl Into<String>, help: &'static str) -> Self {
        Self::Unsuitable { file: file.to_owned(), reason: reason.into(), help }
    }

    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            return Self::NotFound { path: path.to_owned() };
        }
        Self::Io { file: path.display().to_string(), error }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { path } => write!(f, "'{}' does not exist", path.display()),
            Self::Io { file, error } => write!(f, "'{file}' cannot be read: {error}"),
            Self::Unrecognized { path, found } => {
                write!(f, "'{}' is no data set that ffc knows: {found}", path.display())
            }
            Self::Incomplete { file, present, missing } => {
                write!(f, "'{file}' lacks {missing}; it has {present}")
            }
            Self::Malformed { file, reason } | Self::Unsuitable { file, reason, .. } => {
                write!(f, "'{file}' {reason}")
            }
            Self::Truncated { file, promised, found } => write!(
                f,
                "'{file}' is truncated: its header promises {promised} bytes, at most {found} are there"
            ),
            Self::TrailingBytes { file, promised } => {
                write!(f, "'{file}' goes on after the {promised} bytes that its header promises")
            }
            Self::OutOfMemory { file, bytes } => {
                write!(f, "'{file}' needs {bytes} bytes of memory, which the system refused")
            }
            Self::LengthMismatch { file, samples, labels } => {
                write!(f, "'{file}' has {samples} samples, but there are {labels} labels for them")
            }
            Self::SplitsDiffer { file, train, test } => {
                write!(f, "'{file}' has splits that differ: train has {train}, test has {test}")
            }
            Self::EmptySplit { split } => write!(f, "the {split} split has no samples"),
            Self::BadValue { file, at, column, reason, .. } => {
                write!(f, "'{file}' {at}, column '{column}': {reason}")
            }
            Self::NonFinite { file, at, column, value } => {
                write!(f, "'{file}' {at}, column '{column}': {value} is not finite as a 32-bit float")
            }
            Self::LabelOutOfRange { split, row, label, classes } => write!(
                f,
                "the {split} split's sample {row} has label {label}, but there are {classes} classes"
            ),
            Self::TooManyClasses { file, label } => {
                write!(f, "'{file}' has label {label}, beyond the {MAX_CLASSES} classes possible")
            }
        }
    }
}

/// The operating system's error is part of the text, so there is no `source` besides.
impl std::error::Error for DataError {}

/// Longest text from a file that an error quotes, in characters.
const LONGEST_QUOTE: usize = 60;

/// Text from a file, escaped and shortened.
pub(crate) fn escape(text: &str) -> String {
    let mut characters = text.chars();
    let escaped: String = characters.by_ref().take(LONGEST_QUOTE).flat_map(char::escape_debug).collect();
    if characters.next().is_some() { escaped + "..." } else { escaped }
}
