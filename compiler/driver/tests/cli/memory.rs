//! The process needs little more memory than the plan and the data.

use crate::fixture::{CLASSES, Fixture, SIDE, convolutional, examples, mnist};

/// What the plan and the data leave to the binary, the compiler and the allocator, in MiB. Less optimized code is more
/// code.
const REST: f64 = if cfg!(debug_assertions) { 20.0 } else { 16.0 };

/// What may be needed beside 1.1 times the plan and the data, in MiB, by networks whose compilation takes more.
const REST_OF_LARGE: f64 = 24.0;

/// A run's peak is what its summary says of plan and data, and no more than this beside.
fn check(fixture: &Fixture, line: &str, rest: f64) {
    let summary = fixture.done(line).last();
    let bytes = |key: &str| summary[key].as_u64().unwrap() as f64;
    let plan = bytes("parameter_bytes") + bytes("state_bytes") + bytes("activation_arena_bytes");
    let bound = 1.1 * (plan + bytes("data_bytes")) + rest * 1024.0 * 1024.0;
    let peak = bytes("peak_rss_bytes");
    assert!(peak <= bound, "{line}: peak {peak}, plan {plan}, bound {bound}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_peak_is_the_plan_and_the_data() {
    let fixture = Fixture::new();
    let model = examples().join("mnist_mlp.onnx");
    let (model, data) = (model.display(), mnist());
    for flags in ["", "--recipe ff-int8", "--threads 2"] {
        let line = format!(
            "train {model} --data {} --epochs 1 --limit-test 500 -o out.onnx --json {flags}",
            data.display()
        );
        check(&fixture, &line, REST);
    }
}

/// The weights of this file, 9.5 million, take twice as much in single precision as in training, and one layer's alone an
/// eighth of what is allowed: neither reading, starting, keeping nor writing may hold more than one layer's.
#[test]
#[cfg(target_os = "linux")]
fn weights_in_single_precision_are_never_there_at_once() {
    let fixture = Fixture::new();
    fixture.write("net.onnx", convolutional(SIDE, 512, 5, CLASSES));
    let line =
        "train net.onnx --data data --epochs 1 --limit-train 64 --limit-test 32 --batch-size 32 --json";
    for flags in
        ["--init random --checkpoint run -o out.onnx", "--init keep --learning-rate 0.01 --threads 2"]
    {
        check(&fixture, &format!("{line} {flags}"), REST_OF_LARGE);
    }
}
