//! What exporters append to the scores: softmax, and scikit-learn's labels and dictionaries.
//!
//! The network ends at the logits. A softmax behind them is noted for the export; predicted labels are recognised so
//! that they can be ignored.

use crate::graph::Node;
use crate::import::{Importer, Known, Reason, axis};
use crate::interface::SoftmaxTail;

/// Until opset 12 the dimensions from `axis` on are taken together; of two that is the same for axis 1.
pub(crate) fn softmax_flat<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    normalize(importer, node, 1, SoftmaxTail::Softmax)
}

pub(crate) fn softmax<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    normalize(importer, node, -1, SoftmaxTail::Softmax)
}

pub(crate) fn log_softmax_flat<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    normalize(importer, node, 1, SoftmaxTail::LogSoftmax)
}

pub(crate) fn log_softmax<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    normalize(importer, node, -1, SoftmaxTail::LogSoftmax)
}

fn normalize<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    default: i64,
    softmax: SoftmaxTail,
) -> Result<(), Reason> {
    let mut data = importer.data(node, 0)?;
    data.view.classes()?;
    over_classes(node, default, data.view.rank())?;
    data.softmax = softmax;
    importer.set(node, Known::Data(data))
}

fn over_classes(node: &Node, default: i64, rank: usize) -> Result<(), Reason> {
    match axis(node.int("axis", default)?, rank)? {
        0 => Err(Reason::from("over the batch, not over the classes")),
        1 => Ok(()),
        _ => Err(Reason::from("over positions, not over the classes")),
    }
}

pub(crate) fn arg_max<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let Known::Data(data) = importer.known(node, 0)? else {
        return Err(Reason::from("input 0 is not an activation"));
    };
    data.view.features()?;
    over_classes(node, 0, 2)?;
    importer.set(node, Known::Labels)
}

/// Looks the predicted labels up among the classes.
pub(crate) fn array_feature_extractor<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match (importer.known(node, 0)?, importer.known(node, 1)?) {
        (Known::Folded(_), Known::Labels) => importer.set(node, Known::Labels),
        _ => Err(Reason::from("only looking up predicted labels is supported")),
    }
}

/// Scores as dictionaries from class to score.
pub(crate) fn zip_map<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match importer.known(node, 0)? {
        scores @ Known::Data(_) => importer.set(node, scores),
        _ => Err(Reason::from("input 0 is not an activation")),
    }
}
