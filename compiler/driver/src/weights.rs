//! Weights as safetensors.

use ffc_runtime::artifact::Artifact;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::Failure;

/// Parameters by name, as `f32`.
///
/// # Errors
/// When a parameter's size is not the artifact's.
pub fn safetensors(values: &[(String, Vec<f32>)], artifact: &Artifact) -> Result<Vec<u8>, Failure> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = values
        .iter()
        .map(|(name, values)| {
            let param = artifact.params.iter().find(|param| param.name == *name);
            let shape = param.map_or_else(|| vec![values.len()], |param| param.shape.to_vec());
            (name.clone(), shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let failed =
        |error: safetensors::SafeTensorError| Failure::new(format!("weights cannot be written: {error}"));
    let mut views = Vec::new();
    for (name, shape, data) in &bytes {
        views.push((name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).map_err(failed)?));
    }
    serialize(views, None).map_err(failed)
}
