//! What the agent wants to know of a table that no counter says: how cold its residents are, how many absent rows are
//! hotter, and how many cached rows their owners have changed. It owns the last answers and must never look for new
//! ones.

use rudder_core::cache::Weighed;
use std::sync::atomic::{AtomicU64, Ordering};

/// The last answers of one table.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Bits of shares.
    cold: AtomicU64,
    spent: AtomicU64,
    pub(crate) hotter_absent_rows: AtomicU64,
    pub(crate) outdated_rows: AtomicU64,
}

impl Gauges {
    /// Share of residents that are not expected again soon.
    pub(crate) fn cold_share(&self) -> f64 {
        f64::from_bits(self.cold.load(Ordering::Relaxed))
    }

    /// Share of residents that are not expected again in the running epoch.
    pub(crate) fn spent_share(&self) -> f64 {
        f64::from_bits(self.spent.load(Ordering::Relaxed))
    }

    /// Takes what the cache has found out.
    pub(crate) fn note(&self, weighed: Weighed) {
        let Weighed { cold_share, spent_share, hotter_absent_rows } = weighed;
        self.cold.store(cold_share.to_bits(), Ordering::Relaxed);
        self.spent.store(spent_share.to_bits(), Ordering::Relaxed);
        self.hotter_absent_rows.store(hotter_absent_rows as u64, Ordering::Relaxed);
    }
}
