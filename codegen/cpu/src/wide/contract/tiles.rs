//! Products on AMX tiles: 16 streamed vectors by 16 packed ones, 64 deep, an instruction.

use iced_x86::code_asm::{
    AsmRegister32, AsmRegister64, AsmRegisterTmm, al, byte_ptr, eax, ebx, ecx, edx, ptr, qword_ptr, r8, r9,
    r10, r11, r13, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp, tmm0, tmm1, tmm2, tmm3, tmm4, tmm5, tmm6, tmm7,
};

use super::super::asm::{Asm, LANES, VECTOR, offset_of, x86};
use super::super::nest::Emitter;
use super::{BLOCK, Factors, Product, STEP, Start, Workspace};

/// Vectors of a tile.
const TILE: usize = 16;

/// Accumulators: two tiles of streamed vectors by two of packed ones.
const SUMS: [[AsmRegisterTmm; 2]; 2] = [[tmm0, tmm1], [tmm2, tmm3]];
const STREAMED: [AsmRegisterTmm; 2] = [tmm4, tmm5];
const PACKED: [AsmRegisterTmm; 2] = [tmm6, tmm7];

/// The numbers of the tiles that have as many rows as there are streamed vectors, the upper and the lower ones.
const UPPER_AND_LOWER: [[i32; 3]; 2] = [[0, 1, 4], [2, 3, 5]];

impl Emitter<'_> {
    pub(super) fn begin_tiles(&mut self, configuration: i32) {
        write_configuration(&mut self.asm, configuration);
        x86!(self.asm; ldtilecfg(ptr(rsp + configuration)));
    }

    pub(super) fn end_tiles(&mut self) {
        x86!(self.asm; tilerelease());
    }

    pub(super) fn multiply_tiles(&mut self, work: &Workspace, product: Product) {
        let Product { pitch, results, .. } = product;
        x86!(self.asm;
            add(r13, offset_of(STEP - 1));
            shr(r13, STEP.trailing_zeros());
            mov(r8, u64::try_from(VECTOR).expect("sizes fit"));
            mov(r9, u64::try_from(pitch).expect("sizes fit"));
            mov(r10, u64::try_from(results).expect("sizes fit"));
        );
        let tile = offset_of(TILE);
        let [mut pairs, mut rest, mut low, mut full, mut done] = [0; 5].map(|_| self.asm.label());
        x86!(self.asm; cmp(rbx, 2 * tile); jb(rest));
        self.asm.place(&mut pairs);
        self.tile_group(work, product, 2);
        x86!(self.asm;
            add(rsi, offset_of(2 * TILE * pitch));
            add(rdi, offset_of(2 * TILE * results));
            sub(rbx, 2 * tile);
            cmp(rbx, 2 * tile);
            jae(pairs);
        );
        self.asm.place(&mut rest);
        x86!(self.asm; test(rbx, rbx); jz(done); mov(ecx, tile); cmp(rbx, tile); jbe(low));
        x86!(self.asm; lea(edx, ptr(rbx - tile)));
        self.configure(work, [ecx, edx]);
        self.tile_group(work, product, 2);
        x86!(self.asm; jmp(full));
        self.asm.place(&mut low);
        x86!(self.asm; mov(edx, ebx));
        self.configure(work, [edx, ecx]);
        self.tile_group(work, product, 1);
        self.asm.place(&mut full);
        x86!(self.asm; mov(ecx, tile));
        self.configure(work, [ecx, ecx]);
        self.asm.place(&mut done);
    }

    /// Begins to contract a whole chunk, its rows at `rsi`, by a panel that is packed. Accumulators stay in tiles.
    pub(super) fn begin_steps(&mut self, work: &Workspace) {
        self.packed_panel(work);
        let Workspace { steps, step_packed, step_streamed, depth, .. } = *work;
        x86!(self.asm;
            mov(qword_ptr(rsp + step_packed), rbp);
            mov(qword_ptr(rsp + step_streamed), rsi);
            mov(rax, qword_ptr(rsp + depth));
            add(rax, offset_of(STEP - 1));
            shr(rax, STEP.trailing_zeros());
            inc(rax);
            mov(qword_ptr(rsp + steps), rax);
        );
        for tile in SUMS.into_iter().flatten() {
            x86!(self.asm; tilezero(tile));
        }
    }

    /// The next step, if one is left. Changes `rax` and `rcx`.
    pub(in super::super) fn step(&mut self, work: &Workspace, pitch: usize) {
        let Workspace { steps, step_packed, step_streamed, .. } = *work;
        let mut none = self.asm.label();
        x86!(self.asm; cmp(qword_ptr(rsp + steps), 1); jbe(none); dec(qword_ptr(rsp + steps)));
        x86!(self.asm; mov(rax, qword_ptr(rsp + step_packed)); mov(ecx, offset_of(VECTOR)));
        for (column, tile) in PACKED.into_iter().enumerate() {
            x86!(self.asm; tileloadd(tile, ptr(rax + rcx + offset_of(column * work.pitch))));
        }
        for column in 0..PACKED.len() {
            self.ask_for(rax, column * work.pitch + BLOCK, VECTOR);
        }
        x86!(self.asm; add(qword_ptr(rsp + step_packed), offset_of(BLOCK)));
        x86!(self.asm; mov(rax, qword_ptr(rsp + step_streamed)); mov(ecx, offset_of(pitch)));
        for (row, tile) in STREAMED.into_iter().enumerate() {
            x86!(self.asm; tileloadd(tile, ptr(rax + rcx + offset_of(row * TILE * pitch))));
        }
        x86!(self.asm; add(qword_ptr(rsp + step_streamed), offset_of(STEP)));
        for (sums, streamed) in SUMS.into_iter().zip(STREAMED) {
            for (sum, packed) in sums.into_iter().zip(PACKED) {
                x86!(self.asm; tdpbssd(sum, streamed, packed));
            }
        }
        self.asm.place(&mut none);
    }

    /// The steps that are left; then the results are stored.
    pub(in super::super) fn end_steps(&mut self, work: &Workspace, pitch: usize) {
        let (steps, free) = (work.steps, work.free);
        let [mut again, mut last, mut done] = [0; 3].map(|_| self.asm.label());
        self.asm.place(&mut again);
        x86!(self.asm; cmp(qword_ptr(rsp + steps), 1); jb(done); je(last));
        self.step(work, pitch);
        x86!(self.asm; jmp(again));
        self.asm.place(&mut last);
        let results = SUMS[0].len() * VECTOR;
        x86!(self.asm; mov(rax, qword_ptr(rsp + free)); mov(ecx, offset_of(results)));
        for (row, sums) in SUMS.into_iter().enumerate() {
            for (column, sum) in sums.into_iter().enumerate() {
                let place = offset_of(row * TILE * results + column * VECTOR);
                x86!(self.asm; tilestored(ptr(rax + rcx + place), sum));
            }
        }
        self.asm.place(&mut done);
    }

    /// Sets the rows of the upper and lower tiles.
    fn configure(&mut self, work: &Workspace, rows: [AsmRegister32; 2]) {
        let at = work.configuration;
        for (rows, tiles) in rows.into_iter().zip(UPPER_AND_LOWER) {
            x86!(self.asm; mov(eax, rows));
            for tile in tiles {
                x86!(self.asm; mov(byte_ptr(rsp + (at + 48 + tile)), al));
            }
        }
        x86!(self.asm; ldtilecfg(ptr(rsp + at)));
    }

    /// Brings a tile, its lines so many bytes apart, from the second-level cache.
    fn ask_for(&mut self, base: AsmRegister64, place: usize, pitch: usize) {
        for line in 0..TILE {
            x86!(self.asm; prefetcht0(byte_ptr(base + offset_of(place + line * pitch))));
        }
    }

    /// One or two tiles of streamed vectors by those that are packed.
    fn tile_group(&mut self, work: &Workspace, product: Product, height: usize) {
        let Product { pitch, width, results, start, ahead, deep, .. } = product;
        let sums = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        let place = |row: usize, column: usize| offset_of(row * TILE * results + column * VECTOR);
        for (row, column) in sums.clone() {
            match start {
                Start::Fresh => x86!(self.asm; tilezero(SUMS[row][column])),
                Start::Sums => {
                    x86!(self.asm; tileloadd(SUMS[row][column], ptr(rdi + r10 + place(row, column))))
                }
            }
        }
        x86!(self.asm; mov(r11, rsi); mov(rdx, rbp); mov(rcx, r13));
        let mut again = self.asm.label();
        self.asm.place(&mut again);
        for (column, tile) in PACKED.into_iter().enumerate().take(width) {
            x86!(self.asm; tileloadd(tile, ptr(rdx + r8 + offset_of(column * work.pitch))));
        }
        for (row, tile) in STREAMED.into_iter().enumerate().take(height) {
            x86!(self.asm; tileloadd(tile, ptr(r11 + r9 + offset_of(row * TILE * pitch))));
        }
        for (row, column) in sums.clone() {
            x86!(self.asm; tdpbssd(SUMS[row][column], STREAMED[row], PACKED[column]));
        }
        if deep {
            (0..width).for_each(|column| self.ask_for(rdx, column * work.pitch + BLOCK, VECTOR));
            (0..height).for_each(|row| self.ask_for(r11, row * TILE * pitch + STEP, pitch));
        }
        for line in 0..ahead {
            x86!(self.asm; prefetcht1(byte_ptr(rax + offset_of(line * VECTOR))));
        }
        if ahead > 0 {
            x86!(self.asm; add(rax, offset_of(ahead * VECTOR)));
        }
        x86!(self.asm; add(rdx, offset_of(BLOCK)); add(r11, offset_of(STEP)); dec(rcx); jnz(again));
        for (row, column) in sums {
            x86!(self.asm; tilestored(ptr(rdi + r10 + place(row, column)), SUMS[row][column]));
        }
    }
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

/// See [`peak`](crate::wide::peak).
pub(in super::super) fn peak(factors: Factors, turns: usize) -> (Vec<u8>, usize) {
    let mut asm = Asm::new();
    let mut again = asm.label();
    let (at, tile) = (asm.room(VECTOR), offset_of(TILE * VECTOR));
    let from = asm.room(TILE * VECTOR * (STREAMED.len() + PACKED.len()));
    write_configuration(&mut asm, at);
    let turns = u64::try_from(turns).expect("sizes fit");
    x86!(asm; ldtilecfg(ptr(rsp + at)); mov(rcx, turns); mov(r8, u64::try_from(VECTOR).expect("sizes fit")));
    asm.place(&mut again);
    if factors == Factors::Cached {
        for (place, factor) in (from..).step_by(tile as usize).zip(STREAMED.into_iter().chain(PACKED)) {
            x86!(asm; tileloadd(factor, ptr(rsp + r8 + place)));
        }
    }
    for (row, sums) in SUMS.into_iter().enumerate() {
        for (column, sum) in sums.into_iter().enumerate() {
            x86!(asm; tdpbssd(sum, STREAMED[row], PACKED[column]));
        }
    }
    x86!(asm; dec(rcx); jnz(again); tilerelease());
    (asm.finish().bytes, 4 * TILE * LANES * STEP)
}
