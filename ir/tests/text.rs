//! What the text forms look like, and what people are told about text that is none.

use ffc_ir::arena::Arena;
use ffc_ir::kernel::{
    At, Buffer, BufferClass, Contraction, Extent, Fold, Geometry, Kernel, KernelBuilder, Over, Plane,
    Program, Purpose, Reduce, Schedule, Side, Stage, Store,
};
use ffc_ir::module::{Granularity, Param, ParamRole, ParamStorage};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::text::summary;
use ffc_ir::types::DType;
use ffc_ir::{parse, verify};

const MODULE: &str = "module @tiny quantized {
  input u8[4]
  classes 2
  batch 8
  rows contrast-neutral

  param @fc.weight: fixed16(channel)[2, 4] weight
  param @fc.velocity: i16[2, 4] velocity
  param @fc.head: fixed16(tensor)[3, 2] head(0.03)
  param @fc.range: f32[1, 1] range(1e-12)

  layer @fc classifier {
    forward {
      %x: u8[rows, 4] = input
      %f: f32[rows, 4] = convert %x
      %s: f32[1, 1] = constant 3.4028235e38
      %q: i8[rows, 4] = quantize %f, %s, stochastic(3)
      %w: i8[2, 4] = param @fc.weight
      %dot: i32[rows, 2] = dot %q, %w
      %z: f32[rows, 2] = convert %dot
      %y: f32[rows, 2] = activate clip(-inf, 6), %z
      yield %y, %q
    }
    head {
      %p: f32[rows, 1] = polarity
      %g: f32[rows, 2] = splat %p
      %dz: f32[rows, 2] = activate_grad leaky_relu(0.1), %y, %g
      %score: f32[rows, 1] = score %p, set
    }
    update {
      %rate: f32[1, 1] = control rate
      %qd: i8[rows, 2] = quantize %dz, %s, nearest
      %qd.t: i8[2, rows] = transpose %qd
      %qt: i8[4, rows] = transpose %q
      %dw: i32[2, 4] = dot %qd.t, %qt
      %new: i8[2, 4] = sgd @fc.weight, %dw, %rate, stream(4), momentum(@fc.velocity, 0.9)
      %t: f32[1, 1] = track @fc.range, %rate, decay(0.99)
    }
  }
}
";

#[test]
fn a_module_prints_as_it_was_written() {
    let module = parse(MODULE).unwrap();
    verify(&module).unwrap();
    assert_eq!(module.to_string(), MODULE);
}

#[test]
fn types_may_be_left_out_and_layout_is_free() {
    let terse: String = MODULE
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((name, rest)) if name.contains('%') && !rest.contains("splat") => {
                format!("{name}{} // inferred\n", &rest[rest.find(" =").expect("a definition")..])
            }
            _ => format!("{line}\n\n\t"),
        })
        .collect();
    assert_eq!(parse(&terse).unwrap(), parse(MODULE).unwrap());
}

#[track_caller]
fn refused(from: &str, to: &str, message: &str) {
    assert_eq!(MODULE.matches(from).count(), 1, "`{from}` must occur once");
    assert_eq!(parse(&MODULE.replace(from, to)).expect_err("it is wrong").to_string(), message);
}

#[test]
fn mistakes_are_located() {
    refused("%q, %w", "%q, %u", "19:36: there is no `%u` before this");
    refused("= param @fc.weight", "= param @fc.wait", "18:28: there is no param `@fc.wait`");
    refused("dot %q, %w", "dott %q, %w", "19:28: there is no operation `dott`");
    refused("dot %q, %w", "dot %q %w", "19:35: expected `,`, found `%w`");
    refused("%f: f32[rows, 4]", "%x: f32[rows, 4]", "15:7: there is another `%x` in this layer");
    refused("@fc.velocity: i16", "@fc.weight: i16", "8:9: there is another param `@fc.weight`");
    refused("batch 8", "batch -8", "4:9: expected a whole number, found `-8`");
    refused("batch 8", "batch 99999999999999999999", "4:9: `99999999999999999999` is too large");
    refused("3.4028235e38", "3.5e38", "16:32: `3.5e38` is too large");
    refused("3.4028235e38", "nan", "16:32: expected a number, found `nan`");
    refused("batch 8", "batch §", "4:9: `§` begins nothing");
    refused("batch 8", "batch", "5:3: expected a whole number, found `rows`");
    refused(
        "%f: f32[rows, 4] = convert %x",
        "%f = splat %x",
        "15:7: the type of `splat` is declared, not inferred",
    );
    refused(
        "    head {",
        "    heed {",
        "24:5: expected a region or `}`, found `heed`\n  \
             help: regions are, in order: forward, head, look_ahead, update",
    );
    refused(
        "tiny quantized",
        "tiny quantised",
        "1:14: expected a phase, found `quantised`\n  \
             help: there are: imported, trainable, quantized",
    );
    refused(
        "clip(-inf, 6)",
        "mish",
        "21:35: `mish` is no activation\n  \
             help: there are: relu, leaky_relu, clip, sigmoid, tanh, hard_sigmoid, elu, silu, hard_swish, gelu, \
             gelu_tanh",
    );
    assert_eq!(parse("").unwrap_err().to_string(), "1:1: expected `module`, found the end");
    assert_eq!(parse(&format!("{MODULE}x")).unwrap_err().to_string(), "41:1: expected the end, found `x`");
}

fn buffer(name: &str, dtype: DType, shape: [Extent; 2], class: BufferClass) -> Buffer {
    Buffer { name: name.into(), dtype, shape, class, samples: 8, offset: 64, dense: false }
}

/// One kernel: a contraction, an activation with its goodness, and a quantized store.
fn program() -> Program {
    let mut buffers = Arena::default();
    let rows = Extent::Rows(2);
    let x = buffers.push(buffer("x", DType::I8, [rows, Extent::Const(4)], BufferClass::Arena));
    let value = BufferClass::Param { param: 0, plane: Plane::Value };
    let w = buffers.push(buffer("w", DType::I8, [Extent::Const(3), Extent::Const(4)], value));
    let y = buffers.push(buffer("y", DType::I8, [rows, Extent::Const(3)], BufferClass::Arena));
    let g = buffers.push(buffer("g", DType::F32, [rows, Extent::Const(1)], BufferClass::Accumulator));
    let mut m = KernelBuilder::default();
    let acc = m.expr(ffc_ir::kernel::Expr::Accumulator);
    let z = m.to_f32(acc);
    let zero = m.f32(0.0);
    let z = m.fmax(z, zero);
    let square = m.fmul(z, z);
    let scale = m.f32(0.5);
    let q = numerics::quantize(&mut m, z, scale, None);
    let stage = Stage {
        over: Over::Elements,
        when: None,
        stores: vec![Store { buffer: y, at: At::Element, value: q }],
        reduces: vec![Reduce { op: Fold::SumF32, value: square, into: g }],
    };
    let contraction = Some(Contraction {
        geometry: Geometry::Dense,
        lhs: x,
        rhs: w,
        depth: Extent::Const(4),
        non_negative: Some(Side::Lhs),
    });
    let (columns, exprs) = (Extent::Const(3), m.exprs);
    let mut kernels = Arena::default();
    let kernel = kernels.push(Kernel {
        name: "fc.forward".into(),
        rows,
        columns,
        contraction,
        exprs,
        stages: vec![stage],
    });
    let weight = Param {
        name: "fc.weight".into(),
        shape: [3, 4],
        storage: ParamStorage::Fixed16(Granularity::Channel),
        role: ParamRole::Weight,
    };
    Program {
        name: "tiny".into(),
        batch: 8,
        infer_batch: 4,
        features: 4,
        input: DType::U8,
        classes: 3,
        trained_layers: vec!["fc".into()],
        params: vec![weight],
        buffers,
        kernels,
        schedules: vec![Schedule { purpose: Purpose::Train, kernels: vec![kernel] }],
        arena_bytes: 2048,
        state_bytes: 256,
    }
}

#[test]
fn programs_print() {
    let expected = "\
program @tiny {
  input u8[4]
  classes 3
  batch 8, inference 4
  trained layers: fc
  arena 2048 bytes, state 256 bytes

  buffer x: i8[2*samples, 4] arena at 64, stride 64, 1024 bytes
  buffer w: i8[3, 4] param @fc.weight at 64, stride 64, 192 bytes
  buffer y: i8[2*samples, 3] arena at 64, stride 64, 1024 bytes
  buffer g: f32[2*samples, 1] accumulator at 64, stride 1, 64 bytes

  kernel fc.forward [2*samples, 3] {
    acc = dot(x, w; 4, left side not negative)
    e3 = max(f32(acc), 0.0)
    for elements {
      y[i, j] = round(min(max((e3 * 0.5), -127.0), 127.0))
      g[i] = sum_f32 (e3 * e3)
    }
  }

  schedule train: fc.forward
}
";
    assert_eq!(program().to_string(), expected);
}

#[test]
fn summaries_show_what_fused() {
    let expected = "\
kernel fc.forward [2*samples, 3] dot(x, w; 4, left side not negative) reads x, w writes y, g
schedule train: fc.forward
";
    assert_eq!(summary(&program()), expected);
}
