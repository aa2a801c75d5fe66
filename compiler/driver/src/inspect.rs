//! What a network is and what training it needs: layers, parameters, arithmetic, and the memory plan beside
//! backpropagation's.

use std::collections::HashSet;

use ffc_compiler::recipe::{Head, Options};
use ffc_ir::Handle;
use ffc_ir::kernel::{BufferClass, Program};
use ffc_ir::module::{
    BinaryOp, DerivativeFrom, Layer, LayerRole, Module, Op, Param, ParamRole, PoolOp, Value,
};
use ffc_ir::types::Dim;
use ffc_runtime::Cpu;
use ffc_runtime::artifact::{Artifact, Variant};
use serde::Serialize;

use crate::network::{Contraction, Network};

/// A layer of the network.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub op: String,
    /// Of one sample.
    pub output_shape: Vec<usize>,
    /// Weights and biases.
    pub parameters: usize,
    /// Multiply-accumulates of one sample.
    pub macs: usize,
    /// What it learns by: `projection`, `class-group`, `sum-of-squares`, or `classifier` on the network's own logits. None where
    /// it has no objective of its own, being part of another layer's unit, or is not trained.
    pub objective: Option<&'static str>,
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

/// What a layer of a training module learns by.
fn objective(train: &Module, name: &str) -> Option<&'static str> {
    let layer = train.layers.iter().find(|layer| layer.name == name)?;
    let head = train.param(&format!("{name}.head")).map(|head| train.params[head].role);
    match (layer.role, head) {
        (LayerRole::Classifier, _) => Some("classifier"),
        (LayerRole::Hidden, Some(ParamRole::Head(_))) => Some("projection"),
        (LayerRole::Hidden, Some(ParamRole::Groups)) => Some("class-group"),
        (LayerRole::Hidden, _) => Some("sum-of-squares"),
        (LayerRole::Prepare | LayerRole::Whole, _) => None,
    }
}

/// For people: which layers have a projection although the recipe says groups.
pub fn projections_for_groups<'a>(
    params: impl IntoIterator<Item = &'a Param>,
    options: &Options,
) -> Option<String> {
    if !matches!(options.head, Head::ClassGroup { .. }) {
        return None;
    }
    let learned = params.into_iter().filter(|param| matches!(param.role, ParamRole::Head(_)));
    let names: Vec<_> = learned.map(|head| format!("`{}`", head.name.trim_end_matches(".head"))).collect();
    let what = "fewer channels than classes: a `projection` where other layers have groups";
    (!names.is_empty()).then(|| format!("{}: {what}", names.join(", ")))
}

/// The network's layers, with what they learn by where there is a training module.
pub fn layers(network: &Network, train: Option<&Module>) -> Vec<LayerReport> {
    let sizes: Vec<_> = network.module.layers.iter().map(ffc_onnx::image_sizes).collect();
    let bias =
        |name: &str| network.module.param(&format!("{name}.bias")).map(|bias| &network.module.params[bias]);
    let report = |layer: &Contraction<'_>| {
        let outputs = layer.weight.shape[0];
        let [height, width] = sizes[0][layer.value.index()];
        LayerReport {
            name: layer.name().to_string(),
            op: layer.kind(),
            output_shape: if layer.positions == 1 { vec![outputs] } else { vec![outputs, height, width] },
            parameters: layer.weight.len() + bias(layer.name()).map_or(0, Param::len),
            macs: layer.macs(),
            objective: train.and_then(|train| objective(train, layer.name())),
        }
    };
    network.contractions().iter().map(report).collect()
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

/// Numbers of one sample that backpropagation keeps: the input of each contraction and of each normalisation, what each
/// activation's derivative follows from, what pools chose from, and factors of products.
fn backprop_activations(network: &Network) -> usize {
    let normalized = |name: &str| network.interface.batch_normalized.iter().any(|other| other == name);
    let contractions = network.contractions();
    let mut numbers = 0;
    for layer in &network.module.layers {
        let mut kept: HashSet<Handle<Value>> = HashSet::new();
        for &value in &layer.forward {
            let tensors = match layer.values[value].op {
                Op::Dot { lhs, .. } => vec![lhs],
                Op::Depthwise { value, .. } | Op::Pool { op: PoolOp::Max, value, .. } => vec![value],
                Op::Activate(activation, of) => match activation.derivative_from() {
                    DerivativeFrom::Input => vec![of],
                    DerivativeFrom::Output => vec![value],
                },
                Op::Binary(BinaryOp::Mul, a, b) if layer.ty(b).rows() != Dim::Const(1) => vec![a, b],
                _ => continue,
            };
            // A window shows what is there anyway.
            kept.extend(tensors.into_iter().map(|tensor| match layer.values[tensor].op {
                Op::Window { value, .. } => value,
                _ => tensor,
            }));
        }
        kept.extend(contractions.iter().filter(|layer| normalized(layer.name())).map(|layer| layer.value));
        numbers += kept.into_iter().map(|tensor| size(layer, tensor)).sum::<usize>();
    }
    numbers
}

/// Numbers of one sample in a value.
fn size(layer: &Layer, value: Handle<Value>) -> usize {
    let of = |dim| match dim {
        Dim::Const(size) | Dim::Rows(size) => size,
    };
    of(layer.ty(value).rows()) * of(layer.ty(value).columns())
}
