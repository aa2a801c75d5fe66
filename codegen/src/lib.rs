//! What all backends share: the table of targets, and what a backend is.
//!
//! A [`Backend`] turns a planned [`Program`] into machine code for one [`Target`]; [`compile`] makes an [`Artifact`] of the
//! code of one or more. It is the only place where the kernel IR and the artifact's plain data meet: everything but the
//! code is copied from one to the other once, for all backends.

mod describe;
mod target;

pub use target::{Architecture, NamedTarget, TARGETS, Target, UnknownTarget};

use ffc_ir::kernel::Program;
use ffc_runtime::artifact::{Artifact, Variant};

/// Turns programs into machine code for one target.
pub trait Backend {
    /// What it compiles for.
    fn target(&self) -> &Target;

    /// Compiles a program whose buffers have been placed by the memory plan.
    ///
    /// # Errors
    /// When the target cannot express a kernel.
    fn variant(&self, program: &Program) -> Result<Variant, CodegenError>;
}

/// The artifact of a program, with a variant from each of the backends. They are of one architecture and come best first.
///
/// # Errors
/// When a target cannot express a kernel.
///
/// # Panics
/// If there is no backend.
pub fn compile<B: Backend>(backends: &[B], program: &Program) -> Result<Artifact, CodegenError> {
    let first = backends.first().expect("a program is compiled for something");
    let mut artifact = describe::describe(program, first.target().architecture);
    artifact.variants = backends.iter().map(|backend| backend.variant(program)).collect::<Result<_, _>>()?;
    Ok(artifact)
}

/// Why a program could not be compiled for a target.
#[derive(Debug)]
pub struct CodegenError {
    /// The kernel, where one is at fault.
    pub kernel: Option<String>,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Display for CodegenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kernel {
            Some(kernel) => write!(f, "kernel `{kernel}`: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for CodegenError {}
