//! What trainers have announced for one table, and what was brought in for it. It owns both together: rows are staged
//! for batches that wait or are being fetched, and for no others. Which rows, when and how many is decided by
//! [`rudder_core::lookahead`]. It belongs to one bookkeeper, and must never ask peers itself.

use crate::serve::table::flights::Claim;
use hashbrown::HashMap;
use rudder_core::cache::{BatchKey, TableCache};
use rudder_core::lookahead::{
    AnnounceError, Announced, Announcement, AnnouncementCounts, Consumed, Dropped, Lookahead, Named, Prefetch,
    Settings, TrainerId,
};
use std::collections::VecDeque;

/// What lookahead did, for status and metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LookaheadState {
    pub(crate) counts: AnnouncementCounts,
    pub(crate) waiting_rows: usize,
    pub(crate) horizon: u32,
    /// Batches that rows are staged for.
    pub(crate) staged_batches: usize,
}

/// Announced batches, and the rows staged for them.
#[derive(Debug)]
pub(crate) struct Announcements {
    lookahead: Lookahead,
    staged: HashMap<BatchKey, Vec<Claim>>,
    /// Batches whose fetch has arrived and was not accounted for, by its ticket.
    fetching: HashMap<u64, BatchKey>,
    /// Numbers of batches whose fetch overtook their announcement.
    early: VecDeque<(TrainerId, u64)>,
}

/// Numbers of such batches that are kept; the oldest go first.
const EARLY_MAX: usize = 64;

impl Announcements {
    pub(crate) fn new(settings: Settings) -> Self {
        let (staged, fetching, early) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { lookahead: Lookahead::new(settings), staged, fetching, early }
    }

    /// Takes an announcement, unless its batch was fetched before: the queue lets fetches overtake announcements that
    /// wait for places.
    pub(crate) fn announce(
        &mut self,
        cache: &TableCache,
        trainer: TrainerId,
        announcement: Announcement,
        now_ms: u64,
    ) -> Result<(), AnnounceError> {
        if let Some(at) = self.early.iter().position(|&early| early == (trainer, announcement.batch)) {
            self.early.remove(at);
            return Ok(());
        }
        let Announced { dropped, horizon } = self.lookahead.announce(cache, trainer, announcement, now_ms);
        self.unstage_all(dropped);
        horizon.map(drop)
    }

    /// A fetch has arrived, which may be of an announced batch. Answers whether it is one whose ids came in another
    /// order.
    pub(crate) fn arrive(
        &mut self,
        cache: &TableCache,
        ticket: u64,
        trainer: TrainerId,
        named: Named,
        now_ms: u64,
    ) -> bool {
        let Consumed { used, reordered, dropped } = self.lookahead.consume(cache, trainer, named, now_ms);
        self.unstage_all(dropped);
        match (used, named) {
            (Some(batch), _) => _ = self.fetching.insert(ticket, batch),
            (None, Named::Batch(number)) => {
                if self.early.len() == EARLY_MAX {
                    self.early.pop_front();
                }
                self.early.push_back((trainer, number));
            }
            (None, Named::Ids(_)) => {}
        }
        reordered
    }

    /// The announced batch that a fetch was, if it was announced: it is being accounted for.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<BatchKey> {
        self.fetching.remove(&ticket)
    }

    /// A fetch failed: if its batch was announced, it will not come true.
    pub(crate) fn abandon(&mut self, cache: &TableCache, ticket: u64) {
        if let Some(batch) = self.fetching.remove(&ticket) {
            cache.drop_announced(batch);
            self.unstage(batch);
        }
    }

    /// A trainer is gone, and with it what it announced.
    pub(crate) fn leave(&mut self, cache: &TableCache, trainer: TrainerId) {
        let dropped = self.lookahead.leave(cache, trainer);
        self.unstage_all(dropped);
    }

    /// Drops announcements that are too old.
    pub(crate) fn expire(&mut self, cache: &TableCache, now_ms: u64) {
        let dropped = self.lookahead.expire(cache, now_ms);
        self.unstage_all(dropped);
    }

    /// Rows to ask for now; `lacking` leaves those ids that are not on their way.
    pub(crate) fn plan(&mut self, cache: &TableCache, lacking: impl Fn(Vec<u64>) -> Vec<u64>) -> Vec<Prefetch> {
        self.lookahead.plan(cache, lacking)
    }

    /// Keeps rows for a batch until it was used; lets go of them at once if it does not wait.
    pub(crate) fn stage(&mut self, batch: BatchKey, claim: Claim) {
        if self.lookahead.waits(batch) {
            self.staged.entry(batch).or_default().push(claim);
        }
    }

    /// Lets go of what was staged for a batch: it was used, or never will be.
    pub(crate) fn unstage(&mut self, batch: BatchKey) {
        self.staged.remove(&batch);
    }

    fn unstage_all(&mut self, dropped: Dropped) {
        dropped.into_iter().for_each(|batch| self.unstage(batch));
    }

    /// Whether a trainer has announcements that wait.
    pub(crate) fn expects(&self, trainer: TrainerId) -> bool {
        self.lookahead.expects(trainer)
    }

    /// How things stand, for a cache of `capacity` rows.
    pub(crate) fn state(&self, capacity: usize) -> LookaheadState {
        LookaheadState {
            counts: self.lookahead.counts(),
            waiting_rows: self.lookahead.waiting_rows(),
            horizon: self.lookahead.horizon(capacity),
            staged_batches: self.staged.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_core::cache::{CacheSpec, PolicySpec};
    use rudder_core::lookahead::IdsMark;

    /// A desk may hold an announcement back while the fetch that names its batch goes ahead.
    #[test]
    fn an_announcement_that_its_fetch_overtook_does_not_wait() {
        let policy = PolicySpec::Lru;
        let (capacity_rows, ceiling_rows) = (10, 10);
        let spec = CacheSpec {
            table_rows: 100,
            row_bytes: 0,
            capacity_rows,
            ceiling_rows,
            tracked_rows_max: 0,
            policy,
            seed: 1,
        };
        let cache = TableCache::new(spec).unwrap();
        let mut announcements = Announcements::new(Settings::default());
        let said = |batch| {
            let mark = IdsMark { ordered: batch, unordered: batch };
            Announcement { batch, step: Some(batch), mark, ids: vec![batch] }
        };
        assert!(!announcements.arrive(&cache, 1, TrainerId(1), Named::Batch(5), 0));
        announcements.announce(&cache, TrainerId(2), said(5), 0).unwrap();
        assert!(announcements.expects(TrainerId(2)), "another trainer's");
        announcements.announce(&cache, TrainerId(1), said(5), 0).unwrap();
        assert!(!announcements.expects(TrainerId(1)));
        announcements.announce(&cache, TrainerId(1), said(6), 0).unwrap();
        assert!(announcements.expects(TrainerId(1)));
    }
}
