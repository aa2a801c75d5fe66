//! One piece of memory, aligned as kernels need it.
//!
//! Kernels work on it through raw addresses while nobody holds a reference; between steps the session looks at it as a
//! slice. Both go through the one pointer kept here.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::LoadError;

/// Alignment of every buffer: a cache line, a row of AVX-512 or AMX.
pub(crate) const ALIGN: usize = 64;

/// Zeroed bytes that start at a multiple of [`ALIGN`].
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation is owned and has no ties to the thread that made it.
unsafe impl Send for AlignedBytes {}
// SAFETY: through a shared reference there is only `as_slice`; writers of raw addresses need the owner's `&mut`.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// Allocates exactly this many bytes.
    ///
    /// # Errors
    /// [`LoadError::Memory`] where there are not as many.
    pub(crate) fn new(bytes: usize) -> Result<Self, LoadError> {
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| LoadError::Memory { bytes })?;
        if bytes == 0 {
            let start = NonNull::without_provenance(std::num::NonZero::new(ALIGN).expect("64 is not 0"));
            return Ok(Self { start, layout });
        }
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(LoadError::Memory { bytes })?;
        Ok(Self { start, layout })
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    /// Where it starts.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes (or a dangling, aligned pointer to none); kernels write only while the owner
        // lends itself out mutably, so not during the life of this reference.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    /// The bytes, to change.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.len() != 0 {
            // SAFETY: allocated in `new` with this layout and given out to nobody who lives longer.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_zero() {
        for bytes in [0, 1, 64, 1000] {
            let mut memory = AlignedBytes::new(bytes).unwrap();
            assert_eq!((memory.len(), memory.as_ptr() as usize % ALIGN), (bytes, 0));
            assert!(memory.as_slice().iter().all(|&byte| byte == 0));
            memory.as_mut_slice().fill(1);
            assert!(memory.as_slice().iter().all(|&byte| byte == 1));
        }
    }

    #[test]
    fn too_much_is_refused() {
        let error = AlignedBytes::new(usize::MAX).unwrap_err();
        assert!(error.to_string().starts_with("cannot allocate the 18446744073709551615 bytes"), "{error}");
    }
}
