//! The order of a block's steps.
//!
//! Expressions come one behind the other, each a chain in which every step waits for the one before. A core looks a few
//! dozen instructions ahead, fewer if it shares its units with another thread, and finds little else to do meanwhile. So
//! steps are put in the order in which a core with two vector units would issue them, those on the longest way to the
//! end first.

use super::{Source, Step};
use crate::wide::asm::Op;

/// Vector instructions that begin in a cycle.
const UNITS: usize = 2;

/// The steps in a better order. Loads stay before stores.
pub(super) fn ordered(steps: Vec<Step>) -> Vec<Step> {
    let waits = dependencies(&steps);
    let ways = longest_ways(&steps, &waits);
    let mut finished: Vec<Option<usize>> = vec![None; steps.len()];
    let mut order = Vec::with_capacity(steps.len());
    let mut waiting: Vec<usize> = (0..steps.len()).collect();
    for cycle in 0.. {
        for _ in 0..UNITS {
            let ready = |&step: &usize| {
                waits[step].iter().all(|&other| finished[other].is_some_and(|at| at <= cycle))
            };
            let next =
                waiting.iter().copied().filter(ready).max_by_key(|&step| (ways[step], usize::MAX - step));
            let Some(next) = next else { break };
            finished[next] = Some(cycle + latency(&steps[next]));
            order.push(next);
            waiting.retain(|&step| step != next);
        }
        if waiting.is_empty() {
            break;
        }
    }
    order.into_iter().map(|step| steps[step]).collect()
}

/// The most values that are alive at a time.
pub(super) fn pressure(steps: &[Step]) -> usize {
    let mut alive = std::collections::HashSet::new();
    let mut most = 0;
    for step in steps.iter().rev() {
        if let Some(value) = step.defines() {
            alive.remove(&value);
        }
        alive.extend(step.sources().into_iter().filter_map(|source| match source {
            Source::Value(value) => Some(value),
            Source::Memory(_) | Source::Register(_) => None,
        }));
        most = most.max(alive.len());
    }
    most
}

/// The steps that must come before each step.
fn dependencies(steps: &[Step]) -> Vec<Vec<usize>> {
    let mut defined = std::collections::HashMap::new();
    let mut loads = Vec::new();
    let mut waits = Vec::with_capacity(steps.len());
    for (number, step) in steps.iter().enumerate() {
        let values = step.sources().into_iter().filter_map(|source| match source {
            Source::Value(value) => Some(value),
            Source::Memory(_) | Source::Register(_) => None,
        });
        let mut before: Vec<usize> = values.map(|value| defined[&value]).collect();
        match step {
            Step::Load(..) | Step::LoadOne(..) => loads.push(number),
            Step::Store(..) | Step::StoreOne(..) => before.extend(&loads),
            _ => {}
        }
        if let Some(value) = step.defines() {
            defined.insert(value, number);
        }
        waits.push(before);
    }
    waits
}

/// Cycles from the beginning of each step to the end of the block, at least.
fn longest_ways(steps: &[Step], waits: &[Vec<usize>]) -> Vec<usize> {
    let mut ways: Vec<usize> = steps.iter().map(latency).collect();
    for number in (0..steps.len()).rev() {
        for &before in &waits[number] {
            ways[before] = ways[before].max(ways[number] + latency(&steps[before]));
        }
    }
    ways
}

/// Cycles until a step's value can be used.
fn latency(step: &Step) -> usize {
    match step {
        Step::Unary(op, ..) | Step::UnaryBy(op, ..) | Step::Binary(op, ..) => match op {
            Op::FAdd | Op::FSub | Op::FMul | Op::FMax | Op::FMin | Op::ToF32 | Op::Round | Op::Truncate => 4,
            Op::IMul => 10,
            Op::FDiv => 24,
            Op::Sqrt => 32,
            _ => 1,
        },
        Step::Remainder(..) => 40,
        Step::Compare(..) | Step::ChooseBy(..) | Step::Choose(..) => 5,
        Step::Load(..) | Step::LoadOne(..) | Step::SplatRegister(..) => 7,
        Step::Prefetch(..) | Step::Keep(..) | Step::Store(..) | Step::StoreOne(..) | Step::Reduce(..) => 1,
    }
}
