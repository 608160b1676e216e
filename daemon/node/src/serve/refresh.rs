//! The engine's part in versions: asks owners what they have changed, and brings what is held here up to date. The owner
//! tells its changes; changed rows that are on their way are marked, so that the cache takes none of them; then
//! the cached ones are listed and fetched anew ([`super::held`]); only then the changes count as known. It must never let a
//! refresh that ends early leave an old row behind as if it were known.

use super::engine::{Engine, Reason};
use super::versions::{Care, Counts};
use rudder_peers::{Changes, PeerError, RequestId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes of rows fetched anew in one go, which are in memory twice for that time.
const REPULL_BYTES: usize = 8 << 20;

/// Part of the bound on staleness that passes before an owner that could not be asked is asked again.
const RETRY_DIVISOR: u32 = 20;

/// What a refresh did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefreshAnswer {
    /// Cached rows whose owners were asked.
    pub checked_rows: u64,
    /// Of them, rows that had changed.
    pub changed_rows: u64,
    /// Of those, rows fetched anew; the others are no longer cached.
    pub repulled_rows: u64,
    /// Owners that could not be asked; their rows may be old.
    pub unreachable: Vec<u16>,
}

/// What was found and done for one owner.
#[derive(Debug, Clone, Copy, Default)]
struct Refreshed {
    changed: usize,
    repulled: usize,
}

impl Engine {
    /// Brings the cached and staged rows of a table up to date, but those of owners that were asked less than `max_age`
    /// ago. A fetch that begins after this has returned gets rows as new as the owners had when this was called.
    pub async fn refresh(self: &Arc<Self>, table: usize, max_age: Duration) -> RefreshAnswer {
        let begin = Instant::now();
        let is_due = |&part: &u16| {
            self.meet(table, part);
            let validated = self.tables[table].versions.part(part).freshness().validated();
            validated.is_some_and(|validated| begin.saturating_duration_since(validated) >= max_age)
        };
        let due: Vec<u16> = self.others().filter(is_due).collect();
        let owner = |id| self.owner(table, id).map(|(part, _)| part);
        let checked = self.tables[table].cache.residents(|id| owner(id).is_some_and(|part| due.contains(&part)));
        let mut answer = RefreshAnswer { checked_rows: checked.len() as u64, ..RefreshAnswer::default() };
        drop(checked);
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
    pub fn keep_fresh(self: &Arc<Self>, staleness_max: Option<Duration>) {
        let engine = Arc::clone(self);
        self.network.spawn(async move {
            loop {
                engine.peers.renewed().await;
                engine.refresh_restarted();
            }
        });
        let Some(bound) = staleness_max else { return };
        for table in 0..self.tables.len() {
            for part in self.others() {
                let engine = Arc::clone(self);
                self.network.spawn(async move { engine.keep_part_fresh(table, part, bound).await });
            }
        }
    }

    /// Asks the owners of a table's rows, all at once, what they have changed since they were last asked, and waits for each no
    /// longer than `most`.
    pub(super) fn ask_changes(self: &Arc<Self>, table: usize, most: Duration) -> JoinSet<Option<(u16, Changes)>> {
        let mut asked = JoinSet::new();
        for part in self.others() {
            self.meet(table, part);
            let Some(since) = self.tables[table].versions.part(part).freshness().synced() else { continue };
            let engine = Arc::clone(self);
            let ask = async move {
                let rows = engine.dataset.tables()[table].book.owned(part);
                let changes = engine.peers.changes(part, table as u16, rows, since);
                Some((part, tokio::time::timeout(most, changes).await.ok()?.ok()?))
            };
            asked.spawn_on(ask, &self.network);
        }
        asked
    }

    /// Cached rows of a table whose owners have changed them, by what these answered. Changes nothing. An owner that cannot be asked counts for none: nothing could be done about its rows.
    pub(super) async fn outdated_rows(&self, table: usize, mut asked: JoinSet<Option<(u16, Changes)>>) -> u64 {
        let mut changed = Vec::new();
        while let Some(answer) = asked.join_next().await {
            changed.extend(answer.ok().flatten().filter(|(_, changes)| !changes.is_empty()));
        }
        if changed.is_empty() {
            return 0;
        }
        let is_outdated = |id| {
            let Some((owner, row)) = self.owner(table, id) else { return false };
            changed.iter().any(|(part, changes)| *part == owner && changes.holds(row))
        };
        self.tables[table].cache.residents(is_outdated).len() as u64
    }

    /// The parts that others own.
    fn others(&self) -> impl Iterator<Item = u16> + use<> {
        let node = self.dataset.node();
        (0..self.dataset.parts()).filter(move |&part| part != node)
    }

    /// Owner of `id`, and the row of its shard.
    fn owner(&self, table: usize, id: u32) -> Option<(u16, u64)> {
        let location = self.dataset.tables()[table].book.locate(u64::from(id))?;
        Some((location.part, location.row))
    }

    /// Takes over what the connections know.
    fn meet(&self, table: usize, part: u16) {
        if let Some(met) = self.peers.met(part) {
            self.tables[table].versions.part(part).freshness().meet(met.first, met.since);
        }
    }

    /// As [`Engine::meet`] for all owners.
    pub(super) fn meet_all(&self, table: usize) {
        self.others().for_each(|part| self.meet(table, part));
    }

    /// Updates of an owner do not outlive it: all of its rows may have changed.
    fn refresh_restarted(self: &Arc<Self>) {
        for part in self.others() {
            let Some(met) = self.peers.met(part) else { continue };
            for table in 0..self.tables.len() {
                self.meet(table, part);
                let synced = self.tables[table].versions.part(part).freshness().synced();
                if synced.is_some_and(|synced| synced.incarnation != met.last.incarnation) {
                    drop(self.spawn_refresh(table, part, Instant::now()));
                }
            }
        }
    }

    async fn keep_part_fresh(self: &Arc<Self>, table: usize, part: u16, bound: Duration) {
        let mut running: Option<JoinHandle<Result<Refreshed, Arc<PeerError>>>> = None;
        loop {
            self.meet(table, part);
            let now = Instant::now();
            let care = self.tables[table].versions.part(part).freshness().care(now, bound);
            match care {
                Care::Wait(time) => tokio::time::sleep(time).await,
                Care::Discard => self.discard_part(table, part),
                Care::Refresh(within) => {
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

    fn spawn_refresh(
        self: &Arc<Self>,
        table: usize,
        part: u16,
        begin: Instant,
    ) -> JoinHandle<Result<Refreshed, Arc<PeerError>>> {
        let engine = Arc::clone(self);
        self.network.spawn(async move {
            let outcome = engine.refresh_part(table, part, begin).await;
            if let Err(error) = &outcome {
                engine.tables[table].versions.counts.failed_refreshes.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    part,
                    table,
                    error = rudder_telemetry::error_chain(error),
                    "an owner cannot be asked for its changes"
                );
            }
            outcome.map_err(Arc::new)
        })
    }

    /// Learns what `part` has changed and follows it, unless that was done since `begin`. Must not be cancelled.
    async fn refresh_part(self: &Arc<Self>, table: usize, part: u16, begin: Instant) -> Result<Refreshed, PeerError> {
        let (book, state) = (&self.dataset.tables()[table].book, &self.tables[table]);
        let versions = state.versions.part(part);
        let _one = versions.refreshing.lock().await;
        let known = {
            let freshness = versions.freshness();
            freshness.synced().filter(|_| freshness.validated() < Some(begin))
        };
        let Some(since) = known else { return Ok(Refreshed::default()) };
        let asked = Instant::now();
        let changes = self.peers.changes(part, table as u16, book.owned(part), since).await?;
        let mut done = Refreshed::default();
        if !changes.is_empty() {
            let changed = |id| self.owner(table, id).is_some_and(|(owner, row)| owner == part && changes.holds(row));
            let stale = state.held().outdate(changed);
            let row_bytes = self.dataset.tables()[table].row_bytes.max(1);
            for ids in stale.chunks((REPULL_BYTES / row_bytes).max(1)) {
                done.repulled += self.repull(table, part, ids).await;
            }
            done.changed = stale.len();
            Counts::add(&state.versions.counts.stale_rows, done.changed);
            Counts::add(&state.versions.counts.repulled_rows, done.repulled);
            tracing::debug!(part, table, done.changed, done.repulled, "refreshed what an owner had changed");
        }
        versions.freshness().settle(asked, changes.now);
        Ok(done)
    }

    /// Fetches cached rows anew. Those that cannot be had are cached no longer.
    async fn repull(self: &Arc<Self>, table: usize, part: u16, ids: &[u32]) -> usize {
        let rows: Vec<(u32, u16)> = ids.iter().map(|&id| (id, part)).collect();
        let claim = self.order(table, &rows, Reason::Refresh, RequestId::NONE);
        for flight in &claim.flights {
            if let Err(error) = flight.landing().await {
                tracing::debug!(
                    part,
                    table,
                    error = rudder_telemetry::error_chain(error),
                    "changed rows could not be fetched anew"
                );
            }
        }
        let renewed = self.tables[table].held().renew(ids, |i| claim.fresh_row(i));
        self.tables[table].flights.retire(&claim);
        renewed
    }

    /// Throws out all rows of an owner that could not be asked for too long.
    fn discard_part(&self, table: usize, part: u16) {
        let at = Instant::now();
        let state = &self.tables[table];
        let theirs = |id| self.owner(table, id).is_some_and(|(owner, _)| owner == part);
        let rows = state.cache.discard(&state.held().outdate(theirs));
        state.versions.part(part).freshness().empty(at);
        Counts::add(&state.versions.counts.expired_rows, rows);
        if rows > 0 {
            let table = &self.dataset.tables()[table].name;
            tracing::warn!(part, table, rows, "rows thrown out: their owner cannot be asked (cache.staleness_max_ms)");
        }
    }
}
