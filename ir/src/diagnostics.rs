//! What is wrong, where, and what to do about it: one type for everything that people are told.

use std::fmt;

/// Something that is wrong. Shown as `where: what is wrong`, in lower case, with a line of help where there is a way
/// out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, the offending thing quoted.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where.
    pub location: Option<Location>,
}

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A place in a text, counting from 1.
    Text {
        /// Line.
        line: usize,
        /// Character of the line.
        column: usize,
    },
    /// A parameter.
    Param(String),
    /// A layer.
    Layer(String),
    /// A value of a layer.
    Value {
        /// The layer.
        layer: String,
        /// The value, without the `%`.
        value: String,
    },
}

impl Diagnostic {
    /// Something wrong, at no particular place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, location: None }
    }

    /// The same with a place.
    #[must_use]
    pub fn at(self, location: Location) -> Self {
        Self { location: Some(location), ..self }
    }

    /// The same with a way out.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { line, column } => write!(f, "{line}:{column}"),
            Self::Param(name) => write!(f, "param `@{name}`"),
            Self::Layer(name) => write!(f, "layer `@{name}`"),
            Self::Value { layer, value } => write!(f, "layer `@{layer}`, value `%{value}`"),
        }
    }
}
