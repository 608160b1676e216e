//! Counters of what was served, per table: exact totals for status and metrics, and a window for the hit ratio that
//! people look at. It owns numbers only.

use crate::serve::table::reason::Reason;
use parking_lot::Mutex;
use rudder_client::RowSources;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Span of the windowed hit ratio, and the number of pieces it slides by.
const WINDOW: Duration = Duration::from_secs(60);
const PIECES: usize = 12;

/// Totals of one table since the start.
#[derive(Debug, Default)]
pub(crate) struct TableStats {
    /// Rows answered from the node's own shard.
    pub(crate) local_rows: AtomicU64,
    /// Rows answered from the cache.
    pub(crate) cache_rows: AtomicU64,
    /// Rows that were here before they were asked for, outside the cache: announced and brought in, or just fetched by
    /// another trainer.
    pub(crate) staged_rows: AtomicU64,
    /// Rows for which a peer had to be waited for, duplicates and shared requests included.
    pub(crate) peer_rows: AtomicU64,
    /// Rows that crossed the network, by [`Reason`].
    crossed: [AtomicU64; Reason::ALL.len()],
    /// Rows for which a peer had to be waited for although they had been announced.
    pub(crate) late_rows: AtomicU64,
    /// Fetches that failed.
    pub(crate) failed_fetches: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    pieces: [(u64, u64); PIECES],
    /// The piece that is being filled, counted from the start of the clock.
    piece: u64,
}

impl Window {
    fn slide(&mut self, piece: u64) {
        let steps = piece.saturating_sub(self.piece).min(PIECES as u64);
        for step in 1..=steps {
            self.pieces[((self.piece + step) % PIECES as u64) as usize] = (0, 0);
        }
        self.piece = self.piece.max(piece);
    }
}

fn piece_of(since_start: Duration) -> u64 {
    (since_start.as_millis() / (WINDOW.as_millis() / PIECES as u128)) as u64
}

impl TableStats {
    /// The counter of rows that crossed the network for `reason`.
    pub(crate) fn crossed(&self, reason: Reason) -> &AtomicU64 {
        &self.crossed[reason as usize]
    }

    /// Counts one answered fetch. Rows that it asked for twice count twice, whether they were hits or misses. The hit
    /// ratio follows only if it is given the start of the clock.
    pub(crate) fn count(&self, sources: &RowSources, started: Option<Instant>) {
        let RowSources { local, cache, staged, peer } = *sources;
        self.local_rows.fetch_add(local, Ordering::Relaxed);
        self.cache_rows.fetch_add(cache, Ordering::Relaxed);
        self.staged_rows.fetch_add(staged, Ordering::Relaxed);
        self.peer_rows.fetch_add(peer, Ordering::Relaxed);
        let remote = cache + staged + peer;
        if let Some(started) = started.filter(|_| remote > 0) {
            let mut window = self.window.lock();
            window.slide(piece_of(started.elapsed()));
            let at = (window.piece % PIECES as u64) as usize;
            window.pieces[at].0 += cache;
            window.pieces[at].1 += remote;
        }
    }

    /// Share of the remote rows of the last minute that were cached; `None` if there were none.
    pub(crate) fn hit_ratio(&self, started: Instant) -> Option<f64> {
        let mut window = self.window.lock();
        window.slide(piece_of(started.elapsed()));
        let (hits, lookups) = window.pieces.iter().fold((0, 0), |sum, piece| (sum.0 + piece.0, sum.1 + piece.1));
        (lookups > 0).then(|| hits as f64 / lookups as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_forgets_what_is_old() {
        let mut window = Window::default();
        window.pieces[0] = (1, 2);
        window.slide(PIECES as u64 - 1);
        assert_eq!(window.pieces[0], (1, 2));
        window.slide(PIECES as u64);
        assert_eq!(window.pieces[0], (0, 0));
    }
}
