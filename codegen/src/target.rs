//! Targets as data: a row says all that is known of a machine before it is seen.
//!
//! What a user names is a kind of machine, for instance any 64-bit x86, and the best code for it is not the same on all of
//! them. So a row lists [`Level`]s, and each becomes a [`Target`] of its own: what a backend compiles for. An artifact
//! holds one variant of the code for each, and the runtime, from whose table the levels are, chooses among them.

use std::fmt;

use ffc_runtime::cpu::{self, Level};

/// One feature set that programs are compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name of the level, or `native`.
    pub name: &'static str,
    /// Instruction set.
    pub architecture: Architecture,
    /// Features beyond the architecture's base that code may use, by the names of Rust's feature detection.
    pub features: Vec<&'static str>,
}

impl Target {
    /// A level of an architecture.
    pub fn new(architecture: Architecture, level: &Level) -> Self {
        Self { name: level.name, architecture, features: level.features() }
    }

    /// Whether code for the target may use a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }
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

    /// The architecture of this name, if it is one of ours.
    pub fn find(name: &str) -> Option<Self> {
        [Self::X86_64, Self::Aarch64, Self::Riscv64].into_iter().find(|known| known.name() == name)
    }

    /// The architecture that this program was built for, if it is one of ours.
    pub fn host() -> Option<Self> {
        Self::find(std::env::consts::ARCH)
    }
}

/// What `--target` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedTarget {
    /// The name.
    pub name: &'static str,
    /// Instruction set.
    pub architecture: Architecture,
    /// What there is code for, best first; every such machine has the last.
    pub levels: &'static [&'static Level],
    /// One line for people.
    pub description: &'static str,
}

/// All targets but `native`, which the backend makes by looking at the machine.
pub static TARGETS: [NamedTarget; 6] = [
    NamedTarget {
        name: "x86_64",
        architecture: Architecture::X86_64,
        levels: &cpu::X86_64,
        description: "any 64-bit x86 (SSE2)",
    },
    NamedTarget {
        name: "x86_64-v3",
        architecture: Architecture::X86_64,
        levels: &[&cpu::AMX, &cpu::AVX512VNNI, &cpu::AVXVNNI, &cpu::AVX2],
        description: "x86 with AVX2",
    },
    NamedTarget {
        name: "x86_64-v4",
        architecture: Architecture::X86_64,
        // Without VNNI, which is no part of v4, there is no better code than that for AVX2.
        levels: &[&cpu::AMX, &cpu::AVX512VNNI, &cpu::AVX2],
        description: "x86 with AVX-512",
    },
    NamedTarget {
        name: "aarch64",
        architecture: Architecture::Aarch64,
        levels: &cpu::AARCH64,
        description: "any 64-bit Arm",
    },
    NamedTarget {
        name: "aarch64-dotprod",
        architecture: Architecture::Aarch64,
        levels: &[&cpu::DOTPROD],
        description: "64-bit Arm with dot products (Cortex-A76 and later)",
    },
    NamedTarget {
        name: "riscv64",
        architecture: Architecture::Riscv64,
        levels: &cpu::RISCV64,
        description: "64-bit RISC-V (RV64GC)",
    },
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

impl NamedTarget {
    /// The target of this name.
    ///
    /// # Errors
    /// [`UnknownTarget`] where the table has none.
    pub fn find(name: &str) -> Result<&'static Self, UnknownTarget> {
        let target = TARGETS.iter().find(|target| target.name == name);
        target.ok_or_else(|| UnknownTarget(name.to_string()))
    }

    /// What is compiled for it, best first.
    pub fn variants(&self) -> Vec<Target> {
        self.levels.iter().map(|level| Target::new(self.architecture, level)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for target in &TARGETS {
            assert_eq!(NamedTarget::find(target.name), Ok(target));
            assert_eq!(TARGETS.iter().filter(|other| other.name == target.name).count(), 1);
        }
        assert_eq!(NamedTarget::find("z80").unwrap_err().to_string(), "unknown target `z80`");
    }

    #[test]
    fn levels_are_the_architectures_in_its_order() {
        for target in &TARGETS {
            let all = Level::all(target.architecture.name());
            let places: Vec<_> = target
                .levels
                .iter()
                .map(|level| all.iter().position(|other| other == level).unwrap())
                .collect();
            assert!(places.is_sorted() && !places.is_empty(), "{}: {places:?}", target.name);
        }
    }

    #[test]
    fn whatever_is_named_has_the_last_level() {
        let last = |name| NamedTarget::find(name).unwrap().variants().pop().unwrap().name;
        assert_eq!(["x86_64", "x86_64-v3", "x86_64-v4"].map(last), ["portable", "avx2", "avx2"]);
        assert_eq!(["aarch64", "aarch64-dotprod", "riscv64"].map(last), ["portable", "dotprod", "portable"]);
    }
}
