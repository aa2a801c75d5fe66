//! Loops and branches, so that no other file deals with basic blocks.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};

use super::Emitter;

impl Emitter<'_> {
    /// Runs the body for `from`, `from + step`, ... as long as a whole step fits below `to`; gives the first that does
    /// not.
    pub(super) fn steps(
        &mut self,
        from: Value,
        to: Value,
        step: usize,
        body: impl FnOnce(&mut Self, Value),
    ) -> Value {
        self.fold(from, to, step, &[], |emitter, at, _| {
            body(emitter, at);
            Vec::new()
        })
        .0
    }

    /// [`Emitter::steps`] with values that go from one step to the next; gives those of the last step, too.
    pub(super) fn fold(
        &mut self,
        from: Value,
        to: Value,
        step: usize,
        start: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> (Value, Vec<Value>) {
        let step = i64::try_from(step).expect("steps are small");
        let limit = self.b.ins().iadd_imm_s(to, 1 - step);
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        for block in [head, exit] {
            self.b.append_block_param(block, types::I64);
            for &value in start {
                let ty = self.b.func.dfg.value_type(value);
                self.b.append_block_param(block, ty);
            }
        }
        let arguments = |at: Value, values: &[Value]| -> Vec<BlockArg> {
            std::iter::once(at).chain(values.iter().copied()).map(BlockArg::from).collect()
        };
        let entering = arguments(from, start);
        let enter = self.b.ins().icmp(IntCC::SignedLessThan, from, limit);
        self.b.ins().brif(enter, head, &entering, exit, &entering);
        self.b.switch_to_block(head);
        let params = self.b.block_params(head).to_vec();
        let results = body(self, params[0], &params[1..]);
        let next = self.b.ins().iadd_imm_s(params[0], step);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next, limit);
        let leaving = arguments(next, &results);
        self.b.ins().brif(again, head, &leaving, exit, &leaving);
        self.b.switch_to_block(exit);
        let params = self.b.block_params(exit);
        (params[0], params[1..].to_vec())
    }

    /// Runs the body for pieces of `from..to`, all of `step` but perhaps the last.
    pub(super) fn pieces(
        &mut self,
        from: Value,
        to: Value,
        step: usize,
        body: impl FnOnce(&mut Self, Value, Value),
    ) {
        let size = i64::try_from(step).expect("steps are small");
        // Rounding `to` up makes every piece a whole step.
        let rounded = self.b.ins().isub(to, from);
        let rounded = self.b.ins().iadd_imm_s(rounded, size - 1);
        let limit = self.b.ins().iadd(from, rounded);
        self.steps(from, limit, step, |emitter, at| {
            let end = emitter.b.ins().iadd_imm_s(at, size);
            let end = emitter.least(end, to);
            body(emitter, at, end);
        });
    }

    /// Runs the body where the condition is not 0.
    pub(super) fn when(&mut self, condition: Value, body: impl FnOnce(&mut Self)) {
        let (then, exit) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, then, &[], exit, &[]);
        self.b.switch_to_block(then);
        body(self);
        self.b.ins().jump(exit, &[]);
        self.b.switch_to_block(exit);
    }

    /// Whether `a < b`, for sizes.
    pub(super) fn less(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().icmp(IntCC::SignedLessThan, a, b)
    }

    /// The smaller of two sizes.
    pub(super) fn least(&mut self, a: Value, b: Value) -> Value {
        let less = self.less(a, b);
        self.b.ins().select(less, a, b)
    }

    /// A size rounded up to a multiple of a power of two.
    pub(super) fn round_up(&mut self, value: Value, to: usize) -> Value {
        let to = i64::try_from(to).expect("paddings are small");
        let value = self.b.ins().iadd_imm_s(value, to - 1);
        self.b.ins().band_imm_s(value, -to)
    }
}
