//! Constants: typed, shaped, and read only where they are used.
//!
//! Raw data stays [where it is](crate::payload); numbers are converted when somebody asks. Size and type are checked once,
//! when the model is decoded.

use crate::error::OnnxError;
use crate::external::{ExternalData, ExternalProblem};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::proto::{StringStringEntryProto, TensorProto};

/// Element type of a tensor, as far as the importer tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// `float`.
    F32,
    /// `double`.
    F64,
    /// `float16`.
    F16,
    /// `bfloat16`.
    Bf16,
    /// `uint8`.
    U8,
    /// `int8`.
    I8,
    /// `uint16`.
    U16,
    /// `int16`.
    I16,
    /// `int32`.
    I32,
    /// `int64`.
    I64,
    /// `uint32`.
    U32,
    /// `uint64`.
    U64,
    /// `bool`.
    Bool,
    /// `string`.
    Text,
}

impl ElementType {
    /// The type with this number in the schema; complex, 8-bit float and 4-bit types are not known.
    pub fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            8 => Self::Text,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::Bf16,
            _ => return None,
        })
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// Bytes of an element; a string has none of its own.
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::U16 | Self::I16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::Text => 0,
        }
    }
}

/// A constant of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name, empty for an attribute's.
    pub name: String,
    /// Element type; `None` for one that the importer does not know, whose data is then not kept.
    pub element: Option<ElementType>,
    /// Dimensions; none for a scalar.
    pub dims: Vec<usize>,
    data: Data,
}

/// Elements as the file holds them.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    Raw(Payload),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U64(Vec<u64>),
    /// Text or an unknown type.
    Opaque,
}

impl Data {
    fn len(&self, element: ElementType) -> Option<usize> {
        match self {
            Self::Raw(bytes) => {
                bytes.len().is_multiple_of(element.bytes()).then(|| bytes.len() / element.bytes())
            }
            Self::F32(items) => Some(items.len()),
            Self::F64(items) => Some(items.len()),
            Self::I32(items) => Some(items.len()),
            Self::I64(items) => Some(items.len()),
            Self::U64(items) => Some(items.len()),
            Self::Opaque => None,
        }
    }
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a floating-point tensor.
    pub fn has_floats(&self) -> bool {
        use ElementType::{Bf16, F16, F32, F64};
        let Some(element) = self.element else { return false };
        matches!(
            (&self.data, element),
            (Data::Raw(_), F32 | F64 | F16 | Bf16)
                | (Data::F32(_), F32)
                | (Data::F64(_), F64)
                | (Data::I32(_), F16 | Bf16)
        )
    }

    /// The elements of a floating-point tensor, as single precision.
    ///
    /// # Errors
    /// If it [is none](Self::has_floats), or the file that they are in can no longer be read.
    pub fn floats(&self) -> Result<Vec<f32>, OnnxError> {
        Ok(match (&self.data, self.element) {
            (Data::F32(items), Some(ElementType::F32)) => items.clone(),
            (Data::F64(items), Some(ElementType::F64)) => items.iter().map(|&x| x as f32).collect(),
            (Data::I32(items), Some(ElementType::F16)) => items.iter().map(|&x| half(x as u16)).collect(),
            (Data::I32(items), Some(ElementType::Bf16)) => items.iter().map(|&x| brain(x as u16)).collect(),
            (Data::Raw(raw), Some(element)) if element.is_float() => {
                let mut items = Vec::with_capacity(self.len());
                raw.read(|raw| {
                    items.extend(match element {
                        ElementType::F64 => chunks(raw, |bytes| f64::from_le_bytes(bytes) as f32),
                        ElementType::F16 => chunks(raw, |bytes| half(u16::from_le_bytes(bytes))),
                        ElementType::Bf16 => chunks(raw, |bytes| brain(u16::from_le_bytes(bytes))),
                        _ => chunks(raw, f32::from_le_bytes),
                    });
                })?;
                items
            }
            _ => return Err(wrong(&self.name, "it is not floating-point")),
        })
    }

    /// The elements of an integer tensor that is no larger than shapes are. An unsigned 64-bit element that does not fit
    /// counts as none.
    pub fn integers(&self) -> Option<Vec<i64>> {
        use ElementType::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
        if let Data::Raw(raw) = &self.data {
            return self.raw_integers(raw.at_hand()?);
        }
        Some(match (&self.data, self.element?) {
            (Data::I32(items), Bool | I8 | I16 | I32 | U8 | U16) => items.iter().map(|&x| x.into()).collect(),
            (Data::I64(items), I64) => items.clone(),
            (Data::U64(items), U32 | U64) => {
                items.iter().map(|&x| i64::try_from(x).ok()).collect::<Option<_>>()?
            }
            _ => return None,
        })
    }

    fn raw_integers(&self, raw: &[u8]) -> Option<Vec<i64>> {
        use ElementType::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
        Some(match self.element? {
            Bool | U8 => chunks(raw, |[byte]: [u8; 1]| byte.into()),
            I8 => chunks(raw, |bytes| i8::from_le_bytes(bytes).into()),
            U16 => chunks(raw, |bytes| u16::from_le_bytes(bytes).into()),
            I16 => chunks(raw, |bytes| i16::from_le_bytes(bytes).into()),
            I32 => chunks(raw, |bytes| i32::from_le_bytes(bytes).into()),
            U32 => chunks(raw, |bytes| u32::from_le_bytes(bytes).into()),
            I64 => chunks(raw, i64::from_le_bytes),
            U64 => chunks(raw, |bytes| i64::try_from(u64::from_le_bytes(bytes)).ok())
                .into_iter()
                .collect::<Option<_>>()?,
            _ => return None,
        })
    }
}

fn chunks<const N: usize, T>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
}

fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Half precision to single precision, exactly.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff);
    match (bits >> 10) & 0x1f {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1024.0 + fraction) * 2f32.powi(i32::from(exponent) - 25),
    }
}

/// Makes [`Tensor`]s, and keeps count of their bytes.
pub(crate) struct Loader<'a> {
    external: &'a dyn ExternalData,
    limits: &'a Limits,
    bytes: u64,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(external: &'a dyn ExternalData, limits: &'a Limits) -> Self {
        Self { external, limits, bytes: 0 }
    }

    pub(crate) fn tensor(&mut self, mut proto: TensorProto) -> Result<Tensor, OnnxError> {
        let raw = proto.raw_data.take().map(Payload::from);
        self.tensor_of(proto, raw)
    }

    /// A tensor whose raw data is elsewhere.
    pub(crate) fn tensor_of(
        &mut self,
        proto: TensorProto,
        raw: Option<Payload>,
    ) -> Result<Tensor, OnnxError> {
        let name = proto.name().to_string();
        let dims = self.dims(&name, &proto.dims)?;
        let element = ElementType::from_code(proto.data_type().into());
        let Some(known) = element.filter(|&element| element != ElementType::Text) else {
            return Ok(Tensor { name, element, dims, data: Data::Opaque });
        };
        let len: usize = dims.iter().product();
        let bytes = self.charge(len, known)?;
        if proto.segment.is_some() {
            return Err(wrong(&name, "segmented tensors are not supported"));
        }
        let data = if proto.data_location() == crate::proto::tensor_proto::DataLocation::External {
            Data::Raw(self.external(&name, &proto.external_data, bytes)?)
        } else {
            raw.map_or_else(|| inline(proto, known), Data::Raw)
        };
        match data.len(known) {
            Some(found) if found == len => Ok(Tensor { name, element, dims, data }),
            Some(found) => {
                Err(wrong(&name, format!("dimensions {dims:?} need {len} elements, there are {found}")))
            }
            None => Err(wrong(&name, "its data is not a whole number of elements")),
        }
    }

    fn dims(&self, name: &str, dims: &[i64]) -> Result<Vec<usize>, OnnxError> {
        Limits::check("dimensions in a tensor", dims.len() as u64, self.limits.rank)?;
        let sizes: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let sizes = sizes.ok_or_else(|| wrong(name, format!("dimensions {dims:?} are not sizes")))?;
        let fits = sizes.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)).is_some();
        if fits { Ok(sizes) } else { Err(wrong(name, format!("dimensions {dims:?} are too large"))) }
    }

    /// Adds a tensor to the count; gives its bytes.
    fn charge(&mut self, len: usize, element: ElementType) -> Result<usize, OnnxError> {
        let bytes = len.saturating_mul(element.bytes());
        self.bytes = self.bytes.saturating_add(bytes as u64);
        Limits::check("bytes of tensors", self.bytes, self.limits.tensor_bytes)?;
        Ok(bytes)
    }

    fn external(
        &self,
        tensor: &str,
        entries: &[StringStringEntryProto],
        needed: usize,
    ) -> Result<Payload, OnnxError> {
        let entry = |key: &str| entries.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
        let location = entry("location").unwrap_or_default();
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| ExternalProblem::NotANumber(text.to_string())),
        };
        let load = || {
            let declared: u64 = number("length")?.unwrap_or(needed as u64);
            if declared != needed as u64 {
                return Err(ExternalProblem::Length { declared, needed: needed as u64 });
            }
            self.external.load(location, number("offset")?.unwrap_or(0), needed)
        };
        load().map_err(|problem| OnnxError::External {
            tensor: tensor.to_string(),
            location: location.to_string(),
            problem,
        })
    }
}

fn inline(proto: TensorProto, element: ElementType) -> Data {
    match element {
        ElementType::F32 => Data::F32(proto.float_data),
        ElementType::F64 => Data::F64(proto.double_data),
        ElementType::I64 => Data::I64(proto.int64_data),
        ElementType::U32 | ElementType::U64 => Data::U64(proto.uint64_data),
        _ => Data::I32(proto.int32_data),
    }
}

fn wrong(name: &str, problem: impl Into<String>) -> OnnxError {
    OnnxError::Tensor { name: name.to_string(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::{brain, half};

    #[test]
    fn half_precision_is_exact() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
        ] {
            assert_eq!(half(bits), value);
        }
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
        assert!(half(0x7e00).is_nan());
        assert_eq!(brain(0x3fc0), 1.5);
    }
}
