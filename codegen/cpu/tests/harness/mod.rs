//! Runs compiled kernels on buffers that end where memory ends, and compares them with the reference executor.
//!
//! Every buffer lies right before a page that may not be touched, the caller's buffers with exactly their elements, our
//! own ones with [`Buffer::bytes`]. Memory that no kernel may rely on holds garbage.
#![allow(unsafe_code)] // Mapping and calling code.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test program uses a part.

use ffc_codegen::{Backend, Target};
use ffc_cpu::{CpuBackend, native};
use ffc_ir::arena::{Arena, Handle};
use ffc_ir::kernel::{
    At, Buffer, BufferClass, Contraction, Extent, Geometry, Kernel, KernelBuilder, Over, Plane, Program,
    Side, Stage,
};
use ffc_ir::types::DType;
use ffc_reference::{Executor, Values};
use ffc_runtime::Cpu;
use memmap2::{Mmap, MmapMut};

pub type KernelFn = unsafe extern "C" fn(*const *mut u8, usize, usize, usize);

/// All levels that this machine has, and the machine without VNNI, which may leave it AVX-512.
pub fn targets() -> Vec<Target> {
    let cpu = Cpu::detect();
    let native = |cpu: &Cpu| native(cpu).expect("tests run on an architecture that we compile for");
    let mut targets: Vec<Target> = cpu.levels().map(|cpu| native(&cpu)).collect();
    let mut without = Target { name: "no VNNI", ..native(&cpu) };
    without.features.retain(|feature| !feature.contains("vnni"));
    targets.push(without);
    targets
}

/// Small deterministic random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 >> 29;
        (x ^ (x >> 17)) as u32
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A program of one kernel in the making.
pub struct Case {
    pub samples: usize,
    pub buffers: Arena<Buffer>,
    pub builder: KernelBuilder,
    pub rows: Extent,
    pub columns: Extent,
    pub contraction: Option<Contraction>,
    pub stages: Vec<Stage>,
}

impl Case {
    pub fn new(samples: usize, rows: Extent, columns: Extent) -> Self {
        Self {
            samples,
            buffers: Arena::default(),
            builder: KernelBuilder::default(),
            rows,
            columns,
            contraction: None,
            stages: Vec::new(),
        }
    }

    pub fn buffer(&mut self, class: BufferClass, dtype: DType, shape: [Extent; 2]) -> Handle<Buffer> {
        let name = format!("b{}", self.buffers.len());
        self.buffers.push(Buffer {
            name,
            dtype,
            shape,
            class,
            samples: self.samples,
            offset: 0,
            dense: false,
        })
    }

    pub fn arena(&mut self, dtype: DType, shape: [Extent; 2]) -> Handle<Buffer> {
        self.buffer(BufferClass::Arena, dtype, shape)
    }

    /// A matrix without padding.
    pub fn image(&mut self, dtype: DType, shape: [Extent; 2]) -> Handle<Buffer> {
        let handle = self.arena(dtype, shape);
        self.buffers[handle].dense = true;
        handle
    }

    pub fn param(&mut self, dtype: DType, shape: [Extent; 2]) -> Handle<Buffer> {
        self.buffer(BufferClass::Param { param: 0, plane: Plane::Value }, dtype, shape)
    }

    pub fn contract(&mut self, depth: Extent, non_negative: Option<Side>) -> [Handle<Buffer>; 2] {
        let (rows, columns) = (self.rows, self.columns);
        let lhs = self.arena(DType::I8, [rows, depth]);
        let rhs = self.param(DType::I8, [columns, depth]);
        self.contraction = Some(Contraction { geometry: Geometry::Dense, lhs, rhs, depth, non_negative });
        [lhs, rhs]
    }

    pub fn stage(&mut self, over: Over) -> &mut Stage {
        self.stages.push(Stage { over, when: None, stores: Vec::new(), reduces: Vec::new() });
        self.stages.last_mut().unwrap()
    }

    pub fn program(&self) -> Program {
        let mut kernels = Arena::default();
        kernels.push(Kernel {
            name: "kernel".to_string(),
            rows: self.rows,
            columns: self.columns,
            contraction: self.contraction,
            exprs: self.builder.exprs.clone(),
            stages: self.stages.clone(),
        });
        Program {
            name: "test".to_string(),
            batch: self.samples,
            infer_batch: self.samples,
            features: 1,
            input: DType::U8,
            classes: 1,
            trained_layers: Vec::new(),
            params: Vec::new(),
            buffers: self.buffers.clone(),
            kernels,
            schedules: Vec::new(),
            arena_bytes: 0,
            state_bytes: 0,
        }
    }
}

fn backend(target: &Target) -> CpuBackend {
    CpuBackend::new(target.clone()).unwrap()
}

/// Code of a program, mapped.
pub struct Code {
    pages: Mmap,
    entries: Vec<usize>,
}

impl Code {
    pub fn new(program: &Program, target: &Target) -> Self {
        let variant =
            backend(target).variant(program).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        let mut pages = MmapMut::map_anon(variant.code.len()).unwrap();
        pages.copy_from_slice(&variant.code);
        Self { pages: pages.make_exec().unwrap(), entries: variant.entries }
    }

    /// Runs a kernel.
    pub fn call(&self, kernel: usize, memory: &[Memory], samples: usize, first: usize, end: usize) {
        let pointers: Vec<*mut u8> = memory.iter().map(|memory| memory.start.cast_mut()).collect();
        let address = &raw const self.pages[self.entries[kernel]];
        // SAFETY: the backend compiled this function for this machine and calling convention, and the buffers are as
        // the program says.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(address)(pointers.as_ptr(), samples, first, end) }
    }
}

const PAGE: usize = 4096;

/// Bytes at the end of mapped memory.
pub struct Memory {
    _pages: MmapMut,
    start: *const u8,
    len: usize,
}

impl Memory {
    pub fn new(len: usize) -> Self {
        let size = len.next_multiple_of(PAGE);
        let mut pages = MmapMut::map_anon(size + PAGE).unwrap();
        let base = pages.as_mut_ptr();
        // SAFETY: the last page is ours and nothing has a reference to it.
        let (start, refused) =
            unsafe { (base.add(size - len), libc::mprotect(base.add(size).cast(), PAGE, libc::PROT_NONE)) };
        assert_eq!(refused, 0);
        Self { _pages: pages, start, len }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping; kernels run only inside `Code::call`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast_mut(), self.len) }
    }
}

fn is_ours(buffer: &Buffer) -> bool {
    matches!(buffer.class, BufferClass::Arena | BufferClass::Param { .. })
}

/// Memory for a buffer: garbage, but zeros where contractions may rely on them.
pub fn memory(
    case: &Case,
    handle: Handle<Buffer>,
    values: &Values,
    samples: usize,
    random: &mut Random,
) -> Memory {
    let buffer = &case.buffers[handle];
    let [rows, columns] = buffer.shape.map(|extent| extent.size(samples));
    let (stride, element) = (buffer.stride(), buffer.dtype.bytes());
    let len = if is_ours(buffer) { buffer.bytes() } else { ((rows - 1) * stride + columns) * element };
    let mut memory = Memory::new(len);
    let bytes = memory.bytes_mut();
    bytes.iter_mut().for_each(|byte| *byte = random.next() as u8 | 1);
    let param = matches!(buffer.class, BufferClass::Param { .. });
    let operand =
        case.contraction.is_some_and(|contraction| [contraction.lhs, contraction.rhs].contains(&handle));
    let data = values.to_bytes();
    for row in 0..rows {
        let (from, width) = (row * columns * element, columns * element);
        let row = &mut bytes[row * stride * element..];
        row[..width].copy_from_slice(&data[from..from + width]);
        if buffer.dtype == DType::I8 && !buffer.dense && (param || operand) && (stride > 1 || rows == 1) {
            row[width..width.next_multiple_of(16)].fill(0);
        }
    }
    memory
}

/// Values for a buffer.
pub fn random_values(buffer: &Buffer, random: &mut Random) -> Values {
    let [rows, columns] = buffer.shape.map(|extent| extent.size(buffer.samples));
    let len = rows * columns;
    let mut some = |f: &mut dyn FnMut(&mut Random)| (0..len).for_each(|_| f(random));
    match buffer.dtype {
        DType::U8 => {
            let mut values = Vec::new();
            some(&mut |random| values.push(random.next() as u8));
            Values::U8(values)
        }
        DType::I8 => {
            let mut values = Vec::new();
            some(&mut |random| values.push((random.below(255) as i32 - 127) as i8));
            Values::I8(values)
        }
        DType::I16 => {
            let mut values = Vec::new();
            some(&mut |random| values.push(random.next() as i16));
            Values::I16(values)
        }
        DType::I32 => {
            let mut values = Vec::new();
            some(&mut |random| values.push(random.next() as i32));
            Values::I32(values)
        }
        DType::F32 => {
            let mut values = Vec::new();
            some(&mut |random| values.push(random.below(20001) as f32 / 128.0 - 77.0));
            Values::F32(values)
        }
    }
}

/// The part of values for the most samples that a smaller batch has.
fn cut(buffer: &Buffer, values: &Values, samples: usize) -> Values {
    let [rows, columns] = buffer.shape.map(|extent| extent.size(samples));
    let wide = buffer.shape[1].size(buffer.samples);
    let (bytes, element) = (values.to_bytes(), buffer.dtype.bytes());
    let row = |row: usize| &bytes[row * wide * element..(row * wide + columns) * element];
    Values::from_bytes(buffer.dtype, &(0..rows).flat_map(row).copied().collect::<Vec<u8>>())
}

/// Compares compiled code with the reference executor: all targets, whole and in parts.
pub fn check(case: &Case, values: &[Values], samples: usize, random: &mut Random) {
    let program = case.program();
    let mut oracle = Executor::new(program.clone());
    for ((handle, _), values) in case.buffers.iter().zip(values) {
        oracle.set_buffer(handle, values).unwrap();
    }
    oracle.run_kernel(Handle::new(0), samples).unwrap();
    let expected: Vec<Values> =
        case.buffers.iter().map(|(handle, _)| oracle.buffer_for(handle, samples)).collect();
    for target in targets() {
        let code = Code::new(&program, &target);
        let rows = case.rows.size(samples);
        let middle = [random.below(rows + 1), random.below(rows + 1)];
        for mut cuts in [vec![0, rows], vec![0, middle[0], middle[1], rows]] {
            cuts.sort_unstable();
            let before: Vec<Memory> = case
                .buffers
                .iter()
                .zip(values)
                .map(|((handle, buffer), values)| {
                    memory(case, handle, &cut(buffer, values, samples), samples, random)
                })
                .collect();
            let old: Vec<Vec<u8>> = before.iter().map(|memory| memory.bytes().to_vec()).collect();
            for part in cuts.windows(2).rev() {
                code.call(0, &before, samples, part[0], part[1]);
            }
            for (((handle, buffer), expected), (memory, old)) in
                case.buffers.iter().zip(&expected).zip(before.iter().zip(&old))
            {
                let what = format!(
                    "{} of {:?} on {}, rows {cuts:?} of {samples} samples",
                    buffer.name, buffer, target.name
                );
                compare(case, handle, expected, memory.bytes(), old, samples, &what);
            }
        }
    }
}

fn compare(
    case: &Case,
    handle: Handle<Buffer>,
    expected: &Values,
    bytes: &[u8],
    old: &[u8],
    samples: usize,
    what: &str,
) {
    let buffer = &case.buffers[handle];
    let program = case.program();
    let kernel = &program.kernels[Handle::new(0)];
    if !kernel.writes().contains(&handle) {
        assert_eq!(bytes, old, "{what} must not change");
        return;
    }
    let [rows, columns] = buffer.shape.map(|extent| extent.size(samples));
    let (stride, element) = (buffer.stride() * buffer.dtype.bytes(), buffer.dtype.bytes());
    let expected = expected.to_bytes();
    let gated = kernel.stages.iter().any(|stage| stage.when.is_some());
    let stored = |at: &[At]| {
        kernel
            .stages
            .iter()
            .flat_map(|stage| &stage.stores)
            .any(|store| store.buffer == handle && at.contains(&store.at))
    };
    let whole = match (stored(&[At::Element]), stored(&[At::Transposed])) {
        (true, _) => kernel.rows == buffer.shape[0] && kernel.columns == buffer.shape[1],
        (_, true) => kernel.rows == buffer.shape[1] && kernel.columns == buffer.shape[0],
        _ => false,
    };
    let width = columns * element;
    let mut known = vec![false; bytes.len()];
    for row in 0..rows {
        let at = row * stride;
        assert_eq!(&bytes[at..at + width], &expected[row * width..(row + 1) * width], "{what}, row {row}");
        known[at..at + width].fill(true);
        let pads = buffer.dtype == DType::I8 && !buffer.dense && buffer.stride() > 1 && whole && !gated;
        if pads && buffer.class == BufferClass::Arena {
            let padding = &bytes[at + width..at + width.next_multiple_of(16)];
            assert!(padding.iter().all(|&byte| byte == 0), "{what}: padding of row {row} is {padding:?}");
        }
    }
    for at in (0..bytes.len()).filter(|&at| !known[at]) {
        assert!(bytes[at] == old[at] || bytes[at] == 0, "{what}: byte {at} is {}", bytes[at]);
    }
}
