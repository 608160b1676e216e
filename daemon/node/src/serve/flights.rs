//! Rows on their way: who asked for what and has not got it yet. It owns the promise that a row is fetched once for the
//! node, however many trainers wait for it, and the marks on rows that their owner has changed since: nobody joins those
//! any more, and [`Claim::fresh_row`] has them no longer. It does no I/O: the engine asks the peers and completes the
//! flights.

use hashbrown::{HashMap, HashSet};
use rudder_peers::{PeerError, RowBatch};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// What a flight brought.
pub(super) type Landing = Result<RowBatch, Arc<PeerError>>;

/// One request to one peer that is under way or has been answered.
#[derive(Debug, Default)]
pub(super) struct Flight {
    landed: OnceLock<Landing>,
    notify: Notify,
    /// Its rows in their order; known when the claim that opened it is made.
    ids: OnceLock<Box<[u32]>>,
    /// One bit for each row that was changed since it was asked for; made when there is one.
    outdated: OnceLock<Box<[AtomicU64]>>,
    /// Known when it has landed, if a peer was asked.
    took: OnceLock<Took>,
}

/// How long a peer took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// The peer.
    pub(super) peer: u16,
    /// Rows that it was asked for.
    pub(super) rows: usize,
    /// From the request to its answer.
    pub(super) elapsed: Duration,
}

impl Flight {
    /// Rows in hand, of which only changes are to be learned: nobody waits for them.
    pub(super) fn of_rows(ids: &[u32]) -> Arc<Self> {
        Arc::new(Self { ids: OnceLock::from(Box::from(ids)), ..Self::default() })
    }

    fn outdate(&self, row: u32) {
        let words = || {
            let rows = self.ids.get().map_or(0, |ids| ids.len());
            (0..rows.div_ceil(u64::BITS as usize)).map(|_| AtomicU64::new(0)).collect()
        };
        if let Some(word) = self.outdated.get_or_init(words).get((row / u64::BITS) as usize) {
            word.fetch_or(1 << (row % u64::BITS), Ordering::AcqRel);
        }
    }

    /// Whether row `row` was changed since it was asked for.
    pub(super) fn is_outdated(&self, row: u32) -> bool {
        let word = self.outdated.get().and_then(|words| words.get((row / u64::BITS) as usize));
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (row % u64::BITS) & 1 == 1)
    }

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

    /// How long the peer took, once it has answered.
    pub(super) fn took(&self) -> Option<Took> {
        self.took.get().copied()
    }

    /// Gives the answer to all who wait, with how long it took.
    pub(super) fn land_after(&self, landing: Landing, took: Took) {
        let _ = self.took.set(took);
        self.land(landing);
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
    known: Mutex<Known>,
}

/// Every flight whose rows may still find their way into the cache.
#[derive(Debug, Default)]
struct Known {
    /// Rows that claims may join.
    seats: HashMap<u32, (Arc<Flight>, u32)>,
    /// Flights whose rows nobody joins any more, while somebody still holds them.
    leaving: Vec<Weak<Flight>>,
}

impl Known {
    /// Keeps an eye on a flight until nobody holds it.
    fn watch(&mut self, flight: &Arc<Flight>) {
        self.leaving.retain(|flight| flight.strong_count() > 0);
        self.leaving.push(Arc::downgrade(flight));
    }

    fn outdate_leaving(&self, changed: impl Fn(u32) -> bool, except: Option<&Arc<Flight>>) {
        for flight in self.leaving.iter().filter_map(Weak::upgrade) {
            if except.is_some_and(|except| Arc::ptr_eq(except, &flight)) {
                continue;
            }
            let ids = flight.ids.get().map(|ids| &ids[..]).unwrap_or_default();
            (0..).zip(ids).filter(|&(_, &id)| changed(id)).for_each(|(row, _)| flight.outdate(row));
        }
    }
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has rows in hand marked when their owner changes them, like those on their way.
    pub(super) fn watch(&self, flight: &Arc<Flight>) {
        self.lock().watch(flight);
    }

    /// Marks the rows that `changed` picks, wherever they are between their owner and the cache: later claims order them
    /// anew.
    pub(super) fn outdate(&self, changed: impl Fn(u32) -> bool) {
        let mut known = self.lock();
        // A row without a seat needs no other reminder: its mark stays.
        known.seats.retain(|&id, (flight, row)| {
            let outdated = changed(id);
            if outdated {
                flight.outdate(*row);
            }
            !outdated
        });
        known.outdate_leaving(changed, None);
    }

    /// As [`Flights::outdate`] for `ids`, but for those in `except`.
    pub(super) fn outdate_ids(&self, ids: &[u32], except: Option<&Arc<Flight>>) {
        let mut known = self.lock();
        for id in ids {
            if let Some((flight, row)) = known.seats.remove(id) {
                flight.outdate(row);
            }
        }
        if known.leaving.iter().any(|flight| flight.strong_count() > 0) {
            let ids: HashSet<u32> = ids.iter().copied().collect();
            known.outdate_leaving(|id| ids.contains(&id), except);
        }
    }

    /// Claims rows, given as id and owner, each id once: joins flights that are under way and opens one per owner for
    /// the rest.
    pub(super) fn claim(&self, rows: impl Iterator<Item = (u32, u16)>) -> Claim {
        let mut claim = Claim::default();
        let mut known = self.lock();
        let seats = &mut known.seats;
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
        for Order { flight, ids, .. } in &claim.orders {
            let _ = claim.flights[*flight].ids.set(ids.iter().map(|&id| id as u32).collect());
        }
        claim
    }

    /// Those of `ids` that are not on their way, nor here and waiting for their use.
    pub(super) fn absent(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let known = self.lock();
        ids.retain(|id| known.seats.get(id).is_none_or(|(flight, _)| flight.failed()));
        ids
    }

    /// Forgets the rows that `claim` ordered: they are in the cache now, or not worth it, or failed.
    pub(super) fn retire(&self, claim: &Claim) {
        let mut known = self.lock();
        for order in &claim.orders {
            let flight = &claim.flights[order.flight];
            for id in order.ids.iter().map(|&id| id as u32) {
                // Rows of a failed or outdated flight may have been ordered anew by another.
                if known.seats.get(&id).is_some_and(|(holder, _)| Arc::ptr_eq(holder, flight)) {
                    known.seats.remove(&id);
                }
            }
            // Others that joined may still offer its rows.
            known.watch(flight);
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

    /// The row of the `i`-th claimed id, unless its owner has changed it since; asked under the cache's writer lock it says
    /// whether the row may be kept.
    pub(super) fn fresh_row(&self, i: usize) -> Option<&[u8]> {
        let seat = self.seats[i];
        let outdated = self.flights[seat.flight as usize].is_outdated(seat.row);
        if outdated { None } else { self.row(i) }
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

    fn is_outdated(claim: &Claim, i: usize) -> bool {
        claim.flights[claim.seats[i].flight as usize].is_outdated(claim.seats[i].row)
    }

    #[test]
    fn a_changed_row_is_marked_wherever_it_is_and_ordered_anew() {
        let flights = Flights::default();
        let first = flights.claim((1..200).map(|id| (id, 7)));
        let joined = flights.claim([(150, 7), (2, 7)].into_iter());
        flights.outdate_ids(&[150], None);
        assert!(is_outdated(&first, 149) && is_outdated(&joined, 0) && !is_outdated(&first, 148));
        let anew = flights.claim([(150, 7), (2, 7)].into_iter());
        assert_eq!(anew.orders[0].ids, [150]);
        // The first has settled, the second, which joined it, has not: what it offers must still be marked.
        flights.retire(&first);
        flights.outdate(|id| id == 2);
        assert!(is_outdated(&joined, 1) && is_outdated(&anew, 1) && !is_outdated(&anew, 0));
        flights.outdate(|id| id == 150);
        assert!(is_outdated(&anew, 0));
        assert_eq!(flights.absent(vec![150, 2]), [150, 2]);
    }

    #[test]
    fn rows_in_hand_are_marked_but_by_who_holds_them() {
        let flights = Flights::default();
        let written = Flight::of_rows(&[5, 6]);
        flights.watch(&written);
        flights.outdate_ids(&[5, 6], Some(&written));
        assert!(!written.is_outdated(0) && !written.is_outdated(1));
        flights.outdate(|id| id == 6);
        assert!(!written.is_outdated(0) && written.is_outdated(1));
        drop(written);
        flights.watch(&Flight::of_rows(&[1]));
        assert_eq!(flights.lock().leaving.len(), 1, "what nobody holds is forgotten");
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
