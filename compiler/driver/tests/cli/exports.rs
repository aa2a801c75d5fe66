//! Exported files: the same bytes however they are made, and the same network when they are read again.

use serde_json::Value;

use crate::fixture::Fixture;

const RUNS: [(&str, &str, &str); 7] = [
    ("projection", "classifier", ""),
    ("projection", "heads", ""),
    ("projection", "classifier", "--normalization none --learning-rate 0.1"),
    ("class-group", "heads", ""),
    ("ff-int8", "labels", ""),
    ("ff-int8", "labels", "--goodness sum --threshold 10 --learning-rate 0.03"),
    ("ff-int8", "classifier", ""),
];

fn accuracy(line: &Value) -> f64 {
    line["test_accuracy"].as_f64().unwrap()
}

#[test]
fn an_exported_file_is_the_checkpoint() {
    let fixture = Fixture::new();
    for (index, (recipe, predict, more)) in RUNS.iter().enumerate() {
        let (run, out) = (format!("run{index}"), format!("out{index}.onnx"));
        let flags = format!("--recipe {recipe} --predict {predict} {more} --batch-size 16 --epochs 12");
        fixture.done(&format!("train net.onnx --data data {flags} --checkpoint {run} -o {out}"));
        fixture.done(&format!("export {run} -o again.onnx"));
        assert_eq!(fixture.read(&out), fixture.read("again.onnx"), "{flags}");

        let eval = |model: &str, precision: &str| {
            let line = format!("eval {model} --data data --precision {precision} --scores scores --json");
            let accuracy = accuracy(&fixture.done(&line).last());
            let scores = fixture.read("scores");
            let scores: Vec<f32> =
                scores.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            (accuracy, scores)
        };
        let (ours, theirs) = (eval(&run, "float"), eval(&out, "float"));
        assert_eq!(ours.0, theirs.0, "{flags}");
        let worst = ours.1.iter().zip(&theirs.1).map(|(a, b)| (a - b).abs() / (1.0 + a.abs()));
        let worst = worst.fold(0.0, f32::max);
        assert!(worst < 1e-4, "{flags}: scores differ by {worst}");
        // With ranges found on a batch instead of while training.
        let (trained, imported) = (eval(&run, "int8").0, eval(&out, "int8").0);
        assert!((trained - imported).abs() <= 0.06, "{flags}: {trained} and {imported}");
        assert!((trained - ours.0).abs() <= 0.06, "{flags}: INT8 {trained}, FP32 {}", ours.0);
        assert!(trained > 0.7, "{flags}: {trained}");
    }
}

#[test]
fn training_goes_on_from_an_exported_file() {
    let fixture = Fixture::new();
    for (recipe, predict) in [("projection", "classifier"), ("ff-int8", "labels")] {
        let flags = format!("--data data --recipe {recipe} --predict {predict} --batch-size 16 --json");
        let out = format!("{recipe}.onnx");
        let trained = accuracy(&fixture.done(&format!("train net.onnx {flags} --epochs 12 -o {out}")).last());
        let small = "--epochs 1 --learning-rate 0.001";
        let kept = accuracy(&fixture.done(&format!("train {out} {flags} {small} --init keep")).last());
        assert!(kept > trained - 0.1, "{recipe}: {kept} after {trained}");
        // It starts anew unless it is told otherwise.
        let fresh = accuracy(&fixture.done(&format!("train {out} {flags} {small}")).last());
        assert!(fresh < kept, "{recipe}: {fresh} and {kept}");
    }
}

#[test]
fn preprocessing_travels_with_the_file() {
    let fixture = Fixture::new();
    let flags = "--input-mean 0.25 --input-std 0.5 --input-scale 0.01 --epochs 4 --batch-size 16";
    fixture.done(&format!("train net.onnx --data data {flags} -o out.onnx --checkpoint run"));
    let text = String::from_utf8_lossy(&fixture.read("out.onnx")).into_owned();
    for name in ["ffc.input_scale", "ffc.input_mean", "ffc.input_std"] {
        assert!(text.contains(name), "{name}");
    }
    let eval = |model: &str| fixture.done(&format!("eval {model} --data data --precision float")).out;
    assert_eq!(eval("run"), eval("out.onnx"));
    let run = fixture.done("train out.onnx --data data --epochs 1");
    assert!(run.err.contains("(x * 0.010000 - 0.2500) / 0.5000"), "{}", run.err);
}
