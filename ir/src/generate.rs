//! Random modules for tests: valid, small, and full of odd shapes.
//!
//! A module is a function of its seed. It uses every operation sooner or later, in combinations that no pass would
//! make; all values stay finite for finite inputs of magnitude up to a few hundred, so that executors can be compared
//! bit for bit.

use crate::arena::{Arena, Handle};
use crate::module::{
    Activation, BinaryOp, Control, DerivativeFrom, Granularity, Layer, LayerRole, Module, Op, Param,
    ParamRole, ParamStorage, Phase, ReduceOp, Region, Rounding, RowPlan, Sgd, UnaryOp, Value,
};
use crate::types::{DType, Dim, Type};
use crate::verify::result_type;

/// The module of this seed; [`verify`](crate::verify::verify) accepts it.
pub fn module(seed: u64) -> Module {
    let mut random = Random { state: seed };
    let phase = random.pick(&Phase::ALL);
    module_in(phase, random.next())
}

/// A module of this phase.
pub fn module_in(phase: Phase, seed: u64) -> Module {
    let mut random = Random { state: seed };
    let imported = phase == Phase::Imported;
    let module = Module {
        name: format!("m{}", seed % 1000),
        phase,
        batch: random.between(1, 6),
        features: random.between(1, 13),
        input: random.pick(&[DType::U8, DType::F32]),
        classes: random.between(2, 5),
        rows: if imported { RowPlan::Plain } else { random.pick(&RowPlan::ALL) },
        params: Arena::default(),
        layers: Vec::new(),
    };
    let look_ahead = random.chance(50);
    let mut generator =
        Generator { random, module, layer: Layer::default(), streams: 0, look_ahead, scored: None };
    let layers = if imported { 1 } else { generator.random.between(1, 3) };
    for index in 0..layers {
        generator.make_layer(index, layers);
    }
    generator.module
}

/// A generator of numbers (SplitMix64): the same everywhere, and good enough to choose by.
#[derive(Clone, Debug)]
pub struct Random {
    /// Any number.
    pub state: u64,
}

impl Random {
    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.between(0, 99) < percent
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// One of `choices`, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }
}

struct Generator {
    random: Random,
    module: Module,
    /// The layer that is being made.
    layer: Layer,
    streams: u32,
    /// Whether layers publish and look ahead.
    look_ahead: bool,
    /// The type of scores, once there are some.
    scored: Option<Type>,
}

/// Layers.
impl Generator {
    fn make_layer(&mut self, index: usize, count: usize) {
        let role = self.role(index, count);
        self.layer = Layer::new(format!("layer{index}"), role);
        self.operands(index);
        self.several(Region::Forward, 12);
        if !matches!(role, LayerRole::Whole | LayerRole::Prepare) {
            self.head();
            self.look_ahead();
            self.update();
        }
        let candidates: Vec<Handle<Value>> = self
            .layer
            .forward
            .iter()
            .copied()
            .filter(|&value| !self.layer.values[value].op.is_effect())
            .collect();
        for _ in 0..self.random.between(1, 3) {
            let output = self.random.pick(&candidates);
            self.layer.outputs.push(output);
        }
        let layer = std::mem::take(&mut self.layer);
        self.module.layers.push(layer);
    }

    fn role(&mut self, index: usize, count: usize) -> LayerRole {
        if self.module.phase == Phase::Imported {
            LayerRole::Whole
        } else if index + 1 == count && self.random.chance(50) {
            LayerRole::Classifier
        } else if index == 0 && self.random.chance(50) {
            LayerRole::Prepare
        } else {
            LayerRole::Hidden
        }
    }

    /// What comes from the layer before, or the samples.
    fn operands(&mut self, index: usize) {
        if self.module.phase == Phase::Imported {
            let ty = Type::new(DType::F32, Dim::ROWS, Dim::Const(self.module.features));
            self.layer.push(Region::Forward, "x", Op::Operand(0), ty);
        } else if let Some(before) = index.checked_sub(1).map(|index| &self.module.layers[index]) {
            let types: Vec<Type> = before.outputs.iter().map(|&output| before.ty(output)).collect();
            for (position, ty) in types.into_iter().enumerate() {
                self.layer.push(Region::Forward, "x", Op::Operand(position as u32), ty);
            }
        } else {
            let samples = self.push(Region::Forward, Op::Input);
            if self.module.input == DType::U8 {
                self.push(Region::Forward, Op::Convert(samples));
            }
        }
        // There is always something to work with.
        self.push(Region::Forward, Op::Polarity);
    }

    fn head(&mut self) {
        let region = Region::Head;
        self.several(region, 8);
        if self.random.chance(70) {
            self.score(region);
        }
        if self.random.chance(70) {
            let loss = self.whole(region, ReduceOp::Sum);
            self.push(region, Op::Report(loss));
        }
        if self.random.chance(50) {
            self.track(region);
        }
    }

    fn score(&mut self, region: Region) {
        let classes = self.module.classes;
        let ty = self.scored.unwrap_or_else(|| {
            let columns = if self.random.chance(50) { classes } else { 1 };
            Type::new(DType::F32, Dim::ROWS, Dim::Const(columns))
        });
        let per_row = self.per_row(region);
        let value = self.layer.push(region, "score", Op::Splat(per_row), ty);
        let accumulate = self.scored.is_some() && self.random.chance(80);
        self.push(region, Op::Score { value, accumulate });
        self.scored = Some(ty);
    }

    fn look_ahead(&mut self) {
        if self.look_ahead {
            let region = Region::LookAhead;
            let error = self.per_row(region);
            self.push(region, Op::Publish(error));
            let ty = self.layer.ty(error);
            let ahead = self.layer.push(region, "ahead", Op::Ahead, ty);
            let lambda = self.push(region, Op::Control(Control::Lambda));
            self.push(region, Op::Binary(BinaryOp::Mul, ahead, lambda));
        }
    }

    fn update(&mut self) {
        let region = Region::Update;
        self.several(region, 4);
        for _ in 0..self.random.between(0, 2) {
            self.sgd(region);
        }
        if self.random.chance(30) {
            self.track(region);
        }
        if self.random.chance(30) {
            let value = self.whole(region, ReduceOp::Max);
            let param = self.param("constant", [1, 1], ParamStorage::F32, ParamRole::Constant);
            self.push(region, Op::Assign { param, value });
        }
    }
}

/// Parts that effects need.
impl Generator {
    fn track(&mut self, region: Region) {
        let observed = self.whole(region, ReduceOp::AbsMax);
        let start = self.random.unit().abs();
        let param = self.param("range", [1, 1], ParamStorage::F32, ParamRole::Range(start));
        self.push(region, Op::Track { param, observed, decay: 0.75 });
    }

    fn sgd(&mut self, region: Region) {
        let weights: Vec<Handle<Param>> = self.fresh_weights();
        let param = if weights.is_empty() { self.weight(3, 5) } else { self.random.pick(&weights) };
        let [rows, columns] = self.module.params[param].shape;
        let ty = Type::new(DType::F32, Dim::Const(rows), Dim::Const(columns));
        let scalar = self.whole(region, ReduceOp::Max);
        let grad = self.layer.push(region, "grad", Op::Splat(scalar), ty);
        let factor = self.push(region, Op::Control(Control::Rate));
        let momentum = if self.random.chance(50) { Some((self.velocity(param), 0.5)) } else { None };
        let stream = self.stream();
        self.push(region, Op::Sgd(Sgd { param, grad, factor, stream, momentum }));
    }

    /// Weights that this layer alone reads and nothing writes.
    fn fresh_weights(&self) -> Vec<Handle<Param>> {
        let mut written = Vec::new();
        let mut read = Vec::new();
        for (_, value) in self.layer.ops() {
            match self.layer.values[value].op {
                Op::Sgd(sgd) => written.push(sgd.param),
                Op::Param(param) => read.push(param),
                _ => {}
            }
        }
        let trained = |param: &Handle<Param>| self.module.params[*param].role == ParamRole::Weight;
        read.into_iter().filter(|param| trained(param) && !written.contains(param)).collect()
    }

    fn velocity(&mut self, of: Handle<Param>) -> Handle<Param> {
        let Param { shape, storage, .. } = self.module.params[of];
        let storage = if storage == ParamStorage::F32 { ParamStorage::F32 } else { ParamStorage::I16 };
        self.param("velocity", shape, storage, ParamRole::Velocity)
    }

    /// All of a value, reduced to one number.
    fn whole(&mut self, region: Region, op: ReduceOp) -> Handle<Value> {
        let value = self.float();
        let rows = self.clipped(region, Op::Reduce(op, value));
        let rows = self.push(region, Op::Transpose(rows));
        self.clipped(region, Op::Reduce(op, rows))
    }

    /// Something in `f32[rows, 1]`.
    fn per_row(&mut self, region: Region) -> Handle<Value> {
        let rows = self.pool(|ty| ty.dtype == DType::F32 && ty.rows() == Dim::ROWS);
        let value = self.random.pick(&rows);
        self.clipped(region, Op::Reduce(ReduceOp::Sum, value))
    }
}

/// Values.
impl Generator {
    fn several(&mut self, region: Region, most: usize) {
        for _ in 0..self.random.between(1, most) {
            self.something(region);
        }
    }

    fn something(&mut self, region: Region) {
        match self.random.between(0, 9) {
            0 => self.source(region),
            1 => self.unary(region),
            2 | 3 => self.binary(region),
            4 => self.activation(region),
            5 => self.reduction(region),
            6 => self.labels(region),
            7 => self.shape(region),
            _ => self.dense(region),
        }
    }

    fn source(&mut self, region: Region) {
        let constant = self.random.unit() * 3.0;
        let param = self.param("bias", [1, 1], ParamStorage::F32, ParamRole::Bias);
        let control = self.random.pick(&Control::ALL);
        let op = [Op::Polarity, Op::Target, Op::Constant(constant), Op::Param(param), Op::Control(control)];
        // Labels are not for what inference must compute.
        let first = if region == Region::Forward { 2 } else { 0 };
        let op = self.random.pick(&op[first..]);
        self.push(region, op);
    }

    /// Functions whose operand is kept where they are defined and finite.
    fn unary(&mut self, region: Region) {
        let x = self.float();
        match self.random.pick(&UnaryOp::ALL) {
            op @ (UnaryOp::Neg | UnaryOp::Abs) => self.push(region, Op::Unary(op, x)),
            UnaryOp::Exp => {
                let x = self.clip(region, x);
                self.clipped(region, Op::Unary(UnaryOp::Exp, x))
            }
            op @ (UnaryOp::Sqrt | UnaryOp::Log) => {
                let x = self.positive(region, x);
                self.push(region, Op::Unary(op, x))
            }
        };
    }

    fn positive(&mut self, region: Region, x: Handle<Value>) -> Handle<Value> {
        let x = self.push(region, Op::Unary(UnaryOp::Abs, x));
        let half = self.push(region, Op::Constant(0.5));
        self.push(region, Op::Binary(BinaryOp::Add, x, half))
    }

    fn binary(&mut self, region: Region) {
        let (a, mut b) = (self.float(), self.float());
        let op = self.random.pick(&BinaryOp::ALL);
        if op == BinaryOp::Div {
            b = self.positive(region, b);
        }
        if self.layer.ty(a).broadcast(self.layer.ty(b)).is_some() {
            self.clipped(region, Op::Binary(op, a, b));
        }
    }

    fn activation(&mut self, region: Region) {
        let x = self.float();
        let activation = self.random.pick(&Activation::all([0.25, 6.0]));
        let output = self.push(region, Op::Activate(activation, x));
        let output = if activation.derivative_from() == DerivativeFrom::Input { x } else { output };
        if self.random.chance(50) {
            self.clipped(region, Op::ActivateGrad { activation, output, grad: x });
        }
    }

    fn reduction(&mut self, region: Region) {
        let (any, op) = (self.pool(|_| true), self.random.pick(&ReduceOp::ALL));
        let value = self.random.pick(&any);
        let op = Op::Reduce(op, value);
        match result_type(&self.module, &self.layer, &op) {
            Ok(ty) if ty.dtype == DType::F32 => drop(self.clipped(region, op)),
            Ok(_) => drop(self.push(region, op)),
            Err(_) => {}
        }
    }

    fn labels(&mut self, region: Region) {
        let stream = self.stream();
        let labels = self.push(region, Op::Overlaid { stream });
        let wide =
            |ty: Type| matches!(ty.columns(), Dim::Const(columns) if columns >= 2) && ty.rows() == Dim::ROWS;
        let wide = self.pool(|ty| ty.dtype == DType::F32 && wide(ty));
        if wide.is_empty() || self.random.chance(50) {
            let classes = self.module.classes;
            self.push(region, Op::OneHot { labels, classes });
        } else {
            let value = self.random.pick(&wide);
            self.push(region, Op::Overlay { value, labels, classes: 2, on: 1.5, off: -0.25 });
        }
    }

    fn shape(&mut self, region: Region) {
        let any = self.pool(|_| true);
        let value = self.random.pick(&any);
        let ty = self.layer.ty(value);
        let other = self.random.pick(&any);
        let part = self.random.between(1, 3);
        let some =
            [Op::Concat(value, other), Op::Slice { value, from: self.random.between(0, 2), columns: part }];
        let op = self.random.pick(&some);
        if self.random.chance(30) && result_type(&self.module, &self.layer, &op).is_ok() {
            self.push(region, op);
        } else if ty.columns() == Dim::Const(1) && self.random.chance(70) {
            let columns = Dim::Const(self.random.between(1, 9));
            self.layer.push(region, "splat", Op::Splat(value), Type::new(ty.dtype, ty.rows(), columns));
        } else if ty.dtype != DType::F32 && self.random.chance(50) {
            let value = self.push(region, Op::Convert(value));
            self.clip(region, value);
        } else {
            self.push(region, Op::Transpose(value));
        }
    }

    /// A contraction with a new weight or with itself, quantized where it must be.
    fn dense(&mut self, region: Region) {
        let x = self.float();
        let quantized = self.module.phase == Phase::Quantized;
        let lhs = if quantized { self.quantize(region, x) } else { x };
        let rhs = match self.layer.ty(lhs).columns() {
            Dim::Const(columns) if self.random.chance(80) => {
                let rows = self.random.between(1, 7);
                let weight = self.weight(rows, columns);
                self.push(region, Op::Param(weight))
            }
            _ => lhs,
        };
        let dot = self.push(region, Op::Dot { lhs, rhs });
        let dot = if quantized { self.push(region, Op::Convert(dot)) } else { dot };
        let dot = self.rescaled(region, dot, rhs);
        self.clip(region, dot);
    }

    /// Times a scale that broadcasts: a weight's own where all of it shares one.
    fn rescaled(&mut self, region: Region, dot: Handle<Value>, rhs: Handle<Value>) -> Handle<Value> {
        let scale = match self.layer.values[rhs].op {
            Op::Param(param) if self.module.params[param].scale_type().is_some() => {
                let scale = self.push(region, Op::ScaleOf(param));
                self.push(region, Op::Transpose(scale))
            }
            _ => self.push(region, Op::Constant(0.125)),
        };
        self.push(region, Op::Binary(BinaryOp::Mul, dot, scale))
    }

    fn quantize(&mut self, region: Region, value: Handle<Value>) -> Handle<Value> {
        let scale = self.push(region, Op::Constant(0.0625));
        let rounding =
            if self.random.chance(50) { Rounding::Nearest } else { Rounding::Stochastic(self.stream()) };
        self.push(region, Op::Quantize { value, scale, rounding })
    }

    fn weight(&mut self, rows: usize, columns: usize) -> Handle<Param> {
        let storage = match self.module.phase {
            Phase::Quantized => {
                ParamStorage::Fixed16(self.random.pick(&[Granularity::Tensor, Granularity::Channel]))
            }
            Phase::Imported | Phase::Trainable => ParamStorage::F32,
        };
        self.param("weight", [rows, columns], storage, ParamRole::Weight)
    }

    fn param(
        &mut self,
        what: &str,
        shape: [usize; 2],
        storage: ParamStorage,
        role: ParamRole,
    ) -> Handle<Param> {
        let name = format!("{}.{what}{}", self.layer.name, self.module.params.len());
        self.module.params.push(Param { name, shape, storage, role })
    }

    fn stream(&mut self) -> u32 {
        self.streams += 1;
        self.streams
    }

    /// Values of the layer so far whose type is accepted.
    fn pool(&self, accept: impl Fn(Type) -> bool) -> Vec<Handle<Value>> {
        let values = self.layer.values.iter();
        values
            .filter(|(_, value)| accept(value.ty) && !value.op.is_effect())
            .map(|(handle, _)| handle)
            .collect()
    }

    /// One of the `f32` values; a layer starts with one.
    fn float(&mut self) -> Handle<Value> {
        let floats = self.pool(|ty| ty.dtype == DType::F32);
        self.random.pick(&floats)
    }

    fn clip(&mut self, region: Region, value: Handle<Value>) -> Handle<Value> {
        self.push(region, Op::Activate(Activation::Clip { low: -8.0, high: 8.0 }, value))
    }

    fn clipped(&mut self, region: Region, op: Op) -> Handle<Value> {
        let value = self.push(region, op);
        self.clip(region, value)
    }

    fn push(&mut self, region: Region, op: Op) -> Handle<Value> {
        let ty = result_type(&self.module, &self.layer, &op).expect("the generator knows the types that fit");
        self.layer.push(region, "v", op, ty)
    }
}
