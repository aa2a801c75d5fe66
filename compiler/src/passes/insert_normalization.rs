//! Divides what a layer hands on by its root mean square, over all channels and positions of a sample.
//!
//! Dividing a row by a number commutes with the contraction, so nothing is written normalised: a layer hands over
//! its activation as it is and, beside it, the factor of each row, which the next layer applies to its sums. One pass
//! over memory less, and the INT8 activation serves its own layer's head and the next layer alike. Where something else
//! than a contraction uses it (a skip operand in a sum), the factor is applied there. Slices of an operand have the
//! factor of the whole.
//!
//! From here on, what is handed over comes in pairs: value `k` is operand `2k`, its factor operand `2k + 1`.
//!
//! ```text
//! yield %y                =>   %r = 1 / sqrt(sum_squares %y / columns + epsilon)
//!                              yield %y, %r
//! %d = dot %a, %w         =>   %d = dot %a, %w
//!                              %n = mul %d, %row_factor       (operand 1)
//! ```

use std::collections::HashMap;

use ffc_ir::module::{Layer, LayerRole, Module, Op, ReduceOp, Region, UnaryOp};
use ffc_ir::types::{DType, Dim, Type};

use super::build::{Builder, V};
use crate::recipe::{Options, RMS_EPSILON};

/// Runs the pass.
///
/// # Errors
/// Where a layer hands over something else than rows.
pub fn run(mut module: Module, _: &Options) -> Result<Module, String> {
    let last = module.layers.len() - 1;
    for (index, layer) in module.layers.iter_mut().enumerate() {
        let factors = apply_factors(layer);
        if index < last && layer.role != LayerRole::Classifier {
            for value in std::mem::take(&mut layer.outputs) {
                let factor = match factors.get(&value) {
                    Some(&factor) => factor,
                    None => row_factor(layer, value)?,
                };
                layer.outputs.extend([value, factor]);
            }
        }
    }
    Ok(module)
}

fn row_factor(layer: &mut Layer, output: V) -> Result<V, String> {
    let [Dim::Rows(positions), Dim::Const(channels)] = layer.ty(output).shape else {
        return Err(format!("layer `{}` hands over {}, which has no rows", layer.name, layer.ty(output)));
    };
    let mut builder = Builder::new(layer, Region::Forward);
    let squares = builder.reduce("squares", ReduceOp::SumSquares, output);
    let squares = builder.reduce_positions("squares.sum", ReduceOp::Sum, squares);
    let mean = builder.mul_constant("mean_square", squares, 1.0 / (positions * channels) as f32);
    let epsilon = builder.constant(RMS_EPSILON);
    let sum = builder.add("mean_square.e", mean, epsilon);
    let root = builder.unary("rms", UnaryOp::Sqrt, sum);
    let one = builder.constant(1.0);
    Ok(builder.div("row_factor", one, root))
}

/// Rewrites a layer's forward region to multiply what it makes of its operands by their factors. Gives the factors.
fn apply_factors(layer: &mut Layer) -> HashMap<V, V> {
    let mut factors: HashMap<V, V> = HashMap::new();
    // What stands for a value where it is used: the normalised one.
    let mut normalized: HashMap<V, V> = HashMap::new();
    for value in std::mem::take(&mut layer.forward) {
        if let Op::Operand(position) = layer.values[value].op {
            layer.values[value].op = Op::Operand(2 * position);
            layer.forward.push(value);
            continue;
        }
        let contracted = contracted_operand(layer, value);
        let is_window =
            matches!(layer.values[value].op, Op::Window { .. }) || operand_of(layer, value).is_some();
        let mut op = layer.values[value].op;
        op.operands_mut(|operand| {
            let source = operand_of(layer, *operand);
            let raw =
                is_window || contracted.is_some() && contracted == source || is_window_of(layer, *operand);
            if let (Some(source), false, false) = (source, raw, normalized.contains_key(operand)) {
                let factor = factor_of(layer, &mut factors, source);
                let scaled = Builder::new(layer, Region::Forward).mul("skip", *operand, factor);
                normalized.insert(*operand, scaled);
            }
            if !raw {
                *operand = normalized.get(operand).copied().unwrap_or(*operand);
            }
        });
        layer.values[value].op = op;
        layer.forward.push(value);
        if let Some(operand) = contracted {
            let factor = factor_of(layer, &mut factors, operand);
            let scaled = Builder::new(layer, Region::Forward).mul("normalized", value, factor);
            normalized.insert(value, scaled);
        }
    }
    for output in layer.outputs.clone() {
        if operand_of(layer, output) == Some(output) {
            factor_of(layer, &mut factors, output);
        }
    }
    for output in &mut layer.outputs {
        if !matches!(layer.values[*output].op, Op::Operand(_)) {
            *output = normalized.get(output).copied().unwrap_or(*output);
        }
    }
    factors
}

/// The operand of the layer that a value is, or consists of columns of.
fn operand_of(layer: &Layer, value: V) -> Option<V> {
    let source = layer.sliced(value).unwrap_or(value);
    matches!(layer.values[source].op, Op::Operand(_)).then_some(source)
}

fn is_window_of(layer: &Layer, value: V) -> bool {
    matches!(layer.values[value].op, Op::Window { .. })
}

/// The operand of the layer that a contraction contracts, seen through a window or not.
fn contracted_operand(layer: &Layer, value: V) -> Option<V> {
    let source = match layer.values[value].op {
        Op::Dot { lhs, .. } => lhs,
        Op::Depthwise { value, .. } => value,
        _ => return None,
    };
    let source = match layer.values[source].op {
        Op::Window { value, .. } => value,
        _ => source,
    };
    operand_of(layer, source)
}

/// The factor that is handed over beside an operand.
fn factor_of(layer: &mut Layer, factors: &mut HashMap<V, V>, operand: V) -> V {
    if let Some(&factor) = factors.get(&operand) {
        return factor;
    }
    let Op::Operand(position) = layer.values[operand].op else { unreachable!("only operands have factors") };
    let ty = Type::new(DType::F32, Dim::ROWS, Dim::Const(1));
    let factor = Builder::new(layer, Region::Forward).push("factor", Op::Operand(position + 1), ty);
    factors.insert(operand, factor);
    factor
}
