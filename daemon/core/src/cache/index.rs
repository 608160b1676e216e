//! One 64-bit word per id of a table: the slot that holds its row, if any, and its heat. It owns where rows are found.
//! Readers load words without a lock; only the holder of the table's writer lock may store.
//!
//! The words are zeroed lazily by the kernel: ids that were never touched cost address space, not memory.

use super::heat::Heat;
use super::slots::Slot;
use bytemuck::allocation::zeroed_slice_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that share one bit of "was touched", so that sweeps skip what never was.
const BLOCK_IDS: usize = 4096;

/// Slots and heat of every id of one table.
#[derive(Debug)]
pub struct Index {
    words: Box<[AtomicU64]>,
}

/// Which blocks of ids hold anything; kept by the writer.
#[derive(Debug)]
pub struct Touched {
    blocks: Vec<bool>,
}

/// The slot in a word, if any.
#[inline]
fn slot_in(word: u64) -> Option<Slot> {
    ((word >> 32) as u32).checked_sub(1).map(Slot)
}

impl Index {
    /// An index over ids `0..ids`, all absent and cold.
    #[must_use]
    pub fn new(ids: usize) -> Self {
        Self { words: zeroed_slice_box(ids) }
    }

    /// Number of ids.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.words.len()
    }

    /// The slot of `id`, if its row is cached. Ids out of range are absent.
    #[inline]
    #[must_use]
    pub fn slot(&self, id: u32) -> Option<Slot> {
        let word = self.words.get(id as usize)?.load(Ordering::Acquire);
        slot_in(word)
    }

    /// Asks the processor to load the word of `id` soon.
    #[inline]
    pub fn prefetch(&self, id: u32) {
        if let Some(word) = self.words.get(id as usize) {
            super::prefetch::line(std::ptr::from_ref(word).cast());
        }
    }

    /// The heat of `id`.
    #[inline]
    #[must_use]
    pub fn heat(&self, id: u32) -> Heat {
        Heat::unpack(self.words.get(id as usize).map_or(0, |word| word.load(Ordering::Relaxed) as u32))
    }

    /// Publishes that `id` lies in `slot`. Writer only.
    pub fn set_slot(&self, id: u32, slot: Slot, touched: &mut Touched) {
        if let Some(word) = self.words.get(id as usize) {
            let heat = word.load(Ordering::Relaxed) & 0xffff_ffff;
            word.store((u64::from(slot.0) + 1) << 32 | heat, Ordering::Release);
            touched.blocks[id as usize / BLOCK_IDS] = true;
        }
    }

    /// Publishes that `id` is not cached. Writer only.
    pub fn clear_slot(&self, id: u32) {
        if let Some(word) = self.words.get(id as usize) {
            word.store(word.load(Ordering::Relaxed) & 0xffff_ffff, Ordering::Release);
        }
    }

    /// Changes the heat of `id`. Writer only.
    #[inline]
    pub fn update_heat(&self, id: u32, touched: &mut Touched, change: impl FnOnce(Heat) -> Heat) {
        if let Some(word) = self.words.get(id as usize) {
            let old = word.load(Ordering::Relaxed);
            let heat = change(Heat::unpack(old as u32)).pack();
            // Release, so that a reader who sees this word also sees the row of the slot in it.
            word.store(old & !0xffff_ffff | u64::from(heat), Ordering::Release);
            touched.blocks[id as usize / BLOCK_IDS] = true;
        }
    }

    /// Changes the heat of every touched id. Writer only.
    pub fn sweep(&self, touched: &mut Touched, mut change: impl FnMut(Heat) -> Heat) {
        for block in 0..touched.blocks.len() {
            if !touched.blocks[block] {
                continue;
            }
            let first = block * BLOCK_IDS;
            for word in &self.words[first..(first + BLOCK_IDS).min(self.words.len())] {
                let old = word.load(Ordering::Relaxed);
                if old as u32 != 0 {
                    let heat = change(Heat::unpack(old as u32)).pack();
                    word.store(old & !0xffff_ffff | u64::from(heat), Ordering::Release);
                }
            }
        }
    }

    /// Tells id, heat and slot of every id in `blocks` that is hot or cached. Needs no lock: words change meanwhile.
    pub fn each(&self, blocks: &[u32], mut see: impl FnMut(u32, Heat, Option<Slot>)) {
        for &block in blocks {
            let first = block as usize * BLOCK_IDS;
            let words = &self.words[first.min(self.words.len())..(first + BLOCK_IDS).min(self.words.len())];
            for (id, word) in (first as u32..).zip(words) {
                let word = word.load(Ordering::Relaxed);
                if word != 0 {
                    see(id, Heat::unpack(word as u32), slot_in(word));
                }
            }
        }
    }

    /// Bytes per id that this index takes once the id was touched.
    pub const BYTES_PER_ID: usize = size_of::<AtomicU64>();
}

impl Touched {
    /// For an index of `ids` ids.
    #[must_use]
    pub fn new(ids: usize) -> Self {
        Self { blocks: vec![false; ids.div_ceil(BLOCK_IDS)] }
    }

    /// The blocks of ids that hold anything, by number.
    #[must_use]
    pub fn blocks(&self) -> Vec<u32> {
        (0u32..).zip(&self.blocks).filter(|&(_, &touched)| touched).map(|(block, _)| block).collect()
    }

    /// An upper bound of the ids that have been touched: whole blocks of them.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.blocks.iter().filter(|&&block| block).count() * BLOCK_IDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_heat_share_a_word_without_harm() {
        let index = Index::new(10_000);
        let mut touched = Touched::new(10_000);
        index.update_heat(9_999, &mut touched, Heat::touched);
        index.set_slot(9_999, Slot(0), &mut touched);
        index.update_heat(9_999, &mut touched, Heat::touched);
        assert_eq!((index.slot(9_999), index.heat(9_999).cur), (Some(Slot(0)), 2));
        index.clear_slot(9_999);
        assert_eq!((index.slot(9_999), index.heat(9_999).cur), (None, 2));
        assert_eq!(index.slot(10_000), None);
        index.sweep(&mut touched, |heat| Heat { past: f32::from(heat.cur), cur: 0 });
        assert_eq!(index.heat(9_999), Heat { past: 2.0, cur: 0 });
        assert_eq!(touched.ids(), BLOCK_IDS);
    }
}
