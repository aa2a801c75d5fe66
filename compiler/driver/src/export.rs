//! A trained network as an ONNX file with the boundary of the file it came from.

use std::path::Path;

use ffc_compiler::passes::cut_layers::layers_of;
use ffc_compiler::recipe::{Goodness, Head, Normalization, Options, Predict, RMS_EPSILON};
use ffc_onnx::{ExportError, ExportModel, Prediction, Rms, Values};

use crate::network::Network;
use crate::{Failure, files, preprocessing};

/// Writes the file; `weights` is asked for the parameters one by one, since all of them in single precision are more than
/// training needs.
///
/// # Errors
/// When the network cannot predict in a file as the options say, or the system refuses to write.
pub fn export(
    network: &Network,
    options: &Options,
    weights: &Values<'_>,
    path: &Path,
) -> Result<(), Failure> {
    let normalization =
        (options.normalization == Normalization::Rms).then_some(Rms { epsilon: RMS_EPSILON, input: true });
    let (on, off) = (options.preprocessing.high, options.preprocessing.low);
    let prediction = match options.predict {
        Predict::Classifier if options.overlays_labels() => Prediction::Unlabelled { on, off },
        Predict::Classifier => Prediction::Classifier,
        Predict::Heads => Prediction::Heads { heads: heads(network, options, weights)?, classifier: true },
        Predict::Labels => Prediction::Labels {
            on,
            off,
            sum: matches!(options.head, Head::SumOfSquares { goodness: Goodness::Sum, .. }),
        },
    };
    // What prediction does not use is not trained; it has no place in the file either, but keeps the network whole.
    let trained_or_zero = |name: &str| {
        let param = network.module.param(name).map(|param| &network.module.params[param]);
        weights(name).or_else(|| Some(vec![0.0; param?.len()]))
    };
    let whole = network.module.layers.first().ok_or_else(|| Failure::new("the network has no layers"))?;
    let layer_of = layers_of(whole).map_err(Failure::new)?;
    let model = ExportModel {
        interface: network.interface.clone(),
        module: network.module.clone(),
        normalization,
        layer_of,
        metadata: preprocessing::to_metadata(&options.preprocessing),
        prediction,
    };
    files::write_with(path, |out| match ffc_onnx::export(&model, &trained_or_zero, out) {
        Err(ExportError::Io(error)) => Err(files::cannot_write(path, error)),
        written => Ok(written?),
    })
}

/// The head matrices of the hidden layers; groups as matrices of their factor.
fn heads(network: &Network, options: &Options, weights: &Values<'_>) -> Result<Vec<Vec<f32>>, Failure> {
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
            _ => {
                let name = format!("{}.head", layer.name());
                weights(&name).ok_or_else(|| Failure::new(format!("`{name}` was not trained")))
            }
        })
        .collect()
}
