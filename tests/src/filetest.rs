//! Tests that are files: a module as text, what to do with it, and what comes out.
//!
//! ```text
//! // test: opt insert-normalization recipe=projection
//! // Other comments say what the file shows.
//! module @m trainable { ... }
//! // --- opt insert-normalization recipe=projection
//! module @m trainable { ... }
//! ```
//!
//! A file holds any number of tests of one module; each has a section, in the order of the `test:` lines, under its own
//! words. What tests there are is in [`subtests`]. With `FFC_BLESS=1` in the environment the sections are rewritten
//! with what came out; a failure shows the difference and says so.

mod diff;
mod settings;
pub mod subtests;

use std::path::{Path, PathBuf};

use diff::diff;

/// The variable that makes [`check`] rewrite expectations.
pub const BLESS: &str = "FFC_BLESS";

const TEST: &str = "// test:";
const SECTION: &str = "// ---";

/// A file in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileTest {
    /// Everything before the first section.
    input: String,
    /// The tests in order.
    tests: Vec<String>,
    /// The sections: a test and what should come out.
    sections: Vec<(String, String)>,
}

impl FileTest {
    fn parse(text: &str) -> Result<Self, String> {
        let mut test = Self { input: String::new(), tests: Vec::new(), sections: Vec::new() };
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(SECTION) {
                test.sections.push((name.trim().to_string(), String::new()));
            } else {
                let into = test.sections.last_mut().map_or(&mut test.input, |(_, text)| text);
                *into += line;
                into.push('\n');
            }
        }
        test.tests = test
            .input
            .lines()
            .filter_map(|line| line.strip_prefix(TEST))
            .map(|it| it.trim().into())
            .collect();
        if test.tests.is_empty() {
            return Err(format!("there is no line `{TEST} ...`"));
        }
        Ok(test)
    }

    fn expected(&self, test: &str) -> &str {
        self.sections.iter().find(|(name, _)| name == test).map_or("", |(_, text)| text)
    }

    fn with(&self, outputs: &[String]) -> String {
        let sections = self.tests.iter().zip(outputs).filter(|(_, output)| !output.is_empty());
        let sections = sections.map(|(test, output)| format!("{SECTION} {test}\n{output}"));
        self.input.clone() + &sections.collect::<String>()
    }
}

/// All file tests below a folder, in the order of their names.
///
/// # Panics
/// If the folder cannot be read.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "ffir") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs the tests of a file.
///
/// # Errors
/// What is wrong, with the difference between what is expected and what came out.
pub fn check(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let file = FileTest::parse(&text)?;
    let mut outputs = Vec::new();
    for test in &file.tests {
        let output = subtests::run(test, &file.input).map_err(|reason| format!("`{test}`: {reason}"))?;
        outputs.push(output);
    }
    if bless {
        return std::fs::write(path, file.with(&outputs)).map_err(|error| error.to_string());
    }
    if file.sections.iter().any(|(name, _)| !file.tests.contains(name)) {
        return Err(format!("a section has no test; {BLESS}=1 removes it"));
    }
    let differs = |(test, output): (&String, &String)| {
        let expected = file.expected(test);
        (expected != output).then(|| format!("`{test}` (- expected, + found):\n{}", diff(expected, output)))
    };
    let differences: Vec<String> = file.tests.iter().zip(&outputs).filter_map(differs).collect();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_apart_and_blessed() {
        let text = "// test: one\n// test: two x=1\nmodule\n// --- one\na\nb\n// --- two x=1\nc\n";
        let file = FileTest::parse(text).unwrap();
        assert_eq!(file.tests, ["one", "two x=1"]);
        assert_eq!(file.expected("one"), "a\nb\n");
        assert_eq!(file.with(&["a\nb\n".into(), "c\n".into()]), text);
        assert_eq!(
            file.with(&["".into(), "d\n".into()]),
            "// test: one\n// test: two x=1\nmodule\n// --- two x=1\nd\n"
        );
        assert!(FileTest::parse("module").unwrap_err().contains("// test:"));
    }
}
