"""A contestant in its own process: what all workers share.

Contestants need different packages, are pinned to cores and their memory is compared, so each is a process. It stays
alive between measurements, compiled and warm, and costs nothing while others are measured: it waits for the next
request. A request is a line of JSON on standard input, the answer one on standard output.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import mnist

STEPS = 50
"""Steps in a block: what a trainer is given at once."""


def options():
    """What the process was started with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--variant", default="")
    return parser.parse_args()


def serve(commands):
    """Answers requests until there are no more. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("do")](**request)), file=answers, flush=True)


def rate(work, seconds):
    """Images per second of `work`, which returns how many it took; its first call is the warm-up."""
    work()
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += work()
    return images / (time.perf_counter() - start)


def training_rate(train, split, batch, seconds):
    """Images per second of `train(images, labels)`, which takes a block; gathering shuffled rows counts."""
    blocks = mnist.blocks(split, batch, STEPS, seed=1)

    def work():
        images, labels = next(blocks)
        train(images, labels)
        return labels.size

    return rate(work, seconds)
