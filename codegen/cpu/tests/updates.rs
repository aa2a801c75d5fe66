//! Updates of fixed-point weights against the reference executor: steps far beyond 16 bits and within, weights at their
//! limits, panels that are whole, partial and narrow, rows that a gate leaves out.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_ir::kernel::{At, BufferClass, Expr, Extent, Fold, Over, Plane, Reduce, Store};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::DType;
use ffc_reference::Values;
use harness::{Case, Random, check, random_values};

/// `weight -= gradient * factor`, in two planes, and whether a row saturated; with momentum by way of a velocity.
fn update(rows: usize, columns: usize, gated: bool, momentum: Option<f32>) -> Case {
    let [rows, columns, one] = [rows, columns, 1].map(Extent::Const);
    let mut case = Case::new(1, rows, columns);
    let high = case.param(DType::I8, [rows, columns]);
    let low = case.buffer(BufferClass::Param { param: 0, plane: Plane::Low }, DType::I8, [rows, columns]);
    let gradient = case.arena(DType::I32, [rows, columns]);
    let factor = case.arena(DType::F32, [rows, one]);
    let live = case.arena(DType::I32, [rows, one]);
    let saturated = case.arena(DType::I32, [rows, one]);
    let velocity = momentum.map(|momentum| (case.param(DType::I16, [rows, columns]), momentum));
    let m = &mut case.builder;
    let [key, row, column] = [m.i32(77), m.expr(Expr::RowIndex), m.expr(Expr::ColumnIndex)];
    let noise = numerics::draw_half(m, key, row, column);
    let [high_byte, low_byte] = [high, low].map(|plane| m.load(plane, At::Element));
    let weight = numerics::join_planes(m, high_byte, low_byte);
    let gradient = m.load(gradient, At::Element);
    let gradient = m.to_f32(gradient);
    let factor = m.load(factor, At::Row);
    let kept = velocity.map(|(buffer, momentum)| {
        let before = m.load(buffer, At::Element);
        (m.to_f32(before), m.f32(momentum))
    });
    let step = numerics::sgd_step(m, weight, gradient, factor, noise, kept);
    let rounded = numerics::high_plane(m, step.weight);
    let gate = m.load(live, At::Row);
    let stage = case.stage(Over::Elements);
    stage.when = gated.then_some(gate);
    let moved = velocity.map(|(buffer, _)| buffer).zip(step.velocity);
    for (buffer, value) in [(high, rounded), (low, step.weight)].into_iter().chain(moved) {
        stage.stores.push(Store { buffer, at: At::Element, value });
    }
    stage.reduces.push(Reduce { op: Fold::MaxI32, value: step.saturated, into: saturated });
    case
}

#[test]
fn updates() {
    let mut random = Random(11);
    for columns in [1, 7, 16, 17, 31, 32, 33, 48, 63, 64, 200] {
        for rows in [1, 2, 5, 130] {
            for (gated, momentum) in [(false, None), (true, None), (false, Some(0.9)), (true, Some(0.5))] {
                let case = update(rows, columns, gated, momentum);
                let mut values: Vec<Values> =
                    case.buffers.values().map(|buffer| random_values(buffer, &mut random)).collect();
                let Values::I32(gradients) = &mut values[2] else { unreachable!("gradients are i32") };
                // From steps of less than one to steps that no weight survives.
                gradients.iter_mut().for_each(|gradient| *gradient >>= random.below(32));
                let Values::I32(live) = &mut values[4] else { unreachable!("gates are i32") };
                live.iter_mut().for_each(|live| *live &= -i32::from(random.below(3) == 0));
                check(&case, &values, 1, &mut random);
            }
        }
    }
}
