//! Parameters as they are stored between steps.

use crate::arena::Handle;
use crate::diagnostics::Diagnostic;
use crate::fixed::{abs_max, channel_scale, fixed_of, weight_of};
use crate::interpret::tensor::{Data, Tensor};
use crate::module::{Granularity, Module, Param, ParamRole, ParamStorage};
use crate::numerics::{Number, Scalar, high_plane};
use crate::types::DType;

/// The parameters of a module, all that lives longer than a step.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(super) params: Vec<Stored>,
}

/// A stored parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// All but fixed-point weights: as it is.
    Plain(Tensor),
    /// [`ParamStorage::Fixed16`].
    Fixed(Fixed),
}

/// A fixed-point weight, its two planes joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// Rows: output channels.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Within ±[`WEIGHT_MAX`](crate::numerics::WEIGHT_MAX), row-major.
    pub weights: Vec<i32>,
    /// One for each row, or one for all.
    pub scales: Vec<f32>,
}

impl Fixed {
    /// Elements that share a scale.
    pub fn group(&self) -> usize {
        self.rows * self.columns / self.scales.len()
    }

    /// The plane that contractions read: the weights rounded to 8 bits.
    pub fn plane(&self) -> Tensor {
        Tensor::fill(DType::I8, self.rows, self.columns, |row, column| {
            high_plane(&mut Scalar, Number::I32(self.weights[row * self.columns + column]))
        })
    }

    fn set(&mut self, weights: &[f32]) {
        let group = self.group();
        for (index, weights) in weights.chunks(group).enumerate() {
            let scale = channel_scale(abs_max(weights));
            self.scales[index] = scale;
            for (fixed, &weight) in self.weights[index * group..].iter_mut().zip(weights) {
                *fixed = fixed_of(weight, scale);
            }
        }
    }

    fn weights(&self) -> Vec<f32> {
        let group = self.group();
        let weights = self.weights.iter().enumerate();
        weights.map(|(index, &fixed)| weight_of(fixed, self.scales[index / group])).collect()
    }
}

impl State {
    /// Everything as it starts before weights are given: ranges at their first value, groups filled, all else 0.
    pub fn new(module: &Module) -> Self {
        Self { params: module.params.values().map(initial).collect() }
    }

    /// Whether this state belongs to a module with these parameters.
    pub fn fits(&self, module: &Module) -> bool {
        let same = |(stored, param): (&Stored, &Param)| match (stored, param.storage) {
            (Stored::Fixed(fixed), ParamStorage::Fixed16(granularity)) => {
                [fixed.rows, fixed.columns] == param.shape && fixed.scales.len() == scales(param, granularity)
            }
            (Stored::Plain(tensor), _) => {
                [tensor.rows, tensor.columns] == param.shape && tensor.dtype() == param.ty().dtype
            }
            _ => false,
        };
        self.params.len() == module.params.len() && self.params.iter().zip(module.params.values()).all(same)
    }

    /// What is stored for a parameter.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn stored(&self, param: Handle<Param>) -> &Stored {
        &self.params[param.index()]
    }

    /// Replaces what is stored for a parameter, for instance by what another module's state has for it.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn set_stored(&mut self, param: Handle<Param>, stored: Stored) {
        self.params[param.index()] = stored;
    }

    /// What [`Op::Param`](crate::module::Op::Param) reads.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn read(&self, param: Handle<Param>) -> Tensor {
        match self.stored(param) {
            Stored::Plain(tensor) => tensor.clone(),
            Stored::Fixed(fixed) => fixed.plane(),
        }
    }

    /// What [`Op::ScaleOf`](crate::module::Op::ScaleOf) reads; nothing where the parameter has no scale.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn scales(&self, param: Handle<Param>) -> Tensor {
        let scales = match self.stored(param) {
            Stored::Fixed(fixed) => fixed.scales.clone(),
            Stored::Plain(_) => Vec::new(),
        };
        Tensor::f32(scales.len(), 1, scales)
    }

    /// Sets a parameter from `f32`, row by row. A fixed-point weight takes the scales that
    /// [`channel_scale`](crate::fixed::channel_scale) gives it; integers are rounded.
    ///
    /// # Errors
    /// If there are too few or too many numbers.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn set_weights(&mut self, param: Handle<Param>, weights: &[f32]) -> Result<(), Diagnostic> {
        let stored = &mut self.params[param.index()];
        let expected = stored.shape();
        if weights.len() != expected[0] * expected[1] {
            let [rows, columns] = expected;
            let given = weights.len();
            let message = format!("a parameter of {rows} x {columns} elements is given {given} numbers");
            return Err(Diagnostic::new(message));
        }
        match stored {
            Stored::Fixed(fixed) => fixed.set(weights),
            Stored::Plain(tensor) => match &mut tensor.data {
                Data::F32(data) => data.copy_from_slice(weights),
                Data::I8(data) => round_into(data, weights, 127.0, |value| value as i8),
                Data::I16(data) => round_into(data, weights, 32767.0, |value| value as i16),
                Data::U8(_) | Data::I32(_) => unreachable!("no parameter is stored so"),
            },
        }
        Ok(())
    }

    /// A parameter as `f32`, row by row.
    ///
    /// # Panics
    /// If the handle is of another module.
    pub fn weights(&self, param: Handle<Param>) -> Vec<f32> {
        match self.stored(param) {
            Stored::Fixed(fixed) => fixed.weights(),
            Stored::Plain(tensor) => tensor.to_f32s(),
        }
    }
}

impl Stored {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Plain(tensor) => [tensor.rows, tensor.columns],
            Self::Fixed(fixed) => [fixed.rows, fixed.columns],
        }
    }
}

/// Rounds to nearest, ties to even, within ±`most`.
fn round_into<T>(data: &mut [T], weights: &[f32], most: f32, convert: impl Fn(f32) -> T) {
    for (element, weight) in data.iter_mut().zip(weights) {
        *element = convert(weight.round_ties_even().clamp(-most, most));
    }
}

fn scales(param: &Param, granularity: Granularity) -> usize {
    match granularity {
        Granularity::Tensor => 1,
        Granularity::Channel => param.shape[0],
    }
}

fn initial(param: &Param) -> Stored {
    let [rows, columns] = param.shape;
    if let ParamStorage::Fixed16(granularity) = param.storage {
        let scales = vec![channel_scale(0.0); scales(param, granularity)];
        return Stored::Fixed(Fixed { rows, columns, weights: vec![0; rows * columns], scales });
    }
    let dtype = param.ty().dtype;
    Stored::Plain(match param.role {
        ParamRole::Range(start) => Tensor::scalar(start),
        ParamRole::Groups => Tensor::fill(dtype, rows, columns, |class, unit| {
            let member = in_group(class, unit, rows, columns);
            if dtype == DType::F32 {
                Number::F32(f32::from(u8::from(member)))
            } else {
                Number::I32(member.into())
            }
        }),
        _ => Tensor::zeros(dtype, rows, columns),
    })
}

/// Whether this unit of `units` belongs to the group of this class of `classes`.
pub fn in_group(class: usize, unit: usize, classes: usize, units: usize) -> bool {
    (class * units / classes..(class + 1) * units / classes).contains(&unit)
}
