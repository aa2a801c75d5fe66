//! Reductions along the columns of a row.
//!
//! Partial results live on the stack, for each row of a chunk: one vector for integers and maxima, and all
//! [`LANES`](ffc_ir::numerics::LANES) partial sums of an `f32` sum, of which a block adds to those that its columns
//! belong to. They begin with the row's first span of columns; at the end of its last one they are combined and stored.
//! While a span's blocks are added, a single vector is in a register.
//! Lanes that are not valid contribute what changes nothing.

use cranelift_codegen::ir::{InstBuilder, StackSlot, Type, Value, types};
use cranelift_frontend::Variable;
use ffc_ir::kernel::{At, Binary, Fold, Reduce};
use ffc_ir::numerics::LANES;

use super::expr::{Block, Point};
use super::{Emitter, memory_flags};
use crate::plan;

/// The partial results of one reduction in the rows of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Partials {
    slot: StackSlot,
    op: Fold,
}

/// Those of one row: where they are, and what holds them while blocks are added, unless they are too many.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    base: Value,
    op: Fold,
    held: Option<Variable>,
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
        let bits = plan::neutral(op);
        match ty {
            types::I32 => self.b.ins().iconst(types::I32, i64::from(bits)),
            types::F32 => self.b.ins().f32const(f32::from_bits(bits)),
            _ => self.words(ty, [bits; 4]),
        }
    }

    /// Room for a reduction of so many rows.
    pub(super) fn partials(&mut self, reduce: &Reduce, rows: usize) -> Partials {
        let slot = self.room(rows * self.partial_bytes(reduce.op));
        Partials { slot, op: reduce.op }
    }

    /// The partial results of a row of the chunk.
    pub(super) fn partial(&mut self, Partials { slot, op }: Partials, index: Value) -> Partial {
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        let ty = self.partial_type(op);
        let held = (op != Fold::SumF32).then(|| self.b.declare_var(ty));
        Partial { base: self.indexed(base, index, self.partial_bytes(op)), op, held }
    }

    /// Takes partial results from the stack.
    pub(super) fn hold(&mut self, Partial { base, op, held }: Partial) {
        if let Some(held) = held {
            let ty = self.partial_type(op);
            let partial = self.b.ins().load(ty, memory_flags(), base, 0);
            self.b.def_var(held, partial);
        }
    }

    /// Puts them back.
    pub(super) fn put_back(&mut self, Partial { base, held, .. }: Partial) {
        if let Some(held) = held {
            let partial = self.b.use_var(held);
            self.b.ins().store(memory_flags(), partial, base, 0);
        }
    }

    fn partial_bytes(&self, op: Fold) -> usize {
        4 * partials(op, self.lanes())
    }

    /// Begins a reduction.
    pub(super) fn begin_reduce(&mut self, Partial { base, op, .. }: Partial) {
        let ty = self.partial_type(op);
        let start = self.neutral(op, ty);
        for offset in (0..self.partial_bytes(op)).step_by(4 * self.lanes()) {
            let offset = i32::try_from(offset).expect("slots are small");
            self.b.ins().store(memory_flags(), start, base, offset);
        }
    }

    /// Adds a block.
    pub(super) fn reduce(&mut self, Partial { base, op, held }: Partial, block: Block, value: Value) {
        let value = if self.lanes() == 1 { value } else { self.or_else(block, value, plan::neutral(op)) };
        if let Some(held) = held {
            let partial = self.b.use_var(held);
            let partial = self.binary(combining(op), partial, value);
            return self.b.def_var(held, partial);
        }
        let lane = self.b.ins().band_imm_u(block.column, LANES as i64 - 1);
        let place = self.indexed(base, lane, 4);
        let ty = self.partial_type(op);
        let partial = self.b.ins().load(ty, memory_flags(), place, 0);
        let partial = self.binary(combining(op), partial, value);
        self.b.ins().store(memory_flags(), partial, place, 0);
    }

    /// Combines the partial results of a row and stores the result.
    pub(super) fn end_reduce(&mut self, reduce: &Reduce, partial: Partial, point: Point) {
        let address = self.address(reduce.into, At::Row, point);
        let result = self.combine(partial);
        self.store_one(self.buffer(reduce.into).dtype, result, address);
    }

    fn combine(&mut self, Partial { base, op, .. }: Partial) -> Value {
        let (ty, lanes) = (self.partial_type(op), self.lanes());
        let mut values: Vec<Value> = (0..self.partial_bytes(op))
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
