//! Fixed-point weights from `f32` and back.
//!
//! The compiler's reference does the same (`ffc_ir::fixed`), and all must give the same bits: each operator is one
//! rounded `f32` operation, from left to right.

/// Largest magnitude of a fixed-point weight: its rounded plane then stays within ±127.
pub const WEIGHT_MAX: i32 = 127 * 256;

/// Ranges below this count as this, so that a scale is never 0.
pub const MIN_RANGE: f32 = 1e-12;

/// How much larger than the largest weight the range starts, so that training has room.
pub const HEADROOM: f32 = 1.5;

/// Largest magnitude of the rounded plane.
pub const QMAX: f32 = 127.0;

/// Steps of a fixed-point weight per step of its rounded plane.
pub const STEPS: f32 = 256.0;

/// The largest magnitude, from 0, ignoring NaN.
pub fn abs_max(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most, weight| if most < weight.abs() { weight.abs() } else { most })
}

/// The scale for weights of at most this magnitude: `max(absmax, 1e-12) * 1.5 / 127`.
pub fn channel_scale(absmax: f32) -> f32 {
    let absmax = if absmax < MIN_RANGE { MIN_RANGE } else { absmax };
    absmax * HEADROOM / QMAX
}

/// The fixed-point form of a weight: `weight / scale * 256` to nearest, ties to even, within ±[`WEIGHT_MAX`].
pub fn fixed_of(weight: f32, scale: f32) -> i32 {
    let steps = weight / scale * STEPS;
    (steps.round_ties_even() as i32).clamp(-WEIGHT_MAX, WEIGHT_MAX)
}

/// The weight that a fixed-point form stands for: `fixed * (scale / 256)`.
pub fn weight_of(fixed: i32, scale: f32) -> f32 {
    fixed as f32 * (scale / STEPS)
}

/// The planes of a fixed-point weight within ±[`WEIGHT_MAX`]: the weight rounded to 8 bits, and the signed rest.
pub fn split_planes(fixed: i32) -> (i8, i8) {
    let high = (fixed + 128) >> 8;
    (high as i8, (fixed - (high << 8)) as i8)
}

/// A fixed-point weight from its planes.
pub fn join_planes(high: i8, low: i8) -> i32 {
    256 * i32::from(high) + i32::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_round_and_rejoin() {
        for fixed in -WEIGHT_MAX..=WEIGHT_MAX {
            let (high, low) = split_planes(fixed);
            assert_ne!(high, -128);
            assert_eq!(join_planes(high, low), fixed);
        }
    }

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
        assert_eq!(fixed_of(f32::NAN, 1.0), 0);
        assert_eq!(channel_scale(0.0), MIN_RANGE * HEADROOM / QMAX);
        assert_eq!(fixed_of(1.0, channel_scale(1.0)), 21675);
    }
}
