//! Products on AVX-512 VNNI vectors: four steps of the depth of one streamed vector by 16 packed ones, an instruction.

use iced_x86::code_asm::{
    dword_ptr, eax, ecx, k3, ptr, qword_ptr, r9, r11, r13, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp,
};

use super::super::asm::{ALL, Asm, Mask, Memory, Op, Operand, VECTOR, Vector, Width, offset_of, x86};
use super::super::nest::Emitter;
use super::{Factors, Product, Start, Unsigned, Workspace};

/// Most streamed vectors at a time: with two tiles of packed ones, 24 accumulators.
const STREAMED: usize = 12;

/// The registers of the packed vectors, and of the streamed one.
const PACKED: Vector = 24;
const SPLAT: Vector = 26;

impl Emitter<'_> {
    pub(super) fn multiply_vectors(&mut self, work: &Workspace, product: Product) {
        // Groups of four steps of the depth. r9: the starts of the streamed vectors.
        let starts = work.starts;
        x86!(self.asm; add(r13, 3); shr(r13, 2); lea(r9, ptr(rsp + starts)));
        for count in [STREAMED, 8, 4, 1] {
            let (mut again, mut rest) = (self.asm.label(), self.asm.label());
            let all = offset_of(count);
            x86!(self.asm; cmp(rbx, all); jb(rest));
            self.asm.place(&mut again);
            self.vector_group(work, product, count);
            x86!(self.asm;
                add(rsi, offset_of(count * product.pitch));
                add(rdi, offset_of(count * product.results));
                add(r9, 4 * all);
                sub(rbx, all);
                cmp(rbx, all);
                jae(again);
            );
            self.asm.place(&mut rest);
        }
    }

    /// Some streamed vectors by those that are packed.
    fn vector_group(&mut self, work: &Workspace, product: Product, count: usize) {
        let Product { pitch, width, results, start, unsigned, .. } = product;
        let sum = |row: usize, column: usize| vector(row * width + column);
        let packed = |column: usize| PACKED + vector(column);
        let place = |row: usize, column: usize| Memory::at(rdi, row * results + column * VECTOR);
        for row in 0..count {
            for column in 0..width {
                match start {
                    Start::Sums => {
                        self.asm.load(Width::Wide, Op::Move, sum(row, column), place(row, column), ALL)
                    }
                    Start::Fresh if unsigned == Unsigned::Shifted => {
                        self.asm.load(Width::Wide, Op::Splat, sum(row, column), Memory::at(r9, 4 * row), ALL);
                    }
                    Start::Fresh => self.asm.zero(sum(row, column)),
                }
            }
        }
        x86!(self.asm; mov(r11, rsi); mov(rdx, rbp); mov(rcx, r13));
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        for column in 0..width {
            let from = Memory::at(rdx, column * work.pitch);
            self.asm.load(Width::Wide, Op::Move, packed(column), from, ALL);
        }
        for row in 0..count {
            self.asm.load(Width::Wide, Op::Splat, SPLAT, Memory::at(r11, row * pitch), ALL);
            for column in 0..width {
                let (a, b) = match unsigned {
                    Unsigned::Streamed => (SPLAT, packed(column)),
                    Unsigned::Packed | Unsigned::Shifted => (packed(column), SPLAT),
                };
                self.asm.binary(Width::Wide, Op::Dot, sum(row, column), a, Operand::Vector(b), ALL);
            }
        }
        x86!(self.asm; add(rdx, offset_of(VECTOR)); add(r11, 4); dec(rcx); jnz(again));
        for row in 0..count {
            for column in 0..width {
                self.asm.store(Width::Wide, Op::Store32, place(row, column), sum(row, column), ALL);
            }
        }
    }

    /// What the accumulators of `rbx` streamed vectors start at, the first of which is at `rsi`.
    pub(super) fn starts(&mut self, work: &Workspace, pitch: usize) {
        let (to, depth, mut row) = (work.starts, work.depth, self.asm.label());
        let bytes = self.asm.word(0x8080_8080);
        self.asm.load(Width::Wide, Op::Splat, 1, Memory { splat: false, ..bytes }, ALL);
        x86!(self.asm; lea(rdi, ptr(rsp + to)));
        self.asm.place(&mut row);
        x86!(self.asm; mov(rdx, qword_ptr(rsp + depth)); mov(r11, rsi));
        self.asm.zero(0);
        let [mut again, mut tail, mut done] = [0; 3].map(|_| self.asm.label());
        let step = offset_of(VECTOR);
        x86!(self.asm; cmp(rdx, step); jb(tail));
        self.asm.place(&mut again);
        self.asm.binary(Width::Wide, Op::Dot, 0, 1, Operand::Memory(Memory::at(r11, 0)), ALL);
        x86!(self.asm; add(r11, step); sub(rdx, step); cmp(rdx, step); jae(again));
        self.asm.place(&mut tail);
        x86!(self.asm; test(rdx, rdx); jz(done); mov(rax, -1i64); bzhi(rax, rax, rdx); kmovq(k3, rax));
        self.asm.load(Width::Wide, Op::LoadBytes, 2, Memory::at(r11, 0), Mask(3));
        self.asm.binary(Width::Wide, Op::Dot, 0, 1, Operand::Vector(2), ALL);
        self.asm.place(&mut done);
        self.asm.combine_lanes(Op::IAdd, 0, 2);
        x86!(self.asm; xor(eax, eax); sub(eax, ecx); mov(dword_ptr(rdi), eax));
        x86!(self.asm; add(rsi, offset_of(pitch)); add(rdi, 4); dec(rbx); jnz(row));
    }
}

/// See [`peak`](crate::wide::peak).
pub(in super::super) fn peak(factors: Factors, turns: usize) -> (Vec<u8>, usize) {
    let mut asm = Asm::new();
    let mut again = asm.label();
    let from = asm.room(2 * VECTOR);
    let turns = u64::try_from(turns).expect("sizes fit");
    x86!(asm; mov(rcx, turns));
    asm.place(&mut again);
    let cached = factors == Factors::Cached;
    for column in (0..2).filter(|_| cached) {
        asm.load(Width::Wide, Op::Move, PACKED + column, Memory::frame(from), ALL);
    }
    for row in 0..vector(STREAMED) {
        if cached {
            asm.load(Width::Wide, Op::Splat, SPLAT, Memory::frame(from).ahead(4 * usize::from(row)), ALL);
        }
        for column in 0..2 {
            asm.binary(Width::Wide, Op::Dot, 2 * row + column, PACKED + column, Operand::Vector(SPLAT), ALL);
        }
    }
    x86!(asm; dec(rcx); jnz(again));
    (asm.finish().bytes, usize::from(PACKED) * VECTOR)
}

fn vector(number: usize) -> Vector {
    Vector::try_from(number).expect("there are 32 registers")
}
