//! What an exported graph computes.

use ffc_ir::module::Activation;

use super::write::{Writer, entry, float, int, text};
use super::{ExportLayer, ExportModel, Prediction, ir_version};
use crate::interface::{LAYERS_KEY, NORMALIZATION_KEY, OWN_KEYS, PREDICTION_KEY, SoftmaxTail};
use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::restore::{LayerRecord, Layers};

/// The oldest operator set that is written.
const OPSET: i64 = 17;
/// The oldest one that has GELU.
const OPSET_OF_GELU: i64 = 20;

/// The whole file of a network whose parts fit together.
pub(super) fn model(model: &ExportModel) -> ModelProto {
    let interface = &model.interface;
    let gelu =
        |layer: &ExportLayer| matches!(layer.activation, Some(Activation::Gelu | Activation::GeluTanh));
    let oldest = if model.layers.iter().any(gelu) { OPSET_OF_GELU } else { OPSET };
    let opset = interface.opset.max(oldest);
    let mut graph = Graph::new(model, opset);
    graph.predict();
    let metadata = metadata(model, graph.records);
    let graph = graph.writer.finish(
        "network",
        (&interface.input, &interface.input_dims),
        (&interface.output, &interface.output_dims),
    );
    ModelProto {
        ir_version: Some(ir_version(interface)),
        producer_name: Some("ffc".to_string()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        graph: Some(graph),
        metadata_props: metadata,
        ..ModelProto::default()
    }
}

/// The interface's metadata, overlaid by the model's, and our own.
fn metadata(model: &ExportModel, layers: Vec<LayerRecord>) -> Vec<StringStringEntryProto> {
    let replaced = |key: &str| OWN_KEYS.contains(&key) || model.metadata.iter().any(|(name, _)| name == key);
    let kept = model.interface.metadata.iter().filter(|(key, _)| !replaced(key));
    let more = model.metadata.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
    let mut entries: Vec<_> = kept.chain(more).map(|(key, value)| entry(key, value)).collect();
    entries.push(entry(PREDICTION_KEY, &json(&model.prediction.kind())));
    if let Some(normalization) = &model.normalization {
        entries.push(entry(NORMALIZATION_KEY, &json(normalization)));
    }
    if model.prediction != Prediction::Classifier {
        let (softmax, normalization) = (model.interface.softmax, model.normalization);
        entries.push(entry(LAYERS_KEY, &json(&Layers { layers, softmax, normalization })));
    }
    entries
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data becomes JSON")
}

struct Graph<'a> {
    model: &'a ExportModel,
    writer: Writer,
    records: Vec<LayerRecord>,
}

impl<'a> Graph<'a> {
    fn new(model: &'a ExportModel, opset: i64) -> Self {
        let writer = Writer::new(opset, &[&model.interface.input, &model.interface.output]);
        Self { model, writer, records: Vec::new() }
    }

    fn classes(&self) -> usize {
        self.model.layers.last().expect("the network was checked").outputs
    }

    /// From the input to the output.
    fn predict(&mut self) {
        let mut input = self.model.interface.input.clone();
        if self.model.interface.input_dims.len() > 2 {
            input = self.writer.op("Flatten", "features", &[&input], vec![int("axis", 1)]);
        }
        let scores = match &self.model.prediction {
            Prediction::Classifier => self.layers(input).pop().expect("the network was checked"),
            Prediction::Heads { heads, classifier } => self.heads(input, heads, *classifier),
            Prediction::Labels { on, off, sum } => self.labels(input, *on, *off, *sum),
            Prediction::Unlabelled { on, off } => self.unlabelled(input, *on, *off),
        };
        match self.model.interface.softmax {
            SoftmaxTail::None => {}
            SoftmaxTail::Softmax => drop(self.softmax("Softmax", "probabilities", &scores)),
            SoftmaxTail::LogSoftmax => drop(self.softmax("LogSoftmax", "probabilities", &scores)),
        }
        self.writer.rename_last(&self.model.interface.output);
    }

    /// All layers; gives what each one gives.
    fn layers(&mut self, input: String) -> Vec<String> {
        let mut value = input;
        let model = self.model;
        let layers = model.layers.iter().enumerate().map(|(index, layer)| {
            value = self.layer(layer, &value, index == 0);
            value.clone()
        });
        layers.collect()
    }

    fn layer(&mut self, layer: &ExportLayer, input: &str, first: bool) -> String {
        let name = &layer.name;
        let normalization = self.model.normalization.filter(|rms| rms.input || !first);
        let input = match normalization {
            Some(rms) => self.normalize(name, input, rms.epsilon),
            None => input.to_string(),
        };
        let weight =
            self.writer.floats(&format!("{name}.weight"), &[layer.outputs, layer.inputs], &layer.weight);
        let bias = layer.bias.as_ref();
        let bias = bias.map(|bias| self.writer.floats(&format!("{name}.bias"), &[layer.outputs], bias));
        let mut inputs = vec![input.as_str(), &weight];
        inputs.extend(bias.as_deref());
        let dense = self.writer.op("Gemm", &format!("{name}.dense"), &inputs, vec![int("transB", 1)]);
        self.records.push(LayerRecord {
            name: name.clone(),
            weight,
            bias,
            activation: layer.activation.map(Into::into),
            head: None,
        });
        layer.activation.map_or(dense.clone(), |activation| self.activate(name, &dense, activation))
    }

    /// `a / sqrt(mean(a^2) + epsilon)`: the form that the importer recognises.
    fn normalize(&mut self, layer: &str, input: &str, epsilon: f32) -> String {
        let square = self.writer.op("Mul", &format!("{layer}.square"), &[input, input], Vec::new());
        let mean = self.writer.mean(&format!("{layer}.mean"), &square);
        let epsilon = self.writer.floats(&format!("{layer}.epsilon"), &[], &[epsilon]);
        let sum = self.writer.op("Add", &format!("{layer}.shifted"), &[&mean, &epsilon], Vec::new());
        let root = self.writer.op("Sqrt", &format!("{layer}.root"), &[&sum], Vec::new());
        self.writer.op("Div", &format!("{layer}.normalized"), &[input, &root], Vec::new())
    }

    fn activate(&mut self, layer: &str, input: &str, activation: Activation) -> String {
        let hint = format!("{layer}.{}", activation.name());
        match activation {
            Activation::Relu => self.writer.op("Relu", &hint, &[input], Vec::new()),
            Activation::LeakyRelu(slope) => {
                self.writer.op("LeakyRelu", &hint, &[input], vec![float("alpha", slope)])
            }
            Activation::Sigmoid => self.writer.op("Sigmoid", &hint, &[input], Vec::new()),
            Activation::Tanh => self.writer.op("Tanh", &hint, &[input], Vec::new()),
            Activation::HardSigmoid { alpha, beta } => {
                let numbers = vec![float("alpha", alpha), float("beta", beta)];
                self.writer.op("HardSigmoid", &hint, &[input], numbers)
            }
            Activation::Elu(alpha) => self.writer.op("Elu", &hint, &[input], vec![float("alpha", alpha)]),
            Activation::HardSwish => self.writer.op("HardSwish", &hint, &[input], Vec::new()),
            Activation::Silu => {
                let gate = self.writer.op("Sigmoid", &format!("{layer}.gate"), &[input], Vec::new());
                self.writer.op("Mul", &hint, &[input, &gate], Vec::new())
            }
            Activation::Gelu => self.writer.op("Gelu", &hint, &[input], Vec::new()),
            Activation::GeluTanh => {
                self.writer.op("Gelu", &hint, &[input], vec![text("approximate", "tanh")])
            }
            Activation::Clip { low, high } => {
                let low = self.writer.floats(&format!("{layer}.low"), &[], &[low]);
                let high = self.writer.floats(&format!("{layer}.high"), &[], &[high]);
                self.writer.op("Clip", &hint, &[input, &low, &high], Vec::new())
            }
        }
    }

    fn softmax(&mut self, op: &str, hint: &str, input: &str) -> String {
        self.writer.op(op, hint, &[input], vec![int("axis", 1)])
    }

    /// The sum of the heads' logarithms of probabilities.
    fn heads(&mut self, input: String, heads: &[Vec<f32>], classifier: bool) -> String {
        let model = self.model;
        let outputs = self.layers(input);
        let mut scores = Vec::new();
        for (index, (head, output)) in heads.iter().zip(&outputs).enumerate() {
            let ExportLayer { name, outputs, .. } = &model.layers[index];
            let head = self.writer.floats(&format!("{name}.head"), &[self.classes(), *outputs], head);
            self.records[index].head = Some(head.clone());
            let logits =
                self.writer.op("Gemm", &format!("{name}.logits"), &[output, &head], vec![int("transB", 1)]);
            scores.push(self.softmax("LogSoftmax", &format!("{name}.scores"), &logits));
        }
        if classifier {
            let logits = outputs.last().expect("the network was checked");
            scores.push(self.softmax("LogSoftmax", "classifier.scores", logits));
        }
        self.sum(&scores)
    }

    fn sum(&mut self, values: &[String]) -> String {
        let (first, rest) = values.split_first().expect("the network has a hidden layer");
        rest.iter()
            .fold(first.clone(), |sum, value| self.writer.op("Add", "total", &[&sum, value], Vec::new()))
    }

    /// The goodness of each label: labels become rows, `[batch * classes, features]`.
    fn labels(&mut self, input: String, on: f32, off: f32, sum: bool) -> String {
        let rows = self.overlay(&input, on, off);
        let outputs = self.layers(rows);
        let hidden = &outputs[..outputs.len() - 1];
        let goodness: Vec<String> = hidden
            .iter()
            .zip(&self.model.layers)
            .map(|(output, layer)| {
                let square =
                    self.writer.op("Mul", &format!("{output}.square"), &[output, output], Vec::new());
                let mean = self.writer.mean(&format!("{output}.mean"), &square);
                if !sum {
                    return mean;
                }
                let count = self.writer.floats(&format!("{output}.count"), &[], &[layer.outputs as f32]);
                self.writer.op("Mul", &format!("{output}.sum"), &[&mean, &count], Vec::new())
            })
            .collect();
        let total = self.sum(&goodness);
        let shape = self.writer.integers("scores.shape", &[-1, self.classes() as i64]);
        self.writer.op("Reshape", "scores", &[&total, &shape], Vec::new())
    }

    /// The logits of samples whose first features, one for each class, say nothing.
    fn unlabelled(&mut self, input: String, on: f32, off: f32) -> String {
        let (classes, features) = (self.classes(), self.model.layers[0].inputs);
        let writer = &mut self.writer;
        let batch = writer.op("Shape", "batch", &[&input], vec![int("start", 0), int("end", 1)]);
        let width = writer.integers("neutral.width", &[classes as i64]);
        let shape = writer.op("Concat", "neutral.shape", &[&batch, &width], vec![int("axis", 0)]);
        let neutral = writer.floats("neutral", &[1, 1], &[off + (on - off) / classes as f32]);
        let mut rows = writer.op("Expand", "neutral.rows", &[&neutral, &shape], Vec::new());
        if features > classes {
            let rest = rest(writer, &input, classes, features);
            rows = writer.op("Concat", "overlaid", &[&rows, &rest], vec![int("axis", 1)]);
        }
        self.layers(rows).pop().expect("the network was checked")
    }

    /// Each sample once for each label, the label in its first features.
    fn overlay(&mut self, input: &str, on: f32, off: f32) -> String {
        let (classes, features) = (self.classes(), self.model.layers[0].inputs);
        let writer = &mut self.writer;
        let batch = writer.op("Shape", "batch", &[input], vec![int("start", 0), int("end", 1)]);
        let square = writer.integers("codes.square", &[classes as i64, classes as i64]);
        let shape = writer.op("Concat", "codes.shape", &[&batch, &square], vec![int("axis", 0)]);
        let codes: Vec<f32> =
            (0..classes * classes).map(|at| if at % classes == at / classes { on } else { off }).collect();
        let codes = writer.floats("codes", &[1, classes, classes], &codes);
        let mut rows = writer.op("Expand", "labels", &[&codes, &shape], Vec::new());
        if features > classes {
            let rest = rest(writer, input, classes, features);
            let one = writer.integers("one", &[1]);
            let rest = writer.op("Unsqueeze", "rest.rows", &[&rest, &one], Vec::new());
            let copies = writer.integers("copies", &[1, classes as i64, 1]);
            let rest = writer.op("Expand", "rest.copies", &[&rest, &copies], Vec::new());
            rows = writer.op("Concat", "overlaid", &[&rows, &rest], vec![int("axis", 2)]);
        }
        let matrix = writer.integers("rows.shape", &[-1, features as i64]);
        writer.op("Reshape", "rows", &[&rows, &matrix], Vec::new())
    }
}

/// The features after those that a label is overlaid on.
fn rest(writer: &mut Writer, input: &str, classes: usize, features: usize) -> String {
    let from = writer.integers("rest.start", &[classes as i64]);
    let to = writer.integers("rest.end", &[features as i64]);
    let axis = writer.integers("rest.axis", &[1]);
    writer.op("Slice", "rest", &[input, &from, &to, &axis], Vec::new())
}
