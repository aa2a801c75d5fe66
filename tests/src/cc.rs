//! Programs in C, for what others link.
//!
//! They need a C compiler and the tools beside it, which not everyone has: where they are missing, a test is
//! [skipped](crate::python::skip).

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::python::skip;

/// All that a careful program is compiled with.
pub const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2"];

/// Whether these programs are there; where one is not, the test has been skipped.
///
/// # Panics
/// If one is missing and nothing may be skipped.
pub fn has(what: &str, programs: &[&str]) -> bool {
    let starts = |program: &&&str| Command::new(program).arg("--version").output().is_ok();
    match programs.iter().find(|program| !starts(program)) {
        Some(missing) => {
            skip(what, &format!("there is no `{missing}`"));
            false
        }
        None => true,
    }
}

/// Runs a program that must succeed; what it printed.
///
/// # Panics
/// With all that it wrote, if it fails.
pub fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A], input: &[u8]) -> Vec<u8> {
    let output = try_run(program, arguments, input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    output.stdout
}

/// Runs a program.
///
/// # Panics
/// If it cannot be started.
pub fn try_run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    std::thread::scope(|scope| {
        // A program that ends early closes its input; what it says about that is in the output.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("the program ends")
    })
}

/// Compiles a program of `tests/objects` with the object `net.o` and the header `net.h` of a folder, into that folder.
///
/// # Panics
/// With all that the compiler wrote, if it fails.
pub fn link(compiler: &str, options: &[&str], folder: &Path, program: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects").join(program);
    let out = folder.join(program.trim_end_matches(".c"));
    let object = folder.join("net.o");
    let mut arguments: Vec<&OsStr> = STRICT.iter().chain(options).map(OsStr::new).collect();
    arguments.extend([OsStr::new("-std=c11"), OsStr::new("-I"), folder.as_os_str()]);
    arguments.extend([source.as_os_str(), object.as_os_str(), OsStr::new("-o"), out.as_os_str()]);
    run(compiler, &arguments, &[]);
    out
}
