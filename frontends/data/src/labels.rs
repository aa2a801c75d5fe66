//! Labels that are class numbers already: the number of classes is one more than the largest.
//!
//! All labels of a file are read, whatever the limit, so that a limited data set has the classes
//! of the whole one.

/// The labels of one split.
pub(crate) struct Labels {
    /// Those that the limit admits.
    pub(crate) values: Vec<u16>,
    /// How many the file has.
    pub(crate) total: usize,
    largest: u16,
}

impl Labels {
    /// Keeps the first `limit` of a file's labels.
    pub(crate) fn new(mut values: Vec<u16>, limit: Option<usize>) -> Self {
        let total = values.len();
        let largest = values.iter().copied().max().unwrap_or(0);
        if let Some(limit) = limit.filter(|&limit| limit < total) {
            values.truncate(limit);
            values.shrink_to_fit();
        }
        Self { values, total, largest }
    }
}

/// The names of classes that have only numbers, for the labels of both splits.
pub(crate) fn numbered(train: &Labels, test: &Labels) -> Vec<String> {
    (0..=train.largest.max(test.largest)).map(|class| class.to_string()).collect()
}
