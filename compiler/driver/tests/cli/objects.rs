//! Ahead-of-time objects from the command line, and the example in C beside `ffc train`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;

use crate::fixture::{Fixture, examples, mnist};

/// Whether a C compiler is there; where it is not, that is said past the test harness.
fn has_gcc() -> bool {
    let found = Command::new("gcc").arg("--version").output().is_ok();
    if !found {
        let reason = "objects in C: there is no `gcc`";
        assert!(std::env::var("FFC_REQUIRE").map_or(true, |value| value != "all"), "{reason}");
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    }
    found
}

/// The digits of the examples, uncompressed.
fn unpack_digits(to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(mnist()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut bytes = Vec::new();
            GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
            std::fs::write(to.join(path.file_stem().unwrap()), bytes).unwrap();
        }
    }
}

/// The hash of exported weights, whose names and shapes stand in the header.
fn hash(header: &str, weights: &[u8]) -> String {
    let mut values = weights.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let rows = header.lines().filter_map(|line| {
        let [_, first, rows, columns, name] = *line.split_whitespace().collect::<Vec<_>>() else {
            return None;
        };
        let sizes = [first, rows, columns].map(|size| size.parse::<usize>());
        let [Ok(_), Ok(rows), Ok(columns)] = sizes else { return None };
        Some((name, [rows, columns], values.by_ref().take(rows * columns).collect()))
    });
    let mut rows: Vec<(&str, _, _)> = rows.collect();
    assert_eq!(values.len(), 0, "the header tells of all weights");
    rows.sort_by_key(|(name, ..)| *name);
    ffc_runtime::hash_weights(rows.into_iter())
}

#[test]
fn the_example_in_c_trains_as_the_command_does() {
    if !has_gcc() {
        return;
    }
    let fixture = Fixture::new();
    unpack_digits(&fixture.path("mnist"));
    let model = examples().join("mnist_mlp.onnx");
    let flags = format!("{} --data mnist --seed 9", model.display());
    let printed = fixture.done(&format!("compile {flags} --emit object --target x86_64 -o mlp.o")).out;
    assert!(printed.contains("wrote mlp.h (") && printed.contains("wrote mlp.o ("), "{printed}");
    let source = examples().join("embed_c/main.c");
    let mut gcc = Command::new("gcc");
    gcc.args(
        "-std=c11 -Wall -Wextra -Wpedantic -Werror -O2 -ffp-contract=off -I. -o embed_c mlp.o".split(' '),
    );
    let output = gcc.arg(source).current_dir(fixture.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut example = Command::new(fixture.path("embed_c"));
    let output = example.args(["mnist", "2", "weights"]).current_dir(fixture.path("")).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));

    let summary = fixture.done(&format!("train {flags} --epochs 2 --threads 1 --json")).last();
    let header = String::from_utf8(fixture.read("mlp.h")).unwrap();
    assert_eq!(summary["weights_hash"], hash(&header, &fixture.read("weights")).as_str());
    let accuracy = 100.0 * summary["test_accuracy"].as_f64().unwrap();
    assert!(printed.contains(&format!("test images: {accuracy:.2} %")), "{accuracy}: {printed}");
}

#[test]
fn objects_for_every_target() {
    let fixture = Fixture::new();
    for target in ["native", "x86_64", "x86_64-v4", "aarch64-dotprod", "riscv64"] {
        fixture.done(&format!("compile net.onnx -o net.o --emit object --target {target}"));
        let (object, header) = (fixture.read("net.o"), String::from_utf8(fixture.read("net.h")).unwrap());
        assert_eq!(object[..4], *b"\x7fELF", "{target}");
        assert!(header.contains("net_status net_train_step(void *state, void *arena,"), "{target}: {header}");
        assert!(!header.contains('@'), "{target}: {header}");
        fixture.done(&format!("compile net.onnx -o net.o --emit object --target {target}"));
        assert_eq!(fixture.read("net.o"), object, "{target}: the same bytes each time");
    }
}

#[test]
fn objects_that_cannot_be_named_are_refused() {
    let fixture = Fixture::new();
    let compile = |name: &str| format!("compile net.onnx --emit object -o {name}");
    fixture.misused(&compile("net.obj"), &["an object cannot be called `net.obj`", "help: ", "`.o`"]);
    fixture.misused(&compile("3d.o"), &["functions cannot be named after `3d`", "help: ", "letters"]);
    fixture.misused(&compile("my-net.o"), &["functions cannot be named after `my-net`"]);
    std::fs::create_dir(fixture.path("taken.h")).unwrap();
    fixture.refused(&compile("taken.o"), &["cannot write `taken.h`: it is a folder"]);
}
