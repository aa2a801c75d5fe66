//! How fast contractions are. Not a check: `cargo test -p ffc-cpu --test speed -- --ignored --nocapture`.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, clippy::unwrap_used)]

mod harness;

use std::time::Instant;

use ffc_codegen::Target;
use ffc_ir::kernel::{At, Expr, Extent, Fold, Over, Reduce, Side, Store};
use ffc_ir::numerics::{Arith, quantize};
use ffc_ir::types::DType;
use harness::{Case, Code, Random, memory, random_values};

/// Dequantize, add a bias, relu, quantize; the largest magnitude for the next range.
fn layer(rows: usize, columns: usize, depth: usize, non_negative: Option<Side>) -> Case {
    let [rows, columns, depth] = [rows, columns, depth].map(Extent::Const);
    let mut case = Case::new(1, rows, columns);
    case.contract(depth, non_negative);
    let bias = case.param(DType::F32, [columns, Extent::Const(1)]);
    let scales = case.param(DType::F32, [Extent::Const(1), Extent::Const(1)]);
    let out = case.arena(DType::I8, [rows, columns]);
    let most = case.arena(DType::F32, [rows, Extent::Const(1)]);
    let m = &mut case.builder;
    let sum = m.expr(Expr::Accumulator);
    let sum = m.to_f32(sum);
    let scale = m.load(scales, At::Scalar);
    let sum = m.fmul(sum, scale);
    let bias = m.load(bias, At::Column);
    let sum = m.fadd(sum, bias);
    let zero = m.f32(0.0);
    let sum = m.fmax(sum, zero);
    let value = quantize(m, sum, scale, None);
    let stage = case.stage(Over::Elements);
    stage.stores.push(Store { buffer: out, at: At::Element, value });
    stage.reduces.push(Reduce { op: Fold::MaxF32, value: sum, into: most });
    case
}

fn gmacs(case: &Case, target: &Target) -> f64 {
    let mut random = Random(1);
    let buffers: Vec<_> = case
        .buffers
        .iter()
        .map(|(handle, buffer)| {
            let values = random_values(buffer, &mut random);
            memory(case, handle, &values, 1, &mut random)
        })
        .collect();
    let code = Code::new(&case.program(), target);
    let contraction = case.contraction.unwrap();
    let [rows, columns, depth] = [case.rows, case.columns, contraction.depth].map(|extent| extent.size(1));
    let best = (0..60)
        .map(|_| {
            let start = Instant::now();
            code.call(0, &buffers, 1, 0, rows);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min);
    (rows * columns * depth) as f64 / best / 1e9
}

#[test]
#[ignore = "measures"]
fn speed() {
    let wanted = std::env::var("TARGET").ok();
    for target in harness::targets() {
        if wanted.as_ref().is_some_and(|wanted| wanted != target.name) {
            continue;
        }
        for (rows, columns, depth) in
            [(128, 1000, 784), (1000, 784, 128), (128, 1000, 1000), (512, 2000, 2000)]
        {
            for side in [None, Some(Side::Lhs), Some(Side::Rhs)] {
                let rate = gmacs(&layer(rows, columns, depth, side), &target);
                let most = ceiling();
                println!(
                    "{:12} {rows:5} x {columns} x {depth} {side:?}: {rate:.1} of {most:.1} GMAC/s",
                    target.name
                );
            }
        }
    }
}

/// Multiply-accumulates a second of `vpdpbusd` on registers alone: what this machine can do right now.
fn ceiling() -> f64 {
    let rounds = 2_000_000u64;
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: this machine has AVX-VNNI, and only registers are touched.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "{{vex}} vpdpbusd xmm0, xmm14, xmm15", "{{vex}} vpdpbusd xmm1, xmm14, xmm15",
                    "{{vex}} vpdpbusd xmm2, xmm14, xmm15", "{{vex}} vpdpbusd xmm3, xmm14, xmm15",
                    "{{vex}} vpdpbusd xmm4, xmm14, xmm15", "{{vex}} vpdpbusd xmm5, xmm14, xmm15",
                    "{{vex}} vpdpbusd xmm6, xmm14, xmm15", "{{vex}} vpdpbusd xmm7, xmm14, xmm15",
                    "{{vex}} vpdpbusd xmm8, xmm14, xmm15", "{{vex}} vpdpbusd xmm9, xmm14, xmm15",
                    "{{vex}} vpdpbusd xmm10, xmm14, xmm15", "{{vex}} vpdpbusd xmm11, xmm14, xmm15",
                    "dec {n}", "jnz 2b",
                    n = inout(reg) rounds => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                );
            }
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min);
    (rounds * 12 * 16) as f64 / best / 1e9
}
