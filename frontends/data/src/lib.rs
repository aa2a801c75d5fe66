//! Labelled data sets for training, from the files that people already have.
//!
//! # Problem
//!
//! A data set comes as one of a handful of file formats, some compressed, most of them from the
//! internet, and it is by far the largest thing in the process. It has to end up in memory once,
//! in the layout that training reads, and no file, however broken or malicious, may crash the
//! program or make it allocate what the file cannot fill.
//!
//! # Idea
//!
//! [`load`] recognises a format by what lies at the path, and each reader follows the same steps:
//! read the header, check what it promises against the bytes that are there, allocate exactly
//! once, decode straight into that allocation. [`Dataset::new`] then checks what every reader must
//! guarantee, so that whoever holds a data set from [`load`] can index it without checking again.
//!
//! Features stay what they are in the file, 8-bit or 32-bit float; preprocessing belongs to the
//! model and needs only the [`Statistics`] of the training split.
//!
//! # Formats
//!
//! | path | expected | per sample |
//! |---|---|---|
//! | folder with IDX files | `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each with or without `.gz`, `.idx` for `-idx` | `[1, H, W]` |
//! | `.npz` | `x_train`, `y_train`, `x_test`, `y_test` in C order: features of type `u1` (kept 8-bit) or of another integer type, `f4` or `f8` (become `f32`), labels of an integer type and shape `[N]` or `[N, 1]` | `[N, F]`: `[F]`; `[N, H, W]`: `[1, H, W]`; `[N, C, H, W]`: `[C, H, W]` (four dimensions are always read with channels first) |
//! | `.csv` | a header line, a column `label` (integers, or names, which are numbered in sorted order), numbers in all the others; a column `split` with `train` or `test` if there is one decides, else every 6th row (the 6th, the 12th, ...) is test | `[F]` |
//! | folder with `train.csv` and `test.csv` | two tables with the same columns, without `split` | `[F]` |
//!
//! # Example
//!
//! ```
//! use ffc_data::{LoadOptions, load};
//!
//! let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/mnist");
//! let options = LoadOptions { limit_train: Some(600), limit_test: Some(100) };
//! let dataset = load(&folder, &options)?;
//! assert_eq!((dataset.train.len(), dataset.test.len()), (600, 100));
//! assert_eq!((dataset.classes, dataset.shape.as_slice()), (10, &[1, 28, 28][..]));
//!
//! let statistics = dataset.statistics(dataset.default_scale());
//! assert!((statistics.mean[0] - 0.13).abs() < 0.01);
//! # Ok::<(), ffc_data::DataError>(())
//! ```

mod dataset;
mod detect;
mod error;
pub mod fuzz;
mod idx;
mod labels;
mod npy;
mod npz;
mod source;
mod statistics;
mod table;

use std::path::Path;

pub use dataset::{Dataset, Features, MAX_CLASSES, Row, Split, SplitName};
pub use error::{DataError, Position};
pub use statistics::Statistics;

use detect::Format;

/// How much of a data set to load. The default is all of it.
///
/// A limit takes the first samples of a split, in the order of the file. The number of classes is
/// always that of the whole file. What lies behind the last sample that a limit admits is not
/// decoded, and so not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Samples of the training split, at most.
    pub limit_train: Option<usize>,
    /// Samples of the test split, at most.
    pub limit_test: Option<usize>,
}

impl LoadOptions {
    fn limit(&self, split: SplitName) -> Option<usize> {
        match split {
            SplitName::Train => self.limit_train,
            SplitName::Test => self.limit_test,
        }
    }
}

/// Loads the data set at `path`, a file or a folder in one of the [formats](crate#formats).
///
/// # Errors
///
/// Every variant of [`DataError`]: the path is missing, unreadable or of no known format; a file is
/// truncated, malformed or of the wrong type; the parts do not fit one another; a feature is not
/// finite; a split is empty.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Dataset, DataError> {
    match detect::format(path)? {
        Format::Idx(files) => idx::load(&files, options),
        Format::Npz => npz::load(source::Source::open(path)?, options),
        Format::Table => table::load_one(source::Source::open(path)?, options),
        Format::Tables { train, test } => {
            let (train, test) = (source::Source::open(&train)?, source::Source::open(&test)?);
            table::load_two(train, test, options)
        }
    }
}
