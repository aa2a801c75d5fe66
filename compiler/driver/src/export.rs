//! A trained network as an ONNX file with the boundary of the file it came from.

use ffc_compiler::recipe::{Goodness, Head, Normalization, Options, Predict, RMS_EPSILON};
use ffc_ir::module::{Module, Op, Param, ParamRole, Value};
use ffc_ir::{Handle, module::Activation};
use ffc_onnx::{ExportLayer, ExportModel, Prediction, Rms};

use crate::network::Network;
use crate::{Failure, preprocessing};

/// The bytes of the file.
///
/// # Errors
/// When the network's layers are not a chain of dense layers.
pub fn export(network: &Network, options: &Options, mut weights: Weights) -> Result<Vec<u8>, Failure> {
    let layers = dense_layers(&network.module, &mut weights)?;
    let normalization =
        (options.normalization == Normalization::Rms).then_some(Rms { epsilon: RMS_EPSILON, input: true });
    let (on, off) = (options.preprocessing.high, options.preprocessing.low);
    let prediction = match options.predict {
        Predict::Classifier if options.overlays_labels() => Prediction::Unlabelled { on, off },
        Predict::Classifier => Prediction::Classifier,
        Predict::Heads => {
            Prediction::Heads { heads: heads(&layers, options, &mut weights)?, classifier: true }
        }
        Predict::Labels => Prediction::Labels {
            on,
            off,
            sum: matches!(options.head, Head::SumOfSquares { goodness: Goodness::Sum, .. }),
        },
    };
    let model = ExportModel {
        interface: network.interface.clone(),
        layers,
        normalization,
        metadata: preprocessing::to_metadata(&options.preprocessing),
        prediction,
    };
    Ok(ffc_onnx::export(&model)?)
}

/// The chain of dense layers of an imported module.
fn dense_layers(module: &Module, weights: &mut Weights) -> Result<Vec<ExportLayer>, Failure> {
    let whole = module.layers.first().ok_or_else(|| Failure::new("the network has no layer"))?;
    let param = |value: Handle<Value>| match whole.values[value].op {
        Op::Param(param) => Some(&module.params[param]),
        _ => None,
    };
    let mut layers: Vec<ExportLayer> = Vec::new();
    for &value in &whole.forward {
        match whole.values[value].op {
            Op::Dot { rhs, .. } => {
                let weight = param(rhs).ok_or_else(|| Failure::new("a contraction without a weight"))?;
                layers.push(dense(weight, weights));
            }
            Op::Binary(_, _, rhs) => {
                let bias = param(rhs).filter(|param| param.role == ParamRole::Bias);
                let layer = layers.last_mut();
                if let (Some(bias), Some(layer)) = (bias, layer) {
                    layer.bias = Some(trained_or_zero(bias, weights));
                }
            }
            Op::Activate(activation, _) => set_activation(&mut layers, activation)?,
            _ => {}
        }
    }
    Ok(layers)
}

fn dense(weight: &Param, weights: &mut Weights) -> ExportLayer {
    let [outputs, inputs] = weight.shape;
    let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name).to_string();
    let weight = trained_or_zero(weight, weights);
    ExportLayer { name, weight, outputs, inputs, bias: None, activation: None }
}

/// What prediction does not use is not trained; it has no place in the file either, but keeps the chain whole.
fn trained_or_zero(param: &Param, weights: &mut Weights) -> Vec<f32> {
    take(&param.name, weights).unwrap_or_else(|_| vec![0.0; param.len()])
}

fn set_activation(layers: &mut [ExportLayer], activation: Activation) -> Result<(), Failure> {
    match layers.last_mut() {
        Some(layer) if layer.activation.is_none() => {
            layer.activation = Some(activation);
            Ok(())
        }
        _ => Err(Failure::new("two activation functions in a row cannot be exported yet")),
    }
}

/// Trained parameters by name, each taken once: copies would double what exporting needs.
type Weights = Vec<(String, Vec<f32>)>;

fn take(name: &str, weights: &mut Weights) -> Result<Vec<f32>, Failure> {
    let known = weights.iter_mut().find(|(other, _)| other == name);
    known
        .map(|(_, values)| std::mem::take(values))
        .ok_or_else(|| Failure::new(format!("`{name}` was not trained")))
}

/// The head matrices of the hidden layers; groups as matrices of their factor.
fn heads(layers: &[ExportLayer], options: &Options, weights: &mut Weights) -> Result<Vec<Vec<f32>>, Failure> {
    let classes = layers.last().map_or(0, |layer| layer.outputs);
    let hidden = layers.iter().take(layers.len().saturating_sub(1));
    hidden
        .map(|layer| match options.head {
            Head::ClassGroup { temperature } => {
                let factor = temperature * classes as f32 / layer.outputs as f32;
                let member = |class, unit| ffc_ir::interpret::in_group(class, unit, classes, layer.outputs);
                let entry = |class, unit| if member(class, unit) { factor } else { 0.0 };
                Ok((0..classes)
                    .flat_map(|class| (0..layer.outputs).map(move |unit| entry(class, unit)))
                    .collect())
            }
            _ => take(&format!("{}.head", layer.name), weights),
        })
        .collect()
}
