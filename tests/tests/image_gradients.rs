//! The gradients of convolutional layers against differences of the loss that each layer reports.
//!
//! In FP32 one step moves a parameter by the rate times its gradient. Kinks would make differences lie, so all
//! activation functions are smooth here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::pipeline;
use ffc_compiler::recipe::{LookAhead, Normalization, Options, Precision, RECIPES, Rates, Unit};
use ffc_ir::Handle;
use ffc_ir::interpret::{self, Batch, Controls, Mode, Samples, State};
use ffc_ir::module::{Activation, Module, Op, Param, ParamRole};
use ffc_ir::verify::verify;
use ffc_tests::random::Random;
use ffc_tests::{images, networks};

/// What the next layer's loss weighs where layers look at it.
const LAMBDA: f32 = 0.5;

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
        let controls = Controls { rate, lambda: LAMBDA, key: 1 };
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
                let place = losses.iter().position(|(name, _)| name == layer).unwrap();
                let next = losses.get(place + 1).filter(|_| options.look_ahead == LookAhead::Hop);
                losses[place].1 + next.map_or(0.0, |(_, loss)| LAMBDA * loss)
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
    for network in images::NETWORKS {
        for recipe in RECIPES.iter().filter(|recipe| !recipe.options().overlays_labels()) {
            let variants = [
                (Unit::Layer, Normalization::Rms, LookAhead::Off),
                (Unit::Block, Normalization::Rms, LookAhead::Off),
                (Unit::Block, Normalization::None, LookAhead::Off),
                (Unit::Layer, Normalization::Rms, LookAhead::Hop),
                (Unit::Layer, Normalization::None, LookAhead::Hop),
                (Unit::Block, Normalization::Rms, LookAhead::Hop),
            ];
            for (unit, normalization, look_ahead) in variants {
                let options = Options {
                    batch: 3,
                    unit,
                    normalization,
                    look_ahead,
                    precision: Precision::Float,
                    classifier_rate: 1.0,
                    deeper_rate: 1.0,
                    rates: Rates::Equal,
                    momentum: 0.0,
                    ..recipe.options()
                };
                let imported = network(options.batch);
                let variant = format!("{unit:?} {normalization:?} {look_ahead:?}");
                let name = format!("{} {} {variant}", imported.name, recipe.name);
                check(&name, imported, &options);
            }
        }
    }
}

/// A unit is what a skip operand spans; the gradient test above then holds for all of its weights.
#[test]
fn blocks_are_what_skip_operands_span() {
    let units = |imported: Module| {
        let options = Options { unit: Unit::Block, ..RECIPES[0].options() };
        let (module, _) = pipeline::compile(&imported, &options).unwrap();
        let trained = |op: &Op| match op {
            Op::Sgd(sgd) => {
                Some(module.params[sgd.param].name.clone()).filter(|name| name.ends_with("weight"))
            }
            _ => None,
        };
        let weights = |layer: &ffc_ir::module::Layer| {
            let mut names: Vec<_> = layer.values.values().filter_map(|value| trained(&value.op)).collect();
            names.sort();
            names
                .iter()
                .map(|name| name.trim_end_matches(".weight").to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        module.layers[1..].iter().map(weights).collect::<Vec<_>>()
    };
    assert_eq!(units(images::plain(3)), ["conv1", "conv2", "fc1", "fc2"]);
    assert_eq!(units(images::residual(3)), ["stem", "a1 a2", "b.short b1 b2", "fc"]);
    let inverted = ["stem", "excite expand filter project squeeze", "filter2", "fc"];
    assert_eq!(units(images::inverted(3)), inverted);
    assert_eq!(units(images::dense_residual(3)), ["stem", "a1 a2", "fc"]);
}
