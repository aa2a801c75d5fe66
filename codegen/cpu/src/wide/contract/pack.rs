//! Packing an operand of a contraction, and turning results.
//!
//! Both are the same transposition of 16 x 16 words in some 110 instructions, most of which two ports share. Behind the
//! end of the depth packing writes zeros, so nothing depends on what lies there in memory.

use ffc_ir::kernel::{Contraction, Extent};
use iced_x86::code_asm::{AsmRegister64, k3, ptr, qword_ptr, r8, r13, r15, rax, rbx, rdi, rdx, rsi, rsp};

use super::super::asm::{ALL, Asm, LANES, Mask, Memory, Op, Operand, VECTOR, Vector, Width, offset_of, x86};
use super::super::nest::Emitter;
use super::{BLOCK, STEP, Unsigned, Workspace};
use crate::layout::row_bytes;

/// How many of 16 vectors exist.
#[derive(Clone, Copy)]
enum Exist {
    Known(usize),
    /// As many as `rbx` says.
    Counted,
}

/// What packing needs to know of an operand.
#[derive(Clone, Copy)]
struct Packing {
    /// Bytes between vectors.
    pitch: usize,
    /// Whether 128 is added.
    shift: bool,
    /// Whether the depth is a multiple of a block.
    whole: bool,
    /// Where vectors go of which there are less than 16.
    spare: i32,
}

impl Emitter<'_> {
    /// Packs all columns.
    pub(super) fn pack_columns(&mut self, contraction: &Contraction, work: &Workspace) {
        let columns = self.columns_of(contraction);
        let packing = self.packing(contraction, work, row_bytes(self.buffer(contraction.rhs)));
        let (full, rest) = (columns / LANES, columns % LANES);
        let packed = work.packed;
        self.pointer(rsi, contraction.rhs);
        x86!(self.asm; lea(rdi, ptr(rsp + packed)));
        if full > 0 {
            let mut again = self.asm.label();
            x86!(self.asm; mov(r13, u64::try_from(full).expect("sizes fit")));
            self.asm.place(&mut again);
            self.pack_next(work, packing, Exist::Known(LANES));
            x86!(self.asm; dec(r13); jnz(again));
        }
        if rest > 0 {
            self.pack_next(work, packing, Exist::Known(rest));
        }
    }

    /// Packs the rows of the chunk at hand.
    pub(super) fn pack_rows(&mut self, contraction: &Contraction, work: &Workspace) {
        let pitch = self.chunk_rows(contraction, work);
        let packing = self.packing(contraction, work, pitch);
        let packed = work.packed;
        let [mut again, mut rest, mut done] = [0; 3].map(|_| self.asm.label());
        x86!(self.asm; lea(rdi, ptr(rsp + packed)));
        self.asm.place(&mut again);
        x86!(self.asm; cmp(rbx, offset_of(LANES)); jb(rest));
        self.pack_next(work, packing, Exist::Known(LANES));
        x86!(self.asm; sub(rbx, offset_of(LANES)); jmp(again));
        self.asm.place(&mut rest);
        x86!(self.asm; test(rbx, rbx); jz(done));
        self.pack_next(work, packing, Exist::Counted);
        self.asm.place(&mut done);
    }

    /// Packs the panel's columns.
    pub(super) fn pack_panel(
        &mut self,
        contraction: &Contraction,
        work: &Workspace,
        from: Option<AsmRegister64>,
    ) {
        let pitch = row_bytes(self.buffer(contraction.rhs));
        let (held, packing) = (self.columns_of(contraction), self.packing(contraction, work, pitch));
        let (column, tiles) = (self.slots.panel, self.tiles);
        for tile in 0..tiles {
            // rsi is the first column of the tile, rdi the packed block.
            self.panel_start(rsi, contraction.rhs);
            if let Some(from) = from {
                x86!(self.asm; add(rsi, from));
            }
            let ahead = tile * LANES * pitch;
            if ahead > 0 {
                x86!(self.asm; add(rsi, offset_of(ahead)));
            }
            let to = work.packed + offset_of(tile * work.pitch);
            x86!(self.asm; lea(rdi, ptr(rsp + to)));
            self.piece(rdx, work, from);
            // The operand's last tile may have fewer columns; behind it there is nothing to pack, nor anything that
            // reads it.
            let last = held % LANES;
            let [mut short, mut done] = [0; 2].map(|_| self.asm.label());
            if held % (LANES * tiles) != 0 {
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
            self.pack(packing, Exist::Known(LANES));
            if last != 0 {
                x86!(self.asm; jmp(done));
                self.asm.place(&mut short);
                self.pack(packing, Exist::Known(last));
            }
            self.asm.place(&mut done);
        }
    }

    fn packing(&self, contraction: &Contraction, work: &Workspace, pitch: usize) -> Packing {
        let whole = matches!(contraction.depth, Extent::Const(depth) if depth % STEP == 0);
        let shift = self.unsigned(contraction, work) == Unsigned::Shifted;
        Packing { pitch, shift, whole, spare: work.spare }
    }

    /// Packs 16 vectors from `rsi` to `rdi` in full depth; both then lead to the next.
    fn pack_next(&mut self, work: &Workspace, packing: Packing, exist: Exist) {
        let r9 = iced_x86::code_asm::r9;
        self.piece(rdx, work, None);
        x86!(self.asm; mov(r8, rsi); mov(r9, rdi));
        self.pack(packing, exist);
        x86!(self.asm;
            lea(rsi, ptr(r8 + offset_of(LANES * packing.pitch)));
            lea(rdi, ptr(r9 + offset_of(work.pitch)));
        );
    }

    /// Packs 16 vectors from `rsi` to `rdi`, `rdx` deep.
    fn pack(&mut self, packing: Packing, exist: Exist) {
        let (mut again, mut tail, mut done) = (self.asm.label(), self.asm.label(), self.asm.label());
        let step = offset_of(STEP);
        x86!(self.asm; cmp(rdx, step); jb(tail));
        self.asm.place(&mut again);
        self.pack_block(packing, exist, false);
        x86!(self.asm; add(rsi, step); add(rdi, offset_of(BLOCK)); sub(rdx, step); cmp(rdx, step); jae(again));
        self.asm.place(&mut tail);
        if !packing.whole {
            x86!(self.asm; test(rdx, rdx); jz(done));
            self.pack_block(packing, exist, true);
            self.asm.place(&mut done);
        }
    }

    /// Packs 64 steps of the depth of 16 vectors.
    fn pack_block(&mut self, packing: Packing, exist: Exist, tail: bool) {
        let Packing { pitch, spare, .. } = packing;
        let whole = matches!(exist, Exist::Known(LANES));
        if !whole {
            self.copy_vectors(packing, exist);
        }
        let bytes = packing.shift.then(|| self.asm.word(0x8080_8080));
        let from = |vector: usize| match whole {
            true => Memory::at(rsi, vector * pitch),
            false => Memory::frame(spare).ahead(vector * VECTOR),
        };
        turn_words(&mut self.asm, from, |asm, number, group| {
            if let Some(bytes) = bytes {
                asm.binary(Width::Wide, Op::Xor, group, group, Operand::Memory(bytes), ALL);
            }
            if tail {
                mask_group(asm, group, number);
            }
            asm.store(Width::Wide, Op::Store32, Memory::at(rdi, VECTOR * number), group, ALL);
        });
    }

    /// The vectors that exist, 64 deep, into the frame.
    fn copy_vectors(&mut self, packing: Packing, exist: Exist) {
        let mut done = self.asm.label();
        let most = match exist {
            Exist::Known(count) => count,
            Exist::Counted => LANES,
        };
        for vector in 0..most {
            if matches!(exist, Exist::Counted) {
                x86!(self.asm; cmp(rbx, offset_of(vector)); jbe(done));
            }
            let to = Memory::frame(packing.spare).ahead(vector * VECTOR);
            self.asm.load(Width::Wide, Op::Move, 0, Memory::at(rsi, vector * packing.pitch), ALL);
            self.asm.store(Width::Wide, Op::Store32, to, 0, ALL);
        }
        self.asm.place(&mut done);
    }

    /// Turns the results of the chunk's rows and a panel's columns, which lie across, so many bytes a column.
    pub(super) fn turn_results(&mut self, work: &Workspace, pitch: usize, columns: usize) {
        let (across, sums, row) = (work.across, work.free, self.tiles * VECTOR);
        let (first, end) = (self.slots.chunk, self.slots.chunk_end);
        let mut again = self.asm.label();
        x86!(self.asm;
            lea(rsi, ptr(rsp + across));
            mov(rdi, qword_ptr(rsp + sums));
            mov(rbx, qword_ptr(rsp + end));
            sub(rbx, qword_ptr(rsp + first));
        );
        self.asm.place(&mut again);
        for tile in 0..columns.div_ceil(LANES) {
            let from = |column: usize| Memory::at(rsi, (tile * LANES + column) * pitch);
            turn_words(&mut self.asm, from, |asm, number, group| {
                let to = Memory::at(rdi, number * row + tile * VECTOR);
                asm.store(Width::Wide, Op::Store32, to, group, ALL);
            });
        }
        x86!(self.asm;
            add(rsi, offset_of(VECTOR));
            add(rdi, offset_of(LANES * row));
            sub(rbx, offset_of(LANES));
            jg(again);
        );
    }
}

/// Turns 16 vectors of 16 words: `to` is given each word's number and a register with that word of all vectors. Words
/// `4 q + i` of vector `4 l + j` go from lane `l` of register `j` to lane `l`, word `j` of register `i`.
fn turn_words(asm: &mut Asm, from: impl Fn(usize) -> Memory, mut to: impl FnMut(&mut Asm, usize, Vector)) {
    for quarter in 0..4 {
        let at = |vector: usize| from(vector).ahead(LANES * quarter);
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
            to(asm, 4 * quarter + usize::from(group), group);
        }
    }
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
    x86!(asm; mov(rax, qword_ptr(r15 + rax * 8 + table)); kmovq(k3, rax));
    asm.unary(Width::Wide, Op::LoadBytes, group, Operand::Vector(group), Mask(3));
}
