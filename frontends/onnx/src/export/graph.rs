//! What an exported graph computes.

use ffc_ir::module::{Activation, Op, PoolOp};

use super::chain::{self, Dense};
use super::network::Network;
use super::write::{Weight, Writer, entry, int};
use super::{ExportError, ExportModel, Prediction, ir_version};
use crate::interface::{LAYERS_KEY, NORMALIZATION_KEY, OWN_KEYS, PREDICTION_KEY, SoftmaxTail};
use crate::proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::restore::{LayerRecord, Layers};

/// The oldest operator set that is written.
const OPSET: i64 = 17;

/// The oldest operator set that has what an operation is written as.
fn oldest(op: &Op) -> i64 {
    match op {
        Op::Pool { op: PoolOp::Sum, window, .. } if window.dilation != [1; 2] => 19,
        Op::Activate(Activation::Gelu | Activation::GeluTanh, _) => 20,
        _ => OPSET,
    }
}

/// The file of a network whose parts fit together, its graph, and the weights that the graph has.
pub(super) fn model(model: &ExportModel) -> Result<(ModelProto, GraphProto, Vec<Weight>), ExportError> {
    let interface = &model.interface;
    let values = model.module.layers[0].values.values();
    let oldest = values.map(|value| oldest(&value.op)).max().unwrap_or(OPSET);
    let opset = interface.opset.max(oldest);
    let mut graph = Graph::new(model, opset);
    graph.predict()?;
    let metadata = metadata(model, graph.records);
    let (graph, weights) = graph.writer.finish(
        "network",
        (&interface.input, &interface.input_dims),
        (&interface.output, &interface.output_dims),
    );
    let model = ModelProto {
        ir_version: Some(ir_version(interface)),
        producer_name: Some("ffc".to_string()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        metadata_props: metadata,
        ..ModelProto::default()
    };
    Ok((model, graph, weights))
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
    /// The layers of a chain.
    layers: Vec<Dense>,
    records: Vec<LayerRecord>,
}

impl<'a> Graph<'a> {
    fn new(model: &'a ExportModel, opset: i64) -> Self {
        let writer = Writer::new(opset, &[&model.interface.input, &model.interface.output]);
        let layers = chain::layers(&model.module).unwrap_or_default();
        Self { model, writer, layers, records: Vec::new() }
    }

    fn classes(&self) -> usize {
        self.model.module.classes
    }

    /// From the input to the output.
    fn predict(&mut self) -> Result<(), ExportError> {
        let scores = match &self.model.prediction {
            Prediction::Classifier => {
                let mut network = Network::new(&mut self.writer, self.model);
                network.write(&self.model.interface.input, false)?
            }
            Prediction::Heads { heads, classifier } => self.heads(heads, *classifier)?,
            Prediction::Labels { on, off, sum } => self.labels(*on, *off, *sum)?,
            Prediction::Unlabelled { on, off } => self.unlabelled(*on, *off)?,
        };
        let scores = match self.model.interface.softmax {
            SoftmaxTail::None => scores,
            SoftmaxTail::Softmax => self.softmax("Softmax", "probabilities", &scores),
            SoftmaxTail::LogSoftmax => self.softmax("LogSoftmax", "probabilities", &scores),
        };
        let scores = self.as_declared(scores);
        self.writer.rename(&scores, &self.model.interface.output);
        Ok(())
    }

    /// Scores with as many dimensions as the output is declared with.
    fn as_declared(&mut self, scores: String) -> String {
        let more = self.model.interface.output_dims.len().saturating_sub(2);
        if more == 0 {
            return scores;
        }
        let shape = [vec![-1, self.classes() as i64], vec![1; more]].concat();
        let shape = self.writer.integers("scores.shape", &shape);
        self.writer.op("Reshape", "scores", &[&scores, &shape], Vec::new())
    }

    /// The input as rows.
    fn rows(&mut self) -> String {
        let interface = &self.model.interface;
        match interface.input_dims.len() {
            2 => interface.input.clone(),
            _ => self.writer.op("Flatten", "features", &[&interface.input], vec![int("axis", 1)]),
        }
    }

    /// All layers of a chain; gives what each one gives.
    fn layers(&mut self, rows: &str) -> Result<Vec<String>, ExportError> {
        let mut network = Network::new(&mut self.writer, self.model);
        network.write(rows, true)?;
        let outputs = self.layers.iter().map(|layer| network.row(layer.output)).collect();
        let initializer = |param: &_| network.params.get(param).cloned().unwrap_or_default();
        let record = |layer: &Dense| LayerRecord {
            name: layer.name.clone(),
            weight: initializer(&layer.weight),
            bias: layer.bias.as_ref().map(initializer),
            activation: layer.activation.map(Into::into),
            head: None,
        };
        self.records = self.layers.iter().map(record).collect();
        Ok(outputs)
    }

    fn softmax(&mut self, op: &str, hint: &str, input: &str) -> String {
        self.writer.op(op, hint, &[input], vec![int("axis", 1)])
    }

    /// The sum of the heads' logarithms of probabilities.
    fn heads(&mut self, heads: &[Vec<f32>], classifier: bool) -> Result<String, ExportError> {
        let rows = self.rows();
        let outputs = self.layers(&rows)?;
        let mut scores = Vec::new();
        for (index, (head, output)) in heads.iter().zip(&outputs).enumerate() {
            let Dense { name, outputs, .. } = &self.layers[index];
            let (name, dims) = (name.clone(), [self.classes(), *outputs]);
            let head = self.writer.floats(&format!("{name}.head"), &dims, head);
            self.records[index].head = Some(head.clone());
            let logits =
                self.writer.op("Gemm", &format!("{name}.logits"), &[output, &head], vec![int("transB", 1)]);
            scores.push(self.softmax("LogSoftmax", &format!("{name}.scores"), &logits));
        }
        if classifier {
            let logits = outputs.last().expect("the network was checked");
            scores.push(self.softmax("LogSoftmax", "classifier.scores", logits));
        }
        Ok(self.sum(&scores))
    }

    fn sum(&mut self, values: &[String]) -> String {
        let (first, rest) = values.split_first().expect("the network has a hidden layer");
        rest.iter()
            .fold(first.clone(), |sum, value| self.writer.op("Add", "total", &[&sum, value], Vec::new()))
    }

    /// The goodness of each label: labels become rows, `[batch * classes, features]`.
    fn labels(&mut self, on: f32, off: f32, sum: bool) -> Result<String, ExportError> {
        let input = self.rows();
        let rows = self.overlay(&input, on, off);
        let outputs = self.layers(&rows)?;
        let hidden = &outputs[..outputs.len() - 1];
        let writer = &mut self.writer;
        let goodness = hidden.iter().zip(&self.layers).map(|(output, layer)| {
            let square = writer.op("Mul", &format!("{output}.square"), &[output, output], Vec::new());
            let mean = writer.mean(&format!("{output}.mean"), &square, &[1]);
            if !sum {
                return mean;
            }
            let count = writer.floats(&format!("{output}.count"), &[], &[layer.outputs as f32]);
            writer.op("Mul", &format!("{output}.sum"), &[&mean, &count], Vec::new())
        });
        let goodness: Vec<String> = goodness.collect();
        let total = self.sum(&goodness);
        let shape = self.writer.integers("scores.shape", &[-1, self.classes() as i64]);
        Ok(self.writer.op("Reshape", "scores", &[&total, &shape], Vec::new()))
    }

    /// The logits of samples whose first features, one for each class, say nothing.
    fn unlabelled(&mut self, on: f32, off: f32) -> Result<String, ExportError> {
        let input = self.rows();
        let (classes, features) = (self.classes(), self.model.module.features);
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
        Ok(self.layers(&rows)?.pop().expect("the network was checked"))
    }

    /// Each sample once for each label, the label in its first features.
    fn overlay(&mut self, input: &str, on: f32, off: f32) -> String {
        let (classes, features) = (self.classes(), self.model.module.features);
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
