//! One training step of the layer IR's interpreter, written down for other programs to do again.

use std::collections::BTreeMap;

use ffc_compiler::passes::insert_preparation::{MEAN, STD};
use ffc_compiler::pipeline;
use ffc_compiler::recipe::Options;
use ffc_ir::interpret::{Batch, Controls, Data, Mode, Outcome, Samples, State, step_traced};
use ffc_ir::module::{Activation, Module, ParamRole};
use ffc_ir::numerics::step_key;
use ffc_ir::types::DType;
use ffc_ir::verify;
use serde::Serialize;

use crate::networks::{self, Case};
use crate::random::Random;

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matrix {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// All elements.
    pub values: Vec<f32>,
}

/// Parameters by name.
pub type Params = BTreeMap<String, Matrix>;

/// Everything that goes into a step and comes out of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// What is special about the network.
    pub name: String,
    /// Features, hidden layers, classes; layer `i` has the parameters `fc<i>.*`, counted from 1.
    pub sizes: Vec<usize>,
    /// Name and numbers of the activation function.
    pub activation: (String, Vec<f32>),
    /// How it is trained.
    pub options: Options,
    /// Raw samples.
    pub samples: Matrix,
    /// Their classes.
    pub labels: Vec<i32>,
    /// The class overlaid on each row, -1 for none; empty where nothing is overlaid.
    pub overlaid: Vec<i32>,
    /// Learning rate over samples.
    pub rate: f32,
    /// Weight of later layers.
    pub lambda: f32,
    /// Parameters before the step.
    pub before: Params,
    /// Parameters after the step.
    pub after: Params,
    /// Losses of all layers, summed over rows.
    pub losses: BTreeMap<String, f32>,
}

/// Seeded samples for a module, in both types, and their labels.
#[derive(Clone, Debug)]
pub struct RandomBatch {
    /// Bytes.
    pub bytes: Vec<u8>,
    /// Single precision.
    pub floats: Vec<f32>,
    /// Classes.
    pub labels: Vec<i32>,
    input: DType,
}

impl RandomBatch {
    /// Seeded samples.
    pub fn new(module: &Module, samples: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let labels = (0..samples).map(|_| random.below(module.classes) as i32).collect();
        let bytes = (0..samples * module.features).map(|_| random.bits() as u8).collect();
        let floats = (0..samples * module.features).map(|_| random.signed()).collect();
        Self { bytes, floats, labels, input: module.input }
    }

    /// For the interpreter.
    pub fn batch(&self) -> Batch<'_> {
        let inputs = match self.input {
            DType::U8 => Samples::U8(&self.bytes),
            _ => Samples::F32(&self.floats),
        };
        Batch { inputs, labels: &self.labels }
    }

    fn numbers(&self) -> Vec<f32> {
        match self.input {
            DType::U8 => self.bytes.iter().map(|&byte| byte.into()).collect(),
            _ => self.floats.clone(),
        }
    }
}

/// The training module of a case.
///
/// # Panics
/// If it does not compile.
pub fn training_module(case: &Case) -> Module {
    let imported = networks::perceptron(&case.sizes, case.activation, case.options.batch);
    let compiled = pipeline::compile(&imported, &case.options);
    compiled.unwrap_or_else(|error| panic!("{}: {error}", case.name)).0
}

/// A state with seeded weights; velocities too, so that a step shows what becomes of them.
///
/// # Panics
/// If the weights do not fit, which would be a mistake here.
pub fn state(module: &Module, seed: u64) -> State {
    let mut state = State::new(module);
    let mut given = networks::weights(module, seed);
    let mut random = Random::new(!seed);
    for param in module.params.values().filter(|param| param.role == ParamRole::Velocity) {
        given.push((param.name.clone(), (0..param.len()).map(|_| random.signed() * 0.01).collect()));
    }
    for (name, weights) in given {
        let param = module.param(&name).expect("weights are of the module's parameters");
        state.set_weights(param, &weights).expect("there are as many as wanted");
    }
    state
}

fn params(module: &Module, state: &State) -> Params {
    let matrix = |handle, shape| Matrix { shape, values: state.weights(handle) };
    module.params.iter().map(|(handle, param)| (param.name.clone(), matrix(handle, param.shape))).collect()
}

/// A step of a float network on a full batch.
///
/// # Panics
/// If it does not compile or run.
pub fn record(case: &Case, rate: f32, lambda: f32, seed: u64) -> Record {
    let module = training_module(case);
    let mut state = state(&module, seed);
    let preprocessing = &case.options.preprocessing;
    for (name, numbers) in [(MEAN, &preprocessing.mean), (STD, &preprocessing.std)] {
        if let Some(param) = module.param(name) {
            state.set_weights(param, numbers).expect("there is one a feature");
        }
    }
    let data = RandomBatch::new(&module, module.batch, seed + 1);
    let before = params(&module, &state);
    let controls = Controls { rate, lambda, key: step_key(seed, 0) as i32 };
    let verified = verify(&module).expect("the pipeline verifies what it makes");
    let outcome = step_traced(&verified, &mut state, &data.batch(), &controls, Mode::Train)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    Record {
        name: case.name.clone(),
        sizes: case.sizes.clone(),
        activation: activation(case.activation),
        options: case.options.clone(),
        samples: Matrix { shape: [module.batch, module.features], values: data.numbers() },
        overlaid: overlaid(&outcome),
        labels: data.labels,
        rate,
        lambda,
        before,
        after: params(&module, &state),
        losses: outcome.losses.into_iter().collect(),
    }
}

fn activation(activation: Activation) -> (String, Vec<f32>) {
    (activation.name().to_string(), activation.numbers())
}

fn overlaid(outcome: &Outcome) -> Vec<i32> {
    let trace = outcome.trace.as_ref().expect("the step was traced");
    match trace.get("input", "label").map(|tensor| &tensor.data) {
        Some(Data::I32(labels)) => labels.clone(),
        _ => Vec::new(),
    }
}
