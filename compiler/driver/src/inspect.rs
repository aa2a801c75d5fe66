//! What a network is and what training it needs: layers, parameters, arithmetic, and the memory plan beside
//! backpropagation's.

use ffc_ir::kernel::{BufferClass, Program};
use ffc_ir::module::{Op, ParamRole};
use ffc_runtime::Cpu;
use ffc_runtime::artifact::{Artifact, Variant};
use serde::Serialize;

use crate::network::Network;

/// A layer of the network.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub op: &'static str,
    /// Of one sample.
    pub output_shape: Vec<usize>,
    /// Weights and biases.
    pub parameters: usize,
    /// Multiply-accumulates of one sample.
    pub macs: usize,
}

/// Bytes that training needs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Weights and biases as they are stored.
    pub parameter_bytes: usize,
    /// Goodness heads, ranges, optimizer state.
    pub state_bytes: usize,
    /// The arena that all layers share.
    pub activation_arena_bytes: usize,
    /// Activations that outlive their layer: none in a chain of layers.
    pub skip_bytes: usize,
    /// All of the above.
    pub peak_bytes: usize,
    /// FP32 tensors that backpropagation keeps for the same batch.
    pub backprop_activation_bytes: usize,
    /// These and FP32 weights, gradients and momentum.
    pub backprop_peak_bytes: usize,
}

/// Machine code of an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct VariantReport {
    /// Its name.
    pub name: String,
    /// Instruction set.
    pub architecture: String,
    /// What it needs beyond the instruction set's base.
    pub features: Vec<String>,
    /// Its size.
    pub code_bytes: usize,
    /// Whether it is what a session on this machine runs.
    pub runs: bool,
}

/// The variants of an artifact's code, best first, as this machine sees them.
pub fn variants(artifact: &Artifact, cpu: &Cpu) -> Vec<VariantReport> {
    let chosen = cpu.choose(&artifact.architecture, &artifact.variants).ok();
    let report = |variant: &Variant| VariantReport {
        name: variant.name.clone(),
        architecture: artifact.architecture.clone(),
        features: variant.features.clone(),
        code_bytes: variant.code.len(),
        runs: chosen.is_some_and(|chosen| chosen.variant().name == variant.name),
    };
    artifact.variants.iter().map(report).collect()
}

/// The network's layers.
pub fn layers(network: &Network) -> Vec<LayerReport> {
    let module = &network.module;
    let mut layers: Vec<LayerReport> = Vec::new();
    for (handle, param) in module.params.iter() {
        match param.role {
            ParamRole::Weight => layers.push(LayerReport {
                name: param.name.strip_suffix(".weight").unwrap_or(&param.name).to_string(),
                op: "dense",
                output_shape: vec![param.shape[0]],
                parameters: param.len(),
                macs: param.len() * uses(network, handle),
            }),
            ParamRole::Bias => {
                let name = param.name.strip_suffix(".bias").unwrap_or(&param.name);
                if let Some(layer) = layers.iter_mut().find(|layer| layer.name == name) {
                    layer.parameters += param.len();
                }
            }
            _ => {}
        }
    }
    layers
}

/// How often a weight is contracted.
fn uses(network: &Network, param: ffc_ir::Handle<ffc_ir::module::Param>) -> usize {
    let layers = network.module.layers.iter();
    layers.flat_map(|layer| layer.values.values()).filter(|value| value.op == Op::Param(param)).count()
}

/// The memory plan of a program for a network.
pub fn memory(network: &Network, program: &Program) -> Memory {
    let parameter_bytes = program
        .buffers
        .values()
        .filter(|buffer| match buffer.class {
            BufferClass::Param { param, .. } => {
                matches!(program.params[param].role, ParamRole::Weight | ParamRole::Bias)
            }
            _ => false,
        })
        .map(|buffer| buffer.bytes())
        .sum::<usize>();
    let state_bytes = program.state_bytes - parameter_bytes;
    let backprop_activation_bytes = backprop_activations(network) * program.batch * 4;
    Memory {
        parameter_bytes,
        state_bytes,
        activation_arena_bytes: program.arena_bytes,
        skip_bytes: 0,
        peak_bytes: program.state_bytes + program.arena_bytes,
        backprop_activation_bytes,
        backprop_peak_bytes: backprop_activation_bytes + 3 * 4 * network.parameters(),
    }
}

/// Numbers of one sample that backpropagation keeps: the input of each contraction, and each activation's output where
/// it is not one of those.
fn backprop_activations(network: &Network) -> usize {
    let width = |layer: &ffc_ir::module::Layer, value| match layer.ty(value).columns() {
        ffc_ir::types::Dim::Const(columns) => columns,
        ffc_ir::types::Dim::Rows(_) => 0,
    };
    let mut kept = Vec::new();
    let mut numbers = 0;
    for layer in &network.module.layers {
        for &value in &layer.forward {
            let tensor = match layer.values[value].op {
                Op::Dot { lhs, .. } => lhs,
                Op::Activate(..) => value,
                _ => continue,
            };
            if !kept.contains(&tensor) {
                kept.push(tensor);
                numbers += width(layer, tensor);
            }
        }
    }
    numbers
}
