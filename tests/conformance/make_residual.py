"""Writes a network of images with a residual block, as exporters write one: convolution, BatchNormalization, a block of two
convolutions around a skip connection, pooling, mean and dense layer. Arguments: the file to write.
"""

import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

CHANNELS = 12

random = np.random.default_rng(7)
initializers, nodes = [], []


def constant(name, value):
    initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return name


def convolution(name, given, inputs, stride):
    weight = constant(f"{name}.weight", random.normal(0, 0.1, (CHANNELS, inputs, 3, 3)))
    node = helper.make_node("Conv", [given, weight], [name], name, kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2)
    nodes.append(node)
    numbers = {"scale": np.ones, "shift": np.zeros, "mean": np.zeros, "var": np.ones}
    numbers = [constant(f"{name}.{number}", make(CHANNELS)) for number, make in numbers.items()]
    nodes.append(helper.make_node("BatchNormalization", [name, *numbers], [f"{name}.norm"]))
    return f"{name}.norm"


def op(name, inputs, output, **attributes):
    nodes.append(helper.make_node(name, inputs, [output], **attributes))
    return output


stem = op("Relu", [convolution("stem", "input", 1, 2)], "stem.relu")
first = op("Relu", [convolution("first", stem, CHANNELS, 1)], "first.relu")
joined = op("Add", [convolution("second", first, CHANNELS, 1), stem], "joined")
joined = op("Relu", [joined], "joined.relu")
pooled = op("MaxPool", [joined], "pooled", kernel_shape=[2, 2], strides=[2, 2])
last = op("Relu", [convolution("last", pooled, CHANNELS, 1)], "last.relu")
flat = op("Flatten", [op("GlobalAveragePool", [last], "mean")], "flat")
weight = constant("fc.weight", random.normal(0, 0.1, (10, CHANNELS)))
op("Gemm", [flat, weight, constant("fc.bias", np.zeros(10))], "output", transB=1)

image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 28, 28])
logits = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])
graph = helper.make_graph(nodes, "residual", [image], [logits], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
save(model, sys.argv[1])
