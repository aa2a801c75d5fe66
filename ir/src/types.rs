//! Types of values: an element type and a shape, one of whose dimensions may be the rows of the batch at hand.

use std::fmt;

/// Type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Unsigned 8-bit integer: raw image data, nothing else.
    U8,
    /// Signed 8-bit integer: every operand of a quantized contraction.
    I8,
    /// Signed 16-bit integer: optimizer state.
    I16,
    /// Signed 32-bit integer: accumulators, labels, counters of the random generator.
    I32,
    /// IEEE single precision.
    F32,
}

impl DType {
    /// All element types.
    pub const ALL: [Self; 5] = [Self::U8, Self::I8, Self::I16, Self::I32, Self::F32];

    /// Size of an element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
        }
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many for each row that the batch at hand has, which is known when a step runs: at most the batch size times
    /// [`RowPlan::rows_per_sample`](crate::module::RowPlan::rows_per_sample). An image's rows are its positions.
    Rows(usize),
    /// A size known when the module is compiled.
    Const(usize),
}

impl Dim {
    /// One for each row of the batch.
    pub const ROWS: Self = Self::Rows(1);
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(1) => f.write_str("rows"),
            Self::Rows(n) => write!(f, "rows * {n}"),
            Self::Const(size) => write!(f, "{size}"),
        }
    }
}

/// Element type and shape `[rows, columns]` of a value. Scalars are `[1, 1]`, a value per row is `[rows, 1]`, a value
/// per column `[1, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// `[rows, columns]`.
    pub shape: [Dim; 2],
}

impl Type {
    /// A matrix type.
    pub fn new(dtype: DType, rows: Dim, columns: Dim) -> Self {
        Self { dtype, shape: [rows, columns] }
    }

    /// `f32[1, 1]`.
    pub fn scalar() -> Self {
        Self::new(DType::F32, Dim::Const(1), Dim::Const(1))
    }

    /// The same shape with another element type.
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The first dimension.
    pub fn rows(self) -> Dim {
        self.shape[0]
    }

    /// The second dimension.
    pub fn columns(self) -> Dim {
        self.shape[1]
    }

    /// Whether there are several positions for each row, and channels.
    pub fn is_image(self) -> bool {
        matches!(self.shape, [Dim::Rows(positions), Dim::Const(_)] if positions > 1)
    }

    /// The type of the transposed value.
    pub fn transposed(self) -> Self {
        Self { dtype: self.dtype, shape: [self.shape[1], self.shape[0]] }
    }

    /// The shape that `self` and `other` broadcast to: equal dimensions, or one of them 1, or one of them several for
    /// each of the other's rows, as an image has positions. `None` where they do not.
    pub fn broadcast(self, other: Self) -> Option<[Dim; 2]> {
        let dim = |a: Dim, b: Dim| match (a, b) {
            (a, b) if a == b => Some(a),
            (Dim::Const(1), b) => Some(b),
            (a, Dim::Const(1)) => Some(a),
            (Dim::Rows(a), Dim::Rows(b)) if a % b == 0 => Some(Dim::Rows(a)),
            (Dim::Rows(a), Dim::Rows(b)) if b % a == 0 => Some(Dim::Rows(b)),
            _ => None,
        };
        Some([dim(self.shape[0], other.shape[0])?, dim(self.shape[1], other.shape[1])?])
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}, {}]", self.dtype, self.shape[0], self.shape[1])
    }
}
