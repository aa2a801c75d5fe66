//! How large an untrusted file may be, checked on the wire before anything is allocated.
//!
//! A protobuf message of two bytes can become hundreds of bytes in memory, so a limit on the file alone does not bound
//! memory. [`scan`] walks the wire format first: it knows which fields hold messages, counts them, and finds truncated
//! fields with their position.

use crate::error::OnnxError;

/// How large a model may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the model file. Protobuf itself stops at 2 GiB.
    pub file_bytes: u64,
    /// How deep messages nest.
    pub depth: u64,
    /// Operators, those in subgraphs and functions included.
    pub nodes: u64,
    /// Messages and strings of every kind.
    pub fields: u64,
    /// Numbers that are not in raw form.
    pub numbers: u64,
    /// Bytes of all tensors together, external data included.
    pub tensor_bytes: u64,
    /// Dimensions of a tensor.
    pub rank: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 2 << 30,
            depth: 48,
            nodes: 100_000,
            fields: 1_000_000,
            numbers: 64 << 20,
            tensor_bytes: 4 << 30,
            rank: 16,
        }
    }
}

impl Limits {
    pub(crate) fn check(what: &'static str, found: u64, limit: u64) -> Result<(), OnnxError> {
        if found <= limit { Ok(()) } else { Err(OnnxError::Limit { what, found, limit }) }
    }
}

/// Messages of the schema that hold other messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Wrapper,
    Training,
    Function,
    Annotation,
    Device,
    Sharding,
    ShardedDim,
    IntList,
    Configuration,
    /// One that holds text and numbers, none repeated.
    Leaf,
}

/// What a length-delimited field holds.
enum Content {
    Message(Message),
    /// Text or bytes, or a field that is not known.
    Bytes,
    /// Packed numbers of at least this many bytes each.
    Packed(u64),
}

use Content::{Bytes, Packed};
use Message::*;

/// The schema as far as it matters for size. A field that is missing here is text, bytes or a small message.
fn content(message: Message, field: u64) -> Content {
    let inner = match (message, field) {
        (Model, 7) | (Attribute, 6 | 11) | (Training, 1 | 2) => Graph,
        (Model, 20) => Training,
        (Model, 25) => Function,
        (Model, 8 | 14) | (Node, 9) | (Graph, 16) | (Training, 3 | 4) => Leaf,
        (Graph, 1) | (Function, 7) => Node,
        (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
        (Graph, 15) | (Attribute, 22 | 23) => Sparse,
        (Graph, 11..=13) | (Function, 12) => ValueInfo,
        (Model, 26) => Configuration,
        (Graph, 14) => Annotation,
        (Node, 10) => Device,
        (Device, 2) => Sharding,
        (Sharding, 3) => IntList,
        (Sharding, 4) => ShardedDim,
        (Annotation | ShardedDim, 2) => Leaf,
        (Node, 5) | (Function, 11) => Attribute,
        (Function, 9 | 14) | (Tensor, 3 | 13 | 16) | (ValueInfo, 4) => Leaf,
        (ValueInfo, 2) | (Attribute, 14 | 15) | (Wrapper, 1 | 2) => Type,
        (Type, 1 | 8) => TensorType,
        (Type, 4 | 5 | 9) => Wrapper,
        (TensorType, 2) => Shape,
        (Shape, 1) => Leaf,
        (Tensor, 4) | (Attribute, 7) => return Packed(4),
        (Tensor, 10) => return Packed(8),
        (Tensor, 1 | 5 | 7 | 11) | (Attribute, 8) | (Sparse, 3) | (Sharding | IntList, 2) => {
            return Packed(1);
        }
        _ => return Bytes,
    };
    Content::Message(inner)
}

/// Checks size and nesting of a model.
pub(crate) fn scan(bytes: &[u8], limits: &Limits) -> Result<(), OnnxError> {
    Limits::check("bytes", bytes.len() as u64, limits.file_bytes)?;
    Scan { bytes, limits, nodes: 0, fields: 0, numbers: 0 }.message(Model, 0, bytes.len(), 0)
}

struct Scan<'a> {
    bytes: &'a [u8],
    limits: &'a Limits,
    nodes: u64,
    fields: u64,
    numbers: u64,
}

impl Scan<'_> {
    fn message(&mut self, message: Message, start: usize, end: usize, depth: u64) -> Result<(), OnnxError> {
        Limits::check("levels of nested messages", depth, self.limits.depth)?;
        let mut at = start;
        while at < end {
            at = self.field(message, at, end, depth)?;
        }
        Ok(())
    }

    /// Walks over one field; gives where the next starts.
    fn field(&mut self, message: Message, start: usize, end: usize, depth: u64) -> Result<usize, OnnxError> {
        let (key, at) = self.varint(start, end)?;
        match key & 7 {
            0 => self.number(self.varint(at, end)?.1),
            1 => self.number(self.skip(start, at, 8, end)?),
            5 => self.number(self.skip(start, at, 4, end)?),
            2 => {
                let (length, at) = self.varint(at, end)?;
                let next = self.skip(start, at, length, end)?;
                self.delimited(content(message, key >> 3), at, next, depth)?;
                Ok(next)
            }
            kind => Err(OnnxError::Malformed(format!("wire type {kind} at byte {start}"))),
        }
    }

    fn delimited(&mut self, content: Content, start: usize, end: usize, depth: u64) -> Result<(), OnnxError> {
        if let Packed(size) = content {
            self.numbers += (end - start) as u64 / size;
            return Limits::check("numbers", self.numbers, self.limits.numbers);
        }
        self.fields += 1;
        Limits::check("fields", self.fields, self.limits.fields)?;
        let Content::Message(inner) = content else { return Ok(()) };
        self.nodes += u64::from(inner == Node);
        Limits::check("nodes", self.nodes, self.limits.nodes)?;
        match inner {
            Leaf => Ok(()),
            _ => self.message(inner, start, end, depth + 1),
        }
    }

    fn number(&mut self, next: usize) -> Result<usize, OnnxError> {
        self.numbers += 1;
        Limits::check("numbers", self.numbers, self.limits.numbers)?;
        Ok(next)
    }

    fn skip(&self, field: usize, at: usize, length: u64, end: usize) -> Result<usize, OnnxError> {
        let left = (end - at) as u64;
        if length <= left {
            return Ok(at + length as usize);
        }
        if end < self.bytes.len() {
            return Err(OnnxError::Malformed(format!("a field at byte {field} is longer than its message")));
        }
        Err(OnnxError::Truncated { offset: field, missing: length - left })
    }

    fn varint(&self, start: usize, end: usize) -> Result<(u64, usize), OnnxError> {
        let mut value = 0;
        for (index, byte) in self.bytes[start..end].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value, start + index + 1));
            }
        }
        if end - start >= 10 {
            return Err(OnnxError::Malformed(format!("a number at byte {start} does not end")));
        }
        Err(OnnxError::Truncated { offset: start, missing: 1 })
    }
}
