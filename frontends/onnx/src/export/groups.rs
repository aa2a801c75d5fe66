//! Convolutions in groups, which a module has as several convolutions of some channels each, side by side: found again,
//! to be written as one operator.

use ffc_ir::Handle;
use ffc_ir::module::{Activation, BinaryOp, Layer, Op, Value};
use ffc_ir::types::Dim;
use ffc_ir::window::Window;

type V = Handle<Value>;

/// A convolution in groups.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    /// What all of them look at.
    pub(super) source: V,
    pub(super) window: Option<Window>,
    /// Channels of a group.
    pub(super) depth: usize,
    /// The weight of each.
    pub(super) weights: Vec<V>,
    /// The bias of each, or none.
    pub(super) biases: Vec<V>,
    /// What follows, the same for each.
    pub(super) activation: Option<Activation>,
    /// Values that are written with the operator.
    pub(super) inner: Vec<V>,
}

/// One of them, and its first channel.
struct Group {
    source: V,
    from: usize,
    depth: usize,
    window: Option<Window>,
    weight: V,
    bias: Option<V>,
    activation: Option<Activation>,
}

/// The groups that a concatenation is put together from, if that is all it is.
pub(super) fn groups(layer: &Layer, uses: &[usize], whole: V) -> Option<Groups> {
    let finder = Finder { layer, uses };
    let (mut parts, mut rest, mut inner) = (Vec::new(), whole, Vec::new());
    while let Op::Concat(first, second) = layer.values[rest].op {
        parts.push(second);
        rest = first;
        if uses[rest.index()] != 1 {
            return None;
        }
        inner.push(rest);
    }
    parts.push(rest);
    let mut found = parts.into_iter().rev().map(|part| finder.group(part, &mut inner));
    let first = found.next()??;
    let mut all = Groups {
        source: first.source,
        window: first.window,
        depth: first.depth,
        weights: vec![first.weight],
        biases: first.bias.into_iter().collect(),
        activation: first.activation,
        inner: Vec::new(),
    };
    let filters = finder.rows(first.weight);
    for (number, group) in (1..).zip(found) {
        let group = group?;
        let same = (group.source, group.window, group.depth) == (all.source, all.window, all.depth);
        let follows = group.from == number * all.depth && finder.rows(group.weight) == filters;
        if !same || !follows || group.activation != all.activation {
            return None;
        }
        all.weights.push(group.weight);
        all.biases.extend(group.bias);
    }
    let covers = finder.columns(all.source) == all.weights.len() * all.depth;
    let biased = all.biases.is_empty() || all.biases.len() == all.weights.len();
    all.inner = inner;
    (first.from == 0 && covers && biased && all.weights.len() > 1).then_some(all)
}

struct Finder<'a> {
    layer: &'a Layer,
    uses: &'a [usize],
}

impl Finder<'_> {
    fn columns(&self, value: V) -> usize {
        match self.layer.ty(value).columns() {
            Dim::Const(columns) | Dim::Rows(columns) => columns,
        }
    }

    fn rows(&self, value: V) -> Dim {
        self.layer.ty(value).rows()
    }

    /// The group whose channels a value is, if nobody else sees anything on the way.
    fn group(&self, value: V, inner: &mut Vec<V>) -> Option<Group> {
        let op = |value: V| self.layer.values[value].op;
        let mut note = |value: V| {
            inner.push(value);
            (self.uses[value.index()] == 1).then_some(())
        };
        let (mut rest, mut activation, mut bias) = (value, None, None);
        if let Op::Activate(function, before) = op(rest) {
            note(rest)?;
            (activation, rest) = (Some(function), before);
        }
        if let Op::Binary(BinaryOp::Add, sum, by) = op(rest) {
            note(rest)?;
            (bias, rest) = (Some(by), sum);
        }
        let Op::Dot { lhs, rhs: weight } = op(rest) else { return None };
        note(rest)?;
        let (seen, window) = match op(lhs) {
            Op::Window { value, window } => (value, Some(window)),
            _ => (lhs, None),
        };
        let Op::Slice { value: source, from, columns: depth } = op(seen) else { return None };
        let is_param = |value: V| matches!(op(value), Op::Param(_));
        let whole = self.layer.sliced(source).is_none() && is_param(weight) && bias.is_none_or(is_param);
        whole.then_some(Group { source, from, depth, window, weight, bias, activation })
    }
}
