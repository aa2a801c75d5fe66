//! What is written without Cranelift: functions of x86 instructions, encoded by iced-x86.

use iced_x86::{Decoder, DecoderOptions, Formatter, IcedError, IntelFormatter};

/// A function that runs wherever it lies.
pub(crate) struct Code {
    /// Instructions, then constants.
    pub(crate) bytes: Vec<u8>,
    /// Where the instructions end.
    pub(crate) end: usize,
}

impl Code {
    /// The instructions as text.
    pub(crate) fn disassemble(&self) -> String {
        let (mut text, mut formatter) = (String::new(), IntelFormatter::new());
        for instruction in Decoder::with_ip(64, &self.bytes[..self.end], 0, DecoderOptions::NONE) {
            text += &format!("{:6x}  ", instruction.ip());
            formatter.format(&instruction, &mut text);
            text.push('\n');
        }
        text
    }
}

/// Instructions by their names, of something with a `CodeAssembler` in its field `code`:
/// `x86!(asm; mov(rax, rcx); add(rax, 4))`.
macro_rules! x86 {
    ($asm:expr; $($name:ident($($operand:expr),*));+ $(;)?) => {
        {
            $($crate::x86::encoded($asm.code.$name($($operand),*));)+
        }
    };
}
pub(crate) use x86;

/// The emitters only write instructions that exist.
pub(crate) fn encoded<T>(result: Result<T, IcedError>) -> T {
    result.expect("the emitter writes instructions that exist")
}
