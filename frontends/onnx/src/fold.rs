//! Constants and shapes: what is known before the network runs.
//!
//! Exporters compute shapes in the graph, with the batch among them: `view(x.size(0), -1)` is a chain of Shape, Gather,
//! Unsqueeze and Concat. [`Int`] therefore is an integer or a multiple of the batch, and the chain folds away.

use std::fmt;
use std::rc::Rc;

use crate::import::Reason;
use crate::numbers::Numbers;
use crate::tensor::Tensor;

/// More elements than any shape has.
const SHAPE_ELEMENTS: usize = 1 << 8;

/// More copies of a number than any parameter has elements.
const REPEATED: usize = 1 << 28;

/// `factor`, or `factor` times the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Int {
    pub(crate) factor: i64,
    pub(crate) batch: bool,
}

impl Int {
    pub(crate) const BATCH: Self = Self { factor: 1, batch: true };

    pub(crate) fn new(factor: i64) -> Self {
        Self { factor, batch: false }
    }

    /// The integer, unless it depends on the batch.
    pub(crate) fn known(self) -> Option<i64> {
        (!self.batch).then_some(self.factor)
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { factor, batch: false } => write!(f, "{factor}"),
            Self { factor: 1, batch: true } => f.write_str("batch"),
            Self { factor, batch: true } => write!(f, "{factor} * batch"),
        }
    }
}

/// Elementwise operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

impl Arithmetic {
    /// The result where it is again an integer or a multiple of the batch.
    fn apply(self, a: Int, b: Int) -> Option<Int> {
        let same = |factor: Option<i64>| Some(Int { factor: factor?, batch: a.batch });
        match self {
            Self::Add if a.batch == b.batch => same(a.factor.checked_add(b.factor)),
            Self::Sub if a.batch == b.batch => {
                let rest = a.factor.checked_sub(b.factor)?;
                Some(Int { factor: rest, batch: a.batch && rest != 0 })
            }
            Self::Mul if !(a.batch && b.batch) => {
                Some(Int { factor: a.factor.checked_mul(b.factor)?, batch: a.batch || b.batch })
            }
            Self::Div if a.batch && b.batch => Some(Int::new(exact(a.factor, b.factor)?)),
            Self::Div if a.batch => same(exact(a.factor, b.factor)),
            Self::Div if !b.batch => a.factor.checked_div(b.factor).map(Int::new),
            _ => None,
        }
    }
}

fn exact(a: i64, b: i64) -> Option<i64> {
    (a.checked_rem(b)? == 0).then_some(a / b)
}

/// A tensor that is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Folded {
    pub(crate) dims: Vec<usize>,
    pub(crate) elements: Elements,
}

/// Its elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elements {
    Floats(Numbers),
    Ints(Rc<Vec<Int>>),
    /// Text and what else only passes through.
    Opaque,
}

impl Folded {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        let small = tensor.len() <= SHAPE_ELEMENTS;
        let elements = if let Some(floats) = Numbers::of(tensor) {
            Elements::Floats(floats)
        } else if let Some(integers) = small.then(|| tensor.integers()).flatten() {
            Elements::Ints(Rc::new(integers.into_iter().map(Int::new).collect()))
        } else {
            Elements::Opaque
        };
        Self { dims: tensor.dims.clone(), elements }
    }

    pub(crate) fn ints(values: Vec<Int>) -> Self {
        Self { dims: vec![values.len()], elements: Elements::Ints(values.into()) }
    }

    pub(crate) fn scalar(value: Int) -> Self {
        Self { dims: Vec::new(), elements: Elements::Ints(vec![value].into()) }
    }

    /// The elements of an integer tensor.
    pub(crate) fn as_ints(&self) -> Result<&[Int], Reason> {
        match &self.elements {
            Elements::Ints(ints) => Ok(ints),
            _ => Err(Reason::from("an input is not a constant integer tensor")),
        }
    }

    /// The elements of an integer tensor that does not depend on the batch.
    pub(crate) fn as_known(&self) -> Result<Vec<i64>, Reason> {
        let known = self.as_ints()?.iter().map(|int| int.known()).collect::<Option<_>>();
        known.ok_or_else(|| Reason::from("an input depends on the batch"))
    }

    /// The elements of a floating-point tensor, if they are not more than these.
    pub(crate) fn as_floats(&self, most: usize) -> Result<Vec<f32>, Reason> {
        let numbers = self.as_numbers()?;
        if numbers.len() > most {
            let dims = &self.dims;
            return Err(format!("a constant of shape {dims:?}, where {most} numbers are wanted").into());
        }
        numbers.load().map_err(|error| error.to_string().into())
    }

    /// The elements of a floating-point tensor, however many.
    pub(crate) fn as_numbers(&self) -> Result<&Numbers, Reason> {
        match &self.elements {
            Elements::Floats(numbers) => Ok(numbers),
            _ => Err(Reason::from("an input is not a constant floating-point tensor")),
        }
    }

    /// The only element of a floating-point tensor.
    pub(crate) fn as_scalar(&self) -> Result<f32, Reason> {
        match self.as_floats(1)?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Reason::from("an input is empty, one number is supported")),
        }
    }

    /// The same elements with other dimensions.
    pub(crate) fn reshaped(&self, dims: Vec<usize>) -> Self {
        Self { dims, elements: self.elements.clone() }
    }

    /// Adds, subtracts, multiplies or divides element by element; one side may be a single element.
    pub(crate) fn arithmetic(&self, op: Arithmetic, other: &Self) -> Result<Self, Reason> {
        let (a, b) = (self.as_ints()?, other.as_ints()?);
        let dims = match (a.len(), b.len()) {
            (n, m) if n == m => {
                if self.dims.len() >= other.dims.len() {
                    &self.dims
                } else {
                    &other.dims
                }
            }
            (_, 1) => &self.dims,
            (1, _) => &other.dims,
            _ => return Err(format!("shapes {:?} and {:?} do not match", self.dims, other.dims).into()),
        };
        let at = |side: &[Int], index: usize| if side.len() == 1 { side[0] } else { side[index] };
        let result =
            (0..a.len().max(b.len()).min(SHAPE_ELEMENTS)).map(|index| op.apply(at(a, index), at(b, index)));
        let result: Option<Vec<Int>> =
            if a.is_empty() || b.is_empty() { Some(Vec::new()) } else { result.collect() };
        let elements =
            result.ok_or_else(|| Reason::from("this arithmetic on the batch size is not supported"))?;
        Ok(Self { dims: dims.clone(), elements: Elements::Ints(elements.into()) })
    }

    /// Picks elements of a vector; an index may be a scalar.
    pub(crate) fn gather(&self, indices: &Self) -> Result<Self, Reason> {
        let items = self.vector()?;
        let pick = |index: i64| {
            let index = if index < 0 { index.checked_add(items.len() as i64)? } else { index };
            items.get(usize::try_from(index).ok()?).copied()
        };
        let picked: Option<Vec<Int>> = indices.as_known()?.into_iter().map(pick).collect();
        let picked = picked.ok_or_else(|| Reason::from("an index is out of range"))?;
        Ok(Self { dims: indices.dims.clone(), elements: Elements::Ints(picked.into()) })
    }

    /// `start..end` in steps of one, as ONNX counts: negative from the end, clamped.
    pub(crate) fn slice(&self, start: i64, end: i64) -> Result<Self, Reason> {
        let items = self.vector()?;
        let len = items.len() as i64;
        let place = |at: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(0, len) as usize;
        Ok(Self::ints(items.get(place(start)..place(end)).unwrap_or_default().to_vec()))
    }

    /// The parts behind each other.
    pub(crate) fn concat<'a>(parts: impl Iterator<Item = &'a Self>) -> Result<Self, Reason> {
        let mut all = Vec::new();
        for part in parts {
            all.extend_from_slice(part.vector()?);
            if all.len() > SHAPE_ELEMENTS {
                return Err(Reason::from("the result is too large for a shape"));
            }
        }
        Ok(Self::ints(all))
    }

    /// This many copies of a number.
    pub(crate) fn repeated(dims: &[i64], number: f32) -> Result<Self, Reason> {
        let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<usize>>>();
        let fits = |sizes: &Vec<usize>| {
            let len = sizes.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
            len.is_some_and(|len| len <= REPEATED)
        };
        let sizes =
            sizes.filter(fits).ok_or_else(|| Reason::from(format!("a constant of shape {dims:?}")))?;
        let len = sizes.iter().product();
        Ok(Self { dims: sizes, elements: Elements::Floats(Numbers::repeated(number, len)) })
    }

    /// This many copies of one element.
    pub(crate) fn filled(dims: &[i64], value: Int) -> Result<Self, Reason> {
        let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok());
        let sizes: Option<Vec<usize>> = sizes.collect();
        let len =
            sizes.as_ref().and_then(|sizes| sizes.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)));
        match (sizes, len) {
            (Some(dims), Some(len)) if len <= SHAPE_ELEMENTS => {
                Ok(Self { dims, elements: Elements::Ints(vec![value; len].into()) })
            }
            _ => Err(format!("{dims:?} is too large for a shape").into()),
        }
    }

    fn vector(&self) -> Result<&[Int], Reason> {
        match self.dims.len() {
            1 => self.as_ints(),
            rank => {
                Err(format!("a constant of {rank} dimensions is not supported here, only a shape is").into())
            }
        }
    }

    /// Dimensions in another order.
    pub(crate) fn permuted(&self, order: &[usize]) -> Result<Self, Reason> {
        let dims: Vec<usize> = order.iter().map(|&at| self.dims[at]).collect();
        let numbers = self.as_numbers()?.clone();
        let stride = |at: usize| self.dims[at + 1..].iter().product::<usize>();
        let strides: Vec<usize> = order.iter().map(|&at| stride(at)).collect();
        let elements = Elements::Floats(numbers.permuted(&dims, &strides));
        Ok(Self { dims, elements })
    }
}

/// The sum of index times stride for each index of a space of these sizes, in reading order.
pub(crate) fn places(sizes: &[usize], strides: &[usize]) -> Vec<usize> {
    sizes.iter().zip(strides).fold(vec![0], |places, (&size, &stride)| {
        places.iter().flat_map(|&place| (0..size).map(move |index| place + index * stride)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_keeps_the_batch_symbolic() {
        let batch = |factor| Int { factor, batch: true };
        let cases = [
            (Arithmetic::Mul, Int::BATCH, Int::new(784), Some(batch(784))),
            (Arithmetic::Div, batch(784), Int::new(784), Some(Int::BATCH)),
            (Arithmetic::Div, batch(784), Int::BATCH, Some(Int::new(784))),
            (Arithmetic::Div, batch(5), Int::new(2), None),
            (Arithmetic::Add, Int::BATCH, Int::new(1), None),
            (Arithmetic::Sub, batch(2), batch(2), Some(Int::new(0))),
            (Arithmetic::Div, Int::new(i64::MIN), Int::new(-1), None),
            (Arithmetic::Div, Int::new(1), Int::new(0), None),
        ];
        for (op, a, b, result) in cases {
            assert_eq!(op.apply(a, b), result, "{a} {op:?} {b}");
        }
    }

    #[test]
    fn slices_count_from_the_end() {
        let shape = Folded::ints((1..=4).map(Int::new).collect());
        assert_eq!(shape.slice(-2, i64::MAX).unwrap().as_known().unwrap(), [3, 4]);
        assert_eq!(shape.slice(0, -3).unwrap().as_known().unwrap(), [1]);
        assert_eq!(shape.slice(3, 1).unwrap().as_known().unwrap(), [0i64; 0]);
    }
}
