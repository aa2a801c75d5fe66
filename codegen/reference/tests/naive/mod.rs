//! A second executor: one element at a time, one expression at a time, as the kernel IR reads.

use ffc_ir::kernel::{
    At, Binary, Buffer, Expr, Extent, Fold, Geometry, Kernel, Outside, Over, Program, Unary,
};
use ffc_ir::numerics::{Arith, Number, Scalar, ordered_sum};
use ffc_ir::{Handle, Window};
use ffc_reference::{Executor, Values};

pub(crate) struct Naive {
    data: Vec<Values>,
    strides: Vec<usize>,
    /// Elements between neighbours of a vector.
    pitches: Vec<usize>,
}

impl Naive {
    /// Starts with the memory of an executor.
    pub(crate) fn new(program: &Program, executor: &Executor) -> Self {
        let pitch = |it: &Buffer| if it.shape[0] == Extent::Const(1) { 1 } else { it.stride() };
        Self {
            pitches: program.buffers.values().map(pitch).collect(),
            data: program.buffers.iter().map(|(handle, _)| executor.raw(handle).clone()).collect(),
            strides: program.buffers.values().map(Buffer::stride).collect(),
        }
    }

    pub(crate) fn data(&self, buffer: Handle<Buffer>) -> &Values {
        &self.data[buffer.index()]
    }

    fn index(&self, buffer: Handle<Buffer>, at: At, i: usize, j: usize) -> usize {
        let (stride, pitch) = (self.strides[buffer.index()], self.pitches[buffer.index()]);
        match at {
            At::Window { .. } => unreachable!("a window may see nothing"),
            At::Flat(columns) => i * columns + j,
            At::Planar { positions, copies } => {
                i / (positions * copies) * stride + j * positions + i % positions
            }
            At::Back { taps, inputs, outputs } => {
                let (channel, tap) = (i / taps, i % taps);
                let (group, input) = (channel / inputs, channel % inputs);
                (group * outputs + j) * stride + (taps - 1 - tap) * inputs + input
            }
            At::Element => i * stride + j,
            At::Transposed => j * stride + i,
            At::Sample(n) => i / n * stride + j,
            At::Columns(n) => i * stride + n + j,
            At::Row => i * pitch,
            At::RowSample(n) => i / n * pitch,
            At::Column => j * pitch,
            At::Scalar => 0,
        }
    }

    fn accumulator(&self, kernel: &Kernel, samples: usize, i: usize, j: usize) -> Number {
        let Some(contraction) = &kernel.contraction else { return Number::I32(0) };
        let (lhs, rhs) = (contraction.lhs, contraction.rhs);
        let mut sum = match self.data(lhs) {
            Values::F32(_) => Number::F32(0.0),
            _ => Number::I32(0),
        };
        for d in 0..contraction.depth.size(samples) {
            let element = |buffer, [row, column]: [usize; 2]| {
                self.data(buffer).get(self.index(buffer, At::Element, row, column))
            };
            let channels = |buffer: Handle<Buffer>| self.strides[buffer.index()];
            let places = match contraction.geometry {
                Geometry::Dense => Some(([i, d], [j, d])),
                Geometry::Convolution(window) => {
                    seen(&window, i, d / channels(lhs)).map(|source| ([source, d % channels(lhs)], [j, d]))
                }
                Geometry::ConvolutionGrad(window) => {
                    seen(&window, d, j / channels(rhs)).map(|source| ([i, d], [source, j % channels(rhs)]))
                }
                Geometry::Depthwise(window) => seen(&window, i, d).map(|source| ([source, j], [j, d])),
                Geometry::DepthwiseGrad(window) => seen(&window, d, j).map(|source| ([d, i], [source, i])),
            };
            let Some((left, right)) = places else { continue };
            let (a, b) = (element(lhs, left), element(rhs, right));
            sum = match sum {
                Number::F32(sum) => Number::F32(sum + a.as_f32() * b.as_f32()),
                Number::I32(sum) => Number::I32(sum.wrapping_add(a.as_i32().wrapping_mul(b.as_i32()))),
            };
        }
        sum
    }

    fn evaluate(&self, kernel: &Kernel, accumulator: Number, i: usize, j: usize) -> Vec<Number> {
        let mut values: Vec<Number> = Vec::new();
        for &expr in kernel.exprs.values() {
            let of = |handle: Handle<Expr>| values[handle.index()];
            let value = match expr {
                Expr::Accumulator => accumulator,
                Expr::RowIndex => Number::I32(i as i32),
                Expr::ColumnIndex => Number::I32(j as i32),
                Expr::ConstF32(bits) => Number::F32(f32::from_bits(bits)),
                Expr::ConstI32(value) => Number::I32(value),
                Expr::Load(buffer, At::Window { window, tap, outside }) => match seen(&window.into(), i, tap)
                {
                    Some(row) => self.data(buffer).get(self.index(buffer, At::Element, row, j)),
                    None => beyond(self.data(buffer), outside),
                },
                Expr::Load(buffer, at) => self.data(buffer).get(self.index(buffer, at, i, j)),
                Expr::Unary(op, a) => unary(op, of(a)),
                Expr::Binary(op, a, b) => binary(op, of(a), of(b)),
                Expr::Select(mask, a, b) => Scalar.select(of(mask), of(a), of(b)),
            };
            values.push(value);
        }
        values
    }

    pub(crate) fn run_kernel(&mut self, kernel: &Kernel, samples: usize) {
        let (rows, columns) = (kernel.rows.size(samples), kernel.columns.size(samples));
        for (number, stage) in kernel.stages.iter().enumerate() {
            for i in 0..rows {
                let visited = if stage.over == Over::Rows { 1 } else { columns };
                let mut reduced: Vec<Vec<Number>> = vec![Vec::new(); stage.reduces.len()];
                let mut skipped = false;
                for j in 0..visited {
                    let uses = number == 0 && kernel.contraction.is_some();
                    let accumulator =
                        if uses { self.accumulator(kernel, samples, i, j) } else { Number::I32(0) };
                    let values = self.evaluate(kernel, accumulator, i, j);
                    if stage.when.is_some_and(|mask| values[mask.index()].as_i32() == 0) {
                        skipped = true;
                        break;
                    }
                    for store in &stage.stores {
                        let index = self.index(store.buffer, store.at, i, j);
                        self.data[store.buffer.index()].set(index, values[store.value.index()]);
                    }
                    for (list, reduce) in reduced.iter_mut().zip(&stage.reduces) {
                        list.push(values[reduce.value.index()]);
                    }
                }
                for (list, reduce) in reduced.iter().zip(&stage.reduces) {
                    if !skipped {
                        self.data[reduce.into.index()].set(i, fold(reduce.op, list));
                    }
                }
            }
        }
    }
}

fn seen(window: &Window, row: usize, tap: usize) -> Option<usize> {
    let source = window.source(row % window.outputs(), tap)?;
    Some(row / window.outputs() * window.inputs() + source)
}

fn beyond(data: &Values, outside: Outside) -> Number {
    match (data, outside) {
        (Values::F32(_), Outside::Zero) => Number::F32(0.0),
        (Values::F32(_), Outside::Least) => Number::F32(f32::NEG_INFINITY),
        (_, Outside::Zero) => Number::I32(0),
        (_, Outside::Least) => Number::I32(-128),
    }
}

fn fold(op: Fold, values: &[Number]) -> Number {
    let floats = values.iter().map(|value| value.as_f32());
    let ints = values.iter().map(|value| value.as_i32());
    match op {
        Fold::SumI32 => Number::I32(ints.fold(0, i32::wrapping_add)),
        Fold::MaxI32 => Number::I32(ints.fold(i32::MIN, i32::max)),
        Fold::SumF32 => Number::F32(ordered_sum(floats)),
        Fold::MaxF32 => Number::F32(floats.fold(f32::NEG_INFINITY, |a, b| if a < b { b } else { a })),
    }
}

fn unary(op: Unary, a: Number) -> Number {
    match op {
        Unary::Sqrt => Scalar.sqrt(a),
        Unary::ToF32 => Scalar.to_f32(a),
        Unary::Round => Scalar.round(a),
        Unary::Truncate => Scalar.truncate(a),
        Unary::ToBits => Scalar.to_bits(a),
        Unary::FromBits => Scalar.from_bits(a),
        Unary::Shl(by) => Scalar.shl(a, by),
        Unary::Shr(by) => Scalar.shr(a, by),
        Unary::Sar(by) => Scalar.sar(a, by),
        Unary::Rem(by) => Number::I32((a.as_i32() as u32 % by) as i32),
    }
}

fn binary(op: Binary, a: Number, b: Number) -> Number {
    match op {
        Binary::FAdd => Scalar.fadd(a, b),
        Binary::FSub => Scalar.fsub(a, b),
        Binary::FMul => Scalar.fmul(a, b),
        Binary::FDiv => Scalar.fdiv(a, b),
        Binary::FMax => Scalar.fmax(a, b),
        Binary::FMin => Scalar.fmin(a, b),
        Binary::FLt => Scalar.flt(a, b),
        Binary::IAdd => Scalar.iadd(a, b),
        Binary::ISub => Scalar.isub(a, b),
        Binary::IMul => Scalar.imul(a, b),
        Binary::IMin => Scalar.imin(a, b),
        Binary::IMax => Scalar.imax(a, b),
        Binary::And => Scalar.and(a, b),
        Binary::Xor => Scalar.xor(a, b),
        Binary::ILt => Scalar.ilt(a, b),
        Binary::IEq => Scalar.ieq(a, b),
    }
}
