//! x86 as the rest of `wide` speaks it: vector instructions by width, places in memory, the frame, constants.
//!
//! The vector side has 32 registers of 512 bits. The same instructions on 128 bits serve values that are the same in
//! all lanes: division and square root take a quarter of the time there.
//!
//! Registers with a fixed role: `rsp` is the frame, which begins at a multiple of 64; `r15` leads to the constants;
//! `r12` is the number of the row in loops over rows. `rax`, `rcx` and `rdx` are nobody's.

use std::collections::HashMap;

use ffc_ir::types::DType;
use iced_x86::code_asm::{
    AsmRegister64, CodeAssembler, CodeLabel, byte_ptr, cl, cx, dword_ptr, eax, ecx, qword_ptr, r12, r13, r14,
    r15, rax, rbp, rbx, rcx, rsp, word_ptr,
};
use iced_x86::{BlockEncoderOptions, Code as Opcode, Instruction, MemoryOperand, Register};

use crate::x86::{Code, encoded};

pub(super) use crate::x86::x86;

/// Bytes of a vector.
pub(super) const VECTOR: usize = 64;

/// 32-bit lanes of a vector.
pub(super) const LANES: usize = 16;

/// How much of a vector register an instruction covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// 128 bits, all lanes the same.
    Narrow,
    /// 512 bits.
    Wide,
}

/// `enum Op` with the code of each instruction on 128 and on 512 bits.
macro_rules! ops {
    ($($op:ident: $narrow:ident, $wide:ident;)*) => {
        /// A vector instruction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Op {
            $($op,)*
        }

        impl Op {
            fn code(self, width: Width) -> Opcode {
                match (self, width) {
                    $((Self::$op, Width::Narrow) => Opcode::$narrow,
                    (Self::$op, Width::Wide) => Opcode::$wide,)*
                }
            }
        }
    };
}

ops! {
    FAdd: EVEX_Vaddps_xmm_k1z_xmm_xmmm128b32, EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er;
    FSub: EVEX_Vsubps_xmm_k1z_xmm_xmmm128b32, EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er;
    FMul: EVEX_Vmulps_xmm_k1z_xmm_xmmm128b32, EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er;
    FDiv: EVEX_Vdivps_xmm_k1z_xmm_xmmm128b32, EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er;
    FMax: EVEX_Vmaxps_xmm_k1z_xmm_xmmm128b32, EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae;
    FMin: EVEX_Vminps_xmm_k1z_xmm_xmmm128b32, EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae;
    Sqrt: EVEX_Vsqrtps_xmm_k1z_xmmm128b32, EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er;
    ToF32: EVEX_Vcvtdq2ps_xmm_k1z_xmmm128b32, EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er;
    Round: EVEX_Vcvtps2dq_xmm_k1z_xmmm128b32, EVEX_Vcvtps2dq_zmm_k1z_zmmm512b32_er;
    Truncate: EVEX_Vcvttps2dq_xmm_k1z_xmmm128b32, EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae;
    IAdd: EVEX_Vpaddd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32;
    ISub: EVEX_Vpsubd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32;
    IMul: EVEX_Vpmulld_xmm_k1z_xmm_xmmm128b32, EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32;
    IMin: EVEX_Vpminsd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32;
    IMax: EVEX_Vpmaxsd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32;
    And: EVEX_Vpandd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32;
    Xor: EVEX_Vpxord_xmm_k1z_xmm_xmmm128b32, EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32;
    Shl: EVEX_Vpslld_xmm_k1z_xmmm128b32_imm8, EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8;
    Shr: EVEX_Vpsrld_xmm_k1z_xmmm128b32_imm8, EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8;
    Sar: EVEX_Vpsrad_xmm_k1z_xmmm128b32_imm8, EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8;
    AddHalves: EVEX_Vpaddsw_xmm_k1z_xmm_xmmm128, EVEX_Vpaddsw_zmm_k1z_zmm_zmmm512;
    SubHalves: EVEX_Vpsubsw_xmm_k1z_xmm_xmmm128, EVEX_Vpsubsw_zmm_k1z_zmm_zmmm512;
    MinHalves: EVEX_Vpminsw_xmm_k1z_xmm_xmmm128, EVEX_Vpminsw_zmm_k1z_zmm_zmmm512;
    MaxHalves: EVEX_Vpmaxsw_xmm_k1z_xmm_xmmm128, EVEX_Vpmaxsw_zmm_k1z_zmm_zmmm512;
    ShlHalves: EVEX_Vpsllw_xmm_k1z_xmmm128_imm8, EVEX_Vpsllw_zmm_k1z_zmmm512_imm8;
    SarHalves: EVEX_Vpsraw_xmm_k1z_xmmm128_imm8, EVEX_Vpsraw_zmm_k1z_zmmm512_imm8;
    PackHalves: EVEX_Vpackssdw_xmm_k1z_xmm_xmmm128b32, EVEX_Vpackssdw_zmm_k1z_zmm_zmmm512b32;
    PermutePairs: EVEX_Vpermq_ymm_k1z_ymm_ymmm256b64, EVEX_Vpermq_zmm_k1z_zmm_zmmm512b64;
    Blend: EVEX_Vpblendmd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpblendmd_zmm_k1z_zmm_zmmm512b32;
    MaskToVector: EVEX_Vpmovm2d_xmm_kr, EVEX_Vpmovm2d_zmm_kr;
    CompareF32: EVEX_Vcmpps_kr_k1_xmm_xmmm128b32_imm8, EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
    CompareI32: EVEX_Vpcmpd_kr_k1_xmm_xmmm128b32_imm8, EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8;
    Test: EVEX_Vptestmd_kr_k1_xmm_xmmm128b32, EVEX_Vptestmd_kr_k1_zmm_zmmm512b32;
    Move: EVEX_Vmovdqu32_xmm_k1z_xmmm128, EVEX_Vmovdqu32_zmm_k1z_zmmm512;
    Splat: EVEX_Vpbroadcastd_xmm_k1z_xmmm32, EVEX_Vpbroadcastd_zmm_k1z_xmmm32;
    SplatRegister: EVEX_Vpbroadcastd_xmm_k1z_r32, EVEX_Vpbroadcastd_zmm_k1z_r32;
    LoadU8: EVEX_Vpmovzxbd_xmm_k1z_xmmm32, EVEX_Vpmovzxbd_zmm_k1z_xmmm128;
    LoadI8: EVEX_Vpmovsxbd_xmm_k1z_xmmm32, EVEX_Vpmovsxbd_zmm_k1z_xmmm128;
    LoadI16: EVEX_Vpmovsxwd_xmm_k1z_xmmm64, EVEX_Vpmovsxwd_zmm_k1z_ymmm256;
    LoadU8Halves: EVEX_Vpmovzxbw_xmm_k1z_xmmm64, EVEX_Vpmovzxbw_zmm_k1z_ymmm256;
    LoadI8Halves: EVEX_Vpmovsxbw_xmm_k1z_xmmm64, EVEX_Vpmovsxbw_zmm_k1z_ymmm256;
    Store32: EVEX_Vmovdqu32_xmmm128_k1z_xmm, EVEX_Vmovdqu32_zmmm512_k1z_zmm;
    Store16: EVEX_Vpmovdw_xmmm64_k1z_xmm, EVEX_Vpmovdw_ymmm256_k1z_zmm;
    Store8: EVEX_Vpmovdb_xmmm32_k1z_xmm, EVEX_Vpmovdb_xmmm128_k1z_zmm;
    StoreHalves8: EVEX_Vpmovwb_xmmm64_k1z_xmm, EVEX_Vpmovwb_ymmm256_k1z_zmm;
    StoreHalves16: EVEX_Vmovdqu16_xmmm128_k1z_xmm, EVEX_Vmovdqu16_zmmm512_k1z_zmm;
    LoadBytes: EVEX_Vmovdqu8_xmm_k1z_xmmm128, EVEX_Vmovdqu8_zmm_k1z_zmmm512;
    StoreBytes: EVEX_Vmovdqu8_xmmm128_k1z_xmm, EVEX_Vmovdqu8_zmmm512_k1z_zmm;
    Dot: EVEX_Vpdpbusd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32;
    LowBytes: EVEX_Vpunpcklbw_xmm_k1z_xmm_xmmm128, EVEX_Vpunpcklbw_zmm_k1z_zmm_zmmm512;
    HighBytes: EVEX_Vpunpckhbw_xmm_k1z_xmm_xmmm128, EVEX_Vpunpckhbw_zmm_k1z_zmm_zmmm512;
    LowWords: EVEX_Vpunpckldq_xmm_k1z_xmm_xmmm128b32, EVEX_Vpunpckldq_zmm_k1z_zmm_zmmm512b32;
    HighWords: EVEX_Vpunpckhdq_xmm_k1z_xmm_xmmm128b32, EVEX_Vpunpckhdq_zmm_k1z_zmm_zmmm512b32;
    LowPairs: EVEX_Vpunpcklqdq_xmm_k1z_xmm_xmmm128b64, EVEX_Vpunpcklqdq_zmm_k1z_zmm_zmmm512b64;
    HighPairs: EVEX_Vpunpckhqdq_xmm_k1z_xmm_xmmm128b64, EVEX_Vpunpckhqdq_zmm_k1z_zmm_zmmm512b64;
    SwapLanes: EVEX_Vpshufd_xmm_k1z_xmmm128b32_imm8, EVEX_Vpshufd_zmm_k1z_zmmm512b32_imm8;
    SwapQuarters: EVEX_Vpshufd_xmm_k1z_xmmm128b32_imm8, EVEX_Vshufi32x4_zmm_k1z_zmm_zmmm512b32_imm8;
    InsertQuarter: EVEX_Vinserti32x4_ymm_k1z_ymm_xmmm128_imm8, EVEX_Vinserti32x4_zmm_k1z_zmm_xmmm128_imm8;
}

/// Where a place in memory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// In a register.
    Register(AsmRegister64),
    /// At this place of the frame lies the address.
    Slot(i32),
}

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) base: Base,
    pub(super) offset: i32,
    /// One 32-bit element for all lanes.
    pub(super) splat: bool,
}

impl Memory {
    pub(super) fn at(base: AsmRegister64, offset: usize) -> Self {
        Self { base: Base::Register(base), offset: offset_of(offset), splat: false }
    }

    pub(super) fn frame(offset: i32) -> Self {
        Self { base: Base::Register(rsp), offset, splat: false }
    }

    pub(super) fn splat(self) -> Self {
        Self { splat: true, ..self }
    }

    pub(super) fn ahead(self, bytes: usize) -> Self {
        Self { offset: self.offset + offset_of(bytes), ..self }
    }
}

/// A distance as instructions hold it. Whoever lets one grow checks before (`check`).
pub(super) fn offset_of(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("distances within a kernel's buffers are checked to fit")
}

/// A number of a vector register, 0 to 31.
pub(super) type Vector = u8;

/// A mask register; `k0` means no mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask(pub(super) u8);

/// No mask.
pub(super) const ALL: Mask = Mask(0);

/// The mask of comparisons, for the next instruction only.
pub(super) const COMPARED: Mask = Mask(7);

impl Mask {
    fn register(self) -> Register {
        Register::K0 + u32::from(self.0)
    }
}

/// An operand of a vector instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Vector(Vector),
    Memory(Memory),
}

/// Code under construction.
pub(super) struct Asm {
    pub(super) code: CodeAssembler,
    constants: Vec<u8>,
    /// Where each constant is.
    known: HashMap<Vec<u8>, i32>,
    frame: usize,
    /// Vectors in the frame that nobody uses.
    pub(super) spills: Vec<i32>,
    setup: CodeLabel,
    body: CodeLabel,
    table: CodeLabel,
}

/// Registers that belong to the caller.
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];

impl Asm {
    /// Begins a function.
    pub(super) fn new() -> Self {
        let mut code = encoded(CodeAssembler::new(64));
        let [setup, mut body, table] = [0; 3].map(|_| code.create_label());
        encoded(code.jmp(setup));
        encoded(code.set_label(&mut body));
        Self {
            code,
            constants: Vec::new(),
            known: HashMap::new(),
            frame: VECTOR,
            spills: Vec::new(),
            setup,
            body,
            table,
        }
    }

    /// Room in the frame, at a multiple of 64 where it is that large.
    pub(super) fn room(&mut self, bytes: usize) -> i32 {
        let align = if bytes >= VECTOR { VECTOR } else { 8 };
        let at = self.frame.next_multiple_of(align);
        self.frame = at + bytes.next_multiple_of(8);
        offset_of(at)
    }

    /// A constant in all lanes.
    pub(super) fn word(&mut self, bits: u32) -> Memory {
        let offset = self.bytes(&bits.to_le_bytes());
        Memory { base: Base::Register(r15), offset, splat: true }
    }

    /// A constant vector.
    pub(super) fn lanes(&mut self, lanes: [u32; LANES]) -> Memory {
        let offset = self.bytes(&lanes.map(u32::to_le_bytes).concat());
        Memory { base: Base::Register(r15), offset, splat: false }
    }

    /// Where these bytes are among the constants.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> i32 {
        if let Some(&offset) = self.known.get(bytes) {
            return offset;
        }
        let align = bytes.len().next_power_of_two().min(VECTOR);
        let at = self.constants.len().next_multiple_of(align);
        self.constants.resize(at, 0);
        self.constants.extend_from_slice(bytes);
        *self.known.entry(bytes.to_vec()).or_insert(offset_of(at))
    }

    pub(super) fn label(&mut self) -> CodeLabel {
        self.code.create_label()
    }

    /// The label stands before the next instruction.
    pub(super) fn place(&mut self, label: &mut CodeLabel) {
        encoded(self.code.set_label(label));
        // No code, but two labels may stand at the same place.
        encoded(self.code.zero_bytes());
    }

    fn operand(&mut self, memory: Memory) -> MemoryOperand {
        let base = match memory.base {
            Base::Register(register) => register,
            Base::Slot(slot) => {
                x86!(self; mov(rax, qword_ptr(rsp + slot)));
                rax
            }
        };
        let segment = Register::None;
        MemoryOperand::with_base_displ_bcst_seg(base.into(), i64::from(memory.offset), memory.splat, segment)
    }

    fn register(width: Width, vector: Vector) -> Register {
        let first = match width {
            Width::Narrow => Register::XMM0,
            Width::Wide => Register::ZMM0,
        };
        first + u32::from(vector)
    }

    fn add(&mut self, mut instruction: Instruction, mask: Mask, zeroing: bool) {
        if mask != ALL {
            instruction.set_op_mask(mask.register());
            instruction.set_zeroing_masking(zeroing);
        }
        encoded(self.code.add_instruction(instruction));
    }

    /// `to = op(a)`.
    pub(super) fn unary(&mut self, width: Width, op: Op, to: Vector, a: Operand, mask: Mask) {
        let (code, to) = (op.code(width), Self::register(width, to));
        let instruction = match a {
            Operand::Vector(a) => Instruction::with2(code, to, Self::register(width, a)),
            Operand::Memory(a) => {
                let a = self.operand(a);
                Instruction::with2(code, to, a)
            }
        };
        self.add(encoded(instruction), mask, true);
    }

    /// `to = op(a, b)`; lanes that the mask leaves out keep what `to` holds.
    pub(super) fn binary(&mut self, width: Width, op: Op, to: Vector, a: Vector, b: Operand, mask: Mask) {
        let (code, to, a) = (op.code(width), Self::register(width, to), Self::register(width, a));
        let instruction = match b {
            Operand::Vector(b) => Instruction::with3(code, to, a, Self::register(width, b)),
            Operand::Memory(b) => {
                let b = self.operand(b);
                Instruction::with3(code, to, a, b)
            }
        };
        self.add(encoded(instruction), mask, false);
    }

    /// `to = op(a, b)` with a number in the instruction.
    pub(super) fn binary_by(&mut self, width: Width, op: Op, to: Vector, a: Vector, b: Operand, by: u32) {
        let (code, to, a) = (op.code(width), Self::register(width, to), Self::register(width, a));
        let instruction = match b {
            Operand::Vector(b) => Instruction::with4(code, to, a, Self::register(width, b), by),
            Operand::Memory(b) => {
                let b = self.operand(b);
                Instruction::with4(code, to, a, b, by)
            }
        };
        self.add(encoded(instruction), ALL, false);
    }

    /// `to = op(a)` with a number in the instruction.
    pub(super) fn unary_by(&mut self, width: Width, op: Op, to: Vector, a: Operand, by: u32) {
        let (code, to) = (op.code(width), Self::register(width, to));
        let instruction = match a {
            Operand::Vector(a) => Instruction::with3(code, to, Self::register(width, a), by),
            Operand::Memory(a) => {
                let a = self.operand(a);
                Instruction::with3(code, to, a, by)
            }
        };
        self.add(encoded(instruction), ALL, false);
    }

    /// Compares; the result is in [`COMPARED`]. `predicate` as in the instruction, none for [`Op::Test`].
    pub(super) fn compare(&mut self, width: Width, op: Op, a: Vector, b: Operand, predicate: Option<u32>) {
        let (code, to, a) = (op.code(width), COMPARED.register(), Self::register(width, a));
        let instruction = match (b, predicate) {
            (Operand::Vector(b), Some(by)) => Instruction::with4(code, to, a, Self::register(width, b), by),
            (Operand::Vector(b), None) => Instruction::with3(code, to, a, Self::register(width, b)),
            (Operand::Memory(b), Some(by)) => {
                let b = self.operand(b);
                Instruction::with4(code, to, a, b, by)
            }
            (Operand::Memory(b), None) => {
                let b = self.operand(b);
                Instruction::with3(code, to, a, b)
            }
        };
        self.add(encoded(instruction), ALL, false);
    }

    /// `to = COMPARED ? a : b`.
    pub(super) fn blend(&mut self, width: Width, to: Vector, b: Vector, a: Operand) {
        self.binary(width, Op::Blend, to, b, a, COMPARED);
    }

    /// [`COMPARED`] as 0 or -1 in all lanes.
    pub(super) fn mask_to_vector(&mut self, width: Width, to: Vector) {
        let instruction =
            Instruction::with2(Op::MaskToVector.code(width), Self::register(width, to), COMPARED.register());
        self.add(encoded(instruction), ALL, false);
    }

    /// A general register in all lanes.
    pub(super) fn splat_register(&mut self, width: Width, to: Vector, from: Register) {
        let instruction = Instruction::with2(Op::SplatRegister.code(width), Self::register(width, to), from);
        self.add(encoded(instruction), ALL, false);
    }

    /// Stores lanes of a vector.
    pub(super) fn store(&mut self, width: Width, op: Op, to: Memory, value: Vector, mask: Mask) {
        let to = self.operand(to);
        let instruction = Instruction::with2(op.code(width), to, Self::register(width, value));
        self.add(encoded(instruction), mask, false);
    }

    /// Loads into a vector.
    pub(super) fn load(&mut self, width: Width, op: Op, to: Vector, from: Memory, mask: Mask) {
        self.unary(width, op, to, Operand::Memory(from), mask);
    }

    /// Combines the lanes of a vector, the upper half with the lower until one is left, into `ecx` too.
    pub(super) fn combine_lanes(&mut self, op: Op, value: Vector, scratch: Vector) {
        const SWAP_HALVES: u32 = 0b01_00_11_10;
        const SWAP_NEIGHBOURS: u32 = 0b10_11_00_01;
        let (width, lower) = (Width::Wide, Operand::Vector(value));
        for by in [SWAP_HALVES, SWAP_NEIGHBOURS] {
            self.binary_by(width, Op::SwapQuarters, scratch, value, lower, by);
            self.binary(width, op, value, scratch, lower, ALL);
        }
        for by in [SWAP_HALVES, SWAP_NEIGHBOURS] {
            self.unary_by(width, Op::SwapLanes, scratch, lower, by);
            self.binary(width, op, value, scratch, lower, ALL);
        }
        self.first_lane(value);
    }

    /// The first lane into `ecx`.
    fn first_lane(&mut self, value: Vector) {
        let value = Self::register(Width::Narrow, value);
        let instruction = Instruction::with2(Opcode::EVEX_Vmovd_rm32_xmm, Register::ECX, value);
        self.add(encoded(instruction), ALL, false);
    }

    /// One element, widened, into `eax`.
    pub(super) fn load_one(&mut self, dtype: DType, from: Memory) {
        let (base, offset) = self.general(from);
        match dtype {
            DType::U8 => x86!(self; movzx(eax, byte_ptr(base + offset))),
            DType::I8 => x86!(self; movsx(eax, byte_ptr(base + offset))),
            DType::I16 => x86!(self; movsx(eax, word_ptr(base + offset))),
            DType::I32 | DType::F32 => x86!(self; mov(eax, dword_ptr(base + offset))),
        }
    }

    /// Stores the first lane, narrowed.
    pub(super) fn store_one(&mut self, dtype: DType, to: Memory, value: Vector) {
        self.first_lane(value);
        self.store_register(dtype, to);
    }

    /// Stores `ecx`, narrowed.
    pub(super) fn store_register(&mut self, dtype: DType, to: Memory) {
        let (base, offset) = self.general(to);
        match dtype {
            DType::U8 | DType::I8 => x86!(self; mov(byte_ptr(base + offset), cl)),
            DType::I16 => x86!(self; mov(word_ptr(base + offset), cx)),
            DType::I32 | DType::F32 => x86!(self; mov(dword_ptr(base + offset), ecx)),
        }
    }

    /// A place as base register and offset.
    fn general(&mut self, memory: Memory) -> (AsmRegister64, i32) {
        match memory.base {
            Base::Register(register) => (register, memory.offset),
            Base::Slot(slot) => {
                x86!(self; mov(rax, qword_ptr(rsp + slot)));
                (rax, memory.offset)
            }
        }
    }

    /// Asks for a cache line, to read or also to write to.
    pub(super) fn prefetch(&mut self, memory: Memory, writes: bool) {
        let memory = self.operand(memory);
        let op = if writes { Opcode::Prefetchw_m8 } else { Opcode::Prefetcht0_m8 };
        self.add(encoded(Instruction::with1(op, memory)), ALL, false);
    }

    /// `to` is all zeros.
    pub(super) fn zero(&mut self, to: Vector) {
        self.binary(Width::Wide, Op::Xor, to, to, Operand::Vector(to), ALL);
    }

    /// Ends the function: what its body needs is known now.
    pub(super) fn finish(mut self) -> Code {
        self.leave();
        let (mut setup, mut table) = (self.setup, self.table);
        encoded(self.code.set_label(&mut setup));
        self.enter();
        let body = self.body;
        encoded(self.code.jmp(body));
        encoded(self.code.set_label(&mut table));
        let constants = std::mem::take(&mut self.constants);
        let padded = constants.len().next_multiple_of(8).max(8);
        let mut bytes = constants;
        bytes.resize(padded, 0);
        encoded(self.code.db(&bytes));
        let result =
            encoded(self.code.assemble_options(0, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS));
        let end = encoded(result.label_ip(&table));
        Code { bytes: result.inner.code_buffer, end: usize::try_from(end).expect("functions are small") }
    }

    /// Saves registers and makes the frame. Every page of it is touched on the way down, so that a stack that ends is
    /// found out where the system has put its guard.
    fn enter(&mut self) {
        for register in SAVED {
            x86!(self; push(register));
        }
        let size = i32::try_from(self.frame.next_multiple_of(VECTOR)).expect("frames are small");
        x86!(self; mov(rax, rsp));
        for page in 1..=size / 4096 {
            x86!(self; test(qword_ptr(rsp - page * 4096), rax));
        }
        let table = self.table;
        x86!(self;
            sub(rsp, size);
            and(rsp, -64);
            mov(qword_ptr(rsp), rax);
            lea(r15, qword_ptr(table));
        );
    }

    fn leave(&mut self) {
        x86!(self; mov(rsp, qword_ptr(rsp)));
        for register in SAVED.into_iter().rev() {
            x86!(self; pop(register));
        }
        x86!(self; vzeroupper(); ret());
    }
}

/// General registers that loops may use for addresses.
pub(super) const ADDRESSES: [AsmRegister64; 10] = {
    use iced_x86::code_asm::{r8, r9, r10, r11, rdi, rsi};
    [rbx, rbp, rsi, rdi, r8, r9, r10, r11, r13, r14]
};

/// Multiplies a register by a constant.
pub(super) fn times(asm: &mut Asm, register: AsmRegister64, by: usize) {
    match by {
        1 => {}
        _ if by.is_power_of_two() => x86!(asm; shl(register, by.trailing_zeros())),
        _ => match i32::try_from(by) {
            Ok(by) => x86!(asm; imul_3(register, register, by)),
            Err(_) => {
                x86!(asm; mov(rcx, by as u64); imul_2(register, rcx));
            }
        },
    }
}
