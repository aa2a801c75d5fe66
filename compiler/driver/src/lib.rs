//! The library behind the `ffc` command: what each command does, without arguments and terminals.
//!
//! Only this crate and the data readers touch files; everything below it works on values.

pub mod augmentation;
pub mod batches;
pub mod commands;
pub mod compile;
pub mod data;
pub mod description;
pub mod dot;
pub mod evaluation;
pub mod export;
pub mod files;
pub mod initial;
pub mod inspect;
pub mod job;
pub mod machine;
pub mod network;
pub mod options;
pub mod preprocessing;
pub mod source;
pub mod trainer;
pub mod training;
pub mod weights;

mod failure;

pub use failure::Failure;
