//! What each operation gives.

use super::{Machine, Samples, Tensor, Values};
use crate::activation::{activate, activate_grad};
use crate::arena::Handle;
use crate::diagnostics::{Diagnostic, Location};
use crate::elementwise::{self, OverlayCode};
use crate::module::{Control, Layer, Op, Phase, PoolOp, ReduceOp, Rounding, RowPlan, Value};
use crate::numerics::{Arith, Number, Scalar, draw_half, ordered_sum, stream_key};
use crate::types::{DType, Dim, Type};
use crate::window::Window;

/// The position of an element, as the draws want it.
pub(super) fn index(position: usize) -> Number {
    Number::I32(position as i32)
}

impl Machine<'_> {
    /// Evaluates the wanted values of a layer; effects have none.
    pub(super) fn evaluate(
        &self,
        layer: usize,
        operands: &[Tensor],
        ahead: Option<&Tensor>,
        wanted: &[bool],
    ) -> Result<Values, Diagnostic> {
        let layer = &self.module.layers[layer];
        let mut values: Values = vec![None; layer.values.len()];
        for (_, handle) in layer.ops() {
            let value = &layer.values[handle];
            if !wanted[handle.index()] || value.op.is_effect() {
                continue;
            }
            let tensor = match value.op {
                Op::Operand(position) => self.operand(operands, position),
                Op::Ahead => ahead.cloned().unwrap_or_else(|| self.zeros(value.ty)),
                Op::Target | Op::Overlaid { .. } if self.lacks_labels(&value.op) => {
                    return Err(no_labels(layer, value));
                }
                _ => self.source(value).unwrap_or_else(|| self.function(value, &values)),
            };
            debug_assert_eq!(tensor.dtype(), value.ty.dtype, "%{} of {}", value.name, layer.name);
            values[handle.index()] = Some(tensor);
        }
        Ok(values)
    }

    fn size(&self, dim: Dim) -> usize {
        match dim {
            Dim::Rows(n) => self.rows * n,
            Dim::Const(size) => size,
        }
    }

    fn zeros(&self, ty: Type) -> Tensor {
        Tensor::zeros(ty.dtype, self.size(ty.rows()), self.size(ty.columns()))
    }

    fn per_sample(&self) -> usize {
        self.module.rows.rows_per_sample(self.module.classes)
    }

    /// What the layer before handed over; in an imported module the samples.
    fn operand(&self, operands: &[Tensor], position: u32) -> Tensor {
        if self.module.phase == Phase::Imported {
            let samples = self.samples();
            return Tensor::f32(samples.rows, samples.columns, samples.to_f32s());
        }
        operands[position as usize].clone()
    }

    fn samples(&self) -> Tensor {
        let features = self.module.features;
        Tensor::fill(self.module.input, self.rows, features, |row, column| {
            let position = row / self.per_sample() * features + column;
            match self.batch.inputs {
                Samples::U8(data) => Number::I32(data[position].into()),
                Samples::F32(data) => Number::F32(data[position]),
            }
        })
    }

    fn lacks_labels(&self, op: &Op) -> bool {
        let tried = matches!(self.module.rows, RowPlan::Contrast { .. });
        self.batch.labels.is_empty() && (matches!(op, Op::Target) || tried)
    }

    /// The label of a row's sample; any where labels are not needed.
    fn label(&self, row: usize) -> Number {
        Number::I32(self.batch.labels.get(row / self.per_sample()).copied().unwrap_or(0))
    }

    /// Operations without operands.
    fn source(&self, value: &Value) -> Option<Tensor> {
        let (plan, classes) = (self.module.rows, self.module.classes);
        let m = &mut Scalar;
        Some(match value.op {
            Op::Input => self.samples(),
            Op::Target => Tensor::fill(DType::I32, self.rows, 1, |row, _| self.label(row)),
            Op::Overlaid { stream } => {
                let key = stream_key(m, Number::I32(self.controls.key), stream);
                Tensor::fill(DType::I32, self.rows, 1, |row, _| {
                    elementwise::overlaid_label(m, plan, classes, key, index(row), self.label(row))
                })
            }
            Op::Polarity => {
                Tensor::fill(DType::F32, self.rows, 1, |row, _| elementwise::polarity(m, plan, index(row)))
            }
            Op::Control(Control::Rate) => Tensor::scalar(self.controls.rate),
            Op::Control(Control::Lambda) => Tensor::scalar(self.controls.lambda),
            Op::Constant(constant) => Tensor::scalar(constant),
            Op::Param(param) => self.state.read(param),
            Op::ScaleOf(param) => self.state.scales(param),
            _ => return None,
        })
    }

    /// Operations on operands.
    fn function(&self, value: &Value, values: &Values) -> Tensor {
        let m = &mut Scalar;
        let of = |operand: Handle<Value>| operand_of(values, operand);
        // An element of an operand, broadcast to the result's shape.
        let [rows, columns] = value.ty.shape.map(|dim| self.size(dim));
        let at = |operand: Handle<Value>, row: usize, column: usize| {
            let x = of(operand);
            x.number(row * x.rows / rows * x.columns + column * x.columns / columns)
        };
        // The result's type and shape, for operations on each element alone.
        let fill = |element: &mut dyn FnMut(usize, usize) -> Number| {
            Tensor::fill(value.ty.dtype, rows, columns, element)
        };
        match value.op {
            Op::Dot { lhs, rhs } => dot(of(lhs), of(rhs)),
            Op::Slice { value: x, from, .. } => fill(&mut |i, j| of(x).at(i, from + j)),
            Op::Concat(a, b) => fill(&mut |i, j| match j.checked_sub(of(a).columns) {
                None => of(a).at(i, j),
                Some(j) => of(b).at(i, j),
            }),
            Op::Transpose(x) => fill(&mut |i, j| of(x).number(j * of(x).columns + i)),
            Op::Unary(op, x) => fill(&mut |i, j| elementwise::unary(m, op, of(x).at(i, j))),
            Op::Binary(op, a, b) => fill(&mut |i, j| elementwise::binary(m, op, at(a, i, j), at(b, i, j))),
            Op::Activate(activation, x) => fill(&mut |i, j| activate(m, activation, of(x).at(i, j))),
            Op::ActivateGrad { activation, output, grad } => {
                fill(&mut |i, j| activate_grad(m, activation, of(output).at(i, j), of(grad).at(i, j)))
            }
            Op::Convert(x) => fill(&mut |i, j| m.to_f32(of(x).at(i, j))),
            Op::OneHot { labels, .. } => {
                fill(&mut |i, j| elementwise::one_hot(m, of(labels).at(i, 0), index(j)))
            }
            Op::Overlay { value: x, labels, classes, on, off } => {
                let code = OverlayCode { classes, on, off };
                fill(&mut |i, j| elementwise::overlay(m, code, of(x).at(i, j), of(labels).at(i, 0), index(j)))
            }
            Op::Reduce(op, x) => fill(&mut |i, _| reduce(op, of(x), i)),
            Op::Splat(x) => fill(&mut |i, j| of(x).at(i, j)),
            Op::Reshape(x) => fill(&mut |i, j| of(x).number(i * columns + j)),
            Op::Back { weight, taps, groups } => {
                let [inputs, outputs] = [of(weight).columns / taps, of(weight).rows / groups];
                fill(&mut |i, j| {
                    let tap = taps - 1 - j / outputs;
                    of(weight).at(i / inputs * outputs + j % outputs, tap * inputs + i % inputs)
                })
            }
            Op::Pixels { value: x, channels } => {
                let positions = of(x).columns / channels;
                fill(&mut |i, j| of(x).number((i / positions * channels + j) * positions + i % positions))
            }
            Op::Window { value: x, window } => {
                let channels = of(x).columns;
                fill(&mut |i, j| seen(of(x), &window, i, j / channels, j % channels))
            }
            Op::Pool { op, value: x, window } => fill(&mut |i, j| pool(op, of(x), &window, i, j)),
            Op::MaxGrad { input, output, grad, window } => {
                fill(&mut |i, j| max_grad(of(input).at(i, j), of(output), of(grad), &window.back(), i, j))
            }
            Op::Depthwise { value: x, weight, window } => {
                let product = |i, j, tap| (seen(of(x), &window, i, tap, j), of(weight).at(j, tap));
                fill(&mut |i, j| products((0..window.taps()).map(|tap| product(i, j, tap))))
            }
            Op::DepthwiseGrad { grad, value: x, window } => {
                let product = |c, tap, i| (of(grad).at(i, c), seen(of(x), &window, i, tap, c));
                fill(&mut |c, tap| products((0..of(grad).rows).map(|i| product(c, tap, i))))
            }
            Op::Quantize { value: x, scale, rounding } => {
                let key = self.noise_key(rounding);
                fill(&mut |i, j| {
                    let noise = key.map(|key| draw_half(m, key, index(i), index(j)));
                    elementwise::quantize(m, of(x).at(i, j), of(scale).at(i, j), noise)
                })
            }
            _ => unreachable!("a source or an effect"),
        }
    }

    fn noise_key(&self, rounding: Rounding) -> Option<Number> {
        match rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic(stream) => {
                Some(stream_key(&mut Scalar, Number::I32(self.controls.key), stream))
            }
        }
    }
}

pub(super) fn operand_of(values: &Values, operand: Handle<Value>) -> &Tensor {
    values[operand.index()].as_ref().expect("operands are evaluated before their users")
}

fn no_labels(layer: &Layer, value: &Value) -> Diagnostic {
    let location = Location::Value { layer: layer.name.clone(), value: value.name.clone() };
    Diagnostic::new("the scores depend on labels, and none are given").at(location)
}

fn dot(lhs: &Tensor, rhs: &Tensor) -> Tensor {
    let depth = lhs.columns;
    let rows = |i: usize, j: usize| (i * depth..(i + 1) * depth, j * depth..(j + 1) * depth);
    Tensor::fill(dot_type(lhs.dtype()), lhs.rows, rhs.rows, |i, j| {
        let (left, right) = rows(i, j);
        match (&lhs.data, &rhs.data) {
            (super::Data::I8(a), super::Data::I8(b)) => {
                let products = a[left].iter().zip(&b[right]).map(|(&a, &b)| i32::from(a) * i32::from(b));
                Number::I32(products.fold(0, i32::wrapping_add))
            }
            (super::Data::F32(a), super::Data::F32(b)) => {
                Number::F32(ordered_sum(a[left].iter().zip(&b[right]).map(|(a, b)| a * b)))
            }
            _ => unreachable!("both operands are i8, or both f32"),
        }
    })
}

/// What position `row` of a result sees of a channel through a tap: 0 beyond the edge.
fn seen(image: &Tensor, window: &Window, row: usize, tap: usize, channel: usize) -> Number {
    let zero = if image.dtype() == DType::F32 { Number::F32(0.0) } else { Number::I32(0) };
    window.source_row(row, tap).map_or(zero, |source| image.number(source * image.columns + channel))
}

/// The rows of an image that a position of the result sees, in the order of the taps.
fn sources(window: &Window, row: usize) -> impl Iterator<Item = usize> + '_ {
    (0..window.taps()).filter_map(move |tap| window.source_row(row, tap))
}

fn pool(op: PoolOp, image: &Tensor, window: &Window, row: usize, column: usize) -> Number {
    let m = &mut Scalar;
    let float = image.dtype() == DType::F32;
    let numbers = sources(window, row).map(|source| image.at(source, column));
    match op {
        PoolOp::Sum if float => numbers.fold(Number::F32(0.0), |sum, x| m.fadd(sum, x)),
        PoolOp::Sum => numbers.fold(Number::I32(0), |sum, x| m.iadd(sum, x)),
        PoolOp::Max if float => numbers.fold(Number::F32(f32::NEG_INFINITY), |most, x| m.fmax(most, x)),
        PoolOp::Max => numbers.fold(Number::I32(i8::MIN.into()), |most, x| m.imax(most, x)),
    }
}

/// The gradient of one element of what was pooled; `back` leads from it to the results that see it.
fn max_grad(
    input: Number,
    output: &Tensor,
    grad: &Tensor,
    back: &Window,
    row: usize,
    column: usize,
) -> Number {
    let zero = Number::F32(0.0);
    sources(back, row).fold(zero, |sum, source| {
        let largest = output.at(source, column) == input;
        let share = if largest { grad.at(source, column) } else { zero };
        Scalar.fadd(sum, share)
    })
}

/// Sums of products, as a [`dot`] has them.
fn products(pairs: impl Iterator<Item = (Number, Number)>) -> Number {
    let mut pairs = pairs.peekable();
    if matches!(pairs.peek(), Some((Number::F32(_), _))) {
        return Number::F32(ordered_sum(pairs.map(|(a, b)| a.as_f32() * b.as_f32())));
    }
    pairs.fold(Number::I32(0), |sum, (a, b)| {
        let product = Scalar.imul(a, b);
        Scalar.iadd(sum, product)
    })
}

fn dot_type(operands: DType) -> DType {
    if operands == DType::I8 { DType::I32 } else { operands }
}

/// One row, reduced.
fn reduce(op: ReduceOp, x: &Tensor, row: usize) -> Number {
    let m = &mut Scalar;
    let numbers = (0..x.columns).map(|column| x.number(row * x.columns + column));
    let float = x.dtype() == DType::F32;
    match op {
        ReduceOp::Sum if float => Number::F32(ordered_sum(numbers.map(Number::as_f32))),
        ReduceOp::SumSquares if float => Number::F32(ordered_sum(numbers.map(|x| m.fmul(x, x).as_f32()))),
        ReduceOp::Sum => numbers.fold(Number::I32(0), |sum, x| m.iadd(sum, x)),
        ReduceOp::SumSquares => numbers.fold(Number::I32(0), |sum, x| {
            let square = m.imul(x, x);
            m.iadd(sum, square)
        }),
        ReduceOp::Max => numbers.fold(Number::F32(f32::NEG_INFINITY), |most, x| m.fmax(most, x)),
        ReduceOp::AbsMax => numbers.fold(Number::F32(f32::NEG_INFINITY), |most, x| {
            let magnitude = elementwise::unary(m, crate::module::UnaryOp::Abs, x);
            m.fmax(most, magnitude)
        }),
    }
}
