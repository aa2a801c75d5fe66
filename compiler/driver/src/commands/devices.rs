//! `ffc devices` and `ffc targets`: what programs can run on, and be compiled for.

use ffc_codegen::{NamedTarget, TARGETS};
use ffc_runtime::cpu::Level;

use super::print_line;
use crate::Failure;
use crate::compile::{LEVEL, cpu};

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

/// Lists devices: what the machine has, and the code that it runs, best first.
///
/// # Errors
/// When standard output is closed.
pub fn devices() -> Result<(), Failure> {
    let cpu = cpu()?;
    let features = match ffc_cpu::native(&cpu) {
        Some(target) if target.features.is_empty() => "no extensions in use".to_string(),
        Some(target) => target.features.join(" "),
        None => "no code generator for this architecture".to_string(),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    print_line(&format!("cpu  {}, {threads} threads: {features}", std::env::consts::ARCH))?;
    let levels: Vec<_> = cpu.levels().filter_map(|cpu| cpu.level()).collect();
    print_line(&format!("     runs {} (one of them alone: {LEVEL}=NAME)", names(&levels)))
}

/// Lists targets, each with the variants that its artifacts have, best first.
///
/// # Errors
/// When standard output is closed.
pub fn targets() -> Result<(), Failure> {
    print_line(&format!("{:<16} the machine at hand", "native"))?;
    TARGETS.iter().try_for_each(|target| {
        let NamedTarget { name, description, levels, .. } = target;
        print_line(&format!("{name:<16} {description}: {}", names(levels)))
    })
}

fn names(levels: &[&Level]) -> String {
    levels.iter().map(|level| level.name).collect::<Vec<_>>().join(", ")
}
