//! Section `[dataset]`: where the dataset lies, how far it is checked on opening, and by which way its rows are read. It
//! must never look at the files.

use rudder_settings::byte_size;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How much of a dataset is checked when it is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Shapes and checksums of every file that this node serves from: reads all of them once.
    #[default]
    Full,
    /// Shapes and lengths only: opens at once, leaves damaged bytes unnoticed.
    Shape,
}

/// How rows of this node's shards are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Shards are mapped: the kernel keeps in memory what it can.
    #[default]
    Map,
    /// Blocks of shards are read into a cache of bounded size; nothing is mapped.
    Blocks,
}

/// Section `[dataset]`. All keys after `access` matter with `access = "blocks"` only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetConfig {
    /// The folder that holds `manifest.json`. [`super::Layers::finish`] refuses a configuration that does not say it.
    pub path: PathBuf,
    /// How much is checked on opening.
    pub verify: Verify,
    /// How rows of this node's shards are read.
    pub access: Access,
    /// Bytes read at once: whole rows, as many as fit, but at least one.
    #[serde(with = "byte_size")]
    pub block_bytes: usize,
    /// Bytes of blocks kept, all tables together.
    #[serde(with = "byte_size")]
    pub block_cache_bytes: u64,
    /// Blocks read at the same time.
    pub reads_max: usize,
    /// Longest wait for a block, in milliseconds, before the fetch fails.
    pub read_timeout_ms: u64,
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
            block_bytes: 64 << 10,
            block_cache_bytes: 1 << 30,
            reads_max: 16,
            read_timeout_ms: 10_000,
            updates_bytes_max: 1 << 30,
        }
    }
}
