//! Gradients against something else: one step of the float interpreter, for every head, activation function and
//! optimizer, is done again in JAX, which derives the gradients of the local losses by itself
//! (`gradients/gradients.py`). The interpreter in turn agrees bit for bit with kernels and machine code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::{
    Goodness, Head, Normalization, Options, Precision, Predict, Preprocessing, RECIPES,
};
use ffc_ir::module::Activation;
use ffc_ir::types::DType;
use ffc_tests::networks::Case;
use ffc_tests::python;
use ffc_tests::step::{Record, record};

const PROGRAM: &str = "gradients/gradients.py";

/// Batch 7 and sizes that are not multiples of anything.
/// Every layer at the same rate: the Python program compares gradients.
fn case(name: &str, activation: Activation, options: &Options) -> Case {
    let options = Options { precision: Precision::Float, batch: 7, deeper_rate: 1.0, ..options.clone() };
    Case { name: name.to_string(), sizes: vec![13, 19, 11, 3], activation, options }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for recipe in RECIPES {
        let options = recipe.options();
        for (what, momentum) in [("", 0.0), (" with momentum", 0.9)] {
            let options = Options { momentum, ..options.clone() };
            cases.push(case(&format!("{}{what}", recipe.name), Activation::Relu, &options));
        }
        let plain = Options { normalization: Normalization::None, ..options.clone() };
        cases.push(case(&format!("{} not normalized", recipe.name), Activation::Relu, &plain));
        let bytes = Preprocessing {
            input: DType::U8,
            scale: 1.0 / 255.0,
            mean: (0..13).map(|index| 0.4 + 0.01 * index as f32).collect(),
            std: vec![0.3],
            low: -1.5,
            high: 2.0,
        };
        let bytes = Options { preprocessing: bytes, ..options.clone() };
        cases.push(case(&format!("{} of bytes", recipe.name), Activation::Relu, &bytes));
        let functions = [
            Activation::LeakyRelu(0.1),
            Activation::Clip { low: -0.5, high: 0.75 },
            Activation::Sigmoid,
            Activation::Tanh,
        ];
        // Activation functions and heads meet in one place, so one head with all functions shows them.
        let count = if recipe.head == Head::Projection { functions.len() } else { 1 };
        for activation in functions.into_iter().take(count) {
            cases.push(case(&format!("{} {}", recipe.name, activation.name()), activation, &options));
        }
        if let Head::SumOfSquares { threshold, .. } = recipe.head {
            let sum = Head::SumOfSquares { goodness: Goodness::Sum, threshold };
            cases.push(case("ff-int8 sum", Activation::Relu, &Options { head: sum, ..options.clone() }));
            let classifier = Options { predict: Predict::Classifier, ..options.clone() };
            cases.push(case("ff-int8 with a classifier", Activation::Relu, &classifier));
        }
    }
    cases
}

fn records() -> Vec<Record> {
    cases().iter().enumerate().map(|(seed, case)| record(case, 0.5 / 7.0, 0.0, seed as u64)).collect()
}

fn run(records: &[Record], python: &std::path::Path) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.json");
    std::fs::write(&path, serde_json::to_vec(records).unwrap()).unwrap();
    python::run(python, PROGRAM, &path)
}

#[test]
fn a_step_follows_the_gradients_of_jax() {
    let Some(python) = python::python("gradients", "jax, numpy") else { return };
    let records = records();
    let printed = run(&records, &python).unwrap_or_else(|complaints| panic!("{complaints}"));
    assert_eq!(printed.lines().count(), records.len(), "{printed}");
}

/// A gradient that is one percent off, a classifier that learns from labelled rows and the like would be noticed.
#[test]
fn a_wrong_step_is_noticed() {
    let Some(python) = python::python("wrong gradients", "jax, numpy") else { return };
    let right = records().swap_remove(0);
    let mut wrong = Vec::new();
    for name in ["fc1.weight", "fc2.bias", "fc2.head", "fc3.weight"] {
        let mut record = right.clone();
        record.name = name.to_string();
        let (before, after) = (&record.before[name].values, record.after.get_mut(name).unwrap());
        for (after, before) in after.values.iter_mut().zip(before) {
            *after = before + (*after - before) * 1.01;
        }
        wrong.push(record);
    }
    let complaints = run(&wrong, &python).unwrap_err();
    assert_eq!(complaints.matches(" 1 wrong").count(), wrong.len(), "{complaints}");
}
