//! Updates and versions as Prometheus sees them. It owns handles that it fills from the engine's counters when it is
//! scraped.

use crate::serve::engine::Engine;
use crate::serve::status::versions_status;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};
use std::sync::Arc;

/// The collector of updates and versions.
pub(crate) struct VersionsMetrics {
    engine: Arc<Engine>,
    updates: IntCounterVec,
    rows: IntCounterVec,
    failed: IntCounterVec,
    held: IntGaugeVec,
    age: GaugeVec,
    stale: IntCounterVec,
    unasked: IntCounterVec,
    /// Scrapes come one at a time: counters are set by reset and increment.
    scrape: Mutex<()>,
}

impl VersionsMetrics {
    pub(crate) fn new(engine: &Arc<Engine>) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            engine: Arc::clone(engine),
            updates: counter("rudder_updates_total", "Updates of rows.", &["table", "side"])?,
            rows: counter("rudder_update_rows_total", "Rows in updates.", &["table", "side"])?,
            failed: counter("rudder_failed_updates_total", "Updates that failed, whole or in part.", &["table"])?,
            held: IntGaugeVec::new(
                Opts::new("rudder_updated_bytes", "Bytes of rows held because they were updated."),
                &["table"],
            )?,
            age: GaugeVec::new(
                Opts::new("rudder_revalidation_age_seconds", "Time since rows of peers were known to be up to date."),
                &["table"],
            )?,
            stale: counter(
                "rudder_stale_rows_total",
                "Cached rows that were fetched again or thrown out because their owner had changed them, or could not be asked.",
                &["table", "outcome"],
            )?,
            unasked: counter("rudder_failed_refreshes_total", "Times that an owner could not be asked.", &["table"])?,
            scrape: Mutex::new(()),
        })
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [&self.updates, &self.rows, &self.failed, &self.held, &self.age, &self.stale, &self.unasked]
    }

    fn take(&self, table: usize, name: &str) {
        let set = |counters: &IntCounterVec, labels: &[&str], value: u64| {
            let counter = counters.with_label_values(labels);
            counter.reset();
            counter.inc_by(value);
        };
        let status = versions_status(&self.engine, table);
        set(&self.updates, &[name, "sent"], status.updates);
        set(&self.updates, &[name, "applied"], status.applied_updates);
        set(&self.rows, &[name, "sent"], status.update_rows);
        set(&self.rows, &[name, "applied"], status.applied_rows);
        set(&self.failed, &[name], status.failed_updates);
        set(&self.stale, &[name, "repulled"], status.repulled_rows);
        set(&self.stale, &[name, "discarded"], status.stale_rows - status.repulled_rows.min(status.stale_rows));
        set(&self.stale, &[name, "expired"], status.expired_rows);
        set(&self.unasked, &[name], status.failed_refreshes);
        self.held.with_label_values(&[name]).set(status.updated_bytes as i64);
        self.age.with_label_values(&[name]).set(status.revalidation_age_seconds.unwrap_or(0.0));
    }
}

impl Collector for VersionsMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.scrape.lock();
        for (at, table) in self.engine.base.dataset.tables().iter().enumerate() {
            self.take(at, &table.name);
        }
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
