//! Compiled programs: every kind of output, and training from an artifact.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Fixture, examples, mnist};

#[test]
fn every_kind_of_output() {
    let fixture = Fixture::new();
    for (kind, texts) in [
        ("ir", &["module @net", "layer @", "dot ", "kernel"][..]),
        ("clif", &["function", "i32", "; "]),
        ("asm", &["ret", "; "]),
        ("dot", &["digraph", "->"]),
    ] {
        // Kernels for AVX-512 are not Cranelift's work, so a machine that has it shows no CLIF of its own.
        let targets = ["x86_64-v3", "aarch64", "riscv64", "x86_64-v4"];
        let count = if kind == "clif" { 3 } else { 4 };
        for target in &targets[..count] {
            let line = format!("compile net.onnx -o out.{kind} --emit {kind} --target {target}");
            assert!(fixture.done(&line).out.starts_with(&format!("wrote out.{kind}")));
            let text = String::from_utf8(fixture.read(&format!("out.{kind}"))).unwrap();
            let missing = texts.iter().find(|part| !text.contains(**part));
            assert_eq!(missing, None, "{kind} {target}: {}", &text[..text.len().min(800)]);
        }
    }
    fixture.refused(
        "compile net.onnx -o no.clif --emit clif --target x86_64-v4",
        &["`x86_64-v4` has AVX-512", "`--emit asm` shows them"],
    );
    let artifact = |line: &str| {
        fixture.done(&format!("compile net.onnx -o out.ffc {line}"));
        fixture.read("out.ffc")
    };
    assert_eq!(artifact(""), artifact(""));
    assert_ne!(artifact(""), artifact("--seed 2"));
    for target in ["x86_64", "aarch64-dotprod", "riscv64"] {
        artifact(&format!("--target {target}"));
    }
}

#[test]
fn an_artifact_of_another_machine_is_refused() {
    let fixture = Fixture::new();
    let other = if cfg!(target_arch = "x86_64") { "riscv64" } else { "x86_64" };
    fixture.done(&format!("compile net.onnx -o net.ffc --data data --target {other}"));
    fixture.refused("train net.ffc --data data", &[other]);
    fixture.refused("verify net.ffc", &[other]);
}

#[test]
fn an_artifact_trains_as_its_network_does() {
    let fixture = Fixture::new();
    for recipe in ["projection", "ff-int8"] {
        let flags = format!("--recipe {recipe} --batch-size 16 --seed 5");
        fixture.done(&format!("compile net.onnx -o {recipe}.ffc --data data {flags}"));
        let direct = fixture.done(&format!("train net.onnx --data data --epochs 3 --json {flags}")).last();
        let line = format!(
            "train {recipe}.ffc --data data --epochs 3 --json --checkpoint {recipe} -o {recipe}.onnx"
        );
        let compiled = fixture.done(&line).last();
        assert_eq!(direct["weights_hash"], compiled["weights_hash"], "{recipe}");
        assert_eq!(direct["test_accuracy"], compiled["test_accuracy"], "{recipe}");
        assert_eq!((&compiled["seed"], &compiled["recipe"]), (&5.into(), &recipe.into()));
        fixture.done(&format!("export {recipe} -o again.onnx"));
        assert_eq!(fixture.read("again.onnx"), fixture.read(&format!("{recipe}.onnx")));
        fixture.done(&format!("export {recipe}.ffc -o untrained.onnx"));
        // And a trained checkpoint becomes an artifact again.
        fixture.done(&format!("compile {recipe} -o trained.ffc"));
        let eval = |model: &str| fixture.done(&format!("eval {model} --data data --precision float")).out;
        assert_eq!(eval("trained.ffc"), eval(recipe));
        let fresh = fixture.done("train trained.ffc --data data --epochs 3 --init random --json").last();
        assert_eq!(fresh["weights_hash"], direct["weights_hash"], "{recipe}");
    }
}

/// The example program, beside the command.
fn embed_rust() -> PathBuf {
    let target = Path::new(crate::fixture::FFC).ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "embed_rust", "--target-dir"]).arg(target);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    Path::new(crate::fixture::FFC).with_file_name("embed_rust")
}

#[test]
fn digits_are_learned_from_an_artifact() {
    let fixture = Fixture::new();
    let model = examples().join("mnist_mlp.onnx");
    let (model, data) = (model.display(), mnist());
    fixture.done(&format!("compile {model} -o mlp.ffc --data {}", data.display()));
    let line = format!("train mlp.ffc --data {} --epochs 2 --threads 2 --json", data.display());
    let accuracy = fixture.done(&line).last()["test_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.9, "{accuracy}");

    let run = Command::new(embed_rust()).arg(fixture.path("mlp.ffc")).arg(&data).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let accuracy = text.split("test images: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(accuracy.parse::<f64>().unwrap() > 90.0, "{text}");
}
