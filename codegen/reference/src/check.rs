//! Whether a program keeps the rules of the kernel IR.
//!
//! The rules are those that [`kernel`](ffc_ir::kernel) states, with one made stricter so that it can be checked by
//! looking: *no row reads what another row writes* becomes *a buffer that a kernel writes is written and loaded at one
//! place only, that no other row shares*. Where a domain has one row or one column several [`At`]s mean the same
//! place; [`place`] gives all of them one name.

use ffc_ir::kernel::{
    At, Binary, Buffer, BufferClass, Expr, Extent, Fold, Geometry, Kernel, Kind, Level, Over, Program,
    Reduce, Stage, Store, Unary,
};
use ffc_ir::types::DType;
use ffc_ir::{Arena, Handle, Window};

use crate::plan::operands;

/// Checks all kernels and schedules of a program.
///
/// # Errors
/// The first rule that is broken, and where.
pub fn verify_structure(program: &Program) -> Result<(), String> {
    for (index, buffer) in program.buffers.values().enumerate() {
        let unique = !program.buffers.values().take(index).any(|other| other.name == buffer.name);
        ensure(unique, || format!("two buffers are named `{}`", buffer.name))?;
        let sized = buffer.samples > 0 && buffer.shape.iter().all(|extent| extent.size(1) > 0);
        ensure(sized, || format!("buffer `{}` is empty", buffer.name))?;
    }
    for (index, kernel) in program.kernels.values().enumerate() {
        let unique = !program.kernels.values().take(index).any(|other| other.name == kernel.name);
        ensure(unique, || format!("two kernels are named `{}`", kernel.name))?;
        verify_kernel(kernel, &program.buffers)
            .map_err(|reason| format!("kernel `{}`: {reason}", kernel.name))?;
    }
    for schedule in &program.schedules {
        for kernel in &schedule.kernels {
            ensure(program.kernels.get(*kernel).is_some(), || {
                format!("schedule `{}` names no kernel by {kernel:?}", schedule.purpose)
            })?;
        }
    }
    Ok(())
}

/// Checks one kernel.
///
/// # Errors
/// The first rule that is broken.
pub fn verify_kernel(kernel: &Kernel, buffers: &Arena<Buffer>) -> Result<(), String> {
    verify_handles(kernel, buffers)?;
    let samples = most_samples(kernel, buffers);
    let checker = Checker { kernel, buffers, samples, kinds: kernel.kinds(buffers), levels: kernel.levels() };
    checker.extents()?;
    checker.contraction()?;
    checker.exprs()?;
    for (index, stage) in kernel.stages.iter().enumerate() {
        checker.stage(index, stage).map_err(|reason| format!("stage {index}: {reason}"))?;
    }
    checker.rows_are_independent()
}

/// The one name of the places that mean the same in a domain: where it has one row, `i` is 0 and where it has one
/// column, `j` is.
pub fn place(at: At, rows: Extent, columns: Extent) -> At {
    let (one_row, one_column) = (rows == Extent::Const(1), columns == Extent::Const(1));
    let at = match at {
        At::Sample(1) => At::Element,
        At::RowSample(1) => At::Row,
        other => other,
    };
    match at {
        At::Element | At::Transposed | At::Sample(_) if one_row && one_column => At::Scalar,
        At::Element | At::Sample(_) if one_row => At::Column,
        At::Element | At::Transposed if one_column => At::Row,
        At::Sample(n) if one_column => At::RowSample(n),
        At::Row | At::RowSample(_) if one_row => At::Scalar,
        At::Column if one_column => At::Scalar,
        other => other,
    }
}

/// The most samples for which all buffers of a kernel have room; 1 where none depends on them.
pub fn most_samples(kernel: &Kernel, buffers: &Arena<Buffer>) -> usize {
    let varies = |buffer: &Buffer| buffer.shape.iter().any(|extent| matches!(extent, Extent::Rows(_)));
    let used = kernel.reads().into_iter().chain(kernel.writes()).map(|buffer| &buffers[buffer]);
    used.filter(|buffer| varies(buffer)).map(|buffer| buffer.samples).min().unwrap_or(1)
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

/// After this, indexing by any handle of the kernel is safe.
fn verify_handles(kernel: &Kernel, buffers: &Arena<Buffer>) -> Result<(), String> {
    for (handle, &expr) in kernel.exprs.iter() {
        let mut earlier = true;
        operands(expr, |operand| earlier &= operand < handle);
        ensure(earlier, || format!("{handle:?} uses an expression that is not before it"))?;
    }
    let mut values: Vec<Handle<Expr>> = Vec::new();
    for stage in &kernel.stages {
        values.extend(stage.when);
        values.extend(stage.stores.iter().map(|store| store.value));
        values.extend(stage.reduces.iter().map(|reduce| reduce.value));
    }
    for value in values {
        ensure(kernel.exprs.get(value).is_some(), || format!("no expression is named by {value:?}"))?;
    }
    for buffer in kernel.reads().into_iter().chain(kernel.writes()) {
        ensure(buffers.get(buffer).is_some(), || format!("no buffer is named by {buffer:?}"))?;
    }
    Ok(())
}

struct Checker<'a> {
    kernel: &'a Kernel,
    buffers: &'a Arena<Buffer>,
    samples: usize,
    kinds: Vec<Kind>,
    levels: Vec<Level>,
}

impl Checker<'_> {
    /// Whether the first extent is within the second for every batch. Both are linear: the ends decide.
    fn fits(&self, need: Extent, have: Extent) -> bool {
        [1, self.samples].into_iter().all(|samples| need.size(samples) <= have.size(samples))
    }

    fn name(&self, buffer: Handle<Buffer>) -> &str {
        &self.buffers[buffer].name
    }

    fn extents(&self) -> Result<(), String> {
        let depth = self.kernel.contraction.map(|contraction| contraction.depth);
        let extents = [self.kernel.rows, self.kernel.columns].into_iter().chain(depth);
        for extent in extents {
            ensure(extent.size(1) > 0, || format!("an extent is {extent}"))?;
        }
        Ok(())
    }

    fn contraction(&self) -> Result<(), String> {
        let Some(contraction) = &self.kernel.contraction else { return Ok(()) };
        let [lhs, rhs] = [contraction.lhs, contraction.rhs].map(|buffer| &self.buffers[buffer]);
        ensure(lhs.dtype == rhs.dtype && matches!(lhs.dtype, DType::I8 | DType::F32), || {
            format!("contracts {} with {}", lhs.dtype, rhs.dtype)
        })?;
        let Kernel { rows, columns, .. } = *self.kernel;
        let depth = contraction.depth;
        let needs = match contraction.geometry {
            Geometry::Dense => [[rows, depth], [columns, depth]],
            Geometry::Convolution(window) => {
                let channels = per(depth, window.taps())?;
                [[self.looked_at(&window, lhs, rows)?, channels], [columns, depth]]
            }
            Geometry::ConvolutionGrad(window) => {
                let channels = per(columns, window.taps())?;
                [[rows, depth], [self.looked_at(&window, rhs, depth)?, channels]]
            }
            Geometry::Depthwise(window) => {
                ensure(depth == Extent::Const(window.taps()), || "the depth is not the taps".to_string())?;
                [[self.looked_at(&window, lhs, rows)?, columns], [columns, depth]]
            }
            Geometry::DepthwiseGrad(window) => {
                ensure(columns == Extent::Const(window.taps()), || {
                    "the columns are not the taps".to_string()
                })?;
                ensure(lhs.dense, || format!("`{}` is no image", lhs.name))?;
                [[depth, rows], [self.looked_at(&window, rhs, depth)?, rows]]
            }
        };
        for (side, need) in [lhs, rhs].into_iter().zip(needs) {
            let room = self.fits(need[0], side.shape[0]) && self.fits(need[1], side.shape[1]);
            ensure(room, || format!("`{}` is smaller than the contraction", side.name))?;
        }
        for buffer in self.kernel.writes() {
            let operand = buffer == contraction.lhs || buffer == contraction.rhs;
            ensure(!operand, || format!("writes `{}`, which it contracts", self.name(buffer)))?;
        }
        Ok(())
    }

    /// The rows of an image that so many positions look at.
    fn looked_at(&self, window: &Window, image: &Buffer, positions: Extent) -> Result<Extent, String> {
        ensure(image.dense, || format!("`{}` is no image", image.name))?;
        if let Some(fault) = window.fault() {
            return Err(format!("a window {fault}"));
        }
        match positions {
            Extent::Rows(n) if n % window.outputs() == 0 => {
                Ok(Extent::Rows(n / window.outputs() * window.inputs()))
            }
            _ => Err(format!("{positions} positions are not those of the window {window}")),
        }
    }

    fn exprs(&self) -> Result<(), String> {
        for (handle, &expr) in self.kernel.exprs.iter() {
            self.expr(expr).map_err(|reason| format!("{handle:?} {expr:?}: {reason}"))?;
        }
        Ok(())
    }

    fn expr(&self, expr: Expr) -> Result<(), String> {
        use Kind::{Float, Int};
        match expr {
            Expr::RowIndex | Expr::ColumnIndex | Expr::ConstF32(_) | Expr::ConstI32(_) => Ok(()),
            Expr::Accumulator => {
                ensure(self.kernel.contraction.is_some(), || "there is no contraction".to_string())
            }
            Expr::Load(buffer, at) => self.access(buffer, at),
            Expr::Unary(op, a) => {
                match op {
                    Unary::Shl(by) | Unary::Shr(by) | Unary::Sar(by) => {
                        ensure(by < 32, || "shifts by 32 or more".to_string())?;
                    }
                    Unary::Rem(by) => ensure(by > 0, || "divides by 0".to_string())?,
                    _ => {}
                }
                let float = matches!(op, Unary::Sqrt | Unary::Round | Unary::Truncate | Unary::ToBits);
                self.kind(a, if float { Float } else { Int })
            }
            Expr::Binary(op, a, b) => {
                let kind = if takes_floats(op) { Float } else { Int };
                self.kind(a, kind)?;
                self.kind(b, kind)
            }
            Expr::Select(mask, a, b) => {
                self.kind(mask, Int)?;
                self.kind(b, self.kinds[a.index()])
            }
        }
    }

    fn kind(&self, expr: Handle<Expr>, kind: Kind) -> Result<(), String> {
        ensure(self.kinds[expr.index()] == kind, || format!("{expr:?} is no {kind:?}"))
    }

    /// Checks that every access of the domain is within the buffer.
    fn access(&self, buffer: Handle<Buffer>, at: At) -> Result<(), String> {
        let Kernel { rows, columns, .. } = *self.kernel;
        let shape = self.buffers[buffer].shape;
        let divided = |n: usize| match rows {
            Extent::Rows(per_sample) if per_sample % n == 0 => Extent::Rows(per_sample / n),
            // The ends of a batch that is no multiple: the most rows decide.
            other => Extent::Const(other.size(self.samples).div_ceil(n)),
        };
        let matrix = |need: [Extent; 2]| self.fits(need[0], shape[0]) && self.fits(need[1], shape[1]);
        let vector = |need: Extent| {
            (shape[0] == Extent::Const(1) && self.fits(need, shape[1]))
                || (shape[1] == Extent::Const(1) && self.fits(need, shape[0]))
        };
        if let At::Sample(0) | At::RowSample(0) = at {
            return Err("no rows per sample".to_string());
        }
        let within = match at {
            At::Element => matrix([rows, columns]),
            At::Transposed => matrix([columns, rows]),
            At::Sample(n) => matrix([divided(n), columns]),
            At::Columns(from) => {
                let behind = match columns {
                    Extent::Const(columns) => Extent::Const(from + columns),
                    Extent::Rows(_) => return Err(format!("{columns} columns from {from} on")),
                };
                matrix([rows, behind])
            }
            At::Row => vector(rows),
            At::RowSample(n) => vector(divided(n)),
            At::Column => vector(columns),
            At::Scalar => shape == [Extent::Const(1); 2],
            At::Flat(n) => {
                let buffer = &self.buffers[buffer];
                let size = |[rows, columns]: [Extent; 2], samples| rows.size(samples) * columns.size(samples);
                let inside = [1, self.samples]
                    .into_iter()
                    .all(|samples| size([rows, columns], samples) <= size(buffer.shape, samples));
                let vector = shape.contains(&Extent::Const(1)) && buffer.dtype.bytes() == 4;
                Extent::Const(n) == columns && (buffer.dense || vector) && inside
            }
            At::Window { window, tap, .. } => {
                let window = Window::from(window);
                ensure(tap < window.taps(), || format!("the window {window} has no tap {tap}"))?;
                let positions = self.looked_at(&window, &self.buffers[buffer], rows)?;
                matrix([positions, columns])
            }
            At::Planar { positions, copies } => {
                ensure(positions > 0 && copies > 0, || "no positions".to_string())?;
                let width = columns.size(self.samples) * positions;
                matrix([divided(positions * copies), Extent::Const(width)])
            }
            At::Back { taps, inputs, outputs } => {
                ensure(taps > 0 && inputs > 0, || "no filters".to_string())?;
                let groups = rows.size(self.samples) / (taps * inputs);
                let whole =
                    rows == Extent::Const(groups * inputs * taps) && columns == Extent::Const(outputs);
                whole && matrix([groups * outputs, inputs * taps].map(Extent::Const))
            }
        };
        ensure(within, || {
            let name = self.name(buffer);
            format!("`{name}` [{}, {}] has no {at:?} for a domain of {rows} x {columns}", shape[0], shape[1])
        })
    }

    fn stage(&self, index: usize, stage: &Stage) -> Result<(), String> {
        if let Some(mask) = stage.when {
            self.kind(mask, Kind::Int)?;
            ensure(self.levels[mask.index()] <= Level::Row, || "the mask moves with the column".to_string())?;
        }
        ensure(index == 0 || !self.uses_accumulator(stage), || "uses the accumulator".to_string())?;
        let mut written: Vec<(Handle<Buffer>, At)> = Vec::new();
        let targets = stage.stores.iter().map(|store| (store.buffer, store.at));
        for (buffer, at) in targets.chain(stage.reduces.iter().map(|reduce| (reduce.into, At::Row))) {
            let columns = self.kernel.columns;
            let again =
                written.iter().any(|&(other, before)| other == buffer && !are_apart(before, at, columns));
            ensure(!again, || format!("writes `{}` twice", self.name(buffer)))?;
            ensure(is_writable(self.buffers[buffer].class), || {
                format!("`{}` is not to be written", self.name(buffer))
            })?;
            written.push((buffer, at));
        }
        stage.stores.iter().try_for_each(|store| self.store(stage, store))?;
        stage.reduces.iter().try_for_each(|reduce| self.reduce(stage, reduce))
    }

    fn uses_accumulator(&self, stage: &Stage) -> bool {
        let mut uses: Vec<bool> = Vec::with_capacity(self.kernel.exprs.len());
        for &expr in self.kernel.exprs.values() {
            let mut found = expr == Expr::Accumulator;
            operands(expr, |operand| found |= uses[operand.index()]);
            uses.push(found);
        }
        let values = stage.stores.iter().map(|store| store.value);
        let mut values = values.chain(stage.reduces.iter().map(|reduce| reduce.value)).chain(stage.when);
        values.any(|value| uses[value.index()])
    }

    fn store(&self, stage: &Stage, store: &Store) -> Result<(), String> {
        let Kernel { rows, columns, .. } = *self.kernel;
        self.access(store.buffer, store.at)?;
        self.stored_kind(store.value, store.buffer)?;
        let name = self.name(store.buffer);
        match stage.over {
            Over::Rows => {
                let level = self.levels[store.value.index()] <= Level::Row;
                ensure(level, || format!("what is stored in `{name}` moves with the column"))?;
                let at = matches!(store.at, At::Row | At::Scalar);
                ensure(at, || format!("stores `{name}` at {:?} once per row", store.at))?;
            }
            Over::Elements => {
                let moves = matches!(
                    store.at,
                    At::Element | At::Transposed | At::Columns(_) | At::Column | At::Flat(_)
                );
                ensure(moves || columns == Extent::Const(1), || {
                    format!("all columns store `{name}` at {:?}", store.at)
                })?;
            }
        }
        let place = place(store.at, rows, columns);
        let own = match place {
            At::Element | At::Transposed | At::Row | At::Flat(_) => true,
            At::Columns(_) => self.buffers[store.buffer].dense,
            At::Column | At::Scalar => rows == Extent::Const(1),
            At::Sample(_) | At::RowSample(_) | At::Window { .. } | At::Planar { .. } | At::Back { .. } => {
                false
            }
        };
        ensure(own, || format!("several rows store `{name}` at {:?}", store.at))
    }

    fn reduce(&self, stage: &Stage, reduce: &Reduce) -> Result<(), String> {
        ensure(stage.over == Over::Elements, || "reduces once per row".to_string())?;
        let kind = match reduce.op {
            Fold::SumI32 | Fold::MaxI32 => Kind::Int,
            Fold::SumF32 | Fold::MaxF32 => Kind::Float,
        };
        self.kind(reduce.value, kind)?;
        self.stored_kind(reduce.value, reduce.into)?;
        self.access(reduce.into, At::Row)
    }

    fn stored_kind(&self, value: Handle<Expr>, buffer: Handle<Buffer>) -> Result<(), String> {
        let float = self.buffers[buffer].dtype == DType::F32;
        self.kind(value, if float { Kind::Float } else { Kind::Int })
    }

    fn rows_are_independent(&self) -> Result<(), String> {
        let Kernel { rows, columns, .. } = *self.kernel;
        let mut written: Vec<(Handle<Buffer>, At)> = Vec::new();
        for stage in &self.kernel.stages {
            let stores = stage.stores.iter().map(|store| (store.buffer, store.at));
            let reduces = stage.reduces.iter().map(|reduce| (reduce.into, At::Row));
            written.extend(stores.chain(reduces).map(|(buffer, at)| (buffer, place(at, rows, columns))));
        }
        let loads = self.kernel.exprs.values().filter_map(|&expr| match expr {
            Expr::Load(buffer, at) => Some((buffer, place(at, rows, columns))),
            _ => None,
        });
        for (buffer, at) in loads.chain(written.iter().copied()) {
            let meets = |stored: At| stored != at && !are_apart(stored, at, columns);
            if let Some((_, stored)) =
                written.iter().find(|&&(other, stored)| other == buffer && meets(stored))
            {
                let name = self.name(buffer);
                return Err(format!("touches `{name}` at {at:?} and stores it at {stored:?}"));
            }
        }
        Ok(())
    }
}

/// Whether two places in a domain of so many columns have no element in common.
fn are_apart(a: At, b: At, columns: Extent) -> bool {
    match (a, b, columns) {
        (At::Columns(a), At::Columns(b), Extent::Const(columns)) => a.abs_diff(b) >= columns,
        _ => false,
    }
}

/// The channels that so many taps of them are.
fn per(extent: Extent, taps: usize) -> Result<Extent, String> {
    match extent {
        Extent::Const(size) if size % taps == 0 => Ok(Extent::Const(size / taps)),
        _ => Err(format!("{extent} is not a number of channels for each of {taps} taps")),
    }
}

fn takes_floats(op: Binary) -> bool {
    use Binary::{FAdd, FDiv, FLt, FMax, FMin, FMul, FSub};
    matches!(op, FAdd | FSub | FMul | FDiv | FMax | FMin | FLt)
}

fn is_writable(class: BufferClass) -> bool {
    match class {
        BufferClass::Scores
        | BufferClass::Loss(_)
        | BufferClass::Param { .. }
        | BufferClass::Arena
        | BufferClass::Accumulator => true,
        BufferClass::Input | BufferClass::Labels | BufferClass::Control(_) | BufferClass::Key => false,
    }
}
