//! Every target compiles every kind of kernel, with the instructions that its features promise.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_codegen::{Backend, Target};
use ffc_cpu::{CpuBackend, native};
use ffc_ir::kernel::{At, Expr, Extent, Fold, Over, Program, Reduce, Side, Store};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::DType;
use harness::Case;

/// A contraction, all kinds of stores, a reduction and a formula with most primitives.
fn program(side: Option<Side>) -> Program {
    let [rows, columns] = [Extent::Rows(3), Extent::Const(30)];
    let mut case = Case::new(16, rows, columns);
    case.contract(Extent::Const(70), side);
    let along = case.arena(DType::I8, [rows, columns]);
    let across = case.arena(DType::I16, [columns, rows]);
    let bias = case.param(DType::I16, [columns, Extent::Const(1)]);
    let sums = case.arena(DType::F32, [rows, Extent::Const(1)]);
    let m = &mut case.builder;
    let sum = m.expr(Expr::Accumulator);
    let bias = m.load(bias, At::Column);
    let sum = m.iadd(sum, bias);
    let x = m.to_f32(sum);
    let y = numerics::tanh(m, x);
    let y = m.sqrt(y);
    let (row, column) = (m.expr(Expr::RowIndex), m.expr(Expr::ColumnIndex));
    let row = m.rem(row, 3);
    let noise = numerics::draw_half(m, sum, row, column);
    let value = numerics::quantize(m, y, x, Some(noise));
    let stage = case.stage(Over::Elements);
    stage.stores.push(Store { buffer: along, at: At::Element, value });
    stage.stores.push(Store { buffer: across, at: At::Transposed, value });
    stage.reduces.push(Reduce { op: Fold::SumF32, value: y, into: sums });
    case.program()
}

fn asm(target: &Target, side: Option<Side>) -> String {
    CpuBackend::new(target.clone()).unwrap().asm(&program(side)).unwrap()
}

const SIDES: [Option<Side>; 3] = [None, Some(Side::Lhs), Some(Side::Rhs)];

#[test]
fn all_targets_compile_without_relocations() {
    for target in Target::all().chain(native()) {
        let backend = CpuBackend::new(target.clone()).unwrap();
        for side in SIDES {
            let program = program(side);
            let artifact =
                backend.compile(&program).unwrap_or_else(|error| panic!("{}: {error}", target.name));
            assert!(!artifact.code.is_empty() && artifact.imports.is_empty());
            assert_eq!(artifact.target.architecture, target.architecture.name());
            match backend.clif(&program) {
                Ok(text) => assert!(text.starts_with("; kernel\nfunction"), "{}", target.name),
                Err(error) => {
                    assert!(target.has("avx512vnni"), "{error}");
                    assert!(error.to_string().contains("has AVX-512"), "{error}");
                }
            }
        }
    }
}

#[test]
fn dot_products_are_found() {
    let dots = |name: &str, side, mnemonic: &str| {
        asm(&Target::named(name).unwrap(), side).lines().filter(|line| line.contains(mnemonic)).count()
    };
    // Tiles of a full and of a partial block of four columns, each for a group of rows and for single rows.
    let tiles = |height: usize| 2 * 4 * (height + 1);
    for side in SIDES {
        // Groups of 12, 4 and 1 rows, by two vectors; without an unsigned side also the sums of each row.
        let sums = if side.is_none() { 2 } else { 0 };
        assert_eq!(dots("x86_64-v4", side, "vpdpbusd"), 2 * (12 + 4 + 1) + sums, "{side:?}");
        assert_eq!(dots("aarch64-dotprod", side, "sdot"), tiles(3), "{side:?}");
        assert_eq!(dots("aarch64", side, "sdot"), 0);
        for (name, mnemonic) in [("x86_64", "pmaddwd"), ("x86_64-v3", "vpmaddwd")] {
            assert_eq!(dots(name, side, "vpdpbusd"), 0);
            // The partial block has two columns: products with its other two lanes are shared.
            assert_eq!(dots(name, side, mnemonic), 2 * (4 + 2) * (2 + 1), "{name} {side:?}");
        }
    }
}

#[test]
fn maxima_are_single_instructions() {
    for name in ["x86_64-v3", "x86_64-v4"] {
        let text = asm(&Target::named(name).unwrap(), None);
        assert!(text.contains("vmaxps") && text.contains("vminps"), "{text}");
    }
}

#[test]
fn functions_start_at_cache_lines() {
    let mut program = program(None);
    let again = program.kernels.values().next().unwrap().clone();
    program.kernels.push(ffc_ir::kernel::Kernel { name: "again".to_string(), ..again });
    let artifact = CpuBackend::new(native().unwrap()).unwrap().compile(&program).unwrap();
    let entries: Vec<usize> = artifact.kernels.iter().map(|kernel| kernel.entry).collect();
    assert_eq!(entries[0], 0);
    assert!(entries[1] > 0 && entries[1].is_multiple_of(64) && entries[1] < artifact.code.len());
}

#[test]
fn what_cannot_be_compiled_is_said() {
    let floats = Extent::Const(4);
    let mut case = Case::new(1, floats, floats);
    case.contract(floats, None);
    case.buffers[case.contraction.unwrap().lhs].dtype = DType::F32;
    let backend = CpuBackend::new(native().unwrap()).unwrap();
    let error = backend.compile(&case.program()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `kernel`: contracts `b0`, which is F32: machine code contracts i8 only; float programs run on the \
         reference executor"
    );
    let unknown = Target { features: vec!["sse9"], ..Target::named("x86_64").unwrap() };
    let error = CpuBackend::new(unknown).err().unwrap();
    assert_eq!(error.to_string(), "target `x86_64`: unknown feature: sse9");
}

#[test]
fn parts_of_a_machine_have_names() {
    let native = native().unwrap();
    let portable = ffc_cpu::native_as("portable").unwrap();
    assert!(portable.features.is_empty(), "{:?}", portable.features);
    assert_eq!(
        ffc_cpu::native_as("mmx").unwrap_err(),
        "`mmx` is none of portable, avx2, avxvnni, avx512vnni, amx"
    );
    for (level, mark, without) in [
        ("avx2", "avx2", "avxvnni"),
        ("avxvnni", "avxvnni", "avx512f"),
        ("avx512vnni", "avx512vnni", "amx-int8"),
    ] {
        match ffc_cpu::native_as(level) {
            Ok(target) => assert!(target.has(mark) && !target.has(without), "{level}: {:?}", target.features),
            Err(error) => assert!(!native.has(mark) && error.contains(mark), "{error}"),
        }
    }
}
