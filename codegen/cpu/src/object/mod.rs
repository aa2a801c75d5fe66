//! Ahead-of-time objects: a relocatable file that trains and predicts with nothing beside it, and a C header.
//!
//! With an artifact the runtime does what the description says. In an object there is no runtime, so what a session does
//! for this one program is code, too: its description becomes straight-line calls of kernels, its buffers become
//! additions to two addresses that the caller gives. That code, the *driver*, is a few functions of Cranelift's IR,
//! because there they are written once for all architectures; the kernels are the artifact's, byte by byte.
//!
//! * `routine` has what functions are written with, and the file that they go to;
//! * `detect` chooses among variants of the code;
//! * `step` has training and inference, as [`ffc_runtime::Session`] does them;
//! * `weights` has how a state begins, and how weights leave and enter it;
//! * `header` says all of it in C.
//!
//! # The caller's memory
//!
//! The *state* begins with a line of [`ALIGN`] bytes, the progress: a fingerprint of what the rest looks like, then seed,
//! step, epoch and whether the quantizers have ranges. The rest is the artifact's state. It holds no address, so it may
//! be copied, kept and sent elsewhere.
//!
//! The *arena* begins with the artifact's arena. Behind it are a line for each number that kernels share with the driver
//! (rate, lambda, key, losses), and the table of buffers that kernels take. All of it is written before it is read, so
//! nothing in it outlives a call.

mod detect;
mod header;
mod routine;
mod step;
mod weights;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_module::FuncId;
use ffc_codegen::{Architecture, CodegenError, Target};
use ffc_runtime::artifact::{Artifact, Buffer, Element, Param, Place};
use ffc_runtime::cpu;

use self::routine::{ALIGN, Routine, Unit, refuse};
use crate::machine::Machine;

pub use detect::object_targets;

/// What an object has beside the program.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a> {
    /// What its functions' names begin with: an identifier of C.
    pub name: &'a str,
    /// The state that training starts from, as [`ffc_runtime::pack_state`] makes it.
    pub state: &'a [u8],
    /// The seed that the state was made with.
    pub seed: u64,
    /// The largest learning rate of the recipe.
    pub learning_rate: f32,
    /// What an epoch adds to the weight of later layers' errors.
    pub lambda_step: f32,
}

impl Embedding<'_> {
    /// Whether functions can be named after it.
    pub fn is_name(name: &str) -> bool {
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is_word && name.chars().next().is_some_and(|first| !first.is_ascii_digit())
    }
}

/// A relocatable file and its header.
#[derive(Clone, Debug)]
pub struct Object {
    /// The file, in ELF.
    pub bytes: Vec<u8>,
    /// The header's text.
    pub header: String,
}

/// How a function of an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did what it is for.
    Ok,
    /// A pointer is null, or not aligned.
    BadArgument,
    /// The state is not one of this program's.
    BadState,
    /// No samples, or more than a step takes.
    BadBatch,
    /// A label is no class.
    BadLabel,
    /// An input or a weight is infinite or no number.
    NotFinite,
    /// The quantizers have no ranges yet.
    NotCalibrated,
    /// The processor has no code.
    UnsupportedCpu,
}

impl Status {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::BadArgument,
        Self::BadState,
        Self::BadBatch,
        Self::BadLabel,
        Self::NotFinite,
        Self::NotCalibrated,
        Self::UnsupportedCpu,
    ];
}

/// The object of an artifact. Of an artifact for x86 it holds all variants and chooses the best that the processor runs;
/// see [`object_targets`] for what the artifact may be compiled for.
///
/// # Errors
/// When the artifact is not sound, the name is no identifier, or an object cannot choose among the variants.
///
/// # Panics
/// If the state is not as large as the artifact's.
pub fn object(artifact: &Artifact, embedding: &Embedding<'_>) -> Result<Object, CodegenError> {
    artifact.validate().map_err(|error| refuse(error.to_string()))?;
    assert_eq!(embedding.state.len(), artifact.state_bytes, "the state is the artifact's");
    if !Embedding::is_name(embedding.name) {
        let name = embedding.name;
        return Err(refuse(format!("functions cannot be named after `{name}`, which is no identifier of C")));
    }
    let program = Program::new(artifact, embedding);
    let architecture = Architecture::find(&artifact.architecture)
        .ok_or_else(|| refuse(format!("unknown architecture `{}`", artifact.architecture)))?;
    // The driver runs on every machine that might run a variant.
    let machine = Machine::new(&Target::new(architecture, &cpu::PORTABLE))?;
    let mut unit = Unit::new(machine.isa, embedding.name)?;
    let level = detect::level(&mut unit, architecture, &artifact.variants)?;
    let finite = define_finite(&mut unit)?;
    weights::define(&mut unit, &program, level, finite)?;
    step::define(&mut unit, &program, level, finite)?;
    Ok(Object { bytes: unit.finish()?, header: header::text(&program) })
}

/// The program, and where it lies in the caller's memory.
struct Program<'a> {
    artifact: &'a Artifact,
    embedding: &'a Embedding<'a>,
    fingerprint: u64,
}

/// What the rest of the state looks like: the first number of its first line.
const FINGERPRINT: usize = 0;
/// The seed of the steps' random numbers.
const SEED: usize = 8;
/// Steps taken.
const STEP: usize = 16;
/// Epochs ended.
const EPOCH: usize = 24;
/// Whether the quantizers have ranges.
const CALIBRATED: usize = 32;

/// The lines of the driver's numbers.
const RATE: usize = 0;
const LAMBDA: usize = ALIGN;
const KEY: usize = 2 * ALIGN;
const LOSSES: usize = 3 * ALIGN;

impl<'a> Program<'a> {
    fn new(artifact: &'a Artifact, embedding: &'a Embedding<'a>) -> Self {
        Self { artifact, embedding, fingerprint: fingerprint(artifact) }
    }

    fn state_bytes(&self) -> usize {
        ALIGN + self.artifact.state_bytes.next_multiple_of(ALIGN)
    }

    /// Where the arena has the driver's numbers.
    fn numbers(&self) -> usize {
        self.artifact.arena_bytes.next_multiple_of(ALIGN)
    }

    /// Where the arena has the table of buffers.
    fn table(&self) -> usize {
        self.numbers() + LOSSES + ALIGN * self.artifact.trained_layers.len()
    }

    fn arena_bytes(&self) -> usize {
        (self.table() + size_of::<u64>() * self.artifact.buffers.len()).next_multiple_of(ALIGN)
    }

    /// Bytes of a sample.
    fn sample_bytes(&self) -> usize {
        self.artifact.features * self.artifact.input.bytes()
    }

    /// Refuses pointers that are null or not at a multiple of their alignment.
    fn check_pointers(&self, r: &mut Routine<'_>, pointers: &[(Value, usize)]) {
        for &(pointer, align) in pointers {
            let null = r.b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
            let rest = r.b.ins().band_imm_s(pointer, align as i64 - 1);
            let askew = r.b.ins().icmp_imm_u(IntCC::NotEqual, rest, 0);
            let bad = r.b.ins().bor(null, askew);
            r.refuse_when(bad, Status::BadArgument);
        }
    }

    /// Refuses memory that `init` did not make.
    fn check_state(&self, r: &mut Routine<'_>, state: Value) {
        let found = r.load(types::I64, state, FINGERPRINT);
        let wanted = r.b.ins().iconst(types::I64, self.fingerprint.cast_signed());
        let other = r.b.ins().icmp(IntCC::NotEqual, found, wanted);
        r.refuse_when(other, Status::BadState);
    }
}

/// A number that differs where parameters lie differently: FNV-1a of their names, types, shapes and places.
fn fingerprint(artifact: &Artifact) -> u64 {
    let mut text = String::new();
    for (name, buffer) in artifact.params.iter().flat_map(Param::tensors) {
        let Buffer { element, rows, columns, stride, place, .. } = &artifact.buffers[buffer];
        text += &format!("{name} {element:?} {rows:?} {columns:?} {stride} {place:?}\n");
    }
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// `finite(numbers, count)`: whether none of the floats is infinite or no number, as a status.
fn define_finite(unit: &mut Unit) -> Result<FuncId, CodegenError> {
    let finite = unit.private("finite", &[types::I64; 2], &[types::I32])?;
    unit.define(finite, |r, [numbers, count]| {
        r.repeat(count, |r, index| {
            let number = r.element(numbers, index, size_of::<f32>());
            let bits = r.load(types::I32, number, 0);
            let exponent = r.b.ins().band_imm_u(bits, 0x7f80_0000);
            let special = r.b.ins().icmp_imm_u(IntCC::Equal, exponent, 0x7f80_0000);
            r.refuse_when(special, Status::NotFinite);
        });
        r.finish(Status::Ok);
    })?;
    Ok(finite)
}

/// Refuses floats that are infinite or no numbers.
fn check_finite(r: &mut Routine<'_>, finite: FuncId, numbers: Value, count: Value) {
    let status = r.ask(finite, &[numbers, count]);
    r.refuse_when(status, Status::NotFinite);
}

/// Refuses a processor that runs none of the variants; the position of the one that it runs, counted from 1, where
/// there is a choice.
fn check_cpu(r: &mut Routine<'_>, level: Option<FuncId>, variants: usize) -> Option<Value> {
    let level = r.ask(level?, &[]);
    let none = i64::from(detect::position(variants));
    let unsupported = r.b.ins().icmp_imm_u(IntCC::Equal, level, none);
    r.refuse_when(unsupported, Status::UnsupportedCpu);
    Some(level)
}

/// Whether inputs may be infinite or no numbers.
fn has_float_inputs(artifact: &Artifact) -> bool {
    artifact.input == Element::F32
}

/// Where the rest of the state begins: behind its first line.
fn in_state(place: Place) -> Option<usize> {
    match place {
        Place::State(offset) => Some(ALIGN + offset),
        _ => None,
    }
}
