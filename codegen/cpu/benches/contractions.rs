//! Contractions alone, without what is fused behind them, at each level that this machine has: `cargo bench -p ffc-cpu`.
//!
//! An element is a multiply-accumulate. Shapes are rows x columns x depth: the forward pass, weight update, single sample
//! and classifier of a large layer, and one that is a multiple of nothing; then convolutions of 32 samples. A part of a name measures that part, as in
//! `cargo bench -p ffc-cpu -- 128x1000x1000/amx`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ffc_codegen::{CodegenError, Target};
use ffc_cpu::ceiling::{Alone, Shape, contraction, images};
use ffc_ir::Window;
use ffc_ir::kernel::Geometry;
use ffc_runtime::{Cpu, Options, Samples, Session};

const SHAPES: [Shape; 5] =
    [[128, 1000, 1000], [1000, 1000, 128], [1, 1000, 1000], [128, 10, 1000], [37, 53, 91]];

fn contractions(criterion: &mut Criterion) {
    for shape in SHAPES {
        let [rows, columns, depth] = shape;
        measure(criterion, &format!("{rows}x{columns}x{depth}"), |target| contraction(target, shape));
    }
}

/// Size of an image, its channels, filters and the size of these: VGG and ResNet on CIFAR-10, and MobileNetV2.
const CONVOLUTIONS: [[usize; 4]; 6] = [
    [32, 3, 64, 3],
    [32, 64, 64, 3],
    [16, 128, 128, 3],
    [8, 256, 256, 3],
    [4, 512, 512, 3],
    [16, 144, 24, 1],
];

/// The same of filters of single channels.
const DEPTHWISE: [[usize; 3]; 2] = [[16, 144, 3], [8, 384, 3]];

const SAMPLES: usize = 32;

fn same(size: usize, kernel: usize) -> Window {
    Window::new([size; 2], [size; 2], [kernel; 2], [1; 2], [kernel / 2; 2])
}

fn convolutions(criterion: &mut Criterion) {
    for [size, channels, filters, kernel] in CONVOLUTIONS {
        let window = same(size, kernel);
        let name = format!("{size}x{size}x{channels} to {filters} by {kernel}x{kernel}");
        for (way, geometry) in
            [("forward", Geometry::Convolution(window)), ("gradient", Geometry::ConvolutionGrad(window))]
        {
            measure(criterion, &format!("{name}, {way}"), |target| {
                images(target, geometry, SAMPLES, [channels, filters])
            });
        }
    }
    for [size, channels, kernel] in DEPTHWISE {
        let window = same(size, kernel);
        let name = format!("{size}x{size}x{channels} by {kernel}x{kernel}");
        for (way, geometry) in
            [("forward", Geometry::Depthwise(window)), ("gradient", Geometry::DepthwiseGrad(window))]
        {
            measure(criterion, &format!("{name}, {way}"), |target| {
                images(target, geometry, SAMPLES, [channels, 1])
            });
        }
    }
}

/// Measures a contraction at each level.
fn measure(criterion: &mut Criterion, name: &str, make: impl Fn(&Target) -> Result<Alone, CodegenError>) {
    let mut group = criterion.benchmark_group(name);
    for cpu in Cpu::detect().levels() {
        let target = ffc_cpu::native(&cpu).expect("machines with levels are of a known architecture");
        let alone = make(&target).expect("every level can express a contraction");
        group.throughput(Throughput::Elements(alone.macs as u64));
        let options = Options { cpu, ..Options::default() };
        let mut session = Session::new(alone.artifact, options).expect("the machine has the level");
        let mut run = || session.infer(Samples::U8(&[0]), &mut [0.0]).expect("inputs fit");
        group.bench_function(target.name, |bencher| bencher.iter(&mut run));
    }
    group.finish();
}

/// Short: levels and versions are compared by orders of percents, on machines that are shared.
fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = settings(); targets = contractions, convolutions }
criterion_main!(benches);
