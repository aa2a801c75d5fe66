//! What the operations of the layer IR do to one element, once for the interpreter and for lowering.
//!
//! Activation functions are in [`activation`](crate::activation), formulas that the kernel IR needs by themselves in
//! [`numerics`].

use crate::fixed::STEPS;
use crate::module::{BinaryOp, RowPlan, UnaryOp};
use crate::numerics::{self, Arith};

/// [`Op::Unary`](crate::module::Op::Unary).
pub fn unary<A: Arith>(m: &mut A, op: UnaryOp, x: A::Value) -> A::Value {
    match op {
        UnaryOp::Neg => {
            let minus = m.f32(-1.0);
            m.fmul(x, minus)
        }
        UnaryOp::Abs => {
            let (bits, magnitude) = (m.to_bits(x), m.i32(i32::MAX));
            let bits = m.and(bits, magnitude);
            m.from_bits(bits)
        }
        UnaryOp::Sqrt => m.sqrt(x),
        UnaryOp::Exp => numerics::exp(m, x),
        UnaryOp::Log => numerics::log(m, x),
    }
}

/// [`Op::Binary`](crate::module::Op::Binary).
pub fn binary<A: Arith>(m: &mut A, op: BinaryOp, a: A::Value, b: A::Value) -> A::Value {
    match op {
        BinaryOp::Add => m.fadd(a, b),
        BinaryOp::Sub => m.fsub(a, b),
        BinaryOp::Mul => m.fmul(a, b),
        BinaryOp::Div => m.fdiv(a, b),
        BinaryOp::Max => m.fmax(a, b),
        BinaryOp::Min => m.fmin(a, b),
    }
}

/// [`Op::Quantize`](crate::module::Op::Quantize): [`numerics::quantize`] by `1 / scale`.
pub fn quantize<A: Arith>(m: &mut A, x: A::Value, scale: A::Value, noise: Option<A::Value>) -> A::Value {
    let one = m.f32(1.0);
    let inverse = m.fdiv(one, scale);
    numerics::quantize(m, x, inverse, noise)
}

/// [`Op::OneHot`](crate::module::Op::OneHot): 1 where the label is the column, else 0.
pub fn one_hot<A: Arith>(m: &mut A, label: A::Value, column: A::Value) -> A::Value {
    let (on, off) = (m.f32(1.0), m.f32(0.0));
    let hit = m.ieq(label, column);
    m.select(hit, on, off)
}

/// The code of [`Op::Overlay`](crate::module::Op::Overlay).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverlayCode {
    /// Columns that are replaced.
    pub classes: usize,
    /// Value at the label.
    pub on: f32,
    /// Value elsewhere.
    pub off: f32,
}

impl OverlayCode {
    /// What stands in every column where there is no label: `off + (on - off) / classes`.
    pub fn neutral(self) -> f32 {
        self.off + (self.on - self.off) / self.classes as f32
    }
}

/// [`Op::Overlay`](crate::module::Op::Overlay).
pub fn overlay<A: Arith>(
    m: &mut A,
    code: OverlayCode,
    x: A::Value,
    label: A::Value,
    column: A::Value,
) -> A::Value {
    let (on, off, neutral) = (m.f32(code.on), m.f32(code.off), m.f32(code.neutral()));
    let hit = m.ieq(label, column);
    let replaced = m.select(hit, on, off);
    let none = m.i32(-1);
    let unlabelled = m.ieq(label, none);
    let replaced = m.select(unlabelled, neutral, replaced);
    let classes = m.i32(code.classes as i32);
    let inside = m.ilt(column, classes);
    m.select(inside, replaced, x)
}

/// [`Op::Overlaid`](crate::module::Op::Overlaid): the class that is overlaid on a row whose sample has this label, -1
/// for none. `key` is the [stream's](numerics::stream_key).
pub fn overlaid_label<A: Arith>(
    m: &mut A,
    plan: RowPlan,
    classes: usize,
    key: A::Value,
    row: A::Value,
    label: A::Value,
) -> A::Value {
    let none = m.i32(-1);
    let part = m.rem(row, plan.rows_per_sample(classes) as u32);
    match plan {
        RowPlan::Plain | RowPlan::Neutral => none,
        RowPlan::EveryLabel => part,
        RowPlan::Contrast { neutral } => {
            let wrong = wrong_label(m, classes, key, row, label);
            let zero = m.i32(0);
            let positive = m.ieq(part, zero);
            let class = m.select(positive, label, wrong);
            if !neutral {
                return class;
            }
            let two = m.i32(2);
            let unlabelled = m.ieq(part, two);
            m.select(unlabelled, none, class)
        }
    }
}

/// `(label + 1 + draw % (classes - 1)) % classes`, where the draw is the one of `(row, 0)`, halved.
fn wrong_label<A: Arith>(
    m: &mut A,
    classes: usize,
    key: A::Value,
    row: A::Value,
    label: A::Value,
) -> A::Value {
    let (zero, one) = (m.i32(0), m.i32(1));
    let bits = numerics::draw(m, key, row, zero);
    let bits = m.shr(bits, 1);
    let offset = m.rem(bits, classes as u32 - 1);
    let class = m.iadd(label, one);
    let class = m.iadd(class, offset);
    m.rem(class, classes as u32)
}

/// [`Op::Polarity`](crate::module::Op::Polarity): `f32` +1 for a positive row, -1 for a negative one, 0 for a neutral one.
pub fn polarity<A: Arith>(m: &mut A, plan: RowPlan, row: A::Value) -> A::Value {
    match plan {
        RowPlan::Plain | RowPlan::EveryLabel => m.f32(1.0),
        RowPlan::Neutral => m.f32(0.0),
        RowPlan::Contrast { neutral } => {
            // Parts 0, 1, 2 of a sample have polarity 1, -1, 0.
            let part = m.rem(row, 2 + u32::from(neutral));
            let (zero, one) = (m.i32(0), m.i32(1));
            let (positive, negative, none) = (m.f32(1.0), m.f32(-1.0), m.f32(0.0));
            let first = m.ieq(part, zero);
            if !neutral {
                return m.select(first, positive, negative);
            }
            let second = m.ieq(part, one);
            let rest = m.select(second, negative, none);
            m.select(first, positive, rest)
        }
    }
}

/// [`Op::Track`](crate::module::Op::Track): `max(observed, decay * range)`.
pub fn track<A: Arith>(m: &mut A, range: A::Value, observed: A::Value, decay: f32) -> A::Value {
    let decay = m.f32(decay);
    let faded = m.fmul(range, decay);
    m.fmax(observed, faded)
}

/// How much a gradient of 1 moves a fixed-point weight of this scale, in steps of its last bit: `(factor * 256) / scale`.
pub fn fixed_factor<A: Arith>(m: &mut A, factor: A::Value, scale: A::Value) -> A::Value {
    let steps = m.f32(STEPS);
    let factor = m.fmul(factor, steps);
    m.fdiv(factor, scale)
}

/// [`Op::Sgd`](crate::module::Op::Sgd) on an `f32` weight: `v = velocity * momentum + gradient * factor` and
/// `weight - v`, without momentum `weight - gradient * factor`. `velocity` is the old one and the momentum.
pub fn sgd_float<A: Arith>(
    m: &mut A,
    weight: A::Value,
    gradient: A::Value,
    factor: A::Value,
    velocity: Option<(A::Value, A::Value)>,
) -> (A::Value, Option<A::Value>) {
    let step = m.fmul(gradient, factor);
    match velocity {
        None => (m.fsub(weight, step), None),
        Some((velocity, momentum)) => {
            let kept = m.fmul(velocity, momentum);
            let velocity = m.fadd(kept, step);
            (m.fsub(weight, velocity), Some(velocity))
        }
    }
}
