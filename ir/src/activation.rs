//! Activation functions and their derivatives, once for the interpreter and for lowering.

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
        Activation::Clip { low, high } => {
            let (low, high) = (m.f32(low), m.f32(high));
            let x = m.fmax(x, low);
            m.fmin(x, high)
        }
        Activation::Sigmoid => numerics::sigmoid(m, x),
        Activation::Tanh => numerics::tanh(m, x),
    }
}

/// `grad` times the function's derivative where it gave `y`; 0 at the corners of [`Activation::Relu`] and
/// [`Activation::Clip`].
pub fn activate_grad<A: Arith>(m: &mut A, activation: Activation, y: A::Value, grad: A::Value) -> A::Value {
    let zero = m.f32(0.0);
    match activation {
        Activation::Relu => {
            let positive = m.flt(zero, y);
            m.select(positive, grad, zero)
        }
        Activation::LeakyRelu(alpha) => {
            let alpha = m.f32(alpha);
            let positive = m.flt(zero, y);
            let below = m.fmul(grad, alpha);
            m.select(positive, grad, below)
        }
        Activation::Clip { low, high } => {
            let (low, high) = (m.f32(low), m.f32(high));
            let (above, below) = (m.flt(low, y), m.flt(y, high));
            let inside = m.and(above, below);
            m.select(inside, grad, zero)
        }
        Activation::Sigmoid => {
            let one = m.f32(1.0);
            let rest = m.fsub(one, y);
            let slope = m.fmul(y, rest);
            m.fmul(grad, slope)
        }
        Activation::Tanh => {
            let one = m.f32(1.0);
            let square = m.fmul(y, y);
            let slope = m.fsub(one, square);
            m.fmul(grad, slope)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::{Number, Scalar};

    const CASES: [Activation; 6] = [
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Clip { low: 0.0, high: 6.0 },
        Activation::Clip { low: f32::NEG_INFINITY, high: f32::INFINITY },
        Activation::Sigmoid,
        Activation::Tanh,
    ];

    fn value(activation: Activation, x: f32) -> f32 {
        activate(&mut Scalar, activation, Number::F32(x)).as_f32()
    }

    #[test]
    fn derivatives_match_differences() {
        for activation in CASES {
            for x in [-3.1f32, -0.7, 0.4, 2.2, 5.5, 7.3] {
                let difference = (value(activation, x + 1e-2) - value(activation, x - 1e-2)) / 2e-2;
                let y = Number::F32(value(activation, x));
                let grad = activate_grad(&mut Scalar, activation, y, Number::F32(2.0)).as_f32();
                assert!((grad - 2.0 * difference).abs() < 1e-3, "{activation:?} at {x}: {grad} {difference}");
            }
        }
    }

    #[test]
    fn corners_have_no_slope() {
        for (activation, y) in [(Activation::Relu, 0.0), (CASES[2], 0.0), (CASES[2], 6.0)] {
            let grad = activate_grad(&mut Scalar, activation, Number::F32(y), Number::F32(1.0));
            assert_eq!(grad, Number::F32(0.0), "{activation:?}");
        }
    }
}
