//! What parameters start with.
//!
//! Random weights are uniform with He's variance, drawn from the counter-based generator by parameter, row and column:
//! the same seed gives the same weights on every machine, whatever else the network holds. Factors of channels start
//! with 1.

use std::collections::HashSet;

use ffc_ir::module::{Param, ParamRole};
use ffc_ir::numerics::{self, Number, Scalar, step_key};

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

/// The first value of every parameter, by name; one after the other, because all at once would be the largest thing
/// beside the data.
pub fn initial_values<'a>(
    params: &'a [Param],
    network: &'a Network,
    constants: &'a [(String, Vec<f32>)],
    init: Init,
    seed: u64,
) -> impl Iterator<Item = (&'a str, Vec<f32>)> {
    let given = move |name: &str| {
        let known = network.weights.iter().chain(constants);
        known.into_iter().find(|(other, _)| other == name).map(|(_, values)| values.clone())
    };
    let factors: HashSet<&str> = {
        let contractions = network.contractions();
        contractions
            .iter()
            .filter(|layer| layer.is_factor())
            .map(|layer| layer.weight.name.as_str())
            .collect()
    };
    let value = move |param: &Param| match param.role {
        // What multiplies each channel by a number starts as if it were not there.
        ParamRole::Weight if init == Init::Random && factors.contains(param.name.as_str()) => {
            vec![1.0; param.len()]
        }
        ParamRole::Weight if init == Init::Random => {
            uniform(param, seed, (6.0 / param.shape[1] as f32).sqrt())
        }
        ParamRole::Bias if init == Init::Random => vec![0.0; param.len()],
        // A uniform number in ±1 has a standard deviation of 1 / sqrt(3).
        ParamRole::Head(std) => {
            given(&param.name).unwrap_or_else(|| uniform(param, seed, std * 3.0f32.sqrt()))
        }
        ParamRole::Weight | ParamRole::Bias | ParamRole::Constant => {
            given(&param.name).unwrap_or_else(|| vec![0.0; param.len()])
        }
        ParamRole::Groups => groups(param),
        ParamRole::Range(start) => given(&param.name).unwrap_or_else(|| vec![start; param.len()]),
        ParamRole::Velocity => vec![0.0; param.len()],
    };
    params.iter().map(move |param| (param.name.as_str(), value(param)))
}

/// Uniform in ±`size`.
fn uniform(param: &Param, seed: u64, size: f32) -> Vec<f32> {
    let key = Number::I32(step_key(seed, name_hash(&param.name)) as i32);
    let [rows, columns] = param.shape;
    let mut m = Scalar;
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let place = |at: usize| Number::I32(at as i32);
            let bits = numerics::draw(&mut m, key, place(row), place(column)).as_i32() as u32;
            let unit = ((bits >> 8) as f32 + 0.5) / (1u32 << 23) as f32 - 1.0;
            values.push(unit * size);
        }
    }
    values
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// 1 where a unit belongs to a class.
fn groups(param: &Param) -> Vec<f32> {
    let [classes, units] = param.shape;
    let member = |class, unit| ffc_ir::interpret::in_group(class, unit, classes, units);
    (0..classes)
        .flat_map(|class| (0..units).map(move |unit| f32::from(u8::from(member(class, unit)))))
        .collect()
}
