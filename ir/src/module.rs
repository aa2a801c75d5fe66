//! The layer IR: what a training program means, layer by layer.
//!
//! Forward-Forward training knows no graph-wide gradient: every layer has an objective and an update of its own, so
//! the unit of this IR is the [`Layer`]. A [`Module`] is its parameters plus its layers in order; what a layer hands
//! over to the next (`outputs`) are the next one's operands. A layer is straight-line SSA in one arena, cut into four
//! regions that run in this order:
//!
//! 1. `forward`: from the operands to the outputs;
//! 2. `head`: the goodness head: scores, loss, and the error signal of this layer;
//! 3. `look_ahead`: how the error signals of later layers join this one's, or the next layer as this one looks at it;
//! 4. `update`: the gradient and the optimizer.
//!
//! # Meaning
//!
//! Every value is a matrix `[rows, columns]` ([`Type`]). Elementwise operations broadcast dimensions of size 1, and what
//! there is once a row to all positions of that row's image. An image is a matrix too, `[rows * positions, channels]`
//! ([`window`](mod@crate::window)), so that a convolution is a [`Dot`](Op::Dot) and a row of weights its filter.
//! A step is atomic towards parameters: every read sees the value from before the step's own update of that
//! parameter. Integer sums are exact; `f32` sums run in the order that [`numerics::LANES`](crate::numerics::LANES)
//! fixes; every other `f32` operation rounds once, to nearest even, never fused. Together with the counter-based
//! generator this makes every result a function of the parameters, the data and the seed alone.
//!
//! # Phases
//!
//! `imported` (one layer, FP32, forward only) → `trainable` (FP32 with heads and updates) → `quantized` (INT8
//! contractions). The [verifier](mod@crate::verify) knows which phase allows what.

use crate::arena::{Arena, Handle};
use crate::types::{DType, Dim, Type};
use crate::window::Window;

/// A network together with its training program.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Name of the network.
    pub name: String,
    /// How far the passes have come.
    pub phase: Phase,
    /// Samples in a full batch.
    pub batch: usize,
    /// Features of one sample: the columns of the input.
    pub features: usize,
    /// Element type of the raw input: [`DType::U8`] or [`DType::F32`].
    pub input: DType,
    /// Number of classes.
    pub classes: usize,
    /// How samples become rows.
    pub rows: RowPlan,
    /// Parameters and state, all that lives longer than a step.
    pub params: Arena<Param>,
    /// Layers in the order in which they run.
    pub layers: Vec<Layer>,
}

/// How far the passes have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As a frontend made it: one layer, FP32, forward only.
    Imported,
    /// Cut into layers; passes add normalisation, heads, look-ahead and updates, all in FP32.
    Trainable,
    /// Every contraction has INT8 operands and an INT32 result.
    Quantized,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 3] = [Self::Imported, Self::Trainable, Self::Quantized];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Trainable => "trainable",
            Self::Quantized => "quantized",
        }
    }
}

/// How samples become rows: row `r` belongs to sample `r / rows_per_sample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPlan {
    /// One row a sample.
    Plain,
    /// A positive row (the true label overlaid) and a negative row (a wrong label) a sample; with `neutral` a third
    /// one that carries no label, for a classifier that must not see it.
    Contrast {
        /// Whether the third row is there.
        neutral: bool,
    },
    /// One row a label and sample, to try every label.
    EveryLabel,
    /// One row a sample, the overlay neutral.
    Neutral,
}

impl RowPlan {
    /// Rows that a sample becomes.
    pub fn rows_per_sample(self, classes: usize) -> usize {
        match self {
            Self::Plain | Self::Neutral => 1,
            Self::Contrast { neutral } => 2 + usize::from(neutral),
            Self::EveryLabel => classes,
        }
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Contrast { neutral: false } => "contrast",
            Self::Contrast { neutral: true } => "contrast-neutral",
            Self::EveryLabel => "every-label",
            Self::Neutral => "neutral",
        }
    }

    /// All plans.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Contrast { neutral: false },
        Self::Contrast { neutral: true },
        Self::EveryLabel,
        Self::Neutral,
    ];
}

/// Something that lives longer than a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name, unique in the module, for instance `fc1.weight`.
    pub name: String,
    /// `[rows, columns]`; a weight is `[outputs, inputs]`, a bias `[1, outputs]`.
    pub shape: [usize; 2],
    /// How it is stored.
    pub storage: ParamStorage,
    /// What it is for, and how it starts.
    pub role: ParamRole,
}

impl Param {
    /// The type of a read: the stored element type, [`DType::I8`] (the rounded plane) for a fixed-point weight.
    pub fn ty(&self) -> Type {
        let dtype = match self.storage {
            ParamStorage::F32 => DType::F32,
            ParamStorage::Fixed16(_) | ParamStorage::I8 => DType::I8,
            ParamStorage::I16 => DType::I16,
        };
        Type::new(dtype, Dim::Const(self.shape[0]), Dim::Const(self.shape[1]))
    }

    /// The type of the scale of a fixed-point weight: `f32[outputs, 1]`, or `f32[1, 1]` where all share one.
    pub fn scale_type(&self) -> Option<Type> {
        match self.storage {
            ParamStorage::Fixed16(Granularity::Channel) => {
                Some(Type::new(DType::F32, Dim::Const(self.shape[0]), Dim::Const(1)))
            }
            ParamStorage::Fixed16(Granularity::Tensor) => Some(Type::scalar()),
            _ => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamStorage {
    /// Single precision.
    F32,
    /// Eight bits, constant.
    I8,
    /// Sixteen bits: a velocity with [`numerics::VELOCITY_FRACTION`](crate::numerics::VELOCITY_FRACTION) fractional bits.
    I16,
    /// Sixteen bits in two byte planes and a scale: contractions read the rounded INT8 plane, the optimizer all bits.
    Fixed16(Granularity),
}

/// What shares one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All elements.
    Tensor,
    /// The elements of one output channel, which is a row.
    Channel,
}

/// What a parameter is for, and how it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamRole {
    /// A weight of the network.
    Weight,
    /// A bias of the network.
    Bias,
    /// A learned matrix of a goodness head; dropped at export. Starts normal with this standard deviation.
    Head(f32),
    /// Row `c` is 1 at the units of class `c` and 0 elsewhere (near-equal contiguous groups).
    Groups,
    /// The largest magnitude seen lately, from which a scale follows. Starts at this value.
    Range(f32),
    /// Optimizer state, starts at 0.
    Velocity,
    /// Given with the network or the data: a constant of preprocessing.
    Constant,
}

/// One layer: see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Layer {
    /// Name, unique in the module.
    pub name: String,
    /// What the layer is in the training program.
    pub role: LayerRole,
    /// All values of all regions.
    pub values: Arena<Value>,
    /// From the operands to the outputs.
    pub forward: Vec<Handle<Value>>,
    /// Scores, loss and error signal.
    pub head: Vec<Handle<Value>>,
    /// Error signals of later layers.
    pub look_ahead: Vec<Handle<Value>>,
    /// Gradient and optimizer.
    pub update: Vec<Handle<Value>>,
    /// What is handed to the next layer: in a cut module the activation and the factor of each row.
    pub outputs: Vec<Handle<Value>>,
}

/// What a layer is in the training program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LayerRole {
    /// The whole network before it is cut.
    #[default]
    Whole,
    /// Turns raw samples into the first activation; nothing is trained.
    Prepare,
    /// Trained by its goodness head.
    Hidden,
    /// The network's last layer, trained on its own logits.
    Classifier,
}

impl LayerRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Whole, Self::Prepare, Self::Hidden, Self::Classifier];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Prepare => "prepare",
            Self::Hidden => "hidden",
            Self::Classifier => "classifier",
        }
    }
}

/// One operation and what is known of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the text form, unique in the layer, without the `%`.
    pub name: String,
    /// The operation.
    pub op: Op,
    /// Type of the result; an effect has the type of what it writes.
    pub ty: Type,
}

/// Operations. Operands are named by handles of the same layer and always earlier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// What the layer before hands over at this position.
    Operand(u32),
    /// The raw samples, each repeated for its rows: `u8|f32[rows, features]`.
    Input,
    /// The true class of each row's sample: `i32[rows, 1]`.
    Target,
    /// The class that is overlaid on each row, -1 for none: `i32[rows, 1]`. Wrong classes are drawn from the stream.
    Overlaid {
        /// Stream of the random generator.
        stream: u32,
    },
    /// +1 for a positive row, -1 for a negative one, 0 for a neutral one: `f32[rows, 1]`.
    Polarity,
    /// A number that the session sets between steps: `f32[1, 1]`.
    Control(Control),
    /// A constant: `f32[1, 1]`.
    Constant(f32),
    /// Reads a parameter; of a fixed-point weight the rounded INT8 plane.
    Param(Handle<Param>),
    /// The scale of a fixed-point weight.
    ScaleOf(Handle<Param>),
    /// `lhs [m, k]`, `rhs [n, k]` → `[m, n]`: sums of products over the columns of both.
    Dot {
        /// `[m, k]`, `i8` or `f32`.
        lhs: Handle<Value>,
        /// `[n, k]`, the same element type.
        rhs: Handle<Value>,
    },
    /// `[rows * inputs, channels]` → `[rows * outputs, taps * channels]`: what each position of the result looks at, tap
    /// after tap, with zeros beyond the edge. Only a [`Dot`](Op::Dot) may use it, as it is on the left or transposed on the right, because it
    /// is never written down.
    Window {
        /// The image.
        value: Handle<Value>,
        /// The geometry.
        window: Window,
    },
    /// `[rows * inputs, channels]` → `[rows * outputs, channels]`: each channel on its own, over what a position looks at.
    Pool {
        /// How. Beyond the edge there is nothing; a window that sees nothing else gives 0, or the least number.
        op: PoolOp,
        /// The image: `i8` or `f32`, for sums also `i32`. Sums of integers are `i32`.
        value: Handle<Value>,
        /// The geometry.
        window: Window,
    },
    /// The gradient of a [`PoolOp::Max`]: each position gets the sum of `grad` over the positions of the output that look at it and
    /// are equal to it.
    MaxGrad {
        /// What was pooled.
        input: Handle<Value>,
        /// What that gave.
        output: Handle<Value>,
        /// What arrives from the loss: `f32`, of the output's shape.
        grad: Handle<Value>,
        /// The pool's geometry.
        window: Window,
    },
    /// Each channel of an image with a filter of its own: `value [rows * inputs, channels]`, `weight [channels, taps]` →
    /// `[rows * outputs, channels]`; sums as in a [`Dot`](Op::Dot).
    Depthwise {
        /// The image, `i8` or `f32`.
        value: Handle<Value>,
        /// The filters, the same element type.
        weight: Handle<Value>,
        /// The geometry.
        window: Window,
    },
    /// The gradient of a [`Depthwise`](Op::Depthwise) by its filters: `[channels, taps]`, sums over all positions of `grad` times
    /// what they look at.
    DepthwiseGrad {
        /// `[rows * outputs, channels]`, `i8` or `f32`.
        grad: Handle<Value>,
        /// `[rows * inputs, channels]`, the same element type.
        value: Handle<Value>,
        /// The geometry.
        window: Window,
    },
    /// The filters that lead back from what filters gave to what they were given: `[groups * outputs, taps * inputs]` →
    /// `[groups * inputs, taps * outputs]`, last tap first. With [`Window::back_by_taps`], the gradient of a contraction by
    /// its image is a contraction with these; that of [`Depthwise`](Op::Depthwise) has a group for each channel.
    Back {
        /// The filters.
        weight: Handle<Value>,
        /// Taps of a filter.
        taps: usize,
        /// Groups of filters that see the same channels.
        groups: usize,
    },
    /// Samples as files have them, channel after channel, become an image: `[rows, channels * positions]` →
    /// `[rows * positions, channels]`.
    Pixels {
        /// The samples.
        value: Handle<Value>,
        /// Channels of the image.
        channels: usize,
    },
    /// The same elements in reading order, with other rows: between `[rows * n, m]` and `[rows, n * m]`. 32-bit elements only.
    Reshape(Handle<Value>),
    /// Some of the columns: `[m, n]` → `[m, columns]`.
    Slice {
        /// What they are columns of.
        value: Handle<Value>,
        /// The first of them.
        from: usize,
        /// How many.
        columns: usize,
    },
    /// The columns of one behind those of the other: `[m, n]`, `[m, k]` → `[m, n + k]`.
    Concat(Handle<Value>, Handle<Value>),
    /// Rows become columns.
    Transpose(Handle<Value>),
    /// Each element on its own.
    Unary(UnaryOp, Handle<Value>),
    /// Each pair of elements on its own, broadcasting.
    Binary(BinaryOp, Handle<Value>, Handle<Value>),
    /// Activation function.
    Activate(Activation, Handle<Value>),
    /// `grad` times the activation's derivative.
    ActivateGrad {
        /// The function.
        activation: Activation,
        /// What the derivative follows from: what the function gave or what it was given, as
        /// [`Activation::derivative_from`] says.
        output: Handle<Value>,
        /// What arrives from the loss.
        grad: Handle<Value>,
    },
    /// Integers become `f32`, rounded to nearest even where they do not fit.
    Convert(Handle<Value>),
    /// 1 where the row's label is the column, else 0: `f32[rows, classes]`.
    OneHot {
        /// `i32[rows, 1]`.
        labels: Handle<Value>,
        /// Columns.
        classes: usize,
    },
    /// Replaces the first `classes` columns by a one-hot code of the row's label: `on` at the label and `off`
    /// elsewhere; `off + (on - off) / classes` everywhere where the label is -1.
    Overlay {
        /// `f32[rows, features]`.
        value: Handle<Value>,
        /// `i32[rows, 1]`.
        labels: Handle<Value>,
        /// Columns that are replaced.
        classes: usize,
        /// Value at the label.
        on: f32,
        /// Value elsewhere.
        off: f32,
    },
    /// Reduces along columns: `[m, n]` → `[m, 1]`.
    Reduce(ReduceOp, Handle<Value>),
    /// Repeats a scalar or a value per row: `[1, 1]` or `[m, 1]` → this type.
    Splat(Handle<Value>),
    /// `clamp(round(value / scale), -127, 127)`: [`numerics::quantize`](crate::numerics::quantize).
    Quantize {
        /// `f32[m, n]`.
        value: Handle<Value>,
        /// `f32[1, 1]`.
        scale: Handle<Value>,
        /// How it is rounded.
        rounding: Rounding,
    },
    /// Effect: shows this layer's error signal to earlier layers, during the first of two sweeps.
    Publish(Handle<Value>),
    /// The sum of what all later layers published, in their order.
    Ahead,
    /// Effect: adds to the network's scores, or sets them.
    Score {
        /// `f32[rows, classes]`, or `f32[rows, 1]` where rows are labels tried.
        value: Handle<Value>,
        /// Whether it adds to what an earlier layer set.
        accumulate: bool,
    },
    /// Effect: this layer's loss summed over the rows, `f32[1, 1]`.
    Report(Handle<Value>),
    /// Effect: `range = max(observed, decay * range)`.
    Track {
        /// A [`ParamRole::Range`].
        param: Handle<Param>,
        /// `f32[1, 1]`.
        observed: Handle<Value>,
        /// How fast old maxima fade.
        decay: f32,
    },
    /// Effect: the parameter takes the value.
    Assign {
        /// An `f32` parameter.
        param: Handle<Param>,
        /// Its new value.
        value: Handle<Value>,
    },
    /// Effect: one optimizer step, `weight -= rate * factor * grad` ([`numerics::sgd_step`](crate::numerics::sgd_step)).
    Sgd(Sgd),
}

/// Operands of [`Op::Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The weight, [`ParamStorage::Fixed16`] or [`ParamStorage::F32`].
    pub param: Handle<Param>,
    /// `i32` or `f32`, of the weight's shape.
    pub grad: Handle<Value>,
    /// Learning rate times the gradient's scale: `f32[1, 1]`.
    pub factor: Handle<Value>,
    /// Stream of the random generator.
    pub stream: u32,
    /// Momentum and the velocity it keeps.
    pub momentum: Option<(Handle<Param>, f32)>,
}

/// Numbers that the session sets between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Learning rate divided by the samples really in the batch.
    Rate,
    /// The weight of later layers' errors.
    Lambda,
}

impl Control {
    /// All controls.
    pub const ALL: [Self; 2] = [Self::Rate, Self::Lambda];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Lambda => "lambda",
        }
    }
}

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
    /// Square root, correctly rounded.
    Sqrt,
    /// [`numerics::exp`](crate::numerics::exp).
    Exp,
    /// [`numerics::log`](crate::numerics::log).
    Log,
}

impl UnaryOp {
    /// All functions.
    pub const ALL: [Self; 5] = [Self::Neg, Self::Abs, Self::Sqrt, Self::Exp, Self::Log];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neg => "neg",
            Self::Abs => "abs",
            Self::Sqrt => "sqrt",
            Self::Exp => "exp",
            Self::Log => "log",
        }
    }
}

/// Elementwise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// `a < b ? b : a`.
    Max,
    /// `b < a ? b : a`.
    Min,
}

impl BinaryOp {
    /// All functions.
    pub const ALL: [Self; 6] = [Self::Add, Self::Sub, Self::Mul, Self::Div, Self::Max, Self::Min];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

/// What an activation's derivative follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerivativeFrom {
    /// What the function was given: it gives some values twice, with different slopes.
    Input,
    /// What it gave.
    Output,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` above 0, `alpha * x` below; `alpha` is positive.
    LeakyRelu(f32),
    /// `min(max(x, low), high)`.
    Clip {
        /// Lower bound, may be negative infinity.
        low: f32,
        /// Upper bound, may be infinity.
        high: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `min(max(alpha * x + beta, 0), 1)`; `alpha` is positive.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x` above 0, `alpha * (exp(x) - 1)` below; `alpha` is positive.
    Elu(f32),
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * min(max(x + 3, 0), 6) / 6`.
    HardSwish,
    /// `x` times the probability that a normal number is below it.
    Gelu,
    /// [`Gelu`](Self::Gelu) with `(1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2` for the probability.
    GeluTanh,
}

impl Activation {
    /// Whether no output is negative.
    pub fn is_non_negative(self) -> bool {
        match self {
            Self::Relu | Self::Sigmoid | Self::HardSigmoid { .. } => true,
            Self::Clip { low, .. } => low >= 0.0,
            Self::LeakyRelu(_)
            | Self::Tanh
            | Self::Elu(_)
            | Self::Silu
            | Self::HardSwish
            | Self::Gelu
            | Self::GeluTanh => false,
        }
    }

    /// What the derivative follows from: the output, which is at hand anyway, where it can.
    pub fn derivative_from(self) -> DerivativeFrom {
        match self {
            Self::Silu | Self::HardSwish | Self::Gelu | Self::GeluTanh => DerivativeFrom::Input,
            Self::Relu
            | Self::LeakyRelu(_)
            | Self::Clip { .. }
            | Self::Sigmoid
            | Self::Tanh
            | Self::HardSigmoid { .. }
            | Self::Elu(_) => DerivativeFrom::Output,
        }
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Clip { .. } => "clip",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::HardSigmoid { .. } => "hard_sigmoid",
            Self::Elu(_) => "elu",
            Self::Silu => "silu",
            Self::HardSwish => "hard_swish",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
        }
    }

    /// Its numbers, in the order in which the text form has them.
    pub fn numbers(self) -> Vec<f32> {
        match self {
            Self::LeakyRelu(alpha) | Self::Elu(alpha) => vec![alpha],
            Self::Clip { low, high } => vec![low, high],
            Self::HardSigmoid { alpha, beta } => vec![alpha, beta],
            Self::Relu
            | Self::Sigmoid
            | Self::Tanh
            | Self::Silu
            | Self::HardSwish
            | Self::Gelu
            | Self::GeluTanh => Vec::new(),
        }
    }

    /// One of each kind, with these numbers where it has some.
    pub fn all([first, second]: [f32; 2]) -> [Self; 11] {
        [
            Self::Relu,
            Self::LeakyRelu(first),
            Self::Clip { low: first, high: second },
            Self::Sigmoid,
            Self::Tanh,
            Self::HardSigmoid { alpha: first, beta: second },
            Self::Elu(first),
            Self::Silu,
            Self::HardSwish,
            Self::Gelu,
            Self::GeluTanh,
        ]
    }
}

/// Reductions along columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Sum: `i8` and `i32` give `i32`, `f32` gives `f32`.
    Sum,
    /// Sum of squares: `i8` gives `i32`, `f32` gives `f32`.
    SumSquares,
    /// Largest `f32`.
    Max,
    /// Largest magnitude of `f32`.
    AbsMax,
}

impl ReduceOp {
    /// All reductions.
    pub const ALL: [Self; 4] = [Self::Sum, Self::SumSquares, Self::Max, Self::AbsMax];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::SumSquares => "sum_squares",
            Self::Max => "max",
            Self::AbsMax => "abs_max",
        }
    }
}

/// How a pool combines what it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolOp {
    /// Sum, of `f32` in the order of the taps.
    Sum,
    /// Largest.
    Max,
}

impl PoolOp {
    /// All.
    pub const ALL: [Self; 2] = [Self::Sum, Self::Max];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
        }
    }
}

/// How a quantizer rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest integer, ties to even.
    Nearest,
    /// Up or down at random so that the mean is exact, drawing from this stream.
    Stochastic(u32),
}

impl Op {
    /// Calls `visit` with each operand in order.
    pub fn operands(&self, mut visit: impl FnMut(Handle<Value>)) {
        let mut copy = *self;
        copy.operands_mut(|operand| visit(*operand));
    }

    /// Calls `visit` with a place for each operand in order, to rename them.
    pub fn operands_mut(&mut self, mut visit: impl FnMut(&mut Handle<Value>)) {
        match self {
            Self::Operand(_)
            | Self::Input
            | Self::Target
            | Self::Overlaid { .. }
            | Self::Polarity
            | Self::Control(_)
            | Self::Constant(_)
            | Self::Param(_)
            | Self::ScaleOf(_)
            | Self::Ahead => {}
            Self::Transpose(value)
            | Self::Unary(_, value)
            | Self::Activate(_, value)
            | Self::Convert(value)
            | Self::Reduce(_, value)
            | Self::Splat(value)
            | Self::Reshape(value)
            | Self::Window { value, .. }
            | Self::Pool { value, .. }
            | Self::Back { weight: value, .. }
            | Self::Pixels { value, .. }
            | Self::Slice { value, .. }
            | Self::Publish(value)
            | Self::Report(value)
            | Self::OneHot { labels: value, .. }
            | Self::Score { value, .. }
            | Self::Track { observed: value, .. }
            | Self::Assign { value, .. } => visit(value),
            Self::Dot { lhs, rhs } | Self::Binary(_, lhs, rhs) | Self::Concat(lhs, rhs) => {
                visit(lhs);
                visit(rhs);
            }
            Self::MaxGrad { input, output, grad, .. } => {
                visit(input);
                visit(output);
                visit(grad);
            }
            Self::Depthwise { value, weight, .. } => {
                visit(value);
                visit(weight);
            }
            Self::DepthwiseGrad { grad, value, .. } => {
                visit(grad);
                visit(value);
            }
            Self::ActivateGrad { output, grad, .. } => {
                visit(output);
                visit(grad);
            }
            Self::Overlay { value, labels, .. } => {
                visit(value);
                visit(labels);
            }
            Self::Quantize { value, scale, .. } => {
                visit(value);
                visit(scale);
            }
            Self::Sgd(sgd) => {
                visit(&mut sgd.grad);
                visit(&mut sgd.factor);
            }
        }
    }

    /// Whether the operation is there for what it does, not for its result.
    pub fn is_effect(&self) -> bool {
        matches!(
            self,
            Self::Publish(_)
                | Self::Score { .. }
                | Self::Report(_)
                | Self::Track { .. }
                | Self::Assign { .. }
                | Self::Sgd(_)
        )
    }
}

/// The regions of a layer, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// From the operands to the outputs.
    Forward,
    /// Scores, loss and error signal.
    Head,
    /// Error signals of later layers.
    LookAhead,
    /// Gradient and optimizer.
    Update,
}

impl Region {
    /// All regions in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Head, Self::LookAhead, Self::Update];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Head => "head",
            Self::LookAhead => "look_ahead",
            Self::Update => "update",
        }
    }
}

impl Layer {
    /// A layer without operations.
    pub fn new(name: impl Into<String>, role: LayerRole) -> Self {
        Self { name: name.into(), role, ..Self::default() }
    }

    /// The operations of a region.
    pub fn region(&self, region: Region) -> &[Handle<Value>] {
        match region {
            Region::Forward => &self.forward,
            Region::Head => &self.head,
            Region::LookAhead => &self.look_ahead,
            Region::Update => &self.update,
        }
    }

    /// The operations of a region, to be changed.
    pub fn region_mut(&mut self, region: Region) -> &mut Vec<Handle<Value>> {
        match region {
            Region::Forward => &mut self.forward,
            Region::Head => &mut self.head,
            Region::LookAhead => &mut self.look_ahead,
            Region::Update => &mut self.update,
        }
    }

    /// Appends an operation to a region. `name` is made unique by a number where it is taken.
    pub fn push(&mut self, region: Region, name: &str, op: Op, ty: Type) -> Handle<Value> {
        let taken = |name: &str| self.values.values().any(|value| value.name == name);
        let name = if taken(name) {
            (2..).map(|n| format!("{name}.{n}")).find(|name| !taken(name)).expect("numbers do not run out")
        } else {
            name.to_string()
        };
        let handle = self.values.push(Value { name, op, ty });
        self.region_mut(region).push(handle);
        handle
    }

    /// All operations in the order in which they run.
    pub fn ops(&self) -> impl Iterator<Item = (Region, Handle<Value>)> + '_ {
        Region::ALL
            .into_iter()
            .flat_map(move |region| self.region(region).iter().map(move |&value| (region, value)))
    }

    /// What a value is put together from, in order, each with its first column: itself, where it is no
    /// [`Concat`](Op::Concat).
    pub fn parts(&self, value: Handle<Value>) -> Vec<(Handle<Value>, usize)> {
        let (mut parts, mut from) = (Vec::new(), 0);
        let mut rest = vec![value];
        while let Some(value) = rest.pop() {
            match (self.values[value].op, self.ty(value).columns()) {
                (Op::Concat(first, second), _) => rest.extend([second, first]),
                (_, Dim::Const(columns) | Dim::Rows(columns)) => {
                    parts.push((value, from));
                    from += columns;
                }
            }
        }
        parts
    }

    /// What a value consists of some columns of and nothing else: looked at through [slices](Op::Slice), put together
    /// again or not.
    pub fn sliced(&self, value: Handle<Value>) -> Option<Handle<Value>> {
        match self.values[value].op {
            Op::Slice { value, .. } => Some(self.sliced(value).unwrap_or(value)),
            Op::Concat(first, second) => {
                self.sliced(first).filter(|&source| self.sliced(second) == Some(source))
            }
            _ => None,
        }
    }

    /// The type of a value.
    pub fn ty(&self, value: Handle<Value>) -> Type {
        self.values[value].ty
    }
}

impl Module {
    /// The parameter of this name.
    pub fn param(&self, name: &str) -> Option<Handle<Param>> {
        self.params.find(|param| param.name == name)
    }

    /// Rows in a full batch.
    pub fn batch_rows(&self) -> usize {
        self.batch * self.rows.rows_per_sample(self.classes)
    }
}
