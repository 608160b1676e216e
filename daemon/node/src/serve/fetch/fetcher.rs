//! Brings the rows of a fetch to their place: gathers what is here, asks peers for the rest and waits for them. It owns
//! the time that trainers wait. It must never do bookkeeping, hand out a row of a failed request, or wait without a
//! limit: peers bound their own time, and a request that nobody makes any more has failed.

use crate::serve::base::Base;
use crate::serve::books::desk::{Account, Desk, Ticket};
use crate::serve::error::RequestError;
use crate::serve::fetch::gather::{Found, Miss, unique};
use crate::serve::fetch::job::{Answered, Job};
use crate::serve::fetch::timeline::Stage;
use crate::serve::fetch::timing::{self, SlowFetches};
use crate::serve::fetch::turns::gather_here;
use crate::serve::requests::{Purpose, request_rows};
use crate::serve::table::flight::FlightError;
use crate::serve::table::flights::Claim;
use crate::serve::table::reason::Reason;
use rudder_client::RowSources;
use rudder_dataset::{Part, Table, WantedRow};
use rudder_peers::RequestId;
use rudder_telemetry::spans::Tracer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Serves fetches.
#[derive(Debug)]
pub(crate) struct Fetcher {
    base: Arc<Base>,
    /// The queues for what follows from fetches, by table.
    desks: Vec<Arc<Desk>>,
    gather_threads: usize,
    stall_ns: AtomicU64,
    seconds: prometheus::Histogram,
    slow: SlowFetches,
    tracer: Option<Arc<Tracer>>,
}

/// What a fetcher is made of beside what all stand on.
#[derive(Debug)]
pub(crate) struct FetcherParts {
    /// Threads that one large fetch may use.
    pub(crate) gather_threads: usize,
    /// Where times of fetches are counted.
    pub(crate) seconds: prometheus::Histogram,
    /// Time from which a fetch gets a line in the log; `None` for never.
    pub(crate) slow_after: Option<Duration>,
    /// Where spans of fetches go, if anywhere.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// A flight that did not bring its rows.
struct Failed {
    /// Whether the waiting fetch itself had made the request.
    own: bool,
    rows: usize,
    cause: FlightError,
}

/// The remote rows of a fetch that are not here.
struct Missing {
    /// By position in the fetch.
    misses: Vec<Miss>,
    /// Each once, as id and owner.
    rows: Vec<(u64, Part)>,
    /// For each miss, its place among `rows`.
    places: Vec<u32>,
}

impl Fetcher {
    pub(crate) fn new(base: &Arc<Base>, desks: &[Arc<Desk>], parts: FetcherParts) -> Self {
        Self {
            base: Arc::clone(base),
            desks: desks.to_vec(),
            gather_threads: parts.gather_threads.max(1),
            stall_ns: AtomicU64::new(0),
            seconds: parts.seconds,
            slow: SlowFetches::new(parts.slow_after),
            tracer: parts.tracer,
        }
    }

    /// Time that trainers have waited for peers, all of them together.
    pub(crate) fn stalled(&self) -> Duration {
        Duration::from_nanos(self.stall_ns.load(Ordering::Relaxed))
    }

    /// Times of the fetches that were answered.
    pub(crate) fn seconds(&self) -> &prometheus::Histogram {
        &self.seconds
    }

    /// Slow fetches since the start.
    pub(crate) fn slow_fetches(&self) -> u64 {
        self.slow.count().load(Ordering::Relaxed)
    }

    /// Brings all rows of `job` to their place.
    pub(crate) async fn fetch(self: &Arc<Self>, job: &Arc<Job>) -> Result<Answered, RequestError> {
        // A fetch that teaches nothing is no announced batch either.
        let desk = job.learn.then(|| &self.desks[job.table]);
        let ticket = desk.and_then(|desk| desk.arrive(job.trainer, || job.named(), &job.notices));
        let answered = self.bring(job, ticket).await;
        let stats = &self.base.tables[job.table].stats;
        match &answered {
            Ok(Answered { sources, .. }) => {
                stats.count(sources, job.learn.then_some(self.base.started));
                self.seconds.observe(job.timeline.elapsed().as_secs_f64());
            }
            Err(_) => {
                stats.failed_fetches.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.slow.see(self.base.name(job.table), job, &answered);
        if let Some(tracer) = self.tracer.as_ref().filter(|tracer| tracer.traces(job.request)) {
            timing::trace(tracer, job, &answered);
        }
        answered
    }

    async fn bring(self: &Arc<Self>, job: &Arc<Job>, ticket: Option<Ticket>) -> Result<Answered, RequestError> {
        let Found { local, hits, misses, mut unmapped } = gather_here(&self.base, job, self.gather_threads).await?;
        job.timeline.mark(Stage::Gathered);
        unmapped.sort_unstable();
        let reading = self.read_blocks(job, unmapped);
        let (rows, places) = unique(&misses);
        let missing = Missing { misses, rows, places };
        let landed = self.land(job, &missing).await;
        // Before any answer, a failure too: the trainer may use the place of its rows for something else then.
        let read = reading.await;
        job.timeline.mark(Stage::Placed);
        let claim = landed?;
        read?;
        let staged = missing.places.iter().filter(|&&place| claim.was_ready(place as usize)).count() as u64;
        let peer = missing.misses.len() as u64 - staged;
        let sources = RowSources { local, cache: hits.len() as u64, staged, peer };
        let missed = missing.rows.into_iter().map(|(id, _)| id).collect();
        Ok(Answered { sources, account: Account { hits, missed, claim, ticket, waited_rows: peer } })
    }

    /// Waits for the rows of `wanted`, which are in order, and puts them into their places. It begins at once, whether
    /// it is polled or not, and must be waited for: until then it may write to the place of the fetch.
    fn read_blocks(
        &self,
        job: &Arc<Job>,
        wanted: Vec<WantedRow>,
    ) -> impl Future<Output = Result<(), RequestError>> + use<> {
        let (base, at) = (Arc::clone(&self.base), job.table);
        let (rows, job) = (wanted.len(), Arc::clone(job));
        let reading = (rows > 0).then(|| {
            let base = Arc::clone(&base);
            tokio::task::spawn_blocking(move || {
                let Table { shard, row_bytes, .. } = base.table(at);
                match shard.blocks() {
                    Some(blocks) => blocks.read(&wanted, |at, row| job.out.write(at as usize * row_bytes, row)),
                    None => Ok(()),
                }
            })
        });
        async move {
            let Some(reading) = reading else { return Ok(()) };
            let outcome = reading.await.map_err(|_| RequestError::Internal("the reading of blocks ended early"))?;
            outcome.map_err(|cause| RequestError::Shard { table: base.name(at).to_owned(), rows, cause })
        }
    }

    /// Waits for the missing rows, asking for those that are not on their way, and copies them to their places.
    async fn land(&self, job: &Job, missing: &Missing) -> Result<Claim, RequestError> {
        let purpose = Purpose { reason: Reason::Demand, request: RequestId(job.request) };
        let mut claim = request_rows(&self.base, job.table, &missing.rows, purpose);
        let mut outcome = self.wait(&claim).await;
        // A request that others had made may fail for reasons of theirs (their time was up, say): ask once more.
        if outcome.as_ref().is_err_and(|failed| !failed.own) {
            claim = request_rows(&self.base, job.table, &missing.rows, purpose);
            outcome = self.wait(&claim).await;
        }
        let table = self.base.table(job.table);
        if let Err(Failed { rows, cause, .. }) = outcome {
            return Err(RequestError::Peer { table: table.name.clone(), rows, cause });
        }
        job.timeline.mark(Stage::Landed);
        for (miss, &place) in missing.misses.iter().zip(&missing.places) {
            let row = claim.row(place as usize).ok_or(RequestError::Internal("a row that landed is not there"))?;
            job.out.write(miss.at as usize * table.row_bytes, row);
        }
        Ok(claim)
    }

    /// Waits for all flights of `claim`; the time counts as stall.
    async fn wait(&self, claim: &Claim) -> Result<(), Failed> {
        let begin = Instant::now();
        let mut outcome = Ok(());
        for (at, flight) in claim.flights().iter().enumerate() {
            if let Err(cause) = flight.ended().await {
                outcome = Err(Failed { own: claim.is_own(at), rows: claim.rows_of(at), cause: cause.clone() });
                break;
            }
        }
        if !claim.flights().is_empty() {
            self.stall_ns.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        outcome
    }
}
