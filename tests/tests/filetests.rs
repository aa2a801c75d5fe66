//! Everything under `filetests/`: text form, verifier, each pass before and after, kernel lists and memory plans of
//! whole networks, small steps by value. A change of any of them shows here as a difference to look at.

use std::path::Path;

use ffc_tests::filetest::{BLESS, check, files};

#[test]
fn files_give_what_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let bless = std::env::var(BLESS).is_ok_and(|value| value == "1");
    let all = files(&root);
    assert!(!all.is_empty(), "the file tests are there");
    let mut failures = Vec::new();
    for path in &all {
        if let Err(reason) = check(path, bless) {
            let name = path.strip_prefix(&root).unwrap_or(path).display();
            failures.push(format!("filetests/{name}: {reason}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} files differ\n\n{}\nif this is what you want: {BLESS}=1 cargo test -p ffc-tests --test filetests",
        failures.len(),
        all.len(),
        failures.join("\n")
    );
}
