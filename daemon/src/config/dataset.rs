//! Section `[dataset]`: where the dataset lies and how far it is checked on opening. It must never look at the files.

use super::byte_size;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How much of a dataset is checked when it is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Shapes and checksums of every file that this node maps: reads all of them once.
    #[default]
    Full,
    /// Shapes and lengths only: opens at once, leaves damaged bytes unnoticed.
    Shape,
}

/// Section `[dataset]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetConfig {
    /// The folder that holds `manifest.json`. [`super::Layers::finish`] refuses a configuration that does not say it.
    pub path: PathBuf,
    /// How much is checked on opening.
    pub verify: Verify,
    /// Memory for the rows of this node that were updated, over all tables. Further ones are refused.
    #[serde(with = "byte_size")]
    pub updates_bytes_max: u64,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self { path: PathBuf::new(), verify: Verify::default(), updates_bytes_max: 1 << 30 }
    }
}
