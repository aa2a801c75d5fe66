//! Parameters as numbers, and the state as named tensors.
//!
//! In a session a parameter lies in one or more planes whose rows are padded for the kernels. Outside it is either a
//! plain matrix of `f32`, for people and other programs, or its exact planes without the padding, for checkpoints:
//! only these bring back the same bits.

use std::borrow::Cow;

use crate::WeightError;
use crate::artifact::{Artifact, Buffer, Element, Extent, Param, Place, Storage};
use crate::fixed;

/// One plane of a parameter, exactly as the session holds it, row-major without padding, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor<'a> {
    /// The parameter's name; with `.high`, `.low` or `.scale` behind it for the planes of a fixed-point weight.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// The elements.
    pub bytes: Cow<'a, [u8]>,
}

impl Param {
    /// The names of its tensors and the buffers that they are in, by their positions in [`Artifact::buffers`].
    pub fn tensors(&self) -> Vec<(String, usize)> {
        let part = |part: &str, buffer| (format!("{}.{part}", self.name), buffer);
        match self.storage {
            Storage::Plain { value } => vec![(self.name.clone(), value)],
            Storage::Fixed16 { high, low, scale } => {
                vec![part("high", high), part("low", low), part("scale", scale)]
            }
        }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// Where in the state the rows of a plane lie. Made of buffers in the state only, of validated artifacts.
struct Plane {
    element: Element,
    shape: [usize; 2],
    offset: usize,
    row_bytes: usize,
    stride_bytes: usize,
}

impl Plane {
    fn of(buffer: &Buffer) -> Self {
        let (Place::State(offset), Extent::Const(rows), Extent::Const(columns)) =
            (buffer.place, buffer.rows, buffer.columns)
        else {
            unreachable!("validated: parameters lie in the state and have fixed shapes");
        };
        let size = buffer.element.bytes();
        let (row_bytes, stride_bytes) = (columns * size, buffer.stride * size);
        Self { element: buffer.element, shape: [rows, columns], offset, row_bytes, stride_bytes }
    }

    fn bytes(&self) -> usize {
        self.shape[0] * self.row_bytes
    }

    fn row<'a>(&self, state: &'a [u8], row: usize) -> &'a [u8] {
        &state[self.offset + row * self.stride_bytes..][..self.row_bytes]
    }

    fn row_mut<'a>(&self, state: &'a mut [u8], row: usize) -> &'a mut [u8] {
        &mut state[self.offset + row * self.stride_bytes..][..self.row_bytes]
    }

    fn read<'a>(&self, state: &'a [u8]) -> Cow<'a, [u8]> {
        if self.row_bytes == self.stride_bytes {
            return Cow::Borrowed(&state[self.offset..][..self.bytes()]);
        }
        (0..self.shape[0]).flat_map(|row| self.row(state, row)).copied().collect()
    }

    fn write(&self, state: &mut [u8], bytes: &[u8]) {
        for (row, bytes) in bytes.chunks_exact(self.row_bytes).enumerate() {
            self.row_mut(state, row).copy_from_slice(bytes);
        }
    }
}

/// The parameter of this name.
pub(crate) fn find<'a>(program: &'a Artifact, name: &str) -> Result<&'a Param, WeightError> {
    let param = program.params.iter().find(|param| param.name == name);
    param.ok_or_else(|| WeightError::Unknown(name.to_string()))
}

/// The state of a validated artifact, [`Artifact::state_bytes`] of it, in which these parameters have these values, and all
/// others are 0: for programs that start without a session.
///
/// # Errors
/// When there is no such parameter, it has another number of elements, or cannot hold a value.
pub fn pack_state<'a>(
    program: &Artifact,
    values: impl Iterator<Item = (&'a str, &'a [f32])>,
) -> Result<Vec<u8>, WeightError> {
    let mut state = vec![0; program.state_bytes];
    for (name, values) in values {
        pack(program, &mut state, find(program, name)?, values)?;
    }
    Ok(state)
}

/// The values of a parameter.
pub(crate) fn unpack(program: &Artifact, state: &[u8], param: &Param) -> Vec<f32> {
    let plane = |buffer: usize| Plane::of(&program.buffers[buffer]);
    match param.storage {
        Storage::Plain { value } => {
            let plane = plane(value);
            to_f32(plane.element, &plane.read(state))
        }
        Storage::Fixed16 { high, low, scale } => {
            let (high, low) = (plane(high), plane(low));
            let scales = to_f32(Element::F32, &plane(scale).read(state));
            let mut values = Vec::with_capacity(param.len());
            for row in 0..param.shape[0] {
                let scale = scales[row % scales.len()];
                let planes = high.row(state, row).iter().zip(low.row(state, row));
                values.extend(planes.map(|(&high, &low)| {
                    fixed::weight_of(fixed::join_planes(high.cast_signed(), low.cast_signed()), scale)
                }));
            }
            values
        }
    }
}

fn to_f32(element: Element, bytes: &[u8]) -> Vec<f32> {
    match element {
        Element::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Element::I16 => bytes.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes).into()).collect(),
        Element::I8 => bytes.iter().map(|byte| byte.cast_signed().into()).collect(),
        Element::U8 | Element::I32 => unreachable!("validated: parameters are f32, i8 or i16"),
    }
}

/// Sets the values of a parameter, or none where it cannot hold one.
pub(crate) fn pack(
    program: &Artifact,
    state: &mut [u8],
    param: &Param,
    values: &[f32],
) -> Result<(), WeightError> {
    if values.len() != param.len() {
        let name = param.name.clone();
        return Err(WeightError::Length { name, expected: param.len(), given: values.len() });
    }
    let columns = param.shape[1];
    let element = match param.storage {
        Storage::Plain { value } => program.buffers[value].element,
        Storage::Fixed16 { .. } => Element::F32,
    };
    let fixed = matches!(param.storage, Storage::Fixed16 { .. });
    let holds = |value: &f32| (!fixed || value.is_finite()) && holds(element, *value);
    if let Some(index) = values.iter().position(|value| !holds(value)) {
        return Err(bad_value(param, index, values[index]));
    }
    pack_by_row(program, state, param, &mut |row, to| to.copy_from_slice(&values[row * columns..][..columns]))
}

/// Sets the values of a parameter row by row.
pub(crate) fn pack_by_row(
    program: &Artifact,
    state: &mut [u8],
    param: &Param,
    row: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<(), WeightError> {
    let plane = |buffer: usize| Plane::of(&program.buffers[buffer]);
    match param.storage {
        Storage::Plain { value } => pack_plain(state, &plane(value), param, row),
        Storage::Fixed16 { high, low, scale } => {
            pack_fixed(state, &[high, low, scale].map(plane), param, row)
        }
    }
}

fn bad_value(param: &Param, index: usize, value: f32) -> WeightError {
    WeightError::Value { name: param.name.clone(), index, value }
}

/// Whether a type holds a value exactly.
fn holds(element: Element, value: f32) -> bool {
    let limits = match element {
        Element::F32 => return true,
        Element::I16 => f32::from(i16::MIN)..=f32::from(i16::MAX),
        Element::I8 => f32::from(i8::MIN)..=f32::from(i8::MAX),
        Element::U8 | Element::I32 => unreachable!("validated: parameters are f32, i8 or i16"),
    };
    value.fract() == 0.0 && limits.contains(&value)
}

/// Stores rows as they are.
fn pack_plain(
    state: &mut [u8],
    plane: &Plane,
    param: &Param,
    row: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<(), WeightError> {
    let [rows, columns] = param.shape;
    let mut values = vec![0.0; columns];
    for number in 0..rows {
        row(number, &mut values);
        if let Some(column) = values.iter().position(|value| !holds(plane.element, *value)) {
            return Err(bad_value(param, number * columns + column, values[column]));
        }
        let places = plane.row_mut(state, number).chunks_exact_mut(plane.element.bytes());
        places.zip(&values).for_each(|(place, &value)| match plane.element {
            Element::F32 => place.copy_from_slice(&value.to_le_bytes()),
            Element::I16 => place.copy_from_slice(&(value as i16).to_le_bytes()),
            _ => place.copy_from_slice(&(value as i8).to_le_bytes()),
        });
    }
    Ok(())
}

/// Quantizes rows that share a scale, which is each row or all of them.
fn pack_fixed(
    state: &mut [u8],
    [high, low, scale]: &[Plane; 3],
    param: &Param,
    row: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<(), WeightError> {
    let [rows, columns] = param.shape;
    let scales = scale.shape[0];
    let rows_per_scale = rows / scales;
    let mut values = vec![0.0; columns];
    for group in 0..scales {
        let members = group * rows_per_scale..(group + 1) * rows_per_scale;
        let mut largest = 0.0f32;
        for number in members.clone() {
            row(number, &mut values);
            if let Some(column) = values.iter().position(|value| !value.is_finite()) {
                return Err(bad_value(param, number * columns + column, values[column]));
            }
            largest = largest.max(fixed::abs_max(&values));
        }
        let factor = fixed::channel_scale(largest);
        let place = group * scale.stride_bytes;
        state[scale.offset + place..][..4].copy_from_slice(&factor.to_le_bytes());
        for number in members {
            // A row on its own is still there.
            if rows_per_scale > 1 {
                row(number, &mut values);
            }
            for (column, &value) in values.iter().enumerate() {
                let (high_byte, low_byte) = fixed::split_planes(fixed::fixed_of(value, factor));
                high.row_mut(state, number)[column] = high_byte.cast_unsigned();
                low.row_mut(state, number)[column] = low_byte.cast_unsigned();
            }
        }
    }
    Ok(())
}

/// All tensors of the state, in the order of the parameters.
pub(crate) fn export<'a>(program: &Artifact, state: &'a [u8]) -> Vec<StateTensor<'a>> {
    let tensors = program.params.iter().flat_map(Param::tensors);
    tensors
        .map(|(name, buffer)| {
            let plane = Plane::of(&program.buffers[buffer]);
            StateTensor { name, element: plane.element, shape: plane.shape, bytes: plane.read(state) }
        })
        .collect()
}

/// Sets all tensors of the state, or none where one is missing, unknown or of another type or shape.
pub(crate) fn import(
    program: &Artifact,
    state: &mut [u8],
    tensors: &[StateTensor<'_>],
) -> Result<(), WeightError> {
    let mut wanted: std::collections::HashMap<_, _> =
        program.params.iter().flat_map(Param::tensors).collect();
    let mut planes = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        let Some(buffer) = wanted.remove(&tensor.name) else {
            let twice = tensors[..index].iter().any(|earlier| earlier.name == tensor.name);
            let name = tensor.name.clone();
            return Err(if twice { WeightError::Repeated(name) } else { WeightError::Unknown(name) });
        };
        planes.push(checked_plane(&program.buffers[buffer], tensor)?);
    }
    if let Some(missing) = wanted.into_keys().min() {
        return Err(WeightError::Missing(missing));
    }
    planes.iter().zip(tensors).for_each(|(plane, tensor)| plane.write(state, &tensor.bytes));
    Ok(())
}

/// Sets one tensor of the state, the others stay; false where none has this name.
#[cfg(feature = "checkpoint")]
pub(crate) fn import_one(
    program: &Artifact,
    state: &mut [u8],
    tensor: &StateTensor<'_>,
) -> Result<bool, WeightError> {
    let mut all = program.params.iter().flat_map(Param::tensors);
    let Some((_, buffer)) = all.find(|(name, _)| *name == tensor.name) else { return Ok(false) };
    checked_plane(&program.buffers[buffer], tensor)?.write(state, &tensor.bytes);
    Ok(true)
}

fn checked_plane(buffer: &Buffer, tensor: &StateTensor<'_>) -> Result<Plane, WeightError> {
    let (plane, name) = (Plane::of(buffer), tensor.name.clone());
    if tensor.element != plane.element {
        let given = format!("{:?}", tensor.element);
        return Err(WeightError::Type { name, expected: plane.element, given });
    }
    if tensor.shape != plane.shape {
        let (expected, given) = (plane.shape.to_vec(), tensor.shape.to_vec());
        return Err(WeightError::Shape { name, expected, given });
    }
    if tensor.bytes.len() != plane.bytes() {
        return Err(WeightError::Length { name, expected: plane.bytes(), given: tensor.bytes.len() });
    }
    Ok(plane)
}
