//! Activation functions.
//!
//! What is written as several operators is imported as that and becomes one function in
//! [`simplify`](crate::simplify), except for GELU: the layer IR has no error function, so its parts are noted.

use ffc_ir::module::{Activation, BinaryOp, Op};

use crate::fold::{Arithmetic, Folded};
use crate::graph::Node;
use crate::import::{Data, GeluPart, Importer, Known, Reason};

pub(crate) fn relu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Relu)
}

pub(crate) fn sigmoid<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Sigmoid)
}

pub(crate) fn tanh<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Tanh)
}

pub(crate) fn hard_swish<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::HardSwish)
}

pub(crate) fn hard_sigmoid<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let (alpha, beta) = (node.float("alpha", 0.2)?, node.float("beta", 0.5)?);
    activate(importer, node, Activation::HardSigmoid { alpha, beta })
}

pub(crate) fn elu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Elu(node.float("alpha", 1.0)?))
}

pub(crate) fn leaky_relu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    leaky(importer, node, node.float("alpha", 0.01)?)
}

/// One slope for all: else each would have to be learned.
pub(crate) fn p_relu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let value = importer.data(node, 0)?.value;
    let slopes = importer.folded(node, 1)?.as_floats(importer.builder.columns(value))?;
    match slopes.split_first() {
        Some((&slope, rest)) if rest.iter().all(|&other| other == slope) => leaky(importer, node, slope),
        _ => Err(Reason::from("a slope for each channel; one for all is supported")),
    }
}

fn leaky<'m>(importer: &mut Importer<'m>, node: &'m Node, slope: f32) -> Result<(), Reason> {
    let function = if slope == 0.0 { Activation::Relu } else { Activation::LeakyRelu(slope) };
    activate(importer, node, function)
}

/// `x * sigmoid(alpha * x)`.
pub(crate) fn swish<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match node.float("alpha", 1.0)? {
        1.0 => activate(importer, node, Activation::Silu),
        alpha => Err(format!("an `alpha` of {alpha}; 1 is supported").into()),
    }
}

pub(crate) fn gelu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match node.text("approximate", "none")? {
        "none" => activate(importer, node, Activation::Gelu),
        "tanh" => activate(importer, node, Activation::GeluTanh),
        other => Err(format!("the approximation `{other}`").into()),
    }
}

/// Until opset 10 the bounds are attributes.
pub(crate) fn clip_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let (low, high) = (node.float("min", f32::NEG_INFINITY)?, node.float("max", f32::INFINITY)?);
    clip(importer, node, low, high)
}

/// Since opset 11 the bounds are inputs.
pub(crate) fn clip_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let low = bound(importer.optional_folded(node, 1)?, f32::NEG_INFINITY)?;
    let high = bound(importer.optional_folded(node, 2)?, f32::INFINITY)?;
    clip(importer, node, low, high)
}

fn bound(bound: Option<Folded>, absent: f32) -> Result<f32, Reason> {
    bound.map_or(Ok(absent), |bound| bound.as_scalar())
}

fn clip<'m>(importer: &mut Importer<'m>, node: &'m Node, low: f32, high: f32) -> Result<(), Reason> {
    // Exporters write the whole range of `float` for a bound that is not there.
    let low = if low == f32::MIN { f32::NEG_INFINITY } else { low };
    let high = if high == f32::MAX { f32::INFINITY } else { high };
    match (low, high) {
        (f32::NEG_INFINITY, f32::INFINITY) => {
            let data = importer.data(node, 0)?;
            importer.set(node, Known::Data(data))
        }
        (0.0, f32::INFINITY) => activate(importer, node, Activation::Relu),
        _ => activate(importer, node, Activation::Clip { low, high }),
    }
}

fn activate<'m>(importer: &mut Importer<'m>, node: &'m Node, activation: Activation) -> Result<(), Reason> {
    let data = importer.data(node, 0)?;
    let value = importer.builder.activate(data.value, activation)?;
    importer.built(node, value, data.view)
}

/// Only of `x / sqrt(2)`, within a GELU.
pub(crate) fn erf<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let scaled = importer.data(node, 0)?;
    if let Op::Binary(BinaryOp::Mul, x, factor) = importer.builder.op(scaled.value)
        && let Op::Constant(factor) = importer.builder.op(factor)
        && (factor * factor - 0.5).abs() < 1e-4
        && factor > 0.0
    {
        return importer.set(node, Known::Gelu(Data { value: x, ..scaled }, GeluPart::Erf));
    }
    Err(Reason::from("an error function outside of a GELU"))
}

/// The next part of a GELU by arithmetic with a number.
pub(crate) fn gelu_with_number<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    (data, part): (Data, GeluPart),
    (op, number): (Arithmetic, f32),
) -> Result<(), Reason> {
    let halves = (op, number) == (Arithmetic::Mul, 0.5) || (op, number) == (Arithmetic::Div, 2.0);
    let next = match part {
        GeluPart::Erf if (op, number) == (Arithmetic::Add, 1.0) => GeluPart::Shifted,
        GeluPart::Shifted if halves => GeluPart::Probability,
        GeluPart::Twice if halves => return finish_gelu(importer, node, data),
        _ => return Err(Reason::from("an error function outside of a GELU")),
    };
    importer.set(node, Known::Gelu(data, next))
}

/// The next part of a GELU by multiplication with an activation.
pub(crate) fn gelu_with_data<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    (data, part): (Data, GeluPart),
    other: Data,
) -> Result<(), Reason> {
    let x = data.value;
    let is_half = match importer.builder.op(other.value) {
        Op::Binary(BinaryOp::Mul, value, half) => {
            value == x && importer.builder.op(half) == Op::Constant(0.5)
        }
        _ => false,
    };
    match part {
        GeluPart::Shifted if other.value == x => importer.set(node, Known::Gelu(data, GeluPart::Twice)),
        GeluPart::Shifted if is_half => finish_gelu(importer, node, data),
        GeluPart::Probability if other.value == x => finish_gelu(importer, node, data),
        _ => Err(Reason::from("an error function outside of a GELU")),
    }
}

fn finish_gelu<'m>(importer: &mut Importer<'m>, node: &'m Node, data: Data) -> Result<(), Reason> {
    let value = importer.builder.activate(data.value, Activation::Gelu)?;
    importer.built(node, value, data.view)
}
