//! Transposing bytes: rows of a chunk that were stored along become columns in memory.
//!
//! A store at [`At::Transposed`](ffc_ir::kernel::At) would scatter single bytes. Instead the rows of a chunk go to the
//! frame, 16 bytes a vector, and once a panel of columns is complete 64 rows by 16 columns are turned at a time. Turning
//! 16 x 16 bytes is four rounds of the same interleaving: of the eight bits that number a byte (four of its row, four of
//! its column), each round moves the row's highest to the column's lowest end.

use iced_x86::code_asm::AsmRegister64;

use super::asm::{ALL, Asm, LANES, Mask, Memory, Op, Operand, Vector, Width};

/// Rows that are turned at a time.
pub(super) const ROWS: usize = 64;

/// Turns 64 rows of 16 bytes that are `pitch` bytes apart in the frame; `result[column]` is the register of a column.
pub(super) fn turn(asm: &mut Asm, base: AsmRegister64, offset: usize, pitch: usize) -> [Vector; LANES] {
    for row in 0..LANES {
        let to = vector(row);
        let at = |quarter: usize| Memory::at(base, offset + (LANES * quarter + row) * pitch);
        asm.load(Width::Narrow, Op::Move, to, at(0), ALL);
        for quarter in 1..4 {
            asm.binary_by(
                Width::Wide,
                Op::InsertQuarter,
                to,
                to,
                Operand::Memory(at(quarter)),
                u32::try_from(quarter).expect("four quarters"),
            );
        }
    }
    let mut from = 0;
    for _ in 0..4 {
        let to = LANES - from;
        for pair in 0..LANES / 2 {
            let (a, b) = (vector(from + pair), Operand::Vector(vector(from + pair + LANES / 2)));
            asm.binary(Width::Wide, Op::LowBytes, vector(to + 2 * pair), a, b, ALL);
            asm.binary(Width::Wide, Op::HighBytes, vector(to + 2 * pair + 1), a, b, ALL);
        }
        from = to;
    }
    std::array::from_fn(|column| vector(from + column))
}

/// Stores 64 rows of a column, those of the mask.
pub(super) fn store(asm: &mut Asm, to: Memory, column: Vector, mask: Mask) {
    asm.store(Width::Wide, Op::StoreBytes, to, column, mask);
}

fn vector(number: usize) -> Vector {
    Vector::try_from(number).expect("there are 32 registers")
}
