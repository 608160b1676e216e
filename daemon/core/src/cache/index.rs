//! One 64-bit word per row of a table: the slot that holds the row, if any, and its heat. It owns where rows are found.
//! Readers load words without a lock; only the holder of the table's writer lock may store.
//!
//! Rows have numbers of 32 bits: in all but the largest tables their ids (`numbers`). The words are zeroed
//! lazily by the kernel: rows that were never touched cost address space, not memory.

use super::heat::Heat;
use super::numbers::Numbers;
use super::slots::Slot;
use super::zeros::Zeros;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that share one bit of "was touched", so that sweeps skip what never was.
const BLOCK_IDS: usize = 4096;

/// Slots and heat of every row of one table that has a number.
#[derive(Debug)]
pub struct Index {
    words: Zeros<AtomicU64>,
    /// Where ids are not their own numbers.
    numbers: Option<Numbers>,
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
    /// An index over ids `0..ids`, which are their own numbers, all absent and cold.
    ///
    /// # Errors
    /// What the kernel says when there is no address space.
    pub fn new(ids: usize) -> io::Result<Self> {
        Ok(Self { words: Zeros::new(ids)?, numbers: None })
    }

    /// An index over any ids, of which `count` have a number at a time: a power of two.
    pub(super) fn numbered(count: usize) -> io::Result<Self> {
        Ok(Self { words: Zeros::new(count)?, numbers: Some(Numbers::new(count)?) })
    }

    /// Whether rows have numbers that are not their ids.
    pub(super) fn is_numbered(&self) -> bool {
        self.numbers.is_some()
    }

    /// How many rows have a number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether no row has a number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The number of row `id`, if it has one. For the writer, whose numbers stay.
    #[inline]
    pub(super) fn number(&self, id: u64) -> Option<u32> {
        match &self.numbers {
            None => u32::try_from(id).ok().filter(|&number| (number as usize) < self.words.len()),
            Some(numbers) => numbers.find(id),
        }
    }

    /// The id of the row with this number.
    #[inline]
    pub(super) fn id(&self, number: u32) -> Option<u64> {
        match &self.numbers {
            None => Some(u64::from(number)),
            Some(numbers) => numbers.id(number),
        }
    }

    /// The slot of the row `id`, if it is cached. Ids out of range are absent.
    #[inline]
    #[must_use]
    pub fn slot_of(&self, id: u64) -> Option<Slot> {
        match &self.numbers {
            None => slot_in(self.words.get(id as usize)?.load(Ordering::Acquire)),
            Some(numbers) => numbers.read(id, |number| self.slot(number)),
        }
    }

    /// Gives row `id` a number if it has none, for which another that is not cached may lose its own: then `forgotten`
    /// is told. `None` where all that `id` could have are those of cached rows. `first` is any number. Writer only.
    pub(super) fn give_number(&self, id: u64, first: usize, forgotten: impl FnOnce(u32)) -> Option<u32> {
        let known = self.number(id);
        let (None, Some(numbers)) = (known, &self.numbers) else { return known };
        let cold = |number: u32| {
            let word = self.words[number as usize].load(Ordering::Relaxed);
            slot_in(word).is_none().then(|| Heat::unpack(word as u32).frequency())
        };
        let mut lost = None;
        let given = numbers.give(id, first, cold, |number, taken| {
            self.words[number as usize].store(0, Ordering::Relaxed);
            lost = taken.then_some(number);
        });
        if let Some(number) = lost {
            forgotten(number);
        }
        given
    }

    /// The slot of the row with number `id`, if it is cached.
    #[inline]
    #[must_use]
    pub fn slot(&self, id: u32) -> Option<Slot> {
        let word = self.words.get(id as usize)?.load(Ordering::Acquire);
        slot_in(word)
    }

    /// Asks the processor to load the word of row `id` soon, or what leads to it.
    #[inline]
    pub fn prefetch(&self, id: u64) {
        match &self.numbers {
            Some(numbers) => numbers.prefetch(id),
            None => {
                if let Some(word) = self.words.get(id as usize) {
                    super::prefetch::line(std::ptr::from_ref(word).cast());
                }
            }
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

    /// Bytes per number that this index takes once it was touched.
    #[must_use]
    pub fn bytes_per_number(&self) -> usize {
        let words = if self.numbers.is_some() { 2 } else { 1 };
        words * size_of::<AtomicU64>()
    }
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
        let index = Index::new(10_000).unwrap();
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
