//! From a contraction back to what it contracts, where that is the layer's own: behind another contraction of a layer that was
//! joined of several.
//!
//! The gradient of a contraction's operand is a contraction too, of the gradient with the transposed weight. For a convolution it is
//! one of what the window that leads back sees of the gradient, with the filters that lead back ([`Op::Back`]).
//!
//! What is contracted is normalised: the sums are multiplied by a factor per row, `r = 1 / sqrt(mean_square y + epsilon)`. With `G`
//! the gradient of `y` where `r` is held constant, that of `y` is `G - y * r^2 * mean(G * y)`, the mean over all of a row's image.
//!
//! ```text
//! %seen = window %gz, back        %filters = back %w         %G = dot %seen, %filters
//! %g = sub %G, (mul %y, (r * r * sum(mul %G, %y) / numbers))
//! ```

use std::collections::HashMap;

use ffc_ir::Window;
use ffc_ir::module::{BinaryOp, Layer, Op, ReduceOp, UnaryOp};
use ffc_ir::types::{Dim, Type};

use super::{Deriver, columns};
use crate::passes::build::V;

/// The factor per row of each value that has one in this layer, by that value.
pub(super) fn factors(layer: &Layer) -> HashMap<V, V> {
    let factor = |&value: &V| Some((normalized_by(layer, value)?, value));
    layer.forward.iter().chain(&layer.look_ahead).filter_map(factor).collect()
}

/// What `1 / sqrt(sum_squares ...)` is about.
fn normalized_by(layer: &Layer, value: V) -> Option<V> {
    let Op::Binary(BinaryOp::Div, _, root) = layer.values[value].op else { return None };
    let Op::Unary(UnaryOp::Sqrt, mut source) = layer.values[root].op else { return None };
    loop {
        source = match layer.values[source].op {
            Op::Reduce(ReduceOp::SumSquares, value) => return Some(value),
            Op::Binary(BinaryOp::Add | BinaryOp::Mul, a, _) => a,
            Op::Reduce(_, value) | Op::Reshape(value) => value,
            _ => return None,
        };
    }
}

impl Deriver<'_> {
    /// Takes the gradient of a contraction to what it contracts, with the weight as it is before the step.
    pub(super) fn back_through(&mut self, contracted: V, weight: V, gradient: V) {
        let (image, window) = match self.layer.values[contracted].op {
            Op::Window { value, window } => (value, window),
            _ => (contracted, Window::identity([1, 1])),
        };
        if !self.trained.contains(&image) {
            return;
        }
        let (wanted, turned) = (self.layer.ty(image).shape, self.turned);
        let mut builder = self.builder();
        let gradient = if turned {
            let filters = builder.back("weight.back", weight, 1, 1);
            let gradient = builder.transpose("gz.t", gradient);
            builder.dot("gradient.back", filters, gradient)
        } else if window == Window::whole(window.input) {
            // The only position that looks sees each position through one tap.
            let filters = builder.back("weight.back", weight, 1, 1);
            let gradient = builder.dot("gradient.back", gradient, filters);
            let ty = Type { dtype: builder.ty(gradient).dtype, shape: wanted };
            if builder.ty(gradient) == ty {
                gradient
            } else {
                builder.push("gradient.positions", Op::Reshape(gradient), ty)
            }
        } else {
            let filters = builder.back("weight.back", weight, window.taps(), 1);
            let seen = builder.window("gradient.seen", gradient, window.back_by_taps());
            builder.dot("gradient.back", seen, filters)
        };
        self.arrive_normalized(image, gradient);
    }

    /// The same for filters of single channels.
    pub(super) fn back_through_filters(&mut self, image: V, weight: V, window: Window, gradient: V) {
        if !self.trained.contains(&image) {
            return;
        }
        let ty = self.layer.ty(image);
        let Dim::Const(channels) = ty.columns() else { unreachable!("images have channels") };
        let mut builder = self.builder();
        let weight = builder.back("weight.back", weight, window.taps(), channels);
        let ty = ty.with_dtype(builder.ty(gradient).dtype);
        let op = Op::Depthwise { value: gradient, weight, window: window.back_by_taps() };
        let gradient = builder.push("gradient.back", op, ty);
        self.arrive_normalized(image, gradient);
    }

    /// The factor per row of a value, or of what its columns are taken from.
    pub(super) fn factor_of(&self, value: V) -> Option<V> {
        let own = self.factors.get(&value).copied();
        own.or_else(|| match self.layer.values[value].op {
            Op::Slice { value: whole, .. } => self.factor_of(whole),
            Op::Concat(first, second) => {
                self.factor_of(first).filter(|&factor| self.factor_of(second) == Some(factor))
            }
            _ => None,
        })
    }

    /// Adds to the gradient that a value gets from where it is normalised. The factor belongs to all columns of what has
    /// it, so gradients of some of them go there first.
    pub(super) fn arrive_normalized(&mut self, value: V, gradient: V) {
        if !self.factors.contains_key(&value) {
            return match self.layer.values[value].op {
                Op::Slice { value: whole, from, columns: count } if self.factor_of(whole).is_some() => {
                    let behind = columns(self.layer, whole) - from - count;
                    let gradient = self.among_zeros(gradient, from, behind);
                    self.arrive_normalized(whole, gradient);
                }
                Op::Concat(first, second) if self.factor_of(value).is_some() => {
                    let end = columns(self.layer, first);
                    for (part, from) in [(first, 0), (second, end)] {
                        let gradient = self.slice(gradient, from, columns(self.layer, part));
                        self.arrive_normalized(part, gradient);
                    }
                }
                _ => self.arrive(value, gradient),
            };
        }
        let sum = match self.normalized.get(&value).copied() {
            Some(before) => self.builder().add("gradient.sum", before, gradient),
            None => gradient,
        };
        self.normalized.insert(value, sum);
    }

    /// Takes what has arrived at a value from where it is normalised to the value itself.
    pub(super) fn through_normalization(&mut self, value: V) {
        let Some(gradient) = self.normalized.remove(&value) else { return };
        let factor = self.factors[&value];
        let [Dim::Rows(positions), Dim::Const(channels)] = self.layer.ty(value).shape else {
            unreachable!("what is normalised has rows and columns")
        };
        let y = self.oriented("y.t", value);
        let turned = self.turned;
        let mut builder = self.builder();
        let mut product = builder.mul("y.gradient", gradient, y);
        if turned {
            product = builder.transpose("y.gradient.t", product);
        }
        let sum = builder.reduce("y.gradient.sum", ReduceOp::Sum, product);
        let sum = builder.reduce_positions("y.gradient.total", ReduceOp::Sum, sum);
        let square = builder.mul("factor.square", factor, factor);
        let share = builder.mul("share", sum, square);
        let mut share = builder.mul_constant("share.mean", share, 1.0 / (positions * channels) as f32);
        if turned {
            share = builder.transpose("share.t", share);
        }
        let along = builder.mul("gradient.along", y, share);
        let gradient = builder.sub("gradient.across", gradient, along);
        self.arrive(value, gradient);
    }
}
