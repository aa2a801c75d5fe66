//! Height and width of the images in a layer.
//!
//! A type only says how many positions an image has. Windows say how they are arranged; elementwise operations and
//! contractions of single positions keep the arrangement.

use ffc_ir::Handle;
use ffc_ir::module::{Layer, Op, Value};
use ffc_ir::types::Dim;

/// Height and width of each value of a layer, by the value's number; 1 x 1 where a sample is one row, and `[1, positions]`
/// where nothing tells.
pub fn image_sizes(layer: &Layer) -> Vec<[usize; 2]> {
    let positions = |value: Handle<Value>| match layer.ty(value).rows() {
        Dim::Rows(positions) => positions,
        Dim::Const(_) => 1,
    };
    let mut sizes: Vec<Option<[usize; 2]>> = vec![None; layer.values.len()];
    let note = |sizes: &mut Vec<Option<[usize; 2]>>, value: Handle<Value>, size: Option<[usize; 2]>| {
        let fits = size.filter(|size| size[0] * size[1] == positions(value));
        let known = &mut sizes[value.index()];
        *known = known.or(fits);
    };
    // What windows say goes on to users, then back to what they are made from, then on to those that were passed over.
    for backward in [false, true, false] {
        let order: Vec<_> = match backward {
            true => layer.forward.iter().rev().copied().collect(),
            false => layer.forward.clone(),
        };
        for value in order {
            if let Some((seen, window)) = window(layer, value) {
                note(&mut sizes, value, Some(window.output));
                note(&mut sizes, seen, Some(window.input));
                continue;
            }
            layer.values[value].op.operands(|operand| {
                let (from, to) = if backward { (value, operand) } else { (operand, value) };
                let size = sizes[from.index()];
                note(&mut sizes, to, size);
            });
        }
    }
    let all = layer.values.iter().map(|(value, _)| sizes[value.index()].unwrap_or([1, positions(value)]));
    all.collect()
}

/// What an operation looks at, and how.
fn window(layer: &Layer, value: Handle<Value>) -> Option<(Handle<Value>, ffc_ir::window::Window)> {
    match layer.values[value].op {
        Op::Window { value, window }
        | Op::Pool { value, window, .. }
        | Op::Depthwise { value, window, .. } => Some((value, window)),
        _ => None,
    }
}
