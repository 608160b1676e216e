//! The ids of announced batches, by the numbers that trainers gave to them, so that a fetch which names its batch need
//! not send them again. It owns their memory: an entry ends when its batch is fetched, when it is too old, with its
//! trainer, or when newer ones need its room. It must never hold more ids than its limit. What is brought in for a
//! batch is not decided here.

use hashbrown::HashMap;
use parking_lot::Mutex;
use rudder_core::lookahead::TrainerId;
use std::collections::VecDeque;
use std::sync::Arc;

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

    /// Drops the oldest batches while `is_over` says so of the ids that are held and the time of the oldest.
    fn drop_oldest(&mut self, is_over: impl Fn(usize, u64) -> bool) {
        while let Some(&(key, serial)) = self.order.front() {
            match self.batches.get(&key).filter(|batch| batch.serial == serial) {
                Some(batch) if !is_over(self.ids, batch.since_ms) => return,
                Some(_) => drop(self.remove(key)),
                None => {}
            }
            self.order.pop_front();
        }
    }
}

impl Batches {
    /// Holds at most `ids_max` ids, each for `expire_ms` at most.
    pub(crate) fn new(ids_max: usize, expire_ms: u64) -> Self {
        Self { held: Mutex::default(), ids_max, expire_ms }
    }

    /// Keeps the ids of a batch, in place of an earlier one of the same number. The oldest batches make room.
    pub(crate) fn put(&self, trainer: TrainerId, number: u64, parts: &[(usize, PartIds)], now_ms: u64) {
        let mut packed: Vec<(usize, Arc<Packed>)> = Vec::with_capacity(parts.len());
        let mut ids = 0;
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
        if ids > self.ids_max {
            return;
        }
        let room = self.ids_max - ids;
        held.drop_oldest(|ids, since_ms| ids > room || since_ms + self.expire_ms < now_ms);
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
        self.held.lock().drop_oldest(|_, since_ms| since_ms + self.expire_ms < now_ms);
    }

    /// Ids that are held.
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
        let batches = Batches::new(100, 1000);
        let (shared, wide) = (ids([3, 1, 3]), ids([1 << 40]));
        batches.put(ONE, 7, &[(0, Arc::clone(&shared)), (1, shared), (2, wide)], 0);
        assert_eq!(batches.ids(), 4, "shared ids are held once");
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
    fn batches_end_with_age_with_their_trainer_and_where_room_is_needed() {
        let batches = Batches::new(10, 1000);
        let known = |trainer, number| batches.take(trainer, number, &[(0, 4)], false).is_some();
        batches.put(ONE, 1, &[(0, ids(0..4))], 0);
        batches.put(TWO, 1, &[(0, ids(0..4))], 500);
        batches.put(ONE, 1, &[(0, ids(4..8))], 600);
        assert!(known(ONE, 1) && known(TWO, 1) && batches.ids() == 8, "the number again");
        batches.put(ONE, 2, &[(0, ids(0..4))], 700);
        assert!(!known(TWO, 1) && known(ONE, 1) && known(ONE, 2), "the oldest made room");
        batches.expire(1601);
        assert!(!known(ONE, 1) && known(ONE, 2));
        batches.put(ONE, 3, &[(0, ids(0..11))], 1602);
        assert!(known(ONE, 2), "what can never be held costs nothing");
        batches.put(TWO, 9, &[(0, ids(0..4))], 1603);
        batches.leave(ONE);
        assert!(!known(ONE, 2) && known(TWO, 9) && batches.ids() == 4);
        batches.forget(TWO, 9);
        assert_eq!(batches.ids(), 0);
    }
}
