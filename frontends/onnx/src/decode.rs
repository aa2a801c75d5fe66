//! From bytes to a checked [`Model`].
//!
//! After this, every tensor has the data that its dimensions promise and every value has exactly one producer, so the
//! importer only has to ask what a node means.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::OnnxError;
use crate::external::{ExternalData, Folder};
use crate::graph::Graph;
use crate::interface::Size;
use crate::limits::{self, Initializer, Layout, Limits, ScanError};
use crate::payload::{Original, Store};
use crate::proto::tensor_shape_proto::dimension::Value as Dimension;
use crate::proto::type_proto::Value as Kind;
use crate::proto::{GraphProto, ModelProto, TypeProto, ValueInfoProto};
use crate::tensor::{ElementType, Loader, Tensor};

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

/// Reads a model and its external data, which must lie in the model's folder. The numbers of large tensors stay in their
/// files until they are asked for.
///
/// # Errors
/// If a file cannot be read, or it is no valid model within the default [`Limits`].
pub fn read(path: &Path) -> Result<Model, OnnxError> {
    let limits = Limits::default();
    let folder = Folder::new(path.parent().unwrap_or(Path::new(".")));
    let failed = |source| OnnxError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        // A pipe is read once.
        let mut bytes = Vec::new();
        // One byte more, so that the limit's check sees that there is more.
        file.take(limits.file_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
        return decode_bytes(bytes.into(), &folder, &limits);
    }
    let layout =
        limits::scan(BufReader::new(file), metadata.len(), &limits).map_err(|error| match error {
            ScanError::Model(error) => error,
            ScanError::Io(error) => failed(error),
        })?;
    let store = Store::File(Arc::new(Original::new(path, &metadata)));
    decode_parts(&store, metadata.len() as usize, &layout, &mut Loader::new(&folder, &limits))
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
    let scanned = limits::scan(Cursor::new(&bytes), bytes.len() as u64, limits);
    let layout = scanned.map_err(|error| match error {
        ScanError::Model(error) => error,
        ScanError::Io(error) => OnnxError::Malformed(error.to_string()),
    })?;
    let length = bytes.len();
    decode_parts(&Store::Memory(bytes), length, &layout, &mut Loader::new(external, limits))
}

/// Decodes the model without its graph, the graph without its initializers, and these one by one without their raw data:
/// most of a file is never read here.
fn decode_parts(
    store: &Store,
    length: usize,
    layout: &Layout,
    loader: &mut Loader<'_>,
) -> Result<Model, OnnxError> {
    let graphs = layout.graphs.iter();
    let model = without(store, 0..length, graphs.clone().map(|graph| &graph.field))?;
    let proto: ModelProto = message(model)?;
    if layout.graphs.is_empty() {
        return Err(OnnxError::Malformed("there is no graph".to_string()));
    }
    let mut graph = Vec::new();
    let mut initializers = layout.initializers.iter().map(|initializer| &initializer.tensor.field).peekable();
    for span in graphs {
        let inside = || initializers.next_if(|field| field.start < span.content.end);
        graph.extend(without(store, span.content.clone(), std::iter::from_fn(inside))?);
    }
    let graph: GraphProto = message(graph)?;
    let initializers = layout.initializers.iter().map(|one| initializer(store, one, loader));
    let initializers = initializers.collect::<Result<Vec<Tensor>, _>>()?;
    let constants: HashSet<&str> = initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    // Before IR version 4 every initializer is an input too.
    let inputs: Vec<Input> =
        graph.input.iter().filter(|info| !constants.contains(info.name())).map(input).collect();
    Ok(Model {
        ir_version: proto.ir_version.unwrap_or(0),
        opsets: proto.opset_import.iter().map(|set| (domain(set.domain()), set.version())).collect(),
        metadata: entries(&proto.metadata_props),
        name: graph.name().to_string(),
        outputs: graph.output.iter().map(input).collect(),
        graph: Graph::new(graph, initializers, &inputs, loader)?,
        inputs,
    })
}

fn initializer(store: &Store, span: &Initializer, loader: &mut Loader<'_>) -> Result<Tensor, OnnxError> {
    let tensor = without(store, span.tensor.content.clone(), span.raw.iter().map(|raw| &raw.field))?;
    let raw = span.raw.as_ref().map(|raw| store.payload(raw.content.clone())).transpose()?;
    loader.tensor_of(message(tensor)?, raw)
}

/// The bytes of a range without some ranges in it.
fn without<'a>(
    store: &Store,
    range: Range<usize>,
    left_out: impl Iterator<Item = &'a Range<usize>>,
) -> Result<Vec<u8>, OnnxError> {
    let (mut bytes, mut start) = (Vec::new(), range.start);
    for out in left_out {
        bytes.extend_from_slice(&store.read(start..out.start)?);
        start = out.end;
    }
    bytes.extend_from_slice(&store.read(start..range.end)?);
    Ok(bytes)
}

fn message<M: Message + Default>(bytes: Vec<u8>) -> Result<M, OnnxError> {
    M::decode(Bytes::from(bytes)).map_err(|error| OnnxError::Malformed(error.to_string()))
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
