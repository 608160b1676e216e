//! The engine's part in lookahead: takes announcements, has the rows of the next batches brought in behind demand, and
//! keeps them staged until their batch was used. It owns the staged rows; which rows, when and how many is decided by
//! [`rudder_core::lookahead`].

use super::engine::{Engine, Job, Reason};
use super::error::RequestError;
use super::flights::Claim;
use hashbrown::{HashMap, HashSet};
use rudder_core::cache::BatchKey;
use rudder_core::lookahead::{Announced, Announcement, Consumed, Counts, Dropped, Lookahead, Settings, TrainerId};
use rudder_peers::RequestId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Announcements of one table, and what was brought in for them.
#[derive(Debug)]
pub(super) struct Ahead {
    plans: Mutex<Lookahead>,
    staged: Mutex<HashMap<BatchKey, Vec<Claim>>>,
}

/// What lookahead did, for status and metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct AheadStatus {
    pub(super) counts: Counts,
    pub(super) waiting_rows: usize,
    pub(super) horizon: u32,
}

fn relock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ahead {
    pub(super) fn new(settings: Settings) -> Self {
        Self { plans: Mutex::new(Lookahead::new(settings)), staged: Mutex::default() }
    }

    pub(super) fn status(&self, capacity: usize) -> AheadStatus {
        let plans = relock(&self.plans);
        AheadStatus { counts: plans.counts(), waiting_rows: plans.waiting_rows(), horizon: plans.horizon(capacity) }
    }
}

/// The fingerprint by which a fetch is known as an announced batch.
fn fingerprint_of(ids: &[u64]) -> u64 {
    xxh3_64(bytemuck::cast_slice(ids))
}

impl Engine {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A trainer will fetch `ids` at its `step`. Answers how many batches it should announce ahead.
    pub(super) fn announce(
        self: &Arc<Self>,
        connection: u64,
        table: usize,
        step: u64,
        ids: &[u64],
    ) -> Result<u32, RequestError> {
        let remote = self.remote_ids(table, ids)?;
        let state = &self.tables[table];
        let announcement = Announcement { step: Some(step), fingerprint: fingerprint_of(ids), ids: remote };
        let Announced { dropped, horizon } =
            relock(&state.ahead.plans).announce(&state.cache, TrainerId(connection), announcement, self.now_ms());
        self.unstage_all(table, dropped);
        let horizon = horizon.map_err(RequestError::Announce)?;
        self.order_ahead(table);
        Ok(horizon)
    }

    /// The remote ids among `ids`, each once, in the order of their first appearance.
    fn remote_ids(&self, table: usize, ids: &[u64]) -> Result<Vec<u32>, RequestError> {
        let (table, node) = (&self.dataset.tables()[table], self.dataset.node());
        let mut seen = HashSet::with_capacity(ids.len());
        let mut remote = Vec::with_capacity(ids.len());
        for (at, &id) in ids.iter().enumerate() {
            let location = table.book.locate(id).ok_or_else(|| RequestError::out_of_range(table, at, id))?;
            if location.part != node && seen.insert(id as u32) {
                remote.push(id as u32);
            }
        }
        Ok(remote)
    }

    /// The announced batch that `job` is, if it is one.
    pub(super) fn consume(&self, job: &Job) -> Option<BatchKey> {
        let state = &self.tables[job.table];
        let mut plans = relock(&state.ahead.plans);
        if !plans.expects(TrainerId(job.connection)) {
            return None;
        }
        let fingerprint = fingerprint_of(&job.ids);
        let Consumed { used, dropped } =
            plans.consume(&state.cache, TrainerId(job.connection), fingerprint, self.now_ms());
        drop(plans);
        self.unstage_all(job.table, dropped);
        used
    }

    /// Orders what the next batches lack, as the budget allows.
    pub(super) fn order_ahead(self: &Arc<Self>, table: usize) {
        let state = &self.tables[table];
        let prefetches = relock(&state.ahead.plans).plan(&state.cache, |ids| state.flights.absent(ids));
        for prefetch in prefetches {
            let claim = self.order(table, &self.with_owners(table, &prefetch.ids), Reason::Lookahead, RequestId::NONE);
            relock(&state.ahead.staged).entry(prefetch.batch).or_default().push(claim);
        }
    }

    /// Lets go of what was staged for a batch: it was used, or never will be.
    pub(super) fn unstage(&self, table: usize, batch: BatchKey) {
        let state = &self.tables[table];
        let claims = relock(&state.ahead.staged).remove(&batch).unwrap_or_default();
        claims.iter().for_each(|claim| state.flights.retire(claim));
    }

    fn unstage_all(&self, table: usize, dropped: Dropped) {
        dropped.into_iter().for_each(|batch| self.unstage(table, batch));
    }

    /// A fetch of an announced batch failed: it will not come true.
    pub(super) fn give_up(&self, table: usize, batch: BatchKey) {
        self.tables[table].cache.give_up(batch);
        self.unstage(table, batch);
    }

    /// A trainer is gone, and with it what it announced.
    pub(super) fn forget_announcements(&self, connection: u64) {
        for (at, state) in self.tables.iter().enumerate() {
            let dropped = relock(&state.ahead.plans).leave(&state.cache, TrainerId(connection));
            self.unstage_all(at, dropped);
        }
    }
}
