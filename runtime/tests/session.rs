//! Sessions over code written by hand.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{BATCH, CLASSES, artifact, inputs};
use ffc_runtime::artifact::{Element, Purpose};
use ffc_runtime::{Cpu, LoadError, Options, Samples, Session, StepError, WeightError, random::step_key};

fn session(threads: usize) -> Session {
    let options = Options { threads, seed: 7, learning_rate: 0.5, lambda_step: 0.25, ..Options::default() };
    Session::new(artifact(), options).unwrap()
}

/// Key and lambda as the last step saw them.
fn seen(session: &Session) -> (u32, f32) {
    let values = session.weight("seen").unwrap();
    (values[0].to_bits(), values[1])
}

#[test]
fn a_step_trains_and_reports() {
    for threads in [1, 2, 3] {
        let mut session = session(threads);
        assert_eq!(session.threads(), threads);
        let report = session.train_step(Samples::U8(&inputs(10)), &[0; 10]).unwrap();
        assert_eq!((report.losses, report.samples), (&[5.5][..], 10));
        assert_eq!(session.weight("fc.bias").unwrap(), [0.05; 5]);
        assert_eq!(seen(&session), (step_key(7, 0), 0.0));
        let report = session.train_step(Samples::U8(&inputs(4)), &[1; 4]).unwrap();
        assert_eq!((report.losses, report.samples), (&[2.5][..], 4));
        assert_eq!(session.weight("fc.bias").unwrap(), [0.05 + 0.125; 5]);
        assert_eq!((session.step(), seen(&session)), (2, (step_key(7, 1), 0.0)));
    }
}

#[test]
fn only_the_first_step_calibrates() {
    let mut session = session(1);
    session.train_layer(0, Samples::U8(&inputs(3)), &[0; 3]).unwrap();
    session.train_step(Samples::U8(&inputs(5)), &[0; 5]).unwrap();
    assert_eq!(session.weight("fc.range").unwrap(), [3.0]);
    session.calibrate(Samples::U8(&inputs(2)), &[0; 2]).unwrap();
    assert_eq!((session.weight("fc.range").unwrap(), session.step()), (vec![5.0], 2));
}

#[test]
fn epochs_and_settings_reach_the_code() {
    let mut session = session(1);
    session.end_epoch();
    session.end_epoch();
    session.set_learning_rate(8.0);
    session.set_step(1 << 40);
    session.train_step(Samples::U8(&inputs(1)), &[0]).unwrap();
    assert_eq!(seen(&session), (step_key(7, 1 << 40), 0.5));
    assert_eq!(session.weight("fc.bias").unwrap(), [8.0; 5]);
    session.set_lambda(3.0);
    session.train_step(Samples::U8(&inputs(1)), &[0]).unwrap();
    assert_eq!((session.epoch(), seen(&session).1), (2, 3.0));
}

#[test]
fn a_layer_alone_leaves_the_others_losses_at_zero() {
    let mut session = session(1);
    session.train_step(Samples::U8(&inputs(4)), &[0; 4]).unwrap();
    assert_eq!(session.train_layer(0, Samples::U8(&inputs(4)), &[0; 4]).unwrap().losses, [0.0]);
    let error = session.train_layer(1, Samples::U8(&inputs(4)), &[0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "the program has no step for trained layer 1 alone");
}

#[test]
fn inference_takes_any_number_of_samples() {
    for threads in [1, 2] {
        let mut session = session(threads);
        session.calibrate(Samples::U8(&inputs(1)), &[0]).unwrap();
        session.load_weights("fc.bias", &[9.0; 5]).unwrap();
        for samples in [0, 1, 3, 7, 50] {
            let mut scores = vec![-1.0; samples * CLASSES];
            session.infer(Samples::U8(&inputs(samples)), &mut scores).unwrap();
            let expected: Vec<f32> = (0..samples).flat_map(|sample| [sample as f32 + 1.0, 9.0]).collect();
            assert_eq!(scores, expected);
        }
    }
}

#[test]
fn wrong_samples_change_nothing() {
    let mut session = session(1);
    let four = inputs(4);
    let mut error =
        |inputs: Samples<'_>, labels: &[i32]| session.train_step(inputs, labels).unwrap_err().to_string();
    assert_eq!(error(Samples::U8(&[]), &[]), "a step takes 1 to 10 samples, 0 were given");
    assert_eq!(error(Samples::U8(&inputs(11)), &[0; 11]), "a step takes 1 to 10 samples, 11 were given");
    assert_eq!(error(Samples::U8(&four), &[0; 3]), "3 samples of 4 features are 12 numbers, 16 were given");
    assert_eq!(error(Samples::F32(&[0.0; 16]), &[0; 4]), "the network takes samples of U8, F32 was given");
    assert_eq!(error(Samples::U8(&four), &[0, 1, 2, 0]), "the label of sample 2 is 2, classes are 0 to 1");
    assert_eq!(error(Samples::U8(&four), &[0, -1, 0, 0]), "the label of sample 1 is -1, classes are 0 to 1");
    assert_eq!((session.step(), session.weight("fc.range").unwrap()), (0, vec![0.0]));
    let mut scores = [7.0; 4];
    assert_eq!(session.infer(Samples::U8(&inputs(2)), &mut scores), Err(StepError::Uncalibrated));
    session.calibrate(Samples::U8(&four), &[0; 4]).unwrap();
    let error = session.infer(Samples::U8(&inputs(2)), &mut scores[..3]).unwrap_err();
    assert_eq!(error.to_string(), "scores are 2 numbers a sample, there is room for 3");
    let error = session.infer(Samples::U8(&four), &mut scores).unwrap_err();
    assert_eq!(error, StepError::InputLength { samples: 2, features: 4, given: 16 });
    assert_eq!(scores, [7.0; 4]);
}

#[test]
fn inputs_must_be_finite() {
    let mut artifact = artifact();
    artifact.input = Element::F32;
    artifact.buffers[0].element = Element::F32;
    let mut session = Session::new(artifact, Options::default()).unwrap();
    let mut samples = [0.0f32; 12];
    samples[6] = f32::NAN;
    let error = session.train_step(Samples::F32(&samples), &[0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "feature 2 of sample 1 is not finite");
}

#[test]
fn weights_are_quantized_in_rows_or_together() {
    let mut session = session(1);
    let weight: Vec<f32> = (0..15).map(|i| (i as f32 - 7.0) * 10f32.powi(i / 5)).collect();
    let head = [0.1f32, -0.2, 0.3, 100.0, -50.0, 0.0];
    session.load_weights("fc.weight", &weight).unwrap();
    session.load_weights("a.head", &head).unwrap();
    let step = |largest: f32| largest * 1.5 / 127.0 / 256.0;
    for (row, (values, back)) in
        weight.chunks(5).zip(session.weight("fc.weight").unwrap().chunks(5)).enumerate()
    {
        let step = step(values.iter().fold(0.0, |most, value| most.max(value.abs())));
        assert!(values.iter().zip(back).all(|(a, b)| (a - b).abs() <= 0.501 * step), "row {row}: {back:?}");
    }
    let back = session.weight("a.head").unwrap();
    assert!(head.iter().zip(&back).all(|(a, b)| (a - b).abs() <= 0.501 * step(100.0)), "{back:?}");
    let names: Vec<_> =
        session.weights().map(|(name, shape, values)| (name.to_string(), shape, values.len())).collect();
    let expected = [("fc.weight", [3, 5], 15), ("fc.bias", [1, 5], 5), ("a.head", [2, 3], 6)];
    assert_eq!(names, expected.map(|(name, shape, len)| (name.to_string(), shape, len)));
}

#[test]
fn what_a_parameter_cannot_hold_is_refused() {
    let mut session = session(1);
    let before = session.weights_hash();
    let mut error = |name: &str, values: &[f32]| session.load_weights(name, values).unwrap_err().to_string();
    assert_eq!(error("fc.wait", &[]), "the network has no parameter `fc.wait`");
    assert_eq!(error("fc.weight", &[0.0; 3]), "`fc.weight` has 15 elements, 3 were given");
    assert_eq!(
        error("a.head", &[0.0, f32::INFINITY, 0.0, 0.0, 0.0, 0.0]),
        "element 1 of `a.head` cannot be inf"
    );
    assert_eq!(
        error("fc.velocity", &[0.0, 0.0, 0.5, 0.0, 0.0, 0.0]),
        "element 2 of `fc.velocity` cannot be 0.5"
    );
    assert_eq!(error("fc.velocity", &[32768.0; 6]), "element 0 of `fc.velocity` cannot be 32768");
    session.load_weights("fc.velocity", &[-32768.0, 1.0, 2.0, 3.0, 4.0, 32767.0]).unwrap();
    assert_eq!(session.weight("fc.velocity").unwrap(), [-32768.0, 1.0, 2.0, 3.0, 4.0, 32767.0]);
    assert_eq!(session.weights_hash(), before);
}

#[test]
fn the_hash_is_of_names_shapes_and_values() {
    use sha2::{Digest, Sha256};
    let mut session = session(1);
    session.load_weights("fc.bias", &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let mut bytes = Vec::new();
    for (name, shape, values) in [
        ("a.head", [2u64, 3], vec![0.0f32; 6]),
        ("fc.bias", [1, 5], vec![1.0, 2.0, 3.0, 4.0, 5.0]),
        ("fc.weight", [3, 5], vec![0.0; 15]),
    ] {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(session.weights_hash(), expected);
}

#[test]
fn state_comes_back_exactly() {
    let mut first = session(1);
    first.load_weights("fc.weight", &[0.3; 15]).unwrap();
    first.train_step(Samples::U8(&inputs(5)), &[0; 5]).unwrap();
    let mut second = session(2);
    second.load_state(&first.state()).unwrap();
    assert_eq!(second.state(), first.state());
    // Calibrated: the range stays.
    second.train_step(Samples::U8(&inputs(5)), &[0; 5]).unwrap();
    assert_eq!(second.weight("fc.range").unwrap(), [5.0]);

    let before = second.weights_hash();
    let mut state = first.state();
    state[0].name = "fc.weigh.high".to_string();
    assert_eq!(second.load_state(&state), Err(WeightError::Unknown("fc.weigh.high".to_string())));
    let mut state = first.state();
    state[1] = state[0].clone();
    assert_eq!(second.load_state(&state), Err(WeightError::Repeated("fc.weight.high".to_string())));
    let mut state = first.state();
    state.pop();
    assert_eq!(second.load_state(&state), Err(WeightError::Missing("fc.velocity".to_string())));
    let mut state = first.state();
    state[3].shape = [5, 1];
    let error = second.load_state(&state).unwrap_err();
    assert_eq!(error.to_string(), "`fc.bias` has shape [1, 5], [5, 1] was given");
    assert_eq!(second.weights_hash(), before);
}

#[test]
fn memory_is_what_the_artifact_says() {
    let memory = session(1).memory();
    assert_eq!((memory.state_bytes, memory.arena_bytes), (1216, 128));
}

#[test]
fn the_best_variant_that_the_machine_runs_is_mapped() {
    assert_eq!(session(1).variant(), "best");
    let mut artifact = artifact();
    artifact.variants[1].features.push("sse2".to_string());
    let variant = |cpu: Cpu| {
        let session = Session::new(artifact.clone(), Options { cpu, ..Options::default() }).unwrap();
        assert!(session.program().variants.iter().all(|variant| variant.code.is_empty()));
        session.variant().to_string()
    };
    assert_eq!(variant(Cpu::detect()), "best");
    assert_eq!(variant(Cpu::detect().lowered_to("portable").unwrap()), "rest");
}

#[test]
fn sessions_may_move_between_threads() {
    let mut session = session(2);
    let bias = std::thread::spawn(move || {
        session.train_step(Samples::U8(&inputs(BATCH)), &[0; BATCH]).unwrap();
        session.weight("fc.bias").unwrap()
    });
    assert_eq!(bias.join().unwrap(), [0.05; 5]);
}

#[test]
fn what_this_machine_cannot_run_is_refused() {
    let load = |artifact| Session::new(artifact, Options::default()).unwrap_err();
    let mut other = artifact();
    other.architecture = "riscv64".to_string();
    assert_eq!(load(other).to_string(), "the artifact is for `riscv64`, this machine is `x86_64`");
    let mut other = artifact();
    other.variants.truncate(1);
    assert_eq!(
        load(other).to_string(),
        "the artifact has no code that this machine can run: `future` needs flux"
    );
    let mut other = artifact();
    other.imports.push("gemm_amx".to_string());
    assert!(matches!(load(other), LoadError::Microkernel(name) if name == "gemm_amx"));
    let mut other = artifact();
    other.schedules.retain(|schedule| schedule.purpose != Purpose::Infer);
    assert_eq!(load(other).to_string(), "invalid artifact: there is no schedule for Infer");
}
