//! Images against the reference executor, on every instruction set that this machine has: contractions of what windows
//! see, and loads through windows.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_codegen::{Backend, NamedTarget, TARGETS};
use ffc_cpu::CpuBackend;
use ffc_ir::Window;
use ffc_ir::kernel::{
    At, BufferClass, Contraction, Expr, Extent, Fold, Geometry, Outside, Over, Reduce, Side, Store,
};
use ffc_ir::numerics::Arith;
use ffc_ir::types::DType;
use ffc_reference::Values;
use harness::{Case, Random, check, random_values};

/// What a convolution of an image has: samples, channels of the image, filters (or multiples of the positions).
#[derive(Clone, Copy, Debug)]
struct Size {
    samples: usize,
    channels: usize,
    filters: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Convolution,
    ConvolutionGrad,
    Depthwise,
    DepthwiseGrad,
}

const KINDS: [Kind; 4] = [Kind::Convolution, Kind::ConvolutionGrad, Kind::Depthwise, Kind::DepthwiseGrad];

/// Accumulators of a contraction, stored as they are, as bytes, and across, and reduced.
fn contraction(kind: Kind, window: Window, size: Size, side: Option<Side>) -> Case {
    let Size { samples, channels, filters } = size;
    let [inputs, outputs] = [window.inputs(), window.outputs()].map(Extent::Rows);
    let (deep, taps) = (Extent::Const(channels * window.taps()), Extent::Const(window.taps()));
    let [channels, filters] = [channels, filters].map(Extent::Const);
    let new = |rows, columns| Case::new(samples, rows, columns);
    let (mut case, geometry, lhs, rhs, depth) = match kind {
        Kind::Convolution => {
            let mut case = new(outputs, filters);
            let lhs = case.image(DType::I8, [inputs, channels]);
            let rhs = case.param(DType::I8, [filters, deep]);
            (case, Geometry::Convolution(window), lhs, rhs, deep)
        }
        Kind::ConvolutionGrad => {
            let mut case = new(filters, deep);
            let lhs = case.arena(DType::I8, [filters, outputs]);
            let rhs = case.image(DType::I8, [inputs, channels]);
            (case, Geometry::ConvolutionGrad(window), lhs, rhs, outputs)
        }
        Kind::Depthwise => {
            let mut case = new(outputs, channels);
            let lhs = case.image(DType::I8, [inputs, channels]);
            let rhs = case.param(DType::I8, [channels, taps]);
            (case, Geometry::Depthwise(window), lhs, rhs, taps)
        }
        Kind::DepthwiseGrad => {
            let mut case = new(channels, taps);
            let lhs = case.image(DType::I8, [outputs, channels]);
            let rhs = case.image(DType::I8, [inputs, channels]);
            (case, Geometry::DepthwiseGrad(window), lhs, rhs, outputs)
        }
    };
    case.contraction = Some(Contraction { geometry, lhs, rhs, depth, non_negative: side });
    let (rows, columns) = (case.rows, case.columns);
    let value = case.builder.expr(Expr::Accumulator);
    let sums = case.arena(DType::I32, [rows, columns]);
    let image = case.image(DType::I8, [rows, columns]);
    let across = case.arena(DType::I8, [columns, rows]);
    let largest = case.arena(DType::I32, [rows, Extent::Const(1)]);
    let stage = case.stage(Over::Elements);
    stage.stores.push(Store { buffer: sums, at: At::Element, value });
    stage.stores.push(Store { buffer: image, at: At::Element, value });
    stage.stores.push(Store { buffer: across, at: At::Transposed, value });
    stage.reduces.push(Reduce { op: Fold::MaxI32, value, into: largest });
    case
}

/// Random contents; of a side without negative numbers their magnitudes.
fn contents(case: &Case, random: &mut Random) -> Vec<Values> {
    let contraction = case.contraction;
    let absolute = contraction.and_then(|it| match it.non_negative {
        Some(Side::Lhs) => Some(it.lhs),
        Some(Side::Rhs) => Some(it.rhs),
        None => None,
    });
    let mut contents = Vec::new();
    for (handle, buffer) in case.buffers.iter() {
        let mut values = random_values(buffer, random);
        if let (true, Values::I8(elements)) = (absolute == Some(handle), &mut values) {
            elements.iter_mut().for_each(|element| *element = element.abs());
        }
        contents.push(values);
    }
    contents
}

fn run(case: &Case, samples: usize, random: &mut Random) {
    let values = contents(case, random);
    check(case, &values, samples, random);
}

fn random_window(random: &mut Random) -> Window {
    let mut pair = |from: usize, count: usize| [0; 2].map(|_| from + random.below(count));
    let input = pair(1, 7);
    let output = pair(1, 6);
    let [kernel, stride, dilation] = [pair(1, 4), pair(1, 3), pair(1, 2)];
    let pad = pair(0, 5).map(|pad| pad.cast_signed() - 2);
    let spread = pair(1, 3);
    let plain = random.below(2) == 0;
    Window {
        input,
        output,
        kernel,
        stride,
        dilation,
        pad,
        spread: if plain { [1; 2] } else { spread },
        repeats: random.below(2) == 0,
    }
}

fn random_size(random: &mut Random) -> Size {
    let sizes = [1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 33, 48, 64, 65, 100];
    Size { samples: 1 + random.below(4), channels: random.pick(&sizes), filters: random.pick(&sizes) }
}

#[test]
fn random_contractions() {
    let count = std::env::var("FFC_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let first: u64 = std::env::var("FFC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        for kind in KINDS {
            let (window, size) = (random_window(&mut random), random_size(&mut random));
            let side = random.pick(&[None, Some(Side::Lhs), Some(Side::Rhs)]);
            let mut case = contraction(kind, window, size, side);
            if random.below(4) == 0 {
                let row = case.builder.expr(Expr::RowIndex);
                let third = case.builder.rem(row, 3);
                case.stages[0].when = Some(third);
            }
            let samples = 1 + random.below(size.samples);
            println!("seed {seed}: {kind:?} of {size:?} through {window} for {samples}, {side:?}");
            run(&case, samples, &mut random);
        }
    }
}

/// What networks have, and around what contractions do at a time.
#[test]
fn layers() {
    let mut random = Random(7);
    let same =
        |size: usize, kernel: usize| Window::new([size; 2], [size; 2], [kernel; 2], [1; 2], [kernel / 2; 2]);
    let halved = |size: usize| Window::new([size; 2], [size / 2; 2], [3; 2], [2; 2], [1; 2]);
    let windows =
        [same(8, 3), same(12, 5), same(16, 1), halved(8), halved(8).back(), Window::tiles([8; 2], [2; 2])];
    for window in windows {
        for (channels, filters) in [(3, 40), (64, 64), (70, 33), (128, 130)] {
            for kind in KINDS {
                let size = Size { samples: 3, channels, filters };
                run(&contraction(kind, window, size, Some(Side::Lhs)), 3, &mut random);
            }
        }
    }
    // Many taps, many positions, much depth.
    for (kind, window, channels, filters) in [
        (Kind::Convolution, same(3, 3), 512, 20),
        (Kind::ConvolutionGrad, same(24, 3), 17, 5),
        (Kind::ConvolutionGrad, same(40, 1), 33, 35),
        (Kind::Depthwise, same(12, 11), 20, 1),
        (Kind::DepthwiseGrad, same(12, 11), 20, 1),
    ] {
        run(&contraction(kind, window, Size { samples: 2, channels, filters }, None), 2, &mut random);
    }
}

/// Machines that are not at hand have at least code that refers to nothing else.
#[test]
fn all_targets_compile() {
    let window = Window::new([6, 5], [3, 5], [3; 2], [2, 1], [1; 2]);
    for target in TARGETS.iter().flat_map(NamedTarget::variants) {
        let backend = CpuBackend::new(target.clone()).unwrap();
        for window in [window, window.back()] {
            for kind in KINDS {
                let case = contraction(kind, window, Size { samples: 2, channels: 20, filters: 9 }, None);
                let variant = backend.variant(&case.program()).unwrap();
                assert!(!variant.code.is_empty(), "{kind:?} for {}", target.name);
            }
        }
    }
}

/// Extremes, where products of bytes could saturate.
#[test]
fn extremes() {
    let mut random = Random(3);
    let window = Window::new([6; 2], [6; 2], [3; 2], [1; 2], [1; 2]);
    for extreme in [[-128, -128], [127, -128], [-128, 127], [127, 127]] {
        for kind in KINDS {
            let case = contraction(kind, window, Size { samples: 2, channels: 40, filters: 9 }, None);
            let mut values = contents(&case, &mut random);
            for (values, extreme) in values.iter_mut().zip(extreme) {
                let Values::I8(elements) = values else { unreachable!("operands are i8") };
                elements.fill(extreme);
            }
            check(&case, &values, 2, &mut random);
        }
    }
}

/// Dense contractions of rows that are not padded.
#[test]
fn dense_operands() {
    let mut random = Random(4);
    for [rows, columns, depth] in [[7, 9, 5], [100, 40, 27], [33, 130, 64], [3, 5, 100], [50, 20, 1]] {
        for sides in [[true, false], [false, true], [true, true]] {
            let mut case = Case::new(1, Extent::Const(rows), Extent::Const(columns));
            let [lhs, rhs] = case.contract(Extent::Const(depth), None);
            (case.buffers[lhs].dense, case.buffers[rhs].dense) = (sides[0], sides[1]);
            let value = case.builder.expr(Expr::Accumulator);
            let buffer = case.image(DType::I32, [case.rows, case.columns]);
            case.stage(Over::Elements).stores.push(Store { buffer, at: At::Element, value });
            run(&case, 1, &mut random);
            let row = case.builder.expr(Expr::RowIndex);
            let third = case.builder.rem(row, 3);
            case.stages[0].when = Some(third);
            run(&case, 1, &mut random);
        }
    }
    // A gradient whose left operand is dense: its rows are as deep as a batch of one.
    let window = Window::new([5, 5], [5, 5], [3, 3], [1, 1], [1, 1]);
    for samples in [1, 3] {
        let size = Size { samples, channels: 5, filters: 13 };
        let mut case = contraction(Kind::ConvolutionGrad, window, size, None);
        let lhs = case.contraction.unwrap().lhs;
        case.buffers[lhs].dense = true;
        run(&case, samples, &mut random);
    }
}

/// Loads of all places of images, in kernels with and without a contraction.
#[test]
fn loads() {
    for seed in 0..120 {
        let mut random = Random(seed * 77 + 5);
        let window = random_window(&mut random);
        let copies = 1 + random.below(2);
        let size = random_size(&mut random);
        let (rows, columns) = (Extent::Rows(window.outputs() * copies), Extent::Const(size.channels));
        let mut case = Case::new(size.samples, rows, columns);
        let mut ints = vec![case.builder.expr(Expr::RowIndex)];
        if random.below(2) == 0 {
            case.contract(Extent::Const(20), None);
            ints.push(case.builder.expr(Expr::Accumulator));
        }
        let mut floats = Vec::new();
        for _ in 0..1 + random.below(6) {
            let seen = Extent::Rows(window.inputs() * copies);
            let dtype = random.pick(&[DType::I8, DType::I32, DType::F32]);
            let (buffer, at) = match random.below(5) {
                0..=2 => {
                    let outside = random.pick(&[Outside::Zero, Outside::Least]);
                    let at = At::Window { window: window.into(), tap: random.below(window.taps()), outside };
                    (case.image(dtype, [seen, columns]), at)
                }
                3 => (case.image(dtype, [rows, columns]), At::Flat(size.channels)),
                _ => {
                    let (positions, copies) =
                        random.pick(&[(window.outputs(), copies), (1, 2), (3, 1), (2, 2)]);
                    let Extent::Rows(per_sample) = rows else { unreachable!("rows are of samples") };
                    let shape = [
                        match per_sample % (positions * copies) {
                            0 => Extent::Rows(per_sample / (positions * copies)),
                            _ => Extent::Const((per_sample * size.samples).div_ceil(positions * copies)),
                        },
                        Extent::Const(positions * size.channels),
                    ];
                    let class = random.pick(&[BufferClass::Arena, BufferClass::Input]);
                    let dtype = random.pick(&[dtype, DType::U8]);
                    (case.buffer(class, dtype, shape), At::Planar { positions, copies })
                }
            };
            let dtype = case.buffers[buffer].dtype;
            let value = case.builder.load(buffer, at);
            if dtype == DType::F32 {
                floats.push(value)
            } else {
                ints.push(value)
            };
        }
        let int = ints.clone().into_iter().reduce(|a, b| case.builder.imax(a, b)).unwrap();
        let sum = ints.into_iter().reduce(|a, b| case.builder.iadd(a, b)).unwrap();
        let mut float = case.builder.to_f32(sum);
        for value in floats {
            float = case.builder.fmax(float, value);
        }
        let image = case.image(DType::I8, [rows, columns]);
        let narrow = case.arena(DType::I8, [rows, columns]);
        let across = case.image(DType::I8, [columns, rows]);
        let reals = case.image(DType::F32, [rows, columns]);
        let total = case.arena(DType::I32, [rows, Extent::Const(1)]);
        if random.below(4) == 0 {
            let row = case.builder.expr(Expr::RowIndex);
            let third = case.builder.rem(row, 3);
            case.stage(Over::Elements).when = Some(third);
        } else {
            case.stage(Over::Elements);
        }
        let stage = case.stages.last_mut().unwrap();
        stage.stores.push(Store { buffer: image, at: At::Element, value: int });
        stage.stores.push(Store { buffer: reals, at: At::Element, value: float });
        stage.reduces.push(Reduce { op: Fold::SumI32, value: sum, into: total });
        if random.below(2) == 0 {
            stage.stores.push(Store { buffer: across, at: At::Transposed, value: sum });
            stage.stores.push(Store { buffer: narrow, at: At::Element, value: sum });
        }
        let samples = 1 + random.below(size.samples);
        println!("seed {seed}: {size:?} through {window} for {samples}");
        run(&case, samples, &mut random);
    }
}

/// Filters turned to lead back: of groups, of odd sizes, of one tap, of one channel each.
#[test]
fn filters_lead_back() {
    for seed in 0..40 {
        let mut random = Random(seed * 31 + 3);
        let [taps, inputs, outputs, groups] =
            [random.below(9), random.below(70), random.below(70), random.below(3)].map(|size| 1 + size);
        let (rows, columns) = (Extent::Const(groups * inputs * taps), Extent::Const(outputs));
        let mut case = Case::new(1, rows, columns);
        let shape = [groups * outputs, taps * inputs].map(Extent::Const);
        let filters = match random.below(2) {
            0 => case.arena(DType::I8, shape),
            _ => case.image(DType::I8, shape),
        };
        let at = At::Back { taps, inputs, outputs };
        let value = case.builder.load(filters, at);
        let back = case.image(DType::I8, [groups * inputs, taps * outputs].map(Extent::Const));
        case.stage(Over::Elements).stores.push(Store { buffer: back, at: At::Flat(outputs), value });
        println!("seed {seed}: {taps} taps of {inputs} to {outputs}, {groups} groups");
        run(&case, 1, &mut random);
    }
}
