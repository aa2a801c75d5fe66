//! `ffc eval`: accuracy on the test split.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ffc_compiler::recipe::{Options, Precision, RECIPES};
use ffc_data::{Dataset, LoadOptions};
use ffc_runtime::checkpoint;
use serde_json::json;

use super::{print_json, print_line};
use crate::compile::compile;
use crate::initial::Init;
use crate::options::{PrecisionChoice, TrainingArgs};
use crate::source::{self, Origin, Run, Source};
use crate::trainer::Trainer;
use crate::{Failure, data, evaluation, files, job, preprocessing};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc eval trained.onnx --data examples/mnist --precision float")]
pub struct Eval {
    /// ONNX file, checkpoint folder or `.ffc` artifact
    pub model: PathBuf,
    /// Data set: folder or `.tar` of images by class, CIFAR or IDX folder, `.npz`, `.csv`
    #[arg(long)]
    pub data: PathBuf,
    /// Arithmetic [default: int8]
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionChoice>,
    /// Samples at a time; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch_size: usize,
    /// Worker threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Use at most this many test samples
    #[arg(long, value_name = "N")]
    pub limit_test: Option<usize>,
    /// Write the scores here, `f32` little-endian, row by row
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
    /// JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: Eval) -> Result<(), Failure> {
    if args.batch_size == 0 {
        return Err(Failure::usage("`--batch-size 0` leaves nothing to do"));
    }
    if let Some(path) = &args.scores {
        files::check_writable(path)?;
    }
    let source = Source::open(&args.model)?;
    let cache = data::cache_folder();
    let load = LoadOptions { limit_test: args.limit_test, cache, ..LoadOptions::default() };
    let data = data::load(&args.data, &load, &source.network)?;
    if let Some(description) = &source.description {
        data::check_classes(&description.class_names, &data, &args.data)?;
    }
    let precision = args.precision.map_or(Precision::Int8, Into::into);
    let options = options(&source, &data, precision, args.batch_size)?;
    job::check_input(&options, &data)?;
    let mut trainer = trainer(source, &options, &data, args.threads)?;
    let classes = trainer.classes();
    let start = Instant::now();
    let scores = evaluation::scores(&mut trainer, &data.test, classes, args.batch_size)?;
    let seconds = start.elapsed().as_secs_f64();
    let rows = scores.chunks(classes).zip(&data.test.labels);
    let right = rows.filter(|(row, label)| evaluation::predicted(row) == usize::from(**label)).count();
    if let Some(path) = &args.scores {
        let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_le_bytes()).collect();
        files::write(path, &bytes)?;
    }
    let (images, accuracy) = (data.test.len(), right as f64 / data.test.len() as f64);
    if args.json {
        return print_json(&json!({
            "event": "eval",
            "test_accuracy": accuracy,
            "images": images,
            "images_per_second": images as f64 / seconds,
        }));
    }
    print_line(&format!("accuracy {:.2} % ({right} of {images})", accuracy * 100.0))
}

/// The options of prediction.
fn options(source: &Source, data: &Dataset, precision: Precision, batch: usize) -> Result<Options, Failure> {
    let mut options = match &source.description {
        Some(description) => description.options.clone(),
        None => {
            let mut options = RECIPES[0].options();
            let flags = TrainingArgs::default();
            options.preprocessing = preprocessing::find(&flags, &source.network, data)?;
            source.keep(&mut options)?;
            options.batch = batch.clamp(1, 1024);
            options
        }
    };
    options.precision = precision;
    Ok(options)
}

fn trainer(
    mut source: Source,
    options: &Options,
    data: &Dataset,
    threads: usize,
) -> Result<Trainer, Failure> {
    let compiled = compile(&source.network.module, options)?;
    let seed = source.description.as_ref().map_or(1, |description| description.seed);
    let run = Run { program: &compiled.program, options, threads, seed, init: Init::Keep };
    let float = options.precision == Precision::Float;
    match (&source.origin, &source.description) {
        (Origin::Checkpoint(folder), Some(_)) if !float => {
            let mut session = run.session()?;
            checkpoint::load(folder, &mut session)?;
            Ok(Trainer::Compiled(Box::new(session)))
        }
        (Origin::Checkpoint(folder), Some(description)) => {
            let session = source::restore(folder, description, &source.network)?;
            source.network.weights = source::weights_of(&session);
            run.trainer(&source.network)
        }
        (Origin::Artifact(bytes), _) => {
            let session = run.load(bytes)?;
            if float {
                source.network.weights = source::weights_of(&session);
                return run.trainer(&source.network);
            }
            calibrated(Trainer::Compiled(Box::new(session)), data, options)
        }
        _ => calibrated(run.trainer(&source.network)?, data, options),
    }
}

/// Finds the ranges of a network that was not trained here, on the first batch of the training split.
fn calibrated(mut trainer: Trainer, data: &Dataset, options: &Options) -> Result<Trainer, Failure> {
    if let Trainer::Compiled(session) = &mut trainer {
        let count = options.batch.min(data.train.len());
        let mut buffer = Vec::new();
        let samples = data::samples(&data.train, 0..count, &mut buffer)?;
        let labels: Vec<i32> = data.train.labels[..count].iter().map(|&label| i32::from(label)).collect();
        session.calibrate(samples, &labels)?;
    }
    Ok(trainer)
}
