//! `ffc verify`: machine code against the interpreter, parameter by parameter, on seeded data.

use std::path::PathBuf;

use clap::Args;
use ffc_compiler::recipe::Precision;
use ffc_ir::interpret::{self, Batch, Controls, Mode, Outcome, State};
use ffc_ir::module::Module;
use ffc_ir::numerics::step_key;
use ffc_runtime::Session;
use serde_json::json;

use super::seeded::Data;
use super::{print_json, print_line};
use crate::compile::{compile, preprocessing_constants};
use crate::initial::{Init, initial_values};
use crate::options::TrainingArgs;
use crate::source::{Origin, Run, Source};
use crate::{Failure, job};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc verify examples/mnist_mlp.onnx --batch-size 16")]
pub struct Verify {
    /// ONNX file, checkpoint folder or `.ffc` artifact
    pub model: PathBuf,
    /// Device to compare
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Training steps
    #[arg(long, default_value_t = 2)]
    pub steps: u64,
    /// Worker threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Training options.
    #[command(flatten)]
    pub options: TrainingArgs,
    /// JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it; a difference among it.
pub fn run(args: Verify) -> Result<(), Failure> {
    super::devices::check(&args.device)?;
    let source = Source::open(&args.model)?;
    let description = job::resolve(&source, &args.options.clone().with_config()?)?;
    job::check_fixed(&source, &description.options)?;
    if description.options.precision == Precision::Float {
        return Err(Failure::new("single precision is not compiled, so there is nothing to verify"));
    }
    let compiled = compile(&source.network.module, &description.options)?;
    let run = Run {
        program: &compiled.program,
        options: &description.options,
        threads: args.threads,
        seed: description.seed,
        init: Init::Random,
    };
    let mut session = match &source.origin {
        Origin::Artifact(bytes) => run.load(bytes)?,
        _ => run.session()?,
    };
    let mut state = State::new(&compiled.train);
    let constants = preprocessing_constants(&description.options);
    let params = &compiled.program.params;
    for parameter in initial_values(params, &source.network, &constants, Init::Random, description.seed) {
        let start = parameter?;
        let (name, values) = (&start.param.name, start.all());
        session.load_weights(name, &values)?;
        let param = compiled.train.param(name);
        state.set_weights(param.ok_or_else(|| Failure::new(format!("no parameter `{name}`")))?, &values)?;
    }
    let mut comparison = Comparison::default();
    for step in 0..args.steps {
        // The last step has fewer samples than a batch.
        let samples = if step + 1 == args.steps {
            description.options.batch.div_ceil(2)
        } else {
            description.options.batch
        };
        compare_step(&compiled.train, &mut state, &mut session, &mut comparison, step, samples)?;
    }
    compare_inference(&compiled.train, &compiled.infer, &state, &mut session, &mut comparison, args.steps)?;
    report(&comparison, args.json)
}

/// What was compared, and the first that differed.
#[derive(Default)]
struct Comparison {
    tensors: usize,
    first: Option<String>,
}

impl Comparison {
    fn compare(&mut self, name: &str, ours: &[f32], theirs: &[f32]) {
        self.tensors += 1;
        if self.first.is_some() {
            return;
        }
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(at) = ours.iter().zip(theirs).position(differs) {
            self.first = Some(format!("{name}[{at}]: {} instead of {}", ours[at], theirs[at]));
        } else if ours.len() != theirs.len() {
            self.first = Some(format!("{name}: {} elements instead of {}", ours.len(), theirs.len()));
        }
    }
}

/// Learning rate and look-ahead weight of the comparison: large enough to move everything.
const RATE: f32 = 0.3;
const LAMBDA: f32 = 0.25;

fn for_interpreter(data: &Data) -> Batch<'_> {
    let inputs = if data.is_bytes {
        interpret::Samples::U8(&data.bytes)
    } else {
        interpret::Samples::F32(&data.floats)
    };
    Batch { inputs, labels: &data.labels }
}

fn compare_step(
    train: &Module,
    state: &mut State,
    session: &mut Session,
    comparison: &mut Comparison,
    step: u64,
    samples: usize,
) -> Result<(), Failure> {
    let module = ffc_ir::verify(train)?;
    let data = Data::new(train, samples, step);
    let key = step_key(session.seed(), session.step()) as i32;
    if step == 0 {
        let still = Controls { rate: 0.0, lambda: 0.0, key };
        interpret::step(&module, state, &for_interpreter(&data), &still, Mode::Calibrate)?;
    }
    let controls = Controls { rate: RATE / samples as f32, lambda: LAMBDA, key };
    let outcome = interpret::step(&module, state, &for_interpreter(&data), &controls, Mode::Train)?;
    session.set_learning_rate(RATE);
    session.set_lambda(LAMBDA);
    let losses: Vec<f32> = session.train_step(data.for_session(), &data.labels)?.losses.to_vec();
    let expected: Vec<f32> = outcome.losses.iter().map(|(_, loss)| loss / samples as f32).collect();
    comparison.compare(&format!("step {step}: loss"), &losses, &expected);
    for (handle, param) in train.params.iter() {
        let ours = session.weight(&param.name)?;
        comparison.compare(&format!("step {step}: {}", param.name), &ours, &state.weights(handle));
    }
    Ok(())
}

fn compare_inference(
    train: &Module,
    infer: &Module,
    state: &State,
    session: &mut Session,
    comparison: &mut Comparison,
    step: u64,
) -> Result<(), Failure> {
    let mut frozen = State::new(infer);
    for (handle, param) in infer.params.iter() {
        if let Some(source) = train.param(&param.name) {
            frozen.set_stored(handle, state.stored(source).clone());
        }
    }
    let samples = 3;
    let data = Data::new(infer, samples, step);
    let controls = Controls { rate: 0.0, lambda: 0.0, key: 0 };
    let module = ffc_ir::verify(infer)?;
    let Outcome { scores, .. } =
        interpret::step(&module, &mut frozen, &for_interpreter(&data), &controls, Mode::Infer)?;
    let mut ours = vec![0.0; samples * infer.classes];
    session.infer(data.for_session(), &mut ours)?;
    comparison.compare("scores", &ours, &scores.unwrap_or_default());
    Ok(())
}

fn report(comparison: &Comparison, as_json: bool) -> Result<(), Failure> {
    let Comparison { tensors, first } = comparison;
    if as_json {
        print_json(&json!({ "tensors": tensors, "bit_exact": first.is_none(), "first_difference": first }))?;
    } else if first.is_none() {
        print_line(&format!("{tensors} tensors, bit-exact"))?;
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Failure::new(format!("machine code and interpreter differ at {first}"))
            .with_help("this is a bug in ffc; please report it with the model")),
    }
}
