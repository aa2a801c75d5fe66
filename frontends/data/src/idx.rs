//! IDX, the format of MNIST and its successors: a magic number, dimensions, bytes.
//!
//! ```text
//! images: 00 00 08 03 | samples | height | width | pixels      labels: 00 00 08 01 | samples | labels
//! ```
//!
//! Dimensions are 32-bit big-endian. `08` is the type, unsigned byte, the only one that images and
//! labels have. The images of a large data set stay in their files where those are not compressed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use crate::LoadOptions;
use crate::dataset::{Dataset, Features, Split, SplitName, sample_size};
use crate::error::DataError;
use crate::labels::{self, Labels};
use crate::pixels::{FilePixels, Part, Pixels};
use crate::source::{Source, Storage, Stream, decoded};

/// Bytes before the pixels.
const IMAGES_HEADER: u64 = 16;
const IMAGES_MAGIC: [u8; 4] = [0, 0, 8, 3];
const LABELS_MAGIC: [u8; 4] = [0, 0, 8, 1];

/// The two files of a split.
pub(crate) struct SplitFiles {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
}

/// The four files of a data set.
pub(crate) struct Files {
    pub(crate) train: SplitFiles,
    pub(crate) test: SplitFiles,
}

/// Loads the data set in `files`.
pub(crate) fn load(files: &Files, options: &LoadOptions) -> Result<Dataset, DataError> {
    let read_labels =
        |files: &SplitFiles, split| labels(Source::<File>::open(&files.labels)?, options.limit(split));
    let train_labels = read_labels(&files.train, SplitName::Train)?;
    let test_labels = read_labels(&files.test, SplitName::Test)?;
    let names = labels::numbered(&train_labels, &test_labels);

    let sources = [Source::open(&files.train.images)?, Source::open(&files.test.images)?];
    // Of compressed files this is a lower bound, and they are held in memory in any case.
    let stay = sources.iter().map(|source| source.size).sum::<u64>() > options.in_memory;
    let [train, test] = sources;
    let (train_shape, train) = split(train, train_labels, stay)?;
    let (test_shape, test) = split(test, test_labels, stay)?;
    if train_shape != test_shape {
        return Err(DataError::SplitsDiffer {
            file: files.train.images.display().to_string(),
            train: format!("images of {} x {}", train_shape[1], train_shape[2]),
            test: format!("images of {} x {}", test_shape[1], test_shape[2]),
        });
    }
    Dataset::new(train, test, names, train_shape.to_vec())
}

/// Reads a file of labels.
pub(crate) fn labels<R: Read>(source: Source<R>, limit: Option<usize>) -> Result<Labels, DataError> {
    let (mut stream, _) = open(source)?;
    magic(&mut stream, LABELS_MAGIC, "labels")?;
    let samples = dimension(&mut stream)?;
    let values = stream.elements(samples, 1, |_, byte| Ok(u16::from(byte[0])))?;
    stream.end(samples)?;
    Ok(Labels::new(values, limit))
}

/// Reads a file of images, as many as there are labels; returns their shape, `[1, H, W]`, too. Where they `stay`, they
/// are left in the file, if that is not compressed.
fn split(source: Source<File>, labels: Labels, stay: bool) -> Result<([usize; 3], Split), DataError> {
    let file = Arc::new(source.reader);
    let (name, size) = (source.name.clone(), source.size);
    let (mut stream, storage) = open(Source { reader: &*file, name: source.name, size })?;
    let (shape, bytes) = header(&mut stream, &labels)?;
    if !stay || storage == Storage::Deflated {
        return pixels(stream, shape, bytes, labels);
    }
    let (promised, found) = (bytes as u64, size.saturating_sub(IMAGES_HEADER));
    let whole = labels.values.len() == labels.total;
    match promised {
        promised if promised > found => Err(DataError::Truncated { file: name, promised, found }),
        promised if whole && promised < found => Err(DataError::TrailingBytes { file: name, promised }),
        _ => {
            let part = Part::whole(&file, &name, IMAGES_HEADER, bytes);
            let features = Features::U8(Pixels::Files(FilePixels::new(vec![part])));
            Ok((shape, Split { features, labels: labels.values }))
        }
    }
}

/// Reads a file of images into memory, as many as there are labels; returns their shape, `[1, H, W]`, too.
pub(crate) fn images<R: Read>(source: Source<R>, labels: Labels) -> Result<([usize; 3], Split), DataError> {
    let (mut stream, _) = open(source)?;
    let (shape, bytes) = header(&mut stream, &labels)?;
    pixels(stream, shape, bytes, labels)
}

/// The shape of an image and the number of bytes that the images with these labels have.
fn header<R: Read>(stream: &mut Stream<R>, labels: &Labels) -> Result<([usize; 3], usize), DataError> {
    magic(stream, IMAGES_MAGIC, "images")?;
    let samples = dimension(stream)?;
    let shape = [1, dimension(stream)?, dimension(stream)?];
    if samples != labels.total {
        return Err(DataError::LengthMismatch {
            file: stream.name().to_owned(),
            samples: samples as u64,
            labels: labels.total as u64,
        });
    }
    match sample_size(&shape).and_then(|size| size.checked_mul(labels.values.len())) {
        Some(bytes) => Ok((shape, bytes)),
        None => Err(DataError::malformed(stream.name(), "has dimensions that overflow")),
    }
}

fn pixels<R: Read>(
    mut stream: Stream<R>,
    shape: [usize; 3],
    bytes: usize,
    labels: Labels,
) -> Result<([usize; 3], Split), DataError> {
    let pixels = stream.bytes(bytes)?;
    if labels.values.len() == labels.total {
        stream.end(bytes)?;
    }
    Ok((shape, Split { features: Features::U8(pixels.into()), labels: labels.values }))
}

/// The decompressed bytes of `source`, and how they are stored.
fn open<'a, R: Read + 'a>(source: Source<R>) -> Result<(Stream<Box<dyn Read + 'a>>, Storage), DataError> {
    let Source { name, size, reader } = source;
    let fail = |error| DataError::Io { file: name.clone(), error };
    let (reader, storage) = decoded(BufReader::new(reader)).map_err(fail)?;
    Ok((Stream::new(name, reader, size, storage), storage))
}

fn magic<R: Read>(stream: &mut Stream<R>, expected: [u8; 4], of: &str) -> Result<(), DataError> {
    let found: [u8; 4] = stream.header()?;
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (u32::from_be_bytes(found), u32::from_be_bytes(expected));
    Err(DataError::malformed(
        stream.name(),
        format!("starts with 0x{found:08x}, not with 0x{expected:08x}, the mark of IDX {of}"),
    ))
}

fn dimension<R: Read>(stream: &mut Stream<R>) -> Result<usize, DataError> {
    Ok(u32::from_be_bytes(stream.header()?) as usize)
}
