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

/// Names for parts of what an x86 machine offers, each with the features that mark it and those beyond that it does
/// without: for tests and comparisons on one machine.
const LEVELS: [(&str, &[&str], &[&str]); 5] = [
    (
        "portable",
        &[],
        &["sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "bmi2", "avxvnni", "avx512", "amx"],
    ),
    ("avx2", &["avx2"], &["avxvnni", "avx512", "amx"]),
    ("avxvnni", &["avxvnni"], &["avx512", "amx"]),
    ("avx512vnni", &["avx512vnni"], &["amx"]),
    ("amx", &["amx-int8"], &[]),
];

/// The target `native` as a machine with less would see it: `portable`, `avx2`, `avxvnni`, `avx512vnni` or `amx`.
///
/// # Errors
/// When there is no such name, or this machine lacks what it stands for.
pub fn native_as(level: &str) -> Result<Target, String> {
    let names = LEVELS.map(|row| row.0).join(", ");
    let row = LEVELS.iter().find(|row| row.0 == level);
    let (_, marks, without) = row.ok_or_else(|| format!("`{level}` is none of {names}"))?;
    let target = native().ok_or("this machine is of no architecture that there is code for")?;
    if let Some(missing) = marks.iter().find(|mark| !target.has(mark)) {
        return Err(format!("this machine has no `{missing}`, which `{level}` stands for"));
    }
    // `avx512` and `amx` are families, all others are features.
    let family = |left_out: &str| matches!(left_out, "avx512" | "amx");
    let kept = |feature: &&str| {
        !without.iter().any(|out| *feature == *out || (family(out) && feature.starts_with(out)))
    };
    Ok(Target { features: target.features.iter().copied().filter(kept).collect(), ..target })
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
