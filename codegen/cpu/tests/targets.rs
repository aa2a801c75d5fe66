//! Every target compiles every kind of kernel, with the instructions that its features promise.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_codegen::{Architecture, Backend, NamedTarget, TARGETS, Target, compile};
use ffc_cpu::{CpuBackend, native};
use ffc_ir::kernel::{At, Expr, Extent, Fold, Over, Program, Reduce, Side, Store};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::DType;
use ffc_runtime::Cpu;
use ffc_runtime::cpu::Level;
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

fn here() -> Target {
    native(&Cpu::detect()).unwrap()
}

/// A level of an architecture.
fn level(architecture: Architecture, name: &str) -> Target {
    let level = Level::all(architecture.name()).iter().find(|level| level.name == name).unwrap();
    Target::new(architecture, level)
}

const SIDES: [Option<Side>; 3] = [None, Some(Side::Lhs), Some(Side::Rhs)];

#[test]
fn all_targets_compile_without_relocations() {
    for target in TARGETS.iter().flat_map(NamedTarget::variants).chain([here()]) {
        let backend = CpuBackend::new(target.clone()).unwrap();
        for side in SIDES {
            let program = program(side);
            let variant =
                backend.variant(&program).unwrap_or_else(|error| panic!("{}: {error}", target.name));
            assert!(!variant.code.is_empty() && variant.entries == [0]);
            assert_eq!(variant.name, target.name);
            assert_eq!(variant.features, target.features);
            match backend.clif(&program) {
                Ok(text) => assert!(text.starts_with("; kernel\nfunction"), "{}", target.name),
                Err(error) => {
                    assert!(target.has("avx512vnni") && !backend.uses_cranelift(), "{error}");
                    assert!(error.to_string().contains("has AVX-512"), "{error}");
                }
            }
        }
    }
}

#[test]
fn an_artifact_has_a_variant_for_each_level() {
    let program = program(None);
    for target in &TARGETS {
        let backends = target.variants().into_iter().map(|variant| CpuBackend::new(variant).unwrap());
        let artifact = compile(&backends.collect::<Vec<_>>(), &program).unwrap();
        assert_eq!(artifact.architecture, target.architecture.name());
        assert!(artifact.imports.is_empty());
        let names: Vec<_> = artifact.variants.iter().map(|variant| &variant.name[..]).collect();
        assert_eq!(names, target.levels.iter().map(|level| level.name).collect::<Vec<_>>());
        let mut codes: Vec<_> = artifact.variants.iter().map(|variant| &variant.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), names.len(), "{}: a level without code of its own", target.name);
    }
}

#[test]
fn dot_products_are_found() {
    use Architecture::{Aarch64, X86_64};
    let dots = |architecture, name: &str, side, mnemonic: &str| {
        asm(&level(architecture, name), side).lines().filter(|line| line.contains(mnemonic)).count()
    };
    // Tiles of a full and of a partial block of four columns, each for a group of rows and for single rows.
    let tiles = |height: usize| 2 * 4 * (height + 1);
    for side in SIDES {
        // Groups of 12, 8, 4 and 1 rows, by two vectors; without an unsigned side also the sums of each row.
        let sums = if side.is_none() { 2 } else { 0 };
        assert_eq!(dots(X86_64, "avx512vnni", side, "vpdpbusd"), 2 * (12 + 8 + 4 + 1) + sums, "{side:?}");
        assert_eq!(dots(Aarch64, "dotprod", side, "sdot"), tiles(3), "{side:?}");
        assert_eq!(dots(Aarch64, "portable", side, "sdot"), 0);
        // Two steps of four rows by three, two and one vectors, and one row by eight columns; without an unsigned side
        // also the sums of each column, twice eight steps, and of the row.
        let tiles = 2 * 4 * (3 + 2 + 1);
        let sums = if side.is_none() { 2 * 8 + 1 } else { 0 };
        assert_eq!(dots(X86_64, "avxvnni", side, "vpdpbusd"), tiles + 8 + sums, "{side:?}");
        let (halves, wide) = if side.is_none() { (0, 2 * tiles) } else { (tiles + 8, tiles) };
        assert_eq!(dots(X86_64, "avx2", side, "vpmaddubsw"), halves, "{side:?}");
        assert_eq!(dots(X86_64, "avx2", side, "vpmaddwd"), wide + 8, "{side:?}");
        // The partial block has two columns: products with its other two lanes are shared.
        assert_eq!(dots(X86_64, "portable", side, "pmaddwd"), 2 * (4 + 2) * (2 + 1), "{side:?}");
        for name in ["avx2", "portable"] {
            assert_eq!(dots(X86_64, name, side, "vpdpbusd"), 0);
        }
    }
}

#[test]
fn maxima_are_single_instructions() {
    for name in ["avx2", "avx512vnni"] {
        let text = asm(&level(Architecture::X86_64, name), None);
        assert!(text.contains("vmaxps") && text.contains("vminps"), "{text}");
    }
}

#[test]
fn functions_start_at_cache_lines() {
    let mut program = program(None);
    let again = program.kernels.values().next().unwrap().clone();
    program.kernels.push(ffc_ir::kernel::Kernel { name: "again".to_string(), ..again });
    let variant = CpuBackend::new(here()).unwrap().variant(&program).unwrap();
    let entries = variant.entries;
    assert_eq!(entries[0], 0);
    assert!(entries[1] > 0 && entries[1].is_multiple_of(64) && entries[1] < variant.code.len());
}

#[test]
fn what_cannot_be_compiled_is_said() {
    let floats = Extent::Const(4);
    let mut case = Case::new(1, floats, floats);
    case.contract(floats, None);
    case.buffers[case.contraction.unwrap().lhs].dtype = DType::F32;
    let backend = CpuBackend::new(here()).unwrap();
    let error = backend.variant(&case.program()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `kernel`: contracts `b0`, which is F32: machine code contracts i8 only; float programs run on the \
         reference executor"
    );
    let unknown = Target { features: vec!["sse9"], ..level(Architecture::X86_64, "portable") };
    let error = CpuBackend::new(unknown).err().unwrap();
    assert_eq!(error.to_string(), "target `portable`: unknown feature: sse9");
}

#[test]
fn a_lowered_machine_is_its_level() {
    let cpu = Cpu::detect();
    let targets: Vec<_> = cpu.levels().map(|cpu| native(&cpu).unwrap()).collect();
    let levels = Level::all(std::env::consts::ARCH).iter();
    let expected = levels.map(|level| Target::new(here().architecture, level));
    assert_eq!(targets, expected.filter(|level| cpu.lowered_to(level.name).is_ok()).collect::<Vec<_>>());
    assert!(targets[0].features.iter().all(|feature| here().has(feature)));
    assert_eq!(here().name, "native");
}
