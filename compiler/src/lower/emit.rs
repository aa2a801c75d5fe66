//! Writes the kernels of a placed layer: contraction, stages, expressions, stores.

use std::collections::HashMap;

use ffc_ir::kernel::{
    At, BufferClass, Contraction, Expr, Extent, Fold, Geometry, Kernel, KernelBuilder, Outside, Over, Plane,
    Reduce, Side, Stage, Store,
};
use ffc_ir::module::{Op, PoolOp, ReduceOp, Region, Rounding, Value};
use ffc_ir::numerics::{self, Arith};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Handle, Window, activation, elementwise};

use super::optimize::Optimizer;
use super::place::{Home, image_of, is_vector};
use super::{LayerLowering, LowerError, Sweep};

pub(super) type V = Handle<Value>;
pub(super) type E = Handle<Expr>;
pub(super) type Buf = Handle<ffc_ir::kernel::Buffer>;

/// A kernel being written.
pub(super) struct Writer {
    kernel: usize,
    pub(super) shape: [Dim; 2],
    pub(super) builder: KernelBuilder,
    /// Expressions of values, by the stage that uses them.
    known: HashMap<(V, usize), E>,
    stages: Vec<Stage>,
}

impl Writer {
    pub(super) fn stage(&mut self, over: Over, when: Option<E>, stores: Vec<Store>, reduces: Vec<Reduce>) {
        if !stores.is_empty() || !reduces.is_empty() {
            self.stages.push(Stage { over, when, stores, reduces });
        }
    }

    /// Which element of a buffer of this type an expression at (row, column) of the kernel's domain means.
    fn at(&self, ty: Type) -> At {
        match (ty.shape, self.shape) {
            // What there is once for all positions of an image.
            ([Dim::Rows(few), columns], [Dim::Rows(many), _]) if few != many => match columns {
                Dim::Const(1) => At::RowSample(many / few),
                _ => At::Sample(many / few),
            },
            _ => self.at_own(ty),
        }
    }

    fn at_own(&self, ty: Type) -> At {
        let one = Dim::Const(1);
        match ty.shape {
            // Rows of quantized values are padded, even where they have one column.
            _ if ty.dtype.bytes() < 4 => At::Element,
            [r, c] if r == one && c == one => At::Scalar,
            [_, c] if c == one => At::Row,
            [r, _] if r == one => At::Column,
            _ => At::Element,
        }
    }
}

/// What a stage writes, before it is known to be over elements or rows.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) elements: Vec<Store>,
    pub(super) rows: Vec<Store>,
    pub(super) reduces: Vec<Reduce>,
}

impl LayerLowering<'_> {
    /// A placed kernel, and those that follow it where it is an optimizer whose scale all channels share.
    pub(super) fn kernel(&mut self, kernel: usize) -> Result<Vec<Kernel>, LowerError> {
        let group = self.placement.kernels[kernel].clone();
        let mut writer = Writer {
            kernel,
            shape: group.shape,
            builder: KernelBuilder::default(),
            known: HashMap::new(),
            stages: Vec::new(),
        };
        let mut optimizer = None;
        for stage in 0..=self.last_stage(kernel) {
            let mut writes = Writes::default();
            for &value in &group.values {
                if self.placement.homes[&value] == (Home::Kernel { kernel, stage }) {
                    self.store_value(&mut writer, stage, value, &mut writes)?;
                }
            }
            for &exported in &group.exports {
                let value = self.value(&mut writer, 0, exported)?;
                self.stores(&writer, exported, value, &mut writes.elements)?;
            }
            for &effect in &group.effects {
                if self.placement.effect_stage(self.layer, effect, kernel) != stage {
                    continue;
                }
                match self.layer.values[effect].op {
                    Op::Sgd(sgd) => optimizer = self.optimize(&mut writer, sgd, group.dot, &mut writes)?,
                    _ => self.effect(&mut writer, stage, effect, &mut writes)?,
                }
            }
            writer.stage(Over::Rows, None, writes.rows, Vec::new());
            let gate =
                optimizer.as_ref().and_then(|optimizer: &Optimizer| optimizer.gate(&mut writer.builder));
            writer.stage(Over::Elements, gate, writes.elements, writes.reduces);
        }
        let contraction = group.dot.map(|dot| self.contraction(dot)).transpose()?;
        let name = self.kernel_name(kernel);
        let following = match optimizer {
            Some(optimizer) => self.rescale(&mut writer, &optimizer, &name),
            None => Vec::new(),
        };
        let kernel = self.finish(name, writer.shape, contraction, writer.builder, writer.stages);
        Ok(std::iter::once(kernel).chain(following).collect())
    }

    pub(super) fn finish(
        &self,
        name: String,
        shape: [Dim; 2],
        contraction: Option<Contraction>,
        builder: KernelBuilder,
        stages: Vec<Stage>,
    ) -> Kernel {
        let [rows, columns] = shape.map(|dim| self.extent(dim));
        Kernel { name, rows, columns, contraction, exprs: builder.finish(), stages }
    }

    fn last_stage(&self, kernel: usize) -> usize {
        let group = &self.placement.kernels[kernel];
        let values = group.values.iter().map(|value| match self.placement.homes[value] {
            Home::Kernel { stage, .. } => stage,
            _ => 0,
        });
        let effects =
            group.effects.iter().map(|&effect| self.placement.effect_stage(self.layer, effect, kernel));
        values.chain(effects).max().unwrap_or(0)
    }

    /// The sweep, the layer, and what the kernel does: the optimizer's parameter, or the last name of what it makes.
    fn kernel_name(&self, kernel: usize) -> String {
        let group = &self.placement.kernels[kernel];
        let sgd = group.effects.iter().find_map(|&effect| match self.layer.values[effect].op {
            Op::Sgd(sgd) => Some(sgd),
            _ => None,
        });
        let prefix = self.sweep.prefix();
        if let Some(sgd) = sgd {
            return format!("{prefix}{}.sgd", self.module.params[sgd.param].name);
        }
        let last = group.effects.last().or(group.values.last()).or(group.exports.last());
        let what = match self.placement.region(self.layer, kernel) {
            Region::Forward if group.dot.is_some() || self.index == 0 => "forward",
            Region::Head if group.dot.is_some() => "head",
            Region::LookAhead if group.dot.is_some() => "ahead",
            Region::Update if group.dot.is_some() => "gradient",
            _ => last.map_or("kernel", |&value| self.layer.values[value].name.as_str()),
        };
        format!("{prefix}{}.{what}", self.layer.name)
    }

    fn contraction(&mut self, value: V) -> Result<Contraction, LowerError> {
        let (lhs, rhs, depth, geometry) = match self.layer.values[value].op {
            Op::Dot { lhs, rhs } => {
                let depth = self.layer.ty(lhs).columns();
                match (self.look(lhs, Side::Lhs), self.look(rhs, Side::Rhs)) {
                    (Some((lhs, window)), _) => (lhs, rhs, depth, Geometry::Convolution(window)),
                    (_, Some((rhs, window))) => (lhs, rhs, depth, Geometry::ConvolutionGrad(window)),
                    _ => (lhs, rhs, depth, Geometry::Dense),
                }
            }
            Op::Depthwise { value, weight, window } => {
                (value, weight, Dim::Const(window.taps()), Geometry::Depthwise(window))
            }
            Op::DepthwiseGrad { grad, value, window } => {
                (grad, value, self.layer.ty(grad).rows(), Geometry::DepthwiseGrad(window))
            }
            _ => unreachable!("a kernel's contraction is a contraction"),
        };
        let depth = self.extent(depth);
        let non_negative = match (self.is_non_negative(lhs), self.is_non_negative(rhs)) {
            (true, _) => Some(Side::Lhs),
            (false, true) => Some(Side::Rhs),
            (false, false) => None,
        };
        Ok(Contraction { geometry, lhs: self.stored(lhs)?, rhs: self.stored(rhs)?, depth, non_negative })
    }

    /// The image that an operand of a contraction is, and the window through which it is seen.
    fn look(&self, operand: V, side: Side) -> Option<(V, Window)> {
        let (image, window) = image_of(self.layer, operand, side)?;
        let Dim::Rows(positions) = self.layer.ty(image).rows() else { return None };
        Some((image, window.unwrap_or(Window::identity([positions, 1]))))
    }

    /// What each position sees of an image, combined.
    fn pool(&mut self, writer: &mut Writer, op: PoolOp, image: V, window: &Window) -> Result<E, LowerError> {
        let buffer = self.stored(image)?;
        let float = self.layer.ty(image).dtype == DType::F32;
        let outside = match op {
            PoolOp::Sum => Outside::Zero,
            PoolOp::Max => Outside::Least,
        };
        let m = &mut writer.builder;
        let mut result = match (op, float) {
            (PoolOp::Sum, false) => m.i32(0),
            (PoolOp::Sum, true) => m.f32(0.0),
            (PoolOp::Max, false) => m.i32(i8::MIN.into()),
            (PoolOp::Max, true) => m.f32(f32::NEG_INFINITY),
        };
        for tap in 0..window.taps() {
            let seen = m.load(buffer, At::Window { window: (*window).into(), tap, outside });
            result = match (op, float) {
                (PoolOp::Sum, false) => m.iadd(result, seen),
                (PoolOp::Sum, true) => m.fadd(result, seen),
                (PoolOp::Max, false) => m.imax(result, seen),
                (PoolOp::Max, true) => m.fmax(result, seen),
            };
        }
        Ok(result)
    }

    /// The sum of the gradients of all results that see a position and are equal to it.
    fn max_grad(
        &mut self,
        writer: &mut Writer,
        [input, output, grad]: [V; 3],
        back: &Window,
    ) -> Result<E, LowerError> {
        let float = self.layer.ty(input).dtype == DType::F32;
        let [input, output, grad] = [self.stored(input)?, self.stored(output)?, self.stored(grad)?];
        let m = &mut writer.builder;
        let input = m.load(input, At::Element);
        let zero = m.f32(0.0);
        let mut sum = zero;
        for tap in 0..back.taps() {
            let at = At::Window { window: (*back).into(), tap, outside: Outside::Zero };
            let (output, grad) = (m.load(output, at), m.load(grad, at));
            let share = if float {
                let (less, more) = (m.flt(output, input), m.flt(input, output));
                let share = m.select(less, zero, grad);
                m.select(more, zero, share)
            } else {
                let largest = m.ieq(output, input);
                m.select(largest, grad, zero)
            };
            sum = m.fadd(sum, share);
        }
        Ok(sum)
    }

    fn input(&mut self) -> Buf {
        let shape = [Extent::Rows(1), Extent::Const(self.module.features)];
        self.lowering.shared(BufferClass::Input, "input", self.module.input, shape)
    }

    /// Where a value lies in memory, in the orientation in which it is named.
    fn stored(&mut self, value: V) -> Result<Buf, LowerError> {
        let ir = &self.layer.values[value];
        let buffer = match ir.op {
            Op::Param(param) => Some(self.lowering.param_plane(self.module, param, Plane::Value)),
            Op::ScaleOf(param) => Some(self.lowering.param_plane(self.module, param, Plane::Scale)),
            Op::Operand(n) => self.operands.get(n as usize).and_then(|operand| operand.plain),
            Op::Transpose(source) if is_vector(ir.ty) => Some(self.stored(source)?),
            Op::Reshape(source) => Some(self.stored(source)?),
            Op::Transpose(source) => match (&self.layer.values[source].op, self.plain.get(&value)) {
                (Op::Operand(n), _) => self.operands.get(*n as usize).and_then(|operand| operand.turned),
                (_, Some(&own)) => Some(own),
                (_, None) => self.turned.get(&source).copied(),
            },
            _ => self.plain.get(&value).copied(),
        };
        buffer.ok_or_else(|| self.error(format!("`{}` is not in memory where it is needed", ir.name)))
    }

    /// The stores and the reduction of one value of the kernel.
    fn store_value(
        &mut self,
        writer: &mut Writer,
        stage: usize,
        value: V,
        writes: &mut Writes,
    ) -> Result<(), LowerError> {
        if let Op::Reduce(op, source) = self.layer.values[value].op {
            let reduced = self.reduced(writer, stage, op, source)?;
            writes.reduces.push(Reduce {
                op: fold(op, self.layer.ty(value).dtype),
                value: reduced,
                into: self.plain[&value],
            });
            return Ok(());
        }
        let is_part = self.parts.contains_key(&value);
        if !is_part && !self.plain.contains_key(&value) && !self.turned.contains_key(&value) {
            return Ok(());
        }
        let expr = self.value(writer, stage, value)?;
        let per_row = self.placement.is_per_row(self.layer, value, writer.kernel);
        let stores = if per_row { &mut writes.rows } else { &mut writes.elements };
        self.stores(writer, value, expr, stores)?;
        self.note_live_rows(writer, value, expr, writes);
        Ok(())
    }

    /// Where a value's elements are.
    fn place_of(&self, writer: &Writer, value: V) -> Result<At, LowerError> {
        let ty = self.layer.ty(value);
        if let Op::Back { .. } = self.layer.values[value].op {
            return self.flat(Type { dtype: ty.dtype, shape: writer.shape });
        }
        if self.reshaped(value).is_some() { self.flat(ty) } else { Ok(writer.at(ty)) }
    }

    /// Where the elements of a matrix are that lies in memory in another shape.
    fn flat(&self, ty: Type) -> Result<At, LowerError> {
        match ty.columns() {
            Dim::Const(columns) => Ok(At::Flat(columns)),
            Dim::Rows(_) => Err(self.error(format!("{ty} has no fixed number of columns"))),
        }
    }

    /// Stores a value wherever it is wanted.
    fn stores(&self, writer: &Writer, value: V, expr: E, stores: &mut Vec<Store>) -> Result<(), LowerError> {
        let at = self.place_of(writer, value)?;
        let own = self.plain.get(&value).filter(|_| !self.is_concat(value));
        // A copy of a part is stored with the whole only.
        let is_own =
            !matches!(self.placement.homes[&value], Home::Kernel { kernel, .. } if kernel != writer.kernel);
        let plain = own.filter(|_| is_own).map(|&buffer| Store { buffer, at, value: expr });
        let turned = self.turned.get(&value).filter(|_| is_own);
        let turned = turned.map(|&buffer| Store { buffer, at: At::Transposed, value: expr });
        stores.extend(plain.into_iter().chain(turned));
        let parts = &self.placement.parts;
        for part in parts.iter().filter(|part| part.value == value && part.kernel == writer.kernel) {
            let whole = self.plain.get(&part.whole);
            stores.extend(whole.map(|&buffer| Store { buffer, at: At::Columns(part.from), value: expr }));
        }
        Ok(())
    }

    /// What a reduction adds up or compares.
    fn reduced(
        &mut self,
        writer: &mut Writer,
        stage: usize,
        op: ReduceOp,
        source: V,
    ) -> Result<E, LowerError> {
        let value = self.value(writer, stage, source)?;
        let m = &mut writer.builder;
        Ok(match op {
            ReduceOp::Sum | ReduceOp::Max => value,
            ReduceOp::AbsMax => elementwise::unary(m, ffc_ir::module::UnaryOp::Abs, value),
            ReduceOp::SumSquares if self.layer.ty(source).dtype == DType::F32 => m.fmul(value, value),
            ReduceOp::SumSquares => m.imul(value, value),
        })
    }

    /// The expression of a value in a stage.
    pub(super) fn value(&mut self, writer: &mut Writer, stage: usize, value: V) -> Result<E, LowerError> {
        if let Some(&known) = writer.known.get(&(value, stage)) {
            return Ok(known);
        }
        let computed = match self.placement.homes[&value] {
            Home::Anywhere => true,
            Home::Turned(_) => false,
            Home::Kernel { .. } => {
                self.placement.is_at_hand(self.layer, value, writer.kernel, stage)
                    || !(self.plain.contains_key(&value) || self.parts.contains_key(&value))
            }
        };
        let expr = if computed {
            self.compute(writer, stage, value)?
        } else if let (None, Some(&(whole, from))) = (self.plain.get(&value), self.parts.get(&value)) {
            writer.builder.load(whole, At::Columns(from))
        } else {
            let at = self.place_of(writer, value)?;
            let buffer = self.stored(value)?;
            writer.builder.load(buffer, at)
        };
        writer.known.insert((value, stage), expr);
        Ok(expr)
    }

    /// Computes a value on the spot.
    fn compute(&mut self, writer: &mut Writer, stage: usize, value: V) -> Result<E, LowerError> {
        let Value { op, ty, name } = self.layer.values[value].clone();
        let per_sample = self.rows_per_sample();
        let at = writer.at(ty);
        Ok(match op {
            Op::Constant(constant) => writer.builder.f32(constant),
            Op::Control(control) => {
                let buffer = self.control(control);
                writer.builder.load(buffer, At::Scalar)
            }
            Op::Operand(_) | Op::Param(_) | Op::ScaleOf(_) => {
                let buffer = self.stored(value)?;
                writer.builder.load(buffer, at)
            }
            Op::Transpose(source) => self.turned_load(writer, source, ty)?,
            Op::Back { weight, taps, groups } => {
                let buffer = self.stored(weight)?;
                let [filters, columns] =
                    self.lowering.program.buffers[buffer].shape.map(|extent| extent.size(1));
                let at = At::Back { taps, inputs: columns / taps, outputs: filters / groups };
                writer.builder.load(buffer, at)
            }
            Op::Reshape(source) => {
                let at = if ty.is_image() { at } else { self.flat(ty)? };
                let buffer = self.stored(source)?;
                writer.builder.load(buffer, at)
            }
            Op::Pixels { value, channels } if self.layer.values[value].op == Op::Input => {
                let buffer = self.input();
                let positions = self.module.features / channels;
                writer.builder.load(buffer, At::Planar { positions, copies: per_sample })
            }
            Op::Pool { op, value, window } => self.pool(writer, op, value, &window)?,
            Op::MaxGrad { input, output, grad, window } => {
                self.max_grad(writer, [input, output, grad], &window.back())?
            }
            Op::Slice { value, from, .. } => {
                let buffer = self.stored(value)?;
                writer.builder.load(buffer, At::Columns(from))
            }
            Op::Concat(..) => {
                let at = self.place_of(writer, value)?;
                let buffer = self.stored(value)?;
                writer.builder.load(buffer, at)
            }
            Op::Pixels { .. } | Op::Window { .. } => {
                return Err(self.error(format!("`{name}` stands where no kernel can look at it")));
            }
            Op::Input => {
                let buffer = self.input();
                let at = if per_sample == 1 { At::Element } else { At::Sample(per_sample) };
                writer.builder.load(buffer, at)
            }
            Op::Target => self.target(writer),
            Op::Overlaid { stream } => {
                let key = self.stream_key(writer, stream);
                let label = match self.module.rows {
                    ffc_ir::module::RowPlan::Contrast { .. } => self.target(writer),
                    // No label is known, and none is asked for.
                    _ => writer.builder.i32(0),
                };
                let row = writer.builder.expr(Expr::RowIndex);
                let (plan, classes) = (self.module.rows, self.module.classes);
                elementwise::overlaid_label(&mut writer.builder, plan, classes, key, row, label)
            }
            Op::Polarity => {
                let row = writer.builder.expr(Expr::RowIndex);
                elementwise::polarity(&mut writer.builder, self.module.rows, row)
            }
            Op::OneHot { labels, .. } => {
                let label = self.value(writer, stage, labels)?;
                let column = writer.builder.expr(Expr::ColumnIndex);
                elementwise::one_hot(&mut writer.builder, label, column)
            }
            Op::Overlay { value, labels, classes, on, off } => {
                let x = self.value(writer, stage, value)?;
                let label = self.value(writer, stage, labels)?;
                let column = writer.builder.expr(Expr::ColumnIndex);
                let code = elementwise::OverlayCode { classes, on, off };
                elementwise::overlay(&mut writer.builder, code, x, label, column)
            }
            Op::Dot { .. } | Op::Depthwise { .. } | Op::DepthwiseGrad { .. } => {
                writer.builder.expr(Expr::Accumulator)
            }
            Op::Unary(op, x) => {
                let x = self.value(writer, stage, x)?;
                elementwise::unary(&mut writer.builder, op, x)
            }
            Op::Binary(op, a, b) => {
                let a = self.value(writer, stage, a)?;
                let b = self.value(writer, stage, b)?;
                elementwise::binary(&mut writer.builder, op, a, b)
            }
            Op::Activate(function, x) => {
                let x = self.value(writer, stage, x)?;
                activation::activate(&mut writer.builder, function, x)
            }
            Op::ActivateGrad { activation: function, output, grad } => {
                let y = self.value(writer, stage, output)?;
                let grad = self.value(writer, stage, grad)?;
                activation::activate_grad(&mut writer.builder, function, y, grad)
            }
            Op::Convert(x) => {
                let x = self.value(writer, stage, x)?;
                writer.builder.to_f32(x)
            }
            Op::Splat(x) => self.value(writer, stage, x)?,
            Op::Quantize { value, scale, rounding } => {
                let x = self.value(writer, stage, value)?;
                let scale = self.value(writer, stage, scale)?;
                let noise = match rounding {
                    Rounding::Nearest => None,
                    Rounding::Stochastic(stream) => Some(self.noise(writer, stream)),
                };
                elementwise::quantize(&mut writer.builder, x, scale, noise)
            }
            Op::Ahead => self.ahead(writer, ty)?,
            Op::Reduce(..)
            | Op::Publish(_)
            | Op::Score { .. }
            | Op::Report(_)
            | Op::Track { .. }
            | Op::Assign { .. }
            | Op::Sgd(_) => return Err(self.error(format!("`{name}` cannot be computed on the spot"))),
        })
    }

    /// Loads a value that exists anyway, transposed.
    fn turned_load(&mut self, writer: &mut Writer, source: V, ty: Type) -> Result<E, LowerError> {
        let matrix = !is_vector(ty);
        if matrix && self.is_concat(source) {
            let buffer = self.stored(source)?;
            return Ok(writer.builder.load(buffer, At::Transposed));
        }
        if let (true, Op::Param(param)) = (matrix, &self.layer.values[source].op) {
            let buffer = self.lowering.param_plane(self.module, *param, Plane::Value);
            return Ok(writer.builder.load(buffer, At::Transposed));
        }
        if let (true, Op::Operand(n)) = (matrix, &self.layer.values[source].op) {
            let turned = self.operands.get(*n as usize).and_then(|operand| operand.turned);
            let buffer = turned.ok_or_else(|| self.error("an operand is not in memory transposed"))?;
            return Ok(writer.builder.load(buffer, At::Element));
        }
        let buffer = self.stored(source)?;
        let at = writer.at(ty);
        Ok(writer.builder.load(buffer, at))
    }

    fn target(&mut self, writer: &mut Writer) -> E {
        let shape = [Extent::Rows(1), Extent::Const(1)];
        let labels = self.lowering.shared(BufferClass::Labels, "labels", DType::I32, shape);
        let per_sample = self.rows_per_sample();
        let at = if per_sample == 1 { At::Row } else { At::RowSample(per_sample) };
        writer.builder.load(labels, at)
    }

    fn stream_key(&mut self, writer: &mut Writer, stream: u32) -> E {
        let key = self.key();
        let key = writer.builder.load(key, At::Scalar);
        numerics::stream_key(&mut writer.builder, key, stream)
    }

    pub(super) fn noise(&mut self, writer: &mut Writer, stream: u32) -> E {
        let key = self.stream_key(writer, stream);
        let row = writer.builder.expr(Expr::RowIndex);
        let column = writer.builder.expr(Expr::ColumnIndex);
        numerics::draw_half(&mut writer.builder, key, row, column)
    }

    /// The sum of what later layers published, in their order.
    fn ahead(&mut self, writer: &mut Writer, ty: Type) -> Result<E, LowerError> {
        let publishes = |layer: &ffc_ir::module::Layer| {
            layer.look_ahead.iter().any(|&value| matches!(layer.values[value].op, Op::Publish(_)))
        };
        let later = self.index + 1..self.module.layers.len();
        let later: Vec<usize> = later.filter(|&layer| publishes(&self.module.layers[layer])).collect();
        let mut sum = None;
        for layer in later {
            let buffer = self.published(layer, ty);
            let at = writer.at(ty);
            let published = writer.builder.load(buffer, at);
            sum = Some(match sum {
                None => published,
                Some(sum) => writer.builder.fadd(sum, published),
            });
        }
        sum.ok_or_else(|| self.error("looks ahead, but no later layer publishes its error"))
    }

    /// An effect other than the optimizer's.
    fn effect(
        &mut self,
        writer: &mut Writer,
        stage: usize,
        effect: V,
        writes: &mut Writes,
    ) -> Result<(), LowerError> {
        let op = self.layer.values[effect].op;
        let written = self.placement.written(self.layer, effect).expect("every effect writes a value");
        let ty = self.layer.ty(written);
        let mut at = writer.at(ty);
        let mut expr = self.value(writer, stage, written)?;
        let buffer = match op {
            Op::Report(_) => self.loss()?,
            Op::Track { param, decay, .. } => {
                let buffer = self.lowering.param_plane(self.module, param, Plane::Value);
                let range = writer.builder.load(buffer, At::Scalar);
                expr = elementwise::track(&mut writer.builder, range, expr, decay);
                buffer
            }
            Op::Assign { param, .. } => self.lowering.param_plane(self.module, param, Plane::Value),
            // The second sweep has no use for it.
            Op::Publish(_) if self.sweep == Sweep::Train => return Ok(()),
            Op::Publish(_) => self.published(self.index, ty),
            Op::Score { accumulate, .. } => {
                let buffer = self.scores();
                if accumulate {
                    let before = writer.builder.load(buffer, at);
                    expr = writer.builder.fadd(before, expr);
                }
                buffer
            }
            _ => return Err(self.error("an effect that lowering does not know")),
        };
        if matches!(op, Op::Report(_) | Op::Track { .. }) {
            at = At::Scalar;
        }
        let per_row = self.placement.is_per_row(self.layer, written, writer.kernel) || at == At::Scalar;
        let stores = if per_row { &mut writes.rows } else { &mut writes.elements };
        stores.push(Store { buffer, at, value: expr });
        Ok(())
    }
}

fn fold(op: ReduceOp, dtype: DType) -> Fold {
    match (op, dtype) {
        (ReduceOp::Max | ReduceOp::AbsMax, _) => Fold::MaxF32,
        (_, DType::F32) => Fold::SumF32,
        _ => Fold::SumI32,
    }
}
