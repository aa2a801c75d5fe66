//! Generated programs, compiled, against the reference executor: kernels that no recipe makes, of every expression,
//! place, type and reduction, with all memory compared.
//!
//! A session shows parameters, losses and scores only, and starts with an empty arena. So each program gets kernels of
//! our own: before the rest one for each buffer of the arena that fills it with noise, and behind the rest two that
//! add up the bits of all its elements into a parameter.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ffc_ir::Handle;
use ffc_ir::kernel::{
    At, Buffer, BufferClass, Contraction, Expr, Extent, Fold, Kernel, KernelBuilder, Over, Plane, Program,
    Purpose, ROW_ALIGN, Reduce, Schedule, Side, Stage, Store,
};
use ffc_ir::module::{Param, ParamRole, ParamStorage};
use ffc_ir::numerics::{Arith, draw};
use ffc_ir::types::DType;
use ffc_reference::check::{most_samples, place, verify_structure};
use ffc_reference::generate::{Options, fill, program};
use ffc_tests::session::{Given, Twins, targets};

fn stage(over: Over, stores: Vec<Store>, reduces: Vec<Reduce>) -> Stage {
    Stage { over, when: None, stores, reduces }
}

fn kernel(name: String, [rows, columns]: [Extent; 2], builder: KernelBuilder, stages: Vec<Stage>) -> Kernel {
    Kernel { name, rows, columns, contraction: None, exprs: builder.exprs, stages }
}

/// What contractions of the program promise of a buffer: whether it is an operand, and not negative.
fn operand(program: &Program, handle: Handle<Buffer>) -> (bool, bool) {
    let contractions: Vec<Contraction> = program.kernels.values().filter_map(|it| it.contraction).collect();
    let sides = |it: &Contraction| [(it.lhs, Side::Lhs), (it.rhs, Side::Rhs)].map(|side| (side, *it));
    let uses = contractions.iter().flat_map(sides).filter(|((buffer, _), _)| *buffer == handle);
    let uses: Vec<_> = uses.collect();
    (!uses.is_empty(), uses.iter().any(|((_, side), it)| it.non_negative == Some(*side)))
}

/// Fills a buffer with noise.
fn filler(program: &Program, handle: Handle<Buffer>, number: i32) -> Kernel {
    let buffer = &program.buffers[handle];
    let [rows, columns] = buffer.shape;
    let (is_operand, non_negative) = operand(program, handle);
    let mut m = KernelBuilder::default();
    let (i, j, key) = (m.expr(Expr::RowIndex), m.expr(Expr::ColumnIndex), m.i32(number));
    let bits = draw(&mut m, key, i, j);
    let small = m.shr(bits, if is_operand { 28 } else { 20 });
    let seven = m.i32(127);
    let value = match buffer.dtype {
        DType::F32 => {
            let offset = m.i32(if is_operand || non_negative { 0 } else { 2048 });
            let centred = m.isub(small, offset);
            let number = m.to_f32(centred);
            let scale = m.f32(if is_operand { 1.0 } else { 1.0 / 256.0 });
            m.fmul(number, scale)
        }
        // Never -128.
        DType::I8 => {
            let positive = m.and(bits, seven);
            if non_negative {
                positive
            } else {
                let half = m.i32(63);
                m.isub(positive, half)
            }
        }
        _ => bits,
    };
    let at = place(At::Element, rows, columns);
    let stores = vec![Store { buffer: handle, at, value }];
    kernel(format!("fill{number}"), buffer.shape, m, vec![stage(Over::Elements, stores, Vec::new())])
}

/// A buffer of our own.
fn add_buffer(
    program: &mut Program,
    name: String,
    dtype: DType,
    shape: [Extent; 2],
    class: BufferClass,
) -> Handle<Buffer> {
    let samples = program.batch;
    let buffer = Buffer { name, dtype, shape, class, samples, offset: 0, dense: false };
    let bytes = buffer.bytes().next_multiple_of(ROW_ALIGN);
    let end = match class {
        BufferClass::Param { .. } => &mut program.state_bytes,
        _ => &mut program.arena_bytes,
    };
    let offset = std::mem::replace(end, *end + bytes);
    program.buffers.push(Buffer { offset, ..buffer })
}

/// Adds up the bits of a buffer's elements, into a new parameter.
fn sums(program: &mut Program, handle: Handle<Buffer>, number: i32) -> [Kernel; 2] {
    let Buffer { shape: [rows, columns], dtype, .. } = program.buffers[handle];
    let one = Extent::Const(1);
    let per_row = add_buffer(program, format!("rows{number}"), DType::I32, [rows, one], BufferClass::Arena);
    let total = add_buffer(program, format!("total{number}"), DType::I32, [one, one], BufferClass::Arena);
    let class = BufferClass::Param { param: program.params.len(), plane: Plane::Value };
    let seen = add_buffer(program, format!("seen{number}"), DType::F32, [one, one], class);
    program.params.push(Param {
        name: format!("seen{number}"),
        shape: [1, 1],
        storage: ParamStorage::F32,
        role: ParamRole::Constant,
    });
    let mut m = KernelBuilder::default();
    let mut value = m.load(handle, place(At::Element, rows, columns));
    if dtype == DType::F32 {
        value = m.to_bits(value);
    }
    let reduces = vec![Reduce { op: Fold::SumI32, value, into: per_row }];
    let first =
        kernel(format!("sum{number}"), [rows, columns], m, vec![stage(Over::Elements, Vec::new(), reduces)]);
    let mut m = KernelBuilder::default();
    let value = m.load(per_row, place(At::Column, one, rows));
    let reduces = vec![Reduce { op: Fold::SumI32, value, into: total }];
    let sum = m.load(total, At::Scalar);
    let bits = m.from_bits(sum);
    let stores = vec![Store { buffer: seen, at: At::Scalar, value: bits }];
    let stages = vec![stage(Over::Elements, Vec::new(), reduces), stage(Over::Rows, stores, Vec::new())];
    [first, kernel(format!("total{number}"), [one, rows], m, stages)]
}

/// The kernel with real masks, 0 or -1, in its selections: the generator takes any number for one, and only executors
/// have to know what that means.
fn with_masks(kernel: &Kernel) -> Kernel {
    let mut m = KernelBuilder::default();
    let mut renamed: Vec<Handle<Expr>> = Vec::new();
    for expr in kernel.exprs.values() {
        let of = |expr: Handle<Expr>| renamed[expr.index()];
        let expr = match *expr {
            Expr::Unary(op, a) => Expr::Unary(op, of(a)),
            Expr::Binary(op, a, b) => Expr::Binary(op, of(a), of(b)),
            Expr::Select(mask, a, b) => {
                let (mask, a, b, zero) = (of(mask), of(a), of(b), m.i32(0));
                Expr::Select(m.ieq(mask, zero), b, a)
            }
            leaf => leaf,
        };
        renamed.push(m.expr(expr));
    }
    let mut kernel = Kernel { exprs: m.exprs, ..kernel.clone() };
    let rename = |expr: &mut Handle<Expr>| *expr = renamed[expr.index()];
    for stage in &mut kernel.stages {
        stage.when.iter_mut().for_each(rename);
        stage.stores.iter_mut().for_each(|store| rename(&mut store.value));
        stage.reduces.iter_mut().for_each(|reduce| rename(&mut reduce.value));
    }
    kernel
}

/// The program with kernels that fill and show the arena. In training there are no scores and in inference no labels, so
/// kernels that want the one or the other run where they can. What a step gives is not for kernels to read: before they
/// write it, it is 0 or what the caller left there.
fn observed(program: Program) -> Program {
    let mut program = program;
    let handles: Vec<_> = program.kernels.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        program.kernels[handle] = with_masks(&program.kernels[handle]);
    }
    let arena = |(handle, buffer): (Handle<Buffer>, &Buffer)| {
        matches!(buffer.class, BufferClass::Arena | BufferClass::Accumulator).then_some(handle)
    };
    let buffers: Vec<_> = program.buffers.iter().filter_map(arena).collect();
    let reads_results = |kernel: &Kernel| {
        let loads = kernel.exprs.values().filter_map(|expr| match *expr {
            Expr::Load(buffer, _) => Some(program.buffers[buffer].class),
            _ => None,
        });
        loads.into_iter().any(|class| matches!(class, BufferClass::Loss(_) | BufferClass::Scores))
    };
    let own = program.kernels.iter().filter(|(_, kernel)| !reads_results(kernel));
    let own: Vec<_> = own.map(|(handle, _)| handle).collect();
    let uses = |program: &Program, kernel: Handle<Kernel>, class: BufferClass| {
        let kernel = &program.kernels[kernel];
        let buffers = kernel.reads().into_iter().chain(kernel.writes());
        buffers.into_iter().any(|buffer| program.buffers[buffer].class == class)
    };
    let (mut fill, mut show) = (Vec::new(), Vec::new());
    for (number, &buffer) in buffers.iter().enumerate() {
        let filler = filler(&program, buffer, number as i32);
        fill.push(program.kernels.push(filler));
        let sums = sums(&mut program, buffer, number as i32);
        show.extend(sums.map(|kernel| program.kernels.push(kernel)));
    }
    let part = |without| {
        let own = own.iter().copied().filter(|&kernel| !uses(&program, kernel, without));
        fill.iter().copied().chain(own).chain(show.iter().copied()).collect()
    };
    let train = Schedule { purpose: Purpose::Train, kernels: part(BufferClass::Scores) };
    let infer = Schedule { purpose: Purpose::Infer, kernels: part(BufferClass::Labels) };
    program.schedules = vec![train, infer];
    program.infer_batch = program.batch;
    program
}

/// Gives the kernels of the generator that ran.
fn check(seed: u64) -> usize {
    let original = program(seed, Options::default());
    let contents = fill(&original, seed);
    let observed = observed(original);
    verify_structure(&observed).unwrap_or_else(|reason| panic!("{seed}: {reason}"));
    let varies = |kernel: &&Kernel| {
        matches!(kernel.rows, Extent::Rows(_)) || matches!(kernel.columns, Extent::Rows(_))
    };
    let most = observed.kernels.values().filter(varies).map(|it| most_samples(it, &observed.buffers)).min();
    let most = most.unwrap_or(observed.batch).min(observed.batch);
    let mut twins = Twins::new(&observed, &targets(), &[1, 2], seed);
    for ((handle, buffer), values) in observed.buffers.iter().zip(&contents) {
        if !matches!(buffer.class, BufferClass::Param { .. }) {
            continue;
        }
        twins.executor().set_buffer(handle, values).unwrap();
    }
    twins.copy_state();
    for samples in [most, most.div_ceil(2), 1] {
        twins.train(None, &Given::new(&observed, samples, seed + samples as u64));
        twins.infer(&Given::new(&observed, samples, seed));
    }
    let names = observed.schedules.iter().flat_map(|schedule| &schedule.kernels);
    names.filter(|&&kernel| observed.kernels[kernel].name.starts_with("kernel")).count()
}

#[test]
fn generated_programs_are_the_same_on_every_target() {
    let run: usize = (0..40).map(check).sum();
    assert!(run > 150, "only {run} kernels ran");
}
