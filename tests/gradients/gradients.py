"""Does one Forward-Forward step of ffc's interpreter agree with automatic differentiation?

usage: gradients.py STEPS.json

STEPS.json is a list of steps as `ffc_tests::step::Record` writes them. For each, the network is written down once more
in JAX: every layer's own loss, its input held constant (`stop_gradient`), all in float64. `jax.grad` of the sum of all
local losses is then each layer's local gradient, and from it follow all parameters after the step.
"""

import json
import os
import sys

# Small programs that run once: most of the time goes into compiling them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

# Relative to the largest element. The interpreter computes in float32: sums of some tens of terms keep five digits.
TOLERANCE = 1e-4
RMS_EPSILON = 1e-6


def activation(name, numbers):
    return {
        "relu": lambda z: jnp.maximum(z, 0),
        "leaky_relu": lambda z: jnp.where(z > 0, z, numbers[0] * z),
        "clip": lambda z: jnp.clip(z, numbers[0], numbers[1]),
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "hard_sigmoid": lambda z: jnp.clip(numbers[0] * z + numbers[1], 0, 1),
        "elu": lambda z: jnp.where(z > 0, z, numbers[0] * (jnp.exp(jnp.minimum(z, 0)) - 1)),
        "silu": jax.nn.silu,
        "hard_swish": lambda z: z * jnp.clip(z + 3, 0, 6) / 6,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    }[name]


def array(matrix):
    # Through float32, which is what the interpreter had.
    return np.array(matrix["values"], np.float32).astype(np.float64).reshape(matrix["shape"])


def head_of(options):
    """Name and numbers of the hidden layers' objective."""
    head = options["head"]
    return (head, {}) if isinstance(head, str) else next(iter(head.items()))


def rows_of(step):
    """The first layer's input, the class of each row, and its polarity (+1, -1, 0)."""
    options = step["options"]
    preprocessing = options["preprocessing"]
    classes = step["sizes"][-1]
    x = array(step["samples"]) * preprocessing["scale"]
    x = (x - np.array(preprocessing["mean"])) / np.array(preprocessing["std"])
    labels = np.array(step["labels"])
    if head_of(options)[0] != "sum_of_squares":
        return x, labels, None
    polarities = [1, -1] + ([] if options["predict"] == "labels" else [0])
    x = np.repeat(x, len(polarities), axis=0)
    labels = np.repeat(labels, len(polarities))
    polarity = np.tile(polarities, len(step["labels"]))
    overlaid = np.array(step["overlaid"])
    assert np.all(overlaid[polarity == 1] == labels[polarity == 1]), "positive rows carry their label"
    assert np.all(overlaid[polarity == -1] != labels[polarity == -1]), "negative rows carry another one"
    assert np.all((overlaid[polarity == -1] >= 0) & (overlaid[polarity == -1] < classes))
    assert np.all(overlaid[polarity == 0] == -1), "neutral rows carry none"
    on, off = preprocessing["high"], preprocessing["low"]
    for row, label in enumerate(overlaid):
        x[row, :classes] = off + (on - off) / classes if label < 0 else off
        if label >= 0:
            x[row, label] = on
    return x, labels, polarity


def cross_entropy(scores, labels):
    return jax.nn.logsumexp(scores, axis=1) - scores[jnp.arange(len(labels)), labels]


def hidden_loss(head, numbers, y, matrix, labels, polarity):
    """The loss of each row."""
    if head == "projection":
        return cross_entropy(y @ matrix.T, labels)
    if head == "class_group":
        units, classes = y.shape[1], int(numbers["classes"])
        bounds = [c * units // classes for c in range(classes + 1)]
        groups = [jnp.sum(y[:, low:high], axis=1) for low, high in zip(bounds, bounds[1:])]
        means = jnp.stack(groups, axis=1) / (units / classes)
        return cross_entropy(numbers["temperature"] * means, labels)
    assert head == "sum_of_squares"
    goodness = jnp.sum(y**2, axis=1)
    if numbers["goodness"] == "mean":
        goodness = goodness / y.shape[1]
    return jnp.where(polarity == 0, 0, jnp.log1p(jnp.exp(-polarity * (goodness - numbers["threshold"]))))


def local_losses(params, step):
    """The loss of each layer, summed over rows. No gradient goes from one to another."""
    options = step["options"]
    x, labels, polarity = rows_of(step)
    head, numbers = head_of(options)
    numbers = {**numbers, "classes": step["sizes"][-1]}
    f = activation(*step["activation"])
    losses = {}
    for number in range(1, len(step["sizes"])):
        last = number + 1 == len(step["sizes"])
        name = f"fc{number}"
        if last and options["predict"] == "labels":
            break
        x = jax.lax.stop_gradient(x)
        if options["normalization"] == "rms":
            x = x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True) + RMS_EPSILON)
        z = x @ params[f"{name}.weight"].T + params[f"{name}.bias"]
        if last:
            loss = cross_entropy(z, labels)
            loss = loss if polarity is None else jnp.where(polarity == 0, loss, 0)
        else:
            x = f(z)
            loss = hidden_loss(head, numbers, x, params.get(f"{name}.head"), labels, polarity)
        losses[name] = jnp.sum(loss)
    return losses


def after_step(params, gradients, step):
    """The optimizer: what each trained parameter becomes, and each velocity."""
    options = step["options"]
    classifier = f"fc{len(step['sizes']) - 1}"
    momentum = options["momentum"]
    after = {}
    for name, gradient in gradients.items():
        rate = step["rate"]
        if name.startswith(f"{classifier}."):
            rate *= options["classifier_rate"]
        elif head_of(options)[0] == "sum_of_squares":
            # The mean over a positive and a negative row a sample.
            rate /= 2
        move = rate * gradient
        # Biases have no velocity.
        if momentum > 0 and not name.endswith(".bias"):
            move = momentum * params[f"{name}.velocity"] + move
            after[f"{name}.velocity"] = move
        after[name] = params[name] - move
    return after


def check(step):
    """Complaints, and how many tensors were compared."""
    params = {name: array(matrix) for name, matrix in step["before"].items()}
    moved = {name: array(matrix) for name, matrix in step["after"].items()}
    layers = [name.removesuffix(".bias") for name in params if name.endswith(".bias")]
    trained = [f"{name}.{what}" for name in layers for what in ("weight", "bias", "head")]
    if head_of(step["options"])[0] != "projection":
        trained = [name for name in trained if not name.endswith(".head")]
    trained = {name: params[name] for name in trained if name in params}

    def total(trained):
        losses = local_losses({**params, **trained}, step)
        return sum(losses.values()), losses

    (_, losses), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(trained)
    complaints = []
    for name, loss in losses.items():
        if not abs(step["losses"][name] - loss) <= TOLERANCE * abs(loss):
            complaints.append(f"loss of {name}: {step['losses'][name]}, here {loss}")
    if set(losses) != set(step["losses"]):
        complaints.append(f"losses of {sorted(step['losses'])}, here of {sorted(losses)}")
    expected = after_step(params, gradients, step)
    for name, before in params.items():
        change = moved[name] - before
        wanted = np.asarray(expected.get(name, before)) - before
        size = np.max(np.abs(wanted))
        # What float32 cannot resolve in the parameter itself.
        resolution = 2**-23 * np.max(np.abs(before))
        worst = np.max(np.abs(change - wanted))
        if not worst <= TOLERANCE * size + resolution:
            complaints.append(f"{name}: moved by up to {size:.3e}, off by up to {worst:.3e}")
        if name in trained and not size > 100 * resolution:
            complaints.append(f"{name}: hardly moves ({size:.3e}), which shows nothing")
    return complaints, len(losses) + len(params)


def main():
    with open(sys.argv[1]) as file:
        steps = json.load(file)
    failed = False
    for step in steps:
        complaints, compared = check(step)
        print(f"{step['name']}: {compared} compared, {len(complaints)} wrong")
        for complaint in complaints:
            print(f"  {complaint}")
        failed |= bool(complaints)
    sys.exit(failed)


main()
