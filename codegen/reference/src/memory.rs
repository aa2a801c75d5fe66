//! Buffers of a program and how their elements are read and written.

use ffc_ir::kernel::{At, Buffer, Extent, Outside};
use ffc_ir::numerics::Number;
use ffc_ir::types::DType;
use ffc_ir::{Arena, Handle, Window};

use crate::ops::{In, copy};

/// Elements of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// 16-bit integers.
    I16(Vec<i16>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Single precision.
    F32(Vec<f32>),
}

/// Runs a block on the vector of any variant.
macro_rules! each {
    ($values:expr, $vector:ident => $body:expr) => {
        match $values {
            Values::U8($vector) => $body,
            Values::I8($vector) => $body,
            Values::I16($vector) => $body,
            Values::I32($vector) => $body,
            Values::F32($vector) => $body,
        }
    };
}

impl Values {
    /// Zeros.
    pub fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::U8 => Self::U8(vec![0; len]),
            DType::I8 => Self::I8(vec![0; len]),
            DType::I16 => Self::I16(vec![0; len]),
            DType::I32 => Self::I32(vec![0; len]),
            DType::F32 => Self::F32(vec![0.0; len]),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::U8(_) => DType::U8,
            Self::I8(_) => DType::I8,
            Self::I16(_) => DType::I16,
            Self::I32(_) => DType::I32,
            Self::F32(_) => DType::F32,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        each!(self, values => values.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element, widened to `i32` or `f32`.
    pub fn get(&self, index: usize) -> Number {
        match self {
            Self::U8(values) => Number::I32(values[index].into()),
            Self::I8(values) => Number::I32(values[index].into()),
            Self::I16(values) => Number::I32(values[index].into()),
            Self::I32(values) => Number::I32(values[index]),
            Self::F32(values) => Number::F32(values[index]),
        }
    }

    /// Sets the element; integers are truncated to the element type.
    pub fn set(&mut self, index: usize, value: Number) {
        match self {
            Self::U8(values) => values[index] = value.as_i32() as u8,
            Self::I8(values) => values[index] = value.as_i32() as i8,
            Self::I16(values) => values[index] = value.as_i32() as i16,
            Self::I32(values) => values[index] = value.as_i32(),
            Self::F32(values) => values[index] = value.as_f32(),
        }
    }

    /// The elements as little-endian bytes, as compiled code has them in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        each!(self, values => values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Elements from little-endian bytes; an incomplete last element is dropped.
    pub fn from_bytes(dtype: DType, bytes: &[u8]) -> Self {
        let two = bytes.as_chunks::<2>().0;
        let four = bytes.as_chunks::<4>().0;
        match dtype {
            DType::U8 => Self::U8(bytes.to_vec()),
            DType::I8 => Self::I8(bytes.iter().map(|&byte| byte as i8).collect()),
            DType::I16 => Self::I16(two.iter().map(|&chunk| i16::from_le_bytes(chunk)).collect()),
            DType::I32 => Self::I32(four.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect()),
            DType::F32 => Self::F32(four.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()),
        }
    }

    /// The first `columns` of each `stride` elements, `rows` times.
    pub(crate) fn without_padding(&self, rows: usize, columns: usize, stride: usize) -> Self {
        fn rows_of<T: Copy>(from: &[T], rows: usize, columns: usize, stride: usize) -> Vec<T> {
            (0..rows).flat_map(|row| &from[row * stride..row * stride + columns]).copied().collect()
        }
        match self {
            Self::U8(values) => Self::U8(rows_of(values, rows, columns, stride)),
            Self::I8(values) => Self::I8(rows_of(values, rows, columns, stride)),
            Self::I16(values) => Self::I16(rows_of(values, rows, columns, stride)),
            Self::I32(values) => Self::I32(rows_of(values, rows, columns, stride)),
            Self::F32(values) => Self::F32(rows_of(values, rows, columns, stride)),
        }
    }
}

/// Elements `start..start + len` along the columns of row `row`, as positions in memory: a first one and a step.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    first: usize,
    step: usize,
    len: usize,
}

/// All buffers, each padded to its stride.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    data: Vec<Values>,
    strides: Vec<usize>,
    /// Elements between neighbours of a vector, which is a row or a column.
    pitches: Vec<usize>,
}

impl Memory {
    /// Zeros for all buffers.
    pub(crate) fn new(buffers: &Arena<Buffer>) -> Self {
        let rows = |buffer: &Buffer| buffer.shape[0].size(buffer.samples);
        Self {
            data: buffers.values().map(|b| Values::zeros(b.dtype, rows(b) * b.stride())).collect(),
            strides: buffers.values().map(Buffer::stride).collect(),
            pitches: buffers.values().map(pitch).collect(),
        }
    }

    pub(crate) fn data(&self, buffer: Handle<Buffer>) -> &Values {
        &self.data[buffer.index()]
    }

    pub(crate) fn data_mut(&mut self, buffer: Handle<Buffer>) -> &mut Values {
        &mut self.data[buffer.index()]
    }

    pub(crate) fn stride(&self, buffer: Handle<Buffer>) -> usize {
        self.strides[buffer.index()]
    }

    /// Where an access that moves with the column goes, for a part of a row; nowhere if that is what a window sees beyond
    /// the edge.
    pub(crate) fn run(
        &self,
        buffer: Handle<Buffer>,
        at: At,
        row: usize,
        start: usize,
        len: usize,
    ) -> Option<Run> {
        let (stride, pitch) = (self.stride(buffer), self.pitches[buffer.index()]);
        Some(match at {
            At::Window { window, tap, .. } => {
                let seen = Window::from(window).source_row(row, tap)?;
                Run { first: seen * stride + start, step: 1, len }
            }
            At::Planar { positions, copies } => {
                let first = row / (positions * copies) * stride + start * positions + row % positions;
                Run { first, step: positions, len }
            }
            At::Back { taps, inputs, outputs } => {
                let [channel, tap] = [row / taps, taps - 1 - row % taps];
                let filter = channel / inputs * outputs + start;
                Run { first: filter * stride + tap * inputs + channel % inputs, step: stride, len }
            }
            At::Element => Run { first: row * stride + start, step: 1, len },
            At::Transposed => Run { first: start * stride + row, step: stride, len },
            At::Sample(n) => Run { first: row / n * stride + start, step: 1, len },
            At::Columns(n) => Run { first: row * stride + n + start, step: 1, len },
            At::Flat(columns) => Run { first: row * columns + start, step: 1, len },
            At::Column => Run { first: start * pitch, step: pitch, len },
            // One element for the whole row, which only a store in a kernel of one column can mean.
            At::Row | At::RowSample(_) | At::Scalar => Run { first: flat(at, row) * pitch, step: 1, len },
        })
    }

    /// An element that does not move with the column.
    pub(crate) fn scalar(&self, buffer: Handle<Buffer>, at: At, row: usize) -> Number {
        self.data(buffer).get(flat(at, row) * self.pitches[buffer.index()])
    }

    pub(crate) fn set_scalar(&mut self, buffer: Handle<Buffer>, at: At, row: usize, value: Number) {
        let pitch = self.pitches[buffer.index()];
        self.data_mut(buffer).set(flat(at, row) * pitch, value);
    }

    /// Contiguous `f32` elements in place.
    pub(crate) fn floats(&self, buffer: Handle<Buffer>, run: Run) -> &[f32] {
        match self.data(buffer) {
            Values::F32(values) => &values[run.first..run.first + run.len],
            other => unreachable!("a verified kernel loads floats from no {} buffer", other.dtype()),
        }
    }

    /// Contiguous `i32` elements in place.
    pub(crate) fn ints(&self, buffer: Handle<Buffer>, run: Run) -> &[i32] {
        match self.data(buffer) {
            Values::I32(values) => &values[run.first..run.first + run.len],
            other => unreachable!("a {} buffer is not read in place", other.dtype()),
        }
    }

    /// Copies `f32` elements of a row from column `start`.
    pub(crate) fn load_floats(
        &self,
        buffer: Handle<Buffer>,
        at: At,
        row: usize,
        start: usize,
        out: &mut [f32],
    ) {
        let Some(run) = self.run(buffer, at, row, start, out.len()) else {
            return out.fill(if is_least(at) { f32::NEG_INFINITY } else { 0.0 });
        };
        match self.data(buffer) {
            Values::F32(values) => gather(values, run, out, |value| value),
            other => unreachable!("a verified kernel loads floats from no {} buffer", other.dtype()),
        }
    }

    /// Widens integer elements of a row from column `start`.
    pub(crate) fn load_ints(
        &self,
        buffer: Handle<Buffer>,
        at: At,
        row: usize,
        start: usize,
        out: &mut [i32],
    ) {
        let Some(run) = self.run(buffer, at, row, start, out.len()) else {
            return out.fill(if is_least(at) { i8::MIN.into() } else { 0 });
        };
        match self.data(buffer) {
            Values::U8(values) => gather(values, run, out, i32::from),
            Values::I8(values) => gather(values, run, out, i32::from),
            Values::I16(values) => gather(values, run, out, i32::from),
            Values::I32(values) => gather(values, run, out, |value| value),
            Values::F32(_) => unreachable!("a verified kernel loads no integers from floats"),
        }
    }

    /// Stores `f32` elements.
    pub(crate) fn store_floats(&mut self, buffer: Handle<Buffer>, run: Run, values: In<'_, f32>) {
        match self.data_mut(buffer) {
            Values::F32(out) => scatter(out, run, values, |value| value),
            other => unreachable!("a verified kernel stores no floats into {}", other.dtype()),
        }
    }

    /// Stores integers, truncated to the element type.
    pub(crate) fn store_ints(&mut self, buffer: Handle<Buffer>, run: Run, values: In<'_, i32>) {
        match self.data_mut(buffer) {
            Values::U8(out) => scatter(out, run, values, |value| value as u8),
            Values::I8(out) => scatter(out, run, values, |value| value as i8),
            Values::I16(out) => scatter(out, run, values, |value| value as i16),
            Values::I32(out) => scatter(out, run, values, |value| value),
            Values::F32(_) => unreachable!("a verified kernel stores no integers into floats"),
        }
    }
}

/// Whether there is the least number where there is nothing.
fn is_least(at: At) -> bool {
    matches!(at, At::Window { outside: Outside::Least, .. })
}

/// Columns of narrow elements are rows of one element, padded like all rows.
fn pitch(buffer: &Buffer) -> usize {
    if buffer.shape[0] == Extent::Const(1) { 1 } else { buffer.stride() }
}

/// Which element of a vector.
fn flat(at: At, row: usize) -> usize {
    match at {
        At::Row => row,
        At::RowSample(n) => row / n,
        At::Scalar => 0,
        At::Element
        | At::Transposed
        | At::Sample(_)
        | At::Columns(_)
        | At::Column
        | At::Flat(_)
        | At::Window { .. }
        | At::Planar { .. }
        | At::Back { .. } => {
            unreachable!("{at:?} moves with the column")
        }
    }
}

fn gather<T: Copy, U>(from: &[T], run: Run, out: &mut [U], widen: impl Fn(T) -> U) {
    if run.step == 1 {
        let from = &from[run.first..run.first + run.len];
        out.iter_mut().zip(from).for_each(|(out, &value)| *out = widen(value));
    } else {
        let from = from[run.first..].iter().step_by(run.step);
        out.iter_mut().zip(from).for_each(|(out, &value)| *out = widen(value));
    }
}

fn scatter<T, U: Copy>(to: &mut [T], run: Run, values: In<'_, U>, narrow: impl Fn(U) -> T) {
    if run.step == 1 {
        copy(&mut to[run.first..run.first + run.len], values, narrow);
    } else {
        let to = to[run.first..].iter_mut().step_by(run.step).take(run.len);
        match values {
            In::Row(values) => to.zip(values).for_each(|(to, &value)| *to = narrow(value)),
            In::One(value) => to.for_each(|to| *to = narrow(value)),
        }
    }
}
