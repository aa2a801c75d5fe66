//! Dense layers.
//!
//! What a dense layer sees may be stored in another order than the file sees it: an image that was flattened has its
//! channels side by side. Then the weight's columns are put in the stored order.

use ffc_ir::window::Window;

use crate::fold::Folded;
use crate::graph::Node;
use crate::import::{Data, Importer, Reason};
use crate::names;
use crate::network::Matrix;
use crate::numbers::Numbers;
use crate::view::View;

pub(crate) fn gemm<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let data = importer.contracted(node, 0)?;
    data.view.features()?;
    if node.int("transA", 0)? != 0 {
        return Err(Reason::from("attribute `transA` is not supported"));
    }
    let mut weight = weight(importer, node, node.int("transB", 0)? != 0)?;
    weight.values = scaled(weight.values, node.float("alpha", 1.0)?);
    let bias = importer.optional_folded(node, 2)?;
    let bias = bias.map(|bias| row(&bias, weight.outputs)).transpose()?;
    let beta = node.float("beta", 1.0)?;
    let bias = bias.map(|bias| scaled(bias.into(), beta));
    dense(importer, node, data, weight, bias)
}

pub(crate) fn mat_mul<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let data = importer.contracted(node, 0)?;
    data.view.features()?;
    let weight = weight(importer, node, false)?;
    dense(importer, node, data, weight, None)
}

fn dense<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    data: Data,
    mut weight: Matrix,
    bias: Option<Numbers>,
) -> Result<(), Reason> {
    let features = data.view.features()?;
    if weight.inputs != features {
        let inputs = weight.inputs;
        return Err(format!("the weight has {inputs} inputs, the activation {features} features").into());
    }
    if !data.view.is_plain() {
        weight.values = weight.values.picked(data.view.feature_places());
    }
    let window = (!data.view.is_matrix()).then(|| Window::whole(data.view.stored_size()));
    let layer = names::layer(node, node.inputs.get(1).map_or("", String::as_str));
    let columns = weight.outputs;
    let input = (data.value, data.normalized);
    let mut value = importer.builder.dense(input, window, layer.clone(), weight)?;
    if let Some(bias) = bias {
        value = importer.builder.bias(value, layer, bias)?;
    }
    importer.built(node, value, View::matrix(columns))
}

/// The weight as `[outputs, inputs]`; it is stored so where `transposed` is set.
fn weight<'m>(importer: &mut Importer<'m>, node: &'m Node, transposed: bool) -> Result<Matrix, Reason> {
    let weight = importer.folded(node, 1)?;
    let &[first, second] = weight.dims.as_slice() else {
        return Err(format!("the weight has {} dimensions, not 2", weight.dims.len()).into());
    };
    importer.builder.charge_weight(if transposed { [first, second] } else { [second, first] })?;
    let values = weight.as_numbers()?.clone();
    Ok(if transposed {
        Matrix { outputs: first, inputs: second, values }
    } else {
        Matrix { outputs: second, inputs: first, values: values.transposed(first, second) }
    })
}

fn scaled(values: Numbers, factor: f32) -> Numbers {
    let all = values.len();
    if factor == 1.0 { values } else { values.scaled(all, Numbers::repeated(factor, 1)) }
}

/// A bias for each column, from a constant that broadcasts to one row.
pub(crate) fn row(bias: &Folded, columns: usize) -> Result<Vec<f32>, Reason> {
    let values = bias.as_floats(columns)?;
    let is_row = bias.dims.iter().rev().skip(1).all(|&dim| dim == 1) && bias.dims.len() <= 2;
    match values.as_slice() {
        [value] if is_row => Ok(vec![*value; columns]),
        values if is_row && values.len() == columns => Ok(values.to_vec()),
        _ => Err(format!("the bias has the shape {:?}, not [{columns}]", bias.dims).into()),
    }
}
