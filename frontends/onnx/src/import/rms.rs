//! The parts of a root-mean-square normalisation.
//!
//! `a / sqrt(mean(a^2) + epsilon)`, the mean over all of a sample, arrives as five operators. Each one knows only its own
//! step of [`RmsPart`]; whatever leaves the path is refused where it does.

use ffc_ir::Handle;
use ffc_ir::module::Value;

use crate::graph::Node;
use crate::import::{Data, Importer, Known, Reason, RmsPart};

pub(crate) fn square<'m>(importer: &mut Importer<'m>, node: &'m Node, data: &Data) -> Result<(), Reason> {
    if data.normalized.is_some() {
        return Err(Reason::from("two normalisations follow each other"));
    }
    importer.set(node, Known::Rms(data.value, RmsPart::Square(data.view.rank())))
}

pub(crate) fn mean<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    value: Handle<Value>,
) -> Result<(), Reason> {
    importer.set(node, Known::Rms(value, RmsPart::Mean))
}

pub(crate) fn shift<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    value: Handle<Value>,
    epsilon: f32,
) -> Result<(), Reason> {
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return Err(format!("an epsilon of {epsilon}").into());
    }
    importer.set(node, Known::Rms(value, RmsPart::Shifted(epsilon)))
}

pub(crate) fn sqrt<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    match importer.known(node, 0)? {
        Known::Rms(value, RmsPart::Shifted(epsilon)) => {
            importer.set(node, Known::Rms(value, RmsPart::Root(epsilon)))
        }
        _ => Err(Reason::from("a square root outside of a root-mean-square normalisation")),
    }
}

pub(crate) fn normalize<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    data: Data,
    epsilon: f32,
) -> Result<(), Reason> {
    if data.normalized.is_some() {
        return Err(Reason::from("two normalisations follow each other"));
    }
    importer.set(node, Known::Data(Data { normalized: Some(epsilon), ..data }))
}
