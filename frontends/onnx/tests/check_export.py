"""Runs exported models in onnxruntime and compares their outputs.

Reads cases as JSON from the file named on the command line: a list of
{"model": path, "input": name, "output": name, "shape": [...], "x": [...], "y": [...]}. Where there is "reference", the
path of another model, its output is what is expected.
"""

import json
import sys

import numpy as np
import onnxruntime

try:
    from onnx import checker
except ImportError:
    checker = None

TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


def run(path, name, output, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run([output], {name: x.astype(TYPES[session.get_inputs()[0].type])})
    # scikit-learn's dictionaries from class to score.
    return np.array([list(row.values()) for row in result]) if isinstance(result, list) else result


for case in json.load(open(sys.argv[1])):
    if checker:
        checker.check_model(case["model"], full_check=True)
    x = np.array(case["x"], np.float32).reshape(case["shape"])
    y = run(case["model"], case["input"], case["output"], x)
    if "reference" in case:
        expected = run(case["reference"], case["input"], case["output"], x)
    else:
        expected = np.array(case["y"], np.float64).reshape(y.shape)
    worst = float(np.max(np.abs(y - expected) / (1 + np.abs(expected))))
    if not worst < 1e-5:
        sys.exit(f"{case['model']}: the outputs differ by {worst}: {y} and {expected}")
    print(f"{case['model']}: {worst:.1e}")
