//! How a dataset is opened and its rows are read: the parts of section `[dataset]` that this crate acts on, and their
//! checks. It must never look at the files.

use rudder_settings::{Verdict, WAIT_MS, byte_size, within, wrong};
use serde::{Deserialize, Serialize};

/// How much of a dataset is checked when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Checksums of every file the node serves, and all that `Shape` checks: reads all of them once.
    #[default]
    Full,
    /// Lengths, headers, and that shards and books fit each other: opens at once, leaves damaged bytes unnoticed.
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

/// The block cache of [`Access::Blocks`]; its keys belong to section `[dataset]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockSettings {
    /// Bytes read at once. A block holds the whole rows that fit, but at least one.
    #[serde(with = "byte_size")]
    pub block_bytes: usize,
    /// Bytes of blocks kept, all tables together.
    #[serde(rename = "block_cache_bytes", with = "byte_size")]
    pub cache_bytes: u64,
    /// Blocks read at the same time.
    pub reads_max: usize,
    /// Longest wait for a block, in milliseconds, before the fetch fails.
    pub read_timeout_ms: u64,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self { block_bytes: 64 << 10, cache_bytes: 1 << 30, reads_max: 16, read_timeout_ms: 10_000 }
    }
}

impl BlockSettings {
    /// Checks the limits, and that a block fits into the cache.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        within("dataset.block_bytes", self.block_bytes, 4 << 10..=64 << 20)?;
        within("dataset.block_cache_bytes", self.cache_bytes, 4 << 10..=1 << 50)?;
        if self.cache_bytes < self.block_bytes as u64 {
            let problem = format!("no block of dataset.block_bytes = {} fits", self.block_bytes);
            return wrong("dataset.block_cache_bytes", self.cache_bytes, problem, "write at least some hundred blocks");
        }
        within("dataset.reads_max", self.reads_max, 1..=1024)?;
        within("dataset.read_timeout_ms", self.read_timeout_ms, WAIT_MS)
    }
}
