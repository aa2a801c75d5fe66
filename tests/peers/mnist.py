"""MNIST for every worker: the four IDX files as arrays of bytes, and an endless stream of shuffled batches.

Peak memory is compared, so nothing is held twice: files are unpacked a thousand rows at a time into their array.
"""

import gzip
import math
from dataclasses import dataclass

import numpy

ROWS_AT_ONCE = 1000

MEAN, DEVIATION = 0.1307, 0.3081
"""Of the training split's pixels, scaled to 1. `ffc` standardises its input too."""


@dataclass(frozen=True)
class Split:
    """Images as rows of bytes, and a class for each."""

    images: numpy.ndarray
    labels: numpy.ndarray


def load(folder, limit):
    """Training and test split, each of at most `limit` images."""
    return [
        Split(
            read(folder, f"{name}-images-idx3-ubyte", limit), read(folder, f"{name}-labels-idx1-ubyte", limit).ravel()
        )
        for name in ("train", "t10k")
    ]


def read(folder, name, limit):
    """At most `limit` rows of an IDX file, plain or gzip."""
    with opened(folder, name) as file:
        rank = file.read(4)[3]
        count, *shape = (int.from_bytes(file.read(4), "big") for _ in range(rank))
        rows = numpy.empty((min(count, limit), math.prod(shape)), numpy.uint8)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            part[:] = numpy.frombuffer(file.read(part.size), numpy.uint8).reshape(part.shape)
    return rows


def opened(folder, name):
    if (folder / name).exists():
        return open(folder / name, "rb")
    if (folder / f"{name}.gz").exists():
        return gzip.open(folder / f"{name}.gz")
    raise SystemExit(
        f"error: no {name} or {name}.gz in {folder}\nhelp: --data takes the folder of MNIST's four IDX files"
    )


def blocks(split, batch, steps, seed):
    """Endless blocks of `steps` shuffled batches; each image comes once before any comes again."""
    random = numpy.random.default_rng(seed)
    order = numpy.empty(0, numpy.int64)
    while True:
        while len(order) < steps * batch:
            order = numpy.concatenate([order, random.permutation(len(split.labels))])
        taken, order = order[: steps * batch], order[steps * batch :]
        yield split.images[taken].reshape(steps, batch, -1), split.labels[taken].reshape(steps, batch)


def random_layers(seed):
    """He-initialised weights and zero biases of 784-1000-1000-10."""
    random = numpy.random.default_rng(seed)
    shapes = ((784, 1000), (1000, 1000), (1000, 10))
    return [
        (random.normal(0, (2 / shape[0]) ** 0.5, shape).astype(numpy.float32), numpy.zeros(shape[1], numpy.float32))
        for shape in shapes
    ]
