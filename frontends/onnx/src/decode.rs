//! From bytes to a checked [`Model`].
//!
//! After this, every tensor has the data that its dimensions promise and every value has exactly one producer, so the
//! importer only has to ask what a node means.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::error::OnnxError;
use crate::external::{ExternalData, Folder};
use crate::graph::Graph;
use crate::interface::Size;
use crate::limits::{self, Limits};
use crate::proto::tensor_shape_proto::dimension::Value as Dimension;
use crate::proto::type_proto::Value as Kind;
use crate::proto::{GraphProto, ModelProto, TypeProto, ValueInfoProto};
use crate::tensor::{ElementType, Loader};

/// A decoded model: what the file says, checked, but not yet interpreted.
#[derive(Clone, Debug)]
pub struct Model {
    /// Version of the format.
    pub ir_version: i64,
    /// Operator sets: domain (`ai.onnx` for the default one) and version. An unused one is no error.
    pub opsets: Vec<(String, i64)>,
    /// What the file carries along, name and value.
    pub metadata: Vec<(String, String)>,
    /// Name of the graph.
    pub name: String,
    /// What the caller gives, initializers excluded.
    pub inputs: Vec<Input>,
    /// What the caller gets.
    pub outputs: Vec<Output>,
    /// Operators and constants.
    pub graph: Graph,
}

impl Model {
    /// The imported version of a domain.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        self.opsets.iter().filter(|(name, _)| name == domain).map(|&(_, version)| version).max()
    }
}

/// An input of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Name.
    pub name: String,
    /// Element type, where it is a tensor of a known one.
    pub element: Option<ElementType>,
    /// Dimensions, `None` where the file does not say how many.
    pub dims: Option<Vec<Size>>,
}

/// An output of the graph.
pub type Output = Input;

/// Reads a model and its external data, which must lie in the model's folder.
///
/// # Errors
/// If a file cannot be read, or it is no valid model within the default [`Limits`].
pub fn read(path: &Path) -> Result<Model, OnnxError> {
    let limits = Limits::default();
    let bytes = read_within(path, limits.file_bytes)?;
    decode_bytes(bytes.into(), &Folder::new(path.parent().unwrap_or(Path::new("."))), &limits)
}

fn read_within(path: &Path, limit: u64) -> Result<Vec<u8>, OnnxError> {
    let failed = |source| OnnxError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more, so that the limit's check sees that there is more.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Decodes a model within the default [`Limits`].
///
/// # Errors
/// If it is no valid model.
pub fn decode(bytes: &[u8], external: &dyn ExternalData) -> Result<Model, OnnxError> {
    decode_within(bytes, external, &Limits::default())
}

/// Decodes a model within the given limits.
///
/// # Errors
/// If it is no valid model, or larger.
pub fn decode_within(bytes: &[u8], external: &dyn ExternalData, limits: &Limits) -> Result<Model, OnnxError> {
    Limits::check("bytes", bytes.len() as u64, limits.file_bytes)?;
    decode_bytes(Bytes::copy_from_slice(bytes), external, limits)
}

fn decode_bytes(bytes: Bytes, external: &dyn ExternalData, limits: &Limits) -> Result<Model, OnnxError> {
    limits::scan(&bytes, limits)?;
    let proto = ModelProto::decode(bytes).map_err(|error| OnnxError::Malformed(error.to_string()))?;
    let graph = proto.graph.ok_or_else(|| OnnxError::Malformed("there is no graph".to_string()))?;
    let opsets = proto.opset_import.iter().map(|set| (domain(set.domain()), set.version())).collect();
    let metadata = entries(&proto.metadata_props);
    model(proto.ir_version.unwrap_or(0), opsets, metadata, graph, &mut Loader::new(external, limits))
}

fn model(
    ir_version: i64,
    opsets: Vec<(String, i64)>,
    metadata: Vec<(String, String)>,
    proto: GraphProto,
    loader: &mut Loader<'_>,
) -> Result<Model, OnnxError> {
    let constants: HashSet<&str> = proto.initializer.iter().map(|tensor| tensor.name()).collect();
    // Before IR version 4 every initializer is an input too.
    let inputs: Vec<Input> =
        proto.input.iter().filter(|info| !constants.contains(info.name())).map(input).collect();
    let outputs = proto.output.iter().map(input).collect();
    let name = proto.name().to_string();
    let graph = Graph::new(proto, &inputs, loader)?;
    Ok(Model { ir_version, opsets, metadata, name, inputs, outputs, graph })
}

/// The default domain has two names.
pub(crate) fn domain(name: &str) -> String {
    if name.is_empty() { "ai.onnx".to_string() } else { name.to_string() }
}

pub(crate) fn entries(props: &[crate::proto::StringStringEntryProto]) -> Vec<(String, String)> {
    props.iter().map(|entry| (entry.key().to_string(), entry.value().to_string())).collect()
}

fn input(info: &ValueInfoProto) -> Input {
    let tensor = match info.r#type.as_ref().and_then(|ty: &TypeProto| ty.value.as_ref()) {
        Some(Kind::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        shape.dim.iter().enumerate().map(|(axis, dim)| size(axis, dim.value.as_ref())).collect()
    });
    let element = tensor.and_then(|tensor| ElementType::from_code(tensor.elem_type().into()));
    Input { name: info.name().to_string(), element, dims }
}

/// A dimension; one without a name (or a size that is none) gets one.
fn size(axis: usize, dim: Option<&Dimension>) -> Size {
    match dim {
        Some(Dimension::DimValue(value)) if *value > 0 => {
            usize::try_from(*value).map_or_else(|_| unnamed(axis), Size::Fixed)
        }
        Some(Dimension::DimParam(name)) if !name.is_empty() => Size::Symbol(name.clone()),
        _ => unnamed(axis),
    }
}

fn unnamed(axis: usize) -> Size {
    Size::Symbol(if axis == 0 { "batch".to_string() } else { format!("dim{axis}") })
}
