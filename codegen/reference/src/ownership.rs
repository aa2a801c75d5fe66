//! Checks the memory plan while a program runs.
//!
//! The executor gives every buffer memory of its own, so a plan that lets two live buffers share bytes does no harm
//! here. This makes it visible: for each cache line of the arena and of the state it notes which buffer wrote it last,
//! and refuses a kernel that reads a buffer of whose lines another one has been written since, or, in the arena, that
//! nothing has written in this step. Parameters and look-ahead accumulators share bytes with nothing, ever.

use std::ops::Range;

use ffc_ir::Handle;
use ffc_ir::kernel::{Buffer, BufferClass, Program, ROW_ALIGN};

use crate::executor::ExecError;

/// Who wrote which line last.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    arena: Vec<Option<Handle<Buffer>>>,
    state: Vec<Option<Handle<Buffer>>>,
}

/// The two places that the memory plan divides.
#[derive(Clone, Copy)]
enum Place {
    Arena,
    State,
}

impl Ownership {
    /// Checks what does not depend on the order of kernels: that buffers lie within their place and parameters apart.
    pub(crate) fn new(program: &Program) -> Result<Self, ExecError> {
        let mut ownership = Self {
            arena: vec![None; program.arena_bytes.div_ceil(ROW_ALIGN)],
            state: vec![None; program.state_bytes.div_ceil(ROW_ALIGN)],
        };
        let (lasting, passing): (Vec<_>, Vec<_>) =
            program.buffers.iter().partition(|(_, buffer)| buffer.class != BufferClass::Arena);
        for (handle, buffer) in lasting.into_iter().chain(passing) {
            let Some(place) = place(buffer) else { continue };
            let lines = lines(buffer, buffer.samples);
            let owners = ownership.owners(place);
            if !buffer.offset.is_multiple_of(ROW_ALIGN) || lines.end > owners.len() {
                return Err(ExecError::Misplaced { buffer: buffer.name.clone() });
            }
            let owners = &mut owners[lines];
            if let Some(other) = owners.iter().flatten().next() {
                return Err(overlap(program, handle, *other));
            }
            if buffer.class != BufferClass::Arena {
                owners.fill(Some(handle));
            }
        }
        Ok(ownership)
    }

    fn owners(&mut self, place: Place) -> &mut Vec<Option<Handle<Buffer>>> {
        match place {
            Place::Arena => &mut self.arena,
            Place::State => &mut self.state,
        }
    }

    /// Forgets what does not outlive a step.
    pub(crate) fn begin_step(&mut self, program: &Program) {
        for owner in &mut self.arena {
            if owner.is_some_and(|owner| program.buffers[owner].class == BufferClass::Arena) {
                *owner = None;
            }
        }
    }

    /// Notes that a buffer is written.
    pub(crate) fn write(&mut self, program: &Program, handle: Handle<Buffer>, samples: usize) {
        let buffer = &program.buffers[handle];
        if let Some(place) = place(buffer) {
            self.owners(place)[lines(buffer, samples)].fill(Some(handle));
        }
    }

    /// Checks that a buffer still holds what was written to it.
    fn read(
        &mut self,
        program: &Program,
        kernel: &str,
        handle: Handle<Buffer>,
        samples: usize,
    ) -> Result<(), ExecError> {
        let buffer = &program.buffers[handle];
        let Some(place) = place(buffer) else { return Ok(()) };
        for owner in &self.owners(place)[lines(buffer, samples)] {
            match owner {
                Some(owner) if *owner == handle => {}
                Some(owner) => {
                    return Err(ExecError::Overwritten {
                        kernel: kernel.to_string(),
                        buffer: buffer.name.clone(),
                        by: program.buffers[*owner].name.clone(),
                    });
                }
                None => {
                    return Err(ExecError::NeverWritten {
                        kernel: kernel.to_string(),
                        buffer: buffer.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks and notes what a kernel needs and writes.
    pub(crate) fn kernel(
        &mut self,
        program: &Program,
        name: &str,
        [needs, writes]: [&[Handle<Buffer>]; 2],
        samples: usize,
    ) -> Result<(), ExecError> {
        for &buffer in needs {
            self.read(program, name, buffer, samples)?;
        }
        for &buffer in writes {
            self.write(program, buffer, samples);
        }
        // Again: another buffer's elements may not be overwritten before they are read in the same kernel either.
        for &buffer in needs.iter().chain(writes) {
            self.read(program, name, buffer, samples)?;
        }
        Ok(())
    }
}

fn place(buffer: &Buffer) -> Option<Place> {
    match buffer.class {
        BufferClass::Arena | BufferClass::Accumulator => Some(Place::Arena),
        BufferClass::Param { .. } => Some(Place::State),
        _ => None,
    }
}

/// The cache lines that a buffer takes up for a batch.
fn lines(buffer: &Buffer, samples: usize) -> Range<usize> {
    let elements = buffer.shape[0].size(samples) * buffer.stride();
    let first = buffer.offset / ROW_ALIGN;
    first..first + (elements * buffer.dtype.bytes()).div_ceil(ROW_ALIGN)
}

fn overlap(program: &Program, buffer: Handle<Buffer>, other: Handle<Buffer>) -> ExecError {
    ExecError::Overlap {
        buffer: program.buffers[buffer].name.clone(),
        other: program.buffers[other].name.clone(),
    }
}
