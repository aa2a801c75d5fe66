"""Look-ahead, written from the method's description alone, in NumPy and without automatic differentiation.

usage: look_ahead.py STEPS.json

`scalar`: a layer's loss becomes L_i + lambda * sum of L_j over later layers j, taken literally: only the numbers that follow from
the losses join, without a derivative from one layer to another.

* sum of squares: G = mean of y^2, L = log(1 + exp(-s (G - theta))), c_i = dL_i/dG_i = -s sigmoid(-s (G_i - theta));
  with look-ahead c_i + lambda * sum over j > i of c_j; gradient by y: 2 c y / N (sum: 2 c y).
* cross-entropy heads: per-class error e_i = softmax - onehot; with look-ahead e_i + lambda * sum over j > i of e_j.
  The network's last layer, the classifier, is such a layer too; beside sum-of-squares heads it is of another kind and
  takes no part.

`hop`: a layer's loss becomes L_i + lambda * L_{i+1}, with the true derivative of L_{i+1} by y_i: through the next layer's head, activation
function and weights, and through the normalisation of y_i, x = y / rms(y): dL/dy = (g - x mean(g x)) / rms(y) with g = dL/dx.

One sweep with the weights from before the step finds all c or e, a second one updates.
STEPS.json is as `ffc_tests::step::Record` writes it.
"""

import json
import sys

import numpy as np

TOLERANCE = 1e-4


def matrix(m):
    return np.array(m["values"], np.float32).astype(np.float64).reshape(m["shape"])


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def prepared(step, contrast):
    """Rows, their labels and polarities."""
    x = matrix(step["samples"])
    labels = np.array(step["labels"])
    if not contrast:
        return x, labels, None
    assert step["options"]["predict"] == "labels", "this program knows pairs, not neutral rows"
    classes = step["sizes"][-1]
    x, labels = np.repeat(x, 2, axis=0), np.repeat(labels, 2)
    preprocessing = step["options"]["preprocessing"]
    x[:, :classes] = preprocessing["low"]
    x[np.arange(len(x)), step["overlaid"]] = preprocessing["high"]
    return x, labels, np.tile([1.0, -1.0], len(step["labels"]))


def updated(step):
    """All trained parameters after the step."""
    before = {name: matrix(m) for name, m in step["before"].items()}
    options, lam = step["options"], step["lambda"]
    head = options["head"]
    contrast = not isinstance(head, str) and "sum_of_squares" in head
    projection = head == "projection"
    assert contrast or projection
    assert step["activation"][0] == "relu" and options["normalization"] == "rms"
    x, labels, s = prepared(step, contrast)
    rate = step["rate"] * (0.5 if contrast else 1.0)
    count = len(step["sizes"]) - (2 if contrast else 1)
    classifier = 0 if contrast else count
    onehot = np.eye(step["sizes"][-1])[labels]

    # First sweep: what each layer sees, gives, and says of its own loss.
    seen, given, errors = [], [], []
    for i in range(1, count + 1):
        a = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6)
        z = a @ before[f"fc{i}.weight"].T + before[f"fc{i}.bias"]
        y = z if i == classifier else np.maximum(z, 0)
        if contrast:
            kind, theta = head["sum_of_squares"]["goodness"], head["sum_of_squares"]["threshold"]
            goodness = (y**2).mean(axis=1) if kind == "mean" else (y**2).sum(axis=1)
            errors.append(-s / (1 + np.exp(s * (goodness - theta))))
        else:
            scores = y if i == classifier else y @ before[f"fc{i}.head"].T
            errors.append(softmax(scores) - onehot)
        seen.append(a)
        given.append(y)
        x = y

    # Second sweep.
    after = {}

    def move(name, gradient, own):
        change = own * gradient
        if options["momentum"] > 0 and not name.endswith(".bias"):
            change = options["momentum"] * before[f"{name}.velocity"] + change
            after[f"{name}.velocity"] = change
        after[name] = before[name] - change

    scalar = options["look_ahead"] == "scalar"
    assert scalar or options["look_ahead"] == "hop"

    def by_activation(i, e):
        """The gradient of a loss with this error by the activation of layer i."""
        y = given[i - 1]
        if contrast:
            units = y.shape[1] if head["sum_of_squares"]["goodness"] == "mean" else 1
            return 2 * e[:, None] * y / units
        return e if i == classifier else e @ before[f"fc{i}.head"]

    def mask(i):
        return 1 if i == classifier else given[i - 1] > 0

    def of_next(i):
        """The gradient of the next layer's loss by the activation of layer i."""
        g = (by_activation(i + 1, errors[i]) * mask(i + 1)) @ before[f"fc{i + 1}.weight"]
        x, y = seen[i], given[i - 1]
        rms = np.sqrt((y**2).mean(axis=1, keepdims=True) + 1e-6)
        return (g - x * (g * x).mean(axis=1, keepdims=True)) / rms

    for i, (a, y) in enumerate(zip(seen, given), start=1):
        e = errors[i - 1]
        if scalar:
            e = e + lam * sum(errors[i:], np.zeros_like(errors[0]))
        own = rate * (options["classifier_rate"] if i == classifier else 1.0)
        gy = by_activation(i, e)
        if not scalar and i < count:
            gy = gy + lam * of_next(i)
        gz = gy * mask(i)
        if not contrast and i != classifier:
            move(f"fc{i}.head", e.T @ y, own)
        move(f"fc{i}.weight", gz.T @ a, own)
        move(f"fc{i}.bias", gz.sum(axis=0, keepdims=True), own)
    return before, after


def main():
    with open(sys.argv[1]) as file:
        steps = json.load(file)
    failed = False
    for step in steps:
        before, expected = updated(step)
        complaints = []
        for name, value in before.items():
            change = matrix(step["after"][name]) - value
            wanted = expected.get(name, value) - value
            size, worst = np.abs(wanted).max(), np.abs(change - wanted).max()
            if not worst <= TOLERANCE * size + 2**-23 * np.abs(value).max():
                complaints.append(f"{name}: moved by up to {size:.3e}, off by up to {worst:.3e}")
        print(f"{step['name']}: {len(before)} compared, {len(complaints)} wrong")
        print("".join(f"  {complaint}\n" for complaint in complaints), end="")
        failed |= bool(complaints)
    sys.exit(failed)


main()
