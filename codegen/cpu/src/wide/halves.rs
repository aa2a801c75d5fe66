//! Expressions that fit in 16 bits: 32 of them to a vector, twice as many as of those with 32 bits.
//!
//! Weights have 16 bits, and half of an update's expressions are about them: joining their planes, subtracting a step,
//! limits, splitting them again. Where all that a stage stores and reduces fits in 16 bits, these expressions are
//! evaluated for both vectors of a panel at once. Steps come from expressions of 32 bits, as their upper halves.
//!
//! What is evaluated is the value limited to 16 bits. For most expressions that is the value itself, which [`ranges`]
//! proves. A sum or difference may go beyond where maxima and minima alone use it: the larger of two numbers, limited, is
//! the larger of the limited ones.

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Binary, BufferClass, Expr, Fold, Kernel, Plane, Program, Stage, Unary};
use ffc_ir::types::DType;

use super::asm::{ALL, LANES, Memory, Op, VECTOR};
use super::block::Source;
use super::nest::Emitter;
use super::values::{Evaluation, Level, mask};
use crate::plan;

/// The least and the largest value of an integer expression.
type Range = (i64, i64);

const HALF: Range = (i16::MIN as i64, i16::MAX as i64);
const WORD: Range = (i32::MIN as i64, i32::MAX as i64);

/// The expressions of a kernel that may be evaluated in 16 bits.
pub(super) struct Halves {
    fit: Vec<bool>,
    ranges: Vec<Range>,
}

impl Halves {
    pub(super) fn of(program: &Program, kernel: &Kernel, levels: &[Level]) -> Self {
        let mut halves = Self { fit: Vec::new(), ranges: ranges(program, kernel) };
        for (handle, expr) in kernel.exprs.iter() {
            let fits = halves.fits(program, *expr, levels[handle.index()]);
            halves.fit.push(fits);
        }
        halves
    }

    /// Whether a stage stores and reduces such expressions alone.
    pub(super) fn cover(&self, program: &Program, stage: &Stage) -> bool {
        let stores = stage.stores.iter().all(|store| {
            store.at == At::Element
                && matches!(program.buffers[store.buffer].dtype, DType::I8 | DType::I16)
                && self.is_exact(store.value)
        });
        let reduces =
            stage.reduces.iter().all(|reduce| reduce.op == Fold::MaxI32 && self.is_exact(reduce.value));
        stores && reduces && !stage.stores.is_empty()
    }

    fn is_exact(&self, handle: Handle<Expr>) -> bool {
        self.fit[handle.index()] && within(self.ranges[handle.index()], HALF)
    }

    fn fits(&self, program: &Program, expr: Expr, level: Level) -> bool {
        let exact = |handle| self.is_exact(handle);
        match expr {
            Expr::ConstI32(value) => within((value.into(), value.into()), HALF),
            _ if level != Level::Element => false,
            Expr::Load(buffer, At::Element) => matches!(program.buffers[buffer].dtype, DType::I8 | DType::U8),
            // The upper half of any integer.
            Expr::Unary(Unary::Sar(16), _) => true,
            Expr::Unary(Unary::Sar(by), a) => by < 16 && exact(a),
            Expr::Unary(Unary::Shl(by), a) => {
                by < 16 && exact(a) && within(shifted(self.ranges[a.index()], by), HALF)
            }
            Expr::Binary(Binary::IAdd | Binary::ISub | Binary::And | Binary::Xor, a, b) => {
                exact(a) && exact(b)
            }
            Expr::Binary(Binary::IMin | Binary::IMax, a, b) => self.fit[a.index()] && self.fit[b.index()],
            _ => false,
        }
    }
}

fn within(inner: Range, outer: Range) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

fn shifted(range: Range, by: u32) -> Range {
    (range.0 << by, range.1 << by)
}

/// The range of each expression; of what is no integer, or not followed here, that of all integers.
fn ranges(program: &Program, kernel: &Kernel) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::with_capacity(kernel.exprs.len());
    for expr in kernel.exprs.values() {
        let of = |handle: Handle<Expr>| ranges[handle.index()];
        let range = match *expr {
            Expr::ConstI32(value) => (value.into(), value.into()),
            // What is beyond the edge is a byte, too.
            Expr::Load(buffer, At::Window { .. }) => joined(loaded(program, buffer), (-128, 0)),
            Expr::Load(buffer, _) => loaded(program, buffer),
            Expr::Unary(Unary::Shl(by), a) => shifted(of(a), by),
            Expr::Unary(Unary::Sar(by), a) => (of(a).0 >> by, of(a).1 >> by),
            Expr::Binary(Binary::IAdd, a, b) => (of(a).0 + of(b).0, of(a).1 + of(b).1),
            Expr::Binary(Binary::ISub, a, b) => (of(a).0 - of(b).1, of(a).1 - of(b).0),
            Expr::Binary(Binary::IMin, a, b) => (of(a).0.min(of(b).0), of(a).1.min(of(b).1)),
            Expr::Binary(Binary::IMax, a, b) => (of(a).0.max(of(b).0), of(a).1.max(of(b).1)),
            Expr::Binary(Binary::And | Binary::Xor, a, b) if within(of(a), HALF) && within(of(b), HALF) => {
                HALF
            }
            _ => WORD,
        };
        // Beyond 32 bits it wraps.
        ranges.push(if within(range, WORD) { range } else { WORD });
    }
    ranges
}

fn joined(a: Range, b: Range) -> Range {
    (a.0.min(b.0), a.1.max(b.1))
}

fn loaded(program: &Program, buffer: Handle<ffc_ir::kernel::Buffer>) -> Range {
    let buffer = &program.buffers[buffer];
    match (buffer.dtype, buffer.class) {
        // The plane that contractions multiply is symmetric.
        (DType::I8, BufferClass::Param { plane: Plane::Value, .. }) => (-127, 127),
        (DType::I8, _) => (-128, 127),
        (DType::U8, _) => (0, 255),
        (DType::I16, _) => HALF,
        _ => WORD,
    }
}

/// Quarters of vectors, 64 bits each, after two were packed into one: the first vector's, then the second's.
const PACKED: [u32; LANES] = [0, 0, 2, 0, 4, 0, 6, 0, 1, 0, 3, 0, 5, 0, 7, 0];

impl Emitter<'_> {
    /// The value of an expression for both vectors of the panel, 16 bits each.
    pub(super) fn half_value(&mut self, to: &mut Evaluation<'_>, handle: Handle<Expr>) -> Source {
        if let Expr::ConstI32(value) = self.kernel.exprs[handle] {
            let half = (value & 0xffff).cast_unsigned();
            return Source::Memory(self.asm.lanes([half << 16 | half; LANES]));
        }
        if let Some(&source) = to.halves.get(&handle) {
            return source;
        }
        let source = self.compute_halves(to, handle);
        to.halves.insert(handle, source);
        source
    }

    fn compute_halves(&mut self, to: &mut Evaluation<'_>, handle: Handle<Expr>) -> Source {
        match self.kernel.exprs[handle] {
            Expr::Load(buffer, at) => {
                let scope = to.scope;
                let from = scope.leads[&(buffer, at)].at(scope.row, 0);
                let op = match self.buffer(buffer).dtype {
                    DType::U8 => Op::LoadU8Halves,
                    _ => Op::LoadI8Halves,
                };
                self.prefetch_row(to, buffer, at, from);
                to.block.load(op, from, mask(0, scope.partial))
            }
            Expr::Unary(Unary::Sar(by @ 16), a) => {
                let [low, high] = [0, 1].map(|vector| {
                    let value = self.value(to, a, vector);
                    to.block.unary_by(Op::Sar, value, by)
                });
                let packed = to.block.binary(Op::PackHalves, low, high);
                let order = Source::Memory(self.asm.lanes(PACKED));
                to.block.binary(Op::PermutePairs, order, packed)
            }
            Expr::Unary(op, a) => {
                let a = self.half_value(to, a);
                match op {
                    Unary::Sar(by) => to.block.unary_by(Op::SarHalves, a, by),
                    Unary::Shl(by) => to.block.unary_by(Op::ShlHalves, a, by),
                    _ => unreachable!("{op:?} is not for 16 bits"),
                }
            }
            Expr::Binary(op, a, b) => self.binary_halves(to, op, a, b),
            other => unreachable!("{other:?} is not for 16 bits"),
        }
    }

    fn binary_halves(
        &mut self,
        to: &mut Evaluation<'_>,
        op: Binary,
        a: Handle<Expr>,
        b: Handle<Expr>,
    ) -> Source {
        let limit = |handle: Handle<Expr>, end: i64| self.kernel.exprs[handle] == Expr::ConstI32(end as i32);
        match op {
            // Everything is within these limits.
            Binary::IMax if limit(b, HALF.0) => return self.half_value(to, a),
            Binary::IMin if limit(b, HALF.1) => return self.half_value(to, a),
            _ => {}
        }
        let (a, b) = (self.half_value(to, a), self.half_value(to, b));
        let op = match op {
            Binary::IAdd => Op::AddHalves,
            Binary::ISub => Op::SubHalves,
            Binary::IMin => Op::MinHalves,
            Binary::IMax => Op::MaxHalves,
            Binary::And => Op::And,
            Binary::Xor => Op::Xor,
            _ => unreachable!("{op:?} is not for 16 bits"),
        };
        to.block.binary(op, a, b)
    }

    /// The stores and reductions of a row of the panel.
    pub(super) fn halves(
        &mut self,
        to: &mut Evaluation<'_>,
        stage: &Stage,
        partials: Option<super::values::Lead>,
    ) {
        let scope = to.scope;
        let mask = mask(0, scope.partial);
        let roots: Vec<Handle<Expr>> = plan::roots(stage).collect();
        let values: Vec<Source> = roots.into_iter().map(|root| self.half_value(to, root)).collect();
        for (store, &value) in stage.stores.iter().zip(&values) {
            let place: Memory = scope.leads[&(store.buffer, store.at)].at(scope.row, 0);
            let op = match self.buffer(store.buffer).dtype {
                DType::I16 => Op::StoreHalves16,
                _ => Op::StoreHalves8,
            };
            to.block.store(op, place, value, mask);
        }
        for (number, &value) in values[stage.stores.len()..].iter().enumerate() {
            let partials = partials.expect("there is room for reductions");
            let place = partials.at(scope.row, number * VECTOR);
            to.block.reduce(Op::MaxHalves, place, [Some((value, mask)), None]);
        }
    }

    /// Widens what is left of a reduction in 16 bits: each lane of `value` is then the larger of its halves.
    pub(super) fn widen_halves(&mut self, value: u8, scratch: u8) {
        use super::asm::{Operand, Width};
        let (whole, part) = (Operand::Vector(value), Operand::Vector(scratch));
        self.asm.unary_by(Width::Wide, Op::Sar, scratch, whole, 16);
        self.asm.unary_by(Width::Wide, Op::Shl, value, whole, 16);
        self.asm.unary_by(Width::Wide, Op::Sar, value, whole, 16);
        self.asm.binary(Width::Wide, Op::IMax, value, value, part, ALL);
    }
}
