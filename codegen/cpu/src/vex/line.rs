//! Lines: the accumulators of one row, from its products with eight columns at a time, all of them as they lie.
//!
//! Lanes hold sums of every eighth group of steps, and are summed at the end.

use iced_x86::code_asm::{
    AsmRegister64, ptr, qword_ptr, r8, rax, rbx, rcx, rdi, rdx, rsi, rsp, xmmword_ptr, ymmword_ptr,
};

use super::frame::{self, mask_from};
use super::{Emitter, LANES, LINES, PITCH, Products, Unsigned, VECTOR, offset, xmm, ymm};
use crate::x86::x86;

/// Registers: the columns' accumulators come first.
const EXCESS: usize = LANES;
const ROW: usize = 9;
const COLUMN: usize = 10;
const CONSTANT: usize = 11;

impl Emitter {
    /// All rows, one by one.
    pub(super) fn lines(&mut self) {
        let mut again = self.label();
        self.load_constant(CONSTANT);
        self.place(&mut again);
        self.line();
        x86!(self;
            add(qword_ptr(rsp + frame::ROW), offset(self.rows));
            add(qword_ptr(rsp + frame::SUMS), offset(PITCH));
            dec(qword_ptr(rsp + frame::ROWS));
            jnz(again);
        );
    }

    /// A row by all columns.
    fn line(&mut self) {
        // rbx: columns left; rsi: the first of them; rdi: where accumulators go.
        let mut again = self.label();
        x86!(self;
            mov(rsi, qword_ptr(rsp + frame::COLUMN));
            mov(rbx, qword_ptr(rsp + frame::COLUMNS));
            mov(rdi, qword_ptr(rsp + frame::SUMS));
        );
        self.place(&mut again);
        self.eight_columns();
        x86!(self;
            add(rsi, offset(LANES * self.columns));
            add(rdi, offset(VECTOR));
            sub(rbx, offset(LANES));
            jg(again);
        );
    }

    fn eight_columns(&mut self) {
        x86!(self; mov(r8, rsi));
        self.addresses(rbx, self.columns);
        self.zero(0..EXCESS + 1);
        // rax: the step of the depth; rdx: how much of it is left; rcx: the row.
        x86!(self; xor(rax, rax); mov(rdx, qword_ptr(rsp + frame::DEPTH)); mov(rcx, qword_ptr(rsp + frame::ROW)));
        let (mut again, step) = (self.label(), self.line_step());
        self.place(&mut again);
        self.mask(rdx, step);
        self.load_row();
        for (sum, line) in LINES.into_iter().enumerate() {
            self.column_products(sum, line);
        }
        x86!(self; add(rax, offset(step)); sub(rdx, offset(step)); ja(again));
        self.store_sums();
    }

    /// Steps of the depth in a vector.
    fn line_step(&self) -> usize {
        match self.products {
            Products::Bytes | Products::Halves => VECTOR,
            Products::Words => VECTOR / 2,
        }
    }

    /// Loads a step of the row, with zeros behind the end of the depth.
    fn load_row(&mut self) {
        match self.products {
            Products::Bytes | Products::Halves => {
                x86!(self; vmovdqu(ymm(ROW), ymmword_ptr(rcx + rax)); vpand(ymm(ROW), ymm(ROW), mask_from(0)));
                if self.shifts() {
                    x86!(self; vpdpbusd(ymm(EXCESS), ymm(CONSTANT), ymm(ROW)));
                }
            }
            Products::Words => x86!(self;
                vmovdqu(xmm(ROW), xmmword_ptr(rcx + rax));
                vpand(xmm(ROW), xmm(ROW), mask_from(0));
                vpmovsxbw(ymm(ROW), xmm(ROW));
            ),
        }
    }

    /// Adds the products of a step of the row and of a column.
    fn column_products(&mut self, sum: usize, line: AsmRegister64) {
        let (sum, row, column) = (ymm(sum), ymm(ROW), ymm(COLUMN));
        match (self.products, self.unsigned) {
            (Products::Words, _) => x86!(self;
                vpmovsxbw(column, xmmword_ptr(line + rax));
                vpmaddwd(column, column, row);
                vpaddd(sum, sum, column);
            ),
            (Products::Bytes, Unsigned::Rows) => x86!(self; vpdpbusd(sum, row, ymmword_ptr(line + rax))),
            (Products::Bytes, Unsigned::Columns) => x86!(self;
                vmovdqu(column, ymmword_ptr(line + rax));
                vpdpbusd(sum, column, row);
            ),
            (Products::Halves, unsigned) => {
                if unsigned == Unsigned::Rows {
                    x86!(self; vpmaddubsw(column, row, ymmword_ptr(line + rax)));
                } else {
                    x86!(self; vmovdqu(column, ymmword_ptr(line + rax)); vpmaddubsw(column, column, row));
                }
                self.add_halves(sum, column, ymm(CONSTANT));
            }
            (Products::Bytes, Unsigned::Shifted) => x86!(self;
                vpxor(column, ymm(CONSTANT), ymmword_ptr(line + rax));
                vpdpbusd(sum, column, row);
            ),
        }
    }

    /// Sums the lanes of each accumulator and stores the sums.
    fn store_sums(&mut self) {
        if self.shifts() {
            for sum in 0..LANES {
                x86!(self; vpsubd(ymm(sum), ymm(sum), ymm(EXCESS)));
            }
        }
        for four in [0, 4] {
            let [a, b, c, d] = [0, 1, 2, 3].map(|sum| ymm(four + sum));
            x86!(self; vphaddd(a, a, b); vphaddd(c, c, d); vphaddd(a, a, c));
            x86!(self;
                vextracti128(xmm(four + 1), a, 1);
                vpaddd(xmm(four), xmm(four), xmm(four + 1));
            );
            if self.adds {
                x86!(self; vpaddd(xmm(four), xmm(four), ptr(rdi + offset(4 * four))));
            }
            x86!(self;
                vmovdqu(ptr(rdi + offset(4 * four)), xmm(four));
            );
        }
    }
}
