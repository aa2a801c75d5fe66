//! What a target offers to generated code, and Cranelift configured for it.

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use ffc_codegen::{Architecture, CodegenError, Target};

use crate::vex::Products;

/// A target as the emitter sees it.
pub(crate) struct Machine {
    /// Cranelift's view.
    pub(crate) isa: OwnedTargetIsa,
    /// 32-bit elements that are computed at a time: 4, or 1 where there are no vectors.
    pub(crate) lanes: usize,
    /// How sums of products are computed, by Cranelift.
    pub(crate) dot: Dot,
    /// Where contractions are not Cranelift's work: what they are made of.
    pub(crate) products: Option<Products>,
}

/// Instructions for sums of products of 8-bit integers, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dot {
    /// x86 `pmaddwd`: two products of 16-bit integers give a 32-bit lane.
    Pairs,
    /// AArch64 `sdot`, or its longer form of widening products and pairwise sums.
    Signed,
    /// One product at a time.
    Scalar,
}

/// Features by the names of Rust's feature detection, and Cranelift's setting for each that it knows.
const SETTINGS: &[(&str, Option<&str>)] = &[
    ("sse3", Some("has_sse3")),
    ("ssse3", Some("has_ssse3")),
    ("sse4.1", Some("has_sse41")),
    ("sse4.2", Some("has_sse42")),
    ("avx", Some("has_avx")),
    ("avx2", Some("has_avx2")),
    ("bmi2", Some("has_bmi2")),
    ("avx512f", Some("has_avx512f")),
    ("avx512bw", None),
    ("avx512dq", Some("has_avx512dq")),
    ("avx512vl", Some("has_avx512vl")),
    ("avx512vnni", Some("has_avx512vnni")),
    ("avxvnni", Some("has_avx_vnni")),
    // Cranelift has no tiles.
    ("amx-tile", None),
    ("amx-int8", None),
    ("dotprod", Some("has_dotprod")),
];

impl Machine {
    pub(crate) fn new(target: &Target) -> Result<Self, CodegenError> {
        let (dot, lanes) = match target.architecture {
            Architecture::X86_64 => (Dot::Pairs, 4),
            Architecture::Aarch64 => (Dot::Signed, 4),
            // Cranelift has no vectors for RISC-V without the V extension, which is not in RV64GC.
            Architecture::Riscv64 => (Dot::Scalar, 1),
        };
        Ok(Self { isa: configure(target)?, lanes, dot, products: Products::of(target) })
    }
}

fn configure(target: &Target) -> Result<OwnedTargetIsa, CodegenError> {
    let refuse = |what: &str, why: &dyn std::fmt::Display| CodegenError {
        kernel: None,
        reason: format!("target `{}`: {what}: {why}", target.name),
    };
    let triple = match target.architecture {
        Architecture::X86_64 => "x86_64-unknown-linux-gnu",
        Architecture::Aarch64 => "aarch64-unknown-linux-gnu",
        Architecture::Riscv64 => "riscv64gc-unknown-linux-gnu",
    };
    let mut builder = isa::lookup_by_name(triple).map_err(|error| refuse("no such architecture", &error))?;
    for feature in &target.features {
        let row = SETTINGS.iter().find(|row| row.0 == *feature);
        let &(_, setting) = row.ok_or_else(|| refuse("unknown feature", feature))?;
        if let Some(setting) = setting {
            builder.enable(setting).map_err(|error| refuse(feature, &error))?;
        }
    }
    builder.finish(flags()).map_err(|error| refuse("unusable features", &error))
}

fn flags() -> settings::Flags {
    let mut builder = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("enable_verifier", "true"),
        // Contractions leave their accumulators on the stack: more than a page.
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("unwind_info", "false"),
        ("enable_nan_canonicalization", "false"),
    ] {
        builder.set(name, value).expect("Cranelift has these settings");
    }
    settings::Flags::new(builder)
}
