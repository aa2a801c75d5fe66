"""The measurements as markdown: a table per section, and the project's bars with what was measured beside each.

What was measured is `measured[section][column][row]`, a list of values. Only medians are compared, and in a table only
those of the same column, which were taken by turns.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from measurements import BATCH, PROJECTION, SMALL_BATCHES

NOT_MEASURED = "not measured"
MIB = 1 << 20
DATA_BYTES_PER_IMAGE = 28 * 28 + 1


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def median(values):
    """Of all rounds; None where one of them gave nothing."""
    return statistics.median(values) if values and None not in values else None


class Results:
    """Medians by section, column and row."""

    def __init__(self, measured):
        self.measured = measured

    def columns(self, section):
        return self.measured.get(section, {})

    def median(self, section, column, row):
        return median(self.columns(section).get(column, {}).get(row))

    def best(self, section, column, start, choose):
        """The best median of the rows whose names begin like this."""
        rows = [row for row in self.columns(section).get(column, {}) if row.startswith(start)]
        found = [value for value in (self.median(section, column, row) for row in rows) if value is not None]
        return choose(found, default=None)

    def fastest(self, section, column, start):
        return self.best(section, column, start, max)


def ratio(one, other):
    return one / other if one is not None and other is not None else None


def shown(value, form):
    return NOT_MEASURED if value is None else form.format(value)


def rates(results, section, column_name, mine):
    """A table of medians and ranges, and how much faster `mine` is than each."""
    header = [column_name, "contestant", "images/s", "lowest - highest", f"{mine} is faster by"]
    return table(
        header, [row for column in results.columns(section) for row in rate_rows(results, section, column, mine)]
    )


def rate_rows(results, section, column, mine):
    reference = results.median(section, column, mine)
    for row, values in results.columns(section)[column].items():
        middle = results.median(section, column, row)
        spread = f"{min(values):,.0f} - {max(values):,.0f}" if middle is not None else ""
        yield [column, row, shown(middle, "{:,.0f}"), spread, shown(ratio(reference, middle), "{:.2f} x")]


def training(results, facts):
    text = "SGD without momentum for the peers, `ffc` with its recipes' defaults. Batch 128."
    return ["## Training, images/s", "", text, "", *rates(results, "training", "threads", PROJECTION.name)]


def small_batches(results, facts):
    text = "One thread, no momentum. At batch 1, images/s are steps/s."
    lines = rates(results, "small-batches", "batch", PROJECTION.name)
    return ["## Training at small batches, images/s", "", text, "", *lines]


def inference(results, facts):
    text = "One thread. A file that `ffc train -o` wrote: FP32 in onnxruntime, INT8 in `ffc eval`."
    if results.median("inference", BATCH, "ffc-eval") is None:
        text += " `ffc-eval` is not measured: `ffc eval --json` gives no `images_per_second`."
    return ["## Inference, images/s", "", text, "", *rates(results, "inference", "batch", "ffc-eval")]


def accuracy(results, facts):
    plan, found = facts.plan, results.columns("accuracy").get(1, {})
    header = ["contestant", *(f"seed {seed}" for seed in plan.seeds), "median"]
    rows = [[row, *map(seconds, values), seconds(median(values))] for row, values in found.items()]
    text = (
        "One thread, random weights; training alone. jax is tested every 100 steps, `ffc` after each epoch. "
        f"{len(plan.jax_settings)} settings of jax were tried with seed {plan.seeds[0]}; the fastest are shown."
    )
    if not any(row.startswith("jax") for row in found):
        text += " None of them was measured, or none arrived."
    return [f"## Seconds to {100 * plan.target:g} % of the test images", "", text, "", *table(header, rows)]


def seconds(value):
    return "not reached" if value is None else f"{value:.2f}"


def memory(results, facts):
    header = ["contestant", "peak MiB", "beyond the data, MiB"]
    rows = [
        [row, f"{values[0] / MIB:.1f}", f"{(values[0] - facts.data_bytes) / MIB:.1f}"]
        for row, values in results.columns("memory").get(BATCH, {}).items()
    ]
    text = (
        "Largest resident set of a process that trains at batch 128 on one thread. "
        f"The data, as bytes, are {facts.data_bytes:,} of it."
    )
    return ["## Peak memory", "", text, "", *table(header, rows)]


@dataclass(frozen=True)
class Bar:
    """What is to be reached, and what was measured for it."""

    what: str
    bar: float
    measured: Callable
    form: str = "{:.2f} x"
    holds: Callable = float.__ge__

    def row(self, results, facts):
        value = self.measured(results, facts)
        verdict = "" if value is None else "yes" if self.holds(float(value), float(self.bar)) else "no"
        return [self.what, self.form.format(self.bar), shown(value, self.form), verdict]


def against(row, peer):
    """How much faster `ffc` trains than a peer, batch 128, one thread."""
    return lambda results, facts: ratio(results.median("training", 1, row), results.fastest("training", 1, peer))


def two_threads(results, facts):
    return ratio(results.median("training", 2, PROJECTION.name), results.median("training", 1, PROJECTION.name))


def time_to_accuracy(results, facts):
    return ratio(results.best("accuracy", 1, "jax", min), results.best("accuracy", 1, "ffc", min))


def beyond_data(results, facts):
    peak = results.median("memory", BATCH, PROJECTION.name)
    return None if peak is None else (peak - facts.data_bytes) / MIB


def single_steps(results, facts):
    batch = min(SMALL_BATCHES)
    return ratio(
        results.median("small-batches", batch, PROJECTION.name), results.fastest("small-batches", batch, "jax")
    )


def inference_ratio(results, facts):
    return ratio(results.median("inference", BATCH, "ffc-eval"), results.fastest("inference", BATCH, "onnxruntime"))


BARS = (
    Bar("projection against jax FP32", 8, against("ffc-projection", "jax")),
    Bar("projection against PyTorch bf16", 5, against("ffc-projection", "torch-bf16")),
    Bar("projection, 2 threads against 1", 1.7, two_threads),
    Bar("seconds to the accuracy, jax against projection", 3, time_to_accuracy),
    Bar("ff-int8, no look-ahead, against jax FP32", 4, against("ffc-ff-int8", "jax")),
    Bar("ff-int8, look-ahead, against jax FP32", 3, against("ffc-ff-int8-look-ahead", "jax")),
    Bar("projection, peak memory beyond the data, at most", 20, beyond_data, "{:.1f} MiB", float.__le__),
    Bar("projection at batch 1 against jax FP32", 3, single_steps),
    Bar("inference against onnxruntime FP32", 4, inference_ratio),
)

SECTIONS = {
    "training": training,
    "small-batches": small_batches,
    "inference": inference,
    "accuracy": accuracy,
    "memory": memory,
}


@dataclass(frozen=True)
class Facts:
    """What the numbers need to be read: the plan, the data's size, lines about the machine and the versions."""

    plan: object
    data_bytes: int
    lines: tuple


def text(measured, facts):
    """The whole report."""
    results = Results(measured)
    parts = ["# ffc beside what a user would pick instead", "", *facts.lines]
    for section in measured:
        parts += ["", *SECTIONS[section](results, facts)]
    header = ["bar", "to reach", "measured", "reached"]
    parts += ["", "## Bars", "", "One thread and batch 128 where nothing else is said.", ""]
    return "\n".join([*parts, *table(header, [bar.row(results, facts) for bar in BARS]), ""])
