//! Contractions: the accumulators of a chunk of rows and a panel of columns, into the frame.
//!
//! Both operands lie along the depth. The left one is read as it lies. The panel of the right one is packed: groups of
//! four steps of the depth, each with its 16 columns side by side, `[depth / 4][16][4]`, which is what a tile of
//! AMX and a vector of VNNI want. Packing is a transposition of 16 x 16 words in some 110 instructions, for which 16 rows
//! then need one tile product. Behind the end of the depth it writes zeros, so nothing depends on what lies there in memory.
//!
//! ```text
//! for each piece of the depth              (one, unless the depth is large)
//!     pack the panel's columns
//!     for each group of rows of the chunk  (32 with AMX, 12, 4 or 1 with VNNI)
//!         for each step of the depth       (64 with AMX, 4 with VNNI)
//!             group x 32 products
//! ```
//!
//! VNNI multiplies unsigned by signed bytes. Where neither operand is known not to be negative, the panel is packed
//! with 128 added to each byte, and accumulators start at -128 times the sum of the row.

use ffc_ir::kernel::{Contraction, Extent, Side};
use iced_x86::code_asm::{
    AsmRegister64, AsmRegisterTmm, al, byte_ptr, dword_ptr, eax, ecx, edx, k3, ptr, qword_ptr, r8, r9, r10,
    r11, r13, rax, rbx, rcx, rdi, rdx, rsi, rsp, tmm0, tmm1, tmm2, tmm3, tmm4, tmm5, tmm6, tmm7,
};

use super::Products;
use super::asm::{ALL, Asm, LANES, Mask, Memory, Op, Operand, VECTOR, Vector, Width, offset_of, times, x86};
use super::nest::Emitter;
use crate::layout::row_bytes;

/// Products along the depth in a packed block of a panel.
const STEP: usize = 64;

/// Bytes of such a block: 64 deep, 16 columns.
const BLOCK: usize = STEP * LANES;

/// Depth that is packed at a time.
const PIECE: usize = 2048;

/// Rows of a group with AMX: two tiles.
const TILE_ROWS: usize = 16;

/// The frame's part in a contraction.
pub(super) struct Panel {
    /// The packed columns.
    packed: i32,
    /// Bytes of a tile's part of it.
    pitch: usize,
    /// The accumulators, `[rows of a chunk][16 * tiles]`.
    pub(super) sums: i32,
    /// Rows of a tile that does not exist in full.
    spare: i32,
    /// `-128 * sum` of each row.
    starts: i32,
    /// Tile configuration.
    configuration: i32,
    depth: i32,
}

impl Emitter<'_> {
    /// Room for the contraction, and what is done once a call.
    pub(super) fn begin_contraction(&mut self, contraction: &Contraction) -> Panel {
        let depth = contraction.depth.size(self.buffer(contraction.lhs).samples);
        let pitch = depth.next_multiple_of(STEP).min(PIECE) * LANES;
        let asm = &mut self.asm;
        let panel = Panel {
            packed: asm.room(pitch * self.tiles),
            pitch,
            sums: asm.room(self.chunk * self.tiles * VECTOR),
            spare: asm.room(LANES * VECTOR),
            starts: asm.room(self.chunk * 4),
            configuration: asm.room(VECTOR),
            depth: asm.room(8),
        };
        self.size(rax, contraction.depth);
        let depth = panel.depth;
        x86!(self.asm; mov(qword_ptr(rsp + depth), rax));
        if self.products == Products::Tiles {
            let at = panel.configuration;
            write_configuration(&mut self.asm, at);
            x86!(self.asm; ldtilecfg(ptr(rsp + at)));
        }
        panel
    }

    pub(super) fn end_contraction(&mut self) {
        if self.products == Products::Tiles {
            x86!(self.asm; tilerelease());
        }
    }

    /// What all panels of the chunk at hand share.
    pub(super) fn begin_chunk(&mut self, contraction: &Contraction, panel: &Panel) {
        if self.products == Products::Vectors && shifted(contraction) {
            self.row_sums(contraction, panel);
        }
    }

    /// The accumulators of the chunk and the panel at hand.
    pub(super) fn contract(&mut self, contraction: &Contraction, panel: &Panel) {
        let whole = contraction.depth.size(self.buffer(contraction.lhs).samples) <= PIECE;
        if whole {
            self.pack(contraction, panel, None);
            return self.multiply(contraction, panel, Start::Fresh, None);
        }
        // r14 is where the piece begins.
        let r14 = iced_x86::code_asm::r14;
        let (mut again, mut later, mut done) = (self.asm.label(), self.asm.label(), self.asm.label());
        x86!(self.asm; xor(r14, r14));
        self.asm.place(&mut again);
        self.pack(contraction, panel, Some(r14));
        x86!(self.asm; test(r14, r14); jnz(later));
        self.multiply(contraction, panel, Start::Fresh, Some(r14));
        x86!(self.asm; jmp(done));
        self.asm.place(&mut later);
        self.multiply(contraction, panel, Start::Sums, Some(r14));
        self.asm.place(&mut done);
        let (depth, piece) = (panel.depth, i32::try_from(PIECE).expect("small"));
        x86!(self.asm; add(r14, piece); cmp(r14, qword_ptr(rsp + depth)); jb(again));
    }

    /// `to` is how much of the depth there is from the piece's begin on, at most a piece.
    fn piece(&mut self, to: AsmRegister64, panel: &Panel, from: Option<AsmRegister64>) {
        let depth = panel.depth;
        x86!(self.asm; mov(to, qword_ptr(rsp + depth)));
        if let Some(from) = from {
            let mut fits = self.asm.label();
            let piece = i32::try_from(PIECE).expect("small");
            x86!(self.asm; sub(to, from); cmp(to, piece); jbe(fits); mov(to, i64::from(piece)));
            self.asm.place(&mut fits);
        }
    }

    /// Packs the panel's columns.
    fn pack(&mut self, contraction: &Contraction, panel: &Panel, from: Option<AsmRegister64>) {
        let rhs = self.buffer(contraction.rhs);
        let (pitch, held) = (row_bytes(rhs), rhs.shape[0].size(rhs.samples));
        for tile in 0..self.tiles {
            // rsi is the first column of the tile, rdi the packed block.
            self.pointer(rsi, contraction.rhs);
            let column = self.slots.panel;
            x86!(self.asm; mov(rax, qword_ptr(rsp + column)));
            times(&mut self.asm, rax, pitch);
            x86!(self.asm; add(rsi, rax));
            if let Some(from) = from {
                x86!(self.asm; add(rsi, from));
            }
            let ahead = tile * LANES * pitch;
            if ahead > 0 {
                x86!(self.asm; add(rsi, offset_of(ahead)));
            }
            let to = panel.packed + offset_of(tile * panel.pitch);
            x86!(self.asm; lea(rdi, ptr(rsp + to)));
            self.piece(rdx, panel, from);
            // The operand's last tile may have fewer columns; behind it there is nothing to pack, nor anything that
            // reads it.
            let last = held % LANES;
            let [mut short, mut done] = [0; 2].map(|_| self.asm.label());
            if held % (LANES * self.tiles) != 0 {
                let most = i32::try_from(held - last).expect("checked");
                let mut full = self.asm.label();
                x86!(self.asm;
                    mov(rax, qword_ptr(rsp + column));
                    add(rax, offset_of(tile * LANES));
                    cmp(rax, most);
                    jb(full);
                );
                if last != 0 {
                    x86!(self.asm; je(short));
                }
                x86!(self.asm; jmp(done));
                self.asm.place(&mut full);
            }
            self.pack_tile(contraction, panel, pitch, LANES);
            if last != 0 {
                x86!(self.asm; jmp(done));
                self.asm.place(&mut short);
                self.pack_tile(contraction, panel, pitch, last);
            }
            self.asm.place(&mut done);
        }
    }

    /// Packs 16 columns, of which `columns` exist: from `rsi` to `rdi`, `rdx` deep.
    fn pack_tile(&mut self, contraction: &Contraction, panel: &Panel, pitch: usize, columns: usize) {
        let (mut again, mut tail, mut done) = (self.asm.label(), self.asm.label(), self.asm.label());
        let step = i32::try_from(STEP).expect("small");
        x86!(self.asm; cmp(rdx, step); jb(tail));
        self.asm.place(&mut again);
        self.pack_block(contraction, panel, pitch, columns, false);
        x86!(self.asm; add(rsi, step); add(rdi, offset_of(BLOCK)); sub(rdx, step); cmp(rdx, step); jae(again));
        self.asm.place(&mut tail);
        if !matches!(contraction.depth, Extent::Const(depth) if depth % STEP == 0) {
            x86!(self.asm; test(rdx, rdx); jz(done));
            self.pack_block(contraction, panel, pitch, columns, true);
            self.asm.place(&mut done);
        }
    }

    /// Packs 64 steps of the depth of 16 columns: words `4 q + i` of column `4 l + j` go from lane `l` of register `j`
    /// to lane `l`, word `j` of register `i`.
    fn pack_block(
        &mut self,
        contraction: &Contraction,
        panel: &Panel,
        pitch: usize,
        columns: usize,
        tail: bool,
    ) {
        if columns < LANES {
            self.copy_columns(panel, pitch, columns);
        }
        let shift = self.products == Products::Vectors && shifted(contraction);
        let bytes = shift.then(|| self.asm.word(0x8080_8080));
        let asm = &mut self.asm;
        for quarter in 0..4 {
            let at = |column: usize| match columns {
                LANES => Memory::at(rsi, column * pitch + 16 * quarter),
                _ => Memory::frame(panel.spare).ahead(column * VECTOR + 16 * quarter),
            };
            for row in 0..4u8 {
                asm.load(Width::Narrow, Op::Move, row, at(usize::from(row)), ALL);
                for lane in 1..4usize {
                    let from = Operand::Memory(at(4 * lane + usize::from(row)));
                    let lane = u32::try_from(lane).expect("four lanes");
                    asm.binary_by(Width::Wide, Op::InsertQuarter, row, row, from, lane);
                }
            }
            for (op, to, a, b) in [
                (Op::LowWords, 4, 0, 1),
                (Op::HighWords, 5, 0, 1),
                (Op::LowWords, 6, 2, 3),
                (Op::HighWords, 7, 2, 3),
                (Op::LowPairs, 0, 4, 6),
                (Op::HighPairs, 1, 4, 6),
                (Op::LowPairs, 2, 5, 7),
                (Op::HighPairs, 3, 5, 7),
            ] {
                asm.binary(Width::Wide, op, to, a, Operand::Vector(b), ALL);
            }
            for group in 0..4u8 {
                if let Some(bytes) = bytes {
                    asm.binary(Width::Wide, Op::Xor, group, group, Operand::Memory(bytes), ALL);
                }
                let number = 4 * quarter + usize::from(group);
                if tail {
                    mask_group(asm, group, number);
                }
                asm.store(Width::Wide, Op::Store32, Memory::at(rdi, VECTOR * number), group, ALL);
            }
        }
    }

    /// The columns that exist, 64 deep, into the frame, for a tile that has not all of them.
    fn copy_columns(&mut self, panel: &Panel, pitch: usize, columns: usize) {
        for column in 0..columns {
            let to = Memory::frame(panel.spare).ahead(column * VECTOR);
            self.asm.load(Width::Wide, Op::Move, 0, Memory::at(rsi, column * pitch), ALL);
            self.asm.store(Width::Wide, Op::Store32, to, 0, ALL);
        }
    }

    /// `rsi` is the chunk's first row of the left operand, `rdi` a room in the frame, `rbx` how many rows there are. The
    /// bytes between rows.
    fn chunk_rows(&mut self, contraction: &Contraction, room: i32) -> usize {
        let pitch = row_bytes(self.buffer(contraction.lhs));
        let (first, end) = (self.slots.chunk, self.slots.chunk_end);
        self.pointer(rsi, contraction.lhs);
        x86!(self.asm; mov(rax, qword_ptr(rsp + first)));
        times(&mut self.asm, rax, pitch);
        x86!(self.asm;
            add(rsi, rax);
            lea(rdi, ptr(rsp + room));
            mov(rbx, qword_ptr(rsp + end));
            sub(rbx, qword_ptr(rsp + first));
        );
        pitch
    }

    fn multiply(
        &mut self,
        contraction: &Contraction,
        panel: &Panel,
        start: Start,
        from: Option<AsmRegister64>,
    ) {
        let pitch = self.chunk_rows(contraction, panel.sums);
        if let Some(from) = from {
            x86!(self.asm; add(rsi, from));
        }
        // r13: the depth.
        self.piece(r13, panel, from);
        match self.products {
            Products::Tiles => self.multiply_tiles(panel, pitch, start),
            Products::Vectors => self.multiply_vectors(contraction, panel, pitch, start),
        }
    }

    fn multiply_tiles(&mut self, panel: &Panel, pitch: usize, start: Start) {
        let step = i32::try_from(STEP).expect("small");
        x86!(self.asm;
            add(r13, step - 1);
            shr(r13, 6);
            mov(r8, 64i64);
            mov(r9, u64::try_from(pitch).expect("sizes fit"));
            mov(r10, u64::try_from(self.tiles * VECTOR).expect("sizes fit"));
        );
        let [mut pairs, mut rest, mut low, mut done] = [0; 4].map(|_| self.asm.label());
        x86!(self.asm; cmp(rbx, 32); jb(rest));
        self.asm.place(&mut pairs);
        self.tile_group(panel, pitch, start, 2);
        let (down, along) =
            (offset_of(2 * TILE_ROWS * pitch), offset_of(2 * TILE_ROWS * self.tiles * VECTOR));
        x86!(self.asm; add(rsi, down); add(rdi, along); sub(rbx, 32); cmp(rbx, 32); jae(pairs));
        self.asm.place(&mut rest);
        x86!(self.asm; test(rbx, rbx); jz(done); mov(ecx, 16); cmp(rbx, 16); jbe(low));
        x86!(self.asm; lea(edx, ptr(rbx - 16)));
        self.configure(panel, [ecx, edx]);
        self.tile_group(panel, pitch, start, 2);
        let mut full = self.asm.label();
        x86!(self.asm; jmp(full));
        self.asm.place(&mut low);
        x86!(self.asm; mov(edx, iced_x86::code_asm::ebx));
        self.configure(panel, [edx, ecx]);
        self.tile_group(panel, pitch, start, 1);
        self.asm.place(&mut full);
        x86!(self.asm; mov(ecx, 16));
        self.configure(panel, [ecx, ecx]);
        self.asm.place(&mut done);
    }

    /// Sets the rows of the upper and lower tiles.
    fn configure(&mut self, panel: &Panel, rows: [iced_x86::code_asm::AsmRegister32; 2]) {
        let at = panel.configuration;
        for (rows, tiles) in rows.into_iter().zip([[0, 1, 4], [2, 3, 5]]) {
            x86!(self.asm; mov(eax, rows));
            for tile in tiles {
                x86!(self.asm; mov(byte_ptr(rsp + (at + 48 + tile)), al));
            }
        }
        x86!(self.asm; ldtilecfg(ptr(rsp + at)));
    }

    /// One or two tiles of rows by the panel's tiles of columns. Accumulators are tiles 0 to 3, rows 4 and 5, columns 6
    /// and 7.
    fn tile_group(&mut self, panel: &Panel, pitch: usize, start: Start, height: usize) {
        const SUMS: [[AsmRegisterTmm; 2]; 2] = [[tmm0, tmm1], [tmm2, tmm3]];
        let width = self.tiles;
        let packed = panel.packed;
        let sums = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        let place = |row: usize, column: usize| offset_of(row * TILE_ROWS * width * VECTOR + column * VECTOR);
        for (row, column) in sums.clone() {
            match start {
                Start::Fresh => x86!(self.asm; tilezero(SUMS[row][column])),
                Start::Sums => {
                    x86!(self.asm; tileloadd(SUMS[row][column], ptr(rdi + r10 + place(row, column))))
                }
            }
        }
        x86!(self.asm; mov(r11, rsi); lea(rdx, ptr(rsp + packed)); mov(rcx, r13));
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        let (second, below) = (offset_of(panel.pitch), offset_of(TILE_ROWS * pitch));
        x86!(self.asm; tileloadd(tmm6, ptr(rdx + r8)));
        if width == 2 {
            x86!(self.asm; tileloadd(tmm7, ptr(rdx + r8 + second)));
        }
        x86!(self.asm; tileloadd(tmm4, ptr(r11 + r9)));
        if height == 2 {
            x86!(self.asm; tileloadd(tmm5, ptr(r11 + r9 + below)));
        }
        for (row, column) in sums.clone() {
            let (sum, left, right) = (SUMS[row][column], [tmm4, tmm5][row], [tmm6, tmm7][column]);
            x86!(self.asm; tdpbssd(sum, left, right));
        }
        x86!(self.asm; add(rdx, offset_of(BLOCK)); add(r11, 64); dec(rcx); jnz(again));
        for (row, column) in sums {
            x86!(self.asm; tilestored(ptr(rdi + r10 + place(row, column)), SUMS[row][column]));
        }
    }

    fn multiply_vectors(&mut self, contraction: &Contraction, panel: &Panel, pitch: usize, start: Start) {
        // Groups of four steps of the depth. r9: the starts of the rows.
        let starts = panel.starts;
        x86!(self.asm; add(r13, 3); shr(r13, 2); lea(r9, ptr(rsp + starts)));
        for rows in [12usize, 4, 1] {
            let (mut again, mut rest) = (self.asm.label(), self.asm.label());
            let count = i32::try_from(rows).expect("small");
            x86!(self.asm; cmp(rbx, count); jb(rest));
            self.asm.place(&mut again);
            self.vector_group(contraction, panel, pitch, start, rows);
            let (down, along) = (offset_of(rows * pitch), offset_of(rows * self.tiles * VECTOR));
            x86!(self.asm; add(rsi, down); add(rdi, along); add(r9, 4 * count); sub(rbx, count); cmp(rbx, count); jae(again));
            self.asm.place(&mut rest);
        }
    }

    /// Some rows by the panel's vectors of columns.
    fn vector_group(
        &mut self,
        contraction: &Contraction,
        panel: &Panel,
        pitch: usize,
        start: Start,
        rows: usize,
    ) {
        let width = self.tiles;
        let sum = |row: usize, column: usize| vector(row * width + column);
        let row_bytes = vector(26);
        let columns = |column: usize| vector(24 + column);
        let place = |row: usize, column: usize| Memory::at(rdi, (row * width + column) * VECTOR);
        for row in 0..rows {
            for column in 0..width {
                match start {
                    Start::Sums => {
                        self.asm.load(Width::Wide, Op::Move, sum(row, column), place(row, column), ALL)
                    }
                    Start::Fresh if shifted(contraction) => {
                        self.asm.load(Width::Wide, Op::Splat, sum(row, column), Memory::at(r9, 4 * row), ALL);
                    }
                    Start::Fresh => self.asm.zero(sum(row, column)),
                }
            }
        }
        let packed = panel.packed;
        x86!(self.asm; mov(r11, rsi); lea(rdx, ptr(rsp + packed)); mov(rcx, r13));
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        for column in 0..width {
            let from = Memory::at(rdx, column * panel.pitch);
            self.asm.load(Width::Wide, Op::Move, columns(column), from, ALL);
        }
        let left_unsigned = contraction.non_negative == Some(Side::Lhs);
        for row in 0..rows {
            self.asm.load(Width::Wide, Op::Splat, row_bytes, Memory::at(r11, row * pitch), ALL);
            for column in 0..width {
                let (a, b) =
                    if left_unsigned { (row_bytes, columns(column)) } else { (columns(column), row_bytes) };
                self.asm.binary(Width::Wide, Op::Dot, sum(row, column), a, Operand::Vector(b), ALL);
            }
        }
        x86!(self.asm; add(rdx, 64); add(r11, 4); dec(rcx); jnz(again));
        for row in 0..rows {
            for column in 0..width {
                self.asm.store(Width::Wide, Op::Store32, place(row, column), sum(row, column), ALL);
            }
        }
    }

    /// What the accumulators of the chunk's rows start at.
    fn row_sums(&mut self, contraction: &Contraction, panel: &Panel) {
        let pitch = self.chunk_rows(contraction, panel.starts);
        let bytes = self.asm.word(0x8080_8080);
        self.asm.load(Width::Wide, Op::Splat, 1, Memory { splat: false, ..bytes }, ALL);
        let (depth, mut row) = (panel.depth, self.asm.label());
        self.asm.place(&mut row);
        x86!(self.asm; mov(rdx, qword_ptr(rsp + depth)); mov(r11, rsi));
        self.asm.zero(0);
        let [mut again, mut tail, mut done] = [0; 3].map(|_| self.asm.label());
        x86!(self.asm; cmp(rdx, 64); jb(tail));
        self.asm.place(&mut again);
        self.asm.binary(Width::Wide, Op::Dot, 0, 1, Operand::Memory(Memory::at(r11, 0)), ALL);
        x86!(self.asm; add(r11, 64); sub(rdx, 64); cmp(rdx, 64); jae(again));
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

/// See [`super::peak`].
pub(super) fn peak(products: Products, turns: usize) -> (Vec<u8>, usize) {
    let mut asm = Asm::new();
    let mut again = asm.label();
    let at = asm.room(VECTOR);
    if products == Products::Tiles {
        write_configuration(&mut asm, at);
        x86!(asm; ldtilecfg(ptr(rsp + at)));
    }
    let turns = u64::try_from(turns).expect("sizes fit");
    x86!(asm; mov(rcx, turns));
    asm.place(&mut again);
    let macs = match products {
        Products::Tiles => {
            x86!(asm;
                tdpbssd(tmm0, tmm4, tmm6);
                tdpbssd(tmm1, tmm4, tmm7);
                tdpbssd(tmm2, tmm5, tmm6);
                tdpbssd(tmm3, tmm5, tmm7)
            );
            4 * TILE_ROWS * LANES * STEP
        }
        Products::Vectors => {
            for sum in 0..24 {
                asm.binary(Width::Wide, Op::Dot, sum, 24, Operand::Vector(25), ALL);
            }
            24 * VECTOR
        }
    };
    x86!(asm; dec(rcx); jnz(again));
    if products == Products::Tiles {
        x86!(asm; tilerelease());
    }
    (asm.finish().bytes, macs)
}

/// Palette 1; all tiles have rows of 64 bytes, and 16 rows until `configure` says otherwise.
fn write_configuration(asm: &mut Asm, at: i32) {
    let mut bytes = [0u8; VECTOR];
    bytes[0] = 1;
    for tile in 0..8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
    }
    for (word, bytes) in bytes.chunks_exact(8).enumerate() {
        let value = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let place = at + offset_of(8 * word);
        x86!(asm; mov(rax, value); mov(qword_ptr(rsp + place), rax));
    }
}

/// What accumulators start at.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Fresh,
    Sums,
}

/// Whether the panel's bytes need 128 added to be unsigned.
fn shifted(contraction: &Contraction) -> bool {
    contraction.non_negative.is_none()
}

/// Keeps of a packed group's four steps of the depth those below `rdx`, the depth that is left in the block.
fn mask_group(asm: &mut Asm, group: Vector, number: usize) {
    let masks: Vec<u8> =
        [0u64, 0x1111_1111_1111_1111, 0x3333_3333_3333_3333, 0x7777_7777_7777_7777, u64::MAX]
            .map(u64::to_le_bytes)
            .concat();
    let table = asm.bytes(&masks);
    let (mut low, mut high) = (asm.label(), asm.label());
    let first = i32::try_from(4 * number).expect("small");
    x86!(asm; mov(rax, rdx); sub(rax, first); jns(low); mov(rax, 0i64));
    asm.place(&mut low);
    x86!(asm; cmp(rax, 4); jbe(high); mov(rax, 4i64));
    asm.place(&mut high);
    let r15 = iced_x86::code_asm::r15;
    x86!(asm; mov(rax, qword_ptr(r15 + rax * 8 + table)); kmovq(k3, rax));
    asm.unary(Width::Wide, Op::LoadBytes, group, Operand::Vector(group), Mask(3));
}

fn vector(number: usize) -> Vector {
    Vector::try_from(number).expect("there are 32 registers")
}
