//! The data set: two splits of samples with one class each.
//!
//! A split is two flat arrays, features and labels, so that a batch is gathered by copying rows. 8-bit features may lie
//! in a file ([`Pixels`]); everything else is in memory.
//! [`Dataset::new`] is the one place that checks the invariants:
//!
//! - every split has at least one sample, and as many labels as samples;
//! - both splits hold features of one type, `shape.iter().product()` of them per sample;
//! - `f32` features are finite;
//! - every label is below `classes`, and every class has a name.

use std::fmt;
use std::ops::Range;

use crate::error::{DataError, Position, escape};
use crate::pixels::Pixels;

/// The largest number of classes: labels are 16 bits wide.
pub const MAX_CLASSES: usize = 1 << 16;

/// One of the two splits of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitName {
    /// What the network is trained on.
    Train,
    /// What its accuracy is measured on.
    Test,
}

impl fmt::Display for SplitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SplitName::Train => "train",
            SplitName::Test => "test",
        })
    }
}

/// The features of all samples of a split, row-major `[samples, features]`, before preprocessing.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// 8-bit images.
    U8(Pixels),
    /// Anything else.
    F32(Vec<f32>),
}

impl Features {
    /// Number of values, over all samples.
    pub fn len(&self) -> usize {
        match self {
            Features::U8(values) => values.len(),
            Features::F32(values) => values.len(),
        }
    }

    /// Bytes of the values that are in memory.
    pub fn bytes_in_memory(&self) -> usize {
        match self {
            Features::U8(Pixels::Memory(values)) => values.len(),
            Features::U8(Pixels::Files(_)) => 0,
            Features::F32(values) => size_of_val(values.as_slice()),
        }
    }

    /// Whether values are read from files whenever they are wanted.
    pub fn is_streamed(&self) -> bool {
        matches!(self, Features::U8(Pixels::Files(_)))
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the values' type: `u8` or `f32`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Features::U8(_) => "u8",
            Features::F32(_) => "f32",
        }
    }
}

/// The features of some samples, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows<'a> {
    /// Of a split of [`Features::U8`].
    U8(&'a [u8]),
    /// Of a split of [`Features::F32`].
    F32(&'a [f32]),
}

/// Samples and their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The features, `[samples, features]`.
    pub features: Features,
    /// The class of each sample.
    pub labels: Vec<u16>,
}

impl Split {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never so in a [`Dataset`].
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of features per sample.
    pub fn width(&self) -> usize {
        self.features.len().checked_div(self.len()).unwrap_or(0)
    }

    /// The features of the samples in `range`; those that are in a file are read into `buffer`.
    ///
    /// # Errors
    ///
    /// As [`Pixels::read`].
    ///
    /// # Panics
    ///
    /// If the range is not within [`len`](Self::len), as slicing does.
    pub fn rows<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> Result<Rows<'a>, DataError> {
        let width = self.width();
        let range = range.start * width..range.end * width;
        Ok(match &self.features {
            Features::U8(values) => Rows::U8(values.read(range, buffer)?),
            Features::F32(values) => Rows::F32(&values[range]),
        })
    }
}

/// A labelled data set; [`Dataset::new`] says what holds of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Dataset {
    /// What the network is trained on.
    pub train: Split,
    /// What its accuracy is measured on.
    pub test: Split,
    /// Number of classes: as many as have names, else one more than the largest label of the whole file.
    pub classes: usize,
    /// The name of each class; its number where the file has no names.
    pub class_names: Vec<String>,
    /// Shape of a sample: `[C, H, W]` for images, `[features]` otherwise.
    pub shape: Vec<usize>,
}

impl Dataset {
    /// A data set of these splits, with `class_names.len()` classes and samples of shape `shape`.
    ///
    /// # Errors
    ///
    /// If a split is empty, the splits differ in type, features do not fill whole samples of
    /// `shape` or differ in number from labels, a feature is not finite, a label is not below the
    /// number of classes, or there are more than [`MAX_CLASSES`].
    pub fn new(
        train: Split,
        test: Split,
        class_names: Vec<String>,
        shape: Vec<usize>,
    ) -> Result<Self, DataError> {
        let classes = class_names.len();
        if let Some(name) = class_names.get(MAX_CLASSES) {
            let label = format!("'{}'", escape(name));
            return Err(DataError::TooManyClasses { file: "classes".to_owned(), label });
        }
        let width = sample_size(&shape)
            .filter(|&width| width > 0)
            .ok_or_else(|| DataError::malformed("samples", format!("have the impossible shape {shape:?}")))?;
        for (name, split) in [(SplitName::Train, &train), (SplitName::Test, &test)] {
            check_split(name, split, width)?;
        }
        if train.features.type_name() != test.features.type_name() {
            return Err(DataError::SplitsDiffer {
                file: "features".to_owned(),
                train: train.features.type_name().to_owned(),
                test: test.features.type_name().to_owned(),
            });
        }
        let dataset = Self { train, test, classes, class_names, shape };
        dataset.check_labels(classes)?;
        Ok(dataset)
    }

    /// Checks that every label is below `classes`, the number of outputs of a model.
    ///
    /// # Errors
    ///
    /// [`DataError::LabelOutOfRange`] with the first label that is not.
    pub fn check_labels(&self, classes: usize) -> Result<(), DataError> {
        for (split, labels) in [(SplitName::Train, &self.train.labels), (SplitName::Test, &self.test.labels)]
        {
            if let Some(row) = labels.iter().position(|&label| usize::from(label) >= classes) {
                return Err(DataError::LabelOutOfRange { split, row, label: labels[row], classes });
            }
        }
        Ok(())
    }

    /// Channels, rows and columns of a sample, where samples are images.
    pub fn image_shape(&self) -> Option<[usize; 3]> {
        self.shape.as_slice().try_into().ok()
    }

    /// The factor that brings features to about 0..1 before standardisation: 1/255 for 8-bit
    /// features, 1 for floats.
    pub fn default_scale(&self) -> f32 {
        match self.train.features {
            Features::U8(_) => 1.0 / 255.0,
            Features::F32(_) => 1.0,
        }
    }
}

/// Number of features in a sample of shape `shape`, if it can be counted.
pub(crate) fn sample_size(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |size, &dimension| size.checked_mul(dimension))
}

fn check_split(name: SplitName, split: &Split, width: usize) -> Result<(), DataError> {
    if split.is_empty() {
        return Err(DataError::EmptySplit { split: name });
    }
    if split.len().checked_mul(width) != Some(split.features.len()) {
        return Err(DataError::LengthMismatch {
            file: name.to_string(),
            samples: (split.features.len() / width) as u64,
            labels: split.len() as u64,
        });
    }
    let Features::F32(values) = &split.features else { return Ok(()) };
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(DataError::NonFinite {
            file: name.to_string(),
            at: Position::Row((index / width) as u64),
            column: (index % width).to_string(),
            value: values[index].to_string(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32], labels: &[u16]) -> Split {
        Split { features: Features::F32(values.to_vec()), labels: labels.to_vec() }
    }

    /// The error's text for this training split beside a test split of one sample of two features.
    fn refusal(train: Split, classes: usize, shape: &[usize]) -> String {
        let names = (0..classes).map(|class| class.to_string()).collect();
        let test = floats(&[1.0, 2.0], &[0]);
        Dataset::new(train, test, names, shape.to_vec()).expect_err("the split is wrong").to_string()
    }

    #[test]
    fn every_invariant_is_checked() {
        let good = || floats(&[1.0, 2.0, 3.0, 4.0], &[0, 1]);
        let bytes = Split { features: Features::U8(vec![1, 2].into()), labels: vec![0] };
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert!(Dataset::new(good(), good(), names, vec![2]).is_ok());

        for (train, classes, shape, text) in [
            (floats(&[], &[]), 2, &[2][..], "the train split has no samples"),
            (floats(&[1.0, 2.0], &[0, 1]), 2, &[2], "'train' has 1 samples, but there are 2 labels for them"),
            (good(), 2, &[], "'train' has 4 samples, but there are 2 labels for them"),
            (good(), 2, &[2, 0], "'samples' have the impossible shape [2, 0]"),
            (
                floats(&[1.0, 2.0, 3.0, f32::INFINITY], &[0, 1]),
                2,
                &[2],
                "'train' row 1, column '1': inf is not finite as a 32-bit float",
            ),
            (good(), 1, &[2], "the train split's sample 1 has label 1, but there are 1 classes"),
            (good(), MAX_CLASSES + 1, &[2], "'classes' has label '65536', beyond the 65536 classes possible"),
            (bytes, 2, &[2], "'features' has splits that differ: train has u8, test has f32"),
        ] {
            assert_eq!(refusal(train, classes, shape), text);
        }
    }

    #[test]
    fn images_have_channels_rows_and_columns() {
        let shaped = |shape: &[usize]| {
            let split = floats(&[0.0; 12], &[0]);
            Dataset::new(split.clone(), split, vec!["a".to_owned()], shape.to_vec()).unwrap().image_shape()
        };
        assert_eq!(shaped(&[3, 2, 2]), Some([3, 2, 2]));
        assert_eq!((shaped(&[12]), shaped(&[4, 3])), (None, None));
    }

    #[test]
    fn rows_are_slices_of_the_features() {
        let split = floats(&[1.0, 2.0, 3.0, 4.0], &[0, 1]);
        assert_eq!((split.len(), split.width()), (2, 2));
        assert_eq!(split.rows(1..2, &mut Vec::new()).unwrap(), Rows::F32(&[3.0, 4.0]));
        assert_eq!(split.rows(0..2, &mut Vec::new()).unwrap(), Rows::F32(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(floats(&[], &[]).width(), 0);
    }
}
