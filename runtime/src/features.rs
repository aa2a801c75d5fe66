//! Which processor features this machine has, by the names that artifacts use.
//!
//! The names are those of the standard library's detection macros, which take literals only; hence the lists. AMX is
//! not among the stable ones, and a process must ask Linux for its registers before it uses them.

/// Whether this machine has the feature; a name that is not known here is not there.
///
/// Asking for `amx-tile` or `amx-int8` asks the operating system to let this process use the tile registers.
pub fn has_feature(name: &str) -> bool {
    detect(name)
}

/// `match name { "avx2" => is_x86_feature_detected!("avx2"), ... }`
#[allow(unused_macros, reason = "architectures without a list")]
macro_rules! by_name {
    ($detected:ident, $name:expr, [$($feature:tt)*], $other:expr) => {
        match $name {
            $($feature => std::arch::$detected!($feature),)*
            other => $other(other),
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn detect(name: &str) -> bool {
    by_name!(
        is_x86_feature_detected,
        name,
        ["sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt"
         "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni"
         "avx512bitalg" "avx512vpopcntdq" "avx512bf16" "avx512fp16" "avxvnni" "avxvnniint8" "avxvnniint16" "avxifma"
         "gfni"],
        |other| match other {
            "amx-tile" => amx::has(24),
            "amx-int8" => amx::has(24) && amx::has(25),
            _ => false,
        }
    )
}

#[cfg(target_arch = "aarch64")]
fn detect(name: &str) -> bool {
    by_name!(
        is_aarch64_feature_detected,
        name,
        ["neon" "dotprod" "i8mm" "fp16" "fhm" "bf16" "rdm" "lse" "crc" "sve" "sve2"],
        |_| false
    )
}

#[cfg(target_arch = "riscv64")]
fn detect(name: &str) -> bool {
    by_name!(is_riscv_feature_detected, name, ["m" "a" "f" "d" "c" "v" "zba" "zbb" "zbs"], |_| false)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn detect(_name: &str) -> bool {
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Whether leaf 7 of CPUID has this bit in `edx`, and Linux lets this process use the tile registers.
    pub(super) fn has(bit: u32) -> bool {
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << bit) != 0 && permitted()
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
    pub(super) fn has(_bit: u32) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_not_there() {
        assert!(!has_feature("flux-capacitor"));
        assert!(!has_feature(""));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_base_is_there() {
        assert!(has_feature("sse2"));
        assert_eq!(has_feature("amx-int8"), has_feature("amx-int8") && has_feature("amx-tile"));
    }
}
