//! What the fetch path says of itself on `/v1/status` and to clients. Field names are an interface: see
//! `docs/operations.md`.

use crate::serve::books::announcements::LookaheadState;
use crate::serve::engine::Engine;
use crate::serve::table::reason::Reason;
use crate::serve::table::stats::TableStats;
use rudder_dataset::{BlockShard, BlockShardStatus};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The state of one table's serving.
#[derive(Debug, Clone, Serialize)]
pub struct TableStatus {
    /// Name.
    pub name: String,
    /// Vertex type whose ids index it.
    pub vertex_type: String,
    /// Whether the import gave these vertices other ids than they have in their source.
    pub renumbered: bool,
    /// Whether they can be found by names.
    pub named: bool,
    /// Element type.
    pub dtype: &'static str,
    /// Elements per row.
    pub width: u32,
    /// Shape of a row; empty where a row is one number.
    pub shape: Vec<u32>,
    /// Rows over all nodes.
    pub rows: u64,
    /// Rows that this node owns.
    pub local_rows: u64,
    /// Policy of the cache.
    pub policy: &'static str,
    /// Rows the cache may hold.
    pub capacity_rows: usize,
    /// Rows that configuration and memory allow it now.
    pub ceiling_rows: u64,
    /// Rows it holds.
    pub cached_rows: u64,
    /// Their bytes.
    pub cache_bytes: u64,
    /// Bytes of index and slots.
    pub bookkeeping_bytes: u64,
    /// Share of remote rows of the last minute that were cached.
    pub hit_ratio: Option<f64>,
    /// Rows answered to trainers, by where they came from.
    pub fetched: FetchedRows,
    /// Rows that peers sent to this node.
    pub network: NetworkRows,
    /// What became of announced batches.
    pub lookahead: LookaheadStatus,
    /// Updates, and how new the rows of other nodes are.
    pub versions: VersionsStatus,
    /// Rows that lost their slot to another.
    pub evicted_rows: u64,
    /// Rows that lost their slot because the cache shrank.
    pub shrunk_rows: u64,
    /// Rows in hand that were not worth a slot.
    pub refused_rows: u64,
    /// Times that the accesses were found shifted and history was forgotten.
    pub shifts: u64,
    /// Fetches that failed.
    pub failed_fetches: u64,
    /// The blocks of this node's shard; absent when it is mapped.
    pub blocks: Option<BlockShardStatus>,
}

/// Rows answered to trainers since the start; duplicates count each time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FetchedRows {
    /// From this node's shard.
    pub local: u64,
    /// From the cache.
    pub cache: u64,
    /// Here before it was asked for, outside the cache: announced and brought in, or just fetched by another trainer.
    pub staged: u64,
    /// From a peer, while a trainer waited.
    pub peer: u64,
}

/// Rows that crossed the network to this node since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NetworkRows {
    /// Because a trainer waited for them.
    pub demand_rows: u64,
    /// Because the policy wanted them.
    pub prefetch_rows: u64,
    /// Because a trainer had announced them.
    pub lookahead_rows: u64,
    /// Because their owner had changed them.
    pub refresh_rows: u64,
    /// Because a tool call brought them in.
    pub tool_rows: u64,
    /// Because a trainer wanted them here before it used them.
    pub warm_rows: u64,
    /// Bytes of all of them, without headers.
    pub bytes: u64,
}

/// Announcements since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LookaheadStatus {
    /// Batches announced.
    pub announced_batches: u64,
    /// Of them, batches that were fetched.
    pub used_batches: u64,
    /// Of those, batches whose ids came in another order than announced.
    pub reordered_batches: u64,
    /// Announced batches that never were fetched.
    pub expired_batches: u64,
    /// Rows not brought in ahead because the budget was spent.
    pub over_budget_rows: u64,
    /// Announced rows that wait now.
    pub waiting_rows: usize,
    /// Announced batches that rows are held for now, outside the cache.
    pub staged_batches: usize,
    /// Batches that trainers are asked to announce ahead now.
    pub horizon: u32,
}

/// Updates and versions since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct VersionsStatus {
    /// Updates of this node's trainers.
    pub updates: u64,
    /// Rows in them.
    pub update_rows: u64,
    /// Updates of this node's trainers that failed, whole or in part.
    pub failed_updates: u64,
    /// Updates applied to rows of this node, whoever made them.
    pub applied_updates: u64,
    /// Rows in those.
    pub applied_rows: u64,
    /// Rows of this node that are held beside the shard because they were updated.
    pub updated_rows: u64,
    /// Their bytes.
    pub updated_bytes: u64,
    /// Age of the least recently validated rows; absent while nothing is held.
    pub revalidation_age_seconds: Option<f64>,
    /// Cached rows that their owner had changed.
    pub stale_rows: u64,
    /// Of them, rows fetched again.
    pub repulled_rows: u64,
    /// Cached rows thrown out because their owner could not be asked in time.
    pub expired_rows: u64,
    /// Times that an owner could not be asked for its changes.
    pub failed_refreshes: u64,
}

/// How full memory is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryStatus {
    /// Limit of the cgroup, or memory of the machine; 0 while unknown.
    pub limit_bytes: u64,
    /// In use under that limit, without pages of files.
    pub used_bytes: u64,
    /// Times that memory ran short and caches were shrunk.
    pub pressure_shrinks: u64,
}

/// The state of the fetch path.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    /// Per table.
    pub tables: Vec<TableStatus>,
    /// Time that trainers waited for peers, all together.
    pub stall_seconds: f64,
    /// Memory under the limit of the cgroup or machine, when it was last looked at.
    pub memory: MemoryStatus,
    /// Trainers that report their progress; while 0, EPOCH scores fall back to decayed frequency.
    pub trainers_reporting: usize,
    /// What the scores of policy `epoch` are made of now: `progress` or `frequency`.
    pub scores: &'static str,
}

/// A snapshot of the counters of an engine.
#[must_use]
pub fn engine_status(engine: &Engine) -> EngineStatus {
    let (trainers_reporting, reading) = (engine.trainers.progress().trainers, engine.memory.reading());
    EngineStatus {
        tables: (0..engine.base.tables.len()).map(|at| table_status(engine, at)).collect(),
        stall_seconds: engine.fetcher.stalled().as_secs_f64(),
        memory: MemoryStatus {
            limit_bytes: reading.limit_bytes,
            used_bytes: reading.used_bytes,
            pressure_shrinks: engine.memory.shrinks(),
        },
        trainers_reporting,
        scores: if trainers_reporting > 0 { "progress" } else { "frequency" },
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn table_status(engine: &Engine, at: usize) -> TableStatus {
    let (table, state) = (engine.base.table(at), &engine.base.tables[at]);
    let (stats, cache) = (&state.stats, &state.cache);
    TableStatus {
        name: table.name.clone(),
        vertex_type: table.vertex_type.clone(),
        renumbered: table.ids.is_some(),
        named: table.names.is_some(),
        dtype: table.form.dtype().name(),
        width: table.form.width(),
        shape: table.form.shape().to_vec(),
        rows: table.rows,
        local_rows: table.shard.rows(),
        policy: cache.spec().policy.name(),
        capacity_rows: cache.capacity_rows(),
        ceiling_rows: engine.memory.ceiling(at).0,
        cached_rows: cache.used_rows(),
        cache_bytes: cache.row_bytes_held(),
        bookkeeping_bytes: cache.bookkeeping_bytes(),
        hit_ratio: stats.hit_ratio(engine.base.started),
        fetched: FetchedRows {
            local: read(&stats.local_rows),
            cache: read(&stats.cache_rows),
            staged: read(&stats.staged_rows),
            peer: read(&stats.peer_rows),
        },
        network: network_rows(stats, table.row_bytes),
        lookahead: lookahead_status(engine, at),
        versions: versions_status(engine, at),
        evicted_rows: read(&cache.stats().evicted_rows),
        shrunk_rows: read(&cache.stats().shrunk_rows),
        refused_rows: read(&cache.stats().refused_rows),
        shifts: read(&cache.stats().shifts),
        failed_fetches: read(&stats.failed_fetches),
        blocks: table.shard.blocks().map(BlockShard::status),
    }
}

fn network_rows(stats: &TableStats, row_bytes: usize) -> NetworkRows {
    let crossed = |reason| read(stats.crossed(reason));
    NetworkRows {
        demand_rows: crossed(Reason::Demand),
        prefetch_rows: crossed(Reason::Policy),
        lookahead_rows: crossed(Reason::Lookahead),
        refresh_rows: crossed(Reason::Refresh),
        tool_rows: crossed(Reason::Tool),
        warm_rows: crossed(Reason::Warm),
        bytes: Reason::ALL.into_iter().map(crossed).sum::<u64>() * row_bytes as u64,
    }
}

fn lookahead_status(engine: &Engine, at: usize) -> LookaheadStatus {
    let LookaheadState { counts, waiting_rows, horizon, staged_batches } = engine.books.lookahead(at);
    LookaheadStatus {
        announced_batches: counts.announced,
        used_batches: counts.used,
        reordered_batches: counts.reordered,
        expired_batches: counts.expired,
        over_budget_rows: counts.over_budget_rows,
        waiting_rows,
        staged_batches,
        horizon,
    }
}

/// Updates of a table and how new its rows are.
pub(crate) fn versions_status(engine: &Engine, at: usize) -> VersionsStatus {
    engine.base.note_first_connections(at);
    let (versions, applied) = (&engine.base.tables[at].versions, engine.base.owned.table(at).counts());
    let counts = &versions.counts;
    VersionsStatus {
        updates: read(&counts.updates),
        update_rows: read(&counts.update_rows),
        failed_updates: read(&counts.failed_updates),
        applied_updates: applied.updates,
        applied_rows: applied.rows,
        updated_rows: applied.held_rows,
        updated_bytes: applied.held_bytes,
        revalidation_age_seconds: versions.age(Instant::now()).map(|age| age.as_secs_f64()),
        stale_rows: read(&counts.stale_rows),
        repulled_rows: read(&counts.repulled_rows),
        expired_rows: read(&counts.expired_rows),
        failed_refreshes: read(&counts.failed_refreshes),
    }
}
