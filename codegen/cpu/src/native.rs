//! The machine at hand as a target: its architecture, and those of its features that generated code makes use of.

use std::env::consts::ARCH;

use ffc_codegen::{Architecture, Target};
use ffc_runtime::Cpu;
use ffc_runtime::cpu::Level;

/// The target `native`, or the level that the machine was lowered to; `None` where this program itself runs on an
/// architecture that the backend does not know.
pub fn native(cpu: &Cpu) -> Option<Target> {
    let used: Vec<_> = Level::all(ARCH).iter().flat_map(|level| level.features()).collect();
    let features = cpu.features().iter().copied().filter(|feature| used.contains(feature)).collect();
    let name = cpu.level().map_or("native", |level| level.name);
    Some(Target { name, architecture: Architecture::host()?, features })
}
