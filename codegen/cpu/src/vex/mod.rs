//! Contractions on 256-bit vectors, for kernels that Cranelift writes.
//!
//! Cranelift's vectors have 128 bits. So where the target has AVX2, the function of a kernel is followed by one that is
//! written here and knows nothing but the contraction: the kernel calls it for a [`CHUNK`] of rows and a [`SPAN`] of
//! columns, and reads the accumulators that it leaves on the kernel's stack. A call does so much that its cost does not
//! count.
//!
//! ```text
//! for each piece of the depth                   (one, unless the depth is large)
//!     copy the rows as they are wanted                                         (`pack`)
//!     for each strip of 24 columns
//!         pack the strip: [depth / 4][8][4], three times                       (`pack`)
//!         for each 4 rows                                                      (`tile`)
//!             12 vectors of accumulators: 4 rows x 3 x 8 columns
//!             for each 4 steps of the depth: 4 rows, spread, x 3 packed vectors
//! ```
//!
//! Packing puts columns side by side, so that accumulators come out as the kernel wants them and nothing is summed across
//! lanes. It costs as much as multiplying by four rows; fewer rows do without (`line`).
//!
//! Of columns that are not there, the last one is taken instead: that is in memory, and nobody reads the result. Nothing
//! depends on what lies behind the depth either: one of the factors is made zero there.
//!
//! AVX-VNNI's `vpdpbusd` multiplies unsigned by signed bytes. Where neither operand is known not to be negative, 128 is
//! added to the bytes of one of them (as the exclusive or with 0x80), and accumulators start at -128 times the sum of the
//! other's.
//!
//! AVX2 has products of unsigned by signed bytes in `vpmaddubsw`, but their sums of two saturate at 16 bits. They do not
//! where the unsigned byte is at most 127, that is, where an operand is known not to be negative; then another instruction
//! adds the sums of two in pairs. Otherwise `vpmaddwd` multiplies bytes that are widened to pairs of 16-bit integers:
//!
//! ```text
//! four steps of the depth:    b0 b1 b2 b3
//! even pair:                  b0 . b2 .     (shifted left and back)
//! odd pair:                   b1 . b3 .     (shifted right)
//! ```

mod frame;
mod line;
mod pack;
mod tile;

use ffc_codegen::{Architecture, Target};
use ffc_ir::kernel::{Contraction, Program, Side};
use iced_x86::code_asm::{
    AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, CodeAssembler, CodeLabel, qword_ptr, r8, r9, r10, r11,
    r12, r13, r14, r15, registers, rsp,
};

use crate::x86::{Code, encoded, x86};

/// Most columns of a call.
pub(crate) const SPAN: usize = 96;

/// Bytes between the accumulators of neighbouring rows.
pub(crate) const PITCH: usize = 4 * SPAN;

/// Most rows of a call.
pub(crate) const CHUNK: usize = 96;

/// Rows of a tile. Accumulators are written for a multiple of it.
pub(crate) const HEIGHT: usize = 4;

/// Packed vectors side by side.
const WIDTH: usize = 3;

/// Columns in a packed vector.
const LANES: usize = 8;

/// Registers of their addresses.
const LINES: [AsmRegister64; LANES] = [r8, r9, r10, r11, r12, r13, r14, r15];

/// Bytes of a vector.
const VECTOR: usize = 32;

/// Instructions for sums of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// AVX-VNNI: four products of bytes to a lane.
    Bytes,
    /// AVX2, of bytes of which one is not negative: two products to a half of a lane.
    Halves,
    /// AVX2: two products of 16-bit integers to a lane.
    Words,
}

impl Products {
    /// What a target has, if it is one for this module.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        if target.architecture != Architecture::X86_64 || !target.has("avx2") {
            return None;
        }
        Some(if target.has("avxvnni") { Self::Bytes } else { Self::Words })
    }

    /// Bytes of a packed vector's four steps of the depth.
    fn group(self) -> usize {
        match self {
            Self::Bytes | Self::Halves => VECTOR,
            Self::Words => 2 * VECTOR,
        }
    }

    /// Depth that is packed at a time: what is packed of a strip fits in the first-level cache of old machines.
    fn piece(self) -> usize {
        1024 * VECTOR / self.group()
    }
}

/// Which factor instructions may take as unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsigned {
    Rows,
    Columns,
    /// Neither as it is: 128 is added to one.
    Shifted,
}

/// The function that computes accumulators of a contraction, by the convention of System V:
/// `(rows: *i8, how many, columns: *i8, how many, depth, accumulators: *i32)`. Rows and columns are so many bytes apart;
/// if it `adds`, sums grow by what accumulators hold.
///
/// # Errors
/// When rows are too long for the distances in instructions.
pub(crate) fn function(
    products: Products,
    program: &Program,
    contraction: &Contraction,
    [rows, columns]: [usize; 2],
    adds: bool,
) -> Result<Code, String> {
    for (operand, pitch) in [(contraction.lhs, rows), (contraction.rhs, columns)] {
        if i32::try_from(LANES * WIDTH * pitch).is_err() {
            return Err(format!("the rows of `{}` are too long", program.buffers[operand].name));
        }
    }
    let unsigned = match contraction.non_negative {
        Some(Side::Lhs) => Unsigned::Rows,
        Some(Side::Rhs) => Unsigned::Columns,
        None => Unsigned::Shifted,
    };
    let products = match products {
        Products::Words if unsigned != Unsigned::Shifted => Products::Halves,
        products => products,
    };
    let code = encoded(CodeAssembler::new(64));
    Ok(Emitter { code, products, unsigned, rows, columns, adds }.function())
}

/// The function under construction.
struct Emitter {
    code: CodeAssembler,
    products: Products,
    unsigned: Unsigned,
    /// Bytes between rows.
    rows: usize,
    /// Bytes between columns.
    columns: usize,
    /// Whether sums grow by what accumulators hold.
    adds: bool,
}

impl Emitter {
    fn function(mut self) -> Code {
        let (mut few, mut done) = (self.label(), self.label());
        self.enter();
        x86!(self; cmp(qword_ptr(rsp + frame::ROWS), offset(HEIGHT)); jb(few));
        self.pieces();
        x86!(self; jmp(done));
        self.place(&mut few);
        self.lines();
        self.place(&mut done);
        self.leave();
        let bytes = encoded(self.code.assemble(0));
        Code { end: bytes.len(), bytes }
    }

    /// Whether 128 is added to a factor.
    fn shifts(&self) -> bool {
        self.products == Products::Bytes && self.unsigned == Unsigned::Shifted
    }

    fn label(&mut self) -> CodeLabel {
        self.code.create_label()
    }

    /// The label stands before the next instruction.
    fn place(&mut self, label: &mut CodeLabel) {
        encoded(self.code.set_label(label));
        // No code, but two labels may stand at the same place.
        encoded(self.code.zero_bytes());
    }

    /// The addresses in [`LINES`], the first of them known and each `pitch` bytes behind the one before; of `count` lines
    /// the last one's in place of those that are not there.
    fn addresses(&mut self, count: AsmRegister64, pitch: usize) {
        for (index, pair) in LINES.windows(2).enumerate() {
            let (last, next) = (pair[0], pair[1]);
            x86!(self; lea(next, last + offset(pitch)); cmp(count, offset(index + 1)); cmovle(next, last));
        }
    }

    fn zero(&mut self, vectors: std::ops::Range<usize>) {
        for vector in vectors.map(ymm) {
            x86!(self; vpxor(vector, vector, vector));
        }
    }

    /// Adds products of two bytes in each half of a lane to `sum`.
    fn add_halves(&mut self, sum: AsmRegisterYmm, products: AsmRegisterYmm, ones: AsmRegisterYmm) {
        x86!(self; vpmaddwd(products, products, ones); vpaddd(sum, sum, products));
    }

    /// Four bytes in each lane as their even and their odd pair.
    fn pairs(&mut self, bytes: AsmRegisterYmm, even: AsmRegisterYmm, odd: AsmRegisterYmm) {
        x86!(self; vpsllw(even, bytes, 8); vpsraw(even, even, 8); vpsraw(odd, bytes, 8));
    }
}

/// A distance as instructions hold it.
fn offset(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("distances are checked to fit")
}

fn ymm(number: usize) -> AsmRegisterYmm {
    use registers::ymm::*;
    const ALL: [AsmRegisterYmm; 16] = [
        ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15,
    ];
    ALL[number]
}

fn xmm(number: usize) -> AsmRegisterXmm {
    use registers::xmm::*;
    const ALL: [AsmRegisterXmm; 16] = [
        xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15,
    ];
    ALL[number]
}
