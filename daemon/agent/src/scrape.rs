//! Reads [`Counters`] off the daemon's own metrics, as a Prometheus server would see them. It owns the names that it
//! reads and nothing else; a metric that is missing counts as zero.

use super::snapshot::Counters;
use prometheus::proto::{Metric, MetricFamily};

/// What one scrape says, at `seconds` on any clock that does not go back: of one table, or of all together. What is
/// counted for the whole daemon only (fetches, waiting, peers, memory, progress) is the same for each.
#[must_use]
pub fn counters(families: &[MetricFamily], seconds: f64, table: Option<&str>) -> Counters {
    let scrape = Scrape { families, table };
    let rows = |sources: &[&str]| -> u64 {
        sources.iter().map(|source| scrape.sum("rudder_fetch_rows_total", &[("source", source)]) as u64).sum()
    };
    let total = |name: &str| scrape.sum(name, &[]) as u64;
    let (fetches, _) = scrape.histogram("rudder_fetch_seconds");
    let (peer_requests, peer_sum) = scrape.histogram("rudder_peer_request_seconds");
    let (limit, used) = (scrape.sum("rudder_memory_limit_bytes", &[]), scrape.sum("rudder_memory_used_bytes", &[]));
    Counters {
        seconds,
        minibatches: fetches,
        remote_rows: rows(&["cache", "staged", "peer"]),
        hit_rows: rows(&["cache"]),
        stall_rows: rows(&["peer"]),
        network_rows: total("rudder_network_rows_total"),
        stall_seconds: scrape.sum("rudder_stall_seconds_total", &[]),
        fill_rows: total("rudder_fill_rows_total"),
        evicted_rows: total("rudder_evicted_rows_total"),
        late_rows: total("rudder_late_rows_total"),
        shifts: total("rudder_shifts_total"),
        epochs: scrape.sum("rudder_epochs", &[]),
        capacity_rows: total("rudder_cache_capacity_rows"),
        cached_rows: total("rudder_cache_rows"),
        ceiling_rows: total("rudder_cache_ceiling_rows"),
        spent_share: scrape.mean_by_rows("rudder_spent_resident_ratio"),
        cold_share: scrape.mean_by_rows("rudder_cold_resident_ratio"),
        hotter_absent_rows: total("rudder_hotter_absent_rows"),
        stale_rows: total("rudder_outdated_cache_rows"),
        staleness_seconds: scrape.largest("rudder_revalidation_age_seconds"),
        memory_share: if limit > 0.0 { used / limit } else { 0.0 },
        peer_seconds: if peer_requests == 0 { 0.0 } else { peer_sum / peer_requests as f64 },
        peer_requests,
        pressure_shrinks: total("rudder_pressure_shrinks_total"),
        cluster: None,
    }
}

/// All metrics, or of those that name a table the ones of one table.
struct Scrape<'a> {
    families: &'a [MetricFamily],
    table: Option<&'a str>,
}

fn label<'a>(metric: &'a Metric, name: &str) -> Option<&'a str> {
    metric.get_label().iter().find(|label| label.name() == name).map(prometheus::proto::LabelPair::value)
}

fn value(metric: &Metric) -> f64 {
    // Of a counter or a gauge the other one is absent, and reads as zero.
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

impl<'a> Scrape<'a> {
    fn metrics(&self, name: &str) -> Vec<&'a Metric> {
        let family = self.families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], MetricFamily::get_metric).iter();
        let wanted = |metric: &&Metric| match (self.table, label(metric, "table")) {
            (Some(wanted), Some(table)) => wanted == table,
            _ => true,
        };
        metrics.filter(wanted).collect()
    }

    /// The sum over all metrics of this name with these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |metric: &&&Metric| labels.iter().all(|&(name, value)| label(metric, name) == Some(value));
        self.metrics(name).iter().filter(fits).map(|metric| value(metric)).sum()
    }

    fn largest(&self, name: &str) -> f64 {
        self.metrics(name).into_iter().map(value).fold(0.0, f64::max)
    }

    /// The mean over tables, each weighed by the rows it caches.
    fn mean_by_rows(&self, name: &str) -> f64 {
        let (mut sum, mut weight) = (0.0, 0.0);
        for metric in self.metrics(name) {
            let rows = label(metric, "table").map_or(0.0, |table| self.sum("rudder_cache_rows", &[("table", table)]));
            sum += rows * value(metric);
            weight += rows;
        }
        if weight > 0.0 { sum / weight } else { 0.0 }
    }

    /// Observations and their sum, over all labels.
    fn histogram(&self, name: &str) -> (u64, f64) {
        let of =
            |metric: &&Metric| (metric.get_histogram().get_sample_count(), metric.get_histogram().get_sample_sum());
        self.metrics(name).iter().map(of).fold((0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

    #[test]
    fn a_scrape_is_summed_over_tables_and_peers() {
        let registry = Registry::new();
        let fetched = IntCounterVec::new(Opts::new("rudder_fetch_rows_total", "x"), &["table", "source"]).unwrap();
        for (table, source, rows) in [("a", "cache", 5), ("b", "cache", 2), ("a", "peer", 3), ("a", "local", 100)] {
            fetched.with_label_values(&[table, source]).inc_by(rows);
        }
        let rows = IntGaugeVec::new(Opts::new("rudder_cache_rows", "x"), &["table"]).unwrap();
        rows.with_label_values(&["a"]).set(30);
        rows.with_label_values(&["b"]).set(10);
        let cold = GaugeVec::new(Opts::new("rudder_cold_resident_ratio", "x"), &["table"]).unwrap();
        cold.with_label_values(&["a"]).set(0.2);
        cold.with_label_values(&["b"]).set(0.6);
        let seconds = Histogram::with_opts(HistogramOpts::new("rudder_fetch_seconds", "x")).unwrap();
        seconds.observe(0.5);
        registry.register(Box::new(fetched)).unwrap();
        registry.register(Box::new(rows)).unwrap();
        registry.register(Box::new(cold)).unwrap();
        registry.register(Box::new(seconds)).unwrap();
        let families = registry.gather();
        let of_b = counters(&families, 7.0, Some("b"));
        assert_eq!((of_b.remote_rows, of_b.hit_rows, of_b.minibatches, of_b.cached_rows), (2, 2, 1, 10));
        assert!((of_b.cold_share - 0.6).abs() < 1e-9);
        let counters = counters(&families, 7.0, None);
        assert_eq!((counters.remote_rows, counters.hit_rows, counters.stall_rows), (10, 7, 3));
        assert_eq!((counters.minibatches, counters.cached_rows, counters.seconds), (1, 40, 7.0));
        assert!((counters.cold_share - 0.3).abs() < 1e-9);
        assert_eq!(counters.memory_share, 0.0);
    }
}
