//! Checkpoints: a session's state and where its training stands, in a folder.
//!
//! A checkpoint must survive that the process, or the machine, dies at any moment. So a new one is written beside the
//! old one, forced to the disk, and only then takes its name, which file systems do in one piece. The file holds the
//! exact planes of all parameters, ranges and optimizer state; the metadata beside them holds the rest that the next
//! step depends on, and the caller's own strings.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::session::Progress;
use crate::tensors::{TensorFile, write};
use crate::{Session, WeightError};

/// The file in the folder.
pub const FILE: &str = "weights.safetensors";

/// What a new file is called before it is complete.
const UNFINISHED: &str = "weights.safetensors.unfinished";

const VERSION: u32 = 1;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The file is no checkpoint of ffc.
    #[error("`{}` is not a checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The checkpoint is of another network.
    #[error("the checkpoint does not fit the network: {0}")]
    Mismatch(#[source] WeightError),
}

/// The metadata, as JSON in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    version: u32,
    network: String,
    seed: u64,
    step: u64,
    epoch: u64,
    /// Bits of an `f32`: decimal digits would have to be read back with care.
    learning_rate_bits: u32,
    lambda_bits: u32,
    calibrated: bool,
    user: BTreeMap<String, String>,
}

/// Writes the session's checkpoint into `folder`, which is made where it does not exist. An earlier checkpoint in it
/// is replaced in one piece. `metadata` comes back from [`load`].
///
/// # Errors
/// When the operating system refuses; an earlier checkpoint is then still there.
pub fn save(
    folder: &Path,
    session: &Session,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let metadata = Metadata::new(session, metadata.clone());
    let metadata = serde_json::to_string(&metadata).expect("the metadata is plain data with string keys");
    fs::create_dir_all(folder).map_err(|error| io_error(folder, error))?;
    let (unfinished, finished) = (folder.join(UNFINISHED), folder.join(FILE));
    write_synced(&unfinished, session, metadata).map_err(|error| io_error(&unfinished, error))?;
    fs::rename(&unfinished, &finished).map_err(|error| io_error(&finished, error))?;
    sync_folder(folder).map_err(|error| io_error(folder, error))
}

/// Sets the session to where it was when [`save`] wrote the checkpoint in `folder`: state, step, epoch, seed, learning
/// rate and lambda. Gives the caller's strings back.
///
/// # Errors
/// When there is no checkpoint, it cannot be read, or it is of another network; the session has not changed then.
pub fn load(folder: &Path, session: &mut Session) -> Result<BTreeMap<String, String>, CheckpointError> {
    let path = folder.join(FILE);
    let bytes = fs::read(&path).map_err(|error| io_error(&path, error))?;
    let bad = |reason: String| CheckpointError::NotACheckpoint { path: path.clone(), reason };
    let file = TensorFile::parse(&bytes).map_err(|error| bad(error.to_string()))?;
    let metadata = Metadata::of(&file).map_err(bad)?;
    let tensors = file.tensors.iter().map(|tensor| tensor.state_tensor()).collect::<Result<Vec<_>, _>>();
    tensors.and_then(|tensors| session.load_state(&tensors)).map_err(CheckpointError::Mismatch)?;
    session.progress = metadata.progress();
    Ok(metadata.user)
}

/// Whether the ranges in a file that [`save`] wrote are those of quantizers in use.
pub(crate) fn is_calibrated(file: &TensorFile<'_>) -> bool {
    Metadata::of(file).is_ok_and(|metadata| metadata.calibrated)
}

impl Metadata {
    fn new(session: &Session, user: BTreeMap<String, String>) -> Self {
        let Progress { seed, step, epoch, learning_rate, lambda, calibrated } = session.progress;
        Self {
            version: VERSION,
            network: session.program().name.clone(),
            seed,
            step,
            epoch,
            learning_rate_bits: learning_rate.to_bits(),
            lambda_bits: lambda.to_bits(),
            calibrated,
            user,
        }
    }

    fn of(file: &TensorFile<'_>) -> Result<Self, String> {
        let text = file.metadata.as_ref().ok_or("it was not written by ffc")?;
        let metadata: Self = serde_json::from_str(text).map_err(|error| format!("its metadata: {error}"))?;
        match metadata.version {
            VERSION => Ok(metadata),
            version => Err(format!("its version is {version}, this runtime reads {VERSION}")),
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            seed: self.seed,
            step: self.step,
            epoch: self.epoch,
            learning_rate: f32::from_bits(self.learning_rate_bits),
            lambda: f32::from_bits(self.lambda_bits),
            calibrated: self.calibrated,
        }
    }
}

fn write_synced(path: &Path, session: &Session, metadata: String) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    write(&session.state(), metadata, &mut file)?;
    file.into_inner()?.sync_all()
}

fn io_error(path: &Path, error: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_path_buf(), error }
}

/// Forces the new name to the disk, where folders can be opened.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
