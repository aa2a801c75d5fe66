//! Fills the layer in front, which turns raw samples into the first activation: preprocessing, and the overlay of
//! labels where the recipe learns from positive and negative rows.
//!
//! ```text
//! layer @input prepare {
//!   %raw: u8[rows, 784] = input
//!   %x = (%raw * scale - mean) / std
//!   %label: i32[rows, 1] = overlaid stream(0)
//!   %overlaid = overlay %x, %label, classes(10), on(2.8), off(-0.4)
//!   yield %overlaid
//! }
//! ```

use ffc_ir::Handle;
use ffc_ir::module::{Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, Region, RowPlan};
use ffc_ir::types::{DType, Dim, Type};

use super::build::{Builder, V, new_stream};
use crate::recipe::{Options, Predict, Preprocessing};

/// Name of the layer.
pub const LAYER: &str = "input";
/// Name of the parameter that holds a mean per feature, or per channel of an image.
pub const MEAN: &str = "input.mean";
/// Name of the parameter that holds a standard deviation per feature, or per channel of an image.
pub const STD: &str = "input.std";

/// Runs the pass.
///
/// # Errors
/// Where preprocessing does not fit the network's input.
pub fn run(mut module: Module, options: &Options) -> Result<Module, String> {
    let preprocessing = &options.preprocessing;
    let channels = channels(&module);
    for (what, numbers) in [("mean", &preprocessing.mean), ("std", &preprocessing.std)] {
        let wanted = channels.unwrap_or(module.features);
        if numbers.len() != 1 && numbers.len() != wanted {
            let given = numbers.len();
            return Err(format!(
                "the input's {what} has {given} numbers; the network's input wants 1 or {wanted}"
            ));
        }
    }
    if options.overlays_labels() && channels.is_some() {
        return Err("labels are overlaid on the first input features, which a convolution does not tell from others; \
                    use the recipe `projection` or `class-group`"
            .to_string());
    }
    if options.overlays_labels() && module.features < module.classes {
        return Err(format!(
            "labels are overlaid on the first {} input features, and there are only {}",
            module.classes, module.features
        ));
    }
    module.input = preprocessing.input;
    module.rows = training_rows(options);
    let mean = constants(&mut module, MEAN, &preprocessing.mean);
    let std = constants(&mut module, STD, &preprocessing.std);
    let stream = new_stream(&module);
    let mut layer = Layer::new(LAYER, LayerRole::Prepare);
    let mut builder = Builder::new(&mut layer, Region::Forward);
    let mut x = preprocess(&module, &mut builder, preprocessing, channels, [mean, std]);
    if options.overlays_labels() {
        x = overlay(&module, &mut builder, preprocessing, x, stream);
    }
    layer.outputs = vec![x];
    match module.layers.first_mut() {
        Some(first) if first.role == LayerRole::Prepare => *first = layer,
        _ => return Err("wants a module that has been cut into layers".to_string()),
    }
    Ok(module)
}

/// Channels of the image that the network's input is, if it is one.
fn channels(module: &Module) -> Option<usize> {
    let layer = module.layers.first()?;
    layer.values.values().find_map(|value| match value.op {
        Op::Pixels { channels, .. } => Some(channels),
        _ => None,
    })
}

/// How samples become rows in training; `insert-scores` changes it for prediction.
fn training_rows(options: &Options) -> RowPlan {
    if options.overlays_labels() {
        RowPlan::Contrast { neutral: options.predict != Predict::Labels }
    } else {
        RowPlan::Plain
    }
}

/// A parameter where there is a number per feature, or per channel of an image.
fn constants(module: &mut Module, name: &str, numbers: &[f32]) -> Option<Handle<Param>> {
    (numbers.len() > 1).then(|| {
        module.params.push(Param {
            name: name.to_string(),
            shape: [1, numbers.len()],
            storage: ParamStorage::F32,
            role: ParamRole::Constant,
        })
    })
}

fn preprocess(
    module: &Module,
    builder: &mut Builder<'_>,
    preprocessing: &Preprocessing,
    channels: Option<usize>,
    [mean, std]: [Option<Handle<Param>>; 2],
) -> V {
    let ty = Type::new(module.input, Dim::ROWS, Dim::Const(module.features));
    let mut raw = builder.push("raw", Op::Input, ty);
    if let Some(channels) = channels {
        let ty = Type::new(module.input, Dim::Rows(module.features / channels), Dim::Const(channels));
        raw = builder.push("pixels", Op::Pixels { value: raw, channels }, ty);
    }
    let mut x = if module.input == DType::F32 { raw } else { builder.convert("x", raw) };
    if preprocessing.scale != 1.0 {
        x = builder.mul_constant("scaled", x, preprocessing.scale);
    }
    if mean.is_some() || preprocessing.mean[0] != 0.0 {
        let mean = number(module, builder, "mean", mean, preprocessing.mean[0]);
        x = builder.sub("centred", x, mean);
    }
    if std.is_some() || preprocessing.std[0] != 1.0 {
        let std = number(module, builder, "std", std, preprocessing.std[0]);
        x = builder.div("standardised", x, std);
    }
    x
}

fn number(
    module: &Module,
    builder: &mut Builder<'_>,
    name: &str,
    param: Option<Handle<Param>>,
    value: f32,
) -> V {
    match param {
        Some(param) => builder.param(&module.params, name, param),
        None => builder.constant(value),
    }
}

fn overlay(
    module: &Module,
    builder: &mut Builder<'_>,
    preprocessing: &Preprocessing,
    x: V,
    stream: u32,
) -> V {
    let labels =
        builder.push("label", Op::Overlaid { stream }, Type::new(DType::I32, Dim::ROWS, Dim::Const(1)));
    let (on, off) = (preprocessing.high, preprocessing.low);
    let ty = builder.ty(x);
    builder.push("overlaid", Op::Overlay { value: x, labels, classes: module.classes, on, off }, ty)
}
