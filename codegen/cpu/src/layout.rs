//! Where the elements of a buffer lie, as all of this backend's code sees it.

use ffc_ir::kernel::{At, Buffer, BufferClass, Extent, Outside, ROW_ALIGN};
use ffc_ir::types::DType;

/// Bytes between neighbouring rows.
pub(crate) fn row_bytes(buffer: &Buffer) -> usize {
    buffer.stride() * buffer.dtype.bytes()
}

/// Bytes between neighbouring elements of a vector, which is a row or a column.
pub(crate) fn vector_pitch(buffer: &Buffer) -> usize {
    if buffer.shape[0] == Extent::Const(1) { buffer.dtype.bytes() } else { row_bytes(buffer) }
}

/// Bytes between the elements of neighbouring columns.
pub(crate) fn column_pitch(buffer: &Buffer, at: At) -> usize {
    match at {
        At::Element | At::Sample(_) | At::Columns(_) | At::Flat(_) | At::Window { .. } => {
            buffer.dtype.bytes()
        }
        At::Planar { positions, .. } => positions * buffer.dtype.bytes(),
        At::Transposed | At::Back { .. } => row_bytes(buffer),
        At::Column => vector_pitch(buffer),
        At::Row | At::RowSample(_) | At::Scalar => 0,
    }
}

/// Whether a vector may reach beyond the last column.
pub(crate) fn padded(buffer: &Buffer, at: At) -> bool {
    let ours = matches!(buffer.class, BufferClass::Arena | BufferClass::Param { .. });
    ours && match at {
        At::Element | At::Sample(_) => !buffer.dense && !is_dense_column(buffer),
        // Dense vectors are padded at their end, whether they are a row or a column.
        At::Column => true,
        At::Transposed | At::Row | At::RowSample(_) | At::Scalar => false,
        At::Columns(_) | At::Flat(_) | At::Window { .. } | At::Planar { .. } | At::Back { .. } => false,
    }
}

/// Whether nothing lies between the elements of neighbouring rows.
pub(crate) fn is_dense_column(buffer: &Buffer) -> bool {
    buffer.shape[1] == Extent::Const(1) && buffer.stride() == 1
}

/// Contractions read whole multiples of this.
pub(crate) const PADDING: usize = 16;

/// Whether the rows of a buffer are padded by whoever stores them.
pub(crate) fn is_padded_here(buffer: &Buffer) -> bool {
    buffer.dtype == DType::I8
        && buffer.class == BufferClass::Arena
        && !buffer.dense
        && !is_dense_column(buffer)
}

/// Whether contractions may read zeros behind the rows of an operand, up to a multiple of [`ROW_ALIGN`] bytes.
pub(crate) fn is_padded_operand(buffer: &Buffer) -> bool {
    !buffer.dense || matches!(buffer.shape[1], Extent::Const(width) if width % ROW_ALIGN == 0)
}

/// The bits of what a window sees beyond the edge of a buffer, widened as loads widen.
pub(crate) fn outside_bits(dtype: DType, outside: Outside) -> u32 {
    match (outside, dtype) {
        (Outside::Zero, _) => 0,
        (Outside::Least, DType::F32) => f32::NEG_INFINITY.to_bits(),
        (Outside::Least, _) => i32::from(i8::MIN).cast_unsigned(),
    }
}

/// Numbers below 2^31 are divided by a constant as `number * factor >> shift`.
pub(crate) fn reciprocal(divisor: usize) -> (u64, u32) {
    let shift = 31 + divisor.next_power_of_two().trailing_zeros();
    let factor = (1u64 << shift).div_ceil(u64::try_from(divisor).expect("sizes fit in 64 bits"));
    (factor, shift)
}
