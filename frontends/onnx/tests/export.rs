//! Exported files: read back as what they were written from, and run by onnxruntime.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::path::Path;
use std::process::Command;

use common::Sequence;
use common::evaluate::activate;
use ffc_ir::Arena;
use ffc_ir::module::{Activation, BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage};
use ffc_ir::module::{Phase, Region, RowPlan};
use ffc_ir::types::{DType, Dim, Type};
use ffc_onnx::{
    ExportError, ExportModel, Interface, NoExternalData, Prediction, PredictionKind, Rms, Size, SoftmaxTail,
    decode, import, read,
};

const CLASSES: usize = 3;
const SHAPE: [usize; 3] = [2, 3, 2];
const FEATURES: usize = 12;

fn interface(opset: i64, softmax: SoftmaxTail) -> Interface {
    let mut input_dims = vec![Size::Symbol("batch".into())];
    input_dims.extend(SHAPE.map(Size::Fixed));
    Interface {
        input: "pixels".into(),
        input_dims,
        output: "scores".into(),
        output_dims: vec![Size::Symbol("batch".into()), Size::Fixed(CLASSES)],
        softmax,
        opset,
        ir_version: 8,
        normalization: None,
        batch_normalized: Vec::new(),
        prediction: PredictionKind::Classifier,
        metadata: vec![("author".into(), "someone".into()), ("ffc.mean".into(), "old".into())],
    }
}

/// A dense layer as it is written and as it is checked.
#[derive(Clone)]
struct Dense {
    name: String,
    weight: Vec<f32>,
    outputs: usize,
    inputs: usize,
    bias: Option<Vec<f32>>,
    activation: Option<Activation>,
}

/// A network to be written, and its layers.
#[derive(Clone)]
struct Written {
    model: ExportModel,
    weights: common::Values,
    layers: Vec<Dense>,
}

impl std::ops::Deref for Written {
    type Target = ExportModel;
    fn deref(&self) -> &ExportModel {
        &self.model
    }
}

impl std::ops::DerefMut for Written {
    fn deref_mut(&mut self) -> &mut ExportModel {
        &mut self.model
    }
}

impl Written {
    fn bytes(&self) -> Result<Vec<u8>, ExportError> {
        common::written(&self.model, &self.weights)
    }
}

/// The layers as the importer gives them.
fn chain(layers: &[Dense]) -> (Module, Vec<(String, Vec<f32>)>) {
    let mut layer = Layer::new("main", LayerRole::Whole);
    let (mut params, mut weights) = (Arena::default(), Vec::new());
    let rows = |columns| Type::new(DType::F32, Dim::ROWS, Dim::Const(columns));
    let mut value = layer.push(Region::Forward, "x", Op::Operand(0), rows(layers[0].inputs));
    for Dense { name, weight, outputs, inputs, bias, activation } in layers {
        let mut param = |layer: &mut Layer, kind: &str, shape, role, values: &[f32]| {
            let param = Param { name: format!("{name}.{kind}"), shape, storage: ParamStorage::F32, role };
            weights.push((param.name.clone(), values.to_vec()));
            let ty = param.ty();
            let name = param.name.clone();
            layer.push(Region::Forward, &name, Op::Param(params.push(param)), ty)
        };
        let rhs = param(&mut layer, "weight", [*outputs, *inputs], ParamRole::Weight, weight);
        value =
            layer.push(Region::Forward, &format!("{name}.dot"), Op::Dot { lhs: value, rhs }, rows(*outputs));
        if let Some(bias) = bias {
            let bias = param(&mut layer, "bias", [1, *outputs], ParamRole::Bias, bias);
            let sum = Op::Binary(BinaryOp::Add, value, bias);
            value = layer.push(Region::Forward, &format!("{name}.sum"), sum, rows(*outputs));
        }
        if let Some(activation) = activation {
            let name = format!("{name}.{}", activation.name());
            value = layer.push(Region::Forward, &name, Op::Activate(*activation, value), rows(*outputs));
        }
    }
    layer.outputs = vec![value];
    let module = Module {
        name: "network".into(),
        phase: Phase::Imported,
        batch: 8,
        features: layers[0].inputs,
        input: DType::F32,
        classes: layers.last().unwrap().outputs,
        rows: RowPlan::Plain,
        params,
        layers: vec![layer],
    };
    (module, weights)
}

fn written(
    layers: Vec<Dense>,
    prediction: Prediction,
    normalization: Option<Rms>,
    interface: Interface,
) -> Written {
    let (module, weights) = chain(&layers);
    let metadata = vec![("ffc.mean".into(), "0.1307".into())];
    let layer_of = std::collections::HashMap::new();
    let model = ExportModel { interface, module, normalization, layer_of, metadata, prediction };
    Written { model, weights, layers }
}

fn layers() -> Vec<Dense> {
    let mut values = Sequence(7);
    let activations = [
        Some(Activation::Relu),
        Some(Activation::Clip { low: -0.5, high: 1.0 }),
        Some(Activation::LeakyRelu(0.2)),
        None,
    ];
    let sizes = [FEATURES, 8, 6, 5, CLASSES];
    let layers = (0..4).map(|index| Dense {
        name: format!("fc{index}"),
        weight: values.take(sizes[index] * sizes[index + 1]),
        outputs: sizes[index + 1],
        inputs: sizes[index],
        bias: (index != 1).then(|| values.take(sizes[index + 1])),
        activation: activations[index],
    });
    layers.collect()
}

fn model(prediction: Prediction, normalization: Option<Rms>, opset: i64, softmax: SoftmaxTail) -> Written {
    written(layers(), prediction, normalization, interface(opset, softmax))
}

fn predictions() -> Vec<Prediction> {
    let mut values = Sequence(3);
    let mut heads = || [8, 6, 5].map(|outputs| values.take(CLASSES * outputs)).to_vec();
    vec![
        Prediction::Classifier,
        Prediction::Heads { heads: heads(), classifier: false },
        Prediction::Heads { heads: heads(), classifier: true },
        Prediction::Labels { on: 1.0, off: -0.25, sum: false },
        Prediction::Labels { on: 1.0, off: -0.25, sum: true },
        Prediction::Unlabelled { on: 1.0, off: -0.25 },
    ]
}

fn variants() -> Vec<Written> {
    let mut all = Vec::new();
    for prediction in predictions() {
        for normalization in
            [None, Some(Rms { epsilon: 1e-3, input: false }), Some(Rms { epsilon: 1e-5, input: true })]
        {
            for (opset, softmax) in
                [(13, SoftmaxTail::None), (18, SoftmaxTail::Softmax), (21, SoftmaxTail::LogSoftmax)]
            {
                all.push(model(prediction.clone(), normalization, opset, softmax));
            }
        }
    }
    all
}

#[test]
fn an_export_reads_back_as_what_it_was_written_from() {
    for model in variants() {
        let bytes = model.bytes().unwrap();
        let network =
            import(&decode(&bytes, &NoExternalData).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        common::checked(&network);
        let expected: Vec<(String, Vec<f32>)> = model
            .layers
            .iter()
            .flat_map(|layer| {
                let bias = layer.bias.clone().map(|bias| (format!("{}.bias", layer.name), bias));
                [(format!("{}.weight", layer.name), layer.weight.clone())].into_iter().chain(bias)
            })
            .collect();
        assert_eq!(common::values(&network.weights), expected);
        let heads: Vec<_> = common::values(&network.heads).into_iter().map(|(_, values)| values).collect();
        match &model.prediction {
            Prediction::Heads { heads: expected, .. } => assert_eq!(&heads, expected),
            _ => assert!(heads.is_empty()),
        }
        let ops = common::ops(&network.module);
        let activations = ["relu", "clip", "leaky_relu"];
        assert!(activations.iter().all(|name| ops.iter().filter(|op| op == &name).count() == 1), "{ops:?}");
        assert_eq!(ops.len(), 1 + 4 + 3 + 3, "{ops:?}");
        let interface = network.interface;
        assert_eq!(interface.normalization, model.normalization);
        assert_eq!(interface.prediction, model.prediction.kind());
        assert_eq!(interface.softmax, model.interface.softmax);
        assert_eq!(interface.input_dims, model.interface.input_dims);
        assert_eq!(interface.output_dims, model.interface.output_dims);
        assert_eq!((interface.input.as_str(), interface.output.as_str()), ("pixels", "scores"));
        let metadata = [("author", "someone"), ("ffc.mean", "0.1307")];
        assert_eq!(interface.metadata, metadata.map(|(key, value)| (key.to_string(), value.to_string())));
    }
}

#[test]
fn an_interface_survives_a_checkpoint() {
    let interface = Interface {
        normalization: Some(Rms { epsilon: 1e-5, input: true }),
        prediction: PredictionKind::Labels { on: 1.0, off: 0.0, sum: false },
        ..interface(17, SoftmaxTail::Softmax)
    };
    let text = serde_json::to_string(&interface).unwrap();
    assert_eq!(serde_json::from_str::<Interface>(&text).unwrap(), interface);
}

#[test]
fn a_damaged_layer_list_is_refused() {
    let bytes = model(Prediction::Labels { on: 1.0, off: 0.0, sum: false }, None, 17, SoftmaxTail::None)
        .bytes()
        .unwrap();
    for (from, to, message) in [
        (
            "\"fc1.weight\"",
            "\"fc9.weight\"",
            "layer `fc1` cannot be restored: there is no initializer `fc9.weight`",
        ),
        (
            "\"weight\":\"fc1.weight\"",
            "\"weight\":\"fc0.weight\"",
            "layer `fc1` cannot be restored: the weight has 12 inputs",
        ),
        ("{\"layers\":", "{\"lawyers\"", "metadata `ffc.layers` is damaged"),
    ] {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut damaged = bytes.clone();
        damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
        let error = import(&decode(&damaged, &NoExternalData).unwrap()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let good = model(Prediction::Classifier, None, 17, SoftmaxTail::None);
    let refused = |change: &dyn Fn(&mut Written)| {
        let mut model = good.clone();
        change(&mut model);
        model.bytes().unwrap_err()
    };
    assert_eq!(
        refused(&|model| model.weights[2].1.truncate(5)).to_string(),
        "`fc1.weight` has 5 elements, 48 are needed"
    );
    assert_eq!(
        refused(&|model| drop(model.weights.remove(2))).to_string(),
        "there are no values for `fc1.weight`"
    );
    assert_eq!(
        refused(&|model| model.interface.input_dims.truncate(3)).to_string(),
        "the interface does not fit the network: 6 features are there, the network takes 12"
    );
    let error = refused(&|model| model.module.layers[0].outputs.clear());
    assert!(matches!(error, ExportError::Module(_)), "{error}");
    let two = |model: &mut Written| {
        let layer = &mut model.module.layers[0];
        let (last, ty) = (layer.outputs[0], layer.ty(layer.outputs[0]));
        let relu = Op::Activate(Activation::Relu, last);
        let relu = layer.push(Region::Forward, "first", relu, ty);
        layer.outputs[0] = layer.push(Region::Forward, "second", Op::Activate(Activation::Tanh, relu), ty);
        model.prediction = Prediction::Unlabelled { on: 1.0, off: 0.0 };
    };
    assert!(matches!(refused(&two), ExportError::Prediction(_)));
    let no_heads = Prediction::Heads { heads: Vec::new(), classifier: false };
    assert_eq!(
        refused(&|model| model.prediction = no_heads.clone()).to_string(),
        "`heads` has 0 elements, 3 are needed"
    );
    assert_eq!(
        refused(&|model| model.interface.output = "pixels".into()).to_string(),
        "the interface does not fit the network: input and output have one name"
    );
}

/// What the exported file must compute for one sample.
fn expected(model: &Written, sample: &[f32]) -> Vec<f64> {
    let sample: Vec<f64> = sample.iter().copied().map(f64::from).collect();
    let scores = match &model.prediction {
        Prediction::Classifier => forward(model, sample).pop().unwrap(),
        Prediction::Heads { heads, classifier } => {
            let mut outputs = forward(model, sample);
            let logits = outputs.pop().unwrap();
            let mut scores = if *classifier { log_softmax(&logits) } else { vec![0.0; CLASSES] };
            for (output, head) in outputs.iter().zip(heads) {
                let head = log_softmax(&dense(head, None, output));
                scores.iter_mut().zip(head).for_each(|(score, head)| *score += head);
            }
            scores
        }
        Prediction::Unlabelled { on, off } => {
            let mut overlaid = sample;
            overlaid[..CLASSES].fill(f64::from(off + (on - off) / CLASSES as f32));
            forward(model, overlaid).pop().unwrap()
        }
        Prediction::Labels { on, off, sum } => {
            let goodness = |label: usize| {
                let mut overlaid = sample.clone();
                (0..CLASSES)
                    .for_each(|class| overlaid[class] = f64::from(if class == label { *on } else { *off }));
                let mut outputs = forward(model, overlaid);
                outputs.pop();
                let factor = |output: &[f64]| if *sum { output.len() as f64 } else { 1.0 };
                outputs.iter().map(|output| mean_square(output) * factor(output)).sum()
            };
            (0..CLASSES).map(goodness).collect()
        }
    };
    match model.interface.softmax {
        SoftmaxTail::None => scores,
        SoftmaxTail::LogSoftmax => log_softmax(&scores),
        SoftmaxTail::Softmax => log_softmax(&scores).into_iter().map(f64::exp).collect(),
    }
}

fn forward(model: &Written, sample: Vec<f64>) -> Vec<Vec<f64>> {
    let mut value = sample;
    let layers = model.layers.iter().enumerate().map(|(index, layer)| {
        if let Some(rms) = model.normalization.filter(|rms| rms.input || index > 0) {
            let root = (mean_square(&value) + f64::from(rms.epsilon)).sqrt();
            value.iter_mut().for_each(|x| *x /= root);
        }
        value = dense(&layer.weight, layer.bias.as_deref(), &value);
        if let Some(activation) = layer.activation {
            value.iter_mut().for_each(|x| *x = activate(activation, *x));
        }
        value.clone()
    });
    layers.collect()
}

fn dense(weight: &[f32], bias: Option<&[f32]>, input: &[f64]) -> Vec<f64> {
    let dot = |row: &[f32]| row.iter().zip(input).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
    let bias = |index: usize| bias.map_or(0.0, |bias| f64::from(bias[index]));
    weight.chunks(input.len()).enumerate().map(|(index, row)| dot(row) + bias(index)).collect()
}

fn mean_square(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64
}

fn log_softmax(values: &[f64]) -> Vec<f64> {
    let sum = values.iter().map(|x| x.exp()).sum::<f64>().ln();
    values.iter().map(|x| x - sum).collect()
}

/// Runs the cases in onnxruntime.
fn check(python: &str, folder: &Path, cases: &[serde_json::Value]) {
    let list = folder.join("cases.json");
    std::fs::write(&list, serde_json::to_string(cases).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_export.py");
    let output = Command::new(python).arg(script).arg(list).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("Removing initializer"), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), cases.len());
}

/// The input's dimensions for a batch of this size.
fn shape(interface: &Interface, batch: usize) -> Vec<usize> {
    let sizes = interface.input_dims[1..].iter().map(|dim| match dim {
        Size::Fixed(size) => *size,
        Size::Symbol(_) => panic!("features have sizes"),
    });
    [batch].into_iter().chain(sizes).collect()
}

#[test]
fn onnxruntime_computes_what_was_exported() {
    let Some(python) = common::python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    let mut values = Sequence(11);
    let mut variants = variants();
    // Every activation, an input that already is a matrix, and one whose every feature is overlaid.
    let mut others = layers();
    for (layer, activation) in
        others.iter_mut().zip([Some(Activation::Sigmoid), Some(Activation::Tanh), None])
    {
        layer.activation = activation;
    }
    let matrix = |features| Interface {
        input_dims: vec![Size::Symbol("N".into()), Size::Fixed(features)],
        ..interface(17, SoftmaxTail::None)
    };
    variants.push(written(others, Prediction::Classifier, None, matrix(FEATURES)));
    let mut narrow = layers();
    narrow[0].inputs = CLASSES;
    narrow[0].weight.truncate(8 * CLASSES);
    let labels = Prediction::Labels { on: 1.0, off: 0.0, sum: false };
    variants.push(written(narrow, labels, None, matrix(CLASSES)));
    for (index, model) in variants.iter().enumerate() {
        let path = folder.path().join(format!("{index}.onnx"));
        std::fs::write(&path, model.bytes().unwrap()).unwrap();
        let features = model.layers[0].inputs;
        for batch in [1, 7] {
            let x = values.take(batch * features);
            let y: Vec<f64> = x.chunks(features).flat_map(|sample| expected(model, sample)).collect();
            let shape = shape(&model.interface, batch);
            let interface = &model.interface;
            cases.push(serde_json::json!({
                "model": path, "input": interface.input, "output": interface.output, "shape": shape, "x": x, "y": y,
            }));
        }
    }
    check(&python, folder.path(), &cases);
}

/// What is imported means what the file meant: written again, it computes the same.
#[test]
fn onnxruntime_computes_the_same_before_and_after() {
    let Some(python) = common::python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files: Vec<_> = ["multi", "multi_nozip", "strings", "double"]
        .iter()
        .map(|name| data.join(format!("skl_{name}.onnx")))
        .collect();
    if let Some(shared) = common::shared_folder() {
        files.extend(["mnist_mlp.onnx", "mnist_mlp_small.onnx"].map(|name| shared.join(name)));
    }
    let mut values = Sequence(5);
    let mut cases = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let network = import(&read(file).unwrap()).unwrap();
        let path = folder.path().join(format!("{index}.onnx"));
        std::fs::write(
            &path,
            common::written(&common::unchanged(&network), &common::values(&network.weights)).unwrap(),
        )
        .unwrap();
        let interface = &network.interface;
        for batch in [1, 7] {
            let (x, shape) = (values.take(batch * network.module.features), shape(interface, batch));
            cases.push(serde_json::json!({
                "model": path, "reference": file, "input": interface.input, "output": interface.output,
                "shape": shape, "x": x,
            }));
        }
    }
    check(&python, folder.path(), &cases);
}
