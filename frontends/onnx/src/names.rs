//! Layer names: short, clean and unique, and the ones that people know from their own code.

use std::collections::{HashMap, HashSet};

use crate::graph::Node;

/// Hands out names that were not taken before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    /// The number to try next for a name that is taken.
    next: HashMap<String, u64>,
}

impl Names {
    /// `name`, or `name` with the first number that makes it unique.
    pub(crate) fn unique(&mut self, name: &str) -> String {
        let mut unique = name.to_string();
        while !self.taken.insert(unique.clone()) {
            let next = self.next.entry(name.to_string()).or_insert(2);
            unique = format!("{name}.{next}");
            *next += 1;
        }
        unique
    }

    /// How many were taken.
    pub(crate) fn count(&self) -> usize {
        self.taken.len()
    }
}

/// What exporters append to a layer's name for its weight.
const SUFFIXES: [&str; 5] = [".weight", ".bias", "/kernel", ".kernel", "/MatMul/ReadVariableOp"];

/// The name of a layer: the module's path, else what the weight's name says, else what the node's name says.
pub(crate) fn layer(node: &Node, weight: &str) -> Option<String> {
    let weight = weight.strip_suffix(":0").unwrap_or(weight);
    let of_weight = SUFFIXES.iter().find_map(|suffix| weight.strip_suffix(suffix));
    // `/fc1/Gemm` is the operator of the module `fc1`.
    let of_node =
        node.name.strip_suffix(&node.op).map_or(node.name.as_str(), |path| match path.strip_suffix('/') {
            Some(module) if !module.is_empty() => module,
            _ => node.name.as_str(),
        });
    let names = [node.module.as_deref(), of_weight, Some(of_node)];
    names.into_iter().flatten().find_map(|name| clean(name, "layer"))
}

/// The longest name that is kept.
const LENGTH: usize = 120;

/// Only letters, digits, `_` and `.`, no digit first: `prefix` comes before one. A path becomes dotted.
pub(crate) fn clean(name: &str, prefix: &str) -> Option<String> {
    let allowed = |c: char| match c {
        '/' | ':' => '.',
        c if c.is_ascii_alphanumeric() || c == '.' => c,
        _ => '_',
    };
    let name: String = name.chars().map(allowed).take(LENGTH).collect();
    let name = name.trim_matches('.');
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => Some(format!("{prefix}{name}")),
        false => (!name.is_empty()).then(|| name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, op: &str, module: Option<&str>) -> Node {
        Node {
            name: name.to_string(),
            op: op.to_string(),
            domain: "ai.onnx".to_string(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Default::default(),
            module: module.map(str::to_string),
        }
    }

    #[test]
    fn layer_names_are_those_of_the_source() {
        let cases = [
            (node("node_linear", "Gemm", Some("layers.1")), "x", "layers.1"),
            (node("/fc1/Gemm", "Gemm", None), "fc1.weight", "fc1"),
            (node("/1/Gemm", "Gemm", None), "1.weight", "layer1"),
            (node("/fc1/Gemm", "Gemm", None), "onnx::MatMul_3", "fc1"),
            (
                node("sequential/dense/MatMul", "MatMul", None),
                "sequential/dense/MatMul/ReadVariableOp:0",
                "sequential.dense",
            ),
            (node("MatMul1", "MatMul", None), "coefficient1", "MatMul1"),
            (node("Gemm", "Gemm", None), "w", "Gemm"),
        ];
        for (node, weight, name) in cases {
            assert_eq!(layer(&node, weight).as_deref(), Some(name));
        }
        assert_eq!(layer(&node("", "Gemm", None), "w"), None);
    }

    #[test]
    fn names_are_unique() {
        let mut names = Names::default();
        assert_eq!([names.unique("a"), names.unique("a"), names.unique("a")], ["a", "a.2", "a.3"]);
    }
}
