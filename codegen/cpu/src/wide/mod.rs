//! Kernels as AVX-512 code, 16 elements at a time, contractions on AMX tiles or VNNI.
//!
//! Cranelift's vectors have 128 bits; a training step at the speed of this machine's multipliers needs 512. So where the
//! target has AVX-512, kernels become instructions here, without another intermediate form: an expression of the kernel
//! IR is one instruction or two.
//!
//! ```text
//! for each chunk of 32 to 128 rows
//!     for each stage
//!         what the stage needs once per row, into the frame           (`nest`)
//!         for each panel of 32 columns
//!             what it needs once per column, into the frame           (`values`)
//!             the accumulators of chunk x panel, into the frame       (`contract`)
//!             for each two rows: the expressions of 32 elements each  (`values`, `halves`, `block`)
//!             what is stored across, from the frame                   (`turn`)
//!         reductions: the lanes of each row's partial results combined
//! ```
//!
//! The first stage fills the frame's accumulators, the expressions read them from the first-level cache, and nothing goes
//! to memory that the kernel IR does not store. Whether a panel is whole is known outside of the loop over rows: the last
//! panel has code of its own, with masks.

mod asm;
mod block;
mod contract;
mod halves;
mod nest;
mod turn;
mod values;

use ffc_codegen::{Architecture, Target};
use ffc_ir::kernel::{Geometry, Kernel, Program};
use ffc_runtime::cpu::{AMX, AVX512VNNI, Level};

pub use self::contract::Factors;
use crate::layout::is_padded_operand;
use crate::x86::Code;

/// Instructions for sums of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// AMX tiles of 8-bit integers.
    Tiles,
    /// AVX-512 VNNI vectors.
    Vectors,
}

impl Products {
    /// What a target has, if it is one for this module.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        let has = |level: &Level| level.features().iter().all(|feature| target.has(feature));
        match target.architecture {
            Architecture::X86_64 if has(&AMX) => Some(Self::Tiles),
            Architecture::X86_64 if has(&AVX512VNNI) => Some(Self::Vectors),
            _ => None,
        }
    }
}

/// A loop of products, this many turns, and the multiply-accumulates of a turn.
pub(crate) fn peak(products: Products, factors: Factors, turns: usize) -> (Vec<u8>, usize) {
    match products {
        Products::Tiles => contract::peak_of_tiles(factors, turns),
        Products::Vectors => contract::peak_of_vectors(factors, turns),
    }
}

/// Whether a kernel is written here. Others are left to Cranelift.
pub(crate) fn takes(program: &Program, kernel: &Kernel) -> bool {
    kernel.contraction.is_none_or(|contraction| {
        let [lhs, rhs] =
            [contraction.lhs, contraction.rhs].map(|buffer| is_padded_operand(&program.buffers[buffer]));
        match contraction.geometry {
            Geometry::Dense => lhs && rhs,
            Geometry::Convolution(_) => rhs,
            Geometry::ConvolutionGrad(window) => lhs && window.spread == [1; 2],
            Geometry::Depthwise(_) | Geometry::DepthwiseGrad(_) => true,
        }
    })
}

/// The machine code of a kernel.
///
/// # Errors
/// When the kernel asks for what no backend does, or its rows are too long for the distances in instructions.
pub(crate) fn function(products: Products, program: &Program, kernel: &Kernel) -> Result<Code, String> {
    crate::check::check(program, kernel)?;
    Ok(nest::Emitter::new(products, program, kernel)?.function())
}
