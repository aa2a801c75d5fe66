"""Every operator that `ffc` imports, in every opset and form of it, inside a small network.

Usage: operator_variants.py FFC, the command's path. A network is dense -> FORM -> dense with random weights; what
`ffc eval --precision float --scores` gives must be what the reference evaluator of the `onnx` package gives. Forms that
must be refused are here too. Prints the number of networks; says what is wrong, and fails, where one differs.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSETS = range(7, 25)
ROWS, INPUTS, HIDDEN, CLASSES = 5, 6, 8, 4
METADATA = {"ffc.input_scale": "1", "ffc.input_mean": "0", "ffc.input_std": "1"}
RANDOM = np.random.default_rng(1)
node = helper.make_node


class Network:
    """Built form by form; values are named by what they are."""

    def __init__(self, opset):
        self.opset, self.nodes, self.constants, self.outputs = opset, [], [], []
        self.width = INPUTS

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def floats(self, *shape):
        return self.constant(RANDOM.normal(0, 0.5, shape).astype(np.float32))

    def op(self, kind, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(kind, list(inputs), [name], **attributes))
        return name

    def dense(self, x, outputs):
        weight = self.floats(self.width, outputs)
        self.width = outputs
        return self.op("MatMul", x, weight)

    def model(self, scores):
        outputs = [helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["batch", self.width])]
        graph = helper.make_graph(
            self.nodes,
            "variant",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
            outputs,
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        for key, value in METADATA.items():
            model.metadata_props.add(key=key, value=value)
        return model


def ints(network, *values):
    return network.constant(np.array(values, np.int64))


def numbers(*values):
    return np.array(values, np.float32)


def axes(n, kind, x, *where):
    """Squeeze and Unsqueeze: axes are an input since 13."""
    return n.op(kind, x, ints(n, *where)) if n.opset >= 13 else n.op(kind, x, axes=list(where))


def clip(n, x, low, high):
    if n.opset < 11:
        bounds = {key: value for key, value in (("min", low), ("max", high)) if value is not None}
        return n.op("Clip", x, **bounds)
    bound = lambda value: "" if value is None else n.constant(np.float32(value))
    return n.op("Clip", x, bound(low), bound(high))


def dropout(n, x):
    if n.opset < 12:
        return n.op("Dropout", x, ratio=0.3)
    return n.op("Dropout", x, n.constant(np.float32(0.3)), n.constant(np.bool_(False)), seed=3)


def slice_(n, x, start, end):
    if n.opset < 10:
        return n.op("Slice", x, starts=[start], ends=[end], axes=[0])
    return n.op("Slice", x, ints(n, start), ints(n, end), ints(n, 0), ints(n, 1))


def mean(n, x):
    if n.opset < 18:
        return n.op("ReduceMean", x, axes=[1], keepdims=1)
    return n.op("ReduceMean", x, ints(n, -1), keepdims=1)


def rms(n, x, epsilon=1e-6):
    shifted = n.op("Add", mean(n, n.op("Mul", x, x)), n.constant(numbers(epsilon)))
    return n.op("Div", x, n.op("Sqrt", shifted))


def batch(n, x):
    return n.op("Gather", n.op("Shape", x), ints(n, 0), axis=0)


def join(n, *parts):
    return n.op("Concat", *parts, axis=0)


# Name, first and last opset, what follows the first dense layer.
BETWEEN = [
    ("Relu", 7, 24, lambda n, x: n.op("Relu", x)),
    ("Sigmoid", 7, 24, lambda n, x: n.op("Sigmoid", x)),
    ("Tanh", 7, 24, lambda n, x: n.op("Tanh", x)),
    ("LeakyRelu", 7, 24, lambda n, x: n.op("LeakyRelu", x)),
    ("LeakyRelu alpha", 7, 24, lambda n, x: n.op("LeakyRelu", x, alpha=0.3)),
    ("Clip", 7, 24, lambda n, x: clip(n, x, -0.5, 0.5)),
    ("Clip low", 7, 24, lambda n, x: clip(n, x, -0.25, None)),
    ("Clip high", 7, 24, lambda n, x: clip(n, x, None, 0.25)),
    ("Clip to Relu", 7, 24, lambda n, x: clip(n, x, 0.0, None)),
    ("Clip nothing", 7, 24, lambda n, x: clip(n, x, None, None)),
    ("Dropout", 7, 24, dropout),
    ("Identity", 7, 24, lambda n, x: n.op("Identity", x)),
    ("Flatten", 7, 24, lambda n, x: n.op("Flatten", x)),
    ("Flatten axis", 11, 24, lambda n, x: n.op("Flatten", x, axis=-1)),
    ("Reshape 0 -1", 7, 24, lambda n, x: n.op("Reshape", x, ints(n, 0, -1))),
    ("Reshape allowzero", 14, 24, lambda n, x: n.op("Reshape", x, ints(n, -1, HIDDEN), allowzero=1)),
    ("Reshape there and back", 7, 24, lambda n, x: n.op("Reshape", n.op("Reshape", x, ints(n, -1, 2, 4)), ints(n, 0, 8))),
    ("Unsqueeze Squeeze", 7, 24, lambda n, x: axes(n, "Squeeze", axes(n, "Unsqueeze", x, 1, 3), 1, 3)),
    ("Transpose", 7, 24, lambda n, x: n.op("Transpose", x, perm=[0, 1])),
    ("Cast", 7, 24, lambda n, x: n.op("Cast", x, to=TensorProto.FLOAT)),
    ("Shape Gather Concat", 7, 24, lambda n, x: n.op("Reshape", x, join(n, batch(n, x), ints(n, -1)))),
    ("Shape part", 15, 24, lambda n, x: n.op("Reshape", x, join(n, n.op("Shape", x, start=0, end=1), ints(n, HIDDEN)))),
    ("Slice", 7, 24, lambda n, x: n.op("Reshape", x, join(n, slice_(n, n.op("Shape", x), 0, 1), ints(n, -1)))),
    ("Mul Div Sub Add", 7, 24, lambda n, x: n.op("Reshape", x, join(n, ints(n, -1), n.op("Add", n.op("Sub", n.op("Div", n.op("Mul", ints(n, 8), ints(n, 3)), ints(n, 2)), ints(n, 5)), ints(n, 1))))),
    ("ConstantOfShape", 9, 24, lambda n, x: n.op("Reshape", x, join(n, n.op("ConstantOfShape", ints(n, 1), value=helper.make_tensor("v", TensorProto.INT64, [1], [-1])), ints(n, 8)))),
    ("Constant", 7, 24, lambda n, x: n.op("Reshape", x, n.op("Constant", value=helper.make_tensor("v", TensorProto.INT64, [2], [-1, 8])))),
    ("Constant value_ints", 12, 24, lambda n, x: n.op("Reshape", x, n.op("Constant", value_ints=[-1, 8]))),
    ("Add", 7, 24, lambda n, x: n.op("Add", x, n.floats(HIDDEN))),
    ("Add from the left", 7, 24, lambda n, x: n.op("Add", n.floats(1, HIDDEN), x)),
    ("Add a number", 7, 24, lambda n, x: n.op("Add", x, n.constant(np.float32(0.25)))),
    ("Mul", 7, 24, lambda n, x: n.op("Mul", x, n.floats(HIDDEN))),
    ("Mul a number", 7, 24, lambda n, x: n.op("Mul", n.constant(np.float32(0.25)), x)),
    ("Sub", 7, 24, lambda n, x: n.op("Sub", x, n.floats(HIDDEN))),
    ("Div", 7, 24, lambda n, x: n.op("Div", x, n.constant(np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32)))),
    ("Elu", 7, 24, lambda n, x: n.op("Elu", x, alpha=0.3)),
    ("HardSigmoid", 7, 24, lambda n, x: n.op("HardSigmoid", x)),
    ("HardSwish", 14, 24, lambda n, x: n.op("HardSwish", x)),
    ("Silu", 7, 24, lambda n, x: n.op("Mul", x, n.op("Sigmoid", x))),
    ("Gelu", 20, 24, lambda n, x: n.op("Gelu", x)),
    ("Gelu tanh", 20, 24, lambda n, x: n.op("Gelu", x, approximate="tanh")),
    ("PRelu", 7, 24, lambda n, x: n.op("PRelu", x, n.constant(numbers(0.25)))),
    ("Add twice", 7, 24, lambda n, x: n.op("Add", n.op("Add", x, n.floats(HIDDEN)), n.floats(HIDDEN))),
    ("Add a Constant", 12, 24, lambda n, x: n.op("Add", x, n.op("Constant", value_floats=[0.5] * HIDDEN))),
    ("Add a shared constant", 7, 24, lambda n, x: n.op("Add", x, n.op("Identity", n.floats(HIDDEN)))),
]
for alpha, beta, transposed, bias in [
    (1.0, 1.0, 0, [HIDDEN]),
    (1.0, 1.0, 1, [HIDDEN]),
    (0.5, 2.0, 0, [1, HIDDEN]),
    (0.5, 0.25, 1, [1]),
    (2.0, 0.5, 1, []),
    (1.0, 1.0, 1, None),
]:

    def gemm(n, x, alpha=alpha, beta=beta, transposed=transposed, bias=bias):
        inputs = [x, n.floats(HIDDEN, HIDDEN)]
        if bias is not None:
            inputs.append(n.constant(np.full(bias, 0.75, np.float32)) if bias in ([], [1]) else n.floats(*bias))
        return n.op("Gemm", *inputs, alpha=alpha, beta=beta, transB=transposed)

    # A bias may be left out since 11.
    BETWEEN.append((f"Gemm {alpha} {beta} {transposed} {bias}", 7 if bias is not None else 11, 24, gemm))

# What must not be imported as something that it is not.
REFUSED = [
    ("Clip crossed", 7, 24, lambda n, x: clip(n, x, 0.5, -0.5)),
    ("Gemm transA", 7, 24, lambda n, x: n.op("Gemm", x, n.floats(ROWS, HIDDEN), n.floats(HIDDEN), transA=1)),
    ("Sub from", 7, 24, lambda n, x: n.op("Sub", n.floats(HIDDEN), x)),
    ("Div by", 7, 24, lambda n, x: n.op("Div", n.floats(HIDDEN), x)),
    ("Add column", 7, 24, lambda n, x: n.op("Add", x, n.floats(ROWS, 1))),
    ("Sqrt", 7, 24, lambda n, x: n.op("Sqrt", x)),
    ("Softmax inside", 7, 24, lambda n, x: n.op("Softmax", x, axis=1)),
    ("Transpose", 7, 24, lambda n, x: n.op("Transpose", x, perm=[1, 0])),
    ("Flatten all", 7, 24, lambda n, x: n.op("Flatten", x, axis=0)),
    ("Reshape across rows", 7, 24, lambda n, x: n.op("Reshape", x, ints(n, HIDDEN, -1))),
    ("Rms with another epsilon", 7, 24, lambda n, x: rms(n, x, 1e-3)),
    ("Rms between layers alone", 7, 24, lambda n, x: rms(n, x)),
]

TAILS = [
    ("Softmax", lambda n, x: n.op("Softmax", x, axis=1)),
    ("LogSoftmax", lambda n, x: n.op("LogSoftmax", x, axis=1)),
    ("Softmax -1", lambda n, x: n.op("Softmax", x, axis=-1)),
    ("Softmax default", lambda n, x: n.op("Softmax", x)),
]


def networks():
    """Name, model, number of the last nodes that `ffc` leaves to its caller, whether it must be refused."""
    for opset in OPSETS:
        for forms, refused in ((BETWEEN, False), (REFUSED, True)):
            for name, first, last, form in forms:
                if first <= opset <= last:
                    n = Network(opset)
                    hidden = form(n, n.dense("x", HIDDEN))
                    yield f"{name} ({opset})", n.model(n.dense(hidden, CLASSES)), 0, refused
        for name, tail in TAILS:
            if opset >= 11 or "-1" not in name:
                n = Network(opset)
                hidden = n.op("Relu", n.dense("x", HIDDEN))
                yield f"{name} ({opset})", n.model(tail(n, n.dense(hidden, CLASSES))), 1, False
        n = Network(opset)
        hidden = n.op("Relu", n.dense(rms(n, "x"), HIDDEN))
        yield f"Rms ({opset})", n.model(n.dense(rms(n, hidden), CLASSES)), 0, False
        n = Network(opset)
        scores = n.dense(n.op("Relu", n.dense("x", HIDDEN)), CLASSES)
        model = n.model(scores)
        model.graph.node.append(node("ArgMax", [scores], ["label"], axis=1, keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
        yield f"ArgMax ({opset})", model, 0, False


def expected(model, x, left):
    """What the reference gives, before the last `left` nodes."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for _ in range(left):
        name = model.graph.node[-1].input[0]
        del model.graph.node[-1], model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CLASSES]))
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def check(ffc, folder, x, model, left, refused):
    onnx.checker.check_model(model)
    onnx.save(model, os.path.join(folder, "net.onnx"))
    command = [ffc, "eval", "net.onnx", "--data", "x.npz", "--precision", "float", "--scores", "scores"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if refused:
        wanted = result.returncode == 1 and result.stderr.startswith("error: ")
        return None if wanted else f"not refused: {result.returncode} {result.stdout}{result.stderr}"
    if result.returncode:
        return result.stderr
    ours = np.fromfile(os.path.join(folder, "scores"), np.float32).reshape(ROWS, CLASSES)
    theirs = expected(model, x, left)
    return None if np.allclose(ours, theirs, 1e-5, 1e-5) else f"{ours} instead of {theirs}"


with tempfile.TemporaryDirectory() as folder:
    x = RANDOM.normal(0, 1, (ROWS, INPUTS)).astype(np.float32)
    labels = np.arange(ROWS) % CLASSES
    np.savez(os.path.join(folder, "x.npz"), x_train=x, y_train=labels, x_test=x, y_test=labels)
    count, problems = 0, []
    for name, model, left, refused in networks():
        count += 1
        if problem := check(sys.argv[1], folder, x, model, left, refused):
            problems.append(f"{name}: {problem}")
print(count)
if problems:
    sys.exit("\n".join(problems))
