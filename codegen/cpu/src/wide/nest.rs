//! The loops of a kernel: chunks of rows, stages, panels of columns, rows.

use std::collections::HashMap;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Expr, Extent, Fold, Kernel, Over, Program, Stage, Store};
use ffc_ir::types::DType;
use iced_x86::code_asm::{
    AsmRegister64, dword_ptr, eax, ecx, edx, k1, k2, k5, ptr, qword_ptr, r8, r9, r10, r12, r12d, r15, rax,
    rbx, rcx, rdi, rdx, rsi, rsp,
};

use super::asm::{ADDRESSES, ALL, Asm, Base, LANES, Mask, Memory, Op, VECTOR, Width, offset_of, times, x86};
use super::block::{Block, Source};
use super::contract::{self, Order, Workspace};
use super::halves::Halves;
use super::turn;
use super::values::{self, Evaluation, Foreseen, Lead, Level, Scope, mask};
use super::{Code, Products};
use crate::layout::{PADDING, column_pitch, row_bytes, vector_pitch};
use crate::plan::{self, Plan};

/// Most rows of a chunk: what a stage leaves in the frame and in the cache is used again before the next chunk.
pub(super) const CHUNK: usize = 128;

/// Rows of a chunk where its size costs nothing: then the rows' memory stays in the first-level cache from one panel to
/// the next, which has the other half of its lines.
pub(super) const SMALL_CHUNK: usize = 64;

/// Rows whose expressions make one block where nothing speaks against it: the chain of one row fills the gaps of the other.
const TOGETHER: usize = 2;

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
}

/// The rows of the chunk that a stage with a gate does not leave out, by number.
#[derive(Clone, Copy, Default)]
struct Listed {
    first: i32,
    /// The address behind the last one.
    end: i32,
    /// The address of the next one.
    next: i32,
}

/// What a loop over rows leads along: addresses that move from row to row.
#[derive(Default)]
struct Leads {
    buffers: HashMap<(Handle<Buffer>, At), Lead>,
    /// Those that move by the same distance from row to row.
    steps: Vec<Lead>,
    /// Addresses that follow the sample of a row: the lead, the start, rows per sample, bytes per sample.
    samples: Vec<(Base, i32, usize, usize)>,
    taken: usize,
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
        let rows = self.asm.room(rows);
        let first_column = self.asm.room(columns);
        self.rooms = Rooms {
            rows,
            columns: first_column,
            columns_end: first_column + offset_of(columns),
            partials: self.asm.room(partials),
            turned: self.asm.room(turned),
            gathered: self.asm.room(gathered),
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

    // Addresses.

    /// Room for an address that a loop moves.
    fn lead(&mut self, leads: &mut Leads) -> Base {
        leads.taken += 1;
        match ADDRESSES.get(leads.taken - 1) {
            Some(&register) => Base::Register(register),
            None => Base::Slot(self.asm.room(8)),
        }
    }

    fn set(&mut self, base: Base, from: AsmRegister64) {
        match base {
            Base::Register(register) => x86!(self.asm; mov(register, from)),
            Base::Slot(slot) => x86!(self.asm; mov(qword_ptr(rsp + slot), from)),
        }
    }

    fn get(&mut self, to: AsmRegister64, base: Base) {
        match base {
            Base::Register(register) => x86!(self.asm; mov(to, register)),
            Base::Slot(slot) => x86!(self.asm; mov(to, qword_ptr(rsp + slot))),
        }
    }

    /// Leads into the frame, so many bytes a row.
    fn lead_frame(&mut self, leads: &mut Leads, room: i32, step: usize) -> Lead {
        let lead = Lead { base: self.lead(leads), step };
        x86!(self.asm; lea(rax, ptr(rsp + room)));
        self.set(lead.base, rax);
        leads.steps.push(lead);
        lead
    }

    /// Leads to the elements of the chunk's first row in these places, and of the panel's first column.
    fn leads(&mut self, places: &[(Handle<Buffer>, At)], columns: bool) -> Leads {
        let mut leads = Leads::default();
        self.lead_buffers(&mut leads, places, columns);
        leads
    }

    fn lead_buffers(&mut self, leads: &mut Leads, places: &[(Handle<Buffer>, At)], columns: bool) {
        for &(handle, at) in places {
            if leads.buffers.contains_key(&(handle, at)) {
                continue;
            }
            let buffer = self.buffer(handle);
            let (step, per) = match at {
                At::Element | At::Sample(1) => (row_bytes(buffer), 1),
                At::Sample(per) => (row_bytes(buffer), per),
                At::Row | At::RowSample(1) => (vector_pitch(buffer), 1),
                At::RowSample(per) => (vector_pitch(buffer), per),
                At::Transposed => (buffer.dtype.bytes(), 1),
                At::Column | At::Scalar => (0, 1),
            };
            let base = self.lead(leads);
            self.pointer(rax, handle);
            let pitch = column_pitch(buffer, at);
            let (chunk, panel) = (self.slots.chunk, self.slots.panel);
            if columns && pitch > 0 {
                x86!(self.asm; mov(rdx, qword_ptr(rsp + panel)));
                times(&mut self.asm, rdx, pitch);
                x86!(self.asm; add(rax, rdx));
            }
            if per > 1 {
                let start = self.asm.room(8);
                x86!(self.asm; mov(qword_ptr(rsp + start), rax));
                leads.samples.push((base, start, per, step));
            } else if step > 0 {
                x86!(self.asm; mov(rdx, qword_ptr(rsp + chunk)));
                times(&mut self.asm, rdx, step);
                x86!(self.asm; add(rax, rdx));
                leads.steps.push(Lead { base, step });
            }
            self.set(base, rax);
            leads.buffers.insert((handle, at), Lead { base, step });
        }
    }

    /// The loop over the chunk's rows: `r12` is the row's number. The body may jump to the label to leave a row out.
    fn rows(&mut self, leads: &Leads, body: impl FnOnce(&mut Self, &mut iced_x86::code_asm::CodeLabel)) {
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        let (mut again, mut next) = (self.asm.label(), self.asm.label());
        x86!(self.asm; mov(r12, qword_ptr(rsp + chunk)));
        self.asm.place(&mut again);
        self.follow_samples(leads);
        body(self, &mut next);
        self.asm.place(&mut next);
        self.advance(leads, 1);
        x86!(self.asm; cmp(r12, qword_ptr(rsp + end)); jb(again));
    }

    /// The loop over the rows of the chunk that the stage covers.
    fn rows_of(&mut self, stage: &Stage, leads: &Leads, body: impl FnOnce(&mut Self)) {
        if stage.when.is_none() {
            return self.rows(leads, |emitter, _| body(emitter));
        }
        // Where each lead would lead to in row 0.
        let chunk = self.slots.chunk;
        let mut starts = Vec::new();
        for &Lead { base, step } in &leads.steps {
            let start = self.asm.room(8);
            self.get(rax, base);
            x86!(self.asm; mov(rdx, qword_ptr(rsp + chunk)));
            times(&mut self.asm, rdx, step);
            x86!(self.asm; sub(rax, rdx); mov(qword_ptr(rsp + start), rax));
            starts.push(start);
        }
        let Listed { first, end, next } = self.rooms.listed;
        let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
        x86!(self.asm; lea(rax, ptr(rsp + first)); mov(qword_ptr(rsp + next), rax));
        self.asm.place(&mut again);
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + next));
            cmp(rax, qword_ptr(rsp + end));
            jae(done);
            mov(r12d, dword_ptr(rax));
            add(qword_ptr(rsp + next), 4);
        );
        for (&Lead { base, step }, start) in leads.steps.iter().zip(starts) {
            x86!(self.asm; mov(rax, r12));
            times(&mut self.asm, rax, step);
            x86!(self.asm; add(rax, qword_ptr(rsp + start)));
            self.set(base, rax);
        }
        self.follow_samples(leads);
        body(self);
        x86!(self.asm; jmp(again));
        self.asm.place(&mut done);
    }

    /// Sets the leads that follow the sample of the row.
    fn follow_samples(&mut self, leads: &Leads) {
        for &(base, start, per, step) in &leads.samples {
            let divisor = u32::try_from(per).expect("samples have few rows");
            x86!(self.asm; mov(eax, r12d); xor(edx, edx); mov(ecx, divisor); div(ecx));
            times(&mut self.asm, rax, step);
            x86!(self.asm; add(rax, qword_ptr(rsp + start)));
            self.set(base, rax);
        }
    }

    /// The loop over the chunk's rows by [`TOGETHER`], and by one where fewer are left. Leads do not follow samples.
    fn rows_together(&mut self, leads: &Leads, mut together: Block, mut single: Block) {
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        let [mut again, mut rest, mut done] = [0; 3].map(|_| self.asm.label());
        let ahead = offset_of(TOGETHER);
        x86!(self.asm; mov(r12, qword_ptr(rsp + chunk)));
        let still = self.stillness();
        together.settle(&mut self.asm, &still);
        self.asm.place(&mut again);
        x86!(self.asm; lea(rax, ptr(r12 + ahead)); cmp(rax, qword_ptr(rsp + end)); ja(rest));
        together.write(&mut self.asm);
        self.advance(leads, TOGETHER);
        x86!(self.asm; jmp(again));
        self.asm.place(&mut rest);
        x86!(self.asm; cmp(r12, qword_ptr(rsp + end)); jae(done));
        single.settle(&mut self.asm, &still);
        let mut last = self.asm.label();
        self.asm.place(&mut last);
        single.write(&mut self.asm);
        self.advance(leads, 1);
        x86!(self.asm; cmp(r12, qword_ptr(rsp + end)); jb(last));
        self.asm.place(&mut done);
    }

    /// Moves on by so many rows.
    fn advance(&mut self, leads: &Leads, rows: usize) {
        for &Lead { base, step } in &leads.steps {
            let distance = offset_of(rows * step);
            match base {
                Base::Register(register) => x86!(self.asm; add(register, distance)),
                Base::Slot(slot) => x86!(self.asm; add(qword_ptr(rsp + slot), distance)),
            }
        }
        x86!(self.asm; add(r12, offset_of(rows)));
    }

    // Stages.

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

    /// Lists the rows for which a stage runs.
    fn list_rows(&mut self, when: Handle<Expr>, rows: &[Handle<Expr>]) {
        let Listed { first, end, .. } = self.rooms.listed;
        x86!(self.asm; lea(rax, ptr(rsp + first)); mov(qword_ptr(rsp + end), rax));
        let mut leads = Leads::default();
        let mut scope = self.scope(Level::Element, &leads);
        if !rows.is_empty() {
            scope.rows = Some((self.lead_frame(&mut leads, self.rooms.rows, 4 * rows.len()), rows));
        }
        self.rows(&leads, |emitter, next| {
            // Gates change with the row at most, so this is a value in memory.
            let source = emitter.value(&mut Evaluation::new(&scope), when, 0);
            let Source::Memory(gate) = source else { unreachable!("gates do not depend on columns") };
            emitter.asm.load_one(DType::I32, gate);
            x86!(emitter.asm;
                test(eax, eax);
                je(*next);
                mov(rax, qword_ptr(rsp + end));
                mov(dword_ptr(rax), r12d);
                add(qword_ptr(rsp + end), 4);
            );
        });
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
        let roots: Vec<_> = plan::roots(plan.stage).collect();
        let mut leads = Leads::default();
        let mut scope = self.scope(Level::Element, &leads);
        if !rows.is_empty() {
            let base = self.lead_frame(&mut leads, self.rooms.rows, 4 * rows.len());
            scope.rows = Some((base, rows));
        }
        if let Some(panel) = sums {
            let filled = panel.filled;
            let lead = Lead { base: self.lead(&mut leads), step: self.tiles * VECTOR };
            x86!(self.asm; mov(rax, qword_ptr(rsp + filled)));
            self.set(lead.base, rax);
            leads.steps.push(lead);
            scope.sums = Some(lead);
        }
        let partials = (!plan.stage.reduces.is_empty())
            .then(|| self.lead_frame(&mut leads, self.rooms.partials, plan.stage.reduces.len() * VECTOR));
        let turned = self.turned(plan.stage);
        let turning: Vec<Lead> = (0..turned.len())
            .map(|number| {
                let room = self.rooms.turned + offset_of(number * self.turned_rows() * self.width());
                let width = self.width();
                self.lead_frame(&mut leads, room, width)
            })
            .collect();
        let mut places = self.loads(&roots, Level::Element);
        let stores = plan.stage.stores.iter().filter(|store| !turned.contains(store));
        places.extend(stores.map(|store| (store.buffer, store.at)));
        self.lead_buffers(&mut leads, &places, true);
        scope.leads = leads.buffers.clone();
        scope.partial = partial;
        scope.columns = Some((self.rooms.columns, &columns));
        scope.stored = plan.stage.stores.iter().map(|store| store.buffer).collect();
        let gathers = self.gathered(plan, Level::Element);
        for (number, &place) in gathers.iter().enumerate() {
            let room = self.rooms.gathered + offset_of(number * self.tiles * VECTOR);
            scope.gathered.insert(place, room);
        }
        let scattered = self.rooms.gathered + offset_of(gathers.len() * self.tiles * VECTOR);
        let mut across = Vec::new();
        let mut block = Block::new(Width::Wide);
        block = self.elements(block, plan, &scope, partials, &turning, scattered, &mut across);
        let one_by_one = plan.stage.when.is_some()
            || !(gathers.is_empty() && across.is_empty() && leads.samples.is_empty());
        if one_by_one {
            let still = self.stillness();
            block.settle(&mut self.asm, still);
            self.rows_of(plan.stage, &leads, |emitter| {
                for &(handle, at) in &gathers {
                    let (lead, room) = (scope.leads[&(handle, at)], scope.gathered[&(handle, at)]);
                    emitter.gather(handle, at, lead, room, partial);
                }
                block.write(&mut emitter.asm);
                for (store, room) in across {
                    emitter.scatter(&store, scope.leads[&(store.buffer, store.at)], room, partial);
                }
            });
        } else {
            let mut together = Block::new(Width::Wide);
            for row in 0..TOGETHER {
                scope.row = row;
                together = self.elements(together, plan, &scope, partials, &turning, scattered, &mut across);
            }
            self.rows_together(&leads, together, block);
        }
        for (number, store) in turned.iter().enumerate() {
            let room = self.rooms.turned + offset_of(number * self.turned_rows() * self.width());
            self.turn(store, room, partial);
        }
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
        partials: Option<Lead>,
        turning: &[Lead],
        scattered: i32,
        across: &mut Vec<(Store, i32)>,
    ) -> Block {
        let mut work = Evaluation::behind(block, scope);
        if self.in_halves(plan.stage) {
            self.halves(&mut work, plan.stage, partials);
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
                    let room = scattered + offset_of(number * self.tiles * VECTOR);
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

    // Reductions.

    fn begin_reduces(&mut self, stage: &Stage) {
        if stage.reduces.is_empty() {
            return;
        }
        let mut leads = Leads::default();
        let partials = self.lead_frame(&mut leads, self.rooms.partials, stage.reduces.len() * VECTOR);
        for (number, reduce) in stage.reduces.iter().enumerate() {
            let nothing = match self.in_halves(stage) {
                true => 0x8000_8000,
                false => nothing(reduce.op),
            };
            let nothing = self.asm.word(nothing);
            let to = u8::try_from(number % 32).expect("there are 32 registers");
            self.asm.load(Width::Wide, Op::Splat, to, Memory { splat: false, ..nothing }, ALL);
        }
        let count = stage.reduces.len();
        assert!(count <= 32, "stages reduce few values");
        self.rows(&leads, |emitter, _| {
            for number in 0..count {
                let to = partials.at(0, number * VECTOR);
                let value = u8::try_from(number).expect("there are 32 registers");
                emitter.asm.store(Width::Wide, Op::Store32, to, value, ALL);
            }
        });
    }

    fn end_reduces(&mut self, plan: &Plan<'_>) {
        let reduces = &plan.stage.reduces;
        if reduces.is_empty() {
            return;
        }
        let mut leads = Leads::default();
        let partials = self.lead_frame(&mut leads, self.rooms.partials, reduces.len() * VECTOR);
        let places: Vec<_> = reduces.iter().map(|reduce| (reduce.into, At::Row)).collect();
        self.lead_buffers(&mut leads, &places, false);
        self.rows_of(plan.stage, &leads, |emitter| {
            for (number, reduce) in reduces.iter().enumerate() {
                let from = partials.at(0, number * VECTOR);
                emitter.asm.load(Width::Wide, Op::Move, 0, from, ALL);
                if emitter.in_halves(plan.stage) {
                    emitter.widen_halves(0, 1);
                }
                emitter.asm.combine_lanes(folding(reduce.op), 0, 1);
                let to = leads.buffers[&(reduce.into, At::Row)].at(0, 0);
                let dtype = emitter.buffer(reduce.into).dtype;
                emitter.asm.store_register(dtype, to);
            }
        });
    }

    // Elements that are not neighbours.

    /// Runs the body for the lanes of each vector of the panel: `rdx` is the lane.
    fn lanes(&mut self, vector: usize, partial: bool, body: impl FnOnce(&mut Self)) {
        let (mut again, mut done) = (self.asm.label(), self.asm.label());
        let (count, lanes) = (self.slots.counts[vector], offset_of(LANES));
        x86!(self.asm; xor(edx, edx));
        if partial {
            x86!(self.asm; cmp(qword_ptr(rsp + count), 0); je(done));
        }
        self.asm.place(&mut again);
        body(self);
        x86!(self.asm; inc(rdx));
        match partial {
            true => x86!(self.asm; cmp(rdx, qword_ptr(rsp + count))),
            false => x86!(self.asm; cmp(rdx, lanes)),
        }
        x86!(self.asm; jb(again));
        self.asm.place(&mut done);
    }

    /// `to` is the address of a vector's first element.
    fn element(&mut self, to: AsmRegister64, lead: Lead, vector: usize, pitch: usize) {
        self.get(to, lead.base);
        let ahead = offset_of(vector * LANES * pitch);
        if ahead > 0 {
            x86!(self.asm; add(to, ahead));
        }
    }

    fn gather(&mut self, handle: Handle<Buffer>, at: At, lead: Lead, room: i32, partial: bool) {
        let buffer = self.buffer(handle);
        let pitch = column_pitch(buffer, at);
        for vector in 0..self.tiles {
            self.element(rcx, lead, vector, pitch);
            let to = room + offset_of(vector * VECTOR);
            self.lanes(vector, partial, |emitter| {
                emitter.asm.load_one(buffer.dtype, Memory::at(rcx, 0));
                x86!(emitter.asm; mov(dword_ptr(rsp + rdx * 4 + to), eax); add(rcx, offset_of(pitch)));
            });
        }
    }

    fn scatter(&mut self, store: &Store, lead: Lead, room: i32, partial: bool) {
        let buffer = self.buffer(store.buffer);
        let pitch = column_pitch(buffer, store.at);
        for vector in 0..self.tiles {
            self.element(rax, lead, vector, pitch);
            let from = room + offset_of(vector * VECTOR);
            self.lanes(vector, partial, |emitter| {
                x86!(emitter.asm; mov(ecx, dword_ptr(rsp + rdx * 4 + from)));
                emitter.asm.store_register(buffer.dtype, Memory::at(rax, 0));
                x86!(emitter.asm; add(rax, offset_of(pitch)));
            });
        }
    }

    /// Stores across what the chunk's rows have left in the frame.
    fn turn(&mut self, store: &Store, room: i32, partial: bool) {
        let (pitch, width) = (row_bytes(self.buffer(store.buffer)), self.width());
        let Slots { chunk, chunk_end, rows, panel, counts, .. } = self.slots;
        // rsi: rows in the frame; rdi: where their first column goes; rbx: rows left; r8: rows left, rounded up to the
        // padding where the domain ends here.
        self.pointer(rdi, store.buffer);
        x86!(self.asm; mov(rax, qword_ptr(rsp + panel)));
        times(&mut self.asm, rax, pitch);
        let [mut inside, mut zeros, mut filled] = [0; 3].map(|_| self.asm.label());
        let padding = offset_of(PADDING);
        x86!(self.asm;
            add(rdi, rax);
            add(rdi, qword_ptr(rsp + chunk));
            lea(rsi, ptr(rsp + room));
            mov(rbx, qword_ptr(rsp + chunk_end));
            mov(r8, rbx);
            cmp(rbx, qword_ptr(rsp + rows));
            jne(inside);
            add(r8, padding - 1);
            and(r8, -padding);
        );
        self.asm.place(&mut inside);
        x86!(self.asm; sub(rbx, qword_ptr(rsp + chunk)); sub(r8, qword_ptr(rsp + chunk)));
        // Rows of zeros up to there.
        self.asm.zero(0);
        x86!(self.asm; mov(r9, rbx));
        times(&mut self.asm, r9, width);
        x86!(self.asm; add(r9, rsi); mov(r10, rbx));
        self.asm.place(&mut zeros);
        x86!(self.asm; cmp(r10, r8); jae(filled));
        for part in 0..self.tiles {
            self.asm.store(Width::Narrow, Op::Store32, Memory::at(r9, LANES * part), 0, ALL);
        }
        x86!(self.asm; add(r9, offset_of(width)); inc(r10); jmp(zeros));
        self.asm.place(&mut filled);
        let (mut again, mut done) = (self.asm.label(), self.asm.label());
        self.asm.place(&mut again);
        x86!(self.asm; mov(rax, -1i64); mov(rcx, r8); cmp(rcx, offset_of(turn::ROWS)));
        let mut whole = self.asm.label();
        x86!(self.asm; jae(whole); bzhi(rax, rax, rcx));
        self.asm.place(&mut whole);
        x86!(self.asm; kmovq(k5, rax));
        for (vector, count) in counts.into_iter().enumerate().take(self.tiles) {
            let columns = turn::turn(&mut self.asm, rsi, vector * LANES, width);
            let mut end = self.asm.label();
            x86!(self.asm; lea(rax, ptr(rdi + offset_of(vector * LANES * pitch))));
            for (number, column) in columns.into_iter().enumerate() {
                if partial {
                    x86!(self.asm; cmp(qword_ptr(rsp + count), offset_of(number)); jbe(end));
                }
                turn::store(&mut self.asm, Memory::at(rax, 0).ahead(number * pitch), column, Mask(5));
            }
            self.asm.place(&mut end);
        }
        x86!(self.asm;
            add(rsi, offset_of(turn::ROWS * width));
            add(rdi, offset_of(turn::ROWS));
            sub(r8, offset_of(turn::ROWS));
            jbe(done);
            jmp(again);
        );
        self.asm.place(&mut done);
    }
}

/// How partial results combine.
fn folding(op: Fold) -> Op {
    match op {
        Fold::SumI32 => Op::IAdd,
        Fold::SumF32 => Op::FAdd,
        Fold::MaxF32 => Op::FMax,
        Fold::MaxI32 => Op::IMax,
    }
}

/// The bits of what changes nothing.
fn nothing(op: Fold) -> u32 {
    match op {
        Fold::SumI32 | Fold::SumF32 => 0,
        Fold::MaxF32 => f32::NEG_INFINITY.to_bits(),
        Fold::MaxI32 => i32::MIN.cast_unsigned(),
    }
}
