//! Machine code in memory that the processor may run.
//!
//! The code is copied into fresh pages while they are writable; then they become executable and stay read-only, so that
//! no page is ever both. The pages go when the value does.

use memmap2::{Mmap, MmapMut};

use crate::LoadError;
use crate::cpu::Runnable;

/// A kernel: see the calling convention in [`artifact`](crate::artifact).
pub(crate) type KernelFn =
    unsafe extern "C" fn(buffers: *const *mut u8, samples: usize, first: usize, end: usize);

/// Position-independent code, mapped.
#[derive(Debug)]
pub(crate) struct MappedCode {
    pages: Mmap,
}

impl MappedCode {
    /// Maps the code of a variant.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn new(runnable: &Runnable<'_>) -> Result<Self, LoadError> {
        let code = &runnable.variant().code[..];
        let mut pages = MmapMut::map_anon(code.len()).map_err(LoadError::Map)?;
        pages.copy_from_slice(code);
        let pages = pages.make_exec().map_err(LoadError::Map)?;
        publish(&pages);
        Ok(Self { pages })
    }

    /// The kernel that begins at this offset.
    ///
    /// # Panics
    /// If the offset is not inside the code.
    pub(crate) fn kernel(&self, entry: usize) -> KernelFn {
        let address = self.pages[entry..].first().expect("entries are inside the code") as *const u8;
        // SAFETY: an address is a function pointer on every architecture that `Cpu::choose` lets through. That a
        // kernel begins there is the artifact's word, which loading it trusts; calling it is `unsafe` still.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(address) }
    }
}

/// Makes what was written as data visible to instruction fetch; x86 does so by itself.
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
fn publish(_code: &[u8]) {}

/// Cleans the data cache to where instruction fetch reads, then invalidates the instruction caches, line by line. The
/// session's threads start later, so each of them fetches anew.
#[cfg(target_arch = "aarch64")]
fn publish(code: &[u8]) {
    use std::arch::asm;
    let sizes: u64;
    // SAFETY: reading the cache type register has no effect, and operating systems permit it.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) sizes, options(nomem, nostack, preserves_flags)) };
    let (data_line, code_line) = (4usize << ((sizes >> 16) & 15), 4usize << (sizes & 15));
    let range = code.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    for line in (start / data_line * data_line..end).step_by(data_line) {
        // SAFETY: cleaning a line of readable memory to the point of unification changes no contents.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in (start / code_line * code_line..end).step_by(code_line) {
        // SAFETY: invalidating instruction cache lines changes no contents.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Asks Linux to synchronize the instruction caches of all cores (`riscv_flush_icache(start, end, 0)`).
#[cfg(target_arch = "riscv64")]
fn publish(code: &[u8]) {
    let range = code.as_ptr_range();
    // SAFETY: the call reads no memory of this process and returns its result in a0.
    unsafe {
        std::arch::asm!(
            "ecall",
            inlateout("a0") range.start as usize => _,
            in("a1") range.end as usize,
            in("a2") 0usize,
            in("a7") 259usize,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;
    use crate::artifact::Variant;

    /// The permissions of the page that holds `address`, as Linux lists them.
    #[cfg(target_os = "linux")]
    fn permissions(address: usize) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
            (start..end).contains(&address).then(|| rest[..3].to_string())
        })
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn code_runs_and_is_never_writable() {
        // mov rax, [rdi]; mov [rax], rsi; ret
        let bytes = [0x48, 0x8b, 0x07, 0x48, 0x89, 0x30, 0xc3];
        let variants = [Variant {
            name: "native".to_string(),
            features: vec!["sse2".to_string()],
            entries: vec![0],
            code: bytes.to_vec(),
        }];
        let code = MappedCode::new(&Cpu::detect().choose("x86_64", &variants).unwrap()).unwrap();
        let mut cell = 0u64;
        let table = [(&raw mut cell).cast::<u8>()];
        // SAFETY: the code above stores 8 bytes at the first address of the table, which is `cell`.
        unsafe { code.kernel(0)(table.as_ptr(), 42, 0, 1) };
        assert_eq!(cell, 42);
        assert_eq!(permissions(code.pages.as_ptr() as usize).as_deref(), Some("r-x"));
    }
}
