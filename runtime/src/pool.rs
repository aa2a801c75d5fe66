//! Threads that divide the rows of a kernel among them.
//!
//! A training step is a few dozen kernels of some microseconds each. What it takes to divide one is a start signal, a
//! number that says which piece comes next, and a count of those that are at it. rayon's injector allocates blocks of its
//! queue as jobs come in, which would break the promise that a step allocates nothing.
//!
//! Pieces are handed out as threads come free, because cores are not equally fast: a neighbour, on the machine or on the
//! other half of the core, may take half of one for seconds. Who computes a piece changes no bit of it. For the same
//! reason nobody waits for a thread that has not come: a job is done when its pieces are, and whoever looks up later finds
//! the door closed.
//!
//! A job is written into a cell; then its door opens, which publishes it. Workers watch the door: for a short while
//! actively, since the next kernel mostly follows at once, then parked. The caller takes pieces too; when none are left it
//! closes the door and waits in the same way for those inside to leave. Only then may the cell change again.

use std::cell::UnsafeCell;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How often to look before parking: a few milliseconds.
const LOOKS: usize = 10_000;

/// How many of these looks follow at once, without asking the system whether another thread wants to run.
const SPINS: usize = 200;

/// One worker inside, in the number of [`Shared::door`].
const INSIDE: usize = 1;

/// What opening and closing each add to it. It counts both, so an odd count is an open door.
const TURN: usize = 1 << 16;

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
    /// How often the door was opened or closed, and how many workers are inside.
    door: Line<AtomicUsize>,
    /// The next piece of the job.
    next: Line<AtomicUsize>,
    job: Line<UnsafeCell<Job>>,
    /// Workers that have started.
    started: AtomicUsize,
    /// Whether workers are to end.
    over: AtomicBool,
    /// Whether work panicked in a worker.
    panicked: AtomicBool,
}

// SAFETY: `job` is the only part that is not `Sync`. It is written only by the owner of the pool while the door is closed
// and nobody is inside, that is while no worker reads it. Opening the door (release) publishes it; workers read it between
// entering (acquire), which succeeds through an open door alone, and leaving (release), which the owner awaits (acquire)
// after closing the door. The work in it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

#[derive(Debug)]
struct Job {
    work: Option<*const Work<'static>>,
    pieces: usize,
    caller: Thread,
}

fn is_open(door: usize) -> bool {
    !(door / TURN).is_multiple_of(2)
}

fn inside(door: usize) -> usize {
    door % TURN
}

impl Pool {
    /// A pool of this many threads, the caller's among them: 1 starts none.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        assert!(threads < TURN, "a door counts fewer threads");
        let job = Job { work: None, pieces: 0, caller: thread::current() };
        let shared = Arc::new(Shared {
            door: Line::default(),
            next: Line::default(),
            job: Line(UnsafeCell::new(job)),
            started: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for member in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("ffc-{member}"));
            pool.workers.push(worker.spawn(move || shared.work())?);
        }
        // A thread allocates as it starts: let that be over now.
        while pool.shared.started.load(Ordering::Relaxed) < pool.workers.len() {
            thread::yield_now();
        }
        Ok(pool)
    }

    /// Number of threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once with each number below `pieces`, from all threads that come in time, and returns when all calls
    /// have. Pieces are begun in the order of their numbers. Allocates nothing.
    ///
    /// # Panics
    /// If `work` does, after all calls that have begun have returned.
    pub(crate) fn run(&mut self, pieces: usize, work: &Work<'_>) {
        if pieces <= 1 || self.workers.is_empty() {
            (0..pieces).for_each(work);
            return;
        }
        // SAFETY: only the lifetime changes. Workers use the reference only while they are inside, and `Close` does not
        // let this function end, by return or by panic, before the door is closed and all have left.
        let erased = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        self.open(Job { work: Some(erased), pieces, caller: thread::current() });
        let close = Close(&self.shared);
        self.shared.take_pieces(pieces, work);
        drop(close);
        assert!(!self.shared.panicked.load(Ordering::Relaxed), "a piece of the work panicked");
    }

    /// Lets workers in.
    fn open(&mut self, job: Job) {
        let shared = &*self.shared;
        // SAFETY: the door is closed and nobody is inside, as after every job, so no worker reads the cell; `&mut self`
        // keeps other callers out.
        unsafe { *shared.job.0.get() = job };
        shared.next.0.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        shared.door.0.fetch_add(TURN, Ordering::Release);
        self.wake();
    }

    /// A worker that is not parked takes this for the next time; it looks at the door again then.
    fn wake(&self) {
        self.workers.iter().for_each(|worker| worker.thread().unpark());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so it ends only by its own return.
            let _ended = worker.join();
        }
    }
}

/// Closes the door and waits for those inside when it is dropped, so that a panic in the caller's piece waits too.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let door = &self.0.door.0;
        door.fetch_add(TURN, Ordering::Relaxed);
        wait_until(|| inside(door.load(Ordering::Acquire)) == 0);
    }
}

/// Looks actively for a while, then parks between looks; whoever makes it true unparks this thread afterwards.
///
/// Parking costs more than it saves while training goes on: a core that was halted comes back late and slow, and the
/// system likes to put a thread that wakes up on the core of the one that woke it. Between looks other threads may run, so
/// a pool of more threads than cores does not stand in its own way.
fn wait_until(done: impl Fn() -> bool) {
    for look in 0..LOOKS {
        if done() {
            return;
        }
        if look < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
    }
    while !done() {
        thread::park();
    }
}

impl Shared {
    /// What a worker does until it is told to end.
    fn work(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
        // The turn of the job that this worker was at last.
        let mut seen = 0;
        loop {
            let news = |door: usize| is_open(door) && door / TURN != seen;
            let over = || self.over.load(Ordering::Acquire);
            wait_until(|| news(self.door.0.load(Ordering::Relaxed)) || over());
            if over() {
                return;
            }
            let enter = |door: usize| news(door).then(|| door + INSIDE);
            let Ok(door) = self.door.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter) else {
                continue;
            };
            seen = door / TURN;
            self.join_in();
        }
    }

    /// Takes part in the job at hand, from inside, and leaves.
    fn join_in(&self) {
        // SAFETY: while someone is inside the cell is not written.
        let Job { work, pieces, ref caller } = *unsafe { &*self.job.0.get() };
        let caller = caller.clone();
        if let Some(work) = work {
            // SAFETY: the reference that was published lives until all have left.
            let work = unsafe { &*work };
            if catch_unwind(AssertUnwindSafe(|| self.take_pieces(pieces, work))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        let door = self.door.0.fetch_sub(INSIDE, Ordering::Release);
        if inside(door) == INSIDE && !is_open(door) {
            caller.unpark();
        }
    }

    /// Does one piece after the other until none are left.
    fn take_pieces(&self, pieces: usize, work: &Work<'_>) {
        loop {
            let piece = self.next.0.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            work(piece);
        }
    }
}

/// The pieces that threads divide this many rows into: contiguous, in order, and none of them empty.
///
/// A call of a kernel has a cost of its own, such as packing an operand, so pieces are few: each has three quarters of
/// what would be a thread's share of the rows that are left. The small ones at the end even out what the threads differ by.
pub(crate) fn pieces(rows: usize, threads: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let share = rows.div_ceil(threads);
    let grain = if threads == 1 { rows } else { share.next_multiple_of(TILE_ROWS).min(GRAIN) };
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = rows - start;
        let piece = (rest * 3 / (4 * threads)).next_multiple_of(grain.max(1)).max(grain).min(rest);
        let piece = start..start + piece;
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Rows of the smallest piece, where there are enough rows: kernels that store across store whole cache lines then.
const GRAIN: usize = 64;

/// Kernels compute tiles of rows; a border inside a tile would make two of it.
const TILE_ROWS: usize = 16;

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
    fn every_piece_runs_once() {
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
    fn whoever_is_free_takes_the_next_piece() {
        let mut pool = Pool::new(2).unwrap();
        let (held, let_go) = (AtomicBool::new(false), AtomicBool::new(false));
        // One piece waits until another thread has done all others: only whoever is free takes them.
        let done = AtomicUsize::new(0);
        pool.run(20, &|_| {
            if !held.swap(true, Ordering::AcqRel) {
                while !let_go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
            } else if done.fetch_add(1, Ordering::AcqRel) == 18 {
                let_go.store(true, Ordering::Release);
            }
        });
        assert_eq!(done.into_inner(), 19);
    }

    #[test]
    fn a_panic_of_all_threads_is_forgotten_by_the_next_job() {
        let mut pool = Pool::new(2).unwrap();
        let both = AtomicUsize::new(0);
        let run = AssertUnwindSafe(|| {
            pool.run(2, &|_| {
                both.fetch_add(1, Ordering::AcqRel);
                while both.load(Ordering::Acquire) < 2 {
                    thread::yield_now();
                }
                panic!("both pieces at once");
            });
        });
        assert!(catch_unwind(run).is_err());
        assert_eq!(counts(&mut pool, 2), [1; 2]);
    }

    #[test]
    fn pieces_cover_all_rows_once() {
        for rows in 0..1100 {
            for threads in 1..9 {
                let (mut next, mut most) = (0, rows);
                for piece in pieces(rows, threads) {
                    assert_eq!(piece.start, next);
                    assert!(piece.len() <= most, "pieces do not grow");
                    assert!(piece.end.is_multiple_of(TILE_ROWS) || piece.end == rows);
                    (next, most) = (piece.end, piece.len().max(GRAIN));
                }
                assert_eq!(next, rows);
            }
        }
    }

    #[test]
    fn pieces_are_few_and_never_too_large() {
        let sizes = |rows, threads| pieces(rows, threads).map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1000, 1), [1000]);
        assert_eq!(sizes(1000, 2), [384, 256, 192, 64, 64, 40]);
        assert_eq!(sizes(128, 2), [64, 64]);
        assert_eq!(sizes(128, 4), [32; 4]);
        assert_eq!(sizes(10, 2), [10]);
    }
}
