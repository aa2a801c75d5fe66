//! The executor: a program, its memory, and one step after another.

use ffc_ir::Handle;
use ffc_ir::kernel::{Buffer, BufferClass, Extent, Kernel, Program, Purpose};
use ffc_ir::module::Control;
use ffc_ir::numerics::Number;
use ffc_ir::types::DType;
use thiserror::Error;

use crate::check;
use crate::memory::{Memory, Values};
use crate::ownership::Ownership;
use crate::plan::KernelPlan;
use crate::rows::Scratch;

/// Runs a program and owns all of its memory.
#[derive(Clone, Debug)]
pub struct Executor {
    pub(crate) program: Program,
    pub(crate) memory: Memory,
    plans: Vec<KernelPlan>,
    /// Why the program cannot run, if it cannot.
    malformed: Option<String>,
    scratch: Scratch,
    ownership: Option<Ownership>,
    /// Samples of the last step, and the kernels that it ran.
    last: Option<(usize, Vec<Handle<Kernel>>)>,
}

/// What a step is given.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Features of all samples, one sample after the other.
    pub samples: Samples<'a>,
    /// True classes; may be empty where nothing reads them.
    pub labels: &'a [i32],
}

/// Raw samples.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// Bytes.
    U8(&'a [u8]),
    /// Single precision.
    F32(&'a [f32]),
}

/// What the session sets between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Controls {
    /// Learning rate divided by the samples really in the batch.
    pub rate: f32,
    /// The weight of later layers' errors.
    pub lambda: f32,
    /// [`step_key`](ffc_ir::numerics::step_key) of the step.
    pub key: u32,
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExecError {
    /// The program breaks a rule of the kernel IR.
    #[error("malformed program: {0}")]
    Malformed(String),
    /// The program has no schedule for this.
    #[error("the program has no schedule `{0}`")]
    NoSchedule(Purpose),
    /// No parameter has this name.
    #[error("the program has no parameter `{0}`")]
    NoParam(String),
    /// Samples, labels or values are of the wrong number.
    #[error("`{what}` has {found} elements, not {expected}")]
    Length {
        /// What was given.
        what: String,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Values are of another type than the buffer.
    #[error("`{buffer}` holds {expected}, not {found}")]
    Type {
        /// The buffer.
        buffer: String,
        /// What it holds.
        expected: DType,
        /// What was given or asked for.
        found: DType,
    },
    /// The batch is empty or too large for a buffer.
    #[error("{samples} samples in a batch: `{buffer}` has room for 1 to {room}")]
    Samples {
        /// How many were given.
        samples: usize,
        /// The buffer.
        buffer: String,
        /// How many it takes.
        room: usize,
    },
    /// The memory plan puts a buffer outside its place or off the alignment.
    #[error("`{buffer}` does not lie within its memory")]
    Misplaced {
        /// The buffer.
        buffer: String,
    },
    /// The memory plan puts something in the bytes of a parameter or a look-ahead accumulator.
    #[error("`{buffer}` and `{other}` share bytes")]
    Overlap {
        /// One buffer.
        buffer: String,
        /// The other.
        other: String,
    },
    /// A buffer's bytes were given to another one while they were needed.
    #[error("kernel `{kernel}` needs `{buffer}`, whose bytes `{by}` has overwritten")]
    Overwritten {
        /// The kernel.
        kernel: String,
        /// What it needs.
        buffer: String,
        /// What is there instead.
        by: String,
    },
    /// A buffer of the arena is read before anything in this step has written it.
    #[error("kernel `{kernel}` reads `{buffer}`, which nothing has written in this step")]
    NeverWritten {
        /// The kernel.
        kernel: String,
        /// What it reads.
        buffer: String,
    },
}

impl Executor {
    /// An executor whose memory is all zeros. Whether the program is well formed is found here and reported by the
    /// first run.
    pub fn new(program: Program) -> Self {
        let malformed = check::verify_structure(&program).err();
        let plans = match malformed {
            None => program.kernels.values().map(|k| KernelPlan::new(k, &program.buffers)).collect(),
            Some(_) => Vec::new(),
        };
        Self {
            memory: Memory::new(&program.buffers),
            program,
            plans,
            malformed,
            scratch: Scratch::default(),
            ownership: None,
            last: None,
        }
    }

    /// With `on`, from now on every kernel is checked against the memory plan: it fails where a buffer it needs has
    /// been overwritten by another one at the same offset. Values are the same in both modes.
    ///
    /// # Errors
    /// When the plan is wrong whatever the order of kernels.
    pub fn with_arena(mut self, on: bool) -> Result<Self, ExecError> {
        self.ownership = if on { Some(Ownership::new(&self.program)?) } else { None };
        Ok(self)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Runs the schedule for a purpose on one batch.
    ///
    /// # Errors
    /// When there is no such schedule, or the inputs do not fit it.
    pub fn run(&mut self, purpose: Purpose, inputs: Inputs<'_>, controls: Controls) -> Result<(), ExecError> {
        self.well_formed()?;
        let schedule = self.program.schedules.iter().find(|schedule| schedule.purpose == purpose);
        let kernels = schedule.ok_or(ExecError::NoSchedule(purpose))?.kernels.clone();
        let samples = self.feed(&kernels, inputs, controls)?;
        if let Some(ownership) = &mut self.ownership {
            ownership.begin_step(&self.program);
        }
        for &kernel in &kernels {
            self.run_kernel(kernel, samples)?;
        }
        self.last = Some((samples, kernels));
        Ok(())
    }

    /// Runs one kernel on what is in the buffers, for a batch of `samples`.
    ///
    /// # Errors
    /// When a buffer has no room for so many samples, or the memory plan is found wrong.
    pub fn run_kernel(&mut self, kernel: Handle<Kernel>, samples: usize) -> Result<(), ExecError> {
        self.well_formed()?;
        let plan = &self.plans[kernel.index()];
        for &buffer in plan.reads.iter().chain(&plan.writes) {
            has_room(&self.program.buffers[buffer], samples)?;
        }
        if let Some(ownership) = &mut self.ownership {
            let name = &self.program.kernels[kernel].name;
            ownership.kernel(&self.program, name, [&plan.needs, &plan.writes], samples)?;
        }
        self.scratch.run(&mut self.memory, plan, samples);
        Ok(())
    }

    fn well_formed(&self) -> Result<(), ExecError> {
        self.malformed.clone().map_or(Ok(()), |reason| Err(ExecError::Malformed(reason)))
    }

    /// Sets the inputs that the kernels read; gives the number of samples.
    fn feed(
        &mut self,
        kernels: &[Handle<Kernel>],
        inputs: Inputs<'_>,
        controls: Controls,
    ) -> Result<usize, ExecError> {
        let given = match inputs.samples {
            Samples::U8(values) => values.len(),
            Samples::F32(values) => values.len(),
        };
        let samples = given / self.program.features.max(1);
        length("samples", samples * self.program.features, given)?;
        if !inputs.labels.is_empty() {
            length("labels", samples, inputs.labels.len())?;
        }
        for buffer in kernels.iter().flat_map(|kernel| &self.plans[kernel.index()].reads) {
            let described = &self.program.buffers[*buffer];
            has_room(described, samples)?;
            let data = self.memory.data_mut(*buffer);
            match described.class {
                BufferClass::Input => set_samples(&described.name, data, inputs.samples)?,
                BufferClass::Labels => {
                    length("labels", samples, inputs.labels.len())?;
                    for (index, &label) in inputs.labels.iter().enumerate() {
                        data.set(index, Number::I32(label));
                    }
                }
                BufferClass::Control(Control::Rate) => data.set(0, Number::F32(controls.rate)),
                BufferClass::Control(Control::Lambda) => data.set(0, Number::F32(controls.lambda)),
                BufferClass::Key => data.set(0, Number::I32(controls.key as i32)),
                BufferClass::Scores
                | BufferClass::Loss(_)
                | BufferClass::Param { .. }
                | BufferClass::Arena
                | BufferClass::Accumulator => {}
            }
        }
        Ok(samples)
    }

    /// The scores that the last run gave, row by row; empty where it gave none.
    pub fn scores(&self) -> Vec<f32> {
        let Some((samples, _)) = &self.last else { return Vec::new() };
        let scores = self.last_written(|class| class == BufferClass::Scores);
        scores.and_then(|scores| self.floats_for(scores, *samples).ok()).unwrap_or_default()
    }

    /// The losses that the last run gave: one for each trained layer, 0 where it gave none.
    pub fn losses(&self) -> Vec<f32> {
        let loss = |layer| {
            let buffer = self.last_written(|class| class == BufferClass::Loss(layer));
            buffer.map_or(0.0, |buffer| self.memory.data(buffer).get(0).as_f32())
        };
        (0..self.program.trained_layers.len()).map(loss).collect()
    }

    fn last_written(&self, wanted: impl Fn(BufferClass) -> bool) -> Option<Handle<Buffer>> {
        let (_, kernels) = self.last.as_ref()?;
        let writes = kernels.iter().flat_map(|kernel| &self.plans[kernel.index()].writes);
        writes.copied().find(|buffer| wanted(self.program.buffers[*buffer].class))
    }

    /// A copy of a buffer's elements for the most samples, without padding.
    pub fn buffer(&self, buffer: Handle<Buffer>) -> Values {
        self.buffer_for(buffer, self.program.buffers[buffer].samples)
    }

    /// A copy of a buffer's elements for a batch of `samples`, without padding.
    pub fn buffer_for(&self, buffer: Handle<Buffer>, samples: usize) -> Values {
        let [rows, columns] = self.program.buffers[buffer].shape.map(|extent| extent.size(samples));
        self.memory.data(buffer).without_padding(rows, columns, self.memory.stride(buffer))
    }

    /// A copy of an `f32` buffer for the most samples, without padding.
    ///
    /// # Errors
    /// When it holds integers.
    pub fn buffer_f32(&self, buffer: Handle<Buffer>) -> Result<Vec<f32>, ExecError> {
        self.floats_for(buffer, self.program.buffers[buffer].samples)
    }

    fn floats_for(&self, buffer: Handle<Buffer>, samples: usize) -> Result<Vec<f32>, ExecError> {
        match self.buffer_for(buffer, samples) {
            Values::F32(values) => Ok(values),
            _ => Err(self.wrong_type(buffer, DType::F32)),
        }
    }

    /// A copy of an integer buffer of any width for the most samples, without padding.
    ///
    /// # Errors
    /// When it holds floats.
    pub fn buffer_i32(&self, buffer: Handle<Buffer>) -> Result<Vec<i32>, ExecError> {
        match self.buffer(buffer) {
            Values::F32(_) => Err(self.wrong_type(buffer, DType::I32)),
            values => Ok((0..values.len()).map(|index| values.get(index).as_i32()).collect()),
        }
    }

    /// Sets all elements of a buffer, for the most samples; the padding becomes zeros.
    ///
    /// # Errors
    /// When the values are of another type or number.
    pub fn set_buffer(&mut self, buffer: Handle<Buffer>, values: &Values) -> Result<(), ExecError> {
        let described = &self.program.buffers[buffer];
        if values.dtype() != described.dtype {
            return Err(self.wrong_type(buffer, values.dtype()));
        }
        let [rows, columns] = described.shape.map(|extent| extent.size(described.samples));
        length(&described.name, rows * columns, values.len())?;
        let stride = self.memory.stride(buffer);
        let data = self.memory.data_mut(buffer);
        *data = Values::zeros(data.dtype(), data.len());
        for index in 0..values.len() {
            data.set(index / columns * stride + index % columns, values.get(index));
        }
        self.note_write(buffer);
        Ok(())
    }

    /// [`set_buffer`](Self::set_buffer) of an `f32` buffer.
    ///
    /// # Errors
    /// When it holds integers, or the values are of another number.
    pub fn set_buffer_f32(&mut self, buffer: Handle<Buffer>, values: &[f32]) -> Result<(), ExecError> {
        self.set_buffer(buffer, &Values::F32(values.to_vec()))
    }

    /// [`set_buffer`](Self::set_buffer) of an integer buffer of any width; values are truncated to it.
    ///
    /// # Errors
    /// When it holds floats, or the values are of another number.
    pub fn set_buffer_i32(&mut self, buffer: Handle<Buffer>, values: &[i32]) -> Result<(), ExecError> {
        let dtype = self.program.buffers[buffer].dtype;
        if dtype == DType::F32 {
            return Err(self.wrong_type(buffer, DType::I32));
        }
        let mut narrow = Values::zeros(dtype, values.len());
        for (index, &value) in values.iter().enumerate() {
            narrow.set(index, Number::I32(value));
        }
        self.set_buffer(buffer, &narrow)
    }

    /// A buffer as it lies in memory, rows padded to their stride.
    pub fn raw(&self, buffer: Handle<Buffer>) -> &Values {
        self.memory.data(buffer)
    }

    /// Sets a buffer as it lies in memory.
    ///
    /// # Errors
    /// When the values are of another type or number.
    pub fn set_raw(&mut self, buffer: Handle<Buffer>, values: Values) -> Result<(), ExecError> {
        let data = self.memory.data_mut(buffer);
        if values.dtype() != data.dtype() {
            return Err(self.wrong_type(buffer, values.dtype()));
        }
        length(&self.program.buffers[buffer].name, data.len(), values.len())?;
        *data = values;
        self.note_write(buffer);
        Ok(())
    }

    fn note_write(&mut self, buffer: Handle<Buffer>) {
        if let Some(ownership) = &mut self.ownership {
            ownership.write(&self.program, buffer, self.program.buffers[buffer].samples);
        }
    }

    fn wrong_type(&self, buffer: Handle<Buffer>, found: DType) -> ExecError {
        let buffer = &self.program.buffers[buffer];
        ExecError::Type { buffer: buffer.name.clone(), expected: buffer.dtype, found }
    }
}

pub(crate) fn length(what: &str, expected: usize, found: usize) -> Result<(), ExecError> {
    if expected == found {
        Ok(())
    } else {
        Err(ExecError::Length { what: what.to_string(), expected, found })
    }
}

fn has_room(buffer: &Buffer, samples: usize) -> Result<(), ExecError> {
    let varies = buffer.shape.iter().any(|extent| matches!(extent, Extent::Rows(_)));
    if samples == 0 || (varies && samples > buffer.samples) {
        return Err(ExecError::Samples { samples, buffer: buffer.name.clone(), room: buffer.samples });
    }
    Ok(())
}

fn set_samples(name: &str, data: &mut Values, samples: Samples<'_>) -> Result<(), ExecError> {
    let wrong = |expected, found| Err(ExecError::Type { buffer: name.to_string(), expected, found });
    match (data, samples) {
        (Values::U8(data), Samples::U8(samples)) => data[..samples.len()].copy_from_slice(samples),
        (Values::F32(data), Samples::F32(samples)) => data[..samples.len()].copy_from_slice(samples),
        (data, Samples::U8(_)) => return wrong(data.dtype(), DType::U8),
        (data, Samples::F32(_)) => return wrong(data.dtype(), DType::F32),
    }
    Ok(())
}
