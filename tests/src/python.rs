//! Programs in Python that say the same thing a second time.
//!
//! They need NumPy or JAX, which not everyone has: where they are missing the test says that it was skipped, unless
//! `FFC_REQUIRE=all` demands that nothing is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the interpreter.
pub const PYTHON: &str = "FFC_PYTHON";
/// The variable that turns skipped tests into failures, with the value `all`.
pub const REQUIRE: &str = "FFC_REQUIRE";

/// Says that a test was skipped, past the test harness, which would keep it to itself.
///
/// # Panics
/// If nothing may be skipped.
pub fn skip(what: &str, reason: &str) {
    assert!(
        std::env::var(REQUIRE).map_or(true, |value| value != "all"),
        "{REQUIRE}=all, but {what} cannot run: {reason}"
    );
    // There is nobody to tell if this fails.
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {reason}");
}

/// The interpreters that are tried.
fn candidates() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(PYTHON) {
        return vec![named.into()];
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
    vec![workspace.join("target/venv-gradients/bin/python"), "python3".into()]
}

/// An interpreter that can import these modules; where there is none, the test has been [skipped](skip).
///
/// # Panics
/// If there is none and nothing may be skipped.
pub fn python(what: &str, modules: &str) -> Option<PathBuf> {
    let imports = |python: &PathBuf| {
        let run = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        run.is_ok_and(|output| output.status.success())
    };
    let found = candidates().into_iter().find(imports);
    if found.is_none() {
        let reason = format!(
            "no Python with {modules}; install tests/gradients/requirements.txt and name the interpreter in {PYTHON}"
        );
        skip(what, &reason);
    }
    found
}

/// Runs a program of this crate on a file; what it printed, or what it complained about.
///
/// # Errors
/// With all that the program wrote, where it does not succeed.
///
/// # Panics
/// If it cannot be started.
pub fn run(python: &Path, program: &str, input: &Path) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    let output = Command::new(python).arg(program).arg(input).output().expect("the interpreter starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, complaints) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(printed) } else { Err(printed + &complaints) }
}
