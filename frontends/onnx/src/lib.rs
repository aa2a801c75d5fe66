//! Reads ONNX files into the layer IR, and writes trained networks back.
//!
//! [`read`] (or [`decode`]) turns untrusted bytes into a checked [`Model`]: a graph of operators with its constants.
//! [`import`] walks that graph and gives a [`Network`]: an `imported` module, the weights, and the [`Interface`] that
//! the file promised to its users. [`export()`](export()) writes a trained network behind the same interface.
//!
//! Only [`read`] and [`Folder`] touch files.

mod decode;
#[cfg(test)]
mod differential;
mod error;
pub mod export;
mod external;
mod fold;
mod graph;
mod import;
mod interface;
mod limits;
mod names;
mod network;
mod numbers;
mod operators;
mod payload;
mod restore;
mod simplify;
mod sizes;
mod tensor;
mod view;

/// The ONNX schema's messages: for tests, which write models with them.
#[doc(hidden)]
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use decode::{Input, Model, Output, decode, decode_within, read};
pub use error::{OnnxError, Unsupported};
pub use export::{ExportError, ExportModel, Prediction, Values, export};
pub use external::{ExternalData, ExternalProblem, Folder, NoExternalData};
pub use graph::{Attribute, Graph, Node};
pub use import::import;
pub use interface::{Interface, PredictionKind, Rms, Size, SoftmaxTail};
pub use limits::Limits;
pub use network::Network;
pub use numbers::Numbers;
pub use payload::Payload;
pub use sizes::image_sizes;
pub use tensor::{ElementType, Tensor};
