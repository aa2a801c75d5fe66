//! Joins the layers of a residual block into one, with one objective at its end: gradients then flow inside the block, and
//! never across its border (SFF, arXiv 2501.03176).
//!
//! # The rule
//!
//! A layer that hands on what it was handed (a skip operand on its way to a sum or product) is one unit with the layer after it. So a
//! block is the layers that a skip operand spans, together with the one that uses it; a layer that hands on nothing but what it
//! makes, and is handed nothing that others still want, stays a unit by itself. Networks without branches stay as they are.
//!
//! What the network computes stays the same: inside a block, too, every contraction sees its operand divided by the root mean
//! square, and a trained network predicts and is exported as if its layers were units.
//!
//! ```text
//! layer @conv1 hidden { %x = operand 0 ... yield %y, %r, %x, %factor }
//! layer @conv2 hidden { %y = operand 0  %r = operand 1  %x = operand 2 ... yield %z, %s }
//!     =>
//! layer @conv2 hidden { %x = operand 0 ... %y ... %r ... yield %z, %s }
//! ```

use std::collections::HashMap;

use ffc_ir::module::{Layer, Module, Op, Region};

use super::build::V;
use crate::recipe::Options;

/// Runs the pass.
///
/// # Errors
/// None; passes have one signature.
pub fn run(mut module: Module, _: &Options) -> Result<Module, String> {
    let mut units: Vec<Layer> = Vec::new();
    for layer in std::mem::take(&mut module.layers) {
        match units.pop_if(|before| hands_on(before)) {
            Some(before) => units.push(join(before, &layer)),
            None => units.push(layer),
        }
    }
    module.layers = units;
    Ok(module)
}

/// Whether a layer hands on what it was handed.
fn hands_on(layer: &Layer) -> bool {
    layer.outputs.iter().any(|&output| matches!(layer.values[output].op, Op::Operand(_)))
}

/// Both layers as one, named after the second, whose activation its objective will be about.
fn join(first: Layer, second: &Layer) -> Layer {
    let handed = first.outputs.clone();
    let mut joined = Layer { name: second.name.clone(), role: second.role, outputs: Vec::new(), ..first };
    let mut here: HashMap<V, V> = HashMap::new();
    for &value in &second.forward {
        let ir = &second.values[value];
        let mut op = ir.op;
        let place = match op {
            Op::Operand(position) => handed[position as usize],
            _ => {
                op.operands_mut(|operand| *operand = here[operand]);
                joined.push(Region::Forward, &ir.name, op, ir.ty)
            }
        };
        here.insert(value, place);
    }
    joined.outputs = second.outputs.iter().map(|output| here[output]).collect();
    joined
}
