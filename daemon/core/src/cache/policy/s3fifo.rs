//! S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023): a small
//! queue that most newcomers leave soon, a main queue for those that were asked for again, and a ghost queue of ids
//! that left the small one. Parameters as in the paper and its authors' libCacheSim: the small queue is a tenth of
//! the capacity, a row moves to the main queue after more than one hit, hits count up to 3, the ghost queue is as
//! long as the main one.

use super::list::SlotList;
use super::{Ledger, Move, Policy, Slot};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// The small queue's share of the capacity is one part in this number.
const SMALL_ONE_IN: usize = 10;

/// Hits in the small queue from which a row belongs in the main one.
const PROMOTE_HITS: u8 = 2;

/// Hits that are remembered.
const HITS_MAX: u8 = 3;

/// S3-FIFO replacement.
#[derive(Debug, Default)]
pub struct S3FifoPolicy {
    small: SlotList,
    main: SlotList,
    /// Hits by slot.
    hits: Vec<u8>,
    ghosts: Ghosts,
}

/// An id that left the small queue, and which departure it was.
#[derive(Debug, Clone, Copy)]
struct Ghost {
    id: u32,
    number: u64,
}

/// Ids that left the small queue, oldest first; an entry whose number is not that of the map was taken out.
#[derive(Debug, Default)]
struct Ghosts {
    queue: VecDeque<Ghost>,
    numbers: HashMap<u32, u64>,
    next: u64,
}

impl Ghosts {
    fn add(&mut self, id: u32, length_max: usize) {
        self.next += 1;
        self.numbers.insert(id, self.next);
        self.queue.push_back(Ghost { id, number: self.next });
        while self.numbers.len() > length_max {
            let Some(oldest) = self.queue.pop_front() else { break };
            if self.is_current(oldest) {
                self.numbers.remove(&oldest.id);
            }
        }
        if self.queue.len() > 2 * length_max + 16 {
            let mut queue = std::mem::take(&mut self.queue);
            queue.retain(|&entry| self.is_current(entry));
            self.queue = queue;
        }
    }

    fn is_current(&self, ghost: Ghost) -> bool {
        self.numbers.get(&ghost.id) == Some(&ghost.number)
    }

    fn take(&mut self, id: u32) -> bool {
        self.numbers.remove(&id).is_some()
    }
}

impl S3FifoPolicy {
    /// The oldest of the small queue that no hits carry into the main one.
    fn leaver_of_small(&mut self) -> Option<Slot> {
        while let Some(oldest) = self.small.oldest() {
            if self.hits[oldest.index()] < PROMOTE_HITS {
                return Some(oldest);
            }
            self.hits[oldest.index()] = 0;
            self.small.remove(oldest);
            self.main.push(oldest);
        }
        None
    }

    /// The oldest of the main queue that has no hits; those before it go round once more for one hit each.
    fn leaver_of_main(&mut self) -> Option<Slot> {
        loop {
            let oldest = self.main.oldest()?;
            let Some(fewer) = self.hits[oldest.index()].checked_sub(1) else { return Some(oldest) };
            self.hits[oldest.index()] = fewer;
            self.main.push(oldest);
        }
    }
}

fn main_rows(capacity: usize) -> usize {
    capacity - capacity / SMALL_ONE_IN
}

impl Policy for S3FifoPolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Option<Slot>) {
        if let Some(hits) = slot.and_then(|slot| self.hits.get_mut(slot.index())) {
            *hits = (*hits + 1).min(HITS_MAX);
        }
    }

    fn victim(&mut self, ledger: &mut Ledger<'_>, _id: u32) -> Option<Slot> {
        self.give_up(ledger)
    }

    fn give_up(&mut self, ledger: &mut Ledger<'_>) -> Option<Slot> {
        if self.main.len() > main_rows(ledger.slots.capacity()) {
            return self.leaver_of_main();
        }
        self.leaver_of_small().or_else(|| self.leaver_of_main())
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, id: u32, slot: Slot) {
        if self.hits.len() <= slot.index() {
            self.hits.resize(slot.index() + 1, 0);
        }
        self.hits[slot.index()] = 0;
        if self.ghosts.take(id) { self.main.push(slot) } else { self.small.push(slot) }
    }

    fn removed(&mut self, ledger: &mut Ledger<'_>, id: u32, slot: Slot) {
        if self.small.holds(slot) {
            self.ghosts.add(id, main_rows(ledger.slots.capacity()));
        }
        self.small.remove(slot);
        self.main.remove(slot);
    }

    fn forget_row(&mut self, id: u32) {
        self.ghosts.take(id);
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, _id: u32, Move { from, to }: Move) {
        self.hits[to.index()] = self.hits[from.index()];
        self.small.relocate(from, to);
        self.main.relocate(from, to);
    }
}
