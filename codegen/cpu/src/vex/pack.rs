//! Packing: a strip's columns side by side, four steps of the depth at a time; and the rows, as they are wanted.
//!
//! Eight columns and 32 steps of the depth are turned in registers, as 8 x 8 words of four bytes: first the lower halves
//! of all columns, then the upper ones.

use iced_x86::code_asm::{ptr, qword_ptr, r8, rax, rbx, rcx, rdi, rdx, rsi, rsp, xmmword_ptr, ymmword_ptr};

use super::frame::{self, AREA, mask_from};
use super::{Emitter, LANES, LINES, Products, VECTOR, WIDTH, offset, xmm, ymm};
use crate::x86::x86;

/// Steps of the depth that are turned at a time.
const STEP: usize = 32;

/// Registers of the sums of the columns, of every fourth group of steps each.
const SUMS: usize = 8;

/// The register of the constant.
const CONSTANT: usize = 14;

impl Emitter {
    /// Copies the piece at hand of all rows, 128 added or widened to pairs.
    pub(super) fn copy_rows(&mut self) {
        // rbx: rows left; rsi: the first of them; rdi: where it goes; rcx: the depth; rax: steps that are copied.
        let (mut row, mut again) = (self.label(), self.label());
        if self.shifts() {
            self.load_constant(CONSTANT);
        }
        self.piece_depth(rcx);
        x86!(self;
            mov(rsi, qword_ptr(rsp + frame::ROW));
            add(rsi, qword_ptr(rsp + frame::PIECE));
            mov(rbx, qword_ptr(rsp + frame::ROWS));
            lea(rdi, ptr(rsp + frame::COPIES));
        );
        self.place(&mut row);
        x86!(self; xor(rax, rax));
        self.place(&mut again);
        self.copy_step();
        x86!(self;
            add(rax, offset(STEP));
            cmp(rax, rcx);
            jb(again);
            add(rsi, offset(self.rows));
            add(rdi, offset(frame::COPY));
            dec(rbx);
            jnz(row);
        );
    }

    fn copy_step(&mut self) {
        let (bytes, even, odd) = (ymm(0), ymm(1), ymm(2));
        x86!(self; vmovdqu(bytes, ymmword_ptr(rsi + rax)));
        if self.shifts() {
            x86!(self; vpxor(bytes, bytes, ymm(CONSTANT)));
        }
        match self.products {
            Products::Bytes | Products::Halves => x86!(self; vmovdqa(ymmword_ptr(rdi + rax), bytes)),
            Products::Words => {
                self.pairs(bytes, even, odd);
                x86!(self;
                    vmovdqa(ymmword_ptr(rdi + rax), even);
                    vmovdqa(ymmword_ptr(rdi + rax + offset(frame::ODD)), odd);
                );
            }
        }
    }

    /// Packs the piece at hand of the strip's columns.
    pub(super) fn pack(&mut self) {
        // rbx: columns left; rsi: the first of them; rdi: where they go.
        let mut again = self.label();
        self.columns_left(rbx);
        x86!(self;
            imul_3(rsi, qword_ptr(rsp + frame::STRIP), offset(self.columns));
            add(rsi, qword_ptr(rsp + frame::COLUMN));
            add(rsi, qword_ptr(rsp + frame::PIECE));
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
    }

    /// Packs eight columns.
    fn pack_vector(&mut self) {
        // rax: steps that are packed; rdx: steps left; rcx: where they go.
        x86!(self; mov(r8, rsi));
        self.addresses(rbx, self.columns);
        if self.shifts() {
            self.zero(SUMS..SUMS + 4);
            self.load_constant(CONSTANT);
        }
        self.piece_depth(rdx);
        x86!(self; xor(rax, rax); lea(rcx, ptr(rdi + (frame::PACKED - frame::STARTS))));
        let [mut again, mut rest, mut done] = [0; 3].map(|_| self.label());
        let (step, packed) = (offset(STEP), offset(STEP / 4 * self.products.group()));
        x86!(self; sub(rdx, step); jb(rest));
        self.place(&mut again);
        self.turn(false);
        x86!(self; add(rcx, packed); add(rax, step); sub(rdx, step); jae(again));
        self.place(&mut rest);
        x86!(self; add(rdx, step); jz(done));
        self.mask(rdx, STEP);
        self.turn(true);
        self.place(&mut done);
        if self.shifts() {
            self.store_starts();
        }
    }

    /// Packs 32 steps of eight columns, with zeros where the mask says so.
    fn turn(&mut self, masked: bool) {
        for half in [0, STEP / 2] {
            self.load_half(half, masked);
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
    }

    /// Loads 16 steps of columns 0 to 3, and of 4 to 7 above them.
    fn load_half(&mut self, half: usize, masked: bool) {
        let mask = ymm(15);
        if masked {
            x86!(self; vbroadcasti128(mask, mask_from(half)));
        }
        for line in 0..4 {
            let at = |line: usize| xmmword_ptr(LINES[line] + rax + offset(half));
            x86!(self; vmovdqu(xmm(line), at(line)); vinserti128(ymm(line), ymm(line), at(line + 4), 1));
            if masked {
                x86!(self; vpand(ymm(line), ymm(line), mask));
            }
        }
    }

    /// Stores four steps of eight columns.
    fn store_group(&mut self, group: usize, at: usize) {
        let (even, odd) = (ymm(4), ymm(5));
        match self.products {
            Products::Bytes | Products::Halves => {
                x86!(self; vmovdqa(ymmword_ptr(rcx + offset(at)), ymm(group)))
            }
            Products::Words => {
                self.pairs(ymm(group), even, odd);
                x86!(self;
                    vmovdqa(ymmword_ptr(rcx + offset(at)), even);
                    vmovdqa(ymmword_ptr(rcx + offset(at + VECTOR)), odd);
                );
            }
        }
        if self.shifts() {
            x86!(self; vpdpbusd(ymm(SUMS + group), ymm(CONSTANT), ymm(group)));
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
