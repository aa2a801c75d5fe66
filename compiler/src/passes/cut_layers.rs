//! Cuts the imported network into one layer per contraction; what follows a contraction without weights of its own
//! belongs to it. A layer in front stands for the raw input. The last layer becomes the classifier, or goes where
//! prediction does not use it.
//!
//! ```text
//! layer @main whole {                              layer @input prepare { %raw = input   yield %raw }
//!   %x = operand 0                                 layer @fc1 hidden { %x = operand 0 ... yield %relu }
//!   %d1 = dot %x, %fc1.weight ... %relu       =>   layer @fc2 classifier { %relu = operand 0 ... yield %z }
//!   %d2 = dot %relu, %fc2.weight ... %z
//! ```

use std::collections::HashMap;

use ffc_ir::Handle;
use ffc_ir::module::{Layer, LayerRole, Module, Op, Phase, Region, Value};
use ffc_ir::types::{Dim, Type};

use crate::recipe::{Options, Predict};

/// Runs the pass.
///
/// # Errors
/// Where values skip a layer, or there is no layer to train.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    if module.phase != Phase::Imported || module.layers.len() != 1 {
        return Err("wants a module as a frontend makes it, in phase `imported` with one layer".to_string());
    }
    let whole = module.layers.remove(0);
    module.layers = cut(&module, &whole)?;
    let last = module.layers.last_mut().ok_or("the network has no layer with weights")?;
    last.role = LayerRole::Classifier;
    if options.predict == Predict::Labels {
        module.layers.pop();
        if module.layers.is_empty() {
            return Err(
                "prediction by trying labels needs a hidden layer; use `--predict classifier`".to_string()
            );
        }
    }
    module.layers.insert(0, input(&module));
    module.batch = options.batch;
    module.phase = Phase::Trainable;
    Ok(module)
}

/// The layer that `insert-preparation` fills.
fn input(module: &Module) -> Layer {
    let mut layer = Layer::new(super::insert_preparation::LAYER, LayerRole::Prepare);
    let ty = Type::new(module.input, Dim::ROWS, Dim::Const(module.features));
    let raw = layer.push(Region::Forward, "raw", Op::Input, ty);
    layer.outputs = vec![raw];
    layer
}

fn cut(module: &Module, whole: &Layer) -> Result<Vec<Layer>, String> {
    let mut layers: Vec<Layer> = Vec::new();
    // Where each value of the whole network is in the layer at hand; only the activation crosses a cut.
    let mut here: HashMap<Handle<Value>, Handle<Value>> = HashMap::new();
    let mut activation = None;
    for &handle in &whole.forward {
        let Value { name, op, ty } = &whole.values[handle];
        match op {
            Op::Operand(_) => {
                activation = Some(handle);
                continue;
            }
            // Reads are repeated where they are used.
            Op::Param(_) | Op::Constant(_) => continue,
            Op::Dot { rhs, .. } => {
                let source = activation.ok_or("the first contraction has no input")?;
                let mut layer = Layer::new(layer_name(module, whole, *rhs, layers.len()), LayerRole::Hidden);
                let operand = whole.ty(source);
                let value = layer.push(Region::Forward, &whole.values[source].name, Op::Operand(0), operand);
                finish(&mut layers, &here, source);
                here = HashMap::from([(source, value)]);
                layers.push(layer);
            }
            _ => {}
        }
        let layer = layers.last_mut().ok_or_else(|| {
            format!(
                "`{name}` works on the raw input, before the first layer with weights; fold it into the data"
            )
        })?;
        let mut op = *op;
        let mut skipped = None;
        op.operands_mut(|operand| match bring(module, whole, layer, &mut here, *operand) {
            Some(value) => *operand = value,
            None => skipped = Some(*operand),
        });
        if let Some(skipped) = skipped {
            let skipped = &whole.values[skipped].name;
            return Err(format!(
                "`{name}` uses `{skipped}` of an earlier layer, which residual networks need and chains of layers do not have"
            ));
        }
        here.insert(handle, layer.push(Region::Forward, name, op, *ty));
        activation = Some(handle);
    }
    let output = *whole.outputs.first().ok_or("the network has no output")?;
    finish(&mut layers, &here, output);
    Ok(layers)
}

/// The value in the layer at hand; parameters and constants are read anew.
fn bring(
    module: &Module,
    whole: &Layer,
    layer: &mut Layer,
    here: &mut HashMap<Handle<Value>, Handle<Value>>,
    operand: Handle<Value>,
) -> Option<Handle<Value>> {
    if let Some(&value) = here.get(&operand) {
        return Some(value);
    }
    let Value { name, op, ty } = &whole.values[operand];
    match op {
        Op::Param(param) => {
            let value = layer.push(Region::Forward, name, *op, module.params[*param].ty());
            here.insert(operand, value);
            Some(value)
        }
        Op::Constant(_) => {
            let value = layer.push(Region::Forward, name, *op, *ty);
            here.insert(operand, value);
            Some(value)
        }
        _ => None,
    }
}

fn finish(layers: &mut [Layer], here: &HashMap<Handle<Value>, Handle<Value>>, output: Handle<Value>) {
    if let Some(layer) = layers.last_mut() {
        layer.outputs = here.get(&output).copied().into_iter().collect();
    }
}

/// The weight's name without its last part.
fn layer_name(module: &Module, whole: &Layer, weight: Handle<Value>, index: usize) -> String {
    match whole.values[weight].op {
        Op::Param(param) => {
            let name = &module.params[param].name;
            name.strip_suffix(".weight").unwrap_or(name).to_string()
        }
        _ => format!("layer{}", index + 1),
    }
}
