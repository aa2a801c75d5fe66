//! `ffc bench`: where the time of a training step goes, beside what the machine could do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ffc_compiler::recipe::Precision;
use ffc_ir::kernel::{BufferClass, Kernel, Program};
use ffc_runtime::Session;
use serde_json::{Value, json};

use super::seeded::Data;
use super::{print_json, print_line};
use crate::compile::{compile, preprocessing_constants};
use crate::initial::{Init, initial_values};
use crate::options::TrainingArgs;
use crate::source::{Run, Source};
use crate::{Failure, job};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc bench examples/mnist_mlp.onnx --batch-size 128 --threads 1")]
pub struct Bench {
    /// ONNX file or checkpoint folder
    pub model: PathBuf,
    /// Worker threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Steps that are measured; medians are given
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub steps: usize,
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
/// Whatever stops it.
pub fn run(args: Bench) -> Result<(), Failure> {
    let source = Source::open(&args.model)?;
    let description = job::resolve(&source, &args.options.clone().with_config()?)?;
    if description.options.precision == Precision::Float {
        return Err(Failure::new("single precision is not compiled, so there is nothing to measure"));
    }
    let compiled = compile(&source.network.module, &description.options)?;
    let run = Run {
        compiled: &compiled,
        options: &description.options,
        threads: args.threads,
        seed: description.seed,
        init: Init::Random,
    };
    let mut session = run.session()?;
    let constants = preprocessing_constants(&description.options);
    let params = &compiled.program.params;
    for (name, values) in initial_values(params, &source.network, &constants, Init::Random, description.seed)
    {
        session.load_weights(name, &values)?;
    }
    let data = Data::new(&compiled.train, description.options.batch, 0);
    let times = measure(&mut session, &data, args.steps)?;
    report(&compiled.program, &data, &times, args.json)
}

/// Medians.
struct Times {
    step: Duration,
    infer: Duration,
    /// Of each kernel that training runs, by its position.
    kernels: Vec<(usize, Duration)>,
}

/// Steps before the measurement: caches, clocks and threads find their pace.
const WARM_UP: usize = 20;

fn measure(session: &mut Session, data: &Data, steps: usize) -> Result<Times, Failure> {
    let samples = data.labels.len();
    let mut scores = vec![0.0; samples * session.program().classes];
    let (mut whole, mut infer) = (Vec::new(), Vec::new());
    let mut kernels = vec![Vec::new(); session.program().kernels.len()];
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        session.train_step(data.for_session(), &data.labels)?;
        let trained = start.elapsed();
        let start = Instant::now();
        session.infer(data.for_session(), &mut scores)?;
        let inferred = start.elapsed();
        let mut last = Instant::now();
        session.observe_train_step(data.for_session(), &data.labels, &mut |kernel| {
            let now = Instant::now();
            if step >= WARM_UP {
                kernels[kernel].push(now - last);
            }
            last = now;
        })?;
        if step >= WARM_UP {
            whole.push(trained);
            infer.push(inferred);
        }
    }
    let kernels = kernels.into_iter().enumerate().filter(|(_, times)| !times.is_empty());
    let kernels = kernels.map(|(kernel, times)| (kernel, median(times))).collect();
    Ok(Times { step: median(whole), infer: median(infer), kernels })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Multiply-accumulates of a kernel's contraction.
fn macs(kernel: &Kernel, samples: usize) -> usize {
    kernel.contraction.map_or(0, |contraction| {
        [kernel.rows, kernel.columns, contraction.depth].map(|extent| extent.size(samples)).iter().product()
    })
}

/// The least bytes that a kernel can move: everything that it reads once, and what it writes once.
fn bytes(program: &Program, kernel: &Kernel, samples: usize) -> usize {
    let size = |handle| {
        let buffer = &program.buffers[handle];
        let [rows, columns] = buffer.shape.map(|extent| extent.size(samples));
        let constant = matches!(buffer.class, BufferClass::Control(_) | BufferClass::Key);
        if constant { 0 } else { rows * columns * buffer.dtype.bytes() }
    };
    kernel.reads().into_iter().chain(kernel.writes()).map(size).sum()
}

fn report(program: &Program, data: &Data, times: &Times, as_json: bool) -> Result<(), Failure> {
    let samples = data.labels.len();
    let rate = |time: Duration| samples as f64 / time.as_secs_f64();
    let kernels: Vec<Value> = times
        .kernels
        .iter()
        .map(|&(number, time)| {
            let kernel = program.kernels.values().nth(number).expect("kernels of the program");
            let (macs, bytes) = (macs(kernel, samples), bytes(program, kernel, samples));
            let seconds = time.as_secs_f64();
            json!({
                "name": kernel.name,
                "microseconds": seconds * 1e6,
                "gmacs": macs as f64 / seconds / 1e9,
                "bytes": bytes,
            })
        })
        .collect();
    let (train, infer) = (rate(times.step), rate(times.infer));
    if as_json {
        return print_json(&json!({
            "train_images_per_second": train,
            "infer_images_per_second": infer,
            "kernels": kernels,
        }));
    }
    print_line(&format!("training  {train:>12.0} images/s"))?;
    print_line(&format!("inference {infer:>12.0} images/s"))?;
    for kernel in &kernels {
        print_line(&format!(
            "{:>10.1} us {:>8.0} GMAC/s {:>10} bytes  {}",
            kernel["microseconds"].as_f64().unwrap_or_default(),
            kernel["gmacs"].as_f64().unwrap_or_default(),
            kernel["bytes"].as_u64().unwrap_or_default(),
            kernel["name"].as_str().unwrap_or_default(),
        ))?;
    }
    Ok(())
}
