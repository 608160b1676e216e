//! The fetch path of a node: gathers what is here, asks peers for the rest, and, after the trainer has its rows, settles
//! accounts with the cache. It owns the tables' caches and the rows under way. It must never make a trainer wait for
//! bookkeeping, hand out a row of a failed request, or wait without a limit (peers bound their own time).

use super::ahead::Ahead;
use super::blocks;
use super::error::RequestError;
use super::flights::{Claim, Flights, Took};
use super::gather::{Found, Miss, Out, OutOfRange, gather, merge, unique};
use super::insight::Insight;
use super::owned::Owned;
use super::progress::Board;
use super::recorder::Recorder;
use super::stats::TableStats;
use super::steer::{Pressure, SteerSettings};
use super::timing::{self, SlowFetches, Stage, Timeline};
use super::versions::Versions;
use rudder_client::RowSources;
use rudder_core::cache::{BatchKey, CacheError, CacheSpec, Fill, TableCache};
use rudder_core::lookahead;
use rudder_dataset::Dataset;
use rudder_peers::{Class, PeerError, Peers, RequestId};
use rudder_telemetry::spans::Tracer;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Rows gathered between two looks at other work of the same thread.
const TURN_ROWS: usize = 8192;

/// Fewest rows that are worth a second thread.
const SPLIT_ROWS_MIN: usize = 16_384;

/// What the engine of a node is made of.
#[derive(Debug)]
pub struct EngineParts {
    /// The rows of this node, and with them tables and books.
    pub owned: Arc<Owned>,
    /// The way to the other nodes.
    pub peers: Arc<Peers>,
    /// The runtime that drives requests to peers.
    pub network: Handle,
    /// One per table of the dataset, in their order.
    pub caches: Vec<CacheSpec>,
    /// Threads that one large fetch may use.
    pub gather_threads: usize,
    /// What bounds lookahead.
    pub lookahead: lookahead::Settings,
    /// What bounds tool calls.
    pub steer: SteerSettings,
    /// Time from which a fetch is told of in the log; `None` for never.
    pub slow_after: Option<Duration>,
    /// Where spans of fetches go, if anywhere.
    pub tracer: Option<Arc<Tracer>>,
}

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A cache cannot be made.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A metric cannot be made.
    #[error("a metric cannot be made: {0}")]
    Metric(#[from] prometheus::Error),
}

/// Serves fetches of the trainers of a node.
#[derive(Debug)]
pub struct Engine {
    pub(super) dataset: Arc<Dataset>,
    pub(super) owned: Arc<Owned>,
    pub(super) peers: Arc<Peers>,
    pub(super) network: Handle,
    gather_threads: usize,
    pub(super) tables: Vec<TableState>,
    pub(super) board: Mutex<Board>,
    pub(super) started: Instant,
    pub(super) stall_ns: AtomicU64,
    pub(super) fetch_seconds: prometheus::Histogram,
    pub(super) steer: SteerSettings,
    pub(super) pressure: Pressure,
    pub(super) slow: SlowFetches,
    tracer: Option<Arc<Tracer>>,
    draining: AtomicBool,
}

/// What belongs to one table.
#[derive(Debug)]
pub(super) struct TableState {
    pub(super) cache: TableCache,
    pub(super) stats: TableStats,
    pub(super) flights: Flights,
    pub(super) ahead: Ahead,
    pub(super) versions: Versions,
    pub(super) insight: Insight,
    pub(super) recorder: Recorder,
}

/// One fetch, checked against the limits; its rows go to `out`.
#[derive(Debug)]
pub(super) struct Job {
    /// Who asks.
    pub(super) connection: u64,
    /// The trainer's number for it, which peers are told and logs say.
    pub(super) request: u64,
    /// Where its time goes.
    pub(super) timeline: Timeline,
    /// Number of the table.
    pub(super) table: usize,
    /// The ids, read once.
    pub(super) ids: Vec<u64>,
    /// Where the rows go.
    pub(super) out: Out,
}

/// A fetch that was answered, with what is still owed to the cache.
#[derive(Debug)]
pub(super) struct Answered {
    /// Where the rows came from.
    pub(super) sources: RowSources,
    debt: Debt,
}

impl Answered {
    /// The requests that brought its rows.
    pub(super) fn claim(&self) -> &Claim {
        &self.debt.claim
    }
}

/// Accesses to account for and rows to offer, once the trainer has been answered.
#[derive(Debug)]
struct Debt {
    hits: Vec<u32>,
    missed: Vec<u32>,
    claim: Claim,
    consumed: Option<BatchKey>,
}

/// A flight that did not bring its rows.
struct Failed {
    /// Whether the waiting fetch itself had made the request.
    own: bool,
    rows: usize,
    cause: Arc<PeerError>,
}

/// Why rows are asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A trainer waits.
    Demand,
    /// The policy wants them.
    Policy,
    /// A trainer has announced them.
    Lookahead,
    /// A tool call brings them in.
    Tool,
    /// A trainer wants them here.
    Warm,
    /// Their owner has changed them.
    Refresh,
}

impl Reason {
    /// All of them.
    pub(super) const ALL: [Reason; 6] =
        [Reason::Demand, Reason::Policy, Reason::Lookahead, Reason::Tool, Reason::Warm, Reason::Refresh];

    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Reason::Demand => "demand",
            Reason::Policy => "prefetch",
            Reason::Lookahead => "lookahead",
            Reason::Tool => "tool",
            Reason::Warm => "warm",
            Reason::Refresh => "refresh",
        }
    }
}

impl Engine {
    /// Makes the caches.
    ///
    /// # Errors
    /// [`EngineError`] when a table cannot be cached as configured.
    pub fn new(parts: EngineParts) -> Result<Arc<Self>, EngineError> {
        let state = |spec: CacheSpec| {
            Ok(TableState {
                cache: TableCache::new(spec)?,
                stats: TableStats::default(),
                flights: Flights::default(),
                ahead: Ahead::new(parts.lookahead),
                versions: Versions::new(parts.owned.dataset().parts()),
                insight: Insight::default(),
                recorder: Recorder::default(),
            })
        };
        Ok(Arc::new(Self {
            tables: parts.caches.into_iter().map(state).collect::<Result<_, CacheError>>()?,
            dataset: Arc::clone(parts.owned.dataset()),
            owned: parts.owned,
            peers: parts.peers,
            network: parts.network,
            gather_threads: parts.gather_threads.max(1),
            board: Mutex::default(),
            started: Instant::now(),
            stall_ns: AtomicU64::new(0),
            fetch_seconds: super::metrics::fetch_seconds()?,
            steer: parts.steer,
            pressure: Pressure::default(),
            slow: SlowFetches::new(parts.slow_after),
            tracer: parts.tracer,
            draining: AtomicBool::new(false),
        }))
    }

    /// Tells the cache of a table what is known before anything was asked for: pairs of id and weight.
    pub fn set_prior(&self, table: usize, weights: &[(u32, f32)]) {
        if let Some(state) = self.tables.get(table) {
            state.cache.set_prior(weights);
        }
    }

    /// Refuses fetches from now on; those under way end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    #[must_use]
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A trainer told where it is.
    pub(super) fn progress(&self, connection: u64, epoch: u32, step: u32, steps_per_epoch: u32) {
        let clock = {
            let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
            board.report(connection, epoch, step, steps_per_epoch)
        };
        self.tables.iter().for_each(|table| table.cache.tick(clock));
    }

    /// A trainer is gone.
    pub(super) fn forget_trainer(&self, connection: u64) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).remove(connection);
        self.forget_announcements(connection);
    }

    /// Epochs ended, of the mean trainer, with the share of the running one.
    pub(super) fn epochs(&self) -> f64 {
        let clock = self.board.lock().unwrap_or_else(PoisonError::into_inner).clock();
        f64::from(clock.epoch) + f64::from(clock.progress)
    }

    /// Trainers that report their progress.
    pub(super) fn trainers_reporting(&self) -> usize {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).trainers()
    }

    /// Brings all rows of `job` to their place.
    pub(super) async fn fetch(self: &Arc<Self>, job: &Arc<Job>) -> Result<Answered, RequestError> {
        let consumed = self.consume(job);
        let answered = self.bring(job, consumed).await;
        if let (Err(_), Some(batch)) = (&answered, consumed) {
            self.give_up(job.table, batch);
        }
        let stats = &self.tables[job.table].stats;
        match &answered {
            Ok(Answered { sources, .. }) => {
                stats.count(sources, consumed.is_some(), self.started);
                self.fetch_seconds.observe(job.timeline.elapsed().as_secs_f64());
            }
            Err(_) => {
                stats.failed_fetches.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.slow.see(&self.dataset.tables()[job.table].name, job, &answered);
        if let Some(tracer) = self.tracer.as_ref().filter(|tracer| tracer.traces(job.request)) {
            timing::trace(tracer, job, &answered);
        }
        answered
    }

    async fn bring(self: &Arc<Self>, job: &Arc<Job>, consumed: Option<BatchKey>) -> Result<Answered, RequestError> {
        let Found { local, hits, misses, mut unmapped } = self.gather_here(job).await?;
        job.timeline.mark(Stage::Gathered);
        unmapped.sort_unstable();
        let reading = self.read_blocks(job, unmapped);
        let mut sources = RowSources { local, cache: hits.len() as u64, ..RowSources::default() };
        let (missed, seats) = unique(&misses);
        let landed = self.land(job, &misses, (&missed, &seats)).await;
        // Before any answer, a failure too: the trainer may use the place of its rows for something else then.
        let read = reading.await;
        job.timeline.mark(Stage::Placed);
        let claim = landed?;
        if let Err(error) = read {
            self.tables[job.table].flights.retire(&claim);
            return Err(error);
        }
        sources.staged = seats.iter().filter(|&&seat| claim.was_ready(seat as usize)).count() as u64;
        sources.peer = misses.len() as u64 - sources.staged;
        let missed = missed.into_iter().map(|(id, _)| id).collect();
        Ok(Answered { sources, debt: Debt { hits, missed, claim, consumed } })
    }

    /// Copies what the shard and the cache hold; large fetches are split over threads.
    async fn gather_here(self: &Arc<Self>, job: &Arc<Job>) -> Result<Found, RequestError> {
        let rows = job.ids.len();
        let threads = self.gather_threads.min(rows / SPLIT_ROWS_MIN).max(1);
        let share = rows.div_ceil(threads).max(1);
        let mut others = Vec::new();
        for first in (share..rows).step_by(share) {
            let (engine, job) = (Arc::clone(self), Arc::clone(job));
            others.push(tokio::spawn(async move { engine.gather_run(&job, first, share).await }));
        }
        let mut found = self.gather_run(job, 0, share).await;
        for other in others {
            let part = other.await.map_err(|_| RequestError::Internal("a gather ended early"))?;
            found = merge(found, part);
        }
        let table = &self.dataset.tables()[job.table];
        found.map_err(|refused| RequestError::out_of_range(table, refused.at, refused.id))
    }

    async fn gather_run(&self, job: &Job, first: usize, rows: usize) -> Result<Found, OutOfRange> {
        let (table, owned) = (&self.dataset.tables()[job.table], self.owned.table(job.table));
        let (node, cache) = (self.dataset.node(), &self.tables[job.table].cache);
        let mut found = Found::default();
        let end = (first + rows).min(job.ids.len());
        let mut at = first;
        while at < end {
            let turn_end = (at + TURN_ROWS).min(end);
            gather(table, node, owned, cache, (at, &job.ids[at..turn_end]), &job.out, &mut found)?;
            at = turn_end;
            if at < end {
                tokio::task::yield_now().await;
            }
        }
        blocks::take_resident(table, &mut found.unmapped, &job.out).await;
        Ok(found)
    }

    /// Claims `rows` (id and owner) and asks the peers for those that nobody has asked for.
    pub(super) fn order(
        self: &Arc<Self>,
        table: usize,
        rows: &[(u32, u16)],
        reason: Reason,
        request: RequestId,
    ) -> Claim {
        let claim = self.tables[table].flights.claim(rows.iter().copied());
        for order in &claim.orders {
            let (engine, flight) = (Arc::clone(self), Arc::clone(&claim.flights[order.flight]));
            let (part, ids) = (order.part, order.ids.clone());
            // A task of its own: if the trainer that asked is killed, others may still wait for these rows.
            self.network.spawn(async move {
                let row_bytes = engine.dataset.tables()[table].row_bytes;
                let class = if reason == Reason::Demand { Class::Demand } else { Class::Bulk };
                let begun = Instant::now();
                let landing = engine.peers.fetch(part, table as u16, row_bytes, &ids, (class, request)).await;
                if landing.is_ok() {
                    engine.tables[table].stats.crossed(reason).fetch_add(ids.len() as u64, Ordering::Relaxed);
                }
                flight.land_after(
                    landing.map_err(Arc::new),
                    Took { peer: part, rows: ids.len(), elapsed: begun.elapsed() },
                );
            });
        }
        claim
    }

    /// Waits for the missing rows, asking for those that are not on their way, and copies them to their places.
    async fn land(
        self: &Arc<Self>,
        job: &Job,
        misses: &[Miss],
        (missed, seats): (&[(u32, u16)], &[u32]),
    ) -> Result<Claim, RequestError> {
        let table = &self.dataset.tables()[job.table];
        let request = RequestId(job.request);
        let mut claim = self.order(job.table, missed, Reason::Demand, request);
        if let Err(failed) = self.wait(&claim).await {
            self.tables[job.table].flights.retire(&claim);
            // A request that others had made may fail for reasons of theirs (their time was up, say): ask once more.
            let retry = if failed.own {
                Err(failed)
            } else {
                claim = self.order(job.table, missed, Reason::Demand, request);
                self.wait(&claim).await
            };
            if let Err(Failed { rows, cause, .. }) = retry {
                self.tables[job.table].flights.retire(&claim);
                return Err(RequestError::Peer { table: table.name.clone(), rows, cause });
            }
        }
        job.timeline.mark(Stage::Landed);
        for (miss, &seat) in misses.iter().zip(seats) {
            let row = claim.row(seat as usize).ok_or(RequestError::Internal("a row that landed is not there"))?;
            job.out.write(miss.at as usize * table.row_bytes, row);
        }
        Ok(claim)
    }

    /// Waits for all flights of `claim`; the time counts as stall.
    async fn wait(&self, claim: &Claim) -> Result<(), Failed> {
        let begin = Instant::now();
        let mut outcome = Ok(());
        for (at, flight) in claim.flights.iter().enumerate() {
            if let Err(cause) = flight.landing().await {
                let rows = claim.seats.iter().filter(|seat| seat.flight as usize == at).count();
                outcome = Err(Failed { own: claim.is_own(at), rows, cause: Arc::clone(cause) });
                break;
            }
        }
        if !claim.flights.is_empty() {
            self.stall_ns.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        outcome
    }

    /// Accounts for a fetch that was answered, offers its rows to the cache, and starts what is wanted next.
    pub(super) fn settle(self: &Arc<Self>, table: usize, answered: Answered) {
        let Debt { hits, missed, claim, consumed } = answered.debt;
        let state = &self.tables[table];
        if state.recorder.is_on() {
            let clock = self.board.lock().unwrap_or_else(PoisonError::into_inner).clock();
            state.recorder.record(hits.iter().chain(&missed).copied(), clock, Instant::now());
        }
        let wanted = state.cache.settle(&hits, &missed, |i| claim.fresh_row(i), consumed);
        state.flights.retire(&claim);
        if let Some(batch) = consumed {
            self.unstage(table, batch);
            self.order_ahead(table);
        }
        if !wanted.is_empty() {
            let engine = Arc::clone(self);
            self.network.spawn(async move { engine.bring_in(table, wanted, Reason::Policy, Fill::Policy).await });
        }
    }

    /// Each id with its owner.
    pub(super) fn with_owners(&self, table: usize, ids: &[u32]) -> Vec<(u32, u16)> {
        let book = &self.dataset.tables()[table].book;
        ids.iter().filter_map(|&id| book.locate(u64::from(id)).map(|location| (id, location.part))).collect()
    }

    /// Fetches absent rows that no trainer waits for, each of `wanted` once, and offers them to the cache. Answers how many
    /// took a slot.
    pub(super) async fn bring_in(
        self: &Arc<Self>,
        table: usize,
        wanted: Vec<u32>,
        reason: Reason,
        fill: Fill,
    ) -> usize {
        let state = &self.tables[table];
        let rows = self.with_owners(table, &state.flights.absent(wanted));
        let claim = self.order(table, &rows, reason, RequestId::NONE);
        for flight in &claim.flights {
            if let Err(error) = flight.landing().await {
                tracing::warn!(
                    error = rudder_telemetry::error_chain(error),
                    rows = rows.len(),
                    reason = reason.name(),
                    "rows could not be brought in"
                );
            }
        }
        let ids: Vec<u32> = rows.iter().map(|&(id, _)| id).collect();
        let filled = state.cache.fill(&ids, |i| claim.fresh_row(i), fill);
        state.flights.retire(&claim);
        filled
    }

    /// The collectors of the fetch path and the cache.
    ///
    /// # Errors
    /// When a metric cannot be made.
    pub fn collectors(self: &Arc<Self>) -> prometheus::Result<Vec<Box<dyn prometheus::core::Collector>>> {
        let mut all = super::metrics::collectors(self)?;
        all.extend(super::block_metrics::collectors(&self.dataset)?);
        Ok(all)
    }

    /// Time that trainers have waited for peers, all of them together.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        Duration::from_nanos(self.stall_ns.load(Ordering::Relaxed))
    }
}
