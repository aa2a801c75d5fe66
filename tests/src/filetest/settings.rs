//! `name=value` words of a test.

use std::str::FromStr;

use ffc_compiler::recipe::{
    Goodness, Head, LookAhead, Normalization, Options, Precision, Predict, Recipe, Unit,
};
use ffc_ir::types::DType;

/// The words behind a test's name.
pub(super) struct Settings<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Settings<'a> {
    pub(super) fn parse(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let pair = |word: &'a str| word.split_once('=').ok_or_else(|| format!("`{word}` is no `name=value`"));
        Ok(Self { pairs: words.map(pair).collect::<Result<_, _>>()? })
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    pub(super) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        self.get(name).map_or(Ok(default), |text| number(name, text))
    }

    /// The options of the recipe that is named, each changed that is named too.
    pub(super) fn options(&self) -> Result<Options, String> {
        let name = self.get("recipe").ok_or("wants `recipe=...`")?;
        let mut options =
            Recipe::named(name).ok_or_else(|| format!("there is no recipe `{name}`"))?.options();
        for &(name, value) in &self.pairs {
            set(&mut options, name, value)?;
        }
        Ok(options)
    }
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{name}={text}` is no number"))
}

fn one_of<T: Copy>(name: &str, text: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(known, _)| *known == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("`{name}` cannot be `{text}`"))
}

fn set(options: &mut Options, name: &str, value: &str) -> Result<(), String> {
    match name {
        "recipe" => {}
        "batch" => options.batch = number(name, value)?,
        "momentum" => options.momentum = number(name, value)?,
        "classifier-rate" => options.classifier_rate = number(name, value)?,
        "unit" => {
            options.unit = one_of(name, value, &[("layer", Unit::Layer), ("block", Unit::Block)])?;
        }
        "look-ahead" => {
            let all = [("off", LookAhead::Off), ("scalar", LookAhead::Scalar), ("hop", LookAhead::Hop)];
            options.look_ahead = one_of(name, value, &all)?;
        }
        "normalization" => {
            options.normalization =
                one_of(name, value, &[("rms", Normalization::Rms), ("none", Normalization::None)])?;
        }
        "predict" => {
            let all =
                [("classifier", Predict::Classifier), ("heads", Predict::Heads), ("labels", Predict::Labels)];
            options.predict = one_of(name, value, &all)?;
        }
        "precision" => {
            options.precision =
                one_of(name, value, &[("int8", Precision::Int8), ("float", Precision::Float)])?;
        }
        "goodness" => {
            let kind = one_of(name, value, &[("mean", Goodness::Mean), ("sum", Goodness::Sum)])?;
            let Head::SumOfSquares { goodness, .. } = &mut options.head else {
                return Err("only `ff-int8` has a goodness".into());
            };
            *goodness = kind;
        }
        "input" => {
            options.preprocessing.input = one_of(name, value, &[("u8", DType::U8), ("f32", DType::F32)])?
        }
        "scale" => options.preprocessing.scale = number(name, value)?,
        "mean" => options.preprocessing.mean = numbers(name, value)?,
        "std" => options.preprocessing.std = numbers(name, value)?,
        "low" => options.preprocessing.low = number(name, value)?,
        "high" => options.preprocessing.high = number(name, value)?,
        _ => return Err(format!("there is no option `{name}`")),
    }
    Ok(())
}

fn numbers(name: &str, text: &str) -> Result<Vec<f32>, String> {
    text.split(',').map(|text| number(name, text)).collect()
}
