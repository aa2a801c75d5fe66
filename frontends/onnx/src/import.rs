//! From a graph of operators to the layer IR.
//!
//! One walk in topological order decides what each value *is* ([`Known`]): a constant or shape, an activation, a part of
//! a normalisation, or the labels that scikit-learn appends. What only computes shapes or moves dimensions
//! ([`View`]) therefore vanishes by being understood, not by being matched. A node that cannot be understood is
//! noted with its reason and the walk goes on, so that everything unsupported is reported at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use ffc_ir::Handle;
use ffc_ir::module::Value;

use crate::decode::{Input, Model};
use crate::error::{OnnxError, Unsupported};
use crate::fold::Folded;
use crate::graph::{Attribute, Node};
use crate::interface::{Interface, OWN_KEYS, PredictionKind, Size, SoftmaxTail};
use crate::network::{Builder, LARGEST, Network};
use crate::operators;
use crate::restore;
use crate::view::{Axis, Extent, Layout, RANK, View};

pub(crate) mod activation;
pub(crate) mod columns;
pub(crate) mod convolution;
pub(crate) mod dense;
pub(crate) mod elementwise;
pub(crate) mod noise;
pub(crate) mod pool;
pub(crate) mod rms;
pub(crate) mod shape;
pub(crate) mod tail;

/// Why a node is not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason(String);

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self(text.to_string())
    }
}
impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(text)
    }
}
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An activation, seen in some shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Data {
    value: Handle<Value>,
    view: View,
    /// Epsilon of a normalisation that waits for a contraction.
    normalized: Option<f32>,
    softmax: SoftmaxTail,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Known before the network runs.
    Folded(Folded),
    /// An activation.
    Data(Data),
    /// A part of `a / sqrt(mean(a^2) + epsilon)` for this activation.
    Rms(Handle<Value>, RmsPart),
    /// A part of `x / 2 (1 + erf(x / sqrt(2)))` for this activation.
    Gelu(Data, GeluPart),
    /// Random numbers of training, or what they are made from. What they multiply passes as it is: a network is imported
    /// as it predicts.
    Noise,
    /// Predicted labels.
    Labels,
    /// The result of something unsupported.
    Unknown,
}

/// How far a normalisation has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RmsPart {
    /// Of a tensor of this many dimensions.
    Square(usize),
    Mean,
    Shifted(f32),
    Root(f32),
}

/// How far a GELU has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum GeluPart {
    /// `erf(x / sqrt(2))`.
    Erf,
    /// `1 + erf(x / sqrt(2))`.
    Shifted,
    /// Half of that.
    Probability,
    /// `x (1 + erf(x / sqrt(2)))`.
    Twice,
}

/// Interprets a model as a network to be trained.
///
/// Files written by [`export`](crate::export()) are recognised: a normalisation before the dense layers becomes
/// [`Interface::normalization`] and leaves the module. Where such a file predicts by labels or heads, its graph is more
/// than the network; the layers then come from its metadata and initializers.
///
/// # Errors
/// [`OnnxError::Unsupported`] with everything that is, or [`OnnxError::NotANetwork`].
pub fn import(model: &Model) -> Result<Network, OnnxError> {
    match restore::plan(model)? {
        Some(plan) => plan.network(model),
        None => Importer::new(model)?.run(),
    }
}

/// The state of the walk.
pub(crate) struct Importer<'m> {
    model: &'m Model,
    values: HashMap<&'m str, Known>,
    builder: Builder,
    /// The declared batch, where it is a number.
    batch: Option<usize>,
    /// Names of the values that live nodes read or that the file gives.
    used: HashSet<&'m str>,
    unsupported: BTreeMap<(String, String, String), Unsupported>,
}

impl<'m> Importer<'m> {
    fn new(model: &'m Model) -> Result<Self, OnnxError> {
        let (input, dims) = only_input(model)?;
        let features = features(input, dims)?;
        let batch = match dims.first() {
            Some(Size::Fixed(batch)) => Some(*batch),
            _ => None,
        };
        let axes = dims.iter().enumerate().map(|(axis, dim)| match dim {
            Size::Fixed(size) if axis > 0 => Axis::Fixed(*size),
            _ => Axis::Batch,
        });
        let builder = Builder::new(&input.name, features);
        let view = View::flat(&axes.collect::<Vec<_>>());
        let data = Data { value: builder.input(), view, normalized: None, softmax: SoftmaxTail::None };
        let values = HashMap::from([(input.name.as_str(), Known::Data(data))]);
        Ok(Self { model, values, builder, batch, used: HashSet::new(), unsupported: BTreeMap::new() })
    }

    fn run(mut self) -> Result<Network, OnnxError> {
        let outputs = || self.model.outputs.iter().map(|output| output.name.as_str());
        let live = self.model.graph.live(outputs());
        self.used = live.iter().flat_map(|node| &node.inputs).map(String::as_str).chain(outputs()).collect();
        for node in live {
            self.node(node);
        }
        if !self.unsupported.is_empty() {
            return Err(OnnxError::Unsupported(self.unsupported.into_values().collect()));
        }
        let (output, scores) = self.scores().map_err(OnnxError::NotANetwork)?;
        let built = self.builder.finish(scores.value, &self.model.name).map_err(OnnxError::NotANetwork)?;
        let mut interface = interface(self.model, output, built.module.classes)?;
        interface.output_dims.extend((2..scores.view.rank()).map(|_| Size::Fixed(1)));
        interface.softmax = scores.softmax;
        interface.normalization = built.normalization;
        interface.batch_normalized = built.batch_normalized;
        Ok(Network { module: built.module, weights: built.weights, heads: built.heads, interface })
    }

    fn node(&mut self, node: &'m Node) {
        let opset = self.model.opset(&node.domain).unwrap_or(0);
        let row = operators::find(node, opset);
        // What follows something unsupported is not at fault.
        let is_unknown = |name: &String| matches!(self.values.get(name.as_str()), Some(Known::Unknown));
        let blocked = node.inputs.iter().any(is_unknown);
        let result = match row {
            Ok(_) if blocked => Ok(()),
            Ok(row) => (row.import)(self, node).and_then(|()| self.all_are_known(node)),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = result {
            self.note(node, opset, reason);
        }
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            self.values.entry(output).or_insert(Known::Unknown);
        }
    }

    /// Whether the node's outputs that matter are all known.
    fn all_are_known(&self, node: &Node) -> Result<(), Reason> {
        let missing = |name: &str| self.used.contains(name) && !self.values.contains_key(name);
        match node.outputs.iter().position(|name| missing(name)) {
            Some(position) => Err(format!("its output {position} is not supported").into()),
            None => Ok(()),
        }
    }

    fn note(&mut self, node: &Node, opset: i64, Reason(reason): Reason) {
        let key = (node.domain.clone(), node.op.clone(), reason.clone());
        let row = self.unsupported.entry(key).or_insert_with(|| Unsupported {
            op: node.op.clone(),
            domain: node.domain.clone(),
            opset,
            count: 0,
            nodes: Vec::new(),
            reason,
        });
        row.count += 1;
        row.nodes.push(node.label());
    }

    /// The output that holds the scores.
    fn scores(&self) -> Result<(&'m Input, Data), String> {
        let mut found = None;
        for output in &self.model.outputs {
            match self.values.get(output.name.as_str()) {
                Some(Known::Labels) => {}
                Some(Known::Data(_)) if found.is_some() => {
                    return Err("the network has several outputs".to_string());
                }
                Some(Known::Data(data)) => found = Some((output, data.clone())),
                _ => {
                    return Err(format!("output `{}` is not computed from the network's input", output.name));
                }
            }
        }
        let (output, data) = found.ok_or("the network has no output with scores")?;
        if data.normalized.is_some() {
            return Err("a normalisation follows the last dense layer".to_string());
        }
        data.view.classes().map_err(|Reason(reason)| reason)?;
        if !data.view.is_plain() {
            return Err("the scores come from several positions of an image".to_string());
        }
        Ok((output, data))
    }

    /// What the input at `position` is.
    fn known(&mut self, node: &'m Node, position: usize) -> Result<Known, Reason> {
        self.optional(node, position)?.ok_or_else(|| format!("input {position} is missing").into())
    }

    /// What the input at `position` is, `None` where it is absent.
    fn optional(&mut self, node: &'m Node, position: usize) -> Result<Option<Known>, Reason> {
        let Some(name) = node.inputs.get(position).filter(|name| !name.is_empty()) else { return Ok(None) };
        if let Some(known) = self.values.get(name.as_str()) {
            return Ok(Some(known.clone()));
        }
        let tensor = self.model.graph.constants.get(name);
        let tensor = tensor.ok_or_else(|| Reason::from(format!("`{name}` is not computed")))?;
        let known = Known::Folded(Folded::of(tensor));
        self.values.insert(name, known.clone());
        Ok(Some(known))
    }

    /// The constant at `position`.
    fn folded(&mut self, node: &'m Node, position: usize) -> Result<Folded, Reason> {
        match self.known(node, position)? {
            Known::Folded(folded) => Ok(folded),
            _ => Err(format!("input {position} is not a constant").into()),
        }
    }

    /// The constant at `position`, `None` where it is absent.
    fn optional_folded(&mut self, node: &'m Node, position: usize) -> Result<Option<Folded>, Reason> {
        match self.optional(node, position)? {
            None => Ok(None),
            Some(Known::Folded(folded)) => Ok(Some(folded)),
            Some(_) => Err(format!("input {position} is not a constant").into()),
        }
    }

    /// The activation at `position`.
    fn data(&mut self, node: &'m Node, position: usize) -> Result<Data, Reason> {
        match self.known(node, position)? {
            Known::Data(data) => plain(data),
            _ => Err(format!("input {position} is not an activation").into()),
        }
    }

    /// The activation at `position` for a contraction, which a normalisation may precede.
    fn contracted(&mut self, node: &'m Node, position: usize) -> Result<Data, Reason> {
        match self.known(node, position)? {
            Known::Data(data) if data.softmax == SoftmaxTail::None => Ok(data),
            Known::Data(data) => plain(data),
            _ => Err(format!("input {position} is not an activation").into()),
        }
    }

    /// An activation that meets another, which a normalisation may precede where it comes from another layer.
    fn joined(&mut self, data: Data) -> Data {
        if let Some(epsilon) = data.normalized {
            self.builder.note_joined(epsilon);
        }
        Data { normalized: None, ..data }
    }

    /// An activation as the image that `[batch, channels, height, width]` is.
    fn image(&mut self, data: &Data) -> Result<(Handle<Value>, Extent), Reason> {
        let (layout, extent) = data.view.as_image()?;
        let value = match layout {
            Layout::Image => data.value,
            Layout::ChannelsFirst => self.builder.image(data.value, extent.channels, true)?,
            Layout::ChannelsLast => self.builder.image(data.value, extent.channels, false)?,
        };
        Ok((value, extent))
    }

    fn set(&mut self, node: &'m Node, known: Known) -> Result<(), Reason> {
        let output = node.outputs.first().ok_or_else(|| Reason::from("the node has no output"))?;
        self.values.insert(output, known);
        Ok(())
    }

    /// The node's output is this activation.
    fn built(&mut self, node: &'m Node, value: Handle<Value>, view: View) -> Result<(), Reason> {
        self.set(node, Known::Data(Data { value, view, normalized: None, softmax: SoftmaxTail::None }))
    }
}

/// An activation that is nothing but that.
fn plain(data: Data) -> Result<Data, Reason> {
    if data.softmax != SoftmaxTail::None {
        return Err(Reason::from("a softmax inside the network"));
    }
    if data.normalized.is_some() {
        return Err(Reason::from("a normalisation that is not in front of a layer with weights"));
    }
    Ok(data)
}

/// Attributes, with the default where there is none.
impl Node {
    fn int(&self, name: &str, default: i64) -> Result<i64, Reason> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("attribute `{name}` is not an integer").into()),
        }
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, Reason> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => Err(format!("attribute `{name}` is not a number").into()),
        }
    }

    fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Reason> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => Err(format!("attribute `{name}` is not a list of integers").into()),
        }
    }
}

impl Node {
    fn text(&self, name: &str, default: &'static str) -> Result<&str, Reason> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Text(value)) => Ok(value),
            Some(_) => Err(format!("attribute `{name}` is not text").into()),
        }
    }
}

/// The place of an axis that may count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Reason> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let place = from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank);
    place.ok_or_else(|| format!("axis {axis} is out of range for {rank} dimensions").into())
}

/// The one input that is no constant.
pub(crate) fn only_input(model: &Model) -> Result<(&Input, &[Size]), OnnxError> {
    let refuse = |text: String| Err(OnnxError::NotANetwork(text));
    let [input] = model.inputs.as_slice() else {
        return refuse(format!("the model has {} inputs, one is supported", model.inputs.len()));
    };
    if !input.element.is_some_and(|element| element.is_float()) {
        return refuse(format!("input `{}` is not a floating-point tensor", input.name));
    }
    match &input.dims {
        Some(dims) => Ok((input, dims)),
        None => refuse(format!("input `{}` has no declared shape", input.name)),
    }
}

/// Features of a sample.
pub(crate) fn features(input: &Input, dims: &[Size]) -> Result<usize, OnnxError> {
    let refuse = |text: &str| Err(OnnxError::NotANetwork(format!("input `{}` {text}", input.name)));
    if dims.len() < 2 || dims.len() > RANK {
        return refuse("does not have the shape [batch, features...]");
    }
    let sizes = dims[1..].iter().map(|dim| match dim {
        Size::Fixed(size) => Some(*size),
        Size::Symbol(_) => None,
    });
    let Some(sizes) = sizes.collect::<Option<Vec<usize>>>() else {
        return refuse("has a dimension besides the batch that is not a number");
    };
    match sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size)) {
        Some(0) => refuse("has no features"),
        Some(features) if features <= LARGEST => Ok(features),
        _ => refuse("is too large"),
    }
}

/// The boundary as the file declares it.
pub(crate) fn interface(model: &Model, output: &Input, classes: usize) -> Result<Interface, OnnxError> {
    let (input, dims) = only_input(model)?;
    let metadata = model.metadata.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
    Ok(Interface {
        input: input.name.clone(),
        input_dims: dims.to_vec(),
        output: output.name.clone(),
        output_dims: vec![dims[0].clone(), Size::Fixed(classes)],
        softmax: SoftmaxTail::None,
        opset: model.opset("ai.onnx").unwrap_or(0),
        ir_version: model.ir_version,
        normalization: None,
        batch_normalized: Vec::new(),
        prediction: PredictionKind::Classifier,
        metadata: metadata.cloned().collect(),
    })
}
