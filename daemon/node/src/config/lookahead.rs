//! Section `[lookahead]`: how far announced batches are prepared. It must never know how.

use serde::{Deserialize, Serialize};

/// Section `[lookahead]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookaheadConfig {
    /// Batches assembled ahead of their use, outside the cache.
    pub depth: u32,
    /// Batches that trainers shall announce ahead; 0 = `horizon_factor` times the batches that fit into the cache.
    pub horizon: u32,
    /// Batches announced ahead per batch that fits into the cache, where `horizon` is 0.
    pub horizon_factor: f64,
    /// Most batches that trainers are asked to announce.
    pub horizon_max: u32,
    /// Rows that may be brought in ahead per batch, as a share of the remote rows of a mean batch.
    pub budget: f64,
    /// Announced rows that may wait per table, over all trainers.
    pub rows_max: usize,
    /// Time after which an announcement that did not come true is dropped, in milliseconds.
    pub expire_ms: u64,
}

impl Default for LookaheadConfig {
    fn default() -> Self {
        Self {
            depth: 2,
            horizon: 0,
            horizon_factor: 4.0,
            horizon_max: 256,
            budget: 0.75,
            rows_max: 64_000_000,
            expire_ms: 60_000,
        }
    }
}
