//! Appends operations to a layer with the types that follow from their operands.

use ffc_ir::module::{BinaryOp, Layer, Module, Op, Param, PoolOp, ReduceOp, Region, UnaryOp, Value};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Arena, Handle, Window};

/// A place at the end of a region of a layer.
pub(crate) struct Builder<'a> {
    pub(crate) layer: &'a mut Layer,
    pub(crate) region: Region,
}

pub(crate) type V = Handle<Value>;

impl<'a> Builder<'a> {
    pub(crate) fn new(layer: &'a mut Layer, region: Region) -> Self {
        Self { layer, region }
    }

    pub(crate) fn push(&mut self, name: &str, op: Op, ty: Type) -> V {
        self.layer.push(self.region, name, op, ty)
    }

    pub(crate) fn ty(&self, value: V) -> Type {
        self.layer.ty(value)
    }

    /// An equal operation that the layer has already.
    fn known(&self, op: &Op) -> Option<V> {
        self.layer.ops().map(|(_, value)| value).find(|&value| self.layer.values[value].op == *op)
    }

    fn shared(&mut self, name: &str, op: Op, ty: Type) -> V {
        match self.known(&op) {
            Some(value) => value,
            None => self.push(name, op, ty),
        }
    }

    pub(crate) fn constant(&mut self, value: f32) -> V {
        self.shared("c", Op::Constant(value), Type::scalar())
    }

    pub(crate) fn param(&mut self, params: &Arena<Param>, name: &str, param: Handle<Param>) -> V {
        self.shared(name, Op::Param(param), params[param].ty())
    }

    pub(crate) fn binary(&mut self, name: &str, op: BinaryOp, a: V, b: V) -> V {
        let shape = self.ty(a).broadcast(self.ty(b)).expect("passes combine values of shapes that broadcast");
        let ty = Type { dtype: DType::F32, shape };
        self.push(name, Op::Binary(op, a, b), ty)
    }

    pub(crate) fn add(&mut self, name: &str, a: V, b: V) -> V {
        self.binary(name, BinaryOp::Add, a, b)
    }

    pub(crate) fn sub(&mut self, name: &str, a: V, b: V) -> V {
        self.binary(name, BinaryOp::Sub, a, b)
    }

    pub(crate) fn mul(&mut self, name: &str, a: V, b: V) -> V {
        self.binary(name, BinaryOp::Mul, a, b)
    }

    pub(crate) fn div(&mut self, name: &str, a: V, b: V) -> V {
        self.binary(name, BinaryOp::Div, a, b)
    }

    pub(crate) fn mul_constant(&mut self, name: &str, a: V, factor: f32) -> V {
        let factor = self.constant(factor);
        self.mul(name, a, factor)
    }

    /// A value times a number; the value itself where that is 1.
    pub(crate) fn scaled(&mut self, name: &str, a: V, factor: f32) -> V {
        if factor == 1.0 { a } else { self.mul_constant(name, a, factor) }
    }

    pub(crate) fn unary(&mut self, name: &str, op: UnaryOp, a: V) -> V {
        let ty = self.ty(a);
        self.push(name, Op::Unary(op, a), ty)
    }

    pub(crate) fn convert(&mut self, name: &str, a: V) -> V {
        let ty = self.ty(a).with_dtype(DType::F32);
        self.push(name, Op::Convert(a), ty)
    }

    pub(crate) fn transpose(&mut self, name: &str, a: V) -> V {
        if let Op::Transpose(source) = self.layer.values[a].op {
            return source;
        }
        let ty = self.ty(a).transposed();
        self.shared(name, Op::Transpose(a), ty)
    }

    /// So many columns from one on; the value itself where that is all.
    pub(crate) fn slice(&mut self, name: &str, value: V, from: usize, columns: usize) -> V {
        let ty = self.ty(value);
        if ty.columns() == Dim::Const(columns) {
            return value;
        }
        let ty = Type::new(ty.dtype, ty.rows(), Dim::Const(columns));
        self.shared(name, Op::Slice { value, from, columns }, ty)
    }

    /// The columns of one behind those of the other.
    pub(crate) fn concat(&mut self, name: &str, a: V, b: V) -> V {
        let ty = self.ty(a);
        let (Dim::Const(first), Dim::Const(second)) = (ty.columns(), self.ty(b).columns()) else {
            unreachable!("activations have a fixed number of columns")
        };
        self.push(name, Op::Concat(a, b), Type::new(ty.dtype, ty.rows(), Dim::Const(first + second)))
    }

    /// The filters of a weight that lead back to what it was given; those of a dense layer are its transpose.
    pub(crate) fn back(&mut self, name: &str, weight: V, taps: usize, groups: usize) -> V {
        if taps == 1 && groups == 1 {
            return self.transpose(name, weight);
        }
        let ty = self.ty(weight);
        let [Dim::Const(rows), Dim::Const(columns)] = ty.shape else {
            unreachable!("weights have fixed sizes")
        };
        let shape = [columns / taps * groups, rows / groups * taps].map(Dim::Const);
        self.shared(name, Op::Back { weight, taps, groups }, Type { dtype: ty.dtype, shape })
    }

    pub(crate) fn dot(&mut self, name: &str, lhs: V, rhs: V) -> V {
        let (left, right) = (self.ty(lhs), self.ty(rhs));
        let dtype = if left.dtype == DType::I8 { DType::I32 } else { DType::F32 };
        self.push(name, Op::Dot { lhs, rhs }, Type::new(dtype, left.rows(), right.rows()))
    }

    pub(crate) fn reduce(&mut self, name: &str, op: ReduceOp, a: V) -> V {
        let ty = self.ty(a);
        let dtype = if ty.dtype == DType::F32 { DType::F32 } else { DType::I32 };
        self.push(name, Op::Reduce(op, a), Type::new(dtype, ty.rows(), Dim::Const(1)))
    }

    /// Reduces a number per position, `[rows * positions, 1]`, to one per row; leaves one per row as it is.
    pub(crate) fn reduce_positions(&mut self, name: &str, op: ReduceOp, a: V) -> V {
        let Dim::Rows(positions) = self.ty(a).rows() else { return a };
        if positions == 1 {
            return a;
        }
        let ty = Type::new(self.ty(a).dtype, Dim::ROWS, Dim::Const(positions));
        let rows = self.push(&format!("{name}.positions"), Op::Reshape(a), ty);
        self.reduce(name, op, rows)
    }

    /// The mean over tiles of an image, `[rows * tiles, channels]`; the image itself where a tile is one position.
    pub(crate) fn mean_tiles(&mut self, name: &str, image: V, size: [usize; 2], tile: [usize; 2]) -> V {
        let mut sum = image;
        for window in Window::tiles_in_steps(size, tile) {
            sum = self.pool(name, PoolOp::Sum, sum, window);
        }
        if sum == image {
            return image;
        }
        self.mul_constant(&format!("{name}.mean"), sum, 1.0 / (tile[0] * tile[1]) as f32)
    }

    /// Each channel over what a position sees.
    pub(crate) fn pool(&mut self, name: &str, op: PoolOp, image: V, window: Window) -> V {
        let ty = self.ty(image);
        let Dim::Rows(positions) = ty.rows() else { unreachable!("only images are pooled") };
        let rows = Dim::Rows(positions / window.inputs() * window.outputs());
        let dtype = if op == PoolOp::Sum && ty.dtype == DType::I8 { DType::I32 } else { ty.dtype };
        self.push(name, Op::Pool { op, value: image, window }, Type::new(dtype, rows, ty.columns()))
    }

    /// What each position of the result sees of an image.
    pub(crate) fn window(&mut self, name: &str, image: V, window: Window) -> V {
        let ty = self.ty(image);
        let [Dim::Rows(positions), Dim::Const(channels)] = ty.shape else {
            unreachable!("only images are seen through windows")
        };
        let rows = Dim::Rows(positions / window.inputs() * window.outputs());
        let ty = Type::new(ty.dtype, rows, Dim::Const(channels * window.taps()));
        self.shared(name, Op::Window { value: image, window }, ty)
    }

    /// Reduces a value per row to `[1, 1]`.
    pub(crate) fn reduce_rows(&mut self, name: &str, op: ReduceOp, a: V) -> V {
        let turned = self.transpose(&format!("{name}.turned"), a);
        self.reduce(name, op, turned)
    }
}

/// A stream of the random generator that the module does not use yet.
pub(crate) fn new_stream(module: &Module) -> u32 {
    use ffc_ir::module::Rounding;
    let used = module.layers.iter().flat_map(|layer| {
        layer.values.values().filter_map(|value| match value.op {
            Op::Overlaid { stream } | Op::Quantize { rounding: Rounding::Stochastic(stream), .. } => {
                Some(stream)
            }
            Op::Sgd(sgd) => Some(sgd.stream),
            _ => None,
        })
    });
    used.max().map_or(0, |stream| stream + 1)
}

/// The error signal of a layer: the last value, effects aside, of its look-ahead region where that adds to the error, or else of its
/// head.
pub(crate) fn error_signal(layer: &Layer) -> Option<V> {
    let last = |region: &[V]| region.iter().rev().copied().find(|&value| !layer.values[value].op.is_effect());
    let adds = layer.look_ahead.iter().any(|&value| layer.values[value].op == Op::Ahead);
    last(&layer.look_ahead).filter(|_| adds).or_else(|| last(&layer.head))
}
