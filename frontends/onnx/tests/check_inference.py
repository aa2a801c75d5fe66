"""Runs models in onnxruntime, as they predict, and compares their outputs with what an imported network gives.

Reads cases as JSON from the file named on the command line: a list of
{"model": path, "input": name, "output": name, "shape": [...], "x": [...], "y": [...], "bound": how far apart they may be}.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime


def as_it_predicts(model):
    """Without what a file that was saved in training mode does at random or with the batch at hand."""
    graph = model.graph
    noise = {node.output[0] for node in graph.node if node.op_type == "RandomUniformLike"}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
            del node.attribute[:], node.output[1:]
            node.attribute.extend(kept)
        elif node.op_type == "Dropout":
            del node.input[1:], node.output[1:], node.attribute[:]
            node.op_type = "Identity"
        elif node.op_type in ("Less", "Cast", "Div") and noise & set(node.input):
            noise.add(node.output[0])
        elif node.op_type == "Mul" and noise & set(node.input):
            (kept,) = set(node.input) - noise
            del node.input[:]
            node.input.append(kept)
            node.op_type = "Identity"
    return model.SerializeToString()


for case in json.load(open(sys.argv[1])):
    model = onnx.load(case["model"])
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Some rewrite more than they should: padding before a maximum goes into the pool, where it is no zero.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(as_it_predicts(model), options, providers=["CPUExecutionProvider"])
    x = np.array(case["x"], np.float32).reshape(case["shape"])
    (y,) = session.run([case["output"]], {case["input"]: x})
    expected = np.array(case["y"]).reshape(y.shape)
    worst = float(np.max(np.abs(y - expected)))
    if not worst <= case["bound"]:
        sys.exit(f"{case['model']}: the outputs differ by {worst}, not by {case['bound']}: {y} and {expected}")
    print(f"{case['model']}: {worst:.1e} of {case['bound']:.1e}")
