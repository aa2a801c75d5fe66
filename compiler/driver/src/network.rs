//! Where networks come from: ONNX files, checkpoints, artifacts.

use std::path::Path;

use ffc_ir::Handle;
use ffc_ir::module::{Layer, Module, Op, Param, ParamRole, Value};
use ffc_ir::types::Dim;
use ffc_ir::window::Window;
use ffc_onnx::{Interface, Numbers};

use crate::Failure;

/// An imported network with its weights.
#[derive(Clone, Debug)]
pub struct Network {
    /// One layer, phase `imported`.
    pub module: Module,
    /// Values by parameter name, goodness heads among them where the file has some.
    pub weights: Vec<(String, Numbers)>,
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
        self.contractions().iter().map(Contraction::macs).sum()
    }

    /// What has a weight, in order.
    pub fn contractions(&self) -> Vec<Contraction<'_>> {
        let layers = self.module.layers.iter();
        let contraction = |layer: &'_ Layer, value| {
            let (window, weight) = match layer.values[value].op {
                Op::Dot { lhs, rhs } => match layer.values[lhs].op {
                    Op::Window { window, .. } => (Some(window), rhs),
                    _ => (None, rhs),
                },
                Op::Depthwise { weight, window, .. } => (Some(window), weight),
                _ => return None,
            };
            let Op::Param(weight) = layer.values[weight].op else { return None };
            let positions = match layer.ty(value).rows() {
                Dim::Rows(positions) | Dim::Const(positions) => positions,
            };
            Some((value, window, weight, positions))
        };
        layers
            .flat_map(|layer| {
                layer.forward.iter().filter_map(move |&value| {
                    let (value, window, weight, positions) = contraction(layer, value)?;
                    let is_depthwise = matches!(layer.values[value].op, Op::Depthwise { .. });
                    let weight = &self.module.params[weight];
                    Some(Contraction { value, weight, window, positions, is_depthwise })
                })
            })
            .collect()
    }
}

/// A dense layer or a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Contraction<'a> {
    /// What it gives, without its bias.
    pub value: Handle<Value>,
    /// The weight, `[outputs, taps * channels]`.
    pub weight: &'a Param,
    /// How each position of the result looks at the input, where that is an image.
    pub window: Option<Window>,
    /// Positions of the result.
    pub positions: usize,
    /// Whether each channel has a filter of its own.
    pub is_depthwise: bool,
}

impl Contraction<'_> {
    /// The weight's name without its last part.
    pub fn name(&self) -> &str {
        let name = &self.weight.name;
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// Multiply-accumulates of one sample.
    pub fn macs(&self) -> usize {
        self.positions * self.weight.len()
    }

    /// Whether it is a factor for each channel.
    pub fn is_factor(&self) -> bool {
        self.is_depthwise && self.window.is_some_and(|window| window.is_identity())
    }

    /// What people call it.
    pub fn kind(&self) -> String {
        let kernel = |window: Window| format!("{}x{}", window.kernel[0], window.kernel[1]);
        match (self.window, self.is_depthwise) {
            _ if self.is_factor() => "scale".to_string(),
            (Some(window), true) => format!("depthwise {}", kernel(window)),
            (Some(window), false) if window != Window::whole(window.input) => {
                format!("conv {}", kernel(window))
            }
            (None, _) if self.positions > 1 => "conv 1x1".to_string(),
            _ => "dense".to_string(),
        }
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
