//! Checkpoints, and weights that come with an artifact.
#![cfg(all(target_arch = "x86_64", feature = "checkpoint"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{artifact, inputs};
use ffc_runtime::checkpoint::{self, CheckpointError};
use ffc_runtime::{LoadError, Options, Samples, Session, WEIGHTS_ATTACHMENT};
use safetensors::tensor::{Dtype, TensorView, serialize};

fn session(seed: u64) -> Session {
    let options = Options { seed, learning_rate: 0.3, lambda: 0.1, lambda_step: 0.7, ..Options::default() };
    Session::new(artifact(), options).unwrap()
}

fn train(session: &mut Session, steps: usize) {
    for samples in (1..=7).cycle().take(steps) {
        session.train_step(Samples::U8(&inputs(samples)), &vec![0; samples]).unwrap();
    }
    session.end_epoch();
}

fn user() -> BTreeMap<String, String> {
    BTreeMap::from([("position".to_string(), "epoch 1, \"batch\" 7".to_string())])
}

#[test]
fn training_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new");
    let mut whole = session(u64::MAX - 5);
    whole.load_weights("fc.weight", &[0.1; 15]).unwrap();
    train(&mut whole, 9);
    checkpoint::save(&folder, &whole, &user()).unwrap();
    let first = fs::read(folder.join(checkpoint::FILE)).unwrap();
    checkpoint::save(&folder, &whole, &user()).unwrap();
    assert!(first == fs::read(folder.join(checkpoint::FILE)).unwrap(), "equal checkpoints are equal files");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing unfinished stays");

    let mut resumed = session(1);
    assert_eq!(checkpoint::load(&folder, &mut resumed).unwrap(), user());
    train(&mut whole, 7);
    train(&mut resumed, 7);
    assert_eq!(resumed.state(), whole.state());
    assert_eq!((resumed.step(), resumed.epoch(), resumed.seed()), (16, 2, u64::MAX - 5));
    assert_eq!((resumed.lambda(), resumed.learning_rate()), (whole.lambda(), whole.learning_rate()));
}

#[test]
fn a_checkpoint_before_the_first_step_leaves_the_ranges_to_it() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::save(folder.path(), &session(3), &BTreeMap::new()).unwrap();
    let mut resumed = session(1);
    checkpoint::load(folder.path(), &mut resumed).unwrap();
    train(&mut resumed, 1);
    assert_eq!(resumed.weight("fc.range").unwrap(), [1.0]);
}

#[test]
fn other_networks_and_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(checkpoint::FILE);
    let mut session = session(1);
    let missing = checkpoint::load(folder.path(), &mut session).unwrap_err();
    assert!(matches!(missing, CheckpointError::Io { .. }));
    fs::write(&path, b"GIF89a").unwrap();
    let error = checkpoint::load(folder.path(), &mut session).unwrap_err().to_string();
    assert!(error.contains("is not a checkpoint: cannot read the weights: header too small"), "{error}");

    let mut other = artifact();
    other.params[1].name = "fc.offset".to_string();
    let other = Session::new(other, Options::default()).unwrap();
    checkpoint::save(folder.path(), &other, &BTreeMap::new()).unwrap();
    let error = checkpoint::load(folder.path(), &mut session).unwrap_err().to_string();
    assert_eq!(error, "the checkpoint does not fit the network: the network has no parameter `fc.offset`");
    assert_eq!((session.seed(), session.step()), (1, 0));

    fs::write(&path, serialize([("x", bias(&[0; 20]))], None).unwrap()).unwrap();
    let error = checkpoint::load(folder.path(), &mut session).unwrap_err().to_string();
    assert!(error.ends_with("is not a checkpoint: it was not written by ffc"), "{error}");
}

#[test]
fn every_cut_of_a_checkpoint_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(checkpoint::FILE);
    let mut session = session(1);
    checkpoint::save(folder.path(), &session, &user()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(checkpoint::load(folder.path(), &mut session).is_err(), "{length}");
    }
}

fn bias(bytes: &[u8]) -> TensorView<'_> {
    TensorView::new(Dtype::F32, vec![1, 5], bytes).unwrap()
}

fn load_with(weights: &[u8]) -> Result<Session, LoadError> {
    Session::load(&artifact().to_bytes(&[(WEIGHTS_ATTACHMENT, weights)]), Options::default())
}

#[test]
fn artifacts_bring_their_weights() {
    let values = [1.0f32, -2.0, 3.0, 0.5, 0.0];
    let bytes = values.map(f32::to_le_bytes).as_flattened().to_vec();
    let weight = [[0.5f32.to_le_bytes(); 5]; 3].as_flattened().as_flattened().to_vec();
    let weight = TensorView::new(Dtype::F32, vec![3, 5], &weight).unwrap();
    let file = serialize([("fc.bias", bias(&bytes)), ("fc.weight", weight)], None).unwrap();
    let mut session = load_with(&file).unwrap();
    assert_eq!(session.weight("fc.bias").unwrap(), values);
    assert!(session.weight("fc.weight").unwrap().iter().all(|value| (value - 0.5).abs() < 1e-4));
    train(&mut session, 1);
    assert_eq!(session.weight("fc.range").unwrap(), [1.0], "fresh weights have no ranges");

    let unknown = load_with(&serialize([("fc.biased", bias(&bytes))], None).unwrap()).unwrap_err();
    assert_eq!(unknown.to_string(), "the artifact's own weights: the network has no parameter `fc.biased`");
    assert!(matches!(load_with(b"nothing").unwrap_err(), LoadError::Weights(_)));
}

#[test]
fn artifacts_may_bring_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut trained = session(1);
    trained.load_weights("fc.weight", &[0.1; 15]).unwrap();
    train(&mut trained, 3);
    checkpoint::save(folder.path(), &trained, &BTreeMap::new()).unwrap();
    let mut session = load_with(&fs::read(folder.path().join(checkpoint::FILE)).unwrap()).unwrap();
    assert_eq!(session.state(), trained.state());
    session.infer(Samples::U8(&inputs(1)), &mut [0.0; 2]).unwrap();
    assert_eq!(session.step(), 0);
}
