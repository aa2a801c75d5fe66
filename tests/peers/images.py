"""Training throughput and memory of convolutional networks beside PyTorch's backpropagation, in one run.

PyTorch (a 3 GB install; `requirements/torch.txt` pins it) trains the same architecture in FP32 and in bf16 (autocast),
by SGD with momentum, on random images of the same size and batch; `ffc` trains the ONNX file on the data given. They take
turns; medians are printed. The networks are CIFAR variants: 32x32 images, stems without early strides.

    python3 tests/peers/images.py --torch VENV/bin/python --ffc target/release/ffc --data cifar10.tar.gz \
        --model resnet18=resnet18_cifar.onnx --model mobilenetv2=mobilenetv2_cifar.onnx
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time


def resnet18(nn):
    """ResNet-18 with a 3x3 stem (He et al. 2015, section 3, for 32x32 images)."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.a = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
            self.short = nn.Identity() if stride == 1 and inputs == outputs else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            return (self.a(x) + self.short(x)).relu()

    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for outputs, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def mobilenetv2(nn):
    """MobileNetV2 (Sandler et al. 2018, table 2) with the first two strides 1."""

    def conv(inputs, outputs, kernel, stride, groups, act):
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                  nn.BatchNorm2d(outputs)]
        return layers + ([nn.ReLU6()] if act else [])

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride, factor):
            super().__init__()
            wide = inputs * factor
            expand = conv(inputs, wide, 1, 1, 1, True) if factor > 1 else []
            self.a = nn.Sequential(*expand, *conv(wide, wide, 3, stride, wide, True),
                                   *conv(wide, outputs, 1, 1, 1, False))
            self.skips = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.a(x) if self.skips else self.a(x)

    layers, inputs = conv(3, 32, 3, 1, 1, True), 32
    table = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
             (6, 320, 1, 1)]
    for factor, outputs, count, stride in table:
        for index in range(count):
            layers.append(Block(inputs, outputs, stride if index == 0 else 1, factor))
            inputs = outputs
    layers += conv(320, 1280, 1, 1, 1, True)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


NETWORKS = {"resnet18": resnet18, "mobilenetv2": mobilenetv2}


def work(options):
    """In PyTorch's interpreter: steps for some seconds, then images/s and peak memory as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    model = NETWORKS[options.network](torch.nn).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(options.batch, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (options.batch,))

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    step()
    steps, start = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - start < options.seconds:
        step()
        steps += 1
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rate": steps * options.batch / seconds, "peak": peak}))


def torch_rate(options, network, bf16):
    command = [options.torch, os.path.abspath(__file__), "--work", "--network", network, "--batch",
               str(options.batch), "--threads", str(options.threads), "--seconds", str(options.seconds)]
    output = subprocess.run(command + (["--bf16"] if bf16 else []), check=True, capture_output=True, text=True)
    result = json.loads(output.stdout.splitlines()[-1])
    return result["rate"], result["peak"]


def ffc_rate(options, model):
    command = [options.ffc, "train", model, "--data", options.data, "--epochs", "1", "--limit-train",
               str(options.images), "--limit-test", "32", "--batch-size", str(options.batch), "--threads",
               str(options.threads), "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(output.stdout.splitlines()[-1])
    return summary["images_per_second"], summary["peak_rss_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--ffc")
    parser.add_argument("--data")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each of PyTorch's runs")
    parser.add_argument("--images", type=int, default=1024, help="of each of ffc's runs")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options)
    if not (options.torch and options.ffc and options.data and options.model):
        parser.error("--torch, --ffc, --data and --model are needed")
    print(f"Batch {options.batch}, {options.threads} threads, medians of {options.rounds} rounds.\n")
    print("| network | contestant | images/s | lowest - highest | peak memory | ffc is faster by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for given in options.model:
        network, file = given.split("=", 1)
        contestants = {
            "PyTorch FP32": lambda: torch_rate(options, network, False),
            "PyTorch bf16": lambda: torch_rate(options, network, True),
            "ffc INT8": lambda: ffc_rate(options, file),
        }
        results = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in contestants.items():
                results[name].append(run())
        ours = statistics.median(rate for rate, _ in results["ffc INT8"])
        for name, runs in results.items():
            rates = [rate for rate, _ in runs]
            rate, peak = statistics.median(rates), max(peak for _, peak in runs) / 2**20
            print(f"| {network} | {name} | {rate:.1f} | {min(rates):.1f} - {max(rates):.1f} | {peak:.0f} MiB "
                  f"| {ours / rate:.2f} x |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
