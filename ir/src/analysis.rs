//! What depends on what within a layer.

use crate::arena::Handle;
use crate::module::{Layer, Op, Region, Value};

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

/// Whether a value is known once the forward region has run: it is computed there, or outside of it from nothing but
/// such values and constants.
///
/// Calibration sets the ranges that track such values before it evaluates heads and updates.
pub fn observes_forward(layer: &Layer, value: Handle<Value>) -> bool {
    let mut known = vec![false; layer.values.len()];
    for (region, value) in layer.ops() {
        known[value.index()] = region == Region::Forward || follows(&layer.values[value].op, &known);
    }
    known[value.index()]
}

fn follows(op: &Op, known: &[bool]) -> bool {
    let (mut all, mut any) = (true, false);
    op.operands(|operand| {
        all &= known[operand.index()];
        any = true;
    });
    all && (any || matches!(op, Op::Constant(_)))
}
