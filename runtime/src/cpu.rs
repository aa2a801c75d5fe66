//! What the processor at hand can do, as a value that only looking at it makes.
//!
//! An instruction that a processor does not have ends the process. So code is chosen by a [`Cpu`]: it holds the features
//! that were found on this machine, or fewer of them, and nothing else makes one. An artifact has code for several
//! [`Level`]s, best first; [`Cpu::choose`] takes the first that needs no more than there is, and what it returns is the
//! only thing that code is mapped from.
//!
//! Features have the names of the standard library's detection macros, which take literals only; hence the lists. AMX is
//! not among the stable ones, and a process must ask Linux for its registers before it uses them.

use std::env::consts::ARCH;
use std::fmt;
use std::sync::OnceLock;

use crate::artifact::Variant;
use crate::{CpuError, LoadError};

/// A set of features that there is code of its own for, by a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Level {
    /// The name.
    pub name: &'static str,
    /// What it builds on.
    below: Option<&'static Level>,
    /// Features beyond that.
    adds: &'static [&'static str],
}

/// No more than the architecture's base.
pub static PORTABLE: Level = Level { name: "portable", below: None, adds: &[] };
/// x86: the vectors of x86-64-v3.
pub static AVX2: Level = Level {
    name: "avx2",
    below: Some(&PORTABLE),
    adds: &["sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "bmi2"],
};
/// x86: sums of products on the vectors of AVX2.
pub static AVXVNNI: Level = Level { name: "avxvnni", below: Some(&AVX2), adds: &["avxvnni"] };
/// x86: vectors of 512 bits, and sums of products on them.
pub static AVX512VNNI: Level = Level {
    name: "avx512vnni",
    below: Some(&AVX2),
    adds: &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"],
};
/// x86: tiles of 8-bit integers.
pub static AMX: Level = Level { name: "amx", below: Some(&AVX512VNNI), adds: &["amx-tile", "amx-int8"] };
/// Arm: sums of products.
pub static DOTPROD: Level = Level { name: "dotprod", below: Some(&PORTABLE), adds: &["dotprod"] };

/// The levels of x86-64, best first.
pub static X86_64: [&Level; 5] = [&AMX, &AVX512VNNI, &AVXVNNI, &AVX2, &PORTABLE];
/// The levels of AArch64, best first.
pub static AARCH64: [&Level; 2] = [&DOTPROD, &PORTABLE];
/// The levels of RISC-V, best first.
pub static RISCV64: [&Level; 1] = [&PORTABLE];

impl Level {
    /// The levels of an architecture, by its name in [`std::env::consts::ARCH`], best first.
    pub fn all(architecture: &str) -> &'static [&'static Self] {
        match architecture {
            "x86_64" => &X86_64,
            "aarch64" => &AARCH64,
            "riscv64" => &RISCV64,
            _ => &[],
        }
    }

    /// All that its code may use beyond the architecture's base.
    pub fn features(&self) -> Vec<&'static str> {
        let mut features = self.below.map_or_else(Vec::new, Self::features);
        features.extend(self.adds);
        features
    }
}

/// Features that this machine has: see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// What it was lowered to, if it was.
    level: Option<&'static Level>,
    features: Vec<&'static str>,
}

impl Cpu {
    /// All that this machine has. It is looked at once; on one with AMX, that asks the operating system to let this
    /// process use the tile registers.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Cpu> = OnceLock::new();
        DETECTED.get_or_init(|| Self { level: None, features: detected() }).clone()
    }

    /// The same machine as one that has nothing beyond a level, to run and measure other code than the best: `portable`,
    /// `avx2`, `avxvnni`, `avx512vnni` or `amx` on x86-64.
    ///
    /// # Errors
    /// When the architecture has no such level, or this machine does not have all of it.
    pub fn lowered_to(&self, level: &str) -> Result<Self, CpuError> {
        let all = Level::all(ARCH);
        let unknown = || CpuError::Unknown {
            name: level.to_string(),
            known: all.iter().map(|level| level.name).collect(),
        };
        let level = *all.iter().find(|known| known.name == level).ok_or_else(unknown)?;
        let features = level.features();
        match features.iter().find(|feature| !self.has(feature)) {
            Some(missing) => Err(CpuError::Missing { level: level.name, feature: missing }),
            None => Ok(Self { level: Some(level), features }),
        }
    }

    /// It lowered to each level that it has, best first.
    pub fn levels(&self) -> impl Iterator<Item = Self> {
        Level::all(ARCH).iter().filter_map(|level| self.lowered_to(level.name).ok())
    }

    /// The level that it was lowered to, if it was.
    pub fn level(&self) -> Option<&'static Level> {
        self.level
    }

    /// Its features.
    pub fn features(&self) -> &[&'static str] {
        &self.features
    }

    /// Whether it has a feature; it has none that is not known here.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }

    fn missing<'a>(&self, variant: &'a Variant) -> impl Iterator<Item = &'a String> {
        variant.features.iter().filter(|feature| !self.has(feature))
    }

    /// The first of an artifact's variants, which are best first, that this machine runs.
    ///
    /// # Errors
    /// When it is of another architecture, or lacks something for each of them.
    pub fn choose<'a>(&self, architecture: &str, variants: &'a [Variant]) -> Result<Runnable<'a>, LoadError> {
        if architecture != ARCH {
            return Err(LoadError::Architecture { needed: architecture.to_string(), here: ARCH });
        }
        let needs = |variant: &Variant| (variant.name.clone(), self.missing(variant).cloned().collect());
        let runnable = variants.iter().find(|variant| self.missing(variant).next().is_none());
        runnable.map(Runnable).ok_or_else(|| LoadError::NoVariant {
            cpu: self.to_string(),
            needs: variants.iter().map(needs).collect(),
        })
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "this machine as `{}`", level.name),
            None => f.write_str("this machine"),
        }
    }
}

/// Code that this machine has all features for: [`Cpu::choose`] alone makes one.
#[derive(Clone, Copy, Debug)]
pub struct Runnable<'a>(&'a Variant);

impl<'a> Runnable<'a> {
    /// The code.
    pub fn variant(&self) -> &'a Variant {
        self.0
    }
}

/// Those of the features that the macro finds.
#[allow(unused_macros, reason = "architectures without a list")]
macro_rules! found {
    ($detected:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$detected!($feature))),*].into_iter().filter(|row| row.1).map(|row| row.0).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Vec<&'static str> {
    let mut features: Vec<_> = found!(is_x86_feature_detected:
        "sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni"
        "avx512bitalg" "avx512vpopcntdq" "avx512bf16" "avx512fp16" "avxvnni" "avxvnniint8" "avxvnniint16" "avxifma"
        "gfni"
    );
    features.extend(amx::detected());
    features
}

#[cfg(target_arch = "aarch64")]
fn detected() -> Vec<&'static str> {
    found!(is_aarch64_feature_detected:
        "neon" "dotprod" "i8mm" "fp16" "fhm" "bf16" "rdm" "lse" "crc" "sve" "sve2"
    )
}

#[cfg(target_arch = "riscv64")]
fn detected() -> Vec<&'static str> {
    found!(is_riscv_feature_detected: "m" "a" "f" "d" "c" "v" "zba" "zbb" "zbs")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn detected() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Of the tile features those that leaf 7 of CPUID shows, if Linux lets this process use the tile registers.
    pub(super) fn detected() -> Vec<&'static str> {
        let shown = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
        let has = |bit: u32| shown & (1 << bit) != 0;
        if !has(24) || !permitted() {
            return Vec::new();
        }
        if has(25) { vec!["amx-tile", "amx-int8"] } else { vec!["amx-tile"] }
    }

    /// Asks for the registers (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`); asking twice does no harm.
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        let result: i64;
        // SAFETY: the call takes two numbers, touches no memory of this process, and clobbers rcx and r11 only.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
mod amx {
    pub(super) fn detected() -> Vec<&'static str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_not_there() {
        let cpu = Cpu::detect();
        assert!(!cpu.has("flux-capacitor") && !cpu.has(""));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_base_is_there() {
        assert!(Cpu::detect().has("sse2"));
        assert!(Cpu::detect().has("amx-tile") || !Cpu::detect().has("amx-int8"));
    }

    #[test]
    fn levels_build_on_those_behind_them() {
        for architecture in ["x86_64", "aarch64", "riscv64"] {
            let levels = Level::all(architecture);
            for (index, level) in levels.iter().enumerate() {
                let below: Vec<_> = level.below.into_iter().collect();
                assert!(below.iter().all(|below| levels[index + 1..].contains(below)), "{}", level.name);
            }
            assert_eq!(levels.last(), Some(&&PORTABLE));
        }
    }

    #[test]
    fn a_machine_is_made_less_and_never_more() {
        let cpu = Cpu::detect();
        let portable = cpu.lowered_to("portable").unwrap();
        assert!(portable.features().is_empty());
        assert_eq!(portable.levels().collect::<Vec<_>>(), std::slice::from_ref(&portable));
        assert_eq!(portable.to_string(), "this machine as `portable`");
        for level in Level::all(ARCH).iter().filter(|level| level.name != "portable") {
            let error = portable.lowered_to(level.name).unwrap_err();
            assert!(matches!(error, CpuError::Missing { level: name, .. } if name == level.name), "{error}");
            match cpu.lowered_to(level.name) {
                Ok(lowered) => assert_eq!(lowered.features(), level.features()),
                Err(error) => assert!(matches!(error, CpuError::Missing { .. }), "{error}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_cannot_be_made_of_a_machine_is_said() {
        let portable = Cpu::detect().lowered_to("portable").unwrap();
        let error = |level| portable.lowered_to(level).unwrap_err().to_string();
        assert_eq!(error("mmx"), "`mmx` is none of amx, avx512vnni, avxvnni, avx2, portable");
        assert_eq!(error("avx2"), "this machine has no `sse3`, which `avx2` stands for");
    }

    fn variant(name: &str, features: &[&str]) -> Variant {
        let features = features.iter().map(ToString::to_string).collect();
        Variant { name: name.to_string(), features, entries: Vec::new(), code: vec![0] }
    }

    #[test]
    fn the_first_variant_that_runs_is_chosen() {
        let variants = [variant("far", &["flux"]), variant("near", &[]), variant("nearest", &[])];
        let chosen = Cpu::detect().choose(ARCH, &variants).unwrap();
        assert_eq!(chosen.variant().name, "near");
    }

    #[test]
    fn other_machines_are_refused() {
        let cpu = Cpu::detect().lowered_to("portable").unwrap();
        let refusal =
            |architecture, variants: &[_]| cpu.choose(architecture, variants).err().unwrap().to_string();
        let error = refusal("z80", &[variant("native", &[])]);
        assert!(error.starts_with("the artifact is for `z80`, this machine is `"), "{error}");
        let error = refusal(ARCH, &[variant("far", &["flux", "warp"]), variant("near", &["flux"])]);
        assert_eq!(
            error,
            "the artifact has no code that this machine as `portable` can run: `far` needs flux warp, `near` needs flux"
        );
    }
}
