//! The kernel IR means what the layer IR means: every recipe, interpreted layer by layer and executed kernel by kernel,
//! gives the same bits in every parameter, loss and score.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::{Options, Precision};
use ffc_compiler::{lower, pipeline};
use ffc_ir::interpret::{self, Batch, Controls, Mode, Samples, State};
use ffc_ir::kernel::Purpose;
use ffc_ir::module::{Module, ParamRole};
use ffc_ir::numerics::step_key;
use ffc_ir::types::DType;
use ffc_ir::verify::verify;
use ffc_reference::{Executor, Inputs};
use ffc_tests::random::Random;
use ffc_tests::{images, networks};

fn same(case: &str, what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{case}: {what}");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{case}: {what} differs at {index}: {a} and {b}");
    }
}

/// A network in both forms.
struct Pair<'a> {
    name: &'a str,
    train: &'a Module,
    infer: &'a Module,
    state: State,
    executor: Executor,
}

impl Pair<'_> {
    fn step(&mut self, purpose: Purpose, mode: Mode, samples: usize, step: u64) {
        let inferring = mode == Mode::Infer;
        let module = if inferring { self.infer } else { self.train };
        let mut random = Random::new(step);
        let labels: Vec<i32> = (0..samples).map(|_| random.below(module.classes) as i32).collect();
        let bytes: Vec<u8> = (0..samples * module.features).map(|_| random.bits() as u8).collect();
        let floats: Vec<f32> = (0..samples * module.features).map(|_| random.signed()).collect();
        let rate = if mode == Mode::Calibrate { 0.0 } else { 0.3 / samples as f32 };
        // One layer at a time looks at no other.
        let lambda = if mode == Mode::Train { 0.25 } else { 0.0 };
        let key = step_key(1, step);
        let (inputs, theirs) = match module.input {
            DType::U8 => (Samples::U8(&bytes), ffc_reference::Samples::U8(&bytes)),
            _ => (Samples::F32(&floats), ffc_reference::Samples::F32(&floats)),
        };
        let batch = Batch { inputs, labels: &labels };
        let controls = Controls { rate, lambda, key: key as i32 };
        let name = self.name;
        let outcome = if inferring {
            let mut state = transfer(self.train, &self.state, self.infer);
            interpret::step(&verify(module).unwrap(), &mut state, &batch, &controls, mode).unwrap()
        } else {
            interpret::step(&verify(module).unwrap(), &mut self.state, &batch, &controls, mode).unwrap()
        };
        let inputs = Inputs { samples: theirs, labels: &labels };
        let controls = ffc_reference::Controls { rate, lambda, key };
        self.executor.run(purpose, inputs, controls).unwrap_or_else(|error| panic!("{name}: {error}"));
        let what = format!("step {step} {purpose}");
        if let Some(scores) = &outcome.scores {
            same(name, &format!("{what} scores"), &self.executor.scores()[..scores.len()], scores);
        }
        if mode == Mode::Train {
            let losses: Vec<f32> = outcome.losses.iter().map(|(_, loss)| *loss).collect();
            same(name, &format!("{what} losses"), &self.executor.losses(), &losses);
        }
        for (handle, param) in self.train.params.iter() {
            let theirs = self.executor.weights(&param.name).unwrap();
            same(name, &format!("{what} {}", param.name), &theirs, &self.state.weights(handle));
        }
    }
}

/// The state of the predicting module.
fn transfer(train: &Module, from: &State, infer: &Module) -> State {
    let mut to = State::new(infer);
    for (handle, param) in infer.params.iter() {
        let source = train.param(&param.name).expect("the training module has the parameter");
        to.set_stored(handle, from.stored(source).clone());
    }
    to
}

/// Runs a network in both forms.
fn check(name: &str, imported: &Module, options: &Options) {
    let compiled = pipeline::compile(imported, options);
    let (train, infer) = compiled.unwrap_or_else(|error| panic!("{name}: {error}"));
    let program = lower::lower(&verify(&train).unwrap(), &verify(&infer).unwrap())
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    ffc_reference::check::verify_structure(&program).unwrap_or_else(|error| panic!("{name}: {error}"));
    if options.precision == Precision::Float {
        // A GEMM library adds floats in an order of its own.
        return;
    }
    let mut state = State::new(&train);
    let mut executor = Executor::new(program).with_arena(true).unwrap();
    for (name, weights) in networks::weights(&train, 3) {
        state.set_weights(train.param(&name).unwrap(), &weights).unwrap();
        executor.set_weights(&name, &weights).unwrap();
    }
    for (handle, param) in train.params.iter() {
        if matches!(param.role, ParamRole::Groups | ParamRole::Range(_)) {
            executor.set_weights(&param.name, &state.weights(handle)).unwrap();
        }
    }
    let mut pair = Pair { name, train: &train, infer: &infer, state, executor };
    let batch = options.batch;
    pair.step(Purpose::Calibrate, Mode::Calibrate, batch, 0);
    for step in 0..3 {
        pair.step(Purpose::Train, Mode::Train, batch, step);
    }
    pair.step(Purpose::Train, Mode::Train, batch.div_ceil(2), 3);
    pair.step(Purpose::TrainLayer(0), Mode::TrainLayer(0), batch, 4);
    let infers = pair.executor.program().infer_batch;
    pair.step(Purpose::Infer, Mode::Infer, infers, 5);
    pair.step(Purpose::Infer, Mode::Infer, 1, 6);
}

#[test]
fn kernels_mean_what_layers_mean() {
    for case in networks::cases() {
        let imported = networks::perceptron(&case.sizes, case.activation, case.options.batch);
        check(&case.name, &imported, &case.options);
    }
}

#[test]
fn kernels_of_images_mean_what_layers_mean() {
    for case in images::cases() {
        check(&case.name, &case.imported, &case.options);
    }
}

#[test]
fn kernels_of_random_networks_mean_what_layers_mean() {
    for seed in 0..100 {
        let (imported, options) = networks::random(seed);
        check(&format!("random network {seed}"), &imported, &options);
    }
}
