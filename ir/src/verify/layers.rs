//! Layers: their order, their structure, and the types of their values.

use super::{MAX_DEPTH, Verifier, at_layer, at_value, result_type};
use crate::arena::Handle;
use crate::diagnostics::{Diagnostic, Location};
use crate::module::{Layer, LayerRole, Op, Phase, ReduceOp, Region, Value};
use crate::text::mnemonic;
use crate::types::{DType, Dim, Type};

impl Verifier<'_> {
    /// Number, names, roles and phase of the layers.
    pub(super) fn layer_list(&mut self) {
        let module = self.module;
        self.unique(module.layers.iter().map(|layer| layer.name.as_str()), "layers", |name| {
            Location::Layer(name.to_string())
        });
        let count = module.layers.len();
        if count == 0 {
            self.fail(None, "there is no layer");
        }
        if module.phase == Phase::Imported && count > 1 {
            self.fail(None, format!("an imported module has one layer, not {count}"));
        }
        for (index, layer) in module.layers.iter().enumerate() {
            self.identifier(at_layer(layer), "layer", &layer.name);
            if (layer.role == LayerRole::Whole) != (module.phase == Phase::Imported) {
                let (role, phase) = (layer.role.name(), module.phase.name());
                self.fail(at_layer(layer), format!("role `{role}` does not occur in phase `{phase}`"));
            }
            if layer.role == LayerRole::Prepare && index > 0 {
                self.fail(at_layer(layer), "only the first layer prepares");
            }
            if layer.role == LayerRole::Classifier && index + 1 < count {
                self.fail(at_layer(layer), "only the last layer is the classifier");
            }
            self.region_roles(layer);
        }
    }

    fn region_roles(&mut self, layer: &Layer) {
        let later = [Region::Head, Region::LookAhead, Region::Update];
        if layer.role == LayerRole::Whole && later.iter().any(|&region| !layer.region(region).is_empty()) {
            self.fail(at_layer(layer), "a whole layer has a forward region alone");
        }
        if layer.role == LayerRole::Prepare && !layer.update.is_empty() {
            self.fail(at_layer(layer), "a prepare layer updates nothing");
        }
    }

    /// Each layer by itself, and what it takes from the one before.
    pub(super) fn layers(&mut self) {
        (0..self.module.layers.len()).for_each(|index| self.layer(index));
    }

    fn layer(&mut self, index: usize) {
        let layer = &self.module.layers[index];
        let before = self.errors.len();
        self.structure(layer);
        if self.errors.len() > before {
            return;
        }
        let names = layer.ops().map(|(_, value)| layer.values[value].name.as_str());
        self.unique(names, "values", |name| Location::Value {
            layer: layer.name.clone(),
            value: name.to_string(),
        });
        for (_, handle) in layer.ops() {
            let value = &layer.values[handle];
            self.identifier(at_value(layer, value), "value", &value.name);
            if !is_seen_through(layer, handle) {
                self.elements(at_value(layer, value), value.ty);
            }
            if self.typed(index, value) {
                self.phase(layer, value);
                self.depth(layer, value);
            }
            for message in super::attributes::faults(&value.op) {
                self.fail(at_value(layer, value), message);
            }
        }
        self.window_users(layer);
    }

    /// Handles and order.
    fn structure(&mut self, layer: &Layer) {
        let mut defined = vec![false; layer.values.len()];
        for (region, handle) in layer.ops() {
            let Some(value) = layer.values.get(handle) else {
                let message = format!("region `{}` names a value that does not exist", region.name());
                self.fail(at_layer(layer), message);
                continue;
            };
            self.operands(layer, value, &defined);
            if defined[handle.index()] {
                self.fail(at_value(layer, value), "runs twice");
            }
            defined[handle.index()] = true;
        }
        for &output in &layer.outputs {
            let value = layer.values.get(output).filter(|value| !value.op.is_effect());
            if value.is_none() || !layer.forward.contains(&output) {
                self.fail(at_layer(layer), "an output is not a value of the forward region");
            }
        }
    }

    fn operands(&mut self, layer: &Layer, value: &Value, defined: &[bool]) {
        value.op.operands(|operand| match layer.values.get(operand) {
            None => self.fail(at_value(layer, value), "has an operand that does not exist"),
            Some(source) if !defined[operand.index()] => {
                let message = format!("uses `%{}`, which is not defined before it", source.name);
                self.fail(at_value(layer, value), message);
            }
            Some(source) if source.op.is_effect() => {
                self.fail(at_value(layer, value), format!("uses `%{}`, which is an effect", source.name));
            }
            Some(_) => {}
        });
    }

    /// Whether the type follows from the operands.
    fn typed(&mut self, index: usize, value: &Value) -> bool {
        let layer = &self.module.layers[index];
        let result = match value.op {
            Op::Operand(position) => self.handed_over(index, position),
            Op::Splat(source) => splat_type(layer.ty(source), value.ty),
            Op::Reshape(source) => reshape_type(layer.ty(source), value.ty),
            Op::Ahead => self.ahead_type(index, value.ty),
            op => result_type(self.module, layer, &op),
        };
        let message = match result {
            Ok(ty) if ty == value.ty => return true,
            Ok(ty) => format!("is declared {}, but `{}` gives {ty}", value.ty, mnemonic(&value.op)),
            Err(message) => message,
        };
        self.fail(at_value(layer, value), message);
        false
    }

    /// The type of what a layer takes at this position.
    fn handed_over(&self, index: usize, position: u32) -> Result<Type, String> {
        let module = self.module;
        if module.phase == Phase::Imported {
            let samples = Type::new(DType::F32, Dim::ROWS, Dim::Const(module.features));
            return if position == 0 {
                Ok(samples)
            } else {
                Err("an imported module has one operand".into())
            };
        }
        let Some(before) = index.checked_sub(1).map(|index| &module.layers[index]) else {
            return Err("the first layer has no operands, only `input`".into());
        };
        let output = before.outputs.get(position as usize).and_then(|&output| before.values.get(output));
        let count = before.outputs.len();
        output.map(|value| value.ty).ok_or_else(|| {
            format!("there is no operand {position}: layer `@{}` hands over {count}", before.name)
        })
    }

    /// The type of what later layers publish; any where none does.
    fn ahead_type(&self, index: usize, declared: Type) -> Result<Type, String> {
        if declared.dtype != DType::F32 {
            return Err(format!("looks ahead at {declared}, but errors are f32"));
        }
        for layer in &self.module.layers[index + 1..] {
            for value in layer.ops().filter_map(|(_, value)| layer.values.get(value)) {
                if matches!(value.op, Op::Publish(_)) && value.ty != declared {
                    let (name, ty) = (&layer.name, value.ty);
                    return Err(format!("looks ahead at {declared}, but layer `@{name}` publishes {ty}"));
                }
            }
        }
        Ok(declared)
    }

    fn phase(&mut self, layer: &Layer, value: &Value) {
        let phase = self.module.phase;
        let quantized = phase == Phase::Quantized;
        let wrong = match value.op {
            Op::Quantize { .. } => !quantized,
            Op::Dot { lhs: value, .. } | Op::Depthwise { value, .. } | Op::DepthwiseGrad { value, .. } => {
                (layer.ty(value).dtype == DType::I8) != quantized
            }
            _ => false,
        };
        if wrong {
            let what = mnemonic(&value.op);
            let with = if what == "quantize" { "" } else { " of this type" };
            let message = format!("a `{what}`{with} does not occur in phase `{}`", phase.name());
            self.fail(at_value(layer, value), message);
        }
    }

    fn depth(&mut self, layer: &Layer, value: &Value) {
        let summed: Option<(Handle<Value>, Dim)> = match value.op {
            Op::Dot { lhs, .. } => Some((lhs, layer.ty(lhs).columns())),
            Op::Reduce(ReduceOp::SumSquares, operand) => Some((operand, layer.ty(operand).columns())),
            Op::Depthwise { value, window, .. } => Some((value, Dim::Const(window.taps()))),
            Op::DepthwiseGrad { grad, .. } => Some((grad, layer.ty(grad).rows())),
            _ => None,
        };
        let summed = summed.map(|(operand, depth)| (layer.ty(operand), depth));
        let Some((ty, depth)) = summed.filter(|(ty, _)| ty.dtype == DType::I8) else { return };
        if self.size(depth).is_none_or(|depth| depth > MAX_DEPTH) {
            let message = format!("sums products along {ty}, and only {MAX_DEPTH} are sure to fit an i32");
            let location = at_value(layer, value);
            let diagnostic = Diagnostic { location, ..Diagnostic::new(message) };
            let help = "a smaller batch has fewer rows";
            let by_rows = matches!(depth, Dim::Rows(_));
            self.errors.push(if by_rows { diagnostic.with_help(help) } else { diagnostic });
        }
    }

    /// A window is never written down: only contractions know how to look through it.
    fn window_users(&mut self, layer: &Layer) {
        let is_window = |value: Handle<Value>| is_window(layer, value);
        let is_turned = |value: Handle<Value>| is_seen_through(layer, value) && !is_window(value);
        for (_, handle) in layer.ops() {
            let value = &layer.values[handle];
            let mut wrong = false;
            match value.op {
                Op::Dot { lhs, rhs } => wrong = is_window(rhs) || is_turned(lhs),
                Op::Transpose(_) => {}
                op => op.operands(|operand| wrong |= is_window(operand) || is_turned(operand)),
            }
            if wrong {
                self.fail(at_value(layer, value), "looks through a window, which only a `dot` can");
            }
        }
        if layer.outputs.iter().any(|&output| is_window(output) || is_turned(output)) {
            self.fail(at_layer(layer), "hands over a window, which only a `dot` can look through");
        }
    }
}

fn is_window(layer: &Layer, value: Handle<Value>) -> bool {
    matches!(layer.values[value].op, Op::Window { .. })
}

/// Whether a value is a window, as it is or transposed. Nobody counts its elements, since it is never written down.
fn is_seen_through(layer: &Layer, value: Handle<Value>) -> bool {
    match layer.values[value].op {
        Op::Transpose(source) => is_window(layer, source),
        _ => is_window(layer, value),
    }
}

fn reshape_type(source: Type, declared: Type) -> Result<Type, String> {
    let size = |ty: Type| match ty.shape {
        [Dim::Rows(n), Dim::Const(columns)] => n.checked_mul(columns),
        _ => None,
    };
    let same = size(source).is_some_and(|size_of| size(declared) == Some(size_of));
    if same && source.dtype == declared.dtype && source.dtype.bytes() == 4 {
        Ok(declared)
    } else {
        Err(format!("{source} cannot be read as {declared}"))
    }
}

fn splat_type(source: Type, declared: Type) -> Result<Type, String> {
    let repeats = source.columns() == Dim::Const(1);
    let rows = source.rows() == declared.rows() || source.rows() == Dim::Const(1);
    if repeats && rows && source.dtype == declared.dtype {
        Ok(declared)
    } else {
        Err(format!("{source} cannot be repeated to {declared}"))
    }
}
