//! Which id lies in which slot, and which slots are free. It owns nothing but those numbers and the number of rows
//! that may be held; where a row lies in memory is the slab's matter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

/// In `Slots::ids`: nobody lies here. [`super::TABLE_ROWS_MAX`] keeps this value free.
const FREE: u32 = u32::MAX;

/// Number of a slot, from 0: where a row lies in the slab. Not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// The number as a position in what is kept per slot.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The residents of a cache.
#[derive(Debug)]
pub struct Slots {
    /// By slot, up to the highest that was used.
    ids: Vec<u32>,
    /// Free slots below the highest used one, the lowest first. An entry counts only while its slot is free.
    vacant: BinaryHeap<Reverse<Slot>>,
    capacity: usize,
    used: usize,
}

impl Slots {
    /// Bytes of bookkeeping per slot, beside the word in the index that the id has anyway.
    pub const BYTES_PER_SLOT: usize = size_of::<u32>();

    /// `capacity` free slots, with address space for `ceiling` so that growing copies nothing.
    #[must_use]
    pub fn new(capacity: usize, ceiling: usize) -> Self {
        Self { ids: Vec::with_capacity(ceiling), vacant: BinaryHeap::new(), capacity, used: 0 }
    }

    /// Rows that may be held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the rows that may be held. Residents beyond stay until they are released.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Number of slots that hold a row.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Rows that may still come before one must leave.
    #[must_use]
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.used)
    }

    /// Slots up to the highest that holds a row or did: all residents lie below.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The id in `slot`.
    #[inline]
    #[must_use]
    pub fn id(&self, slot: Slot) -> Option<u32> {
        self.ids.get(slot.index()).copied().filter(|&id| id != FREE)
    }

    /// Whether a slot is free.
    #[must_use]
    pub fn any_free(&self) -> bool {
        self.used < self.capacity
    }

    /// Gives a free slot to `id`, the lowest there is.
    pub fn occupy_free(&mut self, id: u32) -> Option<Slot> {
        if !self.any_free() {
            return None;
        }
        let slot = self.lowest_vacant().unwrap_or_else(|| {
            self.ids.push(FREE);
            Slot(self.span() - 1)
        });
        self.ids[slot.index()] = id;
        self.used += 1;
        debug_assert!(self.used <= self.capacity, "{} rows are held, {} may be", self.used, self.capacity);
        Some(slot)
    }

    fn lowest_vacant(&mut self) -> Option<Slot> {
        while let Some(Reverse(slot)) = self.vacant.pop() {
            if self.ids.get(slot.index()) == Some(&FREE) {
                return Some(slot);
            }
        }
        None
    }

    /// Frees `slot`; answers who had it.
    pub fn release(&mut self, slot: Slot) -> Option<u32> {
        let id = self.id(slot)?;
        self.ids[slot.index()] = FREE;
        self.used -= 1;
        self.vacant.push(Reverse(slot));
        Some(id)
    }

    /// Gives `slot` to `id`; answers who had it.
    pub fn replace(&mut self, slot: Slot, id: u32) -> Option<u32> {
        let old = self.id(slot)?;
        self.ids[slot.index()] = id;
        Some(old)
    }

    /// Takes the resident of the highest slot to the lowest free one, if that is lower; answers (id, from, to).
    pub fn compact(&mut self) -> Option<(u32, Slot, Slot)> {
        while self.ids.last() == Some(&FREE) {
            self.ids.pop();
        }
        let to = self.lowest_vacant()?;
        let from = Slot(self.span() - 1);
        let id = self.ids.pop()?;
        self.ids[to.index()] = id;
        while self.ids.last() == Some(&FREE) {
            self.ids.pop();
        }
        Some((id, from, to))
    }

    /// Every slot with its id.
    pub fn residents(&self) -> impl Iterator<Item = (Slot, u32)> + '_ {
        (0..).map(Slot).zip(&self.ids).filter(|&(_, &id)| id != FREE).map(|(slot, &id)| (slot, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Whatever is occupied, released and compacted, a model of a map agrees, and compacting leaves no hole.
        #[test]
        fn slots_are_a_map_without_holes_once_compacted(steps in prop::collection::vec((0u8..3, 0u32..20), 0..100), capacity in 1usize..12) {
            let (mut slots, mut model) = (Slots::new(capacity, capacity), HashMap::new());
            for (id, (what, slot)) in (0u32..).zip(steps) {
                let slot = Slot(slot);
                match what {
                    0 => {
                        let got = slots.occupy_free(id);
                        prop_assert_eq!(got.is_some(), model.len() < capacity);
                        if let Some(got) = got {
                            prop_assert!(model.insert(got, id).is_none(), "slot {} was held", got);
                        }
                    }
                    1 => prop_assert_eq!(slots.release(slot), model.remove(&slot)),
                    _ => while let Some((id, from, to)) = slots.compact() {
                        prop_assert!(to < from);
                        prop_assert_eq!(model.remove(&from), Some(id));
                        prop_assert!(model.insert(to, id).is_none());
                    },
                }
                prop_assert_eq!(slots.used(), model.len());
                prop_assert_eq!(slots.residents().collect::<HashMap<_, _>>(), model.clone());
            }
            while let Some((id, from, to)) = slots.compact() {
                model.remove(&from);
                model.insert(to, id);
            }
            prop_assert_eq!(slots.span() as usize, model.len());
        }
    }
}
