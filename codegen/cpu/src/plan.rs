//! What a stage needs, and where each expression may be evaluated.

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Expr, Fold, Kernel, Level, Stage};

/// A stage with the expressions that it needs, operands before users.
pub(crate) struct Plan<'a> {
    pub(crate) stage: &'a Stage,
    /// What decides whether it runs.
    pub(crate) gate: Vec<Handle<Expr>>,
    /// Everything that it stores or reduces.
    pub(crate) needed: Vec<Handle<Expr>>,
    /// Whether that includes accumulators.
    pub(crate) accumulates: bool,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(kernel: &Kernel, stage: &'a Stage) -> Self {
        let needed = needed(kernel, roots(stage));
        let accumulates = needed.iter().any(|&handle| kernel.exprs[handle] == Expr::Accumulator);
        Self { stage, gate: self::needed(kernel, stage.when), needed, accumulates }
    }
}

/// The expressions that a stage stores or reduces.
pub(crate) fn roots(stage: &Stage) -> impl Iterator<Item = Handle<Expr>> {
    let stored = stage.stores.iter().map(|store| store.value);
    stored.chain(stage.reduces.iter().map(|reduce| reduce.value))
}

/// The roots and all that they are computed from, operands before users.
pub(crate) fn needed(kernel: &Kernel, roots: impl IntoIterator<Item = Handle<Expr>>) -> Vec<Handle<Expr>> {
    let mut marked = vec![false; kernel.exprs.len()];
    roots.into_iter().for_each(|root| marked[root.index()] = true);
    for (handle, expr) in kernel.exprs.iter().rev() {
        if marked[handle.index()] {
            operands(*expr).into_iter().flatten().for_each(|operand| marked[operand.index()] = true);
        }
    }
    kernel.exprs.iter().map(|(handle, _)| handle).filter(|handle| marked[handle.index()]).collect()
}

pub(crate) fn operands(expr: Expr) -> [Option<Handle<Expr>>; 3] {
    match expr {
        Expr::Unary(_, a) => [Some(a), None, None],
        Expr::Binary(_, a, b) => [Some(a), Some(b), None],
        Expr::Select(mask, a, b) => [Some(mask), Some(a), Some(b)],
        _ => [None; 3],
    }
}

/// The level of each expression. One that reads a scalar which the kernel itself writes is evaluated per row: a later
/// stage sees what earlier ones stored.
pub(crate) fn levels(kernel: &Kernel) -> Vec<Level> {
    let writes = kernel.writes();
    let mut levels = kernel.levels();
    for (handle, expr) in kernel.exprs.iter() {
        let own = match expr {
            Expr::Load(buffer, _) if writes.contains(buffer) => Level::Row,
            _ => Level::Kernel,
        };
        let operands = operands(*expr).into_iter().flatten().map(|operand| levels[operand.index()]);
        levels[handle.index()] = operands.fold(own, Level::max).max(levels[handle.index()]);
    }
    levels
}

/// The bits of what changes nothing in a reduction. Sums of floats start at +0 and so are never -0, which +0 would change.
pub(crate) fn neutral(op: Fold) -> u32 {
    match op {
        Fold::SumI32 | Fold::SumF32 => 0,
        Fold::MaxF32 => f32::NEG_INFINITY.to_bits(),
        Fold::MaxI32 => i32::MIN.cast_unsigned(),
    }
}
