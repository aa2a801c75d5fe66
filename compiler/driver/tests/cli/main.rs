//! The `ffc` command from outside, as scripts and people use it.
//!
//! Every test runs the binary in a folder of its own, on a network and a data set so small that training takes no time;
//! what needs real digits takes those of `examples/mnist`.
#![allow(clippy::unwrap_used, reason = "test code")]

mod artifacts;
mod augmentation;
mod checkpoints;
mod contract;
mod data;
mod determinism;
mod errors;
mod exports;
mod fixture;
mod images;
mod memory;
mod objects;
mod units;
