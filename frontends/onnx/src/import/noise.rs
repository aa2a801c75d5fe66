//! Random numbers of training: dropout of whole branches, as files that were saved in training mode hold it.
//!
//! A mask is made by comparing random numbers with a constant, and divided by the probability to keep what it multiplies,
//! so that the mean is as without it. A network is imported as it predicts, where what a mask multiplies passes.

use crate::graph::Node;
use crate::import::{Importer, Known, Reason};

/// Random numbers for a tensor of some shape.
pub(crate) fn random<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    importer.known(node, 0)?;
    importer.set(node, Known::Noise)
}

/// What random numbers become.
pub(crate) fn mask<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    for position in 0..node.inputs.len() {
        if importer.known(node, position)? == Known::Noise {
            return importer.set(node, Known::Noise);
        }
    }
    Err(Reason::from("only random numbers of training, which prediction does without, may be compared"))
}
