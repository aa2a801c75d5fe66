//! Runs the stages of a kernel over all rows.

use ffc_ir::Handle;
use ffc_ir::kernel::{Binary, Expr, Fold, Kind, Over, Reduce, Unary};
use ffc_ir::numerics::{LANES, Number};

use crate::contract::Accumulators;
use crate::memory::Memory;
use crate::ops::{self, In, copy};
use crate::plan::{KernelPlan, Place, StagePlan};

/// Columns that are evaluated at once: a multiple of [`LANES`], so that sums meet the same lanes in every tile, and
/// few enough for the values of a formula to stay in the cache.
const TILE: usize = 512;
const _: () = assert!(TILE.is_multiple_of(LANES));

/// What a kernel needs while it runs; kept between kernels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    scalars: Vec<Number>,
    slots: Slots,
    accumulators: Accumulators,
}

/// Values of a tile.
#[derive(Clone, Debug, Default)]
struct Slots {
    floats: Vec<Vec<f32>>,
    ints: Vec<Vec<i32>>,
}

impl Scratch {
    /// Runs a kernel for a batch of `samples`.
    pub(crate) fn run(&mut self, memory: &mut Memory, kernel: &KernelPlan, samples: usize) {
        let (rows, columns) = (kernel.rows.size(samples), kernel.columns.size(samples));
        if let Some(contraction) = &kernel.contraction {
            let depth = contraction.depth.size(samples);
            self.accumulators.fill(memory, contraction, [rows, columns, depth]);
        }
        self.scalars.resize(kernel.exprs.len().max(self.scalars.len()), Number::I32(0));
        for stage in &kernel.stages {
            self.reserve(stage);
            evaluate_scalars(kernel, &stage.once, memory, &mut self.scalars, 0);
            for row in 0..rows {
                self.run_row(memory, kernel, stage, row, columns);
            }
        }
    }

    fn reserve(&mut self, stage: &StagePlan) {
        let [floats, ints] = stage.slots;
        while self.slots.floats.len() < floats {
            self.slots.floats.push(vec![0.0; TILE]);
        }
        while self.slots.ints.len() < ints {
            self.slots.ints.push(vec![0; TILE]);
        }
    }

    fn run_row(
        &mut self,
        memory: &mut Memory,
        kernel: &KernelPlan,
        stage: &StagePlan,
        row: usize,
        columns: usize,
    ) {
        evaluate_scalars(kernel, &stage.per_row, memory, &mut self.scalars, row);
        if let Some(mask) = stage.when
            && self.scalars[mask.index()].as_i32() == 0
        {
            return;
        }
        match stage.over {
            Over::Rows => {
                for store in &stage.stores {
                    memory.set_scalar(store.buffer, store.at, row, self.scalars[store.value.index()]);
                }
            }
            Over::Elements => self.run_tiles(memory, kernel, stage, row, columns),
        }
    }

    fn run_tiles(
        &mut self,
        memory: &mut Memory,
        kernel: &KernelPlan,
        stage: &StagePlan,
        row: usize,
        columns: usize,
    ) {
        let mut folds: Vec<Folding> = stage.reduces.iter().map(Folding::new).collect();
        for start in (0..columns).step_by(TILE) {
            let len = TILE.min(columns - start);
            let acc_start = row * columns + start;
            self.evaluate_tile(memory, kernel, stage, [row, start, len, acc_start]);
            let tile = self.tile(memory, kernel, stage, [row, start, len, acc_start]);
            for (fold, reduce) in folds.iter_mut().zip(&stage.reduces) {
                fold.add(&tile, reduce);
            }
            self.store(memory, kernel, stage, [row, start, len, acc_start]);
        }
        for (fold, reduce) in folds.iter().zip(&stage.reduces) {
            memory.data_mut(reduce.into).set(row, fold.result());
        }
    }

    fn tile<'a>(
        &'a self,
        memory: &'a Memory,
        kernel: &'a KernelPlan,
        stage: &'a StagePlan,
        [row, start, len, acc_start]: [usize; 4],
    ) -> Tile<'a> {
        let Self { scalars, slots, accumulators } = self;
        Tile { memory, kernel, stage, scalars, slots, accumulators, row, start, len, acc_start }
    }

    fn evaluate_tile(&mut self, memory: &Memory, kernel: &KernelPlan, stage: &StagePlan, at: [usize; 4]) {
        let len = at[2];
        for &(expr, slot) in &stage.per_tile {
            // The slot is taken out while it is written: the plan gives no operand the slot of its user.
            match kernel.kinds[expr.index()] {
                Kind::Float => {
                    let mut out = std::mem::take(&mut self.slots.floats[slot]);
                    self.tile(memory, kernel, stage, at).evaluate_float(expr, &mut out[..len]);
                    self.slots.floats[slot] = out;
                }
                Kind::Int => {
                    let mut out = std::mem::take(&mut self.slots.ints[slot]);
                    self.tile(memory, kernel, stage, at).evaluate_int(expr, &mut out[..len]);
                    self.slots.ints[slot] = out;
                }
            }
        }
    }

    fn store(&self, memory: &mut Memory, kernel: &KernelPlan, stage: &StagePlan, at: [usize; 4]) {
        let [row, start, len, acc_start] = at;
        for store in &stage.stores {
            let run = memory.run(store.buffer, store.at, row, start, len);
            let run = run.expect("no store looks through a window");
            let index = store.value.index();
            let place = stage.places[index];
            let accumulators = &self.accumulators;
            match kernel.kinds[index] {
                Kind::Float => {
                    let values = match place {
                        Place::Slot(slot) => In::Row(&self.slots.floats[slot][..len]),
                        Place::Memory => In::Row(&accumulators.floats[acc_start..acc_start + len]),
                        Place::Scalar | Place::Nowhere => In::One(self.scalars[index].as_f32()),
                    };
                    memory.store_floats(store.buffer, run, values);
                }
                Kind::Int => {
                    let values = match place {
                        Place::Slot(slot) => In::Row(&self.slots.ints[slot][..len]),
                        Place::Memory => In::Row(&accumulators.ints[acc_start..acc_start + len]),
                        Place::Scalar | Place::Nowhere => In::One(self.scalars[index].as_i32()),
                    };
                    memory.store_ints(store.buffer, run, values);
                }
            }
        }
    }
}

/// Evaluates expressions that do not move with the column.
fn evaluate_scalars(
    kernel: &KernelPlan,
    exprs: &[Handle<Expr>],
    memory: &Memory,
    scalars: &mut [Number],
    row: usize,
) {
    for &handle in exprs {
        scalars[handle.index()] = match kernel.exprs[handle] {
            Expr::RowIndex => Number::I32(row as i32),
            Expr::Load(buffer, at) => memory.scalar(buffer, at, row),
            expr => ops::scalar(expr, |operand| scalars[operand.index()]),
        };
    }
}

/// A part of a row, and all that its expressions may read.
struct Tile<'a> {
    memory: &'a Memory,
    kernel: &'a KernelPlan,
    stage: &'a StagePlan,
    scalars: &'a [Number],
    slots: &'a Slots,
    accumulators: &'a Accumulators,
    row: usize,
    start: usize,
    len: usize,
    /// Position of the first accumulator.
    acc_start: usize,
}

impl Tile<'_> {
    fn float(&self, expr: Handle<Expr>) -> In<'_, f32> {
        match self.stage.places[expr.index()] {
            Place::Slot(slot) => In::Row(&self.slots.floats[slot][..self.len]),
            Place::Scalar | Place::Nowhere => In::One(self.scalars[expr.index()].as_f32()),
            Place::Memory => In::Row(match self.kernel.exprs[expr] {
                Expr::Load(buffer, at) => {
                    let run = self.memory.run(buffer, at, self.row, self.start, self.len);
                    let run = run.expect("what lies in place is there");
                    self.memory.floats(buffer, run)
                }
                _ => &self.accumulators.floats[self.acc_start..self.acc_start + self.len],
            }),
        }
    }

    fn int(&self, expr: Handle<Expr>) -> In<'_, i32> {
        match self.stage.places[expr.index()] {
            Place::Slot(slot) => In::Row(&self.slots.ints[slot][..self.len]),
            Place::Scalar | Place::Nowhere => In::One(self.scalars[expr.index()].as_i32()),
            Place::Memory => In::Row(match self.kernel.exprs[expr] {
                Expr::Load(buffer, at) => {
                    let run = self.memory.run(buffer, at, self.row, self.start, self.len);
                    let run = run.expect("what lies in place is there");
                    self.memory.ints(buffer, run)
                }
                _ => &self.accumulators.ints[self.acc_start..self.acc_start + self.len],
            }),
        }
    }

    fn evaluate_float(&self, expr: Handle<Expr>, out: &mut [f32]) {
        match self.kernel.exprs[expr] {
            Expr::Load(buffer, at) => {
                self.memory.load_floats(buffer, at, self.row, self.start, out);
            }
            Expr::Unary(Unary::Sqrt, a) => copy(out, self.float(a), f32::sqrt),
            Expr::Unary(Unary::ToF32, a) => copy(out, self.int(a), |a| a as f32),
            Expr::Unary(_, a) => copy(out, self.int(a), |a| f32::from_bits(a as u32)),
            Expr::Binary(op, a, b) => ops::float_binary(op, out, self.float(a), self.float(b)),
            Expr::Select(mask, a, b) => ops::select(out, self.int(mask), self.float(a), self.float(b)),
            Expr::Accumulator
            | Expr::RowIndex
            | Expr::ColumnIndex
            | Expr::ConstF32(_)
            | Expr::ConstI32(_) => unreachable!("{expr:?} has no slot of floats"),
        }
    }

    fn evaluate_int(&self, expr: Handle<Expr>, out: &mut [i32]) {
        match self.kernel.exprs[expr] {
            Expr::ColumnIndex => {
                let start = self.start as i32;
                out.iter_mut().zip(0..).for_each(|(out, offset)| *out = start + offset);
            }
            Expr::Load(buffer, at) => {
                self.memory.load_ints(buffer, at, self.row, self.start, out);
            }
            Expr::Unary(Unary::Round, a) => copy(out, self.float(a), ops::round),
            Expr::Unary(Unary::Truncate, a) => copy(out, self.float(a), |a| a as i32),
            Expr::Unary(Unary::ToBits, a) => copy(out, self.float(a), |a| a.to_bits() as i32),
            Expr::Unary(op, a) => ops::int_unary(op, out, self.int(a)),
            Expr::Binary(Binary::FLt, a, b) => ops::float_less(out, self.float(a), self.float(b)),
            Expr::Binary(op, a, b) => ops::int_binary(op, out, self.int(a), self.int(b)),
            Expr::Select(mask, a, b) => ops::select(out, self.int(mask), self.int(a), self.int(b)),
            Expr::Accumulator | Expr::RowIndex | Expr::ConstF32(_) | Expr::ConstI32(_) => {
                unreachable!("{expr:?} has no slot of integers")
            }
        }
    }
}

/// A reduction that has seen some tiles of its row.
enum Folding {
    SumI32(i32),
    SumF32([f32; LANES]),
    MaxF32(f32),
    MaxI32(i32),
}

impl Folding {
    fn new(reduce: &Reduce) -> Self {
        match reduce.op {
            Fold::SumI32 => Self::SumI32(0),
            Fold::SumF32 => Self::SumF32([0.0; LANES]),
            Fold::MaxF32 => Self::MaxF32(f32::NEG_INFINITY),
            Fold::MaxI32 => Self::MaxI32(i32::MIN),
        }
    }

    fn add(&mut self, tile: &Tile<'_>, reduce: &Reduce) {
        match self {
            Self::SumI32(sum) => each(tile.int(reduce.value), tile.len, |v| *sum = sum.wrapping_add(v)),
            Self::MaxI32(most) => each(tile.int(reduce.value), tile.len, |v| *most = (*most).max(v)),
            Self::MaxF32(most) => {
                each(tile.float(reduce.value), tile.len, |v| *most = if *most < v { v } else { *most });
            }
            Self::SumF32(lanes) => match tile.float(reduce.value) {
                In::Row(values) => add_lanes(lanes, values),
                In::One(value) => add_lanes(lanes, &[value; TILE][..tile.len]),
            },
        }
    }

    fn result(&self) -> Number {
        match *self {
            Self::SumI32(value) | Self::MaxI32(value) => Number::I32(value),
            Self::MaxF32(value) => Number::F32(value),
            Self::SumF32(lanes) => Number::F32(fold_lanes(lanes)),
        }
    }
}

fn each<T: Copy>(values: In<'_, T>, len: usize, f: impl FnMut(T)) {
    match values {
        In::Row(values) => values.iter().copied().for_each(f),
        In::One(value) => std::iter::repeat_n(value, len).for_each(f),
    }
}

/// Adds a tile that starts at a multiple of [`LANES`].
fn add_lanes(lanes: &mut [f32; LANES], values: &[f32]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, value)| *lane += value);
}

/// Adds the upper half of the lanes to the lower until one is left.
fn fold_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}
