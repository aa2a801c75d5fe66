//! Effects, and what layers share: parameters, streams, scores, publications.

use std::collections::{HashMap, HashSet};

use super::{Verifier, at_layer, at_value};
use crate::analysis::needed;
use crate::arena::Handle;
use crate::module::{Layer, Op, Param, Region, Rounding, Value};
use crate::text::mnemonic;
use crate::types::Type;

impl Verifier<'_> {
    pub(super) fn effects(&mut self) {
        for layer in &self.module.layers {
            for (region, value) in layer.ops() {
                self.placed(layer, region, &layer.values[value]);
            }
            self.at_most_one(layer, "publish", |op| matches!(op, Op::Publish(_)));
            self.at_most_one(layer, "report", |op| matches!(op, Op::Report(_)));
            self.publication(layer);
        }
        self.writes();
        self.streams();
        self.scores();
    }

    fn placed(&mut self, layer: &Layer, region: Region, value: &Value) {
        let allowed: &[Region] = match value.op {
            Op::Score { .. } => &[Region::Forward, Region::Head],
            Op::Publish(_) | Op::Ahead => &[Region::Head, Region::LookAhead],
            Op::Report(_) | Op::Track { .. } => &[Region::Head, Region::Update],
            Op::Assign { .. } | Op::Sgd(_) => &[Region::Update],
            _ => &Region::ALL,
        };
        if !allowed.contains(&region) {
            let message =
                format!("`{}` does not belong into region `{}`", mnemonic(&value.op), region.name());
            self.fail(at_value(layer, value), message);
        }
    }

    fn at_most_one(&mut self, layer: &Layer, what: &str, is: impl Fn(&Op) -> bool) {
        let count = layer.ops().filter(|&(_, value)| is(&layer.values[value].op)).count();
        if count > 1 {
            self.fail(at_layer(layer), format!("there are {count} `{what}`, and one is the most"));
        }
    }

    fn publication(&mut self, layer: &Layer) {
        let publish = layer.ops().find(|&(_, value)| matches!(layer.values[value].op, Op::Publish(_)));
        let Some((_, publish)) = publish else { return };
        let needed = needed(layer, [publish]);
        let ahead =
            |(handle, value): (Handle<Value>, &Value)| needed[handle.index()] && value.op == Op::Ahead;
        if layer.values.iter().any(ahead) {
            let message = "publishes what depends on `ahead`, but all layers publish before any looks ahead";
            self.fail(at_value(layer, &layer.values[publish]), message);
        }
    }

    /// At most one write of each parameter, and no reads of it elsewhere.
    fn writes(&mut self) {
        let module = self.module;
        let mut writers: HashMap<Handle<Param>, usize> = HashMap::new();
        for (index, layer) in module.layers.iter().enumerate() {
            for (_, value) in layer.ops() {
                let value = &layer.values[value];
                for param in written(&value.op) {
                    if writers.insert(param, index).is_some() {
                        let message = format!("writes `@{}` a second time", module.params[param].name);
                        self.fail(at_value(layer, value), message);
                    }
                }
            }
        }
        // Layers run in order, so one may read what a later one will write: it sees what was there before the step.
        for (index, layer) in module.layers.iter().enumerate() {
            for (_, value) in layer.ops() {
                let value = &layer.values[value];
                let (Op::Param(param) | Op::ScaleOf(param)) = value.op else { continue };
                if let Some(&writer) = writers.get(&param).filter(|&&writer| writer < index) {
                    let (param, writer) = (&module.params[param].name, &module.layers[writer].name);
                    let message = format!("reads `@{param}`, which layer `@{writer}` writes");
                    self.fail(at_value(layer, value), message);
                }
            }
        }
    }

    fn streams(&mut self) {
        let mut seen = HashSet::new();
        for layer in &self.module.layers {
            for (_, value) in layer.ops() {
                let value = &layer.values[value];
                let stream = match value.op {
                    Op::Quantize { rounding: Rounding::Stochastic(stream), .. } | Op::Overlaid { stream } => {
                        stream
                    }
                    Op::Sgd(sgd) => sgd.stream,
                    _ => continue,
                };
                if !seen.insert(stream) {
                    self.fail(
                        at_value(layer, value),
                        format!("draws from stream {stream} like another value"),
                    );
                }
            }
        }
    }

    /// The first score sets, and all have one type.
    fn scores(&mut self) {
        let mut first: Option<Type> = None;
        for layer in &self.module.layers {
            for (_, value) in layer.ops() {
                let value = &layer.values[value];
                let Op::Score { accumulate, .. } = value.op else { continue };
                match first {
                    None if accumulate => {
                        self.fail(at_value(layer, value), "adds to scores that nothing has set")
                    }
                    Some(ty) if ty != value.ty => {
                        let message = format!("scores {}, where an earlier score is {ty}", value.ty);
                        self.fail(at_value(layer, value), message);
                    }
                    _ => {}
                }
                first = first.or(Some(value.ty));
            }
        }
    }
}

/// The parameters that an operation writes.
fn written(op: &Op) -> Vec<Handle<Param>> {
    match *op {
        Op::Track { param, .. } | Op::Assign { param, .. } => vec![param],
        Op::Sgd(sgd) => {
            std::iter::once(sgd.param).chain(sgd.momentum.map(|(velocity, _)| velocity)).collect()
        }
        _ => Vec::new(),
    }
}
