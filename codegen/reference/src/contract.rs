//! The contraction of a kernel, on ndarray's GEMM (matrixmultiply: one thread, packed, vectorised for the machine).
//!
//! The integer contraction runs on the same `f32` GEMM, and is exact. A product of two `i8` has a magnitude of at most
//! 2^14, so the sum of any [`EXACT_DEPTH`] = 2^10 of them, and every partial sum in whatever order, fused or not, is an
//! integer of magnitude at most 2^24: all of these are `f32` values. Longer sums are cut into blocks of that depth,
//! which are added up as integers.

use std::ops::Range;

use ffc_ir::Window;
use ffc_ir::kernel::{Contraction, Geometry};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

use crate::memory::{Memory, Values};

/// Products of two `i8` whose sum is exact in `f32` in any order.
const EXACT_DEPTH: usize = 1 << 10;
/// Positions of an image that are copied at a time, to be multiplied: what a window sees is never all in memory.
const BLOCK: usize = 1 << 10;

/// Accumulators of a kernel, row-major without padding, and copies that contractions need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulators {
    pub(crate) floats: Vec<f32>,
    pub(crate) ints: Vec<i32>,
    lhs: Vec<f32>,
    rhs: Vec<f32>,
}

/// A matrix in memory.
struct Matrix<'a, T> {
    data: &'a [T],
    stride: usize,
}

impl Accumulators {
    /// Fills the accumulators of `rows x columns` elements.
    pub(crate) fn fill(&mut self, memory: &Memory, contraction: &Contraction, size: [usize; 3]) {
        let (lhs_stride, rhs_stride) = (memory.stride(contraction.lhs), memory.stride(contraction.rhs));
        match (memory.data(contraction.lhs), memory.data(contraction.rhs)) {
            (Values::F32(lhs), Values::F32(rhs)) => {
                let lhs = Matrix { data: lhs, stride: lhs_stride };
                let rhs = Matrix { data: rhs, stride: rhs_stride };
                self.fill_floats(contraction.geometry, &lhs, &rhs, size);
            }
            (Values::I8(lhs), Values::I8(rhs)) => {
                let lhs = Matrix { data: lhs, stride: lhs_stride };
                let rhs = Matrix { data: rhs, stride: rhs_stride };
                self.fill_ints(contraction.geometry, &lhs, &rhs, size);
            }
            (lhs, rhs) => {
                unreachable!("a verified kernel contracts no {} with {}", lhs.dtype(), rhs.dtype())
            }
        }
    }

    fn fill_floats(
        &mut self,
        geometry: Geometry,
        lhs: &Matrix<'_, f32>,
        rhs: &Matrix<'_, f32>,
        [rows, columns, depth]: [usize; 3],
    ) {
        self.floats.clear();
        self.floats.resize(rows * columns, 0.0);
        match geometry {
            Geometry::Dense => multiply(lhs, rhs, &mut self.floats, [rows, columns, depth]),
            Geometry::Convolution(window) => {
                for start in (0..rows).step_by(BLOCK) {
                    let block = BLOCK.min(rows - start);
                    look(lhs, &window, start..start + block, [0, depth], &mut self.lhs);
                    let lhs = Matrix { data: &self.lhs, stride: depth };
                    let out = &mut self.floats[start * columns..][..block * columns];
                    multiply(&lhs, rhs, out, [block, columns, depth]);
                }
            }
            Geometry::ConvolutionGrad(window) => {
                for start in (0..depth).step_by(BLOCK) {
                    let block = BLOCK.min(depth - start);
                    look(rhs, &window, start..start + block, [0, columns], &mut self.rhs);
                    let lhs = Matrix { data: &lhs.data[start..], stride: lhs.stride };
                    let rhs = Matrix { data: &self.rhs, stride: columns };
                    accumulate(&lhs, &rhs, &mut self.floats, [rows, columns, block]);
                }
            }
            Geometry::Depthwise(window) => each_tap(&window, rows, |row, tap, source| {
                let out = &mut self.floats[row * columns..][..columns];
                for (channel, out) in out.iter_mut().enumerate() {
                    *out += lhs.at(source, channel) * rhs.at(channel, tap);
                }
            }),
            Geometry::DepthwiseGrad(window) => each_tap(&window, depth, |row, tap, source| {
                for channel in 0..rows {
                    self.floats[channel * columns + tap] += lhs.at(row, channel) * rhs.at(source, channel);
                }
            }),
        }
    }

    fn fill_ints(
        &mut self,
        geometry: Geometry,
        lhs: &Matrix<'_, i8>,
        rhs: &Matrix<'_, i8>,
        [rows, columns, depth]: [usize; 3],
    ) {
        self.ints.clear();
        self.ints.resize(rows * columns, 0);
        match geometry {
            Geometry::Dense => {
                widen(rhs, columns, 0, depth, &mut self.rhs);
                self.multiply_ints([rows, columns, depth], |rows, [start, block], out| {
                    let rows_of = Matrix { data: &lhs.data[rows.start * lhs.stride..], stride: lhs.stride };
                    widen(&rows_of, rows.len(), start, block, out);
                });
            }
            Geometry::Convolution(window) => {
                widen(rhs, columns, 0, depth, &mut self.rhs);
                self.multiply_ints([rows, columns, depth], |rows, part, out| {
                    look(lhs, &window, rows, part, out);
                });
            }
            Geometry::ConvolutionGrad(window) => {
                for start in (0..depth).step_by(EXACT_DEPTH) {
                    let block = EXACT_DEPTH.min(depth - start);
                    look(rhs, &window, start..start + block, [0, columns], &mut self.rhs);
                    widen(lhs, rows, start, block, &mut self.lhs);
                    self.floats.clear();
                    self.floats.resize(rows * columns, 0.0);
                    let lhs = Matrix { data: &self.lhs, stride: block };
                    let rhs = Matrix { data: &self.rhs, stride: columns };
                    accumulate(&lhs, &rhs, &mut self.floats, [rows, columns, block]);
                    add(&mut self.ints, &self.floats);
                }
            }
            Geometry::Depthwise(window) => each_tap(&window, rows, |row, tap, source| {
                let out = &mut self.ints[row * columns..][..columns];
                for (channel, out) in out.iter_mut().enumerate() {
                    let product = i32::from(lhs.at(source, channel)) * i32::from(rhs.at(channel, tap));
                    *out = out.wrapping_add(product);
                }
            }),
            Geometry::DepthwiseGrad(window) => each_tap(&window, depth, |row, tap, source| {
                for channel in 0..rows {
                    let product = i32::from(lhs.at(row, channel)) * i32::from(rhs.at(source, channel));
                    let out = &mut self.ints[channel * columns + tap];
                    *out = out.wrapping_add(product);
                }
            }),
        }
    }

    /// Blocks of rows times the widened right operand; `left` makes columns `[first, count]` of some rows of the left one.
    fn multiply_ints(
        &mut self,
        [rows, columns, depth]: [usize; 3],
        left: impl Fn(Range<usize>, [usize; 2], &mut Vec<f32>),
    ) {
        for first in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - first);
            self.floats.resize(count * columns, 0.0);
            for start in (0..depth).step_by(EXACT_DEPTH) {
                let block = EXACT_DEPTH.min(depth - start);
                left(first..first + count, [start, block], &mut self.lhs);
                let lhs = Matrix { data: &self.lhs, stride: block };
                let rhs = Matrix { data: &self.rhs[start..], stride: depth };
                multiply(&lhs, &rhs, &mut self.floats[..count * columns], [count, columns, block]);
                add(&mut self.ints[first * columns..][..count * columns], &self.floats);
            }
        }
    }
}

impl<T: Copy> Matrix<'_, T> {
    fn at(&self, row: usize, column: usize) -> T {
        self.data[row * self.stride + column]
    }
}

fn add(sums: &mut [i32], parts: &[f32]) {
    for (sum, &part) in sums.iter_mut().zip(parts) {
        *sum = sum.wrapping_add(part as i32);
    }
}

/// Each position of a result with each tap that sees something, and the row of the image that it sees.
fn each_tap(window: &Window, positions: usize, mut visit: impl FnMut(usize, usize, usize)) {
    for row in 0..positions {
        for tap in 0..window.taps() {
            if let Some(source) = window.source_row(row, tap) {
                visit(row, tap, source);
            }
        }
    }
}

/// Columns `[first, count]` of what some positions see, tap after tap, as dense `f32` rows.
fn look<T: Copy + Into<f32>>(
    image: &Matrix<'_, T>,
    window: &Window,
    positions: Range<usize>,
    [first, count]: [usize; 2],
    to: &mut Vec<f32>,
) {
    to.clear();
    to.resize(positions.len() * count, 0.0);
    let channels = image.stride;
    let last = first + count;
    for (row, to) in positions.zip(to.chunks_exact_mut(count)) {
        for tap in first / channels..last.div_ceil(channels) {
            let Some(source) = window.source_row(row, tap) else { continue };
            let wanted = (tap * channels).max(first)..((tap + 1) * channels).min(last);
            let from = &image.data[source * channels + wanted.start - tap * channels..][..wanted.len()];
            let to = &mut to[wanted.start - first..wanted.end - first];
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
        }
    }
}

/// Columns `start..start + block` as dense `f32` rows.
fn widen(from: &Matrix<'_, i8>, rows: usize, start: usize, block: usize, to: &mut Vec<f32>) {
    to.resize(rows * block, 0.0);
    for (row, to) in to.chunks_exact_mut(block).enumerate() {
        let from = &from.data[row * from.stride + start..][..block];
        to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
    }
}

/// `out = lhs * transpose(rhs)`.
fn multiply(
    lhs: &Matrix<'_, f32>,
    rhs: &Matrix<'_, f32>,
    out: &mut [f32],
    [rows, columns, depth]: [usize; 3],
) {
    let lhs = view(lhs, rows, depth);
    let rhs = view(rhs, columns, depth);
    let mut out =
        ArrayViewMut2::from_shape((rows, columns), out).expect("accumulators have the domain's size");
    general_mat_mul(1.0, &lhs, &rhs.t(), 0.0, &mut out);
}

/// `out += lhs * rhs`.
fn accumulate(
    lhs: &Matrix<'_, f32>,
    rhs: &Matrix<'_, f32>,
    out: &mut [f32],
    [rows, columns, depth]: [usize; 3],
) {
    let lhs = view(lhs, rows, depth);
    let rhs = view(rhs, depth, columns);
    let mut out =
        ArrayViewMut2::from_shape((rows, columns), out).expect("accumulators have the domain's size");
    general_mat_mul(1.0, &lhs, &rhs, 1.0, &mut out);
}

fn view<'a>(matrix: &Matrix<'a, f32>, rows: usize, columns: usize) -> ArrayView2<'a, f32> {
    let len = (rows - 1) * matrix.stride + columns;
    let shape = (rows, columns).strides((matrix.stride, 1));
    ArrayView2::from_shape(shape, &matrix.data[..len]).expect("operands have the contraction's size")
}
