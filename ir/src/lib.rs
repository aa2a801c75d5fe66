//! What a training program means.
//!
//! Two levels: the layer IR ([`module`]), where a network is layers with a forward region, a goodness head and an
//! update, and the kernel IR ([`kernel`]), where it is passes over memory. [`numerics`] holds the arithmetic that both
//! share. This crate depends on the standard library alone and does no I/O.

pub mod arena;
pub mod kernel;
pub mod module;
pub mod numerics;
pub mod types;

pub use arena::{Arena, Handle};
