//! What has an objective: `--unit`, and what layers learn by.

use ffc::source::Source;

use crate::checkpoints::killed;
use crate::fixture::{CLASSES, Fixture, SIDE, convolutional, residual};

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("blocks.onnx", residual(SIDE * SIDE, CLASSES));
    fixture
}

/// A block has one objective, at its end; alone, its narrow layer has no group for each class.
#[test]
fn inspect_says_what_layers_learn_by() {
    let fixture = fixture();
    let objectives = |flags: &str| {
        let report = fixture.done(&format!("inspect blocks.onnx {flags} --json")).last();
        let layers = report["layers"].as_array().unwrap().clone();
        layers.iter().map(|layer| layer["objective"].as_str().unwrap_or("-").to_string()).collect::<Vec<_>>()
    };
    assert_eq!(objectives(""), ["projection", "projection", "projection", "classifier"]);
    assert_eq!(objectives("--unit block"), ["projection", "-", "projection", "classifier"]);
    assert_eq!(
        objectives("--recipe class-group"),
        ["class-group", "projection", "class-group", "classifier"]
    );
    assert_eq!(objectives("--recipe ff-int8"), ["sum-of-squares", "sum-of-squares", "sum-of-squares", "-"]);
    let note = "`a1`: fewer channels than classes: a `projection` where other layers have groups";
    let says = |flags: &str| fixture.done(&format!("inspect blocks.onnx {flags}")).out.contains(note);
    assert!(says("--recipe class-group") && !says("") && !says("--recipe class-group --unit block"));
    let trained = fixture.done("train blocks.onnx --data data --epochs 1 --recipe class-group");
    assert!(trained.err.contains(note), "{}", trained.err);
}

/// The option stays with a checkpoint, an artifact has it compiled in, and the exported file computes what training evaluated.
#[test]
fn blocks_are_kept_exported_and_go_on() {
    let fixture = fixture();
    let line = "train blocks.onnx --data data --unit block --batch-size 16 --json";
    let whole = fixture.done(&format!("{line} --epochs 4 --checkpoint whole -o out.onnx")).last();
    let layers = fixture.done("train blocks.onnx --data data --batch-size 16 --json --epochs 4").last();
    assert!(whole["test_accuracy"].as_f64().unwrap() > 0.5, "{whole}");
    assert_ne!(whole["weights_hash"], layers["weights_hash"]);
    let source = Source::open(&fixture.path("whole")).unwrap();
    assert_eq!(source.description.unwrap().options.unit, ffc_compiler::recipe::Unit::Block);
    let threads = fixture.done(&format!("{line} --epochs 4 --threads 2")).last();
    assert_eq!(whole["weights_hash"], threads["weights_hash"]);
    let accuracy = |line: &str| fixture.done(line).last()["test_accuracy"].as_f64().unwrap();
    let trained = whole["test_accuracy"].as_f64().unwrap();
    assert_eq!(accuracy("eval whole --data data --json"), trained);
    let exported = accuracy("eval out.onnx --data data --precision float --json");
    assert!((exported - trained).abs() < 0.04, "{exported} exported, {trained} trained");
    fixture.done("compile blocks.onnx --data data --unit block -o blocks.ffc");
    fixture.misused("train blocks.ffc --data data --unit layer", &["`--unit` is compiled into the artifact"]);
}

/// What a layer learns from the next one, and inside a block, is no state of its own: a run that was killed goes on as if it had not
/// been.
#[test]
fn runs_with_longer_gradients_go_on_to_the_same_bits() {
    let fixture = fixture();
    fixture.write("images.onnx", convolutional(SIDE, 4, 2, CLASSES));
    for (name, model, flags) in [
        ("block", "blocks", "--unit block"),
        ("hop", "blocks", "--look-ahead hop --lambda-step 0.3"),
        ("both", "blocks", "--unit block --look-ahead hop"),
        ("images", "images", "--look-ahead hop --momentum 0.9"),
    ] {
        let line = format!(
            "train {model}.onnx --data data {flags} --batch-size 16 --shift 1 --flip --epochs 40 --seed 5 --json --checkpoint"
        );
        let straight = fixture.done(&format!("{line} straight-{name}")).last();
        killed(&fixture, &format!("{line} killed-{name}"));
        let resumed = fixture.done(&format!("{line} killed-{name} --resume"));
        assert!(resumed.json().len() - 1 < 40, "{name}: nothing was left to do");
        assert_eq!(resumed.last()["weights_hash"], straight["weights_hash"], "{name}");
    }
}
