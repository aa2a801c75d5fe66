//! The backend: programs in, machine code or text out.

use ffc_codegen::{Backend, CodegenError, Target};
use ffc_ir::kernel::{Kernel, Program};
use ffc_runtime::artifact::Variant;

use crate::blob::{self, Blob};
use crate::emit::{self, Functions};
use crate::machine::Machine;
use crate::wide::{self, Products};

/// Compiles programs to machine code of one CPU target: for several, there are several.
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

    /// Whether the target's kernels are Cranelift's work.
    pub fn uses_cranelift(&self) -> bool {
        self.wide.is_none()
    }

    /// Cranelift's IR of all kernels as text, before its optimizations.
    ///
    /// # Errors
    /// When the target cannot express a kernel, or its kernels are not Cranelift's work.
    pub fn clif(&self, program: &Program) -> Result<String, CodegenError> {
        if !self.uses_cranelift() {
            let reason = format!(
                "target `{}` has AVX-512, for which kernels are written without Cranelift: `--emit asm` shows them, \
                 and of `--target x86_64` there are variants that go through Cranelift",
                self.target.name
            );
            return Err(CodegenError { kernel: None, reason });
        }
        text(program, |kernel| Ok(self.functions(program, kernel)?.kernel.display().to_string()))
    }

    /// The assembly of all kernels as text.
    ///
    /// # Errors
    /// When the target cannot express a kernel.
    pub fn asm(&self, program: &Program) -> Result<String, CodegenError> {
        text(program, |kernel| match self.wide(program, kernel) {
            Some(products) => Ok(wide::function(products, program, kernel)?.disassemble()),
            None => blob::disassemble(&self.machine, self.functions(program, kernel)?),
        })
    }

    /// Appends a kernel's code; where it starts.
    fn code(&self, program: &Program, kernel: &Kernel, blob: &mut Blob) -> Result<usize, String> {
        match self.wide(program, kernel) {
            Some(products) => Ok(blob.append_bytes(&wide::function(products, program, kernel)?.bytes)),
            None => blob.append(&self.machine, self.functions(program, kernel)?),
        }
    }

    /// What a kernel's contraction is made of, if it does without Cranelift.
    fn wide(&self, program: &Program, kernel: &Kernel) -> Option<Products> {
        self.wide.filter(|_| wide::takes(program, kernel))
    }

    fn functions(&self, program: &Program, kernel: &Kernel) -> Result<Functions, String> {
        emit::functions(&self.machine, program, kernel)
    }
}

impl Backend for CpuBackend {
    fn target(&self) -> &Target {
        &self.target
    }

    fn variant(&self, program: &Program) -> Result<Variant, CodegenError> {
        let mut blob = Blob::default();
        let entry = |kernel| self.code(program, kernel, &mut blob).map_err(|reason| at(kernel, reason));
        let entries = program.kernels.values().map(entry).collect::<Result<_, _>>()?;
        Ok(Variant {
            name: self.target.name.to_string(),
            features: self.target.features.iter().map(ToString::to_string).collect(),
            entries,
            code: blob.code,
        })
    }
}

fn text(
    program: &Program,
    print: impl Fn(&Kernel) -> Result<String, String>,
) -> Result<String, CodegenError> {
    let mut text = String::new();
    for kernel in program.kernels.values() {
        let body = print(kernel).map_err(|reason| at(kernel, reason))?;
        text += &format!("; {}\n{}\n", kernel.name, body.trim_end());
    }
    Ok(text)
}

fn at(kernel: &Kernel, reason: String) -> CodegenError {
    CodegenError { kernel: Some(kernel.name.clone()), reason }
}
