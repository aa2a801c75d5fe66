//! Drops operations whose result nothing uses and that have no effect, and parameters that nothing names.
//!
//! ```text
//! %a = mul %x, %y     (unused)    =>    (gone)
//! ```

use std::collections::{HashMap, HashSet};

use ffc_ir::module::{Layer, Module, Op, Region};
use ffc_ir::{Arena, Handle};

use super::build::V;
use crate::recipe::Options;

/// Runs the pass.
///
/// # Errors
/// None; the signature is that of all passes.
pub fn run(mut module: Module, _: &Options) -> Result<Module, String> {
    for layer in &mut module.layers {
        let live = live_values(layer);
        keep(layer, &live);
    }
    drop_unused_params(&mut module);
    Ok(module)
}

/// Everything that outputs and effects need.
fn live_values(layer: &Layer) -> HashSet<V> {
    let mut live: HashSet<V> = layer.outputs.iter().copied().collect();
    let order: Vec<V> = layer.ops().map(|(_, value)| value).collect();
    for &value in order.iter().rev() {
        let op = layer.values[value].op;
        if op.is_effect() {
            live.insert(value);
        }
        if live.contains(&value) {
            op.operands(|operand| {
                live.insert(operand);
            });
        }
    }
    live
}

/// Rebuilds the layer with the live values only, in running order.
fn keep(layer: &mut Layer, live: &HashSet<V>) {
    let mut values = Arena::default();
    let mut renamed: HashMap<V, V> = HashMap::new();
    for region in Region::ALL {
        let old = std::mem::take(layer.region_mut(region));
        for handle in old.into_iter().filter(|handle| live.contains(handle)) {
            let mut value = layer.values[handle].clone();
            value.op.operands_mut(|operand| *operand = renamed[operand]);
            let new = values.push(value);
            renamed.insert(handle, new);
            layer.region_mut(region).push(new);
        }
    }
    for output in &mut layer.outputs {
        *output = renamed[output];
    }
    layer.values = values;
}

fn drop_unused_params(module: &mut Module) {
    let mut used = HashSet::new();
    for_each_param(module, |param| {
        used.insert(*param);
    });
    let mut params = Arena::default();
    let mut renamed = HashMap::new();
    for (handle, param) in module.params.iter() {
        if used.contains(&handle) {
            renamed.insert(handle, params.push(param.clone()));
        }
    }
    module.params = params;
    for_each_param(module, |param| *param = renamed[param]);
}

/// Calls `visit` with every mention of a parameter.
fn for_each_param(module: &mut Module, mut visit: impl FnMut(&mut Handle<ffc_ir::module::Param>)) {
    for layer in &mut module.layers {
        let order: Vec<V> = layer.ops().map(|(_, value)| value).collect();
        for value in order {
            match &mut layer.values[value].op {
                Op::Param(param)
                | Op::ScaleOf(param)
                | Op::Track { param, .. }
                | Op::Assign { param, .. } => {
                    visit(param);
                }
                Op::Sgd(sgd) => {
                    visit(&mut sgd.param);
                    if let Some((velocity, _)) = &mut sgd.momentum {
                        visit(velocity);
                    }
                }
                _ => {}
            }
        }
    }
}
