//! An imported module evaluated directly, in single or double precision: what it means, without the interpreter's pace.
//!
//! The difference between the two says how much rounding moves the result, and so how far another implementation in
//! single precision may be off.

use std::collections::HashMap;

use ffc_ir::module::{Activation, BinaryOp, Op, PoolOp};
use ffc_ir::types::Dim;
use ffc_ir::window::Window;
use ffc_onnx::Network;

/// A floating-point number.
pub(crate) trait Real:
    Copy + PartialOrd + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> + std::ops::AddAssign
{
    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// `[rows, columns]`, row by row.
struct Tensor<T> {
    columns: usize,
    values: Vec<T>,
}

impl<T> Tensor<T> {
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

/// The logits of samples.
pub(crate) fn evaluate<T: Real>(network: &Network, samples: &[f32]) -> Vec<f64> {
    let layer = &network.module.layers[0];
    let mut uses: HashMap<usize, usize> = HashMap::new();
    let mut count = |value: ffc_ir::Handle<_>| *uses.entry(value.index()).or_default() += 1;
    layer.forward.iter().for_each(|&value| layer.values[value].op.operands(&mut count));
    layer.outputs.iter().for_each(|&value| count(value));
    // What slices are of is used by who looks at them.
    layer.forward.iter().filter_map(|&value| layer.sliced(value)).for_each(&mut count);
    let mut known: HashMap<usize, Tensor<T>> = HashMap::new();
    for &value in &layer.forward {
        let op = layer.values[value].op;
        let (Dim::Const(columns), false) = (layer.ty(value).columns(), matches!(op, Op::Window { .. }))
        else {
            continue;
        };
        let at = |value: ffc_ir::Handle<_>| &known[&value.index()];
        let values = match op {
            Op::Operand(0) => samples.iter().map(|&x| T::of(x.into())).collect(),
            Op::Param(param) => {
                let values = network.weights[param.index()].1.load().unwrap();
                values.into_iter().map(|x| T::of(x.into())).collect()
            }
            Op::Constant(number) => vec![T::of(number.into())],
            Op::Slice { value, from, columns } => {
                let rows = at(value).values.chunks(at(value).columns);
                rows.flat_map(|row| &row[from..from + columns]).copied().collect()
            }
            Op::Concat(a, b) => {
                let (a, b) = (at(a), at(b));
                let rows = a.values.chunks(a.columns).zip(b.values.chunks(b.columns));
                rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
            }
            Op::Pixels { value, channels } => pixels(at(value), channels),
            Op::Reshape(value) => at(value).values.clone(),
            Op::Dot { lhs, rhs } => {
                let one = Window::identity([1; 2]);
                let (value, window) = match layer.values[lhs].op {
                    Op::Window { value, window } => (value, window),
                    _ => (lhs, one),
                };
                let source = layer.sliced(value).unwrap_or(value);
                dot(&normalized(network, (source, at(source)), at(value), samples), &window, at(rhs))
            }
            Op::Depthwise { value, weight, window } => {
                let source = layer.sliced(value).unwrap_or(value);
                let image = normalized(network, (source, at(source)), at(value), samples);
                let weight = at(weight);
                let term = |sum: T, x: T, channel: usize, tap: usize| {
                    sum + x * weight.values[channel * weight.columns + tap]
                };
                look(&image, &window, Some(T::of(0.0)), term)
            }
            Op::Pool { op: PoolOp::Sum, value, window } => {
                look(at(value), &window, Some(T::of(0.0)), |sum: T, x, _, _| sum + x)
            }
            Op::Pool { op: PoolOp::Max, value, window } => {
                look(at(value), &window, None, |most: T, x, _, _| if most < x { x } else { most })
            }
            Op::Binary(op, a, b) => binary(op, at(a), at(b)),
            Op::Activate(activation, value) => {
                at(value).values.iter().map(|x| T::of(activate(activation, x.wide()))).collect()
            }
            op => panic!("{op:?} in an imported module"),
        };
        known.insert(value.index(), Tensor { columns, values });
        // What nobody needs any longer makes room. A window's image is used by who looks through it.
        op.operands(|operand| match layer.values[operand].op {
            Op::Window { value, .. } => forget(&mut uses, &mut known, value.index()),
            _ => forget(&mut uses, &mut known, operand.index()),
        });
    }
    known[&layer.outputs[0].index()].values.iter().map(|x| x.wide()).collect()
}

/// What a contraction sees, all or some channels of `source`, which is normalised if the network is.
fn normalized<T: Real>(
    network: &Network,
    (source, whole): (ffc_ir::Handle<ffc_ir::module::Value>, &Tensor<T>),
    tensor: &Tensor<T>,
    samples: &[f32],
) -> Tensor<T> {
    let op = |value: ffc_ir::Handle<ffc_ir::module::Value>| network.module.layers[0].values[value].op;
    let first = match op(source) {
        Op::Pixels { value, .. } | Op::Reshape(value) => matches!(op(value), Op::Operand(_)),
        op => matches!(op, Op::Operand(_)),
    };
    let rms = network.interface.normalization.filter(|rms| rms.input || !first);
    let count = samples.len() / network.module.features;
    let of_sample = whole.values.len() / count;
    let mut values = tensor.values.clone();
    if let Some(rms) = rms {
        let parts = values.chunks_mut(tensor.values.len() / count);
        for (sample, whole) in parts.zip(whole.values.chunks(of_sample)) {
            let mut sum = T::of(0.0);
            whole.iter().for_each(|&x| sum += x * x);
            let factor = T::of(1.0 / (sum.wide() / of_sample as f64 + f64::from(rms.epsilon)).sqrt());
            sample.iter_mut().for_each(|x| *x = *x * factor);
        }
    }
    Tensor { columns: tensor.columns, values }
}

fn forget<T>(uses: &mut HashMap<usize, usize>, known: &mut HashMap<usize, Tensor<T>>, value: usize) {
    let left = uses.get_mut(&value).unwrap();
    *left -= 1;
    if *left == 0 {
        known.remove(&value);
    }
}

fn pixels<T: Real>(samples: &Tensor<T>, channels: usize) -> Vec<T> {
    let positions = samples.columns / channels;
    let image = |sample: &[T]| -> Vec<T> {
        (0..samples.columns).map(|at| sample[at % channels * positions + at / channels]).collect()
    };
    samples.values.chunks(samples.columns).flat_map(image).collect()
}

/// Sums over taps and channels in order.
fn dot<T: Real>(image: &Tensor<T>, window: &Window, weight: &Tensor<T>) -> Vec<T> {
    let (filters, depth) = (weight.rows(), weight.columns);
    let mut turned = vec![T::of(0.0); weight.values.len()];
    for (at, &w) in weight.values.iter().enumerate() {
        turned[at % depth * filters + at / depth] = w;
    }
    let mut result = Vec::new();
    for row in 0..image.rows() / window.inputs() * window.outputs() {
        let mut sums = vec![T::of(0.0); filters];
        for tap in 0..window.taps() {
            let Some(source) = window.source(row % window.outputs(), tap) else { continue };
            let from = (row / window.outputs() * window.inputs() + source) * image.columns;
            for (channel, &x) in image.values[from..from + image.columns].iter().enumerate() {
                let weights = &turned[(tap * image.columns + channel) * filters..][..filters];
                sums.iter_mut().zip(weights).for_each(|(sum, &w)| *sum += x * w);
            }
        }
        result.extend(sums);
    }
    result
}

/// Each channel on its own; where nothing is seen and nothing is said, 0.
fn look<T: Real>(
    image: &Tensor<T>,
    window: &Window,
    start: Option<T>,
    term: impl Fn(T, T, usize, usize) -> T,
) -> Vec<T> {
    let mut result = Vec::new();
    for row in 0..image.rows() / window.inputs() * window.outputs() {
        for channel in 0..image.columns {
            let mut sum = start;
            for tap in 0..window.taps() {
                if let Some(source) = window.source(row % window.outputs(), tap) {
                    let from = row / window.outputs() * window.inputs() + source;
                    let x = image.values[from * image.columns + channel];
                    sum = Some(sum.map_or(x, |sum| term(sum, x, channel, tap)));
                }
            }
            result.push(sum.expect("a maximum sees something"));
        }
    }
    result
}

fn binary<T: Real>(op: BinaryOp, a: &Tensor<T>, b: &Tensor<T>) -> Vec<T> {
    let (rows, columns) = (a.rows().max(b.rows()), a.columns.max(b.columns));
    let at = |x: &Tensor<T>, row: usize, column: usize| {
        x.values[row * x.rows() / rows * x.columns + column * x.columns / columns]
    };
    let apply = |a: T, b: T| match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a + b * T::of(-1.0),
        BinaryOp::Mul => a * b,
        op => panic!("{op:?} in an imported module"),
    };
    (0..rows * columns)
        .map(|index| {
            let (row, column) = (index / columns, index % columns);
            apply(at(a, row, column), at(b, row, column))
        })
        .collect()
}

/// The functions by their definitions.
pub(crate) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu(slope) => {
            if x > 0.0 {
                x
            } else {
                x * f64::from(slope)
            }
        }
        Activation::Clip { low, high } => x.clamp(low.into(), high.into()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Activation::Elu(alpha) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * (x.exp() - 1.0)
            }
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Gelu => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / 2.0 * (1.0 + inner.tanh())
        }
    }
}

/// The error function by its series.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
