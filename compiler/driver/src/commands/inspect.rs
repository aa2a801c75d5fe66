//! `ffc inspect`: what a network is, whether it can be trained, and what that needs.

use std::path::PathBuf;

use clap::Args;
use ffc_compiler::recipe::{LookAhead, Options, Unit};
use ffc_runtime::artifact::Artifact;
use indicatif::HumanBytes;
use serde_json::json;

use super::{print_json, print_line};
use crate::compile::{compile, cpu, targets};
use crate::inspect::{LayerReport, Memory, VariantReport, layers, memory, projections_for_groups, variants};
use crate::job;
use crate::options::TrainingArgs;
use crate::source::{Origin, Source};
use crate::{Failure, network::Network};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc inspect examples/mnist_mlp.onnx --batch-size 32")]
pub struct Inspect {
    /// ONNX file, checkpoint folder or `.ffc` artifact
    pub model: PathBuf,
    /// Target to plan for
    #[arg(long, default_value = "native")]
    pub target: String,
    /// Training options.
    #[command(flatten)]
    pub options: TrainingArgs,
    /// JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it; a network that cannot be trained among it.
pub fn run(args: Inspect) -> Result<(), Failure> {
    targets(&args.target)?;
    let source = match Source::open(&args.model) {
        Ok(source) => source,
        Err(failure) => return Err(unsupported(&args, failure)?),
    };
    let options = job::resolve(&source, &args.options.clone().with_config()?)?.options;
    // A network may be understood, and yet no program be made of it; then that is said, and the rest shown.
    let (compiled, untrainable) = match compile(&source.network.module, &options) {
        Ok(compiled) => (Some(compiled), None),
        Err(failure) => (None, Some(failure.message)),
    };
    let train = compiled.as_ref().map(|compiled| &compiled.train);
    let layers = layers(&source.network, train);
    let note = train.and_then(|train| projections_for_groups(train.params.values(), &options));
    let memory = compiled.as_ref().map(|compiled| memory(&source.network, &compiled.program));
    let variants = match &source.origin {
        Origin::Artifact(bytes) => variants(&Artifact::from_bytes(bytes)?.0, &cpu()?),
        Origin::Onnx | Origin::Checkpoint(_) => Vec::new(),
    };
    if args.json {
        return print_json(&json!({
            "layers": layers,
            "parameters": source.network.parameters(),
            "macs_per_sample": source.network.macs(),
            "unsupported": [],
            "memory": memory,
            "untrainable": untrainable,
            "variants": variants,
        }));
    }
    print_layers(&source.network, &layers)?;
    if let Some(note) = note {
        print_line(&format!("\n{note}"))?;
    }
    if let Some(memory) = memory {
        print_memory(&memory, &options)?;
    }
    if let Some(reason) = untrainable {
        print_line(&format!("\nwith these options it cannot be trained: {reason}"))?;
    }
    print_variants(&variants)
}

/// What cannot be imported, as JSON where that is wanted; the failure stands in any case.
fn unsupported(args: &Inspect, failure: Failure) -> Result<Failure, Failure> {
    if !args.json || args.model.is_dir() || crate::compile::is_artifact(&args.model) {
        return Ok(failure);
    }
    let imported = ffc_onnx::read(&args.model).and_then(|model| ffc_onnx::import(&model));
    if let Err(ffc_onnx::OnnxError::Unsupported(operators)) = imported {
        let rows: Vec<_> = operators
            .iter()
            .map(|row| {
                json!({
                    "op": row.op,
                    "domain": row.domain,
                    "opset": row.opset,
                    "count": row.count,
                    "nodes": row.nodes,
                    "reason": row.reason,
                })
            })
            .collect();
        print_json(&json!({ "unsupported": rows }))?;
    }
    Ok(failure)
}

fn print_layers(network: &Network, layers: &[LayerReport]) -> Result<(), Failure> {
    let longest = layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0).max(24);
    let row = |name: &str, op: &str, output: &str, parameters: &str, macs: &str| {
        print_line(&format!("{name:<longest$} {op:<14} {output:>12} {parameters:>12} {macs:>12}"))
    };
    row("layer", "op", "output", "parameters", "MACs")?;
    for layer in layers {
        let shape: Vec<_> = layer.output_shape.iter().map(ToString::to_string).collect();
        let (parameters, macs) = (layer.parameters.to_string(), layer.macs.to_string());
        row(&layer.name, &layer.op, &shape.join("x"), &parameters, &macs)?;
    }
    row("in all", "", "", &network.parameters().to_string(), &network.macs().to_string())
}

fn print_memory(memory: &Memory, options: &Options) -> Result<(), Failure> {
    let row = |name: &str, bytes: usize| {
        print_line(&format!("  {name:<44} {:>12}  ({bytes} bytes)", HumanBytes(bytes as u64).to_string()))
    };
    print_line(&format!("\ntraining memory, batch {}", options.batch))?;
    row("weights and biases", memory.parameter_bytes)?;
    row("heads, ranges, optimizer state", memory.state_bytes)?;
    row(&format!("activations, {} at a time", held(options)), memory.activation_arena_bytes)?;
    row("in all", memory.peak_bytes)?;
    print_line("backpropagation in FP32, the same batch")?;
    row("activations of all layers", memory.backprop_activation_bytes)?;
    row("and weights, gradients, momentum", memory.backprop_peak_bytes)
}

/// Whose activations a step holds at a time.
fn held(options: &Options) -> &'static str {
    match (options.look_ahead, options.unit) {
        (LookAhead::Off | LookAhead::Scalar, Unit::Layer) => "one layer",
        (LookAhead::Off | LookAhead::Scalar, Unit::Block) => "one block",
        (LookAhead::Hop, Unit::Layer) => "two layers",
        (LookAhead::Hop, Unit::Block) => "two blocks",
    }
}

fn print_variants(variants: &[VariantReport]) -> Result<(), Failure> {
    if !variants.is_empty() {
        print_line("\nmachine code, best first")?;
    }
    variants.iter().try_for_each(|VariantReport { name, architecture, features, code_bytes, runs }| {
        let here = if *runs { "runs here" } else { "" };
        let line = format!(
            "  {name:<12} {architecture:<8} {code_bytes:>10} bytes  {here:<9}  {}",
            features.join(" ")
        );
        print_line(line.trim_end())
    })
}
