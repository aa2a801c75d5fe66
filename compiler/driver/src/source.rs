//! What a command works on: an ONNX file, a checkpoint's folder, or a compiled artifact.

use std::path::{Path, PathBuf};

use ffc_compiler::recipe::{Goodness, Head, Normalization, Options, Predict, RMS_EPSILON};
use ffc_ir::kernel::Program;
use ffc_onnx::{Numbers, PredictionKind};
use ffc_reference::Executor;
use ffc_runtime::artifact::Artifact;
use ffc_runtime::{Session, checkpoint};

use crate::compile::{self, assemble, is_artifact, preprocessing_constants};
use crate::description::Description;
use crate::initial::{Init, initial_values};
use crate::network::Network;
use crate::trainer::{Reference, Trainer};
use crate::{Failure, files};

/// See the [module documentation](self).
pub struct Source {
    /// The network. A checkpoint's weights come with its state ([`restore`]).
    pub network: Network,
    /// What a checkpoint or artifact says about itself.
    pub description: Option<Description>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a network came from.
pub enum Origin {
    /// An ONNX file.
    Onnx,
    /// A checkpoint's folder.
    Checkpoint(PathBuf),
    /// An artifact's bytes.
    Artifact(Vec<u8>),
}

impl Source {
    /// Opens a path.
    ///
    /// # Errors
    /// When there is nothing there, or nothing that can be used.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if !path.exists() {
            return Err(Failure::new(format!("`{}` does not exist", path.display()))
                .with_help("give an ONNX file, a checkpoint's folder or a `.ffc` artifact"));
        }
        if path.is_dir() {
            let (description, module) = Description::load(path)?;
            return Ok(Self::described(description, module, Origin::Checkpoint(path.to_path_buf())));
        }
        if is_artifact(path) {
            let bytes = files::read(path)?;
            let (_, attachments) = Artifact::from_bytes(&bytes)
                .map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))?;
            let (description, module) = Description::from_attachments(&attachments)?;
            return Ok(Self::described(description, module, Origin::Artifact(bytes)));
        }
        Ok(Self { network: Network::read(path)?, description: None, origin: Origin::Onnx })
    }

    fn described(description: Description, module: ffc_ir::module::Module, origin: Origin) -> Self {
        let interface = description.interface.clone();
        let network = Network { module, weights: Vec::new(), interface };
        Self { network, description: Some(description), origin }
    }

    /// Options that fit an ONNX file's own weights: the normalisation, the overlay and the prediction that it holds.
    ///
    /// # Errors
    /// As [`Source::normalization`].
    pub fn keep(&self, options: &mut Options) -> Result<(), Failure> {
        let interface = &self.network.interface;
        options.normalization = self.normalization()?;
        options.predict = match interface.prediction {
            PredictionKind::Classifier => Predict::Classifier,
            PredictionKind::Heads { .. } => Predict::Heads,
            PredictionKind::Labels { .. } => Predict::Labels,
            PredictionKind::Unlabelled { .. } => Predict::Classifier,
        };
        let (on, off, sum) = match interface.prediction {
            PredictionKind::Labels { on, off, sum } => (on, off, sum),
            PredictionKind::Unlabelled { on, off } => (on, off, false),
            _ => return Ok(()),
        };
        (options.preprocessing.high, options.preprocessing.low) = (on, off);
        let goodness = if sum { Goodness::Sum } else { Goodness::Mean };
        // Prediction compares goodness with no threshold.
        options.head = Head::SumOfSquares { goodness, threshold: 0.0 };
        Ok(())
    }

    /// The normalisation that an ONNX file holds.
    ///
    /// # Errors
    /// When it is not the one that programs are made with.
    pub fn normalization(&self) -> Result<Normalization, Failure> {
        match self.network.interface.normalization {
            None => Ok(Normalization::None),
            Some(rms) if rms.input && rms.epsilon == RMS_EPSILON => Ok(Normalization::Rms),
            Some(rms) => {
                let input = if rms.input { "" } else { " but not its input" };
                let epsilon = rms.epsilon;
                Err(Failure::new(format!(
                    "the file normalises its layers{input} with an epsilon of {epsilon}; only {RMS_EPSILON}, and with \
                     the input, can be kept"
                ))
                .with_help("train it with `--init random`, which needs nothing of the file's weights"))
            }
        }
    }
}

/// How a program is run.
pub struct Run<'a> {
    /// The program.
    pub program: &'a Program,
    /// The options it was made with.
    pub options: &'a Options,
    /// Worker threads, 0 for all cores.
    pub threads: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Where weights start.
    pub init: Init,
}

impl Run<'_> {
    /// A session with machine code for this machine.
    ///
    /// # Errors
    /// When the program cannot be compiled or loaded.
    pub fn session(&self) -> Result<Session, Failure> {
        let artifact = assemble(self.program, &[compile::native()?])?;
        Ok(Session::new(artifact, self.session_options()?)?)
    }

    /// A session with the code of an artifact that is the best for this machine.
    ///
    /// # Errors
    /// When the artifact cannot be loaded.
    pub fn load(&self, artifact: &[u8]) -> Result<Session, Failure> {
        Ok(Session::load(artifact, self.session_options()?)?)
    }

    fn session_options(&self) -> Result<ffc_runtime::Options, Failure> {
        let (threads, seed, cpu) = (self.threads, self.seed, compile::cpu()?);
        Ok(ffc_runtime::Options { threads, seed, cpu, ..ffc_runtime::Options::default() })
    }

    /// A trainer whose parameters have their first values.
    ///
    /// # Errors
    /// As [`Run::session`].
    pub fn trainer(&self, network: &Network) -> Result<Trainer, Failure> {
        let mut trainer = match self.options.precision {
            ffc_compiler::recipe::Precision::Int8 => Trainer::Compiled(Box::new(self.session()?)),
            ffc_compiler::recipe::Precision::Float => {
                let executor = Executor::new(self.program.clone());
                Trainer::Reference(Box::new(Reference::new(executor, self.seed)))
            }
        };
        self.initialize(&mut trainer, network)?;
        Ok(trainer)
    }

    /// Gives every parameter its first value.
    ///
    /// # Errors
    /// When the network's weights do not fit the program.
    pub fn initialize(&self, trainer: &mut Trainer, network: &Network) -> Result<(), Failure> {
        let params = &self.program.params;
        let constants = preprocessing_constants(self.options);
        for parameter in initial_values(params, network, &constants, self.init, self.seed) {
            trainer.start(&parameter?)?;
        }
        Ok(())
    }
}

/// The exact state of a checkpoint, in a session that was compiled as its description says.
///
/// # Errors
/// When the checkpoint is damaged or of another network.
pub fn restore(folder: &Path, description: &Description, network: &Network) -> Result<Session, Failure> {
    let compiled = compile::compile(&network.module, &description.options)?;
    let run = Run {
        program: &compiled.program,
        options: &description.options,
        threads: 1,
        seed: description.seed,
        init: Init::Keep,
    };
    let mut session = run.session()?;
    checkpoint::load(folder, &mut session)?;
    Ok(session)
}

/// What an artifact holds, in a session that is not made to train.
///
/// # Errors
/// When it cannot be loaded.
pub fn load(artifact: &[u8]) -> Result<Session, Failure> {
    let options = ffc_runtime::Options { cpu: compile::cpu()?, ..ffc_runtime::Options::default() };
    Ok(Session::load(artifact, options)?)
}

/// A session's trained parameters, as the weights of a network.
pub fn weights_of(session: &Session) -> Vec<(String, Numbers)> {
    session.weights().map(|(name, _, values)| (name.to_string(), values.into())).collect()
}
