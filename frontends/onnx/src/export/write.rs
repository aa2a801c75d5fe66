//! Puts nodes and constants together, every value under a name of its own.

use bytes::Bytes;
use ffc_ir::module::Param;

use crate::interface::Size;
use crate::names::Names;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::type_proto::{self, Value as Kind};
use crate::proto::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};

/// Element types in the schema.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// The order in which a file has a parameter's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// The parameter's own.
    Rows,
    /// `[rows, channels, taps]` instead of `[rows, taps, channels]`.
    ChannelsFirst { taps: usize, channels: usize },
}

/// An initializer whose numbers are those of a parameter, or of several, one behind the other.
pub(super) struct Weight {
    /// All but its numbers.
    pub(super) tensor: TensorProto,
    /// Names of the parameters, and how many numbers each has.
    pub(super) params: Vec<(String, usize)>,
    pub(super) order: Order,
}

/// Builds the graph.
pub(super) struct Writer {
    graph: GraphProto,
    weights: Vec<Weight>,
    names: Names,
    /// From version 18 on a reduction's axes are an input.
    opset: i64,
}

impl Writer {
    /// A graph in which these names are taken.
    pub(super) fn new(opset: i64, taken: &[&str]) -> Self {
        let mut names = Names::default();
        taken.iter().for_each(|name| drop(names.unique(name)));
        Self { graph: GraphProto::default(), weights: Vec::new(), names, opset }
    }

    /// One operator with one result, which gets a name like `hint`.
    pub(super) fn op(
        &mut self,
        op: &str,
        hint: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.names.unique(hint);
        self.op_as(op, &output, inputs, attributes);
        output
    }

    /// One operator whose result has exactly this name, which was taken before.
    pub(super) fn op_as(&mut self, op: &str, output: &str, inputs: &[&str], attributes: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            name: Some(output.to_string()),
            op_type: Some(op.to_string()),
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.to_string()],
            attribute: attributes,
            ..NodeProto::default()
        });
    }

    /// Makes a value the graph's output, whose name was taken before.
    pub(super) fn rename(&mut self, value: &str, output: &str) {
        match self.graph.node.last_mut() {
            Some(last) if last.output == [value] => {
                last.name = Some(output.to_string());
                last.output = vec![output.to_string()];
            }
            _ => self.op_as("Identity", output, &[value], Vec::new()),
        }
    }

    /// The mean over some dimensions, which stay with size 1.
    pub(super) fn mean(&mut self, hint: &str, input: &str, axes: &[i64]) -> String {
        let keep = int("keepdims", 1);
        if self.opset < 18 {
            return self.op("ReduceMean", hint, &[input], vec![ints("axes", axes), keep]);
        }
        let axes = self.integers(&format!("{hint}.axes"), axes);
        self.op("ReduceMean", hint, &[input, &axes], vec![keep])
    }

    /// A floating-point constant.
    pub(super) fn floats(&mut self, hint: &str, dims: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, FLOAT, dims, raw)
    }

    /// A vector of integers.
    pub(super) fn integers(&mut self, hint: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, INT64, &[values.len()], raw)
    }

    fn constant(&mut self, hint: &str, data_type: i32, dims: &[usize], raw: Vec<u8>) -> String {
        let name = self.names.unique(hint);
        let raw_data = Some(Bytes::from(raw));
        self.graph.initializer.push(TensorProto { raw_data, ..tensor(&name, data_type, dims) });
        name
    }

    /// Parameters, under the name of the first.
    pub(super) fn weight(&mut self, params: &[&Param], dims: &[usize], order: Order) -> String {
        let name = self.names.unique(params.first().map_or("weight", |param| &param.name));
        let tensor = tensor(&name, FLOAT, dims);
        let params = params.iter().map(|param| (param.name.clone(), param.len())).collect();
        self.weights.push(Weight { tensor, params, order });
        name
    }

    pub(super) fn finish(
        mut self,
        name: &str,
        input: (&str, &[Size]),
        output: (&str, &[Size]),
    ) -> (GraphProto, Vec<Weight>) {
        self.graph.name = Some(name.to_string());
        self.graph.input.push(boundary(input));
        self.graph.output.push(boundary(output));
        (self.graph, self.weights)
    }
}

/// A tensor without its elements.
fn tensor(name: &str, data_type: i32, dims: &[usize]) -> TensorProto {
    TensorProto {
        name: Some(name.to_string()),
        data_type: Some(data_type),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        ..TensorProto::default()
    }
}

fn boundary((name, dims): (&str, &[Size])) -> ValueInfoProto {
    let dim = |size: &Size| Dimension {
        value: Some(match size {
            Size::Fixed(size) => dimension::Value::DimValue(*size as i64),
            Size::Symbol(name) => dimension::Value::DimParam(name.clone()),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(FLOAT), shape: Some(shape) };
    let ty = TypeProto { value: Some(Kind::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_string()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// An integer attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// A number attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// A text attribute.
pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeType::String) }
}

/// A list of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_string()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// A name and a value of metadata.
pub(super) fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_string()), value: Some(value.to_string()) }
}
