//! A running node: opens the dataset, starts the peers, makes the caches, serves the local socket, and takes all of it
//! down again in the opposite order. It owns the threads. It must never serve before everything under it stands.

mod pulse;
mod steering;

use crate::config::{Access, CacheConfig, Config, DatasetConfig, Policy};
use crate::daemon::{Answer, Daemon};
use crate::memory::MemorySource;
use crate::recording::{TraceAnswer, TraceCall, TraceError};
use crate::serve::{
    Engine, EngineError, EngineParts, LocalServer, Owned, OwnedError, ServeError, ShardSource, StatusText,
    engine_status,
};
use parking_lot::Mutex;
use prometheus::core::Collector;
use pulse::Pulse;
use rudder_agent::classifier::ClassifierError;
use rudder_agent::journal::Decision;
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use rudder_core::cache::CacheSpec;
use rudder_dataset::{Dataset, DatasetError, Origin, Part, Table, Verify};
use rudder_peers::{Identity, PeerError, Peers};
use rudder_settings::Invalid;
use rudder_telemetry::spans::Tracer;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use steering::Steering;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// What a caller reads who asks a node that has ended.
const STOPPED: &str = "the daemon has stopped";

/// Most threads that one large fetch uses unless configured: beyond, memory is the limit.
const GATHER_THREADS_AUTO_MAX: usize = 4;

/// A node that serves.
pub struct Node {
    config: Config,
    dataset: Arc<Dataset>,
    engine: Arc<Engine>,
    peers: Arc<Peers>,
    local: LocalServer,
    collectors: Collectors,
    /// Stopped first: it calls tools.
    agent: SharedAgent,
    serving: AtomicBool,
    started: Instant,
    tracer: Option<Arc<Tracer>>,
    /// Of each runtime.
    pulses: [Pulse; 2],
    /// Taken down last; `Option` so that `drop` can do it without waiting.
    runtimes: [Option<Runtime>; 2],
}

/// The agent, once it runs; whoever asks for the status of the node sees it, too.
type SharedAgent = Arc<Mutex<Option<Steering>>>;

/// Handles made once, given out at each call.
type Collectors = Box<dyn Fn() -> Vec<Box<dyn Collector>> + Send + Sync>;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key does not fit the dataset.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// A key names a table that is not there.
    #[error("cache.tables.{name}: the dataset has no such table; it has {known}")]
    UnknownTable {
        /// The name in the configuration.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The policy `static` has nothing to choose by.
    #[error(
        "cache.policy = \"static\": nothing tells which rows of table `{table}` are asked for most; it needs cache.degrees = \
         true and a dataset that holds its graph (`rudder import edges`)"
    )]
    NoDegrees {
        /// The table.
        table: String,
    },
    /// The dataset cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The way to the other nodes cannot be opened.
    #[error(transparent)]
    Peers(#[from] PeerError),
    /// No room for updates.
    #[error(transparent)]
    Owned(#[from] OwnedError),
    /// The fetch path cannot be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The local socket cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The agent cannot be started.
    #[error("the agent cannot be started")]
    Agent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The classifier of `agent.controller` cannot be used.
    #[error("agent.controller: the classifier cannot be used")]
    Classifier(#[from] ClassifierError),
    /// No threads.
    #[error("the kernel gives no threads")]
    Threads(#[from] io::Error),
}

impl Node {
    /// Starts a node; blocks until it serves.
    ///
    /// # Errors
    /// [`StartError`], which names the key, file, address or peer at fault.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let started = Instant::now();
        let dataset = Arc::new(open_dataset(&config)?);
        config.validate_against(dataset.parts())?;
        check_table_names(&config.cache, &dataset)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let network = runtime("rudder-net", cores)?;
        let serving = runtime("rudder-serve", or_else(config.local.threads, cores))?;
        let identity = Identity { node: dataset.node().0, parts: dataset.parts(), fingerprint: dataset.fingerprint() };
        let owned = Owned::new(Arc::clone(&dataset), config.dataset.updates_bytes_max)?;
        let peers = {
            let _inside = network.enter();
            let source = Arc::new(ShardSource::new(Arc::clone(&owned)));
            Peers::start(&config.peers, identity, source)?
        };
        let tracer = Tracer::start(&config.log, dataset.node().0);
        if let Some(tracer) = &tracer {
            peers.trace_with(Arc::clone(tracer));
        }
        let engine = Engine::new(EngineParts {
            owned,
            peers: Arc::clone(&peers),
            network: network.handle().clone(),
            caches: dataset.tables().iter().map(|table| cache_spec(&config.cache, &dataset, table)).collect(),
            lookahead: config.lookahead,
            steer: config.cache.steer,
            tracer: tracer.clone(),
            slow_after: (config.log.slow_fetch_ms > 0).then_some(Duration::from_millis(config.log.slow_fetch_ms)),
            gather_threads: or_else(config.local.gather_threads, cores.min(GATHER_THREADS_AUTO_MAX)),
        })?;
        watch_memory(&config.cache, &engine, &network);
        set_priors(&config.cache, &dataset, &engine)?;
        let staleness_max = Some(config.cache.staleness_max_ms).filter(|&bound| bound > 0).map(Duration::from_millis);
        engine.keep_fresh(staleness_max);
        let agent = SharedAgent::default();
        let status = status_text(&config, &dataset, &engine, &peers, &agent, started);
        let local = {
            let _inside = serving.enter();
            LocalServer::start(Arc::clone(&engine), config.local.clone(), status)?
        };
        tracing::info!(
            node = dataset.node().0,
            parts = dataset.parts(),
            dataset = dataset.name(),
            socket = %config.local.socket.display(),
            "serving"
        );
        let collectors = collectors(&engine, &peers)?;
        let steering = steering::start_agent(&config, &dataset, &engine, network.handle(), collectors())?;
        *agent.lock() = steering;
        let pulses = [Pulse::of(serving.handle()), Pulse::of(network.handle())];
        let runtimes = [Some(serving), Some(network)];
        let serving = AtomicBool::new(true);
        Ok(Self {
            config,
            dataset,
            engine,
            peers,
            local,
            collectors,
            agent,
            serving,
            started,
            tracer,
            pulses,
            runtimes,
        })
    }
}

impl Daemon for Node {
    fn status(&self) -> Value {
        status(&self.config, &self.dataset, &self.engine, &self.peers, &self.agent, self.started)
    }

    fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.agent.lock().as_ref().map(|steering| steering.agent.decisions(limit)).unwrap_or_default()
    }

    fn ready(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    fn trace(&self, call: TraceCall) -> Answer<Result<TraceAnswer, TraceError>> {
        let engine = Arc::clone(&self.engine);
        let [_, network] = &self.runtimes;
        // A recording is copied out under its lock.
        let begun = network.as_ref().map(|network| network.spawn_blocking(move || engine.trace(&call)));
        let stopped = || TraceError::NotServing(STOPPED.to_owned());
        Box::pin(async move { ended(begun).await.unwrap_or_else(|| Err(stopped())) })
    }

    fn tool(&self, call: ToolCall) -> Answer<Result<ToolAnswer, ToolError>> {
        let (engine, tool) = (Arc::clone(&self.engine), call.tool());
        let [_, network] = &self.runtimes;
        // On the threads of the network, whose timers and tasks the engine uses.
        let begun = network.as_ref().map(|network| network.spawn(async move { engine.tool(call).await }));
        let stopped = move || ToolError::NotServing { tool, why: STOPPED.to_owned() };
        Box::pin(async move { ended(begun).await.unwrap_or_else(|| Err(stopped())) })
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut all = (self.collectors)();
        all.extend(self.local.collectors());
        all.extend(self.agent.lock().as_ref().map(|steering| steering.agent.collectors()).unwrap_or_default());
        all
    }

    fn alive(&self, within: Duration) -> bool {
        self.pulses.iter().all(|pulse| pulse.beats(within))
    }

    fn shutdown(&self, deadline: Duration) {
        self.serving.store(false, Ordering::Release);
        // Taken out first: who asks for the status does not wait for it. It ends while the sessions do.
        let mut agent = self.agent.lock().take();
        if let Some(steering) = &mut agent {
            steering.agent.end();
        }
        let end = Instant::now() + deadline;
        if let [Some(serving), Some(network)] = &self.runtimes {
            serving.block_on(self.local.shutdown(deadline));
            network.block_on(self.peers.shutdown(end.saturating_duration_since(Instant::now())));
        }
        drop(agent);
        if let Some(tracer) = &self.tracer {
            tracer.flush(end);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let agent = self.agent.lock().take();
        drop(agent);
        for runtime in &mut self.runtimes {
            if let Some(runtime) = runtime.take() {
                runtime.shutdown_background();
            }
        }
    }
}

fn open_dataset(config: &Config) -> Result<Dataset, StartError> {
    let DatasetConfig { path, verify, access, blocks, .. } = &config.dataset;
    let blocks = (*access == Access::Blocks).then_some(*blocks);
    let begin = Instant::now();
    if config.node.index.is_none() {
        // Of several partitions, nothing says which to open. To find out, no file needs to be read through.
        config.validate_against(Dataset::open(path, Part(0), Verify::Shape, &|_, _| ())?.parts())?;
    }
    let dataset = Dataset::open_with(path, Part(config.node.index()), *verify, blocks, &|done, total| {
        tracing::debug!(done, total, "checking the dataset");
    })?;
    let elapsed_ms = begin.elapsed().as_millis() as u64;
    match dataset.origin() {
        Origin::Folder => tracing::info!(elapsed_ms, ?verify, "dataset opened"),
        Origin::DistDgl => tracing::info!(
            elapsed_ms,
            copied_bytes = 0,
            verified = "shape",
            "DistDGL partition opened, to be served where it lies; it has no checksums that dataset.verify could check"
        ),
    }
    Ok(dataset)
}

fn check_table_names(config: &CacheConfig, dataset: &Dataset) -> Result<(), StartError> {
    match config.tables.keys().find(|name| dataset.table(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let known = rudder_client::listed(name, dataset.tables().iter().map(|table| table.name.as_str()));
            Err(StartError::UnknownTable { name: name.clone(), known })
        }
    }
}

/// What came of `begun`; nothing where the runtime is gone. A panic goes on.
async fn ended<T>(begun: Option<JoinHandle<T>>) -> Option<T> {
    match begun?.await {
        Ok(answer) => Some(answer),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

fn or_else(configured: usize, automatic: usize) -> usize {
    if configured == 0 { automatic } else { configured }
}

fn cache_spec(config: &CacheConfig, dataset: &Dataset, table: &Table) -> CacheSpec {
    let (capacity, policy) = config.for_table(&table.name);
    let remote_rows = table.rows - table.book.owned(dataset.node());
    let (wished, rows_max) = (capacity.rows(remote_rows, table.row_bytes), config.rows_max(table.rows));
    let ceiling = config.ceiling_of(&table.name).rows(remote_rows, table.row_bytes);
    let held = |rows: u64| usize::try_from(rows.min(rows_max)).unwrap_or(usize::MAX);
    if wished > rows_max && policy != Policy::None {
        tracing::warn!(
            table = table.name,
            rows = wished,
            rows_max,
            "cache.capacity is more than half of cache.tracked_rows_max, which holds for tables of 2^32 rows and more: \
             fewer rows are cached"
        );
    }
    CacheSpec {
        table_rows: table.rows,
        row_bytes: table.row_bytes,
        capacity_rows: held(wished),
        ceiling_rows: held(ceiling),
        tracked_rows_max: config.tracked_rows_max,
        policy: policy.with(config.policy_settings()),
        seed: config.seed,
    }
}

/// Fits the caches into the memory there is, and looks at it from then on, for as long as the engine is there.
fn watch_memory(config: &CacheConfig, engine: &Arc<Engine>, network: &Runtime) {
    if config.memory_poll_ms == 0 {
        return;
    }
    let source = MemorySource::find(Some(config.cgroup.as_path()).filter(|dir| !dir.as_os_str().is_empty()));
    if let Some(reading) = source.read() {
        engine.fit(reading);
    }
    let (engine, pause) = (Arc::downgrade(engine), Duration::from_millis(config.memory_poll_ms));
    network.spawn(async move {
        loop {
            tokio::time::sleep(pause).await;
            let (Some(engine), source) = (engine.upgrade(), source.clone()) else { return };
            let relieved = tokio::task::spawn_blocking(move || source.read().map(|reading| engine.relieve(reading)));
            if relieved.await.is_err() {
                tracing::error!("looking at the memory failed");
            }
        }
    });
}

/// Tells the caches the edges from this partition to each remote vertex, where the dataset holds its graph.
fn set_priors(config: &CacheConfig, dataset: &Dataset, engine: &Engine) -> Result<(), StartError> {
    for (at, table) in dataset.tables().iter().enumerate() {
        let policy = config.for_table(&table.name).1.with(config.policy_settings());
        if !policy.uses_prior() {
            continue;
        }
        let degrees = if config.degrees { dataset.remote_degrees(table)? } else { None };
        match degrees {
            Some(degrees) => engine.set_prior(at, &degrees),
            None if policy.needs_prior() => return Err(StartError::NoDegrees { table: table.name.clone() }),
            None => {}
        }
    }
    Ok(())
}

fn collectors(engine: &Arc<Engine>, peers: &Arc<Peers>) -> Result<Collectors, StartError> {
    // Made once here so that a defect shows at the start; each later call makes handles over the same counters.
    crate::serve::collectors(engine).map_err(EngineError::from)?;
    let (engine, peers) = (Arc::clone(engine), Arc::clone(peers));
    Ok(Box::new(move || {
        let mut all = crate::serve::collectors(&engine).unwrap_or_default();
        all.extend(peers.collectors());
        all
    }))
}

fn status_text(
    config: &Config,
    dataset: &Arc<Dataset>,
    engine: &Arc<Engine>,
    peers: &Arc<Peers>,
    agent: &SharedAgent,
    started: Instant,
) -> StatusText {
    let (config, dataset, engine, peers) = (config.clone(), Arc::clone(dataset), Arc::clone(engine), Arc::clone(peers));
    let agent = Arc::clone(agent);
    Arc::new(move || status(&config, &dataset, &engine, &peers, &agent, started).to_string())
}

/// What the node says of itself, whoever asks and however.
fn status(
    config: &Config,
    dataset: &Dataset,
    engine: &Engine,
    peers: &Peers,
    agent: &SharedAgent,
    started: Instant,
) -> Value {
    let mut status = status_without_agent(config, dataset, engine, peers, started);
    if let (Value::Object(fields), Some(agent)) = (&mut status, &*agent.lock()) {
        fields.insert("agent".to_owned(), agent.status());
    }
    status
}

fn status_without_agent(config: &Config, dataset: &Dataset, engine: &Engine, peers: &Peers, started: Instant) -> Value {
    let serving = engine_status(engine);
    let blocks = dataset.blocks().map(|cache| cache.status());
    let sum = |field: fn(&crate::serve::TableStatus) -> u64| serving.tables.iter().map(field).sum::<u64>();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": dataset.node(),
        "parts": dataset.parts(),
        "dataset": dataset.name(),
        "fingerprint": format!("{:016x}", dataset.fingerprint()),
        "uptime_seconds": started.elapsed().as_secs_f64(),
        "draining": engine.is_draining(),
        "socket": config.local.socket,
        "peers_address": peers.local_addr(),
        "trainers_reporting": serving.trainers_reporting,
        "scores": serving.scores,
        "stall_seconds": serving.stall_seconds,
        "memory": {
            "resident_bytes": resident_bytes(),
            "cache_bytes": sum(|table| table.cache_bytes),
            "bookkeeping_bytes": sum(|table| table.bookkeeping_bytes),
            "updated_bytes": sum(|table| table.versions.updated_bytes),
            "network_buffer_bytes": peers.pooled_bytes(),
            "block_cache_bytes": blocks.map_or(0, |blocks| blocks.held_bytes),
            "limit_bytes": serving.memory.limit_bytes,
            "used_bytes": serving.memory.used_bytes,
            "pressure_shrinks": serving.memory.pressure_shrinks,
        },
        "blocks": blocks,
        "tables": serving.tables,
        "peers": peers.status(),
        "peer_totals": peers.stats().totals,
    })
}

/// Memory of this process that is in RAM, as the kernel counts it; pages of mapped shards included.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
