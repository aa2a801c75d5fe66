//! Images: what a row sees through a window, and contractions of what it sees.
//!
//! What a window sees is never all in memory. A convolution copies the rows that a chunk's positions see, tap after tap,
//! to the stack, and its gradient copies a panel's columns, a piece of the depth at a time; both are then multiplied as
//! dense operands are. Filters of single channels need no copy: the channels of a row are multiplied as they lie, tap
//! after tap. Accumulators are left on the stack, where the first stage finds them.
//!
//! Operands whose rows are neither padded nor a multiple of what is read at a time are copied too, so that nothing is
//! read beyond them.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, StackSlot, Value, types};
use ffc_ir::Window;
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Geometry, Kernel, Program, ROW_ALIGN};
use ffc_ir::types::DType;

use super::expr::Row;
use super::memory::Address;
use super::nest::Span;
use super::tile::Lines;
use super::{Emitter, memory_flags};
use crate::layout::{PADDING, is_padded_operand, reciprocal, row_bytes};
use crate::vex;

/// Bytes of a chunk's copied rows.
const ROWS: usize = 128 << 10;

/// Bytes of a panel's copied columns.
const COLUMNS: usize = 64 << 10;

/// Depth of a gradient that is copied at a time.
const PIECE: usize = 512;

/// Bytes and positions that are turned at a time.
const EIGHT: usize = 8;

/// The row of an image that another row sees, the first one where it sees none; and whether it sees one.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    pub(super) row: Value,
    pub(super) there: Value,
}

/// How a contraction's operands come to where they are multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staging {
    /// Whether the left and the right one are copied.
    copied: [bool; 2],
    /// Bytes between their rows.
    pub(super) pitches: [usize; 2],
    /// Whether accumulators grow from one piece of the depth to the next.
    pub(super) adds: bool,
    /// Most rows of a chunk.
    pub(super) rows: usize,
    /// Most columns of a panel.
    pub(super) columns: usize,
}

impl Staging {
    /// For chunks of at most so many rows.
    pub(super) fn new(program: &Program, contraction: &Contraction, rows: usize) -> Self {
        let operands = [contraction.lhs, contraction.rhs].map(|operand| &program.buffers[operand]);
        let whole = operands.map(is_padded_operand);
        let deepest = contraction.depth.size(operands[0].samples.max(operands[1].samples));
        let (copied, adds) = match contraction.geometry {
            Geometry::Dense => (whole.map(|whole| !whole), false),
            Geometry::Convolution(window) => ([!(whole[0] && window.is_identity()), !whole[1]], false),
            Geometry::ConvolutionGrad(_) => ([!whole[0], true], true),
            Geometry::Depthwise(_) | Geometry::DepthwiseGrad(_) => ([false; 2], false),
        };
        let pitch = |side: usize| match copied[side] {
            true if adds => PIECE,
            true => deepest.next_multiple_of(ROW_ALIGN),
            false => row_bytes(operands[side]),
        };
        let pitches = [0, 1].map(pitch);
        // Multiples of what tiles take.
        let few = |most: usize, bytes: usize, side: usize, unit: usize| match copied[side] {
            true => (bytes / pitches[side] / unit * unit).clamp(unit, most),
            false => most,
        };
        let (rows, columns) = (few(rows, ROWS, 0, 12), few(vex::SPAN, COLUMNS, 1, 4));
        Self { copied, pitches, adds, rows, columns }
    }

    /// Whether accumulators are computed for all rows of a chunk, even if some are left out.
    pub(super) fn by_chunks(&self, kernel: &Kernel) -> bool {
        let dense = kernel.contraction.is_some_and(|contraction| contraction.geometry == Geometry::Dense);
        !dense || self.copied.contains(&true)
    }
}

/// Room on the stack for what contractions of images need.
#[derive(Clone, Copy)]
pub(super) struct Copies {
    operands: [Option<StackSlot>; 2],
    /// Filters of single channels, tap after tap, or sums that lie so; zeros for all channels of an image that is copied
    /// by columns.
    taps: Option<(StackSlot, usize)>,
}

impl Emitter<'_> {
    /// The quotient and the remainder of a number below 2^31.
    fn divided(&mut self, number: Value, by: usize) -> [Value; 2] {
        if by == 1 {
            return [number, self.int(0)];
        }
        let (factor, shift) = reciprocal(by);
        let factor = self.b.ins().iconst(types::I64, factor.cast_signed());
        let product = self.b.ins().imul(number, factor);
        let quotient = self.b.ins().ushr_imm_u(product, i64::from(shift));
        let whole = self.times(quotient, by);
        [quotient, self.b.ins().isub(number, whole)]
    }

    /// Where a position lies: sample, line and place in it.
    fn position(&mut self, window: Window, number: Value) -> [Value; 3] {
        let [sample, position] = self.divided(number, window.outputs());
        let [y, x] = self.divided(position, window.output[1]);
        [sample, y, x]
    }

    /// What a place sees along an axis, and whether that is there.
    fn along(&mut self, window: Window, axis: usize, place: Value, tap: Value) -> [Value; 2] {
        let (place, tap) = (self.times(place, window.stride[axis]), self.times(tap, window.dilation[axis]));
        let reach = self.b.ins().iadd(place, tap);
        let pad = i64::try_from(window.pad[axis]).expect("windows are checked");
        let reach = self.b.ins().iadd_imm_s(reach, -pad);
        let input = self.int(window.input[axis]);
        if window.spread[axis] == 1 {
            return [reach, self.b.ins().icmp(IntCC::UnsignedLessThan, reach, input)];
        }
        let [seen, rest] = self.divided(reach, window.spread[axis]);
        let zero = self.int(0);
        let behind = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, reach, zero);
        let before = self.b.ins().icmp(IntCC::UnsignedLessThan, seen, input);
        let inside = self.b.ins().band(behind, before);
        if window.repeats {
            return [seen, inside];
        }
        let exact = self.b.ins().icmp(IntCC::Equal, rest, zero);
        [seen, self.b.ins().band(inside, exact)]
    }

    fn sight(&mut self, window: Window, [sample, y, x]: [Value; 3], tap: [Value; 2]) -> Sight {
        let [y, above] = self.along(window, 0, y, tap[0]);
        let [x, beside] = self.along(window, 1, x, tap[1]);
        let sample = self.times(sample, window.inputs());
        let line = self.times(y, window.input[1]);
        let row = self.b.ins().iadd(sample, line);
        let row = self.b.ins().iadd(row, x);
        let there = self.b.ins().band(above, beside);
        let zero = self.int(0);
        Sight { row: self.b.ins().select(there, row, zero), there }
    }

    /// What a row of the domain sees through a tap; computed once where [`Emitter::divide_rows`] asks for it in front.
    pub(super) fn look(&mut self, window: Window, tap: usize, row: Row) -> Sight {
        let key = (row.first, row.ahead, window, tap);
        if let Some(&(_, sight)) = self.sights.iter().find(|(known, _)| *known == key) {
            return sight;
        }
        let number = self.row_number(row);
        let position = self.position(window, number);
        let tap = [self.int(tap / window.kernel[1]), self.int(tap % window.kernel[1])];
        let sight = self.sight(window, position, tap);
        self.sights.push((key, sight));
        sight
    }

    /// The sample of a row, and its position there, where a sample becomes so many copies.
    pub(super) fn planar(&mut self, positions: usize, copies: usize, row: Row) -> [Value; 2] {
        let number = self.row_number(row);
        let [sample, _] = self.divided(number, positions * copies);
        let [_, position] = self.divided(number, positions);
        [sample, position]
    }

    /// Group, channel in the group, and place of the tap, of a row of filters that lead back.
    pub(super) fn filter(&mut self, taps: usize, inputs: usize, row: Row) -> [Value; 3] {
        let number = self.row_number(row);
        let [channel, tap] = self.divided(number, taps);
        let [group, channel] = self.divided(channel, inputs);
        [group, channel, tap]
    }

    /// The value, or these bits where the condition is 0.
    pub(super) fn unless_outside(&mut self, there: Value, value: Value, bits: u32) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        if !ty.is_vector() {
            let outside = self.b.ins().iconst(types::I32, i64::from(bits));
            let outside = self.cast(ty, outside);
            return self.b.ins().select(there, value, outside);
        }
        let mask = self.b.ins().bmask(types::I32, there);
        let mask = self.b.ins().splat(types::I32X4, mask);
        let outside = self.words(ty, [bits; 4]);
        self.choose(mask, value, outside)
    }

    /// Runs the body for each tap: its number, and what a position sees through it.
    fn each_tap(&mut self, window: Window, number: Value, body: impl FnOnce(&mut Self, Value, Sight)) {
        let position = self.position(window, number);
        let (zero, height, width) = (self.int(0), self.int(window.kernel[0]), self.int(window.kernel[1]));
        self.steps(zero, height, 1, |emitter, down| {
            emitter.steps(zero, width, 1, |emitter, right| {
                let sight = emitter.sight(window, position, [down, right]);
                let line = emitter.times(down, window.kernel[1]);
                let tap = emitter.b.ins().iadd(line, right);
                body(emitter, tap, sight);
            });
        });
    }

    /// Room for copies, and those that are made once a call.
    pub(super) fn begin_copies(&mut self, contraction: &Contraction, staging: &Staging) -> Copies {
        let sizes = [staging.rows, staging.columns];
        let operands = [0, 1].map(|side| {
            staging.copied[side].then(|| self.room(sizes[side] * staging.pitches[side] + ROW_ALIGN))
        });
        let taps = match contraction.geometry {
            Geometry::Depthwise(window) => Some(self.filters(contraction.rhs, window.taps())),
            Geometry::DepthwiseGrad(window) => {
                let pitch = 4 * staging.rows;
                Some((self.room(window.taps().min(staging.columns) * pitch), pitch))
            }
            Geometry::ConvolutionGrad(_) => Some(self.zeros(row_bytes(self.buffer(contraction.rhs)))),
            _ => None,
        };
        Copies { operands, taps }
    }

    /// Zeros in place of so many bytes.
    fn zeros(&mut self, bytes: usize) -> (StackSlot, usize) {
        let slot = self.room(bytes);
        let (at, bytes_value) = (self.b.ins().stack_addr(types::I64, slot, 0), self.int(bytes));
        self.clear(at, bytes_value);
        (slot, bytes)
    }

    /// Filters of single channels as taps that have a byte for each channel.
    fn filters(&mut self, operand: Handle<Buffer>, taps: usize) -> (StackSlot, usize) {
        let buffer = self.buffer(operand);
        let (from, pitch) = (self.pointer(operand), row_bytes(buffer));
        let width = buffer.shape[0].size(buffer.samples).next_multiple_of(PADDING);
        let slot = self.room(taps * width);
        let to = self.b.ins().stack_addr(types::I64, slot, 0);
        let (zero, columns) = (self.int(0), self.columns.value);
        self.steps(zero, columns, 1, |emitter, channel| {
            let (from, to) = (emitter.indexed(from, channel, pitch), emitter.b.ins().iadd(to, channel));
            for tap in 0..taps {
                let [from, to] = [(from, tap), (to, tap * width)]
                    .map(|(base, ahead)| emitter.ahead(Address { base, offset: 0 }, ahead));
                let byte = emitter.load_one(DType::I8, from);
                emitter.store_one(DType::I8, byte, to);
            }
        });
        (slot, width)
    }

    /// The accumulators of some rows of a chunk and a span of columns, to `sums`.
    pub(super) fn multiply_geometry(&mut self, from: Value, count: Value, span: Span, sums: Value) {
        let contraction = self.kernel.contraction.expect("there is a contraction");
        match contraction.geometry {
            Geometry::Dense | Geometry::Convolution(_) => {
                self.convolution(&contraction, from, count, span, sums);
            }
            Geometry::ConvolutionGrad(window) => {
                self.convolution_grad(&contraction, window, [from, count], span, sums);
            }
            Geometry::Depthwise(window) => self.depthwise(&contraction, window, [from, count], span, sums),
            Geometry::DepthwiseGrad(window) => {
                self.depthwise_grad(&contraction, window, [from, count], span, sums);
            }
        }
    }

    fn staging(&self) -> Staging {
        self.staging.expect("contractions of images are staged")
    }

    fn copies(&self) -> Copies {
        self.copies.expect("contractions of images have copies")
    }

    /// Rows of an operand, where they lie or where their copy will be.
    fn lines(&mut self, operand: Handle<Buffer>, side: usize, first: Value) -> Lines {
        let pitch = self.staging().pitches[side];
        let start = match self.copies().operands[side] {
            Some(slot) => self.b.ins().stack_addr(types::I64, slot, 0),
            None => {
                let pointer = self.pointer(operand);
                self.indexed(pointer, first, pitch)
            }
        };
        Lines { start, pitch, copied: self.staging().copied[side] }
    }

    fn convolution(&mut self, contraction: &Contraction, from: Value, count: Value, span: Span, sums: Value) {
        let depth = self.size(contraction.depth).value;
        let columns = self.b.ins().isub(span.to, span.from);
        let lhs = self.lines(contraction.lhs, 0, from);
        let rhs = self.lines(contraction.rhs, 1, span.from);
        if lhs.copied {
            self.at_first(span, |emitter| match contraction.geometry {
                Geometry::Convolution(window) => emitter.copy_seen(contraction.lhs, window, from, count, lhs),
                _ => {
                    let zero = emitter.int(0);
                    emitter.copy_rows(contraction.lhs, [from, count], [zero, depth], lhs);
                }
            });
        }
        if rhs.copied {
            let zero = self.int(0);
            self.copy_rows(contraction.rhs, [span.from, columns], [zero, depth], rhs);
        }
        self.product(lhs, count, rhs, columns, depth, sums);
    }

    /// Copies what some rows see.
    fn copy_seen(&mut self, operand: Handle<Buffer>, window: Window, first: Value, count: Value, to: Lines) {
        let (image, pitch) = (self.pointer(operand), row_bytes(self.buffer(operand)));
        let (zero, channels) = (self.int(0), self.int(pitch));
        self.steps(zero, count, 1, |emitter, row| {
            let to = emitter.indexed(to.start, row, to.pitch);
            let number = emitter.b.ins().iadd(first, row);
            emitter.each_tap(window, number, |emitter, tap, sight| {
                let to = emitter.indexed(to, tap, pitch);
                let from = emitter.indexed(image, sight.row, pitch);
                emitter.when(sight.there, |emitter| emitter.copy(from, to, channels));
                let outside = emitter.b.ins().icmp_imm_u(IntCC::Equal, sight.there, 0);
                emitter.when(outside, |emitter| emitter.clear(to, channels));
            });
            let depth = emitter.int(pitch * window.taps());
            emitter.clear_behind(to, depth);
        });
    }

    /// Copies columns `[from, count]` of rows `[first, count]`.
    fn copy_rows(
        &mut self,
        operand: Handle<Buffer>,
        [first, count]: [Value; 2],
        [from, bytes]: [Value; 2],
        to: Lines,
    ) {
        let pitch = row_bytes(self.buffer(operand));
        let (pointer, zero) = (self.pointer(operand), self.int(0));
        let start = self.indexed(pointer, first, pitch);
        let start = self.b.ins().iadd(start, from);
        self.steps(zero, count, 1, |emitter, row| {
            let (from, to) = (emitter.indexed(start, row, pitch), emitter.indexed(to.start, row, to.pitch));
            emitter.copy(from, to, bytes);
            emitter.clear_behind(to, bytes);
        });
    }

    /// Copies bytes.
    fn copy(&mut self, from: Value, to: Value, bytes: Value) {
        let zero = self.int(0);
        let mut done = zero;
        for (ty, size) in self.units() {
            done = self.steps(done, bytes, size, |emitter, at| {
                let (from, to) = (emitter.b.ins().iadd(from, at), emitter.b.ins().iadd(to, at));
                let value = emitter.b.ins().load(ty, memory_flags(), from, 0);
                emitter.b.ins().store(memory_flags(), value, to, 0);
            });
        }
    }

    /// Fills bytes with zeros.
    fn clear(&mut self, to: Value, bytes: Value) {
        let zero = self.int(0);
        let mut done = zero;
        for (ty, size) in self.units() {
            let nothing = match ty {
                types::I32X4 => self.words(ty, [0; 4]),
                _ => self.b.ins().iconst(ty, 0),
            };
            done = self.steps(done, bytes, size, |emitter, at| {
                let to = emitter.b.ins().iadd(to, at);
                emitter.b.ins().store(memory_flags(), nothing, to, 0);
            });
        }
    }

    /// Fills with zeros what products may read behind a copied row.
    fn clear_behind(&mut self, row: Value, bytes: Value) {
        let rounded = self.round_up(bytes, PADDING);
        self.steps(bytes, rounded, 1, |emitter, at| {
            let to = emitter.b.ins().iadd(row, at);
            let zero = emitter.b.ins().iconst(types::I8, 0);
            emitter.b.ins().store(memory_flags(), zero, to, 0);
        });
    }

    /// What is copied at a time, and its bytes.
    fn units(&self) -> Vec<(types::Type, usize)> {
        let bytes = (types::I8, 1);
        if self.lanes() == 1 { vec![bytes] } else { vec![(types::I32X4, 16), bytes] }
    }

    fn convolution_grad(
        &mut self,
        contraction: &Contraction,
        window: Window,
        [from, count]: [Value; 2],
        span: Span,
        sums: Value,
    ) {
        let columns = self.b.ins().isub(span.to, span.from);
        self.clear_sums(sums, count, columns);
        let (zero, depth) = (self.int(0), self.size(contraction.depth).value);
        let lhs = self.lines(contraction.lhs, 0, from);
        let rhs = self.lines(contraction.rhs, 1, span.from);
        self.pieces(zero, depth, PIECE, |emitter, begin, end| {
            let deep = emitter.b.ins().isub(end, begin);
            let mut lhs = lhs;
            if lhs.copied {
                emitter.copy_rows(contraction.lhs, [from, count], [begin, deep], lhs);
            } else {
                lhs.start = emitter.b.ins().iadd(lhs.start, begin);
            }
            emitter.copy_columns(contraction.rhs, window, span, [begin, end], rhs);
            emitter.product(lhs, count, rhs, columns, deep, sums);
        });
    }

    fn clear_sums(&mut self, sums: Value, count: Value, columns: Value) {
        let zero = self.int(0);
        let columns = self.round_up(columns, 4);
        let bytes = self.times(columns, 4);
        self.steps(zero, count, 1, |emitter, row| {
            let to = emitter.indexed(sums, row, vex::PITCH);
            emitter.clear(to, bytes);
        });
    }

    /// Copies a span's columns of an image as positions see it through a window.
    fn copy_columns(
        &mut self,
        operand: Handle<Buffer>,
        window: Window,
        span: Span,
        [begin, end]: [Value; 2],
        to: Lines,
    ) {
        let (image, channels) = (self.pointer(operand), row_bytes(self.buffer(operand)));
        let zero = self.int(0);
        let [first, _] = self.divided(span.from, channels);
        let last = self.b.ins().iadd_imm_s(span.to, -1);
        let [last, _] = self.divided(last, channels);
        let last = self.b.ins().iadd_imm_s(last, 1);
        self.steps(first, last, 1, |emitter, tap| {
            // The span's channels of the tap, and where the first of them goes.
            let column = emitter.times(tap, channels);
            let next = emitter.b.ins().iadd_imm_s(column, i64::try_from(channels).expect("rows are short"));
            let before = emitter.less(column, span.from);
            let left = emitter.b.ins().select(before, span.from, column);
            let right = emitter.least(next, span.to);
            let (skipped, ahead) =
                (emitter.b.ins().isub(left, column), emitter.b.ins().isub(left, span.from));
            let count = emitter.b.ins().isub(right, left);
            let (image, to) =
                (emitter.b.ins().iadd(image, skipped), emitter.indexed(to.start, ahead, to.pitch));
            let tap = emitter.divided(tap, window.kernel[1]);
            let see = |emitter: &mut Self, number: Value| {
                let position = emitter.position(window, number);
                let sight = emitter.sight(window, position, tap);
                (sight.there, emitter.indexed(image, sight.row, channels))
            };
            let mut rest = begin;
            if emitter.lanes() > 1 {
                rest = emitter.steps(rest, end, EIGHT, |emitter, number| {
                    let seen: Vec<_> = (0..EIGHT as i64)
                        .map(|ahead| {
                            let number = emitter.b.ins().iadd_imm_s(number, ahead);
                            see(emitter, number)
                        })
                        .collect();
                    let deep = emitter.b.ins().isub(number, begin);
                    let to = emitter.b.ins().iadd(to, deep);
                    emitter.turn_eight(&seen, to, count);
                });
            }
            emitter.steps(rest, end, 1, |emitter, number| {
                let (there, from) = see(emitter, number);
                let deep = emitter.b.ins().isub(number, begin);
                let to = emitter.b.ins().iadd(to, deep);
                emitter.copy_across(there, from, to, zero, count);
            });
        });
    }

    /// Copies bytes of eight positions to places [`PIECE`] apart, eight positions side by side.
    fn turn_eight(&mut self, seen: &[(Value, Value)], to: Value, count: Value) {
        let (slot, _) = self.copies().taps.expect("there is room for zeros");
        let nothing = self.b.ins().stack_addr(types::I64, slot, 0);
        let rows: Vec<Value> =
            seen.iter().map(|&(there, from)| self.b.ins().select(there, from, nothing)).collect();
        let zero = self.int(0);
        let rest = self.steps(zero, count, EIGHT, |emitter, at| {
            let rows: Vec<Value> = rows
                .iter()
                .map(|&row| {
                    let place = emitter.b.ins().iadd(row, at);
                    let bytes = emitter.b.ins().load(types::I64, memory_flags(), place, 0);
                    let bytes = emitter.b.ins().scalar_to_vector(types::I64X2, bytes);
                    emitter.cast(types::I8X16, bytes)
                })
                .collect();
            // Each round moves a bit of a row's number behind those of its byte's.
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| emitter.zip(rows[row], rows[row + 4], 0));
            let even = [0, 8].map(|half| emitter.zip(a, c, half));
            let odd = [0, 8].map(|half| emitter.zip(b, d, half));
            let to = emitter.indexed(to, at, PIECE);
            for (number, (half, first)) in [(0, 0), (0, 8), (1, 0), (1, 8)].into_iter().enumerate() {
                let two = emitter.zip(even[half], odd[half], first);
                let two = emitter.cast(types::I64X2, two);
                for lane in 0..2u8 {
                    let bytes = emitter.b.ins().extractlane(two, lane);
                    let ahead = (2 * number + usize::from(lane)) * PIECE;
                    let Address { base, offset } = emitter.ahead(Address { base: to, offset: 0 }, ahead);
                    emitter.b.ins().store(memory_flags(), bytes, base, offset);
                }
            }
        });
        for (ahead, &(there, from)) in seen.iter().enumerate() {
            let to = self.b.ins().iadd_imm_s(to, ahead as i64);
            self.copy_across(there, from, to, rest, count);
        }
    }

    /// The bytes of two vectors' halves, from this byte on, in turn.
    fn zip(&mut self, a: Value, b: Value, first: u8) -> Value {
        let mask: Vec<u8> = (0..8).flat_map(|byte| [first + byte, 16 + first + byte]).collect();
        let mask = self.b.func.dfg.immediates.push(mask.into());
        self.b.ins().shuffle(a, b, mask)
    }

    /// Copies bytes, from this one on, to places [`PIECE`] apart, zeros where the condition is 0.
    fn copy_across(&mut self, there: Value, from: Value, to: Value, first: Value, count: Value) {
        let mask = self.b.ins().bmask(types::I32, there);
        self.steps(first, count, 1, |emitter, at| {
            let from = emitter.b.ins().iadd(from, at);
            let to = emitter.indexed(to, at, PIECE);
            let byte = emitter.load_one(DType::I8, Address { base: from, offset: 0 });
            let byte = emitter.b.ins().band(byte, mask);
            emitter.store_one(DType::I8, byte, Address { base: to, offset: 0 });
        });
    }

    fn depthwise(
        &mut self,
        contraction: &Contraction,
        window: Window,
        [from, count]: [Value; 2],
        span: Span,
        sums: Value,
    ) {
        let columns = self.b.ins().isub(span.to, span.from);
        self.clear_sums(sums, count, columns);
        let (slot, width) = self.copies().taps.expect("there is room for filters");
        let filters = self.b.ins().stack_addr(types::I64, slot, 0);
        let filters = self.b.ins().iadd(filters, span.from);
        let image = self.pointer(contraction.lhs);
        let image = self.b.ins().iadd(image, span.from);
        let (zero, pitch) = (self.int(0), row_bytes(self.buffer(contraction.lhs)));
        self.steps(zero, count, 1, |emitter, row| {
            let sums = emitter.indexed(sums, row, vex::PITCH);
            let number = emitter.b.ins().iadd(from, row);
            emitter.each_tap(window, number, |emitter, tap, sight| {
                emitter.when(sight.there, |emitter| {
                    let seen = emitter.indexed(image, sight.row, pitch);
                    let filter = emitter.indexed(filters, tap, width);
                    emitter.add_products([seen, filter], columns, sums);
                });
            });
        });
    }

    fn depthwise_grad(
        &mut self,
        contraction: &Contraction,
        window: Window,
        [from, count]: [Value; 2],
        span: Span,
        sums: Value,
    ) {
        let columns = self.b.ins().isub(span.to, span.from);
        let (slot, pitch) = self.copies().taps.expect("there is room for sums");
        let across = self.b.ins().stack_addr(types::I64, slot, 0);
        let (zero, depth) = (self.int(0), self.size(contraction.depth).value);
        let bytes = self.times(columns, pitch);
        self.clear(across, bytes);
        let operands = [contraction.lhs, contraction.rhs];
        let starts = operands.map(|operand| self.pointer(operand));
        let starts = starts.map(|start| self.b.ins().iadd(start, from));
        let pitches = operands.map(|operand| row_bytes(self.buffer(operand)));
        self.steps(zero, depth, 1, |emitter, number| {
            let row = emitter.indexed(starts[0], number, pitches[0]);
            emitter.each_tap(window, number, |emitter, tap, sight| {
                let place = emitter.b.ins().isub(tap, span.from);
                let inside = emitter.b.ins().icmp(IntCC::UnsignedLessThan, place, columns);
                let there = emitter.b.ins().band(inside, sight.there);
                emitter.when(there, |emitter| {
                    let seen = emitter.indexed(starts[1], sight.row, pitches[1]);
                    let sums = emitter.indexed(across, place, pitch);
                    emitter.add_products([row, seen], count, sums);
                });
            });
        });
        self.steps(zero, count, 1, |emitter, row| {
            let (from, to) = (emitter.indexed(across, row, 4), emitter.indexed(sums, row, vex::PITCH));
            emitter.steps(zero, columns, 1, |emitter, tap| {
                let (from, to) = (emitter.indexed(from, tap, pitch), emitter.indexed(to, tap, 4));
                let sum = emitter.load_one(DType::I32, Address { base: from, offset: 0 });
                emitter.store_one(DType::I32, sum, Address { base: to, offset: 0 });
            });
        });
    }

    /// Adds products of neighbouring bytes to neighbouring sums: eight of them, which fit in 16 bits, at a time.
    fn add_products(&mut self, operands: [Value; 2], count: Value, sums: Value) {
        let mut done = self.int(0);
        let lanes = if self.lanes() == 1 { &[1][..] } else { &[8, 1] };
        for &lanes in lanes {
            done = self.steps(done, count, lanes, |emitter, at| {
                let places = operands.map(|base| emitter.b.ins().iadd(base, at));
                let to = emitter.indexed(sums, at, 4);
                let products = match lanes {
                    1 => {
                        let place = |base| Address { base, offset: 0 };
                        let factors = places.map(|base| emitter.load_one(DType::I8, place(base)));
                        vec![emitter.b.ins().imul(factors[0], factors[1])]
                    }
                    _ => {
                        let factors = places.map(|base| emitter.b.ins().sload8x8(memory_flags(), base, 0));
                        let products = emitter.b.ins().imul(factors[0], factors[1]);
                        let low = emitter.b.ins().swiden_low(products);
                        vec![low, emitter.b.ins().swiden_high(products)]
                    }
                };
                for (product, offset) in products.into_iter().zip([0, 16]) {
                    let ty = emitter.b.func.dfg.value_type(product);
                    let sum = emitter.b.ins().load(ty, memory_flags(), to, offset);
                    let sum = emitter.b.ins().iadd(sum, product);
                    emitter.b.ins().store(memory_flags(), sum, to, offset);
                }
            });
        }
    }
}
