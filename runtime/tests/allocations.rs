//! A step allocates nothing, on no thread. The count is of the whole process, so this is a program of its own, without
//! libtest, whose main thread allocates while a test runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{BATCH, CLASSES, artifact, inputs};
use ffc_runtime::{Options, Samples, Session};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

fn main() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    assert_ne!(allocations(|| drop(std::hint::black_box(vec![1u8]))), 0, "allocations are counted");
    let (inputs, mut scores) = (inputs(BATCH), [0.0; BATCH * CLASSES]);
    for threads in [1, 2, 4] {
        let mut session = Session::new(artifact(), Options { threads, ..Options::default() }).unwrap();
        let count = allocations(|| {
            for _ in 0..100 {
                session.train_step(Samples::U8(&inputs), &[0; BATCH]).unwrap();
                session.train_layer(0, Samples::U8(&inputs), &[1; BATCH]).unwrap();
                session.infer(Samples::U8(&inputs), &mut scores).unwrap();
                session.end_epoch();
            }
            // Long enough that workers park: waking them allocates nothing either.
            std::thread::sleep(std::time::Duration::from_millis(10));
            session.train_step(Samples::U8(&inputs), &[0; BATCH]).unwrap();
        });
        assert_eq!(count, 0, "{threads} threads");
    }
}
