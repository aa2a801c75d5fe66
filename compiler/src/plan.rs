//! The memory plan: where every buffer lies.
//!
//! Parameters and state lie one behind the other. Everything else of a step shares one arena: a buffer needs its bytes
//! from the kernel that first writes it to the one that last reads it, in every schedule in which it appears, and two
//! buffers whose times do not meet may lie in the same place. Larger buffers choose first, each the lowest place that
//! is free during its time. Nothing is allocated while a step runs, and nothing outlives its layer but what the next
//! layer reads, so the arena does not grow with the number of layers.

use std::collections::HashMap;
use std::ops::Range;

use ffc_ir::Handle;
use ffc_ir::kernel::{Buffer, BufferClass, Kernel, Program, ROW_ALIGN};

/// The positions in a schedule at which a buffer is needed.
struct Life {
    buffer: Handle<Buffer>,
    bytes: usize,
    /// Per schedule, first to last kernel.
    times: Vec<Option<(usize, usize)>>,
}

impl Life {
    fn meets(&self, other: &Self) -> bool {
        self.times.iter().zip(&other.times).any(|times| match times {
            (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
            _ => false,
        })
    }
}

/// Assigns offsets to all buffers and sets the program's sizes.
pub fn place_buffers(program: &mut Program) {
    place_state(program);
    let accumulators = place_accumulators(program);
    let mut lives = lives(program);
    lives.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.buffer));
    let mut placed: Vec<(Life, Range<usize>)> = Vec::new();
    let mut end = accumulators;
    for life in lives {
        let offset = lowest_free(&placed, &life, accumulators);
        end = end.max(offset + life.bytes);
        program.buffers[life.buffer].offset = offset;
        let range = offset..offset + life.bytes;
        placed.push((life, range));
    }
    program.arena_bytes = end;
}

fn place_state(program: &mut Program) {
    let handles: Vec<_> = program.buffers.iter().map(|(handle, _)| handle).collect();
    let mut offset = 0;
    for handle in handles {
        let buffer = &mut program.buffers[handle];
        if matches!(buffer.class, BufferClass::Param { .. }) {
            buffer.offset = offset;
            offset += buffer.bytes();
        }
    }
    program.state_bytes = offset;
}

/// Accumulators lie at the start of the arena, overlapped by nothing; gives their end.
fn place_accumulators(program: &mut Program) -> usize {
    let handles: Vec<_> = program.buffers.iter().map(|(handle, _)| handle).collect();
    let mut offset = 0;
    for handle in handles {
        let buffer = &mut program.buffers[handle];
        if buffer.class == BufferClass::Accumulator {
            buffer.offset = offset;
            offset += buffer.bytes();
        }
    }
    offset
}

/// The schedules that decide what may overlap. One that leaves out some kernels of another, in the same order, has nothing
/// to add: where two buffers' times do not meet there, they do not meet here.
fn deciding(program: &Program) -> Vec<&[Handle<Kernel>]> {
    let mut deciding: Vec<&[Handle<Kernel>]> = Vec::new();
    let mut all: Vec<_> = program.schedules.iter().map(|schedule| schedule.kernels.as_slice()).collect();
    all.sort_by_key(|kernels| std::cmp::Reverse(kernels.len()));
    for kernels in all {
        let leaves_out = |whole: &&[Handle<Kernel>]| {
            let mut whole = whole.iter();
            kernels.iter().all(|kernel| whole.any(|other| other == kernel))
        };
        if !deciding.iter().any(leaves_out) {
            deciding.push(kernels);
        }
    }
    deciding
}

fn lives(program: &Program) -> Vec<Life> {
    let deciding = deciding(program);
    let schedules = deciding.len();
    let mut lives: Vec<Life> = program
        .buffers
        .iter()
        .filter(|(_, buffer)| buffer.class == BufferClass::Arena)
        .map(|(handle, buffer)| Life { buffer: handle, bytes: buffer.bytes(), times: vec![None; schedules] })
        .collect();
    let places: HashMap<Handle<Buffer>, usize> =
        lives.iter().enumerate().map(|(place, life)| (life.buffer, place)).collect();
    for (schedule, kernels) in deciding.into_iter().enumerate() {
        for (time, &kernel) in kernels.iter().enumerate() {
            let kernel = &program.kernels[kernel];
            for buffer in kernel.reads().into_iter().chain(kernel.writes()) {
                let Some(life) = places.get(&buffer).map(|&place| &mut lives[place]) else { continue };
                let (first, last) = life.times[schedule].get_or_insert((time, time));
                *first = (*first).min(time);
                *last = (*last).max(time);
            }
        }
    }
    lives
}

/// The lowest offset from `start` at which `life` overlaps no buffer that it meets.
fn lowest_free(placed: &[(Life, Range<usize>)], life: &Life, start: usize) -> usize {
    let mut taken: Vec<&Range<usize>> =
        placed.iter().filter(|(other, _)| other.meets(life)).map(|(_, range)| range).collect();
    taken.sort_by_key(|range| range.start);
    let mut offset = start;
    for range in taken {
        if range.start >= offset + life.bytes {
            break;
        }
        offset = offset.max(range.end);
    }
    debug_assert!(offset.is_multiple_of(ROW_ALIGN));
    offset
}
