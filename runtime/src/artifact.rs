//! What the compiler hands to the runtime: plain data, no type of the compiler in it.
//!
//! An [`Artifact`] says how much memory a program needs, where each buffer lies in it, which kernels there are and in
//! which order they run. Its machine code is there in one or more [`Variant`]s, each one position-independent blob that
//! does all of the program with the features of one kind of processor; everything else exists once. Everything a session
//! does follows from it.
//!
//! # Calling convention of a kernel
//!
//! `extern "C" fn(buffers: *const *mut u8, samples: usize, first: usize, end: usize)`: `buffers` points to one address
//! per entry of [`Artifact::buffers`], `samples` is the number of samples in the batch at hand, and the call covers the
//! rows `first..end` of the kernel's domain. Rows are independent, so calls that cover different rows may run at the
//! same time, and the result does not depend on how the rows were divided.
//!
//! `first < end <= rows` in every call. Buffers in arena and state, and the session's own numbers (rate, lambda, key,
//! losses), start at multiples of 64 and are 64 bytes long or a multiple of it. Input, labels and scores are the
//! caller's memory: exactly as long as their elements and aligned as their type, so that a kernel neither reads nor
//! writes behind them. In inference labels are null, in all other schedules scores are.

use serde::{Deserialize, Serialize};

/// A compiled program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Name of the network.
    pub name: String,
    /// Instruction set of the code: `x86_64`, `aarch64` or `riscv64`, as `std::env::consts::ARCH` names it.
    pub architecture: String,
    /// Most samples in a training step.
    pub batch: usize,
    /// Most samples in one pass of inference; longer inputs take several.
    pub infer_batch: usize,
    /// Numbers in a sample.
    pub features: usize,
    /// Element type of raw samples, [`Element::U8`] or [`Element::F32`].
    pub input: Element,
    /// Number of classes.
    pub classes: usize,
    /// Layers that are trained, in order.
    pub trained_layers: Vec<String>,
    /// Parameters and state.
    pub params: Vec<Param>,
    /// All memory that kernels see.
    pub buffers: Vec<Buffer>,
    /// All kernels.
    pub kernels: Vec<Kernel>,
    /// Orders in which they run.
    pub schedules: Vec<Schedule>,
    /// Bytes of the activation arena.
    pub arena_bytes: usize,
    /// Bytes of parameters and state.
    pub state_bytes: usize,
    /// Names of microkernels that the code calls; the runtime refuses those it does not have.
    pub imports: Vec<String>,
    /// Machine code, best first: a session runs the first for which the machine has all features.
    pub variants: Vec<Variant>,
}

/// Machine code of all kernels for processors with certain features. All variants compute the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Name, no other variant's: that of a [level](crate::cpu::Level), or `native`.
    pub name: String,
    /// What it needs beyond the architecture's base, by the names of Rust's `is_x86_feature_detected!` and its siblings.
    pub features: Vec<String>,
    /// Offset in the code of each kernel's entry, in the order of [`Artifact::kernels`].
    pub entries: Vec<usize>,
    /// Machine code.
    #[serde(skip)]
    pub code: Vec<u8>,
}

/// Element types of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// IEEE single precision.
    F32,
}

impl Element {
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
        }
    }
}

/// A size that may depend on the samples of the batch at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// Samples times this.
    Rows(usize),
    /// Fixed.
    Const(usize),
}

impl Extent {
    /// The size for a batch of `samples`; `None` on overflow.
    pub fn size(self, samples: usize) -> Option<usize> {
        match self {
            Self::Rows(per_sample) => samples.checked_mul(per_sample),
            Self::Const(size) => Some(size),
        }
    }
}

/// A matrix in memory, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// Name.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Rows.
    pub rows: Extent,
    /// Columns.
    pub columns: Extent,
    /// Elements between the starts of two rows.
    pub stride: usize,
    /// Bytes in all.
    pub bytes: usize,
    /// Where it lies.
    pub place: Place,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At this offset of the activation arena; may overlap buffers that live at other times. A multiple of 64.
    Arena(usize),
    /// At this offset of the state. A multiple of 64.
    State(usize),
    /// The caller's samples, `[samples, features]`.
    Input,
    /// The caller's labels, `i32[samples]`.
    Labels,
    /// The caller's scores, `f32[samples, classes]`.
    Scores,
    /// `f32`: learning rate divided by the samples in the batch.
    Rate,
    /// `f32`: weight of later layers' errors.
    Lambda,
    /// `i32`: the key of the step ([`crate::random::step_key`]).
    Key,
    /// `f32`: the loss of this trained layer, summed over the rows of the step.
    Loss(usize),
}

/// Something that lives longer than a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// Name, for instance `fc1.weight`.
    pub name: String,
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// What it is for.
    pub role: ParamRole,
    /// How it is stored; positions in [`Artifact::buffers`].
    pub storage: Storage,
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamRole {
    /// A weight of the network.
    Weight,
    /// A bias of the network.
    Bias,
    /// A matrix of a goodness head.
    Head,
    /// A quantizer's range.
    Range,
    /// Optimizer state.
    Velocity,
    /// A constant.
    Constant,
}

impl ParamRole {
    /// Whether it is what training is for: a weight, a bias or a head's matrix.
    pub fn is_trained(self) -> bool {
        matches!(self, Self::Weight | Self::Bias | Self::Head)
    }
}

/// How a parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// `f32`, `i8` or `i16` as the buffer says.
    Plain {
        /// The buffer.
        value: usize,
    },
    /// 16-bit fixed point: the value is `(256 * high + low) * scale / 256`.
    Fixed16 {
        /// `i8[rows, columns]`.
        high: usize,
        /// `i8[rows, columns]`.
        low: usize,
        /// `f32[rows]`, or `f32[1]` where all rows share one.
        scale: usize,
    },
}

/// Code for one pass over memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Rows of its domain, which threads divide among them.
    pub rows: Extent,
    /// Whether it is large enough to divide.
    pub parallel: bool,
}

/// An order of kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What it does.
    pub purpose: Purpose,
    /// Positions in [`Artifact::kernels`].
    pub kernels: Vec<usize>,
}

/// What a schedule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Finds the first ranges of all quantizers from one batch; trains nothing.
    Calibrate,
    /// One training step of all layers.
    Train,
    /// One training step of this layer alone, counting trained layers from 0.
    TrainLayer(usize),
    /// Scores of a batch.
    Infer,
}
