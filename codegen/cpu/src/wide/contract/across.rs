//! Gradients of convolutions: the columns of an image as a window sees it, packed for four steps of the depth at a time.
//!
//! The depth is positions, and what is packed side by side are channels that positions see through taps: 64 columns, for
//! all rows of the chunk. A position's 64 bytes, zeros where it sees nothing, are put together in the frame. They may
//! belong to several taps (*segments*); each segment is copied for all positions, line by line of the result, so that what
//! lies beyond the edge is known before a line begins. Then four positions are interleaved, which leaves each lane with
//! four columns of each four of its bytes: so words are exchanged beforehand, and come out as neighbours.
//!
//! Where the accumulators of all columns have room in the frame, all of them grow by one piece of the depth before the next:
//! then the piece of the image stays in the second-level cache for all its taps, and that of the left operand for all columns.

use ffc_ir::Window;
use ffc_ir::kernel::{Contraction, Geometry};
use iced_x86::code_asm::{
    k4, ptr, qword_ptr, r8, r9, r10, r11, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp, zmm0, zmm1,
    zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmmword_ptr,
};

use super::super::asm::{ALL, Asm, LANES, Memory, Op, VECTOR, Width, offset_of, times, x86};
use super::super::nest::Emitter;
use super::gather::divide;
use super::{Product, STEP, Start, Unsigned, Workspace};
use crate::layout::row_bytes;

/// Columns that are packed at a time: those of two panels.
const GROUP: usize = VECTOR;

/// Tiles of 16 columns in a group.
pub(super) const TILES: usize = GROUP / LANES;

/// Depth that is packed at a time.
pub(super) const PIECE: usize = 1024;

/// Positions that are put together at a time: they stay in the first-level cache.
const PART: usize = 256;

/// Most bytes of the accumulators of all columns.
const SUMS: usize = 640 << 10;

/// Whether there is room for the accumulators of so many columns, and more than one group of them.
pub(super) fn holds_all(columns: usize, bytes: usize) -> bool {
    columns > GROUP && columns.div_ceil(GROUP / 2) * bytes <= SUMS
}

/// The frame's part in this.
pub(super) struct Across {
    /// The positions of a part, 64 bytes each.
    scratch: i32,
    /// The first position of the piece, and of the part.
    begin: i32,
    part: i32,
    /// Positions of the part.
    left: i32,
    /// The next segment's first column, and where the group ends.
    column: i32,
    end: i32,
    /// Of a segment: how far ahead its tap looks, and the places in a line that see something.
    down: i32,
    right: i32,
    from: i32,
    to: i32,
}

impl Across {
    /// Room, if it is `used`.
    pub(super) fn new(asm: &mut Asm, used: bool) -> Self {
        let scratch = asm.room(if used { PART * VECTOR } else { 0 });
        let [begin, part, left, column, end, down, right, from, to] = [0; 9].map(|_| asm.room(8));
        Self { scratch, begin, part, left, column, end, down, right, from, to }
    }
}

/// Whether the columns of a contraction are packed here.
pub(super) fn window(contraction: &Contraction) -> Option<Window> {
    match contraction.geometry {
        Geometry::ConvolutionGrad(window) => Some(window),
        _ => None,
    }
}

impl Emitter<'_> {
    /// The accumulators of the chunk and all columns.
    pub(super) fn contract_whole(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let (begin, depth) = (work.across_image.begin, work.depth);
        let (panel, columns) = (self.slots.panel, self.slots.columns);
        let [mut piece, mut group] = [0; 2].map(|_| self.asm.label());
        x86!(self.asm; mov(qword_ptr(rsp + begin), 0));
        self.asm.place(&mut piece);
        x86!(self.asm; mov(qword_ptr(rsp + panel), 0));
        self.asm.place(&mut group);
        self.pack_across(contraction, work, window);
        self.multiply_group(contraction, work);
        for (slot, step, end, label) in [(panel, GROUP, columns, group), (begin, PIECE, depth, piece)] {
            x86!(self.asm;
                mov(rax, qword_ptr(rsp + slot));
                add(rax, offset_of(step));
                mov(qword_ptr(rsp + slot), rax);
                cmp(rax, qword_ptr(rsp + end));
                jb(label);
            );
        }
    }

    /// Where the accumulators of the panel at hand are, if there is room for those of all.
    pub(super) fn find_sums(&mut self, work: &Workspace) {
        let (panel, sums) = (self.slots.panel, work.sums);
        let bytes = self.sums_bytes();
        x86!(self.asm; mov(rax, qword_ptr(rsp + panel)); shr(rax, (GROUP / 2).trailing_zeros()));
        times(&mut self.asm, rax, bytes);
        x86!(self.asm; lea(rax, ptr(rsp + rax + sums)));
    }

    /// The accumulators of the chunk and the two panels from the one at hand on, at every other panel.
    pub(super) fn contract_across(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let Across { begin, .. } = work.across_image;
        let (panel, depth) = (self.slots.panel, work.depth);
        let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
        if self.tiles > 1 {
            x86!(self.asm; test(qword_ptr(rsp + panel), offset_of(GROUP / 2)); jnz(done));
        }
        x86!(self.asm; mov(qword_ptr(rsp + begin), 0));
        self.asm.place(&mut again);
        self.pack_across(contraction, work, window);
        self.multiply_group(contraction, work);
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + begin));
            add(rax, offset_of(PIECE));
            mov(qword_ptr(rsp + begin), rax);
            cmp(rax, qword_ptr(rsp + depth));
            jb(again);
        );
        self.asm.place(&mut done);
    }

    /// The chunk's rows by the packed columns of one or two panels.
    fn multiply_group(&mut self, contraction: &Contraction, work: &Workspace) {
        let (panel, columns) = (self.slots.panel, self.slots.columns);
        let (packed, begin, depth) = (work.packed, work.across_image.begin, work.depth);
        let (filled, free) = (work.filled, work.free);
        let [mut half, mut later, mut next, mut done] = [0; 4].map(|_| self.asm.label());
        if work.holds_all {
            self.find_sums(work);
            let bytes = offset_of(self.sums_bytes());
            x86!(self.asm; mov(qword_ptr(rsp + free), rax); add(rax, bytes); mov(qword_ptr(rsp + filled), rax));
        }
        // r14: which half.
        x86!(self.asm; xor(r14, r14));
        self.asm.place(&mut half);
        let pitch = self.chunk_rows(contraction, work);
        x86!(self.asm;
            add(rsi, qword_ptr(rsp + begin));
            mov(r13, qword_ptr(rsp + depth));
            sub(r13, qword_ptr(rsp + begin));
            mov(rax, i64::from(offset_of(PIECE)));
            cmp(r13, rax);
            cmova(r13, rax);
            mov(rdi, qword_ptr(rsp + free));
            lea(rbp, ptr(rsp + packed));
            lea(rax, ptr(rbp + offset_of(2 * work.pitch)));
            test(r14, r14);
            cmovnz(rdi, qword_ptr(rsp + filled));
            cmovnz(rbp, rax);
            cmp(qword_ptr(rsp + begin), 0);
            jne(later);
        );
        let (width, unsigned) = (self.tiles, self.unsigned(contraction, work));
        let product =
            |start| Product { pitch, width, results: width * VECTOR, start, unsigned, ahead: 0, deep: false };
        self.multiply(work, product(Start::Fresh));
        x86!(self.asm; jmp(next));
        self.asm.place(&mut later);
        self.multiply(work, product(Start::Sums));
        self.asm.place(&mut next);
        if self.tiles > 1 {
            x86!(self.asm;
                inc(r14);
                cmp(r14, 1);
                ja(done);
                mov(rax, qword_ptr(rsp + columns));
                sub(rax, qword_ptr(rsp + panel));
                cmp(rax, offset_of(GROUP / 2));
                ja(half);
            );
        }
        self.asm.place(&mut done);
    }

    /// Packs a piece of the depth.
    fn pack_across(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let Across { begin, part, .. } = work.across_image;
        let depth = work.depth;
        let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
        x86!(self.asm; mov(rax, qword_ptr(rsp + begin)); mov(qword_ptr(rsp + part), rax));
        self.asm.place(&mut again);
        self.fill_part(contraction, work, window);
        self.interleave(contraction, work);
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + part));
            add(rax, offset_of(PART));
            mov(qword_ptr(rsp + part), rax);
            cmp(rax, qword_ptr(rsp + depth));
            jae(done);
            sub(rax, qword_ptr(rsp + begin));
            cmp(rax, offset_of(PIECE));
            jb(again);
        );
        self.asm.place(&mut done);
    }

    /// Puts together what the part's positions see of the group's columns.
    fn fill_part(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let Across { part, left, column, end, .. } = work.across_image;
        let (panel, columns, depth) = (self.slots.panel, self.slots.columns, work.depth);
        let order: [u32; LANES] = std::array::from_fn(|word| {
            let (lane, word) = (word / 4, word % 4);
            u32::try_from(4 * word + lane).expect("there are 16 words")
        });
        let order = self.asm.lanes(order);
        self.asm.load(Width::Wide, Op::Move, 2, order, ALL);
        self.asm.zero(0);
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + depth));
            sub(rax, qword_ptr(rsp + part));
            mov(rcx, i64::from(offset_of(PART)));
            cmp(rax, rcx);
            cmova(rax, rcx);
            mov(qword_ptr(rsp + left), rax);
            mov(rax, qword_ptr(rsp + panel));
            mov(qword_ptr(rsp + column), rax);
            add(rax, offset_of(GROUP));
            cmp(rax, qword_ptr(rsp + columns));
            cmova(rax, qword_ptr(rsp + columns));
            mov(qword_ptr(rsp + end), rax);
        );
        self.segment(contraction, work, window, true);
        // Zeros up to a whole step of the depth.
        x86!(self.asm; mov(rcx, qword_ptr(rsp + left)); neg(rcx); and(rcx, offset_of(STEP - 1)));
        self.put_zeros(true);
        if window.taps() > 1 {
            let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
            self.asm.place(&mut again);
            x86!(self.asm; mov(rax, qword_ptr(rsp + column)); cmp(rax, qword_ptr(rsp + end)); jae(done));
            self.segment(contraction, work, window, false);
            x86!(self.asm; jmp(again));
            self.asm.place(&mut done);
        }
    }

    /// Copies the columns from the next one on that belong to the same tap. The first segment's vectors are stored, those
    /// of others are joined to what is there.
    fn segment(&mut self, contraction: &Contraction, work: &Workspace, window: &Window, first: bool) {
        let Across { scratch, part, left, column, end, down, right, from, to, .. } = work.across_image;
        let channels = row_bytes(self.buffer(contraction.rhs));
        let panel = self.slots.panel;
        let sample = window.inputs() * channels;
        let [lines, width] = window.output;
        let table = self.places(window);
        x86!(self.asm; mov(rbx, qword_ptr(rsp + column)));
        divide(&mut self.asm, r9, rbx, channels);
        // rbx: the first channel; r9: the tap; rdx: how many channels; rcx: which byte of the vector is the first.
        x86!(self.asm;
            mov(rdx, channels as u64);
            sub(rdx, rbx);
            mov(rcx, qword_ptr(rsp + column));
            mov(rax, qword_ptr(rsp + end));
            sub(rax, rcx);
            cmp(rdx, rax);
            cmova(rdx, rax);
            lea(rax, ptr(rcx + rdx));
            mov(qword_ptr(rsp + column), rax);
            sub(rcx, qword_ptr(rsp + panel));
            mov(rax, -1i64);
            bzhi(rax, rax, rdx);
            shlx(rax, rax, rcx);
            kmovq(k4, rax);
            sub(rbx, rcx);
        );
        self.pointer(rax, contraction.rhs);
        x86!(self.asm; add(rbx, rax));
        divide(&mut self.asm, r10, r9, window.kernel[1]);
        times(&mut self.asm, r10, window.dilation[0]);
        let above = i32::try_from(window.pad[0]).expect("windows are checked");
        x86!(self.asm;
            sub(r10, above);
            mov(qword_ptr(rsp + down), r10);
            lea(r9, ptr(r9 + r9 * 2));
        );
        for (number, slot) in [right, from, to].into_iter().enumerate() {
            let entry = table + offset_of(8 * number);
            x86!(self.asm; mov(rax, qword_ptr(r15 + r9 * 8 + entry)); mov(qword_ptr(rsp + slot), rax));
        }
        // r8: where the sample begins; r14, r11: the position's line and place; r9: the line that it sees.
        x86!(self.asm; mov(r11, qword_ptr(rsp + part)));
        divide(&mut self.asm, r8, r11, window.outputs());
        divide(&mut self.asm, r14, r11, width);
        times(&mut self.asm, r8, sample);
        x86!(self.asm; add(r8, rbx); mov(r9, r14));
        times(&mut self.asm, r9, window.stride[0]);
        let [mut line, mut nothing, mut next, mut done] = [0; 4].map(|_| self.asm.label());
        x86!(self.asm;
            add(r9, qword_ptr(rsp + down));
            lea(rdi, ptr(rsp + scratch));
            mov(rbx, qword_ptr(rsp + left));
        );
        // rbx: positions left; rbp: positions of the line; r13: the place behind them.
        self.asm.place(&mut line);
        x86!(self.asm;
            mov(rbp, width as u64);
            sub(rbp, r11);
            cmp(rbp, rbx);
            cmova(rbp, rbx);
            sub(rbx, rbp);
            lea(r13, ptr(r11 + rbp));
            mov(rcx, rbp);
            cmp(r9, offset_of(window.input[0]));
            jae(nothing);
            mov(rax, qword_ptr(rsp + from));
            cmp(rax, r11);
            cmovl(rax, r11);
            cmp(rax, r13);
            cmovg(rax, r13);
            mov(rdx, qword_ptr(rsp + to));
            cmp(rdx, rax);
            cmovl(rdx, rax);
            cmp(rdx, r13);
            cmovg(rdx, r13);
            mov(rcx, rax);
            sub(rcx, r11);
        );
        self.put_zeros(first);
        x86!(self.asm; mov(rsi, r9); mov(r10, rax));
        times(&mut self.asm, rsi, window.input[1]);
        times(&mut self.asm, r10, window.stride[1]);
        x86!(self.asm; add(rsi, r10); add(rsi, qword_ptr(rsp + right)));
        times(&mut self.asm, rsi, channels);
        x86!(self.asm; add(rsi, r8); mov(rcx, rdx); sub(rcx, rax));
        self.put_seen(window.stride[1] * channels, first);
        x86!(self.asm; mov(rcx, r13); sub(rcx, rdx));
        self.asm.place(&mut nothing);
        self.put_zeros(first);
        x86!(self.asm;
            test(rbx, rbx);
            jz(done);
            xor(r11, r11);
            inc(r14);
            add(r9, offset_of(window.stride[0]));
            cmp(r14, offset_of(lines));
            jb(next);
            xor(r14, r14);
            mov(r9, qword_ptr(rsp + down));
            add(r8, offset_of(sample));
        );
        self.asm.place(&mut next);
        x86!(self.asm; jmp(line));
        self.asm.place(&mut done);
    }

    /// For each tap of a line: how far ahead it looks, and the places that see something through it.
    fn places(&mut self, window: &Window) -> i32 {
        let input = window.input[1].cast_signed();
        let up = |number: isize| number.max(0).cast_unsigned().div_ceil(window.stride[1]).cast_signed();
        let mut bytes = Vec::new();
        for tap in 0..window.kernel[1] {
            let right = (tap * window.dilation[1]).cast_signed() - window.pad[1];
            for number in [right, up(-right), up(input - right)] {
                bytes.extend_from_slice(&(number as i64).to_le_bytes());
            }
        }
        self.asm.bytes(&bytes)
    }

    /// Vectors of `rcx` positions that see nothing.
    fn put_zeros(&mut self, first: bool) {
        let vector = offset_of(VECTOR);
        if !first {
            x86!(self.asm; shl(rcx, VECTOR.trailing_zeros()); add(rdi, rcx));
            return;
        }
        let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
        x86!(self.asm; test(rcx, rcx); jz(done));
        self.asm.place(&mut again);
        x86!(self.asm; vmovdqa64(zmmword_ptr(rdi), zmm0); add(rdi, vector); dec(rcx); jnz(again));
        self.asm.place(&mut done);
    }

    /// Vectors of `rcx` positions that see neighbours from `rsi` on.
    fn put_seen(&mut self, step: usize, first: bool) {
        let [mut again, mut done] = [0; 2].map(|_| self.asm.label());
        x86!(self.asm; test(rcx, rcx); jz(done));
        self.asm.place(&mut again);
        x86!(self.asm; vmovdqu8(zmm1.k4().z(), zmmword_ptr(rsi)); vpermd(zmm1, zmm2, zmm1));
        if !first {
            x86!(self.asm; vpord(zmm1, zmm1, zmmword_ptr(rdi)));
        }
        x86!(self.asm;
            vmovdqa64(zmmword_ptr(rdi), zmm1);
            add(rsi, offset_of(step));
            add(rdi, offset_of(VECTOR));
            dec(rcx);
            jnz(again);
        );
        self.asm.place(&mut done);
    }

    /// Interleaves the part's positions by four, and leaves 16 columns of each four side by side.
    fn interleave(&mut self, contraction: &Contraction, work: &Workspace) {
        let Across { scratch, begin, part, left, .. } = work.across_image;
        let packed = work.packed;
        let shift = self.unsigned(contraction, work) == Unsigned::Shifted;
        if shift {
            let bytes = self.asm.word(0x8080_8080);
            self.asm.load(Width::Wide, Op::Splat, 12, Memory { splat: false, ..bytes }, ALL);
        }
        let mut again = self.asm.label();
        x86!(self.asm;
            lea(rsi, ptr(rsp + scratch));
            mov(rdi, qword_ptr(rsp + part));
            sub(rdi, qword_ptr(rsp + begin));
            shl(rdi, LANES.trailing_zeros());
            lea(rdi, ptr(rsp + rdi + packed));
            mov(rcx, qword_ptr(rsp + left));
            add(rcx, offset_of(STEP - 1));
            and(rcx, -offset_of(STEP));
        );
        self.asm.place(&mut again);
        for (number, register) in [zmm0, zmm1, zmm2, zmm3].into_iter().enumerate() {
            x86!(self.asm; vmovdqa64(register, zmmword_ptr(rsi + offset_of(number * VECTOR))));
        }
        x86!(self.asm;
            vpunpcklbw(zmm4, zmm0, zmm1);
            vpunpckhbw(zmm5, zmm0, zmm1);
            vpunpcklbw(zmm6, zmm2, zmm3);
            vpunpckhbw(zmm7, zmm2, zmm3);
            vpunpcklwd(zmm8, zmm4, zmm6);
            vpunpckhwd(zmm9, zmm4, zmm6);
            vpunpcklwd(zmm10, zmm5, zmm7);
            vpunpckhwd(zmm11, zmm5, zmm7);
        );
        let tiles = if self.tiles > 1 { TILES } else { 1 };
        for (tile, register) in [zmm8, zmm9, zmm10, zmm11].into_iter().enumerate().take(tiles) {
            if shift {
                x86!(self.asm; vpxord(register, register, zmm12));
            }
            x86!(self.asm; vmovdqa64(zmmword_ptr(rdi + offset_of(tile * work.pitch)), register));
        }
        x86!(self.asm;
            add(rsi, offset_of(4 * VECTOR));
            add(rdi, offset_of(VECTOR));
            sub(rcx, 4);
            jnz(again);
        );
    }
}
