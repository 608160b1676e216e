//! The queue in front of a table's bookkeeper. It owns the order of the entries and their limit. The fetch path takes
//! its lock for the time of one push; who must wait for a place in it ([`PLACES`]) has answered its trainer before.

use crate::serve::error::RequestError;
use crate::serve::notices::Notices;
use crate::serve::table::flights::Claim;
use hashbrown::HashSet;
use parking_lot::{Condvar, Mutex};
use rudder_core::cache::{Clock, Fill};
use rudder_core::lookahead::{IdsMark, Named, TrainerId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use xxhash_rust::xxh3::xxh3_64;

/// Places per table for entries with rows or ids that wait: answered fetches, rows to be offered, announcements. An
/// entry takes one place, and one more for each [`PLACE_ROWS`] of its rows: it may keep all of them in memory.
pub(crate) const PLACES: usize = 1024;

/// Rows or ids for which an entry takes one more place.
const PLACE_ROWS: usize = 1024;

/// Most places that one entry takes: sixteen minibatches of any size can wait.
const ENTRY_PLACES_MAX: usize = PLACES / 16;

/// Fetches of announced batches per table that may be under way or wait to be accounted for. One more counts as not
/// announced.
const TICKETS_MAX: usize = 16_384;

/// How long a bookkeeper sleeps after its last entry before it asks to be woken for entries that nobody waits for. Each
/// wake disturbs the fetches of that moment: with 0.5 ms, the slowest hundredth of fetches of one row took 210 to
/// 270 µs on two cores, because one fetch of eighteen met a wake.
const LINGER: Duration = Duration::from_millis(5);

/// A fetch that was answered, and what is still owed to the cache.
#[derive(Debug)]
pub(crate) struct Account {
    /// Ids found in the cache, duplicates included.
    pub(crate) hits: Vec<u64>,
    /// Remote ids that were not, each once, in the order of their first appearance; the claimed ids of `claim`.
    pub(crate) missed: Vec<u64>,
    /// The rows of the missed ids.
    pub(crate) claim: Claim,
    /// Present if the trainer may have announced the batch.
    pub(crate) ticket: Option<Ticket>,
    /// Rows that the trainer had to wait for.
    pub(crate) waited_rows: u64,
}

/// Rows in hand that no trainer waits for.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The claimed ids of `claim`.
    pub(crate) ids: Vec<u64>,
    pub(crate) claim: Claim,
    pub(crate) fill: Fill,
    /// Gets the number of rows that took a slot.
    pub(crate) filled: oneshot::Sender<usize>,
}

/// A batch that a trainer will fetch.
#[derive(Debug)]
pub(crate) struct Intent {
    pub(crate) trainer: TrainerId,
    /// The trainer's number of the batch.
    pub(crate) batch: u64,
    pub(crate) step: Option<u64>,
    /// All its dataset ids, in the order of the fetch.
    pub(crate) ids: Arc<Vec<u64>>,
    /// Hears whether the announcement was taken.
    pub(crate) taken: oneshot::Sender<Result<(), RequestError>>,
}

/// A fetch of a trainer that has announced batches.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) ticket: u64,
    pub(crate) trainer: TrainerId,
    pub(crate) named: Named,
    /// Where to say that the ids came in another order.
    pub(crate) notices: Arc<Notices>,
}

/// Work for a bookkeeper.
#[derive(Debug)]
pub(crate) enum Entry {
    Account(Account),
    Offer(Offer),
    Announce(Intent),
    /// Where the training is.
    Tick(Clock),
    /// A trainer is gone.
    Leave(TrainerId),
    /// A fetch of a trainer that has announced batches has arrived.
    Arrive(Arrival),
    /// Such a fetch ended without being accounted for.
    Abandon {
        ticket: u64,
    },
}

impl Entry {
    /// Whether somebody waits for what follows from it.
    fn is_urgent(&self) -> bool {
        match self {
            Entry::Account(account) => account.ticket.is_some() || !account.missed.is_empty(),
            Entry::Offer(_) | Entry::Announce(_) => true,
            Entry::Tick(_) | Entry::Leave(_) | Entry::Arrive(_) | Entry::Abandon { .. } => false,
        }
    }

    /// Whether it may change what is announced or staged.
    pub(crate) fn concerns_lookahead(&self) -> bool {
        match self {
            Entry::Account(account) => account.ticket.is_some(),
            Entry::Offer(_) | Entry::Tick(_) => false,
            Entry::Announce(_) | Entry::Leave(_) | Entry::Arrive(_) | Entry::Abandon { .. } => true,
        }
    }

    /// The places that it takes in the queue.
    fn places(&self) -> u32 {
        let rows = match self {
            Entry::Account(account) => account.hits.len() + account.missed.len(),
            Entry::Offer(offer) => offer.ids.len(),
            Entry::Announce(intent) => intent.ids.len(),
            Entry::Tick(_) | Entry::Leave(_) | Entry::Arrive(_) | Entry::Abandon { .. } => 0,
        };
        (1 + rows / PLACE_ROWS).min(ENTRY_PLACES_MAX) as u32
    }
}

/// The place of an entry in the queue; free again once it is dropped.
type PlaceInQueue = Option<OwnedSemaphorePermit>;

/// What a bookkeeper has to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Work off this entry. The place ends when it is dropped, after the work.
    Entry(Entry, PlaceInQueue),
    /// The time has come that it wanted to be woken at.
    TimeIsUp,
    /// Nothing more will come.
    Closed,
}

/// The queue of one table.
#[derive(Debug)]
pub(crate) struct Desk {
    queue: Mutex<Queue>,
    wake: Condvar,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(Entry, PlaceInQueue)>,
    /// Trainers that have announced anything since they came.
    announcers: HashSet<TrainerId>,
    /// Of them, those with announcements that wait, in the queue or with the bookkeeper.
    expecting: HashSet<TrainerId>,
    tickets: usize,
    next_ticket: u64,
    /// Whether the bookkeeper sleeps for [`LINGER`] and looks again by itself.
    lingers: bool,
    closed: bool,
}

/// A fetch that may be of an announced batch. If it is dropped before it was redeemed, the fetch has failed.
#[derive(Debug)]
pub(crate) struct Ticket {
    number: u64,
    /// Empty once redeemed.
    desk: Option<Arc<Desk>>,
}

impl Ticket {
    /// Its number, for the bookkeeper that has accounted for the fetch.
    pub(crate) fn redeem(mut self) -> u64 {
        if let Some(desk) = self.desk.take() {
            desk.queue.lock().tickets -= 1;
        }
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(desk) = self.desk.take() {
            desk.push(Entry::Abandon { ticket: self.number }, None);
        }
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self { queue: Mutex::default(), wake: Condvar::new(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Desk {
    /// Puts an entry into the queue once there are places for it; into nowhere if the bookkeeper has ended.
    pub(crate) async fn put(&self, entry: Entry) {
        // The semaphore is fair: entries keep the order in which they were first polled.
        if let Ok(place) = Arc::clone(&self.places).acquire_many_owned(entry.places()).await {
            self.push(entry, Some(place));
        }
    }

    /// Where the training is now. At most one such entry stands between two others.
    pub(crate) fn tick(&self, clock: Clock) {
        let mut queue = self.queue.lock();
        if let Some((Entry::Tick(last), _)) = queue.entries.back_mut() {
            *last = clock;
            return;
        }
        drop(queue);
        self.push(Entry::Tick(clock), None);
    }

    /// A trainer is gone. Costs an entry only if it has announced anything, so that such entries cannot outgrow
    /// announcements.
    pub(crate) fn leave(&self, trainer: TrainerId) {
        let has_announced = self.queue.lock().announcers.remove(&trainer);
        if has_announced {
            self.push(Entry::Leave(trainer), None);
        }
    }

    /// A trainer fetches what is `named` so. Answers a ticket if it has announced batches, of which this may be one.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        trainer: TrainerId,
        named: impl FnOnce() -> Named,
        notices: &Arc<Notices>,
    ) -> Option<Ticket> {
        if !self.queue.lock().expecting.contains(&trainer) {
            return None;
        }
        let (named, notices) = (named(), Arc::clone(notices));
        let mut queue = self.queue.lock();
        if queue.closed || queue.tickets >= TICKETS_MAX {
            return None;
        }
        queue.tickets += 1;
        queue.next_ticket += 1;
        let number = queue.next_ticket;
        let arrival = Arrival { ticket: number, trainer, named, notices };
        queue.entries.push_back((Entry::Arrive(arrival), None));
        Some(Ticket { number, desk: Some(Arc::clone(self)) })
    }

    fn push(&self, entry: Entry, place: PlaceInQueue) {
        let urgent = entry.is_urgent();
        let mut queue = self.queue.lock();
        if queue.closed {
            // What an entry holds may need the lock when it is dropped.
            drop(queue);
            drop(entry);
            return;
        }
        if let Entry::Announce(intent) = &entry {
            queue.announcers.insert(intent.trainer);
            queue.expecting.insert(intent.trainer);
        }
        queue.entries.push_back((entry, place));
        let sleeps = !queue.lingers;
        drop(queue);
        if urgent || sleeps {
            self.wake.notify_one();
        }
    }

    /// Waits for the next entry, until `until` at most. For the bookkeeper alone.
    pub(crate) fn next(&self, until: Instant) -> Next {
        let mut queue = self.queue.lock();
        let mut has_lingered = false;
        loop {
            if queue.closed {
                return Next::Closed;
            }
            if let Some((entry, place)) = queue.entries.pop_front() {
                if matches!(entry, Entry::Abandon { .. }) {
                    queue.tickets -= 1;
                }
                return Next::Entry(entry, place);
            }
            if Instant::now() >= until {
                return Next::TimeIsUp;
            }
            if has_lingered {
                self.wake.wait_until(&mut queue, until);
            } else {
                has_lingered = true;
                queue.lingers = true;
                self.wake.wait_for(&mut queue, LINGER);
                queue.lingers = false;
            }
        }
    }

    /// Whether `trainer` has announcements that wait, by what the bookkeeper knows once its queue holds none of them.
    pub(crate) fn note_expecting(&self, waits: impl Fn(TrainerId) -> bool) {
        let mut queue = self.queue.lock();
        if queue.expecting.is_empty() {
            return;
        }
        let Queue { entries, expecting, .. } = &mut *queue;
        expecting.retain(|&trainer| {
            let is_queued =
                |(entry, _): &(Entry, PlaceInQueue)| matches!(entry, Entry::Announce(intent) if intent.trainer == trainer);
            waits(trainer) || entries.iter().any(is_queued)
        });
    }

    /// Ends the queue: what waits in it is dropped, and so is what would come.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let left = std::mem::take(&mut queue.entries);
        drop(queue);
        drop(left);
        self.places.close();
        self.wake.notify_all();
    }
}

/// By what a fetch of these ids is known as an announced batch.
pub(crate) fn mark_of(ids: &[u64]) -> IdsMark {
    // A sum forgets the order. Each id is mixed before, so that other ids have another sum.
    let unordered = ids.iter().fold(0u64, |sum, &id| sum.wrapping_add(mixed(id)));
    IdsMark { ordered: xxh3_64(bytemuck::cast_slice(ids)), unordered }
}

/// One multiplication whose halves are folded; the factors are the first digits of pi.
#[inline]
fn mixed(id: u64) -> u64 {
    let product = u128::from(id ^ 0x243f_6a88_85a3_08d3) * 0x1319_8a2e_0370_7345;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn entry(desk: &Desk) -> Option<Entry> {
        match desk.next(Instant::now() + SOON) {
            Next::Entry(entry, _) => Some(entry),
            Next::TimeIsUp | Next::Closed => None,
        }
    }

    fn intent(trainer: u64) -> Entry {
        let (taken, ids) = (oneshot::channel().0, Arc::new(vec![1, 2]));
        Entry::Announce(Intent { trainer: TrainerId(trainer), batch: 5, step: None, ids, taken })
    }

    #[test]
    fn ticks_keep_their_order_and_the_newest_of_a_run_stands() {
        let desk = Desk::default();
        let clock = |progress| Clock { epoch: 0, progress };
        desk.tick(clock(0.1));
        desk.tick(clock(0.2));
        desk.push(Entry::Leave(TrainerId(1)), None);
        desk.tick(clock(0.3));
        assert!(matches!(entry(&desk), Some(Entry::Tick(Clock { progress: 0.2, .. }))));
        assert!(matches!(entry(&desk), Some(Entry::Leave(_))));
        assert!(matches!(entry(&desk), Some(Entry::Tick(Clock { progress: 0.3, .. }))));
        assert!(entry(&desk).is_none());
    }

    #[test]
    fn the_same_ids_have_one_mark_in_any_order_and_others_another() {
        let (one, other) = (mark_of(&[1, 4, 4, 9]), mark_of(&[4, 9, 1, 4]));
        assert!(one.unordered == other.unordered && one.ordered != other.ordered);
        for ids in [&[2, 3, 4, 9][..], &[1, 4, 9], &[1, 1, 4, 9], &[0, 1, 4, 4, 9]] {
            assert_ne!(mark_of(ids).unordered, one.unordered, "{ids:?}");
        }
    }

    #[test]
    fn a_fetch_has_a_ticket_while_its_trainer_has_announcements() {
        let desk = Arc::new(Desk::default());
        let arrive = |trainer| desk.arrive(TrainerId(trainer), || Named::Batch(5), &Arc::default());
        assert!(arrive(1).is_none());
        desk.push(intent(1), None);
        let ticket = arrive(1).unwrap();
        assert!(arrive(2).is_none());
        desk.note_expecting(|_| false);
        assert!(matches!(entry(&desk), Some(Entry::Announce(_))));
        assert!(matches!(entry(&desk), Some(Entry::Arrive(Arrival { named: Named::Batch(5), .. }))));
        drop(ticket);
        assert!(matches!(entry(&desk), Some(Entry::Abandon { ticket: 1 })));
        assert_eq!(desk.queue.lock().tickets, 0);
        desk.note_expecting(|_| false);
        assert!(arrive(1).is_none());
    }

    #[tokio::test]
    async fn what_needs_a_place_waits_for_it_and_an_ended_desk_takes_nothing() {
        let desk = Arc::new(Desk::default());
        for trainer in 0..PLACES as u64 {
            desk.put(intent(trainer)).await;
        }
        assert!(tokio::time::timeout(SOON, desk.put(intent(99))).await.is_err(), "the limit does not hold");
        let Next::Entry(first, place) = desk.next(Instant::now() + SOON) else { panic!("nothing there") };
        assert!(tokio::time::timeout(SOON, desk.put(intent(99))).await.is_err(), "work in progress has a place, too");
        drop((first, place));
        tokio::time::timeout(Duration::from_secs(10), desk.put(intent(99))).await.unwrap();
        let ticket = desk.arrive(TrainerId(99), || Named::Batch(1), &Arc::default()).unwrap();
        desk.close();
        drop(ticket);
        desk.put(intent(1)).await;
        assert!(matches!(desk.next(Instant::now() + SOON), Next::Closed));
        assert!(desk.queue.lock().entries.is_empty());
    }
}
