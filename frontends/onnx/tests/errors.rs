//! What a person reads when a file is refused.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;

use common::{dense, int, ints, net};
use ffc_onnx::proto::tensor_proto::DataLocation;
use ffc_onnx::proto::{GraphProto, ModelProto, TensorProto};
use ffc_onnx::{Folder, Limits, NoExternalData, OnnxError, decode, decode_within, import, read};
use prost::Message;

fn external(location: &str, offset: &str, length: &str) -> common::Net {
    let mut net = dense(17).output("h");
    let weight = &mut net.graph().initializer[0];
    weight.raw_data = None;
    weight.data_location = Some(DataLocation::External.into());
    for (key, value) in [("location", location), ("offset", offset), ("length", length)] {
        if !value.is_empty() {
            weight.external_data.push(common::entry(key, value));
        }
    }
    net
}

/// The message and the help for a model whose folder holds `weights.bin` of 100 bytes.
fn refused(net: &common::Net) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights.bin"), [0; 100]).unwrap();
    fs::write(folder.path().join("model.onnx"), net.bytes()).unwrap();
    let error = read(&folder.path().join("model.onnx")).unwrap_err();
    (error.to_string(), error.help().unwrap_or_default())
}

#[test]
fn external_data_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..13).flat_map(|index| (index as f32).to_le_bytes()).collect();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/weights.bin"), values).unwrap();
    for (offset, length, first) in [("", "", 0.0), ("4", "48", 1.0), ("4", "", 1.0)] {
        let bytes = external("./data/weights.bin", offset, length).bytes();
        let network = import(&decode(&bytes, &Folder::new(folder.path())).unwrap()).unwrap();
        assert_eq!(network.weights[0].1.load().unwrap()[0], first);
    }
}

#[test]
fn weights_stay_in_the_file_until_they_are_asked_for() {
    let numbers: Vec<f32> = (0..4 * 700).map(|index| index as f32 / 7.0).collect();
    let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let (name, dims, data_type) = (Some("fc.weight".into()), vec![700, 4], Some(1));
    let weight = TensorProto { name, dims, data_type, raw_data: Some(raw.into()), ..Default::default() };
    let net = net(17).input("x", &["N", "700"]).output("y").node("MatMul", &["x", "fc.weight"], "y", vec![]);
    // Two models, one behind the other, are one: here the second brings the weight.
    let graph = Some(GraphProto { initializer: vec![weight], ..Default::default() });
    let more = ModelProto { graph, ..Default::default() };
    let bytes = [net.bytes(), more.encode_to_vec()].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, &bytes).unwrap();
    let network = import(&read(&path).unwrap()).unwrap();
    let loaded = network.weights[0].1.load().unwrap();
    assert_eq!(loaded[..3], [0.0, 4.0 / 7.0, 8.0 / 7.0]);
    let in_memory = import(&decode(&bytes, &NoExternalData).unwrap()).unwrap();
    assert_eq!(in_memory.weights[0].1.load().unwrap(), loaded);
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = network.weights[0].1.load().unwrap_err().to_string();
    assert!(error.ends_with("model.onnx`: it has changed since it was opened"), "{error}");
}

#[test]
fn missing_external_data() {
    let (error, help) = refused(&external("model.onnx.data", "0", "48"));
    assert_eq!(error, "the data of tensor `fc1.weight` in `model.onnx.data`: the file does not exist");
    assert_eq!(help, "re-export with the `model.onnx.data` file next to the model, or copy it there");
}

#[test]
fn short_external_data() {
    let (error, help) = refused(&external("weights.bin", "64", "48"));
    assert_eq!(
        error,
        "the data of tensor `fc1.weight` in `weights.bin`: the file has 100 bytes, 112 are needed"
    );
    assert!(help.starts_with("copy `weights.bin` again"), "{help}");
}

#[test]
fn external_data_elsewhere() {
    for (location, problem) in [
        ("../weights.bin", "the path leads out of the model's folder"),
        ("a/../../weights.bin", "the path leads out of the model's folder"),
        ("a\\..\\..\\weights.bin", "the path leads out of the model's folder"),
        ("/etc/passwd", "an absolute path is not allowed"),
        ("C:\\weights.bin", "an absolute path is not allowed"),
        ("", "the model names no file"),
        (".", "not a regular file"),
    ] {
        let (error, _) = refused(&external(location, "0", "48"));
        assert_eq!(error, format!("the data of tensor `fc1.weight` in `{location}`: {problem}"));
    }
}

#[test]
fn external_data_of_the_wrong_length() {
    let (error, _) = refused(&external("weights.bin", "0", "47"));
    assert!(error.ends_with("the model declares 47 bytes, the tensor needs 48"), "{error}");
    let (error, _) = refused(&external("weights.bin", "-1", "48"));
    assert!(error.ends_with("`-1` is not a number of bytes"), "{error}");
    let (error, _) = refused(&external("weights.bin", "18446744073709551615", "48"));
    assert!(error.contains("the file has 100 bytes"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_not_followed() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(elsewhere.path().join("secret"), [0; 100]).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("secret"), folder.path().join("weights.bin")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("sub")).unwrap();
    for location in ["weights.bin", "sub/secret"] {
        let error = decode(&external(location, "0", "48").bytes(), &Folder::new(folder.path())).unwrap_err();
        assert!(error.to_string().ends_with("the path leads out of the model's folder"), "{error}");
    }
}

#[test]
fn truncated_and_foreign_files() {
    let bytes = dense(17).output("h").bytes();
    let error = decode(&bytes[..bytes.len() - 10], &NoExternalData).unwrap_err();
    assert!(error.to_string().starts_with("the file is truncated: a field at byte "), "{error}");
    assert_eq!(error.help().as_deref(), Some("copy or download the file again"));
    let error = decode(b"hello", &NoExternalData).unwrap_err();
    assert!(error.to_string().starts_with("not an ONNX model: "), "{error}");
    let error = decode(b"", &NoExternalData).unwrap_err();
    assert_eq!(error.to_string(), "not an ONNX model: there is no graph");
    let error = read(std::path::Path::new("/nowhere/model.onnx")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `/nowhere/model.onnx`: "), "{error}");
}

#[test]
fn contradictory_tensors() {
    let mut net = dense(17).output("h");
    net.graph().initializer[0].dims = vec![3, 5];
    assert_eq!(net.error(), "tensor `fc1.weight`: dimensions [3, 5] need 15 elements, there are 12");
    net.graph().initializer[0].dims = vec![3, -1];
    assert_eq!(net.error(), "tensor `fc1.weight`: dimensions [3, -1] are not sizes");
    net.graph().initializer[0].dims = vec![i64::MAX, 4];
    assert!(net.error().contains("are too large"), "{}", net.error());
    net.graph().initializer[0].dims = vec![1 << 40];
    assert!(net.error().contains("more than the limit of"), "{}", net.error());
}

#[test]
fn limits_hold() {
    let net = dense(17).output("h");
    let limited =
        |limits: Limits| decode_within(&net.bytes(), &NoExternalData, &limits).unwrap_err().to_string();
    let limits = Limits::default();
    assert!(limited(Limits { file_bytes: 9, ..limits.clone() }).ends_with("bytes, more than the limit of 9"));
    assert_eq!(
        limited(Limits { nodes: 0, ..limits.clone() }),
        "the model has 1 nodes, more than the limit of 0"
    );
    assert_eq!(
        limited(Limits { fields: 3, ..limits.clone() }),
        "the model has 4 fields, more than the limit of 3"
    );
    assert_eq!(
        limited(Limits { tensor_bytes: 50, ..limits.clone() }),
        "the model has 60 bytes of tensors, more than the limit of 50"
    );
    assert_eq!(
        limited(Limits { depth: 1, ..limits }),
        "the model has 2 levels of nested messages, more than the limit of 1"
    );
}

#[test]
fn broken_graphs() {
    let net = dense(17).node("Relu", &["b"], "a", vec![]).node("Relu", &["a"], "b", vec![]).output("b");
    assert!(net.error().contains("depends on its own output"), "{}", net.error());
    let net = dense(17).node("Relu", &["nothing"], "a", vec![]).output("a");
    assert_eq!(net.error(), "node `a` reads `nothing`, which nothing produces");
    let net = dense(17).node("Relu", &["h"], "h", vec![]).output("h");
    assert_eq!(net.error(), "value `h` is produced twice");
    let net = dense(17).weight("fc1.weight", &[3, 4]).output("h");
    assert_eq!(net.error(), "value `fc1.weight` is produced twice");
    assert_eq!(dense(17).output("z").error(), "nothing produces the graph's output `z`");
}

#[test]
fn everything_unsupported_is_listed_at_once() {
    let net = dense(17)
        .opset("com.microsoft", 1)
        .node("Asin", &["h"], "a", vec![])
        .node("Relu", &["a"], "b", vec![])
        .node("Asin", &["b"], "c", vec![])
        .node_in("com.microsoft", "FusedGemm", &["c"], "d", vec![])
        .node("Relu", &["d"], "e", vec![int("slope", 1)])
        .node("Squeeze", &["e"], "y", vec![ints("axes", &[0])])
        .scopes("['', 'head', 'squeeze']")
        .output("y");
    let error = net.import().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model needs what is not supported:\n  \
         2 x `Asin` (ai.onnx 17): the operator is not supported; at `a`, `c`\n  \
         1 x `Relu` (ai.onnx 17): attribute `slope` is not supported; at `e`\n  \
         1 x `Squeeze` (ai.onnx 17): attribute `axes` is not supported; at `y (head)`\n  \
         1 x `FusedGemm` (com.microsoft 1): the operator is not supported; at `d`"
    );
    let OnnxError::Unsupported(rows) = error else { panic!("{error}") };
    assert_eq!(rows[0].nodes, ["a", "c"]);
}

#[test]
fn opsets_out_of_range_are_refused() {
    let error = dense(99).output("h").import().unwrap_err();
    assert!(error.to_string().contains("opset 99 is newer than"), "{error}");
    assert_eq!(error.help().as_deref(), Some("re-export with an older `opset_version`"));
    let error = dense(6).output("h").import().unwrap_err();
    assert!(error.to_string().contains("opset 6 is older than 7"), "{error}");
}

#[test]
fn what_is_no_classifier_is_refused() {
    let one = |outputs: i64| {
        net(17)
            .input("x", &["N", "4"])
            .weight("w", &[4, outputs])
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y")
    };
    assert_eq!(
        one(1).error(),
        "the network has one output; the task is classification with one score per class"
    );
    assert_eq!(
        dense(17).node("Sigmoid", &["h"], "y", vec![]).output("y").error(),
        "the network ends in the activation `sigmoid`; the task is classification with one score per class"
    );
    assert_eq!(
        net(17).input("x", &["N", "4"]).node("Identity", &["x"], "y", vec![]).output("y").error(),
        "the network has no layer with weights"
    );
    let two = dense(17).input("z", &["N", "4"]).output("h");
    assert_eq!(two.error(), "the model has 2 inputs, one is supported");
    let error = net(17).input("x", &["N", "M"]).node("Identity", &["x"], "y", vec![]).output("y").error();
    assert_eq!(error, "input `x` has a dimension besides the batch that is not a number");
    let error = net(17).input("x", &["N"]).node("Identity", &["x"], "y", vec![]).output("y").error();
    assert_eq!(error, "input `x` does not have the shape [batch, features...]");
    let error = dense(17).node("Relu", &["h"], "a", vec![]).output("h").output("a").error();
    assert_eq!(error, "the network has several outputs");
}

#[test]
fn scaling_in_front_of_the_network_belongs_to_the_preprocessing() {
    let net = net(17)
        .input("x", &["N", "4"])
        .floats("c", &[], &[255.0])
        .node("Div", &["x", "c"], "s", vec![])
        .weight("w", &[4, 3])
        .node("MatMul", &["s", "w"], "y", vec![])
        .output("y");
    let error = net.import().unwrap_err();
    assert!(error.to_string().contains("arithmetic on the network's input: put it into the preprocessing"));
    assert!(error.help().unwrap().contains("--input-scale"));
}

/// A convolution of these attributes, then `op` of what it gives (`[N, 4, 5, 8]`).
fn after_convolution(op: &str, more: &[&str], attributes: &str) -> String {
    let inputs: Vec<&str> = ["c"].iter().chain(more).copied().collect();
    net(19)
        .input("x", &["N", "6", "7", "10"])
        .weight("conv.weight", &[4, 6, 3, 3])
        .weight("group.weight", &[6, 2, 1, 1])
        .weight("slopes", &[4, 1, 1])
        .ints("split", &[2], &[2, 2])
        .ints("pads", &[8], &[0, 1, 0, 0, 0, 1, 0, 0])
        .ints("shape", &[4], &[-1, 5, 4, 8])
        .node("Conv", &["x", "conv.weight"], "c", vec![])
        .node(op, &inputs, "y", common::attributes(attributes))
        .scopes("['', 'features', 'features.1', 'op']")
        .output("y")
        .error()
}

#[test]
fn unsupported_convolutions_and_pools_are_named() {
    let groups = net(19)
        .input("x", &["N", "260", "7", "10"])
        .weight("w", &[130, 2, 3, 3])
        .node("Conv", &["x", "w"], "y", common::attributes("group=130"))
        .scopes("['', 'features', 'features.0', 'conv2d']")
        .output("y");
    assert_eq!(
        groups.error(),
        "the model needs what is not supported:\n  \
         1 x `Conv` (ai.onnx 19): 130 groups of 2 channels, more than 64, each of which is a contraction; at \
         `y (features.0)`"
    );
    for (op, more, attributes, reason) in [
        ("Conv", &["group.weight"][..], "", "a weight of [6, 2, 1, 1] in 1 groups, for 4 channels"),
        (
            "Conv",
            &["group.weight"],
            "kernel_shape=3,3",
            "attribute `kernel_shape` is not that of the weight, [1, 1]",
        ),
        ("Conv", &["slopes"], "", "a weight of 3 dimensions, an activation of shape [batch, 4, 5, 8]"),
        ("MaxPool", &[], "kernel_shape=6,1", "6 taps, reaching over 6, do not fit 5 positions"),
        ("MaxPool", &[], "kernel_shape=2,0", "attribute `kernel_shape` has 0, not from 1 to 32768"),
        ("MaxPool", &[], "kernel_shape=2,2 strides=1", "attribute `strides` has 1 numbers, not 2"),
        ("MaxPool", &[], "kernel_shape=2,2 pads=0,0,-1,0", "attribute `pads` has -1, not from 0 to 32768"),
        ("MaxPool", &[], "kernel_shape=2,2 auto_pad:SAME", "attribute `auto_pad` is `SAME`"),
        (
            "MaxPool",
            &[],
            "kernel_shape=2,2 strides=3,3 pads=1,1,1,1 ceil_mode=1",
            "a last window that begins in the padding",
        ),
        ("AveragePool", &[], "kernel_shape=3,3 pads=1,1,1,1", "a mean of fewer positions at the edge"),
        (
            "AveragePool",
            &[],
            "kernel_shape=2,2 strides=2,2 ceil_mode=1",
            "a mean of fewer positions at the edge",
        ),
        ("PRelu", &["slopes"], "", "a slope for each channel; one for all is supported"),
        ("Pad", &["pads"], "", "padding of the batch or of channels"),
        ("Pad", &["pads"], "mode:reflect", "padding with anything but zeros"),
        ("Concat", &["c"], "axis=-2", "axis 2 of [batch, 4, 5, 8], which is not the channels"),
        ("Concat", &["slopes"], "axis=1", "input 1 is not an activation"),
        ("Split", &["split"], "", "axis 0 of [batch, 4, 5, 8], which is not the channels"),
        ("Split", &["split"], "axis=1", "4 channels split into [2, 2] for 1 outputs"),
        ("Slice", &["split", "split"], "", "only a plain range of channels is supported"),
        ("LRN", &[], "", "the operator is not supported"),
        ("Erf", &[], "", "an error function outside of a GELU"),
        ("Div", &["c"], "", "a division by an activation"),
        ("Sqrt", &[], "", "a square root outside of a root-mean-square normalisation"),
    ] {
        let error = after_convolution(op, more, attributes);
        assert!(error.contains(&format!("1 x `{op}` (ai.onnx 19): {reason}")), "{op} {attributes}: {error}");
        assert!(error.contains("at `y (features.1)`"), "{error}");
    }
    let taken_apart = after_convolution("Reshape", &["shape"], "");
    assert!(
        taken_apart.contains("reshaping [batch, 4, 5, 8] to [batch, 5, 4, 8] takes axes apart"),
        "{taken_apart}"
    );
}

#[test]
fn what_would_be_too_large_is_refused_before_it_is_there() {
    let padded = |pad: i64| {
        net(19)
            .input("x", &["N", "600", "7", "10"])
            .weight("w", &[4, 600, 1, 1])
            .ints("pads", &[8], &[0, 0, pad, pad, 0, 0, 0, 0])
            .node("Pad", &["x", "pads"], "p", vec![])
            .node("Conv", &["p", "w"], "c", vec![])
            .node("GlobalAveragePool", &["c"], "g", vec![])
            .node("Flatten", &["g"], "y", vec![])
            .output("y")
    };
    assert!(padded(7).import().is_ok());
    assert!(
        padded(1000).error().contains("an activation of more than 16777216 numbers"),
        "{}",
        padded(1000).error()
    );
    assert!(padded(1 << 40).error().contains("10 positions padded by"), "{}", padded(1 << 40).error());
    let constant = |size: i64| {
        net(19)
            .input("x", &["N", "4"])
            .ints("dims", &[2], &[4, size])
            .node(
                "ConstantOfShape",
                &["dims"],
                "w",
                vec![common::tensor("value", common::floats("", &[1], &[0.5]))],
            )
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y")
    };
    assert!(constant(3).import().is_ok());
    assert!(constant(1 << 40).error().contains("a constant of shape [4, 1099511627776]"));
    assert!(
        constant(1 << 25).error().contains("a layer of 33554432 outputs"),
        "{}",
        constant(1 << 25).error()
    );
}
