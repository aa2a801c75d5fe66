//! Tiles: the accumulators of four rows and a packed strip, from the registers.

use iced_x86::code_asm::{
    AsmRegister64, dword_ptr, ptr, qword_ptr, r8, r9, r10, r11, rax, rbx, rcx, rdi, rdx, rsi, rsp,
    ymmword_ptr,
};

use super::frame::{self, AREA};
use super::{Emitter, HEIGHT, LANES, Products, SPAN, Unsigned, VECTOR, WIDTH, offset, ymm};
use crate::x86::x86;

/// Registers of the rows' addresses.
const LINES: [AsmRegister64; HEIGHT] = [r8, r9, r10, r11];

/// Bytes between the accumulators of neighbouring rows.
pub(super) const PITCH: usize = 4 * SPAN;

impl Emitter {
    /// All rows by all columns, a strip of them at a time.
    pub(super) fn strips(&mut self) {
        const STRIP: usize = WIDTH * LANES;
        let (mut strip, mut piece) = (self.label(), self.label());
        self.place(&mut strip);
        x86!(self; mov(qword_ptr(rsp + frame::PIECE), 0));
        self.place(&mut piece);
        self.pack();
        self.tiles();
        x86!(self;
            mov(rax, qword_ptr(rsp + frame::PIECE));
            add(rax, offset(self.products.piece()));
            mov(qword_ptr(rsp + frame::PIECE), rax);
            cmp(rax, qword_ptr(rsp + frame::DEPTH));
            jb(piece);
            add(qword_ptr(rsp + frame::COLUMN), offset(STRIP * self.columns));
            add(qword_ptr(rsp + frame::SUMS), offset(STRIP * 4));
            sub(qword_ptr(rsp + frame::COLUMNS), offset(STRIP));
            jg(strip);
        );
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
        for width in (1..=WIDTH).rev() {
            let mut narrower = self.label();
            if width > 1 {
                x86!(self; cmp(qword_ptr(rsp + frame::COLUMNS), offset((width - 1) * LANES)); jle(narrower));
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
            mov(rsi, qword_ptr(rsp + frame::ROW));
            add(rsi, qword_ptr(rsp + frame::PIECE));
            mov(rbx, qword_ptr(rsp + frame::ROWS));
            mov(rdi, qword_ptr(rsp + frame::SUMS));
        );
        self.piece_depth(rcx);
        self.place(&mut again);
        self.tile(width);
        x86!(self;
            add(rsi, offset(HEIGHT * self.rows));
            add(rdi, offset(HEIGHT * PITCH));
            sub(rbx, offset(HEIGHT));
            jg(again);
        );
    }

    fn tile(&mut self, width: usize) {
        x86!(self; mov(r8, rsi));
        self.addresses(&LINES, rbx, self.rows);
        self.start(width);
        // rax: the step of the depth; rdx: what is packed of it.
        x86!(self; xor(rax, rax); lea(rdx, ptr(rsp + frame::PACKED)));
        let mut again = self.label();
        self.place(&mut again);
        match self.products {
            Products::Bytes => self.bytes(width),
            Products::Words => self.words(width),
        }
        x86!(self; add(rdx, offset(self.products.group())); add(rax, 4); cmp(rax, rcx); jb(again));
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
    fn bytes(&mut self, width: usize) {
        let (packed, row) = (HEIGHT * WIDTH, ymm(15));
        for vector in 0..width {
            x86!(self; vmovdqa(ymm(packed + vector), ymmword_ptr(rdx + offset(vector * AREA))));
        }
        for (line, address) in LINES.into_iter().enumerate() {
            x86!(self; vpbroadcastd(row, dword_ptr(address + rax)));
            if self.shifts() {
                x86!(self; vpxor(row, row, ymmword_ptr(rsp + frame::SHIFT)));
            }
            for vector in 0..width {
                let (sum, column) = (ymm(line * width + vector), ymm(packed + vector));
                match self.unsigned {
                    Unsigned::Columns => x86!(self; vpdpbusd(sum, column, row)),
                    Unsigned::Rows | Unsigned::Shifted => x86!(self; vpdpbusd(sum, row, column)),
                }
            }
        }
    }

    /// The same as pairs of 16-bit integers.
    fn words(&mut self, width: usize) {
        let (even, odd, products) = (ymm(12), ymm(13), ymm(14));
        for (line, address) in LINES.into_iter().enumerate() {
            x86!(self; vpbroadcastd(odd, dword_ptr(address + rax)));
            self.pairs(odd, even, odd);
            for (half, pair) in [even, odd].into_iter().enumerate() {
                for vector in 0..width {
                    let (sum, at) = (ymm(line * width + vector), vector * AREA + half * VECTOR);
                    x86!(self; vpmaddwd(products, pair, ymmword_ptr(rdx + offset(at))); vpaddd(sum, sum, products));
                }
            }
        }
    }

    /// Stores the accumulators, with what earlier pieces of the depth have left.
    fn store_tile(&mut self, width: usize) {
        let mut first = self.label();
        let places = (0..HEIGHT * width).map(|sum| (ymm(sum), sum / width * PITCH + sum % width * VECTOR));
        x86!(self; cmp(qword_ptr(rsp + frame::PIECE), 0); je(first));
        for (sum, at) in places.clone() {
            x86!(self; vpaddd(sum, sum, ymmword_ptr(rdi + offset(at))));
        }
        self.place(&mut first);
        for (sum, at) in places {
            x86!(self; vmovdqu(ymmword_ptr(rdi + offset(at)), sum));
        }
    }
}
