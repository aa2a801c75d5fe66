//! Named tensors in the safetensors format, which Python, Rust and JavaScript read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use crate::artifact::Element;
use crate::{StateTensor, WeightError};

/// The one key of the metadata; the format keeps several in no particular order, and equal checkpoints should be equal
/// files.
const METADATA: &str = "ffc";

/// What the header's length is a multiple of.
const HEADER_ALIGN: usize = 8;

/// A file that was read.
pub(crate) struct TensorFile<'a> {
    pub(crate) tensors: Vec<FileTensor<'a>>,
    /// The text that [`write`] was given, in files that it wrote.
    pub(crate) metadata: Option<String>,
}

/// A tensor of any type and shape.
pub(crate) struct FileTensor<'a> {
    pub(crate) name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> TensorFile<'a> {
    /// Reads a file; the tensors come in the order of their names.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, WeightError> {
        let (_, header) = SafeTensors::read_metadata(file).map_err(unreadable)?;
        let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)).cloned();
        let tensors = SafeTensors::deserialize(file).map_err(unreadable)?.tensors();
        let by_name: BTreeMap<String, TensorView<'a>> = tensors.into_iter().collect();
        let tensor = |(name, view): (String, TensorView<'a>)| FileTensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data(),
        };
        Ok(Self { tensors: by_name.into_iter().map(tensor).collect(), metadata })
    }
}

fn unreadable(error: SafeTensorError) -> WeightError {
    WeightError::File(error.to_string())
}

impl FileTensor<'_> {
    /// Whether it holds the plain values of a parameter of this shape.
    pub(crate) fn is_f32_of(&self, shape: [usize; 2]) -> bool {
        self.dtype == Dtype::F32 && self.shape == shape
    }

    /// The values of an `f32` tensor.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The same as part of a session's state.
    pub(crate) fn state_tensor(&self) -> Result<StateTensor<'_>, WeightError> {
        let name = self.name.clone();
        let element =
            element(self.dtype).ok_or_else(|| WeightError::File(format!("`{name}` is {:?}", self.dtype)))?;
        let shape = <[usize; 2]>::try_from(&self.shape[..]).map_err(|_| {
            WeightError::File(format!("`{name}` has shape {:?}, which is no matrix", self.shape))
        })?;
        Ok(StateTensor { name, element, shape, bytes: Cow::Borrowed(self.bytes) })
    }
}

/// Writes these tensors, one after the other: a copy of all of them would be most of what training needs. Equal tensors and
/// metadata give equal bytes.
pub(crate) fn write(tensors: &[StateTensor<'_>], metadata: String, out: &mut impl Write) -> io::Result<()> {
    // Wide elements first, so that each is aligned in the file.
    let mut tensors: Vec<&StateTensor<'_>> = tensors.iter().collect();
    tensors.sort_by(|a, b| dtype(b.element).cmp(&dtype(a.element)).then(a.name.cmp(&b.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes.len();
        let (dtype, shape) = (dtype(tensor.element), tensor.shape.to_vec());
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let infos = infos.collect();
    let metadata = Some([(METADATA.to_string(), metadata)].into_iter().collect());
    let header = Metadata::new(metadata, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(HEADER_ALIGN), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.into_iter().try_for_each(|tensor| out.write_all(&tensor.bytes))
}

fn dtype(element: Element) -> Dtype {
    match element {
        Element::U8 => Dtype::U8,
        Element::I8 => Dtype::I8,
        Element::I16 => Dtype::I16,
        Element::I32 => Dtype::I32,
        Element::F32 => Dtype::F32,
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::U8 => Element::U8,
        Dtype::I8 => Element::I8,
        Dtype::I16 => Element::I16,
        Dtype::I32 => Element::I32,
        Dtype::F32 => Element::F32,
        _ => return None,
    })
}
