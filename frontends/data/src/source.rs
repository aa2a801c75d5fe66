//! Reading what a header promises, no more than once and never more than the file can fill.
//!
//! A header of 16 bytes can promise terabytes. So before anything is allocated, the promise is
//! compared with a bound on what the file can yield: its own size, or for deflate 1032 times that,
//! since two bits of input (a length code and a distance code) yield at most 258 bytes. Then one
//! allocation of exactly the promised size is filled straight from the decoder. One byte more is
//! asked for: it shows a file longer than promised, and lets a decompressor check its checksum.

use std::fs::File;
use std::io::{self, BufRead, Cursor, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::DataError;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What deflate can make of one byte, at most.
const DEFLATE_RATIO: u64 = 1032;

/// Size of the buffer through which elements wider than a byte are converted.
pub(crate) const BUFFER: usize = 1 << 16;

/// A file to read.
pub(crate) struct Source<R> {
    /// What errors call it.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its bytes.
    pub(crate) reader: R,
}

impl Source<File> {
    /// Opens a regular file. (Opening a pipe could wait forever, and it has no size.)
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let fail = |error| DataError::io(path, error);
        let name = path.display().to_string();
        if !path.metadata().map_err(fail)?.is_file() {
            return Err(DataError::unsuitable(
                &name,
                "is not a regular file",
                "copy a pipe's contents to a file first",
            ));
        }
        let reader = File::open(path).map_err(fail)?;
        let size = reader.metadata().map_err(fail)?.len();
        Ok(Self { name, size, reader })
    }
}

impl<'a> Source<Cursor<&'a [u8]>> {
    /// Bytes in memory, as a file.
    pub(crate) fn bytes(name: &str, bytes: &'a [u8]) -> Self {
        Self { name: name.to_owned(), size: bytes.len() as u64, reader: Cursor::new(bytes) }
    }
}

/// What every reader needs of a source's bytes.
pub(crate) trait Bytes: Read + Seek {}

impl<R: Read + Seek> Bytes for R {}

/// The decompressed bytes of `reader`, and how they were stored. That is seen from the first bytes, not from a name:
/// downloads are often decompressed on the way and keep their name.
pub(crate) fn decoded<'a>(mut reader: impl BufRead + 'a) -> io::Result<(Box<dyn Read + 'a>, Storage)> {
    if reader.fill_buf()?.starts_with(&GZIP_MAGIC) {
        Ok((Box::new(MultiGzDecoder::new(reader)), Storage::Deflated))
    } else {
        Ok((Box::new(reader), Storage::Plain))
    }
}

/// How a stream's bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Plain,
    Deflated,
}

/// Decoded bytes, read in order.
pub(crate) struct Stream<R> {
    name: String,
    reader: R,
    /// Bytes still to come, at most.
    left: u64,
}

impl<R: Read> Stream<R> {
    /// A stream over `reader`, which decodes `size` bytes stored as `storage`.
    pub(crate) fn new(name: String, reader: R, size: u64, storage: Storage) -> Self {
        let left = match storage {
            Storage::Plain => size,
            Storage::Deflated => size.saturating_mul(DEFLATE_RATIO),
        };
        Self { name, reader, left }
    }

    /// What errors call the stream.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads a part of the header.
    pub(crate) fn header<const N: usize>(&mut self) -> Result<[u8; N], DataError> {
        let mut bytes = [0; N];
        let found = self.fill(&mut bytes)?;
        if found < N { Err(self.truncated(N, found)) } else { Ok(bytes) }
    }

    /// Reads `count` bytes into a vector of exactly that capacity.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Vec<u8>, DataError> {
        let mut bytes = self.allocate(count, 1)?;
        let result = self.reader.by_ref().take(count as u64).read_to_end(&mut bytes);
        self.left = self.left.saturating_sub(bytes.len() as u64);
        result.map_or_else(|error| self.failed(error), |_| Ok(()))?;
        if bytes.len() < count { Err(self.truncated(count, bytes.len())) } else { Ok(bytes) }
    }

    /// Reads `count` elements of `width` bytes, each converted by `convert(index, bytes)`, into a
    /// vector of exactly that capacity.
    pub(crate) fn elements<T>(
        &mut self,
        count: usize,
        width: usize,
        mut convert: impl FnMut(usize, &[u8]) -> Result<T, DataError>,
    ) -> Result<Vec<T>, DataError> {
        let mut elements: Vec<T> = self.allocate(count, width)?;
        let per_buffer = BUFFER / width;
        let mut buffer = vec![0; per_buffer.min(count) * width];
        while elements.len() < count {
            let want = per_buffer.min(count - elements.len()) * width;
            let found = self.fill(&mut buffer[..want])?;
            if found < want {
                let found = elements.len().saturating_mul(width) + found;
                return Err(self.truncated(count.saturating_mul(width), found));
            }
            for bytes in buffer[..want].chunks_exact(width) {
                elements.push(convert(elements.len(), bytes)?);
            }
        }
        Ok(elements)
    }

    /// Checks that nothing follows the `promised` bytes that were read, and so that a checksum
    /// which stands behind them holds.
    pub(crate) fn end(&mut self, promised: usize) -> Result<(), DataError> {
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                let file = self.name.clone();
                Err(DataError::TrailingBytes { file, promised: promised as u64 })
            }
            Err(error) => {
                self.failed(error)?;
                Err(DataError::malformed(&self.name, "is truncated: it ends before its checksum"))
            }
        }
    }

    /// Room for `count` elements that are stored in `width` bytes each, if the stream can fill it.
    fn allocate<T>(&self, count: usize, width: usize) -> Result<Vec<T>, DataError> {
        let promised = (count as u64).saturating_mul(width as u64);
        if promised > self.left {
            let file = self.name.clone();
            return Err(DataError::Truncated { file, promised, found: self.left });
        }
        reserve(&self.name, count)
    }

    /// Reads until `buffer` is full or the stream ends; returns how much was read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DataError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(error)?;
                    break;
                }
            }
        }
        self.left = self.left.saturating_sub(filled as u64);
        Ok(filled)
    }

    /// What an error of the decoder means: an early end is left to the caller, who knows how much
    /// was promised.
    fn failed(&self, error: io::Error) -> Result<(), DataError> {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(()),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Err(DataError::malformed(
                &self.name,
                format!("is corrupt: {}", error.to_string().to_lowercase()),
            )),
            _ => Err(DataError::Io { file: self.name.clone(), error }),
        }
    }

    fn truncated(&self, promised: usize, found: usize) -> DataError {
        let file = self.name.clone();
        DataError::Truncated { file, promised: promised as u64, found: found as u64 }
    }
}

/// An empty vector with room for exactly `count` elements; callers bound `count` by a file's size.
pub(crate) fn reserve<T>(name: &str, count: usize) -> Result<Vec<T>, DataError> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(count).map_err(|_| {
        let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
        DataError::OutOfMemory { file: name.to_owned(), bytes }
    })?;
    Ok(elements)
}
