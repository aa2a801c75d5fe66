//! Machine code for CPUs: AVX-512 and AMX directly, everything else by Cranelift.
//!
//! [`CpuBackend`] compiles every kernel of a program to one function and lays the functions out in one blob that runs
//! wherever it is mapped: kernels refer to nothing outside themselves, and call nothing but what lies right behind them.
//!
//! * `emit` writes a kernel as Cranelift's IR: the loop nest, expressions on 128-bit vectors, contraction tiles;
//! * `vex` writes contractions of those kernels as AVX2 instructions, where the target has them;
//! * `wide` writes a kernel as AVX-512 instructions, where the target has them;
//! * `x86` is what these two share;
//! * `machine` says what a target's instructions offer and configures Cranelift for it;
//! * `blob` compiles functions and lays them out;
//! * `native` makes a target of the machine that this program runs on;
//! * `object` makes an artifact a relocatable file that needs no runtime;
//! * [`ceiling`] has kernels that measure what a machine can do.

mod backend;
mod blob;
pub mod ceiling;
mod check;
mod emit;
mod layout;
mod machine;
mod native;
mod object;
mod plan;
mod vex;
mod wide;
mod x86;

pub use backend::CpuBackend;
pub use native::native;
pub use object::{Embedding, Object, Status, object, object_targets};
