//! A step of a compiled program allocates nothing, on no thread, and all that sessions allocate is what the memory plan
//! says. The count is of the whole process, so this is a program of its own, without libtest, whose main thread
//! allocates while a test runs.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ffc_compiler::recipe::RECIPES;
use ffc_ir::module::Activation;
use ffc_runtime::{Options, Session};
use ffc_tests::networks::{self, Case};
use ffc_tests::session::{Given, artifact, program, targets};

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
    assert_ne!(allocations(|| drop(std::hint::black_box(vec![1u8]))), 0, "allocations are counted");
    for recipe in RECIPES {
        let (activation, options) = (Activation::Relu, recipe.options());
        let case = Case { name: recipe.name.to_string(), sizes: vec![60, 70, 50, 10], activation, options };
        let (module, program) = program(&case);
        let artifact = artifact(&program, &targets()[0], true);
        for threads in [1, 2] {
            let options = Options { threads, ..Options::default() };
            let mut session = Session::new(artifact.clone(), options).unwrap();
            for (name, weights) in networks::weights(&module, 1) {
                session.load_weights(&name, &weights).unwrap();
            }
            let full = Given::new(&program, program.batch, 1);
            let short = Given::new(&program, 5, 2);
            let mut scores = vec![0.0; program.batch * program.classes];
            let count = allocations(|| {
                for given in [&full, &short, &full] {
                    // The first step calibrates.
                    session.train_step(given.samples(), &given.labels).unwrap();
                    session.train_layer(0, given.samples(), &given.labels).unwrap();
                    session.infer(full.samples(), &mut scores).unwrap();
                    session.end_epoch();
                }
            });
            assert_eq!(count, 0, "{} with {threads} threads", case.name);
        }
    }
}
