//! What parameters start with.
//!
//! Random weights are uniform with He's variance, drawn from the counter-based generator by parameter, row and column:
//! the same seed gives the same weights on every machine, whatever else the network holds. Factors of channels start
//! with 1.

use std::collections::HashSet;

use ffc_ir::module::{Param, ParamRole};
use ffc_ir::numerics::{self, Number, Scalar, step_key};

use crate::Failure;
use crate::network::Network;

/// Where a network's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Drawn from the seed; biases 0.
    Random,
    /// As they are in the file or checkpoint.
    Keep,
}

/// The first values of a parameter.
pub struct Start<'a> {
    /// The parameter.
    pub param: &'a Param,
    values: Values,
}

enum Values {
    Given(Vec<f32>),
    Same(f32),
    Uniform { size: f32, key: Number },
    Groups,
}

impl Start<'_> {
    /// The values of a row.
    pub fn row(&self, row: usize, values: &mut [f32]) {
        let [classes, units] = self.param.shape;
        match &self.values {
            Values::Given(all) => values.copy_from_slice(&all[row * values.len()..][..values.len()]),
            Values::Same(number) => values.fill(*number),
            Values::Uniform { size, key } => uniform(*key, *size, row, values),
            // 1 where a unit belongs to a class.
            Values::Groups => values.iter_mut().enumerate().for_each(|(unit, value)| {
                *value = f32::from(u8::from(ffc_ir::interpret::in_group(row, unit, classes, units)));
            }),
        }
    }

    /// All values, row by row.
    pub fn all(&self) -> Vec<f32> {
        let [rows, columns] = self.param.shape;
        let mut values = vec![0.0; rows * columns];
        let each = values.chunks_mut(columns.max(1)).enumerate();
        each.for_each(|(row, values)| self.row(row, values));
        values
    }
}

/// The first values of every parameter, one after the other: all at once would be the largest thing beside the data. What
/// comes from a file fails where that can no longer be read.
pub fn initial_values<'a>(
    params: &'a [Param],
    network: &'a Network,
    constants: &'a [(String, Vec<f32>)],
    init: Init,
    seed: u64,
) -> impl Iterator<Item = Result<Start<'a>, Failure>> {
    let given = move |param: &Param| {
        let named = |name: &String| *name == param.name;
        if let Some((_, numbers)) = network.weights.iter().find(|(name, _)| named(name)) {
            return Ok(Some(numbers.load()?));
        }
        let constant = constants.iter().find(|(name, _)| named(name));
        Ok::<_, Failure>(constant.map(|(_, values)| values.clone()))
    };
    let factors: HashSet<&str> = {
        let contractions = network.contractions();
        contractions
            .iter()
            .filter(|layer| layer.is_factor())
            .map(|layer| layer.weight.name.as_str())
            .collect()
    };
    let random = move |param: &Param, size: f32| {
        let key = Number::I32(step_key(seed, name_hash(&param.name)) as i32);
        Values::Uniform { size, key }
    };
    let given_or = move |param: &Param, otherwise: Values| {
        Ok::<_, Failure>(given(param)?.map_or(otherwise, Values::Given))
    };
    let values = move |param: &Param| match param.role {
        // What multiplies each channel by a number starts as if it were not there.
        ParamRole::Weight if init == Init::Random && factors.contains(param.name.as_str()) => {
            Ok(Values::Same(1.0))
        }
        ParamRole::Weight if init == Init::Random => Ok(random(param, (6.0 / param.shape[1] as f32).sqrt())),
        ParamRole::Bias if init == Init::Random => Ok(Values::Same(0.0)),
        // A uniform number in ±1 has a standard deviation of 1 / sqrt(3).
        ParamRole::Head(std) => given_or(param, random(param, std * 3.0f32.sqrt())),
        ParamRole::Weight | ParamRole::Bias | ParamRole::Constant => given_or(param, Values::Same(0.0)),
        ParamRole::Groups => Ok(Values::Groups),
        ParamRole::Range(start) => given_or(param, Values::Same(start)),
        ParamRole::Velocity => Ok(Values::Same(0.0)),
    };
    params.iter().map(move |param| Ok::<_, Failure>(Start { param, values: values(param)? }))
}

/// A row of numbers uniform in ±`size`.
fn uniform(key: Number, size: f32, row: usize, values: &mut [f32]) {
    let mut m = Scalar;
    let place = |at: usize| Number::I32(at as i32);
    for (column, value) in values.iter_mut().enumerate() {
        let bits = numerics::draw(&mut m, key, place(row), place(column)).as_i32() as u32;
        let unit = ((bits >> 8) as f32 + 0.5) / (1u32 << 23) as f32 - 1.0;
        *value = unit * size;
    }
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
