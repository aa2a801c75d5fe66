//! Fixed-point weights from `f32` and back.
//!
//! Weights enter and leave a session as `f32` and live in it as 16-bit integers with a scale. Every implementation
//! must give the same bits, so the order of operations is part of the definition: each line below is one rounded
//! `f32` operation per operator, from left to right.

use crate::numerics::{HEADROOM, MIN_RANGE, QMAX, WEIGHT_MAX};

/// Steps of a fixed-point weight per step of its rounded plane.
pub const STEPS: f32 = 256.0;

/// The scale for weights of at most this magnitude: `(max(absmax, MIN_RANGE) * HEADROOM) / 127`.
pub fn channel_scale(absmax: f32) -> f32 {
    let absmax = if absmax < MIN_RANGE { MIN_RANGE } else { absmax };
    absmax * HEADROOM / QMAX
}

/// The fixed-point form of a weight: `(weight / scale) * 256` rounded to nearest, ties to even, and clamped to
/// ±[`WEIGHT_MAX`].
pub fn fixed_of(weight: f32, scale: f32) -> i32 {
    let steps = weight / scale * STEPS;
    (steps.round_ties_even() as i32).clamp(-WEIGHT_MAX, WEIGHT_MAX)
}

/// The weight that a fixed-point form stands for: `fixed * (scale / 256)`.
pub fn weight_of(fixed: i32, scale: f32) -> f32 {
    fixed as f32 * (scale / STEPS)
}

/// The largest magnitude, from 0, ignoring NaN.
pub fn abs_max(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most, weight| if most < weight.abs() { weight.abs() } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_survive_to_half_a_step() {
        let weights = [0.3f32, -0.7, 0.0, 1.25e-3];
        let scale = channel_scale(abs_max(&weights));
        for weight in weights {
            let back = weight_of(fixed_of(weight, scale), scale);
            assert!((back - weight).abs() <= scale / 512.0 * 1.001, "{weight} {back}");
        }
    }

    #[test]
    fn extremes_stay_in_range() {
        assert_eq!(fixed_of(f32::INFINITY, 1.0), WEIGHT_MAX);
        assert_eq!(fixed_of(f32::NEG_INFINITY, 1.0), -WEIGHT_MAX);
        assert_eq!(fixed_of(f32::NAN, 1.0), 0);
        assert_eq!(channel_scale(0.0), MIN_RANGE * HEADROOM / QMAX);
        // Headroom: the largest weight starts at two thirds of the range.
        assert_eq!(fixed_of(1.0, channel_scale(1.0)), 21675);
    }
}
