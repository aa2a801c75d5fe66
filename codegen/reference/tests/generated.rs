//! Generated programs: well formed, and the vectorised executor agrees with a naive one bit for bit.

mod naive;

use ffc_ir::kernel::{Expr, Fold, Over, Program, Purpose};
use ffc_reference::check::{most_samples, verify_structure};
use ffc_reference::generate::{Options, fill, program};
use ffc_reference::{Controls, Executor, Inputs, Samples};
use naive::Naive;
use proptest::prelude::*;

const FLOATS: Options = Options { kernels: 5, float_contractions: true };

/// Runs all kernels on both, comparing all memory after each.
fn compare(program: &Program, seed: u64, samples: usize) {
    let mut executor = Executor::new(program.clone());
    let contents = fill(program, seed);
    for ((handle, _), values) in program.buffers.iter().zip(&contents) {
        executor.set_buffer(handle, values).expect("contents fit");
    }
    let mut naive = Naive::new(program, &executor);
    for (handle, kernel) in program.kernels.iter() {
        let samples = samples.min(most_samples(kernel, &program.buffers));
        executor.run_kernel(handle, samples).expect("kernels run");
        naive.run_kernel(kernel, samples);
        for (buffer, described) in program.buffers.iter() {
            let (found, expected) = (executor.raw(buffer).to_bytes(), naive.data(buffer).to_bytes());
            assert!(
                found == expected,
                "{}: `{}` after {} differs: {:?}\n{:?}\n{:?}",
                program.name,
                described.name,
                kernel.name,
                kernel,
                executor.raw(buffer),
                naive.data(buffer)
            );
        }
    }
}

#[test]
fn generated_programs_agree_with_a_naive_executor() {
    for seed in 0..400 {
        let options = if seed % 2 == 0 { FLOATS } else { Options::default() };
        let program = program(seed, options);
        verify_structure(&program).unwrap_or_else(|reason| panic!("{seed}: {reason}"));
        compare(&program, seed, program.batch);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_seed_and_batch_agree(seed: u64, samples in 1usize..20) {
        let program = program(seed, FLOATS);
        prop_assert_eq!(verify_structure(&program), Ok(()));
        compare(&program, seed, samples.min(program.batch));
    }
}

#[test]
fn generated_floats_stay_finite() {
    for seed in 0..100 {
        let program = program(seed, FLOATS);
        let mut executor = Executor::new(program.clone());
        for ((handle, _), values) in program.buffers.iter().zip(fill(&program, seed)) {
            executor.set_buffer(handle, &values).unwrap();
        }
        for (handle, _) in program.kernels.iter() {
            executor.run_kernel(handle, program.batch).unwrap();
        }
        for (handle, buffer) in program.buffers.iter() {
            if let Ok(values) = executor.buffer_f32(handle) {
                assert!(
                    values.iter().all(|value| value.abs() <= 1024.0),
                    "{seed} {}: {values:?}",
                    buffer.name
                );
            }
        }
    }
}

#[test]
fn generated_programs_run_as_a_schedule_and_repeat() {
    for seed in 0..50 {
        let program = program(seed, FLOATS);
        let run = || {
            let mut executor = Executor::new(program.clone());
            let (bytes, floats) = (vec![7; 3 * program.features], vec![0.5; 3 * program.features]);
            let samples = match program.input {
                ffc_ir::types::DType::U8 => Samples::U8(&bytes),
                _ => Samples::F32(&floats),
            };
            let labels = vec![1; 3];
            let controls = Controls { rate: 0.1, lambda: 0.5, key: 3 };
            if program.batch < 3 {
                return None;
            }
            executor.run(Purpose::Train, Inputs { samples, labels: &labels }, controls).unwrap();
            Some((executor.scores(), executor.losses()))
        };
        let first = run();
        assert_eq!(first, run());
    }
}

/// What all seeds together contain.
#[test]
fn generated_programs_cover_the_ir() {
    let mut seen = std::collections::BTreeSet::new();
    let word = |text: String| text.split(['(', ' ']).next().unwrap_or_default().to_string();
    for seed in 0..200 {
        let program = program(seed, FLOATS);
        for kernel in program.kernels.values() {
            for &expr in kernel.exprs.values() {
                let name = match expr {
                    Expr::Load(buffer, at) => {
                        seen.insert(format!("load {}", program.buffers[buffer].dtype));
                        format!("load {}", word(format!("{at:?}")))
                    }
                    Expr::Unary(op, _) => word(format!("{op:?}")),
                    Expr::Binary(op, ..) => word(format!("{op:?}")),
                    other => word(format!("{other:?}")),
                };
                seen.insert(name);
            }
            for stage in &kernel.stages {
                seen.insert(format!("{:?} {}", stage.over, stage.when.is_some()));
                for store in &stage.stores {
                    seen.insert(format!("store {}", word(format!("{:?}", store.at))));
                    seen.insert(format!("store {}", program.buffers[store.buffer].dtype));
                    let stored_load = Expr::Load(store.buffer, store.at);
                    if kernel.exprs.values().any(|&expr| expr == stored_load) {
                        seen.insert("in place".to_string());
                    }
                }
                seen.extend(stage.reduces.iter().map(|reduce| format!("{:?}", reduce.op)));
            }
            seen.extend(kernel.contraction.map(|c| format!("contraction {:?}", c.non_negative)));
            seen.extend(
                kernel.contraction.map(|c| format!("geometry {}", word(format!("{:?}", c.geometry)))),
            );
            let dense = |buffer| program.buffers[buffer].dense;
            seen.extend(kernel.writes().into_iter().any(dense).then(|| "store image".to_string()));
        }
    }
    let mut wanted: Vec<String> = Vec::new();
    for dtype in ["u8", "i8", "i16", "i32", "f32"] {
        wanted.push(format!("load {dtype}"));
    }
    for dtype in ["i8", "i16", "i32", "f32"] {
        wanted.push(format!("store {dtype}"));
    }
    for at in [
        "Element",
        "Transposed",
        "Sample",
        "Row",
        "RowSample",
        "Column",
        "Scalar",
        "Window",
        "Columns",
        "Flat",
        "Planar",
    ] {
        wanted.push(format!("load {at}"));
    }
    for geometry in ["Dense", "Convolution", "ConvolutionGrad", "Depthwise", "DepthwiseGrad"] {
        wanted.push(format!("geometry {geometry}"));
    }
    wanted.push("store image".to_string());
    for at in ["Element", "Transposed", "Columns", "Row", "Column", "Scalar"] {
        wanted.push(format!("store {at}"));
    }
    for op in [Fold::SumI32, Fold::SumF32, Fold::MaxF32, Fold::MaxI32] {
        wanted.push(format!("{op:?}"));
    }
    for over in [Over::Elements, Over::Rows] {
        wanted.extend([format!("{over:?} true"), format!("{over:?} false")]);
    }
    let ops = "Accumulator RowIndex ColumnIndex ConstF32 ConstI32 Sqrt ToF32 Round Truncate ToBits FromBits Shl Shr Sar Rem \
        FAdd FSub FMul FDiv FMax FMin FLt IAdd ISub IMul IMin IMax And Xor ILt IEq Select";
    wanted.extend(ops.split_whitespace().map(str::to_string));
    wanted.push("in place".to_string());
    for side in ["None", "Some(Lhs)", "Some(Rhs)"] {
        wanted.push(format!("contraction {side}"));
    }
    let missing: Vec<&String> = wanted.iter().filter(|item| !seen.contains(*item)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}
