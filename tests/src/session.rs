//! Compiled code beside the reference: the same steps, and every bit of the result compared.

use std::fmt::Debug;

use ffc_codegen::Target;
use ffc_compiler::{lower, pipeline, recipe};
use ffc_cpu::CpuBackend;
use ffc_ir::Handle;
use ffc_ir::interpret::State;
use ffc_ir::kernel::{Buffer, BufferClass, Plane, Program, Purpose};
use ffc_ir::module::{Module, ParamRole};
use ffc_ir::numerics::step_key;
use ffc_ir::types::DType;
use ffc_ir::verify;
use ffc_reference::{Controls, Executor, Inputs};
use ffc_runtime::artifact::Artifact;
use ffc_runtime::{Cpu, Options, Session, StateTensor};

use crate::networks::{self, Case};
use crate::random::Random;

/// The training module and the program of a case.
///
/// # Panics
/// If it does not compile.
pub fn program(case: &Case) -> (Module, Program) {
    let imported = networks::perceptron(&case.sizes, case.activation, case.options.batch);
    program_of(&case.name, &imported, &case.options)
}

/// The training module and the program of an imported network.
///
/// # Panics
/// If it does not compile.
pub fn program_of(name: &str, imported: &Module, options: &recipe::Options) -> (Module, Program) {
    let compiled = pipeline::compile(imported, options);
    let (train, infer) = compiled.unwrap_or_else(|error| panic!("{name}: {error}"));
    let verified = |module| verify(module).expect("the pipeline verifies what it makes");
    let program = lower::lower(&verified(&train), &verified(&infer));
    (train.clone(), program.unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Each level that the machine at hand has, best first: all that there is code of its own for.
///
/// # Panics
/// On an architecture that ffc does not compile for.
pub fn targets() -> Vec<Target> {
    let target = |cpu| ffc_cpu::native(&cpu).expect("tests run on an architecture that ffc compiles for");
    Cpu::detect().levels().map(target).collect()
}

/// Machine code for a target. With `parallel` every kernel is divided among threads, however small.
///
/// # Panics
/// If the target cannot express the program.
pub fn artifact(program: &Program, target: &Target, parallel: bool) -> Artifact {
    variants(program, std::slice::from_ref(target), parallel)
}

/// An artifact with a variant for each of the targets, best first.
///
/// # Panics
/// As [`artifact`].
pub fn variants(program: &Program, targets: &[Target], parallel: bool) -> Artifact {
    let backend = |target: &Target| CpuBackend::new(target.clone()).expect("the target is known");
    let artifact = ffc_codegen::compile(&targets.iter().map(backend).collect::<Vec<_>>(), program);
    let mut artifact = artifact.unwrap_or_else(|error| panic!("{}: {error}", program.name));
    for kernel in &mut artifact.kernels {
        kernel.parallel |= parallel;
    }
    artifact
}

/// Everything that a step may be given.
#[derive(Clone, Debug)]
pub struct Given {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    /// Classes.
    pub labels: Vec<i32>,
    input: DType,
}

impl Given {
    /// Seeded samples for a program.
    pub fn new(program: &Program, samples: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let numbers = samples * program.features;
        Self {
            labels: (0..samples).map(|_| random.below(program.classes) as i32).collect(),
            bytes: (0..numbers).map(|_| random.bits() as u8).collect(),
            floats: (0..numbers).map(|_| random.signed()).collect(),
            input: program.input,
        }
    }

    /// For a session.
    pub fn samples(&self) -> ffc_runtime::Samples<'_> {
        match self.input {
            DType::U8 => ffc_runtime::Samples::U8(&self.bytes),
            _ => ffc_runtime::Samples::F32(&self.floats),
        }
    }

    /// These samples, for the reference.
    fn inputs(&self, samples: std::ops::Range<usize>) -> Inputs<'_> {
        let features = self.bytes.len() / self.labels.len();
        let numbers = samples.start * features..samples.end * features;
        let inputs = match self.input {
            DType::U8 => ffc_reference::Samples::U8(&self.bytes[numbers]),
            _ => ffc_reference::Samples::F32(&self.floats[numbers]),
        };
        Inputs { samples: inputs, labels: &self.labels[samples] }
    }
}

/// A reference executor and sessions that do the same.
pub struct Twins {
    executor: Executor,
    sessions: Vec<(String, Session)>,
    seed: u64,
    step: u64,
    /// What the last step set; inference leaves it.
    last: Controls,
}

/// The learning rate of all steps here.
pub const RATE: f32 = 0.3;
/// The weight of later layers' errors in all steps here.
pub const LAMBDA: f32 = 0.25;

impl Twins {
    /// A session for each target and number of threads.
    ///
    /// # Panics
    /// If something cannot be made.
    pub fn new(program: &Program, targets: &[Target], threads: &[usize], seed: u64) -> Self {
        let executor = Executor::new(program.clone()).with_arena(true).expect("the memory plan is sound");
        let mut sessions = Vec::new();
        for target in targets {
            let artifact = artifact(program, target, true);
            for &threads in threads {
                let options =
                    Options { threads, seed, learning_rate: RATE, lambda: LAMBDA, ..Options::default() };
                let name = format!("{} on {} with {threads} threads", program.name, target.name);
                let session = Session::new(artifact.clone(), options);
                let session = session.unwrap_or_else(|error| panic!("{name}: {error}"));
                sessions.push((name, session));
            }
        }
        Self { executor, sessions, seed, step: 0, last: Controls::default() }
    }

    /// Gives all the same parameters: weights, and what a module's state starts with.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn start(&mut self, module: &Module, seed: u64) {
        let state = State::new(module);
        let mut all = networks::weights(module, seed);
        let fixed = |role| matches!(role, ParamRole::Groups | ParamRole::Range(_));
        all.extend(
            module
                .params
                .iter()
                .filter(|(_, param)| fixed(param.role))
                .map(|(handle, param)| (param.name.clone(), state.weights(handle))),
        );
        for (name, values) in all {
            self.executor.set_weights(&name, &values).expect("the parameter is the program's");
            for (session, it) in &mut self.sessions {
                it.load_weights(&name, &values).unwrap_or_else(|error| panic!("{session}: {error}"));
            }
        }
        self.compare("start");
    }

    /// The executor, to be set up in other ways.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Gives the sessions the parameters that the executor has, plane by plane.
    ///
    /// # Panics
    /// If a session does not take them.
    pub fn copy_state(&mut self) {
        let executor = &self.executor;
        let bytes: Vec<Vec<u8>> =
            planes(executor.program()).into_iter().map(|plane| executor.buffer(plane).to_bytes()).collect();
        for (name, session) in &mut self.sessions {
            let mut tensors: Vec<StateTensor<'static>> = session
                .state()
                .into_iter()
                .map(|it| StateTensor {
                    bytes: Vec::new().into(),
                    name: it.name,
                    element: it.element,
                    shape: it.shape,
                })
                .collect();
            for (tensor, bytes) in tensors.iter_mut().zip(&bytes) {
                tensor.bytes = bytes.clone().into();
            }
            session.load_state(&tensors).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        self.compare("start");
    }

    /// The sessions.
    pub fn sessions(&mut self) -> &mut [(String, Session)] {
        &mut self.sessions
    }

    fn controls(&mut self, rate: f32, lambda: f32) -> Controls {
        self.last = Controls { rate, lambda, key: step_key(self.seed, self.step) };
        self.last
    }

    /// Finds ranges.
    ///
    /// # Panics
    /// If results differ.
    pub fn calibrate(&mut self, given: &Given) {
        let controls = self.controls(0.0, 0.0);
        let inputs = given.inputs(0..given.labels.len());
        self.executor.run(Purpose::Calibrate, inputs, controls).expect("the reference calibrates");
        for (name, session) in &mut self.sessions {
            session
                .calibrate(given.samples(), &given.labels)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        self.compare("calibrate");
    }

    /// Trains all layers, or one.
    ///
    /// # Panics
    /// If results differ.
    pub fn train(&mut self, layer: Option<usize>, given: &Given) {
        let samples = given.labels.len();
        let lambda = if layer.is_none() { LAMBDA } else { 0.0 };
        let controls = self.controls(RATE / samples as f32, lambda);
        let purpose = layer.map_or(Purpose::Train, Purpose::TrainLayer);
        self.executor.run(purpose, given.inputs(0..samples), controls).expect("the reference trains");
        let losses: Vec<f32> = self.executor.losses().iter().map(|loss| loss / samples as f32).collect();
        let what = format!("step {} {purpose}", self.step);
        for (name, session) in &mut self.sessions {
            let report = match layer {
                None => session.train_step(given.samples(), &given.labels),
                Some(layer) => session.train_layer(layer, given.samples(), &given.labels),
            };
            let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
            same(&format!("{name}: {what} losses"), report.losses, &losses);
        }
        self.step += 1;
        self.compare(&what);
    }

    /// Scores samples; sessions all at once, the reference as many as the program takes.
    ///
    /// # Panics
    /// If results differ.
    pub fn infer(&mut self, given: &Given) {
        let samples = given.labels.len();
        let program = self.executor.program();
        let (most, classes) = (program.infer_batch, program.classes);
        let mut expected = Vec::new();
        for start in (0..samples).step_by(most) {
            let inputs = given.inputs(start..(start + most).min(samples));
            self.executor.run(Purpose::Infer, inputs, self.last).expect("the reference infers");
            expected.extend(self.executor.scores());
        }
        if expected.is_empty() {
            // Nothing scores; then what is there stays.
            expected.resize(samples * classes, f32::NAN);
        }
        for (name, session) in &mut self.sessions {
            let mut scores = vec![f32::NAN; samples * classes];
            session.infer(given.samples(), &mut scores).unwrap_or_else(|error| panic!("{name}: {error}"));
            same(&format!("{name}: scores of {samples} samples"), &scores, &expected);
        }
        self.compare("infer");
    }

    /// All parameters, plane by plane; and the hash that sessions make of their weights.
    ///
    /// # Panics
    /// If something differs.
    pub fn compare(&self, what: &str) {
        let program = self.executor.program();
        let planes = [Plane::Value, Plane::Low, Plane::Scale];
        let classes = (0..program.params.len())
            .flat_map(|param| planes.map(|plane| BufferClass::Param { param, plane }));
        let buffers: Vec<_> =
            classes.filter_map(|class| program.buffers.find(|buffer| buffer.class == class)).collect();
        for (name, session) in &self.sessions {
            let state = session.state();
            assert_eq!(state.len(), buffers.len(), "{name}: {what}");
            for (tensor, &buffer) in state.iter().zip(&buffers) {
                let expected = self.executor.buffer(buffer).to_bytes();
                same(&format!("{name}: {what}: {}", tensor.name), tensor.bytes.as_ref(), &expected[..]);
            }
            for (param, _, values) in session.weights() {
                let expected = self.executor.weights(param).expect("the program has the parameter");
                same(&format!("{name}: {what}: {param}"), &values, &expected);
            }
            assert_eq!(session.weights_hash(), self.sessions[0].1.weights_hash(), "{name}: {what}");
        }
    }
}

/// The buffers of all parameters in the order in which a session shows them.
fn planes(program: &Program) -> Vec<Handle<Buffer>> {
    let planes = [Plane::Value, Plane::Low, Plane::Scale];
    let params = 0..program.params.len();
    let classes = params.flat_map(|param| planes.map(|plane| BufferClass::Param { param, plane }));
    classes.filter_map(|class| program.buffers.find(|buffer| buffer.class == class)).collect()
}

/// A number's bits.
trait Bits: Copy + Debug {
    fn bits(self) -> u32;
}

impl Bits for f32 {
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Bits for u8 {
    fn bits(self) -> u32 {
        self.into()
    }
}

fn same<T: Bits>(what: &str, ours: &[T], theirs: &[T]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(a.bits(), b.bits(), "{what} differs at {index}: {a:?}, the reference has {b:?}");
    }
}
