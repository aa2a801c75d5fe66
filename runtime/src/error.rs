//! Everything that can go wrong, for programs to act on and for people to read.

use std::io;

use crate::artifact::Element;

/// Why bytes are no artifact, or an artifact is not sound.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file does not begin with the magic of artifacts.
    #[error("not an ffc artifact: the file does not begin with its magic")]
    NotAnArtifact,
    /// The format is not the one that this runtime reads.
    #[error("artifact format {found} is not supported: this runtime reads format {supported}")]
    Version {
        /// Version in the file.
        found: u32,
        /// Version that is read.
        supported: u32,
    },
    /// The file does not follow the format.
    #[error("malformed artifact: {0}")]
    Malformed(String),
    /// A part of the file was changed.
    #[error("damaged artifact: the checksum of `{0}` does not match")]
    Checksum(String),
    /// The description of the program cannot be read.
    #[error("malformed artifact: section `program`: {0}")]
    Program(#[source] serde_json::Error),
    /// The description contradicts itself.
    #[error("invalid artifact: {0}")]
    Invalid(String),
}

/// Why a session could not be made of an artifact.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is none, or not sound.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// It is for other machines.
    #[error("the artifact is for `{needed}`, this machine is `{here}`")]
    Architecture {
        /// What the artifact needs.
        needed: String,
        /// What this is.
        here: &'static str,
    },
    /// For each variant of the code the processor or its operating system lacks a feature, or this runtime does not know
    /// it.
    #[error("the artifact has no code that {cpu} can run: {}", enumerate(needs))]
    NoVariant {
        /// The machine, or what was made of it.
        cpu: String,
        /// The name of each variant, and the features that it needs and the machine does not have.
        needs: Vec<(String, Vec<String>)>,
    },
    /// The code calls a microkernel that this runtime does not have.
    #[error("the artifact calls the microkernel `{0}`, which this runtime does not have")]
    Microkernel(String),
    /// The machine code could not be mapped.
    #[error("cannot map the machine code: {0}")]
    Map(#[source] io::Error),
    /// There is not enough memory.
    #[error("cannot allocate the {bytes} bytes that the program needs")]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The weights that came with the artifact do not fit it.
    #[error("the artifact's own weights: {0}")]
    Weights(#[from] WeightError),
}

fn enumerate(needs: &[(String, Vec<String>)]) -> String {
    let each = |(name, features): &(String, Vec<String>)| format!("`{name}` needs {}", features.join(" "));
    needs.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// Why less cannot be made of a machine as wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// The architecture has no level of this name.
    #[error("`{name}` is none of {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Names that it has.
        known: Vec<&'static str>,
    },
    /// The machine does not have all of it.
    #[error("this machine has no `{feature}`, which `{level}` stands for")]
    Missing {
        /// The level.
        level: &'static str,
        /// The first feature of the level that is not there.
        feature: &'static str,
    },
}

/// Why a step was not taken; nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// Too few or too many samples.
    #[error("a step takes 1 to {batch} samples, {samples} were given")]
    Batch {
        /// Samples given.
        samples: usize,
        /// Most samples in a step.
        batch: usize,
    },
    /// Samples of another element type.
    #[error("the network takes samples of {expected:?}, {given:?} was given")]
    InputType {
        /// What the network takes.
        expected: Element,
        /// What was given.
        given: Element,
    },
    /// The inputs are no whole samples, or not as many as there are labels or scores.
    #[error("{samples} samples of {features} features are {} numbers, {given} were given", samples.saturating_mul(*features))]
    InputLength {
        /// Samples by the labels or scores.
        samples: usize,
        /// Numbers in a sample.
        features: usize,
        /// Numbers given.
        given: usize,
    },
    /// A number that is infinite or not a number: one would spoil the ranges of all quantizers for good.
    #[error("feature {feature} of sample {sample} is not finite")]
    NotFinite {
        /// The sample.
        sample: usize,
        /// The feature.
        feature: usize,
    },
    /// A label that is no class.
    #[error("the label of sample {sample} is {label}, classes are 0 to {}", classes - 1)]
    Label {
        /// The sample.
        sample: usize,
        /// Its label.
        label: i32,
        /// Number of classes.
        classes: usize,
    },
    /// The room for scores is no whole number of samples.
    #[error("scores are {classes} numbers a sample, there is room for {given}")]
    ScoresLength {
        /// Number of classes.
        classes: usize,
        /// Numbers that there is room for.
        given: usize,
    },
    /// The program cannot train this layer alone.
    #[error("the program has no step for trained layer {layer} alone")]
    Layer {
        /// The layer, counting trained layers from 0.
        layer: usize,
    },
    /// The ranges of the quantizers are not known yet.
    #[error("the quantizers have no ranges yet: train a step, calibrate or load a checkpoint first")]
    Uncalibrated,
}

/// Why weights or other state could not be read or set; nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// No parameter or tensor has this name.
    #[error("the network has no parameter `{0}`")]
    Unknown(String),
    /// A tensor of the state is not there.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// A tensor is there twice.
    #[error("tensor `{0}` is there twice")]
    Repeated(String),
    /// Another shape.
    #[error("`{name}` has shape {expected:?}, {given:?} was given")]
    Shape {
        /// The parameter or tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
        /// What was given.
        given: Vec<usize>,
    },
    /// Another element type.
    #[error("`{name}` is stored as {expected:?}, {given} was given")]
    Type {
        /// The tensor.
        name: String,
        /// Its element type.
        expected: Element,
        /// What was given.
        given: String,
    },
    /// Another number of values.
    #[error("`{name}` has {expected} elements, {given} were given")]
    Length {
        /// The parameter.
        name: String,
        /// Its elements.
        expected: usize,
        /// What was given.
        given: usize,
    },
    /// A value that the parameter cannot hold.
    #[error("element {index} of `{name}` cannot be {value}")]
    Value {
        /// The parameter.
        name: String,
        /// Which element.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A weights file that cannot be read.
    #[error("cannot read the weights: {0}")]
    File(String),
}
