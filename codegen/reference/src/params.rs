//! Parameters by name, as `f32`.

use ffc_ir::Handle;
use ffc_ir::fixed::{abs_max, channel_scale, fixed_of, weight_of};
use ffc_ir::kernel::{Buffer, BufferClass, Plane};
use ffc_ir::module::{Granularity, Param, ParamStorage};
use ffc_ir::numerics::{Number, Scalar, high_plane, join_planes};

use crate::executor::{ExecError, Executor, length};
use crate::memory::Values;

impl Executor {
    /// Sets a parameter: fixed-point weights are quantized as [`fixed`](ffc_ir::fixed) says, with scales found anew;
    /// other integers are rounded.
    ///
    /// # Errors
    /// When there is no such parameter, or it has another size.
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<(), ExecError> {
        let (index, param) = self.param(name)?;
        length(name, param.len(), weights.len())?;
        let value = self.plane(name, index, Plane::Value)?;
        match param.storage {
            ParamStorage::F32 => self.set_buffer_f32(value, weights),
            ParamStorage::I8 => self.set_buffer_i32(value, &rounded(weights, i8::MAX.into())),
            ParamStorage::I16 => self.set_buffer_i32(value, &rounded(weights, i16::MAX.into())),
            ParamStorage::Fixed16(granularity) => {
                let low = self.plane(name, index, Plane::Low)?;
                let scale = self.plane(name, index, Plane::Scale)?;
                let fixed = Fixed::new(weights, channel_len(&param, granularity));
                self.set_buffer_i32(value, &fixed.high)?;
                self.set_buffer_i32(low, &fixed.low)?;
                self.set_buffer_f32(scale, &fixed.scales)
            }
        }
    }

    /// The values of a parameter.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn weights(&self, name: &str) -> Result<Vec<f32>, ExecError> {
        let (index, param) = self.param(name)?;
        let value = self.plane(name, index, Plane::Value)?;
        match param.storage {
            ParamStorage::F32 => self.buffer_f32(value),
            ParamStorage::I8 | ParamStorage::I16 => Ok(floats(&self.buffer(value))),
            ParamStorage::Fixed16(granularity) => {
                let high = self.buffer(value);
                let low = self.buffer(self.plane(name, index, Plane::Low)?);
                let scales = self.buffer_f32(self.plane(name, index, Plane::Scale)?)?;
                let channel = channel_len(&param, granularity);
                let weight = |at: usize| {
                    let fixed = join_planes(&mut Scalar, high.get(at), low.get(at)).as_i32();
                    weight_of(fixed, scales[at / channel])
                };
                Ok((0..param.len()).map(weight).collect())
            }
        }
    }

    fn param(&self, name: &str) -> Result<(usize, Param), ExecError> {
        let index = self.program.params.iter().position(|param| param.name == name);
        let index = index.ok_or_else(|| ExecError::NoParam(name.to_string()))?;
        Ok((index, self.program.params[index].clone()))
    }

    fn plane(&self, name: &str, param: usize, plane: Plane) -> Result<Handle<Buffer>, ExecError> {
        let buffer = self.program.buffers.find(|b| b.class == BufferClass::Param { param, plane });
        buffer.ok_or_else(|| ExecError::Malformed(format!("parameter `{name}` has no {plane:?} buffer")))
    }
}

/// A weight in fixed point.
struct Fixed {
    high: Vec<i32>,
    low: Vec<i32>,
    scales: Vec<f32>,
}

impl Fixed {
    fn new(weights: &[f32], channel: usize) -> Self {
        let mut fixed = Self { high: Vec::new(), low: Vec::new(), scales: Vec::new() };
        for weights in weights.chunks(channel.max(1)) {
            let scale = channel_scale(abs_max(weights));
            fixed.scales.push(scale);
            for &weight in weights {
                let weight = fixed_of(weight, scale);
                fixed.high.push(high_plane(&mut Scalar, Number::I32(weight)).as_i32());
                fixed.low.push(i32::from(weight as i8));
            }
        }
        fixed
    }
}

/// Elements that share a scale.
fn channel_len(param: &Param, granularity: Granularity) -> usize {
    match granularity {
        Granularity::Tensor => param.len(),
        Granularity::Channel => param.shape[1],
    }
}

fn rounded(values: &[f32], most: i32) -> Vec<i32> {
    values.iter().map(|value| (value.round_ties_even() as i32).clamp(-most, most)).collect()
}

fn floats(values: &Values) -> Vec<f32> {
    (0..values.len()).map(|index| values.get(index).as_i32() as f32).collect()
}
