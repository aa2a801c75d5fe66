//! Modules as text.

use std::fmt;

use super::{mnemonic, number};
use crate::arena::Handle;
use crate::module::{
    Activation, Granularity, Layer, Module, Op, Param, ParamRole, ParamStorage, Region, Rounding, Value,
};
use crate::window::Window;

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module @{} {} {{", self.name, self.phase.name())?;
        writeln!(f, "  input {}[{}]", self.input, self.features)?;
        writeln!(f, "  classes {}", self.classes)?;
        writeln!(f, "  batch {}", self.batch)?;
        writeln!(f, "  rows {}", self.rows.name())?;
        if !self.params.is_empty() {
            writeln!(f)?;
        }
        for param in self.params.values() {
            let [rows, columns] = param.shape;
            let (storage, role) = (storage(param.storage), role(param.role));
            writeln!(f, "  param @{}: {storage}[{rows}, {columns}] {role}", param.name)?;
        }
        for layer in &self.layers {
            writeln!(f)?;
            print_layer(f, self, layer)?;
        }
        writeln!(f, "}}")
    }
}

fn storage(storage: ParamStorage) -> &'static str {
    match storage {
        ParamStorage::F32 => "f32",
        ParamStorage::I8 => "i8",
        ParamStorage::I16 => "i16",
        ParamStorage::Fixed16(Granularity::Channel) => "fixed16(channel)",
        ParamStorage::Fixed16(Granularity::Tensor) => "fixed16(tensor)",
    }
}

fn role(role: ParamRole) -> String {
    match role {
        ParamRole::Weight => "weight".into(),
        ParamRole::Bias => "bias".into(),
        ParamRole::Head(deviation) => format!("head({})", number(deviation)),
        ParamRole::Groups => "groups".into(),
        ParamRole::Range(start) => format!("range({})", number(start)),
        ParamRole::Velocity => "velocity".into(),
        ParamRole::Constant => "constant".into(),
    }
}

fn print_layer(f: &mut fmt::Formatter<'_>, module: &Module, layer: &Layer) -> fmt::Result {
    writeln!(f, "  layer @{} {} {{", layer.name, layer.role.name())?;
    let names = Names { module, layer };
    for region in Region::ALL {
        let outputs: &[Handle<Value>] = if region == Region::Forward { &layer.outputs } else { &[] };
        if layer.region(region).is_empty() && outputs.is_empty() {
            continue;
        }
        writeln!(f, "    {} {{", region.name())?;
        for &handle in layer.region(region) {
            let name = names.value(handle);
            match layer.values.get(handle) {
                Some(value) => writeln!(f, "      {name}: {} = {}", value.ty, names.op(&value.op))?,
                None => writeln!(f, "      {name}")?,
            }
        }
        if !outputs.is_empty() {
            let outputs: Vec<String> = outputs.iter().map(|&output| names.value(output)).collect();
            writeln!(f, "      yield {}", outputs.join(", "))?;
        }
        writeln!(f, "    }}")?;
    }
    writeln!(f, "  }}")
}

/// What handles are called; `?` and the number where they point nowhere.
struct Names<'a> {
    module: &'a Module,
    layer: &'a Layer,
}

impl Names<'_> {
    fn value(&self, handle: Handle<Value>) -> String {
        match self.layer.values.get(handle) {
            Some(value) => format!("%{}", value.name),
            None => format!("%?{}", handle.index()),
        }
    }

    fn param(&self, handle: Handle<Param>) -> String {
        match self.module.params.get(handle) {
            Some(param) => format!("@{}", param.name),
            None => format!("@?{}", handle.index()),
        }
    }

    fn op(&self, op: &Op) -> String {
        let arguments = self.arguments(op);
        let space = if arguments.is_empty() { "" } else { " " };
        format!("{}{space}{}", mnemonic(op), arguments.join(", "))
    }

    fn arguments(&self, op: &Op) -> Vec<String> {
        let mut operands = Vec::new();
        op.operands(|operand| operands.push(self.value(operand)));
        let (before, after) = self.attributes(op);
        [before, operands, after].concat()
    }

    /// What stands before and after the operands.
    fn attributes(&self, op: &Op) -> (Vec<String>, Vec<String>) {
        match *op {
            Op::Operand(position) => (vec![position.to_string()], vec![]),
            Op::Overlaid { stream } => (vec![format!("stream({stream})")], vec![]),
            Op::Control(control) => (vec![control.name().to_string()], vec![]),
            Op::Constant(value) => (vec![number(value)], vec![]),
            Op::Param(param) | Op::ScaleOf(param) | Op::Assign { param, .. } => {
                (vec![self.param(param)], vec![])
            }
            Op::Activate(activation, _) | Op::ActivateGrad { activation, .. } => {
                (vec![function(activation)], vec![])
            }
            Op::Reduce(op, _) => (vec![op.name().to_string()], vec![]),
            Op::Pool { op, window, .. } => (vec![op.name().to_string()], geometry(&window)),
            Op::Window { window, .. }
            | Op::MaxGrad { window, .. }
            | Op::Depthwise { window, .. }
            | Op::DepthwiseGrad { window, .. } => (vec![], geometry(&window)),
            Op::Back { taps, groups, .. } => {
                (vec![], vec![format!("taps({taps})"), format!("groups({groups})")])
            }
            Op::Pixels { channels, .. } => (vec![], vec![format!("channels({channels})")]),
            Op::Slice { from, columns, .. } => {
                (vec![], vec![format!("from({from})"), format!("columns({columns})")])
            }
            Op::OneHot { classes, .. } => (vec![], vec![format!("classes({classes})")]),
            Op::Overlay { classes, on, off, .. } => {
                let values = [format!("on({})", number(on)), format!("off({})", number(off))];
                (vec![], [&[format!("classes({classes})")][..], &values].concat())
            }
            Op::Quantize { rounding: Rounding::Nearest, .. } => (vec![], vec!["nearest".to_string()]),
            Op::Quantize { rounding: Rounding::Stochastic(stream), .. } => {
                (vec![], vec![format!("stochastic({stream})")])
            }
            Op::Score { accumulate, .. } => {
                (vec![], vec![if accumulate { "accumulate" } else { "set" }.to_string()])
            }
            Op::Track { param, decay, .. } => {
                (vec![self.param(param)], vec![format!("decay({})", number(decay))])
            }
            Op::Sgd(sgd) => {
                let momentum = sgd.momentum.map(|(velocity, momentum)| {
                    format!("momentum({}, {})", self.param(velocity), number(momentum))
                });
                let stream = std::iter::once(format!("stream({})", sgd.stream));
                (vec![self.param(sgd.param)], stream.chain(momentum).collect())
            }
            _ => (vec![], vec![]),
        }
    }
}

/// A window's input and output, and what is not the default.
fn geometry(window: &Window) -> Vec<String> {
    fn pair<T: fmt::Display>(name: &str, [first, second]: [T; 2]) -> String {
        format!("{name}({first}, {second})")
    }
    let default = Window::new(window.input, window.output, [1; 2], [1; 2], [0; 2]);
    let mut parts = vec![pair("input", window.input), pair("output", window.output)];
    let mut note = |differs: bool, part: String| parts.extend(differs.then_some(part));
    note(window.kernel != default.kernel, pair("kernel", window.kernel));
    note(window.stride != default.stride, pair("stride", window.stride));
    note(window.dilation != default.dilation, pair("dilation", window.dilation));
    note(window.pad != default.pad, pair("pad", window.pad));
    let spread = if window.repeats { "repeat" } else { "spread" };
    note(window.repeats || window.spread != default.spread, pair(spread, window.spread));
    parts
}

fn function(activation: Activation) -> String {
    let numbers: Vec<String> = activation.numbers().into_iter().map(number).collect();
    match numbers.as_slice() {
        [] => activation.name().to_string(),
        numbers => format!("{}({})", activation.name(), numbers.join(", ")),
    }
}
