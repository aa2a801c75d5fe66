//! A trained network as an ONNX file with the boundary of the file it came from.

use ffc_compiler::passes::cut_layers::layers_of;
use ffc_compiler::recipe::{Goodness, Head, Normalization, Options, Predict, RMS_EPSILON};
use ffc_ir::module::Param;
use ffc_onnx::{ExportModel, Prediction, Rms};

use crate::network::Network;
use crate::{Failure, preprocessing};

/// The bytes of the file.
///
/// # Errors
/// When the network cannot predict in a file as the options say.
pub fn export(network: &Network, options: &Options, mut weights: Weights) -> Result<Vec<u8>, Failure> {
    let normalization =
        (options.normalization == Normalization::Rms).then_some(Rms { epsilon: RMS_EPSILON, input: true });
    let (on, off) = (options.preprocessing.high, options.preprocessing.low);
    let prediction = match options.predict {
        Predict::Classifier if options.overlays_labels() => Prediction::Unlabelled { on, off },
        Predict::Classifier => Prediction::Classifier,
        Predict::Heads => {
            Prediction::Heads { heads: heads(network, options, &mut weights)?, classifier: true }
        }
        Predict::Labels => Prediction::Labels {
            on,
            off,
            sum: matches!(options.head, Head::SumOfSquares { goodness: Goodness::Sum, .. }),
        },
    };
    // What prediction does not use is not trained; it has no place in the file either, but keeps the network whole.
    let trained_or_zero = |param: &Param| {
        let values = take(&param.name, &mut weights).unwrap_or_else(|_| vec![0.0; param.len()]);
        (param.name.clone(), values)
    };
    let weights = network.module.params.values().map(trained_or_zero).collect();
    let whole = network.module.layers.first().ok_or_else(|| Failure::new("the network has no layers"))?;
    let layer_of = layers_of(whole).map_err(Failure::new)?;
    let model = ExportModel {
        interface: network.interface.clone(),
        module: network.module.clone(),
        weights,
        normalization,
        layer_of,
        metadata: preprocessing::to_metadata(&options.preprocessing),
        prediction,
    };
    Ok(ffc_onnx::export(&model)?)
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
fn heads(network: &Network, options: &Options, weights: &mut Weights) -> Result<Vec<Vec<f32>>, Failure> {
    let classes = network.module.classes;
    let layers = network.contractions();
    let hidden = layers.iter().take(layers.len().saturating_sub(1));
    hidden
        .map(|layer| match options.head {
            // Layers with fewer units than classes have a projection.
            Head::ClassGroup { temperature } if layer.weight.shape[0] >= classes => {
                let outputs = layer.weight.shape[0];
                let factor = temperature * classes as f32 / outputs as f32;
                let member = |class, unit| ffc_ir::interpret::in_group(class, unit, classes, outputs);
                let entry = |class, unit| if member(class, unit) { factor } else { 0.0 };
                Ok((0..classes).flat_map(|class| (0..outputs).map(move |unit| entry(class, unit))).collect())
            }
            _ => take(&format!("{}.head", layer.name()), weights),
        })
        .collect()
}
