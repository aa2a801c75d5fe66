//! Reductions along the columns: each lane of a row's partial results in the frame, combined after the last panel.

use ffc_ir::kernel::{At, Fold, Stage};

use super::super::asm::{ALL, Memory, Op, VECTOR, Width};
use super::Emitter;
use super::rows::Leads;
use crate::plan::{self, Plan};

impl Emitter<'_> {
    /// Sets the partial results of the chunk's rows to what changes nothing.
    pub(super) fn begin_reduces(&mut self, stage: &Stage) {
        if stage.reduces.is_empty() {
            return;
        }
        let mut leads = Leads::default();
        let partials = self.lead_frame(&mut leads, self.rooms.partials, stage.reduces.len() * VECTOR);
        for (number, reduce) in stage.reduces.iter().enumerate() {
            let nothing = match self.in_halves(stage) {
                true => 0x8000_8000,
                false => plan::neutral(reduce.op),
            };
            let nothing = self.asm.word(nothing);
            let to = u8::try_from(number % 32).expect("there are 32 registers");
            self.asm.load(Width::Wide, Op::Splat, to, Memory { splat: false, ..nothing }, ALL);
        }
        let count = stage.reduces.len();
        assert!(count <= 32, "stages reduce few values");
        self.rows(&leads, |emitter, _| {
            for number in 0..count {
                let to = partials.at(0, number * VECTOR);
                let value = u8::try_from(number).expect("there are 32 registers");
                emitter.asm.store(Width::Wide, Op::Store32, to, value, ALL);
            }
        });
    }

    /// Combines and stores them, for the rows that the stage covers.
    pub(super) fn end_reduces(&mut self, plan: &Plan<'_>) {
        let reduces = &plan.stage.reduces;
        if reduces.is_empty() {
            return;
        }
        let mut leads = Leads::default();
        let partials = self.lead_frame(&mut leads, self.rooms.partials, reduces.len() * VECTOR);
        let places: Vec<_> = reduces.iter().map(|reduce| (reduce.into, At::Row)).collect();
        self.lead_buffers(&mut leads, &places, false);
        self.rows_of(plan.stage, &leads, |emitter| {
            for (number, reduce) in reduces.iter().enumerate() {
                let from = partials.at(0, number * VECTOR);
                emitter.asm.load(Width::Wide, Op::Move, 0, from, ALL);
                if emitter.in_halves(plan.stage) {
                    emitter.widen_halves(0, 1);
                }
                emitter.asm.combine_lanes(folding(reduce.op), 0, 1);
                let to = leads.buffers[&(reduce.into, At::Row)].at(0, 0);
                let dtype = emitter.buffer(reduce.into).dtype;
                emitter.asm.store_register(dtype, to);
            }
        });
    }
}

/// How partial results combine.
pub(super) fn folding(op: Fold) -> Op {
    match op {
        Fold::SumI32 => Op::IAdd,
        Fold::SumF32 => Op::FAdd,
        Fold::MaxF32 => Op::FMax,
        Fold::MaxI32 => Op::IMax,
    }
}
