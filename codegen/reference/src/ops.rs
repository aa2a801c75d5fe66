//! The primitives of the kernel IR on slices, and on single numbers for what does not move with the column.

use ffc_ir::kernel::{Binary, Expr, Unary};
use ffc_ir::numerics::{Arith, Number, Scalar};

/// An operand of a loop over a tile.
#[derive(Clone, Copy)]
pub(crate) enum In<'a, T> {
    /// One value for each element.
    Row(&'a [T]),
    /// The same value for all.
    One(T),
}

impl<T: Copy> In<'_, T> {
    fn first(&self) -> T {
        match self {
            In::Row(values) => values[0],
            In::One(value) => *value,
        }
    }
}

/// `out = f(a)`, element by element.
pub(crate) fn copy<T: Copy, R>(out: &mut [R], a: In<'_, T>, f: impl Fn(T) -> R) {
    match a {
        In::Row(a) => out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a)),
        In::One(a) => out.iter_mut().for_each(|out| *out = f(a)),
    }
}

/// `out = f(a, b)`, element by element.
fn zip<T: Copy, R>(out: &mut [R], a: In<'_, T>, b: In<'_, T>, f: impl Fn(T, T) -> R) {
    match (a, b) {
        (In::Row(a), In::Row(b)) => {
            out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = f(a, b));
        }
        (In::Row(a), In::One(b)) => out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a, b)),
        (In::One(a), In::Row(b)) => out.iter_mut().zip(b).for_each(|(out, &b)| *out = f(a, b)),
        (In::One(a), In::One(b)) => out.iter_mut().for_each(|out| *out = f(a, b)),
    }
}

/// `out = mask ? a : b`, element by element.
pub(crate) fn select<T: Copy>(out: &mut [T], mask: In<'_, i32>, a: In<'_, T>, b: In<'_, T>) {
    let In::Row(mask) = mask else {
        return copy(out, if mask.first() != 0 { a } else { b }, |value| value);
    };
    let pick = |mask: i32, a: T, b: T| if mask != 0 { a } else { b };
    let out = out.iter_mut().zip(mask);
    match (a, b) {
        (In::Row(a), In::Row(b)) => {
            out.zip(a).zip(b).for_each(|(((out, &mask), &a), &b)| *out = pick(mask, a, b));
        }
        (In::Row(a), In::One(b)) => out.zip(a).for_each(|((out, &mask), &a)| *out = pick(mask, a, b)),
        (In::One(a), In::Row(b)) => out.zip(b).for_each(|((out, &mask), &b)| *out = pick(mask, a, b)),
        (In::One(a), In::One(b)) => out.for_each(|(out, &mask)| *out = pick(mask, a, b)),
    }
}

/// Nearest integer, ties to even, of magnitudes up to 2^22, by the addition that lets the hardware round: the low bits
/// of `x + 1.5 * 2^23` are the integer. Larger operands give what the same addition gives in machine code.
pub(crate) fn round(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    ((x + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32)
}

fn mask(condition: bool) -> i32 {
    -i32::from(condition)
}

/// A binary operation of floats that gives a float.
pub(crate) fn float_binary(op: Binary, out: &mut [f32], a: In<'_, f32>, b: In<'_, f32>) {
    match op {
        Binary::FAdd => zip(out, a, b, |a, b| a + b),
        Binary::FSub => zip(out, a, b, |a, b| a - b),
        Binary::FMul => zip(out, a, b, |a, b| a * b),
        Binary::FDiv => zip(out, a, b, |a, b| a / b),
        Binary::FMax => zip(out, a, b, |a, b| if a < b { b } else { a }),
        Binary::FMin => zip(out, a, b, |a, b| if b < a { b } else { a }),
        other => unreachable!("{other:?} gives no float"),
    }
}

/// A comparison of floats.
pub(crate) fn float_less(out: &mut [i32], a: In<'_, f32>, b: In<'_, f32>) {
    zip(out, a, b, |a, b| mask(a < b));
}

/// A binary operation of integers.
pub(crate) fn int_binary(op: Binary, out: &mut [i32], a: In<'_, i32>, b: In<'_, i32>) {
    match op {
        Binary::IAdd => zip(out, a, b, i32::wrapping_add),
        Binary::ISub => zip(out, a, b, i32::wrapping_sub),
        Binary::IMul => zip(out, a, b, i32::wrapping_mul),
        Binary::IMin => zip(out, a, b, i32::min),
        Binary::IMax => zip(out, a, b, i32::max),
        Binary::And => zip(out, a, b, |a, b| a & b),
        Binary::Xor => zip(out, a, b, |a, b| a ^ b),
        Binary::ILt => zip(out, a, b, |a, b| mask(a < b)),
        Binary::IEq => zip(out, a, b, |a, b| mask(a == b)),
        other => unreachable!("{other:?} takes no integers"),
    }
}

/// A unary operation of an integer that gives an integer.
pub(crate) fn int_unary(op: Unary, out: &mut [i32], a: In<'_, i32>) {
    match op {
        Unary::Shl(by) => copy(out, a, |a| a << by),
        Unary::Shr(by) => copy(out, a, |a| (a as u32 >> by) as i32),
        Unary::Sar(by) => copy(out, a, |a| a >> by),
        Unary::Rem(by) => copy(out, a, |a| (a as u32 % by) as i32),
        other => unreachable!("{other:?} takes no integer or gives none"),
    }
}

/// An expression of single numbers; `operand` gives the value of an earlier one. Places and loads are the caller's.
pub(crate) fn scalar(expr: Expr, operand: impl Fn(ffc_ir::Handle<Expr>) -> Number) -> Number {
    let m = &mut Scalar;
    match expr {
        Expr::ConstF32(bits) => Number::F32(f32::from_bits(bits)),
        Expr::ConstI32(value) => Number::I32(value),
        Expr::Unary(op, a) => scalar_unary(op, operand(a)),
        Expr::Binary(op, a, b) => scalar_binary(op, operand(a), operand(b)),
        Expr::Select(mask, a, b) => m.select(operand(mask), operand(a), operand(b)),
        Expr::Accumulator | Expr::RowIndex | Expr::ColumnIndex | Expr::Load(..) => {
            unreachable!("{expr:?} depends on the element")
        }
    }
}

fn scalar_unary(op: Unary, a: Number) -> Number {
    let m = &mut Scalar;
    match op {
        Unary::Sqrt => m.sqrt(a),
        Unary::ToF32 => m.to_f32(a),
        Unary::Round => Number::I32(round(a.as_f32())),
        Unary::Truncate => m.truncate(a),
        Unary::ToBits => m.to_bits(a),
        Unary::FromBits => m.from_bits(a),
        Unary::Shl(by) => m.shl(a, by),
        Unary::Shr(by) => m.shr(a, by),
        Unary::Sar(by) => m.sar(a, by),
        Unary::Rem(by) => m.rem(a, by),
    }
}

fn scalar_binary(op: Binary, a: Number, b: Number) -> Number {
    let m = &mut Scalar;
    match op {
        Binary::FAdd => m.fadd(a, b),
        Binary::FSub => m.fsub(a, b),
        Binary::FMul => m.fmul(a, b),
        Binary::FDiv => m.fdiv(a, b),
        Binary::FMax => m.fmax(a, b),
        Binary::FMin => m.fmin(a, b),
        Binary::FLt => m.flt(a, b),
        Binary::IAdd => m.iadd(a, b),
        Binary::ISub => m.isub(a, b),
        Binary::IMul => m.imul(a, b),
        Binary::IMin => m.imin(a, b),
        Binary::IMax => m.imax(a, b),
        Binary::And => m.and(a, b),
        Binary::Xor => m.xor(a, b),
        Binary::ILt => m.ilt(a, b),
        Binary::IEq => m.ieq(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_is_ties_to_even_where_it_is_defined() {
        for x in [0.0f32, 0.5, 1.5, -0.5, -2.5, 127.49, -4_194_304.0, 4_194_304.0, 1e-30, -1.0e6 - 0.5] {
            assert_eq!(round(x), x.round_ties_even() as i32, "{x}");
        }
    }
}
