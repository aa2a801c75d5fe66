//! The training loop: learning rate, epochs, evaluation.

use std::time::{Duration, Instant};

use ffc_compiler::recipe::Schedule;
use ffc_data::Split;

use crate::Failure;
use crate::augmentation::Augmenter;
use crate::batches::{Batches, Preparation, prepared};
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
    /// What changes training images, where something does.
    pub augmenter: Option<Augmenter>,
    /// Whether batches are prepared beside training. The results do not depend on it.
    pub beside: bool,
    /// Which layers a step trains.
    pub order: LayerOrder,
    /// Layers that are trained.
    pub layers: usize,
}

/// What an epoch gave.
#[derive(Clone, Debug)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: usize,
    /// The one layer that was trained, in greedy order.
    pub layer: Option<usize>,
    /// Mean loss of a sample for each of [`Trainer::trained_layers`]; 0 for layers that were not trained.
    pub losses: Vec<f32>,
    /// Part of the test samples that were predicted right.
    pub accuracy: f64,
    /// Time spent training, without evaluation.
    pub training: Duration,
    /// Samples trained on.
    pub samples: usize,
}

impl EpochReport {
    /// Mean loss of a sample, summed over the layers.
    pub fn loss(&self) -> f32 {
        self.losses.iter().sum()
    }
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
    let Plan { batch, seed, augmenter, done, .. } = *plan;
    let preparation = Preparation::new(train, batch, seed, augmenter, done);
    prepared(preparation, plan.beside, |batches| {
        for epoch in plan.done..plan.total_epochs() {
            let (samples, started) = (train.len(), Instant::now());
            let losses = train_epoch(trainer, plan, epoch, samples, batches, observer)?;
            let training = started.elapsed();
            trainer.end_epoch();
            let accuracy = accuracy(trainer, test, plan.batch)?;
            let layer = plan.layer(epoch);
            let report = EpochReport { epoch: epoch + 1, layer, losses, accuracy, training, samples };
            observer.epoch(&report, trainer)?;
        }
        Ok(())
    })
}

/// Trains on all samples once; gives the mean loss of a sample for each layer.
fn train_epoch(
    trainer: &mut Trainer,
    plan: &Plan,
    epoch: usize,
    samples: usize,
    batches: &mut Batches<'_>,
    observer: &mut dyn Observer,
) -> Result<Vec<f32>, Failure> {
    let steps = samples.div_ceil(plan.batch);
    trainer.set_lambda(plan.schedule.lambda_step * epoch as f32);
    let layer = plan.layer(epoch);
    let mut totals = vec![0.0f64; trainer.trained_layers().len()];
    for step in 0..steps {
        trainer.set_rate(plan.rate(epoch, step, steps));
        let batch = batches.next_batch()?;
        let losses = trainer.train(layer, batch.samples(), batch.labels())?;
        let loss: f32 = losses.iter().sum();
        if !loss.is_finite() {
            return Err(Failure::new(format!("the loss is no longer a number in epoch {}", epoch + 1))
                .with_help("use a smaller `--learning-rate`"));
        }
        for (total, loss) in totals.iter_mut().zip(losses) {
            *total += f64::from(*loss) * batch.labels().len() as f64;
        }
        observer.step(epoch + 1, step + 1, steps, loss);
    }
    Ok(totals.into_iter().map(|total| (total / samples as f64) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let schedule = Schedule { learning_rate: 1.0, warmup_steps: 10, final_rate: 0.1, lambda_step: 0.0 };
        let order = LayerOrder::Together;
        let (augmenter, beside) = (None, false);
        let plan =
            Plan { schedule, epochs: 2, done: 0, batch: 1, seed: 0, augmenter, beside, order, layers: 1 };
        assert_eq!(plan.rate(0, 0, 100), 0.1);
        assert_eq!(plan.rate(0, 9, 100), 1.0);
        assert_eq!(plan.rate(0, 10, 100), 1.0);
        assert!(plan.rate(1, 99, 100) < 0.11 && plan.rate(1, 99, 100) > 0.1);
    }
}
