//! One request to one peer: under way, landed or failed. It owns the duty to end it: a flight whose [`Landing`] is
//! dropped has failed, so that nobody waits for what nobody asks for. It does no I/O.

use rudder_dataset::Part;
use rudder_peers::{PeerError, RowBatch};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Why a flight did not bring its rows.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FlightError {
    /// The peer, or the way to it.
    #[error(transparent)]
    Peer(Arc<PeerError>),
    /// Whoever was to ask the peer is gone.
    #[error(
        "the request to peer {peer} for {rows} rows ended without an answer: a defect of this daemon unless it is stopping, see its log"
    )]
    Ended {
        /// The peer.
        peer: Part,
        /// Rows that it was to be asked for.
        rows: usize,
    },
}

/// How a flight ended, and how long that took.
#[derive(Debug)]
enum Outcome {
    Landed { rows: RowBatch, took: Duration },
    Failed { cause: FlightError, took: Duration },
}

/// Who may join a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// Anybody, until its rows have been accounted for: they are for the cache or were announced, and what is cached
    /// or staged may be served until a refresh.
    Always,
    /// Fetches that begin before its rows are asked for. The answer may be older than any other fetch.
    UntilSent,
}

/// One request to one peer that is under way, has landed, or has failed.
#[derive(Debug)]
pub(crate) struct Flight {
    peer: Part,
    joining: Joining,
    /// Rows of which the peer may have been asked already: the first ones.
    sent_rows: AtomicUsize,
    /// Its rows in their order.
    ids: Box<[u64]>,
    /// Empty while the peer is asked.
    outcome: OnceLock<Outcome>,
    ended: Notify,
    /// One bit for each row that was changed since it was asked for; made when there is one.
    outdated: OnceLock<Box<[AtomicU64]>>,
}

/// How long a peer took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// The peer.
    pub(crate) peer: Part,
    /// Rows that it was asked for.
    pub(crate) rows: usize,
    /// From the request to its answer.
    pub(crate) elapsed: Duration,
}

impl Flight {
    pub(crate) fn asked(peer: Part, ids: Box<[u64]>, joining: Joining) -> Arc<Self> {
        let (outcome, ended, outdated) = (OnceLock::new(), Notify::new(), OnceLock::new());
        Arc::new(Self { peer, joining, sent_rows: AtomicUsize::new(0), ids, outcome, ended, outdated })
    }

    /// Rows in hand that belong to `peer`, of which only changes are to be learned: nobody waits for them.
    pub(crate) fn of_rows(peer: Part, ids: &[u64]) -> Arc<Self> {
        Self::asked(peer, Box::from(ids), Joining::Always)
    }

    /// The peer that is asked.
    pub(crate) fn peer(&self) -> Part {
        self.peer
    }

    /// The ids that it is asked for, each once.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The peer is about to be asked for the first `rows` rows: whoever needs them as they are later must ask again.
    pub(crate) fn note_sent(&self, rows: usize) {
        // Before the request leaves, for every thread: who still joins has begun before the peer reads the rows.
        self.sent_rows.fetch_max(rows, Ordering::SeqCst);
    }

    /// Whether a fetch that begins now may wait for row `row` of this flight.
    pub(crate) fn can_be_joined(&self, row: u32) -> bool {
        match self.joining {
            Joining::Always => !self.has_failed(),
            Joining::UntilSent => !self.has_ended() && row as usize >= self.sent_rows.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn mark_outdated(&self, row: u32) {
        let words = || (0..self.ids.len().div_ceil(u64::BITS as usize)).map(|_| AtomicU64::new(0)).collect();
        if let Some(word) = self.outdated.get_or_init(words).get((row / u64::BITS) as usize) {
            word.fetch_or(1 << (row % u64::BITS), Ordering::AcqRel);
        }
    }

    /// Whether row `row` was changed since it was asked for.
    pub(crate) fn is_outdated(&self, row: u32) -> bool {
        let word = self.outdated.get().and_then(|words| words.get((row / u64::BITS) as usize));
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (row % u64::BITS) & 1 == 1)
    }

    /// Waits until the request has ended. Peers bound that time, and [`Landing`] ends it where nobody asks them any
    /// more.
    pub(crate) async fn ended(&self) -> Result<(), &FlightError> {
        loop {
            let ended = self.ended.notified();
            match self.outcome.get() {
                Some(Outcome::Landed { .. }) => return Ok(()),
                Some(Outcome::Failed { cause, .. }) => return Err(cause),
                None => ended.await,
            }
        }
    }

    /// Whether it has landed or failed.
    pub(crate) fn has_ended(&self) -> bool {
        self.outcome.get().is_some()
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.outcome.get(), Some(Outcome::Failed { .. }))
    }

    /// The rows, once they have landed.
    pub(crate) fn rows(&self) -> Option<&RowBatch> {
        match self.outcome.get() {
            Some(Outcome::Landed { rows, .. }) => Some(rows),
            _ => None,
        }
    }

    /// How long the peer took, once it has answered.
    pub(crate) fn took(&self) -> Option<Took> {
        let (Outcome::Landed { took, .. } | Outcome::Failed { took, .. }) = self.outcome.get()?;
        Some(Took { peer: self.peer, rows: self.ids.len(), elapsed: *took })
    }

    fn end(&self, outcome: Outcome) {
        let _ = self.outcome.set(outcome);
        self.ended.notify_waiters();
    }
}

/// The duty to bring a flight to its end. If it is dropped before [`Landing::land`], the flight has failed: nobody
/// waits for what nobody asks for.
#[must_use]
#[derive(Debug)]
pub(crate) struct Landing {
    flight: Arc<Flight>,
    begun: Instant,
    ended: bool,
}

impl Landing {
    /// The peer is asked from now on.
    pub(crate) fn of(flight: &Arc<Flight>) -> Self {
        Self { flight: Arc::clone(flight), begun: Instant::now(), ended: false }
    }

    /// The flight that is to land.
    pub(crate) fn flight(&self) -> &Flight {
        &self.flight
    }

    /// Gives the peer's answer to all who wait.
    pub(crate) fn land(mut self, answer: Result<RowBatch, PeerError>) {
        let took = self.begun.elapsed();
        self.flight.end(match answer {
            Ok(rows) => Outcome::Landed { rows, took },
            Err(cause) => Outcome::Failed { cause: FlightError::Peer(Arc::new(cause)), took },
        });
        self.ended = true;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.ended {
            let (peer, rows) = (self.flight.peer, self.flight.ids.len());
            let cause = FlightError::Ended { peer, rows };
            self.flight.end(Outcome::Failed { cause, took: self.begun.elapsed() });
        }
    }
}
