//! Least frequently used, counting while a row is resident (Shah, Mitra and Matani, "An O(1) algorithm for
//! implementing the LFU cache eviction scheme", 2010): every row in hand is admitted with one access to its name, for
//! the resident with the fewest accesses since it came, among equals the one used longest ago. No parameters.

use super::{Ledger, Move, Policy, Slot};
use std::collections::BTreeSet;

/// LFU replacement.
#[derive(Debug, Default)]
pub struct LfuPolicy {
    /// Accesses, time of the last of them, slot: the first is the victim.
    order: BTreeSet<(u64, u64, Slot)>,
    /// Accesses and time by slot.
    uses: Vec<(u64, u64)>,
    time: u64,
}

impl LfuPolicy {
    fn put(&mut self, slot: Slot, accesses: u64) {
        self.time += 1;
        if self.uses.len() <= slot.index() {
            self.uses.resize(slot.index() + 1, (0, 0));
        }
        self.uses[slot.index()] = (accesses, self.time);
        self.order.insert((accesses, self.time, slot));
    }

    /// Takes `slot` out; answers its accesses.
    fn take(&mut self, slot: Slot) -> u64 {
        let (accesses, time) = self.uses.get(slot.index()).copied().unwrap_or_default();
        self.order.remove(&(accesses, time, slot));
        accesses
    }
}

impl Policy for LfuPolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Option<Slot>) {
        if let Some(slot) = slot {
            let accesses = self.take(slot);
            self.put(slot, accesses + 1);
        }
    }

    fn victim(&mut self, _ledger: &mut Ledger<'_>, _id: u32) -> Option<Slot> {
        self.order.first().map(|&(_, _, slot)| slot)
    }

    fn give_up(&mut self, _ledger: &mut Ledger<'_>) -> Option<Slot> {
        self.order.first().map(|&(_, _, slot)| slot)
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        self.put(slot, 1);
    }

    fn removed(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        self.take(slot);
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, _id: u32, Move { from, to }: Move) {
        let (accesses, time) = self.uses[from.index()];
        self.order.remove(&(accesses, time, from));
        self.uses[to.index()] = (accesses, time);
        self.order.insert((accesses, time, to));
    }
}
