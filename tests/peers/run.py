"""Compares `ffc` with what a user would pick instead to train or run a small network on a CPU.

    python3 tests/peers/run.py --venv DIR --model mnist_mlp.onnx --data MNIST

Installs the contestants into virtual environments in DIR, lets them take turns, and writes medians, ratios and peak
memory as markdown. README.md beside this file tells what is compared how.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import environments
import report
from contestants import INFERENCE, PEERS, RECIPES, Setting, pinned
from measurements import SECTIONS, Plan, jax_settings

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000

FULL = Plan(
    repeats=5,
    seconds=2.0,
    images=TRAIN_IMAGES,
    target=0.98,
    seeds=(1, 2, 3),
    ffc_epochs=(1, 2, 3, 5),
    jax_epochs=6,
    jax_settings=jax_settings(rates=(0.4, 0.2), rates_with_momentum=(0.1, 0.05, 0.02), decays=(3, 2, None)),
)
QUICK = Plan(
    repeats=2,
    seconds=0.5,
    images=12_800,
    target=0.9,
    seeds=(1,),
    ffc_epochs=(1, 2),
    jax_epochs=1,
    jax_settings=jax_settings(rates=(0.1,), rates_with_momentum=(0.02,), decays=(None,)),
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, required=True, metavar="DIR", help="folder of the environments")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="784-1000-1000-10 as ONNX")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of MNIST's four IDX files")
    parser.add_argument("--ffc", type=pathlib.Path, default="target/release/ffc")
    parser.add_argument("--torch", action="store_true", help="also PyTorch, which installs 3 GB")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the section training")
    parser.add_argument("--repeats", type=int, help=f"rounds that count (default {FULL.repeats})")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"of the section accuracy (default {FULL.seeds})")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants whose names begin like this")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a trial of this program: its figures mean nothing")
    parser.add_argument("--output", type=pathlib.Path, default="tests/results/peers.md")
    return parser.parse_args()


def require(args):
    """Says what is missing before anything is installed or measured."""
    helps = {
        args.ffc: "build it with `cargo build --release --bin ffc`, or name another with --ffc",
        args.model: "--model takes the 784-1000-1000-10 network as ONNX",
        args.data: "--data takes the folder of MNIST's four IDX files",
    }
    for path, hint in helps.items():
        if not path.exists():
            raise SystemExit(f"error: there is no {path}\nhelp: {hint}")
    for program in ("taskset", "git"):
        if shutil.which(program) is None:
            raise SystemExit(f"error: there is no `{program}`\nhelp: install it (taskset is part of util-linux)")
    pinned(max(args.threads), [])


def chosen(args):
    """The contestants to measure."""
    peers = [peer for peer in PEERS if args.torch or peer.environment != "torch"]
    everyone = [*peers, *RECIPES]
    found = [one for one in everyone if not args.only or one.name.startswith(tuple(args.only))]
    if not found:
        raise SystemExit(f"error: --only names none of {', '.join(one.name for one in everyone)}")
    return found


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def command_line(args):
    """How this program was called, without this machine's folders."""
    line = shlex.join(["python3", "tests/peers/run.py", *sys.argv[1:]])
    names = {args.venv: "DIR", args.model: "MODEL", args.data: "MNIST", args.ffc: "FFC", args.output: "OUTPUT"}
    for path, name in names.items():
        line = line.replace(shlex.quote(str(path)), name)
    return line


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def facts(args, plan, contestants):
    names = sorted({one.environment for one in contestants if one in PEERS} | {INFERENCE.environment})
    commit = output_of("git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "--short", "HEAD")
    versions = [output_of(args.ffc.resolve(), "--version"), *environments.versions(names)]
    lines = [
        f"Written by `{command_line(args)}`",
        f"on {datetime.date.today()}, commit {commit}, {', '.join(versions)}.",
        f"{cpu()}, {os.cpu_count()} cores, load average at the start {os.getloadavg()[0]:.1f}.",
        f"784-1000-1000-10 on MNIST; medians of {plan.repeats} rounds in which contestants take turns.",
    ]
    if args.quick:
        lines.append("**A trial run (`--quick`): its figures mean nothing.**")
    images = min(TRAIN_IMAGES, plan.images) + min(TEST_IMAGES, plan.images)
    return report.Facts(plan, images * report.DATA_BYTES_PER_IMAGE, tuple(lines))


def main():
    args = arguments()
    require(args)
    plan = QUICK if args.quick else FULL
    seeds = tuple(args.seeds or plan.seeds)
    plan = dataclasses.replace(plan, repeats=args.repeats or plan.repeats, seeds=seeds)
    setting = Setting(args.ffc.resolve(), args.model, args.data, args.venv.absolute(), plan.images)
    contestants = chosen(args)
    known, measured = facts(args, plan, contestants), {}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for section in args.sections:
        measured[section] = SECTIONS[section](setting, plan, contestants, args.threads)
        args.output.write_text(report.text(measured, known))
    print(report.text(measured, known))


if __name__ == "__main__":
    main()
