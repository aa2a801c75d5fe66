//! The commands, one file each: arguments as clap reads them, and `run`.

use std::io::Write;

use serde::Serialize;

use crate::Failure;

pub mod bench;
pub mod compile;
pub mod devices;
pub mod eval;
pub mod export;
pub mod inspect;
pub mod opt;
mod seeded;
pub mod train;
pub mod verify;

/// Prints one JSON line on standard output.
///
/// # Errors
/// When standard output is closed.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(error.to_string()))?;
    print_line(&text)
}

/// Prints one line on standard output.
///
/// # Errors
/// When standard output is closed.
pub fn print_line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(|error| Failure::new(format!("cannot write to standard output: {error}")))
}

/// Prints a message on standard error.
pub fn say(text: &str) {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
