//! Zeros behind the rows of `i8` matrices.
//!
//! Contractions read rows in steps of 16. Parameters are padded when they are loaded and stay so; memory of the arena
//! holds whatever was there before, so a kernel that stores a matrix there pads it: rows that it stores along
//! ([`At::Element`]) right behind the last column, rows that it stores across ([`At::Transposed`]) once their last
//! column is stored, by the call whose rows end the domain.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Stage};

use super::expr::Row;
use super::memory::Address;
use super::nest::Span;
use super::{Emitter, Size, memory_flags};
use crate::layout::{PADDING, is_padded_here, row_bytes};

impl Emitter<'_> {
    /// Pads what a stage has stored in a row, if this was the row's last span.
    pub(super) fn pad_row(&mut self, stage: &Stage, row: Row, span: Span) {
        for buffer in self.padded(stage, &[At::Element, At::Column]) {
            self.at_last(span, |emitter| emitter.pad_behind_row(buffer, row));
        }
    }

    fn pad_behind_row(&mut self, buffer: Handle<Buffer>, row: Row) {
        let pitch = row_bytes(self.buffer(buffer));
        let (number, pointer) = (self.row_number(row), self.pointer(buffer));
        let start = self.indexed(pointer, number, pitch);
        // The last block has been stored whole, with zeros behind the last column.
        self.pad(start, self.columns, self.lanes());
    }

    /// Pads the rows that any stage has stored across, if the call covers the domain's last row.
    pub(super) fn pad_across(&mut self) {
        let kernel = self.kernel;
        let buffers: Vec<_> =
            kernel.stages.iter().flat_map(|stage| self.padded(stage, &[At::Transposed])).collect();
        if buffers.is_empty() {
            return;
        }
        let rows = self.size(kernel.rows);
        let last = self.b.ins().icmp(IntCC::Equal, self.end, rows.value);
        self.when(last, |emitter| {
            for buffer in buffers {
                let (pitch, pointer) = (row_bytes(emitter.buffer(buffer)), emitter.pointer(buffer));
                let (zero, columns) = (emitter.int(0), emitter.columns.value);
                emitter.steps(zero, columns, 1, |emitter, column| {
                    let start = emitter.indexed(pointer, column, pitch);
                    emitter.pad(start, rows, 1);
                });
            }
        });
    }

    fn padded(&self, stage: &Stage, stored: &[At]) -> Vec<Handle<Buffer>> {
        let stores = stage.stores.iter().filter(|store| stored.contains(&store.at));
        stores.map(|store| store.buffer).filter(|&buffer| is_padded_here(self.buffer(buffer))).collect()
    }

    /// Zeros the bytes of a row from its length rounded up to `unit` to its length rounded up to [`PADDING`].
    fn pad(&mut self, start: Value, length: Size, unit: usize) {
        match length.known {
            Some(length) => {
                for at in (length.next_multiple_of(unit)..length.next_multiple_of(PADDING)).step_by(unit) {
                    let place = self.ahead(Address { base: start, offset: 0 }, at);
                    self.zero(place, unit);
                }
            }
            None => {
                let from = self.round_up(length.value, unit);
                let to = self.round_up(length.value, PADDING);
                self.steps(from, to, unit, |emitter, at| {
                    let base = emitter.b.ins().iadd(start, at);
                    emitter.zero(Address { base, offset: 0 }, unit);
                });
            }
        }
    }

    fn zero(&mut self, Address { base, offset }: Address, unit: usize) {
        let ty = if unit == 1 { types::I8 } else { types::I32 };
        let zero = self.b.ins().iconst(ty, 0);
        self.b.ins().store(memory_flags(), zero, base, offset);
    }
}
