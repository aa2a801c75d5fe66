//! A number that differs where bytes differ: FNV-1a, of 64 bits.
//!
//! It tells one listing of files from another and a damaged header from a whole one, on every machine and with every
//! version of Rust. It is no protection against anybody who wants two to be equal.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

/// See the [module documentation](self).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Of `bytes` alone.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digest = Self::new();
        digest.add(bytes);
        digest
    }

    /// Takes in some bytes, and how many they are.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let count = (bytes.len() as u64).to_le_bytes();
        for &byte in bytes.iter().chain(&count) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The number.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The number, in 16 digits.
    pub(crate) fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// When a file was changed, in nanoseconds since 1970; 0 where the system does not tell.
pub(crate) fn modified(metadata: &Metadata) -> u128 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |time| time.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_bytes_are_parted_matters() {
        let of = |parts: &[&str]| {
            let mut digest = Digest::new();
            parts.iter().for_each(|part| digest.add(part.as_bytes()));
            digest.value()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ba"]));
        assert_eq!(of(&["ab"]), Digest::of(b"ab").value());
    }
}
