//! The type of a result follows from its operands.

use crate::arena::Handle;
use crate::module::{Layer, Module, Op, Param, ParamRole, ParamStorage, PoolOp, ReduceOp, Sgd, Value};
use crate::text::mnemonic;
use crate::types::{DType, Dim, Type};
use crate::window::Window;

/// The type of what an operation gives, an effect's being that of what it writes. [`Op::Operand`], [`Op::Splat`],
/// [`Op::Reshape`] and [`Op::Ahead`] have the type that is declared for them and cannot be asked.
///
/// # Errors
/// What is wrong with the operands.
pub fn result_type(module: &Module, layer: &Layer, op: &Op) -> Result<Type, String> {
    Typing { module, layer, name: mnemonic(op) }.infer(op)
}

struct Typing<'a> {
    module: &'a Module,
    layer: &'a Layer,
    name: &'static str,
}

type Typed = Result<Type, String>;

impl Typing<'_> {
    fn infer(&self, op: &Op) -> Typed {
        let per_row = |dtype| Type::new(dtype, Dim::ROWS, Dim::Const(1));
        match *op {
            Op::Operand(_) | Op::Splat(_) | Op::Reshape(_) | Op::Ahead => {
                Err(format!("the type of `{}` is declared, not inferred", self.name))
            }
            Op::Input => Ok(Type::new(self.module.input, Dim::ROWS, Dim::Const(self.module.features))),
            Op::Target | Op::Overlaid { .. } => Ok(per_row(DType::I32)),
            Op::Polarity => Ok(per_row(DType::F32)),
            Op::Control(_) | Op::Constant(_) => Ok(Type::scalar()),
            Op::Param(param) => Ok(self.param(param)?.ty()),
            Op::ScaleOf(param) => {
                let param = self.param(param)?;
                param
                    .scale_type()
                    .ok_or_else(|| format!("`@{}` is not fixed-point and has no scale", param.name))
            }
            Op::Dot { lhs, rhs } => self.dot(lhs, rhs),
            Op::Window { value, window } => {
                let ty = self.of(value)?;
                self.require(matches!(ty.dtype, DType::I8 | DType::F32), ty, "i8 or f32")?;
                let taps = |channels: usize| channels.checked_mul(window.taps());
                self.looked_at(ty, &window, taps)
            }
            Op::Pool { op, value, window } => {
                let ty = self.of(value)?;
                let sum = op == PoolOp::Sum && ty.dtype == DType::I32;
                self.require(sum || matches!(ty.dtype, DType::I8 | DType::F32), ty, "i8 or f32")?;
                let dtype = if op == PoolOp::Sum && ty.dtype == DType::I8 { DType::I32 } else { ty.dtype };
                Ok(self.looked_at(ty, &window, Some)?.with_dtype(dtype))
            }
            Op::MaxGrad { input, output, grad, window } => {
                let (input, output, grad) = (self.of(input)?, self.of(output)?, self.float(grad)?);
                let wanted = self.looked_at(input, &window, Some)?;
                self.require(output == wanted, output, &wanted.to_string())?;
                self.require(grad.shape == output.shape, grad, &format!("of the shape of {output}"))?;
                Ok(input.with_dtype(DType::F32))
            }
            Op::Depthwise { value, weight, window } => {
                let (value, weight) = (self.of(value)?, self.of(weight)?);
                let dtype = self.products(value, weight)?;
                let shape = [value.columns(), Dim::Const(window.taps())];
                self.require(weight.shape == shape, weight, "a filter of all taps for each channel")?;
                Ok(self.looked_at(value, &window, Some)?.with_dtype(dtype))
            }
            Op::DepthwiseGrad { grad, value, window } => {
                let (grad, value) = (self.of(grad)?, self.of(value)?);
                let dtype = self.products(grad, value)?;
                let wanted = self.looked_at(value, &window, Some)?;
                self.require(grad.shape == wanted.shape, grad, &format!("of the shape of {wanted}"))?;
                Ok(Type::new(dtype, value.columns(), Dim::Const(window.taps())))
            }
            Op::Back { weight, taps, groups } => {
                let weight = self.of(weight)?;
                match weight.shape {
                    [Dim::Const(rows), Dim::Const(columns)]
                        if taps > 0 && groups > 0 && columns % taps == 0 && rows % groups == 0 =>
                    {
                        let sizes =
                            (columns / taps).checked_mul(groups).zip((rows / groups).checked_mul(taps));
                        let (rows, columns) = sizes.ok_or("filters that lead back are too many to count")?;
                        Ok(Type::new(weight.dtype, Dim::Const(rows), Dim::Const(columns)))
                    }
                    _ => Err(format!("{weight} is no {groups} groups of filters of {taps} taps")),
                }
            }
            Op::Pixels { value, channels } => {
                let ty = self.of(value)?;
                match ty.shape {
                    [Dim::Rows(1), Dim::Const(size)] if channels > 0 && size % channels == 0 => {
                        Ok(Type::new(ty.dtype, Dim::Rows(size / channels), Dim::Const(channels)))
                    }
                    _ => Err(format!("{ty} is no sample of {channels} channels")),
                }
            }
            Op::Slice { value, from, columns } => {
                let ty = self.of(value)?;
                let end = from.checked_add(columns).filter(|_| columns > 0);
                let inside = |all: usize| end.is_some_and(|end| end <= all && columns < all);
                let fits = matches!(ty.columns(), Dim::Const(all) if inside(all));
                self.require(fits, ty, &format!("wide enough for {columns} of its columns from {from} on"))?;
                Ok(Type::new(ty.dtype, ty.rows(), Dim::Const(columns)))
            }
            Op::Concat(a, b) => self.concat(a, b),
            Op::Transpose(value) => Ok(self.of(value)?.transposed()),
            Op::Unary(_, value) | Op::Activate(_, value) | Op::Publish(value) => self.float(value),
            Op::Binary(_, a, b) => {
                let (a, b) = (self.float(a)?, self.float(b)?);
                let shape = a
                    .broadcast(b)
                    .ok_or_else(|| format!("{a} and {b} do not broadcast in `{}`", self.name))?;
                Ok(Type { dtype: DType::F32, shape })
            }
            Op::ActivateGrad { output, grad, .. } => {
                let (output, grad) = (self.float(output)?, self.float(grad)?);
                if output == grad { Ok(grad) } else { self.refuse(output, grad, "of one type") }
            }
            Op::Convert(value) => {
                let ty = self.of(value)?;
                self.require(ty.dtype != DType::F32, ty, "an integer")?;
                Ok(ty.with_dtype(DType::F32))
            }
            Op::OneHot { labels, classes } => {
                let labels = self.labels(labels)?;
                Ok(Type::new(DType::F32, labels.rows(), Dim::Const(classes)))
            }
            Op::Overlay { value, labels, classes, .. } => self.overlay(value, labels, classes),
            Op::Reduce(op, value) => self.reduce(op, value),
            Op::Quantize { value, scale, .. } => {
                let ty = self.float(value)?;
                self.scalar(scale)?;
                Ok(ty.with_dtype(DType::I8))
            }
            Op::Score { value, .. } => self.score(value),
            Op::Report(loss) => self.scalar(loss),
            Op::Track { param, observed, .. } => {
                let param = self.param(param)?;
                if !matches!(param.role, ParamRole::Range(_)) {
                    return Err(format!("`@{}` is not a range to track", param.name));
                }
                self.scalar(observed)
            }
            Op::Assign { param, value } => self.assign(param, value),
            Op::Sgd(sgd) => self.sgd(&sgd),
        }
    }

    fn of(&self, value: Handle<Value>) -> Typed {
        let value = self.layer.values.get(value);
        value
            .map(|value| value.ty)
            .ok_or_else(|| format!("`{}` has an operand that does not exist", self.name))
    }

    fn param(&self, param: Handle<Param>) -> Result<&Param, String> {
        self.module
            .params
            .get(param)
            .ok_or_else(|| format!("`{}` names a param that does not exist", self.name))
    }

    fn require(&self, holds: bool, ty: Type, wanted: &str) -> Result<(), String> {
        if holds { Ok(()) } else { Err(format!("an operand of `{}` is {ty}, not {wanted}", self.name)) }
    }

    fn refuse(&self, a: Type, b: Type, wanted: &str) -> Typed {
        Err(format!("the operands of `{}` are {a} and {b}, not {wanted}", self.name))
    }

    fn float(&self, value: Handle<Value>) -> Typed {
        let ty = self.of(value)?;
        self.require(ty.dtype == DType::F32, ty, "f32")?;
        Ok(ty)
    }

    fn scalar(&self, value: Handle<Value>) -> Typed {
        let ty = self.of(value)?;
        self.require(ty == Type::scalar(), ty, "f32[1, 1]")?;
        Ok(ty)
    }

    fn labels(&self, value: Handle<Value>) -> Typed {
        let ty = self.of(value)?;
        self.require(ty.dtype == DType::I32 && ty.columns() == Dim::Const(1), ty, "i32 with one column")?;
        Ok(ty)
    }

    fn dot(&self, lhs: Handle<Value>, rhs: Handle<Value>) -> Typed {
        let (lhs, rhs) = (self.of(lhs)?, self.of(rhs)?);
        let dtype = self.products(lhs, rhs)?;
        if lhs.columns() != rhs.columns() {
            return self.refuse(lhs, rhs, "of one depth");
        }
        Ok(Type::new(dtype, lhs.rows(), rhs.rows()))
    }

    fn concat(&self, a: Handle<Value>, b: Handle<Value>) -> Typed {
        let (a, b) = (self.of(a)?, self.of(b)?);
        match (a.shape, b.shape) {
            ([rows, Dim::Const(first)], [other, Dim::Const(second)])
                if rows == other && a.dtype == b.dtype && matches!(a.dtype, DType::I8 | DType::F32) =>
            {
                let columns = first.checked_add(second).ok_or("too many columns to count")?;
                Ok(Type::new(a.dtype, rows, Dim::Const(columns)))
            }
            _ => self.refuse(a, b, "both i8 or both f32, with as many rows"),
        }
    }

    /// The type of sums of products.
    fn products(&self, lhs: Type, rhs: Type) -> Result<DType, String> {
        match (lhs.dtype, rhs.dtype) {
            (DType::I8, DType::I8) => Ok(DType::I32),
            (DType::F32, DType::F32) => Ok(DType::F32),
            _ => self.refuse(lhs, rhs, "both i8 or both f32").map(|never| never.dtype),
        }
    }

    /// The type of what looks at an image through a window, with as many columns as `columns` makes of its channels.
    fn looked_at(&self, image: Type, window: &Window, columns: impl FnOnce(usize) -> Option<usize>) -> Typed {
        if let Some(fault) = window.fault() {
            return Err(format!("the window of `{}` {fault}", self.name));
        }
        let [Dim::Rows(rows), Dim::Const(channels)] = image.shape else {
            return self.require(false, image, "an image").map(|()| image);
        };
        let fits = rows % window.inputs() == 0;
        self.require(fits, image, &format!("an image of {}x{}", window.input[0], window.input[1]))?;
        let rows = (rows / window.inputs()).checked_mul(window.outputs());
        let (rows, columns) = rows.zip(columns(channels)).ok_or("a window gives too much to count")?;
        Ok(Type::new(image.dtype, Dim::Rows(rows), Dim::Const(columns)))
    }

    fn overlay(&self, value: Handle<Value>, labels: Handle<Value>, classes: usize) -> Typed {
        let (value, labels) = (self.float(value)?, self.labels(labels)?);
        if value.rows() != labels.rows() {
            return self.refuse(value, labels, "a label per row");
        }
        let fits = matches!(value.columns(), Dim::Const(columns) if classes <= columns);
        self.require(fits, value, &format!("wide enough for {classes} classes"))?;
        Ok(value)
    }

    fn reduce(&self, op: ReduceOp, value: Handle<Value>) -> Typed {
        let ty = self.of(value)?;
        let dtype = match (op, ty.dtype) {
            (_, DType::F32) => DType::F32,
            (ReduceOp::Sum, DType::I8 | DType::I32) | (ReduceOp::SumSquares, DType::I8) => DType::I32,
            _ => return Err(format!("`{} {}` does not take {ty}", self.name, op.name())),
        };
        Ok(Type::new(dtype, ty.rows(), Dim::Const(1)))
    }

    fn score(&self, value: Handle<Value>) -> Typed {
        let ty = self.float(value)?;
        let columns = [Dim::Const(self.module.classes), Dim::Const(1)];
        let fits = ty.rows() == Dim::ROWS && columns.contains(&ty.columns());
        self.require(fits, ty, &format!("f32[rows, {}] or f32[rows, 1]", self.module.classes))?;
        Ok(ty)
    }

    fn assign(&self, param: Handle<Param>, value: Handle<Value>) -> Typed {
        let (param, value) = (self.param(param)?, self.of(value)?);
        if param.storage != ParamStorage::F32 {
            return Err(format!("`@{}` is not stored as f32 and cannot be assigned", param.name));
        }
        self.require(value == param.ty(), value, &param.ty().to_string())?;
        Ok(value)
    }

    fn sgd(&self, sgd: &Sgd) -> Typed {
        let (param, grad) = (self.param(sgd.param)?, self.of(sgd.grad)?);
        let trained = matches!(param.role, ParamRole::Weight | ParamRole::Bias | ParamRole::Head(_));
        if !trained || !matches!(param.storage, ParamStorage::F32 | ParamStorage::Fixed16(_)) {
            return Err(format!("`@{}` is not a weight, bias or head to train", param.name));
        }
        let ty = param.ty();
        let fits = matches!(grad.dtype, DType::I32 | DType::F32) && grad.shape == ty.shape;
        self.require(fits, grad, &format!("i32 or f32 of the shape of {ty}"))?;
        self.scalar(sgd.factor)?;
        if let Some((velocity, _)) = sgd.momentum {
            self.velocity(param, self.param(velocity)?)?;
        }
        Ok(ty)
    }

    fn velocity(&self, param: &Param, velocity: &Param) -> Result<(), String> {
        let storage = if param.storage == ParamStorage::F32 { ParamStorage::F32 } else { ParamStorage::I16 };
        let fits = velocity.storage == storage && velocity.shape == param.shape;
        if velocity.role == ParamRole::Velocity && fits {
            return Ok(());
        }
        let wanted = if storage == ParamStorage::F32 { "f32" } else { "i16" };
        Err(format!("`@{}` is not an {wanted} velocity of the shape of `@{}`", velocity.name, param.name))
    }
}
