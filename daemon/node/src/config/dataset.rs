//! Section `[dataset]`: where the dataset lies, how far it is checked on opening, and by which way its rows are read.
//! It must never look at the files.

use rudder_dataset::{Access, BlockSettings, Verify};
use rudder_settings::{Verdict, byte_size, within, wrong};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Section `[dataset]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetConfig {
    /// The folder that holds `manifest.json`, or `distdgl:` and the JSON file of a DistDGL partition.
    /// [`super::Layers::finish`] refuses a configuration that does not say it.
    pub path: PathBuf,
    /// How much is checked on opening.
    pub verify: Verify,
    /// How rows of this node's shards are read.
    pub access: Access,
    /// The block cache; matters with `access = "blocks"` only.
    #[serde(flatten)]
    pub blocks: BlockSettings,
    /// Memory for the rows of this node that were updated, over all tables. Further ones are refused.
    #[serde(with = "byte_size")]
    pub updates_bytes_max: u64,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            verify: Verify::Full,
            access: Access::Map,
            blocks: BlockSettings::default(),
            updates_bytes_max: 1 << 30,
        }
    }
}

impl DatasetConfig {
    /// Checks each key; opens nothing.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        if self.path.as_os_str().is_empty() {
            return wrong(
                "dataset.path",
                "\"\"",
                "empty",
                "write the folder that holds manifest.json, or distdgl:GRAPH.json",
            );
        }
        self.blocks.check()?;
        within("dataset.updates_bytes_max", self.updates_bytes_max, 0..=1 << 46)
    }
}
