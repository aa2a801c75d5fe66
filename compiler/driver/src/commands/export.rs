//! `ffc export`: a checkpoint as an ONNX file with the boundary of the file it came from.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::print_line;
use crate::source::{self, Origin, Source};
use crate::{Failure, export, files};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc export run/ -o trained.onnx")]
pub struct Export {
    /// Checkpoint folder or `.ffc` artifact
    pub checkpoint: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Arithmetic of the file
    #[arg(long, value_enum, default_value = "float")]
    pub format: Format,
}

/// Arithmetic of an exported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// FP32.
    Float,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: Export) -> Result<(), Failure> {
    files::check_writable(&args.output)?;
    let source = Source::open(&args.checkpoint)?;
    let Some(description) = &source.description else {
        return Err(Failure::new(format!("`{}` is no checkpoint", args.checkpoint.display()))
            .with_help("`ffc train ... --checkpoint DIR` makes one"));
    };
    let session = match &source.origin {
        Origin::Checkpoint(folder) => source::restore(folder, description, &source.network)?,
        Origin::Artifact(bytes) => source::load(bytes)?,
        Origin::Onnx => unreachable!("an ONNX file has no description"),
    };
    let weights = |name: &str| session.trained(name).ok();
    export::export(&source.network, &description.options, &weights, &args.output)?;
    let bytes = std::fs::metadata(&args.output).map_or(0, |metadata| metadata.len());
    print_line(&format!("wrote {} ({bytes} bytes)", args.output.display()))
}
