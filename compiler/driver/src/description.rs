//! What a checkpoint or an artifact says about itself, beside weights and code: the network, its boundary and the
//! options it is trained with. A folder or file that holds this stands alone.

use std::path::Path;

use ffc_compiler::recipe::{Options, Schedule};
use ffc_ir::module::Module;
use ffc_onnx::Interface;
use ffc_runtime::Attachments;
use serde::{Deserialize, Serialize};

use crate::augmentation::Augmentation;
use crate::training::LayerOrder;
use crate::{Failure, files};

/// Name of the network's text form, in a checkpoint's folder and among an artifact's attachments.
pub const NETWORK: &str = "network.ffir";
/// Name of the rest.
pub const DESCRIPTION: &str = "description.json";

/// See the [module documentation](self).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Version of this format.
    pub version: u32,
    /// The recipe's name.
    pub recipe: String,
    /// What the training program was made with.
    pub options: Options,
    /// Learning rate and look-ahead over time.
    pub schedule: Schedule,
    /// Epochs of the run.
    pub epochs: usize,
    /// Which layers a step trains.
    pub order: LayerOrder,
    /// Seed of everything random.
    pub seed: u64,
    /// How training images are changed.
    #[serde(default, skip_serializing_if = "Augmentation::is_none")]
    pub augmentation: Augmentation,
    /// Names of the classes, where the data has them.
    pub class_names: Vec<String>,
    /// The boundary that exported files keep.
    pub interface: Interface,
}

/// Version of the format.
pub const VERSION: u32 = 1;

impl Description {
    /// The two texts.
    ///
    /// # Errors
    /// When a number cannot be written.
    pub fn texts(&self, module: &Module) -> Result<[(&'static str, String); 2], Failure> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::new(format!("the description cannot be written: {error}")))?;
        Ok([(NETWORK, module.to_string()), (DESCRIPTION, json)])
    }

    /// Writes both into a checkpoint's folder, which is made where it does not exist.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn save(&self, folder: &Path, module: &Module) -> Result<(), Failure> {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::new(format!("cannot make the folder `{}`: {error}", folder.display()))
        })?;
        for (name, text) in self.texts(module)? {
            files::write(&folder.join(name), text.as_bytes())?;
        }
        Ok(())
    }

    /// Reads both from a checkpoint's folder.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn load(folder: &Path) -> Result<(Self, Module), Failure> {
        let text = |name: &str| {
            let path = folder.join(name);
            let bytes = files::read(&path).map_err(|failure| {
                failure.with_help(format!(
                    "a checkpoint is a folder with `{NETWORK}`, `{DESCRIPTION}` and weights"
                ))
            })?;
            Ok::<_, Failure>((path.display().to_string(), bytes))
        };
        Self::parse(text(DESCRIPTION)?, text(NETWORK)?)
    }

    /// Reads both from an artifact's attachments.
    ///
    /// # Errors
    /// When one is missing or damaged.
    pub fn from_attachments(attachments: &Attachments) -> Result<(Self, Module), Failure> {
        let text = |name: &str| {
            let bytes = attachments.get(name).cloned();
            let bytes = bytes.ok_or_else(|| Failure::new(format!("the artifact carries no `{name}`")))?;
            Ok::<_, Failure>((name.to_string(), bytes))
        };
        Self::parse(text(DESCRIPTION)?, text(NETWORK)?)
    }

    fn parse(description: (String, Vec<u8>), network: (String, Vec<u8>)) -> Result<(Self, Module), Failure> {
        let damaged = |name: &str, reason: String| Failure::new(format!("`{name}` is damaged: {reason}"));
        let parsed: Self = serde_json::from_slice(&description.1)
            .map_err(|error| damaged(&description.0, error.to_string()))?;
        if parsed.version != VERSION {
            let found = parsed.version;
            return Err(damaged(&description.0, format!("version {found}, this program knows {VERSION}")));
        }
        let text = String::from_utf8(network.1).map_err(|error| damaged(&network.0, error.to_string()))?;
        let module = ffc_ir::parse(&text).map_err(|error| damaged(&network.0, error.to_string()))?;
        ffc_ir::verify(&module).map_err(|errors| damaged(&network.0, Failure::from(errors).message))?;
        Ok((parsed, module))
    }
}
