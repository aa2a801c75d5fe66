//! The batches of a run in their order, each prepared while the one before it trains, where that pays.
//!
//! Samples stay where the reader put them, bytes as bytes, in memory or in a file. An index of them is shuffled in each epoch, and a batch is
//! gathered by it: each sample is copied once, to where a step reads it, and changed on the way where the run asks for
//! it. [`Preparation`] does that, one batch after the other, always the same ones; [`Batches`] hands them out.
//!
//! There are two batches, allocated before the first step: one trains, one is ahead of it. A thread fills the latter
//! under a lock as soon as it has been taken. The caller takes it when it is filled, and otherwise fills its own, which
//! is all that happens without a thread: which of both does the work is a matter of timing, what they make is not.
//! Nobody waits but for the lock. A thread that cannot read leaves its error and ends; one that panics poisons the lock,
//! which the caller sees as an error, too; a caller that ends,
//! whether by return, error or panic, drops [`Batches`], which ends the thread.
//!
//! # When a thread pays
//!
//! Measured with 784 x 1000 x 1000 x 10, 128 samples a step, on a machine of two cores: of a step of 4 ms, gathering
//! bytes (100 kB) takes 45 us, shifting and mirroring them as well 130 us, gathering floats (400 kB) 110 us; reading an
//! image from a file that is in the system's cache adds 1 to 2 us, from a disk as long as that takes. With a thread
//! on an idle core the caller waits 14 us instead of 130; with one on a core that other programs keep busy, 200. So a
//! thread gains 3 % of a step or loses 2 %, and where only bytes are gathered there is nothing to gain. Hence the rule of
//! [`beside`]: a core is left over by those that train (a process that is held to one core has none), and there is more
//! to do than to gather a small batch from memory.

use std::any::Any;
use std::mem::swap;
use std::sync::{Condvar, Mutex};
use std::thread::{self, Builder, ScopedJoinHandle, available_parallelism};

use ffc_data::{DataError, Features, Rows, Split};
use ffc_ir::numerics::{self, Number, Scalar, step_key};
use ffc_runtime::Samples;

use crate::Failure;
use crate::augmentation::Augmenter;

/// What a step trains on.
#[derive(Debug)]
pub struct Batch {
    numbers: Numbers,
    labels: Vec<i32>,
}

/// The features of a batch.
#[derive(Debug)]
enum Numbers {
    U8(Vec<u8>),
    F32(Vec<f32>),
}

impl Batch {
    /// Room for this many samples of a split.
    fn new(split: &Split, samples: usize) -> Self {
        let numbers = samples * split.width();
        let numbers = match split.features {
            Features::U8(_) => Numbers::U8(Vec::with_capacity(numbers)),
            Features::F32(_) => Numbers::F32(Vec::with_capacity(numbers)),
        };
        Self { numbers, labels: Vec::with_capacity(samples) }
    }

    /// The samples.
    pub fn samples(&self) -> Samples<'_> {
        match &self.numbers {
            Numbers::U8(numbers) => Samples::U8(numbers),
            Numbers::F32(numbers) => Samples::F32(numbers),
        }
    }

    /// The class of each sample.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }
}

/// Gathers batches: see the [module documentation](self).
#[derive(Debug)]
pub struct Preparation<'a> {
    split: &'a Split,
    batch: usize,
    seed: u64,
    augmenter: Option<Augmenter>,
    epoch: usize,
    /// Samples that the epoch has visited.
    visited: usize,
    /// The order in which it visits all of them.
    order: Vec<u32>,
    /// A sample that was read from a file.
    sample: Vec<u8>,
}

impl<'a> Preparation<'a> {
    /// Prepares batches of `batch` samples, the last of an epoch perhaps of fewer, from the beginning of an epoch on.
    pub fn new(
        split: &'a Split,
        batch: usize,
        seed: u64,
        augmenter: Option<Augmenter>,
        epoch: usize,
    ) -> Self {
        let (order, sample) = (Vec::with_capacity(split.len()), Vec::new());
        Self { split, batch, seed, augmenter, epoch, visited: 0, order, sample }
    }

    /// A batch without samples and with room for all that it will hold.
    fn empty(&self) -> Batch {
        Batch::new(self.split, self.batch.min(self.split.len()))
    }

    /// Fills in the next batch.
    fn fill(&mut self, batch: &mut Batch) -> Result<(), DataError> {
        if self.visited == 0 {
            shuffle(self.seed, self.epoch, self.split.len(), &mut self.order);
        }
        let end = (self.visited + self.batch).min(self.order.len());
        let rows = &self.order[self.visited..end];
        batch.labels.clear();
        batch.labels.extend(rows.iter().map(|&row| i32::from(self.split.labels[row as usize])));
        let (width, epoch) = (self.split.width(), self.epoch);
        match &mut batch.numbers {
            Numbers::U8(to) => to.resize(rows.len() * width, 0),
            Numbers::F32(to) => to.resize(rows.len() * width, 0.0),
        }
        for (place, &row) in rows.iter().enumerate() {
            let (place, sample) = (place * width..(place + 1) * width, row as usize);
            match (self.split.rows(sample..sample + 1, &mut self.sample)?, &mut batch.numbers) {
                (Rows::U8(from), Numbers::U8(to)) => copy(&self.augmenter, epoch, row, from, &mut to[place]),
                (Rows::F32(from), Numbers::F32(to)) => {
                    copy(&self.augmenter, epoch, row, from, &mut to[place])
                }
                _ => unreachable!("a batch is made for its split"),
            }
        }
        self.visited = end;
        if end == self.order.len() {
            (self.epoch, self.visited) = (self.epoch + 1, 0);
        }
        Ok(())
    }
}

/// Copies a sample to its place in a batch, changed where the run asks for it.
fn copy<T: Copy + Default>(augmenter: &Option<Augmenter>, epoch: usize, row: u32, from: &[T], to: &mut [T]) {
    match augmenter {
        None => to.copy_from_slice(from),
        Some(augmenter) => augmenter.copy(epoch, row, from, to),
    }
}

/// The order in which an epoch visits `count` samples.
fn shuffle(seed: u64, epoch: usize, count: usize, order: &mut Vec<u32>) {
    let key = Number::I32(step_key(seed ^ 0x5851_f42d_4c95_7f2d, epoch as u64) as i32);
    order.clear();
    order.extend(0..count as u32);
    for last in (1..count).rev() {
        let bits = numerics::draw(&mut Scalar, key, Number::I32(last as i32), Number::I32(0)).as_i32() as u32;
        let other = (u64::from(bits) * (last as u64 + 1)) >> 32;
        order.swap(last, other as usize);
    }
}

/// Size of a batch from which gathering it takes longer than handing it over.
const LARGE: usize = 256 << 10;

/// Whether a thread of its own should prepare batches for as many `threads` as train: it needs a core that they leave
/// over, and has enough to do where samples are changed or read from a file, or batches are large. The results do not
/// depend on it.
pub fn beside(threads: usize, split: &Split, batch: usize, augmented: bool) -> bool {
    let number = match split.features {
        Features::U8(_) => size_of::<u8>(),
        Features::F32(_) => size_of::<f32>(),
    };
    let bytes = batch.min(split.len()) * split.width() * number;
    let left_over = available_parallelism().is_ok_and(|cores| cores.get() > threads);
    left_over && (augmented || bytes >= LARGE || split.features.is_streamed())
}

/// Hands out batches.
pub struct Batches<'a> {
    shared: &'a Shared<'a>,
    current: Batch,
}

/// What the caller and the thread share.
struct Shared<'a> {
    ahead: Mutex<Ahead<'a>>,
    /// Tells the thread that the batch ahead has been taken, or that no more are wanted.
    taken: Condvar,
}

/// The batch ahead of the one that trains, and what fills it.
struct Ahead<'a> {
    preparation: Preparation<'a>,
    batch: Batch,
    filled: bool,
    /// Why the thread could not fill it.
    failed: Option<DataError>,
    over: bool,
}

impl Batches<'_> {
    /// The next batch.
    ///
    /// # Errors
    /// When samples cannot be read, or the thread that prepares batches panicked.
    pub fn next_batch(&mut self) -> Result<&Batch, Failure> {
        let ahead = self.shared.ahead.lock();
        let mut ahead = ahead.map_err(|_| Failure::new("the thread that prepares batches panicked"))?;
        if let Some(error) = ahead.failed.take() {
            return Err(error.into());
        }
        if ahead.filled {
            swap(&mut ahead.batch, &mut self.current);
            ahead.filled = false;
        } else {
            ahead.preparation.fill(&mut self.current)?;
        }
        drop(ahead);
        self.shared.taken.notify_one();
        Ok(&self.current)
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        // After a panic the thread ends because of that.
        if let Ok(mut ahead) = self.shared.ahead.lock() {
            ahead.over = true;
        }
        self.shared.taken.notify_one();
    }
}

impl Shared<'_> {
    /// Fills the batch ahead whenever it has been taken, until no more are wanted.
    fn fill_ahead(&self) {
        let Ok(mut guard) = self.ahead.lock() else { return };
        loop {
            let waited = self.taken.wait_while(guard, |ahead| ahead.filled && !ahead.over);
            let Ok(mut ahead) = waited else { return };
            if ahead.over {
                return;
            }
            let Ahead { preparation, batch, filled, failed, .. } = &mut *ahead;
            if let Err(error) = preparation.fill(batch) {
                *failed = Some(error);
                return;
            }
            *filled = true;
            guard = ahead;
        }
    }
}

/// Calls `train` with the batches that `preparation` makes, on a thread of its own where `beside` is set and the system
/// has one to give. The batches are the same.
///
/// # Errors
/// What `train` returns, or that the thread panicked.
pub fn prepared<R>(
    preparation: Preparation<'_>,
    beside: bool,
    train: impl FnOnce(&mut Batches<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let [current, batch] = [preparation.empty(), preparation.empty()];
    let ahead = Mutex::new(Ahead { preparation, batch, filled: false, failed: None, over: false });
    let shared = Shared { ahead, taken: Condvar::new() };
    thread::scope(|scope| {
        let mut batches = Batches { shared: &shared, current };
        let builder = Builder::new().name("ffc-batches".to_string());
        let thread = beside.then(|| builder.spawn_scoped(scope, || shared.fill_ahead()));
        let result = train(&mut batches);
        drop(batches);
        match thread.and_then(Result::ok).map(ScopedJoinHandle::join) {
            Some(Err(panic)) => {
                let text = text(&*panic);
                Err(Failure::new(format!("the thread that prepares batches panicked: {text}")))
            }
            _ => result,
        }
    })
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_seeded_permutations() {
        let shuffled = |seed, epoch| {
            let mut order = vec![7; 3];
            shuffle(seed, epoch, 1000, &mut order);
            order
        };
        let order = shuffled(1, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(index, &row)| index == row as usize));
        assert_eq!(order, shuffled(1, 0));
        assert_ne!(order, shuffled(1, 1));
        assert_ne!(order, shuffled(2, 0));
    }

    /// Samples of two numbers that tell which sample it is, and so does the label.
    fn split(samples: u16) -> Split {
        let features = (0..samples).flat_map(|sample| [f32::from(sample), -f32::from(sample)]).collect();
        Split { features: Features::F32(features), labels: (0..samples).collect() }
    }

    /// The labels of the next batches, whose samples must be theirs.
    fn labels(batches: &mut Batches<'_>, count: usize) -> Result<Vec<Vec<i32>>, Failure> {
        let batch = |_| {
            let batch = batches.next_batch()?;
            let of = |&label: &i32| [label as f32, -label as f32];
            let features: Vec<f32> = batch.labels().iter().flat_map(of).collect();
            assert_eq!(batch.samples(), Samples::F32(&features));
            Ok(batch.labels().to_vec())
        };
        (0..count).map(batch).collect()
    }

    #[test]
    fn batches_are_the_same_beside_training_and_in_line() {
        let split = split(50);
        let epochs = |beside, batch, from| {
            let preparation = Preparation::new(&split, batch, 1, None, from);
            let count = (3 - from) * 50usize.div_ceil(batch);
            prepared(preparation, beside, |batches| labels(batches, count)).expect("nothing fails")
        };
        for batch in [1, 7, 25, 50, 1000] {
            let all = epochs(false, batch, 0);
            assert_eq!(all, epochs(true, batch, 0), "{batch}");
            let steps = all.len() / 3;
            assert_eq!(all[steps..], epochs(true, batch, 1), "{batch}");
            for (epoch, batches) in all.chunks(steps).enumerate() {
                let mut order = Vec::new();
                shuffle(1, epoch, 50, &mut order);
                let visited: Vec<u32> = batches.iter().flatten().map(|&label| label as u32).collect();
                assert_eq!(visited, order, "{batch}");
            }
        }
    }

    #[test]
    fn two_batches_serve_all_steps() {
        let split = split(50);
        for (beside, most) in [(false, 1), (true, 2)] {
            let places = prepared(Preparation::new(&split, 7, 1, None, 0), beside, |batches| {
                let place = |_| match batches.next_batch()?.samples() {
                    Samples::F32(numbers) => Ok(numbers.as_ptr().addr()),
                    Samples::U8(_) => Err(Failure::new("the samples are floats")),
                };
                (0..100).map(place).collect::<Result<std::collections::HashSet<_>, _>>()
            });
            assert!((1..=most).contains(&places.expect("nothing fails").len()));
        }
    }

    #[test]
    fn a_failure_of_training_ends_the_thread() {
        let split = split(10);
        for steps in [0, 1, 5] {
            let stop = |batches: &mut Batches<'_>| {
                labels(batches, steps)?;
                Err::<(), _>(Failure::new("enough"))
            };
            let result = prepared(Preparation::new(&split, 3, 1, None, 0), true, stop);
            assert_eq!(result, Err(Failure::new("enough")));
        }
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error() {
        let split = split(5);
        let mut preparation = Preparation::new(&split, 2, 1, None, 0);
        (preparation.order, preparation.visited) = (vec![9; 5], 1);
        let result = prepared(preparation, true, |batches| {
            while !batches.shared.ahead.is_poisoned() {
                thread::yield_now();
            }
            batches.next_batch().map(|_| ())
        });
        let message = result.expect_err("there is no sample 9").message;
        assert!(message.starts_with("the thread that prepares batches panicked: "), "{message}");
        assert!(message.contains("out of bounds"), "{message}");
    }
}
