//! From a network and options to something that runs.

use std::path::Path;

use ffc_codegen::{Architecture, Backend, Target};
use ffc_compiler::recipe::Options;
use ffc_compiler::{lower, passes, pipeline};
use ffc_cpu::CpuBackend;
use ffc_ir::kernel::Program;
use ffc_ir::module::Module;
use ffc_ir::verify::verify;
use ffc_runtime::artifact::Artifact;

use crate::Failure;

/// A network's programs at every level above machine code.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The module that trains.
    pub train: Module,
    /// The module that predicts.
    pub infer: Module,
    /// Both as kernels, with their memory plan.
    pub program: Program,
}

/// Runs the passes and lowers.
///
/// # Errors
/// When the network cannot be trained with these options.
pub fn compile(network: &Module, options: &Options) -> Result<Compiled, Failure> {
    let (train, infer) = pipeline::compile(network, options)?;
    let program = lower::lower(&verify(&train)?, &verify(&infer)?)?;
    Ok(Compiled { train, infer, program })
}

/// Machine code for a target.
///
/// # Errors
/// When the target cannot express the program.
pub fn assemble(program: &Program, target: &Target) -> Result<Artifact, Failure> {
    Ok(CpuBackend::new(target.clone())?.compile(program)?)
}

/// Environment variable that makes less of the machine at hand than it is: see [`ffc_cpu::native_as`].
pub const LEVEL: &str = "FFC_CPU";

/// The target of this name; `native` is the machine at hand.
///
/// # Errors
/// When there is no such target, or the machine is of no kind that we compile for.
pub fn target(name: &str) -> Result<Target, Failure> {
    if name != "native" {
        return Ok(Target::named(name)?);
    }
    if let Ok(level) = std::env::var(LEVEL) {
        return ffc_cpu::native_as(&level).map_err(|reason| {
            Failure::new(format!("{LEVEL}={level}: {reason}")).with_help(format!("unset {LEVEL}"))
        });
    }
    ffc_cpu::native().ok_or_else(|| {
        let known: Vec<_> = [Architecture::X86_64, Architecture::Aarch64, Architecture::Riscv64]
            .map(Architecture::name)
            .into_iter()
            .collect();
        Failure::new(format!(
            "this machine is {}; there is code for {}",
            std::env::consts::ARCH,
            known.join(", ")
        ))
    })
}

/// Values of the parameters that preprocessing needs.
pub fn preprocessing_constants(options: &Options) -> Vec<(String, Vec<f32>)> {
    let preprocessing = &options.preprocessing;
    [
        (passes::insert_preparation::MEAN, &preprocessing.mean),
        (passes::insert_preparation::STD, &preprocessing.std),
    ]
    .into_iter()
    .filter(|(_, numbers)| numbers.len() > 1)
    .map(|(name, numbers)| (name.to_string(), numbers.clone()))
    .collect()
}

/// Whether a path names an artifact.
pub fn is_artifact(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ffc")
}
