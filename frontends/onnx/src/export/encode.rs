//! The bytes of a file, weights written one at a time.
//!
//! A message of protobuf begins with its length, so the whole file would have to be in memory to be encoded as one. But
//! the length of a weight is known before its numbers are, and fields may come in any order: so all that is small is
//! encoded first, and each weight is asked for, written and forgotten.

use std::io::{self, BufWriter, Write};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::ExportError;
use super::write::{Order, Weight};
use crate::proto::{GraphProto, ModelProto};

/// Numbers of fields in the schema.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_RAW_DATA: u32 = 9;

/// The numbers of a parameter by its name, row by row; `None` where there are none.
pub type Values<'a> = dyn Fn(&str) -> Option<Vec<f32>> + 'a;

/// Writes a model, a graph in it, and weights in that.
pub(super) fn encode(
    model: &ModelProto,
    graph: &GraphProto,
    weights: &[Weight],
    values: &Values<'_>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let heads: Vec<Head> = weights.iter().map(Head::new).collect();
    let graph = graph.encode_to_vec();
    let mut file = model.encode_to_vec();
    begin(MODEL_GRAPH, graph.len() + heads.iter().map(Head::field_len).sum::<usize>(), &mut file);
    let mut out = BufWriter::new(out);
    out.write_all(&file)?;
    out.write_all(&graph)?;
    for (weight, head) in weights.iter().zip(&heads) {
        out.write_all(&head.field)?;
        out.write_all(&head.tensor)?;
        for (param, len) in &weight.params {
            let numbers = values(param).ok_or_else(|| ExportError::Missing(param.clone()))?;
            super::size(param.clone(), *len, numbers.len())?;
            write_numbers(&numbers, weight.order, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// What stands before the numbers of a weight.
struct Head {
    /// Key and length of the tensor.
    field: Vec<u8>,
    /// The tensor up to its numbers.
    tensor: Vec<u8>,
    /// Bytes of the numbers.
    raw: usize,
}

impl Head {
    fn new(weight: &Weight) -> Self {
        let raw = weight.params.iter().map(|(_, len)| len * size_of::<f32>()).sum();
        let (mut tensor, mut field) = (weight.tensor.encode_to_vec(), Vec::new());
        begin(TENSOR_RAW_DATA, raw, &mut tensor);
        begin(GRAPH_INITIALIZER, tensor.len() + raw, &mut field);
        Self { field, tensor, raw }
    }

    fn field_len(&self) -> usize {
        self.field.len() + self.tensor.len() + self.raw
    }
}

/// Key and length of a field.
fn begin(field: u32, length: usize, buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

fn write_numbers(numbers: &[f32], order: Order, out: &mut impl Write) -> io::Result<()> {
    let mut write = |number: &f32| out.write_all(&number.to_le_bytes());
    match order {
        Order::Rows => numbers.iter().try_for_each(write),
        Order::ChannelsFirst { taps, channels } => {
            let mut rows = numbers.chunks((taps * channels).max(1));
            rows.try_for_each(|row| {
                (0..channels).try_for_each(|channel| {
                    row.iter().skip(channel).step_by(channels).try_for_each(&mut write)
                })
            })
        }
    }
}
