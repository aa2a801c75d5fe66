//! The optimizer's kernels: the update in the epilogue of the weight gradient, and the rescaling of what saturated.

use ffc_ir::elementwise;
use ffc_ir::kernel::{At, BufferClass, Fold, Kernel, KernelBuilder, Over, Plane, Reduce, Stage, Store};
use ffc_ir::module::{Granularity, Op, ParamStorage, Sgd};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::{DType, Dim, Type};

use super::emit::{Buf, E, V, Writer, Writes};
use super::{LayerLowering, LowerError, Sweep};

/// Rows of a batch up to which updates look for rows without a gradient. With more, hardly any is.
const FEW_ROWS: usize = 8;

/// An optimizer whose stages after the update have still to be written.
pub(super) struct Optimizer {
    sgd: Sgd,
    granularity: Granularity,
    saturated: Buf,
    /// Positive for rows that have a gradient; `None` where all are taken to have one.
    live: Option<Buf>,
}

impl Optimizer {
    /// Whether the update changes a row.
    pub(super) fn gate(&self, m: &mut KernelBuilder) -> Option<E> {
        self.live.map(|live| m.load(live, At::Row))
    }

    /// Whether a row of this update saturated. Rows that were left out did not say.
    fn saturated(&self, m: &mut KernelBuilder) -> E {
        let saturated = m.load(self.saturated, At::Row);
        let Some(live) = self.gate(m) else { return saturated };
        let zero = m.i32(0);
        let live = m.ilt(zero, live);
        m.and(live, saturated)
    }
}

impl LayerLowering<'_> {
    /// The update of each element, in the epilogue of its gradient.
    pub(super) fn optimize(
        &mut self,
        writer: &mut Writer,
        sgd: Sgd,
        dot: Option<V>,
        writes: &mut Writes,
    ) -> Result<Option<Optimizer>, LowerError> {
        let gradient = self.value(writer, 0, sgd.grad)?;
        let factor = self.value(writer, 0, sgd.factor)?;
        let value = self.lowering.param_plane(self.module, sgd.param, Plane::Value);
        let velocity = sgd
            .momentum
            .map(|(param, momentum)| (self.lowering.param_plane(self.module, param, Plane::Value), momentum));
        let m = &mut writer.builder;
        let old_velocity = velocity.map(|(buffer, momentum)| {
            let load = m.load(buffer, At::Element);
            (load, m.f32(momentum))
        });
        let ParamStorage::Fixed16(granularity) = self.module.params[sgd.param].storage else {
            let weight = m.load(value, At::Element);
            let (weight, moved) = elementwise::sgd_float(m, weight, gradient, factor, old_velocity);
            writes.elements.push(Store { buffer: value, at: At::Element, value: weight });
            let moved =
                velocity.zip(moved).map(|((buffer, _), value)| Store { buffer, at: At::Element, value });
            writes.elements.extend(moved);
            return Ok(None);
        };
        let low = self.lowering.param_plane(self.module, sgd.param, Plane::Low);
        let scale = self.lowering.param_plane(self.module, sgd.param, Plane::Scale);
        let noise = self.noise(writer, sgd.stream);
        let m = &mut writer.builder;
        let scale = m.load(scale, scale_at(granularity));
        let factor = elementwise::fixed_factor(m, factor, scale);
        let gradient = m.to_f32(gradient);
        let (high_byte, low_byte) = (m.load(value, At::Element), m.load(low, At::Element));
        let weight = numerics::join_planes(m, high_byte, low_byte);
        let old_velocity = old_velocity.map(|(velocity, momentum)| (m.to_f32(velocity), momentum));
        let step = numerics::sgd_step(m, weight, gradient, factor, noise, old_velocity);
        writes.elements.extend(planes(m, [value, low], step.weight));
        let moved =
            velocity.zip(step.velocity).map(|((buffer, _), value)| Store { buffer, at: At::Element, value });
        writes.elements.extend(moved);
        let rows = Type::new(DType::I32, writer.shape[0], Dim::Const(1));
        let name = format!("{}.saturated", self.module.params[sgd.param].name);
        let saturated = self.arena_buffer(name, rows, BufferClass::Arena);
        writes.reduces.push(Reduce { op: Fold::MaxI32, value: step.saturated, into: saturated });
        // A velocity goes on without a gradient.
        let live = dot.filter(|_| velocity.is_none() && granularity == Granularity::Channel);
        let live = live.and_then(|dot| match self.layer.values[dot].op {
            Op::Dot { lhs, .. } => self.live.get(&lhs).copied(),
            _ => None,
        });
        Ok(Some(Optimizer { sgd, granularity, saturated, live }))
    }

    /// Reduces rows of a quantized gradient to whether they hold anything, where batches are so small that many do not:
    /// those of units that are not active, or that the few samples say nothing to. Their weights would be rounded to
    /// what they are: a step of 0 and a random number below one.
    pub(super) fn note_live_rows(&mut self, writer: &mut Writer, value: V, expr: E, writes: &mut Writes) {
        let ty = self.layer.ty(value);
        let stored = self.plain.contains_key(&value) && ty.dtype == DType::I8;
        if self.sweep != Sweep::Train || self.module.batch_rows() > FEW_ROWS || !stored {
            return;
        }
        let op = |value: V| self.layer.values[value].op;
        let updates = self.placement.kernels.iter().any(|group| {
            let lhs = group.dot.map(op).is_some_and(|op| matches!(op, Op::Dot { lhs, .. } if lhs == value));
            lhs && group.effects.iter().any(|&effect| matches!(op(effect), Op::Sgd(_)))
        });
        if !updates {
            return;
        }
        let rows = Type::new(DType::I32, writer.shape[0], Dim::Const(1));
        let name = format!("{}.{}.live", self.layer.name, self.layer.values[value].name);
        let live = self.arena_buffer(name, rows, BufferClass::Arena);
        let square = writer.builder.imul(expr, expr);
        writes.reduces.push(Reduce { op: Fold::MaxI32, value: square, into: live });
        self.live.insert(value, live);
    }

    /// Doubles the scale of what saturated and halves its elements: channel by channel in the same kernel, or all of a
    /// tensor in two kernels of their own.
    pub(super) fn rescale(&mut self, writer: &mut Writer, optimizer: &Optimizer, name: &str) -> Vec<Kernel> {
        let Optimizer { sgd, granularity, saturated, .. } = optimizer;
        let scale = self.lowering.param_plane(self.module, sgd.param, Plane::Scale);
        match granularity {
            Granularity::Channel => {
                let flag = optimizer.saturated(&mut writer.builder);
                let halves = self.halves(&mut writer.builder, sgd);
                writer.stage(Over::Elements, Some(flag), halves, Vec::new());
                let doubled = doubled(&mut writer.builder, scale, At::Row);
                writer.stage(Over::Rows, Some(flag), vec![doubled], Vec::new());
                Vec::new()
            }
            Granularity::Tensor => {
                let any_type = Type::new(DType::I32, Dim::Const(1), Dim::Const(1));
                let any_name = format!("{}.saturated.any", self.module.params[sgd.param].name);
                let any = self.arena_buffer(any_name, any_type, BufferClass::Arena);
                vec![
                    self.any_saturated(writer.shape, name, *saturated, any, scale),
                    self.halve_all(writer.shape, name, any, sgd),
                ]
            }
        }
    }

    /// Whether any row saturated, and the doubled scale.
    fn any_saturated(&mut self, shape: [Dim; 2], name: &str, saturated: Buf, any: Buf, scale: Buf) -> Kernel {
        let shape = [Dim::Const(1), shape[0]];
        let mut m = KernelBuilder::default();
        let flag = m.load(saturated, At::Column);
        let reduce = Reduce { op: Fold::MaxI32, value: flag, into: any };
        let when = m.load(any, At::Scalar);
        let doubled = doubled(&mut m, scale, At::Scalar);
        let stages = vec![
            Stage { over: Over::Elements, when: None, stores: Vec::new(), reduces: vec![reduce] },
            Stage { over: Over::Rows, when: Some(when), stores: vec![doubled], reduces: Vec::new() },
        ];
        self.finish(format!("{name}.saturated"), shape, None, m, stages)
    }

    fn halve_all(&mut self, shape: [Dim; 2], name: &str, any: Buf, sgd: &Sgd) -> Kernel {
        let mut m = KernelBuilder::default();
        let when = m.load(any, At::Scalar);
        let stores = self.halves(&mut m, sgd);
        let stages = vec![Stage { over: Over::Elements, when: Some(when), stores, reduces: Vec::new() }];
        self.finish(format!("{name}.rescale"), shape, None, m, stages)
    }

    fn halves(&mut self, m: &mut KernelBuilder, sgd: &Sgd) -> Vec<Store> {
        let value = self.lowering.param_plane(self.module, sgd.param, Plane::Value);
        let low = self.lowering.param_plane(self.module, sgd.param, Plane::Low);
        let (high_byte, low_byte) = (m.load(value, At::Element), m.load(low, At::Element));
        let weight = numerics::join_planes(m, high_byte, low_byte);
        let half = numerics::halve(m, weight);
        let mut stores = planes(m, [value, low], half).to_vec();
        if let Some((velocity, _)) = sgd.momentum {
            let buffer = self.lowering.param_plane(self.module, velocity, Plane::Value);
            let velocity = m.load(buffer, At::Element);
            let half = numerics::halve(m, velocity);
            stores.push(Store { buffer, at: At::Element, value: half });
        }
        stores
    }
}

fn scale_at(granularity: Granularity) -> At {
    match granularity {
        Granularity::Channel => At::Row,
        Granularity::Tensor => At::Scalar,
    }
}

/// Stores a fixed-point weight as its two planes.
fn planes(m: &mut KernelBuilder, [high, low]: [Buf; 2], weight: E) -> [Store; 2] {
    let rounded = numerics::high_plane(m, weight);
    // A store keeps the lowest byte, and that is the lower plane.
    [(high, rounded), (low, weight)].map(|(buffer, value)| Store { buffer, at: At::Element, value })
}

fn doubled(m: &mut KernelBuilder, scale: Buf, at: At) -> Store {
    let value = m.load(scale, at);
    let value = m.fadd(value, value);
    Store { buffer: scale, at, value }
}
