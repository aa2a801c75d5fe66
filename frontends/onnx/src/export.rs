//! Writes a trained network as a float ONNX model.
//!
//! The file keeps the interface of the one that the network came from, and computes what the trained network predicts
//! by: its classifier, its goodness heads, or every label in turn. Normalisation is written as primitive operators that
//! [`import`](crate::import()) recognises, so that an exported file can be trained on without being normalised twice.
//!
//! Three metadata keys are written: `ffc.prediction` and `ffc.normalization` say what the graph does, as JSON, and
//! `ffc.layers` lists the layers where the graph is more than the network. In a file that predicts by labels the last
//! layer takes no part in the scores; it is still there, as an operator without a user, so that nothing is lost.

use ffc_ir::module::Activation;
use prost::Message;

use crate::interface::{Interface, PredictionKind, Rms};
use crate::proto::ModelProto;

mod graph;
mod write;

/// A network to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportModel {
    /// Names, shapes and metadata that the file keeps. Its own `normalization` and `prediction` do not matter here.
    pub interface: Interface,
    /// Layers in their order; the last one is the classifier.
    pub layers: Vec<ExportLayer>,
    /// Normalisation in front of the layers.
    pub normalization: Option<Rms>,
    /// More metadata, for instance the preprocessing; replaces what the interface has under the same name.
    pub metadata: Vec<(String, String)>,
    /// What the output is.
    pub prediction: Prediction,
}

/// One dense layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportLayer {
    /// Name; the parameters become `<name>.weight` and `<name>.bias`.
    pub name: String,
    /// `[outputs, inputs]`, row by row.
    pub weight: Vec<f32>,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
    /// What follows the bias; the last layer has none.
    pub activation: Option<Activation>,
}

/// How the exported file predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// The logits of the last layer.
    Classifier,
    /// The sum of the hidden layers' scores: `log_softmax(y * head^T)` of each activation `y`.
    Heads {
        /// For each hidden layer a matrix `[classes, outputs]`, row by row.
        heads: Vec<Vec<f32>>,
        /// Whether `log_softmax` of the last layer's logits is added.
        classifier: bool,
    },
    /// Every label is overlaid in turn on the first features; a label's score is the mean square of each hidden
    /// layer's activation, summed over the layers.
    Labels {
        /// Value at the label.
        on: f32,
        /// Value elsewhere.
        off: f32,
        /// Whether it is the sum of squares instead of their mean.
        sum: bool,
    },
    /// The logits of the last layer, where no label is overlaid: the first features, one for each class, all have the
    /// mean of what they have where one is.
    Unlabelled {
        /// Value at a label.
        on: f32,
        /// Value elsewhere.
        off: f32,
    },
}

impl Prediction {
    /// The prediction without its matrices.
    pub fn kind(&self) -> PredictionKind {
        match self {
            Self::Classifier => PredictionKind::Classifier,
            Self::Heads { classifier, .. } => PredictionKind::Heads { classifier: *classifier },
            Self::Labels { on, off, sum } => PredictionKind::Labels { on: *on, off: *off, sum: *sum },
            Self::Unlabelled { on, off } => PredictionKind::Unlabelled { on: *on, off: *off },
        }
    }
}

/// Why a network cannot be written: its parts do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is no layer.
    #[error("a network without layers cannot be exported")]
    NoLayers,
    /// A matrix or vector does not have the size that its place asks for.
    #[error("`{what}` has {found} elements, {expected} are needed")]
    Size {
        /// The matrix or vector.
        what: String,
        /// Elements needed.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A layer does not take what the one before gives.
    #[error("layer `{layer}` takes {found} features, {expected} are there")]
    Chain {
        /// The layer.
        layer: String,
        /// Features there.
        expected: usize,
        /// Features that it takes.
        found: usize,
    },
    /// The interface does not fit the network.
    #[error("the interface does not fit the network: {0}")]
    Interface(String),
}

/// Writes a network.
///
/// # Errors
/// If its parts do not fit together.
pub fn export(model: &ExportModel) -> Result<Vec<u8>, ExportError> {
    check(model)?;
    Ok(graph::model(model).encode_to_vec())
}

/// The exported file's format version for a network from such a file.
fn ir_version(interface: &Interface) -> i64 {
    interface.ir_version.clamp(8, ModelProto::NEWEST_IR)
}

impl ModelProto {
    /// The newest format version that the schema describes.
    const NEWEST_IR: i64 = crate::proto::Version::IrVersion as i64;
}

fn check(model: &ExportModel) -> Result<(), ExportError> {
    let last = model.layers.last().ok_or(ExportError::NoLayers)?;
    let mut features = features(&model.interface)?;
    for layer in &model.layers {
        if layer.inputs != features {
            let (layer, found) = (layer.name.clone(), layer.inputs);
            return Err(ExportError::Chain { layer, expected: features, found });
        }
        size(
            format!("{}.weight", layer.name),
            layer.outputs.saturating_mul(layer.inputs),
            layer.weight.len(),
        )?;
        if let Some(bias) = &layer.bias {
            size(format!("{}.bias", layer.name), layer.outputs, bias.len())?;
        }
        features = layer.outputs;
    }
    match &model.prediction {
        Prediction::Classifier => Ok(()),
        Prediction::Heads { heads, .. } => check_heads(model, heads, last.outputs),
        Prediction::Labels { .. } | Prediction::Unlabelled { .. }
            if model.layers[0].inputs < last.outputs =>
        {
            Err(ExportError::Interface(format!("{} labels do not fit into the input", last.outputs)))
        }
        Prediction::Labels { .. } => hidden(model),
        Prediction::Unlabelled { .. } => Ok(()),
    }
}

fn check_heads(model: &ExportModel, heads: &[Vec<f32>], classes: usize) -> Result<(), ExportError> {
    hidden(model)?;
    size("heads".to_string(), model.layers.len() - 1, heads.len())?;
    for (layer, head) in model.layers.iter().zip(heads) {
        size(format!("{}.head", layer.name), classes.saturating_mul(layer.outputs), head.len())?;
    }
    Ok(())
}

/// Heads and labels need a layer before the classifier.
fn hidden(model: &ExportModel) -> Result<(), ExportError> {
    match model.layers.len() {
        1 => Err(ExportError::Interface("there is no hidden layer to predict from".to_string())),
        _ => Ok(()),
    }
}

fn size(what: String, expected: usize, found: usize) -> Result<(), ExportError> {
    if expected == found { Ok(()) } else { Err(ExportError::Size { what, expected, found }) }
}

/// Features of a sample by the declared input.
fn features(interface: &Interface) -> Result<usize, ExportError> {
    use crate::interface::Size::{Fixed, Symbol};
    let sizes = interface.input_dims.iter().skip(1).map(|dim| match dim {
        Fixed(size) => Ok(*size),
        Symbol(name) => Err(ExportError::Interface(format!("dimension `{name}` has no size"))),
    });
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    match (sizes.len(), interface.input == interface.output) {
        (0, _) => Err(ExportError::Interface("the input has no features".to_string())),
        (_, true) => Err(ExportError::Interface("input and output have one name".to_string())),
        _ => Ok(sizes.iter().fold(1usize, |all, &size| all.saturating_mul(size))),
    }
}
