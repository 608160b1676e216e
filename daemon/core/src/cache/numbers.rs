//! Numbers for rows of tables whose ids do not fit into 32 bits. The cache keeps everything by number: in a table of at
//! most [`TABLE_ROWS_MAX`](super::TABLE_ROWS_MAX) rows an id is its number, and nothing here is used. In a larger one,
//! an id gets one of the [`WAYS`] numbers of its set when it is first seen, and loses it to another id of the set when
//! it is not cached: the coldest goes. It owns which number stands for which id, in a fixed amount of memory, and must
//! never let a reader see the slot of one id as that of another.
//!
//! Readers take no lock: each set has a version that is odd while one of its numbers changes hands (a seqlock, as in
//! Linux). Only the holder of the table's writer lock may give numbers.

use super::zeros::Zeros;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Numbers of one set. With a quarter of all numbers cached, one set in a million has no number to spare.
const WAYS: usize = 16;

/// Fewest numbers of a table.
const NUMBERS_MIN: usize = 1 << 12;

/// Numbers for each row that the cache may hold: what is left is the history of rows that it does not hold.
const NUMBERS_PER_ROW: usize = 4;

/// Which number stands for which id.
#[derive(Debug)]
pub(super) struct Numbers {
    /// By number, the id and one, 0 where the number is free. Zeroed lazily by the kernel.
    ids: Zeros<AtomicU64>,
    /// By set, a count of changes, odd during one.
    versions: Zeros<AtomicU64>,
}

/// The finaliser of Steele, Lea and Flood's SplitMix64.
fn mixed(id: u64) -> u64 {
    let mixed = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Numbers {
    /// Numbers that a cache of at most `ceiling` rows needs, within `numbers_max`; `None` if those are too few to keep
    /// that many rows.
    pub(super) fn count_for(ceiling: usize, numbers_max: usize) -> Option<usize> {
        let most = (numbers_max.min(1 << 31) + 1).next_power_of_two() / 2;
        let wished = ceiling.saturating_mul(NUMBERS_PER_ROW).checked_next_power_of_two().unwrap_or(usize::MAX);
        let count = wished.clamp(NUMBERS_MIN.min(most), most);
        (count >= WAYS && ceiling <= count / 2).then_some(count)
    }

    /// `count` numbers, a power of two of at least one set, all free.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        Ok(Self { ids: Zeros::new(count)?, versions: Zeros::new(count / WAYS)? })
    }

    fn set_of(&self, id: u64) -> usize {
        mixed(id) as usize & (self.versions.len() - 1)
    }

    /// The number of `id`, if it has one. For the writer; readers call [`Numbers::read`].
    pub(super) fn find(&self, id: u64) -> Option<u32> {
        self.find_in(self.set_of(id), id)
    }

    #[inline]
    fn find_in(&self, set: usize, id: u64) -> Option<u32> {
        let first = set * WAYS;
        let ids = &self.ids[first..first + WAYS];
        let way = ids.iter().position(|held| held.load(Ordering::Relaxed) == id + 1)?;
        Some((first + way) as u32)
    }

    /// What `of` says of the number of `id`, if it has one, while the number was that of `id`.
    #[inline]
    pub(super) fn read<T>(&self, id: u64, of: impl Fn(u32) -> Option<T>) -> Option<T> {
        let set = self.set_of(id);
        let version = &self.versions[set];
        loop {
            let before = version.load(Ordering::Acquire);
            let seen = self.find_in(set, id).and_then(&of);
            // What was seen was loaded before the version is looked at again.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
                return seen;
            }
            std::hint::spin_loop();
        }
    }

    /// The id that has `number` now.
    #[inline]
    pub(super) fn id(&self, number: u32) -> Option<u64> {
        self.ids.get(number as usize)?.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Gives `id`, which has none, a number of its set: a free one, else that of the id of which `cold` says the least;
    /// `cold` says nothing of ids that must keep theirs. `change` is called before the number is that of `id`, with
    /// whether it was another's. Looks at them from `first` on, so that equals take turns.
    pub(super) fn give(
        &self,
        id: u64,
        first: usize,
        cold: impl Fn(u32) -> Option<f32>,
        change: impl FnOnce(u32, bool),
    ) -> Option<u32> {
        let set = self.set_of(id);
        let ways = (0..WAYS).map(|way| (set * WAYS + (first + way) % WAYS) as u32);
        let spare = |number: u32| match self.id(number) {
            None => Some((f32::NEG_INFINITY, number)),
            Some(_) => cold(number).map(|heat| (heat, number)),
        };
        let (_, number) = ways.filter_map(spare).min_by(|a, b| a.0.total_cmp(&b.0))?;
        let (place, version) = (&self.ids[number as usize], &self.versions[set]);
        let before = version.load(Ordering::Relaxed);
        version.store(before + 1, Ordering::Relaxed);
        // Nothing of the change is seen before the odd version.
        fence(Ordering::Release);
        change(number, place.load(Ordering::Relaxed) != 0);
        place.store(id + 1, Ordering::Relaxed);
        version.store(before + 2, Ordering::Release);
        Some(number)
    }

    /// Asks the processor to load the numbers of the set of `id` soon.
    #[inline]
    pub(super) fn prefetch(&self, id: u64) {
        super::prefetch::line(std::ptr::from_ref(&self.ids[self.set_of(id) * WAYS]).cast());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    #[test]
    fn a_number_is_that_of_one_id_and_the_coldest_goes() {
        let numbers = Numbers::new(64).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let kept = |number: u32| (!number.is_multiple_of(3)).then_some(number as f32);
        let mut given: HashMap<u32, u64> = HashMap::new();
        for _ in 0..10_000 {
            let id = random.u64(1 << 32..1 << 40);
            if numbers.find(id).is_some() {
                continue;
            }
            let had_no_id = |number: u32| numbers.id(number).is_none();
            let Some(number) = numbers.give(id, random.usize(..16), kept, |number, taken| {
                assert_eq!(taken, !had_no_id(number));
            }) else {
                continue;
            };
            let before = given.insert(number, id);
            assert!(before.is_none() || !number.is_multiple_of(3), "an id that must keep its number lost it");
            assert_eq!((numbers.find(id), numbers.id(number)), (Some(number), Some(id)));
            assert!(before.is_none_or(|before| numbers.find(before).is_none()));
        }
        assert_eq!(given.len(), 64, "all numbers are in use");
        for (number, id) in given {
            assert_eq!(numbers.find(id), Some(number));
        }
    }

    #[test]
    fn a_table_has_numbers_for_its_rows_or_none() {
        assert_eq!(Numbers::count_for(0, 1 << 20), Some(NUMBERS_MIN));
        assert_eq!(Numbers::count_for(10_000, 1 << 20), Some(1 << 16));
        assert_eq!(Numbers::count_for(1 << 19, 1 << 20), Some(1 << 20));
        assert_eq!(Numbers::count_for((1 << 19) + 1, 1 << 20), None);
        assert_eq!(Numbers::count_for(1 << 19, (1 << 20) + 5), Some(1 << 20));
        assert_eq!(Numbers::count_for(1 << 19, (1 << 20) - 1), None);
        assert_eq!(Numbers::count_for(0, 7), None);
        assert_eq!(Numbers::count_for(usize::MAX, usize::MAX), None);
    }

    /// A writer gives the numbers of one set from id to id, each with a value that belongs to its id only.
    #[test]
    fn a_reader_never_sees_what_belongs_to_another_id() {
        let numbers = Numbers::new(WAYS).unwrap();
        let values: Vec<AtomicU64> = (0..WAYS).map(|_| AtomicU64::new(0)).collect();
        let (stop, readers_saw) = (AtomicBool::new(false), AtomicU64::new(0));
        let end = Instant::now() + Duration::from_secs(60);
        let ids = 1 << 33..(1 << 33) + 40u64;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        for id in ids.clone() {
                            let of = |number: u32| Some(values[number as usize].load(Ordering::Acquire));
                            if let Some(value) = numbers.read(id, of).filter(|&value| value != 0) {
                                assert_eq!(value, id);
                                seen += 1;
                                readers_saw.fetch_add(u64::from(seen == 1), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
            let mut random = fastrand::Rng::with_seed(2);
            // On a busy machine a reader may begin late.
            let mut rounds = 0;
            while rounds < 300_000 || (readers_saw.load(Ordering::Relaxed) < 2 && Instant::now() < end) {
                rounds += 1;
                let id = random.u64(ids.clone());
                if numbers.find(id).is_none() {
                    let given = numbers.give(
                        id,
                        random.usize(..WAYS),
                        |_| Some(0.0),
                        |number, _| {
                            values[number as usize].store(0, Ordering::Release);
                        },
                    );
                    values[given.unwrap() as usize].store(id, Ordering::Release);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(readers_saw.into_inner(), 2, "both readers saw values");
    }
}
