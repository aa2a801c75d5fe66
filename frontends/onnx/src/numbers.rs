//! The numbers of a parameter, made when somebody asks for them.
//!
//! Importing decides what a parameter is made of: a tensor of the file, transposed here, multiplied by the factors of a
//! normalisation there. Whoever only wants to know what the network is, or starts with random weights, never needs a
//! number; and who needs them needs those of one parameter at a time. So what importing gives is a recipe: where the
//! numbers come from, and what is done to them on the way, in that order.

use std::sync::Arc;

use crate::error::OnnxError;
use crate::fold::places;
use crate::tensor::Tensor;

/// The numbers of a parameter: where they come from, and what is done to them on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    source: Source,
    steps: Vec<Step>,
    len: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    Here(Arc<Vec<f32>>),
    /// One number everywhere.
    Repeated(f32),
    Stored(Arc<Tensor>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Matrices `[rows, columns]`, one behind the other, become `[columns, rows]`.
    Transpose { rows: usize, columns: usize },
    /// A tensor of these sizes, whose axes lie so far apart in what was there before.
    Permute { sizes: Vec<usize>, strides: Vec<usize> },
    /// Rows get the numbers at these places of theirs.
    Pick(Arc<Vec<usize>>),
    /// So many are left, from one on.
    Part { from: usize, len: usize },
    /// Rows of so many columns are multiplied by these, in turn.
    Scale { columns: usize, by: Numbers },
    /// These are added, in turn.
    Add(Numbers),
}

impl From<Vec<f32>> for Numbers {
    fn from(numbers: Vec<f32>) -> Self {
        let len = numbers.len();
        Self { source: Source::Here(numbers.into()), steps: Vec::new(), len }
    }
}

impl Numbers {
    /// So many copies of a number.
    pub(crate) fn repeated(number: f32, len: usize) -> Self {
        Self { source: Source::Repeated(number), steps: Vec::new(), len }
    }

    /// A tensor's, if it is one of floating-point numbers.
    pub(crate) fn of(tensor: &Tensor) -> Option<Self> {
        let source = || Source::Stored(tensor.clone().into());
        tensor.has_floats().then(|| Self { source: source(), steps: Vec::new(), len: tensor.len() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes them.
    ///
    /// # Errors
    /// If the file that they are in can no longer be read.
    pub fn load(&self) -> Result<Vec<f32>, OnnxError> {
        let numbers = match &self.source {
            Source::Here(numbers) => numbers.to_vec(),
            Source::Repeated(number) => vec![*number; self.len],
            Source::Stored(tensor) => tensor.floats()?,
        };
        self.steps.iter().try_fold(numbers, |numbers, step| step.apply(numbers))
    }

    /// Each matrix `[rows, columns]` in turn becomes `[columns, rows]`.
    pub(crate) fn transposed(self, rows: usize, columns: usize) -> Self {
        self.then(Step::Transpose { rows, columns })
    }

    /// The numbers at these places of each row, as many as a row has.
    pub(crate) fn picked(self, places: Vec<usize>) -> Self {
        self.then(Step::Pick(places.into()))
    }

    /// So many, from one on.
    pub(crate) fn part(mut self, from: usize, len: usize) -> Self {
        let is_whole = len == self.len;
        self.len = len;
        if is_whole || self.is_uniform() { self } else { self.then(Step::Part { from, len }) }
    }

    /// As a tensor of these sizes, whose axes lie so far apart in what it is made from.
    pub(crate) fn permuted(self, sizes: &[usize], strides: &[usize]) -> Self {
        self.then(Step::Permute { sizes: sizes.to_vec(), strides: strides.to_vec() })
    }

    /// Rows of so many columns multiplied by these, in turn.
    pub(crate) fn scaled(self, columns: usize, by: Self) -> Self {
        self.then(Step::Scale { columns, by })
    }

    /// With these added, in turn.
    pub(crate) fn plus(self, more: Self) -> Self {
        self.then(Step::Add(more))
    }

    fn then(mut self, step: Step) -> Self {
        let moves_nothing = match step {
            Step::Transpose { rows, columns } => rows == 1 || columns == 1 || self.is_uniform(),
            Step::Permute { .. } => self.is_uniform(),
            Step::Pick(ref places) => {
                self.is_uniform() || places.iter().enumerate().all(|(at, &place)| at == place)
            }
            Step::Part { .. } | Step::Scale { .. } | Step::Add(_) => false,
        };
        if !moves_nothing {
            self.steps.push(step);
        }
        self
    }

    /// Whether all are known to be the same.
    fn is_uniform(&self) -> bool {
        matches!(self.source, Source::Repeated(_)) && self.steps.is_empty()
    }
}

impl Step {
    fn apply(&self, mut numbers: Vec<f32>) -> Result<Vec<f32>, OnnxError> {
        Ok(match self {
            Self::Transpose { rows, columns } => {
                transpose(&mut numbers, *rows, *columns);
                numbers
            }
            Self::Permute { sizes, strides } => {
                places(sizes, strides).into_iter().map(|place| numbers[place]).collect()
            }
            Self::Pick(places) => {
                let rows = numbers.chunks(places.len().max(1));
                rows.flat_map(|row| places.iter().map(|&place| row[place])).collect()
            }
            Self::Part { from, len } => {
                numbers.truncate(from + len);
                numbers.drain(..from);
                numbers
            }
            Self::Scale { columns, by } => {
                let by = by.load()?;
                let rows = numbers.chunks_mut((*columns).max(1)).zip(by.iter().cycle());
                rows.for_each(|(row, factor)| row.iter_mut().for_each(|number| *number *= factor));
                numbers
            }
            Self::Add(more) => {
                let more = more.load()?;
                numbers.iter_mut().zip(more.iter().cycle()).for_each(|(number, more)| *number += more);
                numbers
            }
        })
    }
}

fn transpose(numbers: &mut [f32], rows: usize, columns: usize) {
    let mut turned = Vec::new();
    for matrix in numbers.chunks_mut(rows.saturating_mul(columns).max(1)) {
        turned.clear();
        (0..columns).for_each(|column| turned.extend(matrix.iter().skip(column).step_by(columns)));
        matrix.copy_from_slice(&turned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(count: usize) -> Numbers {
        (0..count).map(|number| number as f32).collect::<Vec<_>>().into()
    }

    #[test]
    fn matrices_turn_one_by_one() {
        assert_eq!(counted(6).transposed(2, 3).load().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        // Two filters of two channels and three taps.
        let expected = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(|number| number as f32);
        assert_eq!(counted(12).transposed(2, 3).load().unwrap(), expected);
    }

    #[test]
    fn steps_follow_one_another() {
        let numbers = counted(4).picked(vec![1, 0]).scaled(2, vec![10.0, 2.0].into()).plus(vec![0.5].into());
        assert_eq!(numbers.load().unwrap(), [10.5, 0.5, 6.5, 4.5]);
        let repeated = Numbers::repeated(2.0, 4).transposed(2, 2).scaled(2, vec![1.0, 3.0].into());
        assert_eq!(repeated.load().unwrap(), [2.0, 2.0, 6.0, 6.0]);
        assert_eq!(counted(6).part(2, 4).picked(vec![1, 0]).load().unwrap(), [3.0, 2.0, 5.0, 4.0]);
    }
}
