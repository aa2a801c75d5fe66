//! How a state begins, and how weights leave and enter it.
//!
//! A state begins as the bytes that training starts from, which the object holds where they are not 0. Outside it weights
//! are `f32`, all trained parameters one after the other, row-major; inside they lie in planes whose rows are padded.
//! Both ways are `ffc_runtime`'s, whose `fixed` has the formulas.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_module::FuncId;
use ffc_codegen::CodegenError;
use ffc_runtime::artifact::{Artifact, Buffer, Element, Extent, Param, Storage};
use ffc_runtime::fixed;

use super::routine::{ALIGN, Routine, Unit, refuse};
use super::{FINGERPRINT, Program, SEED, Status, check_cpu, check_finite, in_state};

/// Zeros up to this many are kept with what is around them.
const GAP: usize = 4096;

/// Adds `init`, `export` and `import`.
pub(super) fn define(
    unit: &mut Unit,
    program: &Program<'_>,
    level: Option<FuncId>,
    finite: FuncId,
) -> Result<(), CodegenError> {
    let copy = define_copy(unit)?;
    define_init(unit, program, level, copy)?;
    let places = trained(program.artifact).map(|param| Planes::of(program.artifact, param));
    let places: Vec<_> = places.collect::<Result<_, _>>()?;
    define_export(unit, program, &places, copy)?;
    define_import(unit, program, &places, copy, finite)
}

/// What weights consist of, in their order.
pub(super) fn trained(artifact: &Artifact) -> impl Iterator<Item = &Param> {
    artifact.params.iter().filter(|param| param.role.is_trained())
}

/// `copy(to, to_pitch, from, from_pitch, rows, words)`: copies rows of so many words of 32 bits.
fn define_copy(unit: &mut Unit) -> Result<FuncId, CodegenError> {
    let copy = unit.private("copy", &[types::I64; 6], &[])?;
    unit.define(copy, |r, [to, to_pitch, from, from_pitch, rows, words]| {
        r.repeat(rows, |r, row| {
            let [to, from] =
                [(to, to_pitch), (from, from_pitch)].map(|(start, pitch)| step(r, start, row, pitch));
            r.repeat(words, |r, index| {
                let [to, from] = [to, from].map(|row| r.element(row, index, size_of::<u32>()));
                let word = r.load(types::I32, from, 0);
                r.store(word, to, 0);
            });
        });
        r.b.ins().return_(&[]);
    })?;
    Ok(copy)
}

/// `start + index * pitch`.
fn step(r: &mut Routine<'_>, start: Value, index: Value, pitch: Value) -> Value {
    let offset = r.b.ins().imul(index, pitch);
    r.b.ins().iadd(start, offset)
}

/// `init(state, seed)`.
fn define_init(
    unit: &mut Unit,
    program: &Program<'_>,
    level: Option<FuncId>,
    copy: FuncId,
) -> Result<(), CodegenError> {
    let runs = runs(program.embedding.state);
    let bytes = runs.iter().flat_map(|run| &program.embedding.state[run.clone()]).copied().collect();
    let start = unit.constant("start", bytes)?;
    let init = unit.public("init", &[types::I64; 2])?;
    unit.define(init, |r, [state, seed]| {
        program.check_pointers(r, &[(state, ALIGN)]);
        check_cpu(r, level, program.artifact.variants.len());
        clear(r, state, program.state_bytes());
        let mut from = r.address(start);
        for run in runs {
            let bytes = run.len();
            let [zero, one, words] = [0, 1, bytes / size_of::<u32>()].map(|size| r.size(size));
            let to = r.at(state, ALIGN + run.start);
            r.call(copy, &[to, zero, from, zero, one, words]);
            from = r.at(from, bytes);
        }
        r.store(seed, state, SEED);
        let fingerprint = r.b.ins().iconst(types::I64, program.fingerprint.cast_signed());
        r.store(fingerprint, state, FINGERPRINT);
        r.finish(Status::Ok);
    })
}

/// Where bytes are not 0: whole lines, together where little lies between them. The bytes are a multiple of a line.
fn runs(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, line) in bytes.chunks(ALIGN).enumerate() {
        let here = index * ALIGN..index * ALIGN + line.len();
        if line.iter().all(|&byte| byte == 0) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if here.start - last.end <= GAP => last.end = here.end,
            _ => runs.push(here),
        }
    }
    runs
}

/// Sets memory to 0, whole lines of it.
fn clear(r: &mut Routine<'_>, start: Value, bytes: usize) {
    let (count, zero) = (r.size(bytes / size_of::<u64>()), r.size(0));
    r.repeat(count, |r, index| {
        let place = r.element(start, index, size_of::<u64>());
        r.store(zero, place, 0);
    });
}

/// Where a trained parameter lies in the state.
struct Planes {
    shape: [usize; 2],
    storage: Planed,
}

enum Planed {
    /// Floats.
    Plain(Plane),
    /// Planes of bytes with the same pitch, and a scale for each row or for all.
    Fixed { high: Plane, low: Plane, scale: Plane, scales: usize },
}

/// Where a matrix begins, and the bytes from row to row.
#[derive(Clone, Copy)]
struct Plane {
    offset: usize,
    pitch: usize,
}

impl Planes {
    fn of(artifact: &Artifact, param: &Param) -> Result<Self, CodegenError> {
        let plane = |buffer: usize| {
            let Buffer { element, stride, place, .. } = artifact.buffers[buffer];
            let offset = in_state(place).expect("validated: parameters lie in the state");
            Plane { offset, pitch: stride * element.bytes() }
        };
        let storage = match param.storage {
            Storage::Plain { value } if artifact.buffers[value].element == Element::F32 => {
                Planed::Plain(plane(value))
            }
            Storage::Fixed16 { high, low, scale } if plane(high).pitch == plane(low).pitch => {
                let single = artifact.buffers[scale].rows == Extent::Const(1);
                let scales = if single { 1 } else { param.shape[0] };
                Planed::Fixed { high: plane(high), low: plane(low), scale: plane(scale), scales }
            }
            _ => {
                return Err(refuse(format!(
                    "parameter `{}` is stored in a way that objects cannot export",
                    param.name
                )));
            }
        };
        Ok(Self { shape: param.shape, storage })
    }

    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// `export(state, weights)`.
fn define_export(
    unit: &mut Unit,
    program: &Program<'_>,
    params: &[Planes],
    copy: FuncId,
) -> Result<(), CodegenError> {
    let unpack = define_unpack(unit)?;
    let export = unit.public("export", &[types::I64; 2])?;
    unit.define(export, |r, [state, weights]| {
        program.check_pointers(r, &[(state, ALIGN), (weights, size_of::<f32>())]);
        program.check_state(r, state);
        for_each_param(r, params, [state, weights], unpack, |r, inside, outside, [rows, words]| {
            r.call(copy, &[&outside[..], &inside, &[rows, words]].concat());
        });
        r.finish(Status::Ok);
    })
}

/// `import(state, weights)`.
fn define_import(
    unit: &mut Unit,
    program: &Program<'_>,
    params: &[Planes],
    copy: FuncId,
    finite: FuncId,
) -> Result<(), CodegenError> {
    let pack = define_pack(unit)?;
    let import = unit.public("import", &[types::I64; 2])?;
    unit.define(import, |r, [state, weights]| {
        program.check_pointers(r, &[(state, ALIGN), (weights, size_of::<f32>())]);
        program.check_state(r, state);
        let count = r.size(params.iter().map(Planes::len).sum());
        check_finite(r, finite, weights, count);
        for_each_param(r, params, [state, weights], pack, |r, inside, outside, [rows, words]| {
            r.call(copy, &[&inside[..], &outside, &[rows, words]].concat());
        });
        r.finish(Status::Ok);
    })
}

/// Calls `fixed` ([`define_unpack`] or [`define_pack`]) for fixed-point parameters, and for others `plain` with address
/// and pitch inside the state and outside, and their rows and columns.
fn for_each_param(
    r: &mut Routine<'_>,
    params: &[Planes],
    [state, weights]: [Value; 2],
    fixed: FuncId,
    plain: impl Fn(&mut Routine<'_>, [Value; 2], [Value; 2], [Value; 2]),
) {
    let mut values = weights;
    for param in params {
        let [rows, columns] = param.shape;
        match &param.storage {
            Planed::Plain(plane) => {
                let inside = [r.at(state, plane.offset), r.size(plane.pitch)];
                let outside = [values, r.size(columns * size_of::<f32>())];
                let sizes = [rows, columns].map(|size| r.size(size));
                plain(r, inside, outside, sizes);
            }
            Planed::Fixed { high, low, scale, scales } => {
                let planes = [high, low, scale].map(|plane| r.at(state, plane.offset));
                let sizes = [high.pitch, scale.pitch, *scales, rows / scales, columns];
                let sizes = sizes.map(|size| r.size(size));
                r.call(fixed, &[&[values][..], &planes, &sizes].concat());
            }
        }
        values = r.at(values, param.len() * size_of::<f32>());
    }
}

/// `unpack(values, high, low, scale, pitch, scale_pitch, scales, rows, columns)`: writes the values of `scales` times
/// `rows` rows, of which each `rows` share a scale.
fn define_unpack(unit: &mut Unit) -> Result<FuncId, CodegenError> {
    let unpack = unit.private("unpack", &[types::I64; 9], &[])?;
    unit.define(unpack, |r, [values, high, low, scale, pitch, scale_pitch, scales, rows, columns]| {
        r.repeat(scales, |r, group| {
            let scale = step(r, scale, group, scale_pitch);
            let scale = r.load(types::F32, scale, 0);
            each_element(r, [high, low, pitch], [group, rows, columns], |r, index, [high, low]| {
                let [high, low] = [high, low].map(|place| r.b.ins().sload8(types::I32, bytes(), place, 0));
                let high = r.b.ins().ishl_imm_u(high, 8);
                let fixed = r.b.ins().iadd(high, low);
                let value = weight_of(r, fixed, scale);
                let to = r.element(values, index, size_of::<f32>());
                r.store(value, to, 0);
            });
        });
        r.b.ins().return_(&[]);
    })?;
    Ok(unpack)
}

/// `pack(values, high, low, scale, pitch, scale_pitch, scales, rows, columns)`: the way back, with new scales.
fn define_pack(unit: &mut Unit) -> Result<FuncId, CodegenError> {
    let pack = unit.private("pack", &[types::I64; 9], &[])?;
    unit.define(pack, |r, [values, high, low, scale, pitch, scale_pitch, scales, rows, columns]| {
        let share = r.b.ins().imul(rows, columns);
        r.repeat(scales, |r, group| {
            let start = r.b.ins().imul(group, share);
            let start = r.element(values, start, size_of::<f32>());
            let most = abs_max(r, start, share);
            let number = channel_scale(r, most);
            let scale = step(r, scale, group, scale_pitch);
            r.store(number, scale, 0);
            each_element(r, [high, low, pitch], [group, rows, columns], |r, index, [high, low]| {
                let value = r.element(values, index, size_of::<f32>());
                let value = r.load(types::F32, value, 0);
                let fixed = fixed_of(r, value, number);
                let upper = r.b.ins().iadd_imm_s(fixed, 128);
                let upper = r.b.ins().sshr_imm_u(upper, 8);
                let rounded = r.b.ins().ishl_imm_u(upper, 8);
                let rest = r.b.ins().isub(fixed, rounded);
                r.b.ins().istore8(bytes(), upper, high, 0);
                r.b.ins().istore8(bytes(), rest, low, 0);
            });
        });
        r.b.ins().return_(&[]);
    })?;
    Ok(pack)
}

/// Runs the body for each element of a group of rows, with its position among all values and its places in two planes.
fn each_element(
    r: &mut Routine<'_>,
    [high, low, pitch]: [Value; 3],
    [group, rows, columns]: [Value; 3],
    body: impl FnOnce(&mut Routine<'_>, Value, [Value; 2]),
) {
    let first = r.b.ins().imul(group, rows);
    r.repeat(rows, |r, row| {
        let row = r.b.ins().iadd(first, row);
        let start = r.b.ins().imul(row, columns);
        let planes = [high, low].map(|plane| step(r, plane, row, pitch));
        r.repeat(columns, |r, column| {
            let index = r.b.ins().iadd(start, column);
            let places = planes.map(|plane| r.b.ins().iadd(plane, column));
            body(r, index, places);
        });
    });
}

/// Flags of loads and stores of bytes.
fn bytes() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// [`fixed::weight_of`].
fn weight_of(r: &mut Routine<'_>, number: Value, scale: Value) -> Value {
    let steps = r.b.ins().f32const(fixed::STEPS);
    let number = r.b.ins().fcvt_from_sint(types::F32, number);
    let step = r.b.ins().fdiv(scale, steps);
    r.b.ins().fmul(number, step)
}

/// [`fixed::abs_max`] of finite numbers.
fn abs_max(r: &mut Routine<'_>, numbers: Value, count: Value) -> Value {
    let zero = r.b.ins().f32const(0.0);
    let most = r.b.declare_var(types::F32);
    r.b.def_var(most, zero);
    r.repeat(count, |r, index| {
        let number = r.element(numbers, index, size_of::<f32>());
        let number = r.load(types::F32, number, 0);
        let number = r.b.ins().fabs(number);
        let so_far = r.b.use_var(most);
        let larger = larger(r, so_far, number);
        r.b.def_var(most, larger);
    });
    r.b.use_var(most)
}

fn larger(r: &mut Routine<'_>, a: Value, b: Value) -> Value {
    let less = r.b.ins().fcmp(FloatCC::LessThan, a, b);
    r.b.ins().select(less, b, a)
}

/// [`fixed::channel_scale`].
fn channel_scale(r: &mut Routine<'_>, absmax: Value) -> Value {
    let [least, headroom, most] =
        [fixed::MIN_RANGE, fixed::HEADROOM, fixed::QMAX].map(|number| r.b.ins().f32const(number));
    let absmax = larger(r, absmax, least);
    let range = r.b.ins().fmul(absmax, headroom);
    r.b.ins().fdiv(range, most)
}

/// [`fixed::fixed_of`]. Adding and subtracting a number whose last bit is 1 rounds to integers, ties to even.
fn fixed_of(r: &mut Routine<'_>, weight: Value, scale: Value) -> Value {
    let [steps, integers] = [fixed::STEPS, 1.5 * (1 << 23) as f32].map(|number| r.b.ins().f32const(number));
    let weight = r.b.ins().fdiv(weight, scale);
    let weight = r.b.ins().fmul(weight, steps);
    let weight = r.b.ins().fadd(weight, integers);
    let weight = r.b.ins().fsub(weight, integers);
    let number = r.b.ins().fcvt_to_sint_sat(types::I32, weight);
    let [low, high] = [-fixed::WEIGHT_MAX, fixed::WEIGHT_MAX]
        .map(|limit| r.b.ins().iconst(types::I32, i64::from(limit.cast_unsigned())));
    let under = r.b.ins().icmp(IntCC::SignedLessThan, number, low);
    let number = r.b.ins().select(under, low, number);
    let over = r.b.ins().icmp(IntCC::SignedGreaterThan, number, high);
    r.b.ins().select(over, high, number)
}
