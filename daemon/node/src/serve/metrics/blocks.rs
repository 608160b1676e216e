//! The block cache as Prometheus sees it. It owns handles that it fills from the cache's counters when it is scraped;
//! without a block cache it has no handles.

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGauge, Opts};
use rudder_dataset::{BlockCache, BlockShard, Dataset};
use std::sync::Arc;

/// The collectors of the block cache of `dataset`; none when its shards are mapped.
pub(crate) fn collectors(dataset: &Arc<Dataset>) -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let Some(cache) = dataset.blocks() else { return Ok(Vec::new()) };
    let read_seconds = cache.read_seconds().clone();
    let last_scrape = LastScrape { dataset: Arc::clone(dataset), handles: Handles::new()?, scrape: Mutex::new(()) };
    Ok(vec![Box::new(read_seconds), Box::new(last_scrape)])
}

struct Handles {
    rows: IntCounterVec,
    reads: IntCounterVec,
    bytes: IntCounterVec,
    errors: IntCounterVec,
    wait: CounterVec,
    evicted: IntCounter,
    capacity: IntGauge,
    cached: IntGauge,
    held: IntGauge,
}

impl Handles {
    fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["table"]);
        Ok(Self {
            rows: IntCounterVec::new(
                Opts::new("rudder_block_rows_total", "Rows of this node's shard, by where their block was."),
                &["table", "source"],
            )?,
            reads: counter("rudder_block_reads_total", "Blocks read.")?,
            bytes: counter("rudder_block_read_bytes_total", "Bytes of blocks read.")?,
            errors: counter("rudder_block_read_errors_total", "Reads of blocks that failed.")?,
            wait: CounterVec::new(
                Opts::new("rudder_block_wait_seconds_total", "Time that requests waited for blocks."),
                &["table"],
            )?,
            evicted: IntCounter::new("rudder_evicted_blocks_total", "Blocks let go for others.")?,
            capacity: IntGauge::new("rudder_block_cache_capacity_bytes", "Bytes of blocks that may be kept.")?,
            cached: IntGauge::new("rudder_block_cache_bytes", "Bytes of blocks that are kept.")?,
            held: IntGauge::new("rudder_block_held_bytes", "Bytes of all blocks in memory.")?,
        })
    }

    fn all(&self) -> [&dyn Collector; 9] {
        [
            &self.rows,
            &self.reads,
            &self.bytes,
            &self.errors,
            &self.wait,
            &self.evicted,
            &self.capacity,
            &self.cached,
            &self.held,
        ]
    }

    fn take(&self, cache: &BlockCache) {
        let status = cache.status();
        self.evicted.reset();
        self.evicted.inc_by(status.evicted_blocks);
        self.capacity.set(status.capacity_bytes as i64);
        self.cached.set(status.cached_bytes as i64);
        self.held.set(status.held_bytes as i64);
    }
}

/// The handles, and in them the numbers of the last scrape.
struct LastScrape {
    dataset: Arc<Dataset>,
    handles: Handles,
    /// Scrapes come one at a time: counters are set by reset and increment.
    scrape: Mutex<()>,
}

impl Collector for LastScrape {
    fn desc(&self) -> Vec<&Desc> {
        self.handles.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.scrape.lock();
        let handles = &self.handles;
        let set = |counters: &IntCounterVec, labels: &[&str], value: u64| {
            let counter = counters.with_label_values(labels);
            counter.reset();
            counter.inc_by(value);
        };
        for table in self.dataset.tables() {
            let Some(status) = table.shard.blocks().map(BlockShard::status) else { continue };
            let name = table.name.as_str();
            set(&handles.rows, &[name, "resident"], status.resident_rows);
            set(&handles.rows, &[name, "awaited"], status.awaited_rows);
            set(&handles.reads, &[name], status.reads);
            set(&handles.bytes, &[name], status.read_bytes);
            set(&handles.errors, &[name], status.read_errors);
            let wait = handles.wait.with_label_values(&[name]);
            wait.reset();
            wait.inc_by(status.wait_seconds);
        }
        if let Some(cache) = self.dataset.blocks() {
            handles.take(cache);
        }
        handles.all().into_iter().flat_map(Collector::collect).collect()
    }
}
