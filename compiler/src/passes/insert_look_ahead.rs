//! Adds the error signals of later layers to each layer's own, weighted by lambda: look-ahead without a derivative
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

use ffc_ir::module::{Control, Layer, LayerRole, Module, Op, Region};
use ffc_ir::types::Type;

use super::build::{Builder, error_signal};
use crate::recipe::{Head, Options};

/// Runs the pass.
///
/// # Errors
/// Where heads have not been inserted.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let joins = |layer: &Layer| match layer.role {
        LayerRole::Hidden => true,
        LayerRole::Classifier => !matches!(options.head, Head::SumOfSquares { .. }),
        LayerRole::Prepare | LayerRole::Whole => false,
    };
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
