//! Where the time of a fetch went, and the log line of one that was slow. It owns the stages, the threshold and the limit on
//! lines. It must never cost a fast fetch more than a few readings of the clock.

use super::engine::{Answered, Job};
use super::error::RequestError;
use super::flights::{Claim, Took};
use rudder_telemetry::spans::{FETCH, Kind, Span, Tracer};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Least time between two lines: a slow network makes every fetch slow.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Peers that a line names; the slowest first.
const PEERS_NAMED_MAX: usize = 4;

/// When the stages of a fetch had ended, as nanoseconds since it arrived.
#[derive(Debug)]
pub(super) struct Timeline {
    begun: Instant,
    stages: [AtomicU64; 3],
}

/// A stage of a fetch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// What this node holds was copied.
    Gathered,
    /// The peers had answered.
    Landed,
    /// Their rows were copied, and blocks of the own shard were read.
    Placed,
}

impl Timeline {
    pub(super) fn start() -> Self {
        Self { begun: Instant::now(), stages: Default::default() }
    }

    /// The stage has ended now.
    pub(super) fn mark(&self, stage: Stage) {
        self.stages[stage as usize].store(self.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Milliseconds of each stage; what never came counts as nothing.
    fn stages_ms(&self) -> [f64; 3] {
        let mut before = 0;
        self.stages.each_ref().map(|stage| {
            let end = stage.load(Ordering::Relaxed).max(before);
            let spent = end - before;
            before = end;
            spent as f64 / 1e6
        })
    }
}

/// Tells of fetches that took long.
#[derive(Debug)]
pub(super) struct SlowFetches {
    /// A fetch that takes so long is slow; nothing if none is.
    after: Option<Duration>,
    /// When the last line was written, and how many were not since.
    last: Mutex<(Option<Instant>, u64)>,
    count: AtomicU64,
}

impl SlowFetches {
    pub(super) fn new(after: Option<Duration>) -> Self {
        Self { after, last: Mutex::default(), count: AtomicU64::new(0) }
    }

    /// Slow fetches since the start.
    pub(super) fn count(&self) -> &AtomicU64 {
        &self.count
    }

    /// A fetch of `table` ended.
    pub(super) fn see(&self, table: &str, job: &Job, outcome: &Result<Answered, RequestError>) {
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
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
pub(super) fn trace(tracer: &Tracer, job: &Job, outcome: &Result<Answered, RequestError>) {
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
    let flights = outcome.as_ref().map_or(&[][..], |answered| &answered.claim().flights);
    for Took { peer, rows, elapsed } in flights.iter().filter_map(|flight| flight.took()) {
        let numbers = vec![("peer", u64::from(peer)), ("rows", rows as u64)];
        tracer.record(span("ask peer", Kind::Client, asked, elapsed, numbers));
    }
}

/// The slowest requests to peers of a fetch, in words.
fn slowest(claim: &Claim) -> String {
    let mut took: Vec<Took> = claim.flights.iter().filter_map(|flight| flight.took()).collect();
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

    #[test]
    fn stages_are_told_apart_and_a_missing_one_is_nothing() {
        let timeline = Timeline::start();
        timeline.stages[0].store(2_000_000, Ordering::Relaxed);
        timeline.stages[2].store(5_000_000, Ordering::Relaxed);
        assert_eq!(timeline.stages_ms(), [2.0, 0.0, 3.0]);
    }
}
