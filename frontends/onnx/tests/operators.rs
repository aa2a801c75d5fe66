//! Each operator of a multilayer perceptron, in a small model built by hand.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{dense, float, floats, int, ints, ints_tensor, net, tensor};
use ffc_ir::module::{Activation, Op};
use ffc_onnx::{Rms, Size, SoftmaxTail};

fn weights(net: &common::Net) -> Vec<(String, Vec<f32>)> {
    common::values(&net.import().unwrap().weights)
}

fn activation(net: common::Net) -> Activation {
    let module = net.import().unwrap().module;
    let found = module.layers[0].values.values().find_map(|value| match value.op {
        Op::Activate(activation, _) => Some(activation),
        _ => None,
    });
    found.unwrap()
}

/// `h` through `op` and a second dense layer.
fn hidden(
    opset: i64,
    op: &str,
    inputs: &[&str],
    attributes: Vec<ffc_onnx::proto::AttributeProto>,
) -> common::Net {
    dense(opset).node(op, inputs, "a", attributes).weight("fc2.weight", &[3, 2]).output("y").node(
        "MatMul",
        &["a", "fc2.weight"],
        "y",
        vec![],
    )
}

#[test]
fn gemm_becomes_dot_and_bias() {
    let net = dense(17).output("h");
    assert_eq!(net.ops(), ["operand", "dot", "add"]);
    let network = net.import().unwrap();
    assert_eq!(network.weights[0].0, "fc1.weight");
    assert_eq!(network.weights[0].1.load().unwrap()[..4], [-1.0, -0.75, -0.5, -0.25]);
    assert_eq!(network.weights[1].0, "fc1.bias");
    assert_eq!((network.module.features, network.module.classes, network.module.batch), (4, 3, 128));
    assert_eq!(network.interface.input_dims, [Size::Symbol("N".into()), Size::Fixed(4)]);
    assert_eq!(network.interface.output_dims, [Size::Symbol("N".into()), Size::Fixed(3)]);
}

#[test]
fn the_module_reads_like_the_network() {
    let network = hidden(17, "Relu", &["h"], vec![]).import().unwrap();
    let expected = "\
module @tiny imported {
  input f32[4]
  classes 2
  batch 128
  rows plain

  param @fc1.weight: f32[3, 4] weight
  param @fc1.bias: f32[1, 3] bias
  param @fc2.weight: f32[2, 3] weight

  layer @main whole {
    forward {
      %x: f32[rows, 4] = operand 0
      %fc1.weight: f32[3, 4] = param @fc1.weight
      %fc1.dot: f32[rows, 3] = dot %x, %fc1.weight
      %fc1.bias: f32[1, 3] = param @fc1.bias
      %fc1.sum: f32[rows, 3] = add %fc1.dot, %fc1.bias
      %fc1.relu: f32[rows, 3] = activate relu, %fc1.sum
      %fc2.weight: f32[2, 3] = param @fc2.weight
      %fc2.dot: f32[rows, 2] = dot %fc1.relu, %fc2.weight
      yield %fc2.dot
    }
  }
}
";
    assert_eq!(network.module.to_string(), expected);
}

#[test]
fn gemm_folds_alpha_beta_and_transposition() {
    let net = net(17).input("x", &["N", "2"]).floats("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).floats(
        "b",
        &[3],
        &[1.0, 2.0, 3.0],
    );
    let net =
        net.node("Gemm", &["x", "w", "b"], "y", vec![float("alpha", 2.0), float("beta", 0.5)]).output("y");
    let weights = weights(&net);
    assert_eq!(weights[0].1, [2.0, 8.0, 4.0, 10.0, 6.0, 12.0]);
    assert_eq!(weights[1].1, [0.5, 1.0, 1.5]);
}

#[test]
fn mat_mul_and_add_become_dot_and_bias() {
    for inputs in [["m", "b"], ["b", "m"]] {
        let net = net(13)
            .input("x", &["N", "2"])
            .floats("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            .floats("b", &[1, 3], &[1.0, 2.0, 3.0])
            .node("MatMul", &["x", "w"], "m", vec![])
            .node("Add", &inputs, "y", vec![])
            .output("y");
        assert_eq!(net.ops(), ["operand", "dot", "add"]);
        let weights = weights(&net);
        assert_eq!(weights[0].1, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(weights[1].1, [1.0, 2.0, 3.0]);
    }
}

#[test]
fn a_second_bias_is_added_to_the_first() {
    let net = dense(17).floats("more", &[], &[10.0]).node("Add", &["h", "more"], "y", vec![]).output("y");
    assert_eq!(net.ops(), ["operand", "dot", "add"]);
    assert_eq!(weights(&net)[1].1, [9.0, 9.25, 9.5]);
}

#[test]
fn biases_of_other_shapes_are_refused() {
    let net = dense(17).weight("more", &[3, 1]).node("Add", &["h", "more"], "y", vec![]).output("y");
    assert!(
        net.error().contains("the constant has the shape [3, 1], the activation [batch, 3]"),
        "{}",
        net.error()
    );
}

#[test]
fn activations() {
    for (op, activation_is) in
        [("Relu", Activation::Relu), ("Sigmoid", Activation::Sigmoid), ("Tanh", Activation::Tanh)]
    {
        assert_eq!(activation(hidden(17, op, &["h"], vec![])), activation_is);
    }
    assert_eq!(activation(hidden(17, "LeakyRelu", &["h"], vec![])), Activation::LeakyRelu(0.01));
    let slope = activation(hidden(17, "LeakyRelu", &["h"], vec![float("alpha", 0.5)]));
    assert_eq!(slope, Activation::LeakyRelu(0.5));
}

#[test]
fn clip_in_every_form() {
    let six = Activation::Clip { low: 0.0, high: 6.0 };
    let open = Activation::Clip { low: -1.0, high: f32::INFINITY };
    let attributes = vec![float("min", 0.0), float("max", 6.0)];
    assert_eq!(activation(hidden(6, "Clip", &["h"], attributes.clone()).opset7()), six);
    assert_eq!(activation(hidden(10, "Clip", &["h"], attributes.clone())), six);
    assert_eq!(
        activation(hidden(10, "Clip", &["h"], vec![float("min", -1.0), float("max", f32::MAX)])),
        open
    );
    let bounds = |net: common::Net| {
        net.floats("low", &[], &[0.0]).floats("high", &[], &[6.0]).floats("minus", &[], &[-1.0])
    };
    assert_eq!(activation(bounds(hidden(11, "Clip", &["h", "low", "high"], vec![]))), six);
    assert_eq!(activation(bounds(hidden(13, "Clip", &["h", "minus"], vec![]))), open);
    assert_eq!(activation(bounds(hidden(13, "Clip", &["h", "low"], vec![]))), Activation::Relu);
    let upper = Activation::Clip { low: f32::NEG_INFINITY, high: 6.0 };
    assert_eq!(activation(bounds(hidden(13, "Clip", &["h", "", "high"], vec![]))), upper);
    assert_eq!(hidden(13, "Clip", &["h"], vec![]).ops(), ["operand", "dot", "add", "dot"]);
    let error = hidden(13, "Clip", &["h"], attributes).error();
    assert!(error.contains("attribute `max` is not supported"), "{error}");
}

impl common::Net {
    /// Gemm has its form since opset 7.
    fn opset7(mut self) -> Self {
        self.0.opset_import[0].version = Some(7);
        self
    }
}

#[test]
fn activations_follow_one_another() {
    let net = hidden(17, "Relu", &["r"], vec![]).node("Tanh", &["h"], "r", vec![]);
    assert_eq!(net.ops(), ["operand", "dot", "add", "tanh", "relu", "dot"]);
}

#[test]
fn softmax_is_noted_and_dropped() {
    let cases = [("Softmax", SoftmaxTail::Softmax), ("LogSoftmax", SoftmaxTail::LogSoftmax)];
    for (op, softmax) in cases {
        for (opset, attributes) in
            [(9, vec![]), (13, vec![]), (13, vec![int("axis", 1)]), (20, vec![int("axis", -1)])]
        {
            let net = dense(opset).node(op, &["h"], "y", attributes).output("y");
            assert_eq!(net.ops(), ["operand", "dot", "add"]);
            assert_eq!(net.import().unwrap().interface.softmax, softmax);
        }
    }
    let error = dense(17).node("Softmax", &["h"], "y", vec![int("axis", 0)]).output("y").error();
    assert!(error.contains("over the batch"), "{error}");
    let error = hidden(17, "Softmax", &["h"], vec![]).error();
    assert!(error.contains("a softmax inside the network"), "{error}");
}

/// An image through `steps` to `f`, and a dense layer.
fn image(opset: i64, dims: &[&str], steps: impl Fn(common::Net) -> common::Net) -> common::Net {
    steps(net(opset).input("x", dims)).weight("w", &[2, 12]).output("y").node(
        "Gemm",
        &["f", "w"],
        "y",
        vec![int("transB", 1)],
    )
}

#[test]
fn views_vanish() {
    let dims = ["N", "3", "2", "2"];
    let plain = ["operand", "dot"];
    assert_eq!(image(17, &dims, |net| net.node("Flatten", &["x"], "f", vec![])).ops(), plain);
    assert_eq!(image(17, &dims, |net| net.node("Flatten", &["x"], "f", vec![int("axis", -3)])).ops(), plain);
    for target in [[-1, 12], [0, -1], [0, 12]] {
        let reshape =
            |net: common::Net| net.ints("t", &[2], &target).node("Reshape", &["x", "t"], "f", vec![]);
        assert_eq!(image(13, &dims, reshape).ops(), plain);
    }
    let unsqueeze = |net: common::Net| {
        net.ints("axes", &[1], &[1])
            .node("Unsqueeze", &["x", "axes"], "u", vec![])
            .node("Squeeze", &["u", "axes"], "s", vec![])
            .node("Dropout", &["s"], "d", vec![])
            .node("Cast", &["d"], "c", vec![int("to", 11)])
            .node("Identity", &["c"], "i", vec![])
            .node("Flatten", &["i"], "f", vec![])
    };
    assert_eq!(image(17, &dims, unsqueeze).ops(), plain);
    let old = |net: common::Net| {
        net.node("Unsqueeze", &["x"], "u", vec![ints("axes", &[2])])
            .node("Squeeze", &["u"], "s", vec![ints("axes", &[2])])
            .node("Flatten", &["s"], "f", vec![])
    };
    assert_eq!(image(11, &dims, old).ops(), plain);
}

#[test]
fn a_fixed_batch_is_still_the_batch() {
    for (dims, target) in [
        (["1", "3", "2", "2"], vec![1, 12]),
        (["1", "3", "2", "2"], vec![1, -1]),
        (["1", "3", "2", "2"], vec![-1, 12]),
        (["12", "3", "2", "2"], vec![12, 12]),
        (["5", "3", "2", "2"], vec![5, -1]),
    ] {
        let reshape =
            |net: common::Net| net.ints("t", &[2], &target).node("Reshape", &["x", "t"], "f", vec![]);
        assert_eq!(image(13, &dims, reshape).ops(), ["operand", "dot"], "{dims:?} {target:?}");
    }
}

#[test]
fn transposes_vanish() {
    // keras and tf2onnx: NHWC to NCHW.
    let nhwc = |net: common::Net| {
        net.node("Transpose", &["x"], "t", vec![ints("perm", &[0, 3, 1, 2])]).node(
            "Flatten",
            &["t"],
            "f",
            vec![],
        )
    };
    assert_eq!(image(15, &["N", "3", "4", "1"], nhwc).ops(), ["operand", "dot"]);
    // What cannot vanish is in the order of the weight's columns.
    let columns =
        |net: common::Net| weights(&net)[0].1[..12].iter().map(|w| (w + 1.0) * 4.0).collect::<Vec<_>>();
    let turned = columns(image(15, &["N", "2", "2", "3"], nhwc));
    assert_eq!(turned, [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]);
    let swap = |net: common::Net| {
        net.node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 1, 3])]).node(
            "Flatten",
            &["t"],
            "f",
            vec![],
        )
    };
    let swapped = columns(image(15, &["N", "2", "2", "3"], swap));
    assert_eq!(swapped, [0.0, 1.0, 2.0, 6.0, 7.0, 8.0, 3.0, 4.0, 5.0, 9.0, 10.0, 11.0]);
    let batch = |net: common::Net| {
        net.node("Transpose", &["x"], "t", vec![ints("perm", &[1, 0, 2, 3])]).node(
            "Flatten",
            &["t"],
            "f",
            vec![],
        )
    };
    let error = image(15, &["N", "2", "2", "3"], batch).error();
    assert!(error.contains("the shape [2, batch, 2, 3] does not start with the batch"), "{error}");
}

#[test]
fn views_that_mix_samples_are_refused() {
    let dims = ["N", "3", "2", "2"];
    for target in [vec![-1, 6], vec![1, -1], vec![12, -1], vec![-1], vec![2, -1, 12]] {
        let reshape = |net: common::Net| {
            net.ints("t", &[target.len() as i64], &target).node("Reshape", &["x", "t"], "f", vec![])
        };
        let error = image(13, &dims, reshape).error();
        let named =
            error.contains("reshaping [batch, 3, 2, 2] to") || error.contains("the shape [12, batch]");
        assert!(named, "{error}");
    }
    let error = image(13, &dims, |net| net.node("Flatten", &["x"], "f", vec![int("axis", 0)])).error();
    assert!(error.contains("does not give [batch, features]"), "{error}");
}

#[test]
fn shape_chains_fold() {
    // `x.view(x.size(0), -1)` as TorchScript writes it.
    let view = |net: common::Net| {
        net.node("Shape", &["x"], "s", vec![])
            .node("Constant", &[], "zero", vec![tensor("value", ints_tensor("", &[], &[0]))])
            .node("Gather", &["s", "zero"], "n", vec![int("axis", 0)])
            .ints("axes", &[1], &[0])
            .node("Unsqueeze", &["n", "axes"], "v", vec![])
            .node("Constant", &[], "rest", vec![ints("value_ints", &[-1])])
            .node("Concat", &["v", "rest"], "t", vec![int("axis", 0)])
            .node("Reshape", &["x", "t"], "f", vec![int("allowzero", 0)])
    };
    assert_eq!(image(20, &["N", "3", "2", "2"], view).ops(), ["operand", "dot"]);
    assert_eq!(image(20, &["7", "3", "2", "2"], view).ops(), ["operand", "dot"]);
    // Sizes multiplied, divided and cut out of the shape.
    let arithmetic = |net: common::Net| {
        net.node("Shape", &["x"], "s64", vec![])
            .node("Cast", &["s64"], "s32", vec![int("to", 6)])
            .node("Cast", &["s32"], "s", vec![int("to", 7)])
            .ints("one", &[1], &[1])
            .ints("four", &[1], &[4])
            .ints("two", &[1], &[2])
            .ints("zero", &[1], &[0])
            .node("Slice", &["s", "zero", "one"], "n", vec![])
            .node("Slice", &["s", "two", "four"], "hw", vec![])
            .node("Slice", &["s", "one", "two"], "c", vec![])
            .node("Slice", &["hw", "zero", "one"], "h2", vec![])
            .node("Mul", &["n", "h2"], "nh", vec![])
            .node("Div", &["nh", "two"], "n2", vec![])
            .node("Mul", &["c", "four"], "chw", vec![])
            .node("Sub", &["chw", "zero"], "chw2", vec![])
            .node("ConstantOfShape", &["one"], "fill", vec![tensor("value", ints_tensor("", &[1], &[0]))])
            .node("Add", &["chw2", "fill"], "chw3", vec![])
            .node("Concat", &["n2", "chw3"], "t", vec![int("axis", -1)])
            .node("Reshape", &["x", "t"], "f", vec![])
    };
    assert_eq!(image(13, &["N", "3", "2", "2"], arithmetic).ops(), ["operand", "dot"]);
    // Attributes before opset 10, and a shape of part of the axes from opset 15 on.
    let old = |net: common::Net| {
        net.node("Shape", &["x"], "s", vec![])
            .node("Slice", &["s"], "n", vec![ints("starts", &[0]), ints("ends", &[1]), ints("axes", &[0])])
            .ints("rest", &[1], &[12])
            .node("Concat", &["n", "rest"], "t", vec![int("axis", 0)])
            .node("Reshape", &["x", "t"], "f", vec![])
    };
    assert_eq!(image(9, &["N", "3", "2", "2"], old).ops(), ["operand", "dot"]);
    let part = |net: common::Net| {
        net.node("Shape", &["x"], "n", vec![int("start", 0), int("end", -3)])
            .ints("rest", &[1], &[12])
            .node("Concat", &["n", "rest"], "t", vec![int("axis", 0)])
            .node("Reshape", &["x", "t"], "f", vec![])
    };
    assert_eq!(image(15, &["N", "3", "2", "2"], part).ops(), ["operand", "dot"]);
}

#[test]
fn shared_initializers_become_parameters_of_their_own() {
    let net = net(17)
        .input("x", &["N", "3"])
        .weight("fc1.weight", &[3, 3])
        .floats("fc1.bias", &[3], &[0.0; 3])
        .node("Identity", &["fc1.bias"], "fc2.bias", vec![])
        .node("Gemm", &["x", "fc1.weight", "fc1.bias"], "h", vec![int("transB", 1)])
        .node("Relu", &["h"], "a", vec![])
        .node("Gemm", &["a", "fc1.weight", "fc2.bias"], "y", vec![int("transB", 1)])
        .output("y");
    let names: Vec<String> = weights(&net).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["fc1.weight", "fc1.bias", "fc1.2.weight", "fc1.2.bias"]);
}

#[test]
fn layer_names_come_from_the_module_path() {
    let net = net(17)
        .input("x", &["N", "4"])
        .weight("w", &[3, 4])
        .node("Gemm", &["x", "w"], "y", vec![int("transB", 1)])
        .scopes("['', 'classifier', 'classifier.1', 'linear']")
        .output("y");
    assert_eq!(weights(&net)[0].0, "classifier.1.weight");
}

#[test]
fn weights_of_other_types_become_single_precision() {
    let mut net = dense(17).output("h");
    let weight = &mut net.graph().initializer[0];
    weight.data_type = Some(11);
    weight.raw_data = Some((0..12).flat_map(|index| f64::from(index).to_le_bytes()).collect());
    assert_eq!(weights(&net)[0].1[..3], [0.0, 1.0, 2.0]);
    let weight = &mut net.graph().initializer[0];
    weight.data_type = Some(10);
    weight.raw_data = None;
    weight.int32_data = vec![0x3c00; 12];
    assert_eq!(weights(&net)[0].1, [1.0; 12]);
    let weight = &mut net.graph().initializer[0];
    weight.data_type = Some(1);
    weight.int32_data = Vec::new();
    weight.float_data = vec![2.0; 12];
    assert_eq!(weights(&net)[0].1, [2.0; 12]);
}

#[test]
fn a_transposed_weight_folds() {
    let net = net(17)
        .input("x", &["N", "2"])
        .floats("fc.weight", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .node("Transpose", &["fc.weight"], "t", vec![ints("perm", &[1, 0])])
        .node("MatMul", &["x", "t"], "y", vec![])
        .output("y");
    assert_eq!(weights(&net)[0].1, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

/// `value` normalised as `normalized`.
fn rms(net: common::Net, value: &str, normalized: &str, opset: i64) -> common::Net {
    let name = |part: &str| format!("{normalized}.{part}");
    let (axes, extra, inputs) = if opset < 18 {
        (vec![ints("axes", &[-1])], net, vec![])
    } else {
        (vec![], net.ints(&name("axes"), &[1], &[1]), vec![name("axes")])
    };
    let square = name("square");
    let mut mean_inputs = vec![square.as_str()];
    mean_inputs.extend(inputs.iter().map(String::as_str));
    extra
        .node("Mul", &[value, value], &square, vec![])
        .node("ReduceMean", &mean_inputs, &name("mean"), axes)
        .floats(&name("eps"), &[], &[0.5])
        .node("Add", &[&name("eps"), &name("mean")], &name("sum"), vec![])
        .node("Sqrt", &[&name("sum")], &name("root"), vec![])
        .node("Div", &[value, &name("root")], normalized, vec![])
}

#[test]
fn rms_normalisation_leaves_the_module() {
    for opset in [17, 18] {
        let net = rms(dense(opset).node("Relu", &["h"], "a", vec![]), "a", "n", opset)
            .weight("fc2.weight", &[3, 2])
            .node("MatMul", &["n", "fc2.weight"], "y", vec![])
            .output("y");
        assert_eq!(net.ops(), ["operand", "dot", "add", "relu", "dot"]);
        let expected = Some(Rms { epsilon: 0.5, input: false });
        assert_eq!(net.import().unwrap().interface.normalization, expected);
    }
    let net = rms(net(17).input("x", &["N", "3"]), "x", "n", 17)
        .weight("w", &[3, 2])
        .node("MatMul", &["n", "w"], "y", vec![])
        .output("y");
    assert_eq!(net.import().unwrap().interface.normalization, Some(Rms { epsilon: 0.5, input: true }));
}

#[test]
fn other_normalisations_are_refused() {
    let tail = |net: common::Net| {
        net.weight("fc2.weight", &[3, 2]).node("MatMul", &["n", "fc2.weight"], "y", vec![]).output("y")
    };
    let no_epsilon =
        tail(dense(17).node("Mul", &["h", "h"], "s", vec![]).node("Sqrt", &["s"], "r", vec![]).node(
            "Div",
            &["h", "r"],
            "n",
            vec![],
        ));
    assert!(no_epsilon.error().contains("a square root outside of a root-mean-square normalisation"));
    let after_the_last = rms(dense(17), "h", "n", 17).output("n");
    assert!(after_the_last.error().contains("a normalisation follows the last dense layer"));
    let twice = tail(rms(rms(dense(17), "h", "m", 17), "m", "n", 17));
    assert!(twice.error().contains("two normalisations follow each other"), "{}", twice.error());
}

#[test]
fn only_what_the_outputs_need_is_imported() {
    let net = dense(17).output("h").node("Erf", &["h"], "unused", vec![]);
    assert_eq!(net.ops(), ["operand", "dot", "add"]);
}

#[test]
fn unused_opsets_are_no_error() {
    assert_eq!(dense(17).opset("com.example", 3).output("h").ops(), ["operand", "dot", "add"]);
}

#[test]
fn constants_that_no_layer_can_use_are_refused() {
    let mut net = dense(17).output("h");
    net.graph().initializer[0] = floats("fc1.weight", &[3, 5], &[0.0; 15]);
    assert!(net.error().contains("the weight has 5 inputs, the activation 4 features"), "{}", net.error());
}
