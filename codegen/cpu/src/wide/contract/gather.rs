//! Convolutions: what the rows of a chunk see, side by side, as contractions stream or pack it.
//!
//! A chunk's rows are copied to the frame before they are contracted, tap after tap, with zeros for what is beyond the
//! edge. Taps of a line whose positions are neighbours in the image are one piece of memory, so of most rows a copy takes
//! a load and a store for each 64 bytes.

use ffc_ir::Window;
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Geometry};
use iced_x86::code_asm::{
    AsmRegister64, CodeLabel, k4, k5, ptr, qword_ptr, r8, r9, r10, r11, rax, rbx, rcx, rdi, rdx, rsi, rsp,
    zmm0, zmm1, zmmword_ptr,
};

use super::super::asm::{ALL, Asm, Mask, Memory, Op, VECTOR, Width, offset_of, times, x86};
use super::super::nest::Emitter;
use super::Workspace;
use crate::layout::{is_padded_operand, reciprocal, row_bytes};

/// The masks of what is left of a line of taps, and of a tap, behind whole vectors.
const LINE: Mask = Mask(4);
const TAP: Mask = Mask(5);

/// Vectors that are copied without a loop.
const UNROLLED: usize = 32;

/// The registers of a position: where its sample begins in the image, and what the first tap looks at.
pub(in super::super) const SAMPLE: AsmRegister64 = r8;
const DOWN: AsmRegister64 = r9;
const RIGHT: AsmRegister64 = r10;

/// The window through which the rows of the left operand are seen, unless they can be read where they lie.
pub(super) fn seen_rows(contraction: &Contraction, lhs: &Buffer) -> Option<Window> {
    match contraction.geometry {
        Geometry::Convolution(window) if window.is_identity() && is_padded_operand(lhs) => None,
        Geometry::Convolution(window) => Some(window),
        _ => None,
    }
}

/// Bytes between gathered rows of this depth: not a multiple of 1024, for the first-level cache's sake.
pub(super) fn pitch(depth: usize) -> usize {
    let pitch = depth.next_multiple_of(VECTOR);
    if pitch.is_multiple_of(1024) { pitch + VECTOR } else { pitch }
}

/// `to` is the quotient of `from`, which is below 2^31.
pub(in super::super) fn quotient(asm: &mut Asm, to: AsmRegister64, from: AsmRegister64, by: usize) {
    if by.is_power_of_two() {
        x86!(asm; mov(to, from); shr(to, by.trailing_zeros()));
        return;
    }
    let (factor, shift) = reciprocal(by);
    x86!(asm; mov(to, factor); imul_2(to, from); shr(to, shift));
}

/// `quotient` is that of `number`, which becomes the remainder. `rax` and `rcx` change.
pub(in super::super) fn divide(asm: &mut Asm, to: AsmRegister64, number: AsmRegister64, by: usize) {
    quotient(asm, to, number, by);
    x86!(asm; mov(rax, to));
    times(asm, rax, by);
    x86!(asm; sub(number, rax));
}

/// Makes `rax`, how far a position reaches along an axis, the place that it sees; jumps to `nothing` if that is not there.
/// `rcx` and `rdx` change.
fn see(asm: &mut Asm, window: &Window, axis: usize, nothing: CodeLabel) {
    let input = offset_of(window.input[axis]);
    let spread = window.spread[axis];
    if spread == 1 {
        x86!(asm; cmp(rax, input); jae(nothing));
        return;
    }
    x86!(asm; test(rax, rax); js(nothing); mov(rdx, rax));
    quotient(asm, rax, rdx, spread);
    x86!(asm; cmp(rax, input); jae(nothing));
    if !window.repeats {
        x86!(asm; mov(rcx, rax));
        x86!(asm; imul_3(rcx, rcx, offset_of(spread)); cmp(rcx, rdx); jne(nothing));
    }
}

impl Emitter<'_> {
    /// Copies what the chunk's rows see into the frame.
    pub(super) fn gather_rows(&mut self, contraction: &Contraction, work: &Workspace, window: &Window) {
        let channels = row_bytes(self.buffer(contraction.lhs));
        let (chunk, end, gathered) = (self.slots.chunk, self.slots.chunk_end, work.gathered);
        let pitch = work.gathered_pitch;
        self.tail_masks(window.kernel[1] * channels, channels);
        self.asm.zero(0);
        let mut again = self.asm.label();
        x86!(self.asm; mov(rbx, qword_ptr(rsp + chunk)); lea(rdi, ptr(rsp + gathered)));
        self.asm.place(&mut again);
        self.find_position(window, contraction.lhs);
        for tap in 0..window.kernel[0] {
            self.gather_line(window, channels, tap);
        }
        x86!(self.asm; add(rdi, offset_of(pitch)); inc(rbx); cmp(rbx, qword_ptr(rsp + end)); jb(again));
    }

    fn tail_masks(&mut self, line: usize, tap: usize) {
        for (bytes, mask) in [(line, k4), (tap, k5)] {
            let bits = (1u64 << (bytes % VECTOR)) - 1;
            x86!(self.asm; mov(rax, bits); kmovq(mask, rax));
        }
    }

    /// Where the position `rbx` begins to look, and where its sample begins in the image.
    pub(super) fn find_position(&mut self, window: &Window, image: Handle<Buffer>) {
        self.place_position(window, window.inputs() * row_bytes(self.buffer(image)));
        self.pointer(rax, image);
        x86!(self.asm; add(SAMPLE, rax));
    }

    /// Where the position `rbx` begins to look; samples count so much. `rax` and `rcx` change.
    pub(in super::super) fn place_position(&mut self, window: &Window, sample: usize) {
        let pads = window.pad.map(|pad| i32::try_from(pad).expect("windows are checked"));
        x86!(self.asm; mov(DOWN, rbx));
        divide(&mut self.asm, SAMPLE, DOWN, window.outputs());
        x86!(self.asm; mov(RIGHT, DOWN));
        divide(&mut self.asm, DOWN, RIGHT, window.output[1]);
        times(&mut self.asm, SAMPLE, sample);
        times(&mut self.asm, DOWN, window.stride[0]);
        times(&mut self.asm, RIGHT, window.stride[1]);
        x86!(self.asm; sub(DOWN, pads[0]); sub(RIGHT, pads[1]));
    }

    /// Makes `rax` the position of the sample that is seen through a tap; jumps to `nothing` if none is. `rcx`, `rdx` and
    /// `rsi` change.
    pub(in super::super) fn look_through(&mut self, window: &Window, tap: usize, nothing: CodeLabel) {
        let [down, right] = [tap / window.kernel[1], tap % window.kernel[1]];
        x86!(self.asm; lea(rax, ptr(DOWN + offset_of(down * window.dilation[0]))));
        see(&mut self.asm, window, 0, nothing);
        x86!(self.asm; mov(rsi, rax); lea(rax, ptr(RIGHT + offset_of(right * window.dilation[1]))));
        see(&mut self.asm, window, 1, nothing);
        times(&mut self.asm, rsi, window.input[1]);
        x86!(self.asm; add(rax, rsi));
    }

    /// Copies what a position sees through a line of taps.
    fn gather_line(&mut self, window: &Window, channels: usize, tap: usize) {
        let [mut edge, mut nothing, mut done] = [0; 3].map(|_| self.asm.label());
        let (taps, dilation) = (window.kernel[1], window.dilation);
        let line = taps * channels;
        x86!(self.asm; lea(rax, ptr(DOWN + offset_of(tap * dilation[0]))));
        see(&mut self.asm, window, 0, nothing);
        // rsi: the line that is seen.
        times(&mut self.asm, rax, window.input[1] * channels);
        x86!(self.asm; lea(rsi, ptr(SAMPLE + rax)));
        let neighbours = (dilation[1] == 1 || taps == 1) && window.spread[1] == 1 && window.input[1] >= taps;
        if neighbours {
            x86!(self.asm; cmp(RIGHT, offset_of(window.input[1] - taps)); ja(edge); mov(rax, RIGHT));
            times(&mut self.asm, rax, channels);
            x86!(self.asm; add(rsi, rax));
            self.copy(line, Some(rsi), tap * line, LINE);
            x86!(self.asm; jmp(done));
        }
        self.asm.place(&mut edge);
        for column in 0..taps {
            let [mut beyond, mut next] = [0; 2].map(|_| self.asm.label());
            let to = tap * line + column * channels;
            x86!(self.asm; lea(rax, ptr(RIGHT + offset_of(column * dilation[1]))));
            see(&mut self.asm, window, 1, beyond);
            times(&mut self.asm, rax, channels);
            x86!(self.asm; lea(r11, ptr(rsi + rax)));
            self.copy(channels, Some(r11), to, TAP);
            x86!(self.asm; jmp(next));
            self.asm.place(&mut beyond);
            self.copy(channels, None, to, TAP);
            self.asm.place(&mut next);
        }
        x86!(self.asm; jmp(done));
        self.asm.place(&mut nothing);
        self.copy(line, None, tap * line, LINE);
        self.asm.place(&mut done);
    }

    /// Copies bytes, or zeros, to a place in the row at `rdi`; the mask is that of the last vector, if it is not whole.
    /// `rax` and `rcx` change.
    fn copy(&mut self, bytes: usize, from: Option<AsmRegister64>, to: usize, mask: Mask) {
        let vectors = bytes / VECTOR;
        let asm = &mut self.asm;
        if vectors > UNROLLED {
            let mut again = asm.label();
            let end = offset_of(vectors * VECTOR);
            x86!(asm; xor(rax, rax); lea(rcx, ptr(rdi + offset_of(to))));
            asm.place(&mut again);
            if let Some(from) = from {
                x86!(asm; vmovdqu64(zmm1, zmmword_ptr(from + rax)));
            }
            let value = if from.is_some() { zmm1 } else { zmm0 };
            x86!(asm; vmovdqu64(zmmword_ptr(rcx + rax), value));
            x86!(asm; add(rax, offset_of(VECTOR)); cmp(rax, end); jb(again));
        } else {
            for vector in 0..vectors {
                let at = vector * VECTOR;
                let value = from.map_or(0, |from| {
                    let register = u8::try_from(1 + vector % 8).expect("few registers");
                    asm.load(Width::Wide, Op::Move, register, Memory::at(from, at), ALL);
                    register
                });
                asm.store(Width::Wide, Op::Store32, Memory::at(rdi, to + at), value, ALL);
            }
        }
        if !bytes.is_multiple_of(VECTOR) {
            let at = vectors * VECTOR;
            let value = from.map_or(0, |from| {
                asm.load(Width::Wide, Op::LoadBytes, 1, Memory::at(from, at), mask);
                1
            });
            asm.store(Width::Wide, Op::StoreBytes, Memory::at(rdi, to + at), value, mask);
        }
    }
}
