//! Random programs that keep all rules, for tests that compare executors and backends.
//!
//! A program is a function of its seed. Its kernels cover every expression, place, element type, reduction and kind
//! of stage, extents of 1 and primes, constant and of the batch, images and contractions of what windows see of them, and
//! in-place updates across stages. So that a
//! comparison bit for bit says something, floats stay bounded and no NaN arises: every float expression carries a
//! bound on its magnitude, and where that grows too large it is clamped. Maxima of floats are taken of `x + 0`, since
//! the sign of a largest zero would depend on the order.

use ffc_ir::kernel::{
    At, Binary, Buffer, BufferClass, Contraction, Expr, Extent, Fold, Geometry, Kernel, KernelBuilder, Level,
    Outside, Over, Plane, Program, Purpose, ROW_ALIGN, Reduce, Schedule, Side, Stage, Store, Unary,
};
use ffc_ir::module::{Control, Granularity, Param, ParamRole, ParamStorage};
use ffc_ir::numerics::Arith;
use ffc_ir::types::DType;
use ffc_ir::{Arena, Handle, Window};

use crate::check::place;
use crate::memory::Values;

/// What programs may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Kernels in the program.
    pub kernels: usize,
    /// Whether `f32` contractions occur. Their operands are small integers, so that every order gives the same sum.
    pub float_contractions: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { kernels: 4, float_contractions: false }
    }
}

/// Largest magnitude in an `f32` buffer.
const STORED: f32 = 1024.0;
/// Largest magnitude that an expression may reach before it is clamped; below 2^22, so that it can be rounded.
const LARGEST: f32 = 1.0e6;
/// Largest magnitude that is summed: sums stay within [`STORED`].
const SUMMED: f32 = 0.5;
/// Largest magnitude in an operand of an `f32` contraction.
const CONTRACTED: f32 = 8.0;

const SIZES: [usize; 14] = [1, 1, 2, 3, 5, 7, 10, 13, 16, 17, 31, 48, 64, 67];
const LONG: [usize; 4] = [127, 257, 530, 1031];
/// Channels of images.
const CHANNELS: [usize; 8] = [1, 2, 3, 5, 8, 16, 17, 34];

/// A program for a seed; all its kernels are the schedule [`Purpose::Train`], in order.
pub fn program(seed: u64, options: Options) -> Program {
    let mut generator = Generator::new(seed);
    for index in 0..options.kernels {
        generator.kernel(index, options);
    }
    generator.finish()
}

/// Contents for all buffers of a program, without padding, for the most samples: what
/// [`Executor::set_buffer`](crate::Executor::set_buffer) takes. Operands of contractions keep their promises.
pub fn fill(program: &Program, seed: u64) -> Vec<Values> {
    let mut rng = Rng(seed ^ 0x5eed);
    program.buffers.iter().map(|(handle, buffer)| fill_buffer(program, handle, buffer, &mut rng)).collect()
}

fn fill_buffer(program: &Program, handle: Handle<Buffer>, buffer: &Buffer, rng: &mut Rng) -> Values {
    let [rows, columns] = buffer.shape.map(|extent| extent.size(buffer.samples));
    let len = rows * columns;
    let mut operand = false;
    let mut non_negative = false;
    for contraction in program.kernels.values().filter_map(|kernel| kernel.contraction) {
        operand |= contraction.lhs == handle || contraction.rhs == handle;
        non_negative |= contraction.lhs == handle && contraction.non_negative == Some(Side::Lhs);
        non_negative |= contraction.rhs == handle && contraction.non_negative == Some(Side::Rhs);
    }
    let classes = program.classes;
    match buffer.dtype {
        DType::U8 => Values::U8((0..len).map(|_| rng.next() as u8).collect()),
        DType::I8 if non_negative => Values::I8((0..len).map(|_| rng.below(128) as i8).collect()),
        DType::I8 => Values::I8((0..len).map(|_| (rng.below(255) as i32 - 127) as i8).collect()),
        DType::I16 => Values::I16((0..len).map(|_| rng.next() as i16).collect()),
        DType::I32 if buffer.class == BufferClass::Labels => {
            Values::I32((0..len).map(|_| rng.below(classes) as i32).collect())
        }
        DType::I32 => Values::I32((0..len).map(|_| rng.int()).collect()),
        DType::F32 if operand => {
            let low = if non_negative { 0.0 } else { -CONTRACTED };
            Values::F32((0..len).map(|_| rng.below(9) as f32 + low).collect())
        }
        DType::F32 => Values::F32((0..len).map(|_| rng.float()).collect()),
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True `of` times in `total`.
    fn chance(&mut self, of: usize, total: usize) -> bool {
        self.below(total) < of
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Mostly small integers, some from the whole range.
    fn int(&mut self) -> i32 {
        match self.below(4) {
            0 => self.next() as i32,
            1 => self.below(3) as i32 - 1,
            _ => self.below(2001) as i32 - 1000,
        }
    }

    /// Within ±[`STORED`], of many magnitudes.
    fn float(&mut self) -> f32 {
        let unit = self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
        match self.below(8) {
            0 => 0.0,
            1 => unit * STORED,
            2 => unit * 1.0e-6,
            3 => (unit * 16.0).round(),
            _ => unit * 4.0,
        }
    }
}

/// What a buffer's elements are known to be.
#[derive(Clone, Copy, Default)]
struct Promise {
    /// May be an operand of contractions; of `f32` it is never written then.
    operand: bool,
    non_negative: bool,
}

/// An expression with what is known of it.
#[derive(Clone, Copy)]
struct Known {
    expr: Handle<Expr>,
    level: Level,
    /// Whether it depends on the accumulator.
    accumulated: bool,
    /// Bound on the magnitude, of floats.
    bound: f32,
}

/// Everything so far.
struct Generator {
    rng: Rng,
    program: Program,
    promises: Vec<Promise>,
}

impl Generator {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let program = Program {
            name: format!("generated_{seed}"),
            batch: 1 + rng.below(20),
            infer_batch: 1 + rng.below(20),
            features: rng.pick(&SIZES),
            input: rng.pick(&[DType::U8, DType::F32]),
            classes: 2 + rng.below(10),
            trained_layers: vec!["fc1".to_string()],
            params: Vec::new(),
            buffers: Arena::default(),
            kernels: Arena::default(),
            schedules: Vec::new(),
            arena_bytes: 0,
            state_bytes: 0,
        };
        let mut generator = Self { rng, program, promises: Vec::new() };
        generator.externals();
        generator
    }

    fn externals(&mut self) {
        let (one, samples) = (Extent::Const(1), Extent::Rows(1));
        let (features, classes) = (Extent::Const(self.program.features), Extent::Const(self.program.classes));
        let input = self.program.input;
        let scalar = [one, one];
        for (name, dtype, shape, class) in [
            ("input", input, [samples, features], BufferClass::Input),
            ("labels", DType::I32, [samples, one], BufferClass::Labels),
            ("rate", DType::F32, scalar, BufferClass::Control(Control::Rate)),
            ("lambda", DType::F32, scalar, BufferClass::Control(Control::Lambda)),
            ("key", DType::I32, scalar, BufferClass::Key),
            ("scores", DType::F32, [samples, classes], BufferClass::Scores),
            ("loss", DType::F32, scalar, BufferClass::Loss(0)),
        ] {
            self.buffer(name.to_string(), dtype, shape, class, Promise::default());
        }
    }

    fn buffer(
        &mut self,
        name: String,
        dtype: DType,
        shape: [Extent; 2],
        class: BufferClass,
        promise: Promise,
    ) -> Handle<Buffer> {
        self.promises.push(promise);
        let samples = self.program.batch;
        self.program.buffers.push(Buffer { name, dtype, shape, class, samples, offset: 0, dense: false })
    }

    /// A new image, or another matrix without padding.
    fn image(&mut self, dtype: DType, shape: [Extent; 2], promise: Promise) -> Handle<Buffer> {
        let name = format!("b{}", self.program.buffers.len());
        let image = self.buffer(name, dtype, shape, BufferClass::Arena, promise);
        self.program.buffers[image].dense = true;
        image
    }

    /// A window with results of this size.
    fn window(&mut self, output: [usize; 2]) -> Window {
        let rng = &mut self.rng;
        let mut pair = |from: usize, count: usize| [0; 2].map(|_| from + rng.below(count));
        let (input, kernel, stride, dilation) = (pair(1, 6), pair(1, 3), pair(1, 3), pair(1, 2));
        let pad = pair(0, 4).map(|pad| pad as isize - 1);
        let spread = if pair(0, 2)[0] == 0 { [1; 2] } else { pair(1, 3) };
        let repeats = pair(0, 2)[0] == 0;
        Window { input, output, kernel, stride, dilation, pad, spread, repeats }
    }

    /// A window whose results rows of this extent could be, and how many results there are to a sample.
    fn window_of(&mut self, rows: Extent) -> Option<(Window, usize)> {
        let Extent::Rows(per_sample) = rows else { return None };
        let height = self.divisor(per_sample);
        let width = self.divisor(per_sample / height);
        Some((self.window([height, width]), per_sample / (height * width)))
    }

    fn divisor(&mut self, number: usize) -> usize {
        let divisors: Vec<usize> = (1..=number).filter(|&divisor| number.is_multiple_of(divisor)).collect();
        self.rng.pick(&divisors)
    }

    /// A new buffer, in the state where it may be and in the arena otherwise.
    fn fresh(&mut self, dtype: DType, shape: [Extent; 2], promise: Promise) -> Handle<Buffer> {
        let number = self.program.buffers.len();
        if let [Extent::Const(rows), Extent::Const(columns)] = shape
            && !matches!(dtype, DType::I32 | DType::U8)
            && self.rng.chance(1, 2)
        {
            return self.param(number, dtype, [rows, columns], promise);
        }
        let keeps = dtype == DType::F32 && self.rng.chance(1, 8);
        let class = if keeps { BufferClass::Accumulator } else { BufferClass::Arena };
        self.buffer(format!("b{number}"), dtype, shape, class, promise)
    }

    fn param(
        &mut self,
        number: usize,
        dtype: DType,
        [rows, columns]: [usize; 2],
        promise: Promise,
    ) -> Handle<Buffer> {
        let param = self.program.params.len();
        let granularity = self.rng.pick(&[Granularity::Channel, Granularity::Tensor]);
        let (storage, role) = match dtype {
            DType::I8 if self.rng.chance(1, 2) => (ParamStorage::Fixed16(granularity), ParamRole::Weight),
            DType::I8 => (ParamStorage::I8, ParamRole::Constant),
            DType::I16 => (ParamStorage::I16, ParamRole::Velocity),
            _ => (ParamStorage::F32, ParamRole::Bias),
        };
        let name = format!("p{param}");
        let shape = [rows, columns];
        self.program.params.push(Param { name: name.clone(), shape, storage, role });
        let class = |plane| BufferClass::Param { param, plane };
        let shape = shape.map(Extent::Const);
        let value = self.buffer(format!("b{number}"), dtype, shape, class(Plane::Value), promise);
        if let ParamStorage::Fixed16(granularity) = storage {
            let scales = if granularity == Granularity::Channel { shape[0] } else { Extent::Const(1) };
            let none = Promise::default();
            self.buffer(format!("{name}.low"), DType::I8, shape, class(Plane::Low), none);
            let scales = [scales, Extent::Const(1)];
            self.buffer(format!("{name}.scale"), DType::F32, scales, class(Plane::Scale), none);
        }
        value
    }

    fn extent(&mut self, long: bool) -> Extent {
        match self.rng.below(12) {
            0..=3 => Extent::Rows(1),
            4 => Extent::Rows(2),
            5 => Extent::Rows(3),
            6 if long => Extent::Const(self.rng.pick(&LONG)),
            _ => Extent::Const(self.rng.pick(&SIZES)),
        }
    }

    fn kernel(&mut self, index: usize, options: Options) {
        // The last kernels give scores and a loss.
        let scores = index + 2 == options.kernels;
        let loss = index + 1 == options.kernels;
        let rows = match (scores, loss) {
            (true, _) => Extent::Rows(1),
            (_, true) => Extent::Const(1),
            _ => self.extent(false),
        };
        let mut rows = rows;
        let mut columns = if scores { Extent::Const(self.program.classes) } else { self.extent(true) };
        let contraction = match self.rng.below(6) {
            0..=1 => Some(self.contraction(rows, columns, options)),
            2..=3 if !scores && !loss => {
                let (domain, contraction) = self.convolution(options);
                [rows, columns] = domain;
                Some(contraction)
            }
            _ => None,
        };
        let mut body = Body {
            rows,
            columns,
            contraction,
            builder: KernelBuilder::default(),
            floats: Vec::new(),
            ints: Vec::new(),
            touched: Vec::new(),
            stages: Vec::new(),
        };
        let stages = 1 + self.rng.below(3);
        for stage in 0..stages {
            body.stage(self, stage, loss);
        }
        if scores {
            body.give_scores(self);
        }
        let Body { builder, stages, .. } = body;
        self.program.kernels.push(Kernel {
            name: format!("kernel{index}"),
            rows,
            columns,
            contraction,
            exprs: builder.exprs,
            stages,
        });
    }

    fn contraction(&mut self, rows: Extent, columns: Extent, options: Options) -> Contraction {
        let depth = self.extent(true);
        self.contract(Geometry::Dense, [[rows, depth], [columns, depth]], depth, options)
    }

    /// A contraction of an image, and its domain.
    fn convolution(&mut self, options: Options) -> ([Extent; 2], Contraction) {
        let output = [0; 2].map(|_| 1 + self.rng.below(5));
        let window = self.window(output);
        let copies = 1 + self.rng.below(2);
        let [inputs, outputs] =
            [window.inputs(), window.outputs()].map(|positions| Extent::Rows(copies * positions));
        let (channels, filters) = (self.rng.pick(&CHANNELS), self.extent(false));
        let (deep, taps) = (Extent::Const(channels * window.taps()), Extent::Const(window.taps()));
        let channels = Extent::Const(channels);
        let image = [inputs, channels];
        let (geometry, domain, shapes, depth) = match self.rng.below(4) {
            0 => (Geometry::Convolution(window), [outputs, filters], [image, [filters, deep]], deep),
            1 => (Geometry::ConvolutionGrad(window), [filters, deep], [[filters, outputs], image], outputs),
            2 => (Geometry::Depthwise(window), [outputs, channels], [image, [channels, taps]], taps),
            _ => {
                let shapes = [[outputs, channels], image];
                (Geometry::DepthwiseGrad(window), [channels, taps], shapes, outputs)
            }
        };
        (domain, self.contract(geometry, shapes, depth, options))
    }

    fn contract(
        &mut self,
        geometry: Geometry,
        shapes: [[Extent; 2]; 2],
        depth: Extent,
        options: Options,
    ) -> Contraction {
        let float = options.float_contractions && self.rng.chance(1, 3);
        let dtype = if float { DType::F32 } else { DType::I8 };
        let sides = [None, None, Some(Side::Lhs), Some(Side::Rhs)];
        let non_negative = self.rng.pick(&sides);
        let images = match geometry {
            Geometry::Dense => [self.rng.chance(1, 8), self.rng.chance(1, 8)],
            Geometry::Convolution(_) | Geometry::Depthwise(_) => [true, false],
            Geometry::ConvolutionGrad(_) => [false, true],
            Geometry::DepthwiseGrad(_) => [true; 2],
        };
        let [lhs, rhs] = [(0, Side::Lhs), (1, Side::Rhs)]
            .map(|(side, name)| self.operand(dtype, shapes[side], non_negative == Some(name), images[side]));
        Contraction { geometry, lhs, rhs, depth, non_negative }
    }

    fn operand(
        &mut self,
        dtype: DType,
        shape: [Extent; 2],
        non_negative: bool,
        image: bool,
    ) -> Handle<Buffer> {
        let known = self.program.buffers.iter().find(|(handle, buffer)| {
            let promise = self.promises[handle.index()];
            let kept = promise.operand && (promise.non_negative || !non_negative);
            kept && buffer.dtype == dtype && buffer.shape == shape && (buffer.dense || !image)
        });
        match known.map(|(handle, _)| handle) {
            Some(handle) if self.rng.chance(2, 3) => handle,
            _ => {
                let non_negative = non_negative || self.rng.chance(1, 3);
                let promise = Promise { operand: true, non_negative };
                if image { self.image(dtype, shape, promise) } else { self.fresh(dtype, shape, promise) }
            }
        }
    }

    /// Places all buffers one after the other.
    fn finish(mut self) -> Program {
        let handles: Vec<Handle<Buffer>> = self.program.buffers.iter().map(|(handle, _)| handle).collect();
        let (mut arena, mut state) = (0, 0);
        for handle in handles {
            let buffer = &mut self.program.buffers[handle];
            let end = match buffer.class {
                BufferClass::Arena | BufferClass::Accumulator => &mut arena,
                BufferClass::Param { .. } => &mut state,
                _ => continue,
            };
            buffer.offset = *end;
            *end += buffer.bytes().next_multiple_of(ROW_ALIGN);
        }
        self.program.arena_bytes = arena;
        self.program.state_bytes = state;
        let kernels = self.program.kernels.iter().map(|(handle, _)| handle).collect();
        self.program.schedules.push(Schedule { purpose: Purpose::Train, kernels });
        self.program
    }
}

/// A kernel that is being made.
struct Body {
    rows: Extent,
    columns: Extent,
    contraction: Option<Contraction>,
    builder: KernelBuilder,
    floats: Vec<Known>,
    ints: Vec<Known>,
    /// Buffers that are loaded or stored, where, and whether stored.
    touched: Vec<(Handle<Buffer>, At, bool)>,
    stages: Vec<Stage>,
}

const ATS: [At; 12] = [
    At::Element,
    At::Element,
    At::Transposed,
    At::Sample(2),
    At::Sample(3),
    At::Columns(1),
    At::Columns(20),
    At::Row,
    At::RowSample(2),
    At::RowSample(3),
    At::Column,
    At::Scalar,
];

impl Body {
    fn stage(&mut self, generator: &mut Generator, index: usize, loss: bool) {
        self.leaves(generator, index == 0);
        let over = if generator.rng.chance(1, 4) { Over::Rows } else { Over::Elements };
        for _ in 0..4 + generator.rng.below(16) {
            self.step(generator, index == 0);
        }
        let first = index == 0;
        let masked = generator.rng.chance(1, 4);
        let when =
            if masked { self.int(&mut generator.rng, Level::Row, first).map(|k| k.expr) } else { None };
        let mut stage = Stage { over, when, stores: Vec::new(), reduces: Vec::new() };
        for _ in 0..1 + generator.rng.below(2) {
            self.store(generator, &mut stage, first);
        }
        if over == Over::Elements {
            for _ in 0..generator.rng.below(3) {
                self.reduce(generator, &mut stage, first);
            }
            if loss {
                self.give_loss(generator, &mut stage, first);
            }
        }
        if !(stage.stores.is_empty() && stage.reduces.is_empty()) {
            self.stages.push(stage);
        } else if first {
            // The next stage is the first then, but may not use the accumulator: a stage with nothing to do stays.
            self.stages.push(Stage { when: None, ..stage });
        }
    }

    fn push_float(&mut self, expr: Handle<Expr>, from: &[Known], bound: f32) {
        let known = join(expr, from, bound);
        let known = if bound > LARGEST { self.clamp(known, 64.0) } else { known };
        self.floats.push(known);
    }

    fn push_int(&mut self, expr: Handle<Expr>, from: &[Known]) {
        self.ints.push(join(expr, from, 0.0));
    }

    /// Within ±`bound`, whatever comes in.
    fn clamp(&mut self, value: Known, bound: f32) -> Known {
        let m = &mut self.builder;
        let (low, high) = (m.f32(-bound), m.f32(bound));
        let expr = m.fmax(low, value.expr);
        let expr = m.fmin(high, expr);
        Known { expr, bound, ..value }
    }

    fn leaves(&mut self, generator: &mut Generator, first: bool) {
        if first {
            self.constants(&mut generator.rng);
            if let Some(contraction) = self.contraction {
                let depth = contraction.depth.size(generator.program.batch);
                let expr = self.builder.expr(Expr::Accumulator);
                let bound = CONTRACTED * CONTRACTED * depth as f32;
                let known = Known { expr, level: Level::Element, accumulated: true, bound };
                match generator.program.buffers[contraction.lhs].dtype {
                    DType::F32 => self.floats.push(known),
                    _ => self.ints.push(known),
                }
            }
        }
        for _ in 0..2 + generator.rng.below(4) {
            self.load(generator);
        }
    }

    fn constants(&mut self, rng: &mut Rng) {
        let value = rng.float();
        let float = self.builder.f32(value);
        self.floats.push(Known { expr: float, level: Level::Kernel, accumulated: false, bound: value.abs() });
        let int = self.builder.i32(rng.int());
        let row = self.builder.expr(Expr::RowIndex);
        let column = self.builder.expr(Expr::ColumnIndex);
        for (expr, level) in [(int, Level::Kernel), (row, Level::Row), (column, Level::Element)] {
            self.ints.push(Known { expr, level, accumulated: false, bound: 0.0 });
        }
    }

    /// The shape that a place needs; `None` where the domain does not have the place.
    fn shape(&self, rng: &mut Rng, at: At) -> Option<[Extent; 2]> {
        let one = Extent::Const(1);
        let divided = |n: usize| match self.rows {
            Extent::Rows(per_sample) if per_sample % n == 0 => Some(Extent::Rows(per_sample / n)),
            Extent::Rows(_) => None,
            Extent::Const(size) => Some(Extent::Const(size.div_ceil(n))),
        };
        let lying = |extent, flip| if flip { [one, extent] } else { [extent, one] };
        let flip = rng.chance(1, 2);
        Some(match at {
            At::Element => [self.rows, self.columns],
            At::Transposed => [self.columns, self.rows],
            At::Sample(n) => [divided(n)?, self.columns],
            At::Columns(from) => {
                let Extent::Const(columns) = self.columns else { return None };
                [self.rows, Extent::Const(from + columns + rng.below(3))]
            }
            At::Row => lying(self.rows, flip),
            At::RowSample(n) => lying(divided(n)?, flip),
            At::Column => lying(self.columns, !flip),
            At::Scalar => [one, one],
            At::Flat(_) => [self.rows, self.columns],
            At::Planar { positions, copies } => {
                let Extent::Const(columns) = self.columns else { return None };
                [divided(positions * copies)?, Extent::Const(columns * positions)]
            }
            At::Back { taps, inputs, outputs } => {
                let Extent::Const(rows) = self.rows else { return None };
                [rows / (taps * inputs) * outputs, taps * inputs].map(Extent::Const)
            }
            At::Window { .. } => unreachable!("images come with their windows"),
        })
    }

    /// Whether the buffer may be touched there, given what else the kernel does with it.
    fn allowed(&self, buffer: Handle<Buffer>, at: At, stores: bool) -> bool {
        let operand = self.contraction.is_some_and(|c| c.lhs == buffer || c.rhs == buffer);
        let at = place(at, self.rows, self.columns);
        let same_place = |&(other, touched, stored): &(_, At, bool)| {
            other != buffer || touched == at || !(stored || stores)
        };
        !(operand && stores) && self.touched.iter().all(same_place)
    }

    fn touch(&mut self, buffer: Handle<Buffer>, at: At, stores: bool) {
        self.touched.push((buffer, place(at, self.rows, self.columns), stores));
    }

    /// An existing buffer for this access.
    fn existing(
        &self,
        generator: &mut Generator,
        at: At,
        shape: [Extent; 2],
        wanted: impl Fn(&Buffer, Promise) -> bool,
        stores: bool,
    ) -> Option<Handle<Buffer>> {
        let fitting: Vec<Handle<Buffer>> = generator
            .program
            .buffers
            .iter()
            .filter(|(handle, buffer)| {
                let promise = generator.promises[handle.index()];
                buffer.shape == shape && wanted(buffer, promise) && self.allowed(*handle, at, stores)
            })
            .map(|(handle, _)| handle)
            .collect();
        if fitting.is_empty() || generator.rng.chance(1, 4) {
            None
        } else {
            Some(generator.rng.pick(&fitting))
        }
    }

    fn load(&mut self, generator: &mut Generator) {
        if generator.rng.chance(1, 3) {
            return self.load_image(generator);
        }
        let at = generator.rng.pick(&ATS);
        let Some(shape) = self.shape(&mut generator.rng, at) else { return };
        let buffer = self.existing(generator, at, shape, |_, _| true, false).unwrap_or_else(|| {
            let dtype = generator.rng.pick(&[DType::I8, DType::I16, DType::I32, DType::F32, DType::F32]);
            let larger = generator.rng.chance(1, 6) && matches!(at, At::Element | At::Transposed);
            let wider = |extent: Extent| match extent {
                Extent::Const(size) if size > 1 => Extent::Const(size + 3),
                other => other,
            };
            let shape = if larger { shape.map(wider) } else { shape };
            let operand = dtype == DType::I8 && generator.rng.chance(1, 3);
            generator.fresh(dtype, shape, Promise { operand, non_negative: false })
        });
        self.load_from(generator, buffer, at);
    }

    /// Loads at one of the places that images have.
    fn load_image(&mut self, generator: &mut Generator) {
        let (at, shape) = match generator.rng.below(4) {
            0 => {
                let Extent::Const(columns) = self.columns else { return };
                (At::Flat(columns), Some([self.rows, self.columns]))
            }
            1 => {
                let (Extent::Const(rows), Extent::Const(outputs)) = (self.rows, self.columns) else { return };
                let taps = generator.divisor(rows);
                let at = At::Back { taps, inputs: generator.divisor(rows / taps), outputs };
                (at, self.shape(&mut generator.rng, at))
            }
            2 => {
                let Extent::Rows(per_sample) = self.rows else { return };
                let positions = generator.divisor(per_sample);
                let copies = generator.divisor(per_sample / positions);
                let at = At::Planar { positions, copies };
                (at, self.shape(&mut generator.rng, at))
            }
            _ => {
                let Some((window, samples)) = generator.window_of(self.rows) else { return };
                let tap = generator.rng.below(window.taps());
                let outside = generator.rng.pick(&[Outside::Zero, Outside::Least]);
                let shape = [Extent::Rows(window.inputs() * samples), self.columns];
                (At::Window { window: window.into(), tap, outside }, Some(shape))
            }
        };
        let Some(shape) = shape else { return };
        let planar = matches!(at, At::Planar { .. } | At::Back { .. });
        let wanted = |buffer: &Buffer, _| planar || buffer.dense;
        let buffer = self.existing(generator, at, shape, wanted, false).unwrap_or_else(|| {
            let dtype = generator.rng.pick(&[DType::I8, DType::I32, DType::F32]);
            let operand = dtype == DType::I8 && generator.rng.chance(1, 3);
            let promise = Promise { operand, non_negative: false };
            let padded = planar && generator.rng.chance(1, 2);
            if padded {
                generator.fresh(dtype, shape, promise)
            } else {
                generator.image(dtype, shape, promise)
            }
        });
        self.load_from(generator, buffer, at);
    }

    fn load_from(&mut self, generator: &Generator, buffer: Handle<Buffer>, at: At) {
        self.touch(buffer, at, false);
        let expr = self.builder.load(buffer, at);
        let (expr, bound) = match (at, generator.program.buffers[buffer].dtype) {
            // Infinity is for what takes maxima; here everything else happens, too.
            (At::Window { outside: Outside::Least, .. }, DType::F32) => {
                let least = self.builder.f32(-STORED);
                (self.builder.fmax(least, expr), STORED)
            }
            _ => (expr, STORED),
        };
        let level = at.level();
        let known = Known { expr, level, accumulated: false, bound };
        match generator.program.buffers[buffer].dtype {
            DType::F32 => self.floats.push(known),
            _ => self.ints.push(known),
        }
    }

    /// Some float of at most this level, preferably a late one.
    fn float(&self, rng: &mut Rng, level: Level, accumulated: bool) -> Option<Known> {
        pick(&self.floats, rng, level, accumulated)
    }

    fn int(&self, rng: &mut Rng, level: Level, accumulated: bool) -> Option<Known> {
        pick(&self.ints, rng, level, accumulated)
    }

    /// Adds one operation on what is there.
    fn step(&mut self, generator: &mut Generator, first: bool) {
        let rng = &mut generator.rng;
        // A part of all operations stays within the row, to have something for masks and row stages.
        let level = if rng.chance(1, 3) { Level::Row } else { Level::Element };
        let (Some(a), Some(b)) = (self.float(rng, level, first), self.float(rng, level, first)) else {
            return;
        };
        let (Some(i), Some(j)) = (self.int(rng, level, first), self.int(rng, level, first)) else { return };
        match rng.below(5) {
            0 | 1 => self.float_step(rng, a, b),
            2 => self.int_step(rng, i, j),
            3 => self.cross_step(rng, a, i),
            _ => self.choice_step(rng, [a, b], [i, j]),
        }
    }

    fn float_step(&mut self, rng: &mut Rng, a: Known, b: Known) {
        let m = &mut self.builder;
        let from = [a, b];
        let (expr, bound) = match rng.below(7) {
            0 => (m.fadd(a.expr, b.expr), a.bound + b.bound),
            1 => (m.fsub(a.expr, b.expr), a.bound + b.bound),
            2 => (m.fmul(a.expr, b.expr), a.bound * b.bound),
            3 => (m.fmax(a.expr, b.expr), a.bound.max(b.bound)),
            4 => (m.fmin(a.expr, b.expr), a.bound.max(b.bound)),
            5 => {
                // Away from 0: a / (b * b + 1/2).
                let square = m.fmul(b.expr, b.expr);
                let half = m.f32(0.5);
                let divisor = m.fadd(square, half);
                (m.fdiv(a.expr, divisor), 2.0 * a.bound)
            }
            _ => {
                let square = m.fmul(a.expr, a.expr);
                (m.expr(Expr::Unary(Unary::Sqrt, square)), a.bound)
            }
        };
        self.push_float(expr, &from, bound);
    }

    fn int_step(&mut self, rng: &mut Rng, i: Known, j: Known) {
        const BINARY: [Binary; 9] = [
            Binary::IAdd,
            Binary::ISub,
            Binary::IMul,
            Binary::IMin,
            Binary::IMax,
            Binary::And,
            Binary::Xor,
            Binary::ILt,
            Binary::IEq,
        ];
        let by = rng.below(32) as u32;
        let expr = match rng.below(13) {
            9 => Expr::Unary(Unary::Shl(by), i.expr),
            10 => Expr::Unary(Unary::Shr(by), i.expr),
            11 => Expr::Unary(Unary::Sar(by), i.expr),
            12 => Expr::Unary(Unary::Rem(1 + rng.below(100) as u32), i.expr),
            op => Expr::Binary(BINARY[op], i.expr, j.expr),
        };
        let expr = self.builder.expr(expr);
        self.push_int(expr, &[i, j]);
    }

    /// From floats to integers or back.
    fn cross_step(&mut self, rng: &mut Rng, a: Known, i: Known) {
        let m = &mut self.builder;
        match rng.below(6) {
            5 if a.bound < 2e9 => {
                let expr = m.truncate(a.expr);
                self.push_int(expr, &[a]);
            }
            0 => {
                let expr = m.round(a.expr);
                self.push_int(expr, &[a]);
            }
            1 => {
                let expr = m.to_bits(a.expr);
                self.push_int(expr, &[a]);
            }
            2 => {
                let expr = m.to_f32(i.expr);
                self.push_float(expr, &[i], 2.2e9);
            }
            3 => {
                // A float in [1, 2) from the low bits.
                let (fraction, one) = (m.i32(0x007f_ffff), m.i32(0x3f80_0000));
                let bits = m.and(i.expr, fraction);
                let bits = m.xor(bits, one);
                let expr = m.from_bits(bits);
                self.push_float(expr, &[i], 2.0);
            }
            _ => {
                let (bits, sign) = (m.to_bits(a.expr), m.i32(i32::MIN));
                let bits = m.xor(bits, sign);
                let expr = m.from_bits(bits);
                self.push_float(expr, &[a], a.bound);
            }
        }
    }

    fn choice_step(&mut self, rng: &mut Rng, [a, b]: [Known; 2], [i, j]: [Known; 2]) {
        let m = &mut self.builder;
        match rng.below(3) {
            0 => {
                let expr = m.flt(a.expr, b.expr);
                self.push_int(expr, &[a, b]);
            }
            1 => {
                let expr = m.select(i.expr, a.expr, b.expr);
                self.push_float(expr, &[i, a, b], a.bound.max(b.bound));
            }
            _ => {
                let mask = m.ilt(j.expr, i.expr);
                let expr = m.select(mask, i.expr, j.expr);
                self.push_int(expr, &[i, j]);
            }
        }
    }

    fn store(&mut self, generator: &mut Generator, stage: &mut Stage, first: bool) {
        let (ats, level): (&[At], Level) = match stage.over {
            Over::Rows if self.rows == Extent::Const(1) => (&[At::Row, At::Scalar], Level::Row),
            Over::Rows => (&[At::Row], Level::Row),
            Over::Elements if self.rows == Extent::Const(1) => {
                (&[At::Element, At::Transposed, At::Column], Level::Element)
            }
            Over::Elements => {
                (&[At::Element, At::Element, At::Transposed, At::Columns(1), At::Columns(20)], Level::Element)
            }
        };
        let at = generator.rng.pick(ats);
        let Some(shape) = self.shape(&mut generator.rng, at) else { return };
        let buffer = self.target(generator, at, shape, stage, None);
        let dtype = generator.program.buffers[buffer].dtype;
        let promise = generator.promises[buffer.index()];
        let rng = &mut generator.rng;
        let value = match dtype {
            DType::F32 => self.float(rng, level, first).map(|value| self.bounded(value, STORED)),
            _ => self.int(rng, level, first).map(|value| self.promised(value, dtype, promise)),
        };
        if let Some(value) = value {
            self.touch(buffer, at, true);
            stage.stores.push(Store { buffer, at, value: value.expr });
        }
    }

    /// A buffer that a stage may write there.
    fn target(
        &mut self,
        generator: &mut Generator,
        at: At,
        shape: [Extent; 2],
        stage: &Stage,
        dtype: Option<DType>,
    ) -> Handle<Buffer> {
        let taken: Vec<Handle<Buffer>> = stage
            .stores
            .iter()
            .map(|store| store.buffer)
            .chain(stage.reduces.iter().map(|reduce| reduce.into))
            .collect();
        let buffers: Vec<String> =
            taken.iter().map(|buffer| generator.program.buffers[*buffer].name.clone()).collect();
        let wanted = |buffer: &Buffer, promise: Promise| {
            let class = matches!(
                buffer.class,
                BufferClass::Arena | BufferClass::Accumulator | BufferClass::Param { .. }
            );
            let exact = buffer.dtype == DType::F32 && promise.operand;
            let right = dtype.is_none_or(|dtype| buffer.dtype == dtype);
            let dense = buffer.dense || !matches!(at, At::Columns(_));
            class && !exact && right && dense && !buffers.contains(&buffer.name)
        };
        self.existing(generator, at, shape, wanted, true).unwrap_or_else(|| {
            let dtypes = [DType::I8, DType::I8, DType::I16, DType::I32, DType::F32, DType::F32];
            let dtype = dtype.unwrap_or_else(|| generator.rng.pick(&dtypes));
            let operand = dtype == DType::I8 && generator.rng.chance(1, 2);
            let promise = Promise { operand, non_negative: operand && generator.rng.chance(1, 3) };
            let matrix = matches!(at, At::Element | At::Transposed) && dtype != DType::I16;
            if matches!(at, At::Columns(_)) || matrix && generator.rng.chance(1, 3) {
                generator.image(dtype, shape, promise)
            } else {
                generator.fresh(dtype, shape, promise)
            }
        })
    }

    fn bounded(&mut self, value: Known, bound: f32) -> Known {
        if value.bound > bound { self.clamp(value, bound) } else { value }
    }

    /// What a buffer that contractions read may hold.
    fn promised(&mut self, value: Known, dtype: DType, promise: Promise) -> Known {
        if dtype != DType::I8 || !promise.operand {
            return value;
        }
        let m = &mut self.builder;
        let (low, high) = (m.i32(if promise.non_negative { 0 } else { -127 }), m.i32(127));
        let expr = m.imax(value.expr, low);
        Known { expr: m.imin(expr, high), ..value }
    }

    fn reduce(&mut self, generator: &mut Generator, stage: &mut Stage, first: bool) {
        let op = generator.rng.pick(&[Fold::SumI32, Fold::SumF32, Fold::MaxF32, Fold::MaxI32]);
        let float = matches!(op, Fold::SumF32 | Fold::MaxF32);
        let dtype = if float { DType::F32 } else { DType::I32 };
        let one = Extent::Const(1);
        let into = self.target(generator, At::Row, [self.rows, one], stage, Some(dtype));
        let rng = &mut generator.rng;
        let value = match op {
            Fold::SumI32 | Fold::MaxI32 => self.int(rng, Level::Element, first),
            Fold::SumF32 => {
                let value = self.float(rng, Level::Element, first);
                value.map(|value| self.bounded(value, SUMMED))
            }
            Fold::MaxF32 => self.float(rng, Level::Element, first).map(|value| {
                let value = self.bounded(value, STORED);
                let zero = self.builder.f32(0.0);
                Known { expr: self.builder.fadd(value.expr, zero), ..value }
            }),
        };
        if let Some(value) = value {
            self.touch(into, At::Row, true);
            stage.reduces.push(Reduce { op, value: value.expr, into });
        }
    }

    fn give_loss(&mut self, generator: &mut Generator, stage: &mut Stage, first: bool) {
        let loss = generator.program.buffers.find(|buffer| buffer.class == BufferClass::Loss(0));
        let value = self.float(&mut generator.rng, Level::Element, first);
        if let (Some(loss), Some(value)) = (loss, value)
            && self.allowed(loss, At::Row, true)
        {
            let value = self.bounded(value, SUMMED).expr;
            self.touch(loss, At::Row, true);
            stage.reduces.push(Reduce { op: Fold::SumF32, value, into: loss });
        }
    }

    fn give_scores(&mut self, generator: &mut Generator) {
        let scores = generator.program.buffers.find(|buffer| buffer.class == BufferClass::Scores);
        let value = self.float(&mut generator.rng, Level::Element, false);
        if let (Some(scores), Some(value)) = (scores, value)
            && self.allowed(scores, At::Element, true)
        {
            let value = self.bounded(value, STORED).expr;
            let stores = vec![Store { buffer: scores, at: At::Element, value }];
            self.stages.push(Stage { over: Over::Elements, when: None, stores, reduces: Vec::new() });
        }
    }
}

fn join(expr: Handle<Expr>, from: &[Known], bound: f32) -> Known {
    let level = from.iter().map(|known| known.level).max().unwrap_or(Level::Kernel);
    Known { expr, level, accumulated: from.iter().any(|known| known.accumulated), bound }
}

fn pick(pool: &[Known], rng: &mut Rng, level: Level, accumulated: bool) -> Option<Known> {
    let fitting: Vec<Known> =
        pool.iter().copied().filter(|k| k.level <= level && (accumulated || !k.accumulated)).collect();
    // Half of the time one of the last few, so that formulas grow deep.
    let late = fitting.len().saturating_sub(4);
    match fitting.len() {
        0 => None,
        len if rng.chance(1, 2) => Some(fitting[late + rng.below(len - late)]),
        len => Some(fitting[rng.below(len)]),
    }
}
