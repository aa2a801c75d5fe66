//! `ffc devices` and `ffc targets`: what programs can run on, and be compiled for.

use ffc_codegen::Target;

use super::print_line;
use crate::Failure;

/// Fails where a device is not there.
///
/// # Errors
/// With the devices that are.
pub fn check(device: &str) -> Result<(), Failure> {
    if device == "cpu" {
        return Ok(());
    }
    Err(Failure::usage(format!("there is no device `{device}`"))
        .with_help("`ffc devices` lists what there is: cpu"))
}

/// Lists devices.
///
/// # Errors
/// When standard output is closed.
pub fn devices() -> Result<(), Failure> {
    let features = match ffc_cpu::native() {
        Some(target) if target.features.is_empty() => "no extensions in use".to_string(),
        Some(target) => target.features.join(" "),
        None => "no code generator for this architecture".to_string(),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    print_line(&format!("cpu  {}, {threads} threads: {features}", std::env::consts::ARCH))
}

/// Lists targets.
///
/// # Errors
/// When standard output is closed.
pub fn targets() -> Result<(), Failure> {
    print_line(&format!("{:<18} the machine at hand", "native"))?;
    for target in Target::all() {
        print_line(&format!("{:<18} {}", target.name, target.description))?;
    }
    Ok(())
}
