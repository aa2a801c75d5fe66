//! Numbers within operations.

use crate::module::{Activation, Op};

/// What is wrong with an operation's numbers.
pub(super) fn faults(op: &Op) -> Vec<String> {
    match *op {
        Op::Constant(value) => finite("constant", value),
        Op::Activate(activation, _) | Op::ActivateGrad { activation, .. } => activation_faults(activation),
        Op::OneHot { classes, .. } => some("classes", classes),
        Op::Overlay { classes, on, off, .. } => {
            [some("classes", classes), finite("on", on), finite("off", off)].concat()
        }
        Op::Track { decay, .. } => fraction("decay", decay),
        Op::Sgd(sgd) => sgd.momentum.map_or_else(Vec::new, |(_, momentum)| fraction("momentum", momentum)),
        _ => Vec::new(),
    }
}

fn activation_faults(activation: Activation) -> Vec<String> {
    match activation {
        Activation::LeakyRelu(alpha) | Activation::Elu(alpha) | Activation::HardSigmoid { alpha, .. }
            if !(alpha.is_finite() && alpha > 0.0) =>
        {
            vec![format!("the slope of `{}` is {alpha}, not positive", activation.name())]
        }
        Activation::HardSigmoid { beta, .. } => finite("beta", beta),
        Activation::Clip { low, high } if low > high || low.is_nan() || high.is_nan() => {
            vec![format!("`clip` from {low} to {high} has no inside")]
        }
        _ => Vec::new(),
    }
}

fn finite(what: &str, value: f32) -> Vec<String> {
    if value.is_finite() { Vec::new() } else { vec![format!("`{what}` is {value}, not finite")] }
}

fn fraction(what: &str, value: f32) -> Vec<String> {
    if (0.0..=1.0).contains(&value) {
        Vec::new()
    } else {
        vec![format!("`{what}` is {value}, not from 0 to 1")]
    }
}

fn some(what: &str, count: usize) -> Vec<String> {
    if count > 0 { Vec::new() } else { vec![format!("`{what}` is 0")] }
}
