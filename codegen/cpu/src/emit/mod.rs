//! A kernel as one function of Cranelift's IR.
//!
//! The kernel IR says what happens to each element; here it becomes loops. Expressions are evaluated where they change:
//! once per call, once per row, or for a block of [`Machine::lanes`] neighbouring columns at a time. Every value of the
//! last kind is one vector (a scalar where the machine has no vectors), so all arithmetic is written once for scalars
//! and vectors in `expr`, all memory accesses in `memory`, reductions in `reduce`, contractions in `tile`, and `nest`
//! holds the loops around them. `gather` has what is about images.

mod expr;
mod flow;
mod gather;
mod memory;
mod nest;
mod padding;
mod reduce;
mod tile;

use cranelift_codegen::ir::{
    AbiParam, Endianness, Function, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData,
    StackSlotKind, Type, UserFuncName, Value, types,
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use ffc_ir::Window;
use ffc_ir::arena::Handle;
use ffc_ir::kernel::{Buffer, Contraction, Extent, Geometry, Kernel, Kind, Level, Program};

use self::gather::{Copies, Sight, Staging};
use self::tile::Products;
use crate::check;
use crate::machine::Machine;
use crate::plan;
use crate::vex;
use crate::x86::Code;

/// A kernel's function, and the one that it calls for its contraction.
pub(crate) struct Functions {
    pub(crate) kernel: Function,
    pub(crate) contraction: Option<Code>,
}

/// The functions of a kernel.
pub(crate) fn functions(machine: &Machine, program: &Program, kernel: &Kernel) -> Result<Functions, String> {
    check::check(program, kernel)?;
    let contraction = match (machine.products, &kernel.contraction) {
        (Some(products), Some(contraction)) if !is_depthwise(contraction) => {
            let Staging { pitches, adds, .. } = Staging::new(program, contraction, vex::CHUNK);
            Some(vex::function(products, program, contraction, pitches, adds)?)
        }
        _ => None,
    };
    Ok(Functions { kernel: function(machine, program, kernel), contraction })
}

/// Whether products are not sums along rows.
fn is_depthwise(contraction: &Contraction) -> bool {
    matches!(contraction.geometry, Geometry::Depthwise(_) | Geometry::DepthwiseGrad(_))
}

fn function(machine: &Machine, program: &Program, kernel: &Kernel) -> Function {
    let mut signature = Signature::new(machine.isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 4];
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let builder = FunctionBuilder::new(&mut function, &mut context);
    let mut emitter = Emitter::new(builder, machine, program, kernel);
    emitter.nest();
    emitter.b.ins().return_(&[]);
    emitter.b.seal_all_blocks();
    emitter.b.finalize(machine.isa.frontend_config());
    function
}

/// What every part of the emitter works on.
struct Emitter<'a> {
    b: FunctionBuilder<'a>,
    machine: &'a Machine,
    program: &'a Program,
    kernel: &'a Kernel,
    levels: Vec<Level>,
    kinds: Vec<Kind>,
    /// Addresses of the buffers that the kernel uses, by their position in the program.
    pointers: Vec<Option<Value>>,
    samples: Value,
    /// First row of the call.
    first: Value,
    /// End of the rows of the call.
    end: Value,
    /// Columns of the domain.
    columns: Size,
    /// Who computes accumulators, unless tiles do.
    products: Option<Products>,
    /// How operands come to be multiplied, where there is a contraction.
    staging: Option<Staging>,
    /// Where they are copied to.
    copies: Option<Copies>,
    /// Quotients of row numbers that have been computed: dividend, rows ahead of it, divisor.
    quotients: Vec<((Value, usize, usize), Value)>,
    /// What rows see, as far as it has been computed: row, rows ahead of it, window, tap.
    sights: Vec<((Value, usize, Window, usize), Sight)>,
}

/// A size at run time, and at compile time where it is known.
#[derive(Clone, Copy)]
struct Size {
    value: Value,
    known: Option<usize>,
}

impl<'a> Emitter<'a> {
    fn new(
        mut b: FunctionBuilder<'a>,
        machine: &'a Machine,
        program: &'a Program,
        kernel: &'a Kernel,
    ) -> Self {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let &[table, samples, first, end] = b.block_params(entry) else {
            unreachable!("kernels take 4 arguments")
        };
        let pointers = load_pointers(&mut b, table, program, kernel);
        let columns = size(&mut b, samples, kernel.columns);
        let chunk = if machine.products.is_some() { vex::CHUNK } else { nest::CHUNK };
        let staging = kernel.contraction.as_ref().map(|it| Staging::new(program, it, chunk));
        Self {
            b,
            machine,
            program,
            kernel,
            levels: plan::levels(kernel),
            kinds: kernel.kinds(&program.buffers),
            pointers,
            samples,
            first,
            end,
            columns,
            products: None,
            staging,
            copies: None,
            quotients: Vec::new(),
            sights: Vec::new(),
        }
    }

    /// Room on the stack.
    fn room(&mut self, bytes: usize) -> StackSlot {
        let size = u32::try_from(bytes).expect("slots are small");
        self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4))
    }

    fn lanes(&self) -> usize {
        self.machine.lanes
    }

    fn buffer(&self, handle: Handle<Buffer>) -> &'a Buffer {
        &self.program.buffers[handle]
    }

    fn pointer(&self, handle: Handle<Buffer>) -> Value {
        self.pointers[handle.index()]
            .expect("pointers of all buffers that the kernel uses are loaded on entry")
    }

    fn size(&mut self, extent: Extent) -> Size {
        size(&mut self.b, self.samples, extent)
    }

    fn int(&mut self, value: usize) -> Value {
        let value = i64::try_from(value).expect("sizes fit in memory");
        self.b.ins().iconst(types::I64, value)
    }

    /// The type of an expression of this kind for one element, or for a block.
    fn ty(&self, kind: Kind, wide: bool) -> Type {
        match (kind, wide) {
            (Kind::Int, false) => types::I32,
            (Kind::Float, false) => types::F32,
            (Kind::Int, true) => types::I32X4,
            (Kind::Float, true) => types::F32X4,
        }
    }

    /// The same bits as another type.
    fn cast(&mut self, ty: Type, value: Value) -> Value {
        if self.b.func.dfg.value_type(value) == ty {
            return value;
        }
        // Only the order of lanes depends on this: all our machines are little-endian.
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(ty, flags, value)
    }

    /// A vector constant by its bytes.
    fn vector(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let constant = self.b.func.dfg.constants.insert(bytes.as_slice().into());
        self.b.ins().vconst(ty, constant)
    }

    /// A vector constant of four 32-bit words.
    fn words(&mut self, ty: Type, words: [u32; 4]) -> Value {
        let mut bytes = [0; 16];
        for (word, bytes) in words.into_iter().zip(bytes.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.vector(ty, bytes)
    }
}

/// Flags of loads and stores: they do not trap.
fn memory_flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

fn load_pointers(
    b: &mut FunctionBuilder,
    table: Value,
    program: &Program,
    kernel: &Kernel,
) -> Vec<Option<Value>> {
    let mut pointers = vec![None; program.buffers.len()];
    for handle in kernel.reads().into_iter().chain(kernel.writes()) {
        let offset = i32::try_from(8 * handle.index()).expect("the table of buffers is small");
        let pointer = &mut pointers[handle.index()];
        pointer.get_or_insert_with(|| b.ins().load(types::I64, memory_flags().with_aligned(), table, offset));
    }
    pointers
}

fn size(b: &mut FunctionBuilder, samples: Value, extent: Extent) -> Size {
    let constant = |b: &mut FunctionBuilder, size: usize| {
        b.ins().iconst(types::I64, i64::try_from(size).expect("sizes fit in memory"))
    };
    match extent {
        Extent::Rows(1) => Size { value: samples, known: None },
        Extent::Rows(per_sample) => {
            let per_sample = constant(b, per_sample);
            Size { value: b.ins().imul(samples, per_sample), known: None }
        }
        Extent::Const(size) => Size { value: constant(b, size), known: Some(size) },
    }
}
