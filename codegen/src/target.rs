//! Targets as data: a row says all that is known of a machine before it is seen.

use std::fmt;

/// A machine that programs can be compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name on the command line.
    pub name: &'static str,
    /// Instruction set.
    pub architecture: Architecture,
    /// Features beyond the architecture's base, by the names of Rust's feature detection. `native` has those of the
    /// machine at hand.
    pub features: Vec<&'static str>,
    /// One line for people.
    pub description: &'static str,
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Architecture {
    /// The name as in `std::env::consts::ARCH`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The architecture that this program was built for, if it is one of ours.
    pub fn host() -> Option<Self> {
        [Self::X86_64, Self::Aarch64, Self::Riscv64]
            .into_iter()
            .find(|architecture| architecture.name() == std::env::consts::ARCH)
    }
}

/// Name, architecture, features, description.
type Row = (&'static str, Architecture, &'static [&'static str], &'static str);

const V3: &[&str] = &["sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "bmi2"];
const V4: &[&str] = &[
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "avx",
    "avx2",
    "bmi2",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512vnni",
];

/// All targets but `native`.
pub const TARGETS: &[Row] = &[
    ("x86_64", Architecture::X86_64, &[], "any 64-bit x86 (SSE2)"),
    ("x86_64-v3", Architecture::X86_64, V3, "x86 with AVX2"),
    ("x86_64-v4", Architecture::X86_64, V4, "x86 with AVX-512 and VNNI"),
    ("aarch64", Architecture::Aarch64, &[], "any 64-bit Arm"),
    (
        "aarch64-dotprod",
        Architecture::Aarch64,
        &["dotprod"],
        "64-bit Arm with dot products (Cortex-A76 and later)",
    ),
    ("riscv64", Architecture::Riscv64, &[], "64-bit RISC-V (RV64GC)"),
];

/// No target has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownTarget(pub String);

impl fmt::Display for UnknownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown target `{}`", self.0)
    }
}

impl std::error::Error for UnknownTarget {}

impl Target {
    /// All targets that can be named without looking at the machine.
    pub fn all() -> impl Iterator<Item = Self> {
        TARGETS.iter().map(|&(name, architecture, features, description)| Self {
            name,
            architecture,
            features: features.to_vec(),
            description,
        })
    }

    /// The target of this name. `native` is the backend's to make, since it looks at the machine.
    ///
    /// # Errors
    /// [`UnknownTarget`] where the table has none.
    pub fn named(name: &str) -> Result<Self, UnknownTarget> {
        Self::all().find(|target| target.name == name).ok_or_else(|| UnknownTarget(name.to_string()))
    }

    /// Whether code for the target may use a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for target in Target::all() {
            assert_eq!(Target::named(target.name).unwrap(), target);
            assert_eq!(Target::all().filter(|other| other.name == target.name).count(), 1);
        }
        assert_eq!(Target::named("z80").unwrap_err().to_string(), "unknown target `z80`");
    }
}
