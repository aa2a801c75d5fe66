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
//! | folder with CIFAR binary batches | `data_batch_1.bin` ... `data_batch_5.bin`, `test_batch.bin`; names of classes in `batches.meta.txt`, if it is there. CIFAR-100: `train.bin`, `test.bin`, `fine_label_names.txt` (fine labels) | `[3, 32, 32]` |
//! | folder of images, or a `.tar` or `.tar.gz` of one | `train/<class>/*.png`, `.jpg`, `.jpeg` and `test/<class>/...`, in an archive perhaps below one folder; the same classes in both, numbered in the order of their names; all images of one size | `[3, H, W]`, or `[1, H, W]` where all are grey |
//! | `.npz` | `x_train`, `y_train`, `x_test`, `y_test` in C order: features of type `u1` (kept 8-bit) or of another integer type, `f4` or `f8` (become `f32`), labels of an integer type and shape `[N]` or `[N, 1]` | `[N, F]`: `[F]`; `[N, H, W]`: `[1, H, W]`; `[N, C, H, W]`: `[C, H, W]` (four dimensions are always read with channels first) |
//! | `.csv` | a header line, a column `label` (integers, or names, which are numbered in sorted order), numbers in all the others; a column `split` with `train` or `test` if there is one decides, else every 6th row (the 6th, the 12th, ...) is test | `[F]` |
//! | folder with `train.csv` and `test.csv` | two tables with the same columns, without `split` | `[F]` |
//!
//! Of a folder or archive of images, samples take turns by class: the first image of each class in the order of names, then
//! the second of each, and so on, whatever the order in an archive. So a limit keeps as many of every class. All other
//! formats keep the order of the file. Images lose transparency and what exceeds 8 bits, and are not turned as a camera's
//! EXIF says; grey images among coloured ones become coloured. Hidden files, and what lies beside `train` and `test`, are
//! left out.
//!
//! # Memory
//!
//! 8-bit samples of more than [`LoadOptions::in_memory`] bytes stay in a file and are read when they are wanted
//! ([`Pixels`]): in the uncompressed IDX and CIFAR files themselves, and images in a file into which they are decoded
//! once, where [`LoadOptions::cache`] names a folder for it. Everything else is in memory.
//!
//! # Example
//!
//! ```
//! use ffc_data::{LoadOptions, load};
//!
//! let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/mnist");
//! let options = LoadOptions { limit_train: Some(600), limit_test: Some(100), ..LoadOptions::default() };
//! let dataset = load(&folder, &options)?;
//! assert_eq!((dataset.train.len(), dataset.test.len()), (600, 100));
//! assert_eq!((dataset.classes, dataset.shape.as_slice()), (10, &[1, 28, 28][..]));
//!
//! let statistics = dataset.statistics(dataset.default_scale())?;
//! assert!((statistics.mean[0] - 0.13).abs() < 0.01);
//! # Ok::<(), ffc_data::DataError>(())
//! ```

mod cifar;
mod dataset;
mod detect;
mod digest;
mod error;
pub mod fuzz;
mod idx;
mod images;
mod labels;
mod npy;
mod npz;
mod pixels;
mod source;
mod statistics;
mod table;

use std::path::{Path, PathBuf};

pub use dataset::{Dataset, Features, MAX_CLASSES, Rows, Split, SplitName};
pub use error::{DataError, Position};
pub use pixels::{FilePixels, IN_MEMORY, Pixels};
pub use statistics::Statistics;

use detect::Format;

/// How much of a data set to load, and where to keep it. The default is all of it, without a folder for decoded images.
///
/// A limit takes the first samples of a split, in the [order](crate#formats) of the format. The number of classes is
/// always that of the whole file. What lies behind the last sample that a limit admits is not decoded, and so not
/// checked, unless decoded images are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Samples of the training split, at most.
    pub limit_train: Option<usize>,
    /// Samples of the test split, at most.
    pub limit_test: Option<usize>,
    /// Bytes of 8-bit samples, both splits together, up to which they are held in memory; [`IN_MEMORY`] if nobody says
    /// otherwise. Larger ones are read from a file where there is one, see the [crate's documentation](crate#memory).
    pub in_memory: u64,
    /// The folder in which decoded images are kept, to be decoded only once; it is made where it is missing. Files in it
    /// may be removed whenever they are not in use.
    pub cache: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { limit_train: None, limit_test: None, in_memory: IN_MEMORY, cache: None }
    }
}

impl LoadOptions {
    fn limit(&self, split: SplitName) -> Option<usize> {
        match split {
            SplitName::Train => self.limit_train,
            SplitName::Test => self.limit_test,
        }
    }
}

/// Watches a data set being loaded.
pub trait Watcher {
    /// So many images are decoded, of all that will be.
    fn decoded(&mut self, done: usize, of: usize);
    /// Something is not as wanted, and loading goes on.
    fn warn(&mut self, text: &str);
}

/// Sees nothing.
impl Watcher for () {
    fn decoded(&mut self, _: usize, _: usize) {}

    fn warn(&mut self, _: &str) {}
}

/// Loads the data set at `path`, a file or a folder in one of the [formats](crate#formats).
///
/// # Errors
///
/// Every variant of [`DataError`]: the path is missing, unreadable or of no known format; a file is
/// truncated, malformed or of the wrong type; the parts do not fit one another; a feature is not
/// finite; a split is empty.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Dataset, DataError> {
    load_watched(path, options, &mut ())
}

/// As [`load`], telling `watcher` how far it is. That a folder for decoded images cannot be written is a warning, not an
/// error: they are in memory then.
///
/// # Errors
///
/// As [`load`].
pub fn load_watched(
    path: &Path,
    options: &LoadOptions,
    watcher: &mut dyn Watcher,
) -> Result<Dataset, DataError> {
    match detect::format(path)? {
        Format::Idx(files) => idx::load(&files, options),
        Format::Cifar(batches) => cifar::load(batches, path, options),
        Format::Folder => images::load(&mut images::Folder::open(path)?, options, watcher),
        Format::Tar => images::load(&mut images::Tar::open(path)?, options, watcher),
        Format::Npz => npz::load(source::Source::open(path)?, options),
        Format::Table => table::load_one(source::Source::open(path)?, options),
        Format::Tables { train, test } => {
            let (train, test) = (source::Source::open(&train)?, source::Source::open(&test)?);
            table::load_two(train, test, options)
        }
    }
}
