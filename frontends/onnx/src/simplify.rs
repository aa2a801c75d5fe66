//! The one form of an imported layer, whatever its exporter wrote.
//!
//! The importer translates operators one by one. Here, first, what together is an activation function becomes one
//! (`x * sigmoid(x)` is SiLU); then factors and biases of channels, a normalisation's for instance, go into the
//! contraction before them, padding into the window behind it, and what is done to channels side by side to each of their
//! parts. Each rule looks at one operation and what it is made
//! from, so one walk in order does, and what nobody uses any longer is left out.

use ffc_ir::Handle;
use ffc_ir::module::{Activation, BinaryOp, Layer, Op, Param, ParamRole, PoolOp, Value};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::window::Window;

use crate::network::Parameter;
use crate::numbers::Numbers;

/// Simplifies the forward region as far as `output` needs it; gives the output's new place.
pub(crate) fn simplify(
    layer: &mut Layer,
    params: &mut Vec<Parameter>,
    output: Handle<Value>,
) -> Handle<Value> {
    for at in 0..layer.forward.len() {
        let value = layer.forward[at];
        if let Some(op) = activation(layer, value) {
            layer.values[value].op = op;
        }
    }
    sweep(layer, output);
    let output = Folding::new(layer, params, output).run(output);
    sweep(layer, output);
    place_slices(layer);
    output
}

/// Puts what consists of slices right before the first that looks at it, wherever the file took them.
fn place_slices(layer: &mut Layer) {
    let mut forward: Vec<Handle<Value>> = Vec::new();
    let mut placed = vec![false; layer.values.len()];
    for value in std::mem::take(&mut layer.forward) {
        if layer.sliced(value).is_some() {
            continue;
        }
        // Operands before what looks at them: last in, first out.
        let mut rest = vec![value];
        while let Some(&value) = rest.last() {
            let before = rest.len();
            layer.values[value].op.operands(|operand| {
                if layer.sliced(operand).is_some() && !placed[operand.index()] {
                    rest.push(operand);
                }
            });
            rest[before..].reverse();
            if rest.len() == before {
                rest.pop();
                if !std::mem::replace(&mut placed[value.index()], true) {
                    forward.push(value);
                }
            }
        }
    }
    layer.forward = forward;
}

/// Columns of a value.
pub(crate) fn columns(layer: &Layer, value: Handle<Value>) -> usize {
    match layer.ty(value).columns() {
        Dim::Const(columns) | Dim::Rows(columns) => columns,
    }
}

/// The weight of the contraction that gives a value, and the bias where that is added.
pub(crate) fn contraction(
    layer: &Layer,
    value: Handle<Value>,
) -> Option<(Handle<Param>, Option<Handle<Param>>)> {
    let param = |value: Handle<Value>| match layer.values[value].op {
        Op::Param(param) => Some(param),
        _ => None,
    };
    let bare = |value: Handle<Value>| match layer.values[value].op {
        Op::Dot { rhs: weight, .. } | Op::Depthwise { weight, .. } => param(weight),
        _ => None,
    };
    match layer.values[value].op {
        Op::Binary(BinaryOp::Add, sum, bias) => Some((bare(sum)?, Some(param(bias)?))),
        _ => Some((bare(value)?, None)),
    }
}

/// Forgets what the output does not need.
fn sweep(layer: &mut Layer, output: Handle<Value>) {
    let mut needed = vec![false; layer.values.len()];
    needed[output.index()] = true;
    for &value in layer.forward.iter().rev() {
        if needed[value.index()] {
            layer.values[value].op.operands(|operand| needed[operand.index()] = true);
        }
    }
    // The samples are there whether they matter or not.
    let Layer { values, forward, .. } = layer;
    forward.retain(|&value| needed[value.index()] || matches!(values[value].op, Op::Operand(_)));
}

/// The activation function that a value is, where it is written as several operations.
fn activation(layer: &Layer, value: Handle<Value>) -> Option<Op> {
    let pattern = Pattern { layer };
    match layer.values[value].op {
        Op::Binary(BinaryOp::Mul, a, b) => pattern.product(a, b).or_else(|| pattern.product(b, a)),
        Op::Activate(Activation::Clip { low: 0.0, high: 1.0 }, line) => {
            let (scaled, beta) = pattern.shifted(line)?;
            let (x, alpha) = pattern.scaled(scaled)?;
            let hard = Activation::HardSigmoid { alpha, beta };
            (alpha > 0.0).then_some(Op::Activate(hard, x))
        }
        _ => None,
    }
}

struct Pattern<'a> {
    layer: &'a Layer,
}

impl Pattern<'_> {
    fn op(&self, value: Handle<Value>) -> Op {
        self.layer.values[value].op
    }

    fn number(&self, value: Handle<Value>) -> Option<f32> {
        match self.op(value) {
            Op::Constant(number) => Some(number),
            _ => None,
        }
    }

    /// `x * number`.
    fn scaled(&self, value: Handle<Value>) -> Option<(Handle<Value>, f32)> {
        match self.op(value) {
            Op::Binary(BinaryOp::Mul, x, number) => Some((x, self.number(number)?)),
            _ => None,
        }
    }

    /// `x + number`.
    fn shifted(&self, value: Handle<Value>) -> Option<(Handle<Value>, f32)> {
        match self.op(value) {
            Op::Binary(BinaryOp::Add, x, number) => Some((x, self.number(number)?)),
            _ => None,
        }
    }

    /// `x` of `min(max(x + 3, 0), 6)`.
    fn six_around(&self, value: Handle<Value>) -> Option<Handle<Value>> {
        match self.op(value) {
            Op::Activate(Activation::Clip { low: 0.0, high: 6.0 }, shifted) => {
                self.shifted(shifted).filter(|(_, number)| *number == 3.0).map(|(x, _)| x)
            }
            _ => None,
        }
    }

    /// `a * b` as an activation function.
    fn product(&self, a: Handle<Value>, b: Handle<Value>) -> Option<Op> {
        let swish = |x| Some(Op::Activate(Activation::HardSwish, x));
        if let Some(factor) = self.number(b) {
            if let Some(x) = self.six_around(a).filter(|_| is_sixth(factor)) {
                return Some(Op::Activate(Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x));
            }
            // x * min(max(x + 3, 0), 6), and then a sixth of it.
            let Op::Binary(BinaryOp::Mul, x, gate) = self.op(a) else { return None };
            let gated = self.six_around(gate) == Some(x) || self.six_around(x) == Some(gate);
            let x = if self.six_around(gate) == Some(x) { x } else { gate };
            return if gated && is_sixth(factor) { swish(x) } else { None };
        }
        match self.op(b) {
            Op::Activate(Activation::Sigmoid, x) if x == a => Some(Op::Activate(Activation::Silu, x)),
            Op::Activate(Activation::HardSigmoid { alpha, beta: 0.5 }, x) if x == a && is_sixth(alpha) => {
                swish(x)
            }
            _ => {
                let (x, factor) = self.scaled(a)?;
                if is_sixth(factor) && self.six_around(b) == Some(x) { swish(x) } else { None }
            }
        }
    }
}

/// Exporters write a sixth with more or fewer digits.
fn is_sixth(number: f32) -> bool {
    (number * 6.0 - 1.0).abs() < 1e-4
}

/// Moves factors, biases and padding to where they belong.
struct Folding<'a> {
    layer: &'a mut Layer,
    params: &'a mut Vec<Parameter>,
    /// How often each value is used.
    uses: Vec<usize>,
    /// What each value is now.
    now: Vec<Handle<Value>>,
    forward: Vec<Handle<Value>>,
}

impl<'a> Folding<'a> {
    fn new(layer: &'a mut Layer, params: &'a mut Vec<Parameter>, output: Handle<Value>) -> Self {
        let mut uses = vec![0; layer.values.len()];
        uses[output.index()] = 1;
        for &value in &layer.forward {
            layer.values[value].op.operands(|operand| uses[operand.index()] += 1);
        }
        let now = (0..layer.values.len()).map(Handle::new).collect();
        Self { layer, params, uses, now, forward: Vec::new() }
    }

    fn run(mut self, output: Handle<Value>) -> Handle<Value> {
        for value in std::mem::take(&mut self.layer.forward) {
            let now = &self.now;
            self.layer.values[value].op.operands_mut(|operand| *operand = now[operand.index()]);
            match self.folded(value) {
                Some(before) => {
                    self.now[value.index()] = before;
                    self.uses[before.index()] = self.uses[value.index()];
                }
                None => self.forward.push(value),
            }
        }
        self.layer.forward = self.forward;
        self.now[output.index()]
    }

    fn op(&self, value: Handle<Value>) -> Op {
        self.layer.values[value].op
    }

    /// The value that has taken this one in, if one has.
    fn folded(&mut self, value: Handle<Value>) -> Option<Handle<Value>> {
        if let Some(whole) = self.distributed(value) {
            return Some(self.in_parts(value, whole, 0));
        }
        match self.op(value) {
            Op::Binary(op @ (BinaryOp::Add | BinaryOp::Mul), before, by) => {
                let (weight, bias) = self.own(before)?;
                match (op, self.op(by)) {
                    (BinaryOp::Add, Op::Param(more)) => {
                        let more = self.params[more.index()].values.clone();
                        self.add(bias?, more);
                    }
                    (BinaryOp::Add, Op::Constant(number)) => match bias {
                        Some(bias) => self.add(bias, Numbers::repeated(number, 1)),
                        None => return self.new_bias(value, before, number),
                    },
                    (_, Op::Constant(number)) => self.scale(weight, bias, Numbers::repeated(number, 1)),
                    _ => return None,
                }
                Some(before)
            }
            Op::Depthwise { value: before, weight: factors, window } if window.is_identity() => {
                let (weight, bias) = self.own(before)?;
                let Op::Param(factors) = self.op(factors) else { return None };
                let Parameter { values, normalized, .. } = &self.params[factors.index()];
                let (factors, normalized) = (values.clone(), *normalized);
                self.scale(weight, bias, factors);
                self.params[weight.index()].normalized |= normalized;
                Some(before)
            }
            mut op => {
                if self.unpad(&mut op) {
                    self.layer.values[value].op = op;
                }
                None
            }
        }
    }

    /// The concatenation to whose parts an operation goes: a function of each number always, one of each channel where
    /// the parts are contractions that can take it in.
    fn distributed(&self, value: Handle<Value>) -> Option<Handle<Value>> {
        let (whole, takes_in) = match self.op(value) {
            Op::Activate(_, whole) => (whole, false),
            Op::Binary(BinaryOp::Add | BinaryOp::Mul, whole, by) => match self.op(by) {
                Op::Constant(_) | Op::Param(_) => (whole, true),
                _ => return None,
            },
            Op::Depthwise { value: whole, window, .. } if window.is_identity() => (whole, true),
            _ => return None,
        };
        let goes = self.parted(whole) && self.layer.sliced(whole).is_none();
        let takes = |(part, _)| self.own(part).is_some();
        (goes && (!takes_in || self.own_parts(whole).into_iter().all(takes))).then_some(whole)
    }

    /// Whether a value is put together for one user alone.
    fn parted(&self, value: Handle<Value>) -> bool {
        matches!(self.op(value), Op::Concat(..)) && self.uses[value.index()] == 1
    }

    /// What a value is put together from for this alone, each part with its first column.
    fn own_parts(&self, whole: Handle<Value>) -> Vec<(Handle<Value>, usize)> {
        let (mut parts, mut from) = (Vec::new(), 0);
        let mut rest = vec![whole];
        while let Some(value) = rest.pop() {
            match self.op(value) {
                Op::Concat(first, second) if self.parted(value) => rest.extend([second, first]),
                _ => {
                    parts.push((value, from));
                    from += columns(self.layer, value);
                }
            }
        }
        parts
    }

    /// The parts of `whole`, each with the operation of `value` done to it, side by side.
    fn in_parts(&mut self, value: Handle<Value>, whole: Handle<Value>, from: usize) -> Handle<Value> {
        let op = self.op(value);
        let mut result = None;
        for (part, at) in self.own_parts(whole) {
            let end = self.forward.len();
            let done = self.on_part(op, part, from + at);
            // Right behind the part, as if the file had it there.
            let place = self.forward.iter().position(|&value| value == part).map_or(end, |place| place + 1);
            let added = self.forward.len() - end;
            self.forward[place..].rotate_right(added);
            let op = |whole| Op::Concat(whole, done);
            result = Some(match result {
                None => done,
                Some(whole) => {
                    let [rows, _] = self.layer.ty(part).shape;
                    let columns = columns(self.layer, whole) + columns(self.layer, done);
                    self.add_value(op(whole), Type::new(DType::F32, rows, Dim::Const(columns)))
                }
            });
        }
        result.expect("what is put together has parts")
    }

    /// An operation on one part, which may take it in.
    fn on_part(&mut self, mut op: Op, part: Handle<Value>, from: usize) -> Handle<Value> {
        let ty = self.layer.ty(part);
        match &mut op {
            Op::Activate(_, value) => *value = part,
            Op::Binary(_, value, by) => (*value, *by) = (part, self.part_of(*by, part, from)),
            Op::Depthwise { value, weight, .. } => {
                (*value, *weight) = (part, self.part_of(*weight, part, from));
            }
            _ => unreachable!("only these go to the parts"),
        }
        let done = self.layer.values.push(Value { name: String::new(), op, ty });
        self.uses.push(1);
        self.now.push(done);
        match self.folded(done) {
            Some(before) => {
                self.uses[before.index()] = 1;
                before
            }
            None => {
                self.forward.push(done);
                done
            }
        }
    }

    /// The numbers of a parameter for the channels of a part; any other value as it is.
    fn part_of(&mut self, param: Handle<Value>, part: Handle<Value>, from: usize) -> Handle<Value> {
        let Op::Param(whole) = self.op(param) else { return param };
        let count = columns(self.layer, part);
        let Parameter { layer, shape, role, values, normalized } = &self.params[whole.index()];
        let shape = if shape[0] == 1 { [1, count] } else { [count, shape[1]] };
        let values = values.clone().part(from, count);
        let parameter =
            Parameter { layer: layer.clone(), shape, role: *role, values, normalized: *normalized };
        let number = Handle::new(self.params.len());
        self.params.push(parameter);
        let [rows, columns] = shape.map(Dim::Const);
        self.add_value(Op::Param(number), Type::new(DType::F32, rows, columns))
    }

    fn add_value(&mut self, op: Op, ty: Type) -> Handle<Value> {
        let value = self.layer.values.push(Value { name: String::new(), op, ty });
        self.uses.push(1);
        self.now.push(value);
        self.forward.push(value);
        value
    }

    /// Weight and bias of the contraction that gives a value, where nobody else sees what it gives.
    fn own(&self, value: Handle<Value>) -> Option<(Handle<Param>, Option<Handle<Param>>)> {
        let unseen = |value: Handle<Value>| self.uses[value.index()] == 1;
        let sums_unseen = match self.op(value) {
            Op::Binary(_, sum, _) => unseen(sum),
            _ => true,
        };
        contraction(self.layer, value).filter(|_| unseen(value) && sums_unseen)
    }

    /// Adds a number for each column, or one for all.
    fn add(&mut self, bias: Handle<Param>, more: Numbers) {
        let bias = &mut self.params[bias.index()].values;
        *bias = bias.clone().plus(more);
    }

    /// Multiplies each output by its factor, or all by one.
    fn scale(&mut self, weight: Handle<Param>, bias: Option<Handle<Param>>, factors: Numbers) {
        let Parameter { shape, values, .. } = &mut self.params[weight.index()];
        *values = values.clone().scaled(shape[1], factors.clone());
        let Some(bias) = bias else { return };
        let bias = &mut self.params[bias.index()].values;
        *bias = bias.clone().scaled(1, factors);
    }

    /// A number added to a contraction without bias becomes one.
    fn new_bias(&mut self, value: Handle<Value>, sum: Handle<Value>, number: f32) -> Option<Handle<Value>> {
        let columns = columns(self.layer, sum);
        let (shape, values) = ([1, columns], Numbers::repeated(number, columns));
        let param = Handle::new(self.params.len());
        self.params.push(Parameter { layer: None, shape, role: ParamRole::Bias, values, normalized: false });
        let ty = Type::new(DType::F32, Dim::Const(1), Dim::Const(columns));
        let bias = self.add_value(Op::Param(param), ty);
        self.layer.values[value].op = Op::Binary(BinaryOp::Add, sum, bias);
        None
    }

    /// Looks at what was padded instead of at what padding gave.
    fn unpad(&self, op: &mut Op) -> bool {
        let (value, window, largest) = match op {
            Op::Window { value, window }
            | Op::Depthwise { value, window, .. }
            | Op::Pool { op: PoolOp::Sum, value, window } => (value, window, false),
            Op::Pool { op: PoolOp::Max, value, window } => (value, window, true),
            _ => return false,
        };
        let Op::Pool { op: PoolOp::Sum, value: inner, window: padding } = self.op(*value) else {
            return false;
        };
        if !pads(&padding) {
            return false;
        }
        let pad = [0, 1].map(|axis| window.pad[axis] + padding.pad[axis]);
        let wider = Window { input: padding.input, pad, ..*window };
        // Beyond the edge a maximum sees nothing, where a padded image has zeros.
        if largest && !(self.is_non_negative(inner) && sees_always(&wider)) {
            return false;
        }
        (*value, *window) = (inner, wider);
        true
    }

    fn is_non_negative(&self, value: Handle<Value>) -> bool {
        match self.op(value) {
            Op::Activate(activation, _) => activation.is_non_negative(),
            Op::Pool { value, .. } => self.is_non_negative(value),
            _ => false,
        }
    }
}

/// Whether a window of one tap only adds zeros around an image.
fn pads(window: &Window) -> bool {
    let plain =
        Window { pad: window.pad, ..Window::new(window.input, window.output, [1; 2], [1; 2], [0; 2]) };
    let around = |axis: usize| {
        let pad = window.pad[axis];
        pad >= 0 && window.output[axis] as isize >= window.input[axis] as isize + pad
    };
    *window == plain && around(0) && around(1)
}

/// Whether each position of the result sees one of the input.
fn sees_always(window: &Window) -> bool {
    (0..2).all(|axis| {
        let sees = |place| (0..window.kernel[axis]).any(|tap| window.along(axis, place, tap).is_some());
        (0..window.output[axis]).all(sees)
    })
}
