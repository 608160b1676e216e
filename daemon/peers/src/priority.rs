//! Demand ahead of bulk on the answering side: how many answers of each class run at once, and how bulk holds back
//! while demand is being sent. Owns the two limits; it must never let bulk wait without end, nor demand wait for bulk.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::wire::{Class, RemoteError};

/// Streams of a class whose priorities differ; then they begin again, and for a moment later ones go first.
const STREAMS: u32 = 1 << 30;

/// The QUIC priority of a new stream; higher goes first: demand before bulk, and of one class the older stream, so that
/// its answer is in hand soonest. (quinn's setting for that, fairness off, lets no stream pass one that has begun, of
/// whatever priority.)
pub(crate) fn stream_priority(class: Class) -> i32 {
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    let nth = (BEGUN.fetch_add(1, Ordering::Relaxed) % STREAMS) as i32;
    match class {
        Class::Demand => i32::MAX - nth,
        Class::Bulk => -1 - nth,
    }
}

/// The places for answers.
#[derive(Debug)]
pub(crate) struct Turns {
    demand: Semaphore,
    bulk: Semaphore,
    demand_max: usize,
    bulk_max: usize,
    sending_demand: AtomicUsize,
    demand_sent: Notify,
    yield_max: Duration,
}

/// A place among the answers of a class; given up when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    class: Class,
    sending: bool,
    _permit: SemaphorePermit<'a>,
}

impl Turns {
    pub(crate) fn new(demand_max: usize, bulk_max: usize, yield_max: Duration) -> Self {
        Self {
            demand: Semaphore::new(demand_max),
            bulk: Semaphore::new(bulk_max),
            demand_max,
            bulk_max,
            sending_demand: AtomicUsize::new(0),
            demand_sent: Notify::new(),
            yield_max,
        }
    }

    /// Waits for a place, at most `wait`.
    pub(crate) async fn take(&self, class: Class, wait: Duration) -> Result<Turn<'_>, RemoteError> {
        let (semaphore, limit) = match class {
            Class::Demand => (&self.demand, self.demand_max),
            Class::Bulk => (&self.bulk, self.bulk_max),
        };
        let begin = Instant::now();
        match tokio::time::timeout(wait, semaphore.acquire()).await {
            Ok(Ok(permit)) => {
                if class == Class::Demand {
                    self.sending_demand.fetch_add(1, Ordering::AcqRel);
                }
                Ok(Turn { turns: self, class, sending: true, _permit: permit })
            }
            Ok(Err(_)) | Err(_) => {
                Err(RemoteError::Busy { limit: limit as u32, waited_ms: begin.elapsed().as_millis() as u32 })
            }
        }
    }
}

impl Turn<'_> {
    /// Called before each block. Bulk lets demand that is being sent finish, but for a limited time, so that it still
    /// arrives under demand without end.
    pub(crate) async fn give_way(&self) {
        if self.class == Class::Demand || self.turns.sending_demand.load(Ordering::Acquire) == 0 {
            return;
        }
        let sent = self.turns.demand_sent.notified();
        if self.turns.sending_demand.load(Ordering::Acquire) > 0 {
            // Either outcome lets the block go.
            let _ = tokio::time::timeout(self.turns.yield_max, sent).await;
        }
    }

    /// All blocks were handed to QUIC, whose stream priorities take over.
    pub(crate) fn sent(&mut self) {
        if std::mem::take(&mut self.sending)
            && self.class == Class::Demand
            && self.turns.sending_demand.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.turns.demand_sent.notify_waiters();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.sent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_goes_before_bulk_and_older_streams_before_later_ones() {
        let [early, demand, late, later_demand] =
            [Class::Bulk, Class::Demand, Class::Bulk, Class::Demand].map(stream_priority);
        assert!(demand > later_demand && later_demand > early && early > late);
    }
}
