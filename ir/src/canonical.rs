//! One representation for modules that mean the same but were put together differently.
//!
//! Passes insert operations into regions and leave behind values that no region names any more. The text form knows
//! nothing of either: it lists what runs, in the order in which it runs.

use crate::arena::{Arena, Handle};
use crate::module::{Layer, Module, Region, Value};

/// The module with the values of each layer in the order in which they run, and no others: what
/// [`parse`](crate::text::parse) makes of its text.
pub fn canonical(module: &Module) -> Module {
    Module { layers: module.layers.iter().map(canonical_layer).collect(), ..module.clone() }
}

fn canonical_layer(layer: &Layer) -> Layer {
    let mut renamed: Vec<Option<Handle<Value>>> = vec![None; layer.values.len()];
    let rename = |renamed: &[Option<Handle<Value>>], value: Handle<Value>| {
        renamed.get(value.index()).copied().flatten().unwrap_or(value)
    };
    let mut result = Layer { name: layer.name.clone(), role: layer.role, ..Layer::default() };
    let mut values = Arena::default();
    for region in Region::ALL {
        for &handle in layer.region(region) {
            let mut value = layer.values[handle].clone();
            value.op.operands_mut(|operand| *operand = rename(&renamed, *operand));
            let handle_now = values.push(value);
            renamed[handle.index()] = Some(handle_now);
            result.region_mut(region).push(handle_now);
        }
    }
    result.outputs = layer.outputs.iter().map(|&output| rename(&renamed, output)).collect();
    result.values = values;
    result
}
