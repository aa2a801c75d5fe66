//! Contraction tiles: the accumulators of a few rows and four columns.
//!
//! Both operands lie along the depth, so a tile is `rows x 4` dot products. Each has a vector of four partial sums,
//! which grows by 16 products a step; at the end, pairwise additions turn the four vectors of a row into one that holds
//! its four accumulators. Rows are padded with zeros, so the depth is rounded up to whole steps.
//!
//! x86 multiplies unsigned by signed bytes only. An operand without negative elements serves as the unsigned one as it
//! is. Otherwise 128 is added to the columns' bytes (as the exclusive or with 0x80), and what that adds to the sums,
//! `128 * sum of the row`, is taken off beforehand: accumulators start at its negative, computed once per row in
//! partial sums of the same shape ([`Emitter::tile_starts`]).
//!
//! Everything that knows how accumulators come about is in this file: other microkernels would replace it.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Extent, Side};
use ffc_ir::types::DType;

use super::expr::{Block, Row};
use super::memory::Address;
use super::{Emitter, memory_flags};
use crate::layout::row_bytes;
use crate::machine::Dot;

/// Products in a step.
const STEP: usize = 16;

/// One row of an operand.
#[derive(Clone, Copy)]
struct Line {
    start: Address,
    /// There is one byte to load: a column's elements may have no padding between them.
    single: bool,
}

/// What tiles of the same rows share.
pub(super) struct Rows {
    lines: Vec<Line>,
    starts: Vec<Value>,
}

impl Emitter<'_> {
    /// Rows of a tile: as many as leave its `rows x 4` accumulators, a vector of each row, one of a column and a
    /// constant in the registers, 16 of them on x86. `Pairs` wants two for each row and column.
    pub(super) fn tile_height(&self) -> usize {
        match self.machine.dot {
            Dot::UnsignedSigned if self.shifts_columns() => 2,
            Dot::UnsignedSigned | Dot::Signed => 3,
            Dot::Pairs => 2,
            Dot::Scalar => 1,
        }
    }

    /// What all tiles of these rows share.
    pub(super) fn tile_rows(&mut self, first: Value, count: usize) -> Rows {
        let contraction = self.contraction();
        let lines: Vec<Line> =
            (0..count).map(|ahead| self.line(contraction.lhs, Row { first, ahead })).collect();
        let starts = self.tile_starts(&lines);
        Rows { lines, starts }
    }

    /// The accumulators of some rows and the columns of a block, by row.
    pub(super) fn tile(&mut self, rows: &Rows, block: Block) -> Vec<Value> {
        if self.lanes() == 1 {
            return self.scalar_tile(rows, block);
        }
        let rhs = self.contraction().rhs;
        let columns = self.columns_of(rhs, block);
        // Column by column: values are computed in the order in which a loop hands them on, so that of the columns'
        // vectors only one is live at a time.
        let starts = rows.starts.repeat(4);
        let sums = self.along_depth(STEP, &starts, |emitter, depth, sums| {
            let vectors: Vec<Value> = rows.lines.iter().map(|&line| emitter.load_line(line, depth)).collect();
            let mut next = Vec::with_capacity(sums.len());
            for (&line, sums) in columns.iter().zip(sums.chunks_exact(vectors.len())) {
                let bytes = emitter.load_line(line, depth);
                let bytes = emitter.unsigned_column(bytes);
                next.extend(vectors.iter().zip(sums).map(|(&row, &sum)| emitter.dot(sum, row, bytes)));
            }
            next
        });
        let count = rows.lines.len();
        (0..count)
            .map(|row| self.gather_sums([0, 1, 2, 3].map(|column| sums[column * count + row])))
            .collect()
    }

    fn contraction(&self) -> Contraction {
        self.kernel.contraction.expect("only kernels with a contraction have tiles")
    }

    fn line(&mut self, operand: Handle<Buffer>, row: Row) -> Line {
        let (buffer, pointer) = (self.buffer(operand), self.pointer(operand));
        let base = self.indexed(pointer, row.first, row_bytes(buffer));
        let start = self.ahead(Address { base, offset: 0 }, row.ahead * row_bytes(buffer));
        Line { start, single: self.contraction().depth == Extent::Const(1) }
    }

    /// The operand's rows that a block's columns are; the last valid one in place of those that are not.
    fn columns_of(&mut self, operand: Handle<Buffer>, block: Block) -> [Line; 4] {
        let pitch = row_bytes(self.buffer(operand));
        let first = self.line(operand, Row { first: block.column, ahead: 0 });
        [0, 1, 2, 3].map(|lane| Line { start: self.lane(first.start, lane, pitch, block.valid), ..first })
    }

    /// Runs the body for each step of the depth.
    fn along_depth(
        &mut self,
        step: usize,
        starts: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let depth = self.size(self.contraction().depth);
        let depth = match depth.known {
            Some(known) => self.int(known.next_multiple_of(step)),
            None => self.round_up(depth.value, step),
        };
        let zero = self.int(0);
        self.fold(zero, depth, step, starts, body).1
    }

    /// 16 bytes of a line.
    fn load_line(&mut self, line: Line, depth: Value) -> Value {
        let base = self.b.ins().iadd(line.start.base, depth);
        let offset = line.start.offset;
        if !line.single {
            let flags = memory_flags().with_aligned().with_readonly().with_can_move();
            return self.b.ins().load(types::I8X16, flags, base, offset);
        }
        let byte = self.b.ins().uload8(types::I32, memory_flags(), base, offset);
        let vector = self.b.ins().scalar_to_vector(types::I32X4, byte);
        self.cast(types::I8X16, vector)
    }

    /// Whether columns become unsigned by adding 128.
    fn shifts_columns(&self) -> bool {
        self.machine.dot == Dot::UnsignedSigned && self.contraction().non_negative.is_none()
    }

    fn unsigned_column(&mut self, bytes: Value) -> Value {
        if !self.shifts_columns() {
            return bytes;
        }
        let shift = self.vector(types::I8X16, [0x80; 16]);
        self.b.ins().bxor(shift, bytes)
    }

    /// What the accumulators of each row start at.
    fn tile_starts(&mut self, lines: &[Line]) -> Vec<Value> {
        if self.lanes() == 1 {
            return vec![self.b.ins().iconst(types::I32, 0); lines.len()];
        }
        let zero = self.words(types::I32X4, [0; 4]);
        let zeros = vec![zero; lines.len()];
        if !self.shifts_columns() {
            return zeros;
        }
        let shift = self.vector(types::I8X16, [0x80; 16]);
        let excess = self.along_depth(STEP, &zeros, |emitter, depth, sums| {
            let lines = lines.iter().zip(sums);
            lines
                .map(|(&line, &sum)| {
                    let bytes = emitter.load_line(line, depth);
                    emitter.dot(sum, bytes, shift)
                })
                .collect()
        });
        excess.into_iter().map(|excess| self.b.ins().isub(zero, excess)).collect()
    }

    /// Adds the products of 16 bytes of a row and of a column to four partial sums.
    fn dot(&mut self, sum: Value, row: Value, column: Value) -> Value {
        match (self.machine.dot, self.contraction().non_negative) {
            (Dot::UnsignedSigned, Some(Side::Lhs)) => self.dot_bytes(sum, column, row, true),
            (Dot::UnsignedSigned, _) => self.dot_bytes(sum, row, column, true),
            (Dot::Signed, _) => self.dot_bytes(sum, row, column, false),
            (Dot::Pairs | Dot::Scalar, _) => self.dot_pairs(sum, row, column),
        }
    }

    /// The tree that becomes `vpdpbusd` or `sdot`: `b` must be the unsigned one, the other order is not recognized.
    fn dot_bytes(&mut self, sum: Value, a: Value, b: Value, unsigned: bool) -> Value {
        let (a_low, a_high) = (self.b.ins().swiden_low(a), self.b.ins().swiden_high(a));
        let (b_low, b_high) = if unsigned {
            (self.b.ins().uwiden_low(b), self.b.ins().uwiden_high(b))
        } else {
            (self.b.ins().swiden_low(b), self.b.ins().swiden_high(b))
        };
        let [low, high] = [(a_low, b_low), (a_high, b_high)].map(|(a, b)| {
            let products = self.b.ins().imul(a, b);
            let (low, high) = (self.b.ins().swiden_low(products), self.b.ins().swiden_high(products));
            self.b.ins().iadd_pairwise(low, high)
        });
        let added = self.b.ins().iadd_pairwise(low, high);
        self.b.ins().iadd(added, sum)
    }

    /// The same sums in another order, as two `pmaddwd`.
    fn dot_pairs(&mut self, sum: Value, row: Value, column: Value) -> Value {
        let low = (self.b.ins().swiden_low(row), self.b.ins().swiden_low(column));
        let high = (self.b.ins().swiden_high(row), self.b.ins().swiden_high(column));
        [low, high].into_iter().fold(sum, |sum, (a, b)| {
            let (a_low, b_low) = (self.b.ins().swiden_low(a), self.b.ins().swiden_low(b));
            let (a_high, b_high) = (self.b.ins().swiden_high(a), self.b.ins().swiden_high(b));
            let (low, high) = (self.b.ins().imul(a_low, b_low), self.b.ins().imul(a_high, b_high));
            let products = self.b.ins().iadd_pairwise(low, high);
            self.b.ins().iadd(sum, products)
        })
    }

    /// Four vectors of partial sums as the vector of their totals.
    fn gather_sums(&mut self, sums: [Value; 4]) -> Value {
        let (low, high) =
            (self.b.ins().iadd_pairwise(sums[0], sums[1]), self.b.ins().iadd_pairwise(sums[2], sums[3]));
        self.b.ins().iadd_pairwise(low, high)
    }

    fn scalar_tile(&mut self, rows: &Rows, block: Block) -> Vec<Value> {
        let rhs = self.contraction().rhs;
        let column = self.line(rhs, Row { first: block.column, ahead: 0 });
        self.along_depth(1, &rows.starts, |emitter, depth, sums| {
            let column = emitter.load_product(column, depth);
            let lines = rows.lines.iter().zip(sums);
            lines
                .map(|(&line, &sum)| {
                    let row = emitter.load_product(line, depth);
                    let product = emitter.b.ins().imul(row, column);
                    emitter.b.ins().iadd(sum, product)
                })
                .collect()
        })
    }

    fn load_product(&mut self, line: Line, depth: Value) -> Value {
        let base = self.b.ins().iadd(line.start.base, depth);
        self.load_one(DType::I8, Address { base, ..line.start })
    }
}
