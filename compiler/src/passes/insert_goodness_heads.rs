//! Gives every layer its objective: scores, the loss that is reported, and the error signal, which is the last value
//! of the head.
//!
//! * `projection`, `class-group`: softmax cross-entropy of `dot %y, @head`; the matrix is learned, or has a 1 where a unit
//!   belongs to a class. The error is `p - onehot`, `[rows, classes]`.
//! * `sum-of-squares`: with goodness `G` and polarity `s` (+1, -1) the loss is `log(1 + exp(-s (G - theta)))`; the error is
//!   its derivative by `G`, `-s sigmoid(-s (G - theta))`, `[rows, 1]`.
//! * Images are pooled first, to the cells of a small grid (`class-group`: to one mean a channel), a smaller one where the
//!   matrix would be large. A layer with fewer channels than classes has a `projection` where others have groups.
//!   Their scores are divided by the activation's root mean square, as the next layer's sums are: the largest stable learning rate then is
//!   the same for a convolution and for the sum behind a skip connection.
//! * the classifier: softmax cross-entropy of its own logits, on rows that carry no label.
//!
//! ```text
//! head { %m = param @fc1.head   %scores = dot %y, %m   %p = softmax ...   report %loss   %error = sub %p, %onehot }
//! ```

use ffc_ir::module::{
    Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, ReduceOp, Region, RowPlan, UnaryOp,
};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Handle, Window};

use super::build::{Builder, V};
use super::image_size::{has_images, image_sizes};
use crate::recipe::{Goodness, Head, Normalization, Options};

/// Runs the pass.
///
/// # Errors
/// Where a layer cannot have the head that the options ask for.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let sizes = image_sizes(&module);
    for (index, size) in sizes.into_iter().enumerate() {
        let mut layer = std::mem::take(&mut module.layers[index]);
        match layer.role {
            LayerRole::Hidden => hidden(&mut module, &mut layer, size, options),
            LayerRole::Classifier => {
                let logits = layer.outputs[0];
                let mut builder = Builder::new(&mut layer, Region::Head);
                cross_entropy(&module, &mut builder, logits);
            }
            LayerRole::Prepare | LayerRole::Whole => {}
        }
        module.layers[index] = layer;
    }
    Ok(module)
}

fn hidden(module: &mut Module, layer: &mut Layer, size: [usize; 2], options: &Options) {
    match options.head {
        Head::SumOfSquares { goodness: kind, threshold } => {
            let mut builder = Builder::new(layer, Region::Head);
            let goodness = goodness(&mut builder, kind);
            contrast(module, &mut builder, goodness, threshold);
        }
        Head::Projection | Head::ClassGroup { .. } => {
            let scores = class_scores(module, layer, size, options);
            let mut builder = Builder::new(layer, Region::Head);
            cross_entropy(module, &mut builder, scores);
        }
    }
}

/// Name of a layer's head matrix.
pub(super) fn head_name(layer: &Layer) -> String {
    format!("{}.head", layer.name)
}

/// Weights of a head on more than one cell: with 1,000 classes heads of the whole grid would be many times the network.
const HEAD_WEIGHTS: usize = 1 << 20;

/// What a head of class scores looks at: the cells of a grid laid over the image, each of which is its mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// The head: groups want at least a unit a class, and layers with fewer get a projection.
    pub(super) head: Head,
    /// Height and width of the activation.
    pub(super) size: [usize; 2],
    /// Height and width of a cell.
    pub(super) tile: [usize; 2],
    /// Channels of the activation.
    pub(super) channels: usize,
}

impl Grid {
    /// The grid over an activation of this type and size.
    pub(super) fn of(activation: Type, size: [usize; 2], classes: usize, options: &Options) -> Self {
        let Dim::Const(channels) = activation.columns() else {
            unreachable!("activations are [rows, units]")
        };
        let head = match options.head {
            Head::ClassGroup { .. } if channels < classes => Head::Projection,
            head => head,
        };
        let most = if matches!(head, Head::ClassGroup { .. }) { 1 } else { options.grid };
        let of = |cells: usize| Self { head, size, tile: size.map(|size| (size / cells).max(1)), channels };
        let is_small = |grid: &Self| grid.units().saturating_mul(classes) <= HEAD_WEIGHTS;
        (1..=most).rev().map(of).find(is_small).unwrap_or_else(|| of(1))
    }

    /// Height and width in cells.
    fn cells(&self) -> [usize; 2] {
        [self.size[0] / self.tile[0], self.size[1] / self.tile[1]]
    }

    /// What a row of the head's matrix has a number for.
    pub(super) fn units(&self) -> usize {
        let [height, width] = self.cells();
        height * width * self.channels
    }

    /// What multiplies the sums of the head: `temperature / units per class` for groups.
    pub(super) fn score_factor(&self, classes: usize) -> Option<f32> {
        match self.head {
            Head::ClassGroup { temperature } => Some(temperature * classes as f32 / self.channels as f32),
            Head::Projection | Head::SumOfSquares { .. } => None,
        }
    }
}

/// `[rows, classes]`: the scores of a layer's activation, in its head region.
pub(super) fn class_scores(module: &mut Module, layer: &mut Layer, size: [usize; 2], options: &Options) -> V {
    let grid = Grid::of(layer.ty(layer.outputs[0]), size, module.classes, options);
    let images = has_images(module);
    let factor = head_factor(layer, images, options);
    let matrix = head_matrix(module, layer, &grid, images);
    let activation = layer.outputs[0];
    let mut builder = Builder::new(layer, Region::Head);
    let matrix = builder.param(&module.params, "head", matrix);
    let mut seen = builder.mean_tiles("cells", activation, grid.size, grid.tile);
    if grid.cells() != [1, 1] {
        seen = builder.window("grid", seen, Window::whole(grid.cells()));
    }
    let sums = builder.dot("sums", seen, matrix);
    let scores = match grid.score_factor(module.classes) {
        Some(factor) => builder.mul_constant("scores", sums, factor),
        None => sums,
    };
    factor.map_or(scores, |factor| builder.mul("scores.normalized", scores, factor))
}

/// What multiplies the scores of each row: in networks of images what the layer hands over beside its activation.
pub(super) fn head_factor(layer: &Layer, images: bool, options: &Options) -> Option<V> {
    let scores = layer.role == LayerRole::Hidden && !matches!(options.head, Head::SumOfSquares { .. });
    layer.outputs.get(1).copied().filter(|_| scores && images && options.normalization == Normalization::Rms)
}

/// How much smaller heads of images start than weights: all classes are about as likely then, and gradients are small until the head
/// knows something.
const SMALL: f32 = 0.3;

fn head_matrix(module: &mut Module, layer: &Layer, grid: &Grid, images: bool) -> Handle<Param> {
    let units = grid.units();
    let start = if images { SMALL } else { 1.0 };
    let role = match grid.head {
        Head::ClassGroup { .. } => ParamRole::Groups,
        Head::Projection | Head::SumOfSquares { .. } => ParamRole::Head(start / (units as f32).sqrt()),
    };
    let shape = [module.classes, units];
    module.params.push(Param { name: head_name(layer), shape, storage: ParamStorage::F32, role })
}

/// `scores - max`, `exp` of it, and the sum of that, the pieces of a softmax.
pub(super) struct Softmax {
    pub(super) shifted: V,
    pub(super) exponentials: V,
    pub(super) sum: V,
}

pub(super) fn softmax(builder: &mut Builder<'_>, scores: V) -> Softmax {
    let largest = builder.reduce("largest", ReduceOp::Max, scores);
    let shifted = builder.sub("shifted", scores, largest);
    let exponentials = builder.unary("exp", UnaryOp::Exp, shifted);
    let sum = builder.reduce("exp.sum", ReduceOp::Sum, exponentials);
    Softmax { shifted, exponentials, sum }
}

/// Softmax cross-entropy: loss `log sum exp - score of the target`, error `p - onehot`.
fn cross_entropy(module: &Module, builder: &mut Builder<'_>, scores: V) {
    let per_row = Type::new(DType::I32, Dim::ROWS, Dim::Const(1));
    let soft = softmax(builder, scores);
    let target = builder.push("target", Op::Target, per_row);
    let scores_type = builder.ty(scores).with_dtype(DType::F32);
    let one_hot = Op::OneHot { labels: target, classes: module.classes };
    let one_hot = builder.push("onehot", one_hot, scores_type);
    let log = builder.unary("log", UnaryOp::Log, soft.sum);
    let hit = builder.mul("hit", one_hot, soft.shifted);
    let hit = builder.reduce("hit.sum", ReduceOp::Sum, hit);
    let loss = builder.sub("loss", log, hit);
    let p = builder.div("p", soft.exponentials, soft.sum);
    let weight = neutral_rows(module, builder);
    report(builder, loss, weight);
    let error = builder.sub("error", p, one_hot);
    if let Some(weight) = weight {
        builder.mul("error", error, weight);
    }
}

/// 1 for rows that carry no label and 0 for the others, where there are both.
fn neutral_rows(module: &Module, builder: &mut Builder<'_>) -> Option<V> {
    if module.rows != (RowPlan::Contrast { neutral: true }) {
        return None;
    }
    let labelled = labelled_rows(builder);
    let one = builder.constant(1.0);
    Some(builder.sub("neutral", one, labelled))
}

/// 1 for positive and negative rows, 0 for neutral ones.
fn labelled_rows(builder: &mut Builder<'_>) -> V {
    let polarity = polarity(builder);
    builder.mul("labelled", polarity, polarity)
}

fn polarity(builder: &mut Builder<'_>) -> V {
    builder.push("polarity", Op::Polarity, Type::new(DType::F32, Dim::ROWS, Dim::Const(1)))
}

fn report(builder: &mut Builder<'_>, loss: V, weight: Option<V>) {
    let loss = match weight {
        Some(weight) => builder.mul("loss", loss, weight),
        None => loss,
    };
    let total = builder.reduce_rows("loss.total", ReduceOp::Sum, loss);
    builder.push("report", Op::Report(total), Type::scalar());
}

/// `[rows, 1]`: sum or mean of the squares of a layer's activation.
pub(super) fn goodness(builder: &mut Builder<'_>, kind: Goodness) -> V {
    let activation = builder.layer.outputs[0];
    let squares = builder.reduce("goodness.sum", ReduceOp::SumSquares, activation);
    let squares = builder.reduce_positions("goodness.sum", ReduceOp::Sum, squares);
    match kind {
        Goodness::Sum => squares,
        Goodness::Mean => {
            let numbers = numbers(builder.ty(activation)) as f32;
            builder.mul_constant("goodness", squares, 1.0 / numbers)
        }
    }
}

/// Numbers that an activation has a row: units, or channels at all positions.
pub(super) fn numbers(activation: Type) -> usize {
    let [Dim::Rows(positions), Dim::Const(channels)] = activation.shape else {
        unreachable!("activations are [rows, units]")
    };
    positions * channels
}

/// Logistic loss of goodness against a threshold, towards more on positive rows and less on negative ones.
fn contrast(module: &Module, builder: &mut Builder<'_>, goodness: V, threshold: f32) {
    let polarity = polarity(builder);
    let threshold = builder.constant(threshold);
    let above = builder.sub("above", goodness, threshold);
    let margin = builder.mul("margin", above, polarity);
    let one = builder.constant(1.0);
    let negated = builder.unary("margin.neg", UnaryOp::Neg, margin);
    let wrong = builder.unary("wrong", UnaryOp::Exp, negated);
    let sum = builder.add("wrong.sum", one, wrong);
    let loss = builder.unary("loss", UnaryOp::Log, sum);
    let neutral = module.rows == (RowPlan::Contrast { neutral: true });
    let weight = neutral.then(|| labelled_rows(builder));
    report(builder, loss, weight);
    // sigmoid(-margin) = 1 / (1 + exp(margin)).
    let right = builder.unary("right", UnaryOp::Exp, margin);
    let sum = builder.add("right.sum", one, right);
    let signed = builder.unary("polarity.neg", UnaryOp::Neg, polarity);
    builder.div("error", signed, sum);
}
