//! No bytes panic, and no import does.

mod common;

use common::{attributes, dense, float, int, ints, net};
use ffc_onnx::{NoExternalData, decode, import};
use proptest::prelude::*;

/// A model with most of what the importer understands.
fn valid() -> Vec<u8> {
    dense(17)
        .node("Shape", &["h"], "s", vec![])
        .ints("z", &[1], &[0])
        .node("Gather", &["s", "z"], "n", vec![int("axis", 0)])
        .ints("r", &[1], &[-1])
        .node("Concat", &["n", "r"], "t", vec![int("axis", 0)])
        .node("Reshape", &["h", "t"], "v", vec![int("allowzero", 0)])
        .node("LeakyRelu", &["v"], "a", vec![float("alpha", 0.1)])
        .node("Mul", &["a", "a"], "q", vec![])
        .node("ReduceMean", &["q"], "m", vec![ints("axes", &[1])])
        .floats("e", &[], &[0.1])
        .node("Add", &["m", "e"], "p", vec![])
        .node("Sqrt", &["p"], "o", vec![])
        .node("Div", &["a", "o"], "d", vec![])
        .weight("fc2.weight", &[3, 2])
        .node("MatMul", &["d", "fc2.weight"], "l", vec![])
        .node("Softmax", &["l"], "y", vec![int("axis", 1)])
        .output("y")
        .bytes()
}

/// A convolutional network with most of what belongs to one.
fn valid_image() -> Vec<u8> {
    net(19)
        .input("x", &["N", "2", "5", "6"])
        .weight("conv.weight", &[4, 2, 3, 3])
        .weight("deep.weight", &[4, 1, 2, 2])
        .weight("point.weight", &[4, 4, 1, 1])
        .weight("fc.weight", &[3, 4])
        .floats("s", &[4], &[0.5; 4])
        .ints("pads", &[8], &[0, 0, 1, 0, 0, 0, 1, 2])
        .ints("axes", &[2], &[2, 3])
        .node("Pad", &["x", "pads"], "p", vec![])
        .node("Conv", &["p", "conv.weight"], "c", attributes("strides=2,2 pads=1,1,1,1"))
        .node("BatchNormalization", &["c", "s", "s", "s", "s"], "b", vec![])
        .node("Sigmoid", &["b"], "g", vec![])
        .node("Mul", &["b", "g"], "a", vec![])
        .node("Conv", &["a", "deep.weight"], "d", attributes("group=4 auto_pad:SAME_UPPER"))
        .node("MaxPool", &["d"], "m", attributes("kernel_shape=2,2 ceil_mode=1"))
        .node("GlobalAveragePool", &["m"], "q", vec![])
        .node("Conv", &["q", "point.weight"], "e", vec![])
        .node("HardSigmoid", &["e"], "h", vec![])
        .node("Mul", &["m", "h"], "n", vec![])
        .node("Transpose", &["n"], "t", vec![ints("perm", &[0, 2, 3, 1])])
        .node("Transpose", &["t"], "u", vec![ints("perm", &[0, 3, 1, 2])])
        .node("ReduceMean", &["u", "axes"], "v", vec![int("keepdims", 0)])
        .node("Gemm", &["v", "fc.weight"], "y", vec![int("transB", 1)])
        .output("y")
        .bytes()
}

/// Decodes and imports whatever comes.
fn survive(bytes: &[u8]) {
    if let Ok(model) = decode(bytes, &NoExternalData) {
        match import(&model) {
            Ok(network) => common::checked_module(&network),
            Err(error) => drop((error.to_string(), error.help())),
        }
    }
}

#[test]
fn the_valid_model_is_valid() {
    for bytes in [valid(), valid_image()] {
        import(&decode(&bytes, &NoExternalData).unwrap()).unwrap();
    }
}

#[test]
fn every_truncation_is_survived() {
    for bytes in [valid(), valid_image()] {
        (0..bytes.len()).for_each(|end| survive(&bytes[..end]));
    }
}

#[test]
fn truncations_of_an_exported_file_are_survived() {
    let Some(bytes) = common::shared_model("mnist_mlp.onnx") else { return };
    (0..bytes.len()).step_by(97).for_each(|end| survive(&bytes[..end]));
}

#[test]
fn every_single_bit_matters_to_nobody() {
    for bytes in [valid(), valid_image()] {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut mutated = bytes.clone();
                mutated[at] ^= 1 << bit;
                survive(&mutated);
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    // An attribute that holds a graph that holds a node that holds an attribute, and so on.
    let mut message = Vec::new();
    let wrap = |tag: u8, inner: &[u8]| {
        let mut outer = vec![tag];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(inner);
        outer
    };
    for _ in 0..5_000 {
        message = wrap(6 << 3 | 2, &message);
        message = wrap(5 << 3 | 2, &message);
        message = wrap(1 << 3 | 2, &message);
    }
    let error = decode(&wrap(7 << 3 | 2, &message), &NoExternalData).unwrap_err();
    assert!(error.to_string().contains("levels of nested messages"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        survive(&bytes);
    }

    #[test]
    fn mutations_are_survived(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        grow in any::<bool>(),
        image in any::<bool>(),
    ) {
        let mut bytes = if image { valid_image() } else { valid() };
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = cut.index(bytes.len());
        let tail = bytes[cut..].to_vec();
        if grow { bytes.extend_from_slice(&tail) } else { bytes.truncate(cut) }
        survive(&bytes);
    }
}
