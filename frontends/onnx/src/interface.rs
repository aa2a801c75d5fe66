//! What a file promises to its users: names, shapes and metadata that an exported network must keep.

use serde::{Deserialize, Serialize};

/// One declared dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// A number.
    Fixed(usize),
    /// A name for what is known only at run time.
    Symbol(String),
}

/// The network's boundary, as the file declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the input.
    pub input: String,
    /// Its declared dimensions, the batch first.
    pub input_dims: Vec<Size>,
    /// Name of the output that holds the scores.
    pub output: String,
    /// Its dimensions: batch and classes.
    pub output_dims: Vec<Size>,
    /// What the file applies to the logits; the imported module ends before it.
    pub softmax: SoftmaxTail,
    /// Version of the operator set.
    pub opset: i64,
    /// Version of the format.
    pub ir_version: i64,
    /// Normalisation that the file holds as operators; the imported module has none.
    pub normalization: Option<Rms>,
    /// Names of the layers that the file normalises by the statistics of batches; their weights and biases have that in
    /// them.
    #[serde(default)]
    pub batch_normalized: Vec<String>,
    /// How the file predicts. Other than [`PredictionKind::Classifier`] only in our own exports.
    pub prediction: PredictionKind,
    /// The model's metadata without the keys that [`export`](crate::export()) writes anew.
    pub metadata: Vec<(String, String)>,
}

impl Interface {
    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// What follows the logits in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoftmaxTail {
    /// Nothing: the output is the logits.
    #[default]
    None,
    /// Softmax: the output is probabilities.
    Softmax,
    /// Logarithms of probabilities.
    LogSoftmax,
}

/// Root-mean-square normalisation in front of dense layers: `a / sqrt(mean(a^2) + epsilon)` over each row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rms {
    /// What keeps the root away from zero.
    pub epsilon: f32,
    /// Whether the network's input is normalised too, or only the activations between layers.
    pub input: bool,
}

/// How an exported file predicts.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionKind {
    /// By the network's own last layer.
    #[default]
    Classifier,
    /// By the sum of the goodness heads' scores.
    Heads {
        /// Whether the last layer's scores are in the sum.
        classifier: bool,
    },
    /// By trying every label.
    Labels {
        /// Value of the overlay at the label.
        on: f32,
        /// Value elsewhere.
        off: f32,
        /// Whether a layer's goodness is the sum of squares, not the mean.
        #[serde(default)]
        sum: bool,
    },
    /// By the last layer of a network that was trained with labels overlaid, with no label.
    Unlabelled {
        /// Value of the overlay at a label.
        on: f32,
        /// Value elsewhere.
        off: f32,
    },
}

/// Metadata: how the network predicts. Our own.
pub(crate) const PREDICTION_KEY: &str = "ffc.prediction";
/// Metadata: the normalisation. Our own.
pub(crate) const NORMALIZATION_KEY: &str = "ffc.normalization";
/// Metadata: the network's layers, where the graph is not the network alone. Our own.
pub(crate) const LAYERS_KEY: &str = "ffc.layers";
/// Metadata that every export writes anew.
pub(crate) const OWN_KEYS: [&str; 3] = [PREDICTION_KEY, NORMALIZATION_KEY, LAYERS_KEY];
