//! How large an untrusted file may be, checked on the wire before anything is allocated.
//!
//! A protobuf message of two bytes can become hundreds of bytes in memory, so a limit on the file alone does not bound
//! memory. [`scan`] walks the wire format first: it knows which fields hold messages, counts them, and finds truncated
//! fields with their position. It also notes where the weights are, so that nobody has to read them all at once.

use std::io::{self, BufRead, Seek};
use std::ops::Range;

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

/// Where the large parts of a model are.
#[derive(Default)]
pub(crate) struct Layout {
    /// The graph; more than one would be merged.
    pub(crate) graphs: Vec<Span>,
    /// The graph's initializers.
    pub(crate) initializers: Vec<Initializer>,
}

/// An initializer of the graph.
pub(crate) struct Initializer {
    pub(crate) tensor: Span,
    /// Its raw data; the last counts.
    pub(crate) raw: Option<Span>,
}

/// A field of a file.
pub(crate) struct Span {
    pub(crate) field: Range<usize>,
    pub(crate) content: Range<usize>,
}

/// Checks size and nesting of a model of so many bytes.
pub(crate) fn scan(input: impl BufRead + Seek, length: u64, limits: &Limits) -> Result<Layout, ScanError> {
    Limits::check("bytes", length, limits.file_bytes)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let layout = Layout::default();
    let mut scan = Scan { input, at: 0, length, limits, nodes: 0, fields: 0, numbers: 0, layout };
    scan.message(Model, length, 0)?;
    Ok(scan.layout)
}

/// Why a model was not walked over to its end.
pub(crate) enum ScanError {
    /// It is not as it should be.
    Model(OnnxError),
    /// It cannot be read.
    Io(io::Error),
}

impl From<OnnxError> for ScanError {
    fn from(error: OnnxError) -> Self {
        Self::Model(error)
    }
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether a field is in another, of those that one walks over in order.
fn inside(outer: Option<&Span>, inner: &Span) -> bool {
    outer.is_some_and(|outer| outer.content.contains(&inner.field.start))
}

struct Scan<'a, R> {
    input: R,
    /// Bytes walked over.
    at: usize,
    length: usize,
    limits: &'a Limits,
    nodes: u64,
    fields: u64,
    numbers: u64,
    layout: Layout,
}

impl<R: BufRead + Seek> Scan<'_, R> {
    fn message(&mut self, message: Message, end: usize, depth: u64) -> Result<(), ScanError> {
        Limits::check("levels of nested messages", depth, self.limits.depth)?;
        while self.at < end {
            self.field(message, end, depth)?;
        }
        Ok(())
    }

    /// Walks over one field.
    fn field(&mut self, message: Message, end: usize, depth: u64) -> Result<(), ScanError> {
        let start = self.at;
        let key = self.varint(end)?;
        match key & 7 {
            0 => drop(self.varint(end)?),
            1 => self.skip(start, 8, end)?,
            5 => self.skip(start, 4, end)?,
            2 => {
                let length = self.varint(end)?;
                let content = self.at..self.reach(start, length, end)?;
                self.note(
                    message,
                    key >> 3,
                    depth,
                    Span { field: start..content.end, content: content.clone() },
                );
                return self.delimited(crate::limits::content(message, key >> 3), content.end, depth);
            }
            kind => return Err(OnnxError::Malformed(format!("wire type {kind} at byte {start}")).into()),
        }
        self.numbers += 1;
        Ok(Limits::check("numbers", self.numbers, self.limits.numbers)?)
    }

    /// Notes a field that is a large part of the model.
    fn note(&mut self, message: Message, field: u64, depth: u64, span: Span) {
        match (message, field, depth) {
            (Model, 7, 0) => self.layout.graphs.push(span),
            (Graph, 5, 1) if inside(self.layout.graphs.last(), &span) => {
                self.layout.initializers.push(Initializer { tensor: span, raw: None });
            }
            (Tensor, 9, 2) => {
                let last = self.layout.initializers.last_mut();
                if let Some(last) = last.filter(|last| inside(Some(&last.tensor), &span)) {
                    last.raw = Some(span);
                }
            }
            _ => {}
        }
    }

    fn delimited(&mut self, content: Content, end: usize, depth: u64) -> Result<(), ScanError> {
        if let Packed(size) = content {
            self.numbers += (end - self.at) as u64 / size;
            Limits::check("numbers", self.numbers, self.limits.numbers)?;
            return self.go_to(end);
        }
        self.fields += 1;
        Limits::check("fields", self.fields, self.limits.fields)?;
        let Content::Message(inner) = content else { return self.go_to(end) };
        self.nodes += u64::from(inner == Node);
        Limits::check("nodes", self.nodes, self.limits.nodes)?;
        match inner {
            Leaf => self.go_to(end),
            _ => self.message(inner, end, depth + 1),
        }
    }

    fn skip(&mut self, field: usize, length: u64, end: usize) -> Result<(), ScanError> {
        let next = self.reach(field, length, end)?;
        self.go_to(next)
    }

    /// Where so many bytes from here on end.
    fn reach(&self, field: usize, length: u64, end: usize) -> Result<usize, OnnxError> {
        let left = (end - self.at) as u64;
        if length <= left {
            return Ok(self.at + length as usize);
        }
        if end < self.length {
            return Err(OnnxError::Malformed(format!("a field at byte {field} is longer than its message")));
        }
        Err(OnnxError::Truncated { offset: field, missing: length - left })
    }

    fn go_to(&mut self, next: usize) -> Result<(), ScanError> {
        self.input.seek_relative((next - self.at) as i64)?;
        self.at = next;
        Ok(())
    }

    fn varint(&mut self, end: usize) -> Result<u64, ScanError> {
        let (start, mut value) = (self.at, 0);
        for index in 0..10.min(end - start) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        if end - start >= 10 {
            return Err(OnnxError::Malformed(format!("a number at byte {start} does not end")).into());
        }
        Err(OnnxError::Truncated { offset: start, missing: 1 }.into())
    }

    fn byte(&mut self) -> Result<u8, ScanError> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }
}
