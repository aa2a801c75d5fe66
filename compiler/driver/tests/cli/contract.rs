//! What scripts read: JSON lines, help, completions, lists.

use crate::fixture::{Fixture, SAMPLES, examples};

const VERBS: [&str; 11] = [
    "inspect",
    "compile",
    "train",
    "eval",
    "export",
    "verify",
    "bench",
    "opt",
    "devices",
    "targets",
    "completions",
];

#[test]
fn train_prints_json_lines_alone() {
    let fixture = Fixture::new();
    let run = fixture
        .done("train net.onnx --data data --epochs 3 --batch-size 16 -o out.onnx --checkpoint run --json");
    assert_eq!(run.err, "");
    let lines = run.json();
    let (summary, epochs) = lines.split_last().unwrap();
    assert_eq!(epochs.len(), 3);
    for (index, epoch) in epochs.iter().enumerate() {
        assert_eq!((&epoch["event"], &epoch["epoch"]), (&"epoch".into(), &(index + 1).into()));
        for key in ["train_loss", "test_accuracy", "images_per_second", "seconds"] {
            assert!(epoch[key].is_number(), "{key}: {epoch}");
        }
        assert!((0.0..=1.0).contains(&epoch["test_accuracy"].as_f64().unwrap()));
    }
    assert_eq!((&summary["event"], &summary["device"]), (&"summary".into(), &"cpu".into()));
    for key in [
        "test_accuracy",
        "best_accuracy",
        "images_per_second",
        "train_seconds",
        "parameter_bytes",
        "state_bytes",
        "activation_arena_bytes",
        "backprop_activation_bytes",
        "backprop_peak_bytes",
        "peak_rss_bytes",
    ] {
        assert!(summary[key].is_number(), "{key}: {summary}");
    }
    for (key, value) in [("epochs", 3), ("parameters", 64 * 40 + 40 + 40 * 24 + 24 + 24 * 4 + 4), ("seed", 1)]
    {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(summary["threads"], 1);
    assert_eq!(summary["weights_hash"].as_str().unwrap().len(), 64);
    assert_eq!(summary["test_accuracy"], epochs[2]["test_accuracy"]);
    let accuracy = |line: &serde_json::Value| line["test_accuracy"].as_f64().unwrap();
    let best = epochs.iter().map(accuracy).fold(0.0, f64::max);
    assert_eq!(summary["best_accuracy"], best);
    assert!(best > 0.6, "{best}");
    let rate = summary["images_per_second"].as_f64().unwrap() * summary["train_seconds"].as_f64().unwrap();
    assert!((rate - 3.0 * SAMPLES[0] as f64).abs() < 1.0, "{rate}");
}

#[test]
fn people_read_lines() {
    let fixture = Fixture::new();
    let run = fixture.done("train net.onnx --data data --epochs 1 -o out.onnx");
    assert!(run.err.contains("net.onnx: ") && run.err.contains("300 training and 100 test samples"));
    assert!(run.err.contains("epoch   1/1"), "{}", run.err);
    assert!(run.out.contains("trained 1 epochs") && run.out.contains("wrote out.onnx"), "{}", run.out);
    // Preprocessing that was found is printed.
    assert!(run.err.contains("(x * 0.003922 - 0."), "{}", run.err);
}

#[test]
fn eval_and_verify_print_json() {
    let fixture = Fixture::new();
    fixture.done("train net.onnx --data data --epochs 6 --batch-size 16 --checkpoint run");
    let eval = fixture.done("eval run --data data --json");
    let line = eval.last();
    assert_eq!((eval.json().len(), &line["event"], &line["images"]), (1, &"eval".into(), &100.into()));
    assert!(line["test_accuracy"].as_f64().unwrap() > 0.5);
    let limited = fixture.done("eval run --data data --limit-test 10 --json --scores scores").last();
    assert_eq!((&limited["images"], fixture.read("scores").len()), (&10.into(), 10 * 4 * 4));
    for model in ["net.onnx", "run"] {
        for recipe in ["projection", "class-group", "ff-int8"] {
            let verify = fixture.done(&format!("verify {model} --recipe {recipe} --batch-size 7 --json"));
            let line = verify.last();
            assert_eq!((verify.json().len(), &line["bit_exact"]), (1, &true.into()));
            assert!(line["tensors"].as_u64().unwrap() > 10 && line["first_difference"].is_null(), "{line}");
        }
    }
}

#[test]
fn bench_prints_json() {
    let fixture = Fixture::new();
    let run = fixture.done("bench net.onnx --batch-size 7 --steps 3 --json");
    assert_eq!((run.err.as_str(), run.json().len()), ("", 1));
    let line = run.last();
    for key in ["train_images_per_second", "infer_images_per_second", "copy_bytes_per_second"] {
        assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
    }
    // Where contractions are Cranelift's work there is no loop of the same instruction to compare them with.
    let has_peak = line["int8_peak_gmacs"].is_number();
    let contractions = line["contractions"].as_array().unwrap();
    let shapes: Vec<_> = contractions.iter().map(|row| row["shape"].as_str().unwrap()).collect();
    assert!(shapes.contains(&"7x40x64") && shapes.contains(&"40x64x7"), "{shapes:?}");
    for row in contractions {
        assert!(
            row["gmacs"].as_f64().unwrap() > 0.0 && row["share_of_peak"].is_number() == has_peak,
            "{row}"
        );
    }
    let kernels = line["kernels"].as_array().unwrap();
    let update = kernels.iter().find(|row| row["name"] == "fc1.weight.sgd").unwrap();
    // Two planes of 40 x 64 weights are read and written, at the least.
    assert!(update["bytes"].as_u64().unwrap() > 4 * 40 * 64, "{update}");
    assert!(update["bound_microseconds"].as_f64().unwrap() > 0.0, "{update}");
    assert!(fixture.done("bench net.onnx --batch-size 7 --steps 3").out.contains("images/s"));
    fixture.misused("bench net.onnx --steps x", &["--steps"]);
}

#[test]
fn inspect_prints_json() {
    let fixture = Fixture::new();
    let model = examples().join("mnist_mlp.onnx");
    let line = format!("inspect {} --batch-size 32", model.display());
    let run = fixture.done(&format!("{line} --json"));
    let report = run.last();
    assert_eq!((run.json().len(), run.err.as_str()), (1, ""));
    let layers = report["layers"].as_array().unwrap();
    let expected = [(500, 784 * 500 + 500, 784 * 500), (500, 250_500, 250_000), (10, 5_010, 5_000)];
    assert_eq!(layers.len(), 3);
    for (layer, (outputs, parameters, macs)) in layers.iter().zip(expected) {
        assert_eq!(layer["output_shape"], serde_json::json!([outputs]));
        assert_eq!((&layer["parameters"], &layer["macs"]), (&parameters.into(), &macs.into()));
        assert!(layer["name"].is_string() && layer["op"] == "dense");
    }
    assert_eq!((&report["parameters"], &report["macs_per_sample"]), (&648_010.into(), &647_000.into()));
    assert_eq!(report["unsupported"], serde_json::json!([]));
    let memory = |key: &str| report["memory"][key].as_u64().unwrap_or_else(|| panic!("{key}"));
    let (parameters, state, arena) =
        (memory("parameter_bytes"), memory("state_bytes"), memory("activation_arena_bytes"));
    assert_eq!(memory("peak_bytes"), parameters + state + arena + memory("skip_bytes"));
    // 16 bits a weight, and what alignment adds.
    assert!((647_000 * 2..660_000 * 3).contains(&parameters), "{parameters}");
    // In FP32 the input and both hidden layers, of 32 samples; then weights, gradients and momentum.
    assert_eq!(memory("backprop_activation_bytes"), 32 * 4 * (784 + 500 + 500));
    assert_eq!(memory("backprop_peak_bytes"), 32 * 4 * (784 + 500 + 500) + 3 * 4 * 648_010);
    assert!(arena < memory("backprop_activation_bytes") && memory("skip_bytes") == 0, "{arena}");
    let table = fixture.done(&line).out;
    for text in ["648010", "647000", "500", "training memory, batch 32", "backpropagation in FP32"] {
        assert!(table.contains(text), "{text} in {table}");
    }
}

#[test]
fn a_resumed_checkpoint_is_a_model() {
    let fixture = Fixture::new();
    fixture.done("train net.onnx --data data --epochs 1 --checkpoint run");
    for line in
        ["inspect run --json", "verify run --json", "compile run -o run.ffc", "inspect run.ffc --json"]
    {
        fixture.done(line);
    }
}

#[test]
fn every_verb_has_help_with_an_example() {
    let fixture = Fixture::new();
    let all = fixture.done("--help").out;
    for verb in VERBS {
        assert!(all.contains(&format!("  {verb}")), "{verb}");
        let help = fixture.done(&format!("{verb} --help")).out;
        assert!(help.contains("Usage: ffc") && help.contains(&format!("Example:\n  ffc {verb}")), "{help}");
    }
    assert!(fixture.done("--version").out.starts_with("ffc "));
}

#[test]
fn examples_in_the_help_are_right() {
    let fixture = Fixture::new();
    for verb in ["inspect", "verify"] {
        let help = fixture.done(&format!("{verb} --help")).out;
        let example = help.split("Example:\n  ffc ").nth(1).unwrap().lines().next().unwrap().to_string();
        fixture.done(&example.replace("examples/", &format!("{}/", examples().display())));
    }
}

#[test]
fn completions() {
    let fixture = Fixture::new();
    for (shell, text) in [("bash", "_ffc"), ("zsh", "#compdef ffc"), ("fish", "complete -c ffc")] {
        let script = fixture.done(&format!("completions {shell}")).out;
        assert!(script.contains(text) && script.contains("memory-limit"), "{shell}");
    }
    assert_eq!(fixture.ffc("completions cmd.exe").status, 2);
}

#[test]
fn lists() {
    let fixture = Fixture::new();
    let targets = fixture.done("targets").out;
    for target in ["native", "x86_64", "x86_64-v3", "x86_64-v4", "aarch64", "aarch64-dotprod", "riscv64"] {
        assert!(targets.lines().any(|line| line.starts_with(&format!("{target} "))), "{target}: {targets}");
    }
    assert!(fixture.done("devices").out.starts_with("cpu"));
    assert!(fixture.done("opt --list").out.contains("cut-layers"));
}
