//! From functions to one blob of machine code.
//!
//! Kernels never call out and never name an address, so a compiled function is final wherever it lands: laying out is
//! concatenation. Each function starts at a cache line, which also aligns the constants that Cranelift keeps behind its
//! code.

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;

use crate::machine::Machine;

/// Alignment of functions.
const ALIGN: usize = 64;

/// Functions laid out one behind the other.
#[derive(Default)]
pub(crate) struct Blob {
    pub(crate) code: Vec<u8>,
}

impl Blob {
    /// Compiles a function and appends it; where it starts.
    pub(crate) fn append(&mut self, machine: &Machine, function: Function) -> Result<usize, String> {
        let context = compile(machine, function, false)?;
        let compiled = context.compiled_code().expect("it was compiled above");
        Ok(self.append_bytes(compiled.code_buffer()))
    }

    /// Appends a function's code; where it starts.
    pub(crate) fn append_bytes(&mut self, code: &[u8]) -> usize {
        let entry = self.code.len().next_multiple_of(ALIGN);
        self.code.resize(entry, 0);
        self.code.extend_from_slice(code);
        entry
    }
}

/// The assembly of a function as text.
pub(crate) fn disassemble(machine: &Machine, function: Function) -> Result<String, String> {
    let mut context = compile(machine, function, true)?;
    let compiled = context.take_compiled_code().expect("it was compiled above");
    Ok(compiled.vcode.expect("a disassembly was asked for"))
}

fn compile(machine: &Machine, function: Function, disassembly: bool) -> Result<Context, String> {
    let mut context = Context::for_function(function);
    context.set_disasm(disassembly);
    let compiled = context
        .compile(&*machine.isa, &mut ControlPlane::default())
        .map_err(|error| format!("{:?}", error.inner))?;
    match compiled.buffer.relocs().first() {
        None => Ok(context),
        Some(relocation) => Err(format!("the code refers to `{:?}`, outside itself", relocation.target)),
    }
}
