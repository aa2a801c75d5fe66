//! An artifact brought to life: its code mapped, its memory laid out, its schedules ready to run.
//!
//! Everything is allocated here once. A run only patches the addresses of what the caller brings into the table of
//! buffers and calls the kernels of a schedule in order, the parallel ones from all threads, each with rows of its own.

use std::ptr;

use crate::artifact::{Artifact, Buffer, Element, Place, Purpose};
use crate::code::{KernelFn, MappedCode};
use crate::memory::{ALIGN, AlignedBytes};
use crate::pool::{Pool, pieces};
use crate::session::Samples;
use crate::{Cpu, LoadError};

/// Microkernels that code may call by name. Code generators inline theirs so far.
const MICROKERNELS: [&str; 0] = [];

/// The lines of the session's own numbers.
const RATE: usize = 0;
const LAMBDA: usize = 1;
const KEY: usize = 2;
const LOSSES: usize = 3;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Machine {
    program: Artifact,
    /// Name of the variant that is mapped.
    variant: String,
    kernels: Vec<KernelFn>,
    /// The address of each buffer.
    table: Table,
    /// Buffers of the caller's, whose addresses change with each run.
    external: Vec<(usize, Place)>,
    pool: Pool,
    state: AlignedBytes,
    arena: AlignedBytes,
    /// One line of [`ALIGN`] bytes for each number of the session's own.
    controls: AlignedBytes,
    /// Holds the pages that `kernels` point into.
    _code: MappedCode,
}

#[derive(Debug)]
struct Table(Vec<*mut u8>);

// SAFETY: between runs the addresses lead into memory that the machine owns and that moves with it, or are null.
unsafe impl Send for Table {}
// SAFETY: a shared reference to a machine reads and writes through none of them.
unsafe impl Sync for Table {}

/// What the caller brings to a run.
pub(crate) struct Batch<'a> {
    pub(crate) samples: usize,
    pub(crate) inputs: Samples<'a>,
    /// One for each sample, or none where the schedule reads none.
    pub(crate) labels: &'a [i32],
    /// Room for the scores of each sample, or none where the schedule gives none.
    pub(crate) scores: &'a mut [f32],
}

/// What the session sets for a step.
pub(crate) struct Controls {
    pub(crate) rate: f32,
    pub(crate) lambda: f32,
    pub(crate) key: u32,
}

impl Machine {
    /// Validates the artifact, maps the best code that `cpu` runs and allocates all memory, zeroed.
    pub(crate) fn new(mut program: Artifact, cpu: &Cpu, threads: usize) -> Result<Self, LoadError> {
        program.validate()?;
        if let Some(missing) = program.imports.iter().find(|name| !MICROKERNELS.contains(&name.as_str())) {
            return Err(LoadError::Microkernel(missing.clone()));
        }
        let runnable = cpu.choose(&program.architecture, &program.variants)?;
        let code = MappedCode::new(&runnable)?;
        let kernels = runnable.variant().entries.iter().map(|&entry| code.kernel(entry)).collect();
        let variant = runnable.variant().name.clone();
        program.variants.iter_mut().for_each(|variant| variant.code = Vec::new());
        let state = AlignedBytes::new(program.state_bytes)?;
        let arena = AlignedBytes::new(program.arena_bytes)?;
        let controls = AlignedBytes::new((LOSSES + program.trained_layers.len()) * ALIGN)?;
        let address = |buffer: &Buffer| match buffer.place {
            Place::Arena(offset) => arena.as_ptr().wrapping_add(offset),
            Place::State(offset) => state.as_ptr().wrapping_add(offset),
            Place::Rate => controls.as_ptr().wrapping_add(RATE * ALIGN),
            Place::Lambda => controls.as_ptr().wrapping_add(LAMBDA * ALIGN),
            Place::Key => controls.as_ptr().wrapping_add(KEY * ALIGN),
            Place::Loss(layer) => controls.as_ptr().wrapping_add((LOSSES + layer) * ALIGN),
            Place::Input | Place::Labels | Place::Scores => ptr::null_mut(),
        };
        let table = Table(program.buffers.iter().map(address).collect());
        let places = program.buffers.iter().map(|buffer| buffer.place).enumerate();
        let external = places
            .filter(|(_, place)| matches!(place, Place::Input | Place::Labels | Place::Scores))
            .collect();
        // Last, so that its threads fetch instructions only after the code has been published.
        let pool = Pool::new(threads).map_err(LoadError::Thread)?;
        Ok(Self { program, variant, kernels, table, external, pool, state, arena, controls, _code: code })
    }

    /// The description, without the code.
    pub(crate) fn program(&self) -> &Artifact {
        &self.program
    }

    /// The name of the variant of the code that runs.
    pub(crate) fn variant(&self) -> &str {
        &self.variant
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }

    pub(crate) fn state(&self) -> &[u8] {
        self.state.as_slice()
    }

    /// The description, and the state to change.
    pub(crate) fn state_mut(&mut self) -> (&Artifact, &mut [u8]) {
        (&self.program, self.state.as_mut_slice())
    }

    pub(crate) fn state_bytes(&self) -> usize {
        self.state.len()
    }

    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Sets the numbers of a step, and all losses to 0.
    pub(crate) fn set_controls(&mut self, controls: &Controls) {
        let lines = self.controls.as_mut_slice();
        lines[LOSSES * ALIGN..].fill(0);
        let values = [controls.rate.to_le_bytes(), controls.lambda.to_le_bytes(), controls.key.to_le_bytes()];
        for (line, value) in [RATE, LAMBDA, KEY].into_iter().zip(values) {
            lines[line * ALIGN..][..4].copy_from_slice(&value);
        }
    }

    /// The loss of a trained layer, summed over the rows of the last step.
    pub(crate) fn loss(&self, layer: usize) -> f32 {
        let line = &self.controls.as_slice()[(LOSSES + layer) * ALIGN..];
        f32::from_le_bytes([line[0], line[1], line[2], line[3]])
    }

    /// Whether the program has a schedule for this.
    pub(crate) fn has(&self, purpose: Purpose) -> bool {
        self.program.schedules.iter().any(|schedule| schedule.purpose == purpose)
    }

    /// Runs the schedule for `purpose`; nothing where there is none. Tells `after` each kernel that has run, by its
    /// position in [`Artifact::kernels`]. Allocates nothing.
    ///
    /// # Panics
    /// If the batch is not as the schedule needs it; the session has checked that.
    pub(crate) fn run(&mut self, purpose: Purpose, mut batch: Batch<'_>, after: &mut dyn FnMut(usize)) {
        self.check(purpose, &batch);
        self.bind(&mut batch);
        let schedule = self.program.schedules.iter().find(|schedule| schedule.purpose == purpose);
        for &number in schedule.map_or(&[][..], |schedule| &schedule.kernels) {
            let (entry, kernel) = (self.kernels[number], &self.program.kernels[number]);
            let rows = kernel.rows.size(batch.samples).expect("validated for the largest batch");
            let threads = if kernel.parallel { self.pool.threads() } else { 1 };
            let (table, pieces) = (&self.table, pieces(rows, threads));
            self.pool.run(pieces.clone().count(), &|piece| {
                call(entry, table, batch.samples, pieces.clone().nth(piece).expect("one of those"));
            });
            after(number);
        }
        self.external.iter().for_each(|(buffer, _)| self.table.0[*buffer] = ptr::null_mut());
    }

    fn check(&self, purpose: Purpose, batch: &Batch<'_>) {
        let Artifact { features, classes, input, .. } = self.program;
        let (most, labels, scores) = match purpose {
            Purpose::Infer => (self.program.infer_batch, 0, batch.samples * classes),
            _ => (self.program.batch, batch.samples, 0),
        };
        assert!((1..=most).contains(&batch.samples), "the batch has a size that the program is made for");
        assert!(
            batch.inputs.element() == input && batch.inputs.len() == batch.samples * features,
            "inputs fit"
        );
        assert!(batch.labels.len() == labels && batch.scores.len() == scores, "labels and scores fit");
    }

    /// Puts the addresses of what the caller brings into the table.
    fn bind(&mut self, batch: &mut Batch<'_>) {
        for (buffer, place) in &self.external {
            self.table.0[*buffer] = match place {
                Place::Input => batch.inputs.as_ptr().cast_mut(),
                Place::Labels if !batch.labels.is_empty() => batch.labels.as_ptr().cast_mut().cast(),
                Place::Scores if !batch.scores.is_empty() => batch.scores.as_mut_ptr().cast(),
                _ => ptr::null_mut(),
            };
        }
    }
}

/// Calls a kernel for these rows, if there are any.
fn call(kernel: KernelFn, table: &Table, samples: usize, rows: std::ops::Range<usize>) {
    if rows.is_empty() {
        return;
    }
    // SAFETY: the pages are mapped as long as the machine lives, for this processor (`Runnable`). The table
    // leads to one buffer each, as large as its description says for up to the batch at hand (`validate`, `check`),
    // zeroed or written since, and while a run lasts the machine is borrowed mutably, so no reference to that memory is
    // in use; inputs and labels are only read. Calls at the same time cover different rows of one kernel, which by the
    // calling convention write different memory. That the code keeps to the convention is trusted: loading an artifact
    // is running code.
    unsafe { kernel(table.0.as_ptr(), samples, rows.start, rows.end) }
}

impl Samples<'_> {
    /// Element type.
    pub(crate) fn element(&self) -> Element {
        match self {
            Self::U8(_) => Element::U8,
            Self::F32(_) => Element::F32,
        }
    }

    fn as_ptr(&self) -> *const u8 {
        match self {
            Self::U8(numbers) => numbers.as_ptr(),
            Self::F32(numbers) => numbers.as_ptr().cast(),
        }
    }
}
