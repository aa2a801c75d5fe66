//! 8-bit features, in memory or in a file.
//!
//! A data set may be larger than memory. So those of more than [`IN_MEMORY`] bytes stay in a file that is open for as
//! long as they are used, and are read where they are wanted: by positioned reads, which many threads may do at once, so
//! that the process grows by a batch and the system's cache keeps what it has room for. (A map would do the same, but it
//! is `unsafe`, and a file that shrinks below a map ends the process instead of being an error.)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::DataError;
use crate::source::reserve;

/// Bytes of 8-bit samples, both splits together, up to which they are held in memory where
/// [`LoadOptions`](crate::LoadOptions) does not say otherwise.
pub const IN_MEMORY: u64 = 64 << 20;

/// The 8-bit features of a split; see the [crate's documentation](crate#memory).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Pixels {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file, or several.
    Files(FilePixels),
}

impl Pixels {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Pixels::Memory(bytes) => bytes.len(),
            Pixels::Files(files) => files.parts.iter().map(|part| part.len).sum(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in `range`; those that are in a file are read into `buffer`, whose content is replaced.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has become shorter.
    ///
    /// # Panics
    ///
    /// If `range` is not within [`len`](Self::len), as slicing does.
    pub fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], DataError> {
        match self {
            Pixels::Memory(bytes) => Ok(&bytes[range]),
            Pixels::Files(files) => {
                buffer.resize(range.len(), 0);
                files.fill(range.start, buffer)?;
                Ok(buffer)
            }
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Pixels::Memory(bytes)
    }
}

/// Features that are read from files whenever they are wanted. Two are equal that are the same places of the same files.
#[derive(Clone, Debug, PartialEq)]
pub struct FilePixels {
    parts: Vec<Part>,
}

/// Samples in one file.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The open file.
    pub(crate) file: Arc<File>,
    /// What errors call it.
    pub(crate) name: String,
    /// Where the first run of bytes begins.
    pub(crate) offset: u64,
    /// Bytes in a run, without a gap.
    pub(crate) run: usize,
    /// Bytes from the beginning of a run to that of the next.
    pub(crate) stride: u64,
    /// Bytes in all runs.
    pub(crate) len: usize,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        let place = |part: &Self| (part.offset, part.run, part.stride, part.len);
        self.name == other.name && place(self) == place(other)
    }
}

impl Part {
    /// The `len` bytes of `file` from `offset` on.
    pub(crate) fn whole(file: &Arc<File>, name: &str, offset: u64, len: usize) -> Self {
        let (file, name) = (Arc::clone(file), name.to_owned());
        Self { file, name, offset, run: len, stride: len as u64, len }
    }

    fn fill(&self, start: usize, out: &mut [u8]) -> Result<(), DataError> {
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (record, within) = (at / self.run, at % self.run);
            let (now, later) = rest.split_at_mut(rest.len().min(self.run - within));
            let offset = self.offset + record as u64 * self.stride + within as u64;
            read_exact_at(&self.file, now, offset).map_err(|error| self.failed(error))?;
            at += now.len();
            rest = later;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> DataError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let help = "leave it as it is while it is used, and start again";
            return DataError::unsuitable(&self.name, "became shorter while it was used", help);
        }
        DataError::Io { file: self.name.clone(), error }
    }
}

impl FilePixels {
    /// The bytes of `parts`, one after the other.
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// All bytes, in memory from now on.
    pub(crate) fn into_memory(self) -> Result<Pixels, DataError> {
        let name = self.parts.first().map_or("samples", |part| &part.name);
        let len = self.parts.iter().map(|part| part.len).sum();
        let mut bytes = reserve(name, len)?;
        bytes.resize(len, 0);
        self.fill(0, &mut bytes)?;
        Ok(Pixels::Memory(bytes))
    }

    /// Reads the bytes from `start` on.
    fn fill(&self, start: usize, out: &mut [u8]) -> Result<(), DataError> {
        let (mut start, mut rest) = (start, out);
        for part in &self.parts {
            let here = part.len.saturating_sub(start).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            part.fill(start, now)?;
            start = if here == 0 { start - part.len.min(start) } else { 0 };
            rest = later;
        }
        assert!(rest.is_empty(), "the range is out of bounds");
        Ok(())
    }
}

/// Fills `buffer` from `offset` on.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let (mut buffer, mut offset) = (buffer, offset);
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => (buffer, offset) = (&mut buffer[read..], offset + read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes `bytes` from `offset` on.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let (mut bytes, mut offset) = (bytes, offset);
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => (bytes, offset) = (&bytes[written..], offset + written as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    /// 1, 2, ... 12: two whole parts and one of runs of two bytes, three apart.
    fn pixels() -> Pixels {
        let (plain, runs) = (file(&[0, 1, 2, 3, 4, 5, 6]), file(&[0, 0, 7, 8, 0, 9, 10, 0, 11, 12]));
        Pixels::Files(FilePixels::new(vec![
            Part::whole(&plain, "plain", 1, 4),
            Part::whole(&plain, "plain", 5, 2),
            Part { file: runs, name: "runs".to_owned(), offset: 2, run: 2, stride: 3, len: 6 },
        ]))
    }

    #[test]
    fn every_range_is_what_it_is_in_memory() {
        let (in_files, in_memory) = (pixels(), Pixels::from((1..=12).collect::<Vec<u8>>()));
        assert_eq!((in_files.len(), in_memory.len()), (12, 12));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for start in 0..=12 {
            for end in start..=12 {
                let read = in_files.read(start..end, &mut one).unwrap();
                assert_eq!(read, in_memory.read(start..end, &mut other).unwrap(), "{start}..{end}");
            }
        }
        assert!(other.is_empty(), "what is in memory is not copied");
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_range_beyond_the_end() {
        let _ = pixels().read(10..13, &mut Vec::new());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let shrinking = file(&[1; 10]);
        let pixels = Pixels::Files(FilePixels::new(vec![Part::whole(&shrinking, "images", 2, 8)]));
        assert!(pixels.read(4..8, &mut Vec::new()).is_ok());
        shrinking.set_len(8).unwrap();
        assert!(pixels.read(0..6, &mut Vec::new()).is_ok());
        let error = pixels.read(4..8, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "'images' became shorter while it was used");
    }
}
