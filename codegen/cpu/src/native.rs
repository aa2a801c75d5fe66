//! The machine at hand as a target: its architecture, and those of its features that generated code may use.

use ffc_codegen::{Architecture, Target};

/// The target `native`; `None` where this program itself runs on an architecture that the backend does not know.
pub fn native() -> Option<Target> {
    Some(Target {
        name: "native",
        architecture: Architecture::host()?,
        features: detected(),
        description: "the machine at hand",
    })
}

macro_rules! detect {
    ($macro:ident: $($feature:tt),* $(,)?) => {
        [$(($feature, std::arch::$macro!($feature))),*].into_iter().filter(|row| row.1).map(|row| row.0).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Vec<&'static str> {
    let mut features: Vec<_> = detect!(is_x86_feature_detected:
        "sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
        "avx512vnni", "avxvnni",
    );
    // The standard library does not tell, and the operating system wants to be asked.
    features.extend(["amx-tile", "amx-int8"].into_iter().filter(|feature| ffc_runtime::has_feature(feature)));
    features
}

#[cfg(target_arch = "aarch64")]
fn detected() -> Vec<&'static str> {
    detect!(is_aarch64_feature_detected: "dotprod")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> Vec<&'static str> {
    Vec::new()
}
