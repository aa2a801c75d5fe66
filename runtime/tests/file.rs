//! Artifacts as files: what is written comes back, and nothing else is let in.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::artifact;
use ffc_runtime::artifact::{Artifact, Element, Extent, Place, Purpose, Storage};
use ffc_runtime::{ArtifactError, Options, Session};
use proptest::prelude::*;

fn file() -> Vec<u8> {
    artifact().to_bytes(&[("empty", b""), ("network.ffir", b"module")])
}

fn refusal(bytes: &[u8]) -> String {
    Artifact::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_written_comes_back() {
    let (read, attachments) = Artifact::from_bytes(&file()).unwrap();
    assert_eq!(read, artifact());
    assert_eq!(attachments["network.ffir"], b"module");
    assert_eq!((attachments.len(), attachments["empty"].len()), (2, 0));
    assert_eq!(file(), file(), "equal artifacts are equal files");
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let file = file();
    assert_eq!(refusal(b""), "not an ffc artifact: the file does not begin with its magic");
    assert_eq!(refusal(b"\x7fELF and so on"), "not an ffc artifact: the file does not begin with its magic");
    assert_eq!(refusal(&file[..12]), "malformed artifact: the header is cut short");
    assert_eq!(refusal(&file[..30]), "malformed artifact: the section table is cut short");
    assert_eq!(refusal(&file[..file.len() - 1]), "malformed artifact: section `network.ffir` is cut short");
    assert_eq!(
        refusal(&[&file[..], b"x"].concat()),
        "malformed artifact: there is something behind the last section"
    );
    let mut newer = file.clone();
    newer[8] = 3;
    assert_eq!(refusal(&newer), "artifact format 3 is not supported: this runtime reads format 2");
    let mut older = file.clone();
    older[8] = 1;
    assert_eq!(refusal(&older), "artifact format 1 is not supported: this runtime reads format 2");
    let mut damaged = file.clone();
    damaged[30] ^= 1;
    assert_eq!(refusal(&damaged), "damaged artifact: the checksum of `header` does not match");
    let mut damaged = file.clone();
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    assert_eq!(refusal(&damaged), "damaged artifact: the checksum of `network.ffir` does not match");
}

#[test]
#[should_panic(expected = "`code.3` is no name for an attachment")]
fn attachments_cannot_take_the_place_of_code() {
    artifact().to_bytes(&[("code.3", b"")]);
}

#[test]
fn unsound_descriptions_are_refused_with_the_reason() {
    type Change = fn(&mut Artifact);
    let cases: &[(Change, &str)] = &[
        (|a| a.variants.clear(), "there is no code"),
        (|a| a.variants[2].name = "best".to_string(), "two variants are called `best`"),
        (|a| a.variants[1].entries.truncate(5), "variant `best` has 5 entries for 6 kernels"),
        (|a| a.variants[1].entries[2] = 1 << 20, "kernel `update` begins outside the code of variant `best`"),
        (|a| a.variants[2].code.clear(), "variant `rest` has no code"),
        (|a| a.architecture = "z80".to_string(), "unknown architecture `z80`"),
        (|a| a.input = Element::I16, "samples cannot be I16"),
        (|a| a.infer_batch = 0, "batch, features and classes cannot be 0"),
        (|a| a.batch = usize::MAX / 2, "a batch of 9223372036854775807 samples is too large"),
        (|a| a.arena_bytes = usize::MAX, "more memory than there are addresses"),
        (|a| a.buffers[7].rows = Extent::Rows(0), "buffer `act` is empty"),
        (|a| a.buffers[7].rows = Extent::Rows(usize::MAX), "buffer `act` is too large"),
        (|a| a.buffers[8].stride = 4, "rows of buffer `high` overlap"),
        (|a| a.buffers[7].place = Place::Arena(8), "buffer `act` is not aligned"),
        (|a| a.buffers[7].place = Place::Arena(128), "buffer `act` does not lie inside the arena"),
        (|a| a.buffers[7].bytes = usize::MAX, "buffer `act` does not lie inside the arena"),
        (|a| a.state_bytes = 1000, "buffer `velocity` does not lie inside the state"),
        (|a| a.buffers[8].bytes = 64, "buffer `high` needs 192 bytes and has 64"),
        (|a| a.buffers[8].rows = Extent::Rows(3), "state buffer `high` depends on the batch"),
        (|a| a.buffers[0].element = Element::F32, "buffer `input` should be U8"),
        (|a| a.features = 3, "buffer `input` covers more than the caller gives"),
        (|a| a.buffers[2].rows = Extent::Const(3), "buffer `scores` covers more than the caller gives"),
        (|a| a.buffers[3].bytes = 128, "buffer `rate` does not fit its place"),
        (|a| a.buffers[5].element = Element::F32, "buffer `key` should be one I32"),
        (|a| a.buffers[6].place = Place::Loss(1), "buffer `loss` is the loss of no trained layer"),
        (
            |a| a.params[1].storage = Storage::Plain { value: 99 },
            "parameter `fc.bias` is in buffer 99, which is none",
        ),
        (
            |a| a.params[1].storage = Storage::Plain { value: 7 },
            "parameter `fc.bias` is in buffer `act`, which is not state",
        ),
        (|a| a.params[0].shape = [5, 3], "parameter `fc.weight` and its buffer `high` have different shapes"),
        (|a| a.params[0].shape = [usize::MAX, 2], "parameter `fc.weight` is too large"),
        (|a| a.params[1].name = "seen".to_string(), "two parameters are called `seen`"),
        (|a| a.params[1].name = "fc.weight.low".to_string(), "two parameters are called `fc.weight.low`"),
        (|a| drop(a.params.pop()), "state buffer `velocity` belongs to no parameter"),
        (|a| a.kernels[0].rows = Extent::Const(0), "kernel `forward` has no rows"),
        (|a| a.kernels[0].rows = Extent::Rows(usize::MAX), "kernel `forward` has too many rows"),
        (|a| a.schedules[1].kernels.push(6), "the schedule for Train names a kernel that is none"),
        (|a| a.schedules[2].purpose = Purpose::TrainLayer(1), "a schedule trains layer 1, which is none"),
        (|a| a.schedules[0].purpose = Purpose::Train, "there are two schedules for Train"),
        (|a| drop(a.schedules.remove(1)), "there is no schedule for Train"),
    ];
    for (change, reason) in cases {
        let mut artifact = artifact();
        change(&mut artifact);
        let error = artifact.validate().unwrap_err().to_string();
        assert_eq!(error, format!("invalid artifact: {reason}"));
        assert!(
            matches!(Artifact::from_bytes(&artifact.to_bytes(&[])), Err(ArtifactError::Invalid(_))),
            "{reason}"
        );
    }
}

#[test]
fn fields_that_are_not_known_are_refused() {
    let mut description = serde_json::to_value(artifact()).unwrap();
    description["kernels"][0]["tiles"] = 3.into();
    assert!(serde_json::from_value::<Artifact>(description).is_err());
}

/// The numbers in a JSON value.
fn numbers(value: &mut serde_json::Value) -> Vec<&mut serde_json::Value> {
    match value {
        serde_json::Value::Array(items) => items.iter_mut().flat_map(numbers).collect(),
        serde_json::Value::Object(fields) => fields.values_mut().flat_map(numbers).collect(),
        serde_json::Value::Number(_) => vec![value],
        _ => Vec::new(),
    }
}

/// A description with the code of [`artifact`].
fn with_code(mut described: Artifact) -> Artifact {
    for (variant, own) in described.variants.iter_mut().zip(artifact().variants) {
        variant.code = own.code;
    }
    described
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..20u64, 0..2000u64, any::<u64>(), (0..64u32).prop_map(|bits| 1 << bits), Just(u64::MAX)]
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Artifact::from_bytes(&bytes).is_err());
    }

    #[test]
    fn random_bytes_behind_the_magic_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Artifact::from_bytes(&[&file()[..12], &bytes].concat()).is_err());
    }

    #[test]
    fn every_changed_bit_is_noticed(position in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = file();
        let position = position.index(bytes.len());
        bytes[position] ^= 1u8 << bit;
        prop_assert!(Artifact::from_bytes(&bytes).is_err());
    }

    #[test]
    fn every_cut_is_noticed(position in any::<prop::sample::Index>()) {
        let bytes = file();
        prop_assert!(Artifact::from_bytes(&bytes[..position.index(bytes.len())]).is_err());
    }

    /// Any description is either refused or safe to look at from all sides but running it.
    #[test]
    fn changed_numbers_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any_number()), 1..4)) {
        let mut description = serde_json::to_value(artifact()).unwrap();
        let mut numbers = numbers(&mut description);
        for (index, number) in changes {
            let index = index.index(numbers.len());
            *numbers[index] = number.into();
        }
        if let Ok(changed) = serde_json::from_value::<Artifact>(description) {
            let changed = with_code(changed);
            let small = changed.state_bytes.max(changed.arena_bytes) < 1 << 20;
            if changed.validate().is_ok() && small && cfg!(target_arch = "x86_64") {
                let mut session = Session::new(changed, Options::default()).unwrap();
                let names: Vec<_> = session.weights().map(|(name, _, values)| (name.to_string(), values)).collect();
                for (name, values) in names {
                    session.load_weights(&name, &values).unwrap();
                }
            }
        }
    }
}
