//! The learning rate of each parameter of a network of images (`--rates by-inputs`).
//!
//! Units have 27 inputs in one layer and 8192 in another's head, while the largest stable rate is 2 / curvature. As long as
//! samples are not told apart, the curvature of cross-entropy is 0.1 (of ten undecided classes) times the sum of the squared means of all
//! inputs: activations are not negative, so all inputs push a unit's sum the same way. Rows are divided by their root mean square, so
//! that sum is a share of the number of inputs:
//!
//! * a third for what a ReLU leaves of normal numbers;
//! * nearly all for means over a whole image, which differ little from one sample to the next.
//!
//! Hence the rate is a constant / (share * inputs). Widths of dense networks differ less; those keep one rate.

use std::collections::HashSet;

use ffc_ir::Handle;
use ffc_ir::module::{BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, PoolOp};
use ffc_ir::types::{Dim, Type};

use super::Deriver;
use crate::passes::build::V;
use crate::recipe::Rates;

/// The factors of weights, of heads and of the classifier with one input, and the largest. Heads and classifiers are stable below 20; found
/// with ResNet-18 and MobileNetV2 on CIFAR-10, at a learning rate of 0.8 and 0.3 of that for the classifier.
const WEIGHT_RATE: f32 = 25.0;
const HEAD_RATE: f32 = 10.0;
const CLASSIFIER_RATE: f32 = 50.0;
const LARGEST_RATE: f32 = 1.0;

/// The share that a squared mean is of a mean square, behind a ReLU.
const SHARE: f32 = 1.0 / 3.0;

/// The values of each layer's forward region that are means over a whole image.
pub(super) fn means(module: &Module) -> Vec<HashSet<V>> {
    let mut handed: Vec<bool> = Vec::new();
    let mut all = Vec::new();
    for layer in &module.layers {
        let known = layer_means(layer, &handed);
        handed = layer.outputs.iter().map(|output| known.contains(output)).collect();
        all.push(known);
    }
    all
}

fn layer_means(layer: &Layer, handed: &[bool]) -> HashSet<V> {
    let mut means = HashSet::new();
    for &value in &layer.forward {
        let is_mean = match layer.values[value].op {
            Op::Operand(position) => handed.get(position as usize).is_some_and(|&mean| mean),
            Op::Pool { op: PoolOp::Sum, window, .. } => window.output == [1, 1] && window.input != [1, 1],
            Op::Reshape(source) => means.contains(&source),
            Op::Binary(BinaryOp::Mul, a, b) => {
                [(a, b), (b, a)].iter().any(|(a, b)| means.contains(a) && layer.ty(*b) == Type::scalar())
            }
            _ => false,
        };
        if is_mean && matches!(layer.ty(value).rows(), Dim::Rows(1)) {
            means.insert(value);
        }
    }
    means
}

impl Deriver<'_> {
    /// The rate of a parameter that `inputs` are contracted with.
    pub(super) fn rate_by_inputs(&mut self, param: Handle<Param>, inputs: V, rate: V) -> V {
        let Param { shape: [_, count], role, .. } = &self.module.params[param];
        let unit = match (self.layer.role, role) {
            (LayerRole::Classifier, _) => CLASSIFIER_RATE,
            (_, ParamRole::Head(_)) => HEAD_RATE,
            _ => WEIGHT_RATE,
        };
        let share = if self.means.contains(&inputs) { 1.0 } else { SHARE };
        let by_inputs = self.images && self.options.rates == Rates::ByInputs;
        let factor = if by_inputs { (unit / (share * *count as f32)).min(LARGEST_RATE) } else { 1.0 };
        self.builder().scaled("rate.inputs", rate, factor)
    }
}
