//! The interpreter, and the programs of `tests/conformance`.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test.
pub(crate) const FFC: &str = env!("CARGO_BIN_EXE_ffc");

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// An interpreter with these modules; its absence is said aloud, past the test harness.
pub(crate) fn python(modules: &str) -> Option<String> {
    let python = std::env::var("FFC_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let reason =
        format!("no Python with {modules}: install tests/conformance/requirements.txt, set FFC_PYTHON");
    assert!(std::env::var("FFC_REQUIRE").map_or(true, |value| value != "all"), "{reason}");
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    None
}

/// Runs a program of `tests/conformance`.
pub(crate) fn run(python: &str, program: &str, arguments: &[&OsStr]) -> Output {
    let program = root().join("tests/conformance").join(program);
    Command::new(python).arg(program).args(arguments).output().unwrap()
}
