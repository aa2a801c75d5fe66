//! Look-ahead against something else: one step of the float interpreter with lambda 0.5, where later layers weigh
//! enough to show, is done again by a NumPy program that knows the method's description only
//! (`look_ahead/look_ahead.py`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::{Goodness, Head, LookAhead, Options, Precision, Recipe};
use ffc_ir::module::Activation;
use ffc_tests::networks::Case;
use ffc_tests::python;
use ffc_tests::step::{Record, record};

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (recipe, goodness) in [("projection", None), ("ff-int8", None), ("ff-int8", Some(Goodness::Sum))] {
        for momentum in [0.0, 0.9] {
            for look_ahead in [LookAhead::Scalar, LookAhead::Hop] {
                let mut options: Options = Recipe::named(recipe).unwrap().options();
                if let (Some(goodness), Head::SumOfSquares { threshold, .. }) = (goodness, options.head) {
                    options.head = Head::SumOfSquares { goodness, threshold };
                }
                let options = Options {
                    deeper_rate: 1.0,
                    look_ahead,
                    precision: Precision::Float,
                    batch: 7,
                    momentum,
                    ..options
                };
                let name = format!("{recipe} {goodness:?} momentum {momentum} {look_ahead:?}");
                let sizes = vec![13, 19, 11, 17, 3];
                cases.push(Case { name, sizes, activation: Activation::Relu, options });
            }
        }
    }
    cases
}

fn step(case: &Case, lambda: f32) -> Record {
    record(case, 0.5 / 7.0, lambda, 5)
}

#[test]
fn a_step_agrees_with_the_independent_program() {
    let Some(python) = python::python("look-ahead", "numpy") else { return };
    let records: Vec<Record> = cases().iter().map(|case| step(case, 0.5)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.json");
    std::fs::write(&path, serde_json::to_vec(&records).unwrap()).unwrap();
    let printed = python::run(&python, "look_ahead/look_ahead.py", &path);
    let printed = printed.unwrap_or_else(|complaints| panic!("{complaints}"));
    assert_eq!(printed.lines().count(), records.len(), "{printed}");
}

/// Lambda 0 is the same as no look-ahead; lambda 0.5 changes every layer but the last, and no loss of this step.
#[test]
fn lambda_matters_just_where_it_should() {
    for case in cases() {
        let without = Options { look_ahead: LookAhead::Off, ..case.options.clone() };
        let off = step(&Case { options: without, ..case.clone() }, 0.5);
        let (zero, half) = (step(&case, 0.0), step(&case, 0.5));
        assert_eq!(off.losses, half.losses, "{}", case.name);
        let last = off.losses.keys().max().expect("layers are trained");
        for (name, off) in &off.after {
            let same = |other: &Record| {
                let other = &other.after[name].values;
                off.values.iter().zip(other).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1e-3))
            };
            assert!(same(&zero), "{}: {name} with lambda 0", case.name);
            // The next layer's loss says nothing of this one's head.
            let own = case.options.look_ahead == LookAhead::Hop && name.contains(".head");
            let later = own || name.starts_with(&format!("{last}.")) || !moves(name, &zero);
            assert_eq!(same(&half), later, "{}: {name} with lambda 0.5", case.name);
        }
    }
}

/// Whether the step moved the parameter at all.
fn moves(name: &str, step: &Record) -> bool {
    step.before[name] != step.after[name]
}
