//! The process needs little more memory than the plan and the data.

use crate::fixture::{Fixture, examples, mnist};

/// What the plan and the data leave to the binary, the compiler and the allocator, in MiB. Less optimized code is more
/// code.
const REST: f64 = if cfg!(debug_assertions) { 20.0 } else { 16.0 };

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
        let summary = fixture.done(&line).last();
        let bytes = |key: &str| summary[key].as_u64().unwrap() as f64;
        let plan = bytes("parameter_bytes") + bytes("state_bytes") + bytes("activation_arena_bytes");
        let bound = 1.1 * (plan + bytes("data_bytes")) + REST * 1024.0 * 1024.0;
        let peak = bytes("peak_rss_bytes");
        assert!(peak <= bound, "{flags}: peak {peak}, plan {plan}, bound {bound}");
    }
}
