//! The `ffc` command.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use ffc::commands::{self, bench, compile, devices, eval, export, inspect, opt, say, train, verify};

/// Compiles ONNX networks for on-device INT8 Forward-Forward training
#[derive(Parser)]
#[command(
    name = "ffc",
    version,
    after_help = "First steps:\n  ffc train examples/mnist_mlp.onnx --data examples/mnist"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show layers, unsupported operators and the memory plan
    Inspect(inspect::Inspect),
    /// Compile a training program
    Compile(compile::Compile),
    /// Train a network
    Train(Box<train::Train>),
    /// Measure accuracy
    Eval(eval::Eval),
    /// Write a trained network as ONNX
    Export(export::Export),
    /// Compare machine code with the interpreter
    Verify(verify::Verify),
    /// Measure training and inference, kernel by kernel
    Bench(bench::Bench),
    /// Run passes on the text form of the IR
    Opt(opt::Opt),
    /// List devices
    #[command(after_help = "Example:\n  ffc devices")]
    Devices,
    /// List targets
    #[command(after_help = "Example:\n  ffc targets")]
    Targets,
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  ffc completions bash > /etc/bash_completion.d/ffc")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Train(args) => train::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Export(args) => export::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Opt(args) => opt::run(args),
        Command::Devices => devices::devices(),
        Command::Targets => devices::targets(),
        Command::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::from(if failure.usage { 2 } else { 1 })
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), ffc::Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ffc", &mut script);
    commands::print_line(String::from_utf8_lossy(&script).trim_end())
}
