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

/// A multilayer perceptron: `sizes` are features, hidden layers, classes.
pub fn perceptron(sizes: &[usize], activation: Activation, batch: usize) -> Module {
    let mut module = Module {
        name: "perceptron".to_string(),
        phase: Phase::Imported,
        batch,
        features: sizes[0],
        input: DType::F32,
        classes: *sizes.last().expect("a network has sizes"),
        rows: RowPlan::Plain,
        params: Arena::default(),
        layers: Vec::new(),
    };
    let mut layer = Layer::new("main", LayerRole::Whole);
    let matrix = |columns| Type::new(DType::F32, Dim::Rows, Dim::Const(columns));
    let mut value = layer.push(Region::Forward, "x", Op::Operand(0), matrix(sizes[0]));
    for (index, pair) in sizes.windows(2).enumerate() {
        let name = format!("fc{}", index + 1);
        let weight = param(&mut module, &name, "weight", [pair[1], pair[0]], ParamRole::Weight);
        let bias = param(&mut module, &name, "bias", [1, pair[1]], ParamRole::Bias);
        let weight_type = module.params[weight].ty();
        let bias_type = module.params[bias].ty();
        let weight = layer.push(Region::Forward, "w", Op::Param(weight), weight_type);
        let dot = layer.push(Region::Forward, "d", Op::Dot { lhs: value, rhs: weight }, matrix(pair[1]));
        let bias = layer.push(Region::Forward, "b", Op::Param(bias), bias_type);
        value = layer.push(Region::Forward, "z", Op::Binary(BinaryOp::Add, dot, bias), matrix(pair[1]));
        if index + 2 < sizes.len() {
            value = layer.push(Region::Forward, "y", Op::Activate(activation, value), matrix(pair[1]));
        }
    }
    layer.outputs = vec![value];
    module.layers.push(layer);
    module
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
    ("not normalized", |o| o.normalization = Normalization::None),
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
