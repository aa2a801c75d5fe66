"""Backpropagation in onnxruntime's training API, FP32, plain SGD.

The network takes bytes, like the other contestants, and standardises them itself. The package's optional PyTorch part
is imported by its `__init__` whether it is used or not; a stand-in for it saves installing PyTorch.
"""

import sys
import tempfile
from unittest.mock import MagicMock

sys.modules["onnxruntime.training.optim"] = MagicMock()

import numpy
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.training import artifacts
from onnxruntime.training.api import CheckpointState, Module, Optimizer

import mnist
import worker

OPSET = 14
IR_VERSION = 8


def network():
    """The network as ONNX, and the names of what it learns."""
    constants = {"scale": 1 / (255 * mnist.DEVIATION), "shift": -mnist.MEAN / mnist.DEVIATION}
    tensors = {name: numpy.array(value, numpy.float32) for name, value in constants.items()}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["layer0"]),
    ]
    layers = mnist.random_layers(seed=1)
    for number, (weights, bias) in enumerate(layers, 1):
        tensors |= {f"weights{number}": weights, f"bias{number}": bias}
        inputs = [f"layer{number - 1}", f"weights{number}", f"bias{number}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"sum{number}"]))
        nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"layer{number}"]))
    nodes.pop()  # no Relu behind the last layer
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 784])],
        [helper.make_tensor_value_info(f"sum{len(layers)}", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model, [name for name in tensors if name not in constants]


class Trainer:
    def __init__(self, threads):
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        model, learned = network()
        with tempfile.TemporaryDirectory() as folder:
            artifacts.generate_artifacts(
                model,
                requires_grad=learned,
                loss=artifacts.LossType.CrossEntropyLoss,
                optimizer=artifacts.OptimType.SGD,
                artifact_directory=folder,
            )
            state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
            evaluation = f"{folder}/eval_model.onnx"
            self.module = Module(f"{folder}/training_model.onnx", state, evaluation, "cpu", session_options=session)
            self.optimizer = Optimizer(f"{folder}/optimizer_model.onnx", self.module)
        self.optimizer.set_learning_rate(0.01)
        self.module.train()

    def train(self, images, labels):
        for batch, classes in zip(images, labels.astype(numpy.int64)):
            self.module(batch, classes)
            self.optimizer.step()
            self.module.lazy_reset_grad()


def main():
    options = worker.options()
    train, _ = mnist.load(options.data, options.limit)
    trainer = Trainer(options.threads)
    worker.serve({"training_rate": lambda **request: worker.training_rate(trainer.train, train, **request)})


if __name__ == "__main__":
    main()
