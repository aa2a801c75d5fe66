//! The operators that can be imported: the one table that says so.
//!
//! To add one, add a row (or a second one where an opset changed its form) and the function that it names. A node whose
//! operator, opset or attributes are in no row is refused before its function is called.

use std::ops::RangeInclusive;

use crate::graph::Node;
use crate::import::{
    Importer, Reason, activation, columns, convolution, dense, elementwise, noise, pool, rms, shape, tail,
};

/// A row of the table.
pub(crate) struct Operator {
    pub(crate) name: &'static str,
    domain: &'static str,
    /// Versions of the domain in which the operator has this form.
    opsets: RangeInclusive<i64>,
    /// Attributes that the function reads, or that do not matter to it.
    attributes: &'static [&'static str],
    pub(crate) import: Import,
}

/// Says what a node's outputs are.
type Import = for<'m> fn(&mut Importer<'m>, &'m Node) -> Result<(), Reason>;

const ONNX: &str = "ai.onnx";
const ML: &str = "ai.onnx.ml";
/// The newest operator set that the table was written for.
const NEWEST: i64 = 24;
/// The newest one of `ai.onnx.ml`.
const NEWEST_ML: i64 = 5;

const fn row(
    name: &'static str,
    opsets: RangeInclusive<i64>,
    attributes: &'static [&'static str],
    import: Import,
) -> Operator {
    Operator { name, domain: ONNX, opsets, attributes, import }
}

const fn ml(name: &'static str, attributes: &'static [&'static str], import: Import) -> Operator {
    Operator { name, domain: ML, opsets: 1..=NEWEST_ML, attributes, import }
}

#[rustfmt::skip]
static OPERATORS: &[Operator] = &[
    row("Add", 7..=NEWEST, &[], elementwise::add),
    row("ArgMax", 1..=11, &["axis", "keepdims"], tail::arg_max),
    row("ArgMax", 12..=NEWEST, &["axis", "keepdims", "select_last_index"], tail::arg_max),
    row("AveragePool", 7..=9, &["auto_pad", "count_include_pad", "kernel_shape", "pads", "strides"], pool::average_pool_unclear),
    row("AveragePool", 10..=18, &["auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"], pool::average_pool_unclear),
    row("AveragePool", 19..=21, &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"], pool::average_pool_unclear),
    row("AveragePool", 22..=NEWEST, &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"], pool::average_pool),
    row("BatchNormalization", 7..=8, &["epsilon", "momentum", "spatial"], elementwise::batch_normalization),
    row("BatchNormalization", 9..=13, &["epsilon", "momentum"], elementwise::batch_normalization),
    row("BatchNormalization", 14..=NEWEST, &["epsilon", "momentum", "training_mode"], elementwise::batch_normalization),
    row("Cast", 6..=18, &["to"], shape::cast),
    row("Cast", 19..=NEWEST, &["to", "saturate", "round_mode"], shape::cast),
    row("Clip", 6..=10, &["min", "max"], activation::clip_attributes),
    row("Clip", 11..=NEWEST, &[], activation::clip_inputs),
    row("Concat", 4..=NEWEST, &["axis"], shape::concat),
    row("Constant", 1..=NEWEST, &["value", "value_int", "value_ints", "value_float", "value_floats"], shape::constant),
    row("ConstantOfShape", 9..=NEWEST, &["value"], shape::constant_of_shape),
    row("Conv", 1..=NEWEST, &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"], convolution::convolution),
    row("Div", 7..=NEWEST, &[], elementwise::div),
    row("Dropout", 1..=6, &["ratio", "is_test", "consumed_inputs"], shape::identity),
    row("Dropout", 7..=11, &["ratio"], shape::identity),
    row("Dropout", 12..=NEWEST, &["seed"], shape::identity),
    row("Elu", 6..=NEWEST, &["alpha"], activation::elu),
    row("Erf", 9..=NEWEST, &[], activation::erf),
    row("Flatten", 1..=NEWEST, &["axis"], shape::flatten),
    row("Gather", 1..=NEWEST, &["axis"], shape::gather),
    row("Gelu", 20..=NEWEST, &["approximate"], activation::gelu),
    row("Gemm", 7..=NEWEST, &["alpha", "beta", "transA", "transB"], dense::gemm),
    row("GlobalAveragePool", 1..=NEWEST, &[], pool::global_average_pool),
    row("GlobalMaxPool", 1..=NEWEST, &[], pool::global_max_pool),
    row("HardSigmoid", 6..=NEWEST, &["alpha", "beta"], activation::hard_sigmoid),
    row("HardSwish", 14..=NEWEST, &[], activation::hard_swish),
    row("Identity", 1..=NEWEST, &[], shape::identity),
    row("LeakyRelu", 6..=NEWEST, &["alpha"], activation::leaky_relu),
    row("Less", 7..=NEWEST, &[], noise::mask),
    row("LogSoftmax", 1..=12, &["axis"], tail::log_softmax_flat),
    row("LogSoftmax", 13..=NEWEST, &["axis"], tail::log_softmax),
    row("MatMul", 1..=NEWEST, &[], dense::mat_mul),
    row("MaxPool", 1..=7, &["auto_pad", "kernel_shape", "pads", "strides"], pool::max_pool_unclear),
    row("MaxPool", 8..=9, &["auto_pad", "kernel_shape", "pads", "storage_order", "strides"], pool::max_pool_unclear),
    row("MaxPool", 10..=21, &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"], pool::max_pool_unclear),
    row("MaxPool", 22..=NEWEST, &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"], pool::max_pool),
    row("Mul", 7..=NEWEST, &[], elementwise::mul),
    row("PRelu", 7..=NEWEST, &[], activation::p_relu),
    row("Pad", 2..=10, &["mode", "pads", "value"], convolution::pad_attributes),
    row("Pad", 11..=NEWEST, &["mode"], convolution::pad_inputs),
    row("RandomUniformLike", 1..=NEWEST, &["dtype", "high", "low", "seed"], noise::random),
    row("ReduceMean", 1..=17, &["axes", "keepdims"], pool::reduce_mean_attributes),
    row("ReduceMean", 18..=NEWEST, &["keepdims", "noop_with_empty_axes"], pool::reduce_mean_inputs),
    row("Relu", 6..=NEWEST, &[], activation::relu),
    row("Reshape", 5..=13, &[], shape::reshape),
    row("Reshape", 14..=NEWEST, &["allowzero"], shape::reshape),
    row("Shape", 1..=14, &[], shape::shape),
    row("Shape", 15..=NEWEST, &["start", "end"], shape::shape),
    row("Sigmoid", 6..=NEWEST, &[], activation::sigmoid),
    row("Slice", 1..=9, &["starts", "ends", "axes"], shape::slice_attributes),
    row("Slice", 10..=NEWEST, &[], shape::slice_inputs),
    row("Softmax", 1..=12, &["axis"], tail::softmax_flat),
    row("Softmax", 13..=NEWEST, &["axis"], tail::softmax),
    row("Split", 2..=12, &["axis", "split"], columns::split_attributes),
    row("Split", 13..=17, &["axis"], columns::split_inputs),
    row("Split", 18..=NEWEST, &["axis", "num_outputs"], columns::split_inputs),
    row("Sqrt", 6..=NEWEST, &[], rms::sqrt),
    row("Squeeze", 1..=12, &["axes"], shape::squeeze_attributes),
    row("Squeeze", 13..=NEWEST, &[], shape::squeeze_inputs),
    row("Sub", 7..=NEWEST, &[], elementwise::sub),
    row("Sum", 8..=NEWEST, &[], elementwise::sum),
    row("Swish", 24..=NEWEST, &["alpha"], activation::swish),
    row("Tanh", 6..=NEWEST, &[], activation::tanh),
    row("Transpose", 1..=NEWEST, &["perm"], shape::transpose),
    row("Unsqueeze", 1..=12, &["axes"], shape::unsqueeze_attributes),
    row("Unsqueeze", 13..=NEWEST, &[], shape::unsqueeze_inputs),
    ml("ArrayFeatureExtractor", &[], tail::array_feature_extractor),
    ml("ZipMap", &["classlabels_int64s", "classlabels_strings"], tail::zip_map),
];

/// The row for a node, or why there is none.
pub(crate) fn find(node: &Node, opset: i64) -> Result<&'static Operator, Reason> {
    let rows = || OPERATORS.iter().filter(|row| row.name == node.op && row.domain == node.domain);
    let (Some(oldest), Some(newest)) = (rows().next(), rows().next_back()) else {
        return Err(Reason::from("the operator is not supported"));
    };
    if opset > *newest.opsets.end() {
        return Err(
            format!("opset {opset} is newer than {}, the newest one known", newest.opsets.end()).into()
        );
    }
    let Some(row) = rows().find(|row| row.opsets.contains(&opset)) else {
        return Err(format!(
            "opset {opset} is older than {}, the oldest one supported",
            oldest.opsets.start()
        )
        .into());
    };
    match node.attributes.keys().find(|name| !row.attributes.contains(&name.as_str())) {
        Some(unknown) => Err(format!("attribute `{unknown}` is not supported").into()),
        None => Ok(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_their_opsets_adjoin() {
        for pair in OPERATORS.windows(2) {
            let [a, b] = pair else { unreachable!("windows of two") };
            assert!((a.domain, a.name) <= (b.domain, b.name), "{} before {}", a.name, b.name);
            if (a.domain, a.name) == (b.domain, b.name) {
                assert_eq!(a.opsets.end() + 1, *b.opsets.start(), "{}", a.name);
            }
        }
    }
}
