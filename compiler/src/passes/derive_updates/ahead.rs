//! The gradient of the next layer's loss by what this layer hands over, through that layer alone (`--look-ahead hop`).
//!
//! `insert-look-ahead` has put the next layer, with its head, into this layer's look-ahead region. From the error signal
//! there the gradient goes back as within a joined layer, but no weight on the way moves; what arrives at this layer's own values
//! counts lambda times.

use std::collections::HashSet;

use ffc_ir::module::{Control, Layer, LayerRole, Op};
use ffc_ir::types::Type;

use super::Deriver;
use super::head::{Goal, Normalized};
use crate::passes::build::{V, error_signal};
use crate::passes::insert_goodness_heads::{head_factor, head_name};
use crate::passes::insert_look_ahead::{copied, looks_at_next};
use crate::recipe::Options;

/// The next layer's objective, as this layer's look-ahead region has it; `sizes` are those of this layer's activation and the next
/// one's.
pub(super) fn goal(
    layer: &Layer,
    next: Option<&Layer>,
    sizes: &[[usize; 2]],
    images: bool,
    options: &Options,
) -> Option<Goal> {
    let next = next.filter(|_| looks_at_next(layer))?;
    let copies = copied(next)?;
    let here = |value: V| {
        let place = copies.iter().position(|&copy| copy == value)?;
        layer.look_ahead.get(place).copied()
    };
    let factor = head_factor(next, images, options).and_then(here);
    Some(Goal {
        activation: here(next.outputs[0])?,
        error: here(error_signal(next)?)?,
        normalized: factor.and_then(|factor| Normalized::of(layer, &layer.look_ahead, factor)),
        classifies: next.role == LayerRole::Classifier,
        head: head_name(next),
        size: *sizes.get(1)?,
    })
}

/// Adds the values of the look-ahead region that depend on what the layer's weights make.
pub(super) fn extend(layer: &Layer, trained: &mut HashSet<V>) {
    for &value in &layer.look_ahead {
        let mut depends = false;
        let op = layer.values[value].op;
        op.operands(|operand| depends |= trained.contains(&operand));
        if depends && !matches!(op, Op::Reduce(..)) {
            trained.insert(value);
        }
    }
}

impl Deriver<'_> {
    /// Lets the gradient of the next layer's loss arrive at what this layer makes.
    pub(super) fn look_ahead(&mut self, goal: &Goal, rate: V) -> Result<(), String> {
        let error = self.sums_gradient(goal);
        let gradient = self.activation_gradient(goal, error)?;
        self.updates = false;
        self.arrive(goal.activation, gradient);
        for value in self.layer.look_ahead.clone().into_iter().rev() {
            self.through_normalization(value);
            if let Some(gradient) = self.gradients.remove(&value) {
                self.through(value, gradient, rate)?;
            }
        }
        self.updates = true;
        self.weigh();
        Ok(())
    }

    /// Multiplies what has arrived so far by lambda.
    fn weigh(&mut self) {
        let lambda = self.builder().push("lambda", Op::Control(Control::Lambda), Type::scalar());
        for value in self.layer.forward.clone() {
            if let Some(&gradient) = self.gradients.get(&value) {
                let weighted = self.builder().mul("ahead", gradient, lambda);
                self.gradients.insert(value, weighted);
            }
            if let Some(&gradient) = self.normalized.get(&value) {
                let weighted = self.builder().mul("ahead", gradient, lambda);
                self.normalized.insert(value, weighted);
            }
        }
    }
}
