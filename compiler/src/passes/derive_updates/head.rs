//! From a loss to the gradient of the activation that it is about, through its head.

use ffc_ir::Window;
use ffc_ir::module::{BinaryOp, Layer, Op, ParamRole, PoolOp, ReduceOp, Region};
use ffc_ir::types::{Dim, Type};

use super::{Deriver, param_of};
use crate::passes::build::{Builder, V};
use crate::passes::insert_goodness_heads::{Grid, head_name, numbers};
use crate::recipe::{Goodness, Head};

/// An objective whose gradient is sought: the layer's own, or the next one's.
pub(super) struct Goal {
    /// What it is about.
    pub(super) activation: V,
    /// Its error signal.
    pub(super) error: V,
    /// Its scores and the factor of each row in them, where the head sees the activation normalised.
    pub(super) normalized: Option<Normalized>,
    /// Whether the activation is logits.
    pub(super) classifies: bool,
    /// Name of the head's matrix.
    pub(super) head: String,
    /// Height and width of the activation.
    pub(super) size: [usize; 2],
}

/// Scores of a normalised activation.
#[derive(Clone, Copy)]
pub(super) struct Normalized {
    /// `[rows, classes]`.
    pub(super) scores: V,
    /// 1 / root mean square of each row of the activation.
    pub(super) factor: V,
}

impl Normalized {
    /// Among the values of a head: the scores are what the factor multiplies.
    pub(super) fn of(layer: &Layer, head: &[V], factor: V) -> Option<Self> {
        let is_scores = |&value: &V| match layer.values[value].op {
            Op::Binary(BinaryOp::Mul, _, by) => by == factor,
            _ => false,
        };
        head.iter().copied().find(is_scores).map(|scores| Self { scores, factor })
    }
}

impl Deriver<'_> {
    /// The derivative of a loss by the sums of its head, or by the logits.
    pub(super) fn sums_gradient(&mut self, goal: &Goal) -> V {
        let Goal { error, normalized, .. } = *goal;
        normalized
            .map_or(error, |Normalized { factor, .. }| self.builder().mul("error.scaled", error, factor))
    }

    /// Takes the part of a gradient away that would only lengthen or shorten the normalised row. With `n = f y` over `N` numbers and the
    /// gradient `g` by `n`, the gradient by `y` is `f g - f^2 y mean(g n)`; the sum of `g n` is that of error times score,
    /// since scores are linear in `n`. Without it rows shrink, whose gradients grow, until nothing is left of them.
    fn along_sphere(&mut self, goal: &Goal, gradient: V) -> V {
        let Goal { activation, error, normalized: Some(Normalized { scores, factor }), .. } = *goal else {
            return gradient;
        };
        let count = numbers(self.layer.ty(activation)) as f32;
        let mut builder = self.builder();
        let product = builder.mul("error.scores", error, scores);
        let sum = builder.reduce("error.scores.sum", ReduceOp::Sum, product);
        let mean = builder.mul_constant("gradient.mean", sum, 1.0 / count);
        let mean = builder.mul("gradient.mean", mean, factor);
        let mean = builder.mul("gradient.mean", mean, factor);
        let mean = self.oriented("gradient.mean.t", mean);
        let y = self.oriented("y.t", activation);
        let mut builder = self.builder();
        let radial = builder.mul("gradient.radial", y, mean);
        builder.sub("gradient.along", gradient, radial)
    }

    /// The derivative of a loss by the activation that it is about, of that by the sums of its head.
    pub(super) fn activation_gradient(&mut self, goal: &Goal, error: V) -> Result<V, String> {
        let activation = goal.activation;
        if goal.classifies {
            return Ok(self.oriented("error.t", error));
        }
        let ty = self.layer.ty(activation);
        if let Head::SumOfSquares { goodness, .. } = self.options.head {
            let numbers = numbers(ty);
            let turned = self.oriented("y.t", activation);
            let error = self.oriented("error.t", error);
            let mut builder = self.builder();
            let product = builder.mul("y.error", turned, error);
            let factor = match goodness {
                Goodness::Mean => 2.0 / numbers as f32,
                Goodness::Sum => 2.0,
            };
            return Ok(builder.mul_constant("gradient", product, factor));
        }
        let (classes, turned) = (self.module.classes, self.turned);
        let grid = Grid::of(ty, goal.size, classes, self.options);
        let matrix = self.module.param(&goal.head).ok_or("the head has no matrix")?;
        let params = &self.module.params;
        let mut builder = Builder::new(self.layer, Region::Update);
        let matrix = builder.param(params, "head", matrix);
        let matrix = builder.transpose("head.t", matrix);
        let gradient = if turned {
            builder.dot("gradient", matrix, error)
        } else {
            builder.dot("gradient", error, matrix)
        };
        let area = (grid.tile[0] * grid.tile[1]) as f32;
        let factor = grid.score_factor(classes).unwrap_or(1.0) / area;
        if !builder.ty(activation).is_image() {
            let gradient = builder.scaled("gradient.scaled", gradient, factor);
            return Ok(self.along_sphere(goal, gradient));
        }
        let count = grid.units() / grid.channels;
        let cells = if count == 1 {
            gradient
        } else {
            let ty = Type::new(builder.ty(gradient).dtype, Dim::Rows(count), Dim::Const(grid.channels));
            builder.push("gradient.cells", Op::Reshape(gradient), ty)
        };
        let back = Window::tiles(grid.size, grid.tile).back();
        let spread = builder.pool("gradient.spread", PoolOp::Sum, cells, back);
        let gradient = builder.scaled("gradient.scaled", spread, factor);
        Ok(self.along_sphere(goal, gradient))
    }

    /// Steps the head's matrix, by the derivative by its sums.
    pub(super) fn update_head(&mut self, error: V, rate: V) {
        let Some(matrix) = self.module.param(&head_name(self.layer)) else { return };
        if !matches!(self.module.params[matrix].role, ParamRole::Head(_)) {
            return;
        }
        let is_head = |value: &V| match self.layer.values[*value].op {
            Op::Dot { lhs, rhs } if param_of(self.layer, rhs) == Some(matrix) => Some(lhs),
            _ => None,
        };
        let seen = self.layer.head.iter().find_map(is_head).expect("a head multiplies by its matrix");
        let mut builder = self.builder();
        let error = builder.transpose("error.t", error);
        let seen = builder.transpose("y.t", seen);
        let dm = builder.dot("dm", error, seen);
        self.sgd(matrix, self.layer.outputs[0], dm, rate);
    }
}
