//! Straight-line vector code: steps on any number of values, given registers when the block is written.
//!
//! A block is what happens to a few neighbouring elements of a row. It has no jumps, so the best choice is known when
//! registers run out: the value whose next use lies furthest ahead goes to the frame. Constants, values of the row and
//! values of the columns lie in memory and never take a register, because instructions read them there.

use ffc_ir::types::DType;
use iced_x86::Register;

use super::asm::{ALL, Asm, LANES, Mask, Memory, Op, Operand, VECTOR, Vector, Width, x86};

/// A value that a step computes.
pub(super) type Value = usize;

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    /// An earlier step.
    Value(Value),
    /// Memory that nothing in the block changes.
    Memory(Memory),
    /// A register that nothing in the block changes.
    Register(Vector),
}

/// A condition on two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    FLess,
    ILess,
    IEqual,
}

impl Condition {
    fn instruction(self) -> (Op, u32) {
        match self {
            Self::FLess => (Op::CompareF32, 1),
            Self::ILess => (Op::CompareI32, 1),
            Self::IEqual => (Op::CompareI32, 0),
        }
    }
}

/// What a step does. Values are defined once; the step's own is given by its place in [`Block::steps`].
#[derive(Clone, Copy, Debug)]
enum Step {
    Unary(Op, Value, Source),
    UnaryBy(Op, Value, Source, u32),
    Binary(Op, Value, Source, Source),
    /// The unsigned remainder by a constant.
    Remainder(Value, Source, u32),
    /// A condition as 0 or -1.
    Compare(Value, Condition, Source, Source),
    /// `condition(a, b) ? c : d`.
    ChooseBy(Value, Condition, [Source; 4]),
    /// `a != 0 ? b : c`.
    Choose(Value, [Source; 3]),
    Load(Op, Value, Memory, Mask),
    /// One element, widened, in all lanes.
    LoadOne(DType, Value, Memory),
    /// A general register in all lanes.
    SplatRegister(Value, Register),
    /// The lanes of a mask, zero elsewhere.
    Keep(Value, Source, Mask),
    Store(Op, Memory, Source, Mask),
    /// Stores the first lane, narrowed.
    StoreOne(DType, Memory, Source),
    /// Asks for a cache line that a later run of the block will read, and perhaps write to.
    Prefetch(Memory, bool),
    /// `memory = op(memory, values)`, each value in the lanes of its mask.
    Reduce(Op, Memory, [Option<(Source, Mask)>; 2]),
}

/// Straight-line code in the making.
pub(super) struct Block {
    width: Width,
    steps: Vec<Step>,
    values: usize,
    /// Registers that hold memory which stays as it is.
    settled: usize,
}

impl Block {
    pub(super) fn new(width: Width) -> Self {
        Self { width, steps: Vec::new(), values: 0, settled: 0 }
    }

    fn value(&mut self, step: impl FnOnce(Value) -> Step) -> Source {
        let value = self.values;
        self.values += 1;
        self.steps.push(step(value));
        Source::Value(value)
    }

    pub(super) fn unary(&mut self, op: Op, a: Source) -> Source {
        self.value(|value| Step::Unary(op, value, a))
    }

    pub(super) fn unary_by(&mut self, op: Op, a: Source, by: u32) -> Source {
        self.value(|value| Step::UnaryBy(op, value, a, by))
    }

    pub(super) fn binary(&mut self, op: Op, a: Source, b: Source) -> Source {
        self.value(|value| Step::Binary(op, value, a, b))
    }

    pub(super) fn remainder(&mut self, a: Source, by: u32) -> Source {
        self.value(|value| Step::Remainder(value, a, by))
    }

    pub(super) fn compare(&mut self, condition: Condition, a: Source, b: Source) -> Source {
        self.value(|value| Step::Compare(value, condition, a, b))
    }

    pub(super) fn choose_by(&mut self, condition: Condition, sources: [Source; 4]) -> Source {
        self.value(|value| Step::ChooseBy(value, condition, sources))
    }

    pub(super) fn choose(&mut self, sources: [Source; 3]) -> Source {
        self.value(|value| Step::Choose(value, sources))
    }

    pub(super) fn load(&mut self, op: Op, from: Memory, mask: Mask) -> Source {
        self.value(|value| Step::Load(op, value, from, mask))
    }

    pub(super) fn load_one(&mut self, dtype: DType, from: Memory) -> Source {
        self.value(|value| Step::LoadOne(dtype, value, from))
    }

    pub(super) fn splat_register(&mut self, from: Register) -> Source {
        self.value(|value| Step::SplatRegister(value, from))
    }

    pub(super) fn keep(&mut self, a: Source, mask: Mask) -> Source {
        self.value(|value| Step::Keep(value, a, mask))
    }

    pub(super) fn store(&mut self, op: Op, to: Memory, value: Source, mask: Mask) {
        self.steps.push(Step::Store(op, to, value, mask));
    }

    pub(super) fn store_one(&mut self, dtype: DType, to: Memory, value: Source) {
        self.steps.push(Step::StoreOne(dtype, to, value));
    }

    pub(super) fn prefetch(&mut self, memory: Memory, writes: bool) {
        self.steps.push(Step::Prefetch(memory, writes));
    }

    pub(super) fn reduce(&mut self, op: Op, to: Memory, values: [Option<(Source, Mask)>; 2]) {
        self.steps.push(Step::Reduce(op, to, values));
    }

    /// Puts the steps in order, and memory that stays as it is while the block runs again and again into registers that
    /// the block does not need otherwise. The loads are written here: in front of the loop.
    pub(super) fn settle(&mut self, asm: &mut Asm, still: impl Fn(Memory) -> bool) {
        self.steps = schedule::ordered(std::mem::take(&mut self.steps));
        let mut uses: Vec<(Memory, usize)> = Vec::new();
        for source in self.steps.iter().flat_map(Step::sources) {
            if let Source::Memory(memory) = source
                && still(memory)
            {
                match uses.iter_mut().find(|(other, _)| *other == memory) {
                    Some((_, count)) => *count += 1,
                    None => uses.push((memory, 1)),
                }
            }
        }
        uses.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        uses.truncate((REGISTERS - SCRATCH).saturating_sub(schedule::pressure(&self.steps)));
        for (number, (memory, _)) in uses.into_iter().enumerate() {
            let register = vector(REGISTERS - 1 - number);
            load_operand(asm, register, memory);
            let settled = |source: Source| match source {
                Source::Memory(other) if other == memory => Source::Register(register),
                _ => source,
            };
            self.steps.iter_mut().for_each(|step| *step = step.map(settled));
            self.settled += 1;
        }
    }

    /// Writes the steps so far and forgets them; values live no longer than this.
    pub(super) fn write(&mut self, asm: &mut Asm) {
        let steps = std::mem::take(&mut self.steps);
        let mut allocation = Allocation::new(self.width, &steps, self.values, REGISTERS - self.settled);
        self.values = 0;
        for (at, step) in steps.iter().enumerate() {
            allocation.step(asm, at, step);
        }
        let kept = allocation.spilled.into_iter().flatten();
        asm.spills.extend(kept);
    }
}

impl Step {
    /// The value that it defines.
    fn defines(&self) -> Option<Value> {
        match *self {
            Self::Unary(_, value, _)
            | Self::UnaryBy(_, value, ..)
            | Self::Binary(_, value, ..)
            | Self::Remainder(value, ..)
            | Self::Compare(value, ..)
            | Self::ChooseBy(value, ..)
            | Self::Choose(value, _)
            | Self::Load(_, value, ..)
            | Self::LoadOne(_, value, _)
            | Self::SplatRegister(value, _)
            | Self::Keep(value, ..) => Some(value),
            Self::Store(..) | Self::StoreOne(..) | Self::Prefetch(..) | Self::Reduce(..) => None,
        }
    }

    /// The same step on other operands.
    fn map(self, f: impl Fn(Source) -> Source) -> Self {
        match self {
            Self::Unary(op, value, a) => Self::Unary(op, value, f(a)),
            Self::UnaryBy(op, value, a, by) => Self::UnaryBy(op, value, f(a), by),
            Self::Binary(op, value, a, b) => Self::Binary(op, value, f(a), f(b)),
            Self::Remainder(value, a, by) => Self::Remainder(value, f(a), by),
            Self::Compare(value, condition, a, b) => Self::Compare(value, condition, f(a), f(b)),
            Self::ChooseBy(value, condition, sources) => Self::ChooseBy(value, condition, sources.map(f)),
            Self::Choose(value, sources) => Self::Choose(value, sources.map(f)),
            Self::Keep(value, a, mask) => Self::Keep(value, f(a), mask),
            Self::Store(op, to, value, mask) => Self::Store(op, to, f(value), mask),
            Self::StoreOne(dtype, to, value) => Self::StoreOne(dtype, to, f(value)),
            Self::Reduce(op, to, values) => {
                Self::Reduce(op, to, values.map(|value| value.map(|(source, mask)| (f(source), mask))))
            }
            Self::Load(..) | Self::LoadOne(..) | Self::SplatRegister(..) | Self::Prefetch(..) => self,
        }
    }

    fn sources(&self) -> Vec<Source> {
        match *self {
            Self::Unary(_, _, a)
            | Self::UnaryBy(_, _, a, _)
            | Self::Remainder(_, a, _)
            | Self::Keep(_, a, _) => {
                vec![a]
            }
            Self::Binary(_, _, a, b) | Self::Compare(_, _, a, b) => vec![a, b],
            Self::ChooseBy(_, _, sources) => sources.to_vec(),
            Self::Choose(_, sources) => sources.to_vec(),
            Self::Load(..) | Self::LoadOne(..) | Self::SplatRegister(..) | Self::Prefetch(..) => Vec::new(),
            Self::Store(_, _, value, _) | Self::StoreOne(_, _, value) => vec![value],
            Self::Reduce(_, _, values) => values.iter().flatten().map(|(source, _)| *source).collect(),
        }
    }
}

mod schedule;

/// Registers that steps need besides those of values.
const SCRATCH: usize = 3;

/// Vector registers that hold values.
const REGISTERS: usize = 32;

/// Which value is where.
struct Allocation {
    width: Width,
    /// The steps that use each value, last first.
    uses: Vec<Vec<usize>>,
    /// What each register holds.
    held: [Option<Value>; REGISTERS],
    /// How many registers, from the first on, are there for values.
    usable: usize,
    /// Registers that the step at hand works on.
    pinned: [bool; REGISTERS],
    register: Vec<Option<Vector>>,
    spilled: Vec<Option<i32>>,
}

impl Allocation {
    fn new(width: Width, steps: &[Step], values: usize, usable: usize) -> Self {
        let mut uses = vec![Vec::new(); values];
        for (at, step) in steps.iter().enumerate().rev() {
            for source in step.sources() {
                if let Source::Value(value) = source {
                    uses[value].push(at);
                }
            }
        }
        Self {
            width,
            uses,
            held: [None; REGISTERS],
            usable,
            pinned: [false; REGISTERS],
            register: vec![None; values],
            spilled: vec![None; values],
        }
    }

    fn step(&mut self, asm: &mut Asm, at: usize, step: &Step) {
        let width = self.width;
        match *step {
            Step::Unary(op, value, a) => {
                let a = self.operand(asm, a);
                let to = self.define(asm, at, value);
                asm.unary(width, op, to, a, ALL);
            }
            Step::UnaryBy(op, value, a, by) => {
                let a = self.operand(asm, a);
                let to = self.define(asm, at, value);
                asm.unary_by(width, op, to, a, by);
            }
            Step::Binary(op, value, a, b) => {
                let a = self.vector(asm, a);
                let b = self.operand(asm, b);
                let to = self.define(asm, at, value);
                asm.binary(width, op, to, a, b, ALL);
            }
            Step::Remainder(value, a, by) => {
                let a = self.vector(asm, a);
                let to = self.define(asm, at, value);
                remainder(asm, width, to, a, by);
            }
            Step::Compare(value, condition, a, b) => {
                self.condition(asm, condition, a, b);
                let to = self.define(asm, at, value);
                asm.mask_to_vector(width, to);
            }
            Step::ChooseBy(value, condition, [a, b, c, d]) => {
                self.condition(asm, condition, a, b);
                self.blend(asm, at, value, c, d);
            }
            Step::Choose(value, [mask, a, b]) => {
                let mask = self.vector(asm, mask);
                asm.compare(width, Op::Test, mask, Operand::Vector(mask), None);
                self.blend(asm, at, value, a, b);
            }
            Step::Load(op, value, from, mask) => {
                let to = self.define(asm, at, value);
                asm.load(width, op, to, from, mask);
            }
            Step::LoadOne(dtype, value, from) => {
                let to = self.define(asm, at, value);
                asm.load_one(dtype, from);
                asm.splat_register(width, to, Register::EAX);
            }
            Step::Keep(value, a, mask) => {
                let a = self.vector(asm, a);
                let to = self.define(asm, at, value);
                asm.unary(width, Op::Move, to, Operand::Vector(a), mask);
            }
            Step::SplatRegister(value, from) => {
                let to = self.define(asm, at, value);
                asm.splat_register(width, to, from);
            }
            Step::Store(op, to, value, mask) => {
                let value = self.vector(asm, value);
                asm.store(width, op, to, value, mask);
            }
            Step::StoreOne(dtype, to, value) => {
                let value = self.vector(asm, value);
                asm.store_one(dtype, to, value);
            }
            Step::Prefetch(memory, writes) => asm.prefetch(memory, writes),
            Step::Reduce(op, to, values) => self.reduce(asm, op, to, values),
        }
        self.pinned = [false; REGISTERS];
        self.retire(asm, at);
    }

    fn condition(&mut self, asm: &mut Asm, condition: Condition, a: Source, b: Source) {
        let (op, predicate) = condition.instruction();
        let a = self.vector(asm, a);
        let b = self.operand(asm, b);
        asm.compare(self.width, op, a, b, Some(predicate));
    }

    /// `value = COMPARED ? a : b`.
    fn blend(&mut self, asm: &mut Asm, at: usize, value: Value, a: Source, b: Source) {
        let b = self.vector(asm, b);
        let a = self.operand(asm, a);
        let to = self.define(asm, at, value);
        asm.blend(self.width, to, b, a);
    }

    fn reduce(&mut self, asm: &mut Asm, op: Op, to: Memory, values: [Option<(Source, Mask)>; 2]) {
        let partial = self.any(asm);
        asm.load(self.width, Op::Move, partial, to, ALL);
        for (source, mask) in values.into_iter().flatten() {
            let value = self.vector(asm, source);
            // `a < b ? b : a` is the maximum of (b, a), in this order.
            asm.binary(self.width, op, partial, value, Operand::Vector(partial), mask);
        }
        asm.store(self.width, Op::Store32, to, partial, ALL);
    }

    /// The operand in a register.
    fn vector(&mut self, asm: &mut Asm, source: Source) -> Vector {
        match source {
            Source::Value(value) => {
                if let Some(register) = self.register[value] {
                    self.pinned[usize::from(register)] = true;
                    return register;
                }
                let register = self.any(asm);
                let from = self.spilled[value].expect("values are defined before their uses");
                asm.load(self.width, Op::Move, register, Memory::frame(from), ALL);
                self.held[usize::from(register)] = Some(value);
                self.register[value] = Some(register);
                register
            }
            Source::Memory(memory) => {
                let register = self.any(asm);
                load_operand(asm, register, memory);
                register
            }
            Source::Register(register) => register,
        }
    }

    /// The operand in a register or in memory.
    fn operand(&mut self, asm: &mut Asm, source: Source) -> Operand {
        match source {
            Source::Memory(memory) => Operand::Memory(memory),
            Source::Register(register) => Operand::Vector(register),
            Source::Value(value) => match (self.register[value], self.spilled[value]) {
                (None, Some(slot)) => Operand::Memory(Memory::frame(slot)),
                _ => Operand::Vector(self.vector(asm, source)),
            },
        }
    }

    /// A register for the value that the step defines. Operands that are not used again make room.
    fn define(&mut self, asm: &mut Asm, at: usize, value: Value) -> Vector {
        self.retire(asm, at);
        let register = self.any(asm);
        if !self.uses[value].is_empty() {
            self.held[usize::from(register)] = Some(value);
            self.register[value] = Some(register);
        }
        register
    }

    /// Forgets values whose last use is this step.
    fn retire(&mut self, asm: &mut Asm, at: usize) {
        for register in 0..REGISTERS {
            let Some(value) = self.held[register] else { continue };
            while self.uses[value].last().is_some_and(|&used| used <= at) {
                self.uses[value].pop();
            }
            if self.uses[value].is_empty() {
                self.held[register] = None;
                self.register[value] = None;
                self.pinned[register] = false;
                asm.spills.extend(self.spilled[value].take());
            }
        }
    }

    /// A free register, which the step at hand may use.
    fn any(&mut self, asm: &mut Asm) -> Vector {
        let free = (0..self.usable).find(|&register| self.held[register].is_none() && !self.pinned[register]);
        let register = free.unwrap_or_else(|| self.evict(asm));
        self.pinned[register] = true;
        vector(register)
    }

    /// Sends the value whose next use is furthest ahead to the frame.
    fn evict(&mut self, asm: &mut Asm) -> usize {
        let candidates = (0..self.usable).filter(|&register| !self.pinned[register]);
        let next = |register: usize| {
            let value = self.held[register].expect("no register is free");
            self.uses[value].last().copied()
        };
        let register = candidates.max_by_key(|&register| next(register)).expect("a step needs few registers");
        let value = self.held[register].take().expect("no register is free");
        self.register[value] = None;
        if self.spilled[value].is_none() {
            let slot = asm.spills.pop().unwrap_or_else(|| asm.room(VECTOR));
            asm.store(Width::Wide, Op::Store32, Memory::frame(slot), vector(register), ALL);
            self.spilled[value] = Some(slot);
        }
        register
    }
}

fn vector(register: usize) -> Vector {
    Vector::try_from(register).expect("there are 32 registers")
}

/// What an instruction would read from memory, in a register.
fn load_operand(asm: &mut Asm, to: Vector, memory: Memory) {
    let op = if memory.splat { Op::Splat } else { Op::Move };
    asm.load(Width::Wide, op, to, Memory { splat: false, ..memory }, ALL);
}

/// `to = a % by`, unsigned, lane by lane: rare enough.
fn remainder(asm: &mut Asm, width: Width, to: Vector, a: Vector, by: u32) {
    use iced_x86::code_asm::{dword_ptr, eax, ecx, edx, rsp};
    let slot = asm.room(VECTOR);
    let lanes = if width == Width::Narrow { 1 } else { LANES };
    asm.store(width, Op::Store32, Memory::frame(slot), a, ALL);
    x86!(asm; mov(ecx, by));
    for lane in 0..lanes {
        let at = slot + 4 * i32::try_from(lane).expect("there are 16 lanes");
        x86!(asm;
            mov(eax, dword_ptr(rsp + at));
            xor(edx, edx);
            div(ecx);
            mov(dword_ptr(rsp + at), edx);
        );
    }
    let op = if width == Width::Narrow { Op::Splat } else { Op::Move };
    asm.load(width, op, to, Memory::frame(slot), ALL);
}
