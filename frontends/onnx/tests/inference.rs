//! Imported networks compute what onnxruntime computes: files of exporters, and what exporters write in every form.
//!
//! The module is evaluated directly, in double and in single precision. How far these are apart is what rounding does to
//! this network and these samples; onnxruntime may be a few times as far off.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "inference/columns.rs"]
mod columns;
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::evaluate::evaluate;
use common::{Net, Sequence, attributes, checked, float, floats, int, ints, net, text, unchanged, values};
use ffc_onnx::{Network, NoExternalData, Rms, Size, decode, import};
use serde_json::json;

/// A network, some samples and how far apart results may be, for `check_inference.py`.
fn case(path: &Path, network: &Network, samples: usize) -> serde_json::Value {
    let x = Sequence(17).take(samples * network.module.features);
    let (exact, rounded) = (evaluate::<f64>(network, &x), evaluate::<f32>(network, &x));
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let apart = largest(&mut exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()));
    let size = largest(&mut exact.iter().map(|y| y.abs()));
    assert!(apart.is_finite() && apart < 1e-3 * size, "{}: {apart} of {size}", path.display());
    let sizes = network.interface.input_dims[1..].iter().map(|dim| match dim {
        Size::Fixed(size) => *size,
        Size::Symbol(_) => panic!("features have sizes"),
    });
    let shape: Vec<usize> = [samples].into_iter().chain(sizes).collect();
    json!({
        "model": path, "input": network.interface.input, "output": network.interface.output, "shape": shape,
        "x": x, "y": exact, "bound": 4.0 * apart + 1e-6 * size,
    })
}

fn check(folder: &Path, cases: &[serde_json::Value]) {
    let Some(python) = common::python("numpy, onnx, onnxruntime") else { return };
    let list = folder.join("cases.json");
    std::fs::write(&list, serde_json::to_string(cases).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_inference.py");
    let output = Command::new(python).arg(script).arg(list).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), cases.len(), "{text}");
}

#[test]
fn files_of_exporters() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for name in [
        "lenet5.onnx",
        "vgg8b_cifar.onnx.xz",
        "resnet18_cifar.onnx.xz",
        "resnet18_cifar_folded.onnx.xz",
        "mobilenetv2_cifar.onnx.xz",
        "efficientnet_b0_cifar.onnx.xz",
    ] {
        let Some(bytes) = common::shared_model(name) else { return };
        let network = import(&decode(&bytes, &NoExternalData).unwrap()).unwrap();
        let path = folder.path().join(name.trim_end_matches(".xz"));
        std::fs::write(&path, bytes).unwrap();
        cases.push(case(&path, &network, 2));
    }
    check(folder.path(), &cases);
}

/// A network that is being written: where it is, and the numbers it takes.
struct Sketch {
    net: Net,
    values: Sequence,
    count: usize,
}

impl Sketch {
    fn new(opset: i64, shape: &[&str]) -> Self {
        let dims: Vec<&str> = ["N"].iter().chain(shape).copied().collect();
        Self { net: net(opset).input("x", &dims), values: Sequence(23), count: 0 }
    }

    fn constant(&mut self, dims: &[i64]) -> String {
        self.count += 1;
        let name = format!("c{}", self.count);
        let size = dims.iter().product::<i64>() as usize;
        let values = self.values.take(size);
        self.net.graph().initializer.push(floats(&name, dims, &values));
        name
    }

    /// Of positive numbers.
    fn positive(&mut self, dims: &[i64]) -> String {
        let name = self.constant(dims);
        let tensor = self.net.graph().initializer.last_mut().unwrap();
        let values: Vec<f32> =
            (0..dims.iter().product::<i64>()).map(|at| 0.5 + (at % 5) as f32 * 0.25).collect();
        *tensor = floats(&name, dims, &values);
        name
    }

    fn number(&mut self, value: f32) -> String {
        self.count += 1;
        let name = format!("c{}", self.count);
        self.net.graph().initializer.push(floats(&name, &[], &[value]));
        name
    }

    fn list(&mut self, values: &[i64]) -> String {
        self.count += 1;
        let name = format!("c{}", self.count);
        self.net.graph().initializer.push(common::ints_tensor(&name, &[values.len() as i64], values));
        name
    }

    fn op(&mut self, op: &str, inputs: &[&str], attributes: Vec<ffc_onnx::proto::AttributeProto>) -> String {
        self.count += 1;
        let output = format!("v{}", self.count);
        self.net = std::mem::replace(&mut self.net, net(1)).node(op, inputs, &output, attributes);
        output
    }

    /// A convolution with a bias.
    fn conv(&mut self, x: &str, weight: &[i64], attributes: &str) -> String {
        let (w, b) = (self.constant(weight), self.constant(&weight[..1]));
        self.op("Conv", &[x, &w, &b], common::attributes(attributes))
    }

    fn bare_conv(&mut self, x: &str, weight: &[i64], attributes: &str) -> String {
        let w = self.constant(weight);
        self.op("Conv", &[x, &w], common::attributes(attributes))
    }

    fn normalization(&mut self, x: &str, channels: i64) -> String {
        let [scale, bias, mean] = [0; 3].map(|_| self.constant(&[channels]));
        let variance = self.positive(&[channels]);
        self.op("BatchNormalization", &[x, &scale, &bias, &mean, &variance], vec![float("epsilon", 0.01)])
    }

    /// Flattened and dense.
    fn finish(mut self, x: &str, features: i64) -> Net {
        let flat = self.op("Flatten", &[x], vec![]);
        let (w, b) = (self.constant(&[4, features]), self.constant(&[4]));
        let y = self.op("Gemm", &[&flat, &w, &b], vec![int("transB", 1)]);
        self.net.output(&y)
    }
}

/// Name, network, and its operations without parameters and the last layer, if they matter.
type Form = (&'static str, Net, &'static str);

fn image(form: impl FnOnce(&mut Sketch) -> (String, i64)) -> Net {
    of(13, &["3", "7", "10"], form)
}

fn of(opset: i64, shape: &[&str], form: impl FnOnce(&mut Sketch) -> (String, i64)) -> Net {
    let mut sketch = Sketch::new(opset, shape);
    let (x, features) = form(&mut sketch);
    sketch.finish(&x, features)
}

fn convolutions() -> Vec<Form> {
    let conv = |weight: &'static [i64], attributes: &'static str, features: i64| {
        image(move |s| (s.conv("x", weight, attributes), features))
    };
    vec![
        ("plain", conv(&[5, 3, 3, 3], "", 5 * 5 * 8), "pixels window dot add"),
        ("padded", conv(&[5, 3, 3, 2], "pads=1,0,1,1", 5 * 7 * 10), "pixels window dot add"),
        ("uneven pads", conv(&[5, 3, 3, 3], "pads=2,0,1,3", 5 * 8 * 11), "pixels window dot add"),
        ("strides", conv(&[5, 3, 3, 3], "strides=2,3 pads=1,1,1,1", 5 * 4 * 4), "pixels window dot add"),
        ("dilations", conv(&[5, 3, 3, 2], "dilations=2,3 pads=1,2,1,2", 5 * 5 * 11), "pixels window dot add"),
        (
            "same upper",
            conv(&[5, 3, 4, 2], "auto_pad:SAME_UPPER strides=2,3", 5 * 4 * 4),
            "pixels window dot add",
        ),
        (
            "same lower",
            conv(&[5, 3, 4, 2], "auto_pad:SAME_LOWER strides=2,3", 5 * 4 * 4),
            "pixels window dot add",
        ),
        ("valid", conv(&[5, 3, 4, 2], "auto_pad:VALID", 5 * 4 * 9), "pixels window dot add"),
        ("pointwise", conv(&[5, 3, 1, 1], "", 5 * 70), "pixels dot add"),
        ("pointwise in strides", conv(&[5, 3, 1, 1], "strides=2,2", 5 * 4 * 5), "pixels window dot add"),
        ("everything at once", conv(&[5, 3, 7, 10], "", 5), "pixels window dot add"),
        ("depthwise", conv(&[3, 1, 3, 2], "group=3 pads=1,1,0,1", 3 * 6 * 11), "pixels depthwise add"),
        (
            "depthwise in strides",
            conv(&[3, 1, 3, 2], "group=3 strides=3,2 dilations=2,1", 15),
            "pixels depthwise add",
        ),
        (
            "signal",
            of(13, &["3", "17"], |s| (s.conv("x", &[5, 3, 4], "strides=2 pads=1,2 dilations=2"), 5 * 7)),
            "pixels window dot add",
        ),
        (
            "one channel",
            of(13, &["1", "6", "5"], |s| (s.conv("x", &[2, 1, 3, 3], ""), 2 * 4 * 3)),
            "pixels window dot add",
        ),
        (
            "one filter",
            image(|s| {
                let x = s.conv("x", &[1, 3, 3, 3], "");
                (s.conv(&x, &[3, 1, 2, 2], ""), 3 * 4 * 7)
            }),
            "pixels window dot add window dot add",
        ),
    ]
}

fn pools() -> Vec<Form> {
    let pool = |op: &'static str, attributes: &'static str, features: i64| {
        of(22, &["3", "7", "10"], move |s| {
            let x = s.conv("x", &[4, 3, 1, 1], "");
            (s.op(op, &[&x], common::attributes(attributes)), 4 * features)
        })
    };
    let mean = |axes: &'static [i64], keep: i64, features: i64| {
        of(18, &["3", "7", "10"], move |s| {
            let x = s.conv("x", &[4, 3, 1, 1], "");
            let axes = s.list(axes);
            (s.op("ReduceMean", &[&x, &axes], vec![int("keepdims", keep)]), 4 * features)
        })
    };
    vec![
        ("max", pool("MaxPool", "kernel_shape=2,2 strides=2,2", 3 * 5), "pixels dot add pool"),
        (
            "max padded",
            pool("MaxPool", "kernel_shape=3,2 strides=2,3 pads=1,1,0,0", 3 * 4),
            "pixels dot add pool",
        ),
        (
            "max to the edge",
            pool("MaxPool", "kernel_shape=3,3 strides=2,2 ceil_mode=1", 3 * 5),
            "pixels dot add pool",
        ),
        (
            "max beyond it",
            pool("MaxPool", "kernel_shape=2,2 strides=3,3 pads=1,1,1,1 ceil_mode=1", 3 * 4),
            "",
        ),
        ("max dilated", pool("MaxPool", "kernel_shape=2,3 dilations=3,2", 4 * 6), "pixels dot add pool"),
        (
            "max same",
            pool("MaxPool", "kernel_shape=3,3 strides=2,2 auto_pad:SAME_UPPER", 4 * 5),
            "pixels dot add pool",
        ),
        (
            "mean",
            pool("AveragePool", "kernel_shape=2,3 strides=2,2", 3 * 4),
            "pixels dot add pool constant mul",
        ),
        (
            "mean of tiles",
            pool("AveragePool", "kernel_shape=3,5 strides=3,5", 2 * 2),
            "pixels dot add pool pool constant mul",
        ),
        (
            "mean with padding",
            pool("AveragePool", "kernel_shape=3,3 strides=2,2 pads=1,1,1,1 count_include_pad=1", 4 * 5),
            "pixels dot add pool constant mul",
        ),
        (
            "mean of much",
            pool("AveragePool", "kernel_shape=6,7 strides=1,2 pads=1,1,1,0 count_include_pad=1", 4 * 3),
            "pixels dot add pool pool constant mul",
        ),
        (
            "mean dilated",
            pool("AveragePool", "kernel_shape=2,2 dilations=3,4", 4 * 6),
            "pixels dot add pool constant mul",
        ),
        ("global mean", pool("GlobalAveragePool", "", 1), "pixels dot add pool pool pool constant mul"),
        ("global maximum", pool("GlobalMaxPool", "", 1), "pixels dot add pool pool pool"),
        ("mean over positions", mean(&[2, 3], 1, 1), "pixels dot add pool pool pool constant mul"),
        ("mean over positions alone", mean(&[-1, -2], 0, 1), "pixels dot add pool pool pool constant mul"),
        ("mean over columns", mean(&[3], 1, 7), "pixels dot add pool pool constant mul"),
        ("mean over rows", mean(&[2], 0, 10), "pixels dot add pool constant mul"),
        (
            "signal pools",
            of(13, &["3", "17"], |s| {
                let x = s.op("MaxPool", &["x"], attributes("kernel_shape=3 strides=2"));
                (s.op("AveragePool", &[&x], attributes("kernel_shape=2")), 3 * 7)
            }),
            "pixels pool pool constant mul",
        ),
    ]
}

fn normalizations() -> Vec<Form> {
    vec![
        (
            "folded",
            image(|s| {
                let x = s.bare_conv("x", &[5, 3, 3, 3], "");
                let x = s.normalization(&x, 5);
                (s.op("Relu", &[&x], vec![]), 5 * 40)
            }),
            "pixels window dot add relu",
        ),
        (
            "folded with a bias",
            image(|s| {
                let x = s.conv("x", &[3, 1, 3, 3], "group=3");
                (s.normalization(&x, 3), 3 * 40)
            }),
            "pixels depthwise add",
        ),
        (
            "alone",
            image(|s| {
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let x = s.op("Relu", &[&x], vec![]);
                (s.normalization(&x, 5), 5 * 40)
            }),
            "pixels window dot add relu depthwise add",
        ),
        (
            "of what another reads too",
            image(|s| {
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let n = s.normalization(&x, 5);
                (s.op("Add", &[&x, &n], vec![]), 5 * 40)
            }),
            "pixels window dot add depthwise add add",
        ),
        ("of the input", image(|s| (s.normalization("x", 3), 3 * 70)), "pixels depthwise add"),
        (
            "of a dense layer",
            of(13, &["6"], |s| {
                let w = s.constant(&[6, 5]);
                let x = s.op("MatMul", &["x", &w], vec![]);
                let x = s.normalization(&x, 5);
                let x = s.op("Relu", &[&x], vec![]);
                (s.normalization(&x, 5), 5)
            }),
            "dot add relu depthwise add",
        ),
        (
            "in parts",
            image(|s| {
                let x = s.bare_conv("x", &[5, 3, 3, 3], "");
                let (factor, bias) = (s.constant(&[5, 1, 1]), s.constant(&[1, 5, 1, 1]));
                let x = s.op("Mul", &[&x, &factor], vec![]);
                let x = s.op("Add", &[&bias, &x], vec![]);
                let (divisor, mean) = (s.positive(&[5, 1, 1]), s.number(0.25));
                let x = s.op("Sub", &[&x, &mean], vec![]);
                (s.op("Div", &[&x, &divisor], vec![]), 5 * 40)
            }),
            "pixels window dot add",
        ),
    ]
}

fn branches() -> Vec<Form> {
    let squeeze = |last: bool| {
        move |s: &mut Sketch| {
            let input =
                if last { s.op("Transpose", &["x"], vec![ints("perm", &[0, 3, 1, 2])]) } else { "x".into() };
            let x = s.conv(&input, &[6, 3, 3, 3], "pads=1,1,1,1");
            let pooled = s.op("GlobalAveragePool", &[&x], vec![]);
            let gate = s.conv(&pooled, &[2, 6, 1, 1], "");
            let gate = s.op("Relu", &[&gate], vec![]);
            let gate = s.conv(&gate, &[6, 2, 1, 1], "");
            let gate = s.op("Sigmoid", &[&gate], vec![]);
            (s.op("Mul", &[&gate, &x], vec![]), 6 * 70)
        }
    };
    vec![
        (
            "residual",
            image(|s| {
                let x = s.conv("x", &[4, 3, 3, 3], "strides=2,2 pads=1,1,1,1");
                let short = s.conv("x", &[4, 3, 1, 1], "strides=2,2");
                let x = s.op("Sum", &[&x, &short, &x], vec![]);
                (s.op("Relu", &[&x], vec![]), 4 * 4 * 5)
            }),
            "pixels window dot add window dot add add add relu",
        ),
        ("squeeze and excite", image(squeeze(false)), ""),
        ("squeeze and excite, channels last", of(13, &["7", "10", "3"], squeeze(true)), ""),
        (
            "one channel for all",
            image(|s| {
                let x = s.conv("x", &[4, 3, 3, 3], "");
                let map = s.conv(&x, &[1, 4, 1, 1], "");
                let map = s.op("Sigmoid", &[&map], vec![]);
                (s.op("Mul", &[&x, &map], vec![]), 4 * 40)
            }),
            "pixels window dot add dot add sigmoid mul",
        ),
        (
            "differences",
            image(|s| {
                let (a, b) = (s.conv("x", &[4, 3, 3, 3], ""), s.bare_conv("x", &[4, 3, 3, 3], ""));
                (s.op("Sub", &[&a, &b], vec![]), 4 * 40)
            }),
            "pixels window dot add window dot sub",
        ),
        (
            "dense branches",
            of(13, &["6"], |s| {
                let (w, v) = (s.constant(&[6, 5]), s.constant(&[6, 5]));
                let (a, b) = (s.op("MatMul", &["x", &w], vec![]), s.op("MatMul", &["x", &v], vec![]));
                (s.op("Mul", &[&a, &b], vec![]), 5)
            }),
            "dot dot mul",
        ),
    ]
}

fn layouts() -> Vec<Form> {
    vec![
        (
            "channels last",
            of(15, &["7", "10", "3"], |s| {
                let x = s.op("Transpose", &["x"], vec![ints("perm", &[0, 3, 1, 2])]);
                let x = s.conv(&x, &[5, 3, 3, 3], "strides=2,2");
                let x = s.op("Transpose", &[&x], vec![ints("perm", &[0, 2, 3, 1])]);
                let bias = s.constant(&[5]);
                let x = s.op("Add", &[&x, &bias], vec![]);
                let x = s.op("Relu", &[&x], vec![]);
                let axes = vec![ints("axes", &[1]), int("keepdims", 1)];
                let x = s.op("ReduceMean", &[&x], axes);
                let shape = s.list(&[-1, 20]);
                (s.op("Reshape", &[&x, &shape], vec![]), 20)
            }),
            "reshape window dot add relu pool constant mul",
        ),
        (
            "flattened as the file sees it",
            image(|s| {
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let shape = s.list(&[0, -1]);
                (s.op("Reshape", &[&x, &shape], vec![]), 200)
            }),
            "pixels window dot add",
        ),
        (
            "an image out of a row",
            of(13, &["24"], |s| {
                let shape = s.list(&[-1, 2, 3, 4]);
                let x = s.op("Reshape", &["x", &shape], vec![]);
                (s.conv(&x, &[5, 2, 2, 2], ""), 5 * 6)
            }),
            "pixels window dot add",
        ),
        (
            "padding before a strided convolution",
            image(|s| {
                let pads = s.list(&[0, 0, 0, 1, 0, 0, 1, 2]);
                let x = s.op("Pad", &["x", &pads], vec![]);
                (s.conv(&x, &[5, 3, 3, 3], "strides=2,2 pads=1,0,0,0"), 5 * 4 * 6)
            }),
            "pixels window dot add",
        ),
        (
            "padding before a depthwise one and a mean",
            image(|s| {
                let pads = s.list(&[0, 0, 1, 0, 0, 0, 1, 2]);
                let x = s.op("Pad", &["x", &pads], vec![]);
                let x = s.conv(&x, &[3, 1, 3, 3], "group=3");
                let x = s.op("Pad", &[&x, &pads], vec![]);
                (s.op("AveragePool", &[&x], attributes("kernel_shape=3,3 strides=2,2")), 3 * 4 * 5)
            }),
            "pixels depthwise add pool constant mul",
        ),
        (
            "padding before a maximum of what is not negative",
            image(|s| {
                let pads = s.list(&[0, 0, 1, 1, 0, 0, 1, 1]);
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let x = s.op("Relu", &[&x], vec![]);
                let x = s.op("Pad", &[&x, &pads], vec![]);
                (s.op("MaxPool", &[&x], attributes("kernel_shape=3,3 strides=2,2")), 5 * 3 * 4)
            }),
            "pixels window dot add relu pool",
        ),
        (
            "padding before a maximum",
            image(|s| {
                let pads = s.list(&[0, 0, 1, 1, 0, 0, 1, 1]);
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let x = s.op("Pad", &[&x, &pads], vec![]);
                (s.op("MaxPool", &[&x], attributes("kernel_shape=3,3 strides=2,2")), 5 * 3 * 4)
            }),
            "pixels window dot add pool pool",
        ),
        (
            "cropping",
            image(|s| {
                let pads = s.list(&[0, 0, -1, 1, 0, 0, 1, -2]);
                let x = s.conv("x", &[5, 3, 3, 3], "");
                let x = s.op("Pad", &[&x, &pads], vec![]);
                (s.conv(&x, &[2, 5, 3, 3], "pads=1,1,1,1"), 2 * 5 * 7)
            }),
            "pixels window dot add pool window dot add",
        ),
    ]
}

fn activations() -> Vec<Form> {
    let after = |opset: i64, form: &dyn Fn(&mut Sketch, &str) -> String| {
        of(opset, &["3", "7", "10"], |s| {
            let x = s.conv("x", &[5, 3, 3, 3], "");
            (form(s, &x), 5 * 40)
        })
    };
    let shifted = |s: &mut Sketch, x: &str| {
        let (three, zero, six) = (s.number(3.0), s.number(0.0), s.number(6.0));
        let x = s.op("Add", &[x, &three], vec![]);
        s.op("Clip", &[&x, &zero, &six], vec![])
    };
    let sixth = |s: &mut Sketch, x: &str| {
        let six = s.number(6.0);
        s.op("Div", &[x, &six], vec![])
    };
    vec![
        (
            "silu",
            after(13, &|s, x| {
                let gate = s.op("Sigmoid", &[x], vec![]);
                s.op("Mul", &[x, &gate], vec![])
            }),
            "pixels window dot add silu",
        ),
        (
            "hard swish",
            after(14, &|s, x| s.op("HardSwish", &[x], vec![])),
            "pixels window dot add hard_swish",
        ),
        (
            "hard swish by a hard sigmoid",
            after(13, &|s, x| {
                let gate = s.op("HardSigmoid", &[x], vec![float("alpha", 1.0 / 6.0)]);
                s.op("Mul", &[x, &gate], vec![])
            }),
            "pixels window dot add hard_swish",
        ),
        (
            "hard swish by a clip, divided first",
            after(13, &|s, x| {
                let gate = shifted(s, x);
                let gate = sixth(s, &gate);
                s.op("Mul", &[&gate, x], vec![])
            }),
            "pixels window dot add hard_swish",
        ),
        (
            "hard swish by a clip, divided last",
            after(13, &|s, x| {
                let gate = shifted(s, x);
                let product = s.op("Mul", &[x, &gate], vec![]);
                sixth(s, &product)
            }),
            "pixels window dot add hard_swish",
        ),
        (
            "hard sigmoid",
            after(13, &|s, x| s.op("HardSigmoid", &[x], vec![])),
            "pixels window dot add hard_sigmoid",
        ),
        (
            "hard sigmoid by a clip",
            after(13, &|s, x| {
                let gate = shifted(s, x);
                sixth(s, &gate)
            }),
            "pixels window dot add hard_sigmoid",
        ),
        (
            "hard sigmoid by a line",
            after(13, &|s, x| {
                let (slope, half, zero, one) = (s.number(0.2), s.number(0.5), s.number(0.0), s.number(1.0));
                let line = s.op("Mul", &[x, &slope], vec![]);
                let line = s.op("Add", &[&line, &half], vec![]);
                s.op("Clip", &[&line, &zero, &one], vec![])
            }),
            "pixels window dot add hard_sigmoid",
        ),
        ("elu", after(13, &|s, x| s.op("Elu", &[x], vec![float("alpha", 0.7)])), "pixels window dot add elu"),
        ("gelu", after(20, &|s, x| s.op("Gelu", &[x], vec![])), "pixels window dot add gelu"),
        (
            "gelu by tanh",
            after(20, &|s, x| s.op("Gelu", &[x], vec![text("approximate", "tanh")])),
            "pixels window dot add gelu_tanh",
        ),
        (
            "gelu by the error function",
            after(13, &|s, x| {
                let (root, one, half) = (s.number(2f32.sqrt()), s.number(1.0), s.number(0.5));
                let z = s.op("Div", &[x, &root], vec![]);
                let z = s.op("Erf", &[&z], vec![]);
                let z = s.op("Add", &[&z, &one], vec![]);
                let z = s.op("Mul", &[x, &z], vec![]);
                s.op("Mul", &[&z, &half], vec![])
            }),
            "pixels window dot add gelu",
        ),
        (
            "gelu by the error function, halved first",
            after(13, &|s, x| {
                let (root, one, half) = (s.number(0.5f32.sqrt()), s.number(1.0), s.number(0.5));
                let z = s.op("Mul", &[x, &root], vec![]);
                let z = s.op("Erf", &[&z], vec![]);
                let z = s.op("Add", &[&one, &z], vec![]);
                let h = s.op("Mul", &[x, &half], vec![]);
                s.op("Mul", &[&h, &z], vec![])
            }),
            "pixels window dot add gelu",
        ),
        (
            "one slope",
            after(13, &|s, x| {
                let slope = s.number(0.25);
                s.op("PRelu", &[x, &slope], vec![])
            }),
            "pixels window dot add leaky_relu",
        ),
        (
            "arithmetic with numbers",
            after(13, &|s, x| {
                let (three, two) = (s.number(3.0), s.number(2.0));
                let x = s.op("Relu", &[x], vec![]);
                let x = s.op("Mul", &[&three, &x], vec![]);
                s.op("Sub", &[&x, &two], vec![])
            }),
            "pixels window dot add relu constant mul constant add",
        ),
    ]
}

fn forms() -> Vec<Form> {
    [convolutions(), pools(), normalizations(), branches(), layouts(), activations(), columns::forms()]
        .concat()
}

/// Written as a file again, with and without normalisation: the file computes what the network does, and is read as it.
#[test]
fn what_came_in_goes_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    let mut changed = Vec::new();
    for (index, (name, net, _)) in forms().into_iter().enumerate() {
        let mut network = net.import().unwrap();
        for normalization in [None, Some(Rms { epsilon: 1e-3, input: index % 2 == 0 })] {
            network.interface.normalization = normalization;
            let bytes = common::written(&unchanged(&network), &values(&network.weights))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let path = folder.path().join(format!("{index} {name} {}.onnx", normalization.is_some()));
            std::fs::write(&path, &bytes).unwrap();
            cases.push(case(&path, &network, 3));
            let again = import(&decode(&bytes, &NoExternalData).unwrap());
            let again = again.unwrap_or_else(|error| panic!("{name}: {error}"));
            let same_text =
                again.module.to_string() == network.module.to_string().replace("@tiny", "@network");
            // Where nothing but factors sees the input, it makes no difference whether that is normalised.
            let expected = normalization.map(|rms| Rms { input: rms.input && name != "of the input", ..rms });
            let same_interface = again.interface.normalization == expected
                && again.interface.input_dims == network.interface.input_dims;
            if !same_text || values(&again.weights) != values(&network.weights) || !same_interface {
                let (before, after) = (network.module.to_string(), again.module.to_string());
                let lines = before.lines().zip(after.lines()).skip(1).find(|(before, after)| before != after);
                changed.push(format!("{name}: {lines:?}, {:?}", again.interface.normalization));
            }
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
    check(folder.path(), &cases);
}

#[test]
fn forms_of_exporters() {
    let folder = tempfile::tempdir().unwrap();
    let forms = forms();
    let mut cases = Vec::new();
    let mut wrong = Vec::new();
    for (index, (name, net, ops)) in forms.into_iter().enumerate() {
        let network = net.import().unwrap_or_else(|error| panic!("{name}: {error}"));
        checked(&network);
        let path: PathBuf = folder.path().join(format!("{index} {name}.onnx"));
        std::fs::write(&path, net.bytes()).unwrap();
        cases.push(case(&path, &network, 3));
        let found = common::ops(&network.module)[1..].join(" ");
        // The dense layer at the end sees an image or a row.
        let expected = ["dot add", "window dot add"].map(|last| format!("{ops} {last}"));
        if !ops.is_empty() && !expected.contains(&found) {
            wrong.push((name, found));
        }
    }
    assert_eq!(wrong, []);
    check(folder.path(), &cases);
}
