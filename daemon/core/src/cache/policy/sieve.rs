//! SIEVE (Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction
//! algorithm for web caches", NSDI 2024): one queue in the order of admission, a bit per resident that a hit sets,
//! and a hand that moves from the oldest to the newest, clears bits, and takes the first resident without one. No
//! parameters.

use super::list::SlotList;
use super::{Ledger, Move, Policy, Slot};

/// SIEVE replacement.
#[derive(Debug, Default)]
pub struct SievePolicy {
    queue: SlotList,
    visited: Vec<bool>,
    /// Where the hand stands; `None`: at the oldest.
    hand: Option<Slot>,
}

impl Policy for SievePolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Option<Slot>) {
        if let Some(visited) = slot.and_then(|slot| self.visited.get_mut(slot.index())) {
            *visited = true;
        }
    }

    fn victim(&mut self, ledger: &mut Ledger<'_>, _id: u32) -> Option<Slot> {
        self.give_up(ledger)
    }

    fn give_up(&mut self, _ledger: &mut Ledger<'_>) -> Option<Slot> {
        let mut at = self.hand.or(self.queue.oldest())?;
        // Each step clears a bit, so a second round at the latest finds one.
        while std::mem::take(&mut self.visited[at.index()]) {
            at = self.queue.newer(at).or(self.queue.oldest())?;
        }
        self.hand = Some(at);
        Some(at)
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        if self.visited.len() <= slot.index() {
            self.visited.resize(slot.index() + 1, false);
        }
        self.visited[slot.index()] = false;
        self.queue.push(slot);
    }

    fn removed(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        if self.hand == Some(slot) {
            self.hand = self.queue.newer(slot);
        }
        self.queue.remove(slot);
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, _id: u32, Move { from, to }: Move) {
        if self.hand == Some(from) {
            self.hand = Some(to);
        }
        self.visited[to.index()] = self.visited[from.index()];
        self.queue.relocate(from, to);
    }
}
