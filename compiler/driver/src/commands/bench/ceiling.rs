//! What the machine could do, measured in the same run: products on registers alone and with factors from the first-level
//! cache, contractions without what is fused behind them, and copying.
//!
//! Machines are shared and change their pace within seconds; figures of different runs are not comparable, shares of a
//! ceiling of the same run are.

use std::time::{Duration, Instant};

use ffc_codegen::Target;
use ffc_cpu::ceiling::{self, Factors, Shape};
use ffc_runtime::{Options, Samples, Session};

use crate::Failure;

/// A kernel alone, ready to run.
pub(super) struct Alone {
    /// None when it has been measured.
    session: Option<Session>,
    /// Multiply-accumulates of a run.
    pub(super) macs: usize,
    times: Vec<Duration>,
}

impl Alone {
    /// The loop of products; `None` where the target has none.
    pub(super) fn peak(target: &Target, factors: Factors) -> Result<Option<Self>, Failure> {
        ceiling::peak(target, factors)?.map(Self::new).transpose()
    }

    /// A contraction of which only each row's largest sum is kept.
    pub(super) fn contraction(target: &Target, shape: Shape) -> Result<Self, Failure> {
        Self::new(ceiling::contraction(target, shape)?)
    }

    fn new(kernel: ceiling::Alone) -> Result<Self, Failure> {
        let session = Session::new(kernel.artifact, Options::default())?;
        Ok(Self { session: Some(session), macs: kernel.macs, times: Vec::new() })
    }

    /// Runs it once more: twice, since the first time brings back to the caches what others have driven out.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        for again in [false, true] {
            let start = Instant::now();
            session.infer(Samples::U8(&[0]), &mut [0.0])?;
            if again {
                self.times.push(start.elapsed());
            }
        }
        Ok(())
    }

    /// Gives its memory back; its times stay.
    pub(super) fn unload(&mut self) {
        self.session = None;
    }

    /// The median of all runs.
    pub(super) fn time(&self) -> Duration {
        super::median(self.times.clone())
    }

    /// 1e9 multiply-accumulates a second.
    pub(super) fn gmacs(&self) -> f64 {
        self.macs as f64 / self.time().as_secs_f64() / 1e9
    }
}

/// Bytes read and written a second when this much memory is copied.
pub(super) fn copy_rate(bytes: usize, runs: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        start.elapsed()
    });
    2.0 * bytes as f64 / super::median(times.collect()).as_secs_f64()
}
