//! A small program written by hand, for tests of the runtime without a compiler.
//!
//! It "trains" by adding the rate to every bias, so that results are easy to foretell. Its machine code is x86-64; on
//! other machines the description alone is of use. Of its three variants no machine runs the first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part")]

use ffc_runtime::artifact::{
    Artifact, Buffer, Element, Extent, Kernel, Param, ParamRole, Place, Purpose, Schedule, Storage, Variant,
};

pub(crate) const BATCH: usize = 10;
pub(crate) const INFER_BATCH: usize = 3;
pub(crate) const FEATURES: usize = 4;
pub(crate) const CLASSES: usize = 2;

// The kernels, position-independent: rdi = buffers, rsi = samples, rdx = first, rcx = end. Offsets into the table are
// 8 times the buffers' positions in [`artifact`].
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata",
    "ffc_toy_start:",
    // act[i] = input[i, 0] + 0 * features, for i in first..end
    "ffc_toy_forward:",
    "mov r8, [rdi]",
    "mov r9, [rdi + 8 * 7]",
    "2: movzx eax, byte ptr [r8 + 4 * rdx]",
    "cvtsi2ss xmm0, eax",
    "movss [r9 + 4 * rdx], xmm0",
    "inc rdx",
    "cmp rdx, rcx",
    "jb 2b",
    "ret",
    // loss = sum of act
    "ffc_toy_loss:",
    "mov r9, [rdi + 8 * 7]",
    "mov r10, [rdi + 8 * 6]",
    "xorps xmm0, xmm0",
    "xor eax, eax",
    "2: addss xmm0, [r9 + 4 * rax]",
    "inc rax",
    "cmp rax, rsi",
    "jb 2b",
    "movss [r10], xmm0",
    "ret",
    // bias[i] += rate, for i in first..end
    "ffc_toy_update:",
    "mov r8, [rdi + 8 * 3]",
    "mov r9, [rdi + 8 * 11]",
    "2: movss xmm0, [r9 + 4 * rdx]",
    "addss xmm0, [r8]",
    "movss [r9 + 4 * rdx], xmm0",
    "inc rdx",
    "cmp rdx, rcx",
    "jb 2b",
    "ret",
    // seen = [key, lambda]
    "ffc_toy_note:",
    "mov r8, [rdi + 8 * 5]",
    "mov r9, [rdi + 8 * 13]",
    "mov eax, [r8]",
    "mov [r9], eax",
    "mov r8, [rdi + 8 * 4]",
    "mov eax, [r8]",
    "mov [r9 + 4], eax",
    "ret",
    // range += samples
    "ffc_toy_calibrate:",
    "mov r9, [rdi + 8 * 12]",
    "cvtsi2ss xmm0, esi",
    "addss xmm0, [r9]",
    "movss [r9], xmm0",
    "ret",
    // scores[i] = [input[i, 0], bias[0]], for i in first..end
    "ffc_toy_score:",
    "mov r8, [rdi]",
    "mov r9, [rdi + 8 * 2]",
    "mov r10, [rdi + 8 * 11]",
    "2: movzx eax, byte ptr [r8 + 4 * rdx]",
    "cvtsi2ss xmm0, eax",
    "movss [r9 + 8 * rdx], xmm0",
    "mov eax, [r10]",
    "mov [r9 + 8 * rdx + 4], eax",
    "inc rdx",
    "cmp rdx, rcx",
    "jb 2b",
    "ret",
    "ffc_toy_end:",
    ".popsection",
);

/// Code and the offsets of forward, loss, update, note, calibrate, score.
#[cfg(target_arch = "x86_64")]
fn code() -> (Vec<u8>, [usize; 6]) {
    unsafe extern "C" {
        static ffc_toy_start: u8;
        static ffc_toy_forward: u8;
        static ffc_toy_loss: u8;
        static ffc_toy_update: u8;
        static ffc_toy_note: u8;
        static ffc_toy_calibrate: u8;
        static ffc_toy_score: u8;
        static ffc_toy_end: u8;
    }
    let start = &raw const ffc_toy_start;
    let offset = |label: *const u8| label as usize - start as usize;
    // SAFETY: the bytes between the labels are assembled above, into read-only memory of this program.
    let bytes = unsafe { std::slice::from_raw_parts(start, offset(&raw const ffc_toy_end)) };
    let entries = [
        &raw const ffc_toy_forward,
        &raw const ffc_toy_loss,
        &raw const ffc_toy_update,
        &raw const ffc_toy_note,
        &raw const ffc_toy_calibrate,
        &raw const ffc_toy_score,
    ];
    (bytes.to_vec(), entries.map(offset))
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> (Vec<u8>, [usize; 6]) {
    (vec![0; 64], [0; 6])
}

fn buffer(name: &str, element: Element, shape: [Extent; 2], stride: usize, place: Place) -> Buffer {
    let rows = shape[0].size(BATCH).unwrap();
    let bytes = (rows * stride * element.bytes()).next_multiple_of(64);
    Buffer { name: name.to_string(), element, rows: shape[0], columns: shape[1], stride, bytes, place }
}

fn param(name: &str, shape: [usize; 2], role: ParamRole, storage: Storage) -> Param {
    Param { name: name.to_string(), shape, role, storage }
}

/// The program: one trained layer, a fixed-point weight `[3, 5]` with a scale for each row and one `[2, 3]` with one in
/// all, neither of which any kernel touches, and five biases.
pub(crate) fn artifact() -> Artifact {
    use Element::{F32, I8, I16, I32, U8};
    use Extent::{Const, Rows};
    let one = [Const(1), Const(1)];
    let (code, entries) = code();
    let variant = |name: &str| Variant {
        name: name.to_string(),
        features: Vec::new(),
        entries: entries.to_vec(),
        code: code.clone(),
    };
    let kernel = |name: &str, rows, parallel| Kernel { name: name.to_string(), rows, parallel };
    let schedule = |purpose, kernels: &[usize]| Schedule { purpose, kernels: kernels.to_vec() };
    let fixed = |high, low, scale| Storage::Fixed16 { high, low, scale };
    Artifact {
        name: "toy".to_string(),
        architecture: std::env::consts::ARCH.to_string(),
        batch: BATCH,
        infer_batch: INFER_BATCH,
        features: FEATURES,
        input: U8,
        classes: CLASSES,
        trained_layers: vec!["fc".to_string()],
        params: vec![
            param("fc.weight", [3, 5], ParamRole::Weight, fixed(8, 9, 10)),
            param("fc.bias", [1, 5], ParamRole::Bias, Storage::Plain { value: 11 }),
            param("fc.range", [1, 1], ParamRole::Range, Storage::Plain { value: 12 }),
            param("seen", [1, 2], ParamRole::Constant, Storage::Plain { value: 13 }),
            param("a.head", [2, 3], ParamRole::Head, fixed(14, 15, 16)),
            param("fc.velocity", [2, 3], ParamRole::Velocity, Storage::Plain { value: 17 }),
        ],
        buffers: vec![
            buffer("input", U8, [Rows(1), Const(FEATURES)], FEATURES, Place::Input),
            buffer("labels", I32, [Rows(1), Const(1)], 1, Place::Labels),
            buffer("scores", F32, [Rows(1), Const(CLASSES)], CLASSES, Place::Scores),
            buffer("rate", F32, one, 1, Place::Rate),
            buffer("lambda", F32, one, 1, Place::Lambda),
            buffer("key", I32, one, 1, Place::Key),
            buffer("loss", F32, one, 1, Place::Loss(0)),
            buffer("act", F32, [Rows(1), Const(1)], 1, Place::Arena(64)),
            buffer("high", I8, [Const(3), Const(5)], 64, Place::State(0)),
            buffer("low", I8, [Const(3), Const(5)], 64, Place::State(192)),
            buffer("scale", F32, [Const(3), Const(1)], 1, Place::State(384)),
            buffer("bias", F32, [Const(1), Const(5)], 5, Place::State(448)),
            buffer("range", F32, one, 1, Place::State(512)),
            buffer("seen", F32, [Const(1), Const(2)], 2, Place::State(576)),
            buffer("head.high", I8, [Const(2), Const(3)], 64, Place::State(640)),
            buffer("head.low", I8, [Const(2), Const(3)], 64, Place::State(768)),
            buffer("head.scale", F32, one, 1, Place::State(896)),
            buffer("velocity", I16, [Const(2), Const(3)], 64, Place::State(960)),
        ],
        kernels: vec![
            kernel("forward", Rows(1), true),
            kernel("loss", Const(1), false),
            kernel("update", Const(5), true),
            kernel("note", Const(1), false),
            kernel("calibrate", Const(1), false),
            kernel("score", Rows(1), true),
        ],
        schedules: vec![
            schedule(Purpose::Calibrate, &[4]),
            schedule(Purpose::Train, &[0, 1, 2, 3]),
            schedule(Purpose::TrainLayer(0), &[2]),
            schedule(Purpose::Infer, &[5]),
        ],
        arena_bytes: 64 + 64,
        state_bytes: 960 + 256,
        imports: Vec::new(),
        variants: vec![
            Variant { features: vec!["flux".to_string()], ..variant("future") },
            variant("best"),
            variant("rest"),
        ],
    }
}

/// Bytes `[samples, FEATURES]` of which the toy looks at the first of each sample: 1, 2, 3, ...
pub(crate) fn inputs(samples: usize) -> Vec<u8> {
    (0..samples).flat_map(|sample| [sample as u8 + 1, 200, 201, 202]).collect()
}
