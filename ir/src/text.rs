//! The text form of both IRs.
//!
//! A module prints (`Display`) and is read back by [`parse`] as the same module, up to
//! [`canonical`](crate::canonical::canonical):
//!
//! ```text
//! module @tiny quantized {
//!   input u8[4]
//!   classes 2
//!   batch 8
//!   rows plain
//!
//!   param @fc.weight: fixed16(channel)[2, 4] weight
//!
//!   layer @fc classifier {
//!     forward {
//!       %x: u8[rows, 4] = input
//!       %f: f32[rows, 4] = convert %x
//!       %s: f32[1, 1] = constant 2
//!       %q: i8[rows, 4] = quantize %f, %s, nearest
//!       %w: i8[2, 4] = param @fc.weight
//!       %dot: i32[rows, 2] = dot %q, %w // a comment
//!       yield %dot
//!     }
//!   }
//! }
//! ```
//!
//! The type of a value may be left out where [`result_type`](crate::verify::result_type) can tell it. Programs of the
//! kernel IR only print.

mod kernel;
mod lexer;
mod parse;
mod parse_op;
mod print;

pub use kernel::summary;
pub use parse::parse;

use crate::module::Op;

/// What the operation is called.
pub fn mnemonic(op: &Op) -> &'static str {
    match op {
        Op::Operand(_) => "operand",
        Op::Input => "input",
        Op::Target => "target",
        Op::Overlaid { .. } => "overlaid",
        Op::Polarity => "polarity",
        Op::Control(_) => "control",
        Op::Constant(_) => "constant",
        Op::Param(_) => "param",
        Op::ScaleOf(_) => "scale",
        Op::Dot { .. } => "dot",
        Op::Window { .. } => "window",
        Op::Pool { .. } => "pool",
        Op::MaxGrad { .. } => "max_grad",
        Op::Depthwise { .. } => "depthwise",
        Op::DepthwiseGrad { .. } => "depthwise_grad",
        Op::Back { .. } => "back",
        Op::Pixels { .. } => "pixels",
        Op::Reshape(_) => "reshape",
        Op::Slice { .. } => "slice",
        Op::Concat(..) => "concat",
        Op::Transpose(_) => "transpose",
        Op::Unary(op, _) => op.name(),
        Op::Binary(op, ..) => op.name(),
        Op::Activate(..) => "activate",
        Op::ActivateGrad { .. } => "activate_grad",
        Op::Convert(_) => "convert",
        Op::OneHot { .. } => "one_hot",
        Op::Overlay { .. } => "overlay",
        Op::Reduce(..) => "reduce",
        Op::Splat(_) => "splat",
        Op::Quantize { .. } => "quantize",
        Op::Publish(_) => "publish",
        Op::Ahead => "ahead",
        Op::Score { .. } => "score",
        Op::Report(_) => "report",
        Op::Track { .. } => "track",
        Op::Assign { .. } => "assign",
        Op::Sgd(_) => "sgd",
    }
}

/// The shortest text that reads back as the same `f32`.
fn number(value: f32) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").map(str::to_string).unwrap_or(text)
}
