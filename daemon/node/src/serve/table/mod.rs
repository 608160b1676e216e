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

use flight::Joining;
use flights::Flights;
use freshness::Versions;
use gauges::Gauges;
use held::Held;
use reason::Reason;
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

    /// Who may join requests for rows that are asked for `reason`: rows that nobody keeps are as new as the fetch that
    /// gets them, those of a cache or announced ones are shared.
    pub(crate) fn joining(&self, reason: Reason) -> Joining {
        let is_kept = reason != Reason::Demand || self.cache.capacity_rows() > 0;
        if is_kept { Joining::Always } else { Joining::UntilSent }
    }

    /// The rows of other nodes that are held, for what changes them.
    pub(crate) fn held(&self) -> Held<'_> {
        Held { cache: &self.cache, flights: &self.flights }
    }
}
