//! Contractions against plain loops, on every instruction set that this machine has.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_ir::kernel::{At, BufferClass, Expr, Extent, Fold, Over, Reduce, Side, Store};
use ffc_ir::numerics::Arith;
use ffc_ir::types::DType;
use ffc_reference::Values;
use harness::{Case, Code, Random, check, memory, random_values, targets};

/// Stores the accumulators.
fn sums(samples: usize, [rows, columns, depth]: [Extent; 3], side: Option<Side>) -> Case {
    let mut case = Case::new(samples, rows, columns);
    case.contract(depth, side);
    let out = case.arena(DType::I32, [rows, columns]);
    let value = case.builder.expr(Expr::Accumulator);
    case.stage(Over::Elements).stores.push(Store { buffer: out, at: At::Element, value });
    case
}

fn operands(case: &Case, extreme: Option<[i8; 2]>, random: &mut Random) -> Vec<Values> {
    let side = case.contraction.unwrap().non_negative;
    let values = case.buffers.values().map(|buffer| random_values(buffer, random));
    let mut values: Vec<Values> = values.collect();
    for (index, own) in [Side::Lhs, Side::Rhs].into_iter().enumerate() {
        let Values::I8(elements) = &mut values[index] else { unreachable!("operands are i8") };
        for element in elements {
            *element = extreme.map_or(*element, |extreme| extreme[index]);
            if side == Some(own) {
                *element = element.abs();
            }
        }
    }
    values
}

/// Runs a case that stores accumulators and compares them with a triple loop.
fn compare(case: &Case, extreme: Option<[i8; 2]>, samples: usize, random: &mut Random) {
    let values = operands(case, extreme, random);
    let [Values::I8(lhs), Values::I8(rhs)] = &values[..2] else { unreachable!("operands are i8") };
    let extents = [case.rows, case.columns, case.contraction.unwrap().depth];
    let [rows, columns, depth] = extents.map(|extent| extent.size(samples));
    let (program, out) = (case.program(), &case.buffers.values().nth(2).unwrap());
    for target in targets() {
        let memories: Vec<_> = case
            .buffers
            .iter()
            .zip(&values)
            .map(|((handle, _), values)| memory(case, handle, values, samples, random))
            .collect();
        Code::new(&program, &target).call(0, &memories, samples, 0, rows);
        for i in 0..rows {
            for j in 0..columns {
                let exact: i32 =
                    (0..depth).map(|d| i32::from(lhs[i * depth + d]) * i32::from(rhs[j * depth + d])).sum();
                let at = 4 * (i * out.stride() + j);
                let found = i32::from_le_bytes(memories[2].bytes()[at..at + 4].try_into().unwrap());
                assert_eq!(found, exact, "({i}, {j}) of {rows} x {columns} x {depth} on {}", target.name);
            }
        }
    }
}

const SIDES: [Option<Side>; 3] = [None, Some(Side::Lhs), Some(Side::Rhs)];

#[test]
fn shapes() {
    let mut random = Random(1);
    let shapes = [
        [1, 1, 1],
        [1, 4, 1],
        [5, 9, 1],
        [2, 3, 5],
        [3, 4, 16],
        [7, 13, 17],
        [31, 29, 37],
        [49, 5, 63],
        [97, 1, 64],
        [1, 101, 65],
        [6, 8, 784],
        [50, 10, 100],
        // Rows are packed: whole and partial groups of them, several chunks, and more depth than fits for many rows.
        [33, 300, 130],
        [150, 90, 33],
        [17, 97, 3000],
        [20, 40, 9000],
        // All columns are packed, and panels contracted ahead.
        [70, 100, 65],
        // Deep enough to be contracted step by step while the panel before is evaluated: with a last panel that is whole
        // or partial, with more steps than rows to spread them over, and where there is one panel only.
        [70, 100, 200],
        [64, 96, 130],
        [100, 97, 1100],
        [40, 32, 200],
        [40, 20, 200],
    ];
    for shape in shapes {
        for side in SIDES {
            compare(&sums(1, shape.map(Extent::Const), side), None, 1, &mut random);
        }
    }
}

/// Around what contractions do at a time: rows, columns and depth of tiles, strips, panels, chunks and pieces.
#[test]
fn edges() {
    let mut random = Random(6);
    let rows = [3, 4, 5, 95, 96, 97, 100].map(|rows| [rows, 25, 33]);
    let columns = [1, 8, 9, 16, 17, 23, 24, 25, 95, 96, 97, 121].map(|columns| [5, columns, 35]);
    let depths = [3, 4, 8, 31, 32, 33, 511, 512, 513, 1023, 1024, 1025, 2049].map(|depth| [6, 10, depth]);
    for shape in [&rows[..], &columns, &depths].concat() {
        for few in [false, true] {
            let rows = if few { shape[0].min(2) } else { shape[0] };
            for side in SIDES {
                let shape = [rows, shape[1], shape[2]].map(Extent::Const);
                compare(&sums(1, shape, side), None, 1, &mut random);
            }
        }
    }
}

#[test]
fn extremes() {
    let mut random = Random(2);
    for extreme in
        [[127, 127], [127, -127], [-127, 127], [-127, -127], [-128, -128], [127, -128], [-128, 127]]
    {
        for side in SIDES {
            // The magnitude of -128 is not among the values of a side without negative ones.
            let [lhs, rhs] = extreme;
            if matches!((side, lhs, rhs), (Some(Side::Lhs), -128, _) | (Some(Side::Rhs), _, -128)) {
                continue;
            }
            for rows in [1, 4] {
                compare(&sums(1, [rows, 6, 2048].map(Extent::Const), side), Some(extreme), 1, &mut random);
            }
        }
    }
}

#[test]
fn panels() {
    let mut random = Random(3);
    for shape in [[51, 1030, 1100], [75, 102, 300]] {
        reduced_panels(shape, &mut random);
    }
}

fn reduced_panels(shape: [usize; 3], random: &mut Random) {
    let mut case = sums(1, shape.map(Extent::Const), None);
    compare(&case, None, 1, random);
    // Maxima and sums over panels, and an i8 matrix whose padding is written once.
    let [rows, columns, _] = shape.map(Extent::Const);
    let sum = case.builder.expr(Expr::Accumulator);
    let most = case.arena(DType::I32, [rows, Extent::Const(1)]);
    let total = case.arena(DType::I32, [rows, Extent::Const(1)]);
    let narrow = case.arena(DType::I8, [rows, columns]);
    case.stages[0].reduces.push(Reduce { op: Fold::MaxI32, value: sum, into: most });
    case.stages[0].reduces.push(Reduce { op: Fold::SumI32, value: sum, into: total });
    case.stages[0].stores.push(Store { buffer: narrow, at: At::Element, value: sum });
    let f = case.builder.to_f32(sum);
    let exact = case.arena(DType::F32, [rows, Extent::Const(1)]);
    case.stages[0].reduces.push(Reduce { op: Fold::SumF32, value: f, into: exact });
    let values = operands(&case, None, random);
    check(&case, &values, 1, random);
    // Some rows only.
    let row = case.builder.expr(Expr::RowIndex);
    let third = case.builder.rem(row, 3);
    case.stages[0].when = Some(third);
    check(&case, &values, 1, random);
}

#[test]
fn batches_smaller_than_their_buffers() {
    let mut random = Random(4);
    let (rows, fixed) = (Extent::Rows(2), Extent::Const(21));
    for shape in [[rows, fixed, fixed], [fixed, rows, fixed], [fixed, fixed, rows], [rows, rows, fixed]] {
        for side in SIDES {
            let mut case = sums(19, shape, side);
            let value = case.builder.expr(Expr::Accumulator);
            let along = case.arena(DType::I8, [shape[0], shape[1]]);
            let across = case.arena(DType::I8, [shape[1], shape[0]]);
            let wide = case.arena(DType::I16, [shape[1], shape[0]]);
            let f = case.builder.to_f32(value);
            let sum = case.arena(DType::F32, [shape[0], Extent::Const(1)]);
            case.stages[0].stores.push(Store { buffer: along, at: At::Element, value });
            case.stages[0].stores.push(Store { buffer: across, at: At::Transposed, value });
            case.stages[0].stores.push(Store { buffer: wide, at: At::Transposed, value });
            case.stages[0].reduces.push(Reduce { op: Fold::SumF32, value: f, into: sum });
            for samples in [1, 5, 8, 19] {
                let values = operands(&case, None, &mut random);
                check(&case, &values, samples, &mut random);
            }
        }
    }
}

#[test]
fn later_stages_see_earlier_ones() {
    let mut random = Random(5);
    let [rows, columns, depth] = [Extent::Rows(3), Extent::Const(37), Extent::Const(50)];
    let mut case = Case::new(40, rows, columns);
    case.contract(depth, Some(Side::Lhs));
    let scores = case.buffer(BufferClass::Scores, DType::F32, [rows, columns]);
    let most = case.arena(DType::F32, [rows, Extent::Const(1)]);
    let total = case.arena(DType::F32, [rows, Extent::Const(1)]);
    let m = &mut case.builder;
    let sum = m.expr(Expr::Accumulator);
    let sum = m.to_f32(sum);
    let (score, largest, all) = (m.load(scores, At::Element), m.load(most, At::Row), m.load(total, At::Row));
    let centred = m.fsub(score, largest);
    let shrink = m.f32(1.0 / 4096.0);
    let centred = m.fmul(centred, shrink);
    let power = ffc_ir::numerics::exp(m, centred);
    let share = m.fdiv(score, all);
    let one = m.i32(1);
    let index = m.expr(Expr::RowIndex);
    let odd = m.and(index, one);
    let stage = case.stage(Over::Elements);
    stage.stores.push(Store { buffer: scores, at: At::Element, value: sum });
    stage.reduces.push(Reduce { op: Fold::MaxF32, value: sum, into: most });
    let stage = case.stage(Over::Elements);
    stage.stores.push(Store { buffer: scores, at: At::Element, value: power });
    stage.reduces.push(Reduce { op: Fold::SumF32, value: power, into: total });
    let stage = case.stage(Over::Elements);
    stage.when = Some(odd);
    stage.stores.push(Store { buffer: scores, at: At::Element, value: share });
    for samples in [1, 7, 40] {
        let values = operands(&case, None, &mut random);
        check(&case, &values, samples, &mut random);
    }
}
