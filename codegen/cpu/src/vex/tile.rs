//! Tiles: the accumulators of four rows and a packed strip, from the registers.

use iced_x86::code_asm::{
    AsmRegister64, dword_ptr, ptr, qword_ptr, rax, rbx, rcx, rdi, rdx, rsi, rsp, ymmword_ptr,
};

use super::frame::{self, AREA};
use super::{Emitter, HEIGHT, LANES, PITCH, Products, Unsigned, VECTOR, WIDTH, offset, ymm};
use crate::x86::x86;

/// Groups of four steps of the depth in a turn of the innermost loop. What is packed comes in eights of them.
const UNROLLED: usize = 2;

/// The register of the constant, of [`Products::Halves`].
const CONSTANT: usize = 15;

impl Emitter {
    /// All rows by all columns.
    pub(super) fn pieces(&mut self) {
        const STRIP: usize = WIDTH * LANES;
        let (mut piece, mut strip) = (self.label(), self.label());
        x86!(self; mov(qword_ptr(rsp + frame::PIECE), 0));
        self.place(&mut piece);
        self.copy_rows();
        x86!(self; mov(qword_ptr(rsp + frame::STRIP), 0));
        self.place(&mut strip);
        self.pack();
        self.tiles();
        for (slot, step, end, label) in [
            (frame::STRIP, STRIP, frame::COLUMNS, strip),
            (frame::PIECE, self.products.piece(), frame::DEPTH, piece),
        ] {
            x86!(self;
                mov(rax, qword_ptr(rsp + slot));
                add(rax, offset(step));
                mov(qword_ptr(rsp + slot), rax);
                cmp(rax, qword_ptr(rsp + end));
                jb(label);
            );
        }
    }

    /// `to` is how many columns are left from the strip's first one on.
    pub(super) fn columns_left(&mut self, to: AsmRegister64) {
        x86!(self; mov(to, qword_ptr(rsp + frame::COLUMNS)); sub(to, qword_ptr(rsp + frame::STRIP)));
    }

    /// `to` is how much of the depth the piece at hand has.
    pub(super) fn piece_depth(&mut self, to: AsmRegister64) {
        x86!(self;
            mov(to, qword_ptr(rsp + frame::DEPTH));
            sub(to, qword_ptr(rsp + frame::PIECE));
            mov(rax, self.products.piece() as u64);
            cmp(to, rax);
            cmova(to, rax);
        );
    }

    /// All rows by the packed strip, by as many of its vectors as there are.
    fn tiles(&mut self) {
        let mut done = self.label();
        self.columns_left(rax);
        for width in (1..=WIDTH).rev() {
            let mut narrower = self.label();
            if width > 1 {
                x86!(self; cmp(rax, offset((width - 1) * LANES)); jle(narrower));
            }
            self.column_of_tiles(width);
            if width > 1 {
                x86!(self; jmp(done));
            }
            self.place(&mut narrower);
        }
        self.place(&mut done);
    }

    fn column_of_tiles(&mut self, width: usize) {
        // rbx: rows left; rsi: the first of them; rdi: where their accumulators go; rcx: the depth.
        let mut again = self.label();
        x86!(self;
            lea(rsi, ptr(rsp + frame::COPIES));
            mov(rbx, qword_ptr(rsp + frame::ROWS));
            mov(rdi, qword_ptr(rsp + frame::STRIP));
            shl(rdi, 2);
            add(rdi, qword_ptr(rsp + frame::SUMS));
        );
        self.piece_depth(rcx);
        self.place(&mut again);
        self.tile(width);
        x86!(self;
            add(rsi, offset(HEIGHT * frame::COPY));
            add(rdi, offset(HEIGHT * PITCH));
            sub(rbx, offset(HEIGHT));
            jg(again);
        );
    }

    fn tile(&mut self, width: usize) {
        self.start(width);
        if self.products == Products::Halves {
            self.load_constant(CONSTANT);
        }
        // rax: the step of the depth; rdx: what is packed of it. Behind the end there are zeros.
        x86!(self; xor(rax, rax); lea(rdx, ptr(rsp + frame::PACKED)));
        let (mut again, group) = (self.label(), self.products.group());
        self.place(&mut again);
        for number in 0..UNROLLED {
            match self.products {
                Products::Bytes => self.bytes(width, number),
                Products::Halves => self.halves(width, number),
                Products::Words => self.words(width, number),
            }
        }
        x86!(self; add(rdx, offset(UNROLLED * group)); add(rax, offset(UNROLLED * 4)); cmp(rax, rcx); jb(again));
        self.store_tile(width);
    }

    fn start(&mut self, width: usize) {
        if !self.shifts() {
            return self.zero(0..HEIGHT * width);
        }
        for sum in 0..HEIGHT * width {
            let start = ymmword_ptr(rsp + (frame::STARTS + offset(sum % width * AREA)));
            x86!(self; vmovdqa(ymm(sum), start));
        }
    }

    /// Four steps of the depth: each row's bytes, in all lanes, by the columns'.
    fn bytes(&mut self, width: usize, number: usize) {
        let (packed, row) = (HEIGHT * WIDTH, ymm(15));
        for vector in 0..width {
            let at = vector * AREA + number * VECTOR;
            x86!(self; vmovdqa(ymm(packed + vector), ymmword_ptr(rdx + offset(at))));
        }
        for line in 0..HEIGHT {
            let at = line * frame::COPY + 4 * number;
            x86!(self; vpbroadcastd(row, dword_ptr(rsi + rax + offset(at))));
            for vector in 0..width {
                let (sum, column) = (ymm(line * width + vector), ymm(packed + vector));
                match self.unsigned {
                    Unsigned::Columns => x86!(self; vpdpbusd(sum, column, row)),
                    Unsigned::Rows | Unsigned::Shifted => x86!(self; vpdpbusd(sum, row, column)),
                }
            }
        }
    }

    /// The same by way of 16-bit sums.
    fn halves(&mut self, width: usize, number: usize) {
        let (row, products) = (ymm(12), ymm(13));
        for line in 0..HEIGHT {
            let at = line * frame::COPY + 4 * number;
            x86!(self; vpbroadcastd(row, dword_ptr(rsi + rax + offset(at))));
            for vector in 0..width {
                let column = ymmword_ptr(rdx + offset(vector * AREA + number * VECTOR));
                if self.unsigned == Unsigned::Rows {
                    x86!(self; vpmaddubsw(products, row, column));
                } else {
                    x86!(self; vmovdqa(products, column); vpmaddubsw(products, products, row));
                }
                self.add_halves(ymm(line * width + vector), products, ymm(CONSTANT));
            }
        }
    }

    /// The same as pairs of 16-bit integers.
    fn words(&mut self, width: usize, number: usize) {
        let (pair, products) = (ymm(14), ymm(15));
        for line in 0..HEIGHT {
            for (half, odd) in [0, frame::ODD].into_iter().enumerate() {
                let at = line * frame::COPY + odd + 4 * number;
                x86!(self; vpbroadcastd(pair, dword_ptr(rsi + rax + offset(at))));
                for vector in 0..width {
                    let at = vector * AREA + (2 * number + half) * VECTOR;
                    let (sum, column) = (ymm(line * width + vector), ymmword_ptr(rdx + offset(at)));
                    x86!(self; vpmaddwd(products, pair, column); vpaddd(sum, sum, products));
                }
            }
        }
    }

    /// Stores the accumulators, with what earlier pieces of the depth have left, or callers.
    fn store_tile(&mut self, width: usize) {
        let mut first = self.label();
        let places = (0..HEIGHT * width).map(|sum| (ymm(sum), sum / width * PITCH + sum % width * VECTOR));
        if !self.adds {
            x86!(self; cmp(qword_ptr(rsp + frame::PIECE), 0); je(first));
        }
        for (sum, at) in places.clone() {
            x86!(self; vpaddd(sum, sum, ymmword_ptr(rdi + offset(at))));
        }
        self.place(&mut first);
        for (sum, at) in places {
            x86!(self; vmovdqu(ymmword_ptr(rdi + offset(at)), sum));
        }
    }
}
