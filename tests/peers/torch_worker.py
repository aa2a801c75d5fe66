"""Backpropagation in PyTorch, eager, plain SGD: FP32, or bfloat16 by autocast, which uses AMX where there is."""

import torch

import mnist
import worker


def network():
    """784-1000-1000-10 with the weights that the other contestants start from."""
    modules = []
    for weights, bias in mnist.random_layers(seed=1):
        linear = torch.nn.Linear(*weights.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights.T))
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


class Trainer:
    def __init__(self, precision):
        self.network = network()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def step(self, images, labels):
        with self.autocast:
            scores = self.network((images / 255 - mnist.MEAN) / mnist.DEVIATION)
            loss = torch.nn.functional.cross_entropy(scores, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def train(self, images, labels):
        for batch, classes in zip(torch.from_numpy(images), torch.from_numpy(labels).long()):
            self.step(batch, classes)


def main():
    options = worker.options()
    torch.set_num_threads(options.threads)
    train, _ = mnist.load(options.data, options.limit)
    trainer = Trainer(options.variant)
    worker.serve({"training_rate": lambda **request: worker.training_rate(trainer.train, train, **request)})


if __name__ == "__main__":
    main()
