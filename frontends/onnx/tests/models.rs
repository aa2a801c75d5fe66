//! Files as exporters write them.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::path::{Path, PathBuf};

use common::{checked, ops, shared_folder, shared_model};
use ffc_onnx::{Network, NoExternalData, OnnxError, SoftmaxTail, decode, import, read};

fn shapes(network: &Network) -> Vec<(&str, [usize; 2])> {
    checked(network);
    network.module.params.values().map(|param| (param.name.as_str(), param.shape)).collect()
}

#[test]
fn mnist_mlp_with_external_data() {
    let Some(folder) = shared_folder() else { return };
    let network = import(&read(&folder.join("mnist_mlp.onnx")).unwrap()).unwrap();
    assert_eq!(
        shapes(&network),
        [
            ("layer1.weight", [1000, 784]),
            ("layer1.bias", [1, 1000]),
            ("layer3.weight", [1000, 1000]),
            ("layer3.bias", [1, 1000]),
            ("layer5.weight", [10, 1000]),
            ("layer5.bias", [1, 10]),
        ]
    );
    assert_eq!(ops(&network.module), ["operand", "dot", "add", "relu", "dot", "add", "relu", "dot", "add"]);
    assert!(network.weights[0].1.load().unwrap().iter().any(|&weight| weight != 0.0));
    let interface = &network.interface;
    assert_eq!((interface.input.as_str(), interface.output.as_str()), ("input", "logits"));
    assert_eq!(serde_json::to_string(&interface.input_dims).unwrap(), r#"["batch",1,28,28]"#);
    assert_eq!(serde_json::to_string(&interface.output_dims).unwrap(), r#"["batch",10]"#);
}

#[test]
fn mnist_mlp_small() {
    let Some(bytes) = shared_model("mnist_mlp_small.onnx") else { return };
    let network = import(&decode(&bytes, &NoExternalData).unwrap()).unwrap();
    let expected = [[500, 784], [1, 500], [500, 500], [1, 500], [10, 500], [1, 10]];
    assert_eq!(shapes(&network).into_iter().map(|(_, shape)| shape).collect::<Vec<_>>(), expected);
}

#[test]
fn cifar_mlp() {
    let Some(bytes) = shared_model("cifar_mlp.onnx.xz") else { return };
    let network = import(&decode(&bytes, &NoExternalData).unwrap()).unwrap();
    assert_eq!(
        shapes(&network),
        [
            ("layer1.weight", [1000, 3072]),
            ("layer1.bias", [1, 1000]),
            ("layer3.weight", [1000, 1000]),
            ("layer3.bias", [1, 1000]),
            ("layer5.weight", [1000, 1000]),
            ("layer5.bias", [1, 1000]),
            ("layer7.weight", [10, 1000]),
            ("layer7.bias", [1, 10]),
        ]
    );
    assert_eq!(network.module.features, 3072);
}

/// Contractions, their multiply-accumulates, and weights and biases: what each network is known to have.
#[test]
fn convolutional_networks_have_their_size() {
    // LeNet-5 by hand: 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10. The others as a count
    // over the operators of the files has them. A normalisation has left its bias, and its factor is in the weight; the
    // exporter that folds has left out biases of 0.
    let expected = [
        ("lenet5.onnx", 5, 416_520, 61_706),
        ("vgg8b_cifar.onnx.xz", 8, 949_364_736, 8_897_034),
        ("resnet18_cifar.onnx.xz", 21, 555_422_720, 11_169_162),
        ("resnet18_cifar_folded.onnx.xz", 21, 555_422_720, 11_164_362),
        ("mobilenetv2_cifar.onnx.xz", 53, 87_976_448, 2_219_626),
        ("efficientnet_b0_cifar.onnx.xz", 82, 31_979_392, 3_999_350),
    ];
    let mut wrong = Vec::new();
    for (name, layers, macs, parameters) in expected {
        let Some(bytes) = shared_model(name) else { return };
        let network = import(&decode(&bytes, &NoExternalData).unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        checked(&network);
        let found = (
            common::contractions(&network.module),
            common::macs(&network.module),
            network.weights.iter().map(|(_, values)| values.len()).sum::<usize>(),
        );
        if found != (layers, macs, parameters) {
            wrong.push((name, found));
        }
    }
    assert_eq!(wrong, []);
}

fn sklearn(name: &str) -> Result<Network, OnnxError> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    import(&read(&path).unwrap())
}

#[test]
fn scikit_learn_classifiers_end_at_their_scores() {
    for (name, output) in [
        ("skl_multi.onnx", "output_probability"),
        ("skl_multi_nozip.onnx", "probabilities"),
        ("skl_strings.onnx", "output_probability"),
        ("skl_double.onnx", "probabilities"),
    ] {
        let network = sklearn(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            shapes(&network),
            [
                ("MatMul.weight", [6, 8]),
                ("MatMul.bias", [1, 6]),
                ("MatMul1.weight", [5, 6]),
                ("MatMul1.bias", [1, 5]),
                ("MatMul2.weight", [3, 5]),
                ("MatMul2.bias", [1, 3]),
            ],
            "{name}"
        );
        assert_eq!(network.interface.output, output);
        assert_eq!(network.interface.softmax, SoftmaxTail::Softmax);
        assert_eq!(serde_json::to_string(&network.interface.input_dims).unwrap(), r#"["batch",8]"#);
    }
}

#[test]
fn a_binary_scikit_learn_classifier_is_refused_with_the_reason() {
    let error = sklearn("skl_binary.onnx").unwrap_err().to_string();
    assert!(error.contains("the task is classification with one score per class"), "{error}");
}

#[test]
fn a_scikit_learn_pipeline_names_its_scaler() {
    let error = sklearn("skl_pipe.onnx").unwrap_err().to_string();
    assert!(error.contains("1 x `Scaler` (ai.onnx.ml 1)"), "{error}");
}
