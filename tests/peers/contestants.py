"""Who competes: peers, each a worker process that stays, and recipes of `ffc`, a process per measurement.

Both answer the same questions: images per second of training, peak memory, seconds to an accuracy. Every process is
pinned to as many cores as it has threads, the same ones for all.
"""

import contextlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
from dataclasses import dataclass

import environments

HERE = pathlib.Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """A worker's file, the environment it needs, and the variant of itself that it should be."""

    name: str
    environment: str
    script: str
    variant: str = ""


@dataclass(frozen=True)
class Recipe:
    """A recipe of `ffc`: its flags."""

    name: str
    flags: tuple


PEERS = (
    Peer("jax-scan", "jax", "jax_worker.py", "scan"),
    Peer("jax-step", "jax", "jax_worker.py", "step"),
    Peer("onnxruntime", "onnxruntime_training", "onnxruntime_training_worker.py"),
    Peer("torch-fp32", "torch", "torch_worker.py", "fp32"),
    Peer("torch-bf16", "torch", "torch_worker.py", "bf16"),
)
RECIPES = (
    Recipe("ffc-projection", ("--recipe", "projection")),
    Recipe("ffc-ff-int8", ("--recipe", "ff-int8", "--look-ahead", "off")),
    Recipe("ffc-ff-int8-look-ahead", ("--recipe", "ff-int8", "--look-ahead", "scalar")),
)
INFERENCE = Peer("onnxruntime-inference", "onnxruntime", "onnxruntime_worker.py")


@dataclass(frozen=True)
class Setting:
    """Where things are, and how many images of each split are used."""

    ffc: pathlib.Path
    model: pathlib.Path
    data: pathlib.Path
    venv: pathlib.Path
    images: int

    def start(self, contestant, threads):
        """The contestant, ready to be asked; to be used in a `with`."""
        return (Worker if isinstance(contestant, Peer) else Ffc)(self, contestant, threads)


def pinned(threads, command):
    """The command on the first `threads` of the cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise SystemExit(
            f"error: {threads} threads need {threads} cores, and this process may use {len(cores)}\n"
            "help: name fewer with --threads, or start this program on more cores"
        )
    return ["taskset", "-c", ",".join(map(str, cores[:threads])), *map(str, command)]


def failure(command, log):
    log.seek(0)
    end = log.read().decode(errors="replace")[-2000:]
    return SystemExit(f"error: `{' '.join(command)}` failed\n{end}")


class Worker(contextlib.AbstractContextManager):
    """A peer's process, asked through its standard input."""

    def __init__(self, setting, peer, threads):
        python = environments.interpreter(setting.venv, peer.environment)
        command = [python, "-B", HERE / peer.script, "--data", setting.data, "--limit", setting.images]
        command += ["--threads", threads, f"--variant={peer.variant}"]
        variables = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
        self.command = pinned(threads, command)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | variables,
        )

    def __exit__(self, *exception):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def ask(self, do, **request):
        """The worker's answer."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise failure(self.command, self.log)
        return json.loads(answer)

    def training_rate(self, batch, seconds):
        return self.ask("training_rate", batch=batch, seconds=seconds)

    def peak_bytes(self, batch):
        """The most memory that the process ever held, after training for a second."""
        self.training_rate(batch, seconds=1)
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


class Ffc(contextlib.AbstractContextManager):
    """A recipe of `ffc`."""

    CALIBRATION_STEPS = 50
    TEST_IMAGES = 100
    """For rates, where accuracy does not matter."""

    def __init__(self, setting, recipe, threads):
        self.setting, self.recipe, self.threads = setting, recipe, threads
        self.rates = {}

    def __exit__(self, *exception):
        """There is no process between measurements."""

    def command(self, batch=None, epochs=1, seed=1, train=None, test=None):
        setting = self.setting
        words = [setting.ffc, "train", setting.model, "--data", setting.data, *self.recipe.flags, "--json"]
        words += ["--batch-size", batch] if batch else []
        words += ["--epochs", epochs, "--seed", seed, "--threads", self.threads]
        words += ["--limit-train", train or setting.images, "--limit-test", test or setting.images]
        return pinned(self.threads, words)

    def training_rate(self, batch, seconds):
        """Images per second by the epochs after the first, which is the warm-up."""
        if batch not in self.rates:
            self.rates[batch] = self.rate_of_epochs(batch, self.CALIBRATION_STEPS * batch, 1)
        images = math.ceil(seconds * self.rates[batch])
        train = min(images, self.setting.images)
        self.rates[batch] = self.rate_of_epochs(batch, train, 1 + math.ceil(images / train))
        return self.rates[batch]

    def rate_of_epochs(self, batch, train, epochs):
        command = self.command(batch, epochs, train=train, test=self.TEST_IMAGES)
        counted = epoch_events(command)[-max(1, epochs - 1) :]
        return statistics.harmonic_mean(event["images_per_second"] for event in counted)

    def peak_bytes(self, batch):
        """The most memory that the process ever held in an epoch over all images, by the kernel's account."""
        command = self.command(batch)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
            _, process.returncode, usage = os.wait4(process.pid, 0)
            if process.returncode:
                raise failure(command, log)
        return 1024 * usage.ru_maxrss

    def time_to_accuracy(self, target, epochs, seed):
        """Seconds of training until the test accuracy reaches the target at the end of an epoch, or None."""
        seconds = 0.0
        for event in epoch_events(self.command(epochs=epochs, seed=seed)):
            seconds += event["seconds"]
            if event["test_accuracy"] >= target:
                return seconds
        return None


def epoch_events(command):
    return [event for event in json_lines(command) if event["event"] == "epoch"]


def json_lines(command):
    """The JSON lines that a command prints."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
        if process.returncode:
            raise failure(command, log)
    return [json.loads(line) for line in process.stdout.splitlines()]
