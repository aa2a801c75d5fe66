//! The `onnx` package's backend tests: every case passes or is refused with a reason, and the table says which.

use std::ffi::OsStr;

use crate::python::{FFC, python, root, run};

#[test]
fn the_table_of_the_onnx_suite_is_right() {
    let Some(python) = python("numpy, onnx, onnx.backend.test.data") else { return };
    let output = run(&python, "onnx_suite.py", &[OsStr::new(FFC)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8(output.stdout).unwrap();
    let path = root().join("tests/results/onnx_conformance.md");
    if std::env::var_os("FFC_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let line = table.lines().zip(expected.lines()).find(|(ours, theirs)| ours != theirs);
    assert!(table == expected, "{} is out of date, FFC_BLESS=1 rewrites it: {line:?}", path.display());
}

#[test]
fn every_form_of_an_operator_computes_what_it_means() {
    let Some(python) = python("numpy, onnx.reference") else { return };
    let output = run(&python, "operator_variants.py", &[OsStr::new(FFC)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(count > 800, "{count}");
}
