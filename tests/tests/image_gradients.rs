//! The gradients of convolutional layers against differences of the loss that each layer reports.
//!
//! In FP32 one step moves a parameter by the rate times its gradient. Kinks would make differences lie, so all
//! activation functions are smooth here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::pipeline;
use ffc_compiler::recipe::{Options, Precision, RECIPES};
use ffc_ir::Handle;
use ffc_ir::interpret::{self, Batch, Controls, Mode, Samples, State};
use ffc_ir::module::{Activation, Module, Op, Param, ParamRole};
use ffc_ir::verify::verify;
use ffc_tests::random::Random;
use ffc_tests::{images, networks};

/// A module with seeded parameters and samples.
struct Trial {
    module: Module,
    weights: Vec<(Handle<Param>, Vec<f32>)>,
    samples: Vec<f32>,
    labels: Vec<i32>,
}

impl Trial {
    fn new(mut imported: Module, options: &Options) -> Self {
        let whole = &mut imported.layers[0];
        for value in whole.forward.clone() {
            if let Op::Activate(activation, _) = &mut whole.values[value].op
                && *activation != Activation::Silu
            {
                *activation = Activation::Tanh;
            }
        }
        let (module, _) = pipeline::compile(&imported, options).unwrap();
        let weights = networks::weights(&module, 5);
        let weights = weights.into_iter().map(|(name, w)| (module.param(&name).unwrap(), w)).collect();
        let mut random = Random::new(7);
        let samples = (0..options.batch * module.features).map(|_| random.signed()).collect();
        let labels = (0..options.batch).map(|_| random.below(module.classes) as i32).collect();
        Self { module, weights, samples, labels }
    }

    /// The loss of each layer, by name, and all parameters after a step at this rate.
    fn step(&self, changed: Option<(Handle<Param>, usize, f32)>, rate: f32) -> (Vec<(String, f32)>, State) {
        let mut state = State::new(&self.module);
        for (param, weights) in &self.weights {
            let mut weights = weights.clone();
            if let Some((_, index, by)) = changed.filter(|(changed, ..)| changed == param) {
                weights[index] += by;
            }
            state.set_weights(*param, &weights).unwrap();
        }
        let batch = Batch { inputs: Samples::F32(&self.samples), labels: &self.labels };
        let controls = Controls { rate, lambda: 0.0, key: 1 };
        let verified = verify(&self.module).unwrap();
        let outcome = interpret::step(&verified, &mut state, &batch, &controls, Mode::Train).unwrap();
        (outcome.losses, state)
    }

    /// The layer that trains a parameter.
    fn layer_of(&self, param: Handle<Param>) -> &str {
        let writes = |op: &Op| match op {
            Op::Sgd(sgd) => sgd.param == param,
            Op::Assign { param: assigned, .. } => *assigned == param,
            _ => false,
        };
        let trains = |layer: &&ffc_ir::module::Layer| layer.values.values().any(|value| writes(&value.op));
        &self.module.layers.iter().find(trains).unwrap().name
    }
}

fn check(name: &str, imported: Module, options: &Options) {
    const RATE: f32 = 1.0;
    const STEP: f32 = 1e-3;
    let trial = Trial::new(imported, options);
    let (_, after) = trial.step(None, RATE);
    let mut random = Random::new(11);
    for (param, weights) in &trial.weights {
        let described = &trial.module.params[*param];
        if !matches!(described.role, ParamRole::Weight | ParamRole::Bias | ParamRole::Head(_)) {
            continue;
        }
        let layer = trial.layer_of(*param);
        let moved = after.weights(*param);
        for _ in 0..4 {
            let index = random.below(weights.len());
            let loss = |by| {
                let (losses, _) = trial.step(Some((*param, index, by)), 0.0);
                losses.iter().find(|(name, _)| name == layer).unwrap().1
            };
            let difference = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let gradient = (weights[index] - moved[index]) / RATE;
            let error = (difference - gradient).abs();
            assert!(
                error <= 2e-3 + 0.02 * difference.abs(),
                "{name}: {} [{index}]: gradient {gradient}, difference {difference}",
                described.name
            );
        }
    }
}

#[test]
fn gradients_of_images_are_slopes_of_their_layers_loss() {
    let networks: [fn(usize) -> Module; 5] =
        [images::plain, images::residual, images::inverted, images::branches, images::shuffled];
    for network in networks {
        for recipe in RECIPES.iter().filter(|recipe| !recipe.options().overlays_labels()) {
            let options = Options {
                batch: 3,
                precision: Precision::Float,
                classifier_rate: 1.0,
                deeper_rate: 1.0,
                momentum: 0.0,
                ..recipe.options()
            };
            let imported = network(options.batch);
            check(&format!("{} {}", imported.name, recipe.name), imported, &options);
        }
    }
}
