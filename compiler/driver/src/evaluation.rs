//! How many samples are predicted right.

use ffc_data::Split;

use crate::Failure;
use crate::data::samples;
use crate::trainer::Trainer;

/// Scores `[samples, classes]` of a split, `batch` samples at a time. They do not depend on `batch`: every sample is
/// predicted on its own, with scales that training froze.
///
/// # Errors
/// When the data does not fit the network.
pub fn scores(
    trainer: &mut Trainer,
    split: &Split,
    classes: usize,
    batch: usize,
) -> Result<Vec<f32>, Failure> {
    let mut scores = vec![0.0; split.len() * classes];
    let mut buffer = Vec::new();
    for start in (0..split.len()).step_by(batch.max(1)) {
        let end = (start + batch.max(1)).min(split.len());
        let samples = samples(split, start..end, &mut buffer)?;
        trainer.infer(samples, end - start, &mut scores[start * classes..end * classes])?;
    }
    Ok(scores)
}

/// The class with the largest score, the first of several.
pub fn predicted(scores: &[f32]) -> usize {
    let mut best = 0;
    for (class, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = class;
        }
    }
    best
}

/// The part of a split that is predicted right.
///
/// # Errors
/// When the data does not fit the network.
pub fn accuracy(trainer: &mut Trainer, split: &Split, batch: usize) -> Result<f64, Failure> {
    let classes = trainer.classes();
    let scores = scores(trainer, split, classes, batch)?;
    let right = scores
        .chunks(classes)
        .zip(&split.labels)
        .filter(|(scores, label)| predicted(scores) == usize::from(**label))
        .count();
    Ok(right as f64 / split.len() as f64)
}
