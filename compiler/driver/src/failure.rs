//! Failures as a user sees them: what is wrong, and the way out where there is one.

use std::fmt;

use ffc_runtime::LoadError;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The thing and the reason, lower case, without an end.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether the command line is at fault, not the work: another exit status.
    pub usage: bool,
}

impl Failure {
    /// A failure without a way out.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, usage: false }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(message) }
    }

    /// The same with a way out.
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

macro_rules! failure_from {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.to_string())
            }
        })*
    };
}

failure_from!(
    ffc_codegen::CodegenError,
    ffc_compiler::lower::LowerError,
    ffc_compiler::pipeline::PassError,
    ffc_onnx::ExportError,
    ffc_reference::ExecError,
    ffc_runtime::ArtifactError,
    ffc_runtime::StepError,
    ffc_runtime::WeightError,
    ffc_runtime::checkpoint::CheckpointError,
);

impl From<ffc_data::DataError> for Failure {
    fn from(error: ffc_data::DataError) -> Self {
        Self { help: error.help().map(ToString::to_string), ..Self::new(error.to_string()) }
    }
}

impl From<ffc_onnx::OnnxError> for Failure {
    fn from(error: ffc_onnx::OnnxError) -> Self {
        Self { help: error.help(), ..Self::new(error.to_string()) }
    }
}

impl From<ffc_codegen::UnknownTarget> for Failure {
    fn from(error: ffc_codegen::UnknownTarget) -> Self {
        Self::usage(error.to_string()).with_help("`ffc targets` lists what there is")
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let elsewhere = matches!(error, LoadError::Architecture { .. } | LoadError::NoVariant { .. });
        let help = "`ffc compile --target NAME` makes code for other machines; `ffc targets` lists them";
        Self { help: elsewhere.then(|| help.to_string()), ..Self::new(error.to_string()) }
    }
}

impl From<ffc_ir::Diagnostic> for Failure {
    fn from(diagnostic: ffc_ir::Diagnostic) -> Self {
        Self { help: diagnostic.help.clone(), ..Self::new(diagnostic.to_string()) }
    }
}

impl From<Vec<ffc_ir::Diagnostic>> for Failure {
    fn from(diagnostics: Vec<ffc_ir::Diagnostic>) -> Self {
        let help = diagnostics.iter().find_map(|diagnostic| diagnostic.help.clone());
        let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        Self { help, ..Self::new(lines.join("\n  ")) }
    }
}
