//! Small kernels whose results are worked out by hand.

mod build;

use build::{buffer, kernel, program, stage, store};
use ffc_ir::kernel::{
    At, BufferClass, Contraction, Expr, Extent, Fold, Geometry, KernelBuilder, Over, Plane, Program, Purpose,
    Reduce, Stage,
};
use ffc_ir::module::{Granularity, Param, ParamRole, ParamStorage};
use ffc_ir::numerics::{Arith, ordered_sum};
use ffc_ir::types::DType;
use ffc_reference::check::verify_structure;
use ffc_reference::{Controls, ExecError, Executor, Inputs, Samples};

const ARENA: BufferClass = BufferClass::Arena;

fn inputs<'a>(samples: &'a [f32], labels: &'a [i32]) -> Inputs<'a> {
    Inputs { samples: Samples::F32(samples), labels }
}

fn executor(program: Program) -> Executor {
    assert_eq!(verify_structure(&program), Ok(()));
    Executor::new(program)
}

#[test]
fn contracts_with_an_epilogue() {
    let mut p = program(2);
    let shape = |rows, columns| [Extent::Const(rows), Extent::Const(columns)];
    let lhs = buffer(&mut p, "lhs", DType::I8, shape(2, 3), ARENA);
    let rhs = buffer(&mut p, "rhs", DType::I8, shape(2, 3), ARENA);
    let bias = buffer(&mut p, "bias", DType::I32, shape(1, 2), ARENA);
    let out = buffer(&mut p, "out", DType::I32, shape(2, 2), ARENA);
    let flipped = buffer(&mut p, "flipped", DType::I8, shape(2, 2), ARENA);
    let mut m = KernelBuilder::default();
    let acc = m.expr(Expr::Accumulator);
    let bias_value = m.load(bias, At::Column);
    let sum = m.iadd(acc, bias_value);
    let contraction =
        Contraction { geometry: Geometry::Dense, lhs, rhs, depth: Extent::Const(3), non_negative: None };
    let stores = vec![store(out, At::Element, sum), store(flipped, At::Transposed, sum)];
    let stages = vec![stage(Over::Elements, stores, vec![])];
    let k = kernel(&mut p, shape(2, 2), Some(contraction), m, stages);
    let mut e = executor(p);
    e.set_buffer_i32(lhs, &[1, 2, 3, -4, 5, -6]).unwrap();
    e.set_buffer_i32(rhs, &[7, 8, 9, 10, -11, 12]).unwrap();
    e.set_buffer_i32(bias, &[1000, -1]).unwrap();
    e.run_kernel(k, 1).unwrap();
    assert_eq!(e.buffer_i32(out).unwrap(), [1050, 23, 958, -168]);
    // Truncated to eight bits.
    assert_eq!(e.buffer_i32(flipped).unwrap(), [1050 - 1024, 958 - 1024, 23, 256 - 168]);
}

#[test]
fn deep_integer_sums_are_exact() {
    let mut p = program(1);
    let depth = 3001;
    let shape = [Extent::Const(1), Extent::Const(depth)];
    let one = [Extent::Const(1); 2];
    let lhs = buffer(&mut p, "lhs", DType::I8, shape, ARENA);
    let out = buffer(&mut p, "out", DType::I32, one, ARENA);
    let mut m = KernelBuilder::default();
    let acc = m.expr(Expr::Accumulator);
    let contraction = Contraction {
        geometry: Geometry::Dense,
        lhs,
        rhs: lhs,
        depth: Extent::Const(depth),
        non_negative: None,
    };
    let stages = vec![stage(Over::Elements, vec![store(out, At::Scalar, acc)], vec![])];
    let k = kernel(&mut p, one, Some(contraction), m, stages);
    let mut e = executor(p);
    let mut values = vec![-128; depth];
    values[17] = 1;
    e.set_buffer_i32(lhs, &values).unwrap();
    e.run_kernel(k, 1).unwrap();
    assert_eq!(e.buffer_i32(out).unwrap(), [3000 * 128 * 128 + 1]);
}

/// Norms of rows, then each row divided by its norm, but only where the label is 1.
#[test]
fn reduces_and_masks() {
    let mut p = program(3);
    let features = Extent::Const(4);
    let input = buffer(&mut p, "input", DType::F32, [Extent::Rows(1), features], BufferClass::Input);
    let labels =
        buffer(&mut p, "labels", DType::I32, [Extent::Rows(1), Extent::Const(1)], BufferClass::Labels);
    let norms = buffer(&mut p, "norms", DType::F32, [Extent::Rows(1), Extent::Const(1)], ARENA);
    let out = buffer(&mut p, "out", DType::F32, [Extent::Rows(1), features], ARENA);
    let mut m = KernelBuilder::default();
    let x = m.load(input, At::Element);
    let square = m.fmul(x, x);
    let norm = m.load(norms, At::Row);
    let root = m.sqrt(norm);
    let y = m.fdiv(x, root);
    let label = m.load(labels, At::Row);
    let sum = Reduce { op: Fold::SumF32, value: square, into: norms };
    let divide =
        Stage { when: Some(label), ..stage(Over::Elements, vec![store(out, At::Element, y)], vec![]) };
    let stages = vec![
        stage(Over::Elements, vec![], vec![sum]),
        stage(Over::Rows, vec![store(norms, At::Row, root)], vec![]),
        stage(Over::Rows, vec![store(norms, At::Row, square_of(&mut m, norm))], vec![]),
        divide,
    ];
    kernel(&mut p, [Extent::Rows(1), features], None, m, stages);
    let mut e = executor(p).with_arena(true).unwrap();
    let samples = [3.0, 0.0, 4.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    e.run(Purpose::Train, inputs(&samples, &[1, 0]), Controls::default()).unwrap();
    assert_eq!(e.buffer_f32(norms).unwrap(), [25.0, 4.0, 0.0]);
    assert_eq!(e.buffer_f32(out).unwrap()[..8], [0.6, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let rejected = e.run(Purpose::Train, inputs(&[0.0; 16], &[0; 4]), Controls::default()).unwrap_err();
    assert_eq!(rejected.to_string(), "4 samples in a batch: `input` has room for 1 to 3");
    let rejected = e.run(Purpose::Infer, inputs(&samples, &[]), Controls::default()).unwrap_err();
    assert_eq!(rejected.to_string(), "the program has no schedule `infer`");
}

fn square_of(m: &mut KernelBuilder, x: ffc_ir::Handle<Expr>) -> ffc_ir::Handle<Expr> {
    m.fmul(x, x)
}

#[test]
fn sums_keep_their_order_across_tiles() {
    let mut p = program(1);
    let columns = 1300;
    let one = Extent::Const(1);
    let x = buffer(&mut p, "x", DType::F32, [one, Extent::Const(columns)], ARENA);
    let sum = buffer(&mut p, "sum", DType::F32, [one, one], ARENA);
    let mut m = KernelBuilder::default();
    let value = m.load(x, At::Element);
    let stages = vec![stage(Over::Elements, vec![], vec![Reduce { op: Fold::SumF32, value, into: sum }])];
    let k = kernel(&mut p, [one, Extent::Const(columns)], None, m, stages);
    let mut e = executor(p);
    let values: Vec<f32> = (0..columns).map(|i| (i as f32).sin() * 10.0f32.powi(i as i32 % 7)).collect();
    e.set_buffer_f32(x, &values).unwrap();
    e.run_kernel(k, 1).unwrap();
    assert_eq!(e.buffer_f32(sum).unwrap(), [ordered_sum(values)]);
}

/// `a` to `b`, then `b` to `c`, with `a`, `b`, `c` placed by the caller.
fn chain(offsets: [usize; 3]) -> Executor {
    let mut p = program(2);
    let shape = [Extent::Rows(1), Extent::Const(4)];
    let input = buffer(&mut p, "input", DType::F32, shape, BufferClass::Input);
    let names = ["a", "b", "c"];
    let abc = names.map(|name| buffer(&mut p, name, DType::F32, shape, ARENA));
    for (buffer, offset) in abc.into_iter().zip(offsets) {
        p.buffers[buffer].offset = offset;
    }
    let [a, b, c] = abc;
    for (from, to, both) in [(input, a, None), (a, b, None), (b, c, Some(a))] {
        let mut m = KernelBuilder::default();
        let mut value = m.load(from, At::Element);
        if let Some(both) = both {
            let other = m.load(both, At::Element);
            value = m.fadd(value, other);
        }
        let stages = vec![stage(Over::Elements, vec![store(to, At::Element, value)], vec![])];
        kernel(&mut p, shape, None, m, stages);
    }
    p.arena_bytes = 3 * 128;
    executor(p).with_arena(true).expect("buffers lie in the arena")
}

#[test]
fn overlapping_buffers_are_found() {
    let run = |offsets| {
        let mut executor = chain(offsets);
        executor.run(Purpose::Train, inputs(&[1.0; 8], &[]), Controls::default()).map_err(|e| e.to_string())
    };
    assert_eq!(run([0, 128, 256]), Ok(()));
    let message = "kernel `kernel1` needs `a`, whose bytes `b` has overwritten";
    assert_eq!(run([0, 64, 256]), Err(message.to_string()));
    let message = "kernel `kernel2` needs `b`, whose bytes `c` has overwritten";
    assert_eq!(run([0, 128, 192]), Err(message.to_string()));
    // Without the check nothing is wrong.
    let mut unchecked = chain([0, 0, 0]).with_arena(false).unwrap();
    assert_eq!(unchecked.run(Purpose::Train, inputs(&[1.0; 8], &[]), Controls::default()), Ok(()));
    let misplaced = Executor::new(unchecked.program().clone());
    let mut program = misplaced.program().clone();
    program.arena_bytes = 64;
    let error = Executor::new(program).with_arena(true).unwrap_err();
    assert_eq!(error, ExecError::Misplaced { buffer: "a".to_string() });
}

#[test]
fn weights_by_name() {
    let mut p = program(1);
    let storage = ParamStorage::Fixed16(Granularity::Channel);
    p.params.push(Param { name: "fc1.weight".into(), shape: [2, 3], storage, role: ParamRole::Weight });
    let class = |plane| BufferClass::Param { param: 0, plane };
    let shape = [Extent::Const(2), Extent::Const(3)];
    let high = buffer(&mut p, "high", DType::I8, shape, class(Plane::Value));
    buffer(&mut p, "low", DType::I8, shape, class(Plane::Low));
    let scale =
        buffer(&mut p, "scale", DType::F32, [Extent::Const(2), Extent::Const(1)], class(Plane::Scale));
    let mut e = executor(p).with_arena(true).unwrap();
    let weights = [1.0f32, -0.5, 0.25, 1e-3, 0.0, -2e-3];
    e.set_weights("fc1.weight", &weights).unwrap();
    // Two thirds of 127.
    assert_eq!(e.buffer_i32(high).unwrap(), [85, -42, 21, 42, 0, -85]);
    let scales = e.buffer_f32(scale).unwrap();
    assert_eq!(scales, [1.0 * 1.5 / 127.0, 2e-3f32 * 1.5 / 127.0]);
    for (index, (found, weight)) in e.weights("fc1.weight").unwrap().iter().zip(weights).enumerate() {
        assert!((found - weight).abs() <= scales[index / 3] / 512.0 * 1.001, "{found} {weight}");
    }
    let error = e.weights("fc2.weight").unwrap_err().to_string();
    assert_eq!(error, "the program has no parameter `fc2.weight`");
    let error = e.set_weights("fc1.weight", &[0.0]).unwrap_err().to_string();
    assert_eq!(error, "`fc1.weight` has 1 elements, not 6");
}

/// What `verify_structure` says of one kernel over `[samples, 4]`, made by `make` from `x`, `y` and a vector `v`.
fn refusal(
    make: impl FnOnce(&mut KernelBuilder, [ffc_ir::Handle<ffc_ir::kernel::Buffer>; 3]) -> Vec<Stage>,
) -> String {
    let mut p = program(2);
    let shape = [Extent::Rows(1), Extent::Const(4)];
    let x = buffer(&mut p, "x", DType::F32, shape, ARENA);
    let y = buffer(&mut p, "y", DType::F32, shape, ARENA);
    let v = buffer(&mut p, "v", DType::F32, [Extent::Rows(1), Extent::Const(1)], ARENA);
    let mut m = KernelBuilder::default();
    let stages = make(&mut m, [x, y, v]);
    kernel(&mut p, shape, None, m, stages);
    let reason = verify_structure(&p).expect_err("a rule is broken");
    let mut executor = Executor::new(p);
    let run = executor.run(Purpose::Train, inputs(&[0.0; 4], &[]), Controls::default());
    let error = run.expect_err("a rule is broken");
    assert_eq!(error, ExecError::Malformed(reason.clone()));
    reason
}

#[test]
fn broken_rules_are_found() {
    let elements = |stores| vec![stage(Over::Elements, stores, vec![])];
    let reason = refusal(|m, [x, y, _]| {
        let value = m.load(x, At::Transposed);
        elements(vec![store(y, At::Element, value)])
    });
    assert!(reason.contains("`x` [samples, 4] has no Transposed"), "{reason}");
    let reason = refusal(|m, [x, y, _]| {
        let value = m.expr(Expr::Accumulator);
        let _ = m.load(x, At::Element);
        elements(vec![store(y, At::Element, value)])
    });
    assert!(reason.contains("there is no contraction"), "{reason}");
    let reason = refusal(|m, [x, y, _]| {
        let value = m.load(x, At::Element);
        let sum = m.iadd(value, value);
        elements(vec![store(y, At::Element, sum)])
    });
    assert!(reason.contains("is no Int"), "{reason}");
    let reason = refusal(|m, [x, _, v]| {
        let value = m.load(x, At::Element);
        elements(vec![store(v, At::Row, value)])
    });
    assert!(reason.contains("all columns store `v`"), "{reason}");
    let reason = refusal(|m, [x, _, _]| {
        let value = m.load(x, At::Sample(2));
        elements(vec![store(x, At::Element, value)])
    });
    assert!(reason.contains("touches `x` at Sample(2) and stores it at Element"), "{reason}");
    let reason = refusal(|m, [x, _, v]| {
        let value = m.load(x, At::Element);
        vec![stage(Over::Rows, vec![store(v, At::Row, value)], vec![])]
    });
    assert!(reason.contains("moves with the column"), "{reason}");
    let reason = refusal(|m, [x, y, _]| {
        let value = m.load(x, At::Element);
        elements(vec![store(y, At::Element, value), store(y, At::Element, value)])
    });
    assert!(reason.contains("writes `y` twice"), "{reason}");
}
