//! What an application takes in with the runtime: no compiler, and not much else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn the_runtime_depends_on_no_compiler() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", "ffc-runtime", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    crates.sort_unstable();
    crates.dedup();
    assert!(crates.contains(&"ffc-runtime") && crates.contains(&"serde"), "{crates:?}");
    let ours = crates.iter().filter(|name| name.starts_with("ffc"));
    assert_eq!(ours.collect::<Vec<_>>(), [&"ffc-runtime"]);
    assert!(!crates.iter().any(|name| name.starts_with("cranelift")), "{crates:?}");
    assert!(crates.len() <= 40, "{} crates: {crates:?}", crates.len());
}
