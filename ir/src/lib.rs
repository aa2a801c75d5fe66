//! What a training program means.
//!
//! Two levels: the layer IR ([`module`]), where a network is layers with a forward region, a goodness head and an
//! update, and the kernel IR ([`kernel`]), where it is passes over memory. [`numerics`] holds the arithmetic that both
//! share, [`elementwise`], [`activation`] and [`fixed`] what is built from it, [`window`] the geometry of convolutions. [`verify()`] checks a module,
//! [`interpret`] says what it means, [`text`] prints and parses it, and [`generate`] makes up modules for tests. This crate
//! depends on the standard library alone and does no I/O.

pub mod activation;
pub mod analysis;
pub mod arena;
pub mod canonical;
pub mod diagnostics;
pub mod elementwise;
pub mod fixed;
pub mod generate;
pub mod interpret;
pub mod kernel;
pub mod module;
pub mod numerics;
pub mod text;
pub mod types;
pub mod verify;
pub mod window;

pub use arena::{Arena, Handle};
pub use diagnostics::Diagnostic;
pub use text::parse;
pub use verify::{Verified, verify};
pub use window::Window;
