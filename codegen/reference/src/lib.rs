//! Runs kernel IR directly: the oracle of all backends, and training in single precision.
//!
//! An [`Executor`] owns the memory of a [`Program`](ffc_ir::kernel::Program) and runs its kernels as their
//! documentation reads: the contraction of all elements first, then stage after stage, row after row. What a stage
//! computes is cut into tiles of a row's columns; each expression is evaluated for a whole tile by a plain loop over
//! slices, which the compiler turns into vector code, before the next one is. No operation is fused or reordered, so
//! every element goes through exactly the roundings that [`numerics`](ffc_ir::numerics) defines.
//!
//! * `plan`: once per kernel, what each stage evaluates, at which level, and where results live;
//! * `rows`: once per step, the stages of a kernel over all rows;
//! * `contract`: the contraction, on a GEMM crate;
//! * `memory`, [`Values`]: buffers, and how elements are read and written;
//! * `ownership`: whether the memory plan lets two live buffers share bytes;
//! * [`check`] and [`generate`]: what tests of all backends share.

pub mod check;
pub mod generate;

mod contract;
mod executor;
mod memory;
mod ops;
mod ownership;
mod params;
mod plan;
mod rows;

pub use executor::{Controls, ExecError, Executor, Inputs, Samples};
pub use memory::Values;
