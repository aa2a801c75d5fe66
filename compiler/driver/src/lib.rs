//! Compiles ONNX networks for on-device INT8 Forward-Forward training.
