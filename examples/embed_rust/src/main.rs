//! Trains a network on the device that runs it: the runtime, an artifact and nothing of the compiler.
//!
//! ```sh
//! ffc compile mlp.onnx -o mlp.ffc
//! cargo run --release -p embed_rust -- mlp.ffc examples/mnist
//! ```
//!
//! The artifact brings the weights that training starts from (its attachment `weights.safetensors`), so the session is
//! ready when it is loaded. The program trains two epochs in shuffled order and prints the accuracy on the test images.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has done")]

mod idx;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use ffc_runtime::{Options, Samples, Session};
use idx::Dataset;

const SEED: u64 = 7;
const EPOCHS: u64 = 2;
/// The largest learning rate, for batches of 128.
const RATE: f32 = 0.8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [artifact, data] = &arguments[..] else {
        eprintln!("usage: embed_rust ARTIFACT DATA_DIR");
        return ExitCode::from(2);
    };
    match run(artifact, Path::new(data)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(artifact: &str, data: &Path) -> Result<(), Box<dyn Error>> {
    let artifact = std::fs::read(artifact).map_err(|error| format!("`{artifact}`: {error}"))?;
    // Loading an artifact is running code: load only what you would run as a program.
    let mut session = Session::load(&artifact, Options { threads: 0, seed: SEED, ..Options::default() })?;
    let train = Dataset::read(data, "train")?;
    let test = Dataset::read(data, "t10k")?;

    for _ in 0..EPOCHS {
        let start = Instant::now();
        let loss = train_epoch(&mut session, &train)?;
        let rate = train.len() as f64 / start.elapsed().as_secs_f64();
        println!("trained on {} images, {rate:.0} a second, loss {loss:.3}", train.len());
    }
    println!("accuracy on {} test images: {:.2} %", test.len(), 100.0 * accuracy(&mut session, &test)?);
    let memory = session.memory();
    println!("{} bytes of state, {} bytes of activations", memory.state_bytes, memory.arena_bytes);
    Ok(())
}

/// Trains on every image once; the last layer's mean loss.
fn train_epoch(session: &mut Session, data: &Dataset) -> Result<f32, Box<dyn Error>> {
    let mut order: Vec<usize> = (0..data.len()).collect();
    shuffle(&mut order, SEED + session.epoch());
    let (mut images, mut labels, mut sum) = (Vec::new(), Vec::new(), 0.0);
    for batch in order.chunks(session.program().batch) {
        let steps = EPOCHS as f32 * data.len() as f32 / session.program().batch as f32;
        session.set_learning_rate(RATE * rise_and_fall(session.step() as f32 / steps));
        images.clear();
        batch.iter().for_each(|&image| images.extend_from_slice(data.image(image)));
        labels.clear();
        labels.extend(batch.iter().map(|&image| data.label(image)));
        let report = session.train_step(Samples::U8(&images), &labels)?;
        sum += report.losses.last().copied().unwrap_or(0.0) * report.samples as f32;
    }
    session.end_epoch();
    Ok(sum / data.len() as f32)
}

/// A factor of the learning rate: it rises over the first tenth of the training, then falls to 0.
fn rise_and_fall(done: f32) -> f32 {
    (10.0 * done).min((1.0 - done) / 0.9)
}

/// The share of images whose class has the highest score.
fn accuracy(session: &mut Session, data: &Dataset) -> Result<f64, Box<dyn Error>> {
    let classes = session.program().classes;
    let mut scores = vec![0.0; data.len() * classes];
    session.infer(Samples::U8(data.images()), &mut scores)?;
    let is_right = |(image, scores): (usize, &[f32])| {
        let best = (0..classes).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best.is_some_and(|best| best as i32 == data.label(image))
    };
    let right = scores.chunks_exact(classes).enumerate().filter(|sample| is_right(*sample)).count();
    Ok(right as f64 / data.len() as f64)
}

/// Fisher and Yates' shuffle with the generator SplitMix64: the same order for the same seed, everywhere.
fn shuffle(order: &mut [usize], seed: u64) {
    let mut state = seed;
    for last in (1..order.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(last, ((random ^ (random >> 31)) % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_keeps_all_and_repeats() {
        let mut order: Vec<usize> = (0..100).collect();
        shuffle(&mut order, 3);
        let mut again: Vec<usize> = (0..100).collect();
        shuffle(&mut again, 3);
        assert_eq!(order, again);
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
