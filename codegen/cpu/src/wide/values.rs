//! Expressions as steps of a block, and how often each is computed.

use std::collections::HashMap;

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Binary, Buffer, BufferClass, Expr, Kernel, Store, Unary};
use ffc_ir::numerics::{Arith, Number, Scalar};
use ffc_ir::types::DType;
use iced_x86::Register;

use super::asm::{Base, LANES, Mask, Memory, Op, VECTOR, Width, offset_of};
use super::block::{Block, Condition, Source};
use super::nest::Emitter;
use crate::layout::{column_pitch, padded};
use crate::plan;

/// How often an expression is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// Once a call.
    Kernel,
    /// Once a row of a stage.
    Row,
    /// Once a column of a panel.
    Column,
    /// For each element.
    Element,
}

impl Level {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Kernel, level) | (level, Self::Kernel) => level,
            (a, b) if a == b => a,
            _ => Self::Element,
        }
    }
}

/// The level of each expression. What the kernel itself writes is read again in each row.
pub(super) fn levels(kernel: &Kernel) -> Vec<Level> {
    let writes = kernel.writes();
    let mut levels: Vec<Level> = Vec::with_capacity(kernel.exprs.len());
    for expr in kernel.exprs.values() {
        let level = match *expr {
            Expr::Accumulator => Level::Element,
            Expr::RowIndex => Level::Row,
            Expr::ColumnIndex => Level::Column,
            Expr::Load(buffer, at) => match at {
                At::Element
                | At::Transposed
                | At::Sample(_)
                | At::Columns(_)
                | At::Flat(_)
                | At::Window { .. }
                | At::Planar { .. }
                | At::Back { .. } => Level::Element,
                At::Column if writes.contains(&buffer) => Level::Element,
                At::Column => Level::Column,
                At::Row | At::RowSample(_) => Level::Row,
                At::Scalar if writes.contains(&buffer) => Level::Row,
                At::Scalar => Level::Kernel,
            },
            _ => Level::Kernel,
        };
        let operands = plan::operands(*expr).into_iter().flatten().map(|operand| levels[operand.index()]);
        levels.push(operands.fold(level, Level::join));
    }
    levels
}

/// What is known of expressions whatever the row, for each vector of a panel.
pub(super) struct Foreseen {
    /// Expressions that have the same lanes in all vectors of a panel, in every panel.
    pub(super) shared: Vec<bool>,
    /// Masks with the same value in all lanes of a vector, in every panel: by expression and vector.
    pub(super) uniform: HashMap<(Handle<Expr>, usize), bool>,
}

/// Most columns for which [`foresee`] tries what expressions of the column give.
const TRIED: usize = 1 << 16;

/// Tries all columns. The random bits of a panel's two vectors are halves of the same draws
/// ([`numerics::draw_half`](ffc_ir::numerics::draw_half)): found here, they are drawn once, and which half is no
/// question at run time.
pub(super) fn foresee(kernel: &Kernel, columns: usize, tiles: usize) -> Foreseen {
    let width = tiles * LANES;
    let columns = columns.next_multiple_of(width);
    let count = kernel.exprs.len();
    let mut known: Vec<Option<Vec<Number>>> = Vec::with_capacity(count);
    let mut shared = vec![true; count];
    let mut uniform = HashMap::new();
    for (handle, expr) in kernel.exprs.iter() {
        let values = (columns <= TRIED).then(|| of_columns(*expr, &known, columns)).flatten();
        let operands = || plan::operands(*expr).into_iter().flatten();
        shared[handle.index()] = match (expr, &values) {
            (_, Some(values)) => same_vectors(values, width),
            (Expr::Accumulator | Expr::ColumnIndex, None) => tiles == 1,
            (Expr::Load(_, at), None) => tiles == 1 || matches!(at, At::Row | At::RowSample(_) | At::Scalar),
            _ => operands().all(|operand| shared[operand.index()]),
        };
        for vector in 0..tiles {
            if let Some(value) = values.as_ref().and_then(|values| same_lanes(values, width, vector)) {
                uniform.insert((handle, vector), value);
            }
        }
        known.push(values);
    }
    Foreseen { shared, uniform }
}

/// The value in each column of an expression that depends on nothing else.
fn of_columns(expr: Expr, known: &[Option<Vec<Number>>], columns: usize) -> Option<Vec<Number>> {
    let lanes = |f: &mut dyn FnMut(usize) -> Number| Some((0..columns).map(f).collect());
    let of = |handle: Handle<Expr>| known[handle.index()].as_deref();
    match expr {
        Expr::ColumnIndex => {
            lanes(&mut |j| Number::I32(i32::try_from(j).expect("columns are tried to 2^16")))
        }
        Expr::ConstI32(value) => lanes(&mut |_| Number::I32(value)),
        Expr::Unary(op, a) => {
            let a = of(a)?;
            let m = &mut Scalar;
            match op {
                Unary::Shl(by) => lanes(&mut |j| m.shl(a[j], by)),
                Unary::Shr(by) => lanes(&mut |j| m.shr(a[j], by)),
                _ => None,
            }
        }
        Expr::Binary(op, a, b) => {
            let (a, b) = (of(a)?, of(b)?);
            let m = &mut Scalar;
            match op {
                Binary::IAdd => lanes(&mut |j| m.iadd(a[j], b[j])),
                Binary::IMul => lanes(&mut |j| m.imul(a[j], b[j])),
                Binary::And => lanes(&mut |j| m.and(a[j], b[j])),
                Binary::IEq => lanes(&mut |j| m.ieq(a[j], b[j])),
                _ => None,
            }
        }
        _ => None,
    }
}

fn same_vectors(values: &[Number], width: usize) -> bool {
    values.chunks_exact(width).all(|panel| panel.chunks_exact(LANES).all(|vector| *vector == panel[..LANES]))
}

fn same_lanes(values: &[Number], width: usize, vector: usize) -> Option<bool> {
    let first = values[vector * LANES].as_i32();
    let lanes = values.chunks_exact(width).flat_map(|panel| &panel[vector * LANES..][..LANES]);
    lanes.map(|value| value.as_i32()).all(|value| value == first).then_some(first != 0)
}

/// An address that moves from row to row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub(super) base: Base,
    /// Bytes between rows.
    pub(super) step: usize,
}

impl Lead {
    /// So many bytes behind where it leads to in a row, counted from the one at hand.
    pub(super) fn at(self, row: usize, offset: usize) -> Memory {
        Memory { base: self.base, offset: offset_of(row * self.step + offset), splat: false }
    }
}

/// Where the pieces of a kernel's memory are while a block runs.
pub(super) struct Scope<'a> {
    pub(super) level: Level,
    /// The row, counted from the one that leads lead to.
    pub(super) row: usize,
    /// Whether the panel's masks are in force.
    pub(super) partial: bool,
    /// Addresses of buffers, by what they lead to.
    pub(super) leads: HashMap<(Handle<Buffer>, At), Lead>,
    /// The row's values, and the place of each among them.
    pub(super) rows: Option<(Lead, &'a [Handle<Expr>])>,
    /// The panel's values, and the place of each among them.
    pub(super) columns: Option<(i32, &'a [Handle<Expr>])>,
    /// The row's accumulators.
    pub(super) sums: Option<Lead>,
    /// Elements that were gathered into the frame.
    pub(super) gathered: HashMap<(Handle<Buffer>, At), i32>,
    /// Buffers that the stage stores to.
    pub(super) stored: Vec<Handle<Buffer>>,
}

/// The mask of a vector of the panel, where masks are in force.
pub(super) fn mask(vector: usize, partial: bool) -> Mask {
    Mask(if partial { u8::try_from(vector).expect("panels have two vectors") + 1 } else { 0 })
}

/// A block in the making: steps for expressions, in a scope.
pub(super) struct Evaluation<'a> {
    pub(super) block: Block,
    pub(super) scope: &'a Scope<'a>,
    /// Values so far: by expression and vector of the panel.
    known: HashMap<(Handle<Expr>, usize), Source>,
    /// Values so far that were evaluated in 16 bits, for all of the panel.
    pub(super) halves: HashMap<Handle<Expr>, Source>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(scope: &'a Scope<'a>) -> Self {
        let width = match scope.level {
            Level::Kernel | Level::Row => Width::Narrow,
            Level::Column | Level::Element => Width::Wide,
        };
        Self::behind(Block::new(width), scope)
    }

    /// Goes on with a block in another scope.
    pub(super) fn behind(block: Block, scope: &'a Scope<'a>) -> Self {
        Self { block, scope, known: HashMap::new(), halves: HashMap::new() }
    }
}

impl Emitter<'_> {
    /// The value of an expression for a vector of the panel, as an operand of a step in this scope.
    pub(super) fn value(&mut self, to: &mut Evaluation<'_>, handle: Handle<Expr>, vector: usize) -> Source {
        let scope = to.scope;
        match self.kernel.exprs[handle] {
            Expr::ConstF32(bits) => return Source::Memory(self.asm.word(bits)),
            Expr::ConstI32(value) => return Source::Memory(self.asm.word(value.cast_unsigned())),
            _ => {}
        }
        if let Expr::Select(mask, a, b) = self.kernel.exprs[handle]
            && self.levels[handle.index()] == scope.level
            && let Some(&first) = self.foreseen.uniform.get(&(mask, vector))
        {
            return self.value(to, if first { a } else { b }, vector);
        }
        let vector = if self.foreseen.shared[handle.index()] { 0 } else { vector };
        let place = |handles: &[Handle<Expr>]| {
            handles.iter().position(|&other| other == handle).expect("what inner levels use is kept")
        };
        match self.levels[handle.index()] {
            level if level == scope.level => {}
            Level::Kernel => return Source::Memory(Memory::frame(self.kept[&handle]).splat()),
            Level::Row => {
                let (lead, handles) = scope.rows.expect("rows come before elements");
                return Source::Memory(lead.at(scope.row, 4 * place(handles)).splat());
            }
            Level::Column => {
                let (room, handles) = scope.columns.expect("columns come before elements");
                let at = (place(handles) * self.tiles + vector) * VECTOR;
                return Source::Memory(Memory::frame(room).ahead(at));
            }
            Level::Element => unreachable!("no outer level uses elements"),
        }
        if let Some(&source) = to.known.get(&(handle, vector)) {
            return source;
        }
        let source = self.compute(to, handle, vector);
        to.known.insert((handle, vector), source);
        source
    }

    fn compute(&mut self, to: &mut Evaluation<'_>, handle: Handle<Expr>, vector: usize) -> Source {
        match self.kernel.exprs[handle] {
            Expr::ConstF32(_) | Expr::ConstI32(_) => unreachable!("constants have no level of their own"),
            Expr::Accumulator => {
                let lead = to.scope.sums.expect("accumulators are used behind a contraction only");
                Source::Memory(lead.at(to.scope.row, vector * VECTOR))
            }
            Expr::RowIndex => to.block.splat_register(Register::R12D),
            Expr::ColumnIndex => {
                let first = to.block.load(Op::Splat, Memory::frame(self.slots.panel), super::asm::ALL);
                let lanes = std::array::from_fn(|lane| {
                    u32::try_from(vector * LANES + lane).expect("panels are narrow")
                });
                let lanes = self.asm.lanes(lanes);
                to.block.binary(Op::IAdd, first, Source::Memory(lanes))
            }
            Expr::Load(buffer, at) => self.load(to, buffer, at, vector),
            Expr::Unary(op, a) => {
                let a = self.value(to, a, vector);
                unary(&mut to.block, op, a)
            }
            Expr::Binary(op, a, b) => {
                let a = self.value(to, a, vector);
                let b = self.value(to, b, vector);
                binary(&mut to.block, op, a, b)
            }
            Expr::Select(mask, a, b) => self.select(to, [mask, a, b], vector),
        }
    }

    fn select(&mut self, to: &mut Evaluation<'_>, [mask, a, b]: [Handle<Expr>; 3], vector: usize) -> Source {
        let (a, b) = (self.value(to, a, vector), self.value(to, b, vector));
        let here = self.levels[mask.index()] == to.scope.level && !to.known.contains_key(&(mask, vector));
        if let (true, Expr::Binary(op, x, y)) = (here, self.kernel.exprs[mask])
            && let Some(condition) = condition(op)
        {
            let x = self.value(to, x, vector);
            let y = self.value(to, y, vector);
            return to.block.choose_by(condition, [x, y, a, b]);
        }
        let mask = self.value(to, mask, vector);
        to.block.choose([mask, a, b])
    }

    fn load(&mut self, to: &mut Evaluation<'_>, handle: Handle<Buffer>, at: At, vector: usize) -> Source {
        let scope = to.scope;
        let buffer = self.buffer(handle);
        if let Some(&room) = scope.gathered.get(&(handle, at)) {
            return Source::Memory(Memory::frame(room).ahead(vector * VECTOR));
        }
        let pitch = column_pitch(buffer, at);
        let from = scope.leads[&(handle, at)].at(scope.row, vector * LANES * pitch);
        if pitch == 0 {
            return match buffer.dtype {
                DType::I32 | DType::F32 => to.block.load(Op::Splat, from, super::asm::ALL),
                narrow => to.block.load_one(narrow, from),
            };
        }
        let op = match buffer.dtype {
            DType::U8 => Op::LoadU8,
            DType::I8 => Op::LoadI8,
            DType::I16 => Op::LoadI16,
            DType::I32 | DType::F32 if !scope.partial && !scope.stored.contains(&handle) => {
                return Source::Memory(from);
            }
            DType::I32 | DType::F32 => Op::Move,
        };
        if vector == 0 {
            self.prefetch_row(to, handle, at, from);
        }
        to.block.load(op, from, mask(vector, scope.partial))
    }

    /// The next panel but one begins the next line of a row, and rows lie too far apart for the hardware to foresee it.
    /// Other threads have read what updates change: to own a line takes as long as to read it, so that is asked for too.
    pub(super) fn prefetch_row(&self, to: &mut Evaluation<'_>, handle: Handle<Buffer>, at: At, from: Memory) {
        if matches!(self.buffer(handle).class, BufferClass::Param { .. }) && at == At::Element {
            to.block.prefetch(from.ahead(VECTOR), to.scope.stored.contains(&handle));
        }
    }

    /// A store of a vector of neighbouring elements.
    pub(super) fn store(&mut self, to: &mut Evaluation<'_>, store: &Store, value: Source, vector: usize) {
        let scope = to.scope;
        let buffer = self.buffer(store.buffer);
        let offset = vector * LANES * buffer.dtype.bytes();
        let place = scope.leads[&(store.buffer, store.at)].at(scope.row, offset);
        let op = match buffer.dtype {
            DType::U8 | DType::I8 => Op::Store8,
            DType::I16 => Op::Store16,
            DType::I32 | DType::F32 => Op::Store32,
        };
        let mask = mask(vector, scope.partial);
        let zeros = scope.partial
            && crate::layout::is_padded_here(buffer)
            && matches!(store.at, At::Element)
            && padded(buffer, store.at);
        if zeros {
            let value = to.block.keep(value, mask);
            return to.block.store(op, place, value, super::asm::ALL);
        }
        to.block.store(op, place, value, mask);
    }
}

fn condition(op: Binary) -> Option<Condition> {
    match op {
        Binary::FLt => Some(Condition::FLess),
        Binary::ILt => Some(Condition::ILess),
        Binary::IEq => Some(Condition::IEqual),
        _ => None,
    }
}

fn unary(block: &mut Block, op: Unary, a: Source) -> Source {
    match op {
        Unary::Sqrt => block.unary(Op::Sqrt, a),
        Unary::ToF32 => block.unary(Op::ToF32, a),
        Unary::Round => block.unary(Op::Round, a),
        Unary::Truncate => block.unary(Op::Truncate, a),
        Unary::ToBits | Unary::FromBits => a,
        Unary::Shl(by) => block.unary_by(Op::Shl, a, by),
        Unary::Shr(by) => block.unary_by(Op::Shr, a, by),
        Unary::Sar(by) => block.unary_by(Op::Sar, a, by),
        Unary::Rem(by) => block.remainder(a, by),
    }
}

fn binary(block: &mut Block, op: Binary, a: Source, b: Source) -> Source {
    if let Some(condition) = condition(op) {
        return block.compare(condition, a, b);
    }
    let (op, either) = match op {
        Binary::FAdd => (Op::FAdd, true),
        Binary::FMul => (Op::FMul, true),
        Binary::IAdd => (Op::IAdd, true),
        Binary::IMul => (Op::IMul, true),
        Binary::IMin => (Op::IMin, true),
        Binary::IMax => (Op::IMax, true),
        Binary::And => (Op::And, true),
        Binary::Xor => (Op::Xor, true),
        Binary::FSub => (Op::FSub, false),
        Binary::FDiv => (Op::FDiv, false),
        Binary::ISub => (Op::ISub, false),
        // The instruction gives its second operand where they are equal; the definition gives the first.
        Binary::FMax => return block.binary(Op::FMax, b, a),
        Binary::FMin => return block.binary(Op::FMin, b, a),
        Binary::FLt | Binary::ILt | Binary::IEq => unreachable!("conditions are dealt with above"),
    };
    // The second operand may lie in memory.
    match (a, b) {
        (Source::Memory(_), Source::Value(_)) if either => block.binary(op, b, a),
        _ => block.binary(op, a, b),
    }
}
