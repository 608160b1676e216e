//! The fetch path and the cache as Prometheus sees them. It owns handles that it fills from the engine's counters when
//! it is scraped, and must never be on the fetch path.

use crate::serve::engine::Engine;
use crate::serve::table::TableState;
use crate::serve::table::reason::Reason;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use rudder_core::cache::Fill;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The collectors of an engine.
pub(crate) fn collectors(engine: &Arc<Engine>) -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let last_scrape = LastScrape { engine: Arc::clone(engine), handles: Handles::new()?, scrape: Mutex::new(()) };
    Ok(vec![Box::new(engine.fetcher.seconds().clone()), Box::new(last_scrape)])
}

struct Handles {
    fetched: IntCounterVec,
    failed: IntCounterVec,
    network: IntCounterVec,
    fills: IntCounterVec,
    refused: IntCounterVec,
    evicted: IntCounterVec,
    shifts: IntCounterVec,
    announced: IntCounterVec,
    reordered: IntCounterVec,
    waiting: IntGaugeVec,
    staged: IntGaugeVec,
    stall: Counter,
    hit_ratio: GaugeVec,
    rows: IntGaugeVec,
    capacity: IntGaugeVec,
    bytes: IntGaugeVec,
    trainers: IntGauge,
    ceiling: IntGaugeVec,
    memory_limit: IntGauge,
    memory_used: IntGauge,
    pressure: IntCounter,
    slow: IntCounter,
    epochs: Gauge,
    late: IntCounterVec,
    cold: GaugeVec,
    spent: GaugeVec,
    hotter: IntGaugeVec,
    outdated: IntGaugeVec,
}

/// The handles, and in them the numbers of the last scrape.
struct LastScrape {
    engine: Arc<Engine>,
    handles: Handles,
    /// Scrapes come one at a time: counters are set by reset and increment.
    scrape: Mutex<()>,
}

impl Handles {
    fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["table"]);
        Ok(Self {
            fetched: counter("rudder_fetch_rows_total", "Rows answered to trainers.", &["table", "source"])?,
            failed: counter("rudder_failed_fetches_total", "Fetches that ended in an error.", &["table"])?,
            network: counter("rudder_network_rows_total", "Rows that peers sent.", &["table", "reason"])?,
            fills: counter("rudder_fill_rows_total", "Rows that took a slot of the cache.", &["table", "reason"])?,
            refused: counter("rudder_refused_rows_total", "Rows in hand that were not worth a slot.", &["table"])?,
            evicted: counter("rudder_evicted_rows_total", "Rows that lost their slot.", &["table", "reason"])?,
            shifts: counter("rudder_shifts_total", "Times that the accesses were found shifted.", &["table"])?,
            announced: counter(
                "rudder_announced_batches_total",
                "Announced batches that were fetched, or expired because they never were.",
                &["table", "outcome"],
            )?,
            reordered: counter(
                "rudder_reordered_batches_total",
                "Announced batches whose ids were fetched in another order than announced.",
                &["table"],
            )?,
            waiting: gauge("rudder_announced_rows", "Announced rows that wait for their use.")?,
            staged: gauge("rudder_staged_batches", "Announced batches that rows are held for outside the cache.")?,
            stall: Counter::new("rudder_stall_seconds_total", "Time that trainers waited for rows of peers.")?,
            hit_ratio: GaugeVec::new(
                Opts::new("rudder_hit_ratio", "Share of remote rows of the last minute that were cached."),
                &["table"],
            )?,
            rows: gauge("rudder_cache_rows", "Rows in the cache.")?,
            capacity: gauge("rudder_cache_capacity_rows", "Rows that the cache may hold.")?,
            bytes: gauge("rudder_cache_bytes", "Bytes of rows in the cache.")?,
            trainers: IntGauge::new("rudder_trainers_reporting", "Trainers that report their progress.")?,
            ceiling: gauge("rudder_cache_ceiling_rows", "Rows that configuration and memory allow the cache now.")?,
            memory_limit: IntGauge::new("rudder_memory_limit_bytes", "Memory limit of the cgroup or machine.")?,
            memory_used: IntGauge::new("rudder_memory_used_bytes", "Memory in use under that limit, without files.")?,
            epochs: Gauge::new(
                "rudder_epochs",
                "Epochs ended, of the mean trainer, with the share of the running one.",
            )?,
            late: counter("rudder_late_rows_total", "Announced rows that a trainer had to wait for.", &["table"])?,
            cold: GaugeVec::new(
                Opts::new("rudder_cold_resident_ratio", "Share of cached rows that are not expected again soon."),
                &["table"],
            )?,
            spent: GaugeVec::new(
                Opts::new(
                    "rudder_spent_resident_ratio",
                    "Share of cached rows that are not expected again in the running epoch.",
                ),
                &["table"],
            )?,
            hotter: gauge("rudder_hotter_absent_rows", "Absent rows that are each hotter than a cached one.")?,
            outdated: gauge("rudder_outdated_cache_rows", "Cached rows that their owners have changed.")?,
            slow: IntCounter::new("rudder_slow_fetches_total", "Fetches that took log.slow_fetch_ms or longer.")?,
            pressure: IntCounter::new(
                "rudder_pressure_shrinks_total",
                "Times that memory ran short and caches shrank.",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 28] {
        [
            &self.fetched,
            &self.failed,
            &self.network,
            &self.fills,
            &self.refused,
            &self.evicted,
            &self.shifts,
            &self.announced,
            &self.reordered,
            &self.waiting,
            &self.staged,
            &self.stall,
            &self.hit_ratio,
            &self.rows,
            &self.capacity,
            &self.bytes,
            &self.trainers,
            &self.ceiling,
            &self.memory_limit,
            &self.memory_used,
            &self.pressure,
            &self.slow,
            &self.epochs,
            &self.late,
            &self.cold,
            &self.spent,
            &self.hotter,
            &self.outdated,
        ]
    }

    fn take(&self, at: usize, engine: &Engine) {
        let name = engine.base.name(at);
        let table: &TableState = &engine.base.tables[at];
        let set_count = |counters: &IntCounterVec, labels: &[&str], count: u64| {
            let counter = counters.with_label_values(labels);
            counter.reset();
            counter.inc_by(count);
        };
        let set = |counters: &IntCounterVec, labels: &[&str], value: &AtomicU64| {
            set_count(counters, labels, value.load(Ordering::Relaxed));
        };
        let (stats, cache) = (&table.stats, table.cache.stats());
        set(&self.fetched, &[name, "local"], &stats.local_rows);
        set(&self.fetched, &[name, "cache"], &stats.cache_rows);
        set(&self.fetched, &[name, "staged"], &stats.staged_rows);
        set(&self.fetched, &[name, "peer"], &stats.peer_rows);
        set(&self.failed, &[name], &stats.failed_fetches);
        set(&self.late, &[name], &stats.late_rows);
        let gauges = &table.gauges;
        self.cold.with_label_values(&[name]).set(gauges.cold_share());
        self.spent.with_label_values(&[name]).set(gauges.spent_share());
        for reason in Reason::ALL {
            set(&self.network, &[name, reason.name()], stats.crossed(reason));
        }
        for reason in Fill::ALL {
            set(&self.fills, &[name, reason.name()], &cache.fills[reason as usize]);
        }
        set(&self.refused, &[name], &cache.refused_rows);
        set(&self.evicted, &[name, "replaced"], &cache.evicted_rows);
        set(&self.evicted, &[name, "shrunk"], &cache.shrunk_rows);
        set(&self.evicted, &[name, "outdated"], &cache.discarded_rows);
        let ahead = engine.books.lookahead(at);
        set_count(&self.announced, &[name, "used"], ahead.counts.used);
        set_count(&self.announced, &[name, "expired"], ahead.counts.expired);
        set_count(&self.reordered, &[name], ahead.counts.reordered);
        set(&self.shifts, &[name], &cache.shifts);
        match stats.hit_ratio(engine.base.started) {
            Some(ratio) => self.hit_ratio.with_label_values(&[name]).set(ratio),
            // There may never have been one.
            None => _ = self.hit_ratio.remove_label_values(&[name]),
        }
        let gauge = |gauges: &IntGaugeVec, value: u64| gauges.with_label_values(&[name]).set(value as i64);
        gauge(&self.hotter, gauges.hotter_absent_rows.load(Ordering::Relaxed));
        gauge(&self.outdated, gauges.outdated_rows.load(Ordering::Relaxed));
        gauge(&self.waiting, ahead.waiting_rows as u64);
        gauge(&self.staged, ahead.staged_batches as u64);
        gauge(&self.ceiling, engine.memory.ceiling(at).0);
        gauge(&self.rows, table.cache.used_rows());
        gauge(&self.capacity, table.cache.capacity_rows() as u64);
        gauge(&self.bytes, table.cache.row_bytes_held());
    }
}

impl Collector for LastScrape {
    fn desc(&self) -> Vec<&Desc> {
        self.handles.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.scrape.lock();
        let handles = &self.handles;
        let engine = &self.engine;
        (0..engine.base.tables.len()).for_each(|at| handles.take(at, engine));
        let (progress, reading) = (engine.trainers.progress(), engine.memory.reading());
        handles.epochs.set(f64::from(progress.clock.epoch) + f64::from(progress.clock.progress));
        handles.memory_limit.set(reading.limit_bytes as i64);
        handles.memory_used.set(reading.used_bytes as i64);
        handles.slow.reset();
        handles.slow.inc_by(engine.fetcher.slow_fetches());
        handles.pressure.reset();
        handles.pressure.inc_by(engine.memory.shrinks());
        handles.stall.reset();
        handles.stall.inc_by(engine.fetcher.stalled().as_secs_f64());
        handles.trainers.set(progress.trainers as i64);
        handles.all().into_iter().flat_map(Collector::collect).collect()
    }
}
