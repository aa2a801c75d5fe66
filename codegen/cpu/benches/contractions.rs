//! Contractions alone, without what is fused behind them, at each level that this machine has: `cargo bench -p ffc-cpu`.
//!
//! An element is a multiply-accumulate. Shapes are rows x columns x depth: the forward pass, weight update, single sample
//! and classifier of a large layer, and one that is a multiple of nothing. A part of a name measures that part, as in
//! `cargo bench -p ffc-cpu -- 128x1000x1000/amx`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ffc_cpu::ceiling::{Shape, contraction};
use ffc_runtime::{Cpu, Options, Samples, Session};

const SHAPES: [Shape; 5] =
    [[128, 1000, 1000], [1000, 1000, 128], [1, 1000, 1000], [128, 10, 1000], [37, 53, 91]];

fn contractions(criterion: &mut Criterion) {
    for shape in SHAPES {
        let [rows, columns, depth] = shape;
        let mut group = criterion.benchmark_group(format!("{rows}x{columns}x{depth}"));
        group.throughput(Throughput::Elements((rows * columns * depth) as u64));
        for cpu in Cpu::detect().levels() {
            let target = ffc_cpu::native(&cpu).expect("machines with levels are of a known architecture");
            let alone = contraction(&target, shape).expect("every level can express a contraction");
            let options = Options { cpu, ..Options::default() };
            let mut session = Session::new(alone.artifact, options).expect("the machine has the level");
            let mut run = || session.infer(Samples::U8(&[0]), &mut [0.0]).expect("inputs fit");
            group.bench_function(target.name, |bencher| bencher.iter(&mut run));
        }
        group.finish();
    }
}

/// Short: levels and versions are compared by orders of percents, on machines that are shared.
fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = settings(); targets = contractions }
criterion_main!(benches);
