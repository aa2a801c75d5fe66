//! Which kernel and which stage each operation of a layer belongs to, and which values must be stored.

use std::collections::{HashMap, HashSet};

use ffc_ir::analysis::observes_forward;
use ffc_ir::kernel::Side;
use ffc_ir::module::{BinaryOp, Layer, Op, Region, UnaryOp, Value};
use ffc_ir::types::{Dim, Type};
use ffc_ir::{Handle, Window};

use super::Duty;

type V = Handle<Value>;

/// Where a value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Anywhere it is needed: a load from memory, or a few instructions from that.
    Anywhere,
    /// In this kernel, at this stage.
    Kernel { kernel: usize, stage: usize },
    /// It is another value, transposed.
    Turned(V),
}

/// A kernel and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Rows and columns of its domain.
    pub(super) shape: [Dim; 2],
    /// The contraction it began with.
    pub(super) dot: Option<V>,
    /// Its values, in order.
    pub(super) values: Vec<V>,
    /// Its effects, in order.
    pub(super) effects: Vec<V>,
    /// Values that the next layer reads and that are otherwise computed wherever they are needed.
    pub(super) exports: Vec<V>,
}

/// A part of a concatenation: a kernel stores it at its columns of the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) whole: V,
    pub(super) value: V,
    /// Its first column.
    pub(super) from: usize,
    pub(super) kernel: usize,
}

/// The kernels of a layer.
pub(super) struct Placement {
    pub(super) kernels: Vec<Group>,
    pub(super) homes: HashMap<V, Home>,
    /// What is put together in memory: never computed, but stored part by part.
    pub(super) parts: Vec<Part>,
    /// Values that contractions, transpositions and effects use: those want a kernel.
    wanted: HashSet<V>,
}

/// Values that need memory.
#[derive(Default)]
pub(super) struct Demand {
    /// As they are.
    pub(super) plain: Vec<V>,
    /// Transposed.
    pub(super) turned: Vec<V>,
    /// Those of `plain` that are read as matrices of their own, not element by element.
    pub(super) whole: HashSet<V>,
}

impl Demand {
    fn plain(&mut self, value: V) {
        if !self.plain.contains(&value) {
            self.plain.push(value);
        }
    }

    fn turned(&mut self, value: V) {
        if !self.turned.contains(&value) {
            self.turned.push(value);
        }
    }
}

/// Whether a value is one row or one column that lies in memory the same way transposed. Quantized values do not: each
/// of their rows is padded, for contractions.
pub(super) fn is_vector(ty: Type) -> bool {
    ty.dtype.bytes() == 4 && ty.shape.contains(&Dim::Const(1))
}

/// The operands of a value's operation.
fn operands(layer: &Layer, value: V) -> Vec<V> {
    let mut operands = Vec::new();
    layer.values[value].op.operands(|operand| operands.push(operand));
    operands
}

/// Whether an operation looks at a value as an image.
pub(super) fn looks_at(op: &Op, image: V) -> bool {
    match *op {
        Op::Window { value, .. } | Op::Pool { value, .. } | Op::Depthwise { value, .. } => value == image,
        Op::MaxGrad { output, grad, .. } => output == image || grad == image,
        Op::DepthwiseGrad { grad, value, .. } => grad == image || value == image,
        _ => false,
    }
}

/// Rows and columns in which filters are turned to lead back: a row for each tap of each channel, a column for each filter.
fn back_domain(weight: Type, groups: usize) -> [Dim; 2] {
    let [Dim::Const(rows), Dim::Const(columns)] = weight.shape else {
        unreachable!("a verified module's filters have fixed sizes")
    };
    [Dim::Const(columns * groups), Dim::Const(rows / groups)]
}

/// Whether an operation reads all its operands from memory, because it looks at several of their rows, or at other columns.
fn is_gather(op: &Op) -> bool {
    matches!(
        op,
        Op::Depthwise { .. }
            | Op::DepthwiseGrad { .. }
            | Op::Pool { .. }
            | Op::MaxGrad { .. }
            | Op::Slice { .. }
    )
}

/// The image that a contraction looks at where it finds this value on its left, or on its right: seen through a window
/// or not. On the right it is turned; the contraction turns it itself.
pub(super) fn image_of(layer: &Layer, operand: V, side: Side) -> Option<(V, Option<Window>)> {
    let source = match (side, &layer.values[operand].op) {
        (Side::Lhs, _) => operand,
        (Side::Rhs, Op::Transpose(source)) => *source,
        (Side::Rhs, _) => return None,
    };
    match layer.values[source].op {
        Op::Window { value, window } => Some((value, Some(window))),
        _ if layer.ty(source).is_image() => Some((source, None)),
        _ => None,
    }
}

/// The operands of contractions, transpositions and effects, and of what looks at other rows.
fn wanted(layer: &Layer) -> HashSet<V> {
    let mut wanted = HashSet::new();
    for (_, value) in layer.ops() {
        let op = &layer.values[value].op;
        let in_memory = matches!(
            op,
            Op::Transpose(_) | Op::Window { .. } | Op::Reshape(_) | Op::Dot { .. } | Op::Concat(..)
        );
        if op.is_effect() || in_memory || is_gather(op) {
            wanted.extend(operands(layer, value));
        }
    }
    wanted
}

/// Whether a value is one or two instructions from its operands.
fn is_simple(layer: &Layer, value: V) -> bool {
    match &layer.values[value].op {
        Op::Convert(_) | Op::Unary(UnaryOp::Neg | UnaryOp::Abs, _) => true,
        Op::Binary(op, ..) => !matches!(op, BinaryOp::Div),
        _ => false,
    }
}

/// Whether a transposed image is the right operand of contractions and nothing else.
fn is_turned_by_contractions(layer: &Layer, turned: V) -> bool {
    layer.values.values().all(|user| match user.op {
        Op::Dot { lhs, rhs } => lhs != turned && (rhs != turned || image_of(layer, rhs, Side::Rhs).is_some()),
        op => {
            let mut uses = false;
            op.operands(|operand| uses |= operand == turned);
            !uses
        }
    })
}

impl Placement {
    /// Places all operations of a layer.
    pub(super) fn of(layer: &Layer) -> Self {
        let mut placement =
            Self { kernels: Vec::new(), homes: HashMap::new(), parts: Vec::new(), wanted: wanted(layer) };
        for region in Region::ALL {
            for &value in layer.region(region) {
                placement.place(layer, value);
            }
            if region == Region::Forward {
                layer.outputs.iter().for_each(|&output| placement.export(layer, output));
            }
        }
        placement
    }

    /// Gives an output that is computed wherever it is needed a kernel that writes it down.
    fn export(&mut self, layer: &Layer, output: V) {
        // Images are never handed over transposed, and a concatenation is in memory as it is.
        let named = match layer.values[output].op {
            Op::Operand(_) | Op::Param(_) => true,
            Op::Concat(..) => layer.ty(output).is_image(),
            _ => false,
        };
        if self.homes[&output] == Home::Anywhere && !named {
            self.open_export(layer, output);
        }
    }

    /// A kernel that writes a value down.
    fn open_export(&mut self, layer: &Layer, value: V) -> usize {
        self.open(layer.ty(value).shape, None);
        let kernel = self.kernels.len() - 1;
        self.kernels[kernel].exports.push(value);
        kernel
    }

    /// Each part of a concatenation is stored by the kernel that makes it, or else by one that copies it.
    fn place_concat(&mut self, layer: &Layer, whole: V) {
        let is_inner = |user: &Value| matches!(user.op, Op::Concat(a, b) if a == whole || b == whole);
        let is_read = |user: &Value| {
            let mut reads = false;
            user.op.operands(|operand| reads |= operand == whole);
            reads && !is_inner(user)
        };
        if !layer.outputs.contains(&whole) && !layer.values.values().any(is_read) {
            return;
        }
        for (value, from) in layer.parts(whole) {
            let shape = layer.ty(value).shape;
            let kernel = match self.homes[&value] {
                Home::Kernel { kernel, .. }
                    if self.kernels[kernel].shape == shape
                        && !matches!(layer.values[value].op, Op::Reduce(..))
                        && !self.parts.iter().any(|part| part.whole == whole && part.value == value) =>
                {
                    kernel
                }
                _ => self.open_export(layer, value),
            };
            self.parts.push(Part { whole, value, from, kernel });
        }
    }

    fn place(&mut self, layer: &Layer, value: V) {
        let op = &layer.values[value].op;
        let shape = layer.ty(value).shape;
        if op.is_effect() {
            let kernel = self.effect_kernel(layer, value);
            self.kernels[kernel].effects.push(value);
            return;
        }
        let home = match *op {
            // A window is never written down, and a reshaped value lies where it lay.
            Op::Window { .. } | Op::Reshape(_) => Home::Anywhere,
            Op::Operand(_)
            | Op::Input
            | Op::Pixels { .. }
            | Op::Target
            | Op::Overlaid { .. }
            | Op::Polarity
            | Op::Control(_)
            | Op::Constant(_)
            | Op::Param(_)
            | Op::ScaleOf(_)
            | Op::OneHot { .. }
            | Op::Ahead => Home::Anywhere,
            Op::Concat(..) => {
                self.place_concat(layer, value);
                Home::Anywhere
            }
            Op::Transpose(source) => self.place_transpose(layer, value, source),
            Op::Dot { .. } | Op::Depthwise { .. } | Op::DepthwiseGrad { .. } => self.open(shape, Some(value)),
            Op::Back { weight, groups, .. } => self.open(back_domain(layer.ty(weight), groups), None),
            Op::Pool { .. } | Op::MaxGrad { .. } | Op::Slice { .. } => self.place_gather(layer, value),
            Op::Reduce(_, source) => self.place_reduce(layer, source),
            Op::Unary(..)
            | Op::Binary(..)
            | Op::Activate(..)
            | Op::ActivateGrad { .. }
            | Op::Convert(_)
            | Op::Overlay { .. }
            | Op::Splat(_)
            | Op::Quantize { .. } => self.place_elementwise(layer, value),
            Op::Publish(_)
            | Op::Score { .. }
            | Op::Report(_)
            | Op::Track { .. }
            | Op::Assign { .. }
            | Op::Sgd(_) => unreachable!("effects were placed above"),
        };
        if let Home::Kernel { kernel, .. } = home {
            self.kernels[kernel].values.push(value);
        }
        self.homes.insert(value, home);
    }

    fn open(&mut self, shape: [Dim; 2], dot: Option<V>) -> Home {
        self.kernels.push(Group { shape, dot, values: Vec::new(), effects: Vec::new(), exports: Vec::new() });
        Home::Kernel { kernel: self.kernels.len() - 1, stage: 0 }
    }

    fn place_transpose(&mut self, layer: &Layer, value: V, source: V) -> Home {
        match (self.homes[&source], &layer.values[source].op) {
            (Home::Kernel { .. }, _) => Home::Turned(source),
            // A matrix parameter is turned by a pass of its own; the layer before turns what it hands over.
            (_, Op::Param(_)) if !is_vector(layer.ty(source)) => self.open(layer.ty(value).shape, None),
            // So is what is put together, unless contractions turn it themselves.
            (_, Op::Concat(..)) if !is_turned_by_contractions(layer, value) => {
                self.open(layer.ty(value).shape, None)
            }
            _ => Home::Anywhere,
        }
    }

    /// What looks at other rows of its operands finds them in memory.
    fn place_gather(&mut self, layer: &Layer, value: V) -> Home {
        let operands = operands(layer, value);
        let latest = operands.iter().filter_map(|&operand| self.kernel_of(layer, operand)).max();
        self.join(layer.ty(value).shape, latest)
    }

    fn place_reduce(&mut self, layer: &Layer, source: V) -> Home {
        match self.homes[&source] {
            Home::Kernel { kernel, stage } if self.kernels[kernel].shape == layer.ty(source).shape => {
                Home::Kernel { kernel, stage }
            }
            _ => self.join(layer.ty(source).shape, self.kernel_of(layer, source)),
        }
    }

    fn place_elementwise(&mut self, layer: &Layer, value: V) -> Home {
        let shape = layer.ty(value).shape;
        let operands = operands(layer, value);
        let latest = operands.iter().filter_map(|&operand| self.kernel_of(layer, operand)).max();
        let in_memory = operands.iter().all(|operand| !matches!(self.homes[operand], Home::Kernel { .. }));
        let wanted = self.wanted.contains(&value) && !is_vector(layer.ty(value));
        if in_memory && wanted {
            return self.join(shape, latest);
        }
        if in_memory && (is_simple(layer, value) || (latest.is_none() && is_vector(layer.ty(value)))) {
            return Home::Anywhere;
        }
        let Some(kernel) = latest else { return self.open(shape, None) };
        let [rows, columns] = self.kernels[kernel].shape;
        let fits = shape == [rows, columns] || shape == [rows, Dim::Const(1)];
        // What comes transposed from memory is there only when the kernel that stores it has ended.
        if !fits || operands.iter().any(|&operand| self.is_turned_in(layer, operand, kernel)) {
            return self.join(shape, latest);
        }
        let stage = operands.iter().map(|&operand| self.stage_after(layer, operand, kernel)).max();
        Home::Kernel { kernel, stage: stage.unwrap_or(0) }
    }

    /// A kernel of this domain that runs after kernel `after`: one that is there already, or a new one. Vectors always
    /// get a new one: their kernels write state, which others may still have to read.
    fn join(&mut self, shape: [Dim; 2], after: Option<usize>) -> Home {
        if shape.contains(&Dim::Const(1)) {
            return self.open(shape, None);
        }
        let first = after.map_or(0, |kernel| kernel + 1);
        match (first..self.kernels.len()).find(|&kernel| self.kernels[kernel].shape == shape) {
            Some(kernel) => Home::Kernel { kernel, stage: 0 },
            None => self.open(shape, None),
        }
    }

    /// The kernel that has to run before a value can be used elsewhere.
    fn kernel_of(&self, layer: &Layer, value: V) -> Option<usize> {
        let of_parts = self.parts.iter().filter(|part| part.whole == value).map(|part| part.kernel).max();
        if of_parts.is_some() {
            return of_parts;
        }
        match self.homes[&value] {
            Home::Kernel { kernel, .. } => Some(kernel),
            Home::Turned(source) => self.kernel_of(layer, source),
            Home::Anywhere => {
                let operands = operands(layer, value);
                operands.into_iter().filter_map(|operand| self.kernel_of(layer, operand)).max()
            }
        }
    }

    /// Whether a value is made from something that `kernel` stores transposed.
    fn is_turned_in(&self, layer: &Layer, value: V, kernel: usize) -> bool {
        match self.homes[&value] {
            Home::Kernel { .. } => false,
            Home::Turned(source) => self.kernel_of(layer, source) == Some(kernel),
            Home::Anywhere => {
                operands(layer, value).into_iter().any(|operand| self.is_turned_in(layer, operand, kernel))
            }
        }
    }

    /// The first stage of `kernel` in which a value can be used.
    fn stage_after(&self, layer: &Layer, value: V, kernel: usize) -> usize {
        match self.homes[&value] {
            Home::Kernel { kernel: other, stage } if other == kernel => {
                stage + usize::from(matches!(layer.values[value].op, Op::Reduce(..)))
            }
            _ => 0,
        }
    }

    /// The value that an effect writes, seen through a transposed vector.
    pub(super) fn written(&self, layer: &Layer, effect: V) -> Option<V> {
        let value = match layer.values[effect].op {
            Op::Publish(value)
            | Op::Report(value)
            | Op::Score { value, .. }
            | Op::Track { observed: value, .. }
            | Op::Assign { value, .. } => value,
            Op::Sgd(sgd) => sgd.grad,
            _ => return None,
        };
        Some(match self.homes[&value] {
            Home::Turned(source) if is_vector(layer.ty(value)) => source,
            _ => value,
        })
    }

    fn effect_kernel(&mut self, layer: &Layer, effect: V) -> usize {
        let written = self.written(layer, effect).expect("every effect writes a value");
        match self.kernel_of(layer, written) {
            Some(kernel) => kernel,
            None => {
                self.open(layer.ty(written).shape, None);
                self.kernels.len() - 1
            }
        }
    }

    /// The stage at which an effect's value is known.
    pub(super) fn effect_stage(&self, layer: &Layer, effect: V, kernel: usize) -> usize {
        self.written(layer, effect).map_or(0, |value| self.stage_after(layer, value, kernel))
    }

    /// Whether a value in a kernel is one number per row of it.
    pub(super) fn is_per_row(&self, layer: &Layer, value: V, kernel: usize) -> bool {
        self.kernels[kernel].shape[1] != Dim::Const(1) && layer.ty(value).columns() == Dim::Const(1)
    }

    /// Whether a use of `value` in (`kernel`, `stage`) computes it on the spot.
    pub(super) fn is_at_hand(&self, layer: &Layer, value: V, kernel: usize, stage: usize) -> bool {
        match self.homes[&value] {
            Home::Anywhere => true,
            Home::Turned(_) => false,
            Home::Kernel { kernel: home, stage: at } => {
                let is_reduce = matches!(layer.values[value].op, Op::Reduce(..));
                home == kernel && !is_reduce && (at == stage || self.is_per_row(layer, value, kernel))
            }
        }
    }

    /// Whether a value is worth computing again rather than storing: a few instructions from quantized values,
    /// reductions and parameters.
    pub(super) fn is_cheap(&self, layer: &Layer, value: V) -> bool {
        is_simple(layer, value)
            && operands(layer, value).into_iter().all(|operand| match self.homes[&operand] {
                Home::Anywhere | Home::Turned(_) => true,
                Home::Kernel { .. } => {
                    matches!(layer.values[operand].op, Op::Quantize { .. } | Op::Reduce(..))
                        || self.is_cheap(layer, operand)
                }
            })
    }

    /// What has to be stored, for this layer's kernels and for later layers.
    pub(super) fn demand(&self, layer: &Layer, later: &[Layer]) -> Demand {
        let mut demand = Demand::default();
        for (index, kernel) in self.kernels.iter().enumerate() {
            for &value in &kernel.values {
                let op = &layer.values[value].op;
                match op {
                    Op::Dot { lhs, rhs } => {
                        for (side, operand) in [(Side::Lhs, *lhs), (Side::Rhs, *rhs)] {
                            let image = image_of(layer, operand, side).map(|(image, _)| image);
                            self.demand_stored(layer, image.unwrap_or(operand), &mut demand);
                        }
                    }
                    op if is_gather(op) => {
                        op.operands(|operand| self.demand_stored(layer, operand, &mut demand));
                    }
                    Op::Reduce(..) => demand.plain(value),
                    // Turned by its kernel, for a contraction or for loads elsewhere.
                    Op::Transpose(_) | Op::Back { .. } => demand.plain(value),
                    _ => {}
                }
                let Home::Kernel { stage, .. } = self.homes[&value] else { continue };
                if !matches!(op, Op::Dot { .. }) && !is_gather(op) {
                    op.operands(|operand| self.demand_use(layer, operand, index, stage, &mut demand));
                }
            }
            for &exported in &kernel.exports {
                self.demand_use(layer, exported, index, 0, &mut demand);
            }
            for &effect in &kernel.effects {
                let stage = self.effect_stage(layer, effect, index);
                layer.values[effect].op.operands(|operand| {
                    let vector = is_vector(layer.ty(operand));
                    let operand = match self.homes[&operand] {
                        Home::Turned(source) if vector => source,
                        _ => operand,
                    };
                    self.demand_use(layer, operand, index, stage, &mut demand);
                });
            }
        }
        for (position, &output) in layer.outputs.iter().enumerate() {
            if !matches!(layer.values[output].op, Op::Operand(_)) {
                self.demand_output(layer, output, position as u32, later, &mut demand);
            }
        }
        demand
    }

    /// Something reads a value from memory.
    fn demand_stored(&self, layer: &Layer, value: V, demand: &mut Demand) {
        match self.homes[&value] {
            Home::Anywhere => match layer.values[value].op {
                Op::Reshape(source) => self.demand_stored(layer, source, demand),
                Op::Concat(..) => demand.plain(value),
                _ => {}
            },
            Home::Kernel { .. } => {
                demand.plain(value);
                demand.whole.insert(value);
            }
            Home::Turned(source) if is_vector(layer.ty(source)) => demand.plain(source),
            Home::Turned(source) => demand.turned(source),
        }
    }

    /// An expression in (`kernel`, `stage`) uses a value.
    fn demand_use(&self, layer: &Layer, value: V, kernel: usize, stage: usize, demand: &mut Demand) {
        match self.homes[&value] {
            Home::Anywhere if matches!(layer.values[value].op, Op::Reshape(_) | Op::Concat(..)) => {
                self.demand_stored(layer, value, demand);
            }
            Home::Anywhere => {
                for operand in operands(layer, value) {
                    self.demand_use(layer, operand, kernel, stage, demand);
                }
            }
            Home::Turned(_) => self.demand_stored(layer, value, demand),
            Home::Kernel { .. } => {
                let again = self.is_at_hand(layer, value, kernel, stage);
                if !again && !self.is_cheap(layer, value) {
                    demand.plain(value);
                } else if !again || self.is_per_row(layer, value, kernel) {
                    layer.values[value]
                        .op
                        .operands(|operand| self.demand_use(layer, operand, kernel, stage, demand));
                }
            }
        }
    }

    /// What is handed over at `position`, to the first of `later` layers, and to others if that one hands it on.
    fn demand_output(&self, layer: &Layer, output: V, position: u32, later: &[Layer], demand: &mut Demand) {
        let Some((next, later)) = later.split_first() else { return };
        for (_, user) in next.ops() {
            let is_transpose =
                matches!(next.values[user].op, Op::Transpose(_)) && image_of(next, user, Side::Rhs).is_none();
            next.values[user].op.operands(|operand| {
                if next.values[operand].op != Op::Operand(position) {
                    return;
                }
                if is_transpose && !is_vector(layer.ty(output)) {
                    demand.turned(output);
                } else {
                    demand.plain(output);
                    demand.whole.insert(output);
                }
            });
        }
        for (handed, &value) in next.outputs.iter().enumerate() {
            if next.values[value].op == Op::Operand(position) {
                self.demand_output(layer, output, handed as u32, later, demand);
            }
        }
    }

    /// What schedules need to know of a kernel.
    pub(super) fn duty(&self, layer: &Layer, kernel: usize) -> Duty {
        let group = &self.kernels[kernel];
        let effect =
            |wanted: fn(&Op) -> bool| group.effects.iter().any(|&effect| wanted(&layer.values[effect].op));
        if effect(|op| matches!(op, Op::Sgd(_))) {
            return Duty::Optimize;
        }
        let forward: HashSet<V> = layer.forward.iter().copied().collect();
        if group.exports.iter().chain(&group.values).any(|value| forward.contains(value)) {
            return Duty::Forward;
        }
        let mut observed = group.effects.iter().filter_map(|&effect| match layer.values[effect].op {
            Op::Track { observed, .. } => Some(observed),
            _ => None,
        });
        if effect(|op| matches!(op, Op::Track { .. }))
            && observed.all(|observed| observes_forward(layer, observed))
        {
            return Duty::TrackForward;
        }
        Duty::Other
    }

    /// The regions a kernel's values come from, first to last: what it is named after.
    pub(super) fn region(&self, layer: &Layer, kernel: usize) -> Region {
        let group = &self.kernels[kernel];
        let mine = |value: &V| group.values.contains(value) || group.effects.contains(value);
        let first = Region::ALL.into_iter().find(|&region| layer.region(region).iter().any(mine));
        first.unwrap_or(Region::Forward)
    }
}
