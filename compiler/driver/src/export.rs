//! A trained network as an ONNX file with the boundary of the file it came from.

use ffc_compiler::recipe::{Normalization, Options, Predict, RMS_EPSILON};
use ffc_ir::module::{Module, Op, Param, ParamRole, Value};
use ffc_ir::{Handle, module::Activation};
use ffc_onnx::{ExportLayer, ExportModel, Prediction, Rms};

use crate::network::Network;
use crate::{Failure, preprocessing};

/// The bytes of the file.
///
/// # Errors
/// When the network's layers are not a chain of dense layers.
pub fn export(
    network: &Network,
    options: &Options,
    weights: &[(String, Vec<f32>)],
) -> Result<Vec<u8>, Failure> {
    let layers = dense_layers(&network.module, weights)?;
    let normalization =
        (options.normalization == Normalization::Rms).then_some(Rms { epsilon: RMS_EPSILON, input: true });
    let prediction = match options.predict {
        Predict::Classifier => Prediction::Classifier,
        Predict::Heads => Prediction::Heads { heads: heads(&layers, options, weights)?, classifier: true },
        Predict::Labels => {
            Prediction::Labels { on: options.preprocessing.high, off: options.preprocessing.low }
        }
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
fn dense_layers(module: &Module, weights: &[(String, Vec<f32>)]) -> Result<Vec<ExportLayer>, Failure> {
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
                layers.push(dense(weight, weights)?);
            }
            Op::Binary(_, _, rhs) => {
                let bias = param(rhs).filter(|param| param.role == ParamRole::Bias);
                let layer = layers.last_mut();
                if let (Some(bias), Some(layer)) = (bias, layer) {
                    layer.bias = Some(values(&bias.name, weights)?.to_vec());
                }
            }
            Op::Activate(activation, _) => set_activation(&mut layers, activation)?,
            _ => {}
        }
    }
    Ok(layers)
}

fn dense(weight: &Param, weights: &[(String, Vec<f32>)]) -> Result<ExportLayer, Failure> {
    let [outputs, inputs] = weight.shape;
    let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name).to_string();
    // What prediction does not use is not trained; it has no place in the file either, but keeps the chain whole.
    let weight = match values(&weight.name, weights) {
        Ok(values) => values.to_vec(),
        Err(_) => vec![0.0; outputs * inputs],
    };
    Ok(ExportLayer { name, weight, outputs, inputs, bias: None, activation: None })
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

fn values<'a>(name: &str, weights: &'a [(String, Vec<f32>)]) -> Result<&'a [f32], Failure> {
    let known = weights.iter().find(|(other, _)| other == name);
    known
        .map(|(_, values)| values.as_slice())
        .ok_or_else(|| Failure::new(format!("`{name}` was not trained")))
}

/// The head matrices of the hidden layers; groups as matrices of their factor.
fn heads(
    layers: &[ExportLayer],
    options: &Options,
    weights: &[(String, Vec<f32>)],
) -> Result<Vec<Vec<f32>>, Failure> {
    let classes = layers.last().map_or(0, |layer| layer.outputs);
    let hidden = layers.iter().take(layers.len().saturating_sub(1));
    hidden
        .map(|layer| match options.head {
            ffc_compiler::recipe::Head::ClassGroup { temperature } => {
                let factor = temperature * classes as f32 / layer.outputs as f32;
                let member = |class, unit| ffc_ir::interpret::in_group(class, unit, classes, layer.outputs);
                let entry = |class, unit| if member(class, unit) { factor } else { 0.0 };
                Ok((0..classes)
                    .flat_map(|class| (0..layer.outputs).map(move |unit| entry(class, unit)))
                    .collect())
            }
            _ => Ok(values(&format!("{}.head", layer.name), weights)?.to_vec()),
        })
        .collect()
}
