//! Expressions: every primitive on scalars and on vectors of four.
//!
//! Values of outer levels stay scalars and become vectors where a block uses them; Cranelift moves those copies out of
//! the loops again. Masks are 0 or -1 in every lane.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Binary, Expr, Kind, Level, Unary};

use super::Emitter;
use crate::machine::Dot;

/// Values of the expressions evaluated so far.
#[derive(Clone)]
pub(super) struct Values(Vec<Option<Value>>);

impl Values {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![None; count])
    }

    fn get(&self, handle: Handle<Expr>) -> Value {
        self.0[handle.index()].expect("operands are evaluated before their users")
    }
}

/// A row of the domain: `ahead` rows after `first`.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) first: Value,
    pub(super) ahead: usize,
}

/// Neighbouring columns that are computed together.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) column: Value,
    pub(super) valid: Valid,
}

/// How many of a block's columns lie in the domain.
#[derive(Clone, Copy)]
pub(super) enum Valid {
    /// All.
    All,
    /// This many, at least one.
    First(usize),
    /// This many, at least one.
    Count(Value),
}

/// Where an expression is evaluated; what its level does not depend on is absent.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    pub(super) row: Option<Row>,
    pub(super) block: Option<Block>,
    pub(super) accumulator: Option<Value>,
}

impl Point {
    pub(super) fn row(self) -> Row {
        self.row.expect("what depends on rows is evaluated in a row")
    }

    pub(super) fn block(self) -> Block {
        self.block.expect("what depends on columns is evaluated in a block")
    }
}

/// Added to a float of magnitude at most 2^22, this leaves the nearest integer in the low bits, ties to even.
const ROUNDER: f32 = 12_582_912.0;

impl Emitter<'_> {
    /// Evaluates those of the expressions that are of this level.
    pub(super) fn evaluate(
        &mut self,
        exprs: &[Handle<Expr>],
        level: Level,
        point: Point,
        values: &mut Values,
    ) {
        for &handle in exprs {
            if self.levels[handle.index()] == level && values.0[handle.index()].is_none() {
                let value = self.expr(handle, point, values);
                values.0[handle.index()] = Some(value);
            }
        }
    }

    /// The value of an expression as a user at this level wants it.
    pub(super) fn operand(&mut self, handle: Handle<Expr>, user: Level, values: &Values) -> Value {
        if !self.wide(user) || self.wide(self.levels[handle.index()]) {
            return values.get(handle);
        }
        match self.kernel.exprs[handle] {
            Expr::ConstF32(bits) => self.words(types::F32X4, [bits; 4]),
            Expr::ConstI32(value) => self.words(types::I32X4, [value.cast_unsigned(); 4]),
            _ => {
                let ty = self.ty(self.kinds[handle.index()], true);
                self.b.ins().splat(ty, values.get(handle))
            }
        }
    }

    /// Whether values of a level are vectors.
    fn wide(&self, level: Level) -> bool {
        level == Level::Element && self.lanes() > 1
    }

    fn expr(&mut self, handle: Handle<Expr>, point: Point, values: &Values) -> Value {
        let level = self.levels[handle.index()];
        let wide = self.wide(level);
        match self.kernel.exprs[handle] {
            Expr::Accumulator => point.accumulator.expect("accumulators are used behind a contraction only"),
            Expr::RowIndex => {
                let row = self.row_number(point.row());
                self.b.ins().ireduce(types::I32, row)
            }
            Expr::ColumnIndex => self.column_index(point.block()),
            Expr::ConstF32(bits) => self.b.ins().f32const(f32::from_bits(bits)),
            Expr::ConstI32(value) => self.b.ins().iconst(types::I32, i64::from(value.cast_unsigned())),
            Expr::Load(buffer, at) => self.load(buffer, at, point),
            Expr::Unary(op, a) => {
                let a = self.operand(a, level, values);
                self.unary(op, a, wide)
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.operand(a, level, values), self.operand(b, level, values));
                self.binary(op, a, b)
            }
            Expr::Select(mask, a, b) => {
                let mask = self.operand(mask, level, values);
                let (a, b) = (self.operand(a, level, values), self.operand(b, level, values));
                self.choose(mask, a, b)
            }
        }
    }

    /// A row's number, 64 bits.
    pub(super) fn row_number(&mut self, row: Row) -> Value {
        let ahead = i64::try_from(row.ahead).expect("tiles have few rows");
        self.b.ins().iadd_imm_s(row.first, ahead)
    }

    fn column_index(&mut self, block: Block) -> Value {
        let column = self.b.ins().ireduce(types::I32, block.column);
        if self.lanes() == 1 {
            return column;
        }
        let (column, lanes) =
            (self.b.ins().splat(types::I32X4, column), self.words(types::I32X4, [0, 1, 2, 3]));
        self.b.ins().iadd(column, lanes)
    }

    /// An `f32` constant of the shape of another value.
    fn float_like(&mut self, value: f32, shape: Type) -> Value {
        if shape.is_vector() {
            self.words(types::F32X4, [value.to_bits(); 4])
        } else {
            self.b.ins().f32const(value)
        }
    }

    /// An `i32` constant of the shape of another value.
    fn int_like(&mut self, value: i32, shape: Type) -> Value {
        let bits = value.cast_unsigned();
        if shape.is_vector() {
            self.words(types::I32X4, [bits; 4])
        } else {
            self.b.ins().iconst(types::I32, i64::from(bits))
        }
    }

    fn unary(&mut self, op: Unary, a: Value, wide: bool) -> Value {
        let (int, float) = (self.ty(Kind::Int, wide), self.ty(Kind::Float, wide));
        match op {
            Unary::Sqrt => self.b.ins().sqrt(a),
            Unary::ToF32 => self.b.ins().fcvt_from_sint(float, a),
            Unary::Round => self.round(a, int),
            Unary::Truncate => self.truncate(a, int),
            Unary::ToBits => self.cast(int, a),
            Unary::FromBits => self.cast(float, a),
            Unary::Shl(by) => {
                let by = self.b.ins().iconst(types::I32, i64::from(by));
                self.b.ins().ishl(a, by)
            }
            Unary::Shr(by) => {
                let by = self.b.ins().iconst(types::I32, i64::from(by));
                self.b.ins().ushr(a, by)
            }
            Unary::Sar(by) => {
                let by = self.b.ins().iconst(types::I32, i64::from(by));
                self.b.ins().sshr(a, by)
            }
            Unary::Rem(by) => self.remainder(a, by, wide),
        }
    }

    fn round(&mut self, a: Value, int: Type) -> Value {
        let rounder = self.float_like(ROUNDER, int);
        let sum = self.b.ins().fadd(a, rounder);
        let bits = self.cast(int, sum);
        let rounder = self.int_like(ROUNDER.to_bits().cast_signed(), int);
        self.b.ins().isub(bits, rounder)
    }

    fn truncate(&mut self, a: Value, int: Type) -> Value {
        // Saturation is not wanted, and x86 would have to mend what its instruction gives out of range.
        match self.machine.dot {
            Dot::Pairs if int.is_vector() => self.b.ins().x86_cvtt2dq(int, a),
            _ => self.b.ins().fcvt_to_sint_sat(int, a),
        }
    }

    fn remainder(&mut self, a: Value, by: u32, wide: bool) -> Value {
        let divisor = self.b.ins().iconst(types::I32, i64::from(by));
        if !wide {
            return self.b.ins().urem(a, divisor);
        }
        (0..4).fold(a, |result, lane| {
            let element = self.b.ins().extractlane(a, lane);
            let element = self.b.ins().urem(element, divisor);
            self.b.ins().insertlane(result, element, lane)
        })
    }

    pub(super) fn binary(&mut self, op: Binary, a: Value, b: Value) -> Value {
        match op {
            Binary::FAdd => self.b.ins().fadd(a, b),
            Binary::FSub => self.b.ins().fsub(a, b),
            Binary::FMul => self.b.ins().fmul(a, b),
            Binary::FDiv => self.b.ins().fdiv(a, b),
            Binary::FMax => self.smaller_then(a, b, b, a),
            Binary::FMin => self.smaller_then(b, a, b, a),
            Binary::FLt => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, a, b);
                self.mask(less)
            }
            Binary::IAdd => self.b.ins().iadd(a, b),
            Binary::ISub => self.b.ins().isub(a, b),
            Binary::IMul => self.b.ins().imul(a, b),
            Binary::IMin => self.b.ins().smin(a, b),
            Binary::IMax => self.b.ins().smax(a, b),
            Binary::And => self.b.ins().band(a, b),
            Binary::Xor => self.b.ins().bxor(a, b),
            Binary::ILt => {
                let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
                self.mask(less)
            }
            Binary::IEq => {
                let equal = self.b.ins().icmp(IntCC::Equal, a, b);
                self.mask(equal)
            }
        }
    }

    /// `x < y ? a : b`, for floats.
    fn smaller_then(&mut self, x: Value, y: Value, a: Value, b: Value) -> Value {
        let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
        self.choose(less, a, b)
    }

    /// A comparison's result as a mask: of vectors it is one, of scalars it is a byte.
    fn mask(&mut self, condition: Value) -> Value {
        if self.b.func.dfg.value_type(condition).is_vector() {
            return condition;
        }
        self.b.ins().bmask(types::I32, condition)
    }

    /// `mask ? a : b`; a scalar mask may be anything but 0.
    pub(super) fn choose(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        if !ty.is_vector() {
            return self.b.ins().select(mask, a, b);
        }
        // With the mask as a float vector, comparison and choice become `maxps` and `minps`.
        let mask = self.cast(ty, mask);
        self.b.ins().bitselect(mask, a, b)
    }
}
