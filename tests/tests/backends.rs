//! Compiled code does what the reference does, bit for bit: parameters, losses and scores of every network in
//! [`networks::cases`], at every level that the machine at hand has, on one thread and on several, with every kernel divided among them however small it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_codegen::NamedTarget;
use ffc_compiler::recipe::Precision;
use ffc_ir::kernel::Program;
use ffc_ir::module::Module;
use ffc_runtime::{Cpu, Options, Session};
use ffc_tests::images;
use ffc_tests::networks::{self, Case};
use ffc_tests::session::{Given, Twins, program, program_of, targets, variants};

fn check(module: &Module, program: &Program) {
    let mut twins = Twins::new(program, &targets(), &[1, 2], 11);
    for (name, session) in twins.sessions() {
        let memory = session.memory();
        assert_eq!(memory.state_bytes, program.state_bytes, "{name}");
        assert_eq!(memory.arena_bytes, program.arena_bytes, "{name}");
    }
    twins.start(module, 3);
    let batch = program.batch;
    twins.calibrate(&Given::new(program, batch, 0));
    for step in 1..4 {
        twins.train(None, &Given::new(program, batch, step));
    }
    // The last batch of an epoch is short.
    twins.train(None, &Given::new(program, batch.div_ceil(2), 4));
    twins.train(None, &Given::new(program, 1, 5));
    for layer in 0..program.trained_layers.len() {
        twins.train(Some(layer), &Given::new(program, batch, 6 + layer as u64));
    }
    twins.infer(&Given::new(program, 2 * program.infer_batch + 1, 9));
    twins.infer(&Given::new(program, 1, 10));
}

#[test]
fn every_network_is_the_same_on_every_target() {
    for case in networks::cases() {
        if case.options.precision == Precision::Int8 {
            let (module, program) = program(&case);
            check(&module, &program);
        }
    }
}

#[test]
fn every_network_of_images_is_the_same_on_every_target() {
    // Every kind of network, and the changes that give kernels other buffers; the others change numbers only.
    let changes = [
        "projection u8",
        "projection momentum",
        "class-group not normalized",
        "projection blocks",
        "class-group blocks not normalized",
        "projection blocks with momentum and look-ahead",
        "projection hop",
        "class-group hop, blocks",
    ];
    for case in images::cases() {
        if changes.iter().any(|change| case.name.ends_with(change)) {
            let (module, program) = program_of(&case.name, &case.imported, &case.options);
            check(&module, &program);
        }
    }
}

/// Larger than a tile, a row of accumulators and the depth of a block, and multiples of none.
#[test]
fn a_wide_network_is_the_same_on_every_target() {
    for recipe in ffc_compiler::recipe::RECIPES {
        let options = ffc_compiler::recipe::Options { batch: 37, ..recipe.options() };
        let activation = ffc_ir::module::Activation::Relu;
        let name = format!("wide {}", recipe.name);
        let case = Case { name, sizes: vec![301, 131, 67, 10], activation, options };
        let (module, program) = program(&case);
        check(&module, &program);
    }
}

#[test]
fn random_networks_are_the_same_on_every_target() {
    for seed in 1000..1020 {
        let (imported, options) = networks::random(seed);
        let (module, program) = program_of(&format!("random network {seed}"), &imported, &options);
        check(&module, &program);
    }
}

/// One artifact of the architecture's target, loaded as machines with less than this one would load it.
#[test]
fn every_variant_of_an_artifact_trains_alike() {
    let options = ffc_compiler::recipe::RECIPES[0].options();
    let activation = ffc_ir::module::Activation::Relu;
    let case = Case { name: "variants".to_string(), sizes: vec![100, 60, 50, 10], activation, options };
    let (module, program) = program(&case);
    let host = NamedTarget::find(std::env::consts::ARCH).unwrap();
    let artifact = variants(&program, &host.variants(), false);
    let given = Given::new(&program, program.batch, 1);
    let train = |cpu: Cpu| {
        let level = cpu.level().unwrap().name;
        let mut session = Session::new(artifact.clone(), Options { cpu, ..Options::default() }).unwrap();
        assert_eq!(session.variant(), level);
        for (name, weights) in networks::weights(&module, 1) {
            session.load_weights(&name, &weights).unwrap();
        }
        for _ in 0..3 {
            session.train_step(given.samples(), &given.labels).unwrap();
        }
        (level, session.weights_hash())
    };
    let hashes: Vec<_> = Cpu::detect().levels().map(train).collect();
    assert!(hashes.iter().all(|(_, hash)| *hash == hashes[0].1), "{hashes:?}");
}
