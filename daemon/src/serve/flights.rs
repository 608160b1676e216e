//! Rows on their way: who asked for what and has not got it yet. It owns the promise that a row is fetched once for the
//! node, however many trainers wait for it. It does no I/O: the engine asks the peers and completes the flights.

use crate::peers::{PeerError, RowBatch};
use hashbrown::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// What a flight brought.
pub(super) type Landing = Result<RowBatch, Arc<PeerError>>;

/// One request to one peer that is under way or has been answered.
#[derive(Debug, Default)]
pub(super) struct Flight {
    landed: OnceLock<Landing>,
    notify: Notify,
}

impl Flight {
    /// Waits until the request was answered or failed; peers bound that time.
    pub(super) async fn landing(&self) -> &Landing {
        loop {
            let notified = self.notify.notified();
            if let Some(landing) = self.landed.get() {
                return landing;
            }
            notified.await;
        }
    }

    /// The answer, if it is there.
    pub(super) fn landed(&self) -> Option<&Landing> {
        self.landed.get()
    }

    fn failed(&self) -> bool {
        matches!(self.landed.get(), Some(Err(_)))
    }

    /// Gives the answer to all who wait.
    pub(super) fn land(&self, landing: Landing) {
        let _ = self.landed.set(landing);
        self.notify.notify_waiters();
    }
}

/// Where the row of an id will be: in which of a claim's flights, and at which place of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    /// Index into [`Claim::flights`].
    pub(super) flight: u32,
    /// Row of the batch.
    pub(super) row: u32,
}

/// A request that the claimer must now make.
#[derive(Debug)]
pub(super) struct Order {
    /// The peer.
    pub(super) part: u16,
    /// Index into [`Claim::flights`].
    pub(super) flight: usize,
    /// Ids to ask for, each once.
    pub(super) ids: Vec<u64>,
}

/// What came of claiming ids.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// All flights that hold claimed rows: own ones and those of others.
    pub(super) flights: Vec<Arc<Flight>>,
    /// For each claimed id, in their order.
    pub(super) seats: Vec<Seat>,
    /// Requests to make: the ids that nobody had asked for.
    pub(super) orders: Vec<Order>,
    /// For each flight, whether its rows were there already when they were claimed.
    ready: Vec<bool>,
}

/// The rows of one table that are on their way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    seats: Mutex<HashMap<u32, (Arc<Flight>, u32)>>,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, (Arc<Flight>, u32)>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims rows, given as id and owner, each id once: joins flights that are under way and opens one per owner for
    /// the rest.
    pub(super) fn claim(&self, rows: impl Iterator<Item = (u32, u16)>) -> Claim {
        let mut claim = Claim::default();
        let mut seats = self.lock();
        for (id, part) in rows {
            let seat = match seats.get(&id).filter(|(flight, _)| !flight.failed()) {
                Some((flight, row)) => Seat { flight: claim.join(flight), row: *row },
                None => {
                    let (flight, row) = claim.order(part, u64::from(id));
                    seats.insert(id, (Arc::clone(&claim.flights[flight as usize]), row));
                    Seat { flight, row }
                }
            };
            claim.seats.push(seat);
        }
        claim
    }

    /// Those of `ids` that are not on their way, nor here and waiting for their use.
    pub(super) fn absent(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let seats = self.lock();
        ids.retain(|id| seats.get(id).is_none_or(|(flight, _)| flight.failed()));
        ids
    }

    /// Forgets the rows that `claim` ordered: they are in the cache now, or not worth it, or failed.
    pub(super) fn retire(&self, claim: &Claim) {
        let mut seats = self.lock();
        for order in &claim.orders {
            let flight = &claim.flights[order.flight];
            for id in order.ids.iter().map(|&id| id as u32) {
                // Rows of a failed flight may have been ordered anew by another.
                if seats.get(&id).is_some_and(|(holder, _)| Arc::ptr_eq(holder, flight)) {
                    seats.remove(&id);
                }
            }
        }
    }
}

impl Claim {
    fn join(&mut self, flight: &Arc<Flight>) -> u32 {
        let known = self.flights.iter().position(|other| Arc::ptr_eq(other, flight));
        known.unwrap_or_else(|| {
            self.flights.push(Arc::clone(flight));
            self.ready.push(flight.landed().is_some());
            self.flights.len() - 1
        }) as u32
    }

    fn order(&mut self, part: u16, id: u64) -> (u32, u32) {
        let at = self.orders.iter().position(|order| order.part == part).unwrap_or_else(|| {
            self.flights.push(Arc::default());
            self.ready.push(false);
            self.orders.push(Order { part, flight: self.flights.len() - 1, ids: Vec::new() });
            self.orders.len() - 1
        });
        let order = &mut self.orders[at];
        order.ids.push(id);
        (order.flight as u32, (order.ids.len() - 1) as u32)
    }

    /// Whether the row of the `i`-th claimed id was there when it was claimed.
    pub(super) fn was_ready(&self, i: usize) -> bool {
        self.ready[self.seats[i].flight as usize]
    }

    /// Whether flight `at` was ordered by this claim.
    pub(super) fn is_own(&self, at: usize) -> bool {
        self.orders.iter().any(|order| order.flight == at)
    }

    /// The row of the `i`-th claimed id, once its flight has landed well.
    pub(super) fn row(&self, i: usize) -> Option<&[u8]> {
        let seat = self.seats[i];
        match self.flights[seat.flight as usize].landed()? {
            Ok(batch) => Some(batch.row(seat.row as usize)),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_joins_what_is_under_way() {
        let flights = Flights::default();
        let first = flights.claim([(1, 7), (2, 8), (3, 7)].into_iter());
        assert_eq!(first.orders.len(), 2);
        assert_eq!(first.orders[0].ids, [1, 3]);
        let second = flights.claim([(3, 7), (4, 7)].into_iter());
        assert_eq!(second.orders.len(), 1);
        assert_eq!(second.orders[0].ids, [4]);
        assert!(Arc::ptr_eq(&second.flights[second.seats[0].flight as usize], &first.flights[0]));
        assert_eq!(second.seats[0].row, 1);
        flights.retire(&first);
        flights.retire(&first);
        assert_eq!(flights.absent(vec![3, 4]), [3]);
    }
    #[test]
    fn a_failed_flight_is_not_joined_and_its_retirement_leaves_the_next_one_alone() {
        let flights = Flights::default();
        let first = flights.claim([(1, 7), (2, 7)].into_iter());
        first.flights[0].land(Err(Arc::new(PeerError::ShuttingDown { peer: 7, rows: 2 })));
        let second = flights.claim([(2, 7)].into_iter());
        assert_eq!(second.orders[0].ids, [2]);
        flights.retire(&first);
        assert_eq!(flights.absent(vec![1, 2]), [1]);
        flights.retire(&second);
        assert_eq!(flights.absent(vec![2]), [2]);
    }
}
