//! Elements that are not neighbours: gathered one by one, scattered one by one, bytes turned many at a time.

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Store};
use iced_x86::code_asm::{
    AsmRegister64, dword_ptr, eax, ecx, edx, k5, ptr, qword_ptr, r8, r9, r10, rax, rbx, rcx, rdi, rdx, rsi,
    rsp,
};

use super::super::asm::{ALL, LANES, Mask, Memory, Op, VECTOR, Width, offset_of, times, x86};
use super::super::turn;
use super::super::values::Lead;
use super::{Emitter, Slots};
use crate::layout::{PADDING, column_pitch, row_bytes};

impl Emitter<'_> {
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

    /// Loads a vector's elements in each row of a place into the frame.
    pub(super) fn gather(&mut self, handle: Handle<Buffer>, at: At, lead: Lead, room: i32, partial: bool) {
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

    /// Stores elements from the frame.
    pub(super) fn scatter(&mut self, store: &Store, lead: Lead, room: i32, partial: bool) {
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
    pub(super) fn turn(&mut self, store: &Store, room: i32, partial: bool) {
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
        );
        if !self.buffer(store.buffer).dense {
            x86!(self.asm;
                cmp(rbx, qword_ptr(rsp + rows));
                jne(inside);
                add(r8, padding - 1);
                and(r8, -padding);
            );
        }
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
