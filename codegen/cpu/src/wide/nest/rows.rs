//! Loops over the rows of a chunk, and the addresses that they move.

use std::collections::HashMap;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Contraction, Expr, Stage};
use ffc_ir::types::DType;
use iced_x86::code_asm::{
    AsmRegister64, CodeLabel, dword_ptr, eax, ecx, edx, ptr, qword_ptr, r12, r12d, rax, rdx, rsp,
};

use super::super::asm::{ADDRESSES, Base, offset_of, times, x86};
use super::super::block::{Block, Source};
use super::super::contract::{STEP, Workspace};
use super::super::values::{Evaluation, Lead, Level};
use super::Emitter;
use super::images::{Seen, is_found};
use crate::layout::{column_pitch, row_bytes, vector_pitch};

/// Rows whose expressions make one block where nothing speaks against it: the chain of one row fills the gaps of the other.
pub(super) const TOGETHER: usize = 2;

/// The rows of the chunk that a stage with a gate does not leave out, by number.
#[derive(Clone, Copy, Default)]
pub(super) struct Listed {
    pub(super) first: i32,
    /// The address behind the last one.
    pub(super) end: i32,
    /// The address of the next one.
    pub(super) next: i32,
}

/// What a loop over rows leads along: addresses that move from row to row.
#[derive(Default)]
pub(super) struct Leads {
    pub(super) buffers: HashMap<(Handle<Buffer>, At), Lead>,
    /// Those that move by the same distance from row to row.
    pub(super) steps: Vec<Lead>,
    /// Addresses that follow the sample of a row: the lead, the start, rows per sample, bytes per sample.
    pub(super) samples: Vec<(Base, i32, usize, usize)>,
    /// Addresses that are found for each row.
    pub(super) seen: Vec<Seen>,
    taken: usize,
}

impl Emitter<'_> {
    /// Room for an address that a loop moves.
    pub(super) fn lead(&mut self, leads: &mut Leads) -> Base {
        leads.taken += 1;
        match ADDRESSES.get(leads.taken - 1) {
            Some(&register) => Base::Register(register),
            None => Base::Slot(self.asm.room(8)),
        }
    }

    pub(super) fn set(&mut self, base: Base, from: AsmRegister64) {
        match base {
            Base::Register(register) => x86!(self.asm; mov(register, from)),
            Base::Slot(slot) => x86!(self.asm; mov(qword_ptr(rsp + slot), from)),
        }
    }

    pub(super) fn get(&mut self, to: AsmRegister64, base: Base) {
        match base {
            Base::Register(register) => x86!(self.asm; mov(to, register)),
            Base::Slot(slot) => x86!(self.asm; mov(to, qword_ptr(rsp + slot))),
        }
    }

    /// Leads into the frame, so many bytes a row.
    pub(super) fn lead_frame(&mut self, leads: &mut Leads, room: i32, step: usize) -> Lead {
        let lead = Lead { base: self.lead(leads), step };
        x86!(self.asm; lea(rax, ptr(rsp + room)));
        self.set(lead.base, rax);
        leads.steps.push(lead);
        lead
    }

    /// Leads to the elements of the chunk's first row in these places, and of the panel's first column.
    pub(super) fn leads(&mut self, places: &[(Handle<Buffer>, At)], columns: bool) -> Leads {
        let mut leads = Leads::default();
        self.lead_buffers(&mut leads, places, columns);
        leads
    }

    pub(super) fn lead_buffers(&mut self, leads: &mut Leads, places: &[(Handle<Buffer>, At)], columns: bool) {
        for &(handle, at) in places {
            if leads.buffers.contains_key(&(handle, at)) {
                continue;
            }
            if is_found(at) {
                let base = self.lead(leads);
                self.lead_found(leads, base, handle, at);
                leads.buffers.insert((handle, at), Lead { base, step: 0 });
                continue;
            }
            let buffer = self.buffer(handle);
            let (step, per) = match at {
                At::Flat(columns) => (columns * buffer.dtype.bytes(), 1),
                At::Element | At::Columns(_) | At::Sample(1) => (row_bytes(buffer), 1),
                At::Sample(per) => (row_bytes(buffer), per),
                At::Row | At::RowSample(1) => (vector_pitch(buffer), 1),
                At::RowSample(per) => (vector_pitch(buffer), per),
                At::Transposed => (buffer.dtype.bytes(), 1),
                At::Column | At::Scalar => (0, 1),
                At::Window { .. } | At::Planar { .. } | At::Back { .. } => unreachable!("found above"),
            };
            let base = self.lead(leads);
            self.pointer(rax, handle);
            if let At::Columns(from @ 1..) = at {
                x86!(self.asm; add(rax, offset_of(from * buffer.dtype.bytes())));
            }
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
    pub(super) fn rows(&mut self, leads: &Leads, body: impl FnOnce(&mut Self, &mut CodeLabel)) {
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
    pub(super) fn rows_of(&mut self, stage: &Stage, leads: &Leads, body: impl FnOnce(&mut Self)) {
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

    /// Sets the leads that follow the sample of the row, or are found for each row.
    fn follow_samples(&mut self, leads: &Leads) {
        self.follow_found(leads);
        for &(base, start, per, step) in &leads.samples {
            let divisor = u32::try_from(per).expect("samples have few rows");
            x86!(self.asm; mov(eax, r12d));
            match per.is_power_of_two() {
                true => x86!(self.asm; shr(eax, per.trailing_zeros())),
                false => x86!(self.asm; xor(edx, edx); mov(ecx, divisor); div(ecx)),
            }
            times(&mut self.asm, rax, step);
            x86!(self.asm; add(rax, qword_ptr(rsp + start)));
            self.set(base, rax);
        }
    }

    /// The loop over the chunk's rows by [`TOGETHER`], and by one where fewer are left. Leads do not follow samples.
    pub(super) fn rows_together(
        &mut self,
        leads: &Leads,
        mut together: Block,
        mut single: Block,
        steps: Option<(&Workspace, Contraction)>,
    ) {
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        let [mut again, mut rest, mut done] = [0; 3].map(|_| self.asm.label());
        let ahead = offset_of(TOGETHER);
        x86!(self.asm; mov(r12, qword_ptr(rsp + chunk)));
        let still = self.stillness();
        together.settle(&mut self.asm, &still);
        self.asm.place(&mut again);
        x86!(self.asm; lea(rax, ptr(r12 + ahead)); cmp(rax, qword_ptr(rsp + end)); ja(rest));
        if let Some((panel, contraction)) = steps {
            self.step_between(panel, &contraction);
        }
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

    /// A step of the next panel's contraction, if it is time for one: steps are spread over the rows of a chunk.
    fn step_between(&mut self, panel: &Workspace, contraction: &Contraction) {
        let lhs = self.buffer(contraction.lhs);
        let steps = contraction.depth.size(lhs.samples).div_ceil(STEP).next_power_of_two();
        let rows = (self.chunk / steps).max(TOGETHER);
        let mut not_now = self.asm.label();
        x86!(self.asm; test(r12d, i32::try_from(rows - 1).expect("chunks have few rows")); jnz(not_now));
        self.step(panel, row_bytes(lhs));
        self.asm.place(&mut not_now);
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

    /// Lists the rows for which a stage runs.
    pub(super) fn list_rows(&mut self, when: Handle<Expr>, rows: &[Handle<Expr>]) {
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
}
