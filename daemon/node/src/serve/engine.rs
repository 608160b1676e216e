//! The engine of a node: the parts that serve its trainers, put together. It owns the parts and whether the daemon
//! drains; what they do is theirs.

use crate::memory::MemoryReading;
use crate::recording::{TraceAnswer, TraceCall, TraceError};
use crate::serve::base::Base;
use crate::serve::books::batches::{Batches, PartIds};
use crate::serve::books::bookkeeper::Books;
use crate::serve::books::desk::{Entry, Intent};
use crate::serve::error::RequestError;
use crate::serve::fetch::fetcher::{Fetcher, FetcherParts};
use crate::serve::fetch::job::{Answered, Job};
use crate::serve::own::owned::Owned;
use crate::serve::settings::SteerSettings;
use crate::serve::survey::survey;
use crate::serve::table::TableState;
use crate::serve::tools::memory::Memory;
use crate::serve::tools::steward::Steward;
use crate::serve::trainers::{Membership, Trainers};
use crate::serve::versions::refresh::Refresher;
use crate::serve::versions::update::{NewRows, Updater};
use futures_util::future::join_all;
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use rudder_core::cache::{CacheError, CacheSpec};
use rudder_core::lookahead::{self, TrainerId};
use rudder_peers::Peers;
use rudder_telemetry::spans::Tracer;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

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
    /// Time from which a fetch gets a line in the log; `None` for never.
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
    /// No thread for the bookkeeping of a table.
    #[error("the kernel gives no thread for the bookkeeping of a table: {0}")]
    Thread(#[source] io::Error),
}

/// Serves fetches of the trainers of a node.
#[derive(Debug)]
pub struct Engine {
    pub(crate) base: Arc<Base>,
    pub(crate) books: Books,
    pub(crate) batches: Arc<Batches>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) trainers: Arc<Trainers>,
    pub(crate) memory: Arc<Memory>,
    refresher: Refresher,
    updater: Updater,
    steward: Steward,
    draining: AtomicBool,
}

impl Engine {
    /// Makes the caches and starts their bookkeepers.
    ///
    /// # Errors
    /// [`EngineError`] when a table cannot be cached as configured.
    pub fn new(parts: EngineParts) -> Result<Arc<Self>, EngineError> {
        let EngineParts { owned, peers, network, caches, lookahead, steer, .. } = parts;
        let dataset = Arc::clone(owned.dataset());
        let tables = caches.into_iter().map(|spec| TableState::new(spec, dataset.parts())).collect::<Result<_, _>>()?;
        let base = Arc::new(Base { dataset, owned, peers, network, tables, started: Instant::now() });
        let batches = Arc::new(Batches::new(lookahead.rows_max, lookahead.expire_ms));
        let books = Books::start(&base, lookahead, &batches).map_err(EngineError::Thread)?;
        let of_fetches = FetcherParts {
            gather_threads: parts.gather_threads,
            seconds: crate::serve::fetch::timing::fetch_seconds()?,
            slow_after: parts.slow_after,
            tracer: parts.tracer,
        };
        let (refresher, memory) = (Refresher::new(&base), Arc::new(Memory::new(&base, steer)));
        Ok(Arc::new(Self {
            fetcher: Arc::new(Fetcher::new(&base, books.desks(), of_fetches)),
            trainers: Arc::new(Trainers::new(books.desks(), &batches)),
            steward: Steward::new(&base, books.desks(), &refresher, &memory, Duration::from_millis(steer.tool_wait_ms)),
            updater: Updater::new(&base),
            draining: AtomicBool::new(false),
            base,
            batches,
            books,
            memory,
            refresher,
        }))
    }

    /// Tells the cache of a table what is known before anything was asked for: pairs of id and weight.
    pub fn set_prior(&self, table: usize, weights: &[(u32, f32)]) {
        if let Some(state) = self.base.tables.get(table) {
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

    /// Ends the bookkeeping, and waits for what is being worked off. Blocks.
    pub(crate) fn end(&self) {
        self.books.end();
    }

    /// Brings all rows of `job` to their place. The answer must be accounted for.
    pub(crate) async fn fetch(&self, job: &Arc<Job>) -> Result<Answered, RequestError> {
        self.fetcher.fetch(job).await
    }

    /// Hands a fetch that was answered to its table's bookkeeper; waits while the bookkeeper has too much to do.
    pub(crate) async fn account(&self, table: usize, Answered { account, .. }: Answered) {
        let recorder = &self.base.tables[table].recorder;
        if recorder.is_on() {
            let ids = account.hits.iter().chain(&account.missed).copied();
            recorder.record(ids, self.trainers.progress().clock, Instant::now());
        }
        self.books.desk(table).put(Entry::Account(account)).await;
    }

    /// Keeps the ids of a batch for the fetch that names it.
    pub(crate) fn hold(&self, trainer: TrainerId, batch: u64, parts: &[(usize, PartIds)]) {
        self.batches.put(trainer, batch, parts, self.base.now_ms());
    }

    /// A trainer will fetch these ids at its `step`. Announcements are taken in the order in which these calls were
    /// first polled. One that is refused is forgotten.
    pub(crate) async fn announce(
        &self,
        member: &Membership,
        batch: u64,
        step: Option<u64>,
        parts: Vec<(usize, PartIds)>,
    ) -> Result<(), RequestError> {
        let trainer = member.id();
        let taken =
            join_all(parts.into_iter().map(|(table, ids)| self.announce_part(trainer, batch, step, table, ids)));
        let outcome: Result<(), RequestError> = taken.await.into_iter().collect();
        if outcome.is_err() {
            self.batches.forget(trainer, batch);
        }
        outcome
    }

    async fn announce_part(
        &self,
        trainer: TrainerId,
        batch: u64,
        step: Option<u64>,
        table: usize,
        ids: PartIds,
    ) -> Result<(), RequestError> {
        let (taken, answer) = oneshot::channel();
        self.books.desk(table).put(Entry::Announce(Intent { trainer, batch, step, ids, taken })).await;
        match answer.await {
            Ok(outcome) => outcome,
            Err(_) if self.is_draining() => Err(RequestError::Draining),
            Err(_) => Err(RequestError::Internal("the bookkeeping of the table has ended")),
        }
    }

    /// Batches that trainers should announce ahead for a table.
    pub(crate) fn horizon(&self, table: usize) -> u32 {
        self.books.lookahead(table).horizon
    }

    /// Writes rows through to their owners. When it returns, every fetch of this node gets the new rows. Answers their
    /// number.
    pub(crate) async fn update(&self, new: NewRows) -> Result<u64, RequestError> {
        self.updater.update(new).await
    }

    /// Looks after versions for as long as the daemon lives: owners that were restarted, and the bound on staleness.
    pub fn keep_fresh(&self, staleness_max: Option<Duration>) {
        self.refresher.keep_fresh(staleness_max);
    }

    /// Carries out a tool call.
    ///
    /// # Errors
    /// [`ToolError`] naming the argument or table.
    pub async fn tool(self: &Arc<Self>, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        if self.is_draining() {
            return Err(ToolError::NotServing { tool: call.tool(), why: "the daemon is draining".to_owned() });
        }
        self.steward.call(call).await
    }

    /// Takes note of how full memory is at the start, and lowers capacities that do not fit into it.
    pub fn fit(&self, reading: MemoryReading) {
        self.memory.fit(reading);
    }

    /// Takes note of how full memory is, and gives some back if it runs short. Answers the bytes of rows that were let
    /// go. Blocks.
    pub fn relieve(&self, reading: MemoryReading) -> u64 {
        self.memory.relieve(reading)
    }

    /// Fetches answered since the start.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetcher.seconds().get_sample_count()
    }

    /// Sets the gauges that the agent looks at: takes a while, and asks every owner.
    pub async fn survey(&self) {
        survey(&self.base).await;
    }

    /// Records accesses, or hands out what was recorded.
    ///
    /// # Errors
    /// [`TraceError`] naming the table.
    pub fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError> {
        let name = call.table();
        let tables = self.base.dataset.tables();
        let Some(at) = tables.iter().position(|table| table.name == name) else {
            let known = rudder_client::listed(name, tables.iter().map(|table| table.name.as_str()));
            return Err(TraceError::UnknownTable { table: name.to_owned(), known });
        };
        let (recorder, now) = (&self.base.tables[at].recorder, Instant::now());
        let idle = || TraceError::NotRecording { table: name.to_owned() };
        let (minibatches, dropped) = match call {
            TraceCall::Start { .. } if !recorder.start(now) => {
                return Err(TraceError::Busy { table: name.to_owned() });
            }
            TraceCall::Start { .. } => Default::default(),
            TraceCall::Take { .. } => recorder.take(now).ok_or_else(idle)?,
            TraceCall::Stop { .. } if !recorder.stop() => return Err(idle()),
            TraceCall::Stop { .. } => Default::default(),
        };
        let progress = self.trainers.progress();
        Ok(TraceAnswer {
            universe: tables[at].rows,
            node: self.base.dataset.node().0,
            trainers: progress.trainers,
            steps_per_epoch: progress.steps_per_epoch,
            minibatches,
            dropped,
        })
    }
}
