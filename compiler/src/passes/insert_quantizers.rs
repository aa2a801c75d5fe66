//! Gives every contraction INT8 operands: whatever FP32 value is an operand of a `dot` (directly or transposed), or is
//! handed to the next layer, is quantized where it is defined; later uses see the quantized value.
//!
//! Where a scale comes from:
//!
//! * activations and gradients: the largest magnitude of recent steps (`range`, tracked and slowly fading, up to a
//!   limit that the recipe may set), known
//!   before the tensor is, so that quantizing fuses into the pass that computes it; what exceeds it saturates;
//! * the network's input: the largest magnitude that preprocessing can give;
//! * the error of a softmax: 1, its largest magnitude (`1 + lambda` a later layer with look-ahead);
//! * weights: their own scale, a channel's or the tensor's.
//!
//! Activations are rounded to nearest, errors and gradients stochastically. Scales multiply sums after the
//! contraction; the scale of an activation joins the factor per row that is handed over beside it.
//!
//! ```text
//! %y = activate relu, %z        =>    %q: i8 = quantize %y, %scale, nearest         (and %y is convert %q * %scale)
//! %d = dot %a, %w               =>    %acc: i32 = dot %a, %w   %d = convert %acc * %w.scale
//! ```

use std::collections::{HashMap, HashSet};

use ffc_ir::Handle;
use ffc_ir::module::{
    BinaryOp, Control, Granularity, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, Phase,
    ReduceOp, Region, Rounding, Sgd,
};
use ffc_ir::numerics::{MIN_RANGE, QMAX};
use ffc_ir::types::{DType, Dim, Type};

use super::build::{Builder, V, error_signal, new_stream};
use crate::recipe::Options;

/// How fast the maxima that ranges follow fade, per step.
pub const RANGE_DECAY: f32 = 0.99;

/// Runs the pass.
///
/// # Errors
/// Where a scale would have to leave a sum that it cannot leave.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let weights = quantized_params(&mut module);
    let mut stream = new_stream(&module);
    for index in 0..module.layers.len() {
        let old = std::mem::take(&mut module.layers[index]);
        let later = module.layers[index + 1..].iter().filter(|layer| !layer.look_ahead.is_empty()).count();
        let mut quantizer = Quantizer {
            wanted: contraction_operands(&old, &weights),
            old: &old,
            new: Layer::new(old.name.clone(), old.role),
            module: &mut module,
            options,
            forms: HashMap::new(),
            stream: &mut stream,
            later_publishers: later,
            activation_scale: None,
            tracks: Vec::new(),
        };
        let layer = quantizer.layer()?;
        module.layers[index] = layer;
    }
    module.phase = Phase::Quantized;
    Ok(module)
}

/// Gives weights their fixed-point storage and names the parameters that contractions read as integers.
fn quantized_params(module: &mut Module) -> HashSet<Handle<Param>> {
    let mut weights = HashSet::new();
    let handles: Vec<_> = module.params.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let param = &mut module.params[handle];
        let storage = match param.role {
            ParamRole::Weight => ParamStorage::Fixed16(Granularity::Channel),
            // One scale for all: the error passes through the matrix in the other direction too.
            ParamRole::Head(_) => ParamStorage::Fixed16(Granularity::Tensor),
            ParamRole::Groups => ParamStorage::I8,
            ParamRole::Velocity => ParamStorage::I16,
            ParamRole::Bias | ParamRole::Range(_) | ParamRole::Constant => continue,
        };
        param.storage = storage;
        if param.role != ParamRole::Velocity {
            weights.insert(handle);
        }
    }
    weights
}

/// The values that contractions of this layer or of the next one read.
fn contraction_operands(layer: &Layer, weights: &HashSet<Handle<Param>>) -> HashSet<V> {
    let mut wanted = HashSet::new();
    let mut want = |value: V| {
        let source = match layer.values[value].op {
            Op::Transpose(source) => source,
            _ => value,
        };
        match layer.values[source].op {
            Op::Operand(_) => {}
            Op::Param(param) if weights.contains(&param) => {}
            _ => {
                wanted.insert(source);
            }
        }
    };
    for (_, value) in layer.ops() {
        if let Op::Dot { lhs, rhs } = layer.values[value].op {
            want(lhs);
            want(rhs);
        }
    }
    if layer.role != LayerRole::Classifier {
        want(layer.outputs[0]);
    }
    wanted
}

/// What became of a value.
#[derive(Clone)]
enum Form {
    /// It is what it was.
    Same(V),
    /// An integer that stands for itself times the factors.
    Scaled { integer: V, factors: Vec<V>, float: Option<V> },
}

struct Quantizer<'a> {
    old: &'a Layer,
    new: Layer,
    module: &'a mut Module,
    options: &'a Options,
    wanted: HashSet<V>,
    forms: HashMap<V, Form>,
    stream: &'a mut u32,
    later_publishers: usize,
    /// Scale of the layer's activation.
    activation_scale: Option<V>,
    /// Ranges to track: parameter and the value whose magnitude it follows.
    tracks: Vec<(Handle<Param>, V)>,
}

impl Quantizer<'_> {
    fn layer(&mut self) -> Result<Layer, String> {
        let old = self.old;
        for region in Region::ALL {
            for &value in old.region(region) {
                self.value(region, value)?;
                if self.wanted.contains(&value) {
                    self.quantize(region, value);
                }
            }
            if region == Region::Forward {
                self.outputs()?;
            }
        }
        self.track_ranges();
        Ok(std::mem::take(&mut self.new))
    }

    fn builder(&mut self, region: Region) -> Builder<'_> {
        Builder::new(&mut self.new, region)
    }

    /// Rewrites one operation.
    fn value(&mut self, region: Region, value: V) -> Result<(), String> {
        let ir = self.old.values[value].clone();
        let name = ir.name.as_str();
        let form = match ir.op {
            Op::Operand(0) if self.old.role != LayerRole::Prepare => self.operand(region, name, ir.ty),
            Op::Param(param) if self.module.params[param].ty().dtype == DType::I8 => {
                self.weight(region, name, param)
            }
            Op::Transpose(source) => self.transpose(region, name, source),
            Op::Dot { lhs, rhs } => self.dot(region, name, lhs, rhs)?,
            Op::Reduce(ReduceOp::SumSquares, source) if self.is_scaled(source) => {
                self.sum_squares(region, name, source)
            }
            Op::Sgd(sgd) => self.sgd(region, name, sgd)?,
            mut op => {
                op.operands_mut(|operand| *operand = self.float(region, *operand));
                Form::Same(self.builder(region).push(name, op, ir.ty))
            }
        };
        self.forms.insert(value, form);
        Ok(())
    }

    fn is_scaled(&self, value: V) -> bool {
        matches!(self.forms[&value], Form::Scaled { .. })
    }

    /// The value as it was: an integer is converted and multiplied by its factors.
    fn float(&mut self, region: Region, value: V) -> V {
        let (integer, factors) = match &self.forms[&value] {
            Form::Same(value) | Form::Scaled { float: Some(value), .. } => return *value,
            Form::Scaled { integer, factors, float: None } => (*integer, factors.clone()),
        };
        let name = self.old.values[value].name.clone();
        let mut builder = self.builder(region);
        let mut float = builder.convert(&format!("{name}.f"), integer);
        for factor in factors.iter().copied() {
            float = builder.mul(&format!("{name}.f"), float, factor);
        }
        self.forms.insert(value, Form::Scaled { integer, factors, float: Some(float) });
        float
    }

    /// The activation of the layer before. Its scale is part of the factor per row where there is one.
    fn operand(&mut self, region: Region, name: &str, ty: Type) -> Form {
        let has_factor = self.old.values.values().any(|value| value.op == Op::Operand(1));
        let mut builder = self.builder(region);
        let integer = builder.push(name, Op::Operand(0), ty.with_dtype(DType::I8));
        let factors = if has_factor {
            Vec::new()
        } else {
            vec![builder.push("factor", Op::Operand(1), Type::scalar())]
        };
        Form::Scaled { integer, factors, float: None }
    }

    fn weight(&mut self, region: Region, name: &str, param: Handle<Param>) -> Form {
        let (ty, scale) = (self.module.params[param].ty(), self.module.params[param].scale_type());
        let mut builder = self.builder(region);
        let integer = builder.push(name, Op::Param(param), ty);
        let factors = scale.map(|ty| builder.push(&format!("{name}.scale"), Op::ScaleOf(param), ty));
        Form::Scaled { integer, factors: factors.into_iter().collect(), float: None }
    }

    fn transpose(&mut self, region: Region, name: &str, source: V) -> Form {
        match self.forms[&source].clone() {
            Form::Same(value) => Form::Same(self.builder(region).transpose(name, value)),
            Form::Scaled { integer, factors, .. } => {
                let mut builder = self.builder(region);
                let integer = builder.transpose(name, integer);
                let factors = factors.into_iter().map(|factor| turned(&mut builder, factor)).collect();
                Form::Scaled { integer, factors, float: None }
            }
        }
    }

    fn dot(&mut self, region: Region, name: &str, lhs: V, rhs: V) -> Result<Form, String> {
        let (Form::Scaled { integer: l, factors: left, .. }, Form::Scaled { integer: r, factors: right, .. }) =
            (self.forms[&lhs].clone(), self.forms[&rhs].clone())
        else {
            return Err(format!("layer `{}`: an operand of `{name}` was not quantized", self.old.name));
        };
        let mut builder = self.builder(region);
        let integer = builder.dot(name, l, r);
        // A factor per row of the right operand is one per column of the result.
        let right: Vec<V> = right.into_iter().map(|factor| turned(&mut builder, factor)).collect();
        let factors = left.into_iter().chain(right).collect();
        Ok(Form::Scaled { integer, factors, float: None })
    }

    /// An exact integer sum, times the scale twice.
    fn sum_squares(&mut self, region: Region, name: &str, source: V) -> Form {
        let Form::Scaled { integer, factors, .. } = self.forms[&source].clone() else {
            unreachable!("the caller checked that the source is scaled")
        };
        let mut builder = self.builder(region);
        let sum = builder.reduce(&format!("{name}.q"), ReduceOp::SumSquares, integer);
        let mut sum = builder.convert(name, sum);
        for factor in factors.iter().chain(&factors) {
            sum = builder.mul(name, sum, *factor);
        }
        Form::Same(sum)
    }

    fn sgd(&mut self, region: Region, name: &str, sgd: Sgd) -> Result<Form, String> {
        let Form::Scaled { integer, factors, .. } = self.forms[&sgd.grad].clone() else {
            return Err(format!("layer `{}`: the gradient of `{name}` is no contraction", self.old.name));
        };
        let mut factor = self.float(region, sgd.factor);
        let mut builder = self.builder(region);
        for scale in factors {
            if builder.ty(scale) != Type::scalar() {
                return Err(format!("the gradient of `{name}` has a scale per row or column"));
            }
            factor = builder.mul(&format!("{name}.factor"), factor, scale);
        }
        let op = Op::Sgd(Sgd { grad: integer, factor, ..sgd });
        let ty = self.module.params[sgd.param].ty();
        Ok(Form::Same(self.builder(region).push(name, op, ty)))
    }

    /// Quantizes a value where it has just been defined.
    fn quantize(&mut self, region: Region, value: V) {
        let float = self.float(region, value);
        let name = self.old.values[value].name.clone();
        let scale = match region {
            Region::Forward if self.old.role == LayerRole::Prepare => {
                let range = self.options.preprocessing.range();
                self.builder(region).constant(range / QMAX)
            }
            Region::Forward => self.tracked_scale(region, "range", float),
            Region::Head | Region::LookAhead => self.error_scale(region),
            Region::Update => self.tracked_scale(region, "gradient_range", float),
        };
        let rounding = if region == Region::Forward {
            Rounding::Nearest
        } else {
            *self.stream += 1;
            Rounding::Stochastic(*self.stream - 1)
        };
        if region == Region::Forward {
            self.activation_scale = Some(scale);
        }
        let mut builder = self.builder(region);
        let ty = builder.ty(float).with_dtype(DType::I8);
        let op = Op::Quantize { value: float, scale, rounding };
        let integer = builder.push(&format!("{name}.q"), op, ty);
        self.forms.insert(value, Form::Scaled { integer, factors: vec![scale], float: None });
    }

    /// The scale that follows from a new range parameter, which is tracked where the module trains.
    fn tracked_scale(&mut self, region: Region, suffix: &str, observed: V) -> V {
        let name = format!("{}.{suffix}", self.old.name);
        let param = self.module.param(&name).unwrap_or_else(|| {
            self.module.params.push(Param {
                name,
                shape: [1, 1],
                storage: ParamStorage::F32,
                role: ParamRole::Range(0.0),
            })
        });
        if !self.old.update.is_empty() {
            self.tracks.push((param, observed));
        }
        // What training clips for its own sake, prediction represents: 0.3 points with `ff-int8`, whose goodness is made of
        // the largest activations.
        let trains = !self.old.update.is_empty();
        let limited = trains && region == Region::Forward;
        let limit = if limited { self.options.range_limit } else { f32::INFINITY };
        let params = &self.module.params;
        let mut builder = Builder::new(&mut self.new, region);
        let range = builder.param(params, suffix, param);
        let least = builder.constant(MIN_RANGE);
        let mut range = builder.binary(suffix, BinaryOp::Max, range, least);
        if limit.is_finite() {
            let limit = builder.constant(limit);
            range = builder.binary(suffix, BinaryOp::Min, range, limit);
        }
        builder.mul_constant("scale", range, 1.0 / QMAX)
    }

    /// Softmax errors are at most 1 in magnitude, and look-ahead adds lambda times as much for each later layer.
    fn error_scale(&mut self, region: Region) -> V {
        let later = self.later_publishers as f32;
        let looks_ahead = error_signal(self.old).is_some() && !self.old.look_ahead.is_empty() && later > 0.0;
        let mut builder = self.builder(region);
        if !looks_ahead {
            return builder.constant(1.0 / QMAX);
        }
        let lambda = builder.push("lambda", Op::Control(Control::Lambda), Type::scalar());
        let more = builder.mul_constant("error.more", lambda, later);
        let one = builder.constant(1.0);
        let range = builder.add("error.range", one, more);
        builder.mul_constant("error.scale", range, 1.0 / QMAX)
    }

    /// Lets ranges follow what was observed, after everything in the step that depends on them.
    fn track_ranges(&mut self) {
        for (param, observed) in std::mem::take(&mut self.tracks) {
            let name = self.module.params[param].name.rsplit('.').next().unwrap_or("range").to_string();
            let mut builder = self.builder(Region::Update);
            let largest =
                builder.reduce_all(&format!("{name}.seen"), ReduceOp::AbsMax, ReduceOp::Max, observed);
            let op = Op::Track { param, observed: largest, decay: RANGE_DECAY };
            builder.push(&format!("{name}.track"), op, Type::scalar());
        }
    }

    /// Hands over the integer activation, and its scale as part of the factor per row.
    fn outputs(&mut self) -> Result<(), String> {
        let activation = self.old.outputs[0];
        if self.old.role == LayerRole::Classifier {
            let logits = self.float(Region::Forward, activation);
            self.new.outputs = vec![logits];
            return Ok(());
        }
        let Form::Scaled { integer, .. } = self.forms[&activation] else {
            return Err(format!("layer `{}`: its activation was not quantized", self.old.name));
        };
        let scale = self.activation_scale.ok_or("the activation has no scale")?;
        let factor = match self.old.outputs.get(1) {
            Some(&factor) => {
                let factor = self.float(Region::Forward, factor);
                self.builder(Region::Forward).mul("row_factor", factor, scale)
            }
            None => scale,
        };
        self.new.outputs = vec![integer, factor];
        Ok(())
    }
}

/// A factor per row becomes one per column; a scalar stays.
fn turned(builder: &mut Builder<'_>, factor: V) -> V {
    let ty = builder.ty(factor);
    if ty.shape == [Dim::Const(1), Dim::Const(1)] { factor } else { builder.transpose("factor.t", factor) }
}
