//! The kernel IR: what fuses into one pass over memory, decided once for all backends.
//!
//! A [`Program`] is buffers, kernels and schedules. A [`Kernel`] covers a domain of `rows x columns` elements:
//!
//! 1. an optional [`Contraction`] gives every element an accumulator, the sum of products along a third axis: of rows as
//!    they lie, or of images through a window;
//! 2. its [`Stage`]s then run one after the other. A stage evaluates expressions for each element `(i, j)` of the
//!    domain (or once per row), stores some of them and reduces others along the columns.
//!
//! There are no threads, lanes or tiles here: those belong to backends. What makes any tiling right:
//!
//! * rows are independent: no stage reads what another row's stage writes, so a backend may give any rows to any
//!   thread, and every reduction is along the columns of one row;
//! * reductions are integer sums and maxima, which have no order, or `f32` sums in the order of
//!   [`numerics::LANES`](crate::numerics::LANES);
//! * within a stage, all loads of an element come before its stores; a later stage sees what earlier ones stored;
//! * a store covers the elements of the domain only; backends may write zeros, and only zeros, into the padding behind
//!   a row, and every row of an `i8` buffer is padded with zeros that contractions may read.
//!
//! Expressions are built through [`numerics::Arith`](crate::numerics::Arith) ([`KernelBuilder`]), so a formula exists
//! once for the interpreter and for all backends.

use std::collections::HashMap;
use std::fmt;

use crate::arena::{Arena, Handle};
use crate::module::{Control, Param};
use crate::numerics::Arith;
use crate::types::DType;
use crate::window::{PackedWindow, Window};

/// A compiled training program before it becomes code.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name of the network.
    pub name: String,
    /// Samples in a full batch of training.
    pub batch: usize,
    /// Most samples in one pass of inference.
    pub infer_batch: usize,
    /// Features of a sample.
    pub features: usize,
    /// Element type of raw samples: [`DType::U8`] or [`DType::F32`].
    pub input: DType,
    /// Classes.
    pub classes: usize,
    /// Names of the layers that are trained, in order.
    pub trained_layers: Vec<String>,
    /// The module's parameters.
    pub params: Vec<Param>,
    /// All memory.
    pub buffers: Arena<Buffer>,
    /// All kernels.
    pub kernels: Arena<Kernel>,
    /// Orders in which kernels run.
    pub schedules: Vec<Schedule>,
    /// Bytes of the activation arena, which all schedules share.
    pub arena_bytes: usize,
    /// Bytes of all [`BufferClass::Param`] buffers.
    pub state_bytes: usize,
}

/// A named order of kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What it does.
    pub purpose: Purpose,
    /// The kernels in order.
    pub kernels: Vec<Handle<Kernel>>,
}

/// What a schedule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Finds the first ranges of all quantizers from one batch; trains nothing.
    Calibrate,
    /// One training step of all layers.
    Train,
    /// One training step of this layer alone, counting trained layers from 0 (greedy training).
    TrainLayer(usize),
    /// Scores of a batch.
    Infer,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calibrate => f.write_str("calibrate"),
            Self::Train => f.write_str("train"),
            Self::TrainLayer(layer) => write!(f, "train-layer {layer}"),
            Self::Infer => f.write_str("infer"),
        }
    }
}

/// A size that may be known only when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Samples of the batch at hand times this many rows per sample.
    Rows(usize),
    /// Known at compile time.
    Const(usize),
}

impl Extent {
    /// The size for a batch of `samples`.
    pub fn size(self, samples: usize) -> usize {
        match self {
            Self::Rows(per_sample) => samples * per_sample,
            Self::Const(size) => size,
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(1) => f.write_str("samples"),
            Self::Rows(n) => write!(f, "{n}*samples"),
            Self::Const(size) => write!(f, "{size}"),
        }
    }
}

/// A matrix in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name, unique in the program.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// `[rows, columns]`.
    pub shape: [Extent; 2],
    /// What it holds, and so how long it lives.
    pub class: BufferClass,
    /// Whether rows follow one another without padding, as the positions of an image do.
    pub dense: bool,
    /// Most samples that a step may bring: the batch size in training, perhaps fewer in inference.
    pub samples: usize,
    /// Position in bytes within the arena ([`BufferClass::Arena`], [`BufferClass::Accumulator`]) or the state ([`BufferClass::Param`]); assigned by the
    /// memory plan, a multiple of [`ROW_ALIGN`].
    pub offset: usize,
}

/// Alignment in bytes of rows in `i8` matrices and of every buffer: one cache line, one AMX or AVX-512 row.
pub const ROW_ALIGN: usize = 64;

/// Bytes of a page. Rows this far apart share one set of the first cache, which holds a dozen lines.
const PAGE: usize = 4096;

impl Buffer {
    /// Elements between the starts of two rows; the same for every batch. Vectors (one row, or one column of 32-bit elements) are dense;
    /// rows of 8-bit and 16-bit matrices are padded to [`ROW_ALIGN`] elements, of 32-bit matrices to
    /// [`LANES`](crate::numerics::LANES) elements. Input and scores are as the caller has them, without padding; so is what is
    /// [`dense`](Self::dense).
    pub fn stride(&self) -> usize {
        let [rows, columns] = self.shape;
        let width = columns.size(self.samples);
        let external = matches!(self.class, BufferClass::Input | BufferClass::Scores);
        let column = columns == Extent::Const(1) && self.dtype.bytes() == 4;
        if rows == Extent::Const(1) || column || external || self.dense {
            return width;
        }
        let bytes = self.dtype.bytes();
        let stride = match bytes {
            1 | 2 => width.next_multiple_of(ROW_ALIGN),
            _ => width.next_multiple_of(crate::numerics::LANES),
        };
        if (stride * bytes).is_multiple_of(PAGE) { stride + ROW_ALIGN / bytes } else { stride }
    }

    /// Bytes for the most samples, rounded up to [`ROW_ALIGN`].
    pub fn bytes(&self) -> usize {
        let rows = self.shape[0].size(self.samples);
        (rows * self.stride() * self.dtype.bytes()).next_multiple_of(ROW_ALIGN)
    }
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferClass {
    /// Raw samples, given by the caller.
    Input,
    /// `i32[samples, 1]`: true classes, given by the caller.
    Labels,
    /// `f32[1, 1]`: set by the session.
    Control(Control),
    /// `i32[1, 1]`: the key of the step, set by the session.
    Key,
    /// `f32[samples, classes]` or `f32[rows, 1]`: what inference gives.
    Scores,
    /// `f32[1, 1]`: the loss of this trained layer, summed over the rows.
    Loss(usize),
    /// Part of the parameter of this number; see [`Plane`].
    Param {
        /// Position in the module's parameters.
        param: usize,
        /// Which part.
        plane: Plane,
    },
    /// Lives in the activation arena, from its first store to its last load in a step.
    Arena,
    /// A look-ahead accumulator: in the arena too, but never overlapped, so that it holds finite numbers from the start.
    Accumulator,
}

/// The parts of a stored parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    /// All of a parameter that is stored in one piece; of a fixed-point weight its rounded INT8 plane.
    Value,
    /// The signed low byte of a fixed-point weight.
    Low,
    /// The scale of a fixed-point weight: the value is `(256 * high + low) * scale / 256`.
    Scale,
}

/// One pass over a domain of `rows x columns` elements: see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name, unique in the program: the layer's and what it does.
    pub name: String,
    /// Rows of the domain.
    pub rows: Extent,
    /// Columns of the domain.
    pub columns: Extent,
    /// What fills the accumulators.
    pub contraction: Option<Contraction>,
    /// Expressions, operands before users.
    pub exprs: Arena<Expr>,
    /// What happens with them, in order.
    pub stages: Vec<Stage>,
}

/// Accumulator `(i, j)` is a sum of products, in the plainest case over `d` of `lhs[i, d] * rhs[j, d]`; [`Geometry`] has the
/// others. `i8` into `i32` (exact), or `f32` into `f32` (in any order; only executors of the float comparison run these).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contraction {
    /// Which products are summed.
    pub geometry: Geometry,
    /// `[rows, depth]`, unless the geometry says otherwise.
    pub lhs: Handle<Buffer>,
    /// `[columns, depth]`, unless the geometry says otherwise.
    pub rhs: Handle<Buffer>,
    /// Length of the sums.
    pub depth: Extent,
    /// A side that holds no negative element, if one is known: some instructions want one unsigned operand.
    pub non_negative: Option<Side>,
}

/// Which products a contraction sums. An image is `[samples * positions, channels]`, [`dense`](Buffer::dense); `seen(r, t)` is the
/// row of it that position `r` sees through tap `t`, and there is no product where that is beyond the edge
/// ([`Window::source`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// `lhs[i, d] * rhs[j, d]`. Rows of operands are padded with zeros, unless they are dense.
    Dense,
    /// `lhs` is an image and the depth its channels, tap after tap: over `t, c` of
    /// `lhs[seen(i, t), c] * rhs[j, t * channels + c]`.
    Convolution(Window),
    /// `rhs` is an image and the depth the positions that see it; columns are its channels, tap after tap: with
    /// `j = t * channels + c`, over `d` of `lhs[i, d] * rhs[seen(d, t), c]`.
    ConvolutionGrad(Window),
    /// `lhs` is an image, and each channel has a filter: over `t` of `lhs[seen(i, t), j] * rhs[j, t]`. The depth is the
    /// number of taps.
    Depthwise(Window),
    /// Both are images; rows are channels and columns taps: over `d` of `lhs[d, i] * rhs[seen(d, j), i]`.
    DepthwiseGrad(Window),
}

/// An operand of a contraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    Lhs,
    /// The right one.
    Rhs,
}

/// A part of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Whether expressions are evaluated for every element, or once per row (then they use no column).
    pub over: Over,
    /// Runs only for rows for which this mask is not 0.
    pub when: Option<Handle<Expr>>,
    /// What is written.
    pub stores: Vec<Store>,
    /// What is reduced along the columns.
    pub reduces: Vec<Reduce>,
}

/// What a stage loops over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All elements.
    Elements,
    /// Rows; stores are at [`At::Row`] or [`At::Scalar`].
    Rows,
}

/// A store of one expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where to.
    pub buffer: Handle<Buffer>,
    /// Which element.
    pub at: At,
    /// What; integers are truncated to the element type.
    pub value: Handle<Expr>,
}

/// A reduction along the columns; row `i`'s result goes to element `i` of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// How.
    pub op: Fold,
    /// What.
    pub value: Handle<Expr>,
    /// `[rows, 1]`, or `[1, 1]` where the kernel has one row.
    pub into: Handle<Buffer>,
}

/// How reductions combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Wrapping integer sum, from 0.
    SumI32,
    /// `f32` sum in the order of [`numerics::LANES`](crate::numerics::LANES), from 0.
    SumF32,
    /// Largest `f32`, from negative infinity: `a < b ? b : a`.
    MaxF32,
    /// Largest `i32`, from the smallest.
    MaxI32,
}

/// Which element of a buffer an expression at `(i, j)` touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// `[i, j]`.
    Element,
    /// `[j, i]`.
    Transposed,
    /// `[i / n, j]`: the sample of a row, where samples become `n` rows each.
    Sample(usize),
    /// `[r, j]` where `r` is the row that position `i` sees through the tap; beyond the edge there is what `outside` says.
    Window {
        /// The geometry.
        window: PackedWindow,
        /// Which tap.
        tap: usize,
        /// What is there where nothing is.
        outside: Outside,
    },
    /// `[i, n + j]`; a buffer stored so is [`dense`](Buffer::dense), since others store what is behind the row.
    Columns(usize),
    /// Element `i * n + j` of a vector or a [`dense`](Buffer::dense) matrix, whatever its shape, in a domain of `n` columns.
    Flat(usize),
    /// `[i / (n * copies), j * n + i % n]`: an image of `n` positions in a sample whose channels lie one after the other.
    Planar {
        /// `n`.
        positions: usize,
        /// Rows that a sample becomes.
        copies: usize,
    },
    /// `[g * outputs + j, (taps - 1 - t) * inputs + c]` where `i` is `(g * inputs + c) * taps + t`, in a domain of `outputs` columns:
    /// filters, channel by channel and last tap first ([`Op::Back`](crate::module::Op::Back)).
    Back {
        /// Taps of a filter.
        taps: usize,
        /// Channels that a filter sees.
        inputs: usize,
        /// Filters that see them.
        outputs: usize,
    },
    /// Element `i` of a vector.
    Row,
    /// Element `i / n` of a vector.
    RowSample(usize),
    /// Element `j` of a vector.
    Column,
    /// The only element.
    Scalar,
}

impl At {
    /// How often what is there changes.
    pub fn level(self) -> Level {
        match self {
            Self::Element
            | Self::Transposed
            | Self::Sample(_)
            | Self::Columns(_)
            | Self::Column
            | Self::Flat(_)
            | Self::Window { .. }
            | Self::Planar { .. }
            | Self::Back { .. } => Level::Element,
            Self::Row | Self::RowSample(_) => Level::Row,
            Self::Scalar => Level::Kernel,
        }
    }
}

/// What a window sees beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outside {
    /// 0.
    Zero,
    /// The least element: -128, or negative infinity.
    Least,
}

/// The primitives of [`Arith`], the places of an element, and loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// The accumulator of the element, in the kernel's first stage only.
    Accumulator,
    /// `i`, as `i32`.
    RowIndex,
    /// `j`, as `i32`.
    ColumnIndex,
    /// An `f32` constant by its bits.
    ConstF32(u32),
    /// An `i32` constant.
    ConstI32(i32),
    /// An element of a buffer, widened to `i32` or `f32`.
    Load(Handle<Buffer>, At),
    /// A function of one expression.
    Unary(Unary, Handle<Expr>),
    /// A function of two expressions.
    Binary(Binary, Handle<Expr>, Handle<Expr>),
    /// `mask ? a : b`.
    Select(Handle<Expr>, Handle<Expr>, Handle<Expr>),
}

/// Functions of one expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// [`Arith::sqrt`].
    Sqrt,
    /// [`Arith::to_f32`].
    ToF32,
    /// [`Arith::round`].
    Round,
    /// [`Arith::truncate`].
    Truncate,
    /// [`Arith::to_bits`].
    ToBits,
    /// [`Arith::from_bits`].
    FromBits,
    /// [`Arith::shl`].
    Shl(u32),
    /// [`Arith::shr`].
    Shr(u32),
    /// [`Arith::sar`].
    Sar(u32),
    /// [`Arith::rem`].
    Rem(u32),
}

/// Functions of two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// [`Arith::fadd`].
    FAdd,
    /// [`Arith::fsub`].
    FSub,
    /// [`Arith::fmul`].
    FMul,
    /// [`Arith::fdiv`].
    FDiv,
    /// [`Arith::fmax`].
    FMax,
    /// [`Arith::fmin`].
    FMin,
    /// [`Arith::flt`].
    FLt,
    /// [`Arith::iadd`].
    IAdd,
    /// [`Arith::isub`].
    ISub,
    /// [`Arith::imul`].
    IMul,
    /// [`Arith::imin`].
    IMin,
    /// [`Arith::imax`].
    IMax,
    /// [`Arith::and`].
    And,
    /// [`Arith::xor`].
    Xor,
    /// [`Arith::ilt`].
    ILt,
    /// [`Arith::ieq`].
    IEq,
}

/// How often an expression changes within a kernel: what a backend may hoist out of its loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Never.
    Kernel,
    /// With the row.
    Row,
    /// With the column, or with both.
    Element,
}

/// Whether an expression is an integer or a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `i32` or a mask.
    Int,
    /// `f32`.
    Float,
}

impl Kernel {
    /// The level of each expression.
    pub fn levels(&self) -> Vec<Level> {
        let mut levels: Vec<Level> = Vec::with_capacity(self.exprs.len());
        for expr in self.exprs.values() {
            let of = |handle: Handle<Expr>| levels[handle.index()];
            let level = match *expr {
                Expr::Accumulator | Expr::ColumnIndex => Level::Element,
                Expr::RowIndex => Level::Row,
                Expr::ConstF32(_) | Expr::ConstI32(_) => Level::Kernel,
                Expr::Load(_, at) => at.level(),
                Expr::Unary(_, a) => of(a),
                Expr::Binary(_, a, b) => of(a).max(of(b)),
                Expr::Select(mask, a, b) => of(mask).max(of(a)).max(of(b)),
            };
            levels.push(level);
        }
        levels
    }

    /// The kind of each expression.
    pub fn kinds(&self, buffers: &Arena<Buffer>) -> Vec<Kind> {
        let float = |dtype: DType| if dtype == DType::F32 { Kind::Float } else { Kind::Int };
        let mut kinds: Vec<Kind> = Vec::with_capacity(self.exprs.len());
        for expr in self.exprs.values() {
            let kind = match *expr {
                Expr::Accumulator => match &self.contraction {
                    Some(contraction) => float(buffers[contraction.lhs].dtype),
                    None => Kind::Int,
                },
                Expr::RowIndex | Expr::ColumnIndex | Expr::ConstI32(_) => Kind::Int,
                Expr::ConstF32(_) => Kind::Float,
                Expr::Load(buffer, _) => float(buffers[buffer].dtype),
                Expr::Unary(op, _) => match op {
                    Unary::Sqrt | Unary::ToF32 | Unary::FromBits => Kind::Float,
                    Unary::Round
                    | Unary::Truncate
                    | Unary::ToBits
                    | Unary::Shl(_)
                    | Unary::Shr(_)
                    | Unary::Sar(_)
                    | Unary::Rem(_) => Kind::Int,
                },
                Expr::Binary(op, ..) => match op {
                    Binary::FAdd
                    | Binary::FSub
                    | Binary::FMul
                    | Binary::FDiv
                    | Binary::FMax
                    | Binary::FMin => Kind::Float,
                    Binary::FLt
                    | Binary::IAdd
                    | Binary::ISub
                    | Binary::IMul
                    | Binary::IMin
                    | Binary::IMax
                    | Binary::And
                    | Binary::Xor
                    | Binary::ILt
                    | Binary::IEq => Kind::Int,
                },
                Expr::Select(_, a, _) => kinds[a.index()],
            };
            kinds.push(kind);
        }
        kinds
    }

    /// The buffers that the kernel reads, each once, contraction operands first.
    pub fn reads(&self) -> Vec<Handle<Buffer>> {
        let mut reads = Vec::new();
        let mut note = |buffer| {
            if !reads.contains(&buffer) {
                reads.push(buffer);
            }
        };
        if let Some(contraction) = &self.contraction {
            note(contraction.lhs);
            note(contraction.rhs);
        }
        for expr in self.exprs.values() {
            if let Expr::Load(buffer, _) = expr {
                note(*buffer);
            }
        }
        reads
    }

    /// The buffers that the kernel writes, each once.
    pub fn writes(&self) -> Vec<Handle<Buffer>> {
        let mut writes = Vec::new();
        for stage in &self.stages {
            let stores = stage.stores.iter().map(|store| store.buffer);
            for buffer in stores.chain(stage.reduces.iter().map(|reduce| reduce.into)) {
                if !writes.contains(&buffer) {
                    writes.push(buffer);
                }
            }
        }
        writes
    }
}

/// Builds the expressions of a kernel: an [`Arith`] that shares equal expressions and folds constants.
#[derive(Debug, Default)]
pub struct KernelBuilder {
    /// The expressions so far.
    pub exprs: Arena<Expr>,
    known: HashMap<Expr, Handle<Expr>>,
}

impl KernelBuilder {
    /// The handle of an expression, shared with an equal one.
    pub fn expr(&mut self, expr: Expr) -> Handle<Expr> {
        *self.known.entry(expr).or_insert_with(|| self.exprs.push(expr))
    }

    /// The expressions, in no more room than they need.
    pub fn finish(mut self) -> Arena<Expr> {
        self.exprs.shrink_to_fit();
        self.exprs
    }

    /// A load.
    pub fn load(&mut self, buffer: Handle<Buffer>, at: At) -> Handle<Expr> {
        self.expr(Expr::Load(buffer, at))
    }

    fn unary(&mut self, op: Unary, a: Handle<Expr>) -> Handle<Expr> {
        self.expr(Expr::Unary(op, a))
    }

    fn binary(&mut self, op: Binary, a: Handle<Expr>, b: Handle<Expr>) -> Handle<Expr> {
        self.expr(Expr::Binary(op, a, b))
    }
}

macro_rules! binary {
    ($($name:ident => $op:ident),* $(,)?) => {
        $(fn $name(&mut self, a: Handle<Expr>, b: Handle<Expr>) -> Handle<Expr> {
            self.binary(Binary::$op, a, b)
        })*
    };
}
macro_rules! unary {
    ($($name:ident => $op:ident),* $(,)?) => {
        $(fn $name(&mut self, a: Handle<Expr>) -> Handle<Expr> {
            self.unary(Unary::$op, a)
        })*
    };
}
macro_rules! shift {
    ($($name:ident => $op:ident),* $(,)?) => {
        $(fn $name(&mut self, a: Handle<Expr>, by: u32) -> Handle<Expr> {
            self.unary(Unary::$op(by), a)
        })*
    };
}

impl Arith for KernelBuilder {
    type Value = Handle<Expr>;

    fn f32(&mut self, value: f32) -> Handle<Expr> {
        self.expr(Expr::ConstF32(value.to_bits()))
    }
    fn i32(&mut self, value: i32) -> Handle<Expr> {
        self.expr(Expr::ConstI32(value))
    }
    fn select(&mut self, mask: Handle<Expr>, a: Handle<Expr>, b: Handle<Expr>) -> Handle<Expr> {
        self.expr(Expr::Select(mask, a, b))
    }
    binary! {
        fadd => FAdd, fsub => FSub, fmul => FMul, fdiv => FDiv, fmax => FMax, fmin => FMin, flt => FLt,
        iadd => IAdd, isub => ISub, imul => IMul, imin => IMin, imax => IMax, and => And, xor => Xor,
        ilt => ILt, ieq => IEq,
    }
    unary! {
        sqrt => Sqrt, to_f32 => ToF32, round => Round, truncate => Truncate, to_bits => ToBits, from_bits => FromBits,
    }
    shift! { shl => Shl, shr => Shr, sar => Sar, rem => Rem }
}
