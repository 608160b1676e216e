//! What a controller sees of a window of the training: numbers, and the same in words. It owns their meaning. It reads
//! no clock and no registry: [`Counters`] come in from a scrape of the daemon or from a replay, and two of them make a
//! window.

use super::cluster::Cluster;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt::Write as _;

/// Totals and states at one moment, as a scrape of the daemon's metrics shows them; all tables together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counters {
    /// Seconds on any clock that does not go back.
    pub seconds: f64,
    /// Fetches answered.
    pub minibatches: u64,
    /// Rows that trainers asked for and another node owns.
    pub remote_rows: u64,
    /// Of them, rows that were cached.
    pub hit_rows: u64,
    /// Of them, rows that a trainer waited for.
    pub stall_rows: u64,
    /// Rows that crossed the network for any reason.
    pub network_rows: u64,
    /// Seconds that trainers waited for them.
    pub stall_seconds: f64,
    /// Rows that took a slot.
    pub fill_rows: u64,
    /// Rows that lost their slot.
    pub evicted_rows: u64,
    /// Rows that were announced but had to be waited for.
    pub late_rows: u64,
    /// Times that accesses were found shifted.
    pub shifts: u64,
    /// Epochs ended, of the mean trainer, and the share of the running one.
    pub epochs: f64,
    /// Rows that may be held, are held, and may ever be held under configuration and memory limit.
    pub capacity_rows: u64,
    /// See above.
    pub cached_rows: u64,
    /// See above.
    pub ceiling_rows: u64,
    /// Share of residents that are not expected again soon.
    pub cold_share: f64,
    /// Share of residents that are not expected again in the running epoch.
    pub spent_share: f64,
    /// Absent rows that are each hotter than a resident and worth a request.
    pub hotter_absent_rows: u64,
    /// Cached rows known to be older than their owner's.
    pub stale_rows: u64,
    /// Seconds since the cached rows were last held against their owners; 0 where nothing is ever updated.
    pub staleness_seconds: f64,
    /// Share of the memory limit in use; 0 where there is no limit.
    pub memory_share: f64,
    /// Mean seconds of a request to a peer, since the start.
    pub peer_seconds: f64,
    /// Requests to peers.
    pub peer_requests: u64,
    /// Times that caches were shrunk because memory ran short.
    pub pressure_shrinks: u64,
    /// How the cluster is doing, where a Prometheus server tells.
    pub cluster: Option<Cluster>,
}

/// One window of the training, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The window, counted from 1.
    pub window: u64,
    /// Its length.
    pub seconds: f64,
    /// Fetches answered in it.
    pub minibatches: u64,
    /// Epochs ended and the share of the running one.
    pub epochs: f64,
    /// Share of the whole run that is over, where the number of epochs is known.
    pub run_progress: Option<f64>,
    /// Share of remote rows that were cached; `None` if none were asked for.
    pub hit_rate: Option<f64>,
    /// Change of the hit rate per window, over the last windows.
    pub hit_rate_trend: f64,
    /// Mean hit rate in the same phase of the epoch before, where there was one.
    pub hit_rate_epoch_ago: Option<f64>,
    /// Rows that trainers asked for and another node owns.
    pub remote_rows: u64,
    /// Rows that crossed the network for any reason.
    pub network_rows: u64,
    /// Share of remote rows that a trainer waited for.
    pub stall_share: f64,
    /// Seconds that trainers waited for rows, per second.
    pub stall_seconds_per_second: f64,
    /// Rows that took a slot.
    pub fill_rows: u64,
    /// Rows that lost their slot.
    pub evicted_rows: u64,
    /// Announced rows that had to be waited for.
    pub late_rows: u64,
    /// Whether the accesses were found shifted.
    pub shifted: bool,
    /// Rows that may be held.
    pub capacity_rows: u64,
    /// Rows held.
    pub cached_rows: u64,
    /// Rows that may ever be held.
    pub ceiling_rows: u64,
    /// Share of residents that are not expected again soon.
    pub cold_share: f64,
    /// Share of residents that are not expected again in the running epoch.
    #[serde(default)]
    pub spent_share: f64,
    /// Absent rows that are each hotter than a resident.
    pub hotter_absent_rows: u64,
    /// Cached rows known to be older than their owner's.
    pub stale_rows: u64,
    /// Seconds since the cached rows were last held against their owners.
    pub staleness_seconds: f64,
    /// Share of the memory limit in use.
    pub memory_share: f64,
    /// Times that caches were shrunk because memory ran short, in this window.
    pub pressure_shrinks: u64,
    /// Mean milliseconds of a request to a peer in this window.
    pub peer_ms: f64,
    /// How the cluster is doing, where a Prometheus server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// Windows over which the trend of the hit rate is taken.
const TREND_WINDOWS: usize = 3;

/// How far from an epoch ago a window may be to be compared with, in epochs.
const SAME_PHASE: f64 = 0.1;

/// Most windows remembered for that; of a longer epoch, the older ones are not compared with.
const REMEMBERED_MAX: usize = 8_192;

/// Makes windows out of counters.
#[derive(Debug, Default)]
pub struct Observer {
    before: Option<Counters>,
    rates: Vec<f64>,
    /// Epochs and hit rates of the windows of the last epoch and a bit.
    epoch: VecDeque<(f64, f64)>,
    window: u64,
    epochs_total: Option<u32>,
}

impl Observer {
    /// An observer of a run, with its number of epochs if that is known.
    #[must_use]
    pub fn new(epochs_total: Option<u32>) -> Self {
        Self { epochs_total, ..Self::default() }
    }

    /// The window that ends with `now`; nothing for the first counters, or when the counters went back (another
    /// daemon).
    pub fn observe(&mut self, now: Counters) -> Option<Snapshot> {
        let before = self.before.replace(now)?;
        if now.remote_rows < before.remote_rows || now.minibatches < before.minibatches {
            self.rates.clear();
            self.epoch.clear();
            return None;
        }
        self.window += 1;
        let remote_rows = now.remote_rows - before.remote_rows;
        let share = |part: u64| if remote_rows == 0 { 0.0 } else { part as f64 / remote_rows as f64 };
        let hit_rate = (remote_rows > 0).then(|| share(now.hit_rows.saturating_sub(before.hit_rows)));
        if let Some(rate) = hit_rate {
            self.rates.push(rate);
            let extra = self.rates.len().saturating_sub(TREND_WINDOWS);
            self.rates.drain(..extra);
        }
        let hit_rate_epoch_ago = self.epoch_ago(now.epochs);
        self.remember(now.epochs, hit_rate);
        let seconds = now.seconds - before.seconds;
        let requests = now.peer_requests.saturating_sub(before.peer_requests);
        let of_requests =
            now.peer_seconds * now.peer_requests as f64 - before.peer_seconds * before.peer_requests as f64;
        Some(Snapshot {
            window: self.window,
            seconds,
            minibatches: now.minibatches - before.minibatches,
            epochs: now.epochs,
            run_progress: self.epochs_total.map(|total| (now.epochs / f64::from(total.max(1))).clamp(0.0, 1.0)),
            hit_rate,
            hit_rate_trend: self.trend(),
            hit_rate_epoch_ago,
            remote_rows,
            network_rows: now.network_rows.saturating_sub(before.network_rows),
            stall_share: share(now.stall_rows.saturating_sub(before.stall_rows)),
            stall_seconds_per_second: (now.stall_seconds - before.stall_seconds).max(0.0) / seconds.max(1e-9),
            fill_rows: now.fill_rows.saturating_sub(before.fill_rows),
            evicted_rows: now.evicted_rows.saturating_sub(before.evicted_rows),
            late_rows: now.late_rows.saturating_sub(before.late_rows),
            shifted: now.shifts > before.shifts,
            capacity_rows: now.capacity_rows,
            cached_rows: now.cached_rows,
            ceiling_rows: now.ceiling_rows,
            cold_share: now.cold_share,
            spent_share: now.spent_share,
            hotter_absent_rows: now.hotter_absent_rows,
            stale_rows: now.stale_rows,
            staleness_seconds: now.staleness_seconds,
            memory_share: now.memory_share,
            pressure_shrinks: now.pressure_shrinks.saturating_sub(before.pressure_shrinks),
            peer_ms: if requests == 0 { 0.0 } else { 1e3 * of_requests.max(0.0) / requests as f64 },
            cluster: now.cluster,
        })
    }

    /// The next window begins at `now`: what was between is of none.
    pub fn rebase(&mut self, now: Counters) {
        if self.before.is_some() {
            self.before = Some(now);
        }
    }

    fn remember(&mut self, epochs: f64, hit_rate: Option<f64>) {
        // Without progress, or at the start of another run, there is nothing to be in phase with.
        if epochs == 0.0 || self.epoch.back().is_some_and(|&(last, _)| last > epochs) {
            self.epoch.clear();
        }
        while self.epoch.len() >= REMEMBERED_MAX
            || self.epoch.front().is_some_and(|&(first, _)| first < epochs - 1.0 - 2.0 * SAME_PHASE)
        {
            self.epoch.pop_front();
        }
        self.epoch.extend(hit_rate.filter(|_| epochs > 0.0).map(|rate| (epochs, rate)));
    }

    fn epoch_ago(&self, epochs: f64) -> Option<f64> {
        let alike = self.epoch.iter().filter(|(seen, _)| (epochs - 1.0 - seen).abs() <= SAME_PHASE);
        let (sum, count) = alike.fold((0.0, 0u32), |(sum, count), (_, rate)| (sum + rate, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    fn trend(&self) -> f64 {
        match (self.rates.first(), self.rates.last()) {
            (Some(first), Some(last)) if self.rates.len() > 1 => (last - first) / (self.rates.len() - 1) as f64,
            _ => 0.0,
        }
    }
}

impl Snapshot {
    /// Share of the slots that hold a row.
    #[must_use]
    pub fn fullness(&self) -> f64 {
        if self.capacity_rows == 0 { 0.0 } else { self.cached_rows as f64 / self.capacity_rows as f64 }
    }

    /// Whether the run's last epoch is running, and an epoch before it has shown what is asked for. At its very begin,
    /// what the cache knows is still of the epoch before.
    #[must_use]
    pub fn in_last_epoch(&self) -> bool {
        let left = |progress: f64| self.epochs / progress - self.epochs;
        self.epochs >= 1.0 && self.run_progress.is_some_and(|progress| left(progress) < 1.0 - 1e-6)
    }

    /// Rows per remote row that crossed the network.
    #[must_use]
    pub fn network_share(&self) -> f64 {
        if self.remote_rows == 0 { 0.0 } else { self.network_rows as f64 / self.remote_rows as f64 }
    }

    /// The window in words, one sentence per matter, for people and for language models. Holds numbers only: no text
    /// from outside, such as a table's name, ever enters it.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = String::new();
        let mut say = |sentence: String| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{sentence}", if text.is_empty() { "" } else { " " });
        };
        match self.hit_rate {
            None => say("No remote rows were asked for.".to_owned()),
            Some(rate) => {
                let percent = 100.0 * rate;
                let step = 100.0 * self.hit_rate_trend;
                say(match step {
                    step if step <= -1.0 => {
                        format!("The hit rate is {percent:.0}% and falling by {:.1} points per window.", -step)
                    }
                    step if step >= 1.0 => {
                        format!("The hit rate is {percent:.0}% and rising by {step:.1} points per window.")
                    }
                    _ => format!("The hit rate is {percent:.0}% and steady."),
                });
            }
        }
        let full = 100.0 * self.fullness();
        let (capacity, ceiling) = (self.capacity_rows, self.ceiling_rows);
        say(format!("The cache may hold {capacity} rows and is {full:.0}% full; it may grow to {ceiling}."));
        say(format!(
            "{:.0}% of residents are cold, and {} absent rows are hotter than a resident.",
            100.0 * self.cold_share,
            self.hotter_absent_rows
        ));
        if self.shifted {
            say("The accesses have shifted to other vertices.".to_owned());
        }
        if self.stale_rows > 0 {
            let (rows, age) = (self.stale_rows, self.staleness_seconds);
            say(format!("{rows} cached rows are older than their owner's, which was last asked {age:.0} s ago."));
        }
        if self.late_rows > 0 {
            say(format!("{} announced rows came too late.", self.late_rows));
        }
        say(format!(
            "Trainers waited for {:.0}% of remote rows, {:.2} s per second; rows crossed the network for {:.0}% of them.",
            100.0 * self.stall_share,
            self.stall_seconds_per_second,
            100.0 * self.network_share()
        ));
        say(format!("{} rows took a slot of the cache and {} lost one.", self.fill_rows, self.evicted_rows));
        if self.peer_ms > 0.0 {
            say(format!("A peer takes {:.1} ms to answer.", self.peer_ms));
        }
        if self.memory_share > 0.0 {
            say(format!("Memory is {:.0}% full.", 100.0 * self.memory_share));
        }
        if self.pressure_shrinks > 0 {
            say("Caches were shrunk because memory ran short.".to_owned());
        }
        match self.run_progress {
            Some(progress) => say(format!("The run is {:.0}% over.", 100.0 * progress)),
            None => say(format!("{:.1} epochs are over.", self.epochs)),
        }
        if let Some(cluster) = &self.cluster {
            say(cluster.in_words());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(minibatches: u64, hit_rows: u64) -> Counters {
        let remote_rows = minibatches * 100;
        Counters {
            seconds: minibatches as f64,
            minibatches,
            remote_rows,
            hit_rows,
            network_rows: remote_rows - hit_rows,
            stall_rows: remote_rows - hit_rows,
            capacity_rows: 50,
            cached_rows: 40,
            ceiling_rows: 200,
            epochs: minibatches as f64 / 10.0,
            ..Counters::default()
        }
    }

    #[test]
    fn two_scrapes_make_a_window_and_three_a_trend() {
        let mut observer = Observer::new(Some(4));
        assert_eq!(observer.observe(counters(0, 0)), None);
        let first = observer.observe(counters(10, 610)).unwrap();
        assert_eq!((first.window, first.minibatches, first.hit_rate, first.network_rows), (1, 10, Some(0.61), 390));
        assert_eq!((first.hit_rate_trend, first.run_progress), (0.0, Some(0.25)));
        observer.observe(counters(20, 1160)).unwrap();
        let third = observer.observe(counters(30, 1640)).unwrap();
        assert!((third.hit_rate_trend + 0.065).abs() < 1e-9, "{}", third.hit_rate_trend);
        let words = third.in_words();
        assert!(words.contains("48% and falling by 6.5 points"), "{words}");
        assert!(words.contains("80% full") && words.contains("grow to 200") && words.contains("75% over"), "{words}");
        assert_eq!(observer.observe(counters(1, 0)), None, "the daemon was restarted");
    }

    #[test]
    fn the_hit_rate_of_the_same_phase_an_epoch_ago_is_remembered_however_many_windows_ago_that_is() {
        let mut observer = Observer::default();
        let mut hits = 0;
        // A hundred windows per epoch, of which the first half hits.
        let windows = (0..=200u64).map(|at| {
            hits += if at % 100 < 50 { 100 } else { 20 };
            Counters { epochs: at as f64 / 100.0, ..counters(at, hits) }
        });
        let seen: Vec<_> = windows.filter_map(|counters| observer.observe(counters)).collect();
        assert_eq!(seen[50].hit_rate_epoch_ago, None, "the first epoch");
        let before = |at: usize| seen[at - 1].hit_rate_epoch_ago.unwrap();
        assert!(
            (before(130) - 1.0).abs() < 0.01 && (before(180) - 0.2).abs() < 0.01,
            "{} {}",
            before(130),
            before(180)
        );
        assert!(observer.epoch.len() <= 125, "{}", observer.epoch.len());
    }

    #[test]
    fn what_was_before_a_window_begins_is_not_of_it() {
        let mut observer = Observer::default();
        observer.observe(counters(0, 0));
        observer.rebase(counters(10, 0));
        assert_eq!(observer.observe(counters(20, 500)).unwrap().hit_rate, Some(0.5));
    }

    #[test]
    fn a_window_without_remote_rows_has_no_rate() {
        let mut observer = Observer::default();
        observer.observe(counters(5, 10));
        let idle = observer.observe(Counters { seconds: 9.0, ..counters(5, 10) }).unwrap();
        assert_eq!((idle.hit_rate, idle.stall_share), (None, 0.0));
        assert!(idle.in_words().starts_with("No remote rows"));
    }
}
