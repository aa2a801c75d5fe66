//! Contractions: the accumulators of a chunk of rows and a panel of columns, into the frame.
//!
//! Both operands lie along the depth. Instructions want one of them as it lies, row by row, and the other *packed*: groups
//! of four steps of the depth, each with its 16 vectors side by side, `[depth / 4][16][4]` (`pack`). The first is
//! *streamed*. Results come as `[streamed][packed]`, 16 packed vectors to a register.
//!
//! Packing costs about as much as multiplying the same bytes by 16 vectors, so what is packed and how often decides the
//! speed ([`Order`]): all columns once a call, where there are few enough of them (weight gradients: the columns are
//! inputs, as deep as the batch); the rows of each chunk, where columns are many and deep (forward: the columns are
//! weights, which then are read once, as they lie); else the columns of each panel, again for each chunk. Where rows
//! are packed, results lie across, and are turned, 16 x 16 at a time.
//!
//! ```text
//! for each piece of the depth                  (one, unless the depth is large)
//!     for each group of streamed vectors       (32 with AMX, 12, 8, 4 or 1 with VNNI)
//!         for each step of the depth           (64 with AMX, 4 with VNNI)
//!             group x 32 products
//! ```
//!
//! Convolutions stream or pack what the rows of a chunk see, which is gathered first (`gather`); their gradients pack what
//! positions see of the columns (`across`). Where each channel has a filter of its own, channels are lanes (`single`).
//!
//! VNNI multiplies unsigned by signed bytes. Where neither operand is known not to be negative, 128 is added to each
//! packed byte, and accumulators start at -128 times the sum of the streamed vector.

mod across;
pub(super) mod gather;
mod pack;
mod single;
mod tiles;
mod vectors;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Extent, Kernel, Side};
use iced_x86::code_asm::{AsmRegister64, ptr, qword_ptr, r12, r13, r14, rax, rbp, rbx, rdi, rsi, rsp};

pub(super) use tiles::peak as peak_of_tiles;
pub(super) use vectors::peak as peak_of_vectors;

use self::across::Across;
use self::single::Single;
use super::Products;
use super::asm::{LANES, VECTOR, offset_of, times, x86};
use super::nest::Emitter;
use crate::layout::row_bytes;

/// Products along the depth in a packed block.
pub(super) const STEP: usize = 64;

/// Bytes of such a block: 64 deep, 16 vectors.
const BLOCK: usize = STEP * LANES;

/// Depth that is packed at a time where panels are packed.
const PIECE: usize = 2048;

/// Most bytes that are packed ahead: a part of the second-level cache, and of the stack.
const AHEAD: usize = 256 << 10;

/// Where a loop that measures the peak has its factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factors {
    /// In registers, all the time.
    Held,
    /// In the first-level cache, from where each turn loads them, as contractions do.
    Cached,
}

/// What is packed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// All columns, once a call.
    Columns,
    /// The columns of the panel at hand.
    Panel,
    /// The rows of the chunk at hand.
    Rows,
    /// What positions see of the columns of every other panel and the one behind it.
    Across,
    /// Nothing: channels are lanes.
    Single,
}

/// What a contraction packs, and the most rows of a chunk, for a domain of this size.
pub(super) fn order(kernel: &Kernel, [rows, columns, depth]: [usize; 3]) -> (Order, usize) {
    /// Turning the results of an element costs as much as packing this many tenths of a byte.
    const TURN: usize = 16;
    /// Most rows that share what is packed of an image.
    const MOST: usize = 512;
    if kernel.contraction.as_ref().and_then(across::window).is_some() {
        return (Order::Across, MOST);
    }
    if let Some((_, gradient)) = kernel.contraction.as_ref().and_then(single::window) {
        return (Order::Single, if gradient { single::MOST } else { super::nest::SMALL_CHUNK });
    }
    let depth = depth.next_multiple_of(STEP);
    let [rows, columns] = [rows, columns].map(|size| size.next_multiple_of(LANES));
    let whole = super::nest::CHUNK;
    let ahead = |vectors: usize| vectors * depth <= AHEAD;
    let chunk = [whole, whole / 2, whole / 4, whole / 8].into_iter().find(|&chunk| ahead(chunk.min(rows)));
    let by_columns = if ahead(columns) { columns * depth } else { columns * depth * rows.div_ceil(whole) };
    let by_rows = rows * depth + rows * columns * TURN / 10;
    match chunk {
        Some(chunk) if by_rows < by_columns && matches!(kernel.columns, Extent::Const(_)) => {
            (Order::Rows, chunk)
        }
        // A tile of rows at a time, unless there is hardly anything to contract.
        _ if ahead(columns) && depth > STEP => (Order::Columns, super::nest::SMALL_CHUNK / 2),
        _ if ahead(columns) => (Order::Columns, super::nest::SMALL_CHUNK),
        _ => (Order::Panel, whole),
    }
}

/// The frame's part in a contraction.
pub(super) struct Workspace {
    order: Order,
    /// What is packed.
    packed: i32,
    /// Bytes of 16 packed vectors.
    pitch: usize,
    /// The accumulators, `[rows of a chunk][16 * tiles]`, twice, or for each panel.
    sums: i32,
    /// Whether there is room for all panels.
    holds_all: bool,
    /// Where those of the panel at hand are, and where those of the next one go.
    pub(super) filled: i32,
    free: i32,
    /// The first column of the panel that is contracted.
    column: i32,
    /// What is asked for ahead.
    coming: i32,
    /// The accumulators before they are turned, `[16 * tiles][rows of a chunk]`.
    across: i32,
    /// 16 packed vectors of which some do not exist.
    spare: i32,
    /// What the chunk's rows see through a window, and the bytes between them.
    gathered: i32,
    gathered_pitch: usize,
    across_image: Across,
    single: Single,
    /// `-128 * sum` of each streamed vector.
    starts: i32,
    /// Tile configuration.
    configuration: i32,
    depth: i32,
    /// What is left of a panel that is contracted step by step: its steps, and one for storing its results.
    steps: i32,
    /// Where the next step finds its factors.
    step_packed: i32,
    step_streamed: i32,
}

/// What accumulators start at.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Fresh,
    Sums,
}

/// Products of streamed vectors, the first at `rsi` and `rbx` of them, by 16 or 32 packed vectors at `rbp`, `r13` deep,
/// into rows at `rdi`. All but `rbp` change.
#[derive(Clone, Copy)]
struct Product {
    /// Bytes between streamed vectors.
    pitch: usize,
    /// Packed vectors, in tiles of 16.
    width: usize,
    /// Bytes between the results of streamed vectors.
    results: usize,
    start: Start,
    /// Which of the factors is not negative.
    unsigned: Unsigned,
    /// Cache lines behind `rax` that are asked for in each step of the depth.
    ahead: usize,
    /// Whether there is more than the first-level cache holds, and each step asks for the next one's factors.
    deep: bool,
}

/// Which factor instructions may take as unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsigned {
    Streamed,
    Packed,
    /// The packed one, after 128 was added to it.
    Shifted,
}

impl Emitter<'_> {
    /// Room for the contraction, and what is done once a call.
    pub(super) fn begin_contraction(&mut self, contraction: &Contraction) -> Workspace {
        let depth = contraction.depth.size(self.buffer(contraction.lhs).samples).next_multiple_of(STEP);
        let (order, tiles) = (self.order, self.tiles);
        let channels = self.buffer(contraction.lhs).stride();
        let (pitch, vectors) = match order {
            Order::Columns => (depth * LANES, self.columns_of(contraction).next_multiple_of(LANES * tiles)),
            Order::Panel => (depth.min(PIECE) * LANES, LANES * tiles),
            Order::Single => (0, 0),
            Order::Across => (depth.min(across::PIECE) * LANES, across::TILES * LANES),
            Order::Rows => (depth * LANES, self.chunk.next_multiple_of(LANES)),
        };
        let seen = gather::seen_rows(contraction, self.buffer(contraction.lhs));
        let gathered_pitch = gather::pitch(depth);
        let (chunk, across) = (self.chunk.next_multiple_of(LANES), order == Order::Rows);
        let (columns, bytes) = (self.most_columns(), self.sums_bytes());
        let holds_all = order == Order::Across && across::holds_all(columns, bytes);
        let asm = &mut self.asm;
        let work = Workspace {
            order,
            packed: asm.room(pitch * vectors / LANES),
            pitch,
            sums: asm.room(
                if holds_all { columns.div_ceil(tiles * LANES).next_multiple_of(2) } else { 2 } * bytes,
            ),
            holds_all,
            filled: asm.room(8),
            free: asm.room(8),
            column: asm.room(8),
            coming: asm.room(8),
            across: asm.room(if across { chunk * tiles * VECTOR } else { 0 }),
            spare: asm.room(LANES * VECTOR),
            gathered: asm.room(if seen.is_some() { chunk * gathered_pitch } else { 0 }),
            gathered_pitch,
            across_image: Across::new(asm, order == Order::Across),
            single: Single::new(asm, contraction, channels, chunk),
            starts: asm.room(chunk.max(LANES * tiles) * 4),
            configuration: asm.room(VECTOR),
            depth: asm.room(8),
            steps: asm.room(8),
            step_packed: asm.room(8),
            step_streamed: asm.room(8),
        };
        self.size(rax, contraction.depth);
        let depth = work.depth;
        x86!(self.asm; mov(qword_ptr(rsp + depth), rax));
        if order == Order::Single {
            self.begin_single(contraction, &work, channels);
            return work;
        }
        if self.products == Products::Tiles {
            self.begin_tiles(work.configuration);
        }
        if order == Order::Columns {
            self.pack_columns(contraction, &work);
        }
        work
    }

    pub(super) fn end_contraction(&mut self) {
        if self.products == Products::Tiles && self.order != Order::Single {
            self.end_tiles();
        }
    }

    /// What all panels of the chunk at hand share.
    pub(super) fn begin_chunk(&mut self, contraction: &Contraction, work: &Workspace) {
        if let Some(window) = gather::seen_rows(contraction, self.buffer(contraction.lhs)) {
            self.gather_rows(contraction, work, &window);
        }
        if work.order == Order::Single {
            self.begin_single_chunk(contraction, work);
        } else if work.order == Order::Rows {
            self.pack_rows(contraction, work);
        } else if self.unsigned(contraction, work) == Unsigned::Shifted {
            let pitch = self.chunk_rows(contraction, work);
            self.starts(work, pitch);
        }
    }

    /// Before the first panel of a chunk.
    ///
    /// Where all columns are packed, a panel is contracted while the one before it is still being evaluated: tiles have
    /// a unit of their own, and a core finds its work if it comes early enough.
    /// Deep panels are contracted step by step, between rows ([`Emitter::interleaves`]).
    pub(super) fn begin_panels(&mut self, contraction: &Contraction, work: &Workspace) {
        let (sums, other) = (work.sums, work.sums + offset_of(self.sums_bytes()));
        let (filled, free, column) = (work.filled, work.free, work.column);
        x86!(self.asm;
            lea(rax, ptr(rsp + other));
            mov(qword_ptr(rsp + filled), rax);
            lea(rax, ptr(rsp + sums));
            mov(qword_ptr(rsp + free), rax);
        );
        if let (true, Some(window)) = (work.holds_all, across::window(contraction)) {
            self.contract_whole(contraction, work, &window);
        }
        if work.order == Order::Columns {
            x86!(self.asm; mov(qword_ptr(rsp + column), 0));
            self.contract_packed(contraction, work);
        }
    }

    /// The accumulators of the chunk and the panel at hand, which has so many columns if that is known.
    pub(super) fn contract(&mut self, contraction: &Contraction, work: &Workspace, columns: Option<usize>) {
        let (filled, free) = (work.filled, work.free);
        if work.holds_all {
            self.find_sums(work);
            x86!(self.asm; mov(qword_ptr(rsp + filled), rax));
            return;
        }
        match work.order {
            Order::Rows => {
                let columns = columns.expect("rows are packed where columns are known");
                self.contract_rows(contraction, work, columns);
            }
            Order::Panel => self.contract_pieces(contraction, work),
            Order::Across => {
                let window = across::window(contraction).expect("only gradients are packed so");
                self.contract_across(contraction, work, &window);
            }
            Order::Single => self.contract_single(contraction, work),
            Order::Columns => {}
        }
        x86!(self.asm;
            mov(rax, qword_ptr(rsp + free));
            xchg(qword_ptr(rsp + filled), rax);
            mov(qword_ptr(rsp + free), rax);
        );
        if work.order == Order::Columns && self.columns_of(contraction) > self.tiles * LANES {
            let (column, all, width) = (work.column, self.slots.columns, offset_of(self.tiles * LANES));
            let (mut last, steps) = (self.asm.label(), work.steps);
            x86!(self.asm;
                mov(qword_ptr(rsp + steps), 0);
                mov(rax, qword_ptr(rsp + column));
                add(rax, width);
                mov(qword_ptr(rsp + column), rax);
                cmp(rax, qword_ptr(rsp + all));
                jae(last);
            );
            if self.interleaves(contraction) {
                let mut short = self.asm.label();
                self.chunk_rows(contraction, work);
                x86!(self.asm; cmp(rbx, offset_of(2 * LANES)); jne(short));
                self.begin_steps(work);
                x86!(self.asm; jmp(last));
                self.asm.place(&mut short);
            }
            self.contract_packed(contraction, work);
            self.asm.place(&mut last);
        }
    }

    /// Whether a panel is contracted step by step while the one before it is evaluated. A core does not look far enough
    /// ahead to overlap more than a few steps by itself.
    pub(super) fn interleaves(&self, contraction: &Contraction) -> bool {
        const FEW: usize = 2;
        let tiles = self.products == Products::Tiles && self.chunk == 2 * LANES && self.tiles == 2;
        let panels = self.order == Order::Columns && self.columns_of(contraction) > 2 * LANES;
        let lies = gather::seen_rows(contraction, self.buffer(contraction.lhs)).is_none();
        tiles && panels && lies && self.deepest(contraction) > FEW * STEP
    }

    /// The chunk's rows by a panel of columns that are all packed.
    fn contract_packed(&mut self, contraction: &Contraction, work: &Workspace) {
        self.packed_panel(work);
        self.contract_columns(contraction, work, Start::Fresh, None);
    }

    /// `rbp` is where the panel that is contracted is packed.
    fn packed_panel(&mut self, work: &Workspace) {
        // Panels follow one another.
        let (column, packed) = (work.column, work.packed);
        x86!(self.asm; mov(rbp, qword_ptr(rsp + column)));
        times(&mut self.asm, rbp, work.pitch / LANES);
        x86!(self.asm; lea(rbp, ptr(rsp + rbp + packed)));
    }

    /// Bytes of a panel's accumulators.
    fn sums_bytes(&self) -> usize {
        self.chunk.next_multiple_of(LANES) * self.tiles * VECTOR
    }

    fn contract_pieces(&mut self, contraction: &Contraction, work: &Workspace) {
        let packed = work.packed;
        if self.deepest(contraction) <= PIECE {
            self.pack_panel(contraction, work, None);
            x86!(self.asm; lea(rbp, ptr(rsp + packed)));
            return self.contract_columns(contraction, work, Start::Fresh, None);
        }
        // r14 is where the piece begins.
        let (mut again, mut later, mut done) = (self.asm.label(), self.asm.label(), self.asm.label());
        x86!(self.asm; xor(r14, r14));
        self.asm.place(&mut again);
        self.pack_panel(contraction, work, Some(r14));
        x86!(self.asm; lea(rbp, ptr(rsp + packed)); test(r14, r14); jnz(later));
        self.contract_columns(contraction, work, Start::Fresh, Some(r14));
        x86!(self.asm; jmp(done));
        self.asm.place(&mut later);
        self.contract_columns(contraction, work, Start::Sums, Some(r14));
        self.asm.place(&mut done);
        let (depth, piece) = (work.depth, offset_of(PIECE));
        x86!(self.asm; add(r14, piece); cmp(r14, qword_ptr(rsp + depth)); jb(again));
    }

    /// The chunk's rows by the panel that is packed at `rbp`.
    fn contract_columns(
        &mut self,
        contraction: &Contraction,
        work: &Workspace,
        start: Start,
        from: Option<AsmRegister64>,
    ) {
        let (pitch, sums) = (self.chunk_rows(contraction, work), work.free);
        if let Some(from) = from {
            x86!(self.asm; add(rsi, from));
        }
        x86!(self.asm; mov(rdi, qword_ptr(rsp + sums)));
        self.piece(r13, work, from);
        let (width, unsigned) = (self.tiles, self.unsigned(contraction, work));
        let product =
            Product { pitch, width, results: width * VECTOR, start, unsigned, ahead: 0, deep: false };
        self.multiply(work, product);
    }

    /// The panel's columns by the chunk's rows, which are packed; then the results are turned.
    fn contract_rows(&mut self, contraction: &Contraction, work: &Workspace, columns: usize) {
        let unsigned = self.unsigned(contraction, work);
        let pitch = row_bytes(self.buffer(contraction.rhs));
        let results = self.chunk.next_multiple_of(LANES) * 4;
        if unsigned == Unsigned::Shifted {
            self.panel_columns(contraction, columns);
            self.starts(work, pitch);
        }
        // The next panel's columns lie behind this one's, and come from further away than the second-level cache.
        const MOST: usize = 8;
        let steps = (work.pitch / BLOCK) * (self.chunk / (2 * LANES)).max(1);
        let last = columns < self.tiles * LANES || self.products == Products::Vectors;
        let ahead = if last { 0 } else { (columns * pitch).div_ceil(steps * VECTOR).min(MOST) };
        let (coming, deep) = (work.coming, work.pitch > BLOCK);
        self.panel_columns(contraction, columns);
        x86!(self.asm; lea(rax, ptr(rsi + offset_of(columns * pitch))); mov(qword_ptr(rsp + coming), rax));
        // r12: rows left; r14: where their results go.
        let (packed, across) = (work.packed, work.across);
        let (first, end) = (self.slots.chunk, self.slots.chunk_end);
        x86!(self.asm;
            lea(rbp, ptr(rsp + packed));
            lea(r14, ptr(rsp + across));
            mov(r12, qword_ptr(rsp + end));
            sub(r12, qword_ptr(rsp + first));
        );
        let [mut again, mut single, mut done] = [0; 3].map(|_| self.asm.label());
        self.asm.place(&mut again);
        for width in [2, 1] {
            if width == 2 {
                x86!(self.asm; cmp(r12, offset_of(LANES)); jle(single));
            } else {
                self.asm.place(&mut single);
                x86!(self.asm; test(r12, r12); jle(done));
            }
            self.panel_columns(contraction, columns);
            x86!(self.asm; mov(rdi, r14));
            self.piece(r13, work, None);
            x86!(self.asm; mov(rax, qword_ptr(rsp + coming)));
            let start = Start::Fresh;
            self.multiply(work, Product { pitch, width, results, start, unsigned, ahead, deep });
            x86!(self.asm; mov(qword_ptr(rsp + coming), rax));
            if width == 2 {
                x86!(self.asm;
                    add(rbp, offset_of(2 * work.pitch));
                    add(r14, offset_of(2 * VECTOR));
                    sub(r12, offset_of(2 * LANES));
                    jmp(again);
                );
            }
        }
        self.asm.place(&mut done);
        self.turn_results(work, results, columns);
    }

    fn multiply(&mut self, work: &Workspace, product: Product) {
        match self.products {
            Products::Tiles => self.multiply_tiles(work, product),
            Products::Vectors => self.multiply_vectors(work, product),
        }
    }

    /// `to` is how much of the depth there is from the piece's begin on, at most a piece.
    fn piece(&mut self, to: AsmRegister64, work: &Workspace, from: Option<AsmRegister64>) {
        let depth = work.depth;
        x86!(self.asm; mov(to, qword_ptr(rsp + depth)));
        if let Some(from) = from {
            let mut fits = self.asm.label();
            let piece = offset_of(PIECE);
            x86!(self.asm; sub(to, from); cmp(to, piece); jbe(fits); mov(to, i64::from(piece)));
            self.asm.place(&mut fits);
        }
    }

    /// `rsi` is the chunk's first row of the left operand, `rbx` how many rows there are. The bytes between rows.
    fn chunk_rows(&mut self, contraction: &Contraction, work: &Workspace) -> usize {
        let (first, end) = (self.slots.chunk, self.slots.chunk_end);
        let lhs = self.buffer(contraction.lhs);
        let pitch = if gather::seen_rows(contraction, lhs).is_some() {
            let gathered = work.gathered;
            x86!(self.asm; lea(rsi, ptr(rsp + gathered)));
            work.gathered_pitch
        } else {
            self.pointer(rsi, contraction.lhs);
            x86!(self.asm; mov(rax, qword_ptr(rsp + first)));
            times(&mut self.asm, rax, row_bytes(lhs));
            x86!(self.asm; add(rsi, rax));
            row_bytes(lhs)
        };
        x86!(self.asm; mov(rbx, qword_ptr(rsp + end)); sub(rbx, qword_ptr(rsp + first)));
        pitch
    }

    /// `rsi` is the panel's first column in the right operand, `rbx` how many columns there are.
    fn panel_columns(&mut self, contraction: &Contraction, columns: usize) {
        self.panel_start(rsi, contraction.rhs);
        x86!(self.asm; mov(rbx, u64::try_from(columns).expect("panels are narrow")));
    }

    /// `to` is the panel's first column in an operand that has a row for each column.
    fn panel_start(&mut self, to: AsmRegister64, operand: Handle<Buffer>) {
        let (pitch, column) = (row_bytes(self.buffer(operand)), self.slots.panel);
        self.pointer(to, operand);
        x86!(self.asm; mov(rax, qword_ptr(rsp + column)));
        times(&mut self.asm, rax, pitch);
        x86!(self.asm; add(to, rax));
    }

    /// How many columns the domain has at most.
    fn most_columns(&self) -> usize {
        self.kernel.columns.size(self.program.batch.max(self.program.infer_batch))
    }

    /// How many columns there are at most.
    fn columns_of(&self, contraction: &Contraction) -> usize {
        let rhs = self.buffer(contraction.rhs);
        rhs.shape[0].size(rhs.samples)
    }

    fn deepest(&self, contraction: &Contraction) -> usize {
        contraction.depth.size(self.buffer(contraction.lhs).samples)
    }

    fn unsigned(&self, contraction: &Contraction, work: &Workspace) -> Unsigned {
        let rows_packed = work.order == Order::Rows;
        match contraction.non_negative {
            _ if self.products == Products::Tiles => Unsigned::Streamed,
            None => Unsigned::Shifted,
            Some(Side::Lhs) if rows_packed => Unsigned::Packed,
            Some(Side::Rhs) if !rows_packed => Unsigned::Packed,
            Some(_) => Unsigned::Streamed,
        }
    }
}
