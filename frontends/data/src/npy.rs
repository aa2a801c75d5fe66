//! NumPy's array format: a header in Python's syntax, then the elements.
//!
//! ```text
//! \x93NUMPY | version, 2 bytes | header length, 2 or 4 bytes | header, a dictionary
//! {'descr': '<f4', 'fortran_order': False, 'shape': (60000, 28, 28), }
//! ```
//!
//! Only the syntax that NumPy writes is read: string keys; strings, booleans and tuples of
//! integers as values. (Structured types have a list as `descr`, and are refused by name.)

use std::io::Read;

use crate::error::{DataError, escape};
use crate::source::Stream;

const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// Longest header taken, in bytes; NumPy itself refuses one above 10,000.
const LONGEST_HEADER: usize = 1 << 16;

/// What an array's header says.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
}

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Element {
    pub(crate) kind: Kind,
    /// Bytes per element: 1, 2, 4 or 8; 4 or 8 for floats.
    pub(crate) width: usize,
    big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// An integer element's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Integer {
    Unsigned(u64),
    Signed(i64),
}

impl Element {
    /// The element's bytes as a number, zero-extended. The arms are the widths that there are,
    /// written out because this runs for every feature.
    #[inline]
    fn bits(self, bytes: &[u8]) -> u64 {
        let bits = match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte)),
        };
        if self.big_endian { bits.swap_bytes() >> (64 - 8 * self.width) } else { bits }
    }

    /// The value of an element of an integer type.
    pub(crate) fn integer(self, bytes: &[u8]) -> Integer {
        let bits = self.bits(bytes);
        match (self.kind, self.width) {
            (Kind::Signed, 1) => Integer::Signed(i64::from(bits as i8)),
            (Kind::Signed, 2) => Integer::Signed(i64::from(bits as i16)),
            (Kind::Signed, 4) => Integer::Signed(i64::from(bits as i32)),
            (Kind::Signed, _) => Integer::Signed(bits as i64),
            (Kind::Unsigned | Kind::Float, _) => Integer::Unsigned(bits),
        }
    }

    /// The value of an element of any type.
    #[inline]
    pub(crate) fn float(self, bytes: &[u8]) -> f64 {
        match (self.kind, self.width) {
            (Kind::Float, 4) => f64::from(f32::from_bits(self.bits(bytes) as u32)),
            (Kind::Float, _) => f64::from_bits(self.bits(bytes)),
            (Kind::Unsigned | Kind::Signed, _) => match self.integer(bytes) {
                Integer::Unsigned(value) => value as f64,
                Integer::Signed(value) => value as f64,
            },
        }
    }
}

/// Reads the header, so that the stream stands at the first element.
pub(crate) fn header<R: Read>(stream: &mut Stream<R>) -> Result<Header, DataError> {
    if stream.header()? != MAGIC {
        return Err(DataError::malformed(stream.name(), "is no NumPy array: its magic is missing"));
    }
    let [major, _minor] = stream.header()?;
    let length = match major {
        1 => usize::from(u16::from_le_bytes(stream.header()?)),
        2 | 3 => u32::from_le_bytes(stream.header()?) as usize,
        _ => {
            let reason = format!("has NumPy array format version {major}, 1 to 3 are known");
            return Err(DataError::malformed(stream.name(), reason));
        }
    };
    if length > LONGEST_HEADER {
        let reason = format!("has a header of {length} bytes, more than {LONGEST_HEADER}");
        return Err(DataError::malformed(stream.name(), reason));
    }
    let text = stream.bytes(length)?;
    let fields = Parser { rest: &text }
        .fields()
        .ok_or_else(|| DataError::malformed(stream.name(), "has a header that is no NumPy array header"))?;
    interpret(stream.name(), fields)
}

fn interpret(name: &str, fields: Fields) -> Result<Header, DataError> {
    if fields.fortran_order {
        return Err(DataError::unsuitable(
            name,
            "is stored in Fortran order",
            "save numpy.ascontiguousarray(array)",
        ));
    }
    let element = element(&fields.descr).ok_or_else(|| {
        DataError::unsuitable(
            name,
            format!("has elements of type '{}'", escape(&fields.descr)),
            "convert features with array.astype(numpy.float32), labels with \
             array.astype(numpy.int64)",
        )
    })?;
    Ok(Header { element, shape: fields.shape })
}

/// The element type of a type string such as `<f4`, if it is one of those taken.
fn element(descr: &str) -> Option<Element> {
    let (order, kind, width) = match descr.as_bytes() {
        &[order, kind, width] => (order, kind, width),
        _ => return None,
    };
    let big_endian = match order {
        b'<' | b'|' => false,
        b'>' => true,
        _ => return None,
    };
    let kind = match (kind, width) {
        (b'u', b'1' | b'2' | b'4' | b'8') => Kind::Unsigned,
        (b'i', b'1' | b'2' | b'4' | b'8') => Kind::Signed,
        (b'f', b'4' | b'8') => Kind::Float,
        _ => return None,
    };
    Some(Element { kind, width: usize::from(width - b'0'), big_endian })
}

/// The entries of a header's dictionary.
#[derive(Debug, PartialEq)]
struct Fields {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// A parser over what is left of the header; every method is `None` on a syntax error.
struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn fields(mut self) -> Option<Fields> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            match key.as_str() {
                "descr" => descr = Some(self.descr()?),
                "fortran_order" => fortran_order = Some(self.boolean()?),
                "shape" => shape = Some(self.shape()?),
                _ => return None,
            }
            if !self.take(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if !self.rest.is_empty() {
            return None;
        }
        Some(Fields { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }

    /// A type string; a structured type, which is a list, is read as `structured`.
    fn descr(&mut self) -> Option<String> {
        if !self.take(b'[') {
            return self.string();
        }
        let end = self.rest.iter().rposition(|&byte| byte == b']')?;
        self.rest = &self.rest[end + 1..];
        Some("structured".to_owned())
    }

    fn string(&mut self) -> Option<String> {
        let quote = if self.take(b'\'') {
            b'\''
        } else {
            self.expect(b'"')?;
            b'"'
        };
        let end = self.rest.iter().position(|&byte| byte == quote)?;
        let text = std::str::from_utf8(&self.rest[..end]).ok()?;
        self.rest = &self.rest[end + 1..];
        Some(text.to_owned())
    }

    fn boolean(&mut self) -> Option<bool> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        None
    }

    fn shape(&mut self) -> Option<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            shape.push(self.integer()?);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Some(shape)
    }

    /// An integer; Python 2 wrote a long one with an `L` at its end.
    fn integer(&mut self) -> Option<usize> {
        self.skip_space();
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Fields> {
        Parser { rest: text.as_bytes() }.fields()
    }

    fn shape(text: &str) -> Option<Vec<usize>> {
        parse(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {text}}}"))
            .map(|fields| fields.shape)
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }         \n";
        let fields = Fields { descr: "<f4".to_owned(), fortran_order: false, shape: vec![3, 2] };
        assert_eq!(parse(text), Some(fields));
        assert_eq!(shape("()"), Some(vec![]));
        assert_eq!(shape("(5,)"), Some(vec![5]));
        assert_eq!(shape("(5L, 4L)"), Some(vec![5, 4]));
    }

    #[test]
    fn what_numpy_does_not_write_is_not() {
        for text in ["(", "(,)", "(-1,)", "(1 2)", "(18446744073709551616,)", "[1]", "5", "()}{"] {
            assert_eq!(shape(text), None, "{text}");
        }
        for text in ["", "{}", "{'descr': '<f4'}", "{'descr': [('a', '<f4')", "{'x': True}"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_structured_type_is_named() {
        let text = "{'descr': [('a', '<f4'), ('b', '<i8', (2,))], 'fortran_order': False, \
                    'shape': (3,), }";
        assert_eq!(parse(text).map(|fields| fields.descr), Some("structured".to_owned()));
        assert_eq!(element("structured"), None);
    }

    #[test]
    fn elements_of_every_type_convert() {
        let float = |descr: &str, bytes: &[u8]| element(descr).unwrap().float(bytes);
        assert_eq!(float("|u1", &[200]), 200.0);
        assert_eq!(float("|i1", &[200]), -56.0);
        assert_eq!(float("<i2", &[0xfe, 0xff]), -2.0);
        assert_eq!(float(">u2", &[1, 2]), 258.0);
        assert_eq!(float("<i4", &(-7_i32).to_le_bytes()), -7.0);
        assert_eq!(float("<u8", &u64::MAX.to_le_bytes()), u64::MAX as f64);
        assert_eq!(float(">f4", &1.5_f32.to_be_bytes()), 1.5);
        assert_eq!(float("<f8", &(-1e300_f64).to_le_bytes()), -1e300);
        let label = element("<i8").unwrap().integer(&(-1_i64).to_le_bytes());
        assert_eq!(label, Integer::Signed(-1));
    }

    #[test]
    fn other_types_are_none() {
        for descr in ["<f2", "|b1", "<c8", "<U5", "|O", "=f4", "<f16", "<i3", "", "\u{e9}4"] {
            assert_eq!(element(descr), None, "{descr}");
        }
    }
}
