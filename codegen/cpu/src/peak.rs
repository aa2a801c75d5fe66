//! What a machine's multipliers could do at most: a loop of products on registers alone.

use ffc_codegen::Target;

use crate::wide::{self, Products};

/// A loop of multiply-accumulates that touches no memory, as a kernel.
#[derive(Clone, Debug)]
pub struct Peak {
    /// The function, callable as a kernel; it ignores its arguments.
    pub code: Vec<u8>,
    /// Multiply-accumulates in a call.
    pub macs: usize,
}

/// The loop of the instruction that a target's contractions use; `None` where they are Cranelift's work.
pub fn peak(target: &Target) -> Option<Peak> {
    /// Long enough that calling it costs nothing.
    const TURNS: usize = 20_000;
    let products = Products::of(target)?;
    let (code, macs) = wide::peak(products, TURNS);
    Some(Peak { code, macs: macs * TURNS })
}
