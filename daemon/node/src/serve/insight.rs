//! What the agent wants to know of a table that no counter says: how cold its residents are, how many absent rows are hotter,
//! and how many cached rows their owners have changed. It owns the last answers; finding new ones looks at every id that is hot
//! at all and asks every owner, so it is done once per window and never by a scrape.

use super::engine::Engine;
use rudder_core::cache::Weighed;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest wait for an owner to say what it has changed.
const ASK_MAX: Duration = Duration::from_secs(1);

/// The last answers of one table.
#[derive(Debug, Default)]
pub(super) struct Insight {
    /// Bits of shares.
    cold: AtomicU64,
    spent: AtomicU64,
    pub(super) hotter_absent_rows: AtomicU64,
    pub(super) outdated_rows: AtomicU64,
}

impl Insight {
    /// Share of residents that are not expected again soon.
    pub(super) fn cold_share(&self) -> f64 {
        f64::from_bits(self.cold.load(Ordering::Relaxed))
    }

    /// Share of residents that are not expected again in the running epoch.
    pub(super) fn spent_share(&self) -> f64 {
        f64::from_bits(self.spent.load(Ordering::Relaxed))
    }
}

impl Engine {
    /// Fetches answered since the start.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetch_seconds.get_sample_count()
    }

    /// Finds out anew what the gauges of this module say.
    pub async fn gain_insight(self: &Arc<Self>) {
        // Asked all at once, so that owners that do not answer cost one wait together, and nobody else's answer.
        let asked: Vec<_> = (0..self.tables.len()).map(|at| self.ask_changes(at, ASK_MAX)).collect();
        for (at, asked) in asked.into_iter().enumerate() {
            let engine = Arc::clone(self);
            let weighed = tokio::task::spawn_blocking(move || engine.tables[at].cache.weigh()).await;
            let insight = &self.tables[at].insight;
            if let Ok(Weighed { cold_share, spent_share, hotter_absent_rows }) = weighed {
                insight.cold.store(cold_share.to_bits(), Ordering::Relaxed);
                insight.spent.store(spent_share.to_bits(), Ordering::Relaxed);
                insight.hotter_absent_rows.store(hotter_absent_rows as u64, Ordering::Relaxed);
            }
            let rows = self.outdated_rows(at, asked).await;
            insight.outdated_rows.store(rows, Ordering::Relaxed);
        }
    }
}
