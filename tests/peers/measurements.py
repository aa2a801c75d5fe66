"""What is measured, section by section.

A machine's speed drifts, so contestants take turns: every round measures each of them once, after a round that does not
count. A section returns, for each row and column of its table, one value per round.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import sys
import tempfile

from contestants import INFERENCE, RECIPES, json_lines, pinned

BATCH = 128
SMALL_BATCHES = (1, 32)
PROJECTION = RECIPES[0]
FINALISTS = 3
"""Settings of jax that are tried with all seeds."""
HOPELESS = 1.5
"""Times the fastest so far: when a setting is given up."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How thoroughly: rounds, seconds per measurement, images of each split, and the search for the best time."""

    repeats: int
    seconds: float
    images: int
    target: float
    seeds: tuple
    ffc_epochs: tuple
    jax_epochs: int
    jax_settings: tuple


def jax_settings(rates, rates_with_momentum, decays):
    """SGD with and without momentum, at a rate that falls to zero in so many epochs or is constant (None)."""
    pairs = [(0.9, rate) for rate in rates_with_momentum] + [(0.0, rate) for rate in rates]
    keys = ("momentum", "learning_rate", "decay_epochs")
    return tuple(dict(zip(keys, (*pair, decay))) for pair, decay in itertools.product(pairs, decays))


def interleave(title, measures, rounds, warm_up=True):
    """The measures by turns, each called with a round's arguments; a list of values for each."""
    values = {name: [] for name in measures}
    for given in ([rounds[0]] if warm_up else []) + list(rounds):
        for name, measure in measures.items():
            values[name].append(measure(**given))
            print(f"{title}: {name}: {values[name][-1]}", file=sys.stderr)
    return {name: found[1:] if warm_up else found for name, found in values.items()}


def rates(setting, plan, title, contestants, threads, batch):
    with contextlib.ExitStack() as stack:
        started = {one.name: stack.enter_context(setting.start(one, threads)) for one in contestants}
        measures = {
            name: functools.partial(contestant.training_rate, batch, plan.seconds)
            for name, contestant in started.items()
        }
        return interleave(title, measures, [{}] * plan.repeats)


def training(setting, plan, contestants, threads):
    """Images per second at batch 128, for each number of threads."""
    return {count: rates(setting, plan, f"training, threads {count}", contestants, count, BATCH) for count in threads}


def small_batches(setting, plan, contestants, threads):
    """Images per second of jax and the projection recipe at small batches, one thread, no momentum."""
    plain = dataclasses.replace(PROJECTION, flags=(*PROJECTION.flags, "--momentum", "0"))
    chosen = [plain if one == PROJECTION else one for one in contestants if one == PROJECTION or is_jax(one)]
    return {batch: rates(setting, plan, f"training, batch {batch}", chosen, 1, batch) for batch in SMALL_BATCHES}


def is_jax(contestant):
    return contestant.name.startswith("jax")


def inference(setting, plan, contestants, threads):
    """Images per second of an exported network, one thread: onnxruntime in FP32 and `ffc eval` in INT8."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = pathlib.Path(folder) / "trained.onnx"
        given = [setting.model, "--data", setting.data, "--limit-train", 100 * BATCH, "--epochs", 1]
        json_lines(pinned(1, [setting.ffc, "train", *given, "-o", model, "--json"]))
        ffc = [setting.ffc, "eval", model, "--data", setting.data, "--batch-size", BATCH, "--json"]
        measures = {"ffc-eval": lambda: json_lines(pinned(1, ffc))[-1].get("images_per_second")}
        if any(one.name == "onnxruntime" for one in contestants):
            peer = stack.enter_context(setting.start(INFERENCE, 1))
            request = {"model": str(model), "batch": BATCH, "seconds": plan.seconds}
            measures[INFERENCE.name] = functools.partial(peer.ask, "inference_rate", **request)
        return {BATCH: interleave("inference", measures, [{}] * plan.repeats)}


def accuracy(setting, plan, contestants, threads):
    """Seconds of training, one thread, until the target is reached: one value per seed, None where it never is.

    jax: every setting is tried with the first seed, the fastest of them with all. `ffc`: courses of several lengths.
    """
    measures = {}
    with contextlib.ExitStack() as stack:
        for one in contestants:
            if one.name == "jax-scan":
                measures |= fastest_jax(stack.enter_context(setting.start(one, 1)), plan)
            if one == PROJECTION:
                measures |= ffc_courses(stack.enter_context(setting.start(one, 1)), plan)
        rounds = [{"seed": seed} for seed in plan.seeds]
        return {1: interleave("time to accuracy", measures, rounds, warm_up=False)} if measures else {}


def fastest_jax(jax, plan):
    """The fastest settings with the first seed, as measures of the time to the target."""
    measures, seconds = {}, {}
    for options in plan.jax_settings:
        name = f"jax-scan, {described(**options)}"
        request = {**options, "batch": BATCH, "target": plan.target, "most_epochs": plan.jax_epochs}
        measures[name] = functools.partial(jax.ask, "time_to_accuracy", **request)
        patience = HOPELESS * min(seconds.values(), default=math.inf)
        found = measures[name](seed=plan.seeds[0], most_seconds=patience)
        print(f"search: {name}: {found}", file=sys.stderr)
        if found is not None:
            seconds[name] = found
    return {name: measures[name] for name in sorted(seconds, key=seconds.get)[:FINALISTS]}


def described(momentum, learning_rate, decay_epochs):
    course = f"to 0 in {decay_epochs} epochs" if decay_epochs else "constant"
    return f"rate {learning_rate} {course}, momentum {momentum}"


def ffc_courses(ffc, plan):
    return {
        f"{PROJECTION.name}, --epochs {epochs}": functools.partial(ffc.time_to_accuracy, plan.target, epochs)
        for epochs in plan.ffc_epochs
    }


def memory(setting, plan, contestants, threads):
    """Peak bytes of a process of its own that trains at batch 128, one thread; one run."""
    peaks = {}
    for one in contestants:
        with setting.start(one, 1) as contestant:
            peaks[one.name] = [contestant.peak_bytes(BATCH)]
    return {BATCH: peaks}


SECTIONS = {
    "training": training,
    "small-batches": small_batches,
    "inference": inference,
    "accuracy": accuracy,
    "memory": memory,
}
