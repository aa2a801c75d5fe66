//! What the training loop drives: machine code in a [`Session`], or the reference executor for single precision.

use ffc_ir::kernel::Purpose;
use ffc_ir::module::{Param, ParamRole};
use ffc_ir::numerics::step_key;
use ffc_reference::{Controls, Executor, Inputs};
use ffc_runtime::{Samples, Session};

use crate::Failure;
use crate::initial::Start;

/// Trains and predicts.
pub enum Trainer {
    /// Compiled.
    Compiled(Box<Session>),
    /// Executed kernel by kernel.
    Reference(Box<Reference>),
}

/// The reference executor with what a session keeps between steps.
pub struct Reference {
    executor: Executor,
    seed: u64,
    step: u64,
    rate: f32,
    lambda: f32,
    losses: Vec<f32>,
}

impl Reference {
    /// A program in which nothing is set yet.
    pub fn new(executor: Executor, seed: u64) -> Self {
        Self { executor, seed, step: 0, rate: 0.0, lambda: 0.0, losses: Vec::new() }
    }

    /// What is trained.
    fn trained(&self) -> impl Iterator<Item = &Param> {
        let trained = |role| matches!(role, ParamRole::Weight | ParamRole::Bias | ParamRole::Head(_));
        self.executor.program().params.iter().filter(move |param| trained(param.role))
    }

    fn run(
        &mut self,
        purpose: Purpose,
        samples: Samples<'_>,
        labels: &[i32],
        lambda: f32,
    ) -> Result<(), Failure> {
        let samples = match samples {
            Samples::U8(data) => ffc_reference::Samples::U8(data),
            Samples::F32(data) => ffc_reference::Samples::F32(data),
        };
        let rate = self.rate / labels.len().max(1) as f32;
        let controls = Controls { rate, lambda, key: step_key(self.seed, self.step) };
        Ok(self.executor.run(purpose, Inputs { samples, labels }, controls)?)
    }

    fn train(
        &mut self,
        layer: Option<usize>,
        samples: Samples<'_>,
        labels: &[i32],
    ) -> Result<&[f32], Failure> {
        match layer {
            None => self.run(Purpose::Train, samples, labels, self.lambda)?,
            Some(layer) => self.run(Purpose::TrainLayer(layer), samples, labels, 0.0)?,
        }
        self.step += 1;
        self.losses = self.executor.losses();
        for loss in &mut self.losses {
            *loss /= labels.len() as f32;
        }
        Ok(&self.losses)
    }

    fn infer(&mut self, samples: Samples<'_>, count: usize, scores: &mut [f32]) -> Result<(), Failure> {
        let (chunk, classes) = (self.executor.program().infer_batch, self.executor.program().classes);
        let features = self.executor.program().features;
        // The executor wants labels; prediction reads none.
        let none = vec![0; chunk];
        for start in (0..count).step_by(chunk) {
            let end = (start + chunk).min(count);
            let range = start * features..end * features;
            let part = match samples {
                Samples::U8(data) => Samples::U8(&data[range]),
                Samples::F32(data) => Samples::F32(&data[range]),
            };
            self.run(Purpose::Infer, part, &none[..end - start], 0.0)?;
            let given = self.executor.scores();
            scores[start * classes..end * classes].copy_from_slice(&given[..(end - start) * classes]);
        }
        Ok(())
    }
}

impl Trainer {
    /// One step on all layers, or on one alone; gives the mean loss of a sample for each of
    /// [`Trainer::trained_layers`], 0 for layers that the step did not train.
    ///
    /// # Errors
    /// When samples or labels are not as the program needs them.
    pub fn train(
        &mut self,
        layer: Option<usize>,
        samples: Samples<'_>,
        labels: &[i32],
    ) -> Result<&[f32], Failure> {
        match self {
            Self::Compiled(session) => {
                let report = match layer {
                    None => session.train_step(samples, labels)?,
                    Some(layer) => session.train_layer(layer, samples, labels)?,
                };
                Ok(report.losses)
            }
            Self::Reference(reference) => reference.train(layer, samples, labels),
        }
    }

    /// Scores `[count, classes]` of samples.
    ///
    /// # Errors
    /// When samples are not as the program needs them.
    pub fn infer(&mut self, samples: Samples<'_>, count: usize, scores: &mut [f32]) -> Result<(), Failure> {
        match self {
            Self::Compiled(session) => Ok(session.infer(samples, scores)?),
            Self::Reference(reference) => reference.infer(samples, count, scores),
        }
    }

    /// Sets the learning rate.
    pub fn set_rate(&mut self, rate: f32) {
        match self {
            Self::Compiled(session) => session.set_learning_rate(rate),
            Self::Reference(reference) => reference.rate = rate,
        }
    }

    /// Sets the weight of later layers' errors.
    pub fn set_lambda(&mut self, lambda: f32) {
        match self {
            Self::Compiled(session) => session.set_lambda(lambda),
            Self::Reference(reference) => reference.lambda = lambda,
        }
    }

    /// Tells that all training data has been seen once.
    pub fn end_epoch(&mut self) {
        if let Self::Compiled(session) = self {
            session.end_epoch();
        }
    }

    /// Steps made so far.
    pub fn step(&self) -> u64 {
        match self {
            Self::Compiled(session) => session.step(),
            Self::Reference(reference) => reference.step,
        }
    }

    /// Gives a parameter its first values.
    ///
    /// # Errors
    /// When there is no such parameter, or it has another size.
    pub fn start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        let name = &start.param.name;
        match self {
            Self::Compiled(session) => {
                Ok(session.load_weights_by_row(name, &mut |row, values| start.row(row, values))?)
            }
            Self::Reference(reference) => Ok(reference.executor.set_weights(name, &start.all())?),
        }
    }

    /// The values of a weight, bias or head matrix, `None` where nothing of this name is trained.
    pub fn weight(&self, name: &str) -> Option<Vec<f32>> {
        match self {
            Self::Compiled(session) => session.trained(name).ok(),
            Self::Reference(reference) => {
                reference.trained().find(|param| param.name == name)?;
                reference.executor.weights(name).ok()
            }
        }
    }

    /// A hash of all trained parameters, unpacked, in the order of their names.
    ///
    /// # Errors
    /// Where the program is malformed.
    pub fn weights_hash(&self) -> Result<String, Failure> {
        match self {
            Self::Compiled(session) => Ok(session.weights_hash()),
            Self::Reference(reference) => {
                let mut params: Vec<_> = reference.trained().collect();
                params.sort_by(|a, b| a.name.cmp(&b.name));
                let weights = params.into_iter().map(|param| {
                    Ok((param.name.as_str(), param.shape, reference.executor.weights(&param.name)?))
                });
                Ok(ffc_runtime::hash_weights(weights.collect::<Result<Vec<_>, Failure>>()?.into_iter()))
            }
        }
    }

    /// Names of the layers that are trained, in order.
    pub fn trained_layers(&self) -> &[String] {
        match self {
            Self::Compiled(session) => &session.program().trained_layers,
            Self::Reference(reference) => &reference.executor.program().trained_layers,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Compiled(session) => session.program().classes,
            Self::Reference(reference) => reference.executor.program().classes,
        }
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        match self {
            Self::Compiled(session) => session.threads(),
            Self::Reference(_) => 1,
        }
    }
}
