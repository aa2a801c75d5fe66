//! The frame: arguments, constants, the packed strip, the copied rows.

use iced_x86::code_asm::{
    AsmRegister64, eax, ptr, qword_ptr, r8, r9, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp,
    xmm0, ymm0, ymmword_ptr,
};

use super::{CHUNK, Emitter, Products, VECTOR, WIDTH, offset, ymm};
use crate::x86::x86;

// Places in the frame, from `rsp` on. The first one holds what `rsp` was.
pub(super) const ROW: i32 = 8;
pub(super) const ROWS: i32 = 16;
pub(super) const COLUMN: i32 = 24;
pub(super) const COLUMNS: i32 = 32;
pub(super) const DEPTH: i32 = 40;
pub(super) const SUMS: i32 = 48;
/// Where the piece of the depth begins.
pub(super) const PIECE: i32 = 56;
/// The first column of the strip.
pub(super) const STRIP: i32 = 64;
/// A vector of ones, then one of zeros: [`Emitter::mask`].
const MASK: i32 = 96;
/// A vector of the constant that products want.
const CONSTANT: i32 = 160;
/// The packed vectors, each with what accumulators start at before it, [`AREA`] bytes apart.
pub(super) const STARTS: i32 = 192;
/// Behind the starts of the first packed vector.
pub(super) const PACKED: i32 = STARTS + 64;

/// Bytes of a packed vector and its starts: not a multiple of 4096, for the caches' sake.
pub(super) const AREA: usize = 64 + 8 * 1024;

/// The copied rows, [`COPY`] bytes apart; odd pairs are [`ODD`] bytes behind even ones.
pub(super) const COPIES: i32 = STARTS + (WIDTH * AREA) as i32;
pub(super) const COPY: usize = 1024 + 64;
pub(super) const ODD: usize = 512;

/// Bytes of the frame.
const SIZE: i32 = COPIES + (CHUNK * COPY) as i32;

/// Registers that belong to the caller.
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];

impl Emitter {
    /// Makes the frame. Every page of it is touched on the way down, so that a stack that ends is found out where the
    /// system has put its guard.
    pub(super) fn enter(&mut self) {
        for register in SAVED {
            x86!(self; push(register));
        }
        x86!(self; mov(rax, rsp));
        for page in 1..=SIZE / 4096 {
            x86!(self; test(qword_ptr(rsp - page * 4096), rax));
        }
        x86!(self; sub(rsp, SIZE); and(rsp, -64); mov(qword_ptr(rsp), rax));
        for (place, argument) in
            [(ROW, rdi), (ROWS, rsi), (COLUMN, rdx), (COLUMNS, rcx), (DEPTH, r8), (SUMS, r9)]
        {
            x86!(self; mov(qword_ptr(rsp + place), argument));
        }
        x86!(self;
            vpcmpeqd(ymm0, ymm0, ymm0);
            vmovdqa(ymmword_ptr(rsp + MASK), ymm0);
            vpxor(ymm0, ymm0, ymm0);
            vmovdqa(ymmword_ptr(rsp + (MASK + offset(VECTOR))), ymm0);
        );
        let constant = if self.products == Products::Halves { 0x0001_0001u32 } else { 0x8080_8080 };
        x86!(self;
            mov(eax, constant);
            vmovd(xmm0, eax);
            vpbroadcastd(ymm0, xmm0);
            vmovdqa(ymmword_ptr(rsp + CONSTANT), ymm0);
        );
    }

    pub(super) fn leave(&mut self) {
        x86!(self; mov(rsp, qword_ptr(rsp)));
        for register in SAVED.into_iter().rev() {
            x86!(self; pop(register));
        }
        x86!(self; vzeroupper(); ret());
    }

    /// Loads the constant: what is added to bytes, or what adds 16-bit sums in pairs.
    pub(super) fn load_constant(&mut self, to: usize) {
        x86!(self; vmovdqa(ymm(to), ymmword_ptr(rsp + CONSTANT)));
    }

    /// `rbp` leads to a mask of as many bytes as `left` says, of all of a step if that is more: see [`mask_from`].
    pub(super) fn mask(&mut self, left: AsmRegister64, step: usize) {
        x86!(self; mov(rbp, u64::from(step as u32)); cmp(left, rbp); cmovb(rbp, left); neg(rbp));
    }
}

/// The mask's bytes from one of them on.
pub(super) fn mask_from(byte: usize) -> iced_x86::code_asm::AsmMemoryOperand {
    ptr(rsp + rbp + (MASK + offset(VECTOR + byte)))
}
