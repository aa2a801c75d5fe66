//! Training and inference with a loaded artifact.
//!
//! The session is what an application talks to. It checks what it is given, keeps what a step depends on (step, epoch,
//! seed, learning rate, lambda), and leaves the work to the machine code. A step's result is a function of the state and
//! these numbers alone, so a session that goes on from a checkpoint computes the bits that it would have computed
//! without the pause, on any number of threads.

use std::thread::available_parallelism;

use sha2::{Digest, Sha256};

use crate::artifact::{Artifact, Param, Purpose};
use crate::machine::{Batch, Controls, Machine};
use crate::params::{self, StateTensor};
use crate::random::step_key;
use crate::{Cpu, LoadError, StepError, WEIGHTS_ATTACHMENT, WeightError};

/// How a session trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Threads, the caller's among them; 0 for as many as the machine has. The results do not depend on it.
    pub threads: usize,
    /// The machine to choose code for: this one, or [less of it](Cpu::lowered_to). The results do not depend on it.
    pub cpu: Cpu,
    /// Seed of all random numbers that steps draw.
    pub seed: u64,
    /// Learning rate, for the mean over the samples of a step.
    pub learning_rate: f32,
    /// Weight of later layers' errors (look-ahead) in the first epoch.
    pub lambda: f32,
    /// What [`Session::end_epoch`] adds to lambda.
    pub lambda_step: f32,
}

impl Default for Options {
    fn default() -> Self {
        let cpu = Cpu::detect();
        Self { threads: 1, cpu, seed: 0, learning_rate: 0.05, lambda: 0.0, lambda_step: 0.0 }
    }
}

/// Samples as they come, before preprocessing: row-major `[samples, features]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Samples<'a> {
    /// Bytes, as of images.
    U8(&'a [u8]),
    /// Single precision; all finite.
    F32(&'a [f32]),
}

impl<'a> Samples<'a> {
    /// Number of numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(numbers) => numbers.len(),
            Self::F32(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of this range.
    fn slice(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::U8(numbers) => Self::U8(&numbers[range]),
            Self::F32(numbers) => Self::F32(&numbers[range]),
        }
    }

    /// The position of the first number that is not finite.
    fn not_finite(&self) -> Option<usize> {
        match self {
            Self::U8(_) => None,
            // Without a way out in the middle, the first pass is a loop of vectors.
            Self::F32(numbers) if numbers.iter().fold(true, |all, number| all & number.is_finite()) => None,
            Self::F32(numbers) => numbers.iter().position(|number| !number.is_finite()),
        }
    }
}

/// What a training step tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport<'a> {
    /// The loss of each trained layer, the mean over the samples; 0 for layers that the step did not train.
    pub losses: &'a [f32],
    /// Samples in the step.
    pub samples: usize,
}

/// The memory that a program works in, all of it allocated when the session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Parameters, ranges and optimizer state.
    pub state_bytes: usize,
    /// Activations.
    pub arena_bytes: usize,
}

/// A program in memory, its state, and where its training stands.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    /// Room for [`StepReport::losses`].
    losses: Vec<f32>,
    lambda_step: f32,
    pub(crate) progress: Progress,
}

/// Where training stands: with the state, all that the next step depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) seed: u64,
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) learning_rate: f32,
    pub(crate) lambda: f32,
    /// Whether the quantizers have ranges.
    pub(crate) calibrated: bool,
}

impl Session {
    /// Makes a session of a `.ffc` file. Where the file has an attachment [`WEIGHTS_ATTACHMENT`], the session starts
    /// with those weights, otherwise with zeros.
    ///
    /// **This maps the machine code in the file, and steps run it**: load only files that you would run as a program.
    ///
    /// # Errors
    /// When the bytes are no sound artifact, the artifact has no code that this machine runs, its weights do not fit it, or memory or threads are refused.
    pub fn load(artifact: &[u8], options: Options) -> Result<Self, LoadError> {
        let (artifact, attachments) = Artifact::from_bytes(artifact)?;
        let mut session = Self::new(artifact, options)?;
        if let Some(weights) = attachments.get(WEIGHTS_ATTACHMENT) {
            session.load_weights_file(weights)?;
        }
        Ok(session)
    }

    /// Makes a session of an artifact, all of its state 0.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn new(artifact: Artifact, options: Options) -> Result<Self, LoadError> {
        let threads = match options.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let machine = Machine::new(artifact, &options.cpu, threads)?;
        let progress = Progress {
            seed: options.seed,
            step: 0,
            epoch: 0,
            learning_rate: options.learning_rate,
            lambda: options.lambda,
            calibrated: !machine.has(Purpose::Calibrate),
        };
        let losses = vec![0.0; machine.program().trained_layers.len()];
        Ok(Self { machine, losses, lambda_step: options.lambda_step, progress })
    }

    /// The description of the program; its code is left out.
    pub fn program(&self) -> &Artifact {
        self.machine.program()
    }

    /// The name of the [variant](crate::artifact::Variant) of the code that was chosen for this machine.
    pub fn variant(&self) -> &str {
        self.machine.variant()
    }

    /// Trains all layers on `labels.len()` samples, 1 to [`Artifact::batch`]. The first step of a session that does not
    /// go on from a checkpoint finds the ranges of the quantizers on its samples before. Allocates nothing.
    ///
    /// # Errors
    /// When samples or labels are not as the program needs them; then nothing has changed.
    pub fn train_step(&mut self, inputs: Samples<'_>, labels: &[i32]) -> Result<StepReport<'_>, StepError> {
        self.train(Purpose::Train, inputs, labels, &mut |_| {})
    }

    /// As [`Session::train_step`], and tells `after` each kernel that has run, by its position in
    /// [`Artifact::kernels`]: for whoever wants to know where the time goes.
    ///
    /// # Errors
    /// As there.
    pub fn observe_train_step(
        &mut self,
        inputs: Samples<'_>,
        labels: &[i32],
        after: &mut dyn FnMut(usize),
    ) -> Result<StepReport<'_>, StepError> {
        self.train(Purpose::Train, inputs, labels, after)
    }

    /// Trains one layer alone, counting trained layers from 0; otherwise as [`Session::train_step`].
    ///
    /// # Errors
    /// As there, and when the program was not compiled for it.
    pub fn train_layer(
        &mut self,
        layer: usize,
        inputs: Samples<'_>,
        labels: &[i32],
    ) -> Result<StepReport<'_>, StepError> {
        let purpose = Purpose::TrainLayer(layer);
        if !self.machine.has(purpose) {
            return Err(StepError::Layer { layer });
        }
        self.train(purpose, inputs, labels, &mut |_| {})
    }

    /// Finds the ranges of all quantizers on `labels.len()` samples, anew where they had some. Trains nothing.
    ///
    /// # Errors
    /// As [`Session::train_step`].
    pub fn calibrate(&mut self, inputs: Samples<'_>, labels: &[i32]) -> Result<(), StepError> {
        self.check_training(inputs, labels)?;
        self.run_calibration(inputs, labels);
        Ok(())
    }

    fn train(
        &mut self,
        purpose: Purpose,
        inputs: Samples<'_>,
        labels: &[i32],
        after: &mut dyn FnMut(usize),
    ) -> Result<StepReport<'_>, StepError> {
        self.check_training(inputs, labels)?;
        let samples = labels.len();
        if !self.progress.calibrated {
            self.run_calibration(inputs, labels);
        }
        let Progress { learning_rate, lambda, .. } = self.progress;
        // A layer that is trained alone looks at no other.
        let lambda = if purpose == Purpose::Train { lambda } else { 0.0 };
        self.set_controls(learning_rate / samples as f32, lambda);
        self.machine.run(purpose, Batch { samples, inputs, labels, scores: &mut [] }, after);
        self.progress.step += 1;
        for (layer, loss) in self.losses.iter_mut().enumerate() {
            *loss = self.machine.loss(layer) / samples as f32;
        }
        Ok(StepReport { losses: &self.losses, samples })
    }

    fn run_calibration(&mut self, inputs: Samples<'_>, labels: &[i32]) {
        // Rate 0: nothing moves.
        self.set_controls(0.0, 0.0);
        let batch = Batch { samples: labels.len(), inputs, labels, scores: &mut [] };
        self.machine.run(Purpose::Calibrate, batch, &mut |_| {});
        self.progress.calibrated = true;
    }

    fn set_controls(&mut self, rate: f32, lambda: f32) {
        let Progress { seed, step, .. } = self.progress;
        self.machine.set_controls(&Controls { rate, lambda, key: step_key(seed, step) });
    }

    fn check_training(&self, inputs: Samples<'_>, labels: &[i32]) -> Result<(), StepError> {
        let Artifact { batch, classes, .. } = *self.program();
        let samples = labels.len();
        if !(1..=batch).contains(&samples) {
            return Err(StepError::Batch { samples, batch });
        }
        self.check_inputs(inputs, samples)?;
        let is_class = |label: i32| usize::try_from(label).is_ok_and(|label| label < classes);
        match labels.iter().position(|&label| !is_class(label)) {
            Some(sample) => Err(StepError::Label { sample, label: labels[sample], classes }),
            None => Ok(()),
        }
    }

    fn check_inputs(&self, inputs: Samples<'_>, samples: usize) -> Result<(), StepError> {
        let Artifact { features, input, .. } = *self.program();
        if inputs.element() != input {
            return Err(StepError::InputType { expected: input, given: inputs.element() });
        }
        if samples.checked_mul(features) != Some(inputs.len()) {
            return Err(StepError::InputLength { samples, features, given: inputs.len() });
        }
        match inputs.not_finite() {
            Some(index) => Err(StepError::NotFinite { sample: index / features, feature: index % features }),
            None => Ok(()),
        }
    }

    /// Gives each sample's scores, row-major `[samples, classes]`, any number of samples. A sample's scores do not depend
    /// on those beside it. Allocates nothing.
    ///
    /// # Errors
    /// When inputs or room for scores do not fit the program or each other, or the quantizers have no ranges yet; then
    /// `scores` is as it was.
    pub fn infer(&mut self, inputs: Samples<'_>, scores: &mut [f32]) -> Result<(), StepError> {
        let Artifact { features, classes, infer_batch, .. } = *self.program();
        if !scores.len().is_multiple_of(classes) {
            return Err(StepError::ScoresLength { classes, given: scores.len() });
        }
        self.check_inputs(inputs, scores.len() / classes)?;
        if !self.progress.calibrated {
            return Err(StepError::Uncalibrated);
        }
        let mut start = 0;
        for scores in scores.chunks_mut(infer_batch * classes) {
            let samples = scores.len() / classes;
            let inputs = inputs.slice(start..start + samples * features);
            self.machine.run(Purpose::Infer, Batch { samples, inputs, labels: &[], scores }, &mut |_| {});
            start += samples * features;
        }
        Ok(())
    }

    /// Tells the session that all of the training data has been seen once: lambda grows by [`Options::lambda_step`].
    pub fn end_epoch(&mut self) {
        self.progress.epoch += 1;
        self.progress.lambda += self.lambda_step;
    }

    /// Sets the learning rate of the steps to come.
    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.progress.learning_rate = learning_rate;
    }

    /// The learning rate.
    pub fn learning_rate(&self) -> f32 {
        self.progress.learning_rate
    }

    /// Sets the weight of later layers' errors.
    pub fn set_lambda(&mut self, lambda: f32) {
        self.progress.lambda = lambda;
    }

    /// The weight of later layers' errors.
    pub fn lambda(&self) -> f32 {
        self.progress.lambda
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.progress.step
    }

    /// Goes on as if this many steps had been taken: it decides what random numbers the next one draws.
    pub fn set_step(&mut self, step: u64) {
        self.progress.step = step;
    }

    /// Epochs ended.
    pub fn epoch(&self) -> u64 {
        self.progress.epoch
    }

    /// The seed of the steps' random numbers.
    pub fn seed(&self) -> u64 {
        self.progress.seed
    }

    /// Threads that work, the caller's among them.
    pub fn threads(&self) -> usize {
        self.machine.threads()
    }

    /// The memory that steps work in.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { state_bytes: self.machine.state_bytes(), arena_bytes: self.machine.arena_bytes() }
    }

    /// Name, shape and values of everything that is trained: weights, biases and the heads' matrices.
    pub fn weights(&self) -> impl Iterator<Item = (&str, [usize; 2], Vec<f32>)> {
        let unpack = |param| params::unpack(self.program(), self.machine.state(), param);
        self.trained_params().map(move |param| (&*param.name, param.shape, unpack(param)))
    }

    fn trained_params(&self) -> impl Iterator<Item = &Param> {
        self.program().params.iter().filter(|param| param.role.is_trained())
    }

    /// The values of one of [`Session::weights`], row-major.
    ///
    /// # Errors
    /// When nothing that is trained has this name.
    pub fn trained(&self, name: &str) -> Result<Vec<f32>, WeightError> {
        let param = self.trained_params().find(|param| param.name == name);
        let param = param.ok_or_else(|| WeightError::Unknown(name.to_string()))?;
        Ok(params::unpack(self.program(), self.machine.state(), param))
    }

    /// The values of any parameter, row-major.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn weight(&self, name: &str) -> Result<Vec<f32>, WeightError> {
        let param = params::find(self.program(), name)?;
        Ok(params::unpack(self.program(), self.machine.state(), param))
    }

    /// Sets the values of any parameter, row-major. Fixed-point weights are quantized to 16 bits, with a new scale for
    /// each row, or for all where they share one.
    ///
    /// # Errors
    /// When there is no such parameter, it has another number of elements, or cannot hold a value; nothing has changed.
    pub fn load_weights(&mut self, name: &str, values: &[f32]) -> Result<(), WeightError> {
        let (program, state) = self.machine.state_mut();
        params::pack(program, state, params::find(program, name)?, values)
    }

    /// As [`Session::load_weights`], but asks for one row at a time, for some of them twice: nobody has to have all values
    /// in single precision, which can be more than everything else.
    ///
    /// # Errors
    /// When there is no such parameter, or it cannot hold a value; rows before that one may have changed.
    pub fn load_weights_by_row(
        &mut self,
        name: &str,
        row: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<(), WeightError> {
        let (program, state) = self.machine.state_mut();
        params::pack_by_row(program, state, params::find(program, name)?, row)
    }

    /// [`hash_weights`] of what [`Session::weights`] gives, in the order of the names.
    pub fn weights_hash(&self) -> String {
        let mut params: Vec<_> = self.trained_params().collect();
        params.sort_by(|a, b| a.name.cmp(&b.name));
        let unpack = |param| params::unpack(self.program(), self.machine.state(), param);
        hash_weights(params.into_iter().map(|param| (&*param.name, param.shape, unpack(param))))
    }

    /// All parameters, ranges and optimizer state, exactly. With [`Session::step`], [`Session::seed`], learning rate and
    /// lambda it is all that later steps depend on.
    pub fn state(&self) -> Vec<StateTensor<'_>> {
        params::export(self.program(), self.machine.state())
    }

    /// Brings back what [`Session::state`] gave, ranges included: no calibration will follow.
    ///
    /// # Errors
    /// When a tensor is missing, unknown, there twice, or of another type or shape; then nothing has changed.
    pub fn load_state(&mut self, tensors: &[StateTensor<'_>]) -> Result<(), WeightError> {
        let (program, state) = self.machine.state_mut();
        params::import(program, state, tensors)?;
        self.progress.calibrated = true;
        Ok(())
    }

    /// Sets weights from a safetensors file that came with the artifact.
    #[cfg(feature = "checkpoint")]
    fn load_weights_file(&mut self, file: &[u8]) -> Result<(), WeightError> {
        let (program, state) = self.machine.state_mut();
        let file = crate::tensors::TensorFile::parse(file)?;
        file.tensors.iter().try_for_each(|tensor| match params::find(program, &tensor.name) {
            Ok(param) if tensor.is_f32_of(param.shape) => {
                params::pack(program, state, param, &tensor.to_f32())
            }
            _ if params::import_one(program, state, &tensor.state_tensor()?)? => Ok(()),
            _ => Err(WeightError::Unknown(tensor.name.clone())),
        })?;
        self.progress.calibrated |= crate::checkpoint::is_calibrated(&file);
        Ok(())
    }

    #[cfg(not(feature = "checkpoint"))]
    fn load_weights_file(&mut self, _file: &[u8]) -> Result<(), WeightError> {
        Err(WeightError::File("this runtime was built without its feature `checkpoint`".to_string()))
    }
}

/// SHA-256, in hexadecimal, of parameters, given in the order of their names (as bytes). For each: the length of the name
/// and the name, rows, columns, and the values; lengths as 64 bits, all little-endian.
pub fn hash_weights<'a>(weights: impl Iterator<Item = (&'a str, [usize; 2], Vec<f32>)>) -> String {
    let mut hasher = Sha256::new();
    for (name, shape, values) in weights {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        shape.iter().for_each(|&size| hasher.update((size as u64).to_le_bytes()));
        values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
