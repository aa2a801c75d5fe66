//! The imported network, and how it is put together operation by operation.
//!
//! Both the importer and [`restore`](crate::restore) build through [`Builder`], which knows the layer IR and its limits.
//! When all is there, [`simplify`](crate::simplify) brings the layer into its one form, whatever the file looked like,
//! and names are given: parameters by the layers they belong to, values by the parameters above them.

use std::collections::{HashMap, HashSet};

use ffc_ir::module::{Activation, BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage};
use ffc_ir::module::{Phase, PoolOp, Region, RowPlan, Value};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::verify::result_type;
use ffc_ir::window::Window;
use ffc_ir::{Arena, Handle};

use crate::import::Reason;
use crate::interface::{Interface, Rms};
use crate::names::{self, Names};
use crate::numbers::Numbers;
use crate::simplify::{self, simplify};

/// A network as it was imported.
#[derive(Clone, Debug)]
pub struct Network {
    /// One layer `main`, phase `imported`: forward only, its output the logits.
    pub module: Module,
    /// Each parameter's values by its name, row by row.
    pub weights: Vec<(String, Numbers)>,
    /// The goodness heads that our own exports predict with, as `<layer>.head`; no part of the module.
    pub heads: Vec<(String, Numbers)>,
    /// The network's boundary in the file.
    pub interface: Interface,
}

/// Samples in a batch until the caller says otherwise.
const BATCH: usize = 128;
/// More layers than anything that is trained on a device.
const LAYERS: usize = 1024;
/// More operations than such layers have.
const OPERATIONS: usize = 16 * LAYERS;
/// More numbers in one activation of one sample: with this, a full batch can be counted.
pub(crate) const LARGEST: usize = 1 << 24;
/// A small file can share one constant between many layers, each of which gets a copy.
const COPIED: usize = 1 << 30;
/// More pieces of an activation than are worth putting together.
const RUNS: usize = 64;
/// What must come of it all.
const TASK: &str = "the task is classification with one score per class";

/// A matrix, row by row.
pub(crate) struct Matrix {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) values: Numbers,
}

/// A parameter that waits for its name.
pub(crate) struct Parameter {
    /// The layer that it belongs to, if the file says so.
    pub(crate) layer: Option<String>,
    pub(crate) shape: [usize; 2],
    pub(crate) role: ParamRole,
    pub(crate) values: Numbers,
    /// Whether a normalisation by the statistics of batches is in it.
    pub(crate) normalized: bool,
}

/// A contraction, and what stands before it.
struct Contraction {
    weight: Handle<Param>,
    /// Whether it reads the network's input.
    first: bool,
    /// Epsilon of the normalisation in front of it.
    normalized: Option<f32>,
}

/// Builds the layer.
pub(crate) struct Builder {
    /// A module without anything, for the types of operations.
    empty: Module,
    layer: Layer,
    params: Vec<Parameter>,
    contractions: Vec<Contraction>,
    /// Epsilons of normalisations that are not in front of a contraction.
    joined: Vec<f32>,
    heads: Vec<(Handle<Param>, Numbers)>,
    /// Slices by what they are of, first column and number of columns; what is put together from them by its parts.
    slices: HashMap<(Handle<Value>, usize, usize), Handle<Value>>,
    pairs: HashMap<(Handle<Value>, Handle<Value>), Handle<Value>>,
    /// Images that samples were made into.
    images: HashMap<(Handle<Value>, usize, bool), Handle<Value>>,
    input: Handle<Value>,
    input_name: String,
    features: usize,
    /// Numbers copied so far.
    copied: usize,
}

/// What the builder made.
pub(crate) struct Built {
    pub(crate) module: Module,
    pub(crate) weights: Vec<(String, Numbers)>,
    pub(crate) heads: Vec<(String, Numbers)>,
    pub(crate) normalization: Option<Rms>,
    pub(crate) batch_normalized: Vec<String>,
}

impl Builder {
    pub(crate) fn new(input: &str, features: usize) -> Self {
        let mut layer = Layer::new("main", LayerRole::Whole);
        let ty = Type::new(DType::F32, Dim::ROWS, Dim::Const(features));
        let value = layer.push(Region::Forward, "input", Op::Operand(0), ty);
        Self {
            empty: module("network".to_string(), features, 1),
            layer,
            params: Vec::new(),
            contractions: Vec::new(),
            joined: Vec::new(),
            heads: Vec::new(),
            slices: HashMap::new(),
            pairs: HashMap::new(),
            images: HashMap::new(),
            input: value,
            input_name: names::clean(input, "x").unwrap_or_else(|| "input".to_string()),
            features,
            copied: 0,
        }
    }

    /// The samples.
    pub(crate) fn input(&self) -> Handle<Value> {
        self.input
    }

    /// What a value consists of some columns of and nothing else.
    pub(crate) fn sliced(&self, value: Handle<Value>) -> Option<Handle<Value>> {
        self.layer.sliced(value)
    }

    /// Whether a value is the samples, perhaps as an image, or some channels of them.
    pub(crate) fn is_input(&self, value: Handle<Value>) -> bool {
        match self.op(self.sliced(value).unwrap_or(value)) {
            Op::Operand(_) => true,
            Op::Pixels { value, .. } | Op::Reshape(value) => value == self.input,
            _ => false,
        }
    }

    /// What makes a value.
    pub(crate) fn op(&self, value: Handle<Value>) -> Op {
        self.layer.values[value].op
    }

    /// Columns of a value.
    pub(crate) fn columns(&self, value: Handle<Value>) -> usize {
        simplify::columns(&self.layer, value)
    }

    /// Accounts for a copy of a constant.
    pub(crate) fn charge(&mut self, numbers: usize) -> Result<(), Reason> {
        self.copied = self.copied.saturating_add(numbers);
        if self.copied <= COPIED { Ok(()) } else { Err(format!("more than {COPIED} parameters").into()) }
    }

    /// Accounts for a weight of so many outputs and inputs.
    pub(crate) fn charge_weight(&mut self, [outputs, inputs]: [usize; 2]) -> Result<(), Reason> {
        if outputs > LARGEST {
            return Err(format!("a layer of {outputs} outputs, more than {LARGEST}").into());
        }
        self.charge(outputs.saturating_mul(inputs))
    }

    fn push(&mut self, op: Op) -> Result<Handle<Value>, Reason> {
        let ty = result_type(&self.empty, &self.layer, &op)?;
        self.push_as(op, ty)
    }

    fn push_as(&mut self, op: Op, ty: Type) -> Result<Handle<Value>, Reason> {
        let size = |dim| match dim {
            Dim::Rows(size) | Dim::Const(size) => size,
        };
        let numbers = size(ty.rows()).checked_mul(size(ty.columns()));
        // A window is never written down.
        let counts = !matches!(op, Op::Window { .. } | Op::Param(_));
        if counts && numbers.is_none_or(|numbers| numbers > LARGEST) {
            return Err(format!("an activation of more than {LARGEST} numbers").into());
        }
        if self.layer.forward.len() == OPERATIONS {
            return Err(format!("more than {OPERATIONS} operations").into());
        }
        let value = self.layer.values.push(Value { name: String::new(), op, ty });
        self.layer.forward.push(value);
        Ok(value)
    }

    /// Samples, channel after channel or position after position, as an image.
    pub(crate) fn image(
        &mut self,
        value: Handle<Value>,
        channels: usize,
        channels_first: bool,
    ) -> Result<Handle<Value>, Reason> {
        let key = (value, channels, channels_first);
        if let Some(&image) = self.images.get(&key) {
            return Ok(image);
        }
        let image = if channels_first {
            self.push(Op::Pixels { value, channels })?
        } else {
            let rows = self.columns(value) / channels.max(1);
            self.push_as(Op::Reshape(value), Type::new(DType::F32, Dim::Rows(rows), Dim::Const(channels)))?
        };
        self.images.insert(key, image);
        Ok(image)
    }

    fn param(
        &mut self,
        layer: Option<String>,
        shape: [usize; 2],
        role: ParamRole,
        values: Numbers,
    ) -> Result<Handle<Value>, Reason> {
        let param = Handle::new(self.params.len());
        self.params.push(Parameter { layer, shape, role, values, normalized: false });
        let ty = Type::new(DType::F32, Dim::Const(shape[0]), Dim::Const(shape[1]));
        self.push_as(Op::Param(param), ty)
    }

    fn weight(&mut self, layer: Option<String>, weight: Matrix) -> Result<Handle<Value>, Reason> {
        let Matrix { outputs, inputs, values } = weight;
        if outputs == 0 || inputs == 0 {
            return Err(format!("a weight of [{outputs}, {inputs}] is empty").into());
        }
        if self.contractions.len() == LAYERS {
            return Err(format!("more than {LAYERS} layers").into());
        }
        self.param(layer, [outputs, inputs], ParamRole::Weight, values)
    }

    fn note(&mut self, value: Handle<Value>, weight: Handle<Value>, normalized: Option<f32>) {
        let first = self.is_input(value);
        let Op::Param(weight) = self.op(weight) else { unreachable!("weights are parameters") };
        self.contractions.push(Contraction { weight, first, normalized });
    }

    /// An activation is normalised where it is no operand of a layer of its own.
    pub(crate) fn note_joined(&mut self, epsilon: f32) {
        self.joined.push(epsilon);
    }

    /// A dense layer without bias, or a convolution: the same for what each position sees through the window.
    pub(crate) fn dense(
        &mut self,
        (value, normalized): (Handle<Value>, Option<f32>),
        window: Option<Window>,
        layer: Option<String>,
        weight: Matrix,
    ) -> Result<Handle<Value>, Reason> {
        let inputs = self.columns(value).saturating_mul(window.map_or(1, |window| window.taps()));
        if weight.inputs != inputs {
            let found = weight.inputs;
            return Err(format!("the weight has {found} inputs, the activation {inputs} features").into());
        }
        let rhs = self.weight(layer, weight)?;
        self.note(value, rhs, normalized);
        let lhs = match window.filter(|window| !window.is_identity()) {
            Some(window) => self.push(Op::Window { value, window })?,
            None => value,
        };
        self.push(Op::Dot { lhs, rhs })
    }

    /// A filter of its own for each channel.
    pub(crate) fn depthwise(
        &mut self,
        (value, normalized): (Handle<Value>, Option<f32>),
        window: Window,
        layer: Option<String>,
        weight: Matrix,
    ) -> Result<Handle<Value>, Reason> {
        let weight = self.weight(layer, weight)?;
        // Factors for channels are no layer of their own.
        if !window.is_identity() {
            self.note(value, weight, normalized);
        } else if let Some(epsilon) = normalized {
            self.note_joined(epsilon);
        }
        self.push(Op::Depthwise { value, weight, window })
    }

    /// The last parameter has a normalisation by the statistics of batches in it.
    pub(crate) fn mark_normalized(&mut self) {
        self.params.last_mut().into_iter().for_each(|param| param.normalized = true);
    }

    /// A factor for each channel.
    pub(crate) fn scale(
        &mut self,
        value: Handle<Value>,
        size: [usize; 2],
        layer: Option<String>,
        values: Vec<f32>,
    ) -> Result<Handle<Value>, Reason> {
        let weight = Matrix { outputs: values.len(), inputs: 1, values: values.into() };
        let weight = self.weight(layer, weight)?;
        self.push(Op::Depthwise { value, weight, window: Window::identity(size) })
    }

    /// These columns of a value, in ascending order; the value itself where they are all.
    pub(crate) fn select(
        &mut self,
        value: Handle<Value>,
        columns: &[usize],
    ) -> Result<Handle<Value>, Reason> {
        let mut whole = None;
        let mut runs = columns.chunk_by(|before, next| before + 1 == *next).peekable();
        if runs.peek().is_some_and(|run| run.len() == self.columns(value)) {
            return Ok(value);
        }
        for (number, run) in runs.enumerate() {
            if number == RUNS {
                return Err(format!("channels from more than {RUNS} places").into());
            }
            let part = self.slice(value, run[0], run.len())?;
            whole = Some(match whole {
                None => part,
                Some(whole) => self.concat(whole, part)?,
            });
        }
        whole.ok_or_else(|| Reason::from("no channels"))
    }

    fn slice(&mut self, value: Handle<Value>, from: usize, columns: usize) -> Result<Handle<Value>, Reason> {
        let key = (value, from, columns);
        if let Some(&slice) = self.slices.get(&key) {
            return Ok(slice);
        }
        let slice = self.push(Op::Slice { value, from, columns })?;
        self.slices.insert(key, slice);
        Ok(slice)
    }

    /// Columns side by side; what was one piece becomes one again.
    pub(crate) fn concat(&mut self, a: Handle<Value>, b: Handle<Value>) -> Result<Handle<Value>, Reason> {
        if let (Op::Slice { value, from, columns }, Op::Slice { value: other, from: behind, columns: more }) =
            (self.op(a), self.op(b))
            && value == other
            && behind == from + columns
        {
            let all: Vec<usize> = (from..behind + more).collect();
            return self.select(value, &all);
        }
        let is_view = self.sliced(a).is_some() && self.sliced(a) == self.sliced(b);
        if let Some(&whole) = self.pairs.get(&(a, b)).filter(|_| is_view) {
            return Ok(whole);
        }
        let whole = self.push(Op::Concat(a, b))?;
        self.pairs.insert((a, b), whole);
        Ok(whole)
    }

    /// Adds a number to each column.
    pub(crate) fn bias(
        &mut self,
        value: Handle<Value>,
        layer: Option<String>,
        values: Numbers,
    ) -> Result<Handle<Value>, Reason> {
        let bias = self.param(layer, [1, values.len()], ParamRole::Bias, values)?;
        self.binary(BinaryOp::Add, value, bias)
    }

    pub(crate) fn binary(
        &mut self,
        op: BinaryOp,
        a: Handle<Value>,
        b: Handle<Value>,
    ) -> Result<Handle<Value>, Reason> {
        self.push(Op::Binary(op, a, b))
    }

    /// Arithmetic with one number.
    pub(crate) fn with_number(
        &mut self,
        op: BinaryOp,
        value: Handle<Value>,
        number: f32,
    ) -> Result<Handle<Value>, Reason> {
        if !number.is_finite() {
            return Err(format!("arithmetic with {number}").into());
        }
        let number = self.push(Op::Constant(number))?;
        self.binary(op, value, number)
    }

    pub(crate) fn pool(
        &mut self,
        op: PoolOp,
        value: Handle<Value>,
        window: Window,
    ) -> Result<Handle<Value>, Reason> {
        self.push(Op::Pool { op, value, window })
    }

    pub(crate) fn activate(
        &mut self,
        value: Handle<Value>,
        activation: Activation,
    ) -> Result<Handle<Value>, Reason> {
        if self.is_input(value) {
            return Err(Reason::from("an activation before the first layer with weights"));
        }
        check(activation)?;
        self.push(Op::Activate(activation, value))
    }

    /// A dense layer's goodness head: no part of the network, but kept beside its weights.
    pub(crate) fn head(&mut self, values: Numbers) {
        if let Some(last) = self.contractions.last() {
            self.heads.push((last.weight, values));
        }
    }

    /// The module that gives this, or why it is no network.
    pub(crate) fn finish(mut self, output: Handle<Value>, name: &str) -> Result<Built, String> {
        let normalization = self.normalization()?;
        if self.contractions.is_empty() {
            return Err("the network has no layer with weights".to_string());
        }
        if let Op::Activate(last, _) = self.op(output) {
            return Err(format!("the network ends in the activation `{}`; {TASK}", last.name()));
        }
        if self.sliced(output).is_some() {
            return Err("the network gives only a part of what its last layer gives".to_string());
        }
        let classes = self.columns(output);
        if classes < 2 {
            return Err(format!("the network has one output; {TASK}"));
        }
        let output = simplify(&mut self.layer, &mut self.params, output);
        self.layer.outputs.push(output);
        let names = Naming::new(&self.layer, &self.params, &self.input_name);
        let mut module =
            module(names::clean(name, "network").unwrap_or_else(|| "network".into()), self.features, classes);
        let mut weights = Vec::new();
        module.layers.push(names.layer(&self.layer, &mut self.params, &mut module.params, &mut weights));
        let heads = self.heads.into_iter().filter_map(|(weight, values)| {
            let layer = names.of_param(weight)?.strip_suffix(".weight")?;
            Some((format!("{layer}.head"), values))
        });
        let heads = heads.collect();
        let is_normalized = |(number, param): (usize, &Parameter)| {
            let name = names.of_param(Handle::new(number)).filter(|_| param.normalized)?;
            name.strip_suffix(".weight").map(str::to_string)
        };
        let batch_normalized = self.params.iter().enumerate().filter_map(is_normalized).collect();
        Ok(Built { module, weights, heads, normalization, batch_normalized })
    }

    /// One normalisation for all contractions, those of the network's input perhaps left out, and for what is normalised
    /// elsewhere.
    fn normalization(&self) -> Result<Option<Rms>, String> {
        let found = self.contracted_normalization()?;
        let same = |&epsilon: &f32| found.is_some_and(|rms| rms.epsilon == epsilon);
        if self.joined.iter().all(same) { Ok(found) } else { Err(mixed()) }
    }

    fn contracted_normalization(&self) -> Result<Option<Rms>, String> {
        let of = |first| {
            let mut found =
                self.contractions.iter().filter(move |one| one.first == first).map(|one| one.normalized);
            let some = found.next();
            (some, some.is_none_or(|some| found.all(|other| other == some)))
        };
        let ((first, same_first), (rest, same_rest)) = (of(true), of(false));
        let (first, rest) = (first.flatten(), rest);
        let Some(epsilon) = first.or(rest.flatten()) else {
            return if same_first && same_rest { Ok(None) } else { Err(mixed()) };
        };
        if !same_first || !same_rest || rest.is_some_and(|rest| rest != Some(epsilon)) {
            return Err(mixed());
        }
        Ok(Some(Rms { epsilon, input: first.is_some() }))
    }
}

fn mixed() -> String {
    "the layers are not all normalised in the same way".to_string()
}

/// A module without layers.
fn module(name: String, features: usize, classes: usize) -> Module {
    Module {
        name,
        phase: Phase::Imported,
        batch: BATCH,
        features,
        input: DType::F32,
        classes,
        rows: RowPlan::Plain,
        params: Arena::default(),
        layers: Vec::new(),
    }
}

fn check(activation: Activation) -> Result<(), Reason> {
    match activation {
        Activation::LeakyRelu(slope)
        | Activation::Elu(slope)
        | Activation::HardSigmoid { alpha: slope, .. }
            if !(slope > 0.0 && slope.is_finite()) =>
        {
            Err(format!("a slope of {slope}").into())
        }
        Activation::HardSigmoid { beta, .. } if !beta.is_finite() => {
            Err(format!("a value of {beta} at 0").into())
        }
        Activation::Clip { low, high } if low.is_nan() || high.is_nan() || low > high => {
            Err(format!("bounds {low} and {high}").into())
        }
        _ => Ok(()),
    }
}

/// The names of a finished layer.
struct Naming {
    /// Of parameters, by number; none for those that are not used.
    params: Vec<Option<String>>,
    /// Of values, by number.
    values: Vec<String>,
}

impl Naming {
    fn new(layer: &Layer, params: &[Parameter], input: &str) -> Self {
        let mut naming =
            Self { params: vec![None; params.len()], values: vec![String::new(); layer.values.len()] };
        naming.name_layers(layer, params);
        naming.name_others(layer, params);
        naming.name_values(layer, input);
        naming
    }

    fn of_param(&self, param: Handle<Param>) -> Option<&str> {
        self.params[param.index()].as_deref()
    }

    /// Contractions, and their biases with them.
    fn name_layers(&mut self, layer: &Layer, params: &[Parameter]) {
        let (mut names, mut with_bias) = (Names::default(), HashSet::new());
        for &value in &layer.forward {
            if let Some((weight, bias)) = simplify::contraction(layer, value) {
                let name = self.params[weight.index()].get_or_insert_with(|| {
                    let number = names.count() + 1;
                    let name = params[weight.index()].layer.clone();
                    format!("{}.weight", names.unique(&name.unwrap_or_else(|| format!("dense{number}"))))
                });
                // Of several biases the others are no part of the layer.
                let name = name.strip_suffix(".weight").map(|layer| format!("{layer}.bias"));
                if let Some(bias) = bias.filter(|_| with_bias.insert(weight)) {
                    self.params[bias.index()] = name;
                }
            }
        }
    }

    /// What is no contraction's.
    fn name_others(&mut self, layer: &Layer, params: &[Parameter]) {
        let mut taken = Names::default();
        self.params.iter().flatten().for_each(|name| drop(taken.unique(name)));
        for &value in &layer.forward {
            if let Op::Param(param) = layer.values[value].op {
                let of_layer = params[param.index()].layer.as_deref().unwrap_or("add");
                let name = &mut self.params[param.index()];
                name.get_or_insert_with(|| taken.unique(&format!("{of_layer}.bias")));
            }
        }
    }

    /// Each by what it is, behind the name of the last contraction above it.
    fn name_values(&mut self, layer: &Layer, input: &str) {
        let mut names = Names::default();
        // The number of that contraction, and its name.
        let mut stems: Vec<(usize, &str)> = vec![(0, ""); layer.values.len()];
        for (number, &value) in layer.forward.iter().enumerate() {
            let op = layer.values[value].op;
            let mut stem = (0, "");
            op.operands(|operand| stem = stem.max(stems[operand.index()]));
            if let (Op::Dot { .. } | Op::Depthwise { .. }, Some((weight, _))) =
                (op, simplify::contraction(layer, value))
            {
                let name = self.params[weight.index()].as_deref().unwrap_or_default();
                stem = (number, name.strip_suffix(".weight").unwrap_or(name));
            }
            stems[value.index()] = stem;
            let kind = match op {
                Op::Param(param) => {
                    self.values[value.index()] =
                        names.unique(self.params[param.index()].as_deref().unwrap_or("param"));
                    continue;
                }
                Op::Operand(_) => input,
                Op::Activate(activation, _) => activation.name(),
                Op::Binary(BinaryOp::Add, _, b) if matches!(layer.values[b].op, Op::Param(_)) => "sum",
                op => ffc_ir::text::mnemonic(&op),
            };
            let name = if stem.1.is_empty() { kind.to_string() } else { format!("{}.{kind}", stem.1) };
            self.values[value.index()] = names.unique(&name);
        }
    }

    /// The layer with what it uses, in order, under these names.
    fn layer(
        &self,
        old: &Layer,
        parameters: &mut [Parameter],
        params: &mut Arena<Param>,
        weights: &mut Vec<(String, Numbers)>,
    ) -> Layer {
        let mut layer = Layer::new("main", LayerRole::Whole);
        let mut moved = vec![Handle::new(0); old.values.len()];
        for &value in &old.forward {
            let mut new = old.values[value].clone();
            new.name = self.values[value.index()].clone();
            if let Op::Param(param) = &mut new.op {
                let Parameter { shape, role, values, .. } = &mut parameters[param.index()];
                let name = self.params[param.index()].clone().unwrap_or_default();
                weights.push((name.clone(), values.clone()));
                *param = params.push(Param { name, shape: *shape, storage: ParamStorage::F32, role: *role });
            }
            new.op.operands_mut(|operand| *operand = moved[operand.index()]);
            moved[value.index()] = layer.values.push(new);
            layer.forward.push(moved[value.index()]);
        }
        layer.outputs = old.outputs.iter().map(|output| moved[output.index()]).collect();
        layer
    }
}
