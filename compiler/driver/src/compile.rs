//! From a network and options to something that runs.

use std::path::Path;

use ffc_codegen::{Architecture, NamedTarget, Target};
use ffc_compiler::recipe::Options;
use ffc_compiler::{lower, passes, pipeline};
use ffc_cpu::CpuBackend;
use ffc_ir::kernel::Program;
use ffc_ir::module::Module;
use ffc_ir::verify::verify;
use ffc_runtime::Cpu;
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

/// Machine code for some targets of one architecture, best first, in one artifact.
///
/// # Errors
/// When a target cannot express the program.
pub fn assemble(program: &Program, targets: &[Target]) -> Result<Artifact, Failure> {
    Ok(ffc_codegen::compile(&backends(targets)?, program)?)
}

/// The backend of each target.
///
/// # Errors
/// When there is none.
pub fn backends(targets: &[Target]) -> Result<Vec<CpuBackend>, Failure> {
    targets.iter().map(|target| Ok(CpuBackend::new(target.clone())?)).collect()
}

/// Environment variable that makes less of the machine at hand than it is: see [`Cpu::lowered_to`].
pub const LEVEL: &str = "FFC_CPU";

/// The machine at hand, or what [`LEVEL`] makes of it: what programs are compiled for, and what artifacts are run on.
///
/// # Errors
/// When there is no such level, or the machine does not have it.
pub fn cpu() -> Result<Cpu, Failure> {
    let Some(level) = std::env::var_os(LEVEL) else { return Ok(Cpu::detect()) };
    let level = level.to_string_lossy();
    Cpu::detect().lowered_to(&level).map_err(|reason| {
        Failure::new(format!("{LEVEL}={level}: {reason}")).with_help(format!("unset {LEVEL}"))
    })
}

/// What is compiled for the target of this name, best first; for `native` that is the machine at hand alone.
///
/// # Errors
/// When there is no such target, or the machine is of no kind that we compile for.
pub fn targets(name: &str) -> Result<Vec<Target>, Failure> {
    match name {
        "native" => Ok(vec![native()?]),
        name => Ok(NamedTarget::find(name)?.variants()),
    }
}

/// The machine at hand.
///
/// # Errors
/// As [`cpu`], and when the machine is of no kind that we compile for.
pub fn native() -> Result<Target, Failure> {
    ffc_cpu::native(&cpu()?).ok_or_else(|| {
        let known = [Architecture::X86_64, Architecture::Aarch64, Architecture::Riscv64];
        Failure::new(format!(
            "this machine is {}; there is code for {}",
            std::env::consts::ARCH,
            known.map(Architecture::name).join(", ")
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
