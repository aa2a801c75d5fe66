//! Training and inference: what a session does around the kernels, for one program.
//!
//! A step binds the buffers, which writes the table that kernels take, sets the numbers that they share with the driver,
//! and calls the kernels of a schedule one after the other, each for all of its rows. Everything here has its twin in
//! `ffc_runtime::Session`, and the same bits.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_module::FuncId;
use ffc_codegen::CodegenError;
use ffc_runtime::artifact::{Extent, Place, Purpose, Variant};

use super::routine::{ALIGN, Routine, Unit};
use super::{
    CALIBRATED, EPOCH, KEY, LAMBDA, LOSSES, Program, RATE, SEED, STEP, Status, check_cpu, check_finite,
    detect, has_float_inputs,
};

/// Functions that steps are made of.
struct Parts {
    /// See [`define_bind`].
    bind: FuncId,
    /// See [`super::define_finite`].
    finite: FuncId,
    /// See [`detect::level`].
    level: Option<FuncId>,
    /// The kernels of each variant.
    kernels: Vec<Vec<FuncId>>,
}

/// The caller's memory in a call.
#[derive(Clone, Copy)]
struct Memory {
    state: Value,
    arena: Value,
    inputs: Value,
    labels: Value,
    scores: Value,
}

/// Adds `train_step`, `end_epoch` and `infer`.
pub(super) fn define(
    unit: &mut Unit,
    program: &Program<'_>,
    level: Option<FuncId>,
    finite: FuncId,
) -> Result<(), CodegenError> {
    let variants = program.artifact.variants.iter();
    let kernels = variants.map(|variant| add_kernels(unit, program, variant)).collect::<Result<_, _>>()?;
    let parts = Parts { bind: define_bind(unit, program)?, finite, level, kernels };
    define_train_step(unit, program, &parts)?;
    define_infer(unit, program, &parts)?;
    let end_epoch = unit.public("end_epoch", &[types::I64])?;
    unit.define(end_epoch, |r, [state]| {
        program.check_pointers(r, &[(state, ALIGN)]);
        program.check_state(r, state);
        advance(r, state, EPOCH);
        r.finish(Status::Ok);
    })
}

/// Adds the kernels of a variant. Each goes with what lies behind it up to the next one: it may call that.
fn add_kernels(
    unit: &mut Unit,
    program: &Program<'_>,
    variant: &Variant,
) -> Result<Vec<FuncId>, CodegenError> {
    let end = |entry| {
        let later = variant.entries.iter().copied().filter(|&other| other > entry);
        later.min().unwrap_or(variant.code.len())
    };
    let mut kernels = Vec::with_capacity(variant.entries.len());
    for (number, (&entry, kernel)) in variant.entries.iter().zip(&program.artifact.kernels).enumerate() {
        let name = format!("{}.{number}.{}", variant.name, kernel.name);
        let function = unit.private(&name, &[types::I64; 4], &[])?;
        unit.define_bytes(function, &variant.code[entry..end(entry)])?;
        kernels.push(function);
    }
    Ok(kernels)
}

/// `bind(state, arena, inputs, labels, scores)`: writes the table of buffers and gives its address.
fn define_bind(unit: &mut Unit, program: &Program<'_>) -> Result<FuncId, CodegenError> {
    let bind = unit.private("bind", &[types::I64; 5], &[types::I64])?;
    unit.define(bind, |r, [state, arena, inputs, labels, scores]| {
        let table = r.at(arena, program.table());
        let numbers = r.at(arena, program.numbers());
        for (index, buffer) in program.artifact.buffers.iter().enumerate() {
            let address = match buffer.place {
                Place::State(offset) => r.at(state, ALIGN + offset),
                Place::Arena(offset) => r.at(arena, offset),
                Place::Rate => r.at(numbers, RATE),
                Place::Lambda => r.at(numbers, LAMBDA),
                Place::Key => r.at(numbers, KEY),
                Place::Loss(layer) => r.at(numbers, LOSSES + ALIGN * layer),
                Place::Input => inputs,
                Place::Labels => labels,
                Place::Scores => scores,
            };
            r.store(address, table, size_of::<u64>() * index);
        }
        r.b.ins().return_(&[table]);
    })?;
    Ok(bind)
}

/// A schedule in each variant of the code: functions of the table of buffers and the number of samples.
struct Runs(Vec<FuncId>);

impl Runs {
    /// `None` where the program has no such schedule.
    fn define(
        unit: &mut Unit,
        program: &Program<'_>,
        parts: &Parts,
        purpose: Purpose,
        name: &str,
    ) -> Result<Option<Self>, CodegenError> {
        let mut schedules = program.artifact.schedules.iter();
        let Some(schedule) = schedules.find(|schedule| schedule.purpose == purpose) else { return Ok(None) };
        let mut runs = Vec::new();
        for (variant, kernels) in program.artifact.variants.iter().zip(&parts.kernels) {
            let run = unit.private(&format!("{}.{name}", variant.name), &[types::I64; 2], &[])?;
            unit.define(run, |r, [table, samples]| {
                let first = r.size(0);
                for &kernel in &schedule.kernels {
                    let end = match program.artifact.kernels[kernel].rows {
                        Extent::Rows(per_sample) => r.b.ins().imul_imm_s(samples, per_sample as i64),
                        Extent::Const(rows) => r.size(rows),
                    };
                    r.call(kernels[kernel], &[table, samples, first, end]);
                }
                r.b.ins().return_(&[]);
            })?;
            runs.push(run);
        }
        Ok(Some(Self(runs)))
    }

    /// Runs the schedule in the variant at this position, counted from 1, or in the only one.
    fn run(&self, r: &mut Routine<'_>, level: Option<Value>, table: Value, samples: Value) {
        for (index, &run) in self.0.iter().enumerate() {
            let call = |r: &mut Routine<'_>| {
                r.call(run, &[table, samples]);
            };
            match level {
                None => call(r),
                Some(level) => {
                    let position = i64::from(detect::position(index));
                    let chosen = r.b.ins().icmp_imm_u(IntCC::Equal, level, position);
                    r.when(chosen, call);
                }
            }
        }
    }
}

/// `train_step(state, arena, inputs, labels, samples, rate, losses)`.
fn define_train_step(unit: &mut Unit, program: &Program<'_>, parts: &Parts) -> Result<(), CodegenError> {
    let calibrate = Runs::define(unit, program, parts, Purpose::Calibrate, "calibrate")?;
    let train = Runs::define(unit, program, parts, Purpose::Train, "train")?.expect("validated: it trains");
    let mut params = [types::I64; 7];
    params[5] = types::F32;
    let function = unit.public("train_step", &params)?;
    unit.define(function, |r, [state, arena, inputs, labels, samples, rate, losses]| {
        let scores = r.size(0);
        let memory = Memory { state, arena, inputs, labels, scores };
        let level = check_training(r, program, parts, memory, samples);
        let (table, key) = (bind(r, parts, memory), step_key(r, state));
        if let Some(calibrate) = calibrate {
            let known = r.load(types::I64, state, CALIBRATED);
            let unknown = r.b.ins().icmp_imm_u(IntCC::Equal, known, 0);
            r.when(unknown, |r| {
                // Rate 0: nothing moves.
                let zero = r.b.ins().f32const(0.0);
                set_numbers(r, program, arena, [zero, zero], key);
                calibrate.run(r, level, table, samples);
                advance(r, state, CALIBRATED);
            });
        }
        let count = r.b.ins().fcvt_from_sint(types::F32, samples);
        let share = r.b.ins().fdiv(rate, count);
        let lambda = lambda(r, program, state);
        set_numbers(r, program, arena, [share, lambda], key);
        train.run(r, level, table, samples);
        advance(r, state, STEP);
        r.when(losses, |r| report(r, program, arena, losses, count));
        r.finish(Status::Ok);
    })
}

/// Refuses what a step cannot be done with; the variant that the processor runs, where there is a choice.
fn check_training(
    r: &mut Routine<'_>,
    program: &Program<'_>,
    parts: &Parts,
    memory: Memory,
    samples: Value,
) -> Option<Value> {
    let Memory { state, arena, inputs, labels, .. } = memory;
    let input = program.artifact.input.bytes();
    program.check_pointers(r, &[(state, ALIGN), (arena, ALIGN), (inputs, input), (labels, size_of::<i32>())]);
    program.check_state(r, state);
    let level = check_cpu(r, parts.level, program.artifact.variants.len());
    let others = r.b.ins().iadd_imm_s(samples, -1);
    let bad = r.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, others, program.artifact.batch as i64);
    r.refuse_when(bad, Status::BadBatch);
    r.repeat(samples, |r, index| {
        let label = r.element(labels, index, size_of::<i32>());
        let label = r.load(types::I32, label, 0);
        let classes = program.artifact.classes as i64;
        let bad = r.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, label, classes);
        r.refuse_when(bad, Status::BadLabel);
    });
    check_inputs(r, program, parts, inputs, samples);
    level
}

fn check_inputs(r: &mut Routine<'_>, program: &Program<'_>, parts: &Parts, inputs: Value, samples: Value) {
    if has_float_inputs(program.artifact) {
        let count = r.b.ins().imul_imm_s(samples, program.artifact.features as i64);
        check_finite(r, parts.finite, inputs, count);
    }
}

fn bind(r: &mut Routine<'_>, parts: &Parts, memory: Memory) -> Value {
    let Memory { state, arena, inputs, labels, scores } = memory;
    r.ask(parts.bind, &[state, arena, inputs, labels, scores])
}

/// Sets rate, lambda and key, and all losses to 0.
fn set_numbers(
    r: &mut Routine<'_>,
    program: &Program<'_>,
    arena: Value,
    [rate, lambda]: [Value; 2],
    key: Value,
) {
    let numbers = r.at(arena, program.numbers());
    r.store(rate, numbers, RATE);
    r.store(lambda, numbers, LAMBDA);
    r.store(key, numbers, KEY);
    let zero = r.b.ins().f32const(0.0);
    for layer in 0..program.artifact.trained_layers.len() {
        r.store(zero, numbers, LOSSES + ALIGN * layer);
    }
}

/// The weight of later layers' errors: so much for each epoch that has ended.
fn lambda(r: &mut Routine<'_>, program: &Program<'_>, state: Value) -> Value {
    let epoch = r.load(types::I64, state, EPOCH);
    let epoch = r.b.ins().fcvt_from_sint(types::F32, epoch);
    let step = r.b.ins().f32const(program.embedding.lambda_step);
    r.b.ins().fmul(step, epoch)
}

/// Writes each layer's mean loss.
fn report(r: &mut Routine<'_>, program: &Program<'_>, arena: Value, losses: Value, count: Value) {
    let numbers = r.at(arena, program.numbers());
    for layer in 0..program.artifact.trained_layers.len() {
        let sum = r.load(types::F32, numbers, LOSSES + ALIGN * layer);
        let mean = r.b.ins().fdiv(sum, count);
        r.store(mean, losses, size_of::<f32>() * layer);
    }
}

/// Adds 1 to a number of the state's first line.
fn advance(r: &mut Routine<'_>, state: Value, offset: usize) {
    let number = r.load(types::I64, state, offset);
    let next = r.at(number, 1);
    r.store(next, state, offset);
}

/// The key of the step that comes, as `ffc_runtime::random::step_key` has it.
fn step_key(r: &mut Routine<'_>, state: Value) -> Value {
    let mut key = r.word(0);
    for number in [SEED, STEP] {
        for half in [0, 4] {
            let word = r.load(types::I32, state, number + half);
            key = r.b.ins().iadd(key, word);
            key = r.b.ins().iadd_imm_u(key, 0x9e37_79b9);
            key = mix(r, key);
        }
    }
    key
}

fn mix(r: &mut Routine<'_>, mut x: Value) -> Value {
    for (shift, factor) in [(16, 0x7feb_352d), (15, 0x846c_a68b)] {
        let upper = r.b.ins().ushr_imm_u(x, shift);
        x = r.b.ins().bxor(x, upper);
        x = r.b.ins().imul_imm_u(x, factor);
    }
    let upper = r.b.ins().ushr_imm_u(x, 16);
    r.b.ins().bxor(x, upper)
}

/// `infer(state, arena, inputs, samples, scores)`.
fn define_infer(unit: &mut Unit, program: &Program<'_>, parts: &Parts) -> Result<(), CodegenError> {
    let infer = Runs::define(unit, program, parts, Purpose::Infer, "infer")?.expect("validated: it predicts");
    let function = unit.public("infer", &[types::I64; 5])?;
    unit.define(function, |r, [state, arena, inputs, samples, scores]| {
        let alignments = [ALIGN, ALIGN, program.artifact.input.bytes(), size_of::<f32>()];
        let pointers = [state, arena, inputs, scores];
        program.check_pointers(r, &pointers.into_iter().zip(alignments).collect::<Vec<_>>());
        program.check_state(r, state);
        let level = check_cpu(r, parts.level, program.artifact.variants.len());
        let known = r.load(types::I64, state, CALIBRATED);
        let unknown = r.b.ins().icmp_imm_u(IntCC::Equal, known, 0);
        r.refuse_when(unknown, Status::NotCalibrated);
        check_inputs(r, program, parts, inputs, samples);
        let most = r.size(program.artifact.infer_batch);
        let full = r.b.ins().udiv(samples, most);
        let rest = r.b.ins().urem(samples, most);
        let more = r.b.ins().icmp_imm_u(IntCC::NotEqual, rest, 0);
        let more = r.b.ins().uextend(types::I64, more);
        let passes = r.b.ins().iadd(full, more);
        r.repeat(passes, |r, pass| {
            let done = r.b.ins().imul(pass, most);
            let left = r.b.ins().isub(samples, done);
            let fits = r.b.ins().icmp(IntCC::UnsignedLessThan, left, most);
            let samples = r.b.ins().select(fits, left, most);
            let labels = r.size(0);
            let inputs = r.element(inputs, done, program.sample_bytes());
            let scores = r.element(scores, done, program.artifact.classes * size_of::<f32>());
            let table = bind(r, parts, Memory { state, arena, inputs, labels, scores });
            infer.run(r, level, table, samples);
        });
        r.finish(Status::Ok);
    })
}
