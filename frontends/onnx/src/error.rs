//! What can be wrong with a file, told so that a caller can act and a person can fix it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::external::ExternalProblem;

/// Why a file was not read or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes end inside a field.
    #[error("the file is truncated: a field at byte {offset} needs {missing} more bytes")]
    Truncated {
        /// Where the field starts.
        offset: usize,
        /// How many bytes are missing.
        missing: u64,
    },
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(String),
    /// The model is larger than allowed.
    #[error("the model has {found} {what}, more than the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        limit: u64,
    },
    /// Data outside the file cannot be used.
    #[error("the data of tensor `{tensor}` in `{location}`: {problem}")]
    External {
        /// The tensor.
        tensor: String,
        /// The file as the model names it.
        location: String,
        /// What is wrong with it.
        problem: ExternalProblem,
    },
    /// A tensor contradicts itself.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Operators depend on each other in a circle.
    #[error("node `{node}` depends on its own output")]
    Cycle {
        /// A node of the circle.
        node: String,
    },
    /// A node reads a value that nothing produces.
    #[error("node `{node}` reads `{value}`, which nothing produces")]
    MissingInput {
        /// The node.
        node: String,
        /// The value.
        value: String,
    },
    /// A graph output is produced by nothing.
    #[error("nothing produces the graph's output `{value}`")]
    MissingOutput {
        /// The output.
        value: String,
    },
    /// Two things produce one value.
    #[error("value `{value}` is produced twice")]
    DuplicateValue {
        /// The value.
        value: String,
    },
    /// Parts of the network that the importer does not know: all of them.
    #[error("{}", Listing(.0))]
    Unsupported(Vec<Unsupported>),
    /// The file is fine, but it is no network that can be trained here.
    #[error("{0}")]
    NotANetwork(String),
}

impl OnnxError {
    /// The way out, where there is one.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Truncated { .. } => "copy or download the file again",
            Self::Malformed(_) => "is it the `.onnx` file itself, not an archive or a `.onnx.data` file?",
            Self::External { problem, location, .. } => return problem.help(location),
            Self::Unsupported(rows) => return rows.iter().find_map(Unsupported::help),
            Self::Cycle { .. } | Self::MissingInput { .. } | Self::MissingOutput { .. } => {
                "re-export the model; `onnx.checker.check_model` names the same fault"
            }
            Self::NotANetwork(_) => {
                "export a classifier whose output is one score per class, with the shape [batch, classes]"
            }
            Self::Io { .. } | Self::Limit { .. } | Self::Tensor { .. } | Self::DuplicateValue { .. } => {
                return None;
            }
        };
        Some(text.to_string())
    }
}

/// Nodes that the importer does not know, or not in this form.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unsupported {
    /// Operator.
    pub op: String,
    /// Its domain; `ai.onnx` for the default one.
    pub domain: String,
    /// The version of the domain that the model imports, 0 for none.
    pub opset: i64,
    /// How many nodes.
    pub count: usize,
    /// Their names, with the PyTorch module path where it is known.
    pub nodes: Vec<String>,
    /// Why they are not supported.
    pub reason: String,
}

impl Unsupported {
    fn help(&self) -> Option<String> {
        let help = if self.reason.contains("newer than") {
            "re-export with an older `opset_version`"
        } else if self.reason.contains("older than") {
            "convert the model with `onnx.version_converter`"
        } else if self.reason.contains("put it into the preprocessing") {
            "remove the scaling from the network and give `--input-scale`, `--input-mean`, `--input-std`"
        } else {
            return None;
        };
        Some(help.to_string())
    }
}

/// How many node names a message shows per row.
const SHOWN: usize = 3;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x `{}` ({} {}): {}", self.count, self.op, self.domain, self.opset, self.reason)?;
        let shown = &self.nodes[..self.nodes.len().min(SHOWN)];
        write!(f, "; at `{}`", shown.join("`, `"))?;
        match self.nodes.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Listing<'a>(&'a [Unsupported]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model needs what is not supported:")?;
        self.0.iter().try_for_each(|row| write!(f, "\n  {row}"))
    }
}
