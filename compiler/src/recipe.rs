//! How a network is trained, as data.
//!
//! A recipe is a named set of [`Options`]; a configuration file and flags override single options. [`RECIPES`] is the
//! one table of recipes: command line, documentation and tests read it.

use ffc_ir::types::DType;
use serde::{Deserialize, Serialize};

/// Everything that shapes the training program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Options {
    /// The objective of hidden layers.
    pub head: Head,
    /// What has an objective of its own.
    #[serde(default)]
    pub unit: Unit,
    /// How errors of later layers join a layer's own.
    pub look_ahead: LookAhead,
    /// What happens to activations between layers.
    pub normalization: Normalization,
    /// How classes are predicted.
    pub predict: Predict,
    /// Arithmetic of contractions.
    pub precision: Precision,
    /// Momentum of the optimizer; 0 for none, which keeps no velocity.
    pub momentum: f32,
    /// Learning rate of the classifier, as a factor of that of hidden layers.
    pub classifier_rate: f32,
    /// Learning rate of each hidden layer but the first, as a factor of the first one's.
    pub deeper_rate: f32,
    /// How a parameter's learning rate follows from its shape.
    #[serde(default)]
    pub rates: Rates,
    /// Largest magnitude that an activation's quantizer resolves; infinite for no limit.
    #[serde(with = "limit")]
    pub range_limit: f32,
    /// Cells along each side to which a head pools an image, at most.
    #[serde(default = "default_grid")]
    pub grid: usize,
    /// Samples in a batch.
    pub batch: usize,
    /// How raw samples become the network's input.
    pub preprocessing: Preprocessing,
}

/// Numbers that the training loop uses; the program does not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Schedule {
    /// The largest learning rate.
    pub learning_rate: f32,
    /// Steps in which the rate rises to it from 0, linearly.
    pub warmup_steps: usize,
    /// What is left of it at the end, to which it falls linearly.
    pub final_rate: f32,
    /// What the look-ahead weight grows by after each epoch.
    pub lambda_step: f32,
}

/// The objective of hidden layers (Forward-Forward's goodness).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Logistic loss on the sum or mean of squares against a threshold, over positive and negative rows (Hinton 2022;
    /// FF-INT8, arXiv 2506.22771).
    SumOfSquares {
        /// Sum or mean.
        goodness: Goodness,
        /// The threshold theta.
        threshold: f32,
    },
    /// Units split into one group a class; softmax cross-entropy of `temperature` times the mean of each group
    /// (DeeperForward, ICLR 2025). The mean divides by units per class, also where groups are not quite equal.
    ClassGroup {
        /// Factor of the means.
        temperature: f32,
    },
    /// Softmax cross-entropy of a learned projection to the classes (Mono-Forward, 2025).
    Projection,
}

/// What [`Head::SumOfSquares`] takes of the squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goodness {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

/// What has an objective of its own, inside which alone gradients flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A layer: a contraction, and what follows from it.
    #[default]
    Layer,
    /// The layers that a skip operand spans; a layer that none spans is a unit by itself.
    Block,
}

/// How a parameter's learning rate follows from its shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rates {
    /// It does not.
    #[default]
    Equal,
    /// In networks of images it falls with the inputs of a unit. In others all are equal.
    ByInputs,
}

/// How errors of later layers join a layer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookAhead {
    /// They do not.
    Off,
    /// Weighted by lambda and added as numbers per row, without any derivative between layers (the paper's section 3).
    Scalar,
    /// The gradient of the next layer's loss, through that layer alone, is added, weighted by lambda.
    Hop,
}

/// What happens to activations between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Each row is divided by its root mean square.
    Rms,
    /// Nothing.
    None,
}

/// Added to mean squares before the root.
pub const RMS_EPSILON: f32 = 1e-6;

/// Cells along each side to which `projection` pools an image, unless the options say otherwise.
pub const GRID: usize = 4;

/// What programs were compiled with before there was a choice.
fn default_grid() -> usize {
    GRID
}

/// How classes are predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    /// By the network's last layer.
    Classifier,
    /// By the sum of log-softmax scores of all heads and the last layer.
    Heads,
    /// By trying every label: the one with the largest sum of goodness wins. The last layer is neither trained nor used.
    Labels,
}

/// Arithmetic of contractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// INT8 operands, INT32 sums.
    Int8,
    /// FP32: the comparison.
    Float,
}

/// `(raw * scale - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Preprocessing {
    /// Element type of raw samples: [`DType::U8`] or [`DType::F32`].
    #[serde(with = "dtype")]
    pub input: DType,
    /// Factor of raw values.
    pub scale: f32,
    /// One number, or one a feature.
    pub mean: Vec<f32>,
    /// One number, or one a feature; none is 0.
    pub std: Vec<f32>,
    /// Smallest preprocessed value that is expected.
    pub low: f32,
    /// Largest preprocessed value that is expected.
    pub high: f32,
}

impl Preprocessing {
    /// None: the network's input is as the caller gives it, expected within ±1.
    pub fn identity() -> Self {
        Self { input: DType::F32, scale: 1.0, mean: vec![0.0], std: vec![1.0], low: -1.0, high: 1.0 }
    }

    /// The largest magnitude that is expected: the range of the input's quantizer.
    pub fn range(&self) -> f32 {
        self.low.abs().max(self.high.abs())
    }
}

/// A row of [`RECIPES`].
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// The objective.
    pub head: Head,
    /// Look-ahead.
    pub look_ahead: LookAhead,
    /// Prediction.
    pub predict: Predict,
    /// Momentum.
    pub momentum: f32,
    /// Factor of the classifier's learning rate.
    pub classifier_rate: f32,
    /// Factor of deeper hidden layers' learning rate.
    pub deeper_rate: f32,
    /// Largest magnitude that an activation's quantizer resolves. Goodness of positive rows grows without end; a range
    /// that follows it would leave negative rows, whose direction is all that the next layer sees, a few steps.
    pub range_limit: f32,
    /// Batch size.
    pub batch: usize,
    /// Loop.
    pub schedule: Schedule,
}

/// All recipes; the first is the default.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "projection",
        description: "one pass, a learned projection to the classes per layer",
        head: Head::Projection,
        look_ahead: LookAhead::Off,
        predict: Predict::Classifier,
        momentum: 0.0,
        classifier_rate: 0.3,
        deeper_rate: 1.0,
        range_limit: f32::INFINITY,
        batch: 128,
        schedule: Schedule { learning_rate: 0.8, warmup_steps: 400, final_rate: 0.0, lambda_step: 0.0 },
    },
    Recipe {
        name: "class-group",
        description: "one pass, no extra parameters: units vote for classes in groups",
        head: Head::ClassGroup { temperature: 10.0 },
        look_ahead: LookAhead::Off,
        predict: Predict::Classifier,
        momentum: 0.0,
        classifier_rate: 0.3,
        deeper_rate: 1.0,
        range_limit: f32::INFINITY,
        batch: 128,
        schedule: Schedule { learning_rate: 0.6, warmup_steps: 400, final_rate: 0.0, lambda_step: 0.0 },
    },
    Recipe {
        name: "ff-int8",
        description: "the paper (arXiv 2506.22771): positive and negative data, sum of squares, look-ahead",
        head: Head::SumOfSquares { goodness: Goodness::Mean, threshold: 2.0 },
        look_ahead: LookAhead::Scalar,
        predict: Predict::Labels,
        momentum: 0.9,
        classifier_rate: 0.3,
        deeper_rate: 0.25,
        range_limit: 12.0,
        batch: 32,
        schedule: Schedule { learning_rate: 1.0, warmup_steps: 200, final_rate: 0.05, lambda_step: 0.001 },
    },
];

impl Recipe {
    /// The recipe of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// The options of the recipe, for raw samples that need no preprocessing.
    pub fn options(&self) -> Options {
        Options {
            head: self.head,
            unit: Unit::Layer,
            look_ahead: self.look_ahead,
            normalization: Normalization::Rms,
            predict: self.predict,
            precision: Precision::Int8,
            momentum: self.momentum,
            classifier_rate: self.classifier_rate,
            deeper_rate: self.deeper_rate,
            rates: Rates::ByInputs,
            range_limit: self.range_limit,
            grid: GRID,
            batch: self.batch,
            preprocessing: Preprocessing::identity(),
        }
    }
}

impl Options {
    /// Whether labels are overlaid on the input.
    pub fn overlays_labels(&self) -> bool {
        matches!(self.head, Head::SumOfSquares { .. })
    }
}

/// [`DType`] by its name.
mod dtype {
    use ffc_ir::types::DType;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
        known.ok_or_else(|| D::Error::custom(format!("unknown element type `{name}`")))
    }
}

/// A limit that may be infinite, which JSON has no number for.
mod limit {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(limit: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        limit.is_finite().then_some(*limit).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        Ok(Option::<f32>::deserialize(deserializer)?.unwrap_or(f32::INFINITY))
    }
}
