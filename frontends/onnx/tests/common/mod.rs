//! Small models, built by hand.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

pub(crate) mod evaluate;

use std::io::BufReader;
use std::path::PathBuf;
use std::process::Command;

use ffc_ir::module::{Module, Op, Value};
use ffc_ir::types::Dim;
use ffc_onnx::proto::attribute_proto::AttributeType;
use ffc_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use ffc_onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use ffc_onnx::{
    ExportError, ExportModel, Network, NoExternalData, Numbers, OnnxError, Prediction, decode, export, import,
};
use prost::Message;

/// A model that is being built.
#[derive(Clone)]
pub(crate) struct Net(pub(crate) ModelProto);

pub(crate) fn net(opset: i64) -> Net {
    Net(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(opset), ..Default::default() }],
        graph: Some(GraphProto { name: Some("tiny".into()), ..Default::default() }),
        ..Default::default()
    })
}

/// The usual test network up to the first dense layer: `x` is `[N, 4]`, `h` is `[N, 3]`.
pub(crate) fn dense(opset: i64) -> Net {
    net(opset).input("x", &["N", "4"]).weight("fc1.weight", &[3, 4]).weight("fc1.bias", &[3]).node(
        "Gemm",
        &["x", "fc1.weight", "fc1.bias"],
        "h",
        vec![int("transB", 1)],
    )
}

impl Net {
    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub(crate) fn opset(mut self, domain: &str, version: i64) -> Self {
        self.0.opset_import.push(OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) });
        self
    }

    pub(crate) fn input(mut self, name: &str, dims: &[&str]) -> Self {
        self.graph().input.push(boundary(name, dims));
        self
    }

    pub(crate) fn output(mut self, name: &str) -> Self {
        self.graph().output.push(boundary(name, &["N", "C"]));
        self
    }

    pub(crate) fn floats(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.graph().initializer.push(floats(name, dims, values));
        self
    }

    /// Distinct small values.
    pub(crate) fn weight(self, name: &str, dims: &[i64]) -> Self {
        let values: Vec<f32> =
            (0..dims.iter().product::<i64>()).map(|index| index as f32 * 0.25 - 1.0).collect();
        self.floats(name, dims, &values)
    }

    pub(crate) fn ints(mut self, name: &str, dims: &[i64], values: &[i64]) -> Self {
        self.graph().initializer.push(ints_tensor(name, dims, values));
        self
    }

    pub(crate) fn node(
        self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) -> Self {
        self.node_in("", op, inputs, output, attributes)
    }

    pub(crate) fn node_in(
        mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        let input = inputs.iter().map(|name| name.to_string()).collect();
        self.graph().node.push(NodeProto {
            domain: Some(domain.into()),
            op_type: Some(op.into()),
            input,
            output: vec![output.into()],
            attribute,
            ..Default::default()
        });
        self
    }

    /// Metadata of the last node.
    pub(crate) fn scopes(mut self, scopes: &str) -> Self {
        let entry = entry("pkg.torch.onnx.name_scopes", scopes);
        self.graph().node.last_mut().unwrap().metadata_props.push(entry);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    pub(crate) fn import(&self) -> Result<Network, OnnxError> {
        import(&decode(&self.bytes(), &NoExternalData)?)
    }

    /// The operations of the imported layer, one word each.
    pub(crate) fn ops(&self) -> Vec<&'static str> {
        let network = self.import().unwrap_or_else(|error| panic!("{error}"));
        checked(&network);
        ops(&network.module)
    }

    /// Why the import fails.
    pub(crate) fn error(&self) -> String {
        self.import().expect_err("the import succeeds").to_string()
    }
}

pub(crate) fn ops(module: &Module) -> Vec<&'static str> {
    let word = |op: &Op| match op {
        Op::Activate(activation, _) => activation.name(),
        op => ffc_ir::text::mnemonic(op),
    };
    module.layers[0].values.values().map(|value| word(&value.op)).filter(|&word| word != "param").collect()
}

/// How many contractions there are.
pub(crate) fn contractions(module: &Module) -> usize {
    let is = |op: &Op| matches!(op, Op::Dot { .. } | Op::Depthwise { .. });
    module.layers[0].values.values().filter(|value| is(&value.op)).count()
}

/// Multiply-accumulates of one sample.
pub(crate) fn macs(module: &Module) -> usize {
    let layer = &module.layers[0];
    let size = |dim| match dim {
        Dim::Rows(size) | Dim::Const(size) => size,
    };
    let macs = |value: &Value| match value.op {
        Op::Dot { rhs: weight, .. } | Op::Depthwise { weight, .. } => {
            let depth = size(layer.ty(weight).columns());
            size(value.ty.rows()) * size(value.ty.columns()) * depth
        }
        _ => 0,
    };
    layer.values.values().map(macs).sum()
}

/// The module is what the IR allows.
pub(crate) fn checked_module(network: &Network) {
    ffc_ir::verify(&network.module).unwrap_or_else(|errors| panic!("{errors:?}\n{}", network.module));
}

/// The module is what the IR allows, prints and parses, and its weights have their shapes.
pub(crate) fn checked(network: &Network) {
    let module = &network.module;
    ffc_ir::verify(module).unwrap_or_else(|errors| panic!("{errors:?}\n{module}"));
    let printed = module.to_string();
    let parsed = ffc_ir::parse(&printed).unwrap_or_else(|error| panic!("{error:?}\n{printed}"));
    assert_eq!(parsed.to_string(), printed);
    let shapes: Vec<_> = module.params.values().map(|param| (param.name.clone(), param.len())).collect();
    let weights: Vec<_> = network.weights.iter().map(|(name, values)| (name.clone(), values.len())).collect();
    assert_eq!(shapes, weights);
}

pub(crate) fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

fn boundary(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = |dim: &&str| Dimension {
        value: Some(match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam(dim.to_string()),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..Default::default() }
}

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (name, dims) = (Some(name.into()), dims.to_vec());
    TensorProto { name, dims, data_type: Some(1), raw_data: Some(raw.into()), ..Default::default() }
}

pub(crate) fn ints_tensor(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    let (name, dims) = (Some(name.into()), dims.to_vec());
    TensorProto { name, dims, data_type: Some(7), int64_data: values.to_vec(), ..Default::default() }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind.into()), ..Default::default() }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeType::String) }
}

/// `strides=2,2 group=3 auto_pad:VALID`: lists where an operator has lists.
pub(crate) fn attributes(list: &str) -> Vec<AttributeProto> {
    let of = |entry: &str| {
        if let Some((name, value)) = entry.split_once(':') {
            return text(name, value);
        }
        let (name, values) = entry.split_once('=').unwrap();
        let values: Vec<i64> = values.split(',').map(|value| value.parse().unwrap()).collect();
        match name {
            "group" | "ceil_mode" | "count_include_pad" | "axis" => int(name, values[0]),
            _ => ints(name, &values),
        }
    };
    list.split_whitespace().map(of).collect()
}

pub(crate) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(value), ..attribute(name, AttributeType::Tensor) }
}

/// Values by name.
pub(crate) type Values = Vec<(String, Vec<f32>)>;

/// Weights as numbers.
pub(crate) fn values(weights: &[(String, Numbers)]) -> Values {
    weights.iter().map(|(name, numbers)| (name.clone(), numbers.load().unwrap())).collect()
}

/// The bytes of an exported file.
pub(crate) fn written(model: &ExportModel, weights: &Values) -> Result<Vec<u8>, ExportError> {
    let values =
        |name: &str| weights.iter().find(|(other, _)| other == name).map(|(_, values)| values.clone());
    let mut bytes = Vec::new();
    export(model, &values, &mut bytes)?;
    Ok(bytes)
}

/// An imported network, untrained, as a model to be exported.
pub(crate) fn unchanged(network: &Network) -> ExportModel {
    ExportModel {
        interface: network.interface.clone(),
        module: network.module.clone(),
        layer_of: std::collections::HashMap::new(),
        normalization: network.interface.normalization,
        metadata: Vec::new(),
        prediction: Prediction::Classifier,
    }
}

/// A file of the workplace's model collection, unpacked; `None`, said aloud, where it is not there.
pub(crate) fn shared_model(name: &str) -> Option<Vec<u8>> {
    let path = shared_folder()?.join(name);
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Some(std::fs::read(path).unwrap());
    }
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(std::fs::File::open(path).unwrap()), &mut bytes).unwrap();
    Some(bytes)
}

pub(crate) fn shared_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if folder.is_dir() {
        return Some(folder);
    }
    skip("../shared/models is not there");
    None
}

/// A fixed sequence of values around zero.
pub(crate) struct Sequence(pub(crate) u64);

impl Sequence {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// An interpreter with these modules; its absence is said aloud.
pub(crate) fn python(modules: &str) -> Option<String> {
    let python = std::env::var("FFC_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(&format!("no Python with {modules}; set FFC_PYTHON"));
    None
}

/// Says that a test is skipped; fails where everything is required.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var("FFC_REQUIRE").as_deref() != Ok("all"), "required: {reason}");
    eprintln!("SKIPPED: {reason}");
}
