//! Turns a network into a predictor: what the scores of a class are, and how samples become rows for it.
//!
//! ```text
//! classifier:  score %logits
//! heads:       score %log_softmax of each layer, added up
//! labels:      rows every-label; score %goodness of each layer, added up
//! ```

use ffc_ir::module::{LayerRole, Module, Op, Region, RowPlan, UnaryOp};

use super::build::{Builder, V};
use super::image_size::image_sizes;
use super::insert_goodness_heads::{class_scores, goodness, softmax};
use crate::recipe::{Head, Options, Predict};

/// Runs the pass.
///
/// # Errors
/// Where the heads do not allow the prediction that the options ask for.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let by_squares = matches!(options.head, Head::SumOfSquares { .. });
    match (options.predict, by_squares) {
        (Predict::Labels, false) => {
            return Err(
                "prediction by trying labels needs the head `sum-of-squares` (recipe `ff-int8`)".to_string()
            );
        }
        (Predict::Heads, true) => {
            return Err(
                "heads of `sum-of-squares` have no score per class; use `--predict labels` or `classifier`"
                    .to_string(),
            );
        }
        _ => {}
    }
    module.rows = match options.predict {
        Predict::Labels => RowPlan::EveryLabel,
        _ if options.overlays_labels() => RowPlan::Neutral,
        _ => RowPlan::Plain,
    };
    let mut accumulate = false;
    let sizes = image_sizes(&module);
    for (index, size) in sizes.into_iter().enumerate() {
        let mut layer = std::mem::take(&mut module.layers[index]);
        let score = match (layer.role, options.predict, options.head) {
            (LayerRole::Hidden, Predict::Labels, Head::SumOfSquares { goodness: kind, .. }) => {
                let mut builder = Builder::new(&mut layer, Region::Head);
                Some(goodness(&mut builder, kind))
            }
            (LayerRole::Hidden, Predict::Heads, _) => {
                let scores = class_scores(&mut module, &mut layer, size, options);
                Some(log_softmax(&mut Builder::new(&mut layer, Region::Head), scores))
            }
            (LayerRole::Classifier, Predict::Heads, _) => {
                let logits = layer.outputs[0];
                Some(log_softmax(&mut Builder::new(&mut layer, Region::Head), logits))
            }
            (LayerRole::Classifier, Predict::Classifier, _) => Some(layer.outputs[0]),
            _ => None,
        };
        if let Some(value) = score {
            let mut builder = Builder::new(&mut layer, Region::Head);
            let ty = builder.ty(value);
            builder.push("score", Op::Score { value, accumulate }, ty);
            accumulate = true;
        }
        module.layers[index] = layer;
    }
    Ok(module)
}

fn log_softmax(builder: &mut Builder<'_>, scores: V) -> V {
    let soft = softmax(builder, scores);
    let log = builder.unary("log", UnaryOp::Log, soft.sum);
    builder.sub("log_softmax", soft.shifted, log)
}
