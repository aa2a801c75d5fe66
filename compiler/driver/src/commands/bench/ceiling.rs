//! What the machine could do, measured in the same run: products on registers alone, contractions without what is fused
//! behind them, and copying.
//!
//! Machines are shared and change their pace within seconds; figures of different runs are not comparable, shares of a
//! ceiling of the same run are.

use std::time::{Duration, Instant};

use ffc_codegen::{Backend, Target};
use ffc_cpu::CpuBackend;
use ffc_ir::arena::Arena;
use ffc_ir::kernel::{
    Buffer, BufferClass, Contraction, Expr, Extent, Fold, Kernel, KernelBuilder, Over, Plane, Program,
    Purpose, Reduce, Schedule, Stage,
};
use ffc_ir::module::{Param, ParamRole, ParamStorage};
use ffc_ir::types::DType;
use ffc_runtime::{Options, Samples, Session};

use crate::Failure;

/// Rows, columns and depth of a contraction.
pub(super) type Shape = [usize; 3];

/// A kernel alone, ready to run.
pub(super) struct Alone {
    session: Session,
    /// Multiply-accumulates of a run.
    pub(super) macs: usize,
    times: Vec<Duration>,
}

impl Alone {
    /// The loop of products on registers alone; `None` where the target has none.
    pub(super) fn peak(target: &Target) -> Result<Option<Self>, Failure> {
        let Some(peak) = ffc_cpu::peak(target) else { return Ok(None) };
        let mut artifact = CpuBackend::new(target.clone())?.compile(&program([1, 1, 1]))?;
        artifact.code = peak.code;
        artifact.kernels[0].entry = 0;
        let session = Session::new(artifact, Options::default())?;
        Ok(Some(Self { session, macs: peak.macs, times: Vec::new() }))
    }

    /// A contraction of which only each row's largest sum is kept.
    pub(super) fn contraction(target: &Target, shape: Shape) -> Result<Self, Failure> {
        let artifact = CpuBackend::new(target.clone())?.compile(&program(shape))?;
        let session = Session::new(artifact, Options::default())?;
        Ok(Self { session, macs: shape.iter().product(), times: Vec::new() })
    }

    /// Runs it once more: twice, since the first time brings back to the caches what others have driven out.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        for again in [false, true] {
            let start = Instant::now();
            self.session.infer(Samples::U8(&[0]), &mut [0.0])?;
            if again {
                self.times.push(start.elapsed());
            }
        }
        Ok(())
    }

    /// The median of all runs.
    pub(super) fn time(&self) -> Duration {
        super::median(self.times.clone())
    }

    /// 1e9 multiply-accumulates a second.
    pub(super) fn gmacs(&self) -> f64 {
        self.macs as f64 / self.time().as_secs_f64() / 1e9
    }
}

/// A program of one contraction.
fn program([rows, columns, depth]: Shape) -> Program {
    let [rows, columns, depth] = [rows, columns, depth].map(Extent::Const);
    let mut buffers = Arena::default();
    let mut state = 0;
    let mut buffer = |name: &str, dtype, shape, class| {
        let offset = if matches!(class, BufferClass::Param { .. }) { state } else { 0 };
        let buffer = Buffer { name: name.to_string(), dtype, shape, class, samples: 1, offset };
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
        contraction: Some(Contraction { lhs, rhs, depth, non_negative: None }),
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

/// Bytes read and written a second when this much memory is copied.
pub(super) fn copy_rate(bytes: usize, runs: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        start.elapsed()
    });
    2.0 * bytes as f64 / super::median(times.collect()).as_secs_f64()
}
