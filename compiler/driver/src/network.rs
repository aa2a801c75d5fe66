//! Where networks come from: ONNX files, checkpoints, artifacts.

use std::path::Path;

use ffc_ir::module::{Module, Op, ParamRole};
use ffc_onnx::Interface;

use crate::Failure;

/// An imported network with its weights.
#[derive(Clone, Debug)]
pub struct Network {
    /// One layer, phase `imported`.
    pub module: Module,
    /// Values by parameter name, goodness heads among them where the file has some.
    pub weights: Vec<(String, Vec<f32>)>,
    /// The boundary that exported files keep.
    pub interface: Interface,
}

impl Network {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// When the file is none, is damaged, or holds what cannot be trained.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let model = ffc_onnx::read(path)?;
        let ffc_onnx::Network { mut module, mut weights, heads, interface } = ffc_onnx::import(&model)?;
        weights.extend(heads);
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) {
            module.name = identifier(stem);
        }
        Ok(Self { module, weights, interface })
    }

    /// Channels of the image that the network's input is, if it is one.
    pub fn image_channels(&self) -> Option<usize> {
        let whole = self.module.layers.first()?;
        whole.values.values().find_map(|value| match value.op {
            Op::Pixels { channels, .. } => Some(channels),
            _ => None,
        })
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        let trained = |role| matches!(role, ParamRole::Weight | ParamRole::Bias);
        self.module.params.values().filter(|param| trained(param.role)).map(|param| param.len()).sum()
    }

    /// Multiply-accumulates of one sample.
    pub fn macs(&self) -> usize {
        let weights = self.module.params.values().filter(|param| param.role == ParamRole::Weight);
        weights.map(|param| param.len()).sum()
    }
}

/// A name that the text form can hold.
fn identifier(name: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    let name: String = name.chars().map(clean).collect();
    match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() || first == '_' => name,
        _ => format!("_{name}"),
    }
}
