//! From a graph of operators to the layer IR.
//!
//! One walk in topological order decides what each value *is* ([`Known`]): a constant or shape, the activation, a part of
//! a normalisation, or the labels that scikit-learn appends. What only computes shapes or keeps the order
//! `[batch, features]` therefore vanishes by being understood, not by being matched. A node that cannot be understood is
//! noted with its reason and the walk goes on, so that everything unsupported is reported at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::decode::{Input, Model};
use crate::error::{OnnxError, Unsupported};
use crate::fold::{Folded, Int};
use crate::graph::{Attribute, Node};
use crate::interface::{Interface, OWN_KEYS, PredictionKind, Size, SoftmaxTail};
use crate::network::{Builder, Network};
use crate::operators;
use crate::restore;

pub(crate) mod dense;
pub(crate) mod elementwise;
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

/// More dimensions than any exporter writes.
pub(crate) const RANK: usize = 16;

/// One dimension of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Batch,
    Fixed(usize),
}

impl Axis {
    fn int(self) -> Int {
        match self {
            Self::Batch => Int::BATCH,
            Self::Fixed(size) => Int::new(size as i64),
        }
    }
}

/// Dimensions for messages.
pub(crate) struct Dims<'a>(pub(crate) &'a [Axis]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(|axis| axis.int().to_string()).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// The activation, seen in some shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Data {
    /// [`Builder::step`] at which it was the last value.
    step: usize,
    /// Without those of size 1: the batch, then the features in their order.
    dims: Vec<Axis>,
    softmax: SoftmaxTail,
}

impl Data {
    /// How many features each sample has, where the shape is `[batch, features]`.
    fn features(&self) -> Result<usize, Reason> {
        match self.dims.as_slice() {
            [Axis::Batch, Axis::Fixed(features)] => Ok(*features),
            dims => Err(format!("the activation has the shape {}, not [batch, features]", Dims(dims)).into()),
        }
    }
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Known before the network runs.
    Folded(Folded),
    /// The activation.
    Data(Data),
    /// A part of `a / sqrt(mean(a^2) + epsilon)` for the activation of this step.
    Rms(usize, RmsPart),
    /// Predicted labels.
    Labels,
    /// The result of something unsupported.
    Unknown,
}

/// How far a normalisation has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RmsPart {
    Square,
    Mean,
    Shifted(f32),
    Root(f32),
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
        let data = Data { step: 0, dims: axes.collect(), softmax: SoftmaxTail::None };
        let values = HashMap::from([(input.name.as_str(), Known::Data(data))]);
        let builder = Builder::new(&input.name, features);
        Ok(Self { model, values, builder, batch, unsupported: BTreeMap::new() })
    }

    fn run(mut self) -> Result<Network, OnnxError> {
        for node in self.model.graph.live(self.model.outputs.iter().map(|output| output.name.as_str())) {
            self.node(node);
        }
        if !self.unsupported.is_empty() {
            return Err(OnnxError::Unsupported(self.unsupported.into_values().collect()));
        }
        let (output, softmax) = self.scores().map_err(OnnxError::NotANetwork)?;
        let built = self.builder.finish(&self.model.name).map_err(OnnxError::NotANetwork)?;
        let mut interface = interface(self.model, output, built.module.classes)?;
        interface.softmax = softmax;
        interface.normalization = built.normalization;
        Ok(Network { module: built.module, weights: built.weights, heads: built.heads, interface })
    }

    fn node(&mut self, node: &'m Node) {
        let opset = self.model.opset(&node.domain).unwrap_or(0);
        let row = operators::find(node, opset);
        // What follows something unsupported is not at fault.
        let blocked = node.inputs.iter().any(|name| self.values.get(name.as_str()) == Some(&Known::Unknown));
        let result = match row {
            Ok(_) if blocked => Ok(()),
            Ok(row) => (row.import)(self, node),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = result {
            self.note(node, opset, reason);
        }
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            self.values.entry(output).or_insert(Known::Unknown);
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
    fn scores(&self) -> Result<(&'m Input, SoftmaxTail), String> {
        let mut found = None;
        for output in &self.model.outputs {
            match self.values.get(output.name.as_str()) {
                Some(Known::Labels) => {}
                Some(Known::Data(data)) if found.is_none() && data.step == self.builder.step() => {
                    data.features().map_err(|Reason(reason)| reason)?;
                    found = Some((output, data.softmax));
                }
                Some(Known::Data(_)) => return Err("the network has several outputs".to_string()),
                _ => {
                    return Err(format!("output `{}` is not computed from the network's input", output.name));
                }
            }
        }
        found.ok_or_else(|| "the network has no output with scores".to_string())
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

    /// The activation at `position`, which nothing else may have used yet.
    fn data(&mut self, node: &'m Node, position: usize) -> Result<Data, Reason> {
        match self.known(node, position)? {
            Known::Data(data) => self.last(data),
            _ => Err(format!("input {position} is not an activation").into()),
        }
    }

    fn last(&self, data: Data) -> Result<Data, Reason> {
        if data.step != self.builder.step() {
            return Err(Reason::from(
                "an activation is used twice; networks with branches are not supported",
            ));
        }
        if data.softmax != SoftmaxTail::None {
            return Err(Reason::from("a softmax inside the network"));
        }
        Ok(data)
    }

    fn set(&mut self, node: &'m Node, known: Known) -> Result<(), Reason> {
        let output = node.outputs.first().ok_or_else(|| Reason::from("the node has no output"))?;
        self.values.insert(output, known);
        Ok(())
    }

    /// The node's output is what the builder built last, in these dimensions.
    fn built(&mut self, node: &'m Node, dims: Vec<Axis>) -> Result<(), Reason> {
        let data = Data { step: self.builder.step(), dims, softmax: SoftmaxTail::None };
        self.set(node, Known::Data(data))
    }
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
        Some(features) if i32::try_from(features).is_ok() => Ok(features),
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
        prediction: PredictionKind::Classifier,
        metadata: metadata.cloned().collect(),
    })
}
