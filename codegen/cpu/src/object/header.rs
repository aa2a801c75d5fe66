//! The C header of an object: a template, and what stands for its placeholders.

use ffc_runtime::artifact::{Artifact, Element};

use super::routine::ALIGN;
use super::{Program, Status, weights};

/// Placeholders are names between two `@`.
const TEMPLATE: &str = include_str!("header.h");

/// The header's text.
pub(super) fn text(program: &Program<'_>) -> String {
    let Program { artifact, embedding, .. } = program;
    let variants: Vec<_> = artifact.variants.iter().map(|variant| &*variant.name).collect();
    let values = [
        ("name", embedding.name.to_string()),
        ("NAME", embedding.name.to_ascii_uppercase()),
        ("network", artifact.name.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("architecture", artifact.architecture.clone()),
        ("variants", variants.join(", ")),
        ("align", ALIGN.to_string()),
        ("plan_state", artifact.state_bytes.to_string()),
        ("plan_arena", artifact.arena_bytes.to_string()),
        ("state_bytes", program.state_bytes().to_string()),
        ("arena_bytes", program.arena_bytes().to_string()),
        ("batch", artifact.batch.to_string()),
        ("features", artifact.features.to_string()),
        ("classes", artifact.classes.to_string()),
        ("layers", artifact.trained_layers.len().to_string()),
        ("seed", embedding.seed.to_string()),
        ("learning_rate", format!("{:?}", embedding.learning_rate)),
        ("lambda_step", embedding.lambda_step.to_string()),
        ("weights", weight_table(artifact)),
        (
            "weight_count",
            weights::trained(artifact)
                .map(|param| param.shape[0] * param.shape[1])
                .sum::<usize>()
                .to_string(),
        ),
        ("input", if artifact.input == Element::U8 { "uint8_t" } else { "float" }.to_string()),
        ("statuses", statuses(&embedding.name.to_ascii_uppercase())),
    ];
    let fill = |text: String, (name, value): &(&str, String)| text.replace(&format!("@{name}@"), value);
    values.iter().fold(TEMPLATE.to_string(), fill)
}

/// A line for each trained parameter.
fn weight_table(artifact: &Artifact) -> String {
    let mut first = 0;
    let line = |param: &ffc_runtime::artifact::Param| {
        let [rows, columns] = param.shape;
        let line = format!(" *     {first:10} {rows:9} {columns:9}   {}", param.name);
        first += rows * columns;
        line
    };
    weights::trained(artifact).map(line).collect::<Vec<_>>().join("\n")
}

/// A line for each status.
fn statuses(prefix: &str) -> String {
    let line = |status: &Status| {
        let (name, meaning) = describe(*status);
        format!("    /* {meaning} */\n    {prefix}_{name} = {}", *status as u32)
    };
    Status::ALL.iter().map(line).collect::<Vec<_>>().join(",\n")
}

/// The name of a status in C, and what it means.
fn describe(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Ok => ("OK", "Done."),
        Status::BadArgument => {
            ("BAD_ARGUMENT", "A pointer is NULL or not aligned as its type or memory needs it.")
        }
        Status::BadState => ("BAD_STATE", "The state was not made by init, or by that of another network."),
        Status::BadBatch => ("BAD_BATCH", "There are no samples, or more than a training step takes."),
        Status::BadLabel => ("BAD_LABEL", "A label is not one of the classes, which count from 0."),
        Status::NotFinite => ("NOT_FINITE", "An input or a weight is infinite or not a number."),
        Status::NotCalibrated => {
            ("NOT_CALIBRATED", "The quantizers have no ranges before the first training step.")
        }
        Status::UnsupportedCpu => ("UNSUPPORTED_CPU", "The processor lacks what the code was compiled for."),
    }
}
