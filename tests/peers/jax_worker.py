"""Backpropagation in jax, FP32, plain SGD or with momentum.

A step is one compiled function that takes bytes, so conversion and standardisation are fused into it, and whose
parameters are donated, so they are updated in place. Two loops compete: `step` calls that function for every batch,
`scan` hands a block of batches to `lax.scan`. Which one is faster depends on batch size and cores.
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy

import mnist
import worker

BLOCKS_BETWEEN_TESTS = 2


def scores(layers, images):
    x = (images.astype(jnp.float32) / 255 - mnist.MEAN) / mnist.DEVIATION
    for weights, bias in layers[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    weights, bias = layers[-1]
    return x @ weights + bias


def loss(layers, images, labels):
    log_probabilities = jax.nn.log_softmax(scores(layers, images))
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None].astype(jnp.int32), axis=1))


def update(state, images, labels, rate, momentum):
    """One step of SGD. The state is the layers and, where there is momentum, a velocity for each."""
    layers, velocity = state
    gradients = jax.grad(loss)(layers, images, labels)
    if momentum:
        gradients = velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradients)
    return jax.tree.map(lambda w, g: w - rate * g, layers, gradients), velocity


@functools.cache
def compiled(loop, momentum):
    """The loop as a function of state, block and a learning rate for each step."""
    step = functools.partial(update, momentum=momentum)
    compiled_step = jax.jit(step, donate_argnums=0)

    def step_by_step(state, *block):
        for batch in zip(*block):
            state = compiled_step(state, *batch)
        return state

    def scan(state, *block):
        return jax.lax.scan(lambda state, batch: (step(state, *batch), None), state, block)[0]

    return jax.jit(scan, donate_argnums=0) if loop == "scan" else step_by_step


@jax.jit
def accuracy(layers, images, labels):
    return jnp.mean(jnp.argmax(scores(layers, images), axis=1) == labels)


class Trainer:
    """Layers, and how they learn: a constant learning rate, or one that falls to zero in `decay_steps`."""

    def __init__(self, loop, seed=1, learning_rate=0.01, momentum=0.0, decay_steps=None):
        layers = jax.tree.map(jnp.asarray, mnist.random_layers(seed))
        self.state = layers, (jax.tree.map(jnp.zeros_like, layers) if momentum else None)
        self.train_block = compiled(loop, momentum)
        self.learning_rate, self.decay_steps = learning_rate, decay_steps
        self.steps = 0

    def rates(self, count):
        """The learning rate of each of the next steps."""
        steps = self.steps + numpy.arange(count)
        left = numpy.maximum(0, 1 - steps / self.decay_steps) if self.decay_steps else numpy.ones(count)
        return (self.learning_rate * left).astype(numpy.float32)

    def train(self, images, labels):
        self.state = self.train_block(self.state, images, labels, self.rates(len(labels)))
        self.steps += len(labels)
        jax.block_until_ready(self.state)

    def accuracy(self, split):
        return float(accuracy(self.state[0], split.images, split.labels))


def time_to(new_trainer, train, test, batch, target, seed, most_epochs, most_seconds):
    """Seconds of training until the test accuracy reaches `target`, or None; evaluation is not counted."""
    blocks = mnist.blocks(train, batch, worker.STEPS, seed)
    warm_up = new_trainer()
    warm_up.train(*next(blocks))
    warm_up.accuracy(test)
    trainer, seconds = new_trainer(), 0.0
    while seconds < most_seconds and trainer.steps * batch < most_epochs * len(train.labels):
        start = time.perf_counter()
        for _ in range(BLOCKS_BETWEEN_TESTS):
            trainer.train(*next(blocks))
        seconds += time.perf_counter() - start
        if trainer.accuracy(test) >= target:
            return seconds
    return None


def main():
    options = worker.options()
    train, test = mnist.load(options.data, options.limit)
    new_trainer = functools.partial(Trainer, options.variant)

    def training_rate(batch, seconds):
        return worker.training_rate(new_trainer().train, train, batch, seconds)

    def time_to_accuracy(
        batch, target, seed, learning_rate, momentum, decay_epochs, most_epochs, most_seconds=math.inf
    ):
        decay_steps = decay_epochs and decay_epochs * len(train.labels) // batch
        new = functools.partial(new_trainer, seed, learning_rate, momentum, decay_steps)
        return time_to(new, train, test, batch, target, seed, decay_epochs or most_epochs, most_seconds)

    worker.serve({"training_rate": training_rate, "time_to_accuracy": time_to_accuracy})


if __name__ == "__main__":
    main()
