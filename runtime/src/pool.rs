//! Threads that divide the rows of a kernel among them.
//!
//! A training step is a few dozen kernels of some microseconds each, every one divided into as many equal parts as there
//! are threads. All that takes is a start signal and a count of those that are not done. A work-stealing pool has
//! nothing to balance here, and rayon's injector allocates blocks of its queue as jobs come in, which would break the
//! promise that a step allocates nothing.
//!
//! A job is written into a cell; then the turn is raised, which publishes it. Workers watch the turn: for a short while
//! actively, since the next kernel mostly follows at once, then parked. The caller does its own parts and waits in the
//! same way for the count to reach 0. Only then may the cell change again.

use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How often to look before parking: some tens of microseconds.
const SPINS: usize = 2000;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// A fork-join pool; see the module documentation.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// On a cache line of its own, so that watching one number does not slow down another.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug)]
struct Shared {
    /// Number of jobs published so far.
    turn: Line<AtomicUsize>,
    /// Workers that are not done with the job of this turn.
    pending: Line<AtomicUsize>,
    /// Whether work panicked in a worker.
    panicked: AtomicBool,
    job: Line<UnsafeCell<Job>>,
}

// SAFETY: `job` is the only part that is not `Sync`. It is written only by the owner of the pool while `pending` is 0,
// that is while no worker reads it; raising `turn` (release) publishes it, and workers read it between seeing the
// turn (acquire) and lowering `pending` (release), which the owner awaits (acquire). The work in it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

#[derive(Debug)]
struct Job {
    /// What to do; `None` says to stop.
    work: Option<*const Work<'static>>,
    parts: usize,
    members: usize,
    caller: Thread,
}

impl Pool {
    /// A pool of this many threads, the caller's among them: 1 starts none.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let job = Job { work: None, parts: 0, members: 1, caller: thread::current() };
        let shared = Arc::new(Shared {
            turn: Line::default(),
            pending: Line::default(),
            panicked: AtomicBool::new(false),
            job: Line(UnsafeCell::new(job)),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for member in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("ffc-{member}"));
            pool.workers.push(worker.spawn(move || work(&shared, member))?);
        }
        // A thread allocates as it starts: let that be over now.
        pool.run(threads, &|_| ());
        Ok(pool)
    }

    /// Number of threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once with each number below `parts`, on all threads, and returns when all calls have. Part `p` is
    /// the caller's where `p` is a multiple of the number of threads. Allocates nothing.
    ///
    /// # Panics
    /// If `work` does, after all calls have returned.
    pub(crate) fn run(&mut self, parts: usize, work: &Work<'_>) {
        let members = self.threads();
        if parts <= 1 || members == 1 {
            (0..parts).for_each(work);
            return;
        }
        // SAFETY: only the lifetime changes. Workers use the reference before they lower `pending`, and `Join` does not
        // let this function end, by return or by panic, before `pending` is 0.
        let erased = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        self.publish(Some(erased), parts);
        let join = Join(&self.shared);
        (0..parts).step_by(members).for_each(work);
        drop(join);
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a part of the work panicked");
    }

    /// Starts a turn of all workers.
    fn publish(&mut self, work: Option<*const Work<'static>>, parts: usize) {
        let shared = &*self.shared;
        let job = Job { work, parts, members: self.workers.len() + 1, caller: thread::current() };
        // SAFETY: `pending` is 0, as after every turn, so no worker reads the cell; `&mut self` keeps other callers out.
        unsafe { *shared.job.0.get() = job };
        shared.pending.0.store(self.workers.len(), Ordering::Relaxed);
        shared.turn.0.fetch_add(1, Ordering::Release);
        // A worker that is not parked takes this for the next time; it looks at the turn again then.
        self.workers.iter().for_each(|worker| worker.thread().unpark());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.publish(None, 0);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so it ends only by its own return.
            let _ended = worker.join();
        }
    }
}

/// Waits for the workers when it is dropped, so that a panic in the caller's part waits too.
struct Join<'a>(&'a Shared);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        wait_until(|| self.0.pending.0.load(Ordering::Acquire) == 0);
    }
}

/// Looks actively for a while, then parks between looks; whoever makes it true unparks this thread afterwards.
fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::park();
    }
}

/// What a worker does until it is told to stop.
fn work(shared: &Shared, member: usize) {
    let mut seen = 0;
    loop {
        wait_until(|| shared.turn.0.load(Ordering::Acquire) != seen);
        seen = seen.wrapping_add(1);
        // SAFETY: between a turn and lowering `pending` the cell is not written.
        let job = unsafe { &*shared.job.0.get() };
        let Some(work) = job.work else { return };
        let caller = job.caller.clone();
        // SAFETY: the reference that was published lives until `pending` is 0.
        let work = unsafe { &*work };
        let parts = (member..job.parts).step_by(job.members);
        if catch_unwind(AssertUnwindSafe(|| parts.for_each(work))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        if shared.pending.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            caller.unpark();
        }
    }
}

/// The rows of part `part` of `parts`: contiguous, near equal, with borders at multiples of [`TILE_ROWS`], perhaps none.
pub(crate) fn share(rows: usize, parts: usize, part: usize) -> std::ops::Range<usize> {
    let tiles = rows.div_ceil(TILE_ROWS);
    let border = |part: usize| (tiles / parts * part + (tiles % parts) * part / parts) * TILE_ROWS;
    border(part).min(rows)..border(part + 1).min(rows)
}

/// Kernels compute tiles of a few rows; a border inside a tile would compute it twice.
const TILE_ROWS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &mut Pool, parts: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        pool.run(parts, &|part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_part_runs_once() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for parts in [0, 1, 2, 3, 5, 20] {
                assert_eq!(counts(&mut pool, parts), vec![1; parts], "{threads} threads");
            }
        }
    }

    #[test]
    fn many_turns_in_a_row_and_after_a_pause() {
        let mut pool = Pool::new(3).unwrap();
        for turn in 0..2000 {
            assert_eq!(counts(&mut pool, 3), [1; 3]);
            if turn % 500 == 0 {
                thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_pool_may_change_its_caller() {
        let mut pool = Pool::new(2).unwrap();
        assert_eq!(counts(&mut pool, 2), [1; 2]);
        let mut pool = thread::spawn(move || {
            assert_eq!(counts(&mut pool, 2), [1; 2]);
            pool
        })
        .join()
        .unwrap();
        assert_eq!(counts(&mut pool, 2), [1; 2]);
    }

    #[test]
    fn panics_come_out_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        for bad in [0, 1] {
            let run = AssertUnwindSafe(|| pool.run(2, &|part| assert_ne!(part, bad)));
            assert!(catch_unwind(run).is_err());
            assert_eq!(counts(&mut pool, 2), [1; 2]);
        }
    }

    #[test]
    fn shares_cover_all_rows_once() {
        for rows in 0..200 {
            for parts in 1..9 {
                let mut next = 0;
                for part in 0..parts {
                    let share = share(rows, parts, part);
                    assert_eq!(share.start, next);
                    assert!(share.end.is_multiple_of(TILE_ROWS) || share.end == rows);
                    assert!(share.len() <= rows / parts + 2 * TILE_ROWS);
                    next = share.end;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
