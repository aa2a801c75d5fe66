//! NumPy's archives: a zip file with one array per entry, stored or deflated.
//!
//! Labels are read before features, so that the number of samples to keep is known when the
//! features are allocated.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use flate2::bufread::DeflateDecoder;
use rawzip::{
    CompressionMethod, Error, ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, ReaderAt, ZipArchive,
    ZipArchiveEntryWayfinder, ZipFileHeaderRecord,
};

use crate::LoadOptions;
use crate::dataset::{Dataset, Features, Split, SplitName, sample_size};
use crate::error::{DataError, Position, escape};
use crate::labels::{self, Labels};
use crate::npy::{self, Element, Header, Integer, Kind};
use crate::source::{BUFFER, Bytes, Source, Storage, Stream};

/// The arrays that are read; an entry's name is its array's with `.npy` behind.
const ARRAYS: [&str; 4] = ["x_train", "y_train", "x_test", "y_test"];

/// How many of an archive's names an error lists.
const NAMES_LISTED: usize = 10;

/// Loads the data set in the archive `source`.
pub(crate) fn load<R: Bytes>(source: Source<R>, options: &LoadOptions) -> Result<Dataset, DataError> {
    let archive = open(source)?;
    let train_labels = archive.labels("y_train", options.limit(SplitName::Train))?;
    let test_labels = archive.labels("y_test", options.limit(SplitName::Test))?;
    let names = labels::numbered(&train_labels, &test_labels);
    let (train_shape, train) = archive.features("x_train", train_labels)?;
    let (test_shape, test) = archive.features("x_test", test_labels)?;
    let differ = |train: String, test: String| {
        Err(DataError::SplitsDiffer { file: archive.name.clone(), train, test })
    };
    if train_shape != test_shape {
        return differ(
            format!("samples of shape {train_shape:?}"),
            format!("samples of shape {test_shape:?}"),
        );
    }
    let types = [&train, &test].map(|split| split.features.type_name());
    if types[0] != types[1] {
        return differ(format!("{} features", types[0]), format!("{} features", types[1]));
    }
    Dataset::new(train, test, names, train_shape)
}

/// A zip file of arrays.
struct Archive<A> {
    name: String,
    size: u64,
    zip: ZipArchive<A>,
    /// The arrays that are there, of those that are read.
    entries: BTreeMap<&'static str, Entry>,
    /// The first names, for errors.
    names: Vec<String>,
}

/// Where and how an array is stored.
#[derive(Clone, Copy)]
struct Entry {
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    encrypted: bool,
}

/// Reads the archive's directory. Of entries with the same name the last counts, as in Python.
fn open<R: Bytes>(source: Source<R>) -> Result<Archive<impl ReaderAt>, DataError> {
    let Source { name, size, reader } = source;
    let fail = |error| zip_error(&name, error);
    let mut buffer = vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let zip = ZipArchive::from_seekable(reader, &mut buffer).map_err(fail)?;
    let (mut entries, mut names) = (BTreeMap::new(), Vec::new());
    let mut directory = zip.entries(&mut buffer);
    while let Some(record) = directory.next_entry().map_err(fail)? {
        let path = record.file_path();
        let path: &[u8] = path.as_ref();
        let name = path.strip_suffix(b".npy").unwrap_or_default();
        if let Some(array) = ARRAYS.into_iter().find(|array| array.as_bytes() == name) {
            entries.insert(array, Entry::new(&record));
        }
        if names.len() <= NAMES_LISTED {
            names.push(listed(path));
        }
    }
    Ok(Archive { name, size, zip, entries, names })
}

impl<A: ReaderAt> Archive<A> {
    /// Reads the labels in array `array`.
    fn labels(&self, array: &str, limit: Option<usize>) -> Result<Labels, DataError> {
        let mut stream = self.array(array)?;
        let Header { element, shape } = npy::header(&mut stream)?;
        let name = stream.name().to_owned();
        if element.kind == Kind::Float {
            return Err(DataError::unsuitable(
                &name,
                "has labels that are floats, not integers",
                "convert them with array.astype(numpy.int64)",
            ));
        }
        let (&[samples] | &[samples, 1]) = shape.as_slice() else {
            return Err(DataError::unsuitable(
                &name,
                format!("has shape {}, not one label per sample", escape(&format!("{shape:?}"))),
                "for one-hot labels save array.argmax(axis=1)",
            ));
        };
        let values = stream.elements(samples, element.width, |row, bytes| {
            label(element.integer(bytes)).map_err(|label| bad_label(&name, array, row, label))
        })?;
        stream.end(samples.saturating_mul(element.width))?;
        Ok(Labels::new(values, limit))
    }

    /// Reads the features in array `array`, as many samples as there are labels; returns the shape
    /// of a sample too.
    fn features(&self, array: &str, labels: Labels) -> Result<(Vec<usize>, Split), DataError> {
        let mut stream = self.array(array)?;
        let Header { element, shape } = npy::header(&mut stream)?;
        let (samples, shape) = sample_shape(stream.name(), &shape)?;
        if samples != labels.total {
            return Err(DataError::LengthMismatch {
                file: stream.name().to_owned(),
                samples: samples as u64,
                labels: labels.total as u64,
            });
        }
        let width = sample_size(&shape).unwrap_or(usize::MAX);
        let Some(count) = width.checked_mul(labels.values.len()) else {
            return Err(DataError::malformed(stream.name(), "has dimensions that overflow"));
        };
        let features = values(&mut stream, element, count, width)?;
        if labels.values.len() == samples {
            stream.end(count.saturating_mul(element.width))?;
        }
        Ok((shape, Split { features, labels: labels.values }))
    }

    /// The bytes of array `array`.
    fn array(&self, array: &str) -> Result<Stream<Box<dyn Read + '_>>, DataError> {
        let name = format!("{}: {array}", self.name);
        let Some(entry) = self.entries.get(array) else {
            return Err(DataError::Incomplete {
                file: self.name.clone(),
                present: self.present(),
                missing: format!("'{array}'"),
            });
        };
        let refuse = |reason: String| {
            let help = "write the file with numpy.savez or numpy.savez_compressed";
            Err(DataError::unsuitable(&name, reason, help))
        };
        if entry.encrypted {
            return refuse("is encrypted".to_owned());
        }
        let size = entry.place.compressed_size_hint().min(self.size);
        let data = self.zip.get_entry(entry.place).map_err(|error| zip_error(&name, error))?;
        let bytes = BufReader::with_capacity(BUFFER, data.reader());
        match entry.method {
            CompressionMethod::STORE => {
                let reader = Box::new(data.verifying_reader(bytes));
                Ok(Stream::new(name, reader, size, Storage::Plain))
            }
            CompressionMethod::DEFLATE => {
                let reader = Box::new(data.verifying_reader(DeflateDecoder::new(bytes)));
                Ok(Stream::new(name, reader, size, Storage::Deflated))
            }
            method => refuse(format!("is compressed with method {method}")),
        }
    }

    /// The names of the entries that are there, for an error.
    fn present(&self) -> String {
        match self.names.get(..NAMES_LISTED) {
            Some(first) if self.names.len() > NAMES_LISTED => first.join(", ") + ", ...",
            _ if self.names.is_empty() => "no arrays".to_owned(),
            _ => self.names.join(", "),
        }
    }
}

impl Entry {
    fn new(record: &ZipFileHeaderRecord<'_>) -> Self {
        Self {
            place: record.wayfinder(),
            method: record.compression_method(),
            encrypted: record.flags().is_encrypted(),
        }
    }
}

/// The name of an entry, for an error.
fn listed(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    format!("'{}'", escape(path.trim_end_matches(".npy")))
}

/// The number of samples and the shape of one, for an array of features of shape `shape`.
fn sample_shape(name: &str, shape: &[usize]) -> Result<(usize, Vec<usize>), DataError> {
    match *shape {
        [samples, features] => Ok((samples, vec![features])),
        [samples, height, width] => Ok((samples, vec![1, height, width])),
        [samples, channels, height, width] => Ok((samples, vec![channels, height, width])),
        _ => Err(DataError::unsuitable(
            name,
            format!("has {} dimensions", shape.len()),
            "features have the shape [N, F], [N, H, W] or [N, C, H, W]",
        )),
    }
}

/// Reads `count` features, `width` of them per sample.
fn values<R: Read>(
    stream: &mut Stream<R>,
    element: Element,
    count: usize,
    width: usize,
) -> Result<Features, DataError> {
    if (element.kind, element.width) == (Kind::Unsigned, 1) {
        return Ok(Features::U8(stream.bytes(count)?.into()));
    }
    let name = stream.name().to_owned();
    let values = stream.elements(count, element.width, |index, bytes| {
        let wide = element.float(bytes);
        let value = wide as f32;
        if value.is_finite() {
            return Ok(value);
        }
        Err(DataError::NonFinite {
            file: name.clone(),
            at: Position::Row((index / width) as u64),
            column: (index % width).to_string(),
            value: format!("{wide:?}"),
        })
    })?;
    Ok(Features::F32(values))
}

/// A label as a class, or its text if it can be none.
fn label(value: Integer) -> Result<u16, String> {
    match value {
        Integer::Unsigned(value) => u16::try_from(value).map_err(|_| value.to_string()),
        Integer::Signed(value) => u16::try_from(value).map_err(|_| value.to_string()),
    }
}

fn bad_label(file: &str, array: &str, row: usize, label: String) -> DataError {
    if !label.starts_with('-') {
        return DataError::TooManyClasses { file: file.to_owned(), label };
    }
    DataError::BadValue {
        file: file.to_owned(),
        at: Position::Row(row as u64),
        column: array.to_owned(),
        reason: format!("label {label} is negative"),
        help: "number the classes from 0",
    }
}

fn zip_error(name: &str, error: Error) -> DataError {
    match error.into_kind() {
        ErrorKind::IO(error) if error.raw_os_error().is_some() => {
            DataError::Io { file: name.to_owned(), error }
        }
        kind => {
            let reason = kind.to_string().to_lowercase();
            DataError::malformed(name, format!("is no readable zip file: {reason}"))
        }
    }
}
