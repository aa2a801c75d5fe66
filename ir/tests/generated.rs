//! Generated modules run in every mode: no panic, finite numbers, the same bits again.

use std::collections::HashSet;

use ffc_ir::generate::{Random, module};
use ffc_ir::interpret::{Batch, Controls, Data, Mode, Outcome, Samples, State, step_traced};
use ffc_ir::module::{Layer, Module, Phase};
use ffc_ir::numerics::step_key;
use ffc_ir::text::mnemonic;
use ffc_ir::types::DType;
use ffc_ir::verify;

fn steps(module: &Module, seed: u64) -> (Vec<Outcome>, State) {
    let verified = verify(module).expect("generated modules are valid");
    let mut random = Random { state: seed };
    let mut state = State::new(module);
    for (handle, param) in module.params.iter() {
        let weights: Vec<f32> = (0..param.len()).map(|_| random.unit()).collect();
        state.set_weights(handle, &weights).expect("right size");
    }
    let samples = random.between(1, module.batch);
    let bytes: Vec<u8> = (0..samples * module.features).map(|_| random.next() as u8).collect();
    let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 32.0 - 4.0).collect();
    let inputs = if module.input == DType::U8 { Samples::U8(&bytes) } else { Samples::F32(&floats) };
    let labels: Vec<i32> = (0..samples).map(|_| random.between(0, module.classes - 1) as i32).collect();
    let batch = Batch { inputs, labels: &labels };
    let trained = module.layers.iter().filter(|layer| !layer.update.is_empty()).count();
    let modes = [Mode::Calibrate, Mode::Train, Mode::Train, Mode::Infer];
    let modes = modes.into_iter().chain((0..trained).map(Mode::TrainLayer)).chain([Mode::Train]);
    let run = |(index, mode): (usize, Mode)| {
        let key = step_key(seed, index as u64) as i32;
        let controls = Controls { rate: 0.01, lambda: 0.5, key };
        step_traced(&verified, &mut state, &batch, &controls, mode).expect("the batch fits")
    };
    (modes.enumerate().map(run).collect(), state)
}

fn finite(outcome: &Outcome, module: &Module) {
    for (layer, values) in &outcome.trace.as_ref().expect("traced").layers {
        for (name, tensor) in values {
            if let Data::F32(data) = &tensor.data {
                assert!(data.iter().all(|value| value.is_finite()), "%{name} of {layer}: {data:?}\n{module}");
            }
        }
    }
}

#[test]
fn generated_modules_run_alike() {
    for seed in 0..300 {
        let module = module(seed);
        let (outcomes, state) = steps(&module, seed);
        outcomes.iter().for_each(|outcome| finite(outcome, &module));
        assert_eq!(steps(&module, seed), (outcomes, state), "{module}");
    }
}

fn used(layer: &Layer) -> impl Iterator<Item = &'static str> {
    layer.ops().map(|(_, value)| mnemonic(&layer.values[value].op))
}

#[test]
fn every_operation_occurs() {
    let modules: Vec<Module> = (0..300).map(module).collect();
    let seen: HashSet<&str> = modules.iter().flat_map(|module| &module.layers).flat_map(used).collect();
    let phases: HashSet<&str> = modules.iter().map(|module| module.phase.name()).collect();
    assert_eq!(phases.len(), Phase::ALL.len());
    let all = "operand input target overlaid polarity control constant param scale dot slice concat transpose neg abs sqrt exp log \
               add sub mul div max min activate activate_grad convert one_hot overlay reduce splat quantize publish \
               ahead score report track assign sgd";
    let missing: Vec<&str> = all.split_whitespace().filter(|name| !seen.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
}
