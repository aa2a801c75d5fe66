//! Random kernels without contractions against the reference executor: every primitive, place, type and reduction.

#![allow(clippy::unwrap_used)] // Clippy's setting for tests knows test functions only.

mod harness;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, BufferClass, Expr, Extent, Fold, Over, Reduce, Store};
use ffc_ir::module::Control;
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::DType;
use harness::{Case, Random, check, random_values};

type Value = Handle<Expr>;

const DTYPES: [DType; 5] = [DType::U8, DType::I8, DType::I16, DType::I32, DType::F32];

/// Expressions to choose operands from. Floats stay within ±4096, so that nothing is infinite or not a number.
struct Pool {
    ints: Vec<Value>,
    floats: Vec<Value>,
}

impl Pool {
    fn new(case: &mut Case, random: &mut Random) -> Self {
        let mut pool = Self { ints: Vec::new(), floats: Vec::new() };
        let m = &mut case.builder;
        pool.ints.extend([m.expr(Expr::RowIndex), m.expr(Expr::ColumnIndex)]);
        pool.ints.extend([0, -1, 1, i32::MIN, 77_777].map(|value| m.i32(value)));
        pool.floats.extend([0.0, 1.0, -0.75, 1e-3].map(|value| m.f32(value)));
        for _ in 0..5 {
            let (buffer, at) = source(case, random);
            pool.load(case, buffer, at);
        }
        pool
    }

    fn load(&mut self, case: &mut Case, buffer: Handle<ffc_ir::kernel::Buffer>, at: At) {
        let value = case.builder.load(buffer, at);
        match case.buffers[buffer].dtype {
            DType::F32 => self.floats.push(value),
            _ => self.ints.push(value),
        }
    }

    fn grow(&mut self, case: &mut Case, random: &mut Random) {
        let (i, j) = (random.pick(&self.ints), random.pick(&self.ints));
        let (x, y) = (random.pick(&self.floats), random.pick(&self.floats));
        let m = &mut case.builder;
        let by = random.below(32) as u32;
        let int = match random.below(18) {
            0 => m.iadd(i, j),
            1 => m.isub(i, j),
            2 => m.imul(i, j),
            3 => m.imin(i, j),
            4 => m.imax(i, j),
            5 => m.and(i, j),
            6 => m.xor(i, j),
            7 => m.shl(i, by),
            8 => m.shr(i, by),
            9 => m.sar(i, by),
            10 => m.ilt(i, j),
            11 => m.ieq(i, j),
            12 => m.flt(x, y),
            13 => m.rem(i, by + 1),
            14 => m.to_bits(x),
            15 => match random.below(2) {
                0 => m.round(x),
                _ => m.truncate(x),
            },
            16 => {
                let mask = m.ilt(i, j);
                m.select(mask, j, i)
            }
            _ => numerics::draw(m, i, j, i),
        };
        self.ints.push(int);
        let float = match random.below(13) {
            0 => m.fadd(x, y),
            1 => m.fsub(x, y),
            2 => m.fmul(x, y),
            3 => {
                let square = m.fmul(y, y);
                let one = m.f32(1.0);
                let positive = m.fadd(square, one);
                m.fdiv(x, positive)
            }
            4 => {
                let square = m.fmul(x, x);
                m.sqrt(square)
            }
            5 => m.fmax(x, y),
            6 => m.fmin(x, y),
            7 => m.to_f32(i),
            8 => {
                let below_one = m.i32(0x3f7f_ffff);
                let bits = m.and(i, below_one);
                m.from_bits(bits)
            }
            9 => {
                let mask = m.flt(x, y);
                m.select(mask, x, y)
            }
            10 => numerics::exp(m, x),
            11 => numerics::tanh(m, x),
            _ => {
                let q = numerics::quantize(m, x, y, None);
                m.to_f32(q)
            }
        };
        let (low, high) = (m.f32(-4096.0), m.f32(4096.0));
        let float = m.fmax(float, low);
        self.floats.push(m.fmin(float, high));
    }

    fn of(&self, random: &mut Random, dtype: DType) -> Value {
        let from = if dtype == DType::F32 { &self.floats } else { &self.ints };
        // The youngest are the most interesting.
        from[from.len() - 1 - random.below(from.len().min(6))]
    }
}

/// The shape of a vector: columns of narrow elements are matrices with padded rows.
fn vector(dtype: DType, length: Extent) -> [Extent; 2] {
    if dtype.bytes() == 4 { [length, Extent::Const(1)] } else { [Extent::Const(1), length] }
}

/// A buffer to load from, and where.
fn source(case: &mut Case, random: &mut Random) -> (Handle<ffc_ir::kernel::Buffer>, At) {
    let (rows, columns, one) = (case.rows, case.columns, Extent::Const(1));
    let dtype = random.pick(&DTYPES);
    let class = random.pick(&[BufferClass::Arena, BufferClass::Arena, BufferClass::Input]);
    match random.below(10) {
        0 | 1 => (case.buffer(class, dtype, [rows, columns]), At::Element),
        2 => (case.buffer(class, dtype, [columns, rows]), At::Transposed),
        3 => (case.buffer(class, dtype, vector(dtype, rows)), At::Row),
        4 => (case.buffer(class, dtype, vector(dtype, columns)), At::Column),
        5 => (case.buffer(class, dtype, [one, columns]), At::Column),
        6 => (case.buffer(BufferClass::Control(Control::Rate), DType::F32, [one, one]), At::Scalar),
        7 => match rows {
            Extent::Rows(n) => (case.buffer(class, dtype, [Extent::Rows(1), columns]), At::Sample(n)),
            Extent::Const(_) => (case.buffer(class, dtype, [rows, columns]), At::Sample(1)),
        },
        8 => match columns {
            Extent::Rows(_) => (case.buffer(class, dtype, [rows, columns]), At::Element),
            Extent::Const(count) => {
                let from = random.below(20);
                let wider = Extent::Const(from + count + random.below(3));
                (case.buffer(class, dtype, [rows, wider]), At::Columns(from))
            }
        },
        _ => match rows {
            Extent::Rows(n) => (case.buffer(class, dtype, vector(dtype, Extent::Rows(1))), At::RowSample(n)),
            Extent::Const(_) => (case.buffer(class, dtype, vector(dtype, rows)), At::RowSample(1)),
        },
    }
}

fn extent(random: &mut Random) -> Extent {
    match random.below(3) {
        0 => Extent::Rows(1 + random.below(3)),
        _ => Extent::Const(random.pick(&[1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 50])),
    }
}

fn random_case(random: &mut Random) -> Case {
    let (rows, columns) = (extent(random), extent(random));
    let mut case = Case::new(1 + random.below(12), rows, columns);
    let mut pool = Pool::new(&mut case, random);
    for _ in 0..1 + random.below(3) {
        (0..random.below(12)).for_each(|_| pool.grow(&mut case, random));
        if random.below(4) == 0 {
            over_rows(&mut case, &mut pool, random);
        } else {
            over_elements(&mut case, &mut pool, random);
        }
        if random.below(3) == 0 {
            let levels = levels(&case);
            let masks: Vec<Value> = pool
                .ints
                .iter()
                .copied()
                .filter(|mask| levels[mask.index()] < ffc_ir::kernel::Level::Element)
                .collect();
            let mask = random.pick(&masks);
            let one = case.builder.i32(1);
            let mask = case.builder.and(mask, one);
            case.stages.last_mut().unwrap().when = Some(mask);
        }
    }
    case
}

fn levels(case: &Case) -> Vec<ffc_ir::kernel::Level> {
    case.program().kernels[Handle::new(0)].levels()
}

fn over_elements(case: &mut Case, pool: &mut Pool, random: &mut Random) {
    let (rows, columns, one) = (case.rows, case.columns, Extent::Const(1));
    case.stage(Over::Elements);
    for _ in 0..1 + random.below(3) {
        let dtype = random.pick(&DTYPES);
        let value = pool.of(random, dtype);
        let (buffer, at) = match (random.below(5), dtype) {
            (4, _) if matches!(columns, Extent::Const(_)) => {
                let (Extent::Const(count), from) = (columns, random.below(20)) else { continue };
                (case.image(dtype, [rows, Extent::Const(from + count + random.below(3))]), At::Columns(from))
            }
            (0, _) => (case.arena(dtype, [columns, rows]), At::Transposed),
            (1, DType::F32) => (case.buffer(BufferClass::Scores, dtype, [rows, columns]), At::Element),
            (2, _) => (case.param(dtype, [rows, columns]), At::Element),
            _ => (case.arena(dtype, [rows, columns]), At::Element),
        };
        case.stages.last_mut().unwrap().stores.push(Store { buffer, at, value });
        pool.load(case, buffer, at);
    }
    for _ in 0..random.below(3) {
        let op = random.pick(&[Fold::SumI32, Fold::SumF32, Fold::MaxF32, Fold::MaxI32]);
        let dtype = if matches!(op, Fold::SumF32 | Fold::MaxF32) { DType::F32 } else { DType::I32 };
        let mut value = pool.of(random, dtype);
        if op == Fold::MaxF32 {
            // No zeros of both signs, whose maximum depends on the order.
            let one = case.builder.f32(1.0);
            value = case.builder.fadd(value, one);
            value = case.builder.fmax(value, one);
        }
        let into = case.arena(dtype, [rows, one]);
        case.stages.last_mut().unwrap().reduces.push(Reduce { op, value, into });
        let value = case.builder.load(into, At::Row);
        if dtype == DType::F32 {
            let (low, high) = (case.builder.f32(-4096.0), case.builder.f32(4096.0));
            let value = case.builder.fmax(value, low);
            pool.floats.push(case.builder.fmin(value, high));
        } else {
            pool.ints.push(value);
        }
    }
}

fn over_rows(case: &mut Case, pool: &mut Pool, random: &mut Random) {
    let (rows, one) = (case.rows, Extent::Const(1));
    case.stage(Over::Rows);
    for _ in 0..1 + random.below(2) {
        let levels = levels(case);
        let dtype = random.pick(&DTYPES);
        let from = if dtype == DType::F32 { &pool.floats } else { &pool.ints };
        let from: Vec<Value> = from
            .iter()
            .copied()
            .filter(|value| levels[value.index()] < ffc_ir::kernel::Level::Element)
            .collect();
        let value = from[from.len() - 1 - random.below(from.len().min(3))];
        let buffer = case.arena(dtype, vector(dtype, rows));
        let at = if rows == one { At::Scalar } else { At::Row };
        case.stages.last_mut().unwrap().stores.push(Store { buffer, at, value });
        pool.load(case, buffer, at);
    }
}

#[test]
fn random_kernels() {
    let count = std::env::var("FFC_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(150);
    let first: u64 = std::env::var("FFC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let case = random_case(&mut random);
        let samples = 1 + random.below(case.samples);
        let values: Vec<_> = case.buffers.values().map(|buffer| random_values(buffer, &mut random)).collect();
        let run = std::panic::AssertUnwindSafe(|| check(&case, &values, samples, &mut random));
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("seed {seed}: {:#?}", case.program().kernels);
            std::panic::resume_unwind(panic);
        }
    }
}
