//! Turns the ONNX schema into Rust types, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=schema/onnx.proto");
    let schema = protox::compile(["schema/onnx.proto"], ["schema"])?;
    // Tensor data is most of a file: `Bytes` lets it stay where it was read. The schema's comments are no rustdoc.
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .disable_comments(["."])
        .compile_fds(schema)?;
    Ok(())
}
