//! Decoded images in a file, so that they are decoded once.
//!
//! ```text
//! magic, version | length of the header | its digest | header | images, train then test
//! header: key | shape | classes | labels of both splits
//! ```
//!
//! The file is named after the data set's place, so that a data set that changes replaces its file. The key in it says
//! what it was made from; a file with another key, of another version, damaged in its header or of another length is as
//! good as none. The images themselves are not checked: reading all of them is what the file is there to avoid, and it
//! gets its name when all of it is on the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::layout::Layout;
use crate::dataset::sample_size;
use crate::digest::Digest;
use crate::pixels::write_all_at;

/// What a file begins with; the last byte is the version.
const MAGIC: [u8; 8] = *b"ffcimg\0\x01";

/// Bytes before the header: magic, length, digest.
const PREFIX: usize = 24;

/// How long a file that nobody finishes is left alone: another process may be at it.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The file of a data set.
pub(super) struct Cache {
    folder: PathBuf,
    file: String,
    key: Vec<u8>,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) file: Arc<File>,
    /// What errors call it.
    pub(super) name: String,
    /// Where the images begin.
    pub(super) offset: u64,
    pub(super) shape: [usize; 3],
    pub(super) classes: Vec<String>,
    pub(super) labels: [Vec<u16>; 2],
}

impl Cache {
    /// The file, in `folder`, of the data set called `name` with this key.
    pub(super) fn new(folder: &Path, name: &str, key: &[u8]) -> Self {
        let last = Path::new(name).file_name().unwrap_or_default().to_string_lossy();
        let stem: String =
            last.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let place = key.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let file = format!("{stem}-{}.images", Digest::of(place).hex());
        Self { folder: folder.to_owned(), file, key: key.to_vec() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(&self.file)
    }

    /// What the file holds, if it is there, whole, and of this data set as it is now.
    pub(super) fn open(&self) -> Option<Contents> {
        // Whatever is wrong with it shows again, with a reason, where it is written anew.
        let mut file = File::open(self.path()).ok()?;
        let size = file.metadata().ok()?.len();
        let mut prefix = [0; PREFIX];
        file.read_exact(&mut prefix).ok()?;
        let length = header_length(&prefix).filter(|length| *length <= size)?;
        let mut header = Vec::new();
        (&mut file).take(length).read_to_end(&mut header).ok()?;
        let Header { key, shape, classes, labels } = Header::parse(&prefix, &header)?;
        let samples = labels.iter().map(Vec::len).sum::<usize>();
        let offset = PREFIX as u64 + length;
        let whole = sample_size(&shape).and_then(|size| size.checked_mul(samples))? as u64;
        if key != self.key || offset.checked_add(whole) != Some(size) {
            return None;
        }
        let name = self.path().display().to_string();
        Some(Contents { file: Arc::new(file), name, offset, shape, classes, labels })
    }

    /// Begins a new file, for the images of `layout`.
    pub(super) fn create(&self, layout: &Layout, shape: [usize; 3]) -> io::Result<Writer> {
        fs::create_dir_all(&self.folder)?;
        let unfinished = format!(".{}.", self.file);
        self.sweep(&unfinished)?;
        let mut file =
            tempfile::Builder::new().prefix(&unfinished).suffix(".part").tempfile_in(&self.folder)?;
        let (key, classes, labels) = (self.key.clone(), layout.classes.clone(), layout.labels.clone());
        let header = Header { key, shape, classes, labels };
        let bytes = header.bytes();
        file.write_all(&bytes)?;
        Ok(Writer { file, path: self.path(), offset: bytes.len() as u64, header })
    }

    /// Removes what processes that were killed have left.
    fn sweep(&self, unfinished: &str) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
            if name.starts_with(unfinished)
                && name.ends_with(".part")
                && age().is_some_and(|age| age > ABANDONED)
            {
                match fs::remove_file(entry.path()) {
                    // Another process was faster.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// A file that is being made; it disappears where that is not finished.
pub(super) struct Writer {
    file: NamedTempFile,
    path: PathBuf,
    offset: u64,
    header: Header,
}

impl Writer {
    /// Writes one image.
    pub(super) fn put(&mut self, place: usize, pixels: &[u8]) -> io::Result<()> {
        write_all_at(self.file.as_file(), pixels, self.offset + (place * pixels.len()) as u64)
    }

    /// Gives the file its name, once it is on the disk.
    pub(super) fn finish(self) -> io::Result<Contents> {
        let Self { file, path, offset, header } = self;
        file.as_file().sync_all()?;
        let file = Arc::new(file.persist(&path).map_err(|error| error.error)?);
        let Header { shape, classes, labels, .. } = header;
        Ok(Contents { file, name: path.display().to_string(), offset, shape, classes, labels })
    }
}

/// What stands before the images.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    key: Vec<u8>,
    shape: [usize; 3],
    classes: Vec<String>,
    labels: [Vec<u16>; 2],
}

impl Header {
    /// With what stands before it.
    fn bytes(&self) -> Vec<u8> {
        let mut header = Vec::new();
        put_bytes(&mut header, &self.key);
        self.shape.iter().for_each(|&side| header.extend((side as u64).to_le_bytes()));
        header.extend((self.classes.len() as u64).to_le_bytes());
        self.classes.iter().for_each(|class| put_bytes(&mut header, class.as_bytes()));
        for labels in &self.labels {
            let bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
            put_bytes(&mut header, &bytes);
        }
        let (length, digest) = (header.len() as u64, Digest::of(&header).value());
        [&MAGIC[..], &length.to_le_bytes(), &digest.to_le_bytes(), &header].concat()
    }

    fn parse(prefix: &[u8; PREFIX], header: &[u8]) -> Option<Self> {
        let length = header_length(prefix)?;
        if length != header.len() as u64 || prefix[16..] != Digest::of(header).value().to_le_bytes() {
            return None;
        }
        let mut rest = header;
        let key = take_bytes(&mut rest)?.to_vec();
        let mut side = || usize::try_from(take_number(&mut rest)?).ok();
        let shape = [side()?, side()?, side()?];
        let count = take_number(&mut rest)?;
        let mut class = || String::from_utf8(take_bytes(&mut rest)?.to_vec()).ok();
        let classes = (0..count).map(|_| class()).collect::<Option<Vec<_>>>()?;
        let mut labels = || {
            let bytes = take_bytes(&mut rest)?.chunks_exact(2);
            Some(bytes.map(|label| u16::from_le_bytes([label[0], label[1]])).collect::<Vec<_>>())
        };
        let labels = [labels()?, labels()?];
        rest.is_empty().then_some(Self { key, shape, classes, labels })
    }
}

/// Length of the header that `prefix` announces.
fn header_length(prefix: &[u8; PREFIX]) -> Option<u64> {
    let (magic, mut rest) = prefix.split_at(MAGIC.len());
    if magic == MAGIC { take_number(&mut rest) } else { None }
}

/// Parses the bytes of a file up to its images; tells whether they are valid.
pub(crate) fn parse(bytes: &[u8]) -> bool {
    bytes.split_first_chunk().is_some_and(|(prefix, header)| Header::parse(prefix, header).is_some())
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

fn take_number(from: &mut &[u8]) -> Option<u64> {
    let (number, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = usize::try_from(take_number(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_or_not_at_all() {
        let header = Header {
            key: b"/data\nfile 1 2".to_vec(),
            shape: [3, 4, 5],
            classes: vec!["a".to_owned(), "b c".to_owned()],
            labels: [vec![0, 1, 1, 65535], vec![]],
        };
        let bytes = header.bytes();
        let (prefix, rest) = bytes.split_first_chunk().unwrap();
        assert_eq!(Header::parse(prefix, rest), Some(header));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x10;
            assert!(!parse(&damaged), "byte {index}");
            assert!(!parse(&bytes[..index]), "{index} bytes");
        }
        assert!(!parse(&[&bytes[..], &[0]].concat()));
    }

    #[test]
    fn only_old_files_of_the_same_data_set_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "/x/data.tar", b"/x/data.tar\nfile 1 2");
        let unfinished = format!(".{}.", cache.file);
        let old = [format!("{unfinished}old.part"), ".other.old.part".to_owned(), "old.part".to_owned()];
        for name in &old {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - 2 * ABANDONED).unwrap();
        }
        File::create(folder.path().join(format!("{unfinished}new.part"))).unwrap();
        cache.sweep(&unfinished).unwrap();
        assert!(!folder.path().join(&old[0]).exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
