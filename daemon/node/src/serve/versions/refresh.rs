//! Asks owners what they have changed, and brings what is held here up to date. The owner answers its changes; changed
//! rows that are on their way are marked, so that the cache takes none of them; then the cached ones are listed and
//! fetched again ([`crate::serve::table::held`]); only then the changes count as known. It must never let a refresh
//! that ends early leave an old row behind as if it were known.

use crate::serve::base::{Base, blocking};
use crate::serve::requests::{request_rows, wait_for};
use crate::serve::table::freshness::{Upkeep, VersionCounts};
use crate::serve::table::reason::Reason;
use crate::serve::versions::restarts;
use rudder_dataset::{LocalRow, Part};
use rudder_peers::{Changes, PeerError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Bytes of rows fetched again in one go, which are in memory twice for that time.
const REPULL_BYTES: usize = 8 << 20;

/// Part of the bound on staleness that passes before an owner that could not be asked is asked again.
const RETRY_DIVISOR: u32 = 20;

/// What a refresh did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RefreshAnswer {
    /// Cached rows whose owners were asked.
    pub(crate) checked_rows: u64,
    /// Of them, rows that had changed.
    pub(crate) changed_rows: u64,
    /// Of those, rows fetched again; the others are no longer cached.
    pub(crate) repulled_rows: u64,
    /// Owners that could not be asked; their rows may be old.
    pub(crate) unreachable: Vec<Part>,
}

/// What was found and done for one owner.
#[derive(Debug, Clone, Copy, Default)]
struct Refreshed {
    changed: usize,
    repulled: usize,
}

/// Keeps the rows of other nodes new.
#[derive(Debug, Clone)]
pub(crate) struct Refresher {
    base: Arc<Base>,
}

impl Refresher {
    pub(crate) fn new(base: &Arc<Base>) -> Self {
        Self { base: Arc::clone(base) }
    }

    /// Brings the cached and staged rows of a table up to date, but those of owners that were asked less than `max_age`
    /// ago. A fetch that begins after this has returned gets rows as new as the owners had when this was called.
    pub(crate) async fn refresh(&self, table: usize, max_age: Duration) -> RefreshAnswer {
        let begin = Instant::now();
        let is_due = |&part: &Part| {
            self.base.note_first_connection(table, part);
            let validated = self.base.tables[table].versions.part(part).freshness().validated();
            validated.is_some_and(|validated| begin.saturating_duration_since(validated) >= max_age)
        };
        let due: Vec<Part> = self.base.others().filter(is_due).collect();
        let (base, of) = (Arc::clone(&self.base), due.clone());
        let count = move || {
            let is_due = |id| base.locate(table, id).is_some_and(|location| of.contains(&location.part));
            base.tables[table].cache.residents(is_due).len() as u64
        };
        let mut answer = RefreshAnswer { checked_rows: blocking(count).await, ..RefreshAnswer::default() };
        let asked: Vec<_> = due.into_iter().map(|part| (part, self.spawn_refresh(table, part, begin))).collect();
        for (part, refresh) in asked {
            match refresh.await {
                Ok(Ok(done)) => {
                    answer.changed_rows += done.changed as u64;
                    answer.repulled_rows += done.repulled as u64;
                }
                Ok(Err(_)) | Err(_) => answer.unreachable.push(part),
            }
        }
        answer
    }

    /// Looks after versions for as long as the daemon lives: owners that were restarted, and the bound on staleness.
    pub(crate) fn keep_fresh(&self, staleness_max: Option<Duration>) {
        let (refreshing, peers) = (self.clone(), Arc::clone(&self.base.peers));
        let refresh = move || {
            let this = refreshing.clone();
            async move { this.refresh_restarted().await }
        };
        let renewed = move || {
            let peers = Arc::clone(&peers);
            async move { peers.renewed().await }
        };
        self.base.network.spawn(restarts::follow(refresh, renewed));
        let Some(bound) = staleness_max else { return };
        for table in 0..self.base.tables.len() {
            for part in self.base.others() {
                let this = self.clone();
                self.base.network.spawn(async move { this.keep_part_fresh(table, part, bound).await });
            }
        }
    }

    /// Refreshes the rows of owners that are another process than the one whose versions are known, all at once.
    /// Answers for how many tables of owners that failed.
    async fn refresh_restarted(&self) -> usize {
        let mut begun = Vec::new();
        for part in self.base.others() {
            let Some(met) = self.base.peers.met(part.0) else { continue };
            for table in 0..self.base.tables.len() {
                self.base.note_first_connection(table, part);
                let synced = self.base.tables[table].versions.part(part).freshness().synced();
                if synced.is_some_and(|synced| synced.incarnation != met.last.incarnation) {
                    begun.push(self.spawn_refresh(table, part, Instant::now()));
                }
            }
        }
        let mut failed = 0;
        for refresh in begun {
            failed += usize::from(!matches!(refresh.await, Ok(Ok(_))));
        }
        failed
    }

    async fn keep_part_fresh(&self, table: usize, part: Part, bound: Duration) {
        let mut running: Option<JoinHandle<Result<Refreshed, Arc<PeerError>>>> = None;
        loop {
            self.base.note_first_connection(table, part);
            let now = Instant::now();
            let upkeep = self.base.tables[table].versions.part(part).freshness().next_upkeep(now, bound);
            match upkeep {
                Upkeep::Wait(time) => tokio::time::sleep(time).await,
                Upkeep::Discard => self.discard_part(table, part).await,
                Upkeep::Refresh(within) => {
                    // Not given up when time is up: it holds rows under way that it must let go of itself.
                    let refresh = running.get_or_insert_with(|| self.spawn_refresh(table, part, now));
                    let Ok(ended) = tokio::time::timeout(within, refresh).await else { continue };
                    running = None;
                    if !matches!(ended, Ok(Ok(_))) {
                        tokio::time::sleep(within.min(bound / RETRY_DIVISOR)).await;
                    }
                }
            }
        }
    }

    fn spawn_refresh(&self, table: usize, part: Part, begin: Instant) -> JoinHandle<Result<Refreshed, Arc<PeerError>>> {
        let this = self.clone();
        self.base.network.spawn(async move {
            let outcome = this.refresh_part(table, part, begin).await;
            if let Err(error) = &outcome {
                this.base.tables[table].versions.counts.failed_refreshes.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    part = part.0,
                    table,
                    error = rudder_telemetry::error_chain(error),
                    "an owner cannot be asked for its changes"
                );
            }
            outcome.map_err(Arc::new)
        })
    }

    /// Learns what `part` has changed and follows it, unless that was done since `begin`. Must not be cancelled.
    async fn refresh_part(&self, table: usize, part: Part, begin: Instant) -> Result<Refreshed, PeerError> {
        let (of, state) = (self.base.table(table), &self.base.tables[table]);
        let versions = state.versions.part(part);
        let _one = versions.refreshing.lock().await;
        let known = {
            let freshness = versions.freshness();
            freshness.synced().filter(|_| freshness.validated() < Some(begin))
        };
        let Some(since) = known else { return Ok(Refreshed::default()) };
        let asked = Instant::now();
        let changes = self.base.peers.changes(part.0, table as u16, of.book.owned(part), since).await?;
        let now = changes.now;
        let mut done = Refreshed::default();
        if !changes.is_empty() {
            let stale = self.outdate(table, part, Some(changes)).await;
            let row_bytes = of.row_bytes.max(1);
            for ids in stale.chunks((REPULL_BYTES / row_bytes).max(1)) {
                done.repulled += self.repull(table, part, ids).await;
            }
            done.changed = stale.len();
            VersionCounts::add(&state.versions.counts.stale_rows, done.changed);
            VersionCounts::add(&state.versions.counts.repulled_rows, done.repulled);
            tracing::debug!(part = part.0, table, done.changed, done.repulled, "refreshed what an owner had changed");
        }
        versions.freshness().note_synced(asked, now);
        Ok(done)
    }

    /// Marks the rows of an owner that it has changed, or all of them, wherever they are. Answers the cached ones.
    async fn outdate(&self, table: usize, part: Part, changes: Option<Changes>) -> Vec<u64> {
        let base = Arc::clone(&self.base);
        let outdate = move || {
            let is_changed = |LocalRow(row)| changes.as_ref().is_none_or(|changes| changes.holds(row));
            let changed = |id| base.locate(table, id).is_some_and(|at| at.part == part && is_changed(at.row));
            base.tables[table].held().outdate(changed)
        };
        blocking(outdate).await
    }

    /// Fetches cached rows again. Those that cannot be had are cached no longer.
    async fn repull(&self, table: usize, part: Part, ids: &[u64]) -> usize {
        let rows: Vec<(u64, Part)> = ids.iter().map(|&id| (id, part)).collect();
        let claim = request_rows(&self.base, table, &rows, Reason::Refresh.into());
        wait_for(&claim, Reason::Refresh).await;
        let (base, ids) = (Arc::clone(&self.base), ids.to_vec());
        blocking(move || base.tables[table].held().renew(&ids, |i| claim.fresh_row(i))).await
    }

    /// Throws out all rows of an owner that could not be asked for too long.
    async fn discard_part(&self, table: usize, part: Part) {
        let at = Instant::now();
        let outdated = self.outdate(table, part, None).await;
        let base = Arc::clone(&self.base);
        let rows = blocking(move || base.tables[table].cache.discard(&outdated)).await;
        let versions = &self.base.tables[table].versions;
        versions.part(part).freshness().note_emptied(at);
        VersionCounts::add(&versions.counts.expired_rows, rows);
        if rows > 0 {
            let table = self.base.name(table);
            tracing::warn!(
                part = part.0,
                table,
                rows,
                "rows thrown out: their owner cannot be asked (cache.staleness_max_ms)"
            );
        }
    }
}
