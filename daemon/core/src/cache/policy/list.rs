//! Doubly linked lists of slots, for policies that keep residents in an order. It owns the links and nothing else; the
//! memory of a list grows with the highest slot it ever held.

use crate::cache::slots::Slot;

/// No slot: [`crate::cache::TABLE_ROWS_MAX`] keeps this number free.
const NONE: Slot = Slot(u32::MAX);

#[derive(Debug, Clone, Copy)]
struct Link {
    newer: Slot,
    older: Slot,
    held: bool,
}

/// Slots from the newest to the oldest.
#[derive(Debug)]
pub(super) struct SlotList {
    links: Vec<Link>,
    newest: Slot,
    oldest: Slot,
    len: usize,
}

impl Default for SlotList {
    fn default() -> Self {
        Self { links: Vec::new(), newest: NONE, oldest: NONE, len: 0 }
    }
}

fn known(slot: Slot) -> Option<Slot> {
    (slot != NONE).then_some(slot)
}

impl SlotList {
    /// Slots in the list.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether `slot` is in the list.
    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.links.get(slot.index()).is_some_and(|link| link.held)
    }

    /// The slot that has been in the list longest.
    pub(super) fn oldest(&self) -> Option<Slot> {
        known(self.oldest)
    }

    /// The slot that came next after `slot`.
    pub(super) fn newer(&self, slot: Slot) -> Option<Slot> {
        self.links.get(slot.index()).filter(|link| link.held).and_then(|link| known(link.newer))
    }

    /// Puts `slot` in as the newest; moves it if it was in the list.
    pub(super) fn push(&mut self, slot: Slot) {
        self.remove(slot);
        if self.links.len() <= slot.index() {
            self.links.resize(slot.index() + 1, Link { newer: NONE, older: NONE, held: false });
        }
        self.links[slot.index()] = Link { newer: NONE, older: self.newest, held: true };
        match known(self.newest) {
            Some(before) => self.links[before.index()].newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
        self.len += 1;
    }

    /// Lets `to`, which is not in the list, stand where `from` stands.
    pub(super) fn relocate(&mut self, from: Slot, to: Slot) {
        if !self.holds(from) || self.holds(to) {
            return;
        }
        let link = self.links[from.index()];
        self.links[from.index()].held = false;
        if self.links.len() <= to.index() {
            self.links.resize(to.index() + 1, Link { newer: NONE, older: NONE, held: false });
        }
        self.links[to.index()] = link;
        match known(link.newer) {
            Some(newer) => self.links[newer.index()].older = to,
            None => self.newest = to,
        }
        match known(link.older) {
            Some(older) => self.links[older.index()].newer = to,
            None => self.oldest = to,
        }
    }

    /// Takes `slot` out, if it is in.
    pub(super) fn remove(&mut self, slot: Slot) {
        if !self.holds(slot) {
            return;
        }
        let Link { newer, older, .. } = self.links[slot.index()];
        match known(newer) {
            Some(newer) => self.links[newer.index()].older = older,
            None => self.newest = older,
        }
        match known(older) {
            Some(older) => self.links[older.index()].newer = newer,
            None => self.oldest = newer,
        }
        self.links[slot.index()].held = false;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn a_list_is_a_queue_that_forgets_from_the_middle(steps in prop::collection::vec((0u8..3, 0u32..12, 0u32..12), 0..200)) {
            let (mut list, mut model) = (SlotList::default(), VecDeque::new());
            for (what, slot, other) in steps {
                let (slot, other) = (Slot(slot), Slot(other));
                if what == 2 {
                    if !model.contains(&other) {
                        model.iter_mut().filter(|held| **held == slot).for_each(|held| *held = other);
                    }
                    list.relocate(slot, other);
                } else {
                    model.retain(|&held| held != slot);
                    if what == 1 {
                        model.push_back(slot);
                        list.push(slot);
                    } else {
                        list.remove(slot);
                    }
                }
                prop_assert_eq!(list.len(), model.len());
                let walk: Vec<Slot> = std::iter::successors(list.oldest(), |&slot| list.newer(slot)).collect();
                prop_assert_eq!(&walk, &model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(list.holds(slot), model.contains(&slot));
            }
        }
    }
}
