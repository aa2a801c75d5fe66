//! Mean and standard deviation of the training split, for standardisation.
//!
//! Preprocessing is `(x * scale - mean) / std`, and its constants become part of the model, so the
//! same file must give the same bits everywhere. 8-bit features are summed as integers, which is
//! exact and needs one pass over features that are streamed; floats in `f64`, row by row, in two passes (mean first, then squared deviations), so that
//! a large mean does not cancel a small deviation.

use std::ops::AddAssign;

use crate::dataset::{Dataset, Features};
use crate::error::DataError;
use crate::pixels::Pixels;

/// Bytes that are read at a time, about.
const CHUNK: usize = 1 << 20;

/// Mean and standard deviation of the training split after multiplication by a scale.
///
/// One entry per channel for features of shape `[C, H, W]`, a single one for 8-bit features
/// without channels (their values share one meaning), otherwise one per feature.
/// The standard deviation is that of the population; where it is zero it is given as 1, which
/// makes a constant feature 0 after standardisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The mean of `x * scale`.
    pub mean: Vec<f32>,
    /// The standard deviation of `x * scale`, never zero.
    pub std: Vec<f32>,
}

impl Dataset {
    /// The statistics of the training split after multiplication by `scale`, which is finite; see
    /// [`default_scale`](Dataset::default_scale).
    ///
    /// # Errors
    ///
    /// If the features lie in a file that cannot be read.
    pub fn statistics(&self, scale: f32) -> Result<Statistics, DataError> {
        let scale = f64::from(scale);
        let mut statistics = Statistics { mean: Vec::new(), std: Vec::new() };
        for (mean, std) in self.moments()? {
            let std = (std * scale.abs()) as f32;
            statistics.mean.push((mean * scale) as f32);
            statistics.std.push(if std == 0.0 { 1.0 } else { std });
        }
        Ok(statistics)
    }

    /// Mean and standard deviation per group of features, unscaled.
    fn moments(&self) -> Result<Vec<(f64, f64)>, DataError> {
        Ok(match (&self.train.features, self.shape.as_slice()) {
            (Features::U8(values), &[channels, _, _]) => u8_moments(values, channels, self.width())?,
            (Features::U8(values), _) => u8_moments(values, 1, self.width())?,
            (Features::F32(values), &[channels, _, _]) => f32_moments(values, channels, self.width()),
            (Features::F32(values), _) => f32_moments(values, self.width(), self.width()),
        })
    }

    fn width(&self) -> usize {
        self.train.width()
    }
}

/// Sum and sum of squares.
#[derive(Clone, Copy, Default)]
struct Sums(u64, u64);

impl AddAssign<&[u8]> for Sums {
    fn add_assign(&mut self, run: &[u8]) {
        self.0 += run.iter().map(|&x| u64::from(x)).sum::<u64>();
        self.1 += run.iter().map(|&x| u64::from(x) * u64::from(x)).sum::<u64>();
    }
}

/// Moments of `values`, whose rows of `width` are `groups` equal runs.
fn u8_moments(values: &Pixels, groups: usize, width: usize) -> Result<Vec<(f64, f64)>, DataError> {
    let mut sums = vec![Sums::default(); groups];
    let (chunk, mut buffer) = ((CHUNK / width).max(1) * width, Vec::new());
    for start in (0..values.len()).step_by(chunk) {
        let rows = values.read(start..values.len().min(start + chunk), &mut buffer)?;
        for row in rows.chunks_exact(width) {
            sums.iter_mut().zip(row.chunks_exact(width / groups)).for_each(|(sums, run)| *sums += run);
        }
    }
    let count = (values.len() / groups) as u64;
    let n = count as f64;
    let moments = |Sums(sum, squares)| {
        // n * sum(x^2) - sum(x)^2 is exact and not negative (Cauchy-Schwarz).
        let spread = u128::from(count) * u128::from(squares) - u128::from(sum).pow(2);
        (sum as f64 / n, (spread as f64).sqrt() / n)
    };
    Ok(sums.into_iter().map(moments).collect())
}

/// The same for floats.
fn f32_moments(values: &[f32], groups: usize, width: usize) -> Vec<(f64, f64)> {
    let means = averages(values, groups, width, |_, x| x);
    let variances = averages(values, groups, width, |group, x| (x - means[group]).powi(2));
    means.iter().zip(&variances).map(|(&mean, variance)| (mean, variance.sqrt())).collect()
}

/// The mean of `term(group, x)` over each group.
fn averages(values: &[f32], groups: usize, width: usize, term: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0_f64; groups];
    for row in values.chunks_exact(width) {
        for (group, run) in row.chunks_exact(width / groups).enumerate() {
            for &x in run {
                sums[group] += term(group, f64::from(x));
            }
        }
    }
    let n = (values.len() / groups) as f64;
    sums.into_iter().map(|sum| sum / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Split;

    fn dataset(features: Features, shape: &[usize]) -> Dataset {
        let width: usize = shape.iter().product();
        let split = Split { labels: vec![0; features.len() / width], features };
        Dataset::new(split.clone(), split, vec!["0".to_owned()], shape.to_vec()).unwrap()
    }

    #[test]
    fn images_have_one_entry_per_channel() {
        let two_channels = dataset(Features::U8(vec![0, 2, 10, 10, 4, 6, 10, 10].into()), &[2, 1, 2]);
        let statistics = two_channels.statistics(1.0).unwrap();
        assert_eq!(statistics.mean, [3.0, 10.0]);
        assert_eq!(statistics.std, [5.0_f32.sqrt(), 1.0]);

        let floats = dataset(Features::F32(vec![0., 2., 10., 10., 4., 6., 10., 10.]), &[2, 1, 2]);
        assert_eq!(floats.statistics(1.0).unwrap(), statistics);
    }

    #[test]
    fn flat_bytes_share_one_entry_and_flat_floats_do_not() {
        let bytes = dataset(Features::U8(vec![0, 255, 255, 0].into()), &[2]);
        let statistics = bytes.statistics(bytes.default_scale()).unwrap();
        assert_eq!((statistics.mean, statistics.std), (vec![0.5], vec![0.5]));

        let floats = dataset(Features::F32(vec![1.0, 7.0, 3.0, 7.0]), &[2]);
        let statistics = floats.statistics(floats.default_scale()).unwrap();
        assert_eq!((statistics.mean, statistics.std), (vec![2.0, 7.0], vec![1.0, 1.0]));
    }

    #[test]
    fn a_scale_multiplies_both_and_its_sign_only_the_mean() {
        let statistics = dataset(Features::F32(vec![1.0, 5.0]), &[1]).statistics(-0.5).unwrap();
        assert_eq!((statistics.mean, statistics.std), (vec![-1.5], vec![1.0]));
    }

    #[test]
    fn a_constant_that_is_no_sum_of_powers_of_two_has_no_deviation() {
        let statistics = dataset(Features::F32(vec![0.1; 1000]), &[1]).statistics(1.0).unwrap();
        assert_eq!((statistics.mean, statistics.std), (vec![0.1], vec![1.0]));
    }

    #[test]
    fn a_large_mean_does_not_cancel_a_small_deviation() {
        let statistics = dataset(Features::F32(vec![1e7, 1e7 + 1.0]), &[1]).statistics(1.0).unwrap();
        assert_eq!(statistics.std, [0.5]);
    }

    #[test]
    fn the_largest_floats_stay_finite() {
        let statistics = dataset(Features::F32(vec![f32::MAX, -f32::MAX]), &[1]).statistics(1.0).unwrap();
        assert_eq!((statistics.mean, statistics.std), (vec![0.0], vec![f32::MAX]));
    }
}
