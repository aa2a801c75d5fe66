//! What depends on what within a layer.

use crate::arena::Handle;
use crate::module::{BinaryOp, Layer, Op, Region, Value};

/// Which values of a layer `roots` depend on, themselves included, by the values' index.
pub fn needed(layer: &Layer, roots: impl IntoIterator<Item = Handle<Value>>) -> Vec<bool> {
    let mut needed = vec![false; layer.values.len()];
    for root in roots {
        needed[root.index()] = true;
    }
    let order: Vec<_> = layer.ops().map(|(_, value)| value).collect();
    for value in order.into_iter().rev() {
        if needed[value.index()] {
            layer.values[value].op.operands(|operand| needed[operand.index()] = true);
        }
    }
    needed
}

/// Whether a value is known once the forward region has run: it is computed there, or reduced or turned from nothing but
/// such values, or the larger one of two.
///
/// Calibration sets the ranges that track such values before it evaluates heads and updates.
pub fn observes_forward(layer: &Layer, value: Handle<Value>) -> bool {
    let mut known = vec![false; layer.values.len()];
    for (region, value) in layer.ops() {
        let follows = match layer.values[value].op {
            Op::Reduce(_, source) | Op::Transpose(source) | Op::Reshape(source) => known[source.index()],
            // Of what is observed in parts.
            Op::Binary(BinaryOp::Max, a, b) => known[a.index()] && known[b.index()],
            _ => false,
        };
        known[value.index()] = region == Region::Forward || follows;
    }
    known[value.index()]
}

/// The most quantizations of a layer's forward region that follow from one another and have ranges, at least 1: as many times
/// calibration looks before the last one's range is found. (Of gradients it finds what follows from activations alone; the first step finds
/// the rest.)
pub fn longest_chain(layer: &Layer) -> usize {
    let mut reads_param = vec![false; layer.values.len()];
    let mut chains = vec![0; layer.values.len()];
    for &value in &layer.forward {
        let op = &layer.values[value].op;
        let (mut chain, mut reads) = (0, matches!(op, Op::Param(_)));
        op.operands(|operand| {
            chain = chain.max(chains[operand.index()]);
            reads |= reads_param[operand.index()];
        });
        let has_range = matches!(op, Op::Quantize { scale, .. } if reads_param[scale.index()]);
        chains[value.index()] = chain + usize::from(has_range);
        reads_param[value.index()] = reads;
    }
    chains.into_iter().max().unwrap_or(0).max(1)
}
