//! What belongs to one table of a node: its cache, the rows on their way to it, counters, and how new the rows of its
//! owners are. It owns that state and no work on it: what fetches, accounts or refreshes stands above. It must never
//! wait.

pub(crate) mod flight;
pub(crate) mod flights;
pub(crate) mod freshness;
pub(crate) mod gauges;
pub(crate) mod held;
pub(crate) mod reason;
pub(crate) mod recorder;
pub(crate) mod stats;

use flights::Flights;
use freshness::Versions;
use gauges::Gauges;
use held::Held;
use recorder::Recorder;
use rudder_core::cache::{CacheError, CacheSpec, TableCache};
use stats::TableStats;
use std::sync::Arc;

/// The state of one table.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(crate) cache: TableCache,
    pub(crate) stats: TableStats,
    pub(crate) flights: Arc<Flights>,
    pub(crate) versions: Versions,
    pub(crate) gauges: Gauges,
    pub(crate) recorder: Recorder,
}

impl TableState {
    /// An empty cache for a table of a cluster of `parts` nodes.
    pub(crate) fn new(spec: CacheSpec, parts: u16) -> Result<Self, CacheError> {
        Ok(Self {
            cache: TableCache::new(spec)?,
            stats: TableStats::default(),
            flights: Arc::default(),
            versions: Versions::new(parts),
            gauges: Gauges::default(),
            recorder: Recorder::default(),
        })
    }

    /// The rows of other nodes that are held, for what changes them.
    pub(crate) fn held(&self) -> Held<'_> {
        Held { cache: &self.cache, flights: &self.flights }
    }
}
