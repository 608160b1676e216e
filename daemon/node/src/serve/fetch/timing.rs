//! The log line of a fetch that was slow, and the spans of one that is traced. It owns the threshold and the limit on
//! lines. It must never cost a fast fetch more than a few readings of the clock.

use crate::serve::error::RequestError;
use crate::serve::fetch::job::{Answered, Job};
use crate::serve::table::flight::Took;
use crate::serve::table::flights::Claim;
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts};
use rudder_telemetry::spans::{FETCH, Kind, Span, Tracer};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Least time between two lines: a slow network makes every fetch slow.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Peers that a line names; the slowest first.
const PEERS_NAMED_MAX: usize = 4;

/// Seconds; from a row on the way to the cache to a fetch that waits for a slow peer.
const FETCH_SECONDS: [f64; 14] =
    [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 0.1, 0.5, 2.5, 10.0];

/// The histogram of fetches.
pub(crate) fn fetch_seconds() -> prometheus::Result<Histogram> {
    let help = "Time from a fetch's arrival until its rows are in place.";
    Histogram::with_opts(HistogramOpts::new("rudder_fetch_seconds", help).buckets(FETCH_SECONDS.to_vec()))
}

/// Tells of fetches that took long.
#[derive(Debug)]
pub(crate) struct SlowFetches {
    /// A fetch that takes so long is slow; nothing if none is.
    after: Option<Duration>,
    /// When the last line was written, and how many were not since.
    last: Mutex<(Option<Instant>, u64)>,
    count: AtomicU64,
}

impl SlowFetches {
    pub(crate) fn new(after: Option<Duration>) -> Self {
        Self { after, last: Mutex::default(), count: AtomicU64::new(0) }
    }

    /// Slow fetches since the start.
    pub(crate) fn count(&self) -> &AtomicU64 {
        &self.count
    }

    /// A fetch of `table` ended.
    pub(crate) fn see(&self, table: &str, job: &Job, outcome: &Result<Answered, RequestError>) {
        let elapsed = job.timeline.elapsed();
        if self.after.is_none_or(|after| elapsed < after) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let Some(unsaid) = self.may_say(Instant::now()) else { return };
        let [gather_ms, wait_ms, place_ms] = job.timeline.stages_ms();
        let (sources, peers, error) = match outcome {
            Ok(answered) => (answered.sources, slowest(answered.claim()), String::new()),
            Err(error) => (rudder_client::RowSources::default(), String::new(), error.to_string()),
        };
        tracing::warn!(
            request = %format_args!("{:016x}", job.request),
            connection = job.connection,
            table,
            rows = job.ids.len(),
            total_ms = elapsed.as_millis() as u64,
            gather_ms,
            wait_ms,
            place_ms,
            local = sources.local,
            cache = sources.cache,
            staged = sources.staged,
            peer = sources.peer,
            peers,
            error,
            unsaid,
            "slow fetch"
        );
    }

    /// Whether a line may be written now; then how many were not since the last.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock();
        if last.0.is_some_and(|said| now.saturating_duration_since(said) < LINE_EVERY) {
            last.1 += 1;
            return None;
        }
        let unsaid = last.1;
        *last = (Some(now), 0);
        Some(unsaid)
    }
}

/// Records the spans of a fetch that is traced: the whole, its stages, and each request to a peer that it waited for.
pub(crate) fn trace(tracer: &Tracer, job: &Job, outcome: &Result<Answered, RequestError>) {
    let total = job.timeline.elapsed();
    let (sources, error) = match outcome {
        Ok(answered) => (answered.sources, None),
        Err(error) => (rudder_client::RowSources::default(), Some(error.to_string())),
    };
    let span =
        |name, kind, began, took, numbers| Span { request: job.request, name, kind, began, took, numbers, error: None };
    let numbers = vec![
        ("rows", job.ids.len() as u64),
        ("table", job.table as u64),
        ("local", sources.local),
        ("cache", sources.cache),
        ("staged", sources.staged),
        ("peer", sources.peer),
    ];
    tracer.record(Span { error, ..span(FETCH, Kind::Server, total, total, numbers) });
    let mut since = Duration::ZERO;
    for (name, spent_ms) in ["gather", "wait", "place"].into_iter().zip(job.timeline.stages_ms()) {
        let spent = Duration::from_secs_f64(spent_ms / 1e3);
        if !spent.is_zero() {
            tracer.record(span(name, Kind::Internal, total.saturating_sub(since), spent, Vec::new()));
        }
        since += spent;
    }
    let [gather_ms, ..] = job.timeline.stages_ms();
    let asked = total.saturating_sub(Duration::from_secs_f64(gather_ms / 1e3));
    let flights = outcome.as_ref().map_or(&[][..], |answered| answered.claim().flights());
    for Took { peer, rows, elapsed } in flights.iter().filter_map(|flight| flight.took()) {
        let numbers = vec![("peer", u64::from(peer.0)), ("rows", rows as u64)];
        tracer.record(span("ask peer", Kind::Client, asked, elapsed, numbers));
    }
}

/// The slowest requests to peers of a fetch, in words.
fn slowest(claim: &Claim) -> String {
    let mut took: Vec<Took> = claim.flights().iter().filter_map(|flight| flight.took()).collect();
    took.sort_by_key(|took| std::cmp::Reverse(took.elapsed));
    let mut text = String::new();
    for Took { peer, rows, elapsed } in took.iter().take(PEERS_NAMED_MAX) {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{rows} rows of peer {peer} in {} ms", elapsed.as_millis());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_what_is_left_out_is_counted() {
        let slow = SlowFetches::new(Some(Duration::ZERO));
        let begin = Instant::now();
        assert_eq!(slow.may_say(begin), Some(0));
        assert_eq!(slow.may_say(begin + LINE_EVERY / 2), None);
        assert_eq!(slow.may_say(begin + LINE_EVERY / 2), None);
        assert_eq!(slow.may_say(begin + LINE_EVERY), Some(2));
        assert_eq!(slow.may_say(begin + LINE_EVERY * 2), Some(0));
    }
}
