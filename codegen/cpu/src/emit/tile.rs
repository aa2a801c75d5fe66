//! Contraction tiles: the accumulators of a few rows and four columns.
//!
//! Where the machine has AVX2, `vex` has computed them already, and they are loaded ([`Emitter::multiply`]). Otherwise both
//! operands lie along the depth, so a tile is `rows x 4` dot products. Each has a vector of four partial sums, which grows
//! by 16 products a step; at the end, pairwise additions turn the four vectors of a row into one that holds its four
//! accumulators. Rows are padded with zeros, so the depth is rounded up to whole steps.
//!
//! Everything that knows how accumulators come about is in this file.

use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, FuncRef, InstBuilder, Signature, StackSlot, UserExternalName, Value,
    types,
};
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Extent, Kind};
use ffc_ir::types::DType;

use super::expr::{Block, Row, Valid};
use super::memory::Address;
use super::nest::Span;
use super::{Emitter, is_depthwise, memory_flags};
use crate::layout::row_bytes;
use crate::machine::Dot;
use crate::vex;

/// Bytes of an accumulator.
const ACCUMULATOR: usize = 4;

/// Products in a step.
const STEP: usize = 16;

/// One row of an operand.
#[derive(Clone, Copy)]
pub(super) struct Line {
    start: Address,
    /// There is one byte to load: a column's elements may have no padding between them.
    single: bool,
    /// It is written before it is read.
    copied: bool,
}

/// Rows of an operand, side by side.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) start: Value,
    /// Bytes between them.
    pub(super) pitch: usize,
    /// Whether they are on the stack, and not where the operand lies.
    pub(super) copied: bool,
}

/// The function of `vex`, if there is one, and the accumulators that are left on the stack.
#[derive(Clone, Copy)]
pub(super) struct Products {
    function: Option<FuncRef>,
    sums: StackSlot,
    /// Where they would begin if they were those of all rows and columns.
    computed: Option<Value>,
}

/// What tiles of the same rows share.
pub(super) enum Rows {
    /// Where their accumulators are, those of column 0 first.
    Computed(Vec<Address>),
    /// The rows themselves.
    Lines(Vec<Line>),
}

impl Emitter<'_> {
    /// Rows of a tile: as many as leave its `rows x 4` accumulators, a vector of each row and one of a column in the
    /// registers. `Pairs` wants two for each row and column, and has 16 in all.
    pub(super) fn tile_height(&self) -> usize {
        match self.machine.dot {
            Dot::Signed => 3,
            Dot::Pairs => 2,
            Dot::Scalar => 1,
        }
    }

    /// What all tiles of these rows share.
    pub(super) fn tile_rows(&mut self, first: Value, count: usize) -> Rows {
        if let Some(Products { computed: Some(computed), .. }) = self.products {
            let base = self.indexed(computed, first, vex::PITCH);
            let row = |ahead| self.ahead(Address { base, offset: 0 }, ahead * vex::PITCH);
            return Rows::Computed((0..count).map(row).collect());
        }
        let lhs = self.contraction().lhs;
        Rows::Lines((0..count).map(|ahead| self.line(lhs, Row { first, ahead })).collect())
    }

    /// Makes room for accumulators, if they are not for tiles to compute as they are wanted.
    pub(super) fn begin_contraction(&mut self, rows: usize) {
        let (contraction, staging) = (self.contraction(), self.staging.expect("there is a contraction"));
        if self.machine.products.is_none() && !staging.by_chunks(self.kernel) {
            return;
        }
        let function =
            (self.machine.products.is_some() && !is_depthwise(&contraction)).then(|| self.declare());
        let sums = self.room(rows.next_multiple_of(vex::HEIGHT) * vex::PITCH);
        self.products = Some(Products { function, sums, computed: None });
        self.copies = Some(self.begin_copies(&contraction, &staging));
    }

    /// Declares the function that multiplies: the only one that kernels call.
    fn declare(&mut self) -> FuncRef {
        let mut signature = Signature::new(self.machine.isa.default_call_conv());
        signature.params = vec![AbiParam::new(types::I64); 6];
        let signature = self.b.import_signature(signature);
        let name = self.b.func.declare_imported_user_function(UserExternalName::new(0, 0));
        self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        })
    }

    /// Computes the accumulators of some rows of a chunk and a span of columns, if they are not to be computed tile by
    /// tile.
    pub(super) fn multiply(&mut self, from: Value, count: Value, span: Span) {
        let Some(products) = self.products else { return };
        let at = self.b.ins().stack_addr(types::I64, products.sums, 0);
        self.multiply_geometry(from, count, span, at);
        let rows = self.indexed_back(at, from, vex::PITCH);
        let computed = Some(self.indexed_back(rows, span.from, ACCUMULATOR));
        self.products = Some(Products { computed, ..products });
    }

    /// Accumulators of rows by columns, `depth` deep, to `sums`, or added to what is there.
    pub(super) fn product(
        &mut self,
        lhs: Lines,
        count: Value,
        rhs: Lines,
        columns: Value,
        depth: Value,
        sums: Value,
    ) {
        if let Some(Products { function: Some(function), .. }) = self.products {
            self.b.ins().call(function, &[lhs.start, count, rhs.start, columns, depth, sums]);
            return;
        }
        let (height, zero, depth) = (self.tile_height(), self.int(0), self.round_up(depth, STEP));
        let mut rest = zero;
        for height in [height, 1] {
            rest = self.steps(rest, count, height, |emitter, row| {
                let base = emitter.indexed(lhs.start, row, lhs.pitch);
                let line = |ahead: usize| emitter.ahead(Address { base, offset: 0 }, ahead * lhs.pitch);
                let starts: Vec<Address> = (0..height).map(line).collect();
                let line = |start| Line { start, single: false, copied: lhs.copied };
                let lines: Vec<Line> = starts.into_iter().map(line).collect();
                let sums = emitter.indexed(sums, row, vex::PITCH);
                emitter.band(&lines, rhs, columns, depth, sums);
            });
        }
    }

    /// The accumulators of a tile's rows and some columns.
    fn band(&mut self, lines: &[Line], rhs: Lines, columns: Value, depth: Value, sums: Value) {
        let block = |emitter: &mut Self, column: Value, valid: Valid| {
            let base = emitter.indexed(rhs.start, column, rhs.pitch);
            let first = Line { start: Address { base, offset: 0 }, single: false, copied: rhs.copied };
            let to = emitter.indexed(sums, column, ACCUMULATOR);
            let results = emitter.dot_products(lines, first, rhs.pitch, valid, depth);
            for (number, mut sum) in results.into_iter().enumerate() {
                let Address { base, offset } =
                    emitter.ahead(Address { base: to, offset: 0 }, number * vex::PITCH);
                if emitter.staging.is_some_and(|staging| staging.adds) {
                    let ty = emitter.b.func.dfg.value_type(sum);
                    let before = emitter.b.ins().load(ty, memory_flags(), base, offset);
                    sum = emitter.b.ins().iadd(before, sum);
                }
                emitter.b.ins().store(memory_flags(), sum, base, offset);
            }
        };
        let (zero, lanes) = (self.int(0), self.lanes());
        let rest = self.steps(zero, columns, lanes, |emitter, at| block(emitter, at, Valid::All));
        let left = self.less(rest, columns);
        self.when(left, |emitter| {
            let count = emitter.b.ins().isub(columns, rest);
            block(emitter, rest, Valid::Count(count));
        });
    }

    /// The accumulators of some rows and the columns of a block, by row.
    pub(super) fn tile(&mut self, rows: &Rows, block: Block) -> Vec<Value> {
        let lines = match rows {
            Rows::Computed(rows) => return self.computed_tile(rows, block),
            Rows::Lines(lines) => lines,
        };
        let rhs = self.contraction().rhs;
        let pitch = row_bytes(self.buffer(rhs));
        let first = self.line(rhs, Row { first: block.column, ahead: 0 });
        let depth = self.size(self.contraction().depth);
        let step = if self.lanes() == 1 { 1 } else { STEP };
        let depth = match depth.known {
            Some(known) => self.int(known.next_multiple_of(step)),
            None => self.round_up(depth.value, step),
        };
        self.dot_products(lines, first, pitch, block.valid, depth)
    }

    /// The sums of products of some rows with the columns of a block, the first of them given, by row.
    fn dot_products(
        &mut self,
        lines: &[Line],
        first: Line,
        pitch: usize,
        valid: Valid,
        depth: Value,
    ) -> Vec<Value> {
        if self.lanes() == 1 {
            return self.scalar_tile(lines, first, depth);
        }
        // The last valid one in place of those that are not.
        let columns =
            [0, 1, 2, 3].map(|lane| Line { start: self.lane(first.start, lane, pitch, valid), ..first });
        // Column by column: values are computed in the order in which a loop hands them on, so that of the columns'
        // vectors only one is live at a time.
        let zero = self.words(types::I32X4, [0; 4]);
        let starts = vec![zero; 4 * lines.len()];
        let sums = self.along_depth(STEP, depth, &starts, |emitter, depth, sums| {
            let vectors: Vec<Value> = lines.iter().map(|&line| emitter.load_line(line, depth)).collect();
            let mut next = Vec::with_capacity(sums.len());
            for (&line, sums) in columns.iter().zip(sums.chunks_exact(vectors.len())) {
                let bytes = emitter.load_line(line, depth);
                next.extend(vectors.iter().zip(sums).map(|(&row, &sum)| emitter.dot(sum, row, bytes)));
            }
            next
        });
        let count = lines.len();
        (0..count)
            .map(|row| self.gather_sums([0, 1, 2, 3].map(|column| sums[column * count + row])))
            .collect()
    }

    fn computed_tile(&mut self, rows: &[Address], block: Block) -> Vec<Value> {
        let ty = self.ty(Kind::Int, self.lanes() > 1);
        let load = |&Address { base, offset }: &Address| {
            let base = self.indexed(base, block.column, ACCUMULATOR);
            self.b.ins().load(ty, memory_flags(), base, offset)
        };
        rows.iter().map(load).collect()
    }

    fn contraction(&self) -> Contraction {
        self.kernel.contraction.expect("only kernels with a contraction have tiles")
    }

    fn line(&mut self, operand: Handle<Buffer>, row: Row) -> Line {
        let (buffer, pointer) = (self.buffer(operand), self.pointer(operand));
        let base = self.indexed(pointer, row.first, row_bytes(buffer));
        let start = self.ahead(Address { base, offset: 0 }, row.ahead * row_bytes(buffer));
        Line { start, single: self.contraction().depth == Extent::Const(1), copied: false }
    }

    /// Runs the body for each step of the depth.
    fn along_depth(
        &mut self,
        step: usize,
        depth: Value,
        starts: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let zero = self.int(0);
        self.fold(zero, depth, step, starts, body).1
    }

    /// 16 bytes of a line.
    fn load_line(&mut self, line: Line, depth: Value) -> Value {
        let base = self.b.ins().iadd(line.start.base, depth);
        let offset = line.start.offset;
        if !line.single {
            let flags = memory_flags().with_aligned();
            let flags = if line.copied { flags } else { flags.with_readonly().with_can_move() };
            return self.b.ins().load(types::I8X16, flags, base, offset);
        }
        let byte = self.b.ins().uload8(types::I32, memory_flags(), base, offset);
        let vector = self.b.ins().scalar_to_vector(types::I32X4, byte);
        self.cast(types::I8X16, vector)
    }

    /// Adds the products of 16 bytes of a row and of a column to four partial sums.
    fn dot(&mut self, sum: Value, row: Value, column: Value) -> Value {
        match self.machine.dot {
            Dot::Signed => self.dot_bytes(sum, row, column),
            Dot::Pairs | Dot::Scalar => self.dot_pairs(sum, row, column),
        }
    }

    /// The tree that becomes `sdot`.
    fn dot_bytes(&mut self, sum: Value, a: Value, b: Value) -> Value {
        let (a_low, a_high) = (self.b.ins().swiden_low(a), self.b.ins().swiden_high(a));
        let (b_low, b_high) = (self.b.ins().swiden_low(b), self.b.ins().swiden_high(b));
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

    fn scalar_tile(&mut self, lines: &[Line], column: Line, depth: Value) -> Vec<Value> {
        let zero = self.b.ins().iconst(types::I32, 0);
        self.along_depth(1, depth, &vec![zero; lines.len()], |emitter, depth, sums| {
            let column = emitter.load_product(column, depth);
            let lines = lines.iter().zip(sums);
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
