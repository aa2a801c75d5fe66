//! From an imported network to a program: passes over the layer IR, fusion into kernels, and the memory plan.

pub mod lower;
pub mod passes;
pub mod pipeline;
pub mod plan;
pub mod recipe;
