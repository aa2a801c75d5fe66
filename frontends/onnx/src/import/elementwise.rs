//! Arithmetic: on shapes, as a bias, and as the parts of a root-mean-square normalisation.
//!
//! `a / sqrt(mean(a^2) + epsilon)` arrives as five operators. Each one knows only its own step of [`RmsPart`]; whatever
//! leaves the path is refused where it does.

use crate::fold::Arithmetic;
use crate::graph::Node;
use crate::import::dense::add_bias;
use crate::import::{Data, Importer, Known, Reason, RmsPart, axis};

pub(crate) fn add<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Add)
}

pub(crate) fn sub<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Sub)
}

pub(crate) fn mul<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Mul)
}

pub(crate) fn div<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Div)
}

fn binary<'m>(importer: &mut Importer<'m>, node: &'m Node, op: Arithmetic) -> Result<(), Reason> {
    use Arithmetic::{Add, Div, Mul};
    use Known::{Data, Folded, Rms};
    match (op, importer.known(node, 0)?, importer.known(node, 1)?) {
        (_, Folded(a), Folded(b)) => {
            let result = a.arithmetic(op, &b)?;
            importer.set(node, Folded(result))
        }
        (Add, Data(_), Folded(_)) => add_bias(importer, node, 0),
        (Add, Folded(_), Data(_)) => add_bias(importer, node, 1),
        (Mul, Data(a), Data(b)) if a == b => square(importer, node, a),
        (Add, Rms(step, RmsPart::Mean), Folded(epsilon))
        | (Add, Folded(epsilon), Rms(step, RmsPart::Mean)) => {
            importer.set(node, Rms(step, RmsPart::Shifted(positive(epsilon.as_scalar()?)?)))
        }
        (Div, Data(data), Rms(step, RmsPart::Root(epsilon))) if data.step == step => {
            normalize(importer, node, data, epsilon)
        }
        (_, Data(data), Folded(_)) | (_, Folded(_), Data(data)) => Err(on_constant(&data)),
        _ => Err(Reason::from("arithmetic between activations; networks with branches are not supported")),
    }
}

fn on_constant(data: &Data) -> Reason {
    if data.features() == Ok(1) {
        return Reason::from(
            "the network has one output; the task is classification with one score per class",
        );
    }
    if data.step == 0 {
        return Reason::from("arithmetic on the network's input: put it into the preprocessing");
    }
    Reason::from("arithmetic on an activation, other than the bias of a dense layer")
}

fn square<'m>(importer: &mut Importer<'m>, node: &'m Node, data: Data) -> Result<(), Reason> {
    let data = importer.last(data)?;
    data.features()?;
    importer.set(node, Known::Rms(data.step, RmsPart::Square))
}

fn normalize<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    data: Data,
    epsilon: f32,
) -> Result<(), Reason> {
    let data = importer.last(data)?;
    data.features()?;
    importer.builder.normalize(epsilon)?;
    importer.built(node, data.dims)
}

fn positive(epsilon: f32) -> Result<f32, Reason> {
    if epsilon >= 0.0 && epsilon.is_finite() {
        Ok(epsilon)
    } else {
        Err(format!("an epsilon of {epsilon}").into())
    }
}

pub(crate) fn sqrt<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match importer.known(node, 0)? {
        Known::Rms(step, RmsPart::Shifted(epsilon)) => {
            importer.set(node, Known::Rms(step, RmsPart::Root(epsilon)))
        }
        _ => Err(Reason::from("a square root outside of a root-mean-square normalisation")),
    }
}

/// Until opset 17 the axes are an attribute.
pub(crate) fn reduce_mean_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    reduce_mean(importer, node, node.ints("axes")?)
}

/// Since opset 18 the axes are an input.
pub(crate) fn reduce_mean_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let axes = importer.optional_folded(node, 1)?.map(|axes| axes.as_known()).transpose()?;
    reduce_mean(importer, node, axes)
}

fn reduce_mean<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    axes: Option<Vec<i64>>,
) -> Result<(), Reason> {
    let over_columns = matches!(axes.as_deref(), Some([only]) if axis(*only, 2) == Ok(1));
    match importer.known(node, 0)? {
        Known::Rms(step, RmsPart::Square) if over_columns && node.int("keepdims", 1)? == 1 => {
            importer.set(node, Known::Rms(step, RmsPart::Mean))
        }
        _ => Err(Reason::from("a mean outside of a root-mean-square normalisation")),
    }
}
