//! Agreement with ONNX: exported networks in onnxruntime, and the `onnx` package's own test suite.
//!
//! Both need Python with the packages of `tests/conformance/requirements.txt`; `FFC_PYTHON` names the interpreter. Where
//! they are missing the test says that it was skipped, unless `FFC_REQUIRE=all` demands that nothing is.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod predictions;
mod python;
mod suite;
