//! What a stage has to evaluate, found once per kernel.
//!
//! Of the kernel's expressions a stage evaluates those that its mask, stores and reductions need, each once: those of
//! [`Level::Kernel`] before the first row, those of [`Level::Row`] before the row's first tile, the others for every
//! tile. Tile values live in slots, which are given away again after their last use so that few of them, which stay
//! in the cache, serve a long formula.

use ffc_ir::kernel::{At, Buffer, Contraction, Expr, Extent, Kernel, Kind, Level, Over, Reduce, Store};
use ffc_ir::types::DType;
use ffc_ir::{Arena, Handle};

/// A kernel, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct KernelPlan {
    pub(crate) rows: Extent,
    pub(crate) columns: Extent,
    pub(crate) contraction: Option<Contraction>,
    pub(crate) exprs: Arena<Expr>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) stages: Vec<StagePlan>,
    /// All buffers that are read.
    pub(crate) reads: Vec<Handle<Buffer>>,
    /// Those of them that must hold something when the kernel starts: no earlier stage writes them.
    pub(crate) needs: Vec<Handle<Buffer>>,
    pub(crate) writes: Vec<Handle<Buffer>>,
}

/// A stage, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct StagePlan {
    pub(crate) over: Over,
    pub(crate) when: Option<Handle<Expr>>,
    pub(crate) stores: Vec<Store>,
    pub(crate) reduces: Vec<Reduce>,
    /// Evaluated once.
    pub(crate) once: Vec<Handle<Expr>>,
    /// Evaluated once per row.
    pub(crate) per_row: Vec<Handle<Expr>>,
    /// Evaluated once per tile, into a slot.
    pub(crate) per_tile: Vec<(Handle<Expr>, usize)>,
    /// Where each expression's value is.
    pub(crate) places: Vec<Place>,
    /// Slots of floats and of integers.
    pub(crate) slots: [usize; 2],
}

/// Where the value of an expression is while a tile is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not needed in this stage.
    Nowhere,
    /// One number for the whole row.
    Scalar,
    /// In the accumulators or in the buffer that it is loaded from.
    Memory,
    /// In a slot.
    Slot(usize),
}

impl KernelPlan {
    pub(crate) fn new(kernel: &Kernel, buffers: &Arena<Buffer>) -> Self {
        let (kinds, levels) = (kernel.kinds(buffers), kernel.levels());
        let analysis = Analysis { kernel, buffers, kinds: &kinds, levels: &levels };
        Self {
            rows: kernel.rows,
            columns: kernel.columns,
            contraction: kernel.contraction,
            exprs: kernel.exprs.clone(),
            needs: analysis.needs(),
            stages: (0..kernel.stages.len()).map(|stage| analysis.stage(stage)).collect(),
            kinds,
            reads: kernel.reads(),
            writes: kernel.writes(),
        }
    }
}

/// Calls `visit` with each operand of an expression.
pub(crate) fn operands(expr: Expr, mut visit: impl FnMut(Handle<Expr>)) {
    match expr {
        Expr::Accumulator
        | Expr::RowIndex
        | Expr::ColumnIndex
        | Expr::ConstF32(_)
        | Expr::ConstI32(_)
        | Expr::Load(..) => {}
        Expr::Unary(_, a) => visit(a),
        Expr::Binary(_, a, b) => [a, b].into_iter().for_each(visit),
        Expr::Select(mask, a, b) => [mask, a, b].into_iter().for_each(visit),
    }
}

struct Analysis<'a> {
    kernel: &'a Kernel,
    buffers: &'a Arena<Buffer>,
    kinds: &'a [Kind],
    levels: &'a [Level],
}

impl Analysis<'_> {
    fn stage(&self, index: usize) -> StagePlan {
        let stage = &self.kernel.stages[index];
        let needed = self.needed(index);
        let of_level = |level: Level| -> Vec<Handle<Expr>> {
            needed.iter().copied().filter(|expr| self.levels[expr.index()] == level).collect()
        };
        let elements = of_level(Level::Element);
        let mut places = vec![Place::Nowhere; self.kernel.exprs.len()];
        let (once, per_row) = (of_level(Level::Kernel), of_level(Level::Row));
        for expr in once.iter().chain(&per_row) {
            places[expr.index()] = Place::Scalar;
        }
        let (per_tile, slots) = self.allocate(index, &elements, &mut places);
        StagePlan {
            over: stage.over,
            when: stage.when,
            stores: stage.stores.clone(),
            reduces: stage.reduces.clone(),
            once,
            per_row,
            per_tile,
            places,
            slots,
        }
    }

    /// What the stage uses of its own accord.
    fn roots(&self, stage: usize) -> impl Iterator<Item = Handle<Expr>> {
        let stage = &self.kernel.stages[stage];
        let stored = stage.stores.iter().map(|store| store.value);
        stage.when.into_iter().chain(stored).chain(stage.reduces.iter().map(|reduce| reduce.value))
    }

    /// The expressions that the stage uses, in order.
    fn needed(&self, stage: usize) -> Vec<Handle<Expr>> {
        let mut used = vec![false; self.kernel.exprs.len()];
        self.roots(stage).for_each(|root| used[root.index()] = true);
        for (handle, &expr) in self.kernel.exprs.iter().rev() {
            if used[handle.index()] {
                operands(expr, |operand| used[operand.index()] = true);
            }
        }
        (0..used.len()).filter(|&index| used[index]).map(Handle::new).collect()
    }

    /// What the contraction reads, and what stages load before one of them has written it.
    fn needs(&self) -> Vec<Handle<Buffer>> {
        let operands = self.kernel.contraction.map(|contraction| [contraction.lhs, contraction.rhs]);
        let mut needs: Vec<Handle<Buffer>> = operands.into_iter().flatten().collect();
        let mut written: Vec<Handle<Buffer>> = Vec::new();
        for (index, stage) in self.kernel.stages.iter().enumerate() {
            for expr in self.needed(index) {
                if let Expr::Load(buffer, _) = self.kernel.exprs[expr]
                    && !written.contains(&buffer)
                    && !needs.contains(&buffer)
                {
                    needs.push(buffer);
                }
            }
            written.extend(stage.stores.iter().map(|store| store.buffer));
            written.extend(stage.reduces.iter().map(|reduce| reduce.into));
        }
        needs
    }

    /// Gives every element-level expression a place.
    fn allocate(
        &self,
        stage: usize,
        elements: &[Handle<Expr>],
        places: &mut [Place],
    ) -> (Vec<(Handle<Expr>, usize)>, [usize; 2]) {
        // After which expression a value is no longer needed; roots are needed to the end.
        let mut last_use = vec![0; places.len()];
        for &user in elements {
            operands(self.kernel.exprs[user], |operand| last_use[operand.index()] = user.index());
        }
        self.roots(stage).for_each(|root| last_use[root.index()] = usize::MAX);

        let stored: Vec<_> = self.kernel.stages[stage].stores.iter().map(|store| store.value).collect();
        let mut free: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
        let mut slots = [0; 2];
        let mut steps = Vec::new();
        for &handle in elements {
            // A load that is stored would borrow memory while it is written, so it is copied first.
            let copied = self.kernel.exprs[handle] != Expr::Accumulator && stored.contains(&handle);
            if self.is_in_place(handle) && !copied {
                places[handle.index()] = Place::Memory;
                continue;
            }
            let class = self.slot_class(handle);
            let slot = free[class].pop().unwrap_or_else(|| {
                slots[class] += 1;
                slots[class] - 1
            });
            places[handle.index()] = Place::Slot(slot);
            steps.push((handle, slot));
            operands(self.kernel.exprs[handle], |operand| {
                if let Place::Slot(slot) = places[operand.index()]
                    && last_use[operand.index()] == handle.index()
                {
                    let free = &mut free[self.slot_class(operand)];
                    // `x * x` has the same operand twice.
                    if !free.contains(&slot) {
                        free.push(slot);
                    }
                }
            });
        }
        (steps, slots)
    }

    fn slot_class(&self, expr: Handle<Expr>) -> usize {
        match self.kinds[expr.index()] {
            Kind::Float => 0,
            Kind::Int => 1,
        }
    }

    /// Whether the elements of a tile lie side by side in memory, in the type that expressions have.
    fn is_in_place(&self, expr: Handle<Expr>) -> bool {
        match self.kernel.exprs[expr] {
            Expr::Accumulator => true,
            Expr::Load(buffer, at) => {
                let wide = matches!(self.buffers[buffer].dtype, DType::I32 | DType::F32);
                wide && matches!(at, At::Element | At::Sample(_) | At::Columns(_) | At::Column)
            }
            _ => false,
        }
    }
}
