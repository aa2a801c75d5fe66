//! The loops of a kernel.
//!
//! Without a contraction: for each row, each stage in turn. With one, the first stage takes as many rows at a time as a
//! tile has, so that a vector of the right operand serves them all, and it runs over a chunk of rows before the later
//! stages do, which then find what it stored in the cache. It runs over the whole chunk for one panel of columns after
//! the other where the right operand is larger than a core's cache, and where accumulators are computed panel by panel:
//!
//! ```text
//! for each chunk of rows
//!     for each panel of columns                 (one, unless there is reason for more)
//!         the accumulators of chunk x panel     (where `vex` computes them; of single rows, where some are left out)
//!         for each group of rows in the chunk   (a tile's rows; single rows at the end)
//!             for each block of columns         (4; the last one may be partial)
//!                 the accumulators of group x block, then the first stage's expressions
//!     for each row in the chunk
//!         the later stages
//! ```

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use ffc_ir::kernel::{Level, Over, Stage};

use super::Emitter;
use super::expr::{Block, Point, Row, Valid, Values};
use super::reduce::{Partial, Partials};
use crate::layout::row_bytes;
use crate::plan::{self, Plan};

/// Rows in a chunk: a multiple of every tile's rows, few enough that what a chunk stores stays in a core's cache. Where
/// `vex` packs columns for each chunk, it says how many are worth that.
pub(super) const CHUNK: usize = 48;

/// A right operand of at most this many bytes needs no panels.
const RESIDENT: usize = 1 << 20;

/// Bytes of a panel.
const PANEL: usize = 1 << 18;

/// A stage, and what it reduces.
struct Pass<'a> {
    plan: Plan<'a>,
    partials: Vec<Partials>,
}

/// Some columns of the rows of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// The chunk's first row.
    top: Value,
    pub(super) from: Value,
    pub(super) to: Value,
    /// Whether these are all columns.
    pub(super) whole: bool,
}

impl<'a> Emitter<'a> {
    /// All of a kernel.
    pub(super) fn nest(&mut self) {
        let kernel = self.kernel;
        let passes: Vec<Pass> = kernel.stages.iter().map(|stage| self.pass(stage)).collect();
        let mut values = Values::new(kernel.exprs.len());
        let roots = kernel.stages.iter().flat_map(|stage| plan::roots(stage).chain(stage.when));
        self.evaluate(&plan::needed(kernel, roots), Level::Kernel, Point::default(), &mut values);
        let (first, end) = (self.first, self.end);
        match passes.split_first() {
            Some((stage, later)) if stage.plan.accumulates => {
                let chunk = self.chunk_rows();
                self.begin_contraction(chunk);
                self.pieces(first, end, chunk, |emitter, from, to| {
                    emitter.chunk(stage, later, &values, from, to)
                });
            }
            _ => {
                self.steps(first, end, 1, |emitter, row| emitter.stages(&passes, &values, row));
            }
        }
        self.pad_across();
    }

    fn chunk_rows(&self) -> usize {
        self.staging.map_or(CHUNK, |staging| staging.rows)
    }

    /// Whether accumulators are computed for all rows of a chunk, even if some are left out.
    fn by_chunks(&self) -> bool {
        self.staging.is_some_and(|staging| staging.by_chunks(self.kernel))
    }

    fn pass(&mut self, stage: &'a Stage) -> Pass<'a> {
        let plan = Plan::new(self.kernel, stage);
        let rows = if plan.accumulates { self.chunk_rows() } else { 1 };
        let partials = stage.reduces.iter().map(|reduce| self.partials(reduce, rows)).collect();
        Pass { plan, partials }
    }

    fn chunk(&mut self, first: &Pass, later: &[Pass], values: &Values, from: Value, to: Value) {
        let whole = self.whole(from);
        match self.panel() {
            None => self.groups(first, values, to, whole),
            Some(columns) => self.pieces(whole.from, whole.to, columns, |emitter, left, right| {
                let span = Span { from: left, to: right, whole: false, ..whole };
                emitter.groups(first, values, to, span);
            }),
        }
        if !later.is_empty() {
            self.steps(from, to, 1, |emitter, row| emitter.stages(later, values, row));
        }
    }

    fn whole(&mut self, top: Value) -> Span {
        Span { top, from: self.int(0), to: self.columns.value, whole: true }
    }

    /// Runs the body if the span is its rows' first one.
    pub(super) fn at_first(&mut self, span: Span, body: impl FnOnce(&mut Self)) {
        let zero = self.int(0);
        self.if_equal(span, span.from, zero, body);
    }

    /// Runs the body if the span is its rows' last one.
    pub(super) fn at_last(&mut self, span: Span, body: impl FnOnce(&mut Self)) {
        self.if_equal(span, span.to, self.columns.value, body);
    }

    fn if_equal(&mut self, span: Span, a: Value, b: Value, body: impl FnOnce(&mut Self)) {
        if span.whole {
            return body(self);
        }
        let equal = self.b.ins().icmp(IntCC::Equal, a, b);
        self.when(equal, body);
    }

    /// Columns of a panel, where there should be panels.
    fn panel(&self) -> Option<usize> {
        if let (Some(_), Some(staging)) = (self.products, self.staging) {
            let few = self.columns.known.is_some_and(|columns| columns <= staging.columns);
            return (!few).then_some(staging.columns);
        }
        let rhs = self.buffer(self.kernel.contraction?.rhs);
        let large = rhs.shape[0].size(rhs.samples) * row_bytes(rhs) > RESIDENT;
        large.then_some((PANEL / row_bytes(rhs)).next_multiple_of(16))
    }

    /// A stage with a contraction, for the rows of a chunk.
    fn groups(&mut self, pass: &Pass, values: &Values, to: Value, span: Span) {
        let group =
            |count| move |emitter: &mut Self, row: Value| emitter.group(pass, values, row, count, span);
        let gated = pass.plan.stage.when.is_some();
        if !gated || self.by_chunks() {
            let rows = self.b.ins().isub(to, span.top);
            self.multiply(span.top, rows, span);
        }
        // Rows that may be left out are taken one at a time.
        if gated {
            self.steps(span.top, to, 1, group(1));
            return;
        }
        let height = self.tile_height();
        let rest = if height == 1 { span.top } else { self.steps(span.top, to, height, group(height)) };
        self.steps(rest, to, 1, group(1));
    }

    fn stages(&mut self, passes: &[Pass], values: &Values, row: Value) {
        let whole = self.whole(row);
        for pass in passes {
            self.group(pass, values, row, 1, whole);
        }
    }

    /// A stage for a group of rows.
    fn group(&mut self, pass: &Pass, values: &Values, first: Value, count: usize, span: Span) {
        let plan = &pass.plan;
        let Some(when) = plan.stage.when else {
            return self.ungated(pass, values, first, count, span);
        };
        let mut values = values.clone();
        let row = Row { first, ahead: 0 };
        self.evaluate(&plan.gate, Level::Row, Point { row: Some(row), ..Point::default() }, &mut values);
        let mask = self.operand(when, Level::Row, &values);
        let known = (self.quotients.len(), self.sights.len());
        let alone = plan.accumulates && !self.by_chunks();
        self.when(mask, |emitter| {
            if alone {
                let one = emitter.int(1);
                emitter.multiply(first, one, span);
            }
            emitter.ungated(pass, &values, first, count, span);
        });
        // What was computed in the branch is not there behind it.
        self.quotients.truncate(known.0);
        self.sights.truncate(known.1);
    }

    fn ungated(&mut self, pass: &Pass, values: &Values, first: Value, count: usize, span: Span) {
        let plan = &pass.plan;
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
            Over::Elements => self.elements(pass, &rows, span),
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
    fn elements(&mut self, Pass { plan, partials }: &Pass, rows: &[(Row, Values)], span: Span) {
        let partials: Vec<Vec<Partial>> =
            rows.iter().map(|(row, _)| self.partials_of(partials, *row, span)).collect();
        self.at_first(span, |emitter| {
            partials.iter().flatten().for_each(|&partial| emitter.begin_reduce(partial));
        });
        partials.iter().flatten().for_each(|&partial| self.hold(partial));
        let tile_rows = plan.accumulates.then(|| self.tile_rows(rows[0].0.first, rows.len()));
        let block = |emitter: &mut Self, column: Value, valid: Valid| {
            let block = Block { column, valid };
            let accumulators = tile_rows.as_ref().map(|rows| emitter.tile(rows, block));
            emitter.block(plan, rows, block, accumulators.as_deref(), &partials);
        };
        let rest = self.steps(span.from, span.to, self.lanes(), |emitter, at| block(emitter, at, Valid::All));
        self.last_block(rest, span, block);
        partials.iter().flatten().for_each(|&partial| self.put_back(partial));
        for ((row, _), partials) in rows.iter().zip(&partials) {
            self.pad_row(plan.stage, *row, span);
            let point = Point { row: Some(*row), ..Point::default() };
            self.at_last(span, |emitter| {
                for (reduce, partial) in plan.stage.reduces.iter().zip(partials) {
                    emitter.end_reduce(reduce, *partial, point);
                }
            });
        }
    }

    fn partials_of(&mut self, partials: &[Partials], row: Row, span: Span) -> Vec<Partial> {
        let number = self.row_number(row);
        let index = self.b.ins().isub(number, span.top);
        partials.iter().map(|&partials| self.partial(partials, index)).collect()
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
