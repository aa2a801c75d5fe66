//! Cuts the imported network into layers. A layer in front stands for the raw input. The last layer becomes the
//! classifier, or goes where prediction does not use it.
//!
//! # The rule
//!
//! Every contraction with weights (dense, convolution, depthwise) begins a layer. Whatever has no weights belongs to
//! the last layer that one of its operands comes from: so activation, pool and residual sum belong to the contraction
//! before them. Two contractions whose results meet in a sum before any activation, and go nowhere else, are one layer (the
//! projection on a residual block's shortcut, and the block's last convolution): what the sum is told is right for both.
//! So are contractions whose activations are put side by side and go nowhere else (the branches of an inception block, the
//! groups of a convolution): what the whole is told is right for each. A concatenation with something older, as in a
//! densely connected block, belongs to the newer part, and the older gets no gradient.
//!
//! Layers run in the order of their last contraction. What a later layer needs is handed from layer to layer, own
//! values first; the first of these is the layer's activation, which its objective is about. A skip operand is a value
//! that a layer hands on as it got it. Nobody hands over slices, nor what is put together from slices of one value: like
//! windows, they are looked through where they are used.
//!
//! ```text
//! layer @main whole {                              layer @input prepare { %raw = input   yield %raw }
//!   %x = operand 0                                 layer @fc1 hidden { %x = operand 0 ... yield %relu }
//!   %d1 = dot %x, %fc1.weight ... %relu       =>   layer @fc2 classifier { %relu = operand 0 ... yield %z }
//!   %d2 = dot %relu, %fc2.weight ... %z
//! ```

use std::collections::{HashMap, HashSet};

use ffc_ir::Handle;
use ffc_ir::module::{BinaryOp, Layer, LayerRole, Module, Op, Phase, Region, Value};
use ffc_ir::types::{Dim, Type};

use super::build::V;
use crate::recipe::{Options, Predict};

/// Runs the pass.
///
/// # Errors
/// Where something is computed from the raw input alone, or there is no layer to train.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    if module.phase != Phase::Imported || module.layers.len() != 1 {
        return Err("wants a module as a frontend makes it, in phase `imported` with one layer".to_string());
    }
    let whole = module.layers.remove(0);
    module.layers = Cut::of(&whole)?.layers(&module)?;
    let last = module.layers.last_mut().ok_or("the network has no layer with weights")?;
    last.role = LayerRole::Classifier;
    if options.predict == Predict::Labels {
        module.layers.pop();
        if module.layers.len() < 2 {
            return Err(
                "prediction by trying labels needs a hidden layer; use `--predict classifier`".to_string()
            );
        }
    }
    module.batch = options.batch;
    module.phase = Phase::Trainable;
    Ok(module)
}

/// The layer to which each value of an imported network belongs, 0 being the input; without those that are read
/// wherever they are used.
///
/// # Errors
/// As [`run`].
pub fn layers_of(whole: &Layer) -> Result<HashMap<Handle<Value>, usize>, String> {
    let cut = Cut::of(whole)?;
    Ok(cut.layer_of.into_iter().filter_map(|(value, layer)| Some((value, layer?))).collect())
}

/// Which layer each value of the whole network belongs to: 0 is the one that stands for the input.
struct Cut<'a> {
    whole: &'a Layer,
    /// `None` for parameters, constants and slices, which are read wherever they are used.
    layer_of: HashMap<V, Option<usize>>,
    /// The layers that use each value.
    users: HashMap<V, HashSet<usize>>,
    /// Number of layers, that of the input among them.
    count: usize,
}

fn is_contraction(op: &Op) -> bool {
    matches!(op, Op::Dot { .. } | Op::Depthwise { .. })
}

fn operands(op: &Op) -> Vec<V> {
    let mut operands = Vec::new();
    op.operands(|operand| operands.push(operand));
    operands
}

impl<'a> Cut<'a> {
    fn of(whole: &'a Layer) -> Result<Self, String> {
        if let Some(&output) = whole.outputs.iter().find(|&&output| whole.sliced(output).is_some()) {
            let name = &whole.values[output].name;
            return Err(format!(
                "the network gives `{name}`, only some columns of what its last layer gives"
            ));
        }
        let joined = joined_contractions(whole);
        let contractions = whole.forward.iter().filter(|&&value| is_contraction(&whole.values[value].op));
        let first = contractions.filter(|value| !joined.contains_key(value));
        let numbers: HashMap<V, usize> = first.zip(1..).map(|(&value, number)| (value, number)).collect();
        let mut cut =
            Self { whole, layer_of: HashMap::new(), users: HashMap::new(), count: numbers.len() + 1 };
        for &value in &whole.forward {
            let Value { name, op, .. } = &whole.values[value];
            let layer = match op {
                Op::Param(_) | Op::Constant(_) => None,
                _ if whole.sliced(value).is_some() => None,
                Op::Operand(_) | Op::Pixels { .. } => Some(0),
                op if is_contraction(op) => {
                    let last = joined.get(&value).unwrap_or(&value);
                    Some(numbers[last])
                }
                op => {
                    let sources =
                        operands(op).into_iter().map(|operand| whole.sliced(operand).unwrap_or(operand));
                    sources.filter_map(|source| cut.layer_of[&source]).max()
                }
            };
            let windows = matches!(op, Op::Operand(_) | Op::Pixels { .. } | Op::Window { .. });
            if layer == Some(0) && !windows {
                return Err(format!(
                    "`{name}` works on the raw input, before the first layer with weights; fold it into the data"
                ));
            }
            cut.layer_of.insert(value, layer);
        }
        cut.place_windows();
        cut.note_users();
        Ok(cut)
    }

    /// A window is looked through where it is used, not where the image comes from.
    fn place_windows(&mut self) {
        for &value in &self.whole.forward {
            for operand in operands(&self.whole.values[value].op) {
                if matches!(self.whole.values[operand].op, Op::Window { .. }) {
                    let layer = self.layer_of[&value];
                    self.layer_of.insert(operand, layer);
                }
            }
        }
    }

    fn note_users(&mut self) {
        for &value in &self.whole.forward {
            let Some(layer) = self.layer_of[&value] else { continue };
            for operand in operands(&self.whole.values[value].op) {
                let operand = self.whole.sliced(operand).unwrap_or(operand);
                self.users.entry(operand).or_default().insert(layer);
            }
        }
        if let Some(&output) = self.whole.outputs.first() {
            self.users.entry(output).or_default().insert(self.count);
        }
    }

    /// What layers after `layer` need of it and of those before, in the order in which the network makes it.
    fn live_after(&self, layer: usize) -> Vec<V> {
        let made = |value: &V| self.layer_of[value].is_some_and(|of| of <= layer);
        let later =
            |value: &V| self.users.get(value).is_some_and(|users| users.iter().any(|&user| user > layer));
        self.whole.forward.iter().copied().filter(made).filter(later).collect()
    }

    fn layers(&self, module: &Module) -> Result<Vec<Layer>, String> {
        let whole = self.whole;
        let mut layers = Vec::new();
        let mut handed: Vec<V> = Vec::new();
        for index in 0..self.count {
            let mut layer = self.empty_layer(module, index);
            let live = self.live_after(index);
            let mut here: HashMap<V, V> = HashMap::new();
            for (position, &value) in handed.iter().enumerate() {
                let Value { name, ty, .. } = &whole.values[value];
                if self.is_used(index, value) || live.contains(&value) {
                    let operand = layer.push(Region::Forward, name, Op::Operand(position as u32), *ty);
                    here.insert(value, operand);
                }
            }
            for &value in whole.forward.iter().filter(|&value| self.layer_of[value] == Some(index)) {
                self.copy(module, &mut layer, &mut here, value);
            }
            let own = |value: &&V| self.layer_of[*value] == Some(index);
            let passed = handed.iter().filter(|value| live.contains(value));
            let next: Vec<V> = live.iter().filter(own).chain(passed).copied().collect();
            if live.iter().filter(own).count() == 0 {
                return Err(format!("nothing uses what layer `{}` gives", layer.name));
            }
            layer.outputs = next.iter().map(|value| here[value]).collect();
            check_outputs(&layer)?;
            handed = next;
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Whether an operation of this layer uses a value.
    fn is_used(&self, layer: usize, value: V) -> bool {
        self.users.get(&value).is_some_and(|users| users.contains(&layer))
    }

    fn empty_layer(&self, module: &Module, index: usize) -> Layer {
        if index == 0 {
            return Layer::new(super::insert_preparation::LAYER, LayerRole::Prepare);
        }
        let mine = |value: &&V| {
            self.layer_of[*value] == Some(index) && is_contraction(&self.whole.values[**value].op)
        };
        let first = self.whole.forward.iter().find(mine).expect("a layer has a contraction");
        let weight = operands(&self.whole.values[*first].op)[1];
        Layer::new(layer_name(module, self.whole, weight, index), LayerRole::Hidden)
    }

    /// Repeats an operation in its layer, and the reads of parameters and constants, and the slices, that it uses.
    fn copy(&self, module: &Module, layer: &mut Layer, here: &mut HashMap<V, V>, value: V) {
        let Value { name, op, ty } = &self.whole.values[value];
        let (mut op, mut ty) = (*op, *ty);
        if let Op::Operand(_) = op {
            op = Op::Input;
            ty = Type::new(module.input, Dim::ROWS, Dim::Const(module.features));
        }
        if let Op::Pixels { .. } = op {
            ty.dtype = module.input;
        }
        op.operands_mut(|operand| {
            if !here.contains_key(operand) {
                self.copy(module, layer, here, *operand);
            }
            *operand = here[operand];
        });
        let name = if op == Op::Input { "raw" } else { name };
        here.insert(value, layer.push(Region::Forward, name, op, ty));
    }
}

/// Later passes rely on activations that have rows and columns.
fn check_outputs(layer: &Layer) -> Result<(), String> {
    let is_activation = |ty: Type| matches!(ty.shape, [Dim::Rows(_), Dim::Const(_)]);
    match layer.outputs.iter().find(|&&output| !is_activation(layer.ty(output))) {
        None => Ok(()),
        Some(&output) => {
            let Value { name, ty, .. } = &layer.values[output];
            Err(format!("layer `{}` hands over `{name}`, which is {ty} and no activation", layer.name))
        }
    }
}

/// Contractions that share the layer of a later one, because their results meet in a sum before any activation, or side by
/// side, and go nowhere else; with the later one.
fn joined_contractions(whole: &Layer) -> HashMap<V, V> {
    let mut uses: HashMap<V, usize> = HashMap::new();
    for &value in &whole.forward {
        for operand in operands(&whole.values[value].op) {
            *uses.entry(operand).or_default() += 1;
        }
    }
    let mut joined: HashMap<V, V> = HashMap::new();
    for &value in &whole.forward {
        let (a, b) = match whole.values[value].op {
            Op::Binary(BinaryOp::Add, a, b) => {
                (source(whole, &uses, a, false), source(whole, &uses, b, false))
            }
            Op::Concat(a, b) => (source(whole, &uses, a, true), source(whole, &uses, b, true)),
            _ => continue,
        };
        let (Some(a), Some(b)) = (a, b) else { continue };
        let order = |value: V| whole.forward.iter().position(|&other| other == value);
        let (first, last) = if order(a) < order(b) { (a, b) } else { (b, a) };
        if first != last {
            joined.insert(first, last);
            joined.values_mut().filter(|other| **other == first).for_each(|other| *other = last);
        }
    }
    joined
}

/// The contraction that a value is a linear function of, or the last of several, if nothing else uses anything on the
/// way; on the way to a concatenation there may be activations.
fn source(whole: &Layer, uses: &HashMap<V, usize>, value: V, activated: bool) -> Option<V> {
    let mut value = value;
    loop {
        if uses.get(&value) != Some(&1) {
            return None;
        }
        let is_read = |value: V| matches!(whole.values[value].op, Op::Param(_) | Op::Constant(_));
        value = match whole.values[value].op {
            op if is_contraction(&op) => return Some(value),
            Op::Binary(BinaryOp::Add | BinaryOp::Mul, a, b) if is_read(b) => a,
            Op::Activate(_, input) if activated => input,
            Op::Concat(first, second) => {
                source(whole, uses, first, true)?;
                return source(whole, uses, second, true);
            }
            _ => return None,
        };
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
