//! How new the rows of other nodes are that this node holds, and when they must be validated. It owns, for each table
//! and owner, the point up to which the owner's updates are known here, and what follows from a bound on staleness. It
//! decides and never asks: time and stamps come in as arguments.

use parking_lot::{Mutex, MutexGuard};
use rudder_dataset::Part;
use rudder_peers::Stamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rows are validated when a third of the bound has passed, and thrown out when nine tenths have: the rest is for the
/// work itself.
const REFRESH_DIVISOR: u32 = 3;
const DISCARD_TENTHS: u32 = 9;

/// What is known of the rows of one owner in one table.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Every row held is as new as this.
    synced: Option<Stamp>,
    /// No row held was changed before this by more than the owner had told.
    validated: Option<Instant>,
}

/// What a bound on staleness asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upkeep {
    /// Nothing yet.
    Wait(Duration),
    /// Bring the rows up to date within this time.
    Refresh(Duration),
    /// They cannot be served any longer.
    Discard,
}

impl Freshness {
    /// The first connection to the owner was made at `since`: all that ever came from it is as new as `first`. Later
    /// calls change nothing.
    pub(crate) fn note_first_connection(&mut self, first: Stamp, since: Instant) {
        self.synced.get_or_insert(first);
        self.validated.get_or_insert(since);
    }

    /// The point up to which its updates are known; `None` if there never was a connection, so that nothing of it
    /// can be held.
    pub(crate) fn synced(&self) -> Option<Stamp> {
        self.synced
    }

    /// When the rows held were last known to be what the owner has.
    pub(crate) fn validated(&self) -> Option<Instant> {
        self.validated
    }

    /// The owner, asked at `asked`, told its changes up to `now`, and none of the old rows is held any more.
    pub(crate) fn note_synced(&mut self, asked: Instant, now: Stamp) {
        self.synced = Some(now);
        self.validated = self.validated.max(Some(asked));
    }

    /// Nothing that came before `at` is held any more.
    pub(crate) fn note_emptied(&mut self, at: Instant) {
        self.validated = self.validated.max(Some(at));
    }

    /// What to do at `now` so that no row is served longer than `bound` after it was changed.
    pub(crate) fn next_upkeep(&self, now: Instant, bound: Duration) -> Upkeep {
        let Some(validated) = self.validated else { return Upkeep::Wait(bound / REFRESH_DIVISOR) };
        let age = now.saturating_duration_since(validated);
        let (refresh, discard) = (bound / REFRESH_DIVISOR, bound * DISCARD_TENTHS / 10);
        if age < refresh {
            Upkeep::Wait(refresh - age)
        } else if age < discard {
            Upkeep::Refresh(discard - age)
        } else {
            Upkeep::Discard
        }
    }
}

/// The versions of one table on this node.
#[derive(Debug)]
pub(crate) struct Versions {
    parts: Vec<PartVersions>,
    /// Updates of this node's trainers go out one at a time.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// Number of the next request that carries an update.
    next_write: AtomicU64,
    pub(crate) counts: VersionCounts,
}

/// The versions of one owner's rows.
#[derive(Debug, Default)]
pub(crate) struct PartVersions {
    freshness: Mutex<Freshness>,
    /// Held while the owner's changes are learned and followed.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
}

/// What became of versions since the start.
#[derive(Debug, Default)]
pub(crate) struct VersionCounts {
    /// Rows held that their owner had changed.
    pub(crate) stale_rows: AtomicU64,
    /// Of them, rows fetched again.
    pub(crate) repulled_rows: AtomicU64,
    /// Rows thrown out because their owner could not be asked in time.
    pub(crate) expired_rows: AtomicU64,
    /// Times that an owner could not be asked.
    pub(crate) failed_refreshes: AtomicU64,
    /// Updates that trainers of this node made.
    pub(crate) updates: AtomicU64,
    /// Rows in them.
    pub(crate) update_rows: AtomicU64,
    /// Updates that failed, whole or in part.
    pub(crate) failed_updates: AtomicU64,
}

impl VersionCounts {
    pub(crate) fn add(counter: &AtomicU64, rows: usize) {
        counter.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

impl Versions {
    pub(crate) fn new(parts: u16) -> Self {
        Self {
            parts: (0..parts).map(|_| PartVersions::default()).collect(),
            writing: tokio::sync::Mutex::new(()),
            next_write: AtomicU64::new(1),
            counts: VersionCounts::default(),
        }
    }

    pub(crate) fn part(&self, part: Part) -> &PartVersions {
        &self.parts[part.index()]
    }

    /// The first of `count` unused numbers of requests that carry an update.
    pub(crate) fn take_numbers(&self, count: usize) -> u64 {
        self.next_write.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// Age of the least recently validated rows; `None` while nothing is held.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let oldest = self.parts.iter().filter_map(|part| part.freshness().validated()).min();
        oldest.map(|oldest| now.saturating_duration_since(oldest))
    }
}

impl PartVersions {
    pub(crate) fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(3_000);

    fn stamp(clock: u64) -> Stamp {
        Stamp { incarnation: 1, clock }
    }

    #[test]
    fn rows_are_as_new_as_the_first_meeting_until_more_is_known() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut fresh = Freshness::default();
        assert_eq!((fresh.synced(), fresh.validated()), (None, None));
        fresh.note_first_connection(stamp(5), at(10));
        fresh.note_first_connection(stamp(9), at(20));
        assert_eq!((fresh.synced(), fresh.validated()), (Some(stamp(5)), Some(at(10))));
        fresh.note_synced(at(30), stamp(9));
        assert_eq!((fresh.synced(), fresh.validated()), (Some(stamp(9)), Some(at(30))));
        // Emptying says nothing about the owner's clock, and an answer to an old question does not set time back.
        fresh.note_emptied(at(50));
        assert_eq!((fresh.synced(), fresh.validated()), (Some(stamp(9)), Some(at(50))));
        fresh.note_synced(at(40), stamp(11));
        assert_eq!((fresh.synced(), fresh.validated()), (Some(stamp(11)), Some(at(50))));
    }

    #[test]
    fn a_bound_asks_for_upkeep_before_it_is_reached() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut fresh = Freshness::default();
        assert_eq!(fresh.next_upkeep(at(9_999), BOUND), Upkeep::Wait(ms(1_000)));
        fresh.note_first_connection(stamp(0), begin);
        assert_eq!(fresh.next_upkeep(at(400), BOUND), Upkeep::Wait(ms(600)));
        assert_eq!(fresh.next_upkeep(at(1_000), BOUND), Upkeep::Refresh(ms(1_700)));
        assert_eq!(fresh.next_upkeep(at(2_699), BOUND), Upkeep::Refresh(ms(1)));
        assert_eq!(fresh.next_upkeep(at(2_700), BOUND), Upkeep::Discard);
        fresh.note_emptied(at(2_700));
        assert_eq!(fresh.next_upkeep(at(2_700), BOUND), Upkeep::Wait(ms(1_000)));
    }

    #[test]
    fn the_oldest_part_tells_the_age() {
        let begin = Instant::now();
        let versions = Versions::new(3);
        assert_eq!(versions.age(begin), None);
        versions.part(Part(1)).freshness().note_first_connection(stamp(1), begin);
        versions.part(Part(2)).freshness().note_first_connection(stamp(1), begin + Duration::from_secs(5));
        assert_eq!(versions.age(begin + Duration::from_secs(6)), Some(Duration::from_secs(6)));
        assert_eq!((versions.take_numbers(3), versions.take_numbers(1)), (1, 4));
    }
}
