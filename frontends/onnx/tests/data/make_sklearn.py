"""Writes the files of this folder."""

import warnings

import numpy as np
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.normal(size=(60, 8)).astype(np.float32)
three = rng.integers(0, 3, 60)
two = rng.integers(0, 2, 60)
letters = np.array(list("abc"))[three]


def write(name, model, sample=x[:1], **options):
    onnx = to_onnx(model, sample, options={id(model): options} if options else None)
    open(f"skl_{name}.onnx", "wb").write(onnx.SerializeToString())


def mlp(y, hidden=(6, 5), **options):
    return MLPClassifier(hidden, max_iter=5, random_state=0, **options).fit(x, y)


write("multi", mlp(three))
write("multi_nozip", mlp(three, activation="tanh"), zipmap=False)
write("binary", mlp(two, activation="logistic"))
write("strings", mlp(letters))
write("double", mlp(letters), x[:1].astype(np.float64), zipmap=False)
write("pipe", make_pipeline(StandardScaler(), MLPClassifier((6,), max_iter=5, random_state=0)).fit(x, three))
