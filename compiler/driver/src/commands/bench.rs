//! `ffc bench`: where the time of a training step goes, beside what the machine could do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ffc_codegen::Target;
use ffc_cpu::ceiling::{Factors, Shape};
use ffc_ir::kernel::{BufferClass, Kernel, Program, Purpose};
use ffc_runtime::Session;
use serde_json::{Value, json};

use self::ceiling::Alone;
use super::seeded::Data;
use super::{print_json, print_line};
use crate::compile::compile;
use crate::initial::Init;
use crate::options::TrainingArgs;
use crate::source::{Run, Source};
use crate::trainer::Trainer;
use crate::{Failure, job, machine};

mod ceiling;

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
    if args.steps == 0 {
        return Err(Failure::usage("`--steps 0` leaves nothing to measure"));
    }
    let source = Source::open(&args.model)?;
    let description = job::resolve(&source, &args.options.clone().with_config()?)?;
    let compiled = compile(&source.network.module, &description.options)?;
    let run = Run {
        program: &compiled.program,
        options: &description.options,
        threads: args.threads,
        seed: description.seed,
        init: Init::Random,
    };
    let Trainer::Compiled(mut session) = run.trainer(&source.network)? else {
        return Err(Failure::new("single precision is not compiled, so there is nothing to measure"));
    };
    let data = Data::new(&compiled.train, description.options.batch, 0);
    let program = &compiled.program;
    let mut ceilings = Ceilings::new(program, data.labels.len())?;
    let times = measure(&mut session, &data, args.steps, &mut ceilings)?;
    // What follows would lie beside it.
    drop(session);
    ceilings.run_rest(args.steps)?;
    let bytes = (program.state_bytes + program.arena_bytes).min(MOST_COPIED);
    ceilings.copy_rate = ceiling::copy_rate(bytes, args.steps);
    let report = Report { program, samples: data.labels.len(), times: &times, ceilings: &ceilings };
    if args.json { print_json(&report.json()) } else { report.print() }
}

/// Bytes of operands of contractions that take turns with the network's steps; more have their turn afterwards, one by
/// one, so that the process needs no more than the network does.
const BESIDE: usize = 4 << 20;

/// Bytes that are copied where the network has more.
const MOST_COPIED: usize = 8 << 20;

/// What the machine could do.
struct Ceilings {
    target: Target,
    /// Products on registers alone.
    peak: Option<Alone>,
    /// Products of factors from the first-level cache.
    fed: Option<Alone>,
    /// The contractions of training, each shape once, on one thread. Those without have not been measured yet.
    contractions: Vec<(Shape, Option<Alone>)>,
    /// Bytes read and written a second.
    copy_rate: f64,
}

impl Ceilings {
    fn new(program: &Program, samples: usize) -> Result<Self, Failure> {
        let target = crate::compile::native()?;
        let (mut contractions, mut beside) = (Vec::<(Shape, Option<Alone>)>::new(), 0);
        let trains = program.schedules.iter().filter(|schedule| schedule.purpose == Purpose::Train);
        for kernel in trains.flat_map(|schedule| &schedule.kernels) {
            if let Some(shape) = shape(&program.kernels[*kernel], samples)
                && !contractions.iter().any(|(other, _)| *other == shape)
            {
                let [rows, columns, depth] = shape;
                beside += (rows + columns) * depth;
                let alone = (beside <= BESIDE).then(|| Alone::contraction(&target, shape)).transpose()?;
                contractions.push((shape, alone));
            }
        }
        let [peak, fed] = [Factors::Held, Factors::Cached].map(|factors| Alone::peak(&target, factors));
        Ok(Self { peak: peak?, fed: fed?, target, contractions, copy_rate: 0.0 })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let peaks = self.peak.iter_mut().chain(self.fed.iter_mut());
        let contractions = self.contractions.iter_mut().filter_map(|(_, alone)| alone.as_mut());
        peaks.chain(contractions).try_for_each(Alone::run)
    }

    /// Measures what has not been.
    fn run_rest(&mut self, steps: usize) -> Result<(), Failure> {
        for (shape, alone) in self.contractions.iter_mut().filter(|(_, alone)| alone.is_none()) {
            let mut rest = Alone::contraction(&self.target, *shape)?;
            (0..steps).try_for_each(|_| rest.run())?;
            rest.unload();
            *alone = Some(rest);
        }
        Ok(())
    }

    /// Each contraction, measured.
    fn contractions(&self) -> impl Iterator<Item = (&Shape, &Alone)> {
        self.contractions.iter().filter_map(|(shape, alone)| Some((shape, alone.as_ref()?)))
    }
}

/// Medians.
struct Times {
    step: Duration,
    infer: Duration,
    /// Of each kernel that training runs, by its position.
    kernels: Vec<(usize, Duration)>,
}

/// Steps before the measurement, but no more than are measured: caches, clocks and threads find their pace.
const WARM_UP: usize = 20;

fn measure(
    session: &mut Session,
    data: &Data,
    steps: usize,
    ceilings: &mut Ceilings,
) -> Result<Times, Failure> {
    let samples = data.labels.len();
    let mut scores = vec![0.0; samples * session.program().classes];
    let (mut whole, mut infer) = (Vec::new(), Vec::new());
    let mut kernels = vec![Vec::new(); session.program().kernels.len()];
    let warm_up = WARM_UP.min(steps);
    for step in 0..warm_up + steps {
        let counts = step >= warm_up;
        if counts {
            ceilings.run()?;
        }
        // Twice each: the first time brings back to the caches what others have driven out.
        for again in [false, true] {
            let start = Instant::now();
            session.train_step(data.for_session(), &data.labels)?;
            if again && counts {
                whole.push(start.elapsed());
            }
        }
        for again in [false, true] {
            let start = Instant::now();
            session.infer(data.for_session(), &mut scores)?;
            if again && counts {
                infer.push(start.elapsed());
            }
        }
        session.train_step(data.for_session(), &data.labels)?;
        let mut last = Instant::now();
        session.observe_train_step(data.for_session(), &data.labels, &mut |kernel| {
            let now = Instant::now();
            if counts {
                kernels[kernel].push(now - last);
            }
            last = now;
        })?;
    }
    let kernels = kernels.into_iter().enumerate().filter(|(_, times)| !times.is_empty());
    let kernels = kernels.map(|(kernel, times)| (kernel, median(times))).collect();
    Ok(Times { step: median(whole), infer: median(infer), kernels })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Rows, columns and depth of a kernel's contraction.
fn shape(kernel: &Kernel, samples: usize) -> Option<Shape> {
    let contraction = kernel.contraction?;
    Some([kernel.rows, kernel.columns, contraction.depth].map(|extent| extent.size(samples)))
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

/// What is told.
struct Report<'a> {
    program: &'a Program,
    samples: usize,
    times: &'a Times,
    ceilings: &'a Ceilings,
}

impl Report<'_> {
    fn rate(&self, time: Duration) -> f64 {
        self.samples as f64 / time.as_secs_f64()
    }

    fn json(&self) -> Value {
        let peak = self.ceilings.peak.as_ref().map(Alone::gmacs);
        let contractions = self.ceilings.contractions().map(|([rows, columns, depth], alone)| {
            json!({
                "shape": format!("{rows}x{columns}x{depth}"),
                "gmacs": alone.gmacs(),
                "share_of_peak": peak.map(|peak| alone.gmacs() / peak),
            })
        });
        let kernels = self.times.kernels.iter().map(|&(number, time)| self.kernel(number, time));
        json!({
            "train_images_per_second": self.rate(self.times.step),
            "infer_images_per_second": self.rate(self.times.infer),
            "int8_peak_gmacs": peak,
            "int8_fed_gmacs": self.ceilings.fed.as_ref().map(Alone::gmacs),
            "copy_bytes_per_second": self.ceilings.copy_rate,
            "contractions": contractions.collect::<Vec<_>>(),
            "kernels": kernels.collect::<Vec<_>>(),
            "peak_rss_bytes": machine::peak_rss_bytes(),
        })
    }

    fn kernel(&self, number: usize, time: Duration) -> Value {
        let kernel = self.program.kernels.values().nth(number).expect("kernels of the program");
        let (shape, bytes) = (shape(kernel, self.samples), bytes(self.program, kernel, self.samples));
        let alone = shape.and_then(|shape| self.ceilings.contractions().find(|(other, _)| **other == shape));
        let macs: usize = shape.map_or(0, |shape| shape.iter().product());
        let seconds = time.as_secs_f64();
        let contraction = alone.map_or(0.0, |(_, alone)| alone.time().as_secs_f64());
        json!({
            "name": kernel.name,
            "microseconds": seconds * 1e6,
            "gmacs": macs as f64 / seconds / 1e9,
            "bytes": bytes,
            "bound_microseconds": (contraction + bytes as f64 / self.ceilings.copy_rate) * 1e6,
        })
    }

    fn print(&self) -> Result<(), Failure> {
        let all = self.json();
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_string();
        print_line(&format!("training   {:>10.0} images/s", number(&all["train_images_per_second"])))?;
        print_line(&format!("inference  {:>10.0} images/s", number(&all["infer_images_per_second"])))?;
        if all["int8_peak_gmacs"].is_number() {
            print_line(&format!("INT8 peak  {:>10.0} GMAC/s", number(&all["int8_peak_gmacs"])))?;
            print_line(&format!(
                "           {:>10.0} GMAC/s with factors from the first-level cache",
                number(&all["int8_fed_gmacs"])
            ))?;
        }
        print_line(&format!("copying    {:>10.1} GB/s", number(&all["copy_bytes_per_second"]) / 1e9))?;
        print_line("\ncontractions alone, rows x columns x depth")?;
        for contraction in all["contractions"].as_array().into_iter().flatten() {
            let share = contraction["share_of_peak"].as_f64();
            let share = share.map_or(String::new(), |share| format!("{:>5.0} % of the peak", share * 100.0));
            let (shape, gmacs) = (word(&contraction["shape"]), number(&contraction["gmacs"]));
            print_line(&format!("{shape:<20} {gmacs:>6.0} GMAC/s {share}"))?;
        }
        print_line("\nkernels       us   bound   GMAC/s      bytes")?;
        for kernel in all["kernels"].as_array().into_iter().flatten() {
            print_line(&format!(
                "{:>16.1} {:>7.1} {:>8.0} {:>10}  {}",
                number(&kernel["microseconds"]),
                number(&kernel["bound_microseconds"]),
                number(&kernel["gmacs"]),
                number(&kernel["bytes"]),
                word(&kernel["name"]),
            ))?;
        }
        Ok(())
    }
}
