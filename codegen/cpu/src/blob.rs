//! From functions to one blob of machine code.
//!
//! Kernels never name an address, and the only function that one calls, its contraction, lies right behind it. So code is
//! final wherever it lands: laying out is concatenation, and writing the distance into that call. Each function starts at
//! a cache line, which also aligns the constants that Cranelift keeps behind its code.

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;
use cranelift_codegen::{Context, FinalizedMachReloc};

use crate::emit::Functions;
use crate::machine::Machine;

/// Alignment of functions.
const ALIGN: usize = 64;

/// Functions laid out one behind the other.
#[derive(Default)]
pub(crate) struct Blob {
    pub(crate) code: Vec<u8>,
}

impl Blob {
    /// Compiles a kernel's functions and appends them; where the kernel starts.
    pub(crate) fn append(&mut self, machine: &Machine, functions: Functions) -> Result<usize, String> {
        let context = compile(machine, functions.kernel, false)?;
        let compiled = context.compiled_code().expect("it was compiled above");
        let entry = self.append_bytes(compiled.code_buffer());
        let contraction = functions.contraction.map(|code| self.append_bytes(&code.bytes));
        for call in compiled.buffer.relocs() {
            self.link(entry, call, contraction)?;
        }
        Ok(entry)
    }

    /// Appends a function's code; where it starts.
    pub(crate) fn append_bytes(&mut self, code: &[u8]) -> usize {
        let entry = self.code.len().next_multiple_of(ALIGN);
        self.code.resize(entry, 0);
        self.code.extend_from_slice(code);
        entry
    }

    /// Writes the distance to the contraction's function into a call of the kernel that starts at `entry`.
    fn link(
        &mut self,
        entry: usize,
        call: &FinalizedMachReloc,
        contraction: Option<usize>,
    ) -> Result<(), String> {
        let (Reloc::X86CallPCRel4, Some(contraction)) = (call.kind, contraction) else {
            return Err(format!("the code refers to `{:?}`, outside itself", call.target));
        };
        let place = entry + call.offset as usize;
        let distance = contraction as i64 - place as i64 + call.addend;
        let distance = i32::try_from(distance).map_err(|_| "the kernel's code is too long".to_string())?;
        self.code[place..place + 4].copy_from_slice(&distance.to_le_bytes());
        Ok(())
    }
}

/// The assembly of a kernel's functions as text.
pub(crate) fn disassemble(machine: &Machine, functions: Functions) -> Result<String, String> {
    let mut context = compile(machine, functions.kernel, true)?;
    let compiled = context.take_compiled_code().expect("it was compiled above");
    let kernel = compiled.vcode.expect("a disassembly was asked for");
    let contraction = functions.contraction.map(|code| format!("; its contraction\n{}", code.disassemble()));
    Ok(kernel + &contraction.unwrap_or_default())
}

fn compile(machine: &Machine, function: Function, disassembly: bool) -> Result<Context, String> {
    let mut context = Context::for_function(function);
    context.set_disasm(disassembly);
    context
        .compile(&*machine.isa, &mut ControlPlane::default())
        .map_err(|error| format!("{:?}", error.inner))?;
    Ok(context)
}
