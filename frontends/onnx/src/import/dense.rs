//! Dense layers and activation functions.

use ffc_ir::module::Activation;

use crate::fold::{Elements, Folded, transpose};
use crate::graph::Node;
use crate::import::{Axis, Importer, Known, Reason};
use crate::names;
use crate::network::Matrix;

pub(crate) fn gemm<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    importer.data(node, 0)?.features()?;
    if node.int("transA", 0)? != 0 {
        return Err(Reason::from("attribute `transA` is not supported"));
    }
    let mut weight = weight(importer, node, node.int("transB", 0)? != 0)?;
    scale(&mut weight.values, node.float("alpha", 1.0)?);
    let columns = weight.outputs;
    let bias = match importer.optional_folded(node, 2)? {
        Some(bias) => Some(row(&bias, columns)?),
        None => None,
    };
    dense(importer, node, weight)?;
    if let Some(mut bias) = bias {
        scale(&mut bias, node.float("beta", 1.0)?);
        importer.builder.bias(bias)?;
    }
    importer.built(node, vec![Axis::Batch, Axis::Fixed(columns)])
}

pub(crate) fn mat_mul<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    importer.data(node, 0)?.features()?;
    let weight = weight(importer, node, false)?;
    let columns = weight.outputs;
    dense(importer, node, weight)?;
    importer.built(node, vec![Axis::Batch, Axis::Fixed(columns)])
}

fn dense<'m>(importer: &mut Importer<'m>, node: &'m Node, weight: Matrix) -> Result<(), Reason> {
    let name = names::layer(node, node.inputs.get(1).map_or("", String::as_str));
    importer.builder.dense(name, weight)
}

/// The weight as `[outputs, inputs]`; it is stored so where `transposed` is set.
fn weight<'m>(importer: &mut Importer<'m>, node: &'m Node, transposed: bool) -> Result<Matrix, Reason> {
    let weight = importer.folded(node, 1)?;
    let values = weight.as_floats()?;
    let &[first, second] = weight.dims.as_slice() else {
        return Err(format!("the weight has {} dimensions, not 2", weight.dims.len()).into());
    };
    importer.builder.charge(values.len())?;
    Ok(if transposed {
        Matrix { outputs: first, inputs: second, values: values.to_vec() }
    } else {
        Matrix { outputs: second, inputs: first, values: transpose(values, first, second) }
    })
}

fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// A bias for each column, from a constant that broadcasts to one row.
pub(crate) fn row(bias: &Folded, columns: usize) -> Result<Vec<f32>, Reason> {
    let values = bias.as_floats()?;
    let is_row = bias.dims.iter().rev().skip(1).all(|&dim| dim == 1) && bias.dims.len() <= 2;
    match values.as_slice() {
        [value] if is_row => Ok(vec![*value; columns]),
        values if is_row && values.len() == columns => Ok(values.to_vec()),
        _ => Err(format!("the bias has the shape {:?}, not [{columns}]", bias.dims).into()),
    }
}

pub(crate) fn relu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Relu)
}

pub(crate) fn sigmoid<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Sigmoid)
}

pub(crate) fn tanh<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::Tanh)
}

pub(crate) fn leaky_relu<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    activate(importer, node, Activation::LeakyRelu(node.float("alpha", 0.01)?))
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
    importer.builder.activate(activation)?;
    importer.built(node, data.dims)
}

/// Adds a constant to the activation: the bias of a `MatMul`.
pub(crate) fn add_bias<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    position: usize,
) -> Result<(), Reason> {
    let data = importer.data(node, position)?;
    let bias = importer.folded(node, 1 - position)?;
    if !matches!(bias.elements, Elements::Floats(_)) {
        return Err(Reason::from("adding integers to an activation"));
    }
    let bias = row(&bias, data.features()?)?;
    importer.builder.bias(bias)?;
    importer.built(node, data.dims)
}
