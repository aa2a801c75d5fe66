//! Modules survive their text form, and no text breaks the parser.

use ffc_ir::canonical::canonical;
use ffc_ir::module::Module;
use ffc_ir::{generate, parse, verify};
use proptest::prelude::*;

fn survives(module: &Module) {
    if let Err(errors) = verify(module) {
        panic!("{module}\n{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    let text = module.to_string();
    let parsed = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(parsed, canonical(module), "{text}");
    assert_eq!(parsed.to_string(), text);
    verify(&parsed).expect("the text means the same");
}

/// What must hold for any text: no panic, and what parses prints and parses again.
fn harmless(text: &str) {
    let Ok(module) = parse(text) else { return };
    let printed = module.to_string();
    assert_eq!(parse(&printed).expect("what was printed"), module, "{printed}");
    let _ = verify(&module);
}

/// `text` with a few bytes replaced, removed or repeated.
fn mutate(text: &str, edits: &[(usize, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, length, insert) in edits {
        let start = at % (chars.len() + 1);
        let end = (start + length).min(chars.len());
        chars.splice(start..end, insert.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn generated_modules_survive(seed: u64) {
        survives(&generate::module(seed));
    }

    #[test]
    fn any_text_is_harmless(text in "\\PC*") {
        harmless(&text);
    }

    #[test]
    fn token_soup_is_harmless(words in prop::collection::vec(prop::sample::select(&[
        "module", "@a", "quantized", "{", "}", "input", "u8", "[", "4", "]", "classes", "batch", "rows", "plain",
        "param", ":", "f32", ",", "weight", "layer", "hidden", "forward", "%x", "=", "dot", "(", ")", "-inf", "yield",
        "//", "\n", "1e999", "99999999999999999999999", "range", "sgd", "%", "@",
    ][..]), 0..60)) {
        harmless(&words.join(" "));
        harmless(&format!("module @a quantized {{ input u8[4] classes 2 batch 1 rows plain {}", words.join(" ")));
    }

    #[test]
    fn mutated_modules_are_harmless(
        seed: u64,
        edits in prop::collection::vec((any::<usize>(), 0usize..8, "[ -~\\n]{0,4}"), 1..6),
    ) {
        harmless(&mutate(&generate::module(seed).to_string(), &edits));
    }
}

#[test]
fn many_seeds_survive() {
    (0..500).map(generate::module).for_each(|module| survives(&module));
}
