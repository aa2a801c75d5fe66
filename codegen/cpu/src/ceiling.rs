//! Kernels that do nothing but multiply and add: what a machine can do at most, and how much of that contractions reach.
//!
//! Each is an artifact whose inference, of one sample that it does not look at, runs the kernel once. So whoever measures
//! loads and calls it as any other program.

use ffc_codegen::{CodegenError, Target, compile};
use ffc_ir::arena::Arena;
use ffc_ir::kernel::{
    Buffer, BufferClass, Contraction, Expr, Extent, Fold, Geometry, Kernel, KernelBuilder, Over, Plane,
    Program, Purpose, Reduce, Schedule, Stage,
};
use ffc_ir::module::{Param, ParamRole, ParamStorage};
use ffc_ir::types::DType;
use ffc_runtime::artifact::Artifact;

use crate::CpuBackend;
use crate::wide::{self, Products};

/// A kernel alone.
#[derive(Clone, Debug)]
pub struct Alone {
    /// The program; its samples are single bytes, and it has one class.
    pub artifact: Artifact,
    /// Multiply-accumulates of a run.
    pub macs: usize,
}

/// Rows, columns and depth of a contraction.
pub type Shape = [usize; 3];

/// A loop, on registers alone, of the instruction that a target's contractions use; `None` where they are Cranelift's
/// work.
///
/// # Errors
/// When the target cannot be compiled for.
pub fn peak(target: &Target) -> Result<Option<Alone>, CodegenError> {
    /// Long enough that calling it costs nothing.
    const TURNS: usize = 20_000;
    let Some(products) = Products::of(target) else { return Ok(None) };
    let mut alone = contraction(target, [1, 1, 1])?;
    let (code, macs) = wide::peak(products, TURNS);
    for variant in &mut alone.artifact.variants {
        variant.entries = vec![0];
        variant.code.clone_from(&code);
    }
    Ok(Some(Alone { macs: macs * TURNS, ..alone }))
}

/// A contraction of which only each row's largest sum is kept.
///
/// # Errors
/// When the target cannot be compiled for.
pub fn contraction(target: &Target, shape: Shape) -> Result<Alone, CodegenError> {
    let artifact = compile(&[CpuBackend::new(target.clone())?], &program(shape))?;
    Ok(Alone { artifact, macs: shape.iter().product() })
}

/// A program of one contraction.
fn program([rows, columns, depth]: Shape) -> Program {
    let [rows, columns, depth] = [rows, columns, depth].map(Extent::Const);
    let mut buffers = Arena::default();
    let mut state = 0;
    let mut buffer = |name: &str, dtype, shape, class| {
        let offset = if matches!(class, BufferClass::Param { .. }) { state } else { 0 };
        let buffer = Buffer { name: name.to_string(), dtype, shape, class, samples: 1, offset, dense: false };
        if matches!(class, BufferClass::Param { .. }) {
            state += buffer.bytes();
        }
        buffers.push(buffer)
    };
    let one = [Extent::Rows(1), Extent::Const(1)];
    buffer("input", DType::U8, one, BufferClass::Input);
    buffer("scores", DType::F32, one, BufferClass::Scores);
    let operand = |param| BufferClass::Param { param, plane: Plane::Value };
    let lhs = buffer("lhs", DType::I8, [rows, depth], operand(0));
    let rhs = buffer("rhs", DType::I8, [columns, depth], operand(1));
    let most = buffer("most", DType::I32, [rows, Extent::Const(1)], BufferClass::Arena);
    let params = [("lhs", rows), ("rhs", columns)].map(|(name, rows)| Param {
        name: name.to_string(),
        shape: [rows.size(1), depth.size(1)],
        storage: ParamStorage::I8,
        role: ParamRole::Constant,
    });
    let mut builder = KernelBuilder::default();
    let value = builder.expr(Expr::Accumulator);
    let reduces = vec![Reduce { op: Fold::MaxI32, value, into: most }];
    let mut kernels = Arena::default();
    let kernel = kernels.push(Kernel {
        name: "contraction".to_string(),
        rows,
        columns,
        contraction: Some(Contraction { geometry: Geometry::Dense, lhs, rhs, depth, non_negative: None }),
        exprs: builder.exprs,
        stages: vec![Stage { over: Over::Elements, when: None, stores: Vec::new(), reduces }],
    });
    let arena_bytes = buffers[most].bytes();
    Program {
        name: "ceiling".to_string(),
        batch: 1,
        infer_batch: 1,
        features: 1,
        input: DType::U8,
        classes: 1,
        trained_layers: Vec::new(),
        params: params.to_vec(),
        buffers,
        kernels,
        // Artifacts have both; here only inference runs.
        schedules: [Purpose::Train, Purpose::Infer]
            .map(|purpose| Schedule { purpose, kernels: vec![kernel] })
            .to_vec(),
        arena_bytes,
        state_bytes: state,
    }
}
