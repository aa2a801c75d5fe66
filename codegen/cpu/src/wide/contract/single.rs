//! Filters of single channels, and their gradients: lanes are channels, 32 of them at a time.
//!
//! Bytes are widened to 16 bits, and two of them, of two taps or of two positions, are interleaved for an instruction that
//! adds two products to a lane. Where each position of a part looks through each tap is found once, for all channels: the
//! addresses are in the frame, that of zeros for what is beyond the edge.
//!
//! ```text
//! filters:    for each position of the chunk              gradients:  for each part of the positions
//!                 for each two taps                                       for each 32 channels, each few taps
//!                     32 channels by 2 taps                                   for each two positions
//!                                                                                 32 channels by 2 positions, by taps
//! ```
//!
//! Interleaving leaves the channels of each eight in two vectors, by four ([`Emitter::in_order`]).

use ffc_ir::Window;
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Geometry};
use iced_x86::code_asm::{
    AsmRegister64, AsmRegisterZmm, ax, byte_ptr, dword_ptr, eax, k4, ptr, qword_ptr, r8, r9, r10, r11, r13,
    r14, rax, rbp, rbx, rcx, rdi, rdx, registers, rsi, rsp, word_ptr, ymmword_ptr, zmm0, zmm1, zmm2, zmm3,
    zmm4, zmm5, zmm6, zmm7, zmmword_ptr,
};

use super::super::asm::{ALL, Asm, LANES, Op, VECTOR, Width, offset_of, times, x86};
use super::super::nest::Emitter;
use super::Workspace;
use super::gather::SAMPLE;
use crate::layout::row_bytes;

/// Channels at a time.
const CHANNELS: usize = 2 * LANES;

/// Sums of a tap or of two filters: two vectors.
const PAIR: usize = 2 * VECTOR;

/// Positions of a gradient's part.
const PART: usize = 64;

/// Taps of a gradient that are summed at a time, two registers each.
const FEW: usize = 10;

/// Most rows that a gradient's positions are visited for.
pub(super) const MOST: usize = 512;

/// The first register of a gradient's sums.
const SUMS: usize = 8;

/// The frame's part in this.
pub(super) struct Single {
    /// The addresses of a position: what it sees through each tap, and of gradients the row of the left operand.
    places: i32,
    /// Zeros for all channels.
    zeros: i32,
    /// Filters as they are multiplied: `[channels / 32][taps / 2][two vectors]`, or sums: `[channels / 32][taps][two vectors]`.
    taps: i32,
    /// Where a part begins.
    part: i32,
}

/// The window of a contraction of single channels, and whether it is a gradient.
pub(super) fn window(contraction: &Contraction) -> Option<(Window, bool)> {
    match contraction.geometry {
        Geometry::Depthwise(window) => Some((window, false)),
        Geometry::DepthwiseGrad(window) => Some((window, true)),
        _ => None,
    }
}

impl Single {
    /// Room for chunks of so many rows.
    pub(super) fn new(asm: &mut Asm, contraction: &Contraction, channels: usize, chunk: usize) -> Self {
        let Some((window, gradient)) = window(contraction) else {
            return Self { places: 0, zeros: 0, taps: 0, part: 0 };
        };
        let (taps, blocks) = (window.taps(), channels.div_ceil(CHANNELS));
        let (positions, kept) = match gradient {
            true => (PART + 1, chunk.div_ceil(CHANNELS) * taps),
            false => (chunk, blocks * taps.div_ceil(2)),
        };
        Self {
            places: asm.room(positions * places(&window, gradient)),
            zeros: asm.room(blocks * CHANNELS + VECTOR),
            taps: asm.room(kept * PAIR),
            part: asm.room(8),
        }
    }
}

/// Bytes of a position's addresses.
fn places(window: &Window, gradient: bool) -> usize {
    8 * (window.taps() + usize::from(gradient))
}

impl Emitter<'_> {
    /// What is done once a call.
    pub(super) fn begin_single(&mut self, contraction: &Contraction, work: &Workspace, channels: usize) {
        let Some((window, gradient)) = window(contraction) else { return };
        let Single { zeros, .. } = work.single;
        self.asm.zero(0);
        for at in (0..channels.next_multiple_of(CHANNELS) + VECTOR).step_by(VECTOR) {
            let to = super::super::asm::Memory::frame(zeros).ahead(at);
            self.asm.store(Width::Wide, Op::Store32, to, 0, ALL);
        }
        if !gradient {
            self.spread_filters(contraction, work, &window);
        }
    }

    /// Filters of each channel to where they are multiplied.
    fn spread_filters(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let (pitch, to, columns) =
            (row_bytes(self.buffer(contraction.rhs)), work.single.taps, self.slots.columns);
        let block = window.taps().div_ceil(2) * PAIR;
        let mut again = self.asm.label();
        self.pointer(rsi, contraction.rhs);
        x86!(self.asm; xor(rbx, rbx));
        self.asm.place(&mut again);
        // Block, half of an eight, eight, and place in the half.
        x86!(self.asm; mov(rdi, rbx); shr(rdi, CHANNELS.trailing_zeros()));
        times(&mut self.asm, rdi, block);
        for (shift, mask, scale) in [(2, 1, VECTOR), (3, 3, LANES), (0, 3, 4)] {
            x86!(self.asm; mov(rax, rbx); shr(rax, shift); and(rax, mask));
            times(&mut self.asm, rax, scale);
            x86!(self.asm; add(rdi, rax));
        }
        for tap in 0..window.taps() {
            let place = to + offset_of(tap / 2 * PAIR + tap % 2 * 2);
            x86!(self.asm; movsx(eax, byte_ptr(rsi + offset_of(tap))); mov(word_ptr(rsp + rdi + place), ax));
        }
        if window.taps() % 2 == 1 {
            let place = to + offset_of(window.taps() / 2 * PAIR + 2);
            x86!(self.asm; mov(word_ptr(rsp + rdi + place), 0));
        }
        x86!(self.asm; add(rsi, offset_of(pitch)); inc(rbx); cmp(rbx, qword_ptr(rsp + columns)); jb(again));
    }

    /// Where the positions from `rbx` to `rbp` look, to `rdi`. `first` is an operand with a row for each.
    fn find_places(
        &mut self,
        window: &Window,
        image: Handle<Buffer>,
        first: Option<Handle<Buffer>>,
        zeros: i32,
    ) {
        let channels = row_bytes(self.buffer(image));
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        self.find_position(window, image);
        for tap in 0..window.taps() {
            let [mut nothing, mut done] = [0; 2].map(|_| self.asm.label());
            self.look_through(window, tap, nothing);
            times(&mut self.asm, rax, channels);
            x86!(self.asm; add(rax, SAMPLE); jmp(done));
            self.asm.place(&mut nothing);
            x86!(self.asm; lea(rax, ptr(rsp + zeros)));
            self.asm.place(&mut done);
            x86!(self.asm; mov(qword_ptr(rdi + offset_of(8 * tap)), rax));
        }
        if let Some(first) = first {
            let pitch = row_bytes(self.buffer(first));
            self.pointer(rax, first);
            x86!(self.asm; mov(rsi, rbx));
            times(&mut self.asm, rsi, pitch);
            x86!(self.asm; add(rax, rsi); mov(qword_ptr(rdi + offset_of(8 * window.taps())), rax));
        }
        let step = offset_of(places(window, first.is_some()));
        x86!(self.asm; add(rdi, step); inc(rbx); cmp(rbx, rbp); jb(again));
    }

    /// What all panels of a chunk share.
    pub(super) fn begin_single_chunk(&mut self, contraction: &Contraction, work: &Workspace) {
        let Some((window, gradient)) = window(contraction) else { return };
        if gradient {
            return self.sum_gradients(contraction, work, &window);
        }
        let Single { places, zeros, .. } = work.single;
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        x86!(self.asm;
            mov(rbx, qword_ptr(rsp + chunk));
            mov(rbp, qword_ptr(rsp + end));
            lea(rdi, ptr(rsp + places));
        );
        self.find_places(&window, contraction.lhs, None, zeros);
    }

    /// The accumulators of the chunk and the panel at hand.
    pub(super) fn contract_single(&mut self, contraction: &Contraction, work: &Workspace) {
        let Some((window, gradient)) = window(contraction) else { return };
        if gradient {
            return self.turn_gradients(work, &window);
        }
        let (columns, panel, free) = (self.slots.columns, self.slots.panel, work.free);
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        let Single { places: from, taps, .. } = work.single;
        let pairs = window.taps().div_ceil(2);
        x86!(self.asm;
            mov(r8, qword_ptr(rsp + panel));
            mov(rdx, qword_ptr(rsp + columns));
            sub(rdx, r8);
            mov(rbp, r8);
            shr(rbp, CHANNELS.trailing_zeros());
        );
        self.channel_mask(rdx);
        times(&mut self.asm, rbp, pairs * PAIR);
        self.load_orders();
        let mut again = self.asm.label();
        x86!(self.asm;
            lea(rbp, ptr(rsp + rbp + taps));
            lea(rsi, ptr(rsp + from));
            mov(rdi, qword_ptr(rsp + free));
            mov(rbx, qword_ptr(rsp + end));
            sub(rbx, qword_ptr(rsp + chunk));
        );
        self.asm.place(&mut again);
        self.asm.zero(0);
        self.asm.zero(1);
        for pair in 0..pairs {
            let taps = [2 * pair, (2 * pair + 1).min(window.taps() - 1)];
            for (tap, register) in taps.into_iter().zip([zmm2, zmm3]) {
                x86!(self.asm; mov(rax, qword_ptr(rsi + offset_of(8 * tap))));
                self.widen(register, rax);
            }
            let filter = |half: usize| zmmword_ptr(rbp + offset_of(pair * PAIR + half * VECTOR));
            x86!(self.asm;
                vpunpcklwd(zmm4, zmm2, zmm3);
                vpunpckhwd(zmm5, zmm2, zmm3);
                vpdpwssd(zmm0, zmm4, filter(0));
                vpdpwssd(zmm1, zmm5, filter(1));
            );
        }
        self.in_order();
        x86!(self.asm; vmovdqa64(zmmword_ptr(rdi), zmm2));
        if self.tiles > 1 {
            x86!(self.asm; vmovdqa64(zmmword_ptr(rdi + offset_of(VECTOR)), zmm3));
        }
        x86!(self.asm;
            add(rsi, offset_of(places(&window, false)));
            add(rdi, offset_of(self.tiles * VECTOR));
            dec(rbx);
            jnz(again);
        );
    }

    /// The mask of the channels that exist, of which so many are left.
    fn channel_mask(&mut self, left: AsmRegister64) {
        let mut few = self.asm.label();
        x86!(self.asm; mov(rax, u64::from(u32::MAX)); cmp(left, offset_of(CHANNELS)); jae(few); bzhi(rax, rax, left));
        self.asm.place(&mut few);
        x86!(self.asm; kmovq(k4, rax));
    }

    /// Widens the channels from `r8` on of the row at `from`.
    fn widen(&mut self, to: AsmRegisterZmm, from: AsmRegister64) {
        x86!(self.asm; vpmovsxbw(to.k4().z(), ymmword_ptr(from + r8)));
    }

    /// The constants of [`Emitter::in_order`].
    fn load_orders(&mut self) {
        for (register, pairs) in [(6, [0, 1, 8, 9, 2, 3, 10, 11]), (7, [4, 5, 12, 13, 6, 7, 14, 15])] {
            let lanes = std::array::from_fn(|lane| if lane % 2 == 0 { pairs[lane / 2] } else { 0 });
            let lanes = self.asm.lanes(lanes);
            self.asm.load(Width::Wide, Op::Move, register, lanes, ALL);
        }
    }

    /// 32 sums of `zmm0` and `zmm1`, which have the lower and the upper half of each eight, in order to `zmm2` and `zmm3`.
    fn in_order(&mut self) {
        x86!(self.asm;
            vmovdqa64(zmm2, zmm6);
            vmovdqa64(zmm3, zmm7);
            vpermi2q(zmm2, zmm0, zmm1);
            vpermi2q(zmm3, zmm0, zmm1);
        );
    }

    /// The sums of a chunk's channels for all taps.
    fn sum_gradients(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let Single { places: to, zeros, taps, part } = work.single;
        let (chunk, end, depth) = (self.slots.chunk, self.slots.chunk_end, work.depth);
        let blocks = self.chunk.div_ceil(CHANNELS);
        let mut zero = self.asm.label();
        self.asm.zero(0);
        x86!(self.asm; lea(rdi, ptr(rsp + taps)); mov(rcx, (blocks * window.taps() * 2) as u64));
        self.asm.place(&mut zero);
        x86!(self.asm;
            vmovdqa64(zmmword_ptr(rdi), zmm0);
            add(rdi, offset_of(VECTOR));
            dec(rcx);
            jnz(zero);
            mov(qword_ptr(rsp + part), 0);
        );
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        x86!(self.asm;
            mov(rbx, qword_ptr(rsp + part));
            mov(rax, qword_ptr(rsp + depth));
            lea(rbp, ptr(rbx + offset_of(PART)));
            cmp(rbp, rax);
            cmova(rbp, rax);
            lea(rdi, ptr(rsp + to));
        );
        self.find_places(window, contraction.rhs, Some(contraction.lhs), zeros);
        // One more that is all zeros, for an odd number of positions.
        x86!(self.asm; lea(rax, ptr(rsp + zeros)));
        for place in 0..=window.taps() {
            x86!(self.asm; mov(qword_ptr(rdi + offset_of(8 * place)), rax));
        }
        // r14: pairs of positions; r8: the channel; r13: where its sums are.
        let mut block = self.asm.label();
        x86!(self.asm;
            mov(r14, rbp);
            sub(r14, qword_ptr(rsp + part));
            inc(r14);
            shr(r14, 1);
            mov(r8, qword_ptr(rsp + chunk));
            lea(r13, ptr(rsp + taps));
        );
        self.asm.place(&mut block);
        x86!(self.asm; mov(rdx, qword_ptr(rsp + end)); sub(rdx, r8));
        self.channel_mask(rdx);
        for first in (0..window.taps()).step_by(FEW) {
            self.sum_taps(work, window, first..(first + FEW).min(window.taps()));
        }
        x86!(self.asm;
            add(r13, offset_of(window.taps() * PAIR));
            add(r8, offset_of(CHANNELS));
            cmp(r8, qword_ptr(rsp + end));
            jb(block);
            mov(rax, qword_ptr(rsp + part));
            add(rax, offset_of(PART));
            mov(qword_ptr(rsp + part), rax);
            cmp(rax, qword_ptr(rsp + depth));
            jb(again);
        );
    }

    /// Adds the products of a part's positions to the sums of 32 channels and a few taps.
    fn sum_taps(&mut self, work: &Workspace, window: &Window, taps: std::ops::Range<usize>) {
        let from = work.single.places;
        let pitch = places(window, true);
        let sums: Vec<(AsmRegisterZmm, usize)> = taps
            .clone()
            .flat_map(|tap| [(tap, 0), (tap, 1)])
            .map(|(tap, half)| (zmm(SUMS + 2 * (tap - taps.start) + half), tap * PAIR + half * VECTOR))
            .collect();
        for &(sum, at) in &sums {
            x86!(self.asm; vmovdqa64(sum, zmmword_ptr(r13 + offset_of(at))));
        }
        let mut again = self.asm.label();
        x86!(self.asm; mov(rcx, r14); lea(rsi, ptr(rsp + from)));
        self.asm.place(&mut again);
        self.pair(pitch, window.taps());
        x86!(self.asm; vpunpcklwd(zmm4, zmm2, zmm3); vpunpckhwd(zmm5, zmm2, zmm3));
        for tap in taps.clone() {
            let sum = |half: usize| sums[2 * (tap - taps.start) + half].0;
            self.pair(pitch, tap);
            x86!(self.asm;
                vpunpcklwd(zmm0, zmm2, zmm3);
                vpunpckhwd(zmm1, zmm2, zmm3);
                vpdpwssd(sum(0), zmm0, zmm4);
                vpdpwssd(sum(1), zmm1, zmm5);
            );
        }
        x86!(self.asm; add(rsi, offset_of(2 * pitch)); dec(rcx); jnz(again));
        for (sum, at) in sums {
            x86!(self.asm; vmovdqa64(zmmword_ptr(r13 + offset_of(at)), sum));
        }
    }

    /// What two positions see, in `zmm2` and `zmm3`.
    fn pair(&mut self, pitch: usize, place: usize) {
        for (position, register) in [zmm2, zmm3].into_iter().enumerate() {
            x86!(self.asm; mov(rax, qword_ptr(rsi + offset_of(position * pitch + 8 * place))));
            self.widen(register, rax);
        }
    }

    /// The sums of the panel's taps, with a row for each channel.
    fn turn_gradients(&mut self, work: &Workspace, window: &Window) {
        let (columns, panel, free) = (self.slots.columns, self.slots.panel, work.free);
        let (chunk, end) = (self.slots.chunk, self.slots.chunk_end);
        let (sums, width) = (work.single.taps, self.tiles * LANES);
        let [mut row, mut tap] = [0; 2].map(|_| self.asm.label());
        // rbx: the row; rdi: where its sums go; r9: the panel's taps.
        x86!(self.asm;
            xor(rbx, rbx);
            mov(rdi, qword_ptr(rsp + free));
            mov(r9, qword_ptr(rsp + columns));
            sub(r9, qword_ptr(rsp + panel));
            mov(rax, width as u64);
            cmp(r9, rax);
            cmova(r9, rax);
            mov(r10, qword_ptr(rsp + end));
            sub(r10, qword_ptr(rsp + chunk));
            mov(r11, qword_ptr(rsp + panel));
        );
        times(&mut self.asm, r11, PAIR);
        self.asm.place(&mut row);
        x86!(self.asm; mov(rsi, rbx); shr(rsi, CHANNELS.trailing_zeros()));
        times(&mut self.asm, rsi, window.taps() * PAIR);
        for (shift, mask, scale) in [(2, 1, VECTOR), (3, 3, LANES), (0, 3, 4)] {
            x86!(self.asm; mov(rax, rbx); shr(rax, shift); and(rax, mask));
            times(&mut self.asm, rax, scale);
            x86!(self.asm; add(rsi, rax));
        }
        x86!(self.asm; lea(rsi, ptr(rsp + rsi + sums)); add(rsi, r11); xor(rcx, rcx));
        self.asm.place(&mut tap);
        x86!(self.asm;
            mov(eax, dword_ptr(rsi));
            mov(dword_ptr(rdi + rcx * 4), eax);
            add(rsi, offset_of(PAIR));
            inc(rcx);
            cmp(rcx, r9);
            jb(tap);
            add(rdi, offset_of(width * 4));
            inc(rbx);
            cmp(rbx, r10);
            jb(row);
        );
    }
}

fn zmm(number: usize) -> AsmRegisterZmm {
    use registers::zmm::*;
    const ALL: [AsmRegisterZmm; 32] = [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15,
        zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27, zmm28, zmm29,
        zmm30, zmm31,
    ];
    ALL[number]
}
