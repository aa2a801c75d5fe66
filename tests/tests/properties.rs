//! Whatever is thrown at them, the parser, the verifier, the pipeline and the reader of artifacts answer with an error or
//! a value that keeps its promises; none panics. What the verifier accepts, the interpreter runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use ffc_compiler::recipe::{LookAhead, Options, Precision, Predict, RECIPES};
use ffc_compiler::{lower, pipeline};
use ffc_ir::canonical::canonical;
use ffc_ir::generate::{Random, module, module_in};
use ffc_ir::interpret::{Batch, Controls, Mode, Samples, State, step};
use ffc_ir::module::{Activation, Granularity, Module, Op, ParamRole, ParamStorage, Phase, Region, RowPlan};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Handle, parse, verify};
use ffc_runtime::Session;
use ffc_runtime::artifact::Artifact;
use ffc_tests::networks::Case;
use ffc_tests::session::{program, targets, variants};
use proptest::prelude::*;

/// Reading, checking and printing text.
fn read(text: &str) -> Result<(), TestCaseError> {
    let Ok(module) = parse(text) else { return Ok(()) };
    if verify(&module).is_ok() {
        let again = parse(&module.to_string());
        prop_assert_eq!(again, Ok(canonical(&module)));
    }
    Ok(())
}

/// Pieces of the language, in no order.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: &str = "module layer param forward head look_ahead update yield imported trainable quantized input \
        classes batch rows plain contrast f32 i8 u8 i32 fixed16 ( ) [ ] { } : , = @a @b %x %y 0 1 -1 1e39 nan inf \
        99999999999999999999 weight bias range operand dot transpose quantize nearest stochastic sgd momentum stream \
        // \" \u{0} \u{e9} . _ - whole hidden constant activate clip reduce sum splat target assign";
    let piece = prop::sample::select(PIECES.split_whitespace().collect::<Vec<_>>());
    let space = prop::sample::select(vec![" ", "", "\n", "\t"]);
    prop::collection::vec((piece, space), 0..60)
        .prop_map(|pairs| pairs.into_iter().map(|(piece, space)| format!("{piece}{space}")).collect())
}

/// Text with a few characters or lines moved, doubled or gone.
fn damaged(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..random.between(1, 4) {
        let line = random.between(0, lines.len() - 1);
        match random.between(0, 4) {
            0 => drop(lines.remove(line)),
            1 => lines.insert(line, lines[random.between(0, lines.len() - 1)].clone()),
            2 => {
                let other = random.between(0, lines.len() - 1);
                lines.swap(line, other);
            }
            _ => {
                let mut characters: Vec<char> = lines[line].chars().collect();
                if !characters.is_empty() {
                    let at = random.between(0, characters.len() - 1);
                    characters[at] =
                        random.pick(&['0', '9', ' ', '%', '@', ',', '-', 'x', '[', 'é', '\u{7f}']);
                }
                lines[line] = characters.into_iter().collect();
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

fn size(random: &mut Random) -> usize {
    random.pick(&[0, 1, 2, 3, 7, 13, 1 << 20, usize::MAX])
}

fn ty(random: &mut Random) -> Type {
    let mut dim = || if random.chance(40) { Dim::ROWS } else { Dim::Const(size(random)) };
    let (rows, columns) = (dim(), dim());
    Type::new(random.pick(&DType::ALL), rows, columns)
}

/// Changes one thing in a module, with no regard for what holds.
fn mutate(module: &mut Module, random: &mut Random) {
    match random.between(0, 11) {
        0 => module.batch = size(random),
        1 => module.classes = size(random),
        2 => module.features = size(random),
        3 => module.rows = random.pick(&RowPlan::ALL),
        4 => module.phase = random.pick(&Phase::ALL),
        5 => mutate_param(module, random),
        6 if module.layers.len() > 1 => {
            let layer = random.between(0, module.layers.len() - 1);
            module.layers.swap(0, layer);
        }
        _ => mutate_layer(module, random),
    }
}

fn mutate_param(module: &mut Module, random: &mut Random) {
    if module.params.is_empty() {
        return;
    }
    let handle = Handle::new(random.between(0, module.params.len() - 1));
    let param = &mut module.params[handle];
    match random.between(0, 2) {
        0 => param.shape[random.between(0, 1)] = size(random),
        1 => {
            let fixed = [Granularity::Channel, Granularity::Tensor].map(ParamStorage::Fixed16);
            let plain = [ParamStorage::F32, ParamStorage::I8, ParamStorage::I16];
            param.storage = random.pick(&[&fixed[..], &plain[..]].concat());
        }
        _ => param.role = random.pick(&[ParamRole::Weight, ParamRole::Groups, ParamRole::Range(f32::NAN)]),
    }
}

fn mutate_layer(module: &mut Module, random: &mut Random) {
    let index = random.between(0, module.layers.len() - 1);
    let layer = &mut module.layers[index];
    if layer.values.is_empty() {
        return;
    }
    let any = |random: &mut Random, len: usize| Handle::new(random.between(0, len));
    let count = layer.values.len();
    let value = Handle::new(random.between(0, count - 1));
    let region = random.pick(&Region::ALL);
    let other = any(random, count);
    match random.between(0, 6) {
        0 => layer.values[value].op.operands_mut(|operand| *operand = any(random, count)),
        1 => layer.values[value].ty = ty(random),
        2 => layer.region_mut(region).push(other),
        3 => drop(layer.region_mut(region).pop()),
        4 => layer.region_mut(region).reverse(),
        5 => layer.outputs.push(other),
        _ => {
            let source = Handle::new(random.between(0, count - 1));
            let op: Op = layer.values[source].op;
            layer.values[value].op = op;
        }
    }
}

/// All modes on a module that the verifier accepted, if it is small.
fn run(module: &Module) -> Result<(), TestCaseError> {
    let Ok(verified) = verify(module) else { return Ok(()) };
    let widest = module.layers.iter().flat_map(|layer| layer.values.values()).map(|value| {
        let dim = |dim| if let Dim::Const(size) = dim { size } else { module.batch_rows() };
        dim(value.ty.rows()).saturating_mul(dim(value.ty.columns()))
    });
    let params = module.params.values().map(ffc_ir::module::Param::len);
    if widest.chain(params).max().unwrap_or(0) > 1 << 12 || module.batch * module.features > 1 << 12 {
        return Ok(());
    }
    let mut state = State::new(module);
    let samples = module.batch;
    let (bytes, floats) = (vec![3; samples * module.features], vec![0.5; samples * module.features]);
    let inputs = if module.input == DType::U8 { Samples::U8(&bytes) } else { Samples::F32(&floats) };
    let labels = vec![(module.classes - 1) as i32; samples];
    for mode in [Mode::Calibrate, Mode::Train, Mode::TrainLayer(0), Mode::Infer] {
        let controls = Controls { rate: 0.1, lambda: 0.5, key: 7 };
        let outcome = step(&verified, &mut state, &Batch { inputs, labels: &labels }, &controls, mode);
        let trains = module.layers.iter().any(|layer| !layer.update.is_empty());
        prop_assert!(outcome.is_ok() || (mode == Mode::TrainLayer(0) && !trains), "{:?}", outcome);
    }
    Ok(())
}

/// Compiles for every recipe with what changes the pipeline most.
fn compile(imported: &Module) {
    for recipe in RECIPES {
        for precision in [Precision::Int8, Precision::Float] {
            for (look_ahead, predict) in [
                (LookAhead::Off, Predict::Classifier),
                (LookAhead::Scalar, recipe.predict),
                (LookAhead::Hop, recipe.predict),
            ] {
                let options = Options { precision, look_ahead, predict, batch: 3, ..recipe.options() };
                let Ok((train, infer)) = pipeline::compile(imported, &options) else { continue };
                let verified = |module| verify(module).expect("the pipeline verifies what it makes");
                if let Ok(program) = lower::lower(&verified(&train), &verified(&infer)) {
                    let sound = ffc_reference::check::verify_structure(&program);
                    assert_eq!(sound, Ok(()), "{imported}");
                }
            }
        }
    }
}

/// A real artifact.
static ARTIFACT: LazyLock<Artifact> = LazyLock::new(|| {
    let (activation, options) = (Activation::Relu, Options { batch: 4, ..RECIPES[0].options() });
    let case = Case { name: "artifact".to_string(), sizes: vec![5, 7, 3], activation, options };
    variants(&program(&case).1, &targets(), false)
});

/// Every number, string and list of a description, by the path to it.
fn places(value: &mut serde_json::Value) -> Vec<&mut serde_json::Value> {
    match value {
        serde_json::Value::Array(items) => items.iter_mut().flat_map(places).collect(),
        serde_json::Value::Object(items) => items.values_mut().flat_map(places).collect(),
        leaf => vec![leaf],
    }
}

/// An artifact with other numbers and names in its description, where it is still one.
fn redescribed(random: &mut Random) -> Option<Artifact> {
    let mut description = serde_json::to_value(&*ARTIFACT).unwrap();
    for _ in 0..random.between(1, 3) {
        let mut places = places(&mut description);
        let at = random.between(0, places.len() - 1);
        let numbers = [0, 1, 2, 3, 63, 64, 4096, 1 << 31, 1 << 40, u64::MAX / 2, u64::MAX];
        *places[at] = match places[at] {
            serde_json::Value::Number(_) => random.pick(&numbers).into(),
            serde_json::Value::String(_) => random.pick(&["", "i8", "f32", "input", "aarch64"]).into(),
            _ => random.chance(50).into(),
        };
    }
    let mut artifact: Artifact = serde_json::from_value(description).ok()?;
    for (variant, own) in artifact.variants.iter_mut().zip(&ARTIFACT.variants) {
        variant.code.clone_from(&own.code);
    }
    Some(artifact)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in soup()) {
        read(&text)?;
    }

    #[test]
    fn any_characters_are_read_or_refused(text: String) {
        read(&text)?;
    }

    #[test]
    fn damaged_text_is_read_or_refused(seed: u64) {
        let text = module(seed).to_string();
        read(&damaged(&text, &mut Random { state: !seed }))?;
    }

    #[test]
    fn mutated_modules_are_refused_or_run(seed: u64, changes in 1usize..4) {
        let mut module = module(seed);
        let mut random = Random { state: !seed };
        (0..changes).for_each(|_| mutate(&mut module, &mut random));
        // Broken modules print too.
        prop_assert!(!module.to_string().is_empty());
        run(&module)?;
    }

    /// Networks that no frontend makes; hardly any compiles. Those that do are in `fusion.rs`.
    #[test]
    fn any_network_compiles_or_is_refused(seed: u64) {
        compile(&module_in(Phase::Imported, seed));
    }

    #[test]
    fn damaged_artifacts_are_refused(seed: u64) {
        let mut random = Random { state: seed };
        let mut bytes = ARTIFACT.to_bytes(&[("note", b"text")]);
        if random.chance(30) {
            bytes.truncate(random.between(0, bytes.len() - 1));
        } else {
            let at = random.between(0, bytes.len() - 1);
            bytes[at] ^= 1 << random.between(0, 7);
        }
        prop_assert!(Artifact::from_bytes(&bytes).is_err());
    }

    /// Descriptions that other programs made up, with checksums that fit. Nothing is run: code is trusted.
    #[test]
    fn other_descriptions_are_refused_or_sound(seed: u64) {
        let mut random = Random { state: seed };
        let Some(artifact) = redescribed(&mut random) else { return Ok(()) };
        let read = Artifact::from_bytes(&artifact.to_bytes(&[]));
        prop_assert_eq!(read.is_ok(), artifact.validate().is_ok());
        if read.is_ok() && artifact.arena_bytes.max(artifact.state_bytes) < 1 << 24 {
            // Other machines' code is refused here at the latest.
            let session = Session::new(artifact, ffc_runtime::Options::default());
            if let Ok(session) = session {
                prop_assert!(session.state().len() >= session.weights().count());
            }
        }
    }
}
