//! Reading back our own exports whose graph is more than the network.
//!
//! A file that predicts by its goodness heads or by trying every label holds the network's layers inside a larger
//! graph. Its metadata key `ffc.layers` lists them, with the initializers that hold their parameters, so that they need
//! not be found in the graph. A file that predicts by its classifier has no such list: its graph is the network.

use ffc_ir::Handle;
use ffc_ir::module::{Activation, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::decode::Model;
use crate::error::OnnxError;
use crate::import::{Reason, features, interface, only_input};
use crate::interface::{LAYERS_KEY, PREDICTION_KEY, PredictionKind, Rms, SoftmaxTail};
use crate::names;
use crate::network::{Builder, Matrix, Network};
use crate::numbers::Numbers;

/// The value of [`LAYERS_KEY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layers {
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) softmax: SoftmaxTail,
    pub(crate) normalization: Option<Rms>,
}

/// One dense layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) name: String,
    /// Initializer `[outputs, inputs]`.
    pub(crate) weight: String,
    /// Initializer `[outputs]`.
    pub(crate) bias: Option<String>,
    pub(crate) activation: Option<ActivationRecord>,
    /// Initializer `[classes, outputs]` of the goodness head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) head: Option<String>,
}

/// [`Activation`] as data; an infinite bound is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActivationRecord {
    Relu,
    LeakyRelu { slope: f32 },
    Clip { low: Option<f32>, high: Option<f32> },
    Sigmoid,
    Tanh,
    HardSigmoid { alpha: f32, beta: f32 },
    Elu { alpha: f32 },
    Silu,
    HardSwish,
    Gelu,
    GeluTanh,
}

impl From<Activation> for ActivationRecord {
    fn from(activation: Activation) -> Self {
        let finite = |bound: f32| bound.is_finite().then_some(bound);
        match activation {
            Activation::Relu => Self::Relu,
            Activation::LeakyRelu(slope) => Self::LeakyRelu { slope },
            Activation::Clip { low, high } => Self::Clip { low: finite(low), high: finite(high) },
            Activation::Sigmoid => Self::Sigmoid,
            Activation::Tanh => Self::Tanh,
            Activation::HardSigmoid { alpha, beta } => Self::HardSigmoid { alpha, beta },
            Activation::Elu(alpha) => Self::Elu { alpha },
            Activation::Silu => Self::Silu,
            Activation::HardSwish => Self::HardSwish,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
        }
    }
}

impl From<ActivationRecord> for Activation {
    fn from(record: ActivationRecord) -> Self {
        match record {
            ActivationRecord::Relu => Self::Relu,
            ActivationRecord::LeakyRelu { slope } => Self::LeakyRelu(slope),
            ActivationRecord::Clip { low, high } => {
                Self::Clip { low: low.unwrap_or(f32::NEG_INFINITY), high: high.unwrap_or(f32::INFINITY) }
            }
            ActivationRecord::Sigmoid => Self::Sigmoid,
            ActivationRecord::Tanh => Self::Tanh,
            ActivationRecord::HardSigmoid { alpha, beta } => Self::HardSigmoid { alpha, beta },
            ActivationRecord::Elu { alpha } => Self::Elu(alpha),
            ActivationRecord::Silu => Self::Silu,
            ActivationRecord::HardSwish => Self::HardSwish,
            ActivationRecord::Gelu => Self::Gelu,
            ActivationRecord::GeluTanh => Self::GeluTanh,
        }
    }
}

/// How a model is to be read back.
pub(crate) struct Plan {
    prediction: PredictionKind,
    layers: Layers,
}

/// The plan for one of our own exports whose graph is not the network, `None` for every other model.
pub(crate) fn plan(model: &Model) -> Result<Option<Plan>, OnnxError> {
    match parsed(model, PREDICTION_KEY)? {
        None | Some(PredictionKind::Classifier) => Ok(None),
        Some(prediction) => match parsed(model, LAYERS_KEY)? {
            Some(layers) => Ok(Some(Plan { prediction, layers })),
            None => refuse(format!("metadata `{PREDICTION_KEY}` is there, but `{LAYERS_KEY}` is not")),
        },
    }
}

fn parsed<T: DeserializeOwned>(model: &Model, key: &str) -> Result<Option<T>, OnnxError> {
    let Some((_, value)) = model.metadata.iter().find(|(name, _)| name == key) else { return Ok(None) };
    match serde_json::from_str(value) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(error) => refuse(format!("metadata `{key}` is damaged: {error}")),
    }
}

fn refuse<T>(text: String) -> Result<T, OnnxError> {
    Err(OnnxError::NotANetwork(text))
}

impl Plan {
    pub(crate) fn network(self, model: &Model) -> Result<Network, OnnxError> {
        let (input, dims) = only_input(model)?;
        let mut builder = Builder::new(&input.name, features(input, dims)?);
        let mut value = builder.input();
        for layer in &self.layers.layers {
            value = match restore(&mut builder, model, layer, value) {
                Ok(value) => value,
                Err(reason) => {
                    return refuse(format!("layer `{}` cannot be restored: {reason}", layer.name));
                }
            };
        }
        if self.layers.normalization.is_some_and(|rms| !(rms.epsilon >= 0.0 && rms.epsilon.is_finite())) {
            return refuse(format!("metadata `{LAYERS_KEY}` is damaged: an epsilon that is no small number"));
        }
        let [output] = model.outputs.as_slice() else {
            return refuse(format!("the model has {} outputs, not one", model.outputs.len()));
        };
        let built = builder.finish(value, &model.name).map_err(OnnxError::NotANetwork)?;
        let mut interface = interface(model, output, built.module.classes)?;
        interface.softmax = self.layers.softmax;
        interface.normalization = self.layers.normalization;
        interface.prediction = self.prediction;
        Ok(Network { module: built.module, weights: built.weights, heads: built.heads, interface })
    }
}

fn restore(
    builder: &mut Builder,
    model: &Model,
    layer: &LayerRecord,
    value: Handle<Value>,
) -> Result<Handle<Value>, Reason> {
    let constant = |name: &str| {
        let tensor = model.graph.constants.get(name);
        let tensor = tensor.ok_or_else(|| Reason::from(format!("there is no initializer `{name}`")))?;
        let values =
            Numbers::of(tensor).ok_or_else(|| Reason::from(format!("`{name}` is not floating-point")))?;
        Ok::<_, Reason>((&tensor.dims, values))
    };
    let (dims, values) = constant(&layer.weight)?;
    let &[outputs, inputs] = dims.as_slice() else {
        return Err(format!("`{}` is not a matrix", layer.weight).into());
    };
    builder.charge(values.len())?;
    let name = names::clean(&layer.name, "layer");
    let mut value = builder.dense((value, None), None, name.clone(), Matrix { outputs, inputs, values })?;
    if let Some(bias) = &layer.bias {
        let (_, values) = constant(bias)?;
        if values.len() != outputs {
            return Err(format!("`{bias}` has {} elements, not {outputs}", values.len()).into());
        }
        value = builder.bias(value, name, values)?;
    }
    if let Some(activation) = layer.activation {
        value = builder.activate(value, activation.into())?;
    }
    let Some(head) = &layer.head else { return Ok(value) };
    let (dims, values) = constant(head)?;
    if dims.len() != 2 || dims[1] != outputs {
        return Err(format!("`{head}` has the shape {dims:?}, not [classes, {outputs}]").into());
    }
    builder.charge(values.len())?;
    builder.head(values);
    Ok(value)
}
