//! Activation functions and their derivatives, once for the interpreter and for lowering.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use crate::module::Activation;
use crate::numerics::{self, Arith};

/// The function's value.
pub fn activate<A: Arith>(m: &mut A, activation: Activation, x: A::Value) -> A::Value {
    match activation {
        Activation::Relu => {
            let zero = m.f32(0.0);
            m.fmax(x, zero)
        }
        Activation::LeakyRelu(alpha) => {
            let (zero, alpha) = (m.f32(0.0), m.f32(alpha));
            let positive = m.flt(zero, x);
            let below = m.fmul(x, alpha);
            m.select(positive, x, below)
        }
        Activation::Clip { low, high } => clip(m, x, low, high),
        Activation::Sigmoid => numerics::sigmoid(m, x),
        Activation::Tanh => numerics::tanh(m, x),
        Activation::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (m.f32(alpha), m.f32(beta));
            let line = m.fmul(x, alpha);
            let line = m.fadd(line, beta);
            clip(m, line, 0.0, 1.0)
        }
        Activation::Elu(alpha) => {
            let (zero, one, alpha) = (m.f32(0.0), m.f32(1.0), m.f32(alpha));
            let positive = m.flt(zero, x);
            let below = numerics::exp(m, x);
            let below = m.fsub(below, one);
            let below = m.fmul(below, alpha);
            m.select(positive, x, below)
        }
        Activation::Silu => {
            let x = at_least(m, x, LEAST);
            let gate = numerics::sigmoid(m, x);
            m.fmul(x, gate)
        }
        Activation::HardSwish => {
            let (three, sixth) = (m.f32(3.0), m.f32(1.0 / 6.0));
            let gate = m.fadd(x, three);
            let gate = clip(m, gate, 0.0, 6.0);
            let gate = m.fmul(gate, sixth);
            m.fmul(x, gate)
        }
        Activation::Gelu => {
            let x = at_least(m, x, LEAST_NORMAL);
            let gate = probability(m, x);
            m.fmul(x, gate)
        }
        Activation::GeluTanh => {
            let x = at_least(m, x, LEAST_NORMAL);
            let line = cubic(m, x);
            let gate = numerics::sigmoid(m, line);
            m.fmul(x, gate)
        }
    }
}

/// `grad` times the function's derivative, where `of` is what
/// [`derivative_from`](Activation::derivative_from) asks for. 0 at the corners of [`Activation::Relu`],
/// [`Activation::Clip`] and [`Activation::HardSigmoid`].
pub fn activate_grad<A: Arith>(m: &mut A, activation: Activation, of: A::Value, grad: A::Value) -> A::Value {
    let (zero, one) = (m.f32(0.0), m.f32(1.0));
    match activation {
        Activation::Relu => {
            let positive = m.flt(zero, of);
            m.select(positive, grad, zero)
        }
        Activation::LeakyRelu(alpha) => {
            let alpha = m.f32(alpha);
            let positive = m.flt(zero, of);
            let below = m.fmul(grad, alpha);
            m.select(positive, grad, below)
        }
        Activation::Clip { low, high } => inside(m, of, low, high, grad),
        Activation::Sigmoid => {
            let rest = m.fsub(one, of);
            let slope = m.fmul(of, rest);
            m.fmul(grad, slope)
        }
        Activation::Tanh => {
            let square = m.fmul(of, of);
            let slope = m.fsub(one, square);
            m.fmul(grad, slope)
        }
        Activation::HardSigmoid { alpha, .. } => {
            let alpha = m.f32(alpha);
            let grad = m.fmul(grad, alpha);
            inside(m, of, 0.0, 1.0, grad)
        }
        Activation::Elu(alpha) => {
            let alpha = m.f32(alpha);
            let positive = m.flt(zero, of);
            let slope = m.fadd(of, alpha);
            let below = m.fmul(grad, slope);
            m.select(positive, grad, below)
        }
        Activation::Silu => {
            // s + x s (1 - s)
            let x = clip(m, of, LEAST, -LEAST);
            let gate = numerics::sigmoid(m, x);
            let more = gate_slope(m, x, gate);
            let slope = m.fadd(gate, more);
            m.fmul(grad, slope)
        }
        Activation::HardSwish => {
            let (third, half) = (m.f32(1.0 / 3.0), m.f32(0.5));
            let slope = m.fmul(of, third);
            let slope = m.fadd(slope, half);
            let (three, minus) = (m.f32(3.0), m.f32(-3.0));
            let low = m.flt(minus, of);
            let slope = m.select(low, slope, zero);
            let high = m.flt(of, three);
            let slope = m.select(high, slope, one);
            m.fmul(grad, slope)
        }
        Activation::Gelu => {
            // The probability below x, and x times its density.
            let x = clip(m, of, LEAST_NORMAL, -LEAST_NORMAL);
            let gate = probability(m, x);
            let density = bell(m, x);
            let scale = m.f32(1.0 / (2.0 * PI).sqrt());
            let density = m.fmul(density, scale);
            let more = m.fmul(x, density);
            let slope = m.fadd(gate, more);
            m.fmul(grad, slope)
        }
        Activation::GeluTanh => {
            // s + x s (1 - s) times the slope of what is in s.
            let x = clip(m, of, LEAST_NORMAL, -LEAST_NORMAL);
            let line = cubic(m, x);
            let gate = numerics::sigmoid(m, line);
            let (first, third) = cubic_coefficients();
            let (first, third) = (m.f32(first), m.f32(3.0 * third));
            let square = m.fmul(x, x);
            let inner = m.fmul(square, third);
            let inner = m.fadd(inner, first);
            let more = gate_slope(m, x, gate);
            let more = m.fmul(more, inner);
            let slope = m.fadd(gate, more);
            m.fmul(grad, slope)
        }
    }
}

/// Below this the sigmoid of a number is as good as 0, and [`numerics::exp`] no longer follows it.
const LEAST: f32 = -87.0;
/// Below this the probability of a normal number is.
const LEAST_NORMAL: f32 = -13.0;

fn at_least<A: Arith>(m: &mut A, x: A::Value, low: f32) -> A::Value {
    let low = m.f32(low);
    m.fmax(x, low)
}

fn clip<A: Arith>(m: &mut A, x: A::Value, low: f32, high: f32) -> A::Value {
    let x = at_least(m, x, low);
    let high = m.f32(high);
    m.fmin(x, high)
}

/// `value` where `y` is between the bounds, else 0.
fn inside<A: Arith>(m: &mut A, y: A::Value, low: f32, high: f32, value: A::Value) -> A::Value {
    let (zero, low, high) = (m.f32(0.0), m.f32(low), m.f32(high));
    let (above, below) = (m.flt(low, y), m.flt(y, high));
    let inside = m.and(above, below);
    m.select(inside, value, zero)
}

/// `x s (1 - s)`.
fn gate_slope<A: Arith>(m: &mut A, x: A::Value, gate: A::Value) -> A::Value {
    let one = m.f32(1.0);
    let rest = m.fsub(one, gate);
    let slope = m.fmul(gate, rest);
    m.fmul(x, slope)
}

/// `e^(-x^2 / 2)`.
fn bell<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let half = m.f32(-0.5);
    let square = m.fmul(x, x);
    let power = m.fmul(square, half);
    numerics::exp(m, power)
}

/// The probability that a normal number is below `x`, to 10^-7: Abramowitz and Stegun, 7.1.26.
fn probability<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let (zero, half, one) = (m.f32(0.0), m.f32(0.5), m.f32(1.0));
    let negated = m.fsub(zero, x);
    let magnitude = m.fmax(x, negated);
    let p = m.f32(0.327_591_1 * FRAC_1_SQRT_2);
    let t = m.fmul(magnitude, p);
    let t = m.fadd(t, one);
    let t = m.fdiv(one, t);
    let mut sum = m.f32(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        let coefficient = m.f32(coefficient);
        sum = m.fmul(sum, t);
        sum = m.fadd(sum, coefficient);
    }
    let sum = m.fmul(sum, t);
    let bell = bell(m, x);
    let tail = m.fmul(sum, bell);
    let tail = m.fmul(tail, half);
    let rest = m.fsub(one, tail);
    let negative = m.flt(x, zero);
    m.select(negative, tail, rest)
}

/// `2 sqrt(2 / pi)` and that times 0.044715: `(1 + tanh(u)) / 2` is the sigmoid of `2 u`.
fn cubic_coefficients() -> (f32, f32) {
    let first = 2.0 * (2.0 / PI).sqrt();
    (first, first * 0.044_715)
}

fn cubic<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let (first, third) = cubic_coefficients();
    let (first, third) = (m.f32(first), m.f32(third));
    let square = m.fmul(x, x);
    let factor = m.fmul(square, third);
    let factor = m.fadd(factor, first);
    m.fmul(x, factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::DerivativeFrom;
    use crate::numerics::{Number, Scalar};

    fn cases() -> Vec<Activation> {
        let more = [
            Activation::Clip { low: f32::NEG_INFINITY, high: f32::INFINITY },
            Activation::Clip { low: 0.0, high: 6.0 },
        ];
        Activation::all([0.1, 0.6]).into_iter().chain(more).collect()
    }

    fn value(activation: Activation, x: f32) -> f32 {
        activate(&mut Scalar, activation, Number::F32(x)).as_f32()
    }

    fn slope(activation: Activation, x: f32) -> f32 {
        let of = match activation.derivative_from() {
            DerivativeFrom::Input => x,
            DerivativeFrom::Output => value(activation, x),
        };
        activate_grad(&mut Scalar, activation, Number::F32(of), Number::F32(2.0)).as_f32() / 2.0
    }

    #[test]
    fn derivatives_match_differences() {
        for activation in cases() {
            for x in [-20.0f32, -5.7, -3.1, -1.9, -0.7, -0.2, 0.4, 1.3, 2.2, 3.6, 5.5, 7.3, 30.0] {
                let difference = (value(activation, x + 1e-2) - value(activation, x - 1e-2)) / 2e-2;
                let slope = slope(activation, x);
                assert!((slope - difference).abs() < 1e-3, "{activation:?} at {x}: {slope} {difference}");
            }
        }
    }

    /// The error function by its series, in double precision.
    fn erf(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn values_are_those_of_the_definitions() {
        for step in -60..=60 {
            let x = step as f32 * 0.07;
            let d = f64::from(x);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let expected = [
                (Activation::Silu, d * sigmoid(d)),
                (Activation::HardSwish, d * (d + 3.0).clamp(0.0, 6.0) / 6.0),
                (Activation::Gelu, d * 0.5 * (1.0 + erf(d / 2f64.sqrt()))),
                (
                    Activation::GeluTanh,
                    d * 0.5
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (d + 0.044_715 * d * d * d)).tanh()),
                ),
                (Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, (0.2 * d + 0.5).clamp(0.0, 1.0)),
                (Activation::Elu(0.5), if d > 0.0 { d } else { 0.5 * (d.exp() - 1.0) }),
            ];
            for (activation, expected) in expected {
                let found = f64::from(value(activation, x));
                assert!((found - expected).abs() < 1e-6, "{activation:?} of {x}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn far_out_they_are_lines() {
        for activation in [Activation::Silu, Activation::HardSwish, Activation::Gelu, Activation::GeluTanh] {
            assert!(value(activation, -1e30).abs() < 1e-30, "{activation:?}");
            assert_eq!(value(activation, 1e30), 1e30, "{activation:?}");
            assert!(slope(activation, -1e30).abs() < 1e-30, "{activation:?}");
            assert_eq!(slope(activation, 1e30), 1.0, "{activation:?}");
        }
    }

    #[test]
    fn corners_have_no_slope() {
        let clip = Activation::Clip { low: 0.0, high: 6.0 };
        let hard = Activation::HardSigmoid { alpha: 0.2, beta: 0.5 };
        for (activation, y) in [(Activation::Relu, 0.0), (clip, 0.0), (clip, 6.0), (hard, 0.0), (hard, 1.0)] {
            let grad = activate_grad(&mut Scalar, activation, Number::F32(y), Number::F32(1.0));
            assert_eq!(grad, Number::F32(0.0), "{activation:?}");
        }
    }

    #[test]
    fn what_the_derivative_follows_from_is_enough() {
        // A function that falls somewhere gives some values twice.
        let points: Vec<f32> = (-400..400).map(|step| step as f32 * 0.02).collect();
        for activation in cases() {
            let falls =
                points.windows(2).any(|pair| value(activation, pair[1]) < value(activation, pair[0]) - 1e-6);
            assert_eq!(falls, activation.derivative_from() == DerivativeFrom::Input, "{activation:?}");
        }
    }
}
