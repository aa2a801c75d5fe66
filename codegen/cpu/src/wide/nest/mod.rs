//! The loops of a kernel: chunks of rows, stages, panels of columns, rows.

mod across;
mod images;
mod reduce;
mod rows;

use std::collections::HashMap;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Contraction, Expr, Extent, Kernel, Over, Program, Stage, Store};
use ffc_ir::types::DType;
use iced_x86::code_asm::{
    AsmRegister64, dword_ptr, ecx, k1, k2, ptr, qword_ptr, r15, rax, rcx, rdi, rdx, rsi, rsp,
};

use super::asm::{ALL, Asm, Base, LANES, Memory, Op, VECTOR, Width, offset_of, times, x86};
use super::block::{Block, Source};
use super::contract::{self, Order, Workspace};
use super::halves::Halves;
use super::turn;
use super::values::{self, Evaluation, Foreseen, Lead, Level, Scope, mask};
use super::{Code, Products};
use crate::layout::{column_pitch, row_bytes};
use crate::plan::{self, Plan};
use reduce::folding;
use rows::{Leads, Listed, TOGETHER};

/// Most rows of a chunk: what a stage leaves in the frame and in the cache is used again before the next chunk.
pub(super) const CHUNK: usize = 128;

/// Rows of a chunk where its size costs nothing: then the rows' memory stays in the first-level cache from one panel to
/// the next, which has the other half of its lines.
pub(super) const SMALL_CHUNK: usize = 64;

/// What the rows of a panel leave in the frame.
struct Results {
    partials: Option<Lead>,
    /// One for each store of bytes across.
    turning: Vec<Lead>,
}

/// Numbers of the call, in the frame.
pub(super) struct Slots {
    table: i32,
    samples: i32,
    end: i32,
    pub(super) columns: i32,
    rows: i32,
    pub(super) chunk: i32,
    pub(super) chunk_end: i32,
    pub(super) panel: i32,
    /// Columns of the last panel in each of its vectors.
    counts: [i32; 2],
}

/// What every part of the emitter works on.
pub(super) struct Emitter<'a> {
    pub(super) asm: Asm,
    pub(super) program: &'a Program,
    pub(super) kernel: &'a Kernel,
    pub(super) levels: Vec<Level>,
    pub(super) foreseen: Foreseen,
    pub(super) halves: Halves,
    pub(super) products: Products,
    /// Vectors in a row of a panel: 1 or 2.
    pub(super) tiles: usize,
    /// What a contraction packs.
    pub(super) order: Order,
    /// Most rows of a chunk.
    pub(super) chunk: usize,
    pub(super) slots: Slots,
    /// Values that are computed once a call.
    pub(super) kept: HashMap<Handle<Expr>, i32>,
    rooms: Rooms,
}

/// Parts of the frame that stages use one after the other.
#[derive(Default)]
struct Rooms {
    rows: i32,
    columns: i32,
    columns_end: i32,
    partials: i32,
    turned: i32,
    gathered: i32,
    listed: Listed,
    /// Addresses that are found for each row, and the loads of the stage at hand that they are for.
    addresses: i32,
    found: Vec<(Handle<Buffer>, At)>,
}

impl<'a> Emitter<'a> {
    /// The emitter of a kernel.
    ///
    /// # Errors
    /// When distances within the kernel's buffers do not fit in an instruction.
    pub(super) fn new(products: Products, program: &'a Program, kernel: &'a Kernel) -> Result<Self, String> {
        for buffer in kernel.reads().into_iter().chain(kernel.writes()) {
            let buffer = &program.buffers[buffer];
            if row_bytes(buffer).checked_mul(2 * CHUNK).is_none_or(|bytes| i32::try_from(bytes).is_err()) {
                return Err(format!("the rows of `{}` are too long", buffer.name));
            }
        }
        let mut asm = Asm::new();
        let mut slot = || asm.room(8);
        let slots = Slots {
            table: slot(),
            samples: slot(),
            end: slot(),
            columns: slot(),
            rows: slot(),
            chunk: slot(),
            chunk_end: slot(),
            panel: slot(),
            counts: [slot(), slot()],
        };
        let narrow = matches!(kernel.columns, Extent::Const(columns) if columns <= LANES);
        let tiles = if narrow { 1 } else { 2 };
        let samples = program.batch.max(program.infer_batch);
        let sizes = |depth: Extent| [kernel.rows, kernel.columns, depth].map(|extent| extent.size(samples));
        let (order, chunk) = match kernel.contraction {
            Some(contraction) => contract::order(kernel, sizes(contraction.depth)),
            None => (Order::Panel, SMALL_CHUNK),
        };
        let levels = values::levels(kernel);
        Ok(Self {
            asm,
            program,
            kernel,
            halves: Halves::of(program, kernel, &levels),
            levels,
            products,
            foreseen: values::foresee(kernel, kernel.columns.size(samples), tiles),
            tiles,
            order,
            chunk: chunk.min(kernel.rows.size(samples).next_multiple_of(LANES)),
            slots,
            kept: HashMap::new(),
            rooms: Rooms::default(),
        })
    }

    /// Rows in the frame that are to be turned: a chunk, its padding, and as many as complete a group.
    fn turned_rows(&self) -> usize {
        self.chunk + turn::ROWS
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        LANES * self.tiles
    }

    pub(super) fn buffer(&self, handle: Handle<Buffer>) -> &'a Buffer {
        &self.program.buffers[handle]
    }

    /// `to` is where a buffer begins.
    pub(super) fn pointer(&mut self, to: AsmRegister64, handle: Handle<Buffer>) {
        let (table, entry) = (self.slots.table, offset_of(8 * handle.index()));
        x86!(self.asm; mov(to, qword_ptr(rsp + table)); mov(to, qword_ptr(to + entry)));
    }

    /// `to` is a size.
    pub(super) fn size(&mut self, to: AsmRegister64, extent: Extent) {
        let samples = self.slots.samples;
        match extent {
            Extent::Const(size) => {
                let size = u64::try_from(size).expect("sizes fit in 64 bits");
                x86!(self.asm; mov(to, size));
            }
            Extent::Rows(per_sample) => {
                x86!(self.asm; mov(to, qword_ptr(rsp + samples)));
                times(&mut self.asm, to, per_sample);
            }
        }
    }

    /// The function.
    pub(super) fn function(mut self) -> Code {
        let kernel = self.kernel;
        let Slots { table, samples, end, columns, rows, chunk, chunk_end, .. } = self.slots;
        x86!(self.asm;
            mov(qword_ptr(rsp + table), rdi);
            mov(qword_ptr(rsp + samples), rsi);
            mov(qword_ptr(rsp + chunk), rdx);
            mov(qword_ptr(rsp + end), rcx);
        );
        self.size(rax, kernel.columns);
        x86!(self.asm; mov(qword_ptr(rsp + columns), rax));
        self.size(rax, kernel.rows);
        x86!(self.asm; mov(qword_ptr(rsp + rows), rax));
        let plans: Vec<Plan<'_>> = kernel.stages.iter().map(|stage| Plan::new(kernel, stage)).collect();
        self.rooms(&plans);
        self.keep_constants(&plans);
        let panel = kernel.contraction.as_ref().map(|contraction| self.begin_contraction(contraction));
        let [mut again, mut fits, mut done] = [0; 3].map(|_| self.asm.label());
        let rows_of_chunk = self.chunk;
        self.asm.place(&mut again);
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + chunk));
            cmp(rax, qword_ptr(rsp + end));
            jae(done);
            add(rax, offset_of(rows_of_chunk));
            cmp(rax, qword_ptr(rsp + end));
            jbe(fits);
            mov(rax, qword_ptr(rsp + end));
        );
        self.asm.place(&mut fits);
        x86!(self.asm; mov(qword_ptr(rsp + chunk_end), rax));
        for plan in &plans {
            match plan.stage.over {
                Over::Rows => self.rows_stage(plan),
                Over::Elements => self.elements_stage(plan, panel.as_ref()),
            }
        }
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + chunk_end));
            mov(qword_ptr(rsp + chunk), rax);
            jmp(again);
        );
        self.asm.place(&mut done);
        if panel.is_some() {
            self.end_contraction();
        }
        self.asm.finish()
    }

    /// Room for the largest needs of all stages.
    fn rooms(&mut self, plans: &[Plan<'_>]) {
        let most = |need: &dyn Fn(&Plan<'_>) -> usize| plans.iter().map(need).max().unwrap_or(0).max(1);
        let rows = most(&|plan| self.kept_at(plan, Level::Row).len()) * self.chunk * 4;
        let columns = most(&|plan| self.kept_at(plan, Level::Column).len()) * self.tiles * VECTOR;
        let partials = most(&|plan| plan.stage.reduces.len()) * self.chunk * VECTOR;
        let turned = most(&|plan| self.turned(plan.stage).len()) * self.turned_rows() * self.width();
        let gathered = most(&|plan| {
            let loads = [Level::Column, Level::Element].map(|level| self.gathered(plan, level).len());
            loads[0] + loads[1] + plan.stage.stores.len()
        }) * self.tiles
            * VECTOR;
        let addresses = most(&|plan| self.found_bytes(plan));
        let rows = self.asm.room(rows);
        let first_column = self.asm.room(columns);
        self.rooms = Rooms {
            rows,
            columns: first_column,
            columns_end: first_column + offset_of(columns),
            partials: self.asm.room(partials),
            turned: self.asm.room(turned),
            gathered: self.asm.room(gathered),
            addresses: self.asm.room(addresses),
            found: Vec::new(),
            listed: Listed {
                first: self.asm.room(self.chunk * 4),
                end: self.asm.room(8),
                next: self.asm.room(8),
            },
        };
    }

    /// Computes what does not change during a call.
    fn keep_constants(&mut self, plans: &[Plan<'_>]) {
        let mut kept: Vec<Handle<Expr>> =
            plans.iter().flat_map(|plan| self.kept_at(plan, Level::Kernel)).collect();
        kept.sort_by_key(|handle| handle.index());
        kept.dedup();
        if kept.is_empty() {
            return;
        }
        let leads = self.leads(&self.loads(&kept, Level::Kernel), false);
        let scope = self.scope(Level::Kernel, &leads);
        let mut work = Evaluation::new(&scope);
        for handle in kept {
            let room = self.asm.room(8);
            let value = self.value(&mut work, handle, 0);
            work.block.store_one(DType::I32, Memory::frame(room), value);
            self.kept.insert(handle, room);
        }
        work.block.write(&mut self.asm);
    }

    /// Expressions of a level that a stage uses at an inner level, or stores or reduces.
    fn kept_at(&self, plan: &Plan<'_>, level: Level) -> Vec<Handle<Expr>> {
        let of = |handle: Handle<Expr>| self.levels[handle.index()];
        let constant =
            |handle: Handle<Expr>| matches!(self.kernel.exprs[handle], Expr::ConstF32(_) | Expr::ConstI32(_));
        let inner = plan.needed.iter().chain(&plan.gate).filter(|&&handle| of(handle) != level);
        let used = inner.flat_map(|&handle| plan::operands(self.kernel.exprs[handle]).into_iter().flatten());
        let mut kept: Vec<Handle<Expr>> = used
            .chain(plan::roots(plan.stage))
            .chain(plan.stage.when)
            .filter(|&handle| of(handle) == level && !constant(handle))
            .collect();
        kept.sort_by_key(|handle| handle.index());
        kept.dedup();
        kept
    }

    /// The loads of a level that these expressions need.
    fn loads(&self, roots: &[Handle<Expr>], level: Level) -> Vec<(Handle<Buffer>, At)> {
        let needed = plan::needed(self.kernel, roots.iter().copied());
        let mut loads = Vec::new();
        for handle in needed {
            if let Expr::Load(buffer, at) = self.kernel.exprs[handle]
                && self.levels[handle.index()] == level
                && !loads.contains(&(buffer, at))
            {
                loads.push((buffer, at));
            }
        }
        loads
    }

    /// Loads whose elements are not neighbours, and so are gathered one by one.
    fn gathered(&self, plan: &Plan<'_>, level: Level) -> Vec<(Handle<Buffer>, At)> {
        let roots: Vec<_> = plan::roots(plan.stage).collect();
        let apart = |&(handle, at): &(Handle<Buffer>, At)| {
            let buffer = self.buffer(handle);
            ![0, buffer.dtype.bytes()].contains(&column_pitch(buffer, at))
        };
        self.loads(&roots, level).into_iter().filter(apart).collect()
    }

    /// Stores of bytes across, which are turned a panel at a time.
    fn turned(&self, stage: &Stage) -> Vec<Store> {
        let turns = |store: &&Store| {
            store.at == At::Transposed && self.buffer(store.buffer).dtype.bytes() == 1 && stage.when.is_none()
        };
        stage.stores.iter().filter(turns).copied().collect()
    }

    fn scope<'s>(&self, level: Level, leads: &Leads) -> Scope<'s> {
        Scope {
            level,
            row: 0,
            partial: false,
            leads: leads.buffers.clone(),
            rows: None,
            columns: None,
            sums: None,
            gathered: HashMap::new(),
            stored: Vec::new(),
        }
    }

    /// A stage that stores once a row.
    fn rows_stage(&mut self, plan: &Plan<'_>) {
        let roots: Vec<_> = plan::roots(plan.stage).chain(plan.stage.when).collect();
        let mut places = self.loads(&roots, Level::Row);
        places.extend(plan.stage.stores.iter().map(|store| (store.buffer, store.at)));
        let leads = self.leads(&places, false);
        let scope = self.scope(Level::Row, &leads);
        let room = self.asm.room(8);
        self.rows(&leads, |emitter, next| {
            if let Some(when) = plan.stage.when {
                let mut work = Evaluation::new(&scope);
                let value = emitter.value(&mut work, when, 0);
                work.block.store_one(DType::I32, Memory::frame(room), value);
                work.block.write(&mut emitter.asm);
                let next = *next;
                x86!(emitter.asm; cmp(dword_ptr(rsp + room), 0); je(next));
            }
            let mut work = Evaluation::new(&scope);
            let stores: Vec<_> = plan.stage.stores.iter().collect();
            let values: Vec<Source> =
                stores.iter().map(|store| emitter.value(&mut work, store.value, 0)).collect();
            for (store, value) in stores.into_iter().zip(values) {
                let to = scope.leads[&(store.buffer, store.at)].at(0, 0);
                let dtype = emitter.buffer(store.buffer).dtype;
                work.block.store_one(dtype, to, value);
            }
            work.block.write(&mut emitter.asm);
        });
    }

    /// A stage that covers all elements.
    fn elements_stage(&mut self, plan: &Plan<'_>, panel: Option<&Workspace>) {
        let rows = self.kept_at(plan, Level::Row);
        self.keep_rows(&rows);
        let mut nothing = self.asm.label();
        if let Some(when) = plan.stage.when {
            self.list_rows(when, &rows);
            let Listed { first, end, .. } = self.rooms.listed;
            x86!(self.asm; lea(rax, ptr(rsp + first)); cmp(rax, qword_ptr(rsp + end)); je(nothing));
        }
        self.find(plan);
        self.begin_reduces(plan.stage);
        let (panel_slot, columns, width) = (self.slots.panel, self.slots.columns, self.width());
        let known = match self.kernel.columns {
            Extent::Const(columns) => Some(columns),
            Extent::Rows(_) => None,
        };
        if let (Some(panel), Some(contraction), true) = (panel, &self.kernel.contraction, plan.accumulates) {
            self.begin_chunk(contraction, panel);
            self.begin_panels(contraction, panel);
        }
        x86!(self.asm; mov(qword_ptr(rsp + panel_slot), 0));
        let [mut again, mut rest, mut done] = [0; 3].map(|_| self.asm.label());
        if known.is_none_or(|columns| columns >= width) {
            self.asm.place(&mut again);
            x86!(self.asm;
                mov(rax, qword_ptr(rsp + panel_slot));
                add(rax, offset_of(width));
                cmp(rax, qword_ptr(rsp + columns));
                ja(rest);
            );
            self.panel(plan, panel, &rows, false);
            x86!(self.asm; add(qword_ptr(rsp + panel_slot), offset_of(width)); jmp(again));
            self.asm.place(&mut rest);
        }
        if known.is_none_or(|columns| columns % width != 0) {
            x86!(self.asm;
                mov(rax, qword_ptr(rsp + columns));
                sub(rax, qword_ptr(rsp + panel_slot));
                jz(done);
            );
            self.begin_partial();
            self.panel(plan, panel, &rows, true);
            self.asm.place(&mut done);
        }
        self.end_reduces(plan);
        self.asm.place(&mut nothing);
    }

    /// Computes what elements need once a row, for the chunk's rows.
    fn keep_rows(&mut self, kept: &[Handle<Expr>]) {
        if kept.is_empty() {
            return;
        }
        let mut leads = self.leads(&self.loads(kept, Level::Row), false);
        let to = self.lead_frame(&mut leads, self.rooms.rows, 4 * kept.len());
        let scope = self.scope(Level::Row, &leads);
        self.rows(&leads, |emitter, _| {
            let mut work = Evaluation::new(&scope);
            for (place, &handle) in kept.iter().enumerate() {
                let value = emitter.value(&mut work, handle, 0);
                work.block.store_one(DType::I32, to.at(0, 4 * place), value);
            }
            work.block.write(&mut emitter.asm);
        });
    }

    /// Masks and counts of the last panel, of which there are `rax` columns.
    fn begin_partial(&mut self) {
        let (counts, lanes) = (self.slots.counts, offset_of(LANES));
        x86!(self.asm; mov(rcx, -1i64); bzhi(rcx, rcx, rax); kmovd(k1, ecx); shr(ecx, 16); kmovd(k2, ecx));
        for (vector, count) in counts.into_iter().enumerate() {
            let (mut positive, mut fits) = (self.asm.label(), self.asm.label());
            x86!(self.asm; mov(rcx, rax); sub(rcx, offset_of(vector * LANES)); jns(positive); mov(rcx, 0i64));
            self.asm.place(&mut positive);
            x86!(self.asm; cmp(rcx, lanes); jbe(fits); mov(rcx, i64::from(lanes)));
            self.asm.place(&mut fits);
            x86!(self.asm; mov(qword_ptr(rsp + count), rcx));
        }
    }

    /// A stage for the chunk and the panel at hand.
    fn panel(&mut self, plan: &Plan<'_>, panel: Option<&Workspace>, rows: &[Handle<Expr>], partial: bool) {
        let columns = self.kept_at(plan, Level::Column);
        self.keep_columns(&columns, partial);
        let sums = panel.filter(|_| plan.accumulates);
        if let (Some(panel), Some(contraction)) = (sums, &self.kernel.contraction) {
            let columns = match self.kernel.columns {
                Extent::Const(columns) if partial => Some(columns % self.width()),
                _ if partial => None,
                _ => Some(self.width()),
            };
            self.contract(contraction, panel, columns);
        }
        let mut leads = Leads::default();
        let mut scope = self.scope(Level::Element, &leads);
        scope.partial = partial;
        scope.columns = Some((self.rooms.columns, &columns));
        scope.stored = plan.stage.stores.iter().map(|store| store.buffer).collect();
        if !rows.is_empty() {
            scope.rows = Some((self.lead_frame(&mut leads, self.rooms.rows, 4 * rows.len()), rows));
        }
        scope.sums = sums.map(|panel| self.lead_sums(&mut leads, panel));
        let frame = self.lead_results(&mut leads, plan.stage);
        let roots: Vec<_> = plan::roots(plan.stage).collect();
        let mut places = self.loads(&roots, Level::Element);
        let turned = self.turned(plan.stage);
        let stores = plan.stage.stores.iter().filter(|store| !turned.contains(store));
        places.extend(stores.map(|store| (store.buffer, store.at)));
        self.lead_buffers(&mut leads, &places, true);
        scope.leads = leads.buffers.clone();
        let gathers = self.gathered(plan, Level::Element);
        for (number, &place) in gathers.iter().enumerate() {
            let room = self.rooms.gathered + offset_of(number * self.tiles * VECTOR);
            scope.gathered.insert(place, room);
        }
        let steps = sums
            .zip(self.kernel.contraction)
            .filter(|(_, contraction)| self.interleaves(contraction) && !partial);
        self.panel_rows(plan, scope, &leads, &frame, steps);
        if let Some((panel, contraction)) = steps {
            self.end_steps(panel, row_bytes(self.buffer(contraction.lhs)));
        }
        for (number, store) in turned.iter().enumerate() {
            let room = self.turned_room(number);
            self.turn(store, room, partial);
        }
    }

    /// Leads to the accumulators of the panel at hand.
    fn lead_sums(&mut self, leads: &mut Leads, panel: &Workspace) -> Lead {
        let lead = Lead { base: self.lead(leads), step: self.tiles * VECTOR };
        let filled = panel.filled;
        x86!(self.asm; mov(rax, qword_ptr(rsp + filled)));
        self.set(lead.base, rax);
        leads.steps.push(lead);
        lead
    }

    /// Leads to what a stage leaves in the frame.
    fn lead_results(&mut self, leads: &mut Leads, stage: &Stage) -> Results {
        let partials = (!stage.reduces.is_empty())
            .then(|| self.lead_frame(leads, self.rooms.partials, stage.reduces.len() * VECTOR));
        let (turned, width) = (self.turned(stage).len(), self.width());
        let turning = (0..turned).map(|number| self.lead_frame(leads, self.turned_room(number), width));
        Results { partials, turning: turning.collect() }
    }

    /// Where rows lie until they are turned, for this store of those that are.
    fn turned_room(&self, number: usize) -> i32 {
        self.rooms.turned + offset_of(number * self.turned_rows() * self.width())
    }

    /// The loop over the rows of the panel.
    fn panel_rows(
        &mut self,
        plan: &Plan<'_>,
        mut scope: Scope<'_>,
        leads: &Leads,
        results: &Results,
        steps: Option<(&Workspace, Contraction)>,
    ) {
        let mut across = Vec::new();
        let mut block = self.elements(Block::new(Width::Wide), plan, &scope, results, &mut across);
        let mut gathers: Vec<_> = scope.gathered.iter().map(|(&place, &room)| (place, room)).collect();
        gathers.sort_by_key(|&(_, room)| room);
        if plan.stage.when.is_none()
            && gathers.is_empty()
            && across.is_empty()
            && leads.samples.is_empty()
            && leads.seen.is_empty()
        {
            let mut together = Block::new(Width::Wide);
            for row in 0..TOGETHER {
                scope.row = row;
                together = self.elements(together, plan, &scope, results, &mut across);
            }
            return self.rows_together(leads, together, block, steps);
        }
        let still = self.stillness();
        block.settle(&mut self.asm, still);
        self.rows_of(plan.stage, leads, |emitter| {
            for ((handle, at), room) in gathers {
                emitter.gather(handle, at, scope.leads[&(handle, at)], room, scope.partial);
            }
            block.write(&mut emitter.asm);
            for (store, room) in across {
                emitter.scatter(&store, scope.leads[&(store.buffer, store.at)], room, scope.partial);
            }
        });
    }

    /// What stays as it is in the loop over rows: constants, and the frame's values of the call and of the panel.
    fn stillness(&self) -> impl Fn(Memory) -> bool + use<> {
        let kept: Vec<i32> = self.kept.values().copied().collect();
        let columns = self.rooms.columns..self.rooms.columns_end;
        move |memory| match memory.base {
            Base::Register(base) if base == r15 => true,
            Base::Register(base) if base == rsp => {
                kept.contains(&memory.offset) || columns.contains(&memory.offset)
            }
            _ => false,
        }
    }

    /// Computes what elements need once a column, for the panel's columns.
    fn keep_columns(&mut self, kept: &[Handle<Expr>], partial: bool) {
        if kept.is_empty() {
            return;
        }
        let places = self.loads(kept, Level::Column);
        let leads = self.leads(&places, true);
        let mut scope = self.scope(Level::Column, &leads);
        scope.partial = partial;
        for (number, &(handle, at)) in places.iter().enumerate() {
            let buffer = self.buffer(handle);
            if column_pitch(buffer, at) != buffer.dtype.bytes() {
                let room = self.rooms.gathered + offset_of(number * self.tiles * VECTOR);
                self.gather(handle, at, scope.leads[&(handle, at)], room, partial);
                scope.gathered.insert((handle, at), room);
            }
        }
        let mut work = Evaluation::new(&scope);
        let room = self.rooms.columns;
        for (place, &handle) in kept.iter().enumerate() {
            for vector in 0..self.tiles {
                let value = self.value(&mut work, handle, vector);
                let at = offset_of((place * self.tiles + vector) * VECTOR);
                work.block.store(Op::Store32, Memory::frame(room + at), value, ALL);
            }
        }
        work.block.write(&mut self.asm);
    }

    /// The expressions of a row of the panel, behind what is in the block.
    fn elements(
        &mut self,
        block: Block,
        plan: &Plan<'_>,
        scope: &Scope<'_>,
        results: &Results,
        across: &mut Vec<(Store, i32)>,
    ) -> Block {
        let Results { partials, turning } = results;
        let mut work = Evaluation::behind(block, scope);
        if self.in_halves(plan.stage) {
            self.halves(&mut work, plan.stage, *partials);
            return work.block;
        }
        let turned = self.turned(plan.stage);
        for vector in 0..self.tiles {
            // All loads of an element come before its stores.
            let roots: Vec<Handle<Expr>> = plan::roots(plan.stage).collect();
            let values: Vec<Source> = roots.iter().map(|&root| self.value(&mut work, root, vector)).collect();
            for (number, (store, &value)) in plan.stage.stores.iter().zip(&values).enumerate() {
                if let Some(number) = turned.iter().position(|turned| turned == store) {
                    let to = turning[number].at(scope.row, vector * LANES);
                    work.block.store(Op::Store8, to, value, ALL);
                } else if self.is_neighbours(store) {
                    self.store(&mut work, store, value, vector);
                } else {
                    let number = scope.gathered.len() + number;
                    let room = self.rooms.gathered + offset_of(number * self.tiles * VECTOR);
                    work.block.store(Op::Store32, Memory::frame(room).ahead(vector * VECTOR), value, ALL);
                    if vector == 0 {
                        across.push((*store, room));
                    }
                }
            }
        }
        let reduced = plan.stage.reduces.iter().enumerate();
        for (number, reduce) in reduced {
            let partials = partials.expect("there is room for reductions");
            let to = partials.at(scope.row, number * VECTOR);
            let mut values = [None; 2];
            for (vector, slot) in values.iter_mut().enumerate().take(self.tiles) {
                let value = self.value(&mut work, reduce.value, vector);
                *slot = Some((value, mask(vector, scope.partial)));
            }
            work.block.reduce(folding(reduce.op), to, values);
        }
        work.block
    }

    /// Whether a stage is evaluated in 16 bits.
    fn in_halves(&self, stage: &Stage) -> bool {
        self.tiles == 2 && self.halves.cover(self.program, stage)
    }

    /// Whether the elements that a store covers are neighbours, or there is only one.
    fn is_neighbours(&self, store: &Store) -> bool {
        let buffer = self.buffer(store.buffer);
        [0, buffer.dtype.bytes()].contains(&column_pitch(buffer, store.at))
    }
}
