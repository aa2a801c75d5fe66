//! A network that is a chain of dense layers, which prediction by heads or labels and reading it back rely on.

use ffc_ir::Handle;
use ffc_ir::module::{Activation, BinaryOp, Module, Op, Param, Value};

/// One dense layer.
pub(super) struct Dense {
    pub(super) name: String,
    pub(super) outputs: usize,
    pub(super) weight: Handle<Param>,
    pub(super) bias: Option<Handle<Param>>,
    pub(super) activation: Option<Activation>,
    /// What it gives.
    pub(super) output: Handle<Value>,
}

/// The layers in their order, `None` where the network is something else.
pub(super) fn layers(module: &Module) -> Option<Vec<Dense>> {
    let whole = &module.layers[0];
    let param = |value: Handle<Value>| match whole.values[value].op {
        Op::Param(param) => Some(param),
        _ => None,
    };
    let mut layers: Vec<Dense> = Vec::new();
    let mut last = None;
    for &value in &whole.forward {
        match (whole.values[value].op, layers.last_mut()) {
            (Op::Operand(_), None) => {}
            (Op::Param(_), _) => continue,
            (Op::Dot { lhs, rhs }, _) if Some(lhs) == last => {
                let weight = param(rhs)?;
                let Param { name, shape, .. } = &module.params[weight];
                let name = name.strip_suffix(".weight").unwrap_or(name).to_string();
                let (bias, activation) = (None, None);
                layers.push(Dense { name, outputs: shape[0], weight, bias, activation, output: value });
            }
            (Op::Binary(BinaryOp::Add, sum, bias), Some(layer))
                if Some(sum) == last && layer.bias.is_none() && layer.activation.is_none() =>
            {
                layer.bias = Some(param(bias)?);
            }
            (Op::Activate(activation, sum), Some(layer))
                if Some(sum) == last && layer.activation.is_none() =>
            {
                layer.activation = Some(activation);
            }
            _ => return None,
        }
        last = Some(value);
        if let Some(layer) = layers.last_mut() {
            layer.output = value;
        }
    }
    (last.as_ref() == whole.outputs.first() && !layers.is_empty()).then_some(layers)
}
