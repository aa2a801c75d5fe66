//! Derives each layer's gradient from its error signal, strictly inside the layer, and appends the optimizer.
//!
//! Gradients are computed channel by channel: the gradient of the activation is `[units, rows]`, so that it is at once
//! the left operand of the weight gradient, and a bias gradient is a sum along its columns.
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

use ffc_ir::Handle;
use ffc_ir::module::{
    Activation, BinaryOp, Control, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, ReduceOp,
    Region, Sgd,
};
use ffc_ir::types::{Dim, Type};

use super::build::{Builder, V, error_signal, new_stream};
use super::insert_goodness_heads::{head_name, score_factor};
use crate::recipe::{Goodness, Head, Options};

/// Runs the pass.
///
/// # Errors
/// Where a layer's forward region is not contraction, bias and activation.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let mut stream = new_stream(&module);
    let first = module.layers.iter().position(|layer| layer.role == LayerRole::Hidden);
    for index in 0..module.layers.len() {
        let mut layer = std::mem::take(&mut module.layers[index]);
        if matches!(layer.role, LayerRole::Hidden | LayerRole::Classifier) {
            let dense = Dense::of(&module, &layer)?;
            let (layer, stream, deeper) = (&mut layer, &mut stream, Some(index) > first);
            let mut deriver = Deriver { module: &mut module, layer, options, stream, deeper };
            deriver.derive(&dense)?;
        }
        module.layers[index] = layer;
    }
    Ok(module)
}

/// The parts of a dense layer's forward region.
struct Dense {
    input: V,
    weight: Handle<Param>,
    bias: Option<Handle<Param>>,
    /// Activation functions in the order in which they are applied, each with its output.
    activations: Vec<(Activation, V)>,
}

impl Dense {
    fn of(module: &Module, layer: &Layer) -> Result<Self, String> {
        let refuse = |name: &str| {
            Err(format!(
                "layer `{}`: `{name}` is neither the contraction, its bias nor an activation function",
                layer.name
            ))
        };
        let param = |value: V| match layer.values[value].op {
            Op::Param(param) => Some(param),
            _ => None,
        };
        let is_factor = |value: V| matches!(layer.values[value].op, Op::Operand(1));
        let mut dense: Option<Self> = None;
        // The last value on the way from the contraction to the output: what is not known to the gradient cannot be.
        let mut last = None;
        for &value in &layer.forward {
            let ir = &layer.values[value];
            if let Op::Dot { lhs, rhs } = ir.op {
                let (Some(weight), None) = (param(rhs), &dense) else { return refuse(&ir.name) };
                dense = Some(Self { input: lhs, weight, bias: None, activations: Vec::new() });
                last = Some(value);
                continue;
            }
            let mut on_the_way = false;
            ir.op.operands(|operand| on_the_way |= Some(operand) == last);
            let Some(dense) = dense.as_mut().filter(|_| on_the_way) else { continue };
            match ir.op {
                Op::Binary(BinaryOp::Add, _, bias) => match param(bias) {
                    Some(param)
                        if module.params[param].role == ParamRole::Bias
                            && dense.bias.is_none()
                            && dense.activations.is_empty() =>
                    {
                        dense.bias = Some(param);
                    }
                    _ => return refuse(&ir.name),
                },
                Op::Activate(activation, _) => dense.activations.push((activation, value)),
                // What insert-normalization adds: a factor per row, before the bias; and from the output the next one.
                Op::Binary(BinaryOp::Mul, _, factor) if is_factor(factor) && dense.bias.is_none() => {}
                Op::Reduce(..) if layer.outputs.first().copied() == last => continue,
                _ => return refuse(&ir.name),
            }
            last = Some(value);
        }
        if dense.is_some() && layer.outputs.first().copied() != last {
            return Err(format!("layer `{}` does not hand over what its contraction gives", layer.name));
        }
        dense.ok_or_else(|| format!("layer `{}` has no contraction", layer.name))
    }
}

struct Deriver<'a> {
    module: &'a mut Module,
    layer: &'a mut Layer,
    options: &'a Options,
    stream: &'a mut u32,
    /// Whether there is a hidden layer before this one.
    deeper: bool,
}

impl Deriver<'_> {
    fn builder(&mut self) -> Builder<'_> {
        Builder::new(self.layer, Region::Update)
    }

    fn derive(&mut self, dense: &Dense) -> Result<(), String> {
        let error =
            error_signal(self.layer).ok_or_else(|| format!("layer `{}` has no head yet", self.layer.name))?;
        let rate = self.builder().push("rate", Op::Control(Control::Rate), Type::scalar());
        let rate = self.own_rate(rate);
        let gradient = match self.layer.role {
            LayerRole::Classifier => self.builder().transpose("error.t", error),
            _ => self.activation_gradient(error)?,
        };
        let gradient = self.through_activations(dense, gradient);
        if let Some(bias) = dense.bias {
            self.update_bias(bias, gradient, rate);
        }
        self.update_weight(dense, gradient, rate);
        if self.layer.role == LayerRole::Hidden && self.options.head == Head::Projection {
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
        if factor == 1.0 { rate } else { self.builder().mul_constant("rate.own", rate, factor) }
    }

    /// `[units, rows]`: the derivative of the loss by the layer's activation.
    fn activation_gradient(&mut self, error: V) -> Result<V, String> {
        let activation = self.layer.outputs[0];
        let Dim::Const(units) = self.layer.ty(activation).columns() else {
            return Err(format!("layer `{}` does not give a matrix", self.layer.name));
        };
        let head = self.options.head;
        if let Head::SumOfSquares { goodness, .. } = head {
            let mut builder = self.builder();
            let turned = builder.transpose("y.t", activation);
            let error = builder.transpose("error.t", error);
            let product = builder.mul("y.error", turned, error);
            let factor = match goodness {
                Goodness::Mean => 2.0 / units as f32,
                Goodness::Sum => 2.0,
            };
            return Ok(builder.mul_constant("gradient", product, factor));
        }
        let matrix = self.module.param(&head_name(self.layer)).ok_or("the head has no matrix")?;
        let classes = self.module.classes;
        let params = &self.module.params;
        let mut builder = Builder::new(self.layer, Region::Update);
        let matrix = builder.param(params, "head", matrix);
        let matrix = builder.transpose("head.t", matrix);
        let gradient = builder.dot("gradient", matrix, error);
        Ok(match score_factor(head, units, classes) {
            Some(factor) => builder.mul_constant("gradient.scaled", gradient, factor),
            None => gradient,
        })
    }

    fn through_activations(&mut self, dense: &Dense, gradient: V) -> V {
        let mut gradient = gradient;
        for &(activation, output) in dense.activations.iter().rev() {
            let mut builder = self.builder();
            let output = builder.transpose("y.t", output);
            let ty = builder.ty(gradient);
            gradient = builder.push("gz", Op::ActivateGrad { activation, output, grad: gradient }, ty);
        }
        gradient
    }

    fn update_bias(&mut self, bias: Handle<Param>, gradient: V, rate: V) {
        let params = &self.module.params;
        let mut builder = Builder::new(self.layer, Region::Update);
        let sum = builder.reduce("bias.gradient", ReduceOp::Sum, gradient);
        let step = builder.mul("bias.step", sum, rate);
        let value = builder.param(params, "bias", bias);
        let value = builder.transpose("bias.t", value);
        let value = builder.sub("bias.new", value, step);
        let value = builder.transpose("bias.new.t", value);
        let ty = builder.ty(value);
        builder.push("bias.assign", Op::Assign { param: bias, value }, ty);
    }

    fn update_weight(&mut self, dense: &Dense, gradient: V, rate: V) {
        let mut builder = self.builder();
        let factor = builder.layer.forward.iter().copied();
        let factor =
            factor.into_iter().find(|&value| matches!(builder.layer.values[value].op, Op::Operand(1)));
        let gradient = match factor {
            Some(factor) => {
                let factor = builder.transpose("factor.t", factor);
                builder.mul("gz.scaled", gradient, factor)
            }
            None => gradient,
        };
        let input = builder.transpose("input.t", dense.input);
        let dw = builder.dot("dw", gradient, input);
        self.sgd(dense.weight, dw, rate);
    }

    fn update_head(&mut self, error: V, rate: V) {
        let matrix = self.module.param(&head_name(self.layer)).expect("a projection has its matrix");
        let activation = self.layer.outputs[0];
        let mut builder = self.builder();
        let error = builder.transpose("error.t", error);
        let activation = builder.transpose("y.t", activation);
        let dm = builder.dot("dm", error, activation);
        self.sgd(matrix, dm, rate);
    }

    fn sgd(&mut self, param: Handle<Param>, grad: V, factor: V) {
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
        let stream = *self.stream;
        *self.stream += 1;
        let mut builder = self.builder();
        let ty = builder.ty(grad);
        builder.push("sgd", Op::Sgd(Sgd { param, grad, factor, stream, momentum }), ty);
    }
}
