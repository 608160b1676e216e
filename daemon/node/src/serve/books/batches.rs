//! The ids of announced batches, by the numbers that trainers gave to them, so that a fetch which names its batch need
//! not send them again. It owns their memory: an entry ends when its batch is fetched, when it is too old, or with its
//! trainer. Where there is no room, the new batch is not kept: its fetch sends its ids, while the batches that are
//! fetched before it stay known. It must never hold more than its limit. What is brought in for a batch is not decided
//! here.

use hashbrown::HashMap;
use parking_lot::Mutex;
use rudder_core::lookahead::TrainerId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Ids that a batch, or a part of one, takes the room of beside its own.
const ENTRY_IDS: usize = 32;

/// Entries of the order that may be of batches that are gone, beside as many as there are batches.
const STALE_MAX: usize = 64;

/// Announced batches of all trainers.
#[derive(Debug)]
pub(crate) struct Batches {
    held: Mutex<Held>,
    ids_max: usize,
    expire_ms: u64,
}

#[derive(Debug, Default)]
struct Held {
    batches: HashMap<Key, Batch>,
    /// In the order in which they came; some may be gone from `batches`.
    order: VecDeque<(Key, u64)>,
    /// Ids that are held, and the room of their entries.
    ids: usize,
    last: u64,
}

type Key = (TrainerId, u64);

#[derive(Debug)]
struct Batch {
    /// By part, the table and its ids; parts may share ids.
    parts: Vec<(usize, Arc<Packed>)>,
    ids: usize,
    since_ms: u64,
    /// Tells this batch from an earlier one of the same number.
    serial: u64,
}

/// Ids that wait, half as wide where they fit.
#[derive(Debug)]
enum Packed {
    Narrow(Box<[u32]>),
    Wide(Box<[u64]>),
}

/// Dataset ids of one part of a call; parts may share them.
pub(crate) type PartIds = Arc<Vec<u64>>;

impl Packed {
    fn of(ids: &[u64]) -> Self {
        if ids.iter().fold(0, |all, id| all | id) <= u64::from(u32::MAX) {
            Self::Narrow(ids.iter().map(|&id| id as u32).collect())
        } else {
            Self::Wide(ids.into())
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    fn unpack(&self) -> Vec<u64> {
        match self {
            Self::Narrow(ids) => ids.iter().map(|&id| u64::from(id)).collect(),
            Self::Wide(ids) => ids.to_vec(),
        }
    }
}

impl Held {
    fn remove(&mut self, key: Key) -> Option<Batch> {
        let batch = self.batches.remove(&key)?;
        self.ids -= batch.ids;
        Some(batch)
    }

    /// Drops the batches that came before `before_ms`.
    fn drop_older(&mut self, before_ms: u64) {
        while let Some(&(key, serial)) = self.order.front() {
            match self.batches.get(&key).filter(|batch| batch.serial == serial) {
                Some(batch) if batch.since_ms >= before_ms => return,
                Some(_) => drop(self.remove(key)),
                None => {}
            }
            self.order.pop_front();
        }
    }

    /// Forgets the places of batches that are gone, once they are the most.
    fn compact(&mut self) {
        let Self { batches, order, .. } = self;
        if order.len() > 2 * batches.len() + STALE_MAX {
            order.retain(|(key, serial)| batches.get(key).is_some_and(|batch| batch.serial == *serial));
        }
    }
}

impl Batches {
    /// Holds at most `ids_max` ids, each for `expire_ms` at most.
    pub(crate) fn new(ids_max: usize, expire_ms: u64) -> Self {
        Self { held: Mutex::default(), ids_max, expire_ms }
    }

    /// Keeps the ids of a batch, in place of an earlier one of the same number, if there is room for them.
    pub(crate) fn put(&self, trainer: TrainerId, number: u64, parts: &[(usize, PartIds)], now_ms: u64) {
        let mut packed: Vec<(usize, Arc<Packed>)> = Vec::with_capacity(parts.len());
        let mut ids = ENTRY_IDS * (1 + parts.len());
        for (at, (table, of_part)) in parts.iter().enumerate() {
            let same = parts[..at].iter().position(|(_, other)| Arc::ptr_eq(other, of_part));
            let of_part = same.map(|earlier| Arc::clone(&packed[earlier].1)).unwrap_or_else(|| {
                ids += of_part.len();
                Arc::new(Packed::of(of_part))
            });
            packed.push((*table, of_part));
        }
        let mut held = self.held.lock();
        held.remove((trainer, number));
        held.drop_older(now_ms.saturating_sub(self.expire_ms));
        if held.ids + ids > self.ids_max {
            return;
        }
        held.compact();
        held.last += 1;
        held.ids += ids;
        let (key, serial) = ((trainer, number), held.last);
        held.order.push_back((key, serial));
        held.batches.insert(key, Batch { parts: packed, ids, since_ms: now_ms, serial });
    }

    /// The ids of a batch, if it is known and has as many ids of the same tables; with `ends` it is forgotten then.
    pub(crate) fn take(
        &self,
        trainer: TrainerId,
        number: u64,
        parts: &[(usize, usize)],
        ends: bool,
    ) -> Option<Vec<PartIds>> {
        let key = (trainer, number);
        let mut held = self.held.lock();
        let batch = held.batches.get(&key)?;
        let has = batch.parts.iter().map(|(table, ids)| (*table, ids.len()));
        if !has.eq(parts.iter().copied()) {
            return None;
        }
        let packed: Vec<Arc<Packed>> = batch.parts.iter().map(|(_, ids)| Arc::clone(ids)).collect();
        if ends {
            held.remove(key);
        }
        drop(held);
        let mut unpacked: Vec<PartIds> = Vec::with_capacity(packed.len());
        for (at, ids) in packed.iter().enumerate() {
            let same = packed[..at].iter().position(|other| Arc::ptr_eq(other, ids));
            unpacked.push(same.map_or_else(|| Arc::new(ids.unpack()), |earlier| Arc::clone(&unpacked[earlier])));
        }
        Some(unpacked)
    }

    /// A batch was refused.
    pub(crate) fn forget(&self, trainer: TrainerId, number: u64) {
        self.held.lock().remove((trainer, number));
    }

    /// A trainer is gone.
    pub(crate) fn leave(&self, trainer: TrainerId) {
        let mut held = self.held.lock();
        let Held { batches, ids, .. } = &mut *held;
        batches.retain(|&(of, _), batch| {
            *ids -= if of == trainer { batch.ids } else { 0 };
            of != trainer
        });
    }

    /// Drops what is too old.
    pub(crate) fn expire(&self, now_ms: u64) {
        self.held.lock().drop_older(now_ms.saturating_sub(self.expire_ms));
    }

    /// Ids that are held, and the room of their entries.
    #[cfg(test)]
    fn ids(&self) -> usize {
        self.held.lock().ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TrainerId = TrainerId(1);
    const TWO: TrainerId = TrainerId(2);

    fn ids(ids: impl IntoIterator<Item = u64>) -> PartIds {
        Arc::new(ids.into_iter().collect())
    }

    #[test]
    fn a_batch_is_known_by_its_trainer_its_number_and_its_tables_and_taken_once() {
        let batches = Batches::new(1000, 1000);
        let (shared, wide) = (ids([3, 1, 3]), ids([1 << 40]));
        batches.put(ONE, 7, &[(0, Arc::clone(&shared)), (1, shared), (2, wide)], 0);
        assert_eq!(batches.ids(), 4 + 4 * ENTRY_IDS, "shared ids are held once");
        let tables = [(0, 3), (1, 3), (2, 1)];
        assert!(batches.take(TWO, 7, &tables, true).is_none(), "another trainer's");
        assert!(batches.take(ONE, 8, &tables, true).is_none());
        assert!(batches.take(ONE, 7, &tables[..2], true).is_none(), "fewer tables");
        assert!(batches.take(ONE, 7, &[(0, 3), (1, 3), (2, 2)], true).is_none(), "another count");
        assert!(batches.take(ONE, 7, &tables, false).is_some(), "looked at");
        let taken = batches.take(ONE, 7, &tables, true).unwrap();
        assert_eq!((&*taken[0], &*taken[2]), (&vec![3, 1, 3], &vec![1 << 40]));
        assert!(Arc::ptr_eq(&taken[0], &taken[1]));
        assert!(batches.take(ONE, 7, &tables, true).is_none() && batches.ids() == 0);
    }

    #[test]
    fn batches_end_with_age_and_with_their_trainer_and_none_makes_room_for_a_later_one() {
        let of_one = 4 + 2 * ENTRY_IDS;
        let batches = Batches::new(2 * of_one + 2, 1000);
        let known = |trainer, number| batches.take(trainer, number, &[(0, 4)], false).is_some();
        batches.put(ONE, 1, &[(0, ids(0..4))], 0);
        batches.put(TWO, 1, &[(0, ids(0..4))], 500);
        batches.put(ONE, 1, &[(0, ids(4..8))], 600);
        assert!(known(ONE, 1) && known(TWO, 1) && batches.ids() == 2 * of_one, "the number again");
        batches.put(ONE, 2, &[(0, ids(0..4))], 700);
        assert!(known(TWO, 1) && known(ONE, 1) && !known(ONE, 2), "those that are fetched first stay");
        batches.put(ONE, 2, &[(0, ids(0..4))], 1501);
        assert!(!known(TWO, 1) && known(ONE, 1) && known(ONE, 2), "what is too old makes room");
        batches.expire(1601);
        assert!(!known(ONE, 1) && known(ONE, 2));
        batches.put(ONE, 3, &[(0, ids(0..400))], 1602);
        assert!(known(ONE, 2), "what can never be held costs nothing");
        batches.put(TWO, 9, &[(0, ids(0..4))], 1603);
        batches.leave(ONE);
        assert!(!known(ONE, 2) && known(TWO, 9) && batches.ids() == of_one);
        batches.forget(TWO, 9);
        assert_eq!(batches.ids(), 0);
    }

    #[test]
    fn batches_that_are_taken_leave_nothing_behind_one_that_waits() {
        let batches = Batches::new(1 << 20, 1000);
        batches.put(ONE, 0, &[(0, ids(0..4))], 0);
        for number in 1..10_000 {
            batches.put(ONE, number, &[(0, ids(0..1))], 1);
            assert!(batches.take(ONE, number, &[(0, 1)], true).is_some());
        }
        assert!(batches.held.lock().order.len() <= STALE_MAX + 4);
        assert!(batches.take(ONE, 0, &[(0, 4)], true).is_some());
    }

    #[test]
    fn announcements_of_nothing_take_room_too() {
        let batches = Batches::new(1000, 1000);
        (0..1000).for_each(|number| batches.put(ONE, number, &[(0, ids([]))], 0));
        assert!(batches.held.lock().batches.len() <= 1000 / ENTRY_IDS);
    }
}
