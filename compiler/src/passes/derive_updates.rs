//! Derives each layer's gradient from its error signal, strictly inside the layer, and appends the optimizer.
//!
//! The gradient goes backwards through the forward region, from the activation to the contractions, operation by
//! operation. What comes from other layers gets none: not the input, and no skip operand. A layer that was joined of several has
//! contractions behind contractions; there the gradient goes on through the weights, as they are before the step, to what they
//! contract (`back`).
//!
//! Where a layer has no images, gradients are computed channel by channel: the gradient of the activation is
//! `[units, rows]`, so that it is at once the left operand of the weight gradient, and a bias gradient is a sum along its columns.
//! Gradients of images lie as the images do, since pools lead from position to position; they are turned when they are
//! stored, and a bias gradient is the sum over positions, then rows, of the quantized gradient.
//!
//! ```text
//! update {
//!   %g = dot (transpose @head), %error                  gradient of the activation, [units, rows]
//!   %gz = activate_grad %y^T, %g                        through the activation function
//!   assign @bias, bias - rate * sum %gz
//!   %scaled = mul %gz, %row_factor^T                    the operand's row factor, since the operand is unscaled
//!   %dw = dot %scaled, %a^T                             [units, inputs]
//!   sgd @weight, %dw
//!   sgd @head, dot %error^T, %y^T                       (projection)
//! }
//! ```

use std::collections::{HashMap, HashSet};

use ffc_ir::module::{
    BinaryOp, Control, DerivativeFrom, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, PoolOp,
    ReduceOp, Region, Sgd,
};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Handle, Window};

use super::build::{Builder, V, error_signal, new_stream};
use super::image_size::{has_images, image_sizes};
use super::insert_goodness_heads::{head_factor, head_name};
use crate::recipe::Options;

mod ahead;
mod back;
mod head;
mod rates;

use head::{Goal, Normalized};

/// Runs the pass.
///
/// # Errors
/// Where a layer's forward region has an operation that no gradient goes through.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let mut stream = new_stream(&module);
    let first = module.layers.iter().position(|layer| layer.role == LayerRole::Hidden);
    let sizes = image_sizes(&module);
    let (images, mut means) = (has_images(&module), rates::means(&module));
    for (index, &size) in sizes.iter().enumerate() {
        let mut layer = std::mem::take(&mut module.layers[index]);
        if matches!(layer.role, LayerRole::Hidden | LayerRole::Classifier) {
            let mut trained = trained_values(&module, &layer);
            ahead::extend(&layer, &mut trained);
            let lies = |value: V| {
                layer.ty(value).is_image()
                    || matches!(layer.values[value].op, Op::Concat(..) | Op::Slice { .. })
            };
            let turned = !trained.iter().any(|&value| lies(value));
            let (layer, stream, deeper) = (&mut layer, &mut stream, Some(index) > first);
            let ahead = ahead::goal(layer, module.layers.get(index + 1), &sizes[index..], images, options);
            let factors = back::factors(layer);
            let (gradients, normalized, biases) = (HashMap::new(), HashMap::new(), HashMap::new());
            let mut deriver = Deriver {
                module: &mut module,
                layer,
                options,
                stream,
                deeper,
                size,
                images,
                means: std::mem::take(&mut means[index]),
                updates: true,
                turned,
                trained,
                factors,
                normalized,
                gradients,
                biases,
            };
            deriver.derive(ahead)?;
        }
        module.layers[index] = layer;
    }
    Ok(module)
}

/// Values of the forward region that depend on the layer's weights; without factors per row, which the gradient of what they
/// normalise knows.
pub(super) fn trained_values(module: &Module, layer: &Layer) -> HashSet<V> {
    let mut trained = HashSet::new();
    for &value in &layer.forward {
        let op = &layer.values[value].op;
        let mut depends = match *op {
            Op::Dot { rhs: weight, .. } | Op::Depthwise { weight, .. } => {
                let param = param_of(layer, weight);
                param.is_some_and(|param| module.params[param].role == ParamRole::Weight)
            }
            _ => false,
        };
        op.operands(|operand| depends |= trained.contains(&operand));
        if depends && !matches!(op, Op::Reduce(..)) {
            trained.insert(value);
        }
    }
    trained
}

fn columns(layer: &Layer, value: V) -> usize {
    match layer.ty(value).columns() {
        Dim::Const(columns) | Dim::Rows(columns) => columns,
    }
}

pub(super) fn param_of(layer: &Layer, value: V) -> Option<Handle<Param>> {
    match layer.values[value].op {
        Op::Param(param) => Some(param),
        _ => None,
    }
}

struct Deriver<'a> {
    module: &'a mut Module,
    layer: &'a mut Layer,
    options: &'a Options,
    stream: &'a mut u32,
    /// Whether there is a hidden layer before this one.
    deeper: bool,
    /// Height and width of the layer's activation.
    size: [usize; 2],
    /// Whether the network has images.
    images: bool,
    /// Values that are means over a whole image.
    means: HashSet<V>,
    /// Whether weights on the way move.
    updates: bool,
    /// Whether gradients are `[units, rows]`.
    turned: bool,
    /// Values that depend on the layer's weights.
    trained: HashSet<V>,
    /// What has arrived at each value.
    gradients: HashMap<V, V>,
    /// The factor per row that each value which contractions of the layer contract is normalised by.
    factors: HashMap<V, V>,
    /// What has arrived at each value from where it is normalised, the factor held constant.
    normalized: HashMap<V, V>,
    /// Biases of images that wait for the quantized gradient of the sum they were added to.
    biases: HashMap<V, Handle<Param>>,
}

impl Deriver<'_> {
    fn builder(&mut self) -> Builder<'_> {
        Builder::new(self.layer, Region::Update)
    }

    fn derive(&mut self, ahead: Option<Goal>) -> Result<(), String> {
        let error =
            error_signal(self.layer).ok_or_else(|| format!("layer `{}` has no head yet", self.layer.name))?;
        let rate = self.builder().push("rate", Op::Control(Control::Rate), Type::scalar());
        let rate = self.own_rate(rate);
        let activation = self.layer.outputs[0];
        if !self.trained.contains(&activation) {
            return Err(format!("layer `{}` hands over nothing that its weights make", self.layer.name));
        }
        if let Some(ahead) = ahead {
            self.look_ahead(&ahead, rate)?;
        }
        let classifies = self.layer.role == LayerRole::Classifier;
        let factor = head_factor(self.layer, self.images, self.options);
        let normalized = factor.and_then(|factor| Normalized::of(self.layer, &self.layer.head, factor));
        let (head, size) = (head_name(self.layer), self.size);
        let own = Goal { activation, error, normalized, classifies, head, size };
        let error = self.sums_gradient(&own);
        let gradient = self.activation_gradient(&own, error)?;
        self.arrive(activation, gradient);
        for value in self.layer.forward.clone().into_iter().rev() {
            self.through_normalization(value);
            if let Some(gradient) = self.gradients.remove(&value) {
                self.through(value, gradient, rate)?;
            }
        }
        if !self.biases.is_empty() {
            return Err(format!(
                "layer `{}` adds a bias to something else than a contraction",
                self.layer.name
            ));
        }
        if self.layer.role == LayerRole::Hidden {
            self.update_head(error, rate);
        }
        Ok(())
    }

    /// The layer's factor of the learning rate: the classifier and deeper layers have their own; and a positive and a negative row a sample
    /// count as one, since the mean over rows is half of that over samples.
    fn own_rate(&mut self, rate: V) -> V {
        let factor = match self.layer.role {
            LayerRole::Classifier => self.options.classifier_rate,
            _ => {
                let pair = if self.options.overlays_labels() { 0.5 } else { 1.0 };
                pair * if self.deeper { self.options.deeper_rate } else { 1.0 }
            }
        };
        self.builder().scaled("rate.own", rate, factor)
    }

    /// A value of the forward region or the head, as gradients lie.
    fn oriented(&mut self, name: &str, value: V) -> V {
        if self.turned { self.builder().transpose(name, value) } else { value }
    }

    /// Takes the gradient of a value to its operands.
    fn through(&mut self, value: V, gradient: V, rate: V) -> Result<(), String> {
        let op = self.layer.values[value].op;
        match op {
            Op::Dot { lhs, rhs } => {
                self.back_through(lhs, rhs, gradient);
                if self.updates { self.update_weight(value, lhs, rhs, gradient, rate) } else { Ok(()) }
            }
            Op::Depthwise { value: image, weight, window } => {
                self.back_through_filters(image, weight, window, gradient);
                if self.updates {
                    self.update_filter(value, image, weight, window, gradient, rate)
                } else {
                    Ok(())
                }
            }
            Op::Binary(BinaryOp::Add, a, b) => {
                for (operand, other) in [(a, b), (b, a)] {
                    match param_of(self.layer, operand) {
                        Some(bias) if self.module.params[bias].role == ParamRole::Bias => {
                            if self.updates {
                                self.update_bias(bias, other, gradient, rate);
                            }
                        }
                        _ => self.arrive(operand, gradient),
                    }
                }
                Ok(())
            }
            Op::Binary(BinaryOp::Mul, a, b) => {
                for (operand, other) in [(a, b), (b, a)] {
                    if self.trained.contains(&operand) {
                        let gradient = self.times(gradient, other);
                        if self.factor_of(operand) == Some(other) {
                            self.arrive_normalized(operand, gradient);
                        } else {
                            self.arrive(operand, gradient);
                        }
                    }
                }
                self.image_bias(value, a, b, rate);
                Ok(())
            }
            Op::Activate(activation, input) => {
                let output = match activation.derivative_from() {
                    DerivativeFrom::Output => self.oriented("y.t", value),
                    DerivativeFrom::Input => self.oriented("z.t", input),
                };
                let mut builder = self.builder();
                let ty = builder.ty(gradient);
                let gradient =
                    builder.push("gz", Op::ActivateGrad { activation, output, grad: gradient }, ty);
                self.arrive(input, gradient);
                Ok(())
            }
            Op::Concat(first, second) => {
                let end = columns(self.layer, first);
                for (operand, from) in [(first, 0), (second, end)] {
                    if self.trained.contains(&operand) {
                        let gradient = self.slice(gradient, from, columns(self.layer, operand));
                        self.arrive(operand, gradient);
                    }
                }
                Ok(())
            }
            Op::Slice { value: whole, from, columns: count } => {
                let behind = columns(self.layer, whole) - from - count;
                let gradient = self.among_zeros(gradient, from, behind);
                self.arrive(whole, gradient);
                Ok(())
            }
            Op::Pool { op: PoolOp::Sum, value: image, window } => {
                let gradient = self.builder().pool("gradient.spread", PoolOp::Sum, gradient, window.back());
                self.arrive(image, gradient);
                Ok(())
            }
            Op::Pool { op: PoolOp::Max, value: input, window } => {
                let mut builder = self.builder();
                let ty = builder.ty(input);
                let op = Op::MaxGrad { input, output: value, grad: gradient, window };
                let gradient = builder.push("gradient.max", op, ty);
                self.arrive(input, gradient);
                Ok(())
            }
            _ => Err(format!(
                "layer `{}`: no gradient goes through `{}`",
                self.layer.name, self.layer.values[value].name
            )),
        }
    }

    /// Adds to the gradient of a value that depends on the layer's weights. One that was repeated for all positions
    /// gets the sum over them.
    fn arrive(&mut self, value: V, gradient: V) {
        if !self.trained.contains(&value) {
            return;
        }
        let (has, wants) = (self.layer.ty(gradient), self.layer.ty(value));
        let mut gradient = gradient;
        if let (false, Dim::Rows(has), Dim::Rows(wants)) = (self.turned, has.rows(), wants.rows())
            && has != wants
        {
            gradient = self.sum_positions(gradient, has / wants);
        }
        if let Some(before) = self.gradients.get(&value).copied() {
            gradient = self.builder().add("gradient.sum", before, gradient);
        }
        self.gradients.insert(value, gradient);
    }

    /// Columns of a gradient. Taken as early as possible, so that the others need not be computed.
    fn slice(&mut self, gradient: V, from: usize, count: usize) -> V {
        match self.layer.values[gradient].op {
            Op::Pool { op: PoolOp::Sum, value, window } => {
                let value = self.slice(value, from, count);
                self.builder().pool("gradient.spread", PoolOp::Sum, value, window)
            }
            Op::Binary(BinaryOp::Mul, value, by) if self.layer.ty(by) == Type::scalar() => {
                let value = self.slice(value, from, count);
                self.builder().mul("gradient.scaled", value, by)
            }
            _ => self.builder().slice("gradient.part", gradient, from, count),
        }
    }

    /// A gradient with so many columns of zeros before and behind.
    fn among_zeros(&mut self, gradient: V, before: usize, behind: usize) -> V {
        let mut builder = self.builder();
        let rows = builder.ty(gradient).rows();
        let zero = builder.constant(0.0);
        let mut zeros = |count: usize| {
            let ty = Type::new(DType::F32, rows, Dim::Const(count));
            (count > 0).then(|| builder.push("zeros", Op::Splat(zero), ty))
        };
        let (before, behind) = (zeros(before), zeros(behind));
        let whole = before.map_or(gradient, |zeros| builder.concat("gradient.whole", zeros, gradient));
        behind.map_or(whole, |zeros| builder.concat("gradient.whole", whole, zeros))
    }

    fn sum_positions(&mut self, image: V, positions: usize) -> V {
        // Windows have at most 32768 places in a line.
        const LINE: usize = 1 << 15;
        let fits = |lines: &usize| positions.is_multiple_of(*lines) && positions / lines <= LINE;
        let lines = (1..=positions).find(fits).unwrap_or(1);
        let size = [lines, positions / lines];
        let windows = Window::tiles_in_steps(size, size);
        let mut builder = self.builder();
        windows.into_iter().fold(image, |sum, window| builder.pool("gradient.sum", PoolOp::Sum, sum, window))
    }

    /// The gradient times what a value was multiplied by.
    fn times(&mut self, gradient: V, other: V) -> V {
        let (name, scaled) = match self.layer.values[other].op {
            Op::Operand(_) => ("factor.t", "gz.scaled"),
            _ => ("other.t", "gradient.times"),
        };
        let is_scalar = self.layer.ty(other) == Type::scalar();
        let other = if is_scalar { other } else { self.oriented(name, other) };
        self.builder().mul(scaled, gradient, other)
    }

    fn update_bias(&mut self, bias: Handle<Param>, sum: V, gradient: V, rate: V) {
        if !self.turned {
            self.biases.insert(sum, bias);
            return;
        }
        let mut builder = self.builder();
        let total = builder.reduce("bias.gradient", ReduceOp::Sum, gradient);
        self.step_bias(bias, total, rate);
    }

    /// `total` is the bias's gradient, `[units, 1]`.
    fn step_bias(&mut self, bias: Handle<Param>, total: V, rate: V) {
        let params = &self.module.params;
        let mut builder = Builder::new(self.layer, Region::Update);
        let step = builder.mul("bias.step", total, rate);
        let value = builder.param(params, "bias", bias);
        let value = builder.transpose("bias.t", value);
        let value = builder.sub("bias.new", value, step);
        let value = builder.transpose("bias.new.t", value);
        let ty = builder.ty(value);
        builder.push("bias.assign", Op::Assign { param: bias, value }, ty);
    }

    /// The bias that was added to a contraction times a factor per row, once the contraction's own gradient is there:
    /// that one is quantized anyway, and has the factor, which comes out again.
    fn image_bias(&mut self, value: V, contraction: V, factor: V, rate: V) {
        let per_row = Type::new(DType::F32, Dim::ROWS, Dim::Const(1));
        if self.layer.ty(factor) == per_row
            && let Some(&gradient) = self.gradients.get(&contraction)
        {
            self.bias_of(value, gradient, Some(factor), rate);
        }
    }

    fn bias_of(&mut self, value: V, gradient: V, factor: Option<V>, rate: V) {
        let (Some(&bias), Dim::Rows(positions)) = (self.biases.get(&value), self.layer.ty(gradient).rows())
        else {
            return;
        };
        self.biases.remove(&value);
        let mut sum = self.sum_positions(gradient, positions);
        let mut builder = self.builder();
        if let Some(factor) = factor {
            sum = builder.div("bias.unscaled", sum, factor);
        }
        let turned = builder.transpose("bias.rows", sum);
        let total = builder.reduce("bias.gradient", ReduceOp::Sum, turned);
        self.step_bias(bias, total, rate);
    }

    fn update_weight(&mut self, value: V, input: V, weight: V, gradient: V, rate: V) -> Result<(), String> {
        let weight = self.trained_param(value, weight)?;
        self.bias_of(value, gradient, None, rate);
        let turned = self.turned;
        let mut builder = self.builder();
        let gradient = if turned { gradient } else { builder.transpose("gz.t", gradient) };
        let turned = builder.transpose("input.t", input);
        let dw = builder.dot("dw", gradient, turned);
        self.sgd(weight, input, dw, rate);
        Ok(())
    }

    fn update_filter(
        &mut self,
        value: V,
        image: V,
        weight: V,
        window: Window,
        gradient: V,
        rate: V,
    ) -> Result<(), String> {
        let weight = self.trained_param(value, weight)?;
        self.bias_of(value, gradient, None, rate);
        let shape = self.module.params[weight].shape.map(Dim::Const);
        let mut builder = self.builder();
        let ty = Type { dtype: builder.ty(gradient).dtype, shape };
        let dw = builder.push("dw", Op::DepthwiseGrad { grad: gradient, value: image, window }, ty);
        self.sgd(weight, image, dw, rate);
        Ok(())
    }

    fn trained_param(&self, value: V, weight: V) -> Result<Handle<Param>, String> {
        let name = &self.layer.values[value].name;
        param_of(self.layer, weight)
            .ok_or_else(|| format!("layer `{}`: what `{name}` contracts with is no weight", self.layer.name))
    }

    /// Steps a parameter that `inputs` are contracted with.
    fn sgd(&mut self, param: Handle<Param>, inputs: V, grad: V, rate: V) {
        let momentum = (self.options.momentum > 0.0).then(|| {
            let Param { name, shape, .. } = &self.module.params[param];
            let velocity = Param {
                name: format!("{name}.velocity"),
                shape: *shape,
                storage: ParamStorage::F32,
                role: ParamRole::Velocity,
            };
            (self.module.params.push(velocity), self.options.momentum)
        });
        let factor = self.rate_by_inputs(param, inputs, rate);
        let stream = *self.stream;
        *self.stream += 1;
        let mut builder = self.builder();
        let ty = builder.ty(grad);
        builder.push("sgd", Op::Sgd(Sgd { param, grad, factor, stream, momentum }), ty);
    }
}
