//! Runs that are killed and go on, and what a checkpoint is good for.

use std::io::{BufRead, BufReader};

use crate::fixture::Fixture;

/// Starts a run and kills it after its first epoch.
pub(crate) fn killed(fixture: &Fixture, line: &str) {
    let mut child = fixture.start(line);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.contains("\"epoch\":1,"), "{first}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let fixture = Fixture::new();
    for recipe in ["projection", "class-group", "ff-int8"] {
        for order in ["together", "greedy"] {
            let line = format!(
                "train net.onnx --data data --recipe {recipe} --schedule {order} --momentum 0.9 --epochs 40 --seed 3 --json"
            );
            let straight = fixture.done(&format!("{line} --checkpoint straight-{recipe}-{order}")).last();
            let folder = format!("killed-{recipe}-{order}");
            killed(&fixture, &format!("{line} --checkpoint {folder}"));
            // The same line again, and the checkpoint alone.
            let resumed = fixture.done(&format!("{line} --checkpoint {folder} --resume"));
            let epochs = resumed.json().len() - 1;
            assert!(epochs < straight["epochs"].as_u64().unwrap() as usize, "nothing was left to do");
            let again = fixture.done(&format!("train {folder} --data data --resume --json")).last();
            for key in ["weights_hash", "test_accuracy", "best_accuracy", "epochs", "seed", "recipe"] {
                assert_eq!(resumed.last()[key], straight[key], "{recipe} {order} {key}");
                assert_eq!(again[key], straight[key], "{recipe} {order} {key}");
            }
            let weights = |folder: &str| fixture.read(&format!("{folder}/weights.safetensors"));
            assert_eq!(weights(&folder), weights(&format!("straight-{recipe}-{order}")));
        }
    }
}

#[test]
fn a_run_that_is_killed_at_once_has_a_checkpoint() {
    let fixture = Fixture::new();
    let line = "train net.onnx --data data --epochs 2 --json --checkpoint";
    let straight = fixture.done(&format!("{line} straight")).last();
    // What a run leaves that is killed in its first epoch: the state before the first step.
    let mut child = fixture.start("train net.onnx --data data --epochs 1000000 --json --checkpoint killed");
    while !fixture.path("killed/weights.safetensors").exists() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = fixture.done(&format!("{line} killed --resume")).last();
    // More than one epoch may have been done before the kill, at another learning rate.
    assert_eq!(resumed["seed"], straight["seed"]);
    fixture.done("eval killed --data data");
}

#[test]
fn eval_of_a_checkpoint_gives_the_last_accuracy() {
    let fixture = Fixture::new();
    for (recipe, predict) in [
        ("projection", "classifier"),
        ("projection", "heads"),
        ("class-group", "heads"),
        ("ff-int8", "labels"),
    ] {
        let folder = format!("{recipe}-{predict}");
        let flags = format!("--recipe {recipe} --predict {predict}");
        let line = format!("train net.onnx --data data --epochs 2 {flags} --checkpoint {folder} --json");
        let trained = fixture.done(&line).last();
        let evaluated = fixture.done(&format!("eval {folder} --data data --json")).last();
        assert_eq!(trained["test_accuracy"], evaluated["test_accuracy"], "{folder}");
    }
}

#[test]
fn training_goes_on_from_a_checkpoint_as_a_new_run() {
    let fixture = Fixture::new();
    let line = "train net.onnx --data data --epochs 12 --batch-size 16 --json --checkpoint run";
    let trained = fixture.done(line).last()["test_accuracy"].as_f64().unwrap();
    assert!(trained > 0.8, "{trained}");
    let small = "--epochs 1 --learning-rate 0.001 --json";
    for flags in ["", "--recipe projection", "--recipe class-group", "--init keep"] {
        let kept = fixture.done(&format!("train run --data data {flags} {small}")).last();
        let kept = kept["test_accuracy"].as_f64().unwrap();
        assert!(kept > trained - 0.1, "{flags}: {kept} after {trained}");
    }
    let fresh = fixture.done(&format!("train run --data data --init random {small}")).last();
    assert!(fresh["test_accuracy"].as_f64().unwrap() < trained - 0.1, "{fresh}");
}
