//! Formulas that are written down twice, because the runtime ships without the compiler, are the same formula.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::RECIPES;
use ffc_ir::module::Activation;
use ffc_ir::numerics::{Number, Scalar, WEIGHT_MAX, high_plane, join_planes};
use ffc_reference::Executor;
use ffc_runtime::{Options, Session};
use ffc_tests::networks::Case;
use ffc_tests::random::Random;
use ffc_tests::session::{artifact, program, targets};

#[test]
fn steps_have_the_same_key() {
    let mut random = Random::new(1);
    let edges = [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX];
    let pairs = edges.into_iter().flat_map(|seed| edges.map(|step| (seed, step)));
    let some = (0..10_000).map(|_| (random.bits(), random.bits() >> (random.bits() % 64)));
    for (seed, step) in pairs.chain(some.collect::<Vec<_>>()) {
        let key = ffc_runtime::random::step_key(seed, step);
        assert_eq!(key, ffc_ir::numerics::step_key(seed, step), "seed {seed}, step {step}");
    }
}

/// Of all magnitudes, and the ones that need care.
fn floats() -> Vec<f32> {
    let mut random = Random::new(2);
    let any = (0..50_000).map(|_| f32::from_bits(random.bits() as u32)).collect::<Vec<_>>();
    let usual = (0..50_000).map(|_| random.signed()).collect::<Vec<_>>();
    let edges = [0.0, -0.0, 1.0, f32::MIN_POSITIVE, 1e-45, 1e-12, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
    let edges = edges.into_iter().chain([f32::NAN]);
    edges.chain(usual).chain(any).collect()
}

#[test]
fn fixed_point_is_the_same() {
    let floats = floats();
    for (index, &value) in floats.iter().enumerate() {
        let range = floats[(index * 7919 + 3) % floats.len()].abs();
        let scale = ffc_ir::fixed::channel_scale(range);
        assert_eq!(ffc_runtime::fixed::channel_scale(range).to_bits(), scale.to_bits(), "{range}");
        let fixed = ffc_ir::fixed::fixed_of(value, scale);
        assert_eq!(ffc_runtime::fixed::fixed_of(value, scale), fixed, "{value} at {scale}");
        let weight = ffc_ir::fixed::weight_of(fixed, scale);
        assert_eq!(ffc_runtime::fixed::weight_of(fixed, scale).to_bits(), weight.to_bits());
    }
    for values in floats.chunks(97) {
        let most = ffc_ir::fixed::abs_max(values);
        assert_eq!(ffc_runtime::fixed::abs_max(values).to_bits(), most.to_bits(), "{values:?}");
    }
}

#[test]
fn planes_are_the_same() {
    for fixed in -WEIGHT_MAX..=WEIGHT_MAX {
        let high = high_plane(&mut Scalar, Number::I32(fixed));
        // Stored, an integer keeps its lowest byte.
        let low = Number::I32(i32::from(fixed as i8));
        let ours = ffc_runtime::fixed::split_planes(fixed);
        assert_eq!((i32::from(ours.0), i32::from(ours.1)), (high.as_i32(), low.as_i32()), "{fixed}");
        assert_eq!(
            ffc_runtime::fixed::join_planes(ours.0, ours.1),
            join_planes(&mut Scalar, high, low).as_i32()
        );
    }
}

/// Weights of all magnitudes, zeros, and channels that differ by orders of magnitude.
#[test]
fn weights_are_stored_alike() {
    for recipe in RECIPES {
        let (activation, options) = (Activation::Relu, recipe.options());
        let case = Case { name: recipe.name.to_string(), sizes: vec![23, 31, 17, 5], activation, options };
        let (_, program) = program(&case);
        let artifact = artifact(&program, &targets()[0], false);
        let mut session = Session::new(artifact, Options::default()).unwrap();
        let mut executor = Executor::new(program.clone());
        let mut random = Random::new(4);
        for param in &program.params {
            let integer = param.ty().dtype != ffc_ir::types::DType::F32 && param.scale_type().is_none();
            let values: Vec<f32> = (0..param.len())
                .map(|index| {
                    let size = 10f32.powi((index / param.shape[1] % 13) as i32 - 8);
                    let value = if random.below(5) == 0 { 0.0 } else { random.signed() * size };
                    if integer { (value * 100.0).round().clamp(-127.0, 127.0) } else { value }
                })
                .collect();
            session.load_weights(&param.name, &values).unwrap();
            executor.set_weights(&param.name, &values).unwrap();
            let (ours, theirs) =
                (session.weight(&param.name).unwrap(), executor.weights(&param.name).unwrap());
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&ours), bits(&theirs), "{}", param.name);
        }
    }
}
