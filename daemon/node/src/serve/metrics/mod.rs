//! The engine as Prometheus sees it. It owns the names of its metrics, and must never be on the fetch path.

mod blocks;
mod engine;
mod versions;

use crate::serve::engine::Engine;
use prometheus::core::Collector;
use std::sync::Arc;

/// The collectors of the fetch path, the caches and the blocks of the own shard.
///
/// # Errors
/// When a metric cannot be made.
pub fn collectors(engine: &Arc<Engine>) -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let mut all = engine::collectors(engine)?;
    all.push(Box::new(versions::VersionsMetrics::new(engine)?));
    all.extend(blocks::collectors(&engine.base.dataset)?);
    Ok(all)
}
