//! Tensor data that lies beside the model file.
//!
//! `torch.onnx.export` writes it by default, so it cannot be refused; but the location is text from an untrusted file.
//! It is taken as a path inside the model's folder and nothing else: no absolute path, no `..`, and no link that
//! leads out.

use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::payload::{Original, Payload};

/// Where a model's external tensor data comes from.
pub trait ExternalData {
    /// Finds `length` bytes from `offset` of the file that the model calls `location`. The length is that of the
    /// tensor, already within the limits.
    ///
    /// # Errors
    /// If there is no such file, it is too short, or the location is not allowed.
    fn load(&self, location: &str, offset: u64, length: usize) -> Result<Payload, ExternalProblem>;
}

/// What is wrong with external data.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExternalProblem {
    /// The model names no file.
    NoLocation,
    /// The path is absolute.
    Absolute,
    /// The path leads out of the model's folder, by `..` or by a link.
    Outside,
    /// There is no such file.
    Missing,
    /// It is no regular file.
    NotAFile,
    /// The file is too short.
    Short {
        /// Bytes that the file must have.
        needed: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The declared length is not the tensor's.
    Length {
        /// What the model declares.
        declared: u64,
        /// What the tensor's type and dimensions need.
        needed: u64,
    },
    /// Offset or length is no number.
    NotANumber(String),
    /// The model was decoded without access to files.
    NotAvailable,
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for ExternalProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLocation => f.write_str("the model names no file"),
            Self::Absolute => f.write_str("an absolute path is not allowed"),
            Self::Outside => f.write_str("the path leads out of the model's folder"),
            Self::Missing => f.write_str("the file does not exist"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Short { needed, found } => write!(f, "the file has {found} bytes, {needed} are needed"),
            Self::Length { declared, needed } => {
                write!(f, "the model declares {declared} bytes, the tensor needs {needed}")
            }
            Self::NotANumber(text) => write!(f, "`{text}` is not a number of bytes"),
            Self::NotAvailable => f.write_str("the model was read without its files"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl ExternalProblem {
    pub(crate) fn help(&self, location: &str) -> Option<String> {
        match self {
            Self::Missing => {
                Some(format!("re-export with the `{location}` file next to the model, or copy it there"))
            }
            Self::Short { .. } => {
                Some(format!("copy `{location}` again: it belongs to another export or is cut off"))
            }
            Self::Absolute | Self::Outside => Some(
                "keep the data file in the model's folder, and re-save with `onnx.save_model`".to_string(),
            ),
            _ => None,
        }
    }
}

impl From<io::Error> for ExternalProblem {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

/// No external data: a model that needs some is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn load(&self, location: &str, _offset: u64, _length: usize) -> Result<Payload, ExternalProblem> {
        relative(location)?;
        Err(ExternalProblem::NotAvailable)
    }
}

/// The files of one folder and the folders in it.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
    }

    /// The real path of `location`, which is in this folder.
    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalProblem> {
        let folder = self.0.canonicalize()?;
        let file = folder.join(relative(location)?).canonicalize()?;
        if file.starts_with(&folder) { Ok(file) } else { Err(ExternalProblem::Outside) }
    }
}

impl ExternalData for Folder {
    fn load(&self, location: &str, offset: u64, length: usize) -> Result<Payload, ExternalProblem> {
        let path = self.resolve(location)?;
        // Before opening: a pipe would block.
        let metadata = path.metadata()?;
        if !metadata.is_file() {
            return Err(ExternalProblem::NotAFile);
        }
        let found = metadata.len();
        let needed = offset.saturating_add(length as u64);
        if found < needed {
            return Err(ExternalProblem::Short { needed, found });
        }
        Ok(Payload::in_file(&Arc::new(Original::new(&path, &metadata)), offset, length)?)
    }
}

/// The location as a path that stays below where it starts, whatever the system's own rules.
fn relative(location: &str) -> Result<&Path, ExternalProblem> {
    if location.is_empty() {
        return Err(ExternalProblem::NoLocation);
    }
    let drive = location.as_bytes().get(1) == Some(&b':');
    if location.starts_with(['/', '\\']) || drive {
        return Err(ExternalProblem::Absolute);
    }
    let path = Path::new(location);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !stays || location.contains(['\\', '\0']) {
        return Err(ExternalProblem::Outside);
    }
    Ok(path)
}
