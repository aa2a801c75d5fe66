//! Tables: comma-separated values with a header, one sample per line.
//!
//! The number of rows and the set of classes are known only at the end of a file, yet samples
//! should be allocated once and names numbered in sorted order, whatever the order of rows. So a
//! table is read twice: a survey counts rows and collects labels, then the samples are parsed into
//! place. A file that changes in between is an error, not a crash.
//!
//! Labels that are all integers are class numbers; otherwise they all are names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::SeekFrom;

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, StringRecord, Trim};

use crate::LoadOptions;
use crate::dataset::{Dataset, Features, MAX_CLASSES, Split, SplitName};
use crate::error::{DataError, Position, escape};
use crate::source::{Bytes, Source, reserve};

/// Without a `split` column every row whose number leaves this remainder is test.
const TEST_PERIOD: u64 = 6;

/// How many of a table's columns an error lists.
const COLUMNS_LISTED: usize = 10;

/// Loads a table that holds both splits.
pub(crate) fn load_one<R: Bytes>(source: Source<R>, options: &LoadOptions) -> Result<Dataset, DataError> {
    let (mut table, survey) = Table::open(source, None)?;
    let classes = Classes::new(&table.name, survey.labels)?;
    let mut train = Samples::new(&table, survey.train, options.limit_train)?;
    let mut test = Samples::new(&table, survey.test, options.limit_test)?;
    table.parse(&classes, &mut train, &mut test)?;
    classes.dataset(train, test, table.columns.features.len())
}

/// Loads a data set whose splits are a table each.
pub(crate) fn load_two<R: Bytes>(
    train: Source<R>,
    test: Source<R>,
    options: &LoadOptions,
) -> Result<Dataset, DataError> {
    let (mut train_table, mut survey) = Table::open(train, Some(SplitName::Train))?;
    let (mut test_table, test_survey) = Table::open(test, Some(SplitName::Test))?;
    if train_table.header != test_table.header {
        return Err(DataError::SplitsDiffer {
            file: train_table.name.clone(),
            train: format!("columns {}", listed(&train_table.header)),
            test: format!("columns {}", listed(&test_table.header)),
        });
    }
    survey.labels.extend(test_survey.labels);
    let classes = Classes::new(&train_table.name, survey.labels)?;
    let mut none = Samples::new(&test_table, 0, None)?;
    let mut train = Samples::new(&train_table, survey.train, options.limit_train)?;
    train_table.parse(&classes, &mut train, &mut none)?;
    let mut test = Samples::new(&test_table, test_survey.test, options.limit_test)?;
    test_table.parse(&classes, &mut none, &mut test)?;
    classes.dataset(train, test, train_table.columns.features.len())
}

/// What the columns of a table are.
struct Columns {
    label: usize,
    split: Option<usize>,
    features: Vec<usize>,
}

/// What the first reading of a table finds.
struct Survey {
    train: usize,
    test: usize,
    labels: BTreeSet<String>,
}

/// A table's file, after its header.
struct Table<R> {
    name: String,
    header: StringRecord,
    columns: Columns,
    /// The split that all rows belong to, if it is not up to the rows.
    split: Option<SplitName>,
    reader: Reader<R>,
}

impl<R: Bytes> Table<R> {
    /// Opens a table and surveys it.
    fn open(source: Source<R>, split: Option<SplitName>) -> Result<(Self, Survey), DataError> {
        let Source { name, reader, .. } = source;
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(reader);
        let header = reader.headers().map_err(|error| csv_error(&name, error))?.clone();
        let columns = Columns::new(&name, &header, split)?;
        let mut table = Self { name, header, columns, split, reader };
        let survey = table.survey()?;
        Ok((table, survey))
    }

    fn survey(&mut self) -> Result<Survey, DataError> {
        let mut survey = Survey { train: 0, test: 0, labels: BTreeSet::new() };
        let mut record = ByteRecord::new();
        let mut row = 0;
        while self.next(&mut record)? {
            match self.split_of(&record, row)? {
                SplitName::Train => survey.train += 1,
                SplitName::Test => survey.test += 1,
            }
            let label = self.text(&record, self.columns.label)?;
            if !survey.labels.contains(label) {
                if survey.labels.len() == MAX_CLASSES {
                    let label = format!("'{}'", escape(label));
                    return Err(DataError::TooManyClasses { file: self.name.clone(), label });
                }
                survey.labels.insert(label.to_owned());
            }
            row += 1;
        }
        Ok(survey)
    }

    /// Parses the samples of both splits, as many as there is room for.
    fn parse(&mut self, classes: &Classes, train: &mut Samples, test: &mut Samples) -> Result<(), DataError> {
        let start = SeekFrom::Start(0);
        self.reader.seek_raw(start, csv::Position::new()).map_err(|e| csv_error(&self.name, e))?;
        let mut record = ByteRecord::new();
        self.next(&mut record)?; // the header
        let mut row = 0;
        while !(train.is_full() && test.is_full()) && self.next(&mut record)? {
            let samples = match self.split_of(&record, row)? {
                SplitName::Train => &mut *train,
                SplitName::Test => &mut *test,
            };
            if !samples.is_full() {
                self.parse_sample(&record, classes, samples)?;
            }
            row += 1;
        }
        if train.is_full() && test.is_full() { Ok(()) } else { Err(self.changed()) }
    }

    fn parse_sample(
        &self,
        record: &ByteRecord,
        classes: &Classes,
        samples: &mut Samples,
    ) -> Result<(), DataError> {
        let label = self.text(record, self.columns.label)?;
        let &class = classes.numbers.get(label).ok_or_else(|| self.changed())?;
        for &column in &self.columns.features {
            samples.features.push(self.number(record, column)?);
        }
        samples.labels.push(class);
        Ok(())
    }

    /// Reads the next row; false at the end.
    fn next(&mut self, record: &mut ByteRecord) -> Result<bool, DataError> {
        self.reader.read_byte_record(record).map_err(|error| csv_error(&self.name, error))
    }

    /// The split of row number `row`.
    fn split_of(&self, record: &ByteRecord, row: u64) -> Result<SplitName, DataError> {
        if let Some(split) = self.split {
            return Ok(split);
        }
        let Some(column) = self.columns.split else {
            let test = row % TEST_PERIOD == TEST_PERIOD - 1;
            return Ok(if test { SplitName::Test } else { SplitName::Train });
        };
        match self.text(record, column)? {
            "train" => Ok(SplitName::Train),
            "test" => Ok(SplitName::Test),
            other => {
                let reason = format!("'{}' is neither 'train' nor 'test'", escape(other));
                Err(self.bad_value(record, column, reason, "write 'train' or 'test' in every row"))
            }
        }
    }

    fn number(&self, record: &ByteRecord, column: usize) -> Result<f32, DataError> {
        let text = self.text(record, column)?;
        let Ok(value) = text.parse::<f32>() else {
            let reason = format!("'{}' is not a number", escape(text));
            let help = "remove the column, or replace its values by numbers";
            return Err(self.bad_value(record, column, reason, help));
        };
        if value.is_finite() {
            return Ok(value);
        }
        Err(DataError::NonFinite {
            file: self.name.clone(),
            at: line(record),
            column: self.column_name(column),
            value: escape(text),
        })
    }

    /// The text of a field, which is not empty.
    fn text<'a>(&self, record: &'a ByteRecord, column: usize) -> Result<&'a str, DataError> {
        let field = record.get(column).unwrap_or_default();
        let fail = |reason: &str, help| Err(self.bad_value(record, column, reason.to_owned(), help));
        match std::str::from_utf8(field) {
            Ok("") => fail("the value is missing", "remove the row, or fill the value in"),
            Ok(text) => Ok(text),
            Err(_) => fail("the text is not UTF-8", "save the file as UTF-8"),
        }
    }

    fn bad_value(&self, record: &ByteRecord, column: usize, reason: String, help: &'static str) -> DataError {
        let column = self.column_name(column);
        DataError::BadValue { file: self.name.clone(), at: line(record), column, reason, help }
    }

    fn column_name(&self, column: usize) -> String {
        escape(self.header.get(column).unwrap_or_default())
    }

    fn changed(&self) -> DataError {
        DataError::malformed(&self.name, "changed while it was read")
    }
}

impl Columns {
    fn new(name: &str, header: &StringRecord, split: Option<SplitName>) -> Result<Self, DataError> {
        if header.is_empty() {
            return Err(DataError::malformed(name, "is empty"));
        }
        check_names(name, header)?;
        let find = |wanted: &str| header.iter().position(|column| column == wanted);
        let Some(label) = find("label") else {
            return Err(DataError::unsuitable(
                name,
                format!("has no column 'label'; its first line has {}", listed(header)),
                "the first line names the columns, separated by commas; name that of the classes \
                 'label'",
            ));
        };
        let split_column = find("split");
        if split_column.is_some() && split.is_some() {
            return Err(DataError::unsuitable(
                name,
                "has a column 'split', but is one split of two",
                "remove the column, or give one file with both splits",
            ));
        }
        let features: Vec<usize> =
            (0..header.len()).filter(|&column| column != label && Some(column) != split_column).collect();
        if features.is_empty() {
            let help = "add a column of numbers for each feature";
            return Err(DataError::unsuitable(name, "has no columns of features", help));
        }
        Ok(Self { label, split: split_column, features })
    }
}

/// Checks that every column has a name of its own.
fn check_names(name: &str, header: &StringRecord) -> Result<(), DataError> {
    let mut names = BTreeSet::new();
    for (index, column) in header.iter().enumerate() {
        if column.is_empty() {
            return Err(DataError::unsuitable(
                name,
                format!("has a column without a name, number {} of {}", index + 1, header.len()),
                "name it, or remove it; pandas writes its row numbers unless told index=False",
            ));
        }
        if !names.insert(column) {
            let reason = format!("has two columns '{}'", escape(column));
            return Err(DataError::unsuitable(name, reason, "give every column a name of its own"));
        }
    }
    Ok(())
}

/// The numbers of the classes and their names.
struct Classes {
    numbers: BTreeMap<String, u16>,
    names: Vec<String>,
}

impl Classes {
    /// Numbers the labels of the table `name`.
    fn new(name: &str, labels: BTreeSet<String>) -> Result<Self, DataError> {
        if labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
            return Self::numbered(name, labels);
        }
        let mut numbers = BTreeMap::new();
        let mut names = Vec::with_capacity(labels.len());
        for label in labels {
            let Ok(class) = u16::try_from(names.len()) else {
                let label = format!("'{}'", escape(&label));
                return Err(DataError::TooManyClasses { file: name.to_owned(), label });
            };
            names.push(label.clone());
            numbers.insert(label, class);
        }
        Ok(Self { numbers, names })
    }

    /// Takes the labels, all of them digits, as numbers.
    fn numbered(name: &str, labels: BTreeSet<String>) -> Result<Self, DataError> {
        let mut numbers = BTreeMap::new();
        for label in labels {
            let Ok(class) = label.parse::<u16>() else {
                return Err(DataError::TooManyClasses { file: name.to_owned(), label: escape(&label) });
            };
            numbers.insert(label, class);
        }
        let largest = numbers.values().copied().max();
        let names =
            largest.map_or_else(Vec::new, |largest| (0..=largest).map(|class| class.to_string()).collect());
        Ok(Self { numbers, names })
    }

    fn dataset(self, train: Samples, test: Samples, width: usize) -> Result<Dataset, DataError> {
        Dataset::new(train.into_split(), test.into_split(), self.names, vec![width])
    }
}

/// Room for the samples of one split.
struct Samples {
    features: Vec<f32>,
    labels: Vec<u16>,
    count: usize,
}

impl Samples {
    /// Room for `count` samples of `table`, or for `limit` if that is less.
    fn new<R>(table: &Table<R>, count: usize, limit: Option<usize>) -> Result<Self, DataError> {
        let count = limit.map_or(count, |limit| limit.min(count));
        let values = count.saturating_mul(table.columns.features.len());
        let features = reserve(&table.name, values)?;
        Ok(Self { features, labels: reserve(&table.name, count)?, count })
    }

    fn is_full(&self) -> bool {
        self.labels.len() >= self.count
    }

    fn into_split(self) -> Split {
        Split { features: Features::F32(self.features), labels: self.labels }
    }
}

/// The first columns of a table, for an error.
fn listed(header: &StringRecord) -> String {
    let names: Vec<String> =
        header.iter().take(COLUMNS_LISTED).map(|column| format!("'{}'", escape(column))).collect();
    names.join(", ") + if header.len() > COLUMNS_LISTED { ", ..." } else { "" }
}

fn line(record: &ByteRecord) -> Position {
    Position::Line(record.position().map_or(0, csv::Position::line))
}

fn csv_error(name: &str, error: csv::Error) -> DataError {
    let text = error.to_string();
    match error.into_kind() {
        ErrorKind::Io(error) => DataError::Io { file: name.to_owned(), error },
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |position| position.line());
            let reason = format!("line {line} has {len} values, but there are {expected_len} columns");
            DataError::malformed(name, reason)
        }
        ErrorKind::Utf8 { .. } => {
            DataError::unsuitable(name, "has a header that is not UTF-8", "save the file as UTF-8")
        }
        _ => DataError::malformed(name, format!("cannot be read as a table: {text}")),
    }
}
