//! Least recently used (Mattson, Gecsei, Slutz and Traiger, "Evaluation techniques for storage hierarchies", IBM
//! Systems Journal 9(2), 1970): every row in hand is admitted, for the resident whose last access is longest ago. No
//! parameters.

use super::list::SlotList;
use super::{Ledger, Move, Policy, Slot};

/// LRU replacement.
#[derive(Debug, Default)]
pub struct LruPolicy {
    recency: SlotList,
}

impl Policy for LruPolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.recency.push(slot);
        }
    }

    fn victim(&mut self, _ledger: &mut Ledger<'_>, _id: u32) -> Option<Slot> {
        self.recency.oldest()
    }

    fn give_up(&mut self, _ledger: &mut Ledger<'_>) -> Option<Slot> {
        self.recency.oldest()
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        self.recency.push(slot);
    }

    fn removed(&mut self, _ledger: &mut Ledger<'_>, _id: u32, slot: Slot) {
        self.recency.remove(slot);
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, _id: u32, Move { from, to }: Move) {
        self.recency.relocate(from, to);
    }
}
