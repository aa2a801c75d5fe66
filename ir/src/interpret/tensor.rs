//! Whole matrices of plain numbers.

use crate::numerics::Number;
use crate::types::DType;

/// A matrix, row-major without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements.
    pub data: Data,
}

/// Elements by their type.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// [`DType::U8`].
    U8(Vec<u8>),
    /// [`DType::I8`].
    I8(Vec<i8>),
    /// [`DType::I16`].
    I16(Vec<i16>),
    /// [`DType::I32`].
    I32(Vec<i32>),
    /// [`DType::F32`].
    F32(Vec<f32>),
}

impl Tensor {
    /// A matrix of zeros.
    pub fn zeros(dtype: DType, rows: usize, columns: usize) -> Self {
        let len = rows * columns;
        let data = match dtype {
            DType::U8 => Data::U8(vec![0; len]),
            DType::I8 => Data::I8(vec![0; len]),
            DType::I16 => Data::I16(vec![0; len]),
            DType::I32 => Data::I32(vec![0; len]),
            DType::F32 => Data::F32(vec![0.0; len]),
        };
        Self { rows, columns, data }
    }

    /// A matrix of `f32`, given row by row.
    pub fn f32(rows: usize, columns: usize, data: Vec<f32>) -> Self {
        Self { rows, columns, data: Data::F32(data) }
    }

    /// A matrix of `i8`, given row by row.
    pub fn i8(rows: usize, columns: usize, data: Vec<i8>) -> Self {
        Self { rows, columns, data: Data::I8(data) }
    }

    /// A matrix of `i32`, given row by row.
    pub fn i32(rows: usize, columns: usize, data: Vec<i32>) -> Self {
        Self { rows, columns, data: Data::I32(data) }
    }

    /// `f32[1, 1]`.
    pub fn scalar(value: f32) -> Self {
        Self::f32(1, 1, vec![value])
    }

    /// A matrix of the type that holds what `element` gives for each row and column; integers are truncated to it.
    pub(super) fn fill(
        dtype: DType,
        rows: usize,
        columns: usize,
        mut element: impl FnMut(usize, usize) -> Number,
    ) -> Self {
        let numbers = (0..rows * columns).map(|index| element(index / columns, index % columns));
        let data = match dtype {
            DType::U8 => Data::U8(numbers.map(|number| number.as_i32() as u8).collect()),
            DType::I8 => Data::I8(numbers.map(|number| number.as_i32() as i8).collect()),
            DType::I16 => Data::I16(numbers.map(|number| number.as_i32() as i16).collect()),
            DType::I32 => Data::I32(numbers.map(Number::as_i32).collect()),
            DType::F32 => Data::F32(numbers.map(Number::as_f32).collect()),
        };
        Self { rows, columns, data }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::U8(_) => DType::U8,
            Data::I8(_) => DType::I8,
            Data::I16(_) => DType::I16,
            Data::I32(_) => DType::I32,
            Data::F32(_) => DType::F32,
        }
    }

    /// One element; rows and columns of size 1 stand for any.
    pub(super) fn at(&self, row: usize, column: usize) -> Number {
        let row = if self.rows == 1 { 0 } else { row };
        let column = if self.columns == 1 { 0 } else { column };
        self.number(row * self.columns + column)
    }

    /// The element at this position, rows one after the other.
    pub fn number(&self, index: usize) -> Number {
        match &self.data {
            Data::U8(data) => Number::I32(data[index].into()),
            Data::I8(data) => Number::I32(data[index].into()),
            Data::I16(data) => Number::I32(data[index].into()),
            Data::I32(data) => Number::I32(data[index]),
            Data::F32(data) => Number::F32(data[index]),
        }
    }

    /// All elements, rows one after the other, integers converted.
    pub fn to_f32s(&self) -> Vec<f32> {
        (0..self.rows * self.columns)
            .map(|index| match self.number(index) {
                Number::F32(value) => value,
                Number::I32(value) => value as f32,
            })
            .collect()
    }
}
