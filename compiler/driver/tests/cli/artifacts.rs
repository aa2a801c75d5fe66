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
        for target in ["x86_64-v3", "aarch64", "riscv64", "x86_64-v4"] {
            let line = format!("compile net.onnx -o out.{kind} --emit {kind} --target {target}");
            assert!(fixture.done(&line).out.starts_with(&format!("wrote out.{kind}")));
            let text = String::from_utf8(fixture.read(&format!("out.{kind}"))).unwrap();
            let missing = texts.iter().find(|part| !text.contains(**part));
            assert_eq!(missing, None, "{kind} {target}: {}", &text[..text.len().min(800)]);
        }
    }
    let variants = |kind: &str| {
        fixture.done(&format!("compile net.onnx -o out.{kind} --emit {kind} --target x86_64"));
        let text = String::from_utf8(fixture.read(&format!("out.{kind}"))).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("; variant ").map(str::to_string));
        names.collect::<Vec<_>>()
    };
    assert_eq!(variants("asm"), ["amx", "avx512vnni", "avxvnni", "avx2", "portable"]);
    assert_eq!(variants("clif"), ["avxvnni", "avx2", "portable"], "AVX-512 is not Cranelift's work");
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
    fixture.refused("train net.ffc --data data", &[other, "help: `ffc compile --target NAME`"]);
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

/// The levels of this machine, best first, as the command tells them.
#[cfg(target_arch = "x86_64")]
fn levels(fixture: &Fixture) -> Vec<String> {
    let devices = fixture.done("devices").out;
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("runs ")).unwrap();
    line.split(" (").next().unwrap().split(", ").map(str::to_string).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_variant_of_an_artifact_trains_alike() {
    let fixture = Fixture::new();
    let (model, data) = (examples().join("mnist_mlp.onnx"), mnist());
    let (model, data) = (model.display(), data.display());
    fixture.done(&format!("compile {model} -o mlp.ffc --data {data} --target x86_64"));
    let train = format!("train mlp.ffc --data {data} --limit-train 512 --limit-test 10 --epochs 1 --json");
    let mut hashes = Vec::new();
    for level in levels(&fixture) {
        let as_level = |line: &str| fixture.done_with("FFC_CPU", &level, line).last();
        let inspected = as_level("inspect mlp.ffc --json");
        let variants = inspected["variants"].as_array().unwrap();
        assert_eq!(variants.len(), 5);
        let runs: Vec<_> = variants.iter().filter(|variant| variant["runs"] == true).collect();
        assert_eq!((runs.len(), runs[0]["name"].as_str()), (1, Some(&level[..])));
        hashes.push((as_level(&train)["weights_hash"].clone(), level));
    }
    assert!(hashes.iter().all(|(hash, _)| *hash == hashes[0].0), "{hashes:?}");
    assert_eq!(hashes.last().unwrap().1, "portable");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_no_machine_or_no_variant_has_is_said() {
    let fixture = Fixture::new();
    fixture.done("compile net.onnx -o net.ffc --data data --target x86_64-v3");
    for line in ["train net.ffc --data data", "verify net.ffc", "train net.onnx --data data", "devices"] {
        let texts =
            ["FFC_CPU=mmx: `mmx` is none of amx, avx512vnni, avxvnni, avx2, portable", "help: unset FFC_CPU"];
        fixture.refused_with("FFC_CPU", "mmx", line, &texts);
    }
    let own = levels(&fixture);
    for level in
        ["amx", "avx512vnni", "avxvnni", "avx2"].iter().filter(|&level| !own.contains(&level.to_string()))
    {
        let stands = format!("which `{level}` stands for");
        fixture.refused_with("FFC_CPU", level, "verify net.ffc", &["this machine has no `", &stands]);
    }
    let needs = [
        "error: the artifact has no code that this machine as `portable` can run: `amx` needs sse3 ",
        "amx-tile amx-int8, `avx512vnni` needs",
        "`avx2` needs sse3 ssse3 sse4.1 sse4.2 avx avx2 bmi2\n",
        "help: `ffc compile --target NAME` makes code for other machines",
    ];
    fixture.refused_with("FFC_CPU", "portable", "verify net.ffc", &needs);
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
