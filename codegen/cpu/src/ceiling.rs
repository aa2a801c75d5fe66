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
pub use crate::wide::Factors;
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

/// A loop of the instruction that a target's contractions use; `None` where they are Cranelift's work.
///
/// # Errors
/// When the target cannot be compiled for.
pub fn peak(target: &Target, factors: Factors) -> Result<Option<Alone>, CodegenError> {
    /// Long enough that calling it costs nothing.
    const TURNS: usize = 20_000;
    let Some(products) = Products::of(target) else { return Ok(None) };
    let mut alone = contraction(target, [1, 1, 1])?;
    let (code, macs) = wide::peak(products, factors, TURNS);
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
    let [rows, columns, depth] = shape.map(Extent::Const);
    let operands = [[rows, depth], [columns, depth]].map(|shape| Operand { shape, image: false });
    let macs = shape.iter().product();
    alone(target, [rows, columns], depth, Geometry::Dense, operands, macs)
}

/// A contraction of images, of which only each row's largest sum is kept. `channels` are the image's; `filters` count
/// where each has channels of its own.
///
/// # Errors
/// When the target cannot be compiled for.
///
/// # Panics
/// When the geometry has no window.
pub fn images(
    target: &Target,
    geometry: Geometry,
    samples: usize,
    [channels, filters]: [usize; 2],
) -> Result<Alone, CodegenError> {
    let (Geometry::Convolution(window)
    | Geometry::ConvolutionGrad(window)
    | Geometry::Depthwise(window)
    | Geometry::DepthwiseGrad(window)) = geometry
    else {
        panic!("a dense contraction has no window")
    };
    let [inputs, outputs] = [window.inputs(), window.outputs()].map(|size| Extent::Rows(samples * size));
    let [deep, taps, channels, filters] =
        [window.taps() * channels, window.taps(), channels, filters].map(Extent::Const);
    let matrix = |shape| Operand { shape, image: false };
    let image = |positions| Operand { shape: [positions, channels], image: true };
    let (domain, depth, operands) = match geometry {
        Geometry::Dense => unreachable!("refused above"),
        Geometry::Convolution(_) => ([outputs, filters], deep, [image(inputs), matrix([filters, deep])]),
        Geometry::ConvolutionGrad(_) => {
            ([filters, deep], outputs, [matrix([filters, outputs]), image(inputs)])
        }
        Geometry::Depthwise(_) => ([outputs, channels], taps, [image(inputs), matrix([channels, taps])]),
        Geometry::DepthwiseGrad(_) => ([channels, taps], outputs, [image(outputs), image(inputs)]),
    };
    let macs = [domain[0], domain[1], depth].map(|extent| extent.size(1)).iter().product();
    alone(target, domain, depth, geometry, operands, macs)
}

/// An operand of a contraction.
struct Operand {
    shape: [Extent; 2],
    image: bool,
}

fn alone(
    target: &Target,
    domain: [Extent; 2],
    depth: Extent,
    geometry: Geometry,
    operands: [Operand; 2],
    macs: usize,
) -> Result<Alone, CodegenError> {
    let program = program(domain, depth, geometry, operands);
    let artifact = compile(&[CpuBackend::new(target.clone())?], &program)?;
    Ok(Alone { artifact, macs })
}

/// A program of one contraction.
fn program(
    [rows, columns]: [Extent; 2],
    depth: Extent,
    geometry: Geometry,
    operands: [Operand; 2],
) -> Program {
    let mut buffers = Arena::default();
    let (mut arena_bytes, mut state_bytes) = (0, 0);
    let mut buffer = |name: &str, dtype, shape, class, dense| {
        let end = match class {
            BufferClass::Param { .. } => &mut state_bytes,
            _ => &mut arena_bytes,
        };
        let buffer = Buffer { name: name.to_string(), dtype, shape, class, samples: 1, offset: *end, dense };
        if matches!(class, BufferClass::Param { .. } | BufferClass::Arena) {
            *end += buffer.bytes();
        }
        buffers.push(buffer)
    };
    let one = [Extent::Rows(1), Extent::Const(1)];
    buffer("input", DType::U8, one, BufferClass::Input, false);
    buffer("scores", DType::F32, one, BufferClass::Scores, false);
    // What has the same size in every batch is a parameter.
    let mut params = Vec::new();
    let [lhs, rhs] =
        [("lhs", &operands[0]), ("rhs", &operands[1])].map(|(name, Operand { shape, image })| {
            let [Extent::Const(rows), Extent::Const(columns)] = *shape else {
                return buffer(name, DType::I8, *shape, BufferClass::Arena, *image);
            };
            let param = params.len();
            params.push(Param {
                name: name.to_string(),
                shape: [rows, columns],
                storage: ParamStorage::I8,
                role: ParamRole::Constant,
            });
            buffer(name, DType::I8, *shape, BufferClass::Param { param, plane: Plane::Value }, false)
        });
    let most = buffer("most", DType::I32, [rows, Extent::Const(1)], BufferClass::Arena, false);
    let mut builder = KernelBuilder::default();
    let value = builder.expr(Expr::Accumulator);
    let reduces = vec![Reduce { op: Fold::MaxI32, value, into: most }];
    let mut kernels = Arena::default();
    let kernel = kernels.push(Kernel {
        name: "contraction".to_string(),
        rows,
        columns,
        contraction: Some(Contraction { geometry, lhs, rhs, depth, non_negative: None }),
        exprs: builder.exprs,
        stages: vec![Stage { over: Over::Elements, when: None, stores: Vec::new(), reduces }],
    });
    Program {
        name: "ceiling".to_string(),
        batch: 1,
        infer_batch: 1,
        features: 1,
        input: DType::U8,
        classes: 1,
        trained_layers: Vec::new(),
        params,
        buffers,
        kernels,
        // Artifacts have both; here only inference runs.
        schedules: [Purpose::Train, Purpose::Infer]
            .map(|purpose| Schedule { purpose, kernels: vec![kernel] })
            .to_vec(),
        arena_bytes,
        state_bytes,
    }
}
