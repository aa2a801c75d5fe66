//! The training loop: order of the samples, learning rate, epochs, evaluation.
//!
//! Everything random is a function of the seed: samples are shuffled anew in each epoch by the counter-based generator,
//! and only an index of them is moved, never the samples.

use std::time::{Duration, Instant};

use ffc_compiler::recipe::Schedule;
use ffc_data::{Features, Split};
use ffc_ir::numerics::{self, Number, Scalar, step_key};
use ffc_runtime::Samples;

use crate::Failure;
use crate::evaluation::accuracy;
use crate::trainer::Trainer;

/// Which layers a step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerOrder {
    /// All layers in every step.
    Together,
    /// One layer after the other, each for all epochs, from the first to the last (the paper's vanilla mode).
    Greedy,
}

/// The numbers of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Learning rate and look-ahead over time.
    pub schedule: Schedule,
    /// Epochs; in greedy order of each layer.
    pub epochs: usize,
    /// Epochs done before, of a run that goes on.
    pub done: usize,
    /// Samples in a step.
    pub batch: usize,
    /// Seed of the order of samples.
    pub seed: u64,
    /// Which layers a step trains.
    pub order: LayerOrder,
    /// Layers that are trained.
    pub layers: usize,
}

/// What an epoch gave.
#[derive(Clone, Copy, Debug)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: usize,
    /// The one layer that was trained, in greedy order.
    pub layer: Option<usize>,
    /// Mean loss of a sample, summed over the layers.
    pub loss: f32,
    /// Part of the test samples that were predicted right.
    pub accuracy: f64,
    /// Time spent training, without evaluation.
    pub training: Duration,
    /// Samples trained on.
    pub samples: usize,
}

/// Watches a run.
pub trait Observer {
    /// A step of an epoch is done.
    fn step(&mut self, epoch: usize, done: usize, of: usize, loss: f32);
    /// An epoch is done and evaluated.
    ///
    /// # Errors
    /// Stops the run.
    fn epoch(&mut self, report: &EpochReport, trainer: &Trainer) -> Result<(), Failure>;
}

impl Plan {
    /// Epochs of the whole run.
    pub fn total_epochs(&self) -> usize {
        match self.order {
            LayerOrder::Together => self.epochs,
            LayerOrder::Greedy => self.epochs * self.layers,
        }
    }

    /// The layer that an epoch trains, counted from 0, where it is one alone.
    fn layer(&self, epoch: usize) -> Option<usize> {
        match self.order {
            LayerOrder::Together => None,
            LayerOrder::Greedy => Some(epoch / self.epochs),
        }
    }

    /// The learning rate of a step: a linear rise, then a linear fall; in greedy order anew for each layer.
    fn rate(&self, epoch: usize, step: usize, steps: usize) -> f32 {
        let Schedule { learning_rate, warmup_steps, final_rate, .. } = self.schedule;
        let at = (epoch % self.epochs) * steps + step;
        let all = self.epochs * steps;
        let warmup = warmup_steps.min(all / 10).max(1);
        if at < warmup {
            return learning_rate * (at + 1) as f32 / warmup as f32;
        }
        let left = (all - at) as f32 / (all - warmup).max(1) as f32;
        learning_rate * (final_rate + (1.0 - final_rate) * left)
    }
}

/// The order in which an epoch visits `count` samples.
fn shuffled(seed: u64, epoch: usize, count: usize) -> Vec<u32> {
    let key = Number::I32(step_key(seed ^ 0x5851_f42d_4c95_7f2d, epoch as u64) as i32);
    let mut order: Vec<u32> = (0..count as u32).collect();
    for last in (1..count).rev() {
        let bits = numerics::draw(&mut Scalar, key, Number::I32(last as i32), Number::I32(0)).as_i32() as u32;
        let other = (u64::from(bits) * (last as u64 + 1)) >> 32;
        order.swap(last, other as usize);
    }
    order
}

/// A batch gathered from a split.
struct Gather {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    labels: Vec<i32>,
}

impl Gather {
    fn fill<'a>(&'a mut self, split: &Split, rows: &[u32]) -> (Samples<'a>, &'a [i32]) {
        let width = split.width();
        self.labels.clear();
        self.labels.extend(rows.iter().map(|&row| i32::from(split.labels[row as usize])));
        let range = |row: u32| row as usize * width..(row as usize + 1) * width;
        let samples = match &split.features {
            Features::U8(data) => {
                self.bytes.clear();
                rows.iter().for_each(|&row| self.bytes.extend_from_slice(&data[range(row)]));
                Samples::U8(&self.bytes)
            }
            Features::F32(data) => {
                self.floats.clear();
                rows.iter().for_each(|&row| self.floats.extend_from_slice(&data[range(row)]));
                Samples::F32(&self.floats)
            }
        };
        (samples, &self.labels)
    }
}

/// Trains for the epochs of a plan.
///
/// # Errors
/// When the data does not fit, the loss is no longer a number, or the observer stops the run.
pub fn run(
    trainer: &mut Trainer,
    plan: &Plan,
    train: &Split,
    test: &Split,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    let steps = train.len().div_ceil(plan.batch);
    let mut gather = Gather { bytes: Vec::new(), floats: Vec::new(), labels: Vec::new() };
    for epoch in plan.done..plan.total_epochs() {
        let order = shuffled(plan.seed, epoch, train.len());
        trainer.set_lambda(plan.schedule.lambda_step * epoch as f32);
        let layer = plan.layer(epoch);
        let started = Instant::now();
        let mut total = 0.0f64;
        for (step, rows) in order.chunks(plan.batch).enumerate() {
            trainer.set_rate(plan.rate(epoch, step, steps));
            let (samples, labels) = gather.fill(train, rows);
            let loss = trainer.train(layer, samples, labels)?;
            if !loss.is_finite() {
                return Err(Failure::new(format!("the loss is no longer a number in epoch {}", epoch + 1))
                    .with_help("use a smaller `--learning-rate`"));
            }
            total += f64::from(loss) * rows.len() as f64;
            observer.step(epoch + 1, step + 1, steps, loss);
        }
        let training = started.elapsed();
        trainer.end_epoch();
        let report = EpochReport {
            epoch: epoch + 1,
            layer,
            loss: (total / train.len() as f64) as f32,
            accuracy: accuracy(trainer, test, plan.batch)?,
            training,
            samples: train.len(),
        };
        observer.epoch(&report, trainer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_seeded_permutations() {
        let order = shuffled(1, 0, 1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(index, &row)| index == row as usize));
        assert_eq!(order, shuffled(1, 0, 1000));
        assert_ne!(order, shuffled(1, 1, 1000));
        assert_ne!(order, shuffled(2, 0, 1000));
    }

    #[test]
    fn rates_rise_and_fall() {
        let schedule = Schedule { learning_rate: 1.0, warmup_steps: 10, final_rate: 0.1, lambda_step: 0.0 };
        let order = LayerOrder::Together;
        let plan = Plan { schedule, epochs: 2, done: 0, batch: 1, seed: 0, order, layers: 1 };
        assert_eq!(plan.rate(0, 0, 100), 0.1);
        assert_eq!(plan.rate(0, 9, 100), 1.0);
        assert_eq!(plan.rate(0, 10, 100), 1.0);
        assert!(plan.rate(1, 99, 100) < 0.11 && plan.rate(1, 99, 100) > 0.1);
    }
}
