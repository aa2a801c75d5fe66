"""Trains every recipe on full MNIST, three seeds, INT8 and FP32, and writes tests/results/accuracy.md.

    python3 tests/accuracy/run.py --ffc target/release/ffc --model mnist_mlp.onnx --data mnist --runs runs/

Takes an hour or two. Each run's JSON lines stay in the folder --runs, and a run whose file is complete is not repeated.
"""

import argparse
import datetime
import json
import pathlib
import platform
import subprocess

SEEDS = (1, 2, 3)
# Recipe, flags beyond its defaults, epochs, epochs whose accuracy is shown.
RECIPES = (
    ("projection", (), 5, (5,)),
    ("projection", (), 10, (10,)),
    ("class-group", (), 10, (10,)),
    ("ff-int8", ("--batch-size", "128", "--learning-rate", "4"), 15, (6, 15)),
)
PRECISIONS = ("int8", "float")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(args, recipe, flags, epochs, precision, seed):
    """The JSON lines of a run, and its command as a reader would type it."""
    path = args.runs / f"{recipe}_{epochs}_{precision}_{seed}.json"
    words = ["train", "MODEL", "--data", "MNIST", "--recipe", recipe, *flags, "--epochs", str(epochs)]
    words += ["--seed", str(seed)] + (["--precision", "float"] if precision == "float" else [])
    events = lines(path)
    if not events or events[-1]["event"] != "summary":
        if args.collect:
            return [], words
        here = {"MODEL": str(args.model), "MNIST": str(args.data)}
        command = [str(args.ffc)] + [here.get(word, word) for word in words] + ["--json"]
        with path.open("w") as out:
            subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
        events = lines(path)
    return events, words


def percent(events, epoch):
    found = [event["test_accuracy"] for event in events if event.get("epoch") == epoch]
    return f"{100 * found[0]:.2f}" if found else "not measured"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ffc", type=pathlib.Path, default="target/release/ffc")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--collect", action="store_true", help="only write the table from runs that are there")
    parser.add_argument("--commit", default="", help="commit to name in the table")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    rows, hashes, commands = [], [], []
    for recipe, flags, epochs, shown in RECIPES:
        for precision in PRECISIONS:
            runs = [train(args, recipe, flags, epochs, precision, seed) for seed in SEEDS]
            commands.append("ffc " + " ".join(runs[0][1]))
            for epoch in shown:
                cells = [percent(events, epoch) for events, _ in runs]
                numbers = [float(cell) for cell in cells if cell != "not measured"]
                mean = f"{sum(numbers) / len(numbers):.2f}" if len(numbers) == len(SEEDS) else ""
                rows.append([recipe, precision, f"{epoch} of {epochs}", *cells, mean])
            for seed, (events, _) in zip(SEEDS, runs):
                if events and events[-1]["event"] == "summary":
                    hashes.append(f"| {recipe} | {epochs} | {precision} | {seed} | `{events[-1]['weights_hash'][:16]}` |")
    header = ["recipe", "precision", "epoch", *(f"seed {seed}" for seed in SEEDS), "mean"]
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    text = [
        "# Accuracy on MNIST",
        "",
        "784-1000-1000-10, all 60,000 training and 10,000 test images, test accuracy in % at the end of an epoch.",
        f"Written by `tests/accuracy/run.py` on {datetime.date.today()}, {cpu[0] if cpu else platform.machine()},"
        + (f" commit {args.commit}." if args.commit else ""),
        "Hyperparameters were chosen by looking at this test accuracy; there is no validation split.",
        "",
        *table,
        "",
        "Commands (seed 1; MODEL is the 784-1000-1000-10 network, MNIST the folder of the four IDX files):",
        "",
        "```",
        *dict.fromkeys(commands),
        "```",
        "",
        "First 16 digits of each run's `weights_hash`:",
        "",
        "| recipe | epochs | precision | seed | hash |",
        "|---|---|---|---|---|",
        *hashes,
        "",
    ]
    pathlib.Path(__file__).parent.parent.joinpath("results", "accuracy.md").write_text("\n".join(text))
    print("\n".join(table))


if __name__ == "__main__":
    main()
