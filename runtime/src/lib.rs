//! Runs programs that ffc compiled: trains and infers within a planned amount of memory.
//!
//! An application embeds this crate alone. It loads an [`Artifact`](artifact::Artifact), machine code with a
//! description in plain data, into a [`Session`] and trains with it:
//!
//! ```no_run
//! use ffc_runtime::{Options, Samples, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::load(&std::fs::read("mlp.ffc")?, Options { threads: 2, seed: 7, ..Options::default() })?;
//! let (images, labels) = (vec![0u8; 32 * 784], vec![0i32; 32]);
//! let report = session.train_step(Samples::U8(&images), &labels)?;
//! assert_eq!(report.samples, 32);
//! let mut scores = vec![0.0; 32 * 10];
//! session.infer(Samples::U8(&images), &mut scores)?;
//! # Ok(())
//! # }
//! ```
//!
//! **Loading an artifact is running code.** Artifacts are checked so that damage and mistakes are refused with a reason,
//! but the machine code in them may do whatever the process may do. A checksum is no signature: load artifacts only
//! from where you would load a program.

#[cfg(not(target_endian = "little"))]
compile_error!("artifacts and checkpoints are little-endian, and so are all machines that ffc compiles for");

pub mod artifact;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod code;
pub mod cpu;
mod error;
mod file;
pub mod fixed;
mod machine;
mod memory;
mod params;
mod pool;
pub mod random;
mod session;
#[cfg(feature = "checkpoint")]
mod tensors;
mod validate;

pub use cpu::Cpu;
pub use error::{ArtifactError, CpuError, LoadError, StepError, WeightError};
pub use file::{Attachments, WEIGHTS_ATTACHMENT};
pub use params::{StateTensor, pack_state};
pub use session::{MemoryUse, Options, Samples, Session, StepReport, hash_weights};
