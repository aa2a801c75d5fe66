//! What every pass may rely on, checked.
//!
//! Invariants of a verified module:
//!
//! * **Sizes**: batch, features and classes are at least 1, contrast rows have a wrong class to choose (2 classes);
//!   every value and parameter has from 1 to 2^31 - 1 elements, full batch assumed, so that positions fit an `i32`;
//!   windows, which nobody writes down, may have more.
//! * **Names** are identifiers (`[A-Za-z_][A-Za-z0-9_.]*`), unique among parameters, among layers, and among the values
//!   of a layer.
//! * **Parameters** have a storage that their role allows: fixed point for weights and heads alone; ranges are
//!   `f32[1, 1]`; 16 bits for velocities alone, 8 for groups alone; before quantization everything is `f32`.
//! * **Handles** point to something; an operand is defined before its user in the order in which regions run, and is no
//!   effect; a value is in one region once; outputs are defined in the forward region.
//! * **Types** of results follow from operands ([`result_type`]); what a layer takes is what the one before hands over.
//!   The first layer takes nothing, or, in an imported module, the samples as `f32`.
//! * **Phases**: an imported module is one whole layer with a forward region alone; contractions are `f32` before
//!   quantization and `i8` after it, and only then are there quantizers.
//! * **Roles** are in order: one prepare layer at most, the first, which updates nothing; one classifier at most, the last.
//! * **Effects** are where they belong: scores in forward and head; publications, and what looks ahead at them, in head and
//!   look-ahead; reports and trackers in head and update; assignments and optimizer steps in update. A layer
//!   publishes and reports at most once, and what it publishes does not depend on what is ahead. The first score sets.
//! * **Writes**: a step writes a parameter at most once, and only the layer that writes it reads it.
//! * **Streams** of the random generator are drawn from once.
//! * **Attributes** are numbers: finite, except for the bounds of a clip; decay and momentum are from 0 to 1.
//! * **Sums** of `i8` products fit an `i32`.
//! * **Windows** are looked through by contractions alone.

mod attributes;
mod effects;
mod layers;
mod params;
mod types;

use std::collections::HashMap;
use std::ops::Deref;

use crate::diagnostics::{Diagnostic, Location};
use crate::module::{Layer, Module, RowPlan, Value};
use crate::types::{DType, Dim, Type};

pub use types::result_type;

/// A module that keeps the [invariants](self): what lowering and the interpreter demand.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    module: &'a Module,
}

impl<'a> Verified<'a> {
    /// The module.
    pub fn module(self) -> &'a Module {
        self.module
    }
}

impl Deref for Verified<'_> {
    type Target = Module;
    fn deref(&self) -> &Module {
        self.module
    }
}

/// Longest sum of `i8` products, each at most 127 * 127, that fits an `i32`.
pub const MAX_DEPTH: usize = 133_144;

/// Most elements of a value or a parameter.
pub const MAX_ELEMENTS: usize = i32::MAX as usize;

/// Checks the [invariants](self).
///
/// # Errors
/// Everything that is wrong.
pub fn verify(module: &Module) -> Result<Verified<'_>, Vec<Diagnostic>> {
    let mut verifier = Verifier { module, errors: Vec::new() };
    // Each stage may rely on the ones before, and what they complain about would only be complained about again.
    let stages =
        [Verifier::header, Verifier::params, Verifier::layer_list, Verifier::layers, Verifier::effects];
    for stage in stages {
        stage(&mut verifier);
        if !verifier.errors.is_empty() {
            return Err(verifier.errors);
        }
    }
    Ok(Verified { module })
}

/// A check in progress.
struct Verifier<'a> {
    module: &'a Module,
    errors: Vec<Diagnostic>,
}

impl Verifier<'_> {
    fn fail(&mut self, location: Option<Location>, message: impl Into<String>) {
        self.errors.push(Diagnostic { message: message.into(), help: None, location });
    }

    fn header(&mut self) {
        let module = self.module;
        self.identifier(None, "module", &module.name);
        for (what, size) in
            [("batch", module.batch), ("features", module.features), ("classes", module.classes)]
        {
            if size == 0 || size > MAX_ELEMENTS {
                self.fail(None, format!("`{what}` is {size}, not from 1 to {MAX_ELEMENTS}"));
            }
        }
        if !matches!(module.input, DType::U8 | DType::F32) {
            self.fail(None, format!("the input is {}, not u8 or f32", module.input));
        }
        if !self.errors.is_empty() {
            return;
        }
        if matches!(module.rows, RowPlan::Contrast { .. }) && module.classes < 2 {
            self.fail(None, "contrast rows need at least 2 classes");
        }
        self.elements(None, Type::new(module.input, Dim::ROWS, Dim::Const(module.features)));
    }

    fn identifier(&mut self, location: Option<Location>, what: &str, name: &str) {
        if !is_identifier(name) {
            let message = format!("`{name}` cannot name a {what}");
            let diagnostic =
                Diagnostic::new(message).with_help("names are letters, digits, `_` and `.`, no digit first");
            self.errors.push(Diagnostic { location, ..diagnostic });
        }
    }

    /// Names that occur twice, each reported once.
    fn unique<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
        what: &str,
        at: impl Fn(&str) -> Location,
    ) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for name in names {
            let count = counts.entry(name).or_default();
            *count += 1;
            if *count == 2 {
                self.fail(Some(at(name)), format!("two {what} have this name"));
            }
        }
    }

    /// The size of a dimension in a full batch.
    fn size(&self, dim: Dim) -> Option<usize> {
        let module = self.module;
        match dim {
            Dim::Rows(n) => {
                let rows = module.batch.checked_mul(module.rows.rows_per_sample(module.classes))?;
                rows.checked_mul(n)
            }
            Dim::Const(size) => Some(size),
        }
    }

    fn elements(&mut self, location: Option<Location>, ty: Type) {
        let count = self.size(ty.rows()).zip(self.size(ty.columns()));
        let count = count.and_then(|(rows, columns)| rows.checked_mul(columns));
        if count.is_none_or(|count| count == 0 || count > MAX_ELEMENTS) {
            self.fail(location, format!("{ty} is empty or has more than {MAX_ELEMENTS} elements"));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
}

fn at_layer(layer: &Layer) -> Option<Location> {
    Some(Location::Layer(layer.name.clone()))
}

fn at_value(layer: &Layer, value: &Value) -> Option<Location> {
    Some(Location::Value { layer: layer.name.clone(), value: value.name.clone() })
}
