//! `ffc train`: trains, shows progress, evaluates after each epoch.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use ffc_data::{Dataset, LoadOptions};
use ffc_runtime::checkpoint;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::{print_json, print_line, say};
use crate::inspect::{memory, projections_for_groups};
use crate::job::{self, Job, Setting};
use crate::options::TrainingArgs;
use crate::source::Source;
use crate::trainer::Trainer;
use crate::training::{self, EpochReport, Observer};
use crate::{Failure, data, evaluation, export, files, machine};

/// Arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  ffc train examples/mnist_mlp.onnx --data examples/mnist -o trained.onnx")]
pub struct Train {
    /// ONNX file, checkpoint folder or `.ffc` artifact
    pub model: PathBuf,
    /// Data set: folder or `.tar` of images by class, CIFAR or IDX folder, `.npz`, `.csv`
    #[arg(long)]
    pub data: PathBuf,
    /// Write the trained network here, as ONNX
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Training options.
    #[command(flatten)]
    pub options: TrainingArgs,
    /// Worker threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Device to train on
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Folder in which the run is kept, saved after every epoch
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Go on where `--checkpoint` (or the checkpoint given as model) stopped
    #[arg(long)]
    pub resume: bool,
    /// Use at most this many training samples
    #[arg(long, value_name = "N")]
    pub limit_train: Option<usize>,
    /// Use at most this many test samples
    #[arg(long, value_name = "N")]
    pub limit_test: Option<usize>,
    /// Refuse a program whose plan needs more than this many bytes
    #[arg(long, value_name = "BYTES")]
    pub memory_limit: Option<u64>,
    /// JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops it.
pub fn run(args: Train) -> Result<(), Failure> {
    super::devices::check(&args.device)?;
    if let Some(output) = &args.output {
        files::check_writable(output)?;
    }
    let options = args.options.clone().with_config()?;
    let resume = resume_folder(&args)?;
    if let (Some(folder), None) = (&args.checkpoint, &resume) {
        refuse_second_run(folder)?;
    }
    let source = Source::open(resume.as_deref().unwrap_or(&args.model))?;
    let checkpoint = args.checkpoint.clone().or(resume.clone());
    if checkpoint.is_some() {
        job::checkpoint_precision(&job::resolve(&source, &options)?.options)?;
    }
    let setting = Setting {
        data: args.data.clone(),
        load: LoadOptions {
            limit_train: args.limit_train,
            limit_test: args.limit_test,
            cache: data::cache_folder(),
            ..LoadOptions::default()
        },
        threads: args.threads,
        resume,
    };
    let (mut job, data) = job::prepare(source, &options, &setting)?;
    check_limit(&job, args.memory_limit)?;
    if let (Some(folder), Trainer::Compiled(session)) = (&checkpoint, &job.trainer) {
        job.description.save(folder, &job.network.module)?;
        if !args.resume {
            checkpoint::save(folder, session, &Default::default())?;
        }
    }
    if !args.json {
        introduce(&job, &data, &args);
    }
    let started = Instant::now();
    let mut watcher = Watcher::new(&args, checkpoint, &job);
    let Job { trainer, plan, .. } = &mut job;
    training::run(trainer, plan, &data.train, &data.test, &mut watcher)?;
    if watcher.last.is_none() {
        // Nothing was left to train.
        watcher.last = Some(evaluation::accuracy(trainer, &data.test, plan.batch)?);
    }
    let outcome = Outcome { data_bytes: data_bytes(&data), ..watcher.finish() };
    drop(data);
    if let Some(output) = &args.output {
        let weights = |name: &str| job.trainer.weight(name);
        export::export(&job.network, &job.description.options, &weights, output)?;
    }
    summarize(&job, &args, &outcome, started)
}

/// The folder of a run to go on with.
fn resume_folder(args: &Train) -> Result<Option<PathBuf>, Failure> {
    if !args.resume {
        return Ok(None);
    }
    let folder = match &args.checkpoint {
        Some(folder) => folder.clone(),
        None if args.model.is_dir() => args.model.clone(),
        None => {
            return Err(Failure::usage("`--resume` needs the checkpoint to go on from")
                .with_help("add `--checkpoint DIR`, or give the checkpoint's folder instead of the model"));
        }
    };
    if !folder.join(checkpoint::FILE).exists() {
        return Err(Failure::new(format!("`{}` holds no checkpoint to go on from", folder.display()))
            .with_help("leave out `--resume` to start a new run there"));
    }
    Ok(Some(folder))
}

/// A new run never takes the place of an earlier one: whenever it were killed, one of both must be left whole.
fn refuse_second_run(folder: &Path) -> Result<(), Failure> {
    if !folder.join(checkpoint::FILE).exists() {
        return Ok(());
    }
    Err(Failure::new(format!("`{}` already holds a checkpoint", folder.display()))
        .with_help("add `--resume` to go on with it, or give another folder"))
}

fn check_limit(job: &Job, limit: Option<u64>) -> Result<(), Failure> {
    let plan = memory(&job.network, &job.program);
    match limit {
        Some(limit) if plan.peak_bytes as u64 > limit => Err(Failure::new(format!(
            "training needs {} bytes, more than `--memory-limit {limit}`",
            plan.peak_bytes
        ))
        .with_help("a smaller `--batch-size` or `--momentum 0` needs less")),
        _ => Ok(()),
    }
}

fn introduce(job: &Job, data: &Dataset, args: &Train) {
    let options = &job.description.options;
    let preprocessing = &options.preprocessing;
    let channels = data.image_shape().map_or(1, |[channels, ..]| channels);
    let number = |numbers: &[f32]| match per_channel(numbers, channels).as_slice() {
        [one] => format!("{one:.4}"),
        many if many.len() == channels => {
            let many: Vec<_> = many.iter().map(|number| format!("{number:.4}")).collect();
            format!("({})", many.join(", "))
        }
        many => format!("{} numbers", many.len()),
    };
    say(&format!(
        "{}: {} parameters, recipe {}, batch {}, {} thread{}",
        args.model.display(),
        job.network.parameters(),
        job.description.recipe,
        options.batch,
        job.trainer.threads(),
        if job.trainer.threads() == 1 { "" } else { "s" },
    ));
    say(&format!(
        "{}: {} training and {} test samples, input (x * {:.6} - {}) / {}",
        args.data.display(),
        data.train.len(),
        data.test.len(),
        preprocessing.scale,
        number(&preprocessing.mean),
        number(&preprocessing.std),
    ));
    if let Some(note) = projections_for_groups(&job.program.params, options) {
        say(&note);
    }
    if !job.description.augmentation.is_none() {
        say(&format!("training images are {}", job.description.augmentation));
    }
}

/// One number a channel, where the numbers of features are no more than that.
fn per_channel(numbers: &[f32], channels: usize) -> Vec<f32> {
    let mut planes = numbers.chunks(numbers.len().div_ceil(channels).max(1));
    if planes.all(|plane| plane.iter().all(|number| *number == plane[0])) {
        return numbers.iter().copied().step_by(numbers.len().div_ceil(channels).max(1)).collect();
    }
    numbers.to_vec()
}

/// Shows a run and keeps its checkpoint.
struct Watcher {
    bar: Option<ProgressBar>,
    json: bool,
    epochs: usize,
    checkpoint: Option<PathBuf>,
    outcome: Outcome,
    last: Option<f64>,
    started: Instant,
}

/// What the summary tells of the epochs.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    last: f64,
    best: f64,
    seconds: f64,
    samples: usize,
    data_bytes: usize,
}

impl Outcome {
    fn images_per_second(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.samples as f64 / self.seconds }
    }
}

impl Watcher {
    fn new(args: &Train, checkpoint: Option<PathBuf>, job: &Job) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = "{prefix} [{bar:30}] {pos}/{len} {per_sec} {msg} {eta} left";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        let started = Instant::now();
        let (epochs, outcome) = (job.plan.total_epochs(), Outcome { best: job.best, ..Outcome::default() });
        Self { bar, json: args.json, epochs, checkpoint, outcome, last: None, started }
    }

    fn finish(self) -> Outcome {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        let last = self.last.unwrap_or_default();
        Outcome { last, best: self.outcome.best.max(last), ..self.outcome }
    }
}

impl Observer for Watcher {
    fn step(&mut self, epoch: usize, done: usize, of: usize, loss: f32) {
        let Some(bar) = &self.bar else { return };
        if done == 1 {
            bar.set_length(of as u64);
            bar.reset();
            bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        }
        let accuracy = self.last.map(|last| format!(" accuracy {:.2} %", last * 100.0)).unwrap_or_default();
        bar.set_message(format!("loss {loss:.4}{accuracy}"));
        bar.set_position(done as u64);
    }

    fn epoch(&mut self, report: &EpochReport, trainer: &Trainer) -> Result<(), Failure> {
        self.last = Some(report.accuracy);
        let seconds = report.training.as_secs_f64();
        self.outcome.best = self.outcome.best.max(report.accuracy);
        self.outcome.seconds += seconds;
        self.outcome.samples += report.samples;
        if let (Some(folder), Trainer::Compiled(session)) = (&self.checkpoint, trainer) {
            let best = BTreeMap::from([(job::BEST.to_string(), self.outcome.best.to_string())]);
            checkpoint::save(folder, session, &best)?;
        }
        let rate = report.samples as f64 / seconds;
        if self.json {
            let layers = trainer.trained_layers().iter().zip(&report.losses);
            let layers: Vec<_> = layers.map(|(name, loss)| json!({"name": name, "loss": loss})).collect();
            return print_json(&json!({
                "event": "epoch",
                "epoch": report.epoch,
                "layer": report.layer,
                "train_loss": report.loss(),
                "layers": layers,
                "test_accuracy": report.accuracy,
                "images_per_second": rate,
                "seconds": seconds,
                "elapsed_seconds": self.started.elapsed().as_secs_f64(),
            }));
        }
        let layer = report.layer.map(|layer| format!(" layer {}", layer + 1)).unwrap_or_default();
        let line = format!(
            "epoch {:>3}/{}{layer}  loss {:.4}  accuracy {:6.2} %  {:>8.0} images/s  {:.1} s",
            report.epoch,
            self.epochs,
            report.loss(),
            report.accuracy * 100.0,
            rate,
            seconds,
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&line)),
            None => say(&line),
        }
        Ok(())
    }
}

fn summarize(job: &Job, args: &Train, outcome: &Outcome, started: Instant) -> Result<(), Failure> {
    let Outcome { last, best, seconds, .. } = *outcome;
    let (epochs, rate) = (job.plan.total_epochs().max(job.plan.done), outcome.images_per_second());
    let plan = memory(&job.network, &job.program);
    let hash = job.trainer.weights_hash()?;
    let peak = machine::peak_rss_bytes();
    if args.json {
        return print_json(&json!({
            "event": "summary",
            "epochs": epochs,
            "test_accuracy": last,
            "best_accuracy": best,
            "images_per_second": rate,
            "train_seconds": seconds,
            "elapsed_seconds": started.elapsed().as_secs_f64(),
            "parameters": job.network.parameters(),
            "parameter_bytes": plan.parameter_bytes,
            "state_bytes": plan.state_bytes,
            "activation_arena_bytes": plan.activation_arena_bytes,
            "backprop_activation_bytes": plan.backprop_activation_bytes,
            "backprop_peak_bytes": plan.backprop_peak_bytes,
            "data_bytes": outcome.data_bytes,
            "peak_rss_bytes": peak,
            "recipe": job.description.recipe,
            "seed": job.description.seed,
            "shift": job.description.augmentation.shift,
            "flip": job.description.augmentation.flip,
            "device": "cpu",
            "threads": job.trainer.threads(),
            "weights_hash": hash,
        }));
    }
    print_line(&format!(
        "trained {epochs} epochs in {seconds:.1} s ({rate:.0} images/s): accuracy {:.2} % (best {:.2} %)",
        last * 100.0,
        best * 100.0,
    ))?;
    print_line(&format!(
        "memory: {} weights, {} other state, {} activations; backpropagation would need {} of activations, {} in all",
        HumanBytes(plan.parameter_bytes as u64),
        HumanBytes(plan.state_bytes as u64),
        HumanBytes(plan.activation_arena_bytes as u64),
        HumanBytes(plan.backprop_activation_bytes as u64),
        HumanBytes(plan.backprop_peak_bytes as u64),
    ))?;
    print_line(&format!("weights {hash}"))?;
    if let Some(output) = &args.output {
        print_line(&format!("wrote {}", output.display()))?;
    }
    Ok(())
}

/// Bytes of the decoded data that are in memory.
fn data_bytes(data: &Dataset) -> usize {
    let split =
        |split: &ffc_data::Split| split.features.bytes_in_memory() + size_of_val(split.labels.as_slice());
    split(&data.train) + split(&data.test)
}
