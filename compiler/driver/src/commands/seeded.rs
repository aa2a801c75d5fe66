//! Samples and labels made from a seed: for commands that run a network without data.

use ffc_ir::module::Module;
use ffc_ir::numerics::{self, Number, Scalar, step_key};
use ffc_ir::types::DType;

/// Seeded samples and labels.
pub(super) struct Data {
    pub(super) bytes: Vec<u8>,
    pub(super) floats: Vec<f32>,
    pub(super) labels: Vec<i32>,
    pub(super) is_bytes: bool,
}

impl Data {
    pub(super) fn new(module: &Module, samples: usize, step: u64) -> Self {
        let key = Number::I32(step_key(0x7665_7269_6679, step) as i32);
        let bits = |row: usize, column: usize| {
            let place = |at: usize| Number::I32(at as i32);
            numerics::draw(&mut Scalar, key, place(row), place(column)).as_i32() as u32
        };
        let cells = |count: usize| (0..count).map(move |at| (at / module.features, at % module.features));
        let count = samples * module.features;
        Self {
            bytes: cells(count).map(|(row, column)| (bits(row, column) >> 24) as u8).collect(),
            floats: cells(count)
                .map(|(row, column)| bits(row, column) as i32 as f32 / 2f32.powi(31))
                .collect(),
            labels: (0..samples)
                .map(|row| (bits(row, module.features) % module.classes as u32) as i32)
                .collect(),
            is_bytes: module.input == DType::U8,
        }
    }

    pub(super) fn for_session(&self) -> ffc_runtime::Samples<'_> {
        if self.is_bytes {
            ffc_runtime::Samples::U8(&self.bytes)
        } else {
            ffc_runtime::Samples::F32(&self.floats)
        }
    }
}
