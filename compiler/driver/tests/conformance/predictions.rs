//! A trained network, exported, predicts in onnxruntime what it predicts here.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::python::{FFC, python, root, run};

fn ffc(arguments: &[&str]) -> Value {
    let output = Command::new(FFC).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(output.stdout.split(|&byte| byte == b'\n').rev().nth(1).unwrap()).unwrap()
}

const PACKAGES: &str = "numpy, onnx, onnxruntime";

/// Trains, exports and evaluates on a folder of MNIST, then asks onnxruntime.
fn check(model: &Path, data: &Path, runs: &[(&str, &str, &[&str])]) {
    let Some(python) = python(PACKAGES) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (model, data_name) = (model.to_str().unwrap(), data.to_str().unwrap());
    let mut cases = Vec::new();
    for (index, (recipe, predict, more)) in runs.iter().enumerate() {
        let place = |name: &str| folder.path().join(format!("{index}.{name}")).to_str().unwrap().to_string();
        let (out, run, scores) = (place("onnx"), place("run"), place("scores"));
        let mut train = vec!["train", model, "--data", data_name, "--json", "-o", &out, "--checkpoint", &run];
        train.extend(["--recipe", recipe, "--predict", predict]);
        train.extend(*more);
        let trained = ffc(&train);
        let int8_scores = place("int8-scores");
        let eval = |precision: &str, scores: &str| {
            ffc(&["eval", &run, "--data", data_name, "--precision", precision, "--scores", scores, "--json"])
        };
        let int8 = eval("int8", &int8_scores);
        assert_eq!(trained["test_accuracy"], int8["test_accuracy"]);
        let float = eval("float", &scores);
        eprintln!("{recipe} {predict}: INT8 {}, FP32 {}", int8["test_accuracy"], float["test_accuracy"]);
        cases.push(json!({
            "model": out,
            "images": data.join("t10k-images-idx3-ubyte.gz"),
            "labels": data.join("t10k-labels-idx1-ubyte.gz"),
            "scores": scores,
            "int8_scores": int8_scores,
        }));
    }
    let list = folder.path().join("cases.json");
    std::fs::write(&list, serde_json::to_string(&cases).unwrap()).unwrap();
    let output = run(&python, "check_predictions.py", &[list.as_os_str()]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(text.lines().count(), cases.len());
    eprint!("{text}");
}

/// Sums of squares are hundreds of times as large as means, and want a rate as much smaller.
const SUM: &[&str] = &[
    "--epochs",
    "2",
    "--goodness",
    "sum",
    "--threshold",
    "500",
    "--learning-rate",
    "0.0005",
    "--deeper-rate",
    "0.5",
];

#[test]
fn onnxruntime_predicts_the_same() {
    check(
        &root().join("examples/mnist_mlp.onnx"),
        &root().join("examples/mnist"),
        &[
            ("projection", "classifier", &["--epochs", "2"]),
            ("projection", "heads", &["--epochs", "2"]),
            ("class-group", "heads", &["--epochs", "2"]),
            ("ff-int8", "labels", &["--epochs", "2"]),
            ("ff-int8", "labels", SUM),
            ("ff-int8", "classifier", &["--epochs", "1"]),
        ],
    );
}

#[test]
fn onnxruntime_predicts_the_same_with_a_skip_connection() {
    let Some(python) = python(PACKAGES) else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("residual.onnx");
    let made = run(&python, "make_residual.py", &[model.as_os_str()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let few = ["--epochs", "2", "--batch-size", "32", "--limit-train", "2000"];
    let block = [&few[..], &["--unit", "block"]].concat();
    let runs: [(_, _, &[&str]); 2] =
        [("projection", "classifier", &few), ("projection", "classifier", &block)];
    check(&model, &root().join("examples/mnist"), &runs);
}

#[test]
#[ignore = "minutes, and the whole of MNIST in ../shared/data"]
fn onnxruntime_predicts_the_same_on_all_of_mnist() {
    let data = root().join("../shared/data/mnist");
    assert!(data.exists(), "`{}` is not there", data.display());
    check(
        &root().join("examples/mnist_mlp.onnx"),
        &data,
        &[
            ("projection", "classifier", &["--epochs", "3"]),
            ("projection", "heads", &["--epochs", "3"]),
            ("ff-int8", "labels", &["--epochs", "3"]),
        ],
    );
}
