"""Runs exported networks in onnxruntime on test images and compares with what `ffc eval --scores` wrote.

Reads cases as JSON from the file named on the command line: a list of {"model": path, "images": IDX file, "labels": IDX
file, "scores": path of f32 scores, "int8_scores": the same in INT8}. The exported graph starts at the preprocessed input; the
preprocessing is in its metadata. Prints a line of JSON for each case; says what is wrong, and fails, where

- a class differs whose two best scores are not as good as equal,
- scores differ by more than single precision explains, or
- the accuracy is not within 0.2 points of that in INT8, nor within twice what chance makes of the predictions that change
  (of a few thousand images, a handful is 0.2 points).
"""

import gzip
import json
import sys

import numpy as np
import onnxruntime
from onnx import checker


def idx(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        data = file.read()
    rank = data[3]
    sizes = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(rank)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def numbers(metadata, key):
    return np.array([float(number) for number in metadata[key].split(",")], np.float32)


def preprocessed(images, metadata):
    flat = images.reshape(len(images), -1).astype(np.float32)
    scaled = flat * numbers(metadata, "ffc.input_scale")
    return (scaled - numbers(metadata, "ffc.input_mean")) / numbers(metadata, "ffc.input_std")


def scores(model, images):
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = preprocessed(images, session.get_modelmeta().custom_metadata_map)
    x = x.reshape([len(x)] + [size for size in given.shape[1:]])
    parts = [session.run(None, {given.name: part})[0] for part in np.array_split(x, max(1, len(x) // 500))]
    return np.concatenate(parts)


def check(case):
    labels = idx(case["labels"])
    theirs = scores(case["model"], idx(case["images"]))
    ours = np.fromfile(case["scores"], np.float32).reshape(theirs.shape)
    worst = float(np.max(np.abs(ours - theirs) / (1 + np.abs(theirs))))
    best = np.sort(theirs, axis=1)
    margin = (best[:, -1] - best[:, -2]) / (1 + np.abs(best[:, -1]))
    differ = np.flatnonzero((ours.argmax(1) != theirs.argmax(1)) & (margin > 1e-4))
    accuracy = float(np.mean(theirs.argmax(1) == labels))
    print(json.dumps({"model": case["model"], "images": len(labels), "accuracy": accuracy, "worst": worst}))
    if len(differ):
        return f"{len(differ)} predictions differ, the first for image {differ[0]}"
    if not worst < 1e-3:
        return f"scores differ by {worst}"
    int8 = np.fromfile(case["int8_scores"], np.float32).reshape(theirs.shape).argmax(1)
    gained = int(np.sum(int8 == labels)) - int(np.sum(theirs.argmax(1) == labels))
    changed = int(np.sum(int8 != theirs.argmax(1)))
    if abs(gained) > max(0.002 * len(labels), 2 * changed**0.5):
        return f"of {changed} predictions that INT8 changes, {gained:+} are right"
    return None


problems = [(case["model"], check(case)) for case in json.load(open(sys.argv[1]))]
problems = [f"{model}: {problem}" for model, problem in problems if problem]
if problems:
    sys.exit("\n".join(problems))
