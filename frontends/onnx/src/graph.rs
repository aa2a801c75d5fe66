//! The graph of operators: who produces what, and in which order it runs.
//!
//! Values are names in the file. They become edges here, once it is sure that each has exactly one producer; everything
//! after this goes through the nodes in topological order and never misses an operand.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::decode::{self, Input};
use crate::error::OnnxError;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};
use crate::tensor::{Loader, Tensor};

/// Operators and constants.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Nodes are operators, edges values by name.
    pub nodes: DiGraph<Node, String>,
    /// All operators, each after those that it reads from, else in the order of the file.
    pub order: Vec<NodeIndex>,
    /// Initializers by name.
    pub constants: BTreeMap<String, Tensor>,
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name; the first output's where the file gives none.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Its domain; `ai.onnx` for the default one.
    pub domain: String,
    /// Names of the values that it reads, empty where an optional one is absent.
    pub inputs: Vec<String>,
    /// Names of the values that it produces.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
    /// Path of the PyTorch module that it comes from.
    pub module: Option<String>,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Text.
    Text(String),
    /// A constant.
    Tensor(Box<Tensor>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Something that no supported operator has.
    Other,
}

impl Node {
    fn new(proto: NodeProto, loader: &mut Loader<'_>) -> Result<Self, OnnxError> {
        let first = proto.output.first().cloned().unwrap_or_default();
        let module = module_path(&proto);
        let mut attributes = BTreeMap::new();
        for attribute in proto.attribute {
            let name = attribute.name().to_string();
            attributes.insert(name, Attribute::new(attribute, loader)?);
        }
        Ok(Self {
            name: proto.name.filter(|name| !name.is_empty()).unwrap_or(first),
            op: proto.op_type.unwrap_or_default(),
            domain: decode::domain(proto.domain.as_deref().unwrap_or_default()),
            inputs: proto.input,
            outputs: proto.output,
            attributes,
            module,
        })
    }

    /// The name for people: with the module path where there is one.
    pub fn label(&self) -> String {
        match &self.module {
            Some(module) => format!("{} ({module})", self.name),
            None => self.name.clone(),
        }
    }
}

impl Attribute {
    fn new(proto: AttributeProto, loader: &mut Loader<'_>) -> Result<Self, OnnxError> {
        if proto.ref_attr_name.as_ref().is_some_and(|name| !name.is_empty()) {
            return Ok(Self::Other);
        }
        Ok(match kind(&proto) {
            AttributeType::Float => Self::Float(proto.f()),
            AttributeType::Int => Self::Int(proto.i()),
            AttributeType::String => Self::Text(String::from_utf8_lossy(proto.s()).into_owned()),
            AttributeType::Floats => Self::Floats(proto.floats),
            AttributeType::Ints => Self::Ints(proto.ints),
            AttributeType::Tensor => match proto.t {
                Some(tensor) => Self::Tensor(Box::new(loader.tensor(tensor)?)),
                None => Self::Other,
            },
            _ => Self::Other,
        })
    }
}

/// The attribute's type; early files do not say it.
fn kind(proto: &AttributeProto) -> AttributeType {
    if proto.r#type() != AttributeType::Undefined {
        return proto.r#type();
    }
    let candidates = [
        (proto.f.is_some(), AttributeType::Float),
        (proto.i.is_some(), AttributeType::Int),
        (proto.s.is_some(), AttributeType::String),
        (proto.t.is_some(), AttributeType::Tensor),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.ints.is_empty(), AttributeType::Ints),
    ];
    candidates.into_iter().find(|(is, _)| *is).map_or(AttributeType::Undefined, |(_, kind)| kind)
}

/// PyTorch's exporter notes the modules around a node as a Python list, the node itself last:
/// `['', 'layer1', 'layer1.0', 'conv2d']`.
fn module_path(proto: &NodeProto) -> Option<String> {
    let scopes = proto.metadata_props.iter().find(|entry| entry.key() == "pkg.torch.onnx.name_scopes")?;
    let scopes = scopes.value().trim_start_matches('[').trim_end_matches(']');
    let mut names = scopes.split(',').map(|name| name.trim().trim_matches(['\'', '"']));
    names.next_back()?;
    names.next_back().filter(|name| !name.is_empty()).map(str::to_string)
}

impl Graph {
    pub(crate) fn new(
        proto: GraphProto,
        initializers: Vec<Tensor>,
        inputs: &[Input],
        loader: &mut Loader<'_>,
    ) -> Result<Self, OnnxError> {
        if let Some(sparse) = proto.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| values.name()).to_string();
            return Err(OnnxError::Tensor { name, problem: "sparse tensors are not supported".to_string() });
        }
        let mut constants = BTreeMap::new();
        for tensor in initializers {
            if let Some(twice) = constants.insert(tensor.name.clone(), tensor) {
                return Err(OnnxError::DuplicateValue { value: twice.name });
            }
        }
        let mut nodes = DiGraph::new();
        for node in proto.node {
            nodes.add_node(Node::new(node, loader)?);
        }
        let producers = producers(&nodes, inputs, &constants)?;
        connect(&mut nodes, &producers)?;
        check_outputs(&proto.output, &producers)?;
        toposort(&nodes, None).map_err(|cycle| OnnxError::Cycle { node: nodes[cycle.node_id()].label() })?;
        let order = in_order_of_file(&nodes);
        Ok(Self { nodes, order, constants })
    }

    /// The operators that these outputs depend on, in topological order.
    pub(crate) fn live<'a>(&self, outputs: impl Iterator<Item = &'a str>) -> Vec<&Node> {
        let wanted: std::collections::HashSet<&str> = outputs.collect();
        let mut live = vec![false; self.nodes.node_count()];
        for &index in self.order.iter().rev() {
            let produces = self.nodes[index].outputs.iter().any(|name| wanted.contains(name.as_str()));
            let mut users = self.nodes.neighbors_directed(index, Direction::Outgoing);
            live[index.index()] = produces || users.any(|user| live[user.index()]);
        }
        self.order.iter().filter(|index| live[index.index()]).map(|&index| &self.nodes[index]).collect()
    }
}

/// The next one is always the first in the file of those whose operands are there.
fn in_order_of_file(nodes: &DiGraph<Node, String>) -> Vec<NodeIndex> {
    let inputs = |index| nodes.neighbors_directed(index, Direction::Incoming).count();
    let mut missing: Vec<usize> = nodes.node_indices().map(inputs).collect();
    let mut ready: BTreeSet<NodeIndex> =
        nodes.node_indices().filter(|index| missing[index.index()] == 0).collect();
    let mut order = Vec::new();
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for user in nodes.neighbors_directed(next, Direction::Outgoing) {
            missing[user.index()] -= 1;
            if missing[user.index()] == 0 {
                ready.insert(user);
            }
        }
    }
    order
}

/// Who produces each value: a node, or none for inputs and constants.
type Producers = HashMap<String, Option<NodeIndex>>;

fn producers(
    nodes: &DiGraph<Node, String>,
    inputs: &[Input],
    constants: &BTreeMap<String, Tensor>,
) -> Result<Producers, OnnxError> {
    let given = inputs.iter().map(|input| &input.name).chain(constants.keys()).map(|name| (name, None));
    let made = nodes.node_indices().flat_map(|index| {
        nodes[index].outputs.iter().filter(|name| !name.is_empty()).map(move |name| (name, Some(index)))
    });
    let mut producers = HashMap::new();
    for (name, producer) in given.chain(made) {
        if producers.insert(name.clone(), producer).is_some() {
            return Err(OnnxError::DuplicateValue { value: name.clone() });
        }
    }
    Ok(producers)
}

fn connect(nodes: &mut DiGraph<Node, String>, producers: &Producers) -> Result<(), OnnxError> {
    for user in nodes.node_indices() {
        for position in 0..nodes[user].inputs.len() {
            let value = nodes[user].inputs[position].clone();
            match producers.get(&value) {
                Some(Some(producer)) => drop(nodes.add_edge(*producer, user, value)),
                Some(None) => {}
                None if value.is_empty() => {}
                None => return Err(OnnxError::MissingInput { node: nodes[user].label(), value }),
            }
        }
    }
    Ok(())
}

fn check_outputs(outputs: &[ValueInfoProto], producers: &Producers) -> Result<(), OnnxError> {
    match outputs.iter().find(|output| !producers.contains_key(output.name())) {
        Some(output) => Err(OnnxError::MissingOutput { value: output.name().to_string() }),
        None => Ok(()),
    }
}
