"""The backend tests of the `onnx` package against `ffc`: passed, refused with a reason, or failed, as a table.

Usage: onnx_suite.py FFC, the command's path. The table goes to standard output; a failure is named on standard error.

A case is an operator, not a network, and `ffc` imports networks. So each case is put into one that computes the same:

    rows of x -> MatMul with 1 -> the shape of x -> THE CASE'S GRAPH -> rows -> MatMul with 1 -> scores

with the case's other inputs as constants; images are tried without the first MatMul too, since most networks begin
with a convolution. What `ffc eval --precision float --scores` writes for the case's x must then
be the case's expected output. The input is tried in each place, with a batch of any size and of x's own. A case that
ends in a softmax or in labels has nothing behind it; `ffc` ends at the logits, so softmax is applied here. A case whose
inputs can all be constants is tried as a bias. A case passes if one of these is imported and right, and fails if any is
imported and wrong; the rest is refused. Whole models are tried as they are, with the samples and the results that
onnx's own runner has for them. What differs on purpose is in ON_PURPOSE.
"""

import collections
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
# No more features than this: a matrix of 1 has their square.
WIDEST = 3072
# As onnx's own runner.
RELATIVE, ABSOLUTE = 1e-3, 1e-6
# Where the first dimension need not be the batch.
ELEMENTWISE = {"Clip", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Swish", "Tanh"}
DROPOUT = "a network is imported as it predicts, where dropout passes its input on, whatever mode the file was saved in"
STATISTICS = "a network is imported as it predicts, by the statistics that training gathered, whatever mode the file was saved in"
# Cases whose result is another on purpose, and why.
ON_PURPOSE = {
    "test_batchnorm_epsilon_training_mode": STATISTICS,
    "test_batchnorm_example_training_mode": STATISTICS,
    "test_training_dropout": DROPOUT,
    "test_training_dropout_default": DROPOUT,
    "test_training_dropout_default_mask": DROPOUT,
    "test_training_dropout_mask": DROPOUT,
}
METADATA = {"ffc.input_scale": "1", "ffc.input_mean": "0", "ffc.input_std": "1"}


class Refused(Exception):
    """With the reason."""


class Runner:
    def __init__(self, ffc, folder):
        self.ffc, self.folder = ffc, folder

    def run(self, *arguments):
        result = subprocess.run([self.ffc, *arguments], capture_output=True, text=True, cwd=self.folder)
        if result.returncode == 0:
            return
        if result.returncode != 1 or "error: " not in result.stderr:
            raise RuntimeError(f"status {result.returncode}: {result.stderr}")
        raise Refused(reason(result.stderr))

    def scores(self, model, x):
        onnx.save(model, os.path.join(self.folder, "case.onnx"))
        labels = np.zeros(len(x), np.int64)
        np.savez(os.path.join(self.folder, "x.npz"), x_train=x, y_train=labels, x_test=x, y_test=labels)
        self.run("eval", "case.onnx", "--data", "x.npz", "--precision", "float", "--scores", "scores")
        return np.fromfile(os.path.join(self.folder, "scores"), np.float32).reshape(len(x), -1)


def reason(errors):
    """The first row of what is unsupported, or the error."""
    lines = errors.split("error: ", 1)[1].splitlines()
    line = lines[1].strip() if lines[0].endswith("what is not supported:") else lines[0]
    return line.split("; at `")[0]


def load(path):
    with open(path, "rb") as file:
        content = file.read()
    try:
        return numpy_helper.to_array(TensorProto.FromString(content))
    except Exception:
        return None  # a sequence, an optional value, or a type that NumPy lacks


class Case:
    def __init__(self, folder):
        self.name = os.path.basename(folder)
        self.path = os.path.join(folder, "model.onnx")
        self.model = onnx.load(self.path)
        data = os.path.join(folder, "test_data_set_0")
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in constants]
        given = [os.path.join(data, f"input_{index}.pb") for index in range(len(self.inputs))]
        self.values = [load(path) if os.path.exists(path) else None for path in given]
        expected = os.path.join(data, "output_0.pb")
        self.expected = load(expected) if os.path.exists(expected) else None
        self.ops = [node.op_type for node in graph.node]
        single = len(graph.node) == 1
        domain = graph.node[0].domain if single else ""
        self.row = (domain + "." if domain else "") + self.ops[0] if single else "several operators"

    def attempts(self):
        """Functions that give what is computed and what is expected."""
        values = [value for value in self.values if value is not None]
        if self.expected is None or len(values) != len(self.inputs) or len(self.model.graph.output) == 0:
            return
        for place, value in enumerate(self.values):
            if value.dtype in (np.float16, np.float32, np.float64) and value.size and np.isfinite(value).all():
                for fixed in (False, True):
                    yield from self.in_network(place, fixed)
        y = self.expected
        if y.dtype == np.float32 and (y.ndim == 1 or y.ndim == 2 and len(y) == 1) and 2 <= y.size <= WIDEST:
            yield self.as_bias

    def in_network(self, place, fixed):
        """The attempts with this input, and a batch of its size or any."""
        x, y = self.values[place], self.expected
        rows = len(x) if x.ndim > 1 else 1
        if x.ndim < 2 and not (x.ndim == 1 and set(self.ops) <= ELEMENTWISE):
            return
        if y.ndim == 0 or y.size % rows or (x.ndim > 1 and len(y) != rows) or x.size // rows > WIDEST:
            return
        with np.errstate(over="ignore"):
            x, target = x.reshape(rows, -1).astype(np.float32), y.reshape(rows, -1)
        if not np.isfinite(x).all():
            return
        if self.ops[-1] in ("Softmax", "LogSoftmax", "ArgMax"):
            yield lambda runner: self.tail(runner, place, fixed, x)
        if y.dtype in (np.float16, np.float32, np.float64) and target.shape[1]:
            for direct in (False, True) if self.values[place].ndim > 2 else (False,):
                yield lambda runner, direct=direct: self.compared(runner, place, fixed, direct, x, target)

    def compared(self, runner, place, fixed, direct, x, target):
        width = target.shape[1]
        model = self.wrapped(place, fixed, direct, x, width)
        if direct:
            x = x.reshape(self.values[place].shape)
        return runner.scores(model, x)[:, :width], target

    def body(self, place):
        """Copies the case's graph, its inputs but one as constants."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.input[:], graph.output[:], graph.value_info[:]
        for index, (value, given) in enumerate(zip(self.values, self.inputs)):
            if index != place:
                graph.initializer.append(numpy_helper.from_array(value, given.name))
        for key, value in METADATA.items():
            model.metadata_props.add(key=key, value=value)
        return model, list(graph.node)

    def front(self, graph, place, fixed, x, direct=False):
        """From rows to the case's input."""
        given, value = self.inputs[place], self.values[place]
        batch = len(x) if fixed else "batch"
        if direct:
            shape = [batch, *value.shape[1:]]
            graph.input.append(helper.make_tensor_value_info(given.name, given.type.tensor_type.elem_type, shape))
            return []
        graph.input.append(helper.make_tensor_value_info("ffc_x", TensorProto.FLOAT, [batch, x.shape[1]]))
        constant(graph, "ffc_one", np.eye(x.shape[1], dtype=np.float32))
        first = -1 if not fixed else len(x)
        shape = [first, *value.shape[1:]] if value.ndim > 1 else [first, x.shape[1]]
        constant(graph, "ffc_shape", np.array(shape, np.int64))
        return [
            helper.make_node("MatMul", ["ffc_x", "ffc_one"], ["ffc_h"]),
            helper.make_node("Reshape", ["ffc_h", "ffc_shape"], ["ffc_v"]),
            helper.make_node("Cast", ["ffc_v"], [given.name], to=given.type.tensor_type.elem_type),
        ]

    def wrapped(self, place, fixed, direct, x, width):
        model, nodes = self.body(place)
        graph = model.graph
        # A network has at least two classes.
        constant(graph, "ffc_two", np.eye(width, max(2, width), dtype=np.float32))
        constant(graph, "ffc_rows", np.array([len(x) if fixed else -1, width], np.int64))
        back = [
            helper.make_node("Cast", [self.model.graph.output[0].name], ["ffc_f"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["ffc_f", "ffc_rows"], ["ffc_r"]),
            helper.make_node("MatMul", ["ffc_r", "ffc_two"], ["ffc_scores"]),
        ]
        replace(graph, self.front(graph, place, fixed, x, direct) + nodes + back)
        graph.output.append(output("ffc_scores", max(2, width)))
        return model

    def tail(self, runner, place, fixed, x):
        """The graph ends as the case does: in a softmax, or in labels beside the scores."""
        model, nodes = self.body(place)
        graph = model.graph
        given, last = self.inputs[place], nodes[-1]
        front = self.front(graph, place, fixed, x)
        if last.op_type == "ArgMax":
            graph.output.append(helper.make_tensor_value_info(last.output[0], TensorProto.INT64, None))
            graph.output.append(output(given.name, x.shape[1]))
        else:
            graph.output.append(output(last.output[0], x.shape[1]))
        replace(graph, front + nodes)
        scores = runner.scores(model, x)
        if last.op_type == "ArgMax":
            best = scores.max(axis=1, keepdims=True)
            # Which of several best ones is a matter of an attribute, and of no network.
            labels = self.expected.reshape(len(x), 1)
            return np.take_along_axis(scores, labels, 1), best
        scores = scores - scores.max(axis=1, keepdims=True)
        logarithm = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return (logarithm if last.op_type == "LogSoftmax" else np.exp(logarithm)), self.expected

    def as_bias(self, runner):
        """x + the case's output, for an x of 0."""
        width = self.expected.size
        model, nodes = self.body(None)
        graph = model.graph
        graph.input.append(helper.make_tensor_value_info("ffc_x", TensorProto.FLOAT, ["batch", width]))
        constant(graph, "ffc_one", np.eye(width, dtype=np.float32))
        dense = helper.make_node("MatMul", ["ffc_x", "ffc_one"], ["ffc_h"])
        add = helper.make_node("Add", ["ffc_h", self.model.graph.output[0].name], ["ffc_scores"])
        replace(graph, [*nodes, dense, add])
        graph.output.append(output("ffc_scores", width))
        scores = runner.scores(model, np.zeros((3, width), np.float32))
        return scores, np.tile(self.expected.reshape(1, -1), (3, 1))

    def result(self, runner):
        passed, reasons = False, []
        for attempt in self.attempts():
            try:
                ours, theirs = attempt(runner)
            except Refused as refused:
                reasons.append(str(refused))
                continue
            if not np.allclose(ours, theirs.astype(np.float64), RELATIVE, ABSOLUTE):
                if self.name in ON_PURPOSE:
                    return "on purpose", ON_PURPOSE[self.name]
                return "fail", f"{ours} instead of {theirs}"
            passed = True
        if passed:
            return "pass", ""
        reasons.append(self.alone(runner))
        return "refused", next((text for text in reasons if " x `" in text), reasons[0])

    def alone(self, runner):
        """Why there is no network for the case: what `ffc` says of its graph, or else its data."""
        place = 0 if self.inputs else None
        if place is None or all(value is not None for value in self.values[1:]):
            model, nodes = self.body(place)
            model.graph.input.extend(self.inputs[:1])
            model.graph.output.extend(self.model.graph.output)
            onnx.save(model, os.path.join(runner.folder, "case.onnx"))
            try:
                runner.run("inspect", "case.onnx")
            except Refused as refused:
                if " x `" in str(refused):
                    return str(refused)
        if any(value is None for value in [*self.values, self.expected]):
            return "inputs or results that are no tensors of numbers"
        if not any(value.dtype in (np.float16, np.float32, np.float64) for value in self.values):
            return "no floating-point input, and no row of numbers as result"
        return "the result does not have a row for each row of the input"


def constant(graph, name, value):
    graph.initializer.append(numpy_helper.from_array(value, name))


def replace(graph, nodes):
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def output(name, width):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def whole(runner, path):
    """A whole model, for the samples of onnx's own runner."""
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    (given,) = [value for value in model.graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    x = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    for key, value in METADATA.items():
        model.metadata_props.add(key=key, value=value)
    try:
        runner.run("inspect", path)
        scores = runner.scores(model, x)
    except Refused as refused:
        return "refused", str(refused)
    if model.graph.node[-1].op_type == "Softmax":
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = scores / scores.sum(axis=1, keepdims=True)
    expected = load(path[: -len(".onnx")] + "_output_0.pb").reshape(scores.shape)
    if np.allclose(scores, expected, RELATIVE, ABSOLUTE):
        return "pass", ""
    return "fail", f"{scores} instead of {expected}"


def collect(runner):
    """Rows (collection, operator, case, result, reason)."""
    data = os.path.join(os.path.dirname(onnx.__file__), "backend/test/data")
    for collection in ("node", "simple", "pytorch-operator", "pytorch-converted"):
        for folder in sorted(glob.glob(os.path.join(data, collection, "test_*"))):
            case = Case(folder)
            try:
                result, why = case.result(runner)
            except Exception as error:
                result, why = "fail", f"{type(error).__name__}: {error}"
            yield collection, case.row, case.name, result, why
    for path in sorted(glob.glob(os.path.join(data, "light", "*.onnx"))):
        result, why = whole(runner, path)
        yield "light", "whole models", os.path.basename(path)[: -len(".onnx")], result, why


def without_numbers(why):
    """A reason without what differs from case to case."""
    return why.split("): ", 1)[1] if " x `" in why and "): " in why else why


def table(rows):
    counts = collections.Counter(row[3] for row in rows)
    operators = collections.defaultdict(collections.Counter)
    reasons = collections.defaultdict(collections.Counter)
    for _, operator, _, result, why in rows:
        operators[operator][result] += 1
        if result == "refused":
            reasons[operator][without_numbers(why)] += 1
    print("# ONNX conformance\n")
    print(
        f"Generated by `tests/conformance/onnx_suite.py`, which says how, from the backend tests of onnx {onnx.__version__}.\n"
        f"{len(rows)} cases: {counts['pass']} pass, {counts['refused']} are refused with a reason, {counts['on purpose']} "
        f"differ on purpose, {counts['fail']} fail.\n"
    )
    print("| collection | cases | pass | refused | on purpose | fail |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    deliberate = [row for row in rows if row[3] == "on purpose"]
    collections_seen = dict.fromkeys(row[0] for row in rows)
    for collection in collections_seen:
        found = collections.Counter(row[3] for row in rows if row[0] == collection)
        print(f"| {collection} | {found.total()} | {found['pass']} | {found['refused']} | {found['on purpose']} | {found['fail']} |")
    print("\n## Operators of which a case passes\n")
    header = "| operator | cases | pass | refused | on purpose | fail | most frequent reason to refuse |\n"
    header += "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    print(header)
    rest = []
    for operator, found in sorted(operators.items()):
        why = reasons[operator].most_common(1)[0][0].replace("|", "\\|") if reasons[operator] else ""
        line = f"| {operator} | {found.total()} | {found['pass']} | {found['refused']} | {found['on purpose']} | {found['fail']} | {why} |"
        print(line) if found["pass"] else rest.append(line)
    print(f"\n## Operators of which all cases are refused\n\n{header}")
    print("\n".join(rest))
    if deliberate:
        print("\n## Cases that differ on purpose\n")
        for _, _, case, _, why in deliberate:
            print(f"- `{case}`: {why}")
    print("\n## Cases that pass\n")
    for collection in collections_seen:
        names = [f"`{row[2]}`" for row in rows if row[0] == collection and row[3] == "pass"]
        if names:
            print(f"{collection}: {', '.join(names)}\n")


with tempfile.TemporaryDirectory() as folder:
    rows = list(collect(Runner(sys.argv[1], folder)))
table(rows)
failures = [row for row in rows if row[3] == "fail"]
for collection, _, case, _, why in failures:
    print(f"{collection}/{case}: {why}", file=sys.stderr)
sys.exit(1 if failures else 0)
