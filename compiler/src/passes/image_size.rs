//! Height and width of the images that layers hand over. Types count positions; windows know how they lie.

use std::collections::HashMap;

use ffc_ir::module::{Layer, Module, Op};
use ffc_ir::types::Dim;

use super::build::V;

/// Whether a network has images.
pub(super) fn has_images(module: &Module) -> bool {
    module.layers.iter().flat_map(|layer| layer.values.values()).any(|value| value.ty.is_image())
}

/// `[height, width]` of each layer's activation; `[1, 1]` where it is no image.
pub(super) fn image_sizes(module: &Module) -> Vec<[usize; 2]> {
    let mut handed: Vec<[usize; 2]> = Vec::new();
    let mut sizes = Vec::new();
    for layer in &module.layers {
        let known = layer_sizes(layer, &handed);
        handed = layer.outputs.iter().map(|output| known[output]).collect();
        sizes.push(handed.first().copied().unwrap_or([1, 1]));
    }
    sizes
}

fn layer_sizes(layer: &Layer, handed: &[[usize; 2]]) -> HashMap<V, [usize; 2]> {
    let mut known: HashMap<V, [usize; 2]> = HashMap::new();
    for &value in &layer.forward {
        let size = match layer.values[value].op {
            Op::Operand(position) => handed.get(position as usize).copied(),
            Op::Window { window, .. } | Op::Pool { window, .. } | Op::Depthwise { window, .. } => {
                Some(window.output)
            }
            op => {
                let mut size = None;
                op.operands(|operand| {
                    if layer.ty(operand).rows() == layer.ty(value).rows() {
                        size = size.or(known.get(&operand).copied());
                    }
                });
                size
            }
        };
        let positions = match layer.ty(value).rows() {
            Dim::Rows(positions) => positions,
            Dim::Const(_) => 1,
        };
        known.insert(
            value,
            size.filter(|size| size[0] * size[1] == positions).unwrap_or_else(|| guess(positions)),
        );
    }
    known
}

/// What nobody says is a square, or else a line.
fn guess(positions: usize) -> [usize; 2] {
    let side = positions.isqrt();
    if side * side == positions { [side, side] } else { [1, positions] }
}
