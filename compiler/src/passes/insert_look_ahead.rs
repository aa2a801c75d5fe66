//! What layers learn of the objectives of later ones, weighted by lambda.
//!
//! # Scalar
//!
//! Adds the error signals of later layers to each layer's own: look-ahead without a derivative
//! between layers (arXiv 2506.22771, section 3, taken literally). Layers whose signals differ in kind (the classifier
//! beside `sum-of-squares` heads) keep out of it.
//!
//! Signals of later layers are known only after a sweep over all of them, so a step becomes two sweeps; what lives
//! between them is a number per row and layer (per class, for cross-entropy heads), never an activation.
//!
//! ```text
//! look_ahead {
//!   %published = publish %error
//!   %ahead = ahead
//!   %weighted = mul %ahead, %lambda
//!   %error.2 = add %error, %weighted
//! }
//! ```
//!
//! # Hop
//!
//! Each layer computes the next one too, up to its error signal, with that layer's weights as they are: the region is
//! a copy of the next layer's forward region and head, and `derive-updates` takes the gradient of its loss back to what this layer
//! hands over. So a step holds the activations of two layers, and one sweep is enough. What the next layer is handed by earlier layers
//! than this one gets no gradient.
//!
//! ```text
//! look_ahead {
//!   %w = param @fc2.weight   %d = dot %fc1.relu, %w   ...   %error.2 = sub %p.2, %onehot.2
//! }
//! ```

use std::collections::HashMap;

use ffc_ir::analysis::needed;
use ffc_ir::module::{Control, Layer, LayerRole, Module, Op, Region};
use ffc_ir::types::Type;

use super::build::{Builder, V, error_signal};
use crate::recipe::{Head, LookAhead, Options};

/// Runs the pass.
///
/// # Errors
/// Where heads have not been inserted.
pub fn run(module: Module, options: &Options) -> Result<Module, String> {
    match options.look_ahead {
        LookAhead::Hop => hop(module, options),
        // Whoever runs the pass wants it.
        LookAhead::Off | LookAhead::Scalar => scalar(module, options),
    }
}

/// Whether a layer's loss is of the kind that others look at.
fn joins(layer: &Layer, options: &Options) -> bool {
    match layer.role {
        LayerRole::Hidden => true,
        LayerRole::Classifier => !matches!(options.head, Head::SumOfSquares { .. }),
        LayerRole::Prepare | LayerRole::Whole => false,
    }
}

fn hop(mut module: Module, options: &Options) -> Result<Module, String> {
    for index in 1..module.layers.len() {
        let next = module.layers[index].clone();
        let layer = &mut module.layers[index - 1];
        if layer.role == LayerRole::Hidden && joins(&next, options) {
            let values = copied(&next).ok_or_else(|| format!("layer `{}` has no head yet", next.name))?;
            copy(layer, &next, &values);
        }
    }
    Ok(module)
}

/// What a layer's look-ahead region has of the next layer: all that its activation and its error signal follow from, in order.
/// None where it has no head.
pub(super) fn copied(next: &Layer) -> Option<Vec<V>> {
    let needed = needed(next, [error_signal(next)?, next.outputs[0]]);
    let own = next.ops().map(|(_, value)| value).filter(|value| needed[value.index()]);
    Some(own.filter(|&value| !matches!(next.values[value].op, Op::Operand(_))).collect())
}

fn copy(layer: &mut Layer, next: &Layer, values: &[V]) {
    let handed = layer.outputs.clone();
    let operands = next.forward.iter().filter_map(|&value| match next.values[value].op {
        Op::Operand(position) => Some((value, handed[position as usize])),
        _ => None,
    });
    let mut here: HashMap<V, V> = operands.collect();
    for &value in values {
        let ir = &next.values[value];
        let mut op = ir.op;
        op.operands_mut(|operand| *operand = here[operand]);
        here.insert(value, layer.push(Region::LookAhead, &ir.name, op, ir.ty));
    }
}

/// Whether a layer's look-ahead region is a copy of the next layer.
pub(super) fn looks_at_next(layer: &Layer) -> bool {
    let publishes = |&value: &V| matches!(layer.values[value].op, Op::Publish(_));
    !layer.look_ahead.is_empty() && !layer.look_ahead.iter().any(publishes)
}

fn scalar(mut module: Module, options: &Options) -> Result<Module, String> {
    let joins = |layer: &Layer| joins(layer, options);
    let last = module.layers.iter().rposition(joins);
    for (index, layer) in module.layers.iter_mut().enumerate().filter(|(_, layer)| joins(layer)) {
        let error = error_signal(layer).ok_or_else(|| format!("layer `{}` has no head yet", layer.name))?;
        let mut builder = Builder::new(layer, Region::LookAhead);
        let ty = builder.ty(error);
        builder.push("published", Op::Publish(error), ty);
        if Some(index) != last {
            let ahead = builder.push("ahead", Op::Ahead, ty);
            let lambda = builder.push("lambda", Op::Control(Control::Lambda), Type::scalar());
            let weighted = builder.mul("weighted", ahead, lambda);
            builder.add("error", error, weighted);
        }
    }
    Ok(module)
}
