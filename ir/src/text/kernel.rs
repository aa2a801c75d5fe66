//! Programs of the kernel IR as text: [`Display`](std::fmt::Display) for all of it, [`summary`] for what fused.

use std::fmt::{self, Write};

use crate::arena::{Arena, Handle};
use crate::kernel::{
    At, Binary, Buffer, BufferClass, Contraction, Expr, Fold, Geometry, Kernel, Outside, Over, Plane,
    Program, Schedule, Side, Stage, Unary,
};
use crate::window::Window;

/// One line per kernel (its domain, what it contracts, reads and writes) and one per schedule: short enough to pin in
/// a test, so that lost fusion shows.
pub fn summary(program: &Program) -> String {
    let mut text = String::new();
    for kernel in program.kernels.values() {
        text += &format!("kernel {} [{}, {}]", kernel.name, kernel.rows, kernel.columns);
        if let Some(contraction) = &kernel.contraction {
            text += &format!(" {}", contract(program, contraction));
        }
        text += &format!(" reads {}", names(program, &kernel.reads()));
        text += &format!(" writes {}\n", names(program, &kernel.writes()));
    }
    for schedule in &program.schedules {
        text += &order(program, schedule);
        text += "\n";
    }
    text
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program @{} {{", self.name)?;
        writeln!(f, "  input {}[{}]", self.input, self.features)?;
        writeln!(f, "  classes {}", self.classes)?;
        writeln!(f, "  batch {}, inference {}", self.batch, self.infer_batch)?;
        writeln!(f, "  trained layers: {}", self.trained_layers.join(", "))?;
        writeln!(f, "  arena {} bytes, state {} bytes\n", self.arena_bytes, self.state_bytes)?;
        for buffer in self.buffers.values() {
            writeln!(f, "  buffer {}", describe(self, buffer))?;
        }
        for kernel in self.kernels.values() {
            writeln!(f)?;
            print_kernel(f, self, kernel)?;
        }
        writeln!(f)?;
        for schedule in &self.schedules {
            writeln!(f, "  {}", order(self, schedule))?;
        }
        writeln!(f, "}}")
    }
}

fn order(program: &Program, schedule: &Schedule) -> String {
    let name = |&kernel: &Handle<Kernel>| program.kernels.get(kernel).map_or("?", |kernel| &kernel.name);
    let kernels: Vec<&str> = schedule.kernels.iter().map(name).collect();
    format!("schedule {}: {}", schedule.purpose, kernels.join(", "))
}

fn name(buffers: &Arena<Buffer>, buffer: Handle<Buffer>) -> &str {
    buffers.get(buffer).map_or("?", |buffer| &buffer.name)
}

fn names(program: &Program, buffers: &[Handle<Buffer>]) -> String {
    let names: Vec<&str> = buffers.iter().map(|&buffer| name(&program.buffers, buffer)).collect();
    if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
}

fn contract(program: &Program, contraction: &Contraction) -> String {
    let name = |buffer| name(&program.buffers, buffer);
    let sign = match contraction.non_negative {
        None => "",
        Some(Side::Lhs) => ", left side not negative",
        Some(Side::Rhs) => ", right side not negative",
    };
    let (what, window) = match contraction.geometry {
        Geometry::Dense => ("dot", None),
        Geometry::Convolution(window) => ("convolution", Some(window)),
        Geometry::ConvolutionGrad(window) => ("convolution_grad", Some(window)),
        Geometry::Depthwise(window) => ("depthwise", Some(window)),
        Geometry::DepthwiseGrad(window) => ("depthwise_grad", Some(window)),
    };
    let window = window.map_or(String::new(), |window| format!(" through {window}"));
    let (lhs, rhs, depth) = (name(contraction.lhs), name(contraction.rhs), contraction.depth);
    format!("{what}({lhs}, {rhs}; {depth}{sign}){window}")
}

fn describe(program: &Program, buffer: &Buffer) -> String {
    let [rows, columns] = buffer.shape;
    let class = class(program, buffer);
    let (stride, bytes) = (buffer.stride(), buffer.bytes());
    format!("{}: {}[{rows}, {columns}] {class}, stride {stride}, {bytes} bytes", buffer.name, buffer.dtype)
}

fn class(program: &Program, buffer: &Buffer) -> String {
    match buffer.class {
        BufferClass::Input => "input".into(),
        BufferClass::Labels => "labels".into(),
        BufferClass::Control(control) => format!("control {}", control.name()),
        BufferClass::Key => "key".into(),
        BufferClass::Scores => "scores".into(),
        BufferClass::Loss(layer) => {
            format!("loss of {}", program.trained_layers.get(layer).map_or("?", String::as_str))
        }
        BufferClass::Param { param, plane } => {
            let name = program.params.get(param).map_or("?", |param| &param.name);
            let plane = match plane {
                Plane::Value => "",
                Plane::Low => " low",
                Plane::Scale => " scale",
            };
            format!("param @{name}{plane} at {}", buffer.offset)
        }
        BufferClass::Arena => format!("arena at {}", buffer.offset),
        BufferClass::Accumulator => format!("accumulator at {}", buffer.offset),
    }
}

fn print_kernel(f: &mut fmt::Formatter<'_>, program: &Program, kernel: &Kernel) -> fmt::Result {
    writeln!(f, "  kernel {} [{}, {}] {{", kernel.name, kernel.rows, kernel.columns)?;
    if let Some(contraction) = &kernel.contraction {
        writeln!(f, "    acc = {}", contract(program, contraction))?;
    }
    let (texts, shared) = expressions(&program.buffers, kernel);
    f.write_str(&shared)?;
    let text = |expr: Handle<Expr>| texts.get(expr.index()).map_or("?", String::as_str);
    for stage in &kernel.stages {
        print_stage(f, program, stage, &text)?;
    }
    writeln!(f, "  }}")
}

fn print_stage<'a>(
    f: &mut fmt::Formatter<'_>,
    program: &Program,
    stage: &Stage,
    text: &impl Fn(Handle<Expr>) -> &'a str,
) -> fmt::Result {
    let over = match stage.over {
        Over::Elements => "elements",
        Over::Rows => "rows",
    };
    match stage.when {
        Some(mask) => writeln!(f, "    for {over} when {} {{", text(mask))?,
        None => writeln!(f, "    for {over} {{")?,
    }
    for store in &stage.stores {
        let element = element(name(&program.buffers, store.buffer), store.at);
        writeln!(f, "      {element} = {}", text(store.value))?;
    }
    for reduce in &stage.reduces {
        let into = element(name(&program.buffers, reduce.into), At::Row);
        let fold = match reduce.op {
            Fold::SumI32 => "sum_i32",
            Fold::SumF32 => "sum_f32",
            Fold::MaxF32 => "max_f32",
            Fold::MaxI32 => "max_i32",
        };
        writeln!(f, "      {into} = {fold} {}", text(reduce.value))?;
    }
    writeln!(f, "    }}")
}

fn element(name: &str, at: At) -> String {
    match at {
        At::Element => format!("{name}[i, j]"),
        At::Transposed => format!("{name}[j, i]"),
        At::Sample(n) => format!("{name}[i/{n}, j]"),
        At::Columns(n) => format!("{name}[i, {n} + j]"),
        At::Window { window, tap, outside } => {
            let window = Window::from(window);
            let outside = match outside {
                Outside::Zero => "0",
                Outside::Least => "least",
            };
            format!("{name}[seen(i, {tap} of {window}) or {outside}, j]")
        }
        At::Planar { positions, copies } => {
            format!("{name}[i/{}, j*{positions} + i%{positions}]", positions * copies)
        }
        At::Back { taps, inputs, outputs } => {
            format!("{name}[back(i, j), {taps} taps of {inputs} to {outputs}]")
        }
        At::Row => format!("{name}[i]"),
        At::RowSample(n) => format!("{name}[i/{n}]"),
        At::Flat(n) => format!("{name}[i*{n} + j]"),
        At::Column => format!("{name}[j]"),
        At::Scalar => format!("{name}[]"),
    }
}

/// Longest expression that is written where it is used instead of getting a name.
const INLINE: usize = 60;

/// The text of each expression, and a line for each that has a name because it is long or used more than once.
fn expressions(buffers: &Arena<Buffer>, kernel: &Kernel) -> (Vec<String>, String) {
    let uses = uses(kernel);
    let mut texts: Vec<String> = Vec::with_capacity(kernel.exprs.len());
    let mut shared = String::new();
    for (handle, expr) in kernel.exprs.iter() {
        let index = handle.index();
        let text = expression(buffers, expr, &texts);
        let leaf = !matches!(expr, Expr::Unary(..) | Expr::Binary(..) | Expr::Select(..));
        if leaf || (uses[index] < 2 && text.len() <= INLINE) {
            texts.push(text);
        } else {
            let written = writeln!(shared, "    e{index} = {text}");
            debug_assert!(written.is_ok(), "strings take all text");
            texts.push(format!("e{index}"));
        }
    }
    (texts, shared)
}

fn uses(kernel: &Kernel) -> Vec<usize> {
    let mut uses = vec![0; kernel.exprs.len()];
    let mut note = |expr: Handle<Expr>| {
        if let Some(count) = uses.get_mut(expr.index()) {
            *count += 1;
        }
    };
    for expr in kernel.exprs.values() {
        match *expr {
            Expr::Unary(_, a) => note(a),
            Expr::Binary(_, a, b) => [a, b].into_iter().for_each(&mut note),
            Expr::Select(mask, a, b) => [mask, a, b].into_iter().for_each(&mut note),
            _ => {}
        }
    }
    for stage in &kernel.stages {
        stage.when.into_iter().for_each(&mut note);
        stage.stores.iter().for_each(|store| note(store.value));
        stage.reduces.iter().for_each(|reduce| note(reduce.value));
    }
    uses
}

fn expression(buffers: &Arena<Buffer>, expr: &Expr, texts: &[String]) -> String {
    let of = |expr: Handle<Expr>| texts.get(expr.index()).map_or("?", String::as_str);
    match *expr {
        Expr::Accumulator => "acc".into(),
        Expr::RowIndex => "i".into(),
        Expr::ColumnIndex => "j".into(),
        Expr::ConstF32(bits) => format!("{:?}", f32::from_bits(bits)),
        Expr::ConstI32(value) => value.to_string(),
        Expr::Load(buffer, at) => element(name(buffers, buffer), at),
        Expr::Unary(op, a) => unary(op, of(a)),
        Expr::Binary(op, a, b) => binary(op, of(a), of(b)),
        Expr::Select(mask, a, b) => format!("({} ? {} : {})", of(mask), of(a), of(b)),
    }
}

fn unary(op: Unary, a: &str) -> String {
    match op {
        Unary::Sqrt => format!("sqrt({a})"),
        Unary::ToF32 => format!("f32({a})"),
        Unary::Round => format!("round({a})"),
        Unary::Truncate => format!("truncate({a})"),
        Unary::ToBits => format!("bits({a})"),
        Unary::FromBits => format!("from_bits({a})"),
        Unary::Shl(by) => format!("({a} << {by})"),
        Unary::Shr(by) => format!("({a} >>> {by})"),
        Unary::Sar(by) => format!("({a} >> {by})"),
        Unary::Rem(by) => format!("({a} % {by})"),
    }
}

/// Integer operators have an `i` where an `f32` operator looks alike.
fn binary(op: Binary, a: &str, b: &str) -> String {
    let operator = match op {
        Binary::FMax => return format!("max({a}, {b})"),
        Binary::FMin => return format!("min({a}, {b})"),
        Binary::IMax => return format!("imax({a}, {b})"),
        Binary::IMin => return format!("imin({a}, {b})"),
        Binary::FAdd => "+",
        Binary::FSub => "-",
        Binary::FMul => "*",
        Binary::FDiv => "/",
        Binary::FLt => "<",
        Binary::IAdd => "+i",
        Binary::ISub => "-i",
        Binary::IMul => "*i",
        Binary::And => "&",
        Binary::Xor => "^",
        Binary::ILt => "<i",
        Binary::IEq => "==",
    };
    format!("({a} {operator} {b})")
}
