//! Multilayer perceptrons as a frontend makes them, with seeded weights and data.

use ffc_compiler::recipe::{
    Goodness, Head, LookAhead, Normalization, Options, Precision, Predict, Preprocessing, RECIPES, Recipe,
};
use ffc_ir::module::{
    Activation, BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, Phase, Region,
    RowPlan,
};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Arena, Handle};

use crate::random::Random;

/// A layer of a network: weights, perhaps biases, and activation functions in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Outputs.
    pub units: usize,
    /// Whether there are biases.
    pub bias: bool,
    /// Applied one after the other.
    pub activations: Vec<Activation>,
}

/// A multilayer perceptron: `sizes` are features, hidden layers, classes.
pub fn perceptron(sizes: &[usize], activation: Activation, batch: usize) -> Module {
    let layer = |(index, &units): (usize, &usize)| {
        let hidden = index + 2 < sizes.len();
        Dense { units, bias: true, activations: if hidden { vec![activation] } else { Vec::new() } }
    };
    chain(sizes[0], &sizes[1..].iter().enumerate().map(layer).collect::<Vec<_>>(), batch)
}

/// A chain of dense layers.
///
/// # Panics
/// If there are none.
pub fn chain(features: usize, layers: &[Dense], batch: usize) -> Module {
    let mut module = Module {
        name: "perceptron".to_string(),
        phase: Phase::Imported,
        batch,
        features,
        input: DType::F32,
        classes: layers.last().expect("a network has layers").units,
        rows: RowPlan::Plain,
        params: Arena::default(),
        layers: Vec::new(),
    };
    let mut layer = Layer::new("main", LayerRole::Whole);
    let matrix = |columns| Type::new(DType::F32, Dim::ROWS, Dim::Const(columns));
    let mut value = layer.push(Region::Forward, "x", Op::Operand(0), matrix(features));
    let mut inputs = features;
    for (index, dense) in layers.iter().enumerate() {
        let (name, ty) = (format!("fc{}", index + 1), matrix(dense.units));
        let weight = param(&mut module, &name, "weight", [dense.units, inputs], ParamRole::Weight);
        let weight_type = module.params[weight].ty();
        let weight = layer.push(Region::Forward, "w", Op::Param(weight), weight_type);
        value = layer.push(Region::Forward, "d", Op::Dot { lhs: value, rhs: weight }, ty);
        if dense.bias {
            let bias = param(&mut module, &name, "bias", [1, dense.units], ParamRole::Bias);
            let bias_type = module.params[bias].ty();
            let bias = layer.push(Region::Forward, "b", Op::Param(bias), bias_type);
            value = layer.push(Region::Forward, "z", Op::Binary(BinaryOp::Add, value, bias), ty);
        }
        for &activation in &dense.activations {
            value = layer.push(Region::Forward, "y", Op::Activate(activation, value), ty);
        }
        inputs = dense.units;
    }
    layer.outputs = vec![value];
    module.layers.push(layer);
    module
}

/// A seeded chain of layers of odd sizes with options that go together: what recipes and flags allow, in combinations
/// that nobody lists.
///
/// # Panics
/// Never; recipes are a fixed table.
pub fn random(seed: u64) -> (Module, Options) {
    let mut random = Random::new(seed);
    let recipe = &RECIPES[random.below(RECIPES.len())];
    let functions = [
        Activation::Relu,
        Activation::LeakyRelu(0.25),
        Activation::Clip { low: -1.0, high: 1.5 },
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    let classes = 2 + random.below(6);
    let features = if random.below(3) == 0 { classes } else { classes + random.below(70) };
    let hidden = 1 + random.below(3);
    let mut layers = Vec::new();
    for index in 0..=hidden {
        let count = if index == hidden { random.below(5) / 4 } else { [0, 1, 1, 1, 2][random.below(5)] };
        let units = if index == hidden { classes } else { classes + random.below(80) };
        let activations = (0..count).map(|_| functions[random.below(functions.len())]).collect();
        layers.push(Dense { units, bias: random.below(4) > 0, activations });
    }
    let mut options = Options { batch: 1 + random.below(20), ..recipe.options() };
    let labels = options.overlays_labels();
    options.look_ahead = [LookAhead::Off, LookAhead::Scalar, LookAhead::Hop][random.below(3)];
    options.normalization = [Normalization::Rms, Normalization::Rms, Normalization::None][random.below(3)];
    options.momentum = [0.0, 0.9][random.below(2)];
    let other = if labels { Predict::Labels } else { Predict::Heads };
    options.predict = [Predict::Classifier, other][random.below(2)];
    if random.below(2) == 0 {
        options.preprocessing.input = DType::U8;
        options.preprocessing.scale = 1.0 / 128.0;
        options.preprocessing.mean = vec![1.0];
    }
    (chain(features, &layers, options.batch), options)
}

fn param(module: &mut Module, layer: &str, what: &str, shape: [usize; 2], role: ParamRole) -> Handle<Param> {
    let name = format!("{layer}.{what}");
    module.params.push(Param { name, shape, storage: ParamStorage::F32, role })
}

/// Seeded values for every parameter that has to be given: weights of He's size, biases, head matrices, constants.
pub fn weights(module: &Module, seed: u64) -> Vec<(String, Vec<f32>)> {
    let mut random = Random::new(seed);
    let mut given = Vec::new();
    for param in module.params.values() {
        let size = match param.role {
            ParamRole::Weight => (6.0 / param.shape[1] as f32).sqrt(),
            ParamRole::Bias => 0.1,
            ParamRole::Head(std) => std * 1.7,
            ParamRole::Constant => 0.5,
            ParamRole::Groups | ParamRole::Range(_) | ParamRole::Velocity => continue,
        };
        let offset = if param.role == ParamRole::Constant { 1.0 } else { 0.0 };
        given.push((param.name.clone(), (0..param.len()).map(|_| random.signed() * size + offset).collect()));
    }
    given
}

/// A network with options, for tests that go through all of them.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Features, hidden layers, classes.
    pub sizes: Vec<usize>,
    /// Of hidden layers.
    pub activation: Activation,
    /// How it is trained.
    pub options: Options,
}

/// Every recipe with every option changed in turn, and networks of odd shapes.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for recipe in RECIPES {
        recipe_cases(recipe, &mut cases);
    }
    let options = RECIPES[0].options();
    let functions = [
        Activation::LeakyRelu(0.1),
        Activation::Clip { low: 0.0, high: 6.0 },
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    for activation in functions {
        let name = format!("projection {}", activation.name());
        cases.push(Case { name, sizes: vec![9, 17, 5], activation, options: options.clone() });
    }
    for (name, sizes) in [("no hidden layer", vec![5, 4]), ("units of one", vec![1, 1, 2, 2])] {
        let name = name.to_string();
        cases.push(Case { name, sizes, activation: Activation::Relu, options: options.clone() });
    }
    cases
}

/// A change of options, and what it is called.
type Change = (&'static str, fn(&mut Options));

const CHANGES: &[Change] = &[
    ("as it is", |_| {}),
    ("u8", |o| {
        o.preprocessing = Preprocessing {
            input: DType::U8,
            scale: 1.0 / 255.0,
            mean: vec![0.3],
            std: vec![0.4],
            low: -0.75,
            high: 1.75,
        };
    }),
    ("per feature", |o| {
        o.preprocessing.mean = vec![0.5; 13];
        o.preprocessing.std = vec![0.7; 13];
    }),
    ("momentum", |o| o.momentum = 0.9),
    ("no momentum", |o| o.momentum = 0.0),
    ("look-ahead", |o| o.look_ahead = LookAhead::Scalar),
    ("no look-ahead", |o| o.look_ahead = LookAhead::Off),
    ("hop", |o| o.look_ahead = LookAhead::Hop),
    ("not normalized", |o| o.normalization = Normalization::None),
    ("look-ahead, not normalized", |o| {
        o.look_ahead = LookAhead::Scalar;
        o.normalization = Normalization::None;
    }),
    ("classifier", |o| o.predict = Predict::Classifier),
    ("float", |o| o.precision = Precision::Float),
    ("float with momentum", |o| {
        o.precision = Precision::Float;
        o.momentum = 0.9;
    }),
    ("one row", |o| o.batch = 1),
];

fn recipe_cases(recipe: &Recipe, cases: &mut Vec<Case>) {
    let own: Change = match recipe.head {
        Head::SumOfSquares { .. } => {
            ("sum", |o| o.head = Head::SumOfSquares { goodness: Goodness::Sum, threshold: 2.0 })
        }
        Head::ClassGroup { .. } | Head::Projection => ("heads", |o| o.predict = Predict::Heads),
    };
    for (name, change) in CHANGES.iter().chain([&own]) {
        let mut options = recipe.options();
        options.batch = 7;
        change(&mut options);
        let name = format!("{} {name}", recipe.name);
        cases.push(Case { name, sizes: vec![13, 19, 11, 3], activation: Activation::Relu, options });
    }
}
