//! Writes a trained network as a float ONNX model.
//!
//! The file keeps the interface of the one that the network came from, and computes what the trained network predicts
//! by: its classifier, its goodness heads, or every label in turn. Normalisation is written as primitive operators that
//! [`import`](crate::import()) recognises, so that an exported file can be trained on without being normalised twice.
//!
//! Three metadata keys are written: `ffc.prediction` and `ffc.normalization` say what the graph does, as JSON, and
//! `ffc.layers` lists the layers where the graph is more than the network. In a file that predicts by labels the last
//! layer takes no part in the scores; it is still there, as an operator without a user, so that nothing is lost.

use std::collections::HashMap;
use std::io::{self, Write};

use ffc_ir::Handle;
use ffc_ir::module::{Module, Phase, Value};

use crate::interface::{Interface, PredictionKind, Rms};
use crate::proto::ModelProto;

mod chain;
mod encode;
mod graph;
mod groups;
mod network;
mod write;

pub use encode::Values;

/// A network to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportModel {
    /// Names, shapes and metadata that the file keeps. Its own `normalization` and `prediction` do not matter here.
    pub interface: Interface,
    /// The network as it was imported.
    pub module: Module,
    /// Normalisation in front of the contractions, and of what else crosses from one layer to another.
    pub normalization: Option<Rms>,
    /// The layer to which each value of the network belongs, where that matters: what a sum or product takes from another
    /// layer is normalised like what a contraction takes.
    pub layer_of: HashMap<Handle<Value>, usize>,
    /// More metadata, for instance the preprocessing; replaces what the interface has under the same name.
    pub metadata: Vec<(String, String)>,
    /// What the output is.
    pub prediction: Prediction,
}

/// How the exported file predicts. All but the first need a network that is a chain of dense layers.
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
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The file cannot be written.
    #[error("cannot write the file: {0}")]
    Io(#[from] io::Error),
    /// The module is not what an import gives.
    #[error("the module is not one that was imported: {0}")]
    Module(String),
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
    /// A parameter has no value.
    #[error("there are no values for `{0}`")]
    Missing(String),
    /// The interface does not fit the network.
    #[error("the interface does not fit the network: {0}")]
    Interface(String),
    /// The network does not allow to predict like that.
    #[error("the network does not predict like that: {0}")]
    Prediction(String),
}

/// Writes a network, asking for the values of its parameters one by one.
///
/// # Errors
/// If its parts do not fit together, or the system refuses to write.
pub fn export(model: &ExportModel, values: &Values<'_>, out: &mut dyn Write) -> Result<(), ExportError> {
    check(model)?;
    let (model, graph, weights) = graph::model(model)?;
    encode::encode(&model, &graph, &weights, values, out)
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
    let module = &model.module;
    ffc_ir::verify(module).map_err(|faults| {
        let fault = faults.first().map(ToString::to_string);
        ExportError::Module(fault.unwrap_or_default())
    })?;
    if module.phase != Phase::Imported || module.layers[0].outputs.len() != 1 {
        return Err(ExportError::Module("it is not one layer with one output".to_string()));
    }
    let features = features(&model.interface)?;
    if features != module.features {
        let wanted = module.features;
        return Err(ExportError::Interface(format!(
            "{features} features are there, the network takes {wanted}"
        )));
    }
    check_prediction(model)
}

fn check_prediction(model: &ExportModel) -> Result<(), ExportError> {
    let refuse = |text: &str| Err(ExportError::Prediction(text.to_string()));
    if model.prediction == Prediction::Classifier {
        return Ok(());
    }
    let Some(layers) = chain::layers(&model.module) else {
        return refuse("it is no chain of dense layers, each with at most one activation function");
    };
    let classes = model.module.classes;
    let hidden = layers.len() - 1;
    match &model.prediction {
        Prediction::Heads { .. } | Prediction::Labels { .. } if hidden == 0 => {
            refuse("there is no hidden layer to predict from")
        }
        Prediction::Labels { .. } | Prediction::Unlabelled { .. } if model.module.features < classes => {
            refuse(&format!("{classes} labels do not fit into the input"))
        }
        Prediction::Heads { heads, .. } => {
            size("heads".to_string(), hidden, heads.len())?;
            layers.iter().zip(heads).try_for_each(|(layer, head)| {
                size(format!("{}.head", layer.name), classes.saturating_mul(layer.outputs), head.len())
            })
        }
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
