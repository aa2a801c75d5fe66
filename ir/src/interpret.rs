//! What a module means, operation by operation on whole matrices.
//!
//! This is the specification that everything compiled must match bit for bit, so it is written to be read, not to be
//! fast. What one element becomes is in [`elementwise`], [`activation`](crate::activation) and
//! [`numerics`](crate::numerics).
//!
//! A mode of a step is a walk over the layers that says which effects count. Of each layer only what the outputs and
//! those effects depend on is evaluated, then the effects are applied, then the outputs go on to the next layer: so a
//! read sees every parameter as it was before the step, because no layer reads what another writes.

mod effects;
mod evaluate;
mod state;
mod tensor;

pub use state::{Fixed, State, Stored, in_group};
pub use tensor::{Data, Tensor};

use crate::analysis::{longest_chain, needed, observes_forward};
use crate::arena::Handle;
use crate::diagnostics::Diagnostic;
use crate::elementwise;
use crate::module::{BinaryOp, Layer, Op, Value};
use crate::numerics::Scalar;
use crate::types::DType;
use crate::verify::Verified;

/// Samples and their classes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[samples, features]`.
    pub inputs: Samples<'a>,
    /// One class a sample. Inference can do without, unless its scores depend on them.
    pub labels: &'a [i32],
}

/// Raw samples, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// Bytes.
    U8(&'a [u8]),
    /// Single precision.
    F32(&'a [f32]),
}

impl Samples<'_> {
    /// Elements of all samples.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(data) => data.len(),
            Self::F32(data) => data.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::U8(_) => DType::U8,
            Self::F32(_) => DType::F32,
        }
    }
}

/// What the session sets between steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Controls {
    /// Learning rate divided by the samples in the batch.
    pub rate: f32,
    /// The weight of later layers' errors.
    pub lambda: f32,
    /// The step's key: the bits of [`numerics::step_key`](crate::numerics::step_key).
    pub key: i32,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Trains all layers. Where a layer publishes, a first sweep over all layers collects what they publish; the sweep
    /// that trains then looks ahead.
    Train,
    /// Trains this layer alone, counting trained layers from 0; nothing is ahead of it.
    TrainLayer(usize),
    /// Finds the first ranges: in each layer those of the forward values, then, with them, all ranges. Nothing is ahead.
    Calibrate,
    /// Scores.
    Infer,
}

/// What a step gives.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Outcome {
    /// Losses summed over the rows, by the layer's name.
    pub losses: Vec<(String, f32)>,
    /// Scores as the last [`Op::Score`] left them, row by row.
    pub scores: Option<Vec<f32>>,
    /// What the last layer that ran hands over.
    pub outputs: Vec<Tensor>,
    /// Every value, where it was asked for ([`step_traced`]).
    pub trace: Option<Trace>,
}

/// The values of all layers; of a layer that was evaluated twice the last ones. Effects have none.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trace {
    /// By the layer's name, then by the value's.
    pub layers: Vec<(String, Vec<(String, Tensor)>)>,
}

impl Trace {
    /// The value of this name.
    pub fn get(&self, layer: &str, value: &str) -> Option<&Tensor> {
        let (_, values) = self.layers.iter().find(|(name, _)| name == layer)?;
        values.iter().find(|(name, _)| name == value).map(|(_, tensor)| tensor)
    }
}

/// One step.
///
/// # Errors
/// If the state, the batch or the mode does not fit the module.
pub fn step(
    module: &Verified<'_>,
    state: &mut State,
    batch: &Batch<'_>,
    controls: &Controls,
    mode: Mode,
) -> Result<Outcome, Diagnostic> {
    Machine::new(module, state, batch, controls, mode)?.run(mode)
}

/// One step that remembers every value.
///
/// # Errors
/// If the state, the batch or the mode does not fit the module.
pub fn step_traced(
    module: &Verified<'_>,
    state: &mut State,
    batch: &Batch<'_>,
    controls: &Controls,
    mode: Mode,
) -> Result<Outcome, Diagnostic> {
    let mut machine = Machine::new(module, state, batch, controls, mode)?;
    machine.outcome.trace = Some(Trace::default());
    machine.run(mode)
}

/// The values of a layer, by their handles.
type Values = Vec<Option<Tensor>>;

/// A step in progress.
struct Machine<'a> {
    module: &'a Verified<'a>,
    state: &'a mut State,
    batch: &'a Batch<'a>,
    controls: &'a Controls,
    /// Rows of the batch at hand.
    rows: usize,
    outcome: Outcome,
}

impl<'a> Machine<'a> {
    fn new(
        module: &'a Verified<'a>,
        state: &'a mut State,
        batch: &'a Batch<'a>,
        controls: &'a Controls,
        mode: Mode,
    ) -> Result<Self, Diagnostic> {
        let samples = check(module, state, batch, mode)?;
        let rows = samples * module.rows.rows_per_sample(module.classes);
        Ok(Self { module, state, batch, controls, rows, outcome: Outcome::default() })
    }

    fn run(mut self, mode: Mode) -> Result<Outcome, Diagnostic> {
        match mode {
            Mode::Train => self.train()?,
            Mode::TrainLayer(index) => self.train_layer(index)?,
            Mode::Calibrate => self.calibrate()?,
            Mode::Infer => self.infer()?,
        }
        Ok(self.outcome)
    }

    fn train(&mut self) -> Result<(), Diagnostic> {
        let published = self.sweep()?;
        let mut operands = Vec::new();
        for index in 0..self.module.layers.len() {
            let ahead = sum_in_order(&published[index + 1..]);
            operands = self.layer(index, &operands, ahead.as_ref(), |_| true)?;
        }
        self.outcome.outputs = operands;
        Ok(())
    }

    /// What each layer publishes.
    fn sweep(&mut self) -> Result<Vec<Option<Tensor>>, Diagnostic> {
        let module = self.module;
        let publish =
            |layer: &Layer| layer.ops().map(|(_, value)| layer.values[value].op).find_map(published);
        let sources: Vec<Option<Handle<Value>>> = module.layers.iter().map(publish).collect();
        if sources.iter().all(Option::is_none) {
            return Ok(vec![None; module.layers.len()]);
        }
        let mut operands = Vec::new();
        let mut results = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            let layer = &module.layers[index];
            let wanted = needed(layer, layer.outputs.iter().copied().chain(source));
            let values = self.evaluate(index, &operands, None, &wanted)?;
            operands = outputs(layer, &values);
            results.push(source.and_then(|source| values[source.index()].clone()));
        }
        Ok(results)
    }

    fn train_layer(&mut self, index: usize) -> Result<(), Diagnostic> {
        let trained = self.module.layers.iter().enumerate().filter(|(_, layer)| !layer.update.is_empty());
        let Some((trained, _)) = trained.clone().nth(index) else {
            let message = format!("there is no trained layer {index}; the module trains {}", trained.count());
            return Err(Diagnostic::new(message));
        };
        let mut operands = Vec::new();
        for index in 0..=trained {
            operands = self.layer(index, &operands, None, |_| index == trained)?;
        }
        self.outcome.outputs = operands;
        Ok(())
    }

    fn calibrate(&mut self) -> Result<(), Diagnostic> {
        let module = self.module;
        let mut operands = Vec::new();
        for (index, layer) in module.layers.iter().enumerate() {
            let forward = |op: &Op| match *op {
                Op::Track { observed, .. } => observes_forward(layer, observed),
                _ => false,
            };
            // Each range follows from those before it.
            for _ in 0..longest_chain(layer) {
                self.layer(index, &operands, None, forward)?;
            }
            operands =
                self.layer(index, &operands, None, |op| matches!(op, Op::Track { .. } | Op::Report(_)))?;
        }
        self.outcome.outputs = operands;
        Ok(())
    }

    fn infer(&mut self) -> Result<(), Diagnostic> {
        let mut operands = Vec::new();
        for index in 0..self.module.layers.len() {
            operands = self.layer(index, &operands, None, |op| matches!(op, Op::Score { .. }))?;
        }
        self.outcome.outputs = operands;
        Ok(())
    }

    /// Runs a layer for its outputs and for the effects that count.
    fn layer(
        &mut self,
        index: usize,
        operands: &[Tensor],
        ahead: Option<&Tensor>,
        counts: impl Fn(&Op) -> bool,
    ) -> Result<Vec<Tensor>, Diagnostic> {
        let layer = &self.module.layers[index];
        let ops = layer.ops().map(|(_, value)| (value, layer.values[value].op));
        let effects: Vec<_> = ops.filter(|(_, op)| op.is_effect() && counts(op)).collect();
        let roots = layer.outputs.iter().copied().chain(effects.iter().map(|&(value, _)| value));
        let values = self.evaluate(index, operands, ahead, &needed(layer, roots))?;
        for (_, op) in effects {
            self.apply(layer, &values, &op);
        }
        let outputs = outputs(layer, &values);
        self.remember(layer, values);
        Ok(outputs)
    }

    fn remember(&mut self, layer: &Layer, values: Values) {
        let Some(trace) = &mut self.outcome.trace else { return };
        let names = layer.values.values().map(|value| value.name.clone());
        let values = names.zip(values).filter_map(|(name, tensor)| Some((name, tensor?))).collect();
        trace.layers.retain(|(name, _)| *name != layer.name);
        trace.layers.push((layer.name.clone(), values));
    }
}

/// What an operation publishes.
fn published(op: Op) -> Option<Handle<Value>> {
    match op {
        Op::Publish(value) => Some(value),
        _ => None,
    }
}

fn outputs(layer: &Layer, values: &Values) -> Vec<Tensor> {
    let tensor = |value: &Handle<Value>| values[value.index()].clone();
    layer.outputs.iter().map(|value| tensor(value).expect("outputs are always evaluated")).collect()
}

/// `((first + second) + third) + ...` of those that are there.
fn sum_in_order(published: &[Option<Tensor>]) -> Option<Tensor> {
    let add = |sum: Tensor, next: &Tensor| {
        Tensor::fill(DType::F32, sum.rows, sum.columns, |row, column| {
            elementwise::binary(&mut Scalar, BinaryOp::Add, sum.at(row, column), next.at(row, column))
        })
    };
    let mut present = published.iter().flatten();
    let first = present.next()?.clone();
    Some(present.fold(first, add))
}

/// The number of samples, if state, batch and mode fit the module.
fn check(module: &Verified<'_>, state: &State, batch: &Batch<'_>, mode: Mode) -> Result<usize, Diagnostic> {
    let fail = |message: String| Err(Diagnostic::new(message));
    if !state.fits(module) {
        return fail("the state belongs to a module with other parameters".into());
    }
    let (given, wanted) = (batch.inputs.dtype(), module.input);
    if given != wanted {
        return fail(format!("the inputs are {given}, the module takes {wanted}"));
    }
    let (elements, features) = (batch.inputs.len(), module.features);
    let samples = elements / features;
    if samples == 0 || elements % features != 0 {
        return fail(format!("{elements} input elements are not a whole number of samples of {features}"));
    }
    if mode != Mode::Infer && samples > module.batch {
        return fail(format!("{samples} samples do not fit a batch of {}", module.batch));
    }
    let labels = batch.labels.len();
    if labels != samples && !(mode == Mode::Infer && labels == 0) {
        return fail(format!("there are {labels} labels for {samples} samples"));
    }
    let classes = module.classes;
    if !batch.labels.iter().all(|&label| usize::try_from(label).is_ok_and(|label| label < classes)) {
        return fail(format!("a label is outside of 0..{classes}"));
    }
    Ok(samples)
}
