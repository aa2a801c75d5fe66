//! The loops of a kernel.
//!
//! Without a contraction: for each row, each stage in turn. With one, the first stage takes as many rows at a time as a
//! tile has, so that a vector of the right operand serves them all, and it runs over a chunk of rows before the later
//! stages do, which then find what it stored in the cache. Where the right operand is larger than a core's cache, the
//! first stage runs over the whole chunk for one panel of columns after the other:
//!
//! ```text
//! for each chunk of rows
//!     for each panel of columns                 (only where the right operand is large)
//!         for each group of rows in the chunk   (a tile's rows; single rows at the end)
//!             for each block of columns         (4; the last one may be partial)
//!                 the accumulators of group x block, then the first stage's expressions
//!     for each row in the chunk
//!         the later stages
//! ```

use cranelift_codegen::ir::{InstBuilder, Value};
use ffc_ir::kernel::{Expr, Fold, Level, Over};
use ffc_ir::types::DType;

use super::Emitter;
use super::expr::{Block, Point, Row, Valid, Values};
use super::reduce::Partial;
use crate::layout::row_bytes;
use crate::plan::{self, Plan};

/// Rows in a chunk: a multiple of every tile's rows, few enough that what a chunk stores stays in a core's cache.
const CHUNK: usize = 48;

/// A right operand of at most this many bytes needs no panels.
const RESIDENT: usize = 1 << 20;

/// Bytes of a panel.
const PANEL: usize = 1 << 18;

/// Some columns of a row.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Value,
    pub(super) to: Value,
    /// Whether these are all columns.
    pub(super) whole: bool,
}

impl Emitter<'_> {
    /// All of a kernel.
    pub(super) fn nest(&mut self) {
        let kernel = self.kernel;
        let plans: Vec<Plan> = kernel.stages.iter().map(|stage| Plan::new(kernel, stage)).collect();
        let mut values = Values::new(kernel.exprs.len());
        let roots = kernel.stages.iter().flat_map(|stage| plan::roots(stage).chain(stage.when));
        self.evaluate(&plan::needed(kernel, roots), Level::Kernel, Point::default(), &mut values);
        let (first, end) = (self.first, self.end);
        match plans.split_first() {
            Some((stage, later)) if stage.accumulates => {
                self.pieces(first, end, CHUNK, |emitter, from, to| {
                    emitter.chunk(stage, later, &values, from, to)
                });
            }
            _ => {
                self.steps(first, end, 1, |emitter, row| emitter.stages(&plans, &values, row));
            }
        }
        self.pad_across();
    }

    fn chunk(&mut self, first: &Plan, later: &[Plan], values: &Values, from: Value, to: Value) {
        let whole = self.whole();
        match self.panel(first) {
            None => self.groups(first, values, from, to, whole),
            Some(columns) => self.pieces(whole.from, whole.to, columns, |emitter, left, right| {
                let span = Span { from: left, to: right, whole: false };
                emitter.groups(first, values, from, to, span);
            }),
        }
        if !later.is_empty() {
            self.steps(from, to, 1, |emitter, row| emitter.stages(later, values, row));
        }
    }

    fn whole(&mut self) -> Span {
        Span { from: self.int(0), to: self.columns.value, whole: true }
    }

    /// Columns of a panel, where there should be panels. `f32` sums are not divided, nor reductions whose old results
    /// the stage reads.
    fn panel(&self, plan: &Plan) -> Option<usize> {
        let rhs = self.buffer(self.kernel.contraction?.rhs);
        let divisible = plan.stage.reduces.iter().all(|reduce| {
            let reads =
                |&handle: &_| matches!(self.kernel.exprs[handle], Expr::Load(from, _) if from == reduce.into);
            let kept = matches!(self.buffer(reduce.into).dtype, DType::I32 | DType::F32);
            reduce.op != Fold::SumF32 && kept && !plan.needed.iter().any(reads)
        });
        let columns = (PANEL / row_bytes(rhs)).next_multiple_of(16);
        let large = rhs.shape[0].size(rhs.samples) * row_bytes(rhs) > RESIDENT;
        (large && divisible).then_some(columns)
    }

    /// A stage with a contraction, for some rows.
    fn groups(&mut self, plan: &Plan, values: &Values, from: Value, to: Value, span: Span) {
        // Rows that may be left out are taken one at a time.
        let count = if plan.stage.when.is_some() { 1 } else { self.tile_height() };
        let rest = if count == 1 {
            from
        } else {
            self.steps(from, to, count, |emitter, row| emitter.group(plan, values, row, count, span))
        };
        self.steps(rest, to, 1, |emitter, row| emitter.group(plan, values, row, 1, span));
    }

    fn stages(&mut self, plans: &[Plan], values: &Values, row: Value) {
        let whole = self.whole();
        for plan in plans {
            self.group(plan, values, row, 1, whole);
        }
    }

    /// A stage for a group of rows.
    fn group(&mut self, plan: &Plan, values: &Values, first: Value, count: usize, span: Span) {
        let Some(when) = plan.stage.when else {
            return self.ungated(plan, values, first, count, span);
        };
        let mut values = values.clone();
        let row = Row { first, ahead: 0 };
        self.evaluate(&plan.gate, Level::Row, Point { row: Some(row), ..Point::default() }, &mut values);
        let mask = self.operand(when, Level::Row, &values);
        let known = self.quotients.len();
        self.when(mask, |emitter| emitter.ungated(plan, &values, first, count, span));
        // What was computed in the branch is not there behind it.
        self.quotients.truncate(known);
    }

    fn ungated(&mut self, plan: &Plan, values: &Values, first: Value, count: usize, span: Span) {
        let mut rows = Vec::with_capacity(count);
        for ahead in 0..count {
            let row = Row { first, ahead };
            let mut values = values.clone();
            self.divide_rows(&plan.needed, row);
            self.evaluate(
                &plan.needed,
                Level::Row,
                Point { row: Some(row), ..Point::default() },
                &mut values,
            );
            rows.push((row, values));
        }
        match plan.stage.over {
            Over::Elements => self.elements(plan, &rows, span),
            Over::Rows => {
                for (row, values) in &rows {
                    self.stores(plan, Point { row: Some(*row), ..Point::default() }, values);
                }
            }
        }
    }

    fn stores(&mut self, plan: &Plan, point: Point, values: &Values) {
        for store in &plan.stage.stores {
            self.store(store, point, values);
        }
    }

    /// A stage over elements, for a group of rows and a span of columns.
    fn elements(&mut self, plan: &Plan, rows: &[(Row, Values)], span: Span) {
        let partials: Vec<Vec<Partial>> =
            rows.iter().map(|_| self.begin_reduces(&plan.stage.reduces)).collect();
        let tile_rows = plan.accumulates.then(|| self.tile_rows(rows[0].0.first, rows.len()));
        let block = |emitter: &mut Self, column: Value, valid: Valid| {
            let block = Block { column, valid };
            let accumulators = tile_rows.as_ref().map(|rows| emitter.tile(rows, block));
            emitter.block(plan, rows, block, accumulators.as_deref(), &partials);
        };
        let rest = self.steps(span.from, span.to, self.lanes(), |emitter, at| block(emitter, at, Valid::All));
        self.last_block(rest, span, block);
        for ((row, _), partials) in rows.iter().zip(&partials) {
            self.pad_row(plan.stage, *row, span);
            let point = Point { row: Some(*row), ..Point::default() };
            for (reduce, partial) in plan.stage.reduces.iter().zip(partials) {
                self.end_reduce(reduce, *partial, point, span);
            }
        }
    }

    /// The columns that are left when no whole block is.
    fn last_block(&mut self, rest: Value, span: Span, block: impl FnOnce(&mut Self, Value, Valid)) {
        let valid = match self.columns.known {
            Some(columns) if columns % self.lanes() == 0 => return,
            Some(columns) if span.whole => return block(self, rest, Valid::First(columns % self.lanes())),
            Some(columns) => Valid::First(columns % self.lanes()),
            None if self.lanes() == 1 => return,
            None => Valid::Count(self.b.ins().isub(span.to, rest)),
        };
        let left = self.less(rest, span.to);
        self.when(left, |emitter| block(emitter, rest, valid));
    }

    /// A stage for a group of rows and a block of columns: all loads come before all stores.
    fn block(
        &mut self,
        plan: &Plan,
        rows: &[(Row, Values)],
        block: Block,
        accumulators: Option<&[Value]>,
        partials: &[Vec<Partial>],
    ) {
        let mut evaluated = Vec::with_capacity(rows.len());
        for (index, (row, values)) in rows.iter().enumerate() {
            let accumulator = accumulators.map(|accumulators| accumulators[index]);
            let point = Point { row: Some(*row), block: Some(block), accumulator };
            let mut values = values.clone();
            self.evaluate(&plan.needed, Level::Element, point, &mut values);
            evaluated.push((point, values));
        }
        for ((point, values), partials) in evaluated.iter().zip(partials) {
            self.stores(plan, *point, values);
            for (reduce, partial) in plan.stage.reduces.iter().zip(partials) {
                let value = self.operand(reduce.value, Level::Element, values);
                self.reduce(*partial, block, value);
            }
        }
    }
}
