//! Rows on their way: who asked for what and has not got it yet. It owns the promise that a row that is cached or
//! staged is fetched once for the node, however many trainers wait for it; that a row that is neither is as new as the
//! fetch that gets it ([`Joining`]); and the marks on rows that their owner has changed since: nobody joins those any
//! more, and [`Claim::fresh_row`] has them no longer. A claim ends when it is dropped. It does no I/O: others ask the
//! peers and land the flights.

use crate::serve::table::flight::{Flight, Joining};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use rudder_dataset::Part;
use std::sync::{Arc, Weak};

/// Rows looked up in one go where a fetch need not wait for all of them.
const PIECE_ROWS: usize = 1024;

/// Where the row of an id will be: in which of a claim's flights, and at which place of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Index into [`Claim::flights`].
    pub(crate) flight: u32,
    /// Row of the batch.
    pub(crate) row: u32,
}

/// A right to rows, and the flights that bring them. When it is dropped, the rows that it was first to ask for are
/// forgotten: they are in the cache then, or not worth it, or failed.
#[derive(Debug)]
pub(crate) struct Claim {
    of: Arc<Flights>,
    /// All flights that hold claimed rows: own ones and those of others.
    flights: Vec<Arc<Flight>>,
    /// For each claimed id, in their order.
    seats: Vec<Seat>,
    /// Indices of the flights that this claim opened: for the ids that nobody had asked for.
    own: Vec<usize>,
    /// For each flight, whether its rows were there already when they were claimed.
    ready: Vec<bool>,
}

/// The rows of one table that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    known: Mutex<Known>,
}

/// Every flight whose rows may still find their way into the cache.
#[derive(Debug, Default)]
struct Known {
    /// Rows that claims may join.
    seats: HashMap<u64, (Arc<Flight>, u32)>,
    /// Flights whose rows nobody joins any more, while somebody still holds them.
    leaving: Vec<Weak<Flight>>,
}

impl Known {
    /// Keeps an eye on a flight until nobody holds it.
    fn watch(&mut self, flight: &Arc<Flight>) {
        self.leaving.retain(|flight| flight.strong_count() > 0);
        self.leaving.push(Arc::downgrade(flight));
    }

    fn outdate_leaving(&self, changed: impl Fn(u64) -> bool, except: Option<&Arc<Flight>>) {
        for flight in self.leaving.iter().filter_map(Weak::upgrade) {
            if except.is_some_and(|except| Arc::ptr_eq(except, &flight)) {
                continue;
            }
            (0..).zip(flight.ids()).filter(|&(_, &id)| changed(id)).for_each(|(row, _)| flight.mark_outdated(row));
        }
    }
}

/// A flight about to be opened.
struct Opening {
    peer: Part,
    ids: Vec<u64>,
    /// For each id, its place among the claimed ones.
    places: Vec<usize>,
}

impl Flights {
    /// Has rows in hand marked when their owner changes them, like those on their way.
    pub(crate) fn watch(&self, flight: &Arc<Flight>) {
        self.known.lock().watch(flight);
    }

    /// Marks the rows that `changed` picks, wherever they are between their owner and the cache: later claims ask for
    /// them again.
    pub(crate) fn outdate(&self, changed: impl Fn(u64) -> bool) {
        let mut known = self.known.lock();
        // A row without a seat needs no other reminder: its mark stays.
        known.seats.retain(|&id, (flight, row)| {
            let outdated = changed(id);
            if outdated {
                flight.mark_outdated(*row);
            }
            !outdated
        });
        known.outdate_leaving(changed, None);
    }

    /// As [`Flights::outdate`] for `ids`, but for those in `except`.
    pub(crate) fn outdate_ids(&self, ids: &[u64], except: Option<&Arc<Flight>>) {
        let mut known = self.known.lock();
        for id in ids {
            if let Some((flight, row)) = known.seats.remove(id) {
                flight.mark_outdated(row);
            }
        }
        if known.leaving.iter().any(|flight| flight.strong_count() > 0) {
            let ids: HashSet<u64> = ids.iter().copied().collect();
            known.outdate_leaving(|id| ids.contains(&id), except);
        }
    }

    /// Claims rows, given as id and owner, each id once: joins flights that are under way, as they allow, and opens one
    /// per owner for the rest, which others may join as `joining` says.
    pub(crate) fn claim(self: &Arc<Self>, rows: impl IntoIterator<Item = (u64, Part)>, joining: Joining) -> Claim {
        let (flights, seats, own, ready) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut claim = Claim { of: Arc::clone(self), flights, seats, own, ready };
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return claim;
        }
        let mut openings: Vec<Opening> = Vec::new();
        let mut known = self.known.lock();
        for (place, (id, peer)) in rows.enumerate() {
            let seat = match known.seats.get(&id).filter(|(flight, row)| flight.can_be_joined(*row)) {
                Some((flight, row)) => Seat { flight: claim.join(flight), row: *row },
                None => {
                    let at = openings.iter().position(|opening| opening.peer == peer).unwrap_or_else(|| {
                        openings.push(Opening { peer, ids: Vec::new(), places: Vec::new() });
                        openings.len() - 1
                    });
                    openings[at].ids.push(id);
                    openings[at].places.push(place);
                    // Filled in by `open`.
                    Seat { flight: 0, row: 0 }
                }
            };
            claim.seats.push(seat);
        }
        openings.into_iter().for_each(|opening| claim.open(&mut known, opening, joining));
        claim
    }

    /// Those of `ids` that are not on their way, nor here and waiting for their use.
    pub(crate) fn absent(&self, ids: &[u64]) -> Vec<u64> {
        let mut absent = Vec::with_capacity(ids.len());
        for piece in ids.chunks(PIECE_ROWS) {
            let known = self.known.lock();
            let is_absent = |id: &u64| known.seats.get(id).is_none_or(|(flight, _)| flight.has_failed());
            absent.extend(piece.iter().copied().filter(is_absent));
        }
        absent
    }
}

impl Claim {
    fn join(&mut self, flight: &Arc<Flight>) -> u32 {
        let known = self.flights.iter().position(|other| Arc::ptr_eq(other, flight));
        known.unwrap_or_else(|| {
            self.flights.push(Arc::clone(flight));
            self.ready.push(flight.has_ended());
            self.flights.len() - 1
        }) as u32
    }

    fn open(&mut self, known: &mut Known, Opening { peer, ids, places }: Opening, joining: Joining) {
        let (flight, at) = (Flight::asked(peer, ids.into(), joining), self.flights.len());
        let mut unseated: Option<Arc<Flight>> = None;
        for ((row, &id), place) in (0..).zip(flight.ids()).zip(places) {
            if let Some((earlier, _)) = known.seats.insert(id, (Arc::clone(&flight), row))
                && unseated.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &earlier))
            {
                // Its rows may still be offered to the cache: they must be marked although they have no seat.
                known.watch(&earlier);
                unseated = Some(earlier);
            }
            self.seats[place] = Seat { flight: at as u32, row };
        }
        self.flights.push(flight);
        self.ready.push(false);
        self.own.push(at);
    }

    /// All flights that hold claimed rows.
    pub(crate) fn flights(&self) -> &[Arc<Flight>] {
        &self.flights
    }

    /// The flights that this claim opened: its holder must ask their peers.
    pub(crate) fn to_ask(&self) -> impl Iterator<Item = &Arc<Flight>> {
        self.own.iter().map(|&at| &self.flights[at])
    }

    /// Claimed rows that come by flight `at`.
    pub(crate) fn rows_of(&self, at: usize) -> usize {
        self.seats.iter().filter(|seat| seat.flight as usize == at).count()
    }

    /// Whether the row of the `i`-th claimed id was there when it was claimed.
    pub(crate) fn was_ready(&self, i: usize) -> bool {
        self.ready[self.seats[i].flight as usize]
    }

    /// Whether flight `at` was opened by this claim.
    pub(crate) fn is_own(&self, at: usize) -> bool {
        self.own.contains(&at)
    }

    /// The row of the `i`-th claimed id, unless its owner has changed it since; asked under the cache's writer lock it
    /// says whether the row may be kept.
    pub(crate) fn fresh_row(&self, i: usize) -> Option<&[u8]> {
        let seat = self.seats[i];
        let outdated = self.flights[seat.flight as usize].is_outdated(seat.row);
        if outdated { None } else { self.row(i) }
    }

    /// The row of the `i`-th claimed id, once its flight has landed.
    pub(crate) fn row(&self, i: usize) -> Option<&[u8]> {
        let seat = self.seats[i];
        Some(self.flights[seat.flight as usize].rows()?.row(seat.row as usize))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.own.is_empty() {
            return;
        }
        for &at in &self.own {
            let flight = &self.flights[at];
            // First: others that joined may still offer its rows, and those without a seat must be marked all the same.
            self.of.known.lock().watch(flight);
            for piece in flight.ids().chunks(PIECE_ROWS) {
                let mut known = self.of.known.lock();
                for id in piece {
                    // Rows of a failed or outdated flight may have been asked for again by another.
                    if known.seats.get(id).is_some_and(|(holder, _)| Arc::ptr_eq(holder, flight)) {
                        known.seats.remove(id);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::table::flight::{FlightError, Landing};
    use rudder_peers::{PeerError, RowBatch};
    use std::time::Duration;

    fn asked(claim: &Claim) -> Vec<&[u64]> {
        claim.to_ask().map(|flight| flight.ids()).collect()
    }

    fn is_outdated(claim: &Claim, i: usize) -> bool {
        claim.flights[claim.seats[i].flight as usize].is_outdated(claim.seats[i].row)
    }

    #[test]
    fn a_second_claim_joins_what_is_under_way() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim([(1, Part(7)), (2, Part(8)), (3, Part(7))], Joining::Always);
        assert_eq!(asked(&first), [&[1, 3][..], &[2]]);
        let second = flights.claim([(3, Part(7)), (4, Part(7))], Joining::Always);
        assert_eq!(asked(&second), [[4]]);
        assert!(Arc::ptr_eq(&second.flights[second.seats[0].flight as usize], &first.flights[0]));
        assert_eq!(second.seats[0].row, 1);
        drop(first);
        assert_eq!(flights.absent(&[3, 4]), [3]);
    }

    /// Without a cache, what a fetch gets must not be older than the fetch: it waits for no request that has left.
    #[test]
    fn a_request_that_was_sent_is_joined_only_where_its_rows_are_kept() {
        let joins = |joining, sent_rows: usize, landed: bool| {
            let flights = Arc::new(Flights::default());
            let first = flights.claim([(1, Part(7)), (2, Part(7))], joining);
            first.flights[0].note_sent(sent_rows);
            if landed {
                Landing::of(&first.flights[0]).land(Ok(RowBatch::of_bytes(&[1, 2], 1)));
            }
            let second = flights.claim([(1, Part(7)), (2, Part(7))], joining);
            let asked: Vec<u64> = second.to_ask().flat_map(|flight| flight.ids()).copied().collect();
            // Whoever comes next joins the newest, and an end of the first takes nobody's place away.
            drop(first);
            let third = flights.claim([(1, Part(7)), (2, Part(7))], Joining::UntilSent);
            let asked_again: Vec<u64> = third.to_ask().flat_map(|flight| flight.ids()).copied().collect();
            (asked, asked_again)
        };
        assert_eq!(joins(Joining::UntilSent, 0, false), (vec![], vec![1, 2]));
        assert_eq!(joins(Joining::UntilSent, 1, false), (vec![1], vec![2]), "the peer is asked piece by piece");
        assert_eq!(joins(Joining::UntilSent, 2, false), (vec![1, 2], vec![]));
        assert_eq!(joins(Joining::UntilSent, 2, true), (vec![1, 2], vec![]));
        assert_eq!(joins(Joining::Always, 2, false), (vec![], vec![1, 2]));
        assert_eq!(joins(Joining::Always, 2, true), (vec![], vec![1, 2]));
    }

    #[test]
    fn a_row_that_lost_its_seat_is_marked_all_the_same() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim([(1, Part(7)), (2, Part(7))], Joining::UntilSent);
        first.flights[0].note_sent(2);
        let second = flights.claim([(1, Part(7)), (2, Part(7))], Joining::UntilSent);
        flights.outdate_ids(&[2], None);
        assert!(is_outdated(&first, 1) && is_outdated(&second, 1) && !is_outdated(&first, 0));
    }

    #[test]
    fn a_changed_row_is_marked_wherever_it_is_and_asked_for_again() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim((1..200).map(|id| (id, Part(7))), Joining::Always);
        let joined = flights.claim([(150, Part(7)), (2, Part(7))], Joining::Always);
        flights.outdate_ids(&[150], None);
        assert!(is_outdated(&first, 149) && is_outdated(&joined, 0) && !is_outdated(&first, 148));
        let again = flights.claim([(150, Part(7)), (2, Part(7))], Joining::Always);
        assert_eq!(asked(&again), [[150]]);
        // The first is gone, the second, which joined it, is not: what it offers must still be marked.
        drop(first);
        flights.outdate(|id| id == 2);
        assert!(is_outdated(&joined, 1) && is_outdated(&again, 1) && !is_outdated(&again, 0));
        flights.outdate(|id| id == 150);
        assert!(is_outdated(&again, 0));
        assert_eq!(flights.absent(&[150, 2]), [150, 2]);
    }

    #[test]
    fn rows_in_hand_are_marked_but_by_who_holds_them() {
        let flights = Flights::default();
        let written = Flight::of_rows(Part(7), &[5, 6]);
        flights.watch(&written);
        flights.outdate_ids(&[5, 6], Some(&written));
        assert!(!written.is_outdated(0) && !written.is_outdated(1));
        flights.outdate(|id| id == 6);
        assert!(!written.is_outdated(0) && written.is_outdated(1));
        drop(written);
        flights.watch(&Flight::of_rows(Part(7), &[1]));
        assert_eq!(flights.known.lock().leaving.len(), 1, "what nobody holds is forgotten");
    }

    #[test]
    fn a_failed_flight_is_not_joined_and_its_end_leaves_the_next_one_alone() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim([(1, Part(7)), (2, Part(7))], Joining::Always);
        Landing::of(&first.flights[0]).land(Err(PeerError::ShuttingDown { peer: 7, rows: 2 }));
        let second = flights.claim([(2, Part(7))], Joining::Always);
        assert_eq!(asked(&second), [[2]]);
        drop(first);
        assert_eq!(flights.absent(&[1, 2]), [1]);
        drop(second);
        assert_eq!(flights.absent(&[2]), [2]);
    }

    /// Whoever asks a peer may panic, or be gone with its runtime: those who wait for the rows must hear of it.
    #[tokio::test]
    async fn a_flight_whose_task_dies_has_failed_for_everybody() {
        let flights = Arc::new(Flights::default());
        let (first, joined) = (
            flights.claim([(1, Part(7)), (2, Part(7))], Joining::Always),
            flights.claim([(2, Part(7))], Joining::Always),
        );
        let landing = Landing::of(&first.flights[0]);
        let asking = tokio::spawn(async move {
            assert!(landing.flight().ids().is_empty(), "a panic that the test wants");
        });
        let within = Duration::from_secs(10);
        for claim in [&first, &joined] {
            let ended = tokio::time::timeout(within, claim.flights[0].ended()).await.expect("the flight never ends");
            assert!(matches!(ended, Err(FlightError::Ended { peer: Part(7), rows: 2 })), "{ended:?}");
        }
        assert!(asking.await.is_err());
        let again = flights.claim([(2, Part(7))], Joining::Always);
        assert_eq!(asked(&again), [[2]], "the next fetch asks once more");
        let landing = Landing::of(&again.flights[0]);
        let aborted = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(landing);
        });
        tokio::task::yield_now().await;
        aborted.abort();
        let ended = tokio::time::timeout(within, again.flights[0].ended()).await.expect("the flight never ends");
        assert!(matches!(ended, Err(FlightError::Ended { .. })), "{ended:?}");
    }
}
