//! What the memory plan promises: the arena does not grow with depth, look-ahead adds its accumulators and nothing
//! else, and state is what the parameters need. (That no two live buffers share bytes is checked wherever the
//! reference executor runs with its arena on.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_compiler::recipe::{LookAhead, Options, Predict, RECIPES, Recipe};
use ffc_ir::kernel::{BufferClass, Program};
use ffc_ir::module::Activation;
use ffc_tests::networks::Case;
use ffc_tests::session::program;

fn planned(recipe: &Recipe, hidden: usize, change: impl Fn(&mut Options)) -> Program {
    let mut sizes = vec![1000; hidden + 2];
    sizes[0] = 784;
    sizes[hidden + 1] = 10;
    let mut options = Options { batch: 128, ..recipe.options() };
    change(&mut options);
    let case =
        Case { name: format!("{} {hidden}", recipe.name), sizes, activation: Activation::Relu, options };
    program(&case).1
}

/// Numbers of hidden layers from 784 to 1000s to 10: the middle ones all alike, and at least one of them in between. A
/// program that tries labels has no classifier, so its last hidden layer is not in between.
fn depths(recipe: &Recipe) -> [usize; 3] {
    match recipe.predict {
        Predict::Labels => [3, 5, 9],
        Predict::Classifier | Predict::Heads => [2, 4, 8],
    }
}

fn accumulators(program: &Program) -> usize {
    let all = program.buffers.values().filter(|buffer| buffer.class == BufferClass::Accumulator);
    all.map(|buffer| buffer.bytes()).sum()
}

#[test]
fn the_arena_does_not_grow_with_depth() {
    for recipe in RECIPES {
        let off = |options: &mut Options| options.look_ahead = LookAhead::Off;
        let arenas = depths(recipe).map(|hidden| planned(recipe, hidden, off).arena_bytes);
        assert_eq!(arenas, [arenas[0]; 3], "{}", recipe.name);
        // One layer's input and output, plain and transposed, and its gradient, in INT8; far from one of f32 a layer.
        let rows = if recipe.options().overlays_labels() { 256 } else { 128 };
        assert!(arenas[0] < 6 * rows * 1024, "{}: {} bytes", recipe.name, arenas[0]);
    }
}

/// What looking ahead costs: some bytes a row and layer.
#[test]
fn look_ahead_adds_its_accumulators() {
    for recipe in RECIPES {
        let scalar = |options: &mut Options| options.look_ahead = LookAhead::Scalar;
        let programs = depths(recipe).map(|hidden| planned(recipe, hidden, scalar));
        let rest = programs.each_ref().map(|program| program.arena_bytes - accumulators(program));
        assert_eq!(rest, [rest[0]; 3], "{}", recipe.name);
        let sizes = programs.each_ref().map(accumulators);
        assert_eq!(sizes[2] - sizes[1], 2 * (sizes[1] - sizes[0]), "{}: {sizes:?}", recipe.name);
    }
}

/// Two bytes a weight, two more with momentum, and little besides.
#[test]
fn state_is_two_bytes_a_weight() {
    let recipe = Recipe::named("ff-int8").unwrap();
    let weights = 784 * 1000 + 1000 * 1000;
    for (momentum, bytes) in [(0.0, 2), (0.9, 4)] {
        let program = planned(recipe, 2, |options| options.momentum = momentum);
        let state = program.state_bytes;
        assert!(state >= bytes * weights, "{state}");
        // Rows are padded to 64 elements: 784 to 832, 1000 to 1024.
        let padded = 832 * 1000 + 1024 * 1000;
        assert!(state < bytes * padded + padded / 50, "momentum {momentum}: {state} bytes of state");
    }
}
