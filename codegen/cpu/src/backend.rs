//! The backend: programs in, artifacts or text out.

use cranelift_codegen::ir::Function;
use ffc_codegen::{Backend, CodegenError, Target, describe};
use ffc_ir::kernel::{Kernel, Program};
use ffc_runtime::artifact::Artifact;

use crate::blob::{self, Blob};
use crate::emit;
use crate::machine::Machine;
use crate::wide::{self, Products};

/// Compiles programs to machine code of one CPU target.
pub struct CpuBackend {
    target: Target,
    machine: Machine,
    /// Where the target has AVX-512, kernels do without Cranelift.
    wide: Option<Products>,
}

impl CpuBackend {
    /// The backend for a target.
    ///
    /// # Errors
    /// When Cranelift does not know one of the target's features.
    pub fn new(target: Target) -> Result<Self, CodegenError> {
        let machine = Machine::new(&target)?;
        let wide = Products::of(&target);
        Ok(Self { target, machine, wide })
    }

    /// Cranelift's IR of all kernels as text, before its optimizations.
    ///
    /// # Errors
    /// When the target cannot express a kernel.
    pub fn clif(&self, program: &Program) -> Result<String, CodegenError> {
        self.text(program, |function| Ok(function.display().to_string()))
    }

    /// The assembly of all kernels as text.
    ///
    /// # Errors
    /// When the target cannot express a kernel.
    pub fn asm(&self, program: &Program) -> Result<String, CodegenError> {
        self.text(program, |function| blob::disassemble(&self.machine, function))
    }

    fn text(
        &self,
        program: &Program,
        print: impl Fn(Function) -> Result<String, String>,
    ) -> Result<String, CodegenError> {
        let mut text = String::new();
        for kernel in program.kernels.values() {
            let body =
                self.function(program, kernel).and_then(&print).map_err(|reason| at(kernel, reason))?;
            text += &format!("; {}\n{}\n", kernel.name, body.trim_end());
        }
        Ok(text)
    }

    /// Appends a kernel's code; where it starts.
    fn code(&self, program: &Program, kernel: &Kernel, blob: &mut Blob) -> Result<usize, String> {
        match self.wide {
            Some(products) => Ok(blob.append_bytes(&wide::function(products, program, kernel)?)),
            None => blob.append(&self.machine, self.function(program, kernel)?),
        }
    }

    fn function(&self, program: &Program, kernel: &Kernel) -> Result<Function, String> {
        emit::function(&self.machine, program, kernel)
    }
}

impl Backend for CpuBackend {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, program: &Program) -> Result<Artifact, CodegenError> {
        let mut artifact = describe(program, &self.target);
        let mut blob = Blob::default();
        for (kernel, described) in program.kernels.values().zip(&mut artifact.kernels) {
            described.entry = self.code(program, kernel, &mut blob).map_err(|reason| at(kernel, reason))?;
        }
        artifact.code = blob.code;
        Ok(artifact)
    }
}

fn at(kernel: &Kernel, reason: String) -> CodegenError {
    CodegenError { kernel: Some(kernel.name.clone()), reason }
}
