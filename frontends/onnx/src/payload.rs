//! Where the bytes of a tensor are.
//!
//! A model's weights can be larger than everything that is made of them: training keeps 16 bits where a file has 32. So
//! the bytes of large tensors stay in their file, and are read when somebody asks for the numbers, one tensor at a time.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::OnnxError;

/// Bytes up to which a tensor is read along with its name and shape.
const SMALL: usize = 4 << 10;

/// Bytes read at a time: whole elements of every type.
const PIECE: usize = 64 << 10;

/// The bytes of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload(Place);

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Memory(Bytes),
    File { file: Arc<Original>, offset: u64, length: usize },
}

/// A file as it was when the model was decoded.
#[derive(Debug, PartialEq)]
pub(crate) struct Original {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

impl Original {
    pub(crate) fn new(path: &Path, metadata: &Metadata) -> Self {
        Self { path: path.to_path_buf(), length: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Bytes of a range.
    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.open(offset)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Bytes of a range, piece by piece.
    fn read_pieces(&self, offset: u64, length: usize, show: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut file = self.open(offset)?;
        let mut room = vec![0; PIECE.min(length)];
        for start in (0..length).step_by(PIECE) {
            let piece = &mut room[..PIECE.min(length - start)];
            file.read_exact(piece)?;
            show(piece);
        }
        Ok(())
    }

    /// The file from an offset on.
    fn open(&self, offset: u64) -> io::Result<File> {
        let mut file = File::open(&self.path)?;
        if *self != Self::new(&self.path, &file.metadata()?) {
            return Err(io::Error::other("it has changed since it was opened"));
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Place::Memory(bytes))
    }
}

impl Payload {
    /// A range of a file, read now if it is small.
    pub(crate) fn in_file(file: &Arc<Original>, offset: u64, length: usize) -> io::Result<Self> {
        Ok(Self(match length {
            ..=SMALL => Place::Memory(file.read(offset, length)?),
            _ => Place::File { file: file.clone(), offset, length },
        }))
    }

    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Place::Memory(bytes) => bytes.len(),
            Place::File { length, .. } => *length,
        }
    }

    /// The bytes, where they are in memory.
    pub(crate) fn at_hand(&self) -> Option<&[u8]> {
        match &self.0 {
            Place::Memory(bytes) => Some(bytes),
            Place::File { .. } => None,
        }
    }

    /// Shows all bytes, some at a time, cut where no element is.
    pub(crate) fn read(&self, mut show: impl FnMut(&[u8])) -> Result<(), OnnxError> {
        match &self.0 {
            Place::Memory(bytes) => show(bytes),
            Place::File { file, offset, length } => file
                .read_pieces(*offset, *length, &mut show)
                .map_err(|source| OnnxError::Io { path: file.path.clone(), source })?,
        }
        Ok(())
    }
}

/// The file that a model is decoded from.
pub(crate) enum Store {
    Memory(Bytes),
    File(Arc<Original>),
}

impl Store {
    pub(crate) fn read(&self, range: Range<usize>) -> Result<Bytes, OnnxError> {
        self.at(range.clone(), |bytes| bytes, |file| file.read(range.start as u64, range.len()))
    }

    pub(crate) fn payload(&self, range: Range<usize>) -> Result<Payload, OnnxError> {
        let in_file = |file: &Arc<Original>| Payload::in_file(file, range.start as u64, range.len());
        self.at(range.clone(), Payload::from, in_file)
    }

    fn at<T>(
        &self,
        range: Range<usize>,
        memory: impl FnOnce(Bytes) -> T,
        file: impl FnOnce(&Arc<Original>) -> io::Result<T>,
    ) -> Result<T, OnnxError> {
        match self {
            Self::Memory(bytes) => Ok(memory(bytes.slice(range))),
            Self::File(original) => {
                file(original).map_err(|source| OnnxError::Io { path: original.path.clone(), source })
            }
        }
    }
}
