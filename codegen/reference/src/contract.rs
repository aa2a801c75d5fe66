//! The contraction of a kernel, on ndarray's GEMM (matrixmultiply: one thread, packed, vectorised for the machine).
//!
//! The integer contraction runs on the same `f32` GEMM, and is exact. A product of two `i8` has a magnitude of at most
//! 2^14, so the sum of any [`EXACT_DEPTH`] = 2^10 of them, and every partial sum in whatever order, fused or not, is an
//! integer of magnitude at most 2^24: all of these are `f32` values. Longer sums are cut into blocks of that depth,
//! which are added up as integers.

use ffc_ir::kernel::Contraction;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

use crate::memory::{Memory, Values};

/// Products of two `i8` whose sum is exact in `f32` in any order.
const EXACT_DEPTH: usize = 1 << 10;

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
    pub(crate) fn fill(
        &mut self,
        memory: &Memory,
        contraction: &Contraction,
        [rows, columns, depth]: [usize; 3],
    ) {
        let (lhs_stride, rhs_stride) = (memory.stride(contraction.lhs), memory.stride(contraction.rhs));
        match (memory.data(contraction.lhs), memory.data(contraction.rhs)) {
            (Values::F32(lhs), Values::F32(rhs)) => {
                self.floats.resize(rows * columns, 0.0);
                let lhs = Matrix { data: lhs, stride: lhs_stride };
                let rhs = Matrix { data: rhs, stride: rhs_stride };
                multiply(&lhs, &rhs, &mut self.floats, [rows, columns, depth]);
            }
            (Values::I8(lhs), Values::I8(rhs)) => {
                let lhs = Matrix { data: lhs, stride: lhs_stride };
                let rhs = Matrix { data: rhs, stride: rhs_stride };
                self.fill_ints(&lhs, &rhs, [rows, columns, depth]);
            }
            (lhs, rhs) => {
                unreachable!("a verified kernel contracts no {} with {}", lhs.dtype(), rhs.dtype())
            }
        }
    }

    fn fill_ints(&mut self, lhs: &Matrix<'_, i8>, rhs: &Matrix<'_, i8>, [rows, columns, depth]: [usize; 3]) {
        self.ints.clear();
        self.ints.resize(rows * columns, 0);
        self.floats.resize(rows * columns, 0.0);
        for start in (0..depth).step_by(EXACT_DEPTH) {
            let block = EXACT_DEPTH.min(depth - start);
            widen(lhs, rows, start, block, &mut self.lhs);
            widen(rhs, columns, start, block, &mut self.rhs);
            let lhs = Matrix { data: &self.lhs, stride: block };
            let rhs = Matrix { data: &self.rhs, stride: block };
            multiply(&lhs, &rhs, &mut self.floats, [rows, columns, block]);
            for (sum, &part) in self.ints.iter_mut().zip(&self.floats) {
                *sum = sum.wrapping_add(part as i32);
            }
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

fn view<'a>(matrix: &Matrix<'a, f32>, rows: usize, columns: usize) -> ArrayView2<'a, f32> {
    let len = (rows - 1) * matrix.stride + columns;
    let shape = (rows, columns).strides((matrix.stride, 1));
    ArrayView2::from_shape(shape, &matrix.data[..len]).expect("operands have the contraction's size")
}
