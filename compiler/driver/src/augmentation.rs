//! Training images changed so that they keep their class: moved by a few pixels, mirrored.
//!
//! [`Augmentation`] is what a run asks for. An [`Augmenter`] does it while a batch is gathered, so that a sample is still
//! copied once, into its place in the batch.
//!
//! What happens to a sample is a function of the seed, the epoch and its index in the training split. So it depends
//! neither on threads nor on the size of batches, and a run that goes on from a checkpoint sees the images that it would
//! have seen. All channels of an image move together. Pixels that come into view have the raw value 0: black in 8-bit
//! images, and in images of floats the background or, where they are standardised, the mean. Test data stays as it is.

use std::fmt;
use std::path::Path;

use ffc_data::Dataset;
use ffc_ir::numerics::{self, Number, Scalar, step_key};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// Keeps these random numbers apart from those of steps and of the order of samples.
const STREAM: u64 = 0x6175_676d_656e_7421;

/// How training images are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Pixels that an image moves by, at most, in each direction.
    pub shift: usize,
    /// Whether half of the images are mirrored, left to right.
    pub flip: bool,
}

impl Augmentation {
    /// Whether images stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What changes the samples of this data set; `None` where nothing does.
    ///
    /// # Errors
    /// When samples are no images, or too small to be moved that far.
    pub fn of(self, data: &Dataset, path: &Path, seed: u64) -> Result<Option<Augmenter>, Failure> {
        if self.is_none() {
            return Ok(None);
        }
        let Some([_, rows, columns]) = data.image_shape() else {
            let flag = if self.shift > 0 { "shift" } else { "flip" };
            let (path, width) = (path.display(), data.train.width());
            return Err(Failure::new(format!(
                "`--{flag}` is for images; a sample of `{path}` is {width} numbers without rows and columns"
            ))
            .with_help(format!(
                "leave out `--{flag}`, or give images: files, CIFAR, IDX, or `.npz` arrays `[samples, rows, columns]` or \
                 `[samples, channels, rows, columns]`"
            )));
        };
        let most = rows.min(columns) - 1;
        if self.shift > most {
            let Self { shift, .. } = self;
            return Err(Failure::new(format!(
                "`--shift {shift}` moves images of {rows}x{columns} pixels out of view"
            ))
            .with_help(format!("use at most `--shift {most}`; a tenth of the side is a lot already")));
        }
        Ok(Some(Augmenter { augmentation: self, rows, columns, seed: seed ^ STREAM }))
    }
}

impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shift, flip } = self;
        let mirrored = if *flip { "mirrored at random" } else { "not mirrored" };
        write!(f, "shifted by up to {shift} pixels, {mirrored}")
    }
}

/// See the [module documentation](self).
#[derive(Clone, Copy, Debug)]
pub struct Augmenter {
    augmentation: Augmentation,
    rows: usize,
    columns: usize,
    seed: u64,
}

impl Augmenter {
    /// Copies the image with this index into `to`, changed as the epoch wants it.
    ///
    /// # Panics
    /// When `from` and `to` are not of the same size, a multiple of an image's rows times columns.
    pub fn copy<T: Copy + Default>(&self, epoch: usize, sample: u32, from: &[T], to: &mut [T]) {
        assert_eq!(from.len(), to.len(), "an image keeps its size");
        let (change, area) = (self.change(epoch, sample), self.rows * self.columns);
        for (from, to) in from.chunks_exact(area).zip(to.chunks_exact_mut(area)) {
            change.channel(self.columns, from, to);
        }
    }

    fn change(&self, epoch: usize, sample: u32) -> Change {
        let key = Number::I32(step_key(self.seed, epoch as u64) as i32);
        let below = |count: usize, draw: i32| {
            let bits =
                numerics::draw(&mut Scalar, key, Number::I32(sample as i32), Number::I32(draw)).as_i32();
            ((u64::from(bits as u32) * count as u64) >> 32) as isize
        };
        let Augmentation { shift, flip } = self.augmentation;
        let pixels = |draw| below(2 * shift + 1, draw) - shift as isize;
        Change { down: pixels(0), right: pixels(1), mirrored: flip && below(2, 2) == 1 }
    }
}

/// What is done to one image: it is mirrored, then moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// Pixels, less than the image's rows; negative is up.
    down: isize,
    /// Pixels, less than the image's columns; negative is left.
    right: isize,
    mirrored: bool,
}

impl Change {
    /// One channel of an image.
    fn channel<T: Copy + Default>(self, columns: usize, from: &[T], to: &mut [T]) {
        to.fill(T::default());
        for (row, to) in to.chunks_exact_mut(columns).enumerate() {
            let source = row.checked_add_signed(-self.down).map(|row| row * columns);
            if let Some(from) = source.and_then(|start| from.get(start..start + columns)) {
                self.row(from, to);
            }
        }
    }

    /// What stays in view of one row of pixels.
    fn row<T: Copy>(self, from: &[T], to: &mut [T]) {
        let (left, right) = (self.right.min(0).unsigned_abs(), self.right.max(0).unsigned_abs());
        let kept = from.len() - left - right;
        let to = &mut to[right..][..kept];
        if self.mirrored {
            to.iter_mut().zip(from[right..][..kept].iter().rev()).for_each(|(to, from)| *to = *from);
        } else {
            to.copy_from_slice(&from[left..][..kept]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn augmenter(shift: usize, flip: bool, [rows, columns]: [usize; 2], seed: u64) -> Augmenter {
        Augmenter { augmentation: Augmentation { shift, flip }, rows, columns, seed }
    }

    /// Pixel by pixel: where it comes from, if that is in the image.
    fn naive(change: Change, [channels, rows, columns]: [usize; 3], image: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for channel in 0..channels {
            for row in 0..rows as isize {
                for column in 0..columns as isize {
                    let (y, x) = (row - change.down, column - change.right);
                    let inside = (0..rows as isize).contains(&y) && (0..columns as isize).contains(&x);
                    let x = if change.mirrored { columns as isize - 1 - x } else { x };
                    let at = (channel * rows) as isize * columns as isize + y * columns as isize + x;
                    out.push(if inside { image[at as usize] } else { 0 });
                }
            }
        }
        out
    }

    #[test]
    fn changes_are_those_of_the_naive_formulation() {
        for shape in [[1, 1, 1], [1, 3, 5], [3, 4, 2], [2, 7, 7]] {
            let [_, rows, columns] = shape;
            let size: usize = shape.iter().product();
            let image: Vec<u8> = (1..=size as u8).collect();
            let reach = |side: usize| 1 - side as isize..side as isize;
            for (down, right) in reach(rows).flat_map(|down| reach(columns).map(move |right| (down, right))) {
                for mirrored in [false, true] {
                    let change = Change { down, right, mirrored };
                    let mut out = vec![255; size];
                    let area = rows * columns;
                    for (from, to) in image.chunks_exact(area).zip(out.chunks_exact_mut(area)) {
                        change.channel(columns, from, to);
                    }
                    assert_eq!(out, naive(change, shape, &image), "{shape:?} {change:?}");
                }
            }
        }
    }

    #[test]
    fn channels_change_together() {
        let shape = [3, 4, 5];
        let image: Vec<u8> = (1..=60).collect();
        let augmenter = augmenter(2, true, [4, 5], 9);
        for sample in 0..50 {
            let mut out = vec![255; 60];
            augmenter.copy(4, sample, &image, &mut out);
            assert_eq!(out, naive(augmenter.change(4, sample), shape, &image), "{sample}");
            let mut floats = vec![f32::NAN; 60];
            augmenter.copy(4, sample, &image.iter().copied().map(f32::from).collect::<Vec<_>>(), &mut floats);
            assert_eq!(floats, out.into_iter().map(f32::from).collect::<Vec<_>>(), "{sample}");
        }
    }

    #[test]
    fn all_changes_are_equally_frequent() {
        let augmenter = augmenter(1, true, [4, 4], 3);
        let mut counts = std::collections::HashMap::new();
        for sample in 0..18_000 {
            let Change { down, right, mirrored } = augmenter.change(0, sample);
            assert!(down.abs() <= 1 && right.abs() <= 1);
            *counts.entry((down, right, mirrored)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 18);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn changes_are_functions_of_seed_epoch_and_sample() {
        let changes = |seed, epoch| {
            let augmenter = augmenter(3, true, [8, 8], seed);
            (0..20).map(|sample| augmenter.change(epoch, sample)).collect::<Vec<_>>()
        };
        assert_eq!(changes(1, 2), changes(1, 2));
        assert_ne!(changes(1, 2), changes(2, 2));
        assert_ne!(changes(1, 2), changes(1, 3));
        let plain = augmenter(0, false, [8, 8], 1);
        let still = Change { down: 0, right: 0, mirrored: false };
        assert!((0..20).all(|sample| plain.change(0, sample) == still));
    }
}
