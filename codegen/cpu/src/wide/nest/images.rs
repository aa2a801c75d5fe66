//! Loads from images: where the rows of a chunk look is found once a stage, before its panels.
//!
//! The frame has the address of each row's first channel for each such load, or 0 where a window sees nothing; a loop over
//! rows then leads there, or to constants that are what is beyond the edge.

use ffc_ir::Window;
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer};
use iced_x86::code_asm::{eax, ptr, qword_ptr, r11, r12, r15, rax, rbx, rcx, rdi, rdx, rsi, rsp};

use super::super::asm::{Base, LANES, offset_of, times, x86};
use super::super::contract::gather::{SAMPLE, divide, quotient};
use super::super::values::Level;
use super::Emitter;
use super::rows::Leads;
use crate::layout::{column_pitch, outside_bits, row_bytes};
use crate::plan::{self, Plan};

/// Bytes of an address.
const ADDRESS: usize = 8;

/// An address that is found for each row.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    base: Base,
    /// Which of the stage's.
    number: usize,
    /// Where it is how far the panel's first column lies behind the row's.
    ahead: i32,
    /// Where it leads where there is nothing, among the constants.
    nothing: Option<i32>,
}

/// Whether loads at this place need an address for each row.
pub(super) fn is_found(at: At) -> bool {
    matches!(at, At::Window { .. } | At::Planar { .. } | At::Back { .. })
}

impl Emitter<'_> {
    /// The loads of a stage whose addresses are found for each row.
    pub(super) fn found(&self, plan: &Plan<'_>) -> Vec<(Handle<Buffer>, At)> {
        let roots: Vec<_> = plan::roots(plan.stage).collect();
        let mut found = self.loads(&roots, Level::Element);
        found.retain(|&(_, at)| is_found(at));
        found
    }

    /// Bytes of the frame for a stage's addresses.
    pub(super) fn found_bytes(&self, plan: &Plan<'_>) -> usize {
        self.found(plan).len() * self.chunk * ADDRESS
    }

    /// Finds the addresses of a stage's loads for the chunk's rows.
    pub(super) fn find(&mut self, plan: &Plan<'_>) {
        let found = self.found(plan);
        self.rooms.found.clone_from(&found);
        if found.is_empty() {
            return;
        }
        let (chunk, end, room) = (self.slots.chunk, self.slots.chunk_end, self.rooms.addresses);
        let mut again = self.asm.label();
        x86!(self.asm; mov(rbx, qword_ptr(rsp + chunk)); lea(rdi, ptr(rsp + room)));
        self.asm.place(&mut again);
        let mut placed = None;
        for (number, &(buffer, at)) in found.iter().enumerate() {
            match at {
                At::Window { window, tap, .. } => {
                    let window = Window::from(window);
                    if placed.replace(window) != Some(window) {
                        self.place_position(&window, window.inputs());
                    }
                    self.find_seen(buffer, &window, tap);
                }
                At::Planar { positions, copies } => self.find_planar(buffer, positions, copies),
                At::Back { taps, inputs, outputs } => self.find_filter(buffer, taps, inputs, outputs),
                _ => unreachable!("other places move by a step"),
            }
            x86!(self.asm; mov(qword_ptr(rdi + offset_of(ADDRESS * number)), rax));
        }
        let step = offset_of(ADDRESS * found.len());
        x86!(self.asm; add(rdi, step); inc(rbx); cmp(rbx, qword_ptr(rsp + end)); jb(again));
    }

    /// `rax` is the address of the row that is seen through a tap, or 0.
    fn find_seen(&mut self, image: Handle<Buffer>, window: &Window, tap: usize) {
        let [mut nothing, mut done] = [0; 2].map(|_| self.asm.label());
        let pitch = row_bytes(self.buffer(image));
        self.look_through(window, tap, nothing);
        x86!(self.asm; add(rax, SAMPLE));
        times(&mut self.asm, rax, pitch);
        self.pointer(rdx, image);
        x86!(self.asm; add(rax, rdx); jmp(done));
        self.asm.place(&mut nothing);
        x86!(self.asm; xor(eax, eax));
        self.asm.place(&mut done);
    }

    /// `rax` is the address of the first channel of a row of an image whose channels lie one after the other.
    fn find_planar(&mut self, image: Handle<Buffer>, positions: usize, copies: usize) {
        let buffer = self.buffer(image);
        let (pitch, element) = (row_bytes(buffer), buffer.dtype.bytes());
        x86!(self.asm; mov(rsi, rbx));
        divide(&mut self.asm, rdx, rsi, positions);
        quotient(&mut self.asm, rdx, rbx, positions * copies);
        times(&mut self.asm, rdx, pitch);
        times(&mut self.asm, rsi, element);
        self.pointer(rax, image);
        x86!(self.asm; add(rax, rdx); add(rax, rsi));
    }

    /// `rax` is the address of what the first of a group's filters has for a row of filters that lead back.
    fn find_filter(&mut self, filters: Handle<Buffer>, taps: usize, inputs: usize, outputs: usize) {
        let buffer = self.buffer(filters);
        let (pitch, element) = (row_bytes(buffer), buffer.dtype.bytes());
        x86!(self.asm; mov(rsi, rbx));
        divide(&mut self.asm, rdx, rsi, taps);
        x86!(self.asm; mov(r11, rdx));
        divide(&mut self.asm, rdx, r11, inputs);
        // rdx: the group; r11: the channel in it; rsi: how far the tap is from the last.
        times(&mut self.asm, rdx, outputs * pitch);
        times(&mut self.asm, r11, element);
        times(&mut self.asm, rsi, inputs * element);
        self.pointer(rax, filters);
        x86!(self.asm; add(rax, rdx); add(rax, r11); sub(rax, rsi));
        x86!(self.asm; add(rax, offset_of((taps - 1) * inputs * element)));
    }

    /// Makes a lead of those that are found for each row.
    pub(super) fn lead_found(&mut self, leads: &mut Leads, base: Base, buffer: Handle<Buffer>, at: At) {
        let number = self.rooms.found.iter().position(|&found| found == (buffer, at));
        let number = number.expect("a stage's addresses are found before its panels");
        let (dtype, pitch) = (self.buffer(buffer).dtype, column_pitch(self.buffer(buffer), at));
        let (panel, ahead) = (self.slots.panel, self.asm.room(8));
        x86!(self.asm; mov(rdx, qword_ptr(rsp + panel)));
        times(&mut self.asm, rdx, pitch);
        x86!(self.asm; mov(qword_ptr(rsp + ahead), rdx));
        let nothing = match at {
            At::Window { outside, .. } => {
                let bits = outside_bits(dtype, outside).to_le_bytes();
                let element = &bits[..dtype.bytes()];
                Some(self.asm.bytes(&element.repeat(2 * LANES)))
            }
            _ => None,
        };
        leads.seen.push(Seen { base, number, ahead, nothing });
    }

    /// Sets the leads that are found for each row. `rax`, `rcx` and `rdx` change.
    pub(super) fn follow_found(&mut self, leads: &Leads) {
        if leads.seen.is_empty() {
            return;
        }
        let (chunk, room, count) = (self.slots.chunk, self.rooms.addresses, self.rooms.found.len());
        x86!(self.asm; mov(rax, r12); sub(rax, qword_ptr(rsp + chunk)));
        times(&mut self.asm, rax, ADDRESS * count);
        for &Seen { base, number, ahead, nothing } in &leads.seen {
            let from = room + offset_of(ADDRESS * number);
            x86!(self.asm; mov(rdx, qword_ptr(rsp + rax + from)); mov(rcx, rdx); add(rcx, qword_ptr(rsp + ahead)));
            if let Some(nothing) = nothing {
                x86!(self.asm; test(rdx, rdx); lea(rdx, ptr(r15 + nothing)); cmovz(rcx, rdx));
            }
            self.set(base, rcx);
        }
    }
}
