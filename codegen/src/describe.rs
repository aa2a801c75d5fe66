//! Everything in an artifact but its code.

use ffc_ir::kernel::{self, BufferClass, Plane, Program};
use ffc_ir::module::{self, Control};
use ffc_ir::types::DType;
use ffc_runtime::artifact::{self, Artifact, Place, Storage};

use crate::Architecture;

/// Kernels below this many elements of output (accumulations counted) are not worth dividing among threads.
const PARALLEL_WORK: usize = 1 << 16;

/// The artifact of a placed program, still without code.
pub(crate) fn describe(program: &Program, architecture: Architecture) -> Artifact {
    Artifact {
        name: program.name.clone(),
        architecture: architecture.name().to_string(),
        batch: program.batch,
        infer_batch: program.infer_batch,
        features: program.features,
        input: element(program.input),
        classes: program.classes,
        trained_layers: program.trained_layers.clone(),
        params: program
            .params
            .iter()
            .enumerate()
            .map(|(index, param)| describe_param(program, index, param))
            .collect(),
        buffers: program.buffers.values().map(describe_buffer).collect(),
        kernels: program.kernels.values().map(|kernel| describe_kernel(program, kernel)).collect(),
        schedules: program.schedules.iter().map(describe_schedule).collect(),
        arena_bytes: program.arena_bytes,
        state_bytes: program.state_bytes,
        imports: Vec::new(),
        variants: Vec::new(),
    }
}

fn element(dtype: DType) -> artifact::Element {
    match dtype {
        DType::U8 => artifact::Element::U8,
        DType::I8 => artifact::Element::I8,
        DType::I16 => artifact::Element::I16,
        DType::I32 => artifact::Element::I32,
        DType::F32 => artifact::Element::F32,
    }
}

fn extent(extent: kernel::Extent) -> artifact::Extent {
    match extent {
        kernel::Extent::Rows(n) => artifact::Extent::Rows(n),
        kernel::Extent::Const(n) => artifact::Extent::Const(n),
    }
}

fn describe_buffer(buffer: &kernel::Buffer) -> artifact::Buffer {
    let place = match buffer.class {
        BufferClass::Input => Place::Input,
        BufferClass::Labels => Place::Labels,
        BufferClass::Scores => Place::Scores,
        BufferClass::Control(Control::Rate) => Place::Rate,
        BufferClass::Control(Control::Lambda) => Place::Lambda,
        BufferClass::Key => Place::Key,
        BufferClass::Loss(layer) => Place::Loss(layer),
        BufferClass::Param { .. } => Place::State(buffer.offset),
        BufferClass::Arena | BufferClass::Accumulator => Place::Arena(buffer.offset),
    };
    artifact::Buffer {
        name: buffer.name.clone(),
        element: element(buffer.dtype),
        rows: extent(buffer.shape[0]),
        columns: extent(buffer.shape[1]),
        stride: buffer.stride(),
        bytes: buffer.bytes(),
        place,
    }
}

fn describe_param(program: &Program, index: usize, param: &module::Param) -> artifact::Param {
    let plane = |wanted: Plane| {
        let class = BufferClass::Param { param: index, plane: wanted };
        program
            .buffers
            .find(|buffer| buffer.class == class)
            .expect("lowering makes every plane of a parameter")
            .index()
    };
    let storage = match param.storage {
        module::ParamStorage::Fixed16(_) => {
            Storage::Fixed16 { high: plane(Plane::Value), low: plane(Plane::Low), scale: plane(Plane::Scale) }
        }
        module::ParamStorage::F32 | module::ParamStorage::I8 | module::ParamStorage::I16 => {
            Storage::Plain { value: plane(Plane::Value) }
        }
    };
    let role = match param.role {
        module::ParamRole::Weight => artifact::ParamRole::Weight,
        module::ParamRole::Bias => artifact::ParamRole::Bias,
        module::ParamRole::Head(_) => artifact::ParamRole::Head,
        module::ParamRole::Range(_) => artifact::ParamRole::Range,
        module::ParamRole::Velocity => artifact::ParamRole::Velocity,
        module::ParamRole::Groups | module::ParamRole::Constant => artifact::ParamRole::Constant,
    };
    artifact::Param { name: param.name.clone(), shape: param.shape, role, storage }
}

fn describe_kernel(program: &Program, kernel: &kernel::Kernel) -> artifact::Kernel {
    let depth = kernel.contraction.map_or(1, |contraction| contraction.depth.size(program.batch));
    let work = kernel.rows.size(program.batch) * kernel.columns.size(program.batch) * depth;
    artifact::Kernel { name: kernel.name.clone(), rows: extent(kernel.rows), parallel: work >= PARALLEL_WORK }
}

fn describe_schedule(schedule: &kernel::Schedule) -> artifact::Schedule {
    let purpose = match schedule.purpose {
        kernel::Purpose::Calibrate => artifact::Purpose::Calibrate,
        kernel::Purpose::Train => artifact::Purpose::Train,
        kernel::Purpose::TrainLayer(layer) => artifact::Purpose::TrainLayer(layer),
        kernel::Purpose::Infer => artifact::Purpose::Infer,
    };
    artifact::Schedule { purpose, kernels: schedule.kernels.iter().map(|kernel| kernel.index()).collect() }
}
