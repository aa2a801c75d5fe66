//! Loads and stores.
//!
//! A block's elements are neighbours in memory, except through [`At::Transposed`]. Where only some columns of a block
//! lie in the domain, a vector would touch what is behind the row. That is harmless in buffers of our own whose rows
//! are padded: loads may read anything there, and stores write zeros. It is not harmless in the caller's buffers and
//! in dense columns; there, single elements are loaded (the last valid one in place of those that are not) and stored.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Expr, Level, Store};
use ffc_ir::types::DType;

use super::expr::{Block, Point, Row, Valid, Values};
use super::gather::Sight;
use super::{Emitter, memory_flags};
use crate::layout::{column_pitch, outside_bits, padded, row_bytes, vector_pitch};

/// A place in memory: `base + offset`.
#[derive(Clone, Copy)]
pub(super) struct Address {
    pub(super) base: Value,
    pub(super) offset: i32,
}

impl Emitter<'_> {
    /// The address some bytes behind another.
    pub(super) fn ahead(&mut self, address: Address, bytes: usize) -> Address {
        let offset = i32::try_from(bytes).ok().and_then(|bytes| address.offset.checked_add(bytes));
        match offset {
            Some(offset) => Address { offset, ..address },
            None => {
                let bytes = i64::try_from(bytes).expect("offsets stay within a buffer");
                Address { base: self.b.ins().iadd_imm_s(address.base, bytes), ..address }
            }
        }
    }

    /// The address `index * pitch` bytes behind another.
    pub(super) fn indexed(&mut self, base: Value, index: Value, pitch: usize) -> Value {
        let bytes = self.times(index, pitch);
        self.b.ins().iadd(base, bytes)
    }

    /// The address `index * pitch` bytes before another.
    pub(super) fn indexed_back(&mut self, base: Value, index: Value, pitch: usize) -> Value {
        let bytes = self.times(index, pitch);
        self.b.ins().isub(base, bytes)
    }

    /// `index * pitch`.
    pub(super) fn times(&mut self, index: Value, pitch: usize) -> Value {
        match pitch {
            1 => index,
            _ if pitch.is_power_of_two() => self.b.ins().ishl_imm_u(index, i64::from(pitch.trailing_zeros())),
            _ => {
                let pitch = self.int(pitch);
                self.b.ins().imul(index, pitch)
            }
        }
    }

    /// The address of item `row / per` of things that are `pitch` bytes apart.
    fn row_address(&mut self, base: Value, row: Row, per: usize, pitch: usize) -> Address {
        if per == 1 {
            let base = self.indexed(base, row.first, pitch);
            return self.ahead(Address { base, offset: 0 }, row.ahead * pitch);
        }
        let index = self.quotient(row, per);
        Address { base: self.indexed(base, index, pitch), offset: 0 }
    }

    /// `row / per`. Divisions are not moved out of loops, so [`Emitter::divide_rows`] does them in front.
    fn quotient(&mut self, row: Row, per: usize) -> Value {
        let key = (row.first, row.ahead, per);
        if let Some(&(_, quotient)) = self.quotients.iter().find(|(known, _)| *known == key) {
            return quotient;
        }
        let number = self.row_number(row);
        let per = self.int(per);
        let quotient = self.b.ins().udiv(number, per);
        self.quotients.push((key, quotient));
        quotient
    }

    /// Computes what the loads of these expressions want to know of a row: quotients of its number, and what it sees.
    pub(super) fn divide_rows(&mut self, exprs: &[Handle<Expr>], row: Row) {
        for &handle in exprs {
            match self.kernel.exprs[handle] {
                Expr::Load(_, At::Sample(per) | At::RowSample(per)) if per != 1 => {
                    self.quotient(row, per);
                }
                Expr::Load(_, At::Window { window, tap, .. }) => {
                    self.look(window.into(), tap, row);
                }
                _ => {}
            }
        }
    }

    /// The address of the element, or of the block's first element.
    pub(super) fn address(&mut self, handle: Handle<Buffer>, at: At, point: Point) -> Address {
        let (buffer, base) = (self.buffer(handle), self.pointer(handle));
        let (element, row) = (vector_pitch(buffer), row_bytes(buffer));
        let start = match at {
            At::Element => self.row_address(base, point.row(), 1, row),
            At::Sample(per) => self.row_address(base, point.row(), per, row),
            At::Columns(from) => {
                let start = self.row_address(base, point.row(), 1, row);
                self.ahead(start, from * buffer.dtype.bytes())
            }
            At::Row => self.row_address(base, point.row(), 1, element),
            At::Transposed => self.row_address(base, point.row(), 1, buffer.dtype.bytes()),
            At::RowSample(per) => self.row_address(base, point.row(), per, element),
            At::Flat(columns) => self.row_address(base, point.row(), 1, columns * buffer.dtype.bytes()),
            At::Window { window, tap, .. } => {
                let Sight { row: seen, .. } = self.look(window.into(), tap, point.row());
                Address { base: self.indexed(base, seen, row), offset: 0 }
            }
            At::Planar { positions, copies } => {
                let [sample, position] = self.planar(positions, copies, point.row());
                let base = self.indexed(base, sample, row);
                Address { base: self.indexed(base, position, buffer.dtype.bytes()), offset: 0 }
            }
            At::Back { taps, inputs, outputs } => {
                let [group, channel, tap] = self.filter(taps, inputs, point.row());
                let base = self.indexed(base, group, outputs * row);
                let base = self.indexed(base, channel, buffer.dtype.bytes());
                let tap_bytes = inputs * buffer.dtype.bytes();
                let base = self.indexed_back(base, tap, tap_bytes);
                self.ahead(Address { base, offset: 0 }, (taps - 1) * tap_bytes)
            }
            At::Column | At::Scalar => Address { base, offset: 0 },
        };
        match column_pitch(buffer, at) {
            0 => start,
            pitch => Address { base: self.indexed(start.base, point.block().column, pitch), ..start },
        }
    }

    /// The address of one column of a block; of the last valid one where that is not valid.
    pub(super) fn lane(&mut self, address: Address, lane: usize, pitch: usize, valid: Valid) -> Address {
        match valid {
            Valid::All => self.ahead(address, lane * pitch),
            Valid::First(count) => self.ahead(address, lane.min(count - 1) * pitch),
            Valid::Count(count) => {
                let (wanted, last) = (self.int(lane), self.b.ins().iadd_imm_s(count, -1));
                let index = self.least(wanted, last);
                Address { base: self.indexed(address.base, index, pitch), ..address }
            }
        }
    }

    /// An element or a block of a buffer, widened to 32 bits.
    pub(super) fn load(&mut self, handle: Handle<Buffer>, at: At, point: Point) -> Value {
        let buffer = self.buffer(handle);
        let address = self.address(handle, at, point);
        let pitch = column_pitch(buffer, at);
        let value = if pitch == 0 || self.lanes() == 1 {
            self.load_one(buffer.dtype, address)
        } else {
            let (valid, neighbours) = (point.block().valid, pitch == buffer.dtype.bytes());
            if neighbours && (matches!(valid, Valid::All) || padded(buffer, at)) {
                self.load_block(buffer.dtype, address)
            } else {
                self.gather(buffer.dtype, address, pitch, valid)
            }
        };
        match at {
            At::Window { window, tap, outside } => {
                let there = self.look(window.into(), tap, point.row()).there;
                self.unless_outside(there, value, outside_bits(buffer.dtype, outside))
            }
            _ => value,
        }
    }

    pub(super) fn load_one(&mut self, dtype: DType, Address { base, offset }: Address) -> Value {
        let flags = memory_flags();
        match dtype {
            DType::U8 => self.b.ins().uload8(types::I32, flags, base, offset),
            DType::I8 => self.b.ins().sload8(types::I32, flags, base, offset),
            DType::I16 => self.b.ins().sload16(types::I32, flags, base, offset),
            DType::I32 => self.b.ins().load(types::I32, flags, base, offset),
            DType::F32 => self.b.ins().load(types::F32, flags, base, offset),
        }
    }

    pub(super) fn load_block(&mut self, dtype: DType, Address { base, offset }: Address) -> Value {
        let flags = memory_flags();
        match dtype {
            DType::U8 => {
                let bytes = self.load_bytes(base, offset);
                let halves = self.b.ins().uwiden_low(bytes);
                self.b.ins().uwiden_low(halves)
            }
            DType::I8 => {
                let bytes = self.load_bytes(base, offset);
                let halves = self.b.ins().swiden_low(bytes);
                self.b.ins().swiden_low(halves)
            }
            DType::I16 => self.b.ins().sload16x4(flags, base, offset),
            DType::I32 => self.b.ins().load(types::I32X4, flags, base, offset),
            DType::F32 => self.b.ins().load(types::F32X4, flags, base, offset),
        }
    }

    /// Four bytes at the bottom of a vector.
    fn load_bytes(&mut self, base: Value, offset: i32) -> Value {
        let word = self.b.ins().load(types::I32, memory_flags(), base, offset);
        let vector = self.b.ins().scalar_to_vector(types::I32X4, word);
        self.cast(types::I8X16, vector)
    }

    fn gather(&mut self, dtype: DType, address: Address, pitch: usize, valid: Valid) -> Value {
        let elements = [0, 1, 2, 3].map(|lane| {
            let address = self.lane(address, lane, pitch, valid);
            self.load_one(dtype, address)
        });
        let ty: Type =
            self.b.func.dfg.value_type(elements[0]).by(4).expect("vectors of four 32-bit lanes exist");
        let vector = self.b.ins().scalar_to_vector(ty, elements[0]);
        (1..4).fold(vector, |vector, lane| self.b.ins().insertlane(vector, elements[usize::from(lane)], lane))
    }

    /// A store of a stage at a point.
    pub(super) fn store(&mut self, store: &Store, point: Point, values: &Values) {
        let buffer = self.buffer(store.buffer);
        let address = self.address(store.buffer, store.at, point);
        let pitch = column_pitch(buffer, store.at);
        let Some(block) = point.block.filter(|_| self.lanes() > 1) else {
            let level = if point.block.is_some() { Level::Element } else { Level::Row };
            let value = self.operand(store.value, level, values);
            return self.store_one(buffer.dtype, value, address);
        };
        let value = self.operand(store.value, Level::Element, values);
        if pitch != buffer.dtype.bytes() {
            self.scatter(buffer.dtype, value, address, pitch, block.valid);
        } else if matches!(block.valid, Valid::All) {
            self.store_block(buffer.dtype, value, address);
        } else if padded(buffer, store.at) {
            let value = self.or_else(block, value, 0);
            self.store_block(buffer.dtype, value, address);
        } else {
            self.scatter(buffer.dtype, value, address, pitch, block.valid);
        }
    }

    pub(super) fn store_one(&mut self, dtype: DType, value: Value, Address { base, offset }: Address) {
        match dtype {
            DType::U8 | DType::I8 => self.b.ins().istore8(memory_flags(), value, base, offset),
            DType::I16 => self.b.ins().istore16(memory_flags(), value, base, offset),
            DType::I32 | DType::F32 => self.b.ins().store(memory_flags(), value, base, offset),
        };
    }

    fn store_block(&mut self, dtype: DType, value: Value, Address { base, offset }: Address) {
        let value = match dtype {
            DType::U8 | DType::I8 => {
                // Narrowing saturates, which is the same as truncating once only the low byte is left.
                let low = self.words(types::I32X4, [0xff; 4]);
                let low = self.b.ins().band(value, low);
                let halves = self.b.ins().snarrow(low, low);
                let bytes = self.b.ins().unarrow(halves, halves);
                let words = self.cast(types::I32X4, bytes);
                self.b.ins().extractlane(words, 0)
            }
            DType::I16 => {
                let by = self.b.ins().iconst(types::I32, 16);
                let high = self.b.ins().ishl(value, by);
                let low = self.b.ins().sshr(high, by);
                let halves = self.b.ins().snarrow(low, low);
                let pairs = self.cast(types::I64X2, halves);
                self.b.ins().extractlane(pairs, 0)
            }
            DType::I32 | DType::F32 => value,
        };
        self.b.ins().store(memory_flags(), value, base, offset);
    }

    /// Stores the valid elements of a block one by one.
    fn scatter(&mut self, dtype: DType, value: Value, address: Address, pitch: usize, valid: Valid) {
        for lane in 0..4u8 {
            if matches!(valid, Valid::First(count) if usize::from(lane) >= count) {
                break;
            }
            let element = self.b.ins().extractlane(value, lane);
            let place = self.ahead(address, usize::from(lane) * pitch);
            match valid {
                Valid::Count(count) if lane > 0 => {
                    let lane = self.int(usize::from(lane));
                    let inside = self.less(lane, count);
                    self.when(inside, |emitter| emitter.store_one(dtype, element, place));
                }
                _ => self.store_one(dtype, element, place),
            }
        }
    }

    /// A block's value, with a constant (by its bits) in the lanes that are not valid.
    pub(super) fn or_else(&mut self, block: Block, value: Value, other: u32) -> Value {
        let lanes = self.words(types::I32X4, [0, 1, 2, 3]);
        let count = match block.valid {
            Valid::All => return value,
            Valid::First(count) => {
                let count = u32::try_from(count).expect("blocks have four columns");
                self.words(types::I32X4, [count; 4])
            }
            Valid::Count(count) => {
                let count = self.b.ins().ireduce(types::I32, count);
                self.b.ins().splat(types::I32X4, count)
            }
        };
        let valid = self.b.ins().icmp(IntCC::SignedLessThan, lanes, count);
        let ty = self.b.func.dfg.value_type(value);
        let other = self.words(ty, [other; 4]);
        self.choose(valid, value, other)
    }
}
