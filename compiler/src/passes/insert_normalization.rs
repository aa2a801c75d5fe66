//! Divides each row of an activation by its root mean square on its way to the next layer.
//!
//! Dividing a row by a number commutes with the contraction, so nothing is written normalised: a layer hands over
//! its activation as it is and, beside it, the factor of each row, which the next layer applies to its sums. One pass
//! over memory less, and the INT8 activation serves its own layer's head and the next layer alike.
//!
//! ```text
//! yield %y                =>   %r = 1 / sqrt(sum_squares %y / columns + epsilon)
//!                              yield %y, %r
//! %d = dot %a, %w         =>   %d = dot %a, %w
//!                              %n = mul %d, %row_factor       (operand 1)
//! ```

use ffc_ir::module::{Layer, LayerRole, Module, Op, ReduceOp, Region, UnaryOp};
use ffc_ir::types::{DType, Dim, Type};

use super::build::{Builder, V};
use crate::recipe::{Options, RMS_EPSILON};

/// Runs the pass.
///
/// # Errors
/// None; the signature is that of all passes.
pub fn run(mut module: Module, _: &Options) -> Result<Module, String> {
    let last = module.layers.len() - 1;
    for (index, layer) in module.layers.iter_mut().enumerate() {
        if index > 0 {
            scale_rows(layer);
        }
        if index < last && layer.role != LayerRole::Classifier {
            let factor = row_factor(layer);
            layer.outputs.push(factor);
        }
    }
    Ok(module)
}

fn row_factor(layer: &mut Layer) -> V {
    let output = layer.outputs[0];
    let Dim::Const(columns) = layer.ty(output).columns() else {
        unreachable!("activations are [rows, columns]")
    };
    let mut builder = Builder::new(layer, Region::Forward);
    let squares = builder.reduce("squares", ReduceOp::SumSquares, output);
    let mean = builder.mul_constant("mean_square", squares, 1.0 / columns as f32);
    let epsilon = builder.constant(RMS_EPSILON);
    let sum = builder.add("mean_square.e", mean, epsilon);
    let root = builder.unary("rms", UnaryOp::Sqrt, sum);
    let one = builder.constant(1.0);
    builder.div("row_factor", one, root)
}

/// Multiplies the layer's contraction of its operand by the row factor.
fn scale_rows(layer: &mut Layer) {
    let is_operand = |value: V, layer: &Layer| matches!(layer.values[value].op, Op::Operand(0));
    let mut forward = std::mem::take(&mut layer.forward);
    let at = forward.iter().position(|&value| match layer.values[value].op {
        Op::Dot { lhs, .. } => is_operand(lhs, layer),
        _ => false,
    });
    let Some(at) = at else {
        layer.forward = forward;
        return;
    };
    let rest = forward.split_off(at + 1);
    let dot = forward[at];
    layer.forward = forward;
    let ty = Type::new(DType::F32, Dim::ROWS, Dim::Const(1));
    let mut builder = Builder::new(layer, Region::Forward);
    let factor = builder.push("factor", Op::Operand(1), ty);
    let scaled = builder.mul("normalized", dot, factor);
    for &value in &rest {
        layer.values[value].op.operands_mut(|operand| {
            if *operand == dot {
                *operand = scaled;
            }
        });
    }
    layer.forward.extend(rest);
    for output in &mut layer.outputs {
        if *output == dot {
            *output = scaled;
        }
    }
}
