//! Functions and data of an object, and how one writes them: arguments, loops, refusals, calls.
//!
//! [`Unit`] is the object while it grows; a [`Routine`] is one function of it while it is written, in Cranelift's IR.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData, Type, UserFuncName, Value, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{
    DataDescription, DataId, FuncId, Linkage, Module, ModuleError, default_libcall_names,
};
use cranelift_object::{ObjectBuilder, ObjectModule};
use ffc_codegen::CodegenError;

use super::Status;

/// Alignment of kernels and data: a cache line.
pub(super) const ALIGN: usize = 64;

/// An object that grows.
pub(super) struct Unit {
    module: ObjectModule,
    /// What the names of all its symbols begin with.
    name: String,
}

impl Unit {
    pub(super) fn new(isa: OwnedTargetIsa, name: &str) -> Result<Self, CodegenError> {
        let builder = ObjectBuilder::new(isa, name, default_libcall_names()).map_err(fault)?;
        Ok(Self { module: ObjectModule::new(builder), name: name.to_string() })
    }

    /// A function that programs call.
    pub(super) fn public(&mut self, name: &str, params: &[Type]) -> Result<FuncId, CodegenError> {
        let name = format!("{}_{name}", self.name);
        self.declare(&name, Linkage::Export, params, &[types::I32])
    }

    /// A function that only the object calls.
    pub(super) fn private(
        &mut self,
        name: &str,
        params: &[Type],
        returns: &[Type],
    ) -> Result<FuncId, CodegenError> {
        let name = format!("{}.{name}", self.name);
        self.declare(&name, Linkage::Local, params, returns)
    }

    fn declare(
        &mut self,
        name: &str,
        linkage: Linkage,
        params: &[Type],
        returns: &[Type],
    ) -> Result<FuncId, CodegenError> {
        let mut signature = self.module.make_signature();
        signature.params.extend(params.iter().copied().map(AbiParam::new));
        signature.returns.extend(returns.iter().copied().map(AbiParam::new));
        self.module.declare_function(name, linkage, &signature).map_err(fault)
    }

    /// Writes a function, whose arguments the body gets. The body ends with a return.
    pub(super) fn define<const ARGUMENTS: usize>(
        &mut self,
        function: FuncId,
        body: impl FnOnce(&mut Routine<'_>, [Value; ARGUMENTS]),
    ) -> Result<(), CodegenError> {
        let mut context = self.module.make_context();
        context.func.signature = self.module.declarations().get_function_decl(function).signature.clone();
        context.func.name = UserFuncName::user(0, function.as_u32());
        let mut scratch = FunctionBuilderContext::new();
        let b = FunctionBuilder::new(&mut context.func, &mut scratch);
        let mut routine = Routine { b, module: &mut self.module };
        let entry = routine.b.create_block();
        routine.b.append_block_params_for_function_params(entry);
        routine.b.switch_to_block(entry);
        let arguments = routine.b.block_params(entry).try_into().expect("as many as were declared");
        body(&mut routine, arguments);
        routine.b.seal_all_blocks();
        let frontend = routine.module.isa().frontend_config();
        routine.b.finalize(frontend);
        self.module.define_function(function, &mut context).map_err(fault)
    }

    /// Adds a function that is machine code already.
    pub(super) fn define_bytes(&mut self, function: FuncId, code: &[u8]) -> Result<(), CodegenError> {
        self.module.define_function_bytes(function, ALIGN as u64, code, &[]).map_err(fault)
    }

    /// Adds bytes that nobody changes.
    pub(super) fn constant(&mut self, name: &str, bytes: Vec<u8>) -> Result<DataId, CodegenError> {
        let mut data = DataDescription::new();
        data.define(bytes.into_boxed_slice());
        self.data(name, false, &mut data)
    }

    /// Adds bytes that are 0 when the program starts.
    pub(super) fn zeros(&mut self, name: &str, bytes: usize) -> Result<DataId, CodegenError> {
        let mut data = DataDescription::new();
        data.define_zeroinit(bytes);
        self.data(name, true, &mut data)
    }

    fn data(
        &mut self,
        name: &str,
        writable: bool,
        data: &mut DataDescription,
    ) -> Result<DataId, CodegenError> {
        data.set_align(ALIGN as u64);
        let name = format!("{}.{name}", self.name);
        let id = self.module.declare_data(&name, Linkage::Local, writable, false).map_err(fault)?;
        self.module.define_data(id, data).map_err(fault)?;
        Ok(id)
    }

    /// The object as a file.
    pub(super) fn finish(self) -> Result<Vec<u8>, CodegenError> {
        self.module.finish().emit().map_err(|error| refuse(format!("the object cannot be written: {error}")))
    }
}

fn fault(error: ModuleError) -> CodegenError {
    refuse(format!("the object cannot be written: {error}"))
}

/// An object that cannot be made.
pub(super) fn refuse(reason: String) -> CodegenError {
    CodegenError { kernel: None, reason }
}

/// A function of an object, while it is written.
pub(super) struct Routine<'a> {
    pub(super) b: FunctionBuilder<'a>,
    module: &'a mut ObjectModule,
}

impl Routine<'_> {
    /// A size, an offset or an address.
    pub(super) fn size(&mut self, value: usize) -> Value {
        let value = i64::try_from(value).expect("sizes fit in memory");
        self.b.ins().iconst(types::I64, value)
    }

    /// A number of 32 bits.
    pub(super) fn word(&mut self, value: u32) -> Value {
        self.b.ins().iconst(types::I32, i64::from(value))
    }

    /// An address so many bytes further.
    pub(super) fn at(&mut self, address: Value, offset: usize) -> Value {
        self.b.ins().iadd_imm_s(address, i64::try_from(offset).expect("sizes fit in memory"))
    }

    /// An address so many elements further.
    pub(super) fn element(&mut self, address: Value, index: Value, bytes: usize) -> Value {
        let offset = self.b.ins().imul_imm_s(index, i64::try_from(bytes).expect("sizes fit in memory"));
        self.b.ins().iadd(address, offset)
    }

    pub(super) fn load(&mut self, ty: Type, address: Value, offset: usize) -> Value {
        self.b.ins().load(ty, flags(), address, near(offset))
    }

    pub(super) fn store(&mut self, value: Value, address: Value, offset: usize) {
        self.b.ins().store(flags(), value, address, near(offset));
    }

    /// The address of data.
    pub(super) fn address(&mut self, data: DataId) -> Value {
        let data = self.module.declare_data_in_func(data, self.b.func);
        self.b.ins().symbol_value(types::I64, data)
    }

    /// Calls a function; its result, where it has one.
    pub(super) fn call(&mut self, function: FuncId, arguments: &[Value]) -> Option<Value> {
        let function = self.module.declare_func_in_func(function, self.b.func);
        let call = self.b.ins().call(function, arguments);
        self.b.inst_results(call).first().copied()
    }

    /// Calls a function that has a result.
    pub(super) fn ask(&mut self, function: FuncId, arguments: &[Value]) -> Value {
        self.call(function, arguments).expect("the function has a result")
    }

    /// Runs the body for 0, 1, ... as long as that is below `count`.
    pub(super) fn repeat(&mut self, count: Value, body: impl FnOnce(&mut Self, Value)) {
        let zero = self.size(0);
        let index = self.b.declare_var(types::I64);
        self.b.def_var(index, zero);
        let [head, inside, exit] = [(); 3].map(|()| self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let at = self.b.use_var(index);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, at, count);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        body(self, at);
        let next = self.at(at, 1);
        self.b.def_var(index, next);
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(exit);
    }

    /// Runs the body where the condition is not 0.
    pub(super) fn when(&mut self, condition: Value, body: impl FnOnce(&mut Self)) {
        let [then, exit] = [(); 2].map(|()| self.b.create_block());
        self.b.ins().brif(condition, then, &[], exit, &[]);
        self.b.switch_to_block(then);
        body(self);
        self.b.ins().jump(exit, &[]);
        self.b.switch_to_block(exit);
    }

    /// Returns a status where the condition is not 0.
    pub(super) fn refuse_when(&mut self, condition: Value, status: Status) {
        let [refusal, exit] = [(); 2].map(|()| self.b.create_block());
        self.b.ins().brif(condition, refusal, &[], exit, &[]);
        self.b.switch_to_block(refusal);
        self.finish(status);
        self.b.switch_to_block(exit);
    }

    /// Returns a status.
    pub(super) fn finish(&mut self, status: Status) {
        let status = self.word(status as u32);
        self.b.ins().return_(&[status]);
    }
}

/// Loads and stores neither trap nor need more alignment than their type has.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

fn near(offset: usize) -> i32 {
    i32::try_from(offset).expect("offsets that instructions hold are small")
}
