//! Whether an artifact's description is sound.
//!
//! The session computes addresses from the description and hands them to machine code. Whatever data can show to be
//! wrong is found here, once, so that the session indexes without fear: every position is in range, every buffer lies
//! inside its memory and holds what its shape says, every parameter is made of the planes that its storage names. What
//! the code does with the addresses, data cannot show; it is trusted.

use std::collections::HashSet;

use crate::ArtifactError;
use crate::artifact::{
    Artifact, Buffer, Element, Extent, Kernel, Param, Place, Purpose, Schedule, Storage, Variant,
};
use crate::cpu::Level;
use crate::memory::ALIGN;

/// Fails with a formatted reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)*) => {
        if !$condition {
            return Err(ArtifactError::Invalid(format!($($reason)*)));
        }
    };
}

type Checked = Result<(), ArtifactError>;

impl Artifact {
    /// Checks everything that sessions rely on, as far as data can show it.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] with the first thing that does not hold.
    pub fn validate(&self) -> Result<(), ArtifactError> {
        self.check_variants()?;
        self.check_sizes()?;
        self.buffers.iter().try_for_each(|buffer| self.check_buffer(buffer))?;
        self.check_params()?;
        self.kernels.iter().try_for_each(|kernel| self.check_kernel(kernel))?;
        self.check_schedules()
    }

    /// Most samples that any schedule sees.
    fn most_samples(&self) -> usize {
        self.batch.max(self.infer_batch)
    }

    fn check_variants(&self) -> Checked {
        let architecture = &self.architecture;
        ensure!(!Level::all(architecture).is_empty(), "unknown architecture `{architecture}`");
        ensure!(!self.variants.is_empty(), "there is no code");
        let mut names = HashSet::new();
        for variant in &self.variants {
            ensure!(names.insert(&variant.name), "two variants are called `{}`", variant.name);
            self.check_variant(variant)?;
        }
        Ok(())
    }

    fn check_variant(&self, Variant { name, entries, code, .. }: &Variant) -> Checked {
        ensure!(!code.is_empty(), "variant `{name}` has no code");
        let (kernels, enters) = (self.kernels.len(), entries.len());
        ensure!(enters == kernels, "variant `{name}` has {enters} entries for {kernels} kernels");
        match entries.iter().position(|&entry| entry >= code.len()) {
            Some(kernel) => Err(ArtifactError::Invalid(format!(
                "kernel `{}` begins outside the code of variant `{name}`",
                self.kernels[kernel].name
            ))),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Checked {
        ensure!(matches!(self.input, Element::U8 | Element::F32), "samples cannot be {:?}", self.input);
        let sizes = [self.batch, self.infer_batch, self.features, self.classes];
        ensure!(!sizes.contains(&0), "batch, features and classes cannot be 0");
        for width in [self.features, self.classes] {
            let bytes = self.most_samples().checked_mul(width).and_then(|numbers| numbers.checked_mul(4));
            ensure!(bytes.is_some_and(fits), "a batch of {} samples is too large", self.most_samples());
        }
        ensure!(fits(self.arena_bytes) && fits(self.state_bytes), "more memory than there are addresses");
        Ok(())
    }

    fn check_buffer(&self, buffer: &Buffer) -> Checked {
        let name = &buffer.name;
        let extents = [buffer.rows, buffer.columns];
        ensure!(!extents.iter().any(|extent| is_empty(*extent)), "buffer `{name}` is empty");
        let most = extents.map(|extent| extent.size(self.most_samples()));
        let bytes = most[0].and_then(|rows| rows.checked_mul(buffer.stride)?.checked_mul(4));
        ensure!(most[1].is_some_and(fits) && bytes.is_some_and(fits), "buffer `{name}` is too large");
        // Which schedules use a buffer is known to the code alone; the smaller batch is a bound for all.
        let least = self.batch.min(self.infer_batch);
        ensure!(extent_at(buffer.columns, least) <= buffer.stride, "rows of buffer `{name}` overlap");
        match buffer.place {
            Place::Arena(offset) => self.check_room(buffer, offset, self.arena_bytes, "arena"),
            Place::State(offset) => {
                let fixed = extents.iter().all(|extent| matches!(extent, Extent::Const(_)));
                ensure!(fixed, "state buffer `{name}` depends on the batch");
                self.check_room(buffer, offset, self.state_bytes, "state")
            }
            Place::Input => self.check_external(buffer, self.input, self.features),
            Place::Labels => self.check_external(buffer, Element::I32, 1),
            Place::Scores => self.check_external(buffer, Element::F32, self.classes),
            Place::Rate | Place::Lambda => check_control(buffer, Element::F32),
            Place::Key => check_control(buffer, Element::I32),
            Place::Loss(layer) => {
                ensure!(layer < self.trained_layers.len(), "buffer `{name}` is the loss of no trained layer");
                check_control(buffer, Element::F32)
            }
        }
    }

    /// A buffer in the session's memory: inside it, aligned, and large enough for its shape.
    fn check_room(&self, buffer: &Buffer, offset: usize, room: usize, place: &str) -> Checked {
        let name = &buffer.name;
        ensure!(offset.is_multiple_of(ALIGN), "buffer `{name}` is not aligned");
        let end = offset.checked_add(buffer.bytes);
        ensure!(end.is_some_and(|end| end <= room), "buffer `{name}` does not lie inside the {place}");
        let rows = extent_at(buffer.rows, self.batch.min(self.infer_batch));
        let needed = rows * buffer.stride * buffer.element.bytes();
        ensure!(needed <= buffer.bytes, "buffer `{name}` needs {needed} bytes and has {}", buffer.bytes);
        Ok(())
    }

    /// A buffer of the caller's: kernels see no more of it than `per_sample` elements a sample.
    fn check_external(&self, buffer: &Buffer, element: Element, per_sample: usize) -> Checked {
        let name = &buffer.name;
        ensure!(buffer.element == element, "buffer `{name}` should be {element:?}");
        // What a shape covers grows evenly with the samples, so the ends of the range stand for all of it.
        for samples in [1, self.batch.min(self.infer_batch)] {
            let (rows, columns) = (extent_at(buffer.rows, samples), extent_at(buffer.columns, samples));
            let covered = (rows - 1) * buffer.stride + columns;
            ensure!(covered <= samples * per_sample, "buffer `{name}` covers more than the caller gives");
        }
        Ok(())
    }

    fn check_params(&self) -> Checked {
        let mut names = HashSet::new();
        let mut planes = HashSet::new();
        for param in &self.params {
            for (name, plane) in param.tensors() {
                ensure!(names.insert(name.clone()), "two parameters are called `{name}`");
                planes.insert(plane);
            }
            self.check_param(param)?;
        }
        let stray = self.buffers.iter().enumerate();
        let mut stray = stray.filter(|(index, buffer)| is_state(buffer) && !planes.contains(index));
        match stray.next() {
            Some((_, buffer)) => {
                Err(ArtifactError::Invalid(format!("state buffer `{}` belongs to no parameter", buffer.name)))
            }
            None => Ok(()),
        }
    }

    fn check_param(&self, param: &Param) -> Checked {
        let ([rows, columns], name) = (param.shape, &param.name);
        ensure!(rows.checked_mul(columns).is_some_and(fits), "parameter `{name}` is too large");
        match param.storage {
            Storage::Plain { value } => {
                let element = self.check_plane(param, value, param.shape)?;
                let known = matches!(element, Element::F32 | Element::I8 | Element::I16);
                ensure!(known, "parameter `{name}` cannot be stored as {element:?}");
            }
            Storage::Fixed16 { high, low, scale } => {
                for plane in [high, low] {
                    let element = self.check_plane(param, plane, param.shape)?;
                    ensure!(element == Element::I8, "the planes of parameter `{name}` are not i8");
                }
                let all = self.buffers.get(scale).is_some_and(|buffer| buffer.rows == Extent::Const(1));
                let element = self.check_plane(param, scale, [if all { 1 } else { rows }, 1])?;
                ensure!(element == Element::F32, "the scale of parameter `{name}` is not f32");
            }
        }
        Ok(())
    }

    /// The element type of a plane, which must be state of this shape.
    fn check_plane(&self, param: &Param, plane: usize, shape: [usize; 2]) -> Result<Element, ArtifactError> {
        let name = &param.name;
        let Some(buffer) = self.buffers.get(plane) else {
            return Err(ArtifactError::Invalid(format!(
                "parameter `{name}` is in buffer {plane}, which is none"
            )));
        };
        ensure!(is_state(buffer), "parameter `{name}` is in buffer `{}`, which is not state", buffer.name);
        let same = [buffer.rows, buffer.columns] == shape.map(Extent::Const);
        ensure!(same, "parameter `{name}` and its buffer `{}` have different shapes", buffer.name);
        Ok(buffer.element)
    }

    fn check_kernel(&self, kernel: &Kernel) -> Checked {
        let name = &kernel.name;
        ensure!(!is_empty(kernel.rows), "kernel `{name}` has no rows");
        ensure!(kernel.rows.size(self.most_samples()).is_some_and(fits), "kernel `{name}` has too many rows");
        Ok(())
    }

    fn check_schedules(&self) -> Checked {
        let mut purposes = Vec::new();
        for Schedule { purpose, kernels } in &self.schedules {
            ensure!(!purposes.contains(purpose), "there are two schedules for {purpose:?}");
            purposes.push(*purpose);
            if let Purpose::TrainLayer(layer) = purpose {
                ensure!(*layer < self.trained_layers.len(), "a schedule trains layer {layer}, which is none");
            }
            let known = kernels.iter().all(|kernel| *kernel < self.kernels.len());
            ensure!(known, "the schedule for {purpose:?} names a kernel that is none");
        }
        for purpose in [Purpose::Train, Purpose::Infer] {
            ensure!(purposes.contains(&purpose), "there is no schedule for {purpose:?}");
        }
        Ok(())
    }
}

/// A number of the session's own: one element in one line of memory.
fn check_control(buffer: &Buffer, element: Element) -> Checked {
    let name = &buffer.name;
    let single = [buffer.rows, buffer.columns] == [Extent::Const(1); 2];
    ensure!(buffer.element == element && single, "buffer `{name}` should be one {element:?}");
    ensure!((element.bytes()..=ALIGN).contains(&buffer.bytes), "buffer `{name}` does not fit its place");
    Ok(())
}

fn is_state(buffer: &Buffer) -> bool {
    matches!(buffer.place, Place::State(_))
}

fn is_empty(extent: Extent) -> bool {
    matches!(extent, Extent::Rows(0) | Extent::Const(0))
}

/// Whether memory or a slice can be this large.
fn fits(size: usize) -> bool {
    isize::try_from(size).is_ok()
}

/// The size for a batch no larger than one for which it is known not to overflow.
fn extent_at(extent: Extent, samples: usize) -> usize {
    extent.size(samples).expect("larger batches do not overflow")
}
