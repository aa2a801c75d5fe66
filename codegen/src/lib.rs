//! What all backends share: the table of targets, and what a backend is.
//!
//! A [`Backend`] turns a planned [`Program`] into an [`Artifact`]. It is the only place where the kernel IR and the
//! artifact's plain data meet: [`describe`] copies everything but the code from one to the other, once for all backends.

mod describe;
mod target;

pub use describe::describe;
pub use target::{Architecture, TARGETS, Target, UnknownTarget};

use ffc_ir::kernel::Program;
use ffc_runtime::artifact::Artifact;

/// Turns programs into artifacts for one target.
pub trait Backend {
    /// What it compiles for.
    fn target(&self) -> &Target;

    /// Compiles a program whose buffers have been placed by the memory plan.
    ///
    /// # Errors
    /// When the target cannot express a kernel.
    fn compile(&self, program: &Program) -> Result<Artifact, CodegenError>;
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
