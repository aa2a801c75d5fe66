//! IDX, the format of MNIST and its successors: a magic number, dimensions, bytes.
//!
//! ```text
//! images: 00 00 08 03 | samples | height | width | pixels      labels: 00 00 08 01 | samples | labels
//! ```
//!
//! Dimensions are 32-bit big-endian. `08` is the type, unsigned byte, the only one that images and
//! labels have. Whether a file is compressed is seen from its first bytes, not from its name:
//! downloads are often decompressed on the way and keep their name.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;

use crate::LoadOptions;
use crate::dataset::{Dataset, Features, Split, SplitName, sample_size};
use crate::error::DataError;
use crate::labels::{self, Labels};
use crate::source::{Source, Storage, Stream};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
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

    let (train_shape, train) = images(Source::open(&files.train.images)?, train_labels)?;
    let (test_shape, test) = images(Source::open(&files.test.images)?, test_labels)?;
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
    let mut stream = open(source)?;
    magic(&mut stream, LABELS_MAGIC, "labels")?;
    let samples = dimension(&mut stream)?;
    let values = stream.elements(samples, 1, |_, byte| Ok(u16::from(byte[0])))?;
    stream.end(samples)?;
    Ok(Labels::new(values, limit))
}

/// Reads a file of images, as many as there are labels; returns their shape, `[1, H, W]`, too.
pub(crate) fn images<R: Read>(source: Source<R>, labels: Labels) -> Result<([usize; 3], Split), DataError> {
    let mut stream = open(source)?;
    magic(&mut stream, IMAGES_MAGIC, "images")?;
    let samples = dimension(&mut stream)?;
    let shape = [1, dimension(&mut stream)?, dimension(&mut stream)?];
    if samples != labels.total {
        return Err(DataError::LengthMismatch {
            file: stream.name().to_owned(),
            samples: samples as u64,
            labels: labels.total as u64,
        });
    }
    let Some(bytes) = sample_size(&shape).and_then(|size| size.checked_mul(labels.values.len())) else {
        return Err(DataError::malformed(stream.name(), "has dimensions that overflow"));
    };
    let pixels = stream.bytes(bytes)?;
    if labels.values.len() == samples {
        stream.end(bytes)?;
    }
    Ok((shape, Split { features: Features::U8(pixels), labels: labels.values }))
}

/// The decompressed bytes of `source`.
fn open<'a, R: Read + 'a>(source: Source<R>) -> Result<Stream<Box<dyn Read + 'a>>, DataError> {
    let Source { name, size, reader } = source;
    let mut reader = BufReader::new(reader);
    let start = reader.fill_buf().map_err(|error| DataError::Io { file: name.clone(), error })?;
    if start.starts_with(&GZIP_MAGIC) {
        let decoder = MultiGzDecoder::new(reader);
        Ok(Stream::new(name, Box::new(decoder), size, Storage::Deflated))
    } else {
        Ok(Stream::new(name, Box::new(reader), size, Storage::Plain))
    }
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
