//! Training options: a recipe, overridden by a configuration file, overridden by flags.
//!
//! Every option is one optional field of [`TrainingArgs`], which clap fills from flags and serde from TOML, under the
//! same name.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ffc_compiler::recipe::{
    Goodness, Head, LookAhead, Normalization, Options, Precision, Predict, RECIPES, Rates, Recipe, Schedule,
    Unit,
};
use serde::Deserialize;

use crate::initial::Init;
use crate::training::LayerOrder;
use crate::{Failure, files};

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident for $of:ident { $($(#[$variant_doc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl From<$name> for $of {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => Self::$variant),* }
            }
        }
    };
}

choice! {
    /// `--unit`.
    UnitChoice for Unit {
        /// Each layer by itself; nothing flows into a skip operand.
        Layer,
        /// The layers that a skip operand spans together; each other layer by itself.
        Block,
    }
}
choice! {
    /// `--rates`.
    RatesChoice for Rates {
        /// One rate for all parameters of a layer.
        Equal,
        /// Where the network has images, less for parameters with many inputs.
        ByInputs,
    }
}
choice! {
    /// `--look-ahead`.
    LookAheadChoice for LookAhead {
        /// Layers learn from their own error alone.
        Off,
        /// Errors of later layers are added, weighted by lambda.
        Scalar,
        /// The gradient of the next layer's loss, through that layer alone, is added, weighted by lambda.
        Hop,
    }
}
choice! {
    /// `--goodness`.
    GoodnessChoice for Goodness {
        /// Mean of squares.
        Mean,
        /// Sum of squares.
        Sum,
    }
}
choice! {
    /// `--normalization`.
    NormalizationChoice for Normalization {
        /// Divide by the root mean square.
        Rms,
        /// Nothing.
        None,
    }
}
choice! {
    /// `--predict`.
    PredictChoice for Predict {
        /// By the last layer.
        Classifier,
        /// By all heads and the last layer.
        Heads,
        /// By trying every label.
        Labels,
    }
}
choice! {
    /// `--precision`.
    PrecisionChoice for Precision {
        /// INT8.
        Int8,
        /// FP32, the comparison.
        Float,
    }
}

/// Options of training, for flags and configuration files alike.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainingArgs {
    /// Recipe: projection (default), class-group, ff-int8
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,
    /// TOML file with these options, without the dashes; flags override it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Passes over the training data [default: 20]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Samples in a step [default: the recipe's]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Largest learning rate [default: the recipe's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub learning_rate: Option<f32>,
    /// Factor of the classifier's learning rate [default: the recipe's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub classifier_rate: Option<f32>,
    /// Factor of deeper hidden layers' learning rate [default: the recipe's]
    #[arg(long, value_name = "X")]
    pub deeper_rate: Option<f32>,
    /// How learning rates follow from the shapes of parameters [default: by-inputs]
    #[arg(long)]
    pub rates: Option<RatesChoice>,
    /// Cells along each side to which heads pool images; fewer where a head would be large [default: 4]
    #[arg(long, value_name = "N")]
    pub grid: Option<usize>,
    /// Steps in which the learning rate rises to its largest [default: the recipe's]
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<usize>,
    /// What is left of the learning rate at the end, as a fraction [default: the recipe's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub final_rate: Option<f32>,
    /// Momentum; 0 keeps no velocity [default: the recipe's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub momentum: Option<f32>,
    /// Seed of everything random [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Move training images by up to this many pixels in each direction, at random; the rest is 0 [default: 0]
    #[arg(long, value_name = "N")]
    pub shift: Option<usize>,
    /// Mirror training images, left to right, at random; `--flip=false` overrides a configuration file or checkpoint
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub flip: Option<bool>,
    /// What has an objective, inside which alone gradients flow [default: layer]
    #[arg(long, value_enum)]
    pub unit: Option<UnitChoice>,
    /// Look-ahead to later layers' errors [default: the recipe's]
    #[arg(long, value_enum)]
    pub look_ahead: Option<LookAheadChoice>,
    /// Growth of look-ahead's lambda per epoch [default: the recipe's; 0.1 with `--look-ahead hop` where that is 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lambda_step: Option<f32>,
    /// What goodness takes of the squares (ff-int8) [default: mean]
    #[arg(long, value_enum)]
    pub goodness: Option<GoodnessChoice>,
    /// Threshold of goodness (ff-int8) [default: 2]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// Factor of group means (class-group) [default: 10]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Normalisation between layers [default: rms; none with `--init keep`]
    #[arg(long, value_enum)]
    pub normalization: Option<NormalizationChoice>,
    /// How classes are predicted [default: the recipe's]
    #[arg(long, value_enum)]
    pub predict: Option<PredictChoice>,
    /// Where weights start [default: random for a network, keep for a checkpoint]
    #[arg(long, value_enum)]
    pub init: Option<Init>,
    /// Arithmetic [default: int8]
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionChoice>,
    /// Which layers a step trains [default: together]
    #[arg(long, value_enum)]
    pub schedule: Option<LayerOrder>,
    /// Factor of raw inputs [default: 1/255 for 8-bit data, 1 otherwise]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub input_scale: Option<f32>,
    /// Mean of scaled inputs: one number, or one per channel or feature [default: the training split's]
    #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true)]
    pub input_mean: Option<Vec<f32>>,
    /// Standard deviation of scaled inputs, likewise [default: the training split's]
    #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true)]
    pub input_std: Option<Vec<f32>>,
}

macro_rules! overlay {
    ($over:expr, $under:expr, $($field:ident),* $(,)?) => {
        TrainingArgs { config: None, $($field: $over.$field.or($under.$field)),* }
    };
}

impl TrainingArgs {
    /// These options over those of their configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn with_config(self) -> Result<Self, Failure> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let under = read_config(&path)?;
        Ok(overlay!(
            self,
            under,
            recipe,
            epochs,
            batch_size,
            learning_rate,
            classifier_rate,
            deeper_rate,
            rates,
            grid,
            warmup_steps,
            final_rate,
            momentum,
            seed,
            shift,
            flip,
            unit,
            look_ahead,
            lambda_step,
            goodness,
            threshold,
            temperature,
            normalization,
            predict,
            init,
            precision,
            schedule,
            input_scale,
            input_mean,
            input_std,
        ))
    }

    /// The recipe that is named, or the default one.
    ///
    /// # Errors
    /// When there is no such recipe.
    pub fn recipe(&self) -> Result<&'static Recipe, Failure> {
        let Some(name) = &self.recipe else { return Ok(&RECIPES[0]) };
        Recipe::named(name).ok_or_else(|| {
            let names: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
            Failure::usage(format!("unknown recipe `{name}`"))
                .with_help(format!("one of {}", names.join(", ")))
        })
    }

    /// Overrides a recipe's options; preprocessing is the caller's.
    ///
    /// # Errors
    /// When a number makes no sense.
    pub fn apply(&self, options: &mut Options, schedule: &mut Schedule) -> Result<(), Failure> {
        self.check()?;
        set(&mut options.batch, self.batch_size);
        set(&mut options.momentum, self.momentum);
        set(&mut options.classifier_rate, self.classifier_rate);
        set(&mut options.deeper_rate, self.deeper_rate);
        set(&mut options.rates, self.rates.map(Into::into));
        set(&mut options.grid, self.grid);
        set(&mut options.unit, self.unit.map(Into::into));
        set(&mut options.look_ahead, self.look_ahead.map(Into::into));
        set(&mut options.normalization, self.normalization.map(Into::into));
        set(&mut options.predict, self.predict.map(Into::into));
        set(&mut options.precision, self.precision.map(Into::into));
        match &mut options.head {
            Head::SumOfSquares { goodness, threshold } => {
                set(goodness, self.goodness.map(Into::into));
                set(threshold, self.threshold);
            }
            Head::ClassGroup { temperature } => set(temperature, self.temperature),
            Head::Projection => {}
        }
        set(&mut schedule.learning_rate, self.learning_rate);
        set(&mut schedule.lambda_step, self.lambda_step);
        set(&mut schedule.warmup_steps, self.warmup_steps);
        set(&mut schedule.final_rate, self.final_rate);
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let number = |name: &str, value: Option<f32>, what: &str, fits: fn(f32) -> bool| match value {
            Some(value) if !(value.is_finite() && fits(value)) => {
                Err(Failure::usage(format!("`--{name} {value}` is not {what}")))
            }
            _ => Ok(()),
        };
        for (name, value) in [
            ("learning-rate", self.learning_rate),
            ("classifier-rate", self.classifier_rate),
            ("deeper-rate", self.deeper_rate),
            ("temperature", self.temperature),
            ("input-scale", self.input_scale),
        ] {
            number(name, value, "a positive number", |value| value > 0.0)?;
        }
        for &std in self.input_std.iter().flatten() {
            number("input-std", Some(std), "a positive number", |value| value > 0.0)?;
        }
        for &mean in self.input_mean.iter().flatten() {
            number("input-mean", Some(mean), "a number", |_| true)?;
        }
        number("threshold", self.threshold, "a number", |_| true)?;
        number("lambda-step", self.lambda_step, "0 or a positive number", |value| value >= 0.0)?;
        number("momentum", self.momentum, "in 0..1", |value| (0.0..1.0).contains(&value))?;
        number("final-rate", self.final_rate, "in 0..=1", |value| (0.0..=1.0).contains(&value))?;
        for (name, value) in [("batch-size", self.batch_size), ("epochs", self.epochs), ("grid", self.grid)] {
            if value == Some(0) {
                return Err(Failure::usage(format!("`--{name} 0` leaves nothing to do")));
            }
        }
        if self.batch_size.is_some_and(|batch| batch > MAX_BATCH) {
            return Err(Failure::usage(format!("`--batch-size` is at most {MAX_BATCH}")));
        }
        Ok(())
    }
}

/// Sums over a batch stay exact in 32 bits.
const MAX_BATCH: usize = 65_536;

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn read_config(path: &Path) -> Result<TrainingArgs, Failure> {
    let bytes = files::read(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(format!("`{}` is not UTF-8 text", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        Failure::new(format!("`{}`: {}", path.display(), error.message())).with_help(
            "options are the flags of `ffc train` without the dashes, for instance `learning-rate = 0.4`",
        )
    })
}
