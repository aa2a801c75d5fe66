//! Packing: a strip's columns side by side, four steps of the depth at a time.
//!
//! Eight columns and 32 steps of the depth are turned in registers, as 8 x 8 words of four bytes: first the lower halves
//! of all columns, then the upper ones.

use iced_x86::code_asm::{
    AsmRegister64, ptr, qword_ptr, r8, r9, r10, r11, r12, r13, r14, r15, rax, rbx, rcx, rdi, rdx, rsi, rsp,
    xmmword_ptr, ymmword_ptr,
};

use super::frame::{self, AREA, masked};
use super::{Emitter, LANES, Products, VECTOR, WIDTH, offset, xmm, ymm};
use crate::x86::x86;

/// Steps of the depth that are turned at a time.
const STEP: usize = 32;

/// Registers of eight columns' addresses.
const LINES: [AsmRegister64; LANES] = [r8, r9, r10, r11, r12, r13, r14, r15];

/// Registers of the sums of the columns, of every fourth group of steps each.
const SUMS: usize = 8;

impl Emitter {
    /// Packs the piece at hand of the strip's columns.
    pub(super) fn pack(&mut self) {
        // rbx: columns left; rsi: the first of them; rdi: where they go.
        let (mut again, mut done) = (self.label(), self.label());
        x86!(self;
            mov(rsi, qword_ptr(rsp + frame::COLUMN));
            add(rsi, qword_ptr(rsp + frame::PIECE));
            mov(rbx, qword_ptr(rsp + frame::COLUMNS));
            mov(rax, (WIDTH * LANES) as u64);
            cmp(rbx, rax);
            cmova(rbx, rax);
            lea(rdi, ptr(rsp + frame::STARTS));
        );
        self.place(&mut again);
        self.pack_vector();
        x86!(self;
            add(rsi, offset(LANES * self.columns));
            add(rdi, offset(AREA));
            sub(rbx, offset(LANES));
            jg(again);
        );
        self.place(&mut done);
    }

    /// Packs eight columns.
    fn pack_vector(&mut self) {
        // rax: steps that are packed; rdx: steps left; rcx: where they go.
        x86!(self; mov(r8, rsi));
        self.addresses(&LINES, rbx, self.columns);
        if self.shifts() {
            self.zero(SUMS..SUMS + 4);
        }
        self.piece_depth(rdx);
        x86!(self; xor(rax, rax); lea(rcx, ptr(rdi + (frame::PACKED - frame::STARTS))));
        let mut again = self.label();
        self.place(&mut again);
        self.mask(rdx, STEP);
        for half in [0, STEP / 2] {
            self.turn(half);
        }
        let packed = STEP / 4 * self.products.group();
        x86!(self; add(rcx, offset(packed)); add(rax, offset(STEP)); sub(rdx, offset(STEP)); ja(again));
        if self.shifts() {
            self.store_starts();
        }
    }

    /// Packs 16 steps of eight columns.
    fn turn(&mut self, half: usize) {
        let mask = ymm(15);
        x86!(self; vbroadcasti128(mask, masked(half)));
        for line in 0..4 {
            let at = |line: usize| xmmword_ptr(LINES[line] + rax + offset(half));
            x86!(self;
                vmovdqu(xmm(line), at(line));
                vinserti128(ymm(line), ymm(line), at(line + 4), 1);
                vpand(ymm(line), ymm(line), mask);
            );
        }
        x86!(self;
            vpunpckldq(ymm(4), ymm(0), ymm(1));
            vpunpckhdq(ymm(5), ymm(0), ymm(1));
            vpunpckldq(ymm(6), ymm(2), ymm(3));
            vpunpckhdq(ymm(7), ymm(2), ymm(3));
            vpunpcklqdq(ymm(0), ymm(4), ymm(6));
            vpunpckhqdq(ymm(1), ymm(4), ymm(6));
            vpunpcklqdq(ymm(2), ymm(5), ymm(7));
            vpunpckhqdq(ymm(3), ymm(5), ymm(7));
        );
        for group in 0..4 {
            self.store_group(group, (half / 4 + group) * self.products.group());
        }
    }

    /// Stores four steps of eight columns.
    fn store_group(&mut self, group: usize, at: usize) {
        let (even, odd) = (ymm(4), ymm(5));
        match self.products {
            Products::Bytes => x86!(self; vmovdqa(ymmword_ptr(rcx + offset(at)), ymm(group))),
            Products::Words => {
                self.pairs(ymm(group), even, odd);
                x86!(self;
                    vmovdqa(ymmword_ptr(rcx + offset(at)), even);
                    vmovdqa(ymmword_ptr(rcx + offset(at + VECTOR)), odd);
                );
            }
        }
        if self.shifts() {
            let (sum, shift) = (ymm(SUMS + group), ymm(14));
            x86!(self; vmovdqa(shift, ymmword_ptr(rsp + frame::SHIFT)); vpdpbusd(sum, shift, ymm(group)));
        }
    }

    /// Stores -128 times the sums of eight columns.
    fn store_starts(&mut self) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|sum| ymm(SUMS + sum));
        x86!(self;
            vpaddd(a, a, b);
            vpaddd(c, c, d);
            vpaddd(a, a, c);
            vpxor(b, b, b);
            vpsubd(a, b, a);
            vmovdqa(ymmword_ptr(rdi), a);
        );
    }
}
