//! Where the elements of a buffer lie, as all of this backend's code sees it.

use ffc_ir::kernel::{At, Buffer, BufferClass, Extent};
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
        At::Element | At::Sample(_) => buffer.dtype.bytes(),
        At::Transposed => row_bytes(buffer),
        At::Column => vector_pitch(buffer),
        At::Row | At::RowSample(_) | At::Scalar => 0,
        At::Flat(_) | At::Window { .. } | At::Planar { .. } => unreachable!("`check` refuses images"),
    }
}

/// Whether a vector may reach beyond the last column.
pub(crate) fn padded(buffer: &Buffer, at: At) -> bool {
    let ours = matches!(buffer.class, BufferClass::Arena | BufferClass::Param { .. });
    ours && match at {
        At::Element | At::Sample(_) => !is_dense_column(buffer),
        // Dense vectors are padded at their end, whether they are a row or a column.
        At::Column => true,
        At::Transposed | At::Row | At::RowSample(_) | At::Scalar => false,
        At::Flat(_) | At::Window { .. } | At::Planar { .. } => unreachable!("`check` refuses images"),
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
    buffer.dtype == DType::I8 && buffer.class == BufferClass::Arena && !is_dense_column(buffer)
}
