//! Small programs made by hand.

use ffc_ir::kernel::{
    At, Buffer, BufferClass, Contraction, Extent, Kernel, KernelBuilder, Over, Program, Purpose, Reduce,
    Schedule, Stage, Store,
};
use ffc_ir::types::DType;
use ffc_ir::{Arena, Handle};

/// An empty program for batches of up to `batch` samples of four features.
pub(crate) fn program(batch: usize) -> Program {
    Program {
        name: "by_hand".to_string(),
        batch,
        infer_batch: batch,
        features: 4,
        input: DType::F32,
        classes: 2,
        trained_layers: vec!["fc1".to_string()],
        params: Vec::new(),
        buffers: Arena::default(),
        kernels: Arena::default(),
        schedules: vec![Schedule { purpose: Purpose::Train, kernels: Vec::new() }],
        arena_bytes: 0,
        state_bytes: 0,
    }
}

/// Adds a buffer, in the arena behind all others where it belongs there.
pub(crate) fn buffer(
    program: &mut Program,
    name: &str,
    dtype: DType,
    shape: [Extent; 2],
    class: BufferClass,
) -> Handle<Buffer> {
    let mut buffer = Buffer {
        name: name.to_string(),
        dtype,
        shape,
        class,
        samples: program.batch,
        offset: 0,
        dense: false,
    };
    let end = match class {
        BufferClass::Arena | BufferClass::Accumulator => &mut program.arena_bytes,
        _ => &mut program.state_bytes,
    };
    buffer.offset = *end;
    *end += buffer.bytes();
    program.buffers.push(buffer)
}

/// Adds a kernel to the program and to its schedule.
pub(crate) fn kernel(
    program: &mut Program,
    [rows, columns]: [Extent; 2],
    contraction: Option<Contraction>,
    builder: KernelBuilder,
    stages: Vec<Stage>,
) -> Handle<Kernel> {
    let name = format!("kernel{}", program.kernels.len());
    let handle =
        program.kernels.push(Kernel { name, rows, columns, contraction, exprs: builder.exprs, stages });
    program.schedules[0].kernels.push(handle);
    handle
}

pub(crate) fn stage(over: Over, stores: Vec<Store>, reduces: Vec<Reduce>) -> Stage {
    Stage { over, when: None, stores, reduces }
}

pub(crate) fn store(buffer: Handle<Buffer>, at: At, value: Handle<ffc_ir::kernel::Expr>) -> Store {
    Store { buffer, at, value }
}
