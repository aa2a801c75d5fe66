//! Reductions along the columns of a row.
//!
//! Partial results live in a slot on the stack, one vector for integers and maxima, and all
//! [`LANES`](ffc_ir::numerics::LANES) partial sums of an `f32` sum, of which a block adds to those that its columns
//! belong to. At the end of the row they are combined and stored. Lanes that are not valid contribute what changes
//! nothing.

use cranelift_codegen::ir::{InstBuilder, StackSlot, StackSlotData, StackSlotKind, Type, Value, types};
use ffc_ir::kernel::{At, Binary, Fold, Reduce};
use ffc_ir::numerics::LANES;

use super::expr::{Block, Point};
use super::nest::Span;
use super::{Emitter, memory_flags};

/// The partial results of one reduction in one row.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    slot: StackSlot,
    op: Fold,
}

/// How two partial results become one.
fn combining(op: Fold) -> Binary {
    match op {
        Fold::SumI32 => Binary::IAdd,
        Fold::SumF32 => Binary::FAdd,
        Fold::MaxF32 => Binary::FMax,
        Fold::MaxI32 => Binary::IMax,
    }
}

/// The bits of what changes nothing. Sums of floats start at +0 and so are never -0, which +0 would change.
fn neutral(op: Fold) -> u32 {
    match op {
        Fold::SumI32 | Fold::SumF32 => 0,
        Fold::MaxF32 => f32::NEG_INFINITY.to_bits(),
        Fold::MaxI32 => i32::MIN.cast_unsigned(),
    }
}

/// Partial results of a reduction.
fn partials(op: Fold, lanes: usize) -> usize {
    if op == Fold::SumF32 { LANES } else { lanes }
}

impl Emitter<'_> {
    fn partial_type(&self, op: Fold) -> Type {
        match (op, self.lanes()) {
            (Fold::SumI32 | Fold::MaxI32, 1) => types::I32,
            (Fold::SumF32 | Fold::MaxF32, 1) => types::F32,
            (Fold::SumI32 | Fold::MaxI32, _) => types::I32X4,
            (Fold::SumF32 | Fold::MaxF32, _) => types::F32X4,
        }
    }

    fn neutral(&mut self, op: Fold, ty: Type) -> Value {
        let bits = neutral(op);
        match ty {
            types::I32 => self.b.ins().iconst(types::I32, i64::from(bits)),
            types::F32 => self.b.ins().f32const(f32::from_bits(bits)),
            _ => self.words(ty, [bits; 4]),
        }
    }

    /// Begins the reductions of a row.
    pub(super) fn begin_reduces(&mut self, reduces: &[Reduce]) -> Vec<Partial> {
        reduces.iter().map(|reduce| self.begin_reduce(reduce.op)).collect()
    }

    fn begin_reduce(&mut self, op: Fold) -> Partial {
        let bytes = 4 * partials(op, self.lanes());
        let size = u32::try_from(bytes).expect("slots are small");
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
        let ty = self.partial_type(op);
        let start = self.neutral(op, ty);
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        for offset in (0..bytes).step_by(4 * self.lanes()) {
            let offset = i32::try_from(offset).expect("slots are small");
            self.b.ins().store(memory_flags(), start, base, offset);
        }
        Partial { slot, op }
    }

    /// Adds a block.
    pub(super) fn reduce(&mut self, Partial { slot, op }: Partial, block: Block, value: Value) {
        let value = if self.lanes() == 1 { value } else { self.or_else(block, value, neutral(op)) };
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        let place = if op == Fold::SumF32 {
            let lane = self.b.ins().band_imm_u(block.column, LANES as i64 - 1);
            self.indexed(base, lane, 4)
        } else {
            base
        };
        let ty = self.partial_type(op);
        let partial = self.b.ins().load(ty, memory_flags(), place, 0);
        let partial = self.binary(combining(op), partial, value);
        self.b.ins().store(memory_flags(), partial, place, 0);
    }

    /// Combines the partial results of a row and stores the result; with the row's other spans where there are any.
    pub(super) fn end_reduce(&mut self, reduce: &Reduce, partial: Partial, point: Point, span: Span) {
        let (op, dtype) = (reduce.op, self.buffer(reduce.into).dtype);
        let address = self.address(reduce.into, At::Row, point);
        let mut result = self.combine(partial);
        if !span.whole {
            let earlier = self.load_one(dtype, address);
            let ty = self.b.func.dfg.value_type(result);
            let nothing = self.neutral(op, ty);
            let earlier = self.b.ins().select(span.from, earlier, nothing);
            result = self.binary(combining(op), earlier, result);
        }
        self.store_one(dtype, result, address);
    }

    fn combine(&mut self, Partial { slot, op }: Partial) -> Value {
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        let (ty, lanes) = (self.partial_type(op), self.lanes());
        let mut values: Vec<Value> = (0..4 * partials(op, lanes))
            .step_by(4 * lanes)
            .map(|offset| i32::try_from(offset).expect("slots are small"))
            .map(|offset| self.b.ins().load(ty, memory_flags(), base, offset))
            .collect();
        while values.len() > 1 {
            values = self.halve(op, &values);
        }
        if self.lanes() == 1 {
            return values[0];
        }
        let mut lanes: Vec<Value> = (0..4).map(|lane| self.b.ins().extractlane(values[0], lane)).collect();
        while lanes.len() > 1 {
            lanes = self.halve(op, &lanes);
        }
        lanes[0]
    }

    /// The lower half of values combined with the upper half.
    fn halve(&mut self, op: Fold, values: &[Value]) -> Vec<Value> {
        let (lower, upper) = values.split_at(values.len() / 2);
        lower.iter().zip(upper).map(|(&a, &b)| self.binary(combining(op), a, b)).collect()
    }
}
