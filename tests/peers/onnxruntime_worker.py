"""Inference in onnxruntime, FP32, of a file that `ffc` exported.

It is given standardised floats, ready before the clock starts, so that only the network is timed.
"""

import numpy
import onnxruntime

import mnist
import worker


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def batches(split, batch, shape):
    """The split as batches of floats in the network's input shape; what does not fill one is left out."""
    images = ((split.images / 255 - mnist.MEAN) / mnist.DEVIATION).astype(numpy.float32)
    full = images[: len(images) // batch * batch]
    return list(full.reshape(-1, batch, *shape))


def inference_rate(split, threads, model, batch, seconds):
    network = session(model, threads)
    given = network.get_inputs()[0]
    inputs = batches(split, batch, given.shape[1:])

    def work():
        for images in inputs:
            network.run(None, {given.name: images})
        return batch * len(inputs)

    return worker.rate(work, seconds)


def main():
    options = worker.options()
    _, test = mnist.load(options.data, options.limit)
    worker.serve({"inference_rate": lambda **request: inference_rate(test, options.threads, **request)})


if __name__ == "__main__":
    main()
