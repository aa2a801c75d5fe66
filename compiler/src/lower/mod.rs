//! Lowering: from layers to kernels.
//!
//! Fusion is decided here, once for all backends. Per layer, `place` assigns every operation to a kernel and a stage,
//! `emit` writes the kernels, and this file puts them together: buffers that all share, and the schedules.
//!
//! The rule of fusion: a contraction opens a kernel; whatever is computed elementwise from a value goes to the kernel
//! that made the value, as long as it covers the same rows and columns (or only the rows); a reduction belongs to the
//! kernel of its operand, and what needs its result runs in a later stage of that kernel. Everything else opens a
//! kernel of its own. A value that another kernel or stage needs is stored, unless it is a few instructions away from
//! something that is stored anyway.

mod emit;
mod optimize;
mod place;

use std::collections::HashMap;

use ffc_ir::analysis::longest_chain;
use ffc_ir::kernel::{Buffer, BufferClass, Extent, Kernel, Plane, Program, Purpose, Schedule};
use ffc_ir::module::{Control, Granularity, Module, Op, Param, ParamStorage, RowPlan, Value};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::verify::Verified;
use ffc_ir::{Arena, Handle};

use crate::plan;
use place::Placement;

/// Why a verified module could not be lowered: an operation in a place that lowering does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerError {
    /// The layer.
    pub layer: String,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Display for LowerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer `{}`: {}", self.layer, self.reason)
    }
}

impl std::error::Error for LowerError {}

/// Lowers the module that trains and the module that predicts into one program, and plans its memory.
///
/// # Errors
/// [`LowerError`] where an operation stands where lowering does not know it.
pub fn lower(train: &Verified<'_>, infer: &Verified<'_>) -> Result<Program, LowerError> {
    let mut program = Lowering::new(train, infer);
    let publishes = |value: &Value| matches!(value.op, Op::Publish(_));
    let looks_ahead = train.layers.iter().any(|layer| layer.values.values().any(publishes));
    let scouts = match looks_ahead {
        true => program.module(&scout(train), Sweep::Scout)?,
        false => Vec::new(),
    };
    let layers = program.module(train, Sweep::Train)?;
    let infers = program.module(infer, Sweep::Infer)?;
    let mut schedules = vec![schedule(Purpose::Calibrate, layers.iter().flat_map(LayerKernels::calibrate))];
    let all = scouts.iter().chain(&layers).flat_map(LayerKernels::all);
    schedules.push(schedule(Purpose::Train, all));
    let trained = train.layers.iter().enumerate().filter(|(_, layer)| !layer.update.is_empty());
    for (number, (index, _)) in trained.enumerate() {
        let before = layers[..index].iter().flat_map(LayerKernels::forward);
        schedules.push(schedule(Purpose::TrainLayer(number), before.chain(layers[index].all())));
    }
    schedules.push(schedule(Purpose::Infer, infers.iter().flat_map(LayerKernels::all)));
    program.program.schedules = schedules;
    plan::place_buffers(&mut program.program);
    Ok(program.program)
}

fn schedule(purpose: Purpose, kernels: impl Iterator<Item = Handle<Kernel>>) -> Schedule {
    Schedule { purpose, kernels: kernels.collect() }
}

/// The module of the first of two sweeps: it only finds out what layers publish.
fn scout(train: &Module) -> Module {
    let mut module = train.clone();
    for layer in &mut module.layers {
        layer.update.clear();
        let values = &layer.values;
        layer.head.retain(|&value| !matches!(values[value].op, Op::Report(_)));
    }
    // What only the updates and reports read is dead now. The pass looks at no option, so any will do.
    let options = crate::recipe::RECIPES[0].options();
    crate::passes::eliminate_dead::run(module, &options).unwrap_or_else(|never| unreachable!("{never}"))
}

/// Which of a program's sweeps over the layers a kernel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    Train,
    Scout,
    Infer,
}

impl Sweep {
    /// What kernel and buffer names begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Train => "",
            Self::Scout => "scout.",
            Self::Infer => "infer.",
        }
    }
}

/// The kernels of a layer in order, each with what it is there for.
struct LayerKernels {
    kernels: Vec<(Handle<Kernel>, Duty)>,
    /// Ranges of the forward region that follow from one another.
    chain: usize,
}

/// What schedules need to know of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Makes what the next layer reads.
    Forward,
    /// Lets a range follow the layer's activation.
    TrackForward,
    /// Changes weights.
    Optimize,
    /// Anything else.
    Other,
}

impl LayerKernels {
    fn with(&self, duty: Duty) -> impl Iterator<Item = Handle<Kernel>> + '_ {
        self.kernels.iter().filter(move |(_, other)| *other == duty).map(|(kernel, _)| *kernel)
    }

    fn forward(&self) -> impl Iterator<Item = Handle<Kernel>> + '_ {
        self.with(Duty::Forward)
    }

    fn all(&self) -> impl Iterator<Item = Handle<Kernel>> + '_ {
        self.kernels.iter().map(|(kernel, _)| *kernel)
    }

    /// The activation's range first, with whatever scale; then the pass again with the scale that was found, and the
    /// ranges of what follows from it. Where ranges follow from one another, there is a first time for each. No weight moves.
    fn calibrate(&self) -> impl Iterator<Item = Handle<Kernel>> + '_ {
        let tracks = self.with(Duty::TrackForward).next().is_some();
        let times = if tracks { self.chain } else { 0 };
        let first = (0..times).flat_map(|_| self.forward().chain(self.with(Duty::TrackForward)));
        let rest = |duty: Duty| matches!(duty, Duty::TrackForward | Duty::Other);
        let rest = self.kernels.iter().filter(move |(_, duty)| rest(*duty)).map(|(kernel, _)| *kernel);
        first.chain(self.forward()).chain(rest)
    }
}

/// What a layer hands over, in memory.
#[derive(Clone, Copy, Default)]
struct Boundary {
    /// As it is.
    plain: Option<Handle<Buffer>>,
    /// Transposed.
    turned: Option<Handle<Buffer>>,
    /// Whether no element is negative.
    non_negative: bool,
}

/// The program under construction.
struct Lowering {
    program: Program,
    /// Named by what they hold; made on first use.
    shared: HashMap<BufferClass, Handle<Buffer>>,
    /// What each layer publishes.
    published: HashMap<usize, Handle<Buffer>>,
    /// Each trained layer's position among them, by name.
    trained: HashMap<String, usize>,
}

impl Lowering {
    fn new(train: &Module, infer: &Module) -> Self {
        let infer_rows = infer.rows.rows_per_sample(infer.classes);
        let trained_layers: Vec<String> = train
            .layers
            .iter()
            .filter(|layer| !layer.update.is_empty())
            .map(|layer| layer.name.clone())
            .collect();
        let program = Program {
            name: train.name.clone(),
            batch: train.batch,
            infer_batch: (train.batch_rows() / infer_rows).max(1),
            features: train.features,
            input: train.input,
            classes: train.classes,
            trained_layers: trained_layers.clone(),
            params: all_params(train, infer),
            buffers: Arena::default(),
            kernels: Arena::default(),
            schedules: Vec::new(),
            arena_bytes: 0,
            state_bytes: 0,
        };
        let trained = trained_layers.into_iter().enumerate().map(|(index, name)| (name, index)).collect();
        let mut lowering = Self { program, shared: HashMap::new(), published: HashMap::new(), trained };
        lowering.param_buffers();
        lowering
    }

    /// Adds a kernel; its name is made unique by a number where it is taken.
    fn add_kernel(&mut self, mut kernel: Kernel) -> Handle<Kernel> {
        let taken = |name: &str| self.program.kernels.values().any(|other| other.name == name);
        if taken(&kernel.name) {
            let numbered = (2..).map(|n| format!("{}.{n}", kernel.name)).find(|name| !taken(name));
            kernel.name = numbered.expect("numbers do not run out");
        }
        self.program.kernels.push(kernel)
    }

    fn param_buffers(&mut self) {
        for (index, param) in self.program.params.clone().iter().enumerate() {
            let [rows, columns] = param.shape.map(Extent::Const);
            let mut plane = |suffix: &str, plane, dtype, shape| {
                let class = BufferClass::Param { param: index, plane };
                let name = format!("{}{suffix}", param.name);
                let buffer = self.program.buffers.push(Buffer {
                    name,
                    dtype,
                    shape,
                    class,
                    samples: 1,
                    offset: 0,
                    dense: false,
                });
                self.shared.insert(class, buffer);
            };
            match param.storage {
                ParamStorage::Fixed16(granularity) => {
                    let scales = match granularity {
                        Granularity::Channel => rows,
                        Granularity::Tensor => Extent::Const(1),
                    };
                    plane("", Plane::Value, DType::I8, [rows, columns]);
                    plane(".low", Plane::Low, DType::I8, [rows, columns]);
                    plane(".scale", Plane::Scale, DType::F32, [scales, Extent::Const(1)]);
                }
                ParamStorage::F32 => plane("", Plane::Value, DType::F32, [rows, columns]),
                ParamStorage::I8 => plane("", Plane::Value, DType::I8, [rows, columns]),
                ParamStorage::I16 => plane("", Plane::Value, DType::I16, [rows, columns]),
            }
        }
    }

    /// A buffer that the session or all sweeps share.
    fn shared(&mut self, class: BufferClass, name: &str, dtype: DType, shape: [Extent; 2]) -> Handle<Buffer> {
        let samples = self.program.batch.max(self.program.infer_batch);
        let buffers = &mut self.program.buffers;
        *self.shared.entry(class).or_insert_with(|| {
            buffers.push(Buffer {
                name: name.to_string(),
                dtype,
                shape,
                class,
                samples,
                offset: 0,
                dense: false,
            })
        })
    }

    fn param_plane(&self, module: &Module, param: Handle<Param>, plane: Plane) -> Handle<Buffer> {
        let name = &module.params[param].name;
        let index = self.program.params.iter().position(|other| other.name == *name);
        let index = index.expect("the program has the parameters of both modules");
        self.shared[&BufferClass::Param { param: index, plane }]
    }

    fn module(&mut self, module: &Module, sweep: Sweep) -> Result<Vec<LayerKernels>, LowerError> {
        let mut boundaries: Vec<Boundary> = Vec::new();
        let mut all = Vec::new();
        for (index, layer) in module.layers.iter().enumerate() {
            let mut lowerer = LayerLowering {
                placement: Placement::of(layer),
                module,
                layer,
                index,
                sweep,
                operands: &boundaries,
                lowering: self,
                plain: HashMap::new(),
                turned: HashMap::new(),
                parts: HashMap::new(),
                live: HashMap::new(),
            };
            let (kernels, outputs) = lowerer.lower(&module.layers[index + 1..])?;
            all.push(kernels);
            boundaries = outputs;
        }
        Ok(all)
    }
}

/// The parameters of both modules, each once.
fn all_params(train: &Module, infer: &Module) -> Vec<Param> {
    let mut params: Vec<Param> = train.params.values().cloned().collect();
    for param in infer.params.values() {
        if params.iter().all(|other| other.name != param.name) {
            params.push(param.clone());
        }
    }
    params
}

/// One layer on its way to kernels.
struct LayerLowering<'a> {
    placement: Placement,
    module: &'a Module,
    layer: &'a ffc_ir::module::Layer,
    index: usize,
    sweep: Sweep,
    operands: &'a [Boundary],
    lowering: &'a mut Lowering,
    /// Where values are stored.
    plain: HashMap<Handle<Value>, Handle<Buffer>>,
    /// Where values are stored transposed.
    turned: HashMap<Handle<Value>, Handle<Buffer>>,
    /// Where values are stored as parts of others, and from which column on.
    parts: HashMap<Handle<Value>, (Handle<Buffer>, usize)>,
    /// Whether rows of gradients hold anything.
    live: HashMap<Handle<Value>, Handle<Buffer>>,
}

impl LayerLowering<'_> {
    fn error(&self, reason: impl Into<String>) -> LowerError {
        LowerError { layer: self.layer.name.clone(), reason: reason.into() }
    }

    fn rows_per_sample(&self) -> usize {
        self.module.rows.rows_per_sample(self.module.classes)
    }

    fn extent(&self, dim: Dim) -> Extent {
        match dim {
            Dim::Rows(n) => Extent::Rows(self.rows_per_sample() * n),
            Dim::Const(size) => Extent::Const(size),
        }
    }

    fn lower(
        &mut self,
        later: &[ffc_ir::module::Layer],
    ) -> Result<(LayerKernels, Vec<Boundary>), LowerError> {
        let demand = self.placement.demand(self.layer, later);
        let wholes: Vec<_> = demand.plain.iter().copied().filter(|&value| self.is_concat(value)).collect();
        for &whole in &wholes {
            let buffer = self.new_buffer(whole, false);
            self.plain.insert(whole, buffer);
            for part in self.placement.parts.iter().filter(|part| part.whole == whole) {
                self.parts.entry(part.value).or_insert((buffer, part.from));
            }
        }
        for value in demand.plain {
            // Where it is a part already, it is read there.
            let is_there = self.parts.contains_key(&value) && !demand.whole.contains(&value);
            if !is_there && !wholes.contains(&value) {
                let buffer = self.new_buffer(value, false);
                self.plain.insert(value, buffer);
            }
        }
        for value in demand.turned {
            let buffer = self.new_buffer(value, true);
            self.turned.insert(value, buffer);
        }
        let mut kernels = Vec::new();
        for kernel in 0..self.placement.kernels.len() {
            let duty = self.placement.duty(self.layer, kernel);
            // A kernel that copies for whoever wants it may find nobody who does.
            for emitted in self.kernel(kernel)?.into_iter().filter(|emitted| !emitted.stages.is_empty()) {
                kernels.push((self.lowering.add_kernel(emitted), duty));
            }
        }
        let outputs = self.layer.outputs.iter().map(|&value| self.boundary(value)).collect();
        Ok((LayerKernels { kernels, chain: longest_chain(self.layer) }, outputs))
    }

    fn is_concat(&self, value: Handle<Value>) -> bool {
        matches!(self.layer.values[value].op, Op::Concat(..))
    }

    fn boundary(&self, value: Handle<Value>) -> Boundary {
        if let Op::Operand(n) = self.layer.values[value].op {
            return self.operands.get(n as usize).copied().unwrap_or_default();
        }
        Boundary {
            plain: self.plain.get(&value).copied(),
            turned: self.turned.get(&value).copied(),
            non_negative: self.is_non_negative(value),
        }
    }

    /// An arena buffer for a value.
    fn new_buffer(&mut self, value: Handle<Value>, turned: bool) -> Handle<Buffer> {
        let Value { name, ty, .. } = &self.layer.values[value];
        let (ty, suffix) = if turned { (ty.transposed(), ".t") } else { (*ty, "") };
        let name = format!("{}{}.{name}{suffix}", self.sweep.prefix(), self.layer.name);
        let buffer = self.arena_buffer(name, ty, BufferClass::Arena);
        if let (false, Some(image)) = (turned, self.reshaped(value)) {
            let shape = image.shape.map(|dim| self.extent(dim));
            let buffer = &mut self.lowering.program.buffers[buffer];
            (buffer.shape, buffer.dense) = (shape, true);
        }
        // Filters that lead back are written in another shape.
        let back = matches!(self.layer.values[value].op, Op::Back { .. });
        // An image of one position is a row like any other, unless it is looked at as an image.
        let looks = |user: &Value| place::looks_at(&user.op, value);
        let dense = back || self.is_concat(value) || self.layer.values.values().any(looks);
        self.lowering.program.buffers[buffer].dense |= !turned && dense;
        buffer
    }

    /// The type of the image as which a value lies in memory, where something reads it as one.
    fn reshaped(&self, value: Handle<Value>) -> Option<Type> {
        let image = |user: &Value| user.op == Op::Reshape(value) && user.ty.is_image();
        self.layer.values.values().find(|user| image(user)).map(|user| user.ty)
    }

    fn arena_buffer(&mut self, name: String, ty: Type, class: BufferClass) -> Handle<Buffer> {
        let program = &self.lowering.program;
        let samples = if self.sweep == Sweep::Infer { program.infer_batch } else { program.batch };
        let shape = ty.shape.map(|dim| self.extent(dim));
        let dense = ty.is_image();
        let buffer = Buffer { name, dtype: ty.dtype, shape, class, samples, offset: 0, dense };
        self.lowering.program.buffers.push(buffer)
    }

    /// Where this layer publishes its error signal; the second sweep finds it there.
    fn published(&mut self, layer: usize, ty: Type) -> Handle<Buffer> {
        if let Some(&buffer) = self.lowering.published.get(&layer) {
            return buffer;
        }
        let name = format!("{}.published", self.module.layers[layer].name);
        let buffer = self.arena_buffer(name, ty, BufferClass::Accumulator);
        self.lowering.published.insert(layer, buffer);
        buffer
    }

    fn scores(&mut self) -> Handle<Buffer> {
        let classes = self.module.classes;
        let shape = match self.module.rows {
            RowPlan::EveryLabel => [Extent::Rows(classes), Extent::Const(1)],
            _ => [Extent::Rows(1), Extent::Const(classes)],
        };
        self.lowering.shared(BufferClass::Scores, "scores", DType::F32, shape)
    }

    fn scalar(&mut self, class: BufferClass, name: &str, dtype: DType) -> Handle<Buffer> {
        self.lowering.shared(class, name, dtype, [Extent::Const(1), Extent::Const(1)])
    }

    fn control(&mut self, control: Control) -> Handle<Buffer> {
        self.scalar(BufferClass::Control(control), control.name(), DType::F32)
    }

    fn key(&mut self) -> Handle<Buffer> {
        self.scalar(BufferClass::Key, "key", DType::I32)
    }

    fn loss(&mut self) -> Result<Handle<Buffer>, LowerError> {
        let number = self.lowering.trained.get(&self.layer.name).copied();
        let number = number.ok_or_else(|| self.error("reports a loss but is not trained"))?;
        Ok(self.scalar(BufferClass::Loss(number), &format!("loss.{}", self.layer.name), DType::F32))
    }

    /// Whether no element of a quantized value is negative.
    fn is_non_negative(&self, value: Handle<Value>) -> bool {
        match self.layer.values[value].op {
            Op::Quantize { value, .. } | Op::Transpose(value) | Op::Slice { value, .. } => {
                self.is_non_negative(value)
            }
            Op::Concat(a, b) => self.is_non_negative(a) && self.is_non_negative(b),
            Op::Activate(activation, _) => activation.is_non_negative(),
            Op::Operand(n) => self.operands.get(n as usize).is_some_and(|operand| operand.non_negative),
            Op::Param(param) => {
                matches!(self.module.params[param].role, ffc_ir::module::ParamRole::Groups)
            }
            _ => false,
        }
    }
}
