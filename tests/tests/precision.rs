//! INT8 beside single precision: the same step from the same weights. A scale that is applied twice or not at all, a
//! range that is off by a factor, a rounding that is biased would all move the step far from where it belongs.
//!
//! The bounds are measured, with room: over 20 seeds losses differ by 0.5 %, the cosine of the angle between
//! updates is 0.984 and more, and they are 0.91 to 1.02 times as long (a learned head with momentum; all others 0.97 and
//! more). What remains is the rounding of operands to 8 bits, which 64 rows average out only in
//! part, and a few elements beyond their range.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::{Options, Precision, RECIPES};
use ffc_ir::interpret::{Controls, Mode, step};
use ffc_ir::module::{Activation, Module, ParamRole};
use ffc_ir::numerics::step_key;
use ffc_ir::verify;
use ffc_tests::networks::{Case, weights};
use ffc_tests::step::{RandomBatch, training_module};

/// An update, by the parameter's name.
type Updates = Vec<(String, Vec<f32>)>;

const BATCH: usize = 64;

fn updates(module: &Module, seed: u64) -> (Vec<f32>, Updates) {
    let mut state = ffc_ir::interpret::State::new(module);
    for (name, values) in weights(module, seed) {
        state.set_weights(module.param(&name).unwrap(), &values).unwrap();
    }
    let trained = |role| matches!(role, ParamRole::Weight | ParamRole::Bias | ParamRole::Head(_));
    let trained: Vec<_> = module.params.iter().filter(|(_, param)| trained(param.role)).collect();
    let before: Vec<Vec<f32>> = trained.iter().map(|&(handle, _)| state.weights(handle)).collect();
    let data = RandomBatch::new(module, BATCH, seed + 1);
    let verified = verify(module).unwrap();
    // With momentum steps add up tenfold, and one step is a tenth. A larger one would not fit the 16 bits of a velocity.
    let momentum = module.params.values().any(|param| param.role == ParamRole::Velocity);
    let rate = if momentum { 0.05 } else { 0.5 } / BATCH as f32;
    let mut run = |mode, rate| {
        let controls = Controls { rate, lambda: 0.5, key: step_key(seed, 0) as i32 };
        step(&verified, &mut state, &data.batch(), &controls, mode).unwrap()
    };
    run(Mode::Calibrate, 0.0);
    let outcome = run(Mode::Train, rate);
    let losses = outcome.losses.iter().map(|(_, loss)| *loss).collect();
    let update = |(&(handle, _), before): (&(_, &ffc_ir::module::Param), &Vec<f32>)| {
        state.weights(handle).iter().zip(before).map(|(after, before)| after - before).collect()
    };
    let all: Vec<Vec<f32>> = trained.iter().zip(&before).map(update).collect();
    (losses, trained.iter().map(|(_, param)| param.name.clone()).zip(all).collect())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn int8_steps_go_where_float_steps_go() {
    for recipe in RECIPES {
        for (momentum, seed) in [0.0, 0.9].into_iter().flat_map(|m| (0..5).map(move |s| (m, s))) {
            let modules = [Precision::Float, Precision::Int8].map(|precision| {
                let options = Options { precision, momentum, batch: BATCH, ..recipe.options() };
                let (name, sizes) = (recipe.name.to_string(), vec![60, 130, 90, 10]);
                training_module(&Case { name, sizes, activation: Activation::Relu, options })
            });
            let [(losses, float), (int8_losses, int8)] = modules.map(|module| updates(&module, seed));
            for (loss, int8_loss) in losses.iter().zip(&int8_losses) {
                let (name, ratio) = (recipe.name, int8_loss / loss);
                assert!(
                    (0.99..1.01).contains(&ratio),
                    "{name}, momentum {momentum}: losses {loss} and {int8_loss}"
                );
            }
            for ((name, float), (_, int8)) in float.iter().zip(&int8) {
                let cosine = dot(float, int8) / (dot(float, float) * dot(int8, int8)).sqrt();
                let length = (dot(int8, int8) / dot(float, float)).sqrt();
                let what = format!("{}, momentum {momentum}, seed {seed}: {name}", recipe.name);
                assert!(cosine > 0.98, "{what}: cosine {cosine:.4}");
                assert!((0.9..1.05).contains(&length), "{what}: {length:.4} times as long");
            }
        }
    }
}
