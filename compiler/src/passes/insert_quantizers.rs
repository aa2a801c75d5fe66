//! Gives every contraction INT8 operands: whatever FP32 value is an operand of a contraction (directly, transposed or through
//! a window), is pooled, or is handed to the next layer, is quantized where it is defined; later uses see the quantized value.
//! Pools and the gradient of a maximum work on the integers. What is put together from several values is quantized part by
//! part, with one scale for all.
//!
//! Where a scale comes from:
//!
//! * activations and gradients: the largest magnitude of recent steps (`range`, tracked and slowly fading, up to a
//!   limit that the recipe may set), known
//!   before the tensor is, so that quantizing fuses into the pass that computes it; what exceeds it saturates;
//! * the network's input: the largest magnitude that preprocessing can give;
//! * the error of a softmax: 1, its largest magnitude (`1 + lambda` a later layer with look-ahead);
//! * weights: their own scale, a channel's; the tensor's where gradients pass through them.
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
    BinaryOp, Control, DerivativeFrom, Granularity, Layer, LayerRole, Module, Op, Param, ParamRole,
    ParamStorage, Phase, PoolOp, ReduceOp, Region, Rounding, Sgd, Value,
};
use ffc_ir::numerics::{MIN_RANGE, QMAX};
use ffc_ir::types::{DType, Dim, Type};

use super::build::{Builder, V, error_signal, new_stream};
use super::derive_updates::{param_of, trained_values};
use super::insert_look_ahead::looks_at_next;
use crate::recipe::{LookAhead, Normalization, Options};

/// How fast the maxima that ranges follow fade, per step.
pub const RANGE_DECAY: f32 = 0.99;

/// Runs the pass.
///
/// # Errors
/// Where a scale would have to leave a sum that it cannot leave.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let passed = passed_weights(&module, options);
    let weights = quantized_params(&mut module, &passed);
    let mut stream = new_stream(&module);
    let stride = if options.normalization == Normalization::Rms { 2 } else { 1 };
    for index in 0..module.layers.len() {
        let old = std::mem::take(&mut module.layers[index]);
        let later = module.layers[index + 1..].iter().filter(|layer| publishes(layer)).count();
        let mut quantizer = Quantizer {
            wanted: contraction_operands(&old, &weights, stride),
            old: &old,
            new: Layer::new(old.name.clone(), old.role),
            module: &mut module,
            options,
            forms: HashMap::new(),
            stream: &mut stream,
            later_publishers: later,
            tracks: Vec::new(),
            ranges: Vec::new(),
        };
        let layer = quantizer.layer()?;
        module.layers[index] = layer;
    }
    module.phase = Phase::Quantized;
    Ok(module)
}

/// Weights that gradients pass on their way to what they contract: those behind another contraction of their layer, and, where
/// layers look at the next one, behind another layer. Prediction finds the same.
fn passed_weights(module: &Module, options: &Options) -> HashSet<Handle<Param>> {
    let mut passed = HashSet::new();
    for (index, layer) in module.layers.iter().enumerate() {
        let mut trained = trained_values(module, layer);
        if options.look_ahead == LookAhead::Hop && index > 1 {
            trained.extend(&layer.forward);
        }
        for &value in &layer.forward {
            let (contracted, weight) = match layer.values[value].op {
                Op::Dot { lhs, rhs } => (lhs, rhs),
                Op::Depthwise { value, weight, .. } => (value, weight),
                _ => continue,
            };
            passed.extend(param_of(layer, weight).filter(|_| trained.contains(&contracted)));
        }
    }
    passed
}

/// Whether a layer shows its error signal to others.
fn publishes(layer: &Layer) -> bool {
    layer.look_ahead.iter().any(|&value| matches!(layer.values[value].op, Op::Publish(_)))
}

/// Gives weights their fixed-point storage and names the parameters that contractions read as integers.
fn quantized_params(module: &mut Module, passed: &HashSet<Handle<Param>>) -> HashSet<Handle<Param>> {
    let mut weights = HashSet::new();
    let handles: Vec<_> = module.params.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let param = &mut module.params[handle];
        let storage = match param.role {
            ParamRole::Weight if !passed.contains(&handle) => ParamStorage::Fixed16(Granularity::Channel),
            // One scale for all: errors pass through the matrix in the other direction too.
            ParamRole::Weight | ParamRole::Head(_) => ParamStorage::Fixed16(Granularity::Tensor),
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

/// The values that contractions of this layer or of the next ones read; of outputs every `stride`th is one.
fn contraction_operands(layer: &Layer, weights: &HashSet<Handle<Param>>, stride: usize) -> HashSet<V> {
    let mut wanted = HashSet::new();
    let mut want = |value: V| {
        let mut source = value;
        while let Op::Transpose(inner) | Op::Window { value: inner, .. } | Op::Back { weight: inner, .. } =
            layer.values[source].op
        {
            source = inner;
        }
        source = layer.sliced(source).unwrap_or(source);
        match layer.values[source].op {
            Op::Operand(_) => {}
            Op::Param(param) if weights.contains(&param) => {}
            _ => {
                wanted.insert(source);
            }
        }
    };
    let is_pool = |value: V| matches!(layer.values[value].op, Op::Pool { .. });
    for (region, value) in layer.ops() {
        match layer.values[value].op {
            op @ (Op::Dot { .. } | Op::Depthwise { .. } | Op::DepthwiseGrad { .. }) => op.operands(&mut want),
            // Sums of sums stay sums; gradients that are pooled and nothing else are not worth a quantizer.
            Op::Pool { value, .. } if region != Region::Update && !is_pool(value) => want(value),
            // Kept for the gradient; prediction quantizes it too, to compute what training does.
            Op::Activate(activation, input)
                if layer.role == LayerRole::Hidden
                    && activation.derivative_from() == DerivativeFrom::Input =>
            {
                want(input);
            }
            _ => {}
        }
    }
    if layer.role != LayerRole::Classifier {
        layer.outputs.iter().step_by(stride).copied().for_each(want);
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
    /// Ranges to track: parameter and the values whose magnitude it follows.
    tracks: Vec<(Handle<Param>, Vec<V>)>,
    /// Kinds of ranges that the layer has.
    ranges: Vec<&'static str>,
}

impl Quantizer<'_> {
    fn layer(&mut self) -> Result<Layer, String> {
        let old = self.old;
        for region in Region::ALL {
            for &value in old.region(region) {
                self.value(region, value)?;
                if self.wanted.contains(&value) && !self.is_integer(value) {
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
            Op::Operand(position) if self.old.role != LayerRole::Prepare => {
                self.operand(region, name, position, ir.ty)
            }
            Op::Param(param) if self.module.params[param].ty().dtype == DType::I8 => {
                self.weight(region, name, param)
            }
            Op::Transpose(source) => self.transpose(region, name, source),
            Op::Dot { lhs: a, rhs: b }
            | Op::Depthwise { value: a, weight: b, .. }
            | Op::DepthwiseGrad { grad: a, value: b, .. } => {
                let (left, right) = (self.scaled(name, a)?, self.scaled(name, b)?);
                self.products(region, &ir, left, right)
            }
            Op::Window { value, .. } | Op::Back { weight: value, .. } => {
                let (integer, factors) = self.scaled(name, value)?;
                self.integers(region, &ir, integer, factors)
            }
            Op::Pool { value, .. } if self.is_scaled(value) => {
                let (integer, factors) = self.scaled(name, value)?;
                self.integers(region, &ir, integer, factors)
            }
            Op::Slice { value, .. } if self.one_scale(value).is_some() => {
                let (integer, factors) = self.scaled(name, value)?;
                self.integers(region, &ir, integer, factors)
            }
            Op::Concat(a, b) if self.one_scale(a).is_some() && self.one_scale(a) == self.one_scale(b) => {
                let ((a, factors), (b, _)) = (self.scaled(name, a)?, self.scaled(name, b)?);
                let integer = self.builder(region).concat(name, a, b);
                Form::Scaled { integer, factors, float: None }
            }
            Op::MaxGrad { input, output, grad, window } => {
                let grad = self.float(region, grad);
                let ((input, _), (output, _)) = (self.scaled(name, input)?, self.scaled(name, output)?);
                let op = Op::MaxGrad { input, output, grad, window };
                Form::Same(self.builder(region).push(name, op, ir.ty))
            }
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

    /// The factors of an 8-bit value that all of its columns have.
    fn one_scale(&self, value: V) -> Option<&[V]> {
        match &self.forms[&value] {
            Form::Scaled { integer, factors, .. } => {
                let same = |&factor: &V| self.new.ty(factor).columns() == Dim::Const(1);
                let is_byte = self.new.ty(*integer).dtype == DType::I8;
                (is_byte && factors.iter().all(same)).then_some(factors)
            }
            Form::Same(_) => None,
        }
    }

    /// Whether a value is 8-bit already.
    fn is_integer(&self, value: V) -> bool {
        matches!(self.forms[&value], Form::Scaled { integer, .. } if self.new.ty(integer).dtype == DType::I8)
    }

    /// The integer that a value is, and the factors that it stands for itself times.
    fn scaled(&self, user: &str, value: V) -> Result<(V, Vec<V>), String> {
        match &self.forms[&value] {
            Form::Scaled { integer, factors, .. } => Ok((*integer, factors.clone())),
            Form::Same(_) => {
                let value = &self.old.values[value].name;
                Err(format!("layer `{}`: `{value}` was not quantized for `{user}`", self.old.name))
            }
        }
    }

    /// The same operation on an integer, whose scale it keeps.
    fn integers(&mut self, region: Region, ir: &Value, integer: V, factors: Vec<V>) -> Form {
        let mut op = ir.op;
        op.operands_mut(|operand| *operand = integer);
        let dtype = match op {
            Op::Pool { op: PoolOp::Sum, .. } => DType::I32,
            _ => DType::I8,
        };
        let integer = self.builder(region).push(&ir.name, op, ir.ty.with_dtype(dtype));
        Form::Scaled { integer, factors, float: None }
    }

    /// A contraction of two integers. A factor per row of the right operand is one per column of the result.
    fn products(
        &mut self,
        region: Region,
        ir: &Value,
        (left, left_factors): (V, Vec<V>),
        (right, right_factors): (V, Vec<V>),
    ) -> Form {
        let mut op = ir.op;
        let mut integers = [left, right].into_iter();
        op.operands_mut(|operand| *operand = integers.next().expect("a contraction has two operands"));
        let mut builder = self.builder(region);
        let integer = builder.push(&ir.name, op, ir.ty.with_dtype(DType::I32));
        let right: Vec<V> = right_factors.into_iter().map(|factor| turned(&mut builder, factor)).collect();
        Form::Scaled { integer, factors: left_factors.into_iter().chain(right).collect(), float: None }
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

    /// Whether what is handed over has a factor per row beside it.
    fn has_factors(&self) -> bool {
        self.options.normalization == Normalization::Rms
    }

    /// What the layer before hands over: integers, each with its scale, which is part of the factor per row where there
    /// is one.
    fn operand(&mut self, region: Region, name: &str, position: u32, ty: Type) -> Form {
        let has_factors = self.has_factors();
        let mut builder = self.builder(region);
        if has_factors && position % 2 == 1 {
            return Form::Same(builder.push(name, Op::Operand(position), ty));
        }
        let number = if has_factors { position } else { 2 * position };
        let integer = builder.push(name, Op::Operand(number), ty.with_dtype(DType::I8));
        let factors = if has_factors {
            Vec::new()
        } else {
            vec![builder.push("factor", Op::Operand(number + 1), Type::scalar())]
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
        let parts: Vec<V> = self.old.parts(value).into_iter().map(|(part, _)| part).collect();
        let floats: Vec<V> = parts.iter().map(|&part| self.float(region, part)).collect();
        let is_next_error = looks_at_next(self.old) && self.old.look_ahead.last() == Some(&value);
        let is_error = error_signal(self.old) == Some(value) || is_next_error;
        let (scale, nearest) = match region {
            Region::Forward if self.old.role == LayerRole::Prepare => {
                let range = self.options.preprocessing.range();
                (self.builder(region).constant(range / QMAX), true)
            }
            Region::Forward => (self.tracked_scale(region, "range", &floats), true),
            Region::Head if !is_error => (self.tracked_scale(region, "head_range", &floats), true),
            Region::LookAhead if !is_error => (self.tracked_scale(region, "ahead_range", &floats), true),
            Region::Head | Region::LookAhead => (self.error_scale(region), false),
            Region::Update => (self.tracked_scale(region, "gradient_range", &floats), false),
        };
        let mut whole = None;
        for (part, float) in parts.into_iter().zip(floats) {
            let name = format!("{}.q", self.old.values[part].name);
            let integer = self.quantize_by(region, &name, float, (scale, nearest));
            let form = Form::Scaled { integer, factors: vec![scale], float: None };
            if matches!(self.forms[&part], Form::Same(_)) {
                self.forms.insert(part, form);
            }
            whole = Some(match whole {
                None => integer,
                Some(before) => self.builder(region).concat(&name, before, integer),
            });
        }
        let integer = whole.expect("there is a part of everything");
        self.forms.insert(value, Form::Scaled { integer, factors: vec![scale], float: None });
    }

    fn quantize_by(&mut self, region: Region, name: &str, float: V, (scale, nearest): (V, bool)) -> V {
        let rounding = if nearest {
            Rounding::Nearest
        } else {
            *self.stream += 1;
            Rounding::Stochastic(*self.stream - 1)
        };
        let mut builder = self.builder(region);
        let ty = builder.ty(float).with_dtype(DType::I8);
        builder.push(name, Op::Quantize { value: float, scale, rounding }, ty)
    }

    /// The scale that follows from a new range parameter, which is tracked where the module trains.
    fn tracked_scale(&mut self, region: Region, suffix: &'static str, observed: &[V]) -> V {
        let taken = self.ranges.iter().filter(|range| **range == suffix).count();
        self.ranges.push(suffix);
        let number = if taken == 0 { String::new() } else { (taken + 1).to_string() };
        let name = format!("{}.{suffix}{number}", self.old.name);
        let param = self.module.param(&name).unwrap_or_else(|| {
            self.module.params.push(Param {
                name,
                shape: [1, 1],
                storage: ParamStorage::F32,
                role: ParamRole::Range(0.0),
            })
        });
        if !self.old.update.is_empty() {
            self.tracks.push((param, observed.to_vec()));
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
        let looks_ahead = publishes(self.old) && later > 0.0;
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
            let seen = format!("{name}.seen");
            let mut builder = self.builder(Region::Update);
            let mut rows = None;
            for value in observed {
                let largest = builder.reduce(&format!("{seen}.rows"), ReduceOp::AbsMax, value);
                rows = Some(match rows {
                    None => largest,
                    Some(rows) => builder.binary(&format!("{seen}.rows"), BinaryOp::Max, rows, largest),
                });
            }
            let rows = rows.expect("something was observed");
            let largest = builder.reduce_rows(&seen, ReduceOp::Max, rows);
            let op = Op::Track { param, observed: largest, decay: RANGE_DECAY };
            builder.push(&format!("{name}.track"), op, Type::scalar());
        }
    }

    /// Hands over integers, each with its scale, as part of its factor per row where there is one.
    fn outputs(&mut self) -> Result<(), String> {
        let outputs = self.old.outputs.clone();
        if self.old.role == LayerRole::Classifier {
            let logits = self.float(Region::Forward, outputs[0]);
            self.new.outputs = vec![logits];
            return Ok(());
        }
        let stride = if self.has_factors() && outputs.len() > 1 { 2 } else { 1 };
        for pair in outputs.chunks(stride) {
            let (integer, factors) = self.scaled("the next layer", pair[0])?;
            let mut factor = pair.get(1).map(|&factor| self.float(Region::Forward, factor));
            for scale in factors {
                factor = Some(match factor {
                    None => scale,
                    Some(factor) => self.builder(Region::Forward).mul("row_factor", factor, scale),
                });
            }
            let factor = factor.ok_or("the activation has no scale")?;
            self.new.outputs.extend([integer, factor]);
        }
        Ok(())
    }
}

/// A factor per row becomes one per column; a scalar stays.
fn turned(builder: &mut Builder<'_>, factor: V) -> V {
    let ty = builder.ty(factor);
    if ty.shape == [Dim::Const(1), Dim::Const(1)] { factor } else { builder.transpose("factor.t", factor) }
}
