//! Preprocessing: `(x * scale - mean) / std`, found from the training split, or as flags or the file say.
//!
//! It is part of the model: kept in checkpoints, and as metadata in exported files under these keys.

use ffc_compiler::recipe::Preprocessing;
use ffc_data::{Dataset, Features};
use ffc_ir::types::DType;
use ffc_onnx::Interface;

use crate::Failure;
use crate::network::Network;
use crate::options::TrainingArgs;

/// Metadata key of the scale.
pub const SCALE_KEY: &str = "ffc.input_scale";
/// Metadata key of the mean or means.
pub const MEAN_KEY: &str = "ffc.input_mean";
/// Metadata key of the standard deviation or deviations.
pub const STD_KEY: &str = "ffc.input_std";

/// Standardised features beyond this many deviations saturate, so that a rare outlier does not coarsen all others.
const MAX_DEVIATIONS: f32 = 8.0;

/// Preprocessing of a data set: flags first, then the file's metadata, then the training split's statistics. Numbers per
/// channel stay so where the network's input is an image of `channels`; others take one per feature.
///
/// # Errors
/// When there are as many numbers as neither channels nor features.
pub fn find(args: &TrainingArgs, network: &Network, data: &Dataset) -> Result<Preprocessing, Failure> {
    let interface = &network.interface;
    let features = data.train.width();
    let scale =
        args.input_scale.or(metadata(interface, SCALE_KEY)?.and_then(|numbers| numbers.first().copied()));
    let scale = scale.unwrap_or_else(|| data.default_scale());
    let mean = args.input_mean.clone().or(metadata(interface, MEAN_KEY)?);
    let std = args.input_std.clone().or(metadata(interface, STD_KEY)?);
    let (mean, std) = match (mean, std) {
        (Some(mean), Some(std)) => (mean, std),
        (mean, std) => {
            let found = data.statistics(scale)?;
            (mean.unwrap_or(found.mean), std.unwrap_or(found.std))
        }
    };
    let channels = data.image_shape().map_or(1, |[channels, ..]| channels);
    let image = network.image_channels() == Some(channels);
    let mean = spread("mean", mean, channels, features, image)?;
    let std = spread("std", std, channels, features, image)?;
    let (low, high) = range(data, scale, &mean, &std);
    let input = match data.train.features {
        Features::U8(_) => DType::U8,
        Features::F32(_) => DType::F32,
    };
    Ok(Preprocessing { input, scale, mean, std, low, high })
}

/// The metadata of an exported file.
pub fn to_metadata(preprocessing: &Preprocessing) -> Vec<(String, String)> {
    let numbers = |numbers: &[f32]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    vec![
        (SCALE_KEY.to_string(), preprocessing.scale.to_string()),
        (MEAN_KEY.to_string(), numbers(&preprocessing.mean)),
        (STD_KEY.to_string(), numbers(&preprocessing.std)),
    ]
}

fn metadata(interface: &Interface, key: &str) -> Result<Option<Vec<f32>>, Failure> {
    let Some(text) = interface.metadata(key) else { return Ok(None) };
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|number| number.trim().parse::<f32>()).collect();
    match numbers {
        Ok(numbers) if numbers.iter().all(|number| number.is_finite()) => Ok(Some(numbers)),
        _ => Err(Failure::new(format!("the model's metadata `{key}` is `{text}`, not numbers"))),
    }
}

/// One number, or one a channel of an image, or one a feature.
fn spread(
    what: &str,
    numbers: Vec<f32>,
    channels: usize,
    features: usize,
    image: bool,
) -> Result<Vec<f32>, Failure> {
    match numbers.len() {
        1 => Ok(numbers),
        n if image && n == channels => Ok(numbers),
        n if n == features => Ok(numbers),
        n if n == channels && features.is_multiple_of(n) => {
            let area = features / n;
            Ok(numbers.iter().flat_map(|&number| std::iter::repeat_n(number, area)).collect())
        }
        n => Err(Failure::new(format!(
            "the input's {what} has {n} numbers; the data has {channels} channels and {features} features"
        ))),
    }
}

/// Smallest and largest preprocessed value: of 8-bit data what it can be, of other data what it is, within bounds.
fn range(data: &Dataset, scale: f32, mean: &[f32], std: &[f32]) -> (f32, f32) {
    let features = data.train.width();
    // One for all, or one for each of so many neighbours.
    let at = |numbers: &[f32], feature: usize| numbers[feature * numbers.len() / features];
    let value = |raw: f32, feature: usize| (raw * scale - at(mean, feature)) / at(std, feature);
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    let mut see = |value: f32| {
        low = low.min(value);
        high = high.max(value);
    };
    match &data.train.features {
        Features::U8(_) => {
            for feature in 0..features {
                see(value(0.0, feature));
                see(value(255.0, feature));
            }
        }
        Features::F32(values) => {
            values.iter().enumerate().for_each(|(index, &raw)| see(value(raw, index % features)));
        }
    }
    (low.max(-MAX_DEVIATIONS), high.min(MAX_DEVIATIONS))
}
