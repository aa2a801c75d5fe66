//! How long a training step in single precision takes: `cargo test --release -p ffc-reference -- --ignored --nocapture`.

mod build;

use std::time::Instant;

use build::{buffer, kernel, program, stage, store};
use ffc_ir::Handle;
use ffc_ir::kernel::{
    At, Buffer, BufferClass, Contraction, Expr, Extent, Geometry, KernelBuilder, Over, Plane, Program,
    Purpose,
};
use ffc_ir::numerics::Arith;
use ffc_ir::types::DType;
use ffc_reference::{Controls, Executor, Inputs, Samples};

const BATCH: usize = 128;

/// A layer as local training runs it: forward, an error from the activation, and the update of the weight.
fn layer(p: &mut Program, number: usize, input: Handle<Buffer>, sizes: [usize; 2]) -> Handle<Buffer> {
    let [inputs, outputs] = sizes.map(Extent::Const);
    let rows = Extent::Rows(1);
    let class = BufferClass::Param { param: number, plane: Plane::Value };
    let arena = BufferClass::Arena;
    let mut add = |name: &str, shape, class| buffer(p, &format!("{name}{number}"), DType::F32, shape, class);
    let weight = add("weight", [outputs, inputs], class);
    let input_t = add("input_t", [inputs, rows], arena);
    let out = add("out", [rows, outputs], arena);
    let error_t = add("error_t", [outputs, rows], arena);

    let mut m = KernelBuilder::default();
    let x = m.load(input, At::Element);
    let stages = vec![stage(Over::Elements, vec![store(input_t, At::Transposed, x)], vec![])];
    kernel(p, [rows, inputs], None, m, stages);

    let mut m = KernelBuilder::default();
    let acc = m.expr(Expr::Accumulator);
    let zero = m.f32(0.0);
    let y = m.fmax(acc, zero);
    let half = m.f32(0.5);
    let error = m.fsub(y, half);
    let active = m.flt(zero, y);
    let error = m.select(active, error, zero);
    let contraction =
        Contraction { geometry: Geometry::Dense, lhs: input, rhs: weight, depth: inputs, non_negative: None };
    let stores = vec![store(out, At::Element, y), store(error_t, At::Transposed, error)];
    kernel(p, [rows, outputs], Some(contraction), m, vec![stage(Over::Elements, stores, vec![])]);

    let mut m = KernelBuilder::default();
    let gradient = m.expr(Expr::Accumulator);
    let rate = m.f32(1.0e-4);
    let step = m.fmul(gradient, rate);
    let old = m.load(weight, At::Element);
    let new = m.fsub(old, step);
    let contraction = Contraction {
        geometry: Geometry::Dense,
        lhs: error_t,
        rhs: input_t,
        depth: rows,
        non_negative: None,
    };
    let stages = vec![stage(Over::Elements, vec![store(weight, At::Element, new)], vec![])];
    kernel(p, [outputs, inputs], Some(contraction), m, stages);
    out
}

#[test]
#[ignore = "a measurement"]
fn float_step_of_an_mlp() {
    let mut p = program(BATCH);
    p.features = 784;
    let shape = [Extent::Rows(1), Extent::Const(784)];
    let mut x = buffer(&mut p, "input", DType::F32, shape, BufferClass::Input);
    let mut weights = Vec::new();
    for (number, sizes) in [[784, 1000], [1000, 1000], [1000, 10]].into_iter().enumerate() {
        x = layer(&mut p, number, x, sizes);
        weights.push((format!("weight{number}"), sizes));
    }
    let mut executor = Executor::new(p);
    for (name, [inputs, outputs]) in weights {
        let weight = executor.program().buffers.find(|buffer| buffer.name == name).unwrap();
        let values: Vec<f32> = (0..inputs * outputs).map(|i| (i as f32 * 1.7).sin() * 0.05).collect();
        executor.set_buffer_f32(weight, &values).unwrap();
    }
    let samples: Vec<f32> = (0..BATCH * 784).map(|i| (i as f32 * 0.37).sin().abs()).collect();
    let inputs = Inputs { samples: Samples::F32(&samples), labels: &[] };
    let mut best = f64::INFINITY;
    for _ in 0..50 {
        let start = Instant::now();
        executor.run(Purpose::Train, inputs, Controls::default()).unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("784-1000-1000-10, batch {BATCH}: {:.2} ms a step", best * 1e3);
}
