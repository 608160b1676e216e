//! TinyLFU as the moka crate implements it (Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache
//! admission policy", ACM Transactions on Storage 13(4), 2017): a 4-bit count-min sketch with aging decides whether a
//! newcomer beats the least recently used resident. moka holds ids only, each of weight one; the rows stay in the
//! slab.
//!
//! moka has no way to change its capacity while it lives: when the cache is resized a new moka cache takes the
//! residents over, and the sketch starts empty.

use super::{Ledger, Move, Policy, Slot};
use hashbrown::HashMap;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Accesses after which moka is made to work through its logs: far below their length, beyond which it would drop some.
const ACCESSES_PER_SETTLING: u32 = 32;

/// A hash that is the same in every process, so that a replay decides as the last one did (the finaliser of Steele,
/// Lea and Flood's SplitMix64).
#[derive(Debug, Default, Clone, Copy)]
struct FixedHasher(u64);

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, word: u32) {
        let mut mixed = (self.0 ^ u64::from(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }
}

type Ids = Cache<u32, (), BuildHasherDefault<FixedHasher>>;
type Log = Arc<Mutex<Vec<u32>>>;

/// TinyLFU replacement.
pub struct TinyLfuPolicy {
    ids: Ids,
    /// Ids that moka has thrown out since this was last looked at.
    thrown_out: Log,
    /// Where each resident lies; the index learns of a newcomer only once its row is written.
    slots: HashMap<u32, Slot>,
    accesses: u32,
}

impl fmt::Debug for TinyLfuPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TinyLfuPolicy").field("ids", &self.ids.entry_count()).finish_non_exhaustive()
    }
}

impl TinyLfuPolicy {
    /// The policy for `capacity` slots.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (ids, thrown_out) = build(capacity);
        Self { ids, thrown_out, slots: HashMap::new(), accesses: 0 }
    }

    /// Offers `id` to moka; answers the ids that it threw out, which may be `id` itself.
    fn offer(&mut self, id: u32) -> Vec<u32> {
        self.ids.insert(id, ());
        self.ids.run_pending_tasks();
        std::mem::take(&mut *self.thrown_out.lock())
    }
}

/// Ids in moka, and the log of those it throws out.
fn build(capacity: usize) -> (Ids, Log) {
    let thrown_out: Log = Arc::default();
    let log = Arc::clone(&thrown_out);
    let ids = Cache::builder()
        .max_capacity(capacity as u64)
        .eviction_policy(EvictionPolicy::tiny_lfu())
        .eviction_listener(move |id: Arc<u32>, (), _cause| {
            log.lock().push(*id);
        })
        .build_with_hasher(BuildHasherDefault::default());
    (ids, thrown_out)
}

impl Policy for TinyLfuPolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, id: u32, _slot: Option<Slot>) {
        // Counts in the sketch whether it is there or not.
        self.ids.get(&id);
        self.accesses += 1;
        if self.accesses.is_multiple_of(ACCESSES_PER_SETTLING) {
            self.ids.run_pending_tasks();
        }
    }

    fn takes_free_slot(&mut self, _ledger: &mut Ledger<'_>, id: u32) -> bool {
        !self.offer(id).contains(&id)
    }

    fn victim(&mut self, _ledger: &mut Ledger<'_>, id: u32) -> Option<Slot> {
        let thrown_out = self.offer(id);
        if thrown_out.contains(&id) {
            return None;
        }
        thrown_out.into_iter().find_map(|resident| self.slots.get(&resident).copied())
    }

    fn give_up(&mut self, ledger: &mut Ledger<'_>) -> Option<Slot> {
        // moka does not tell which of its ids it likes least.
        let span = Some(ledger.slots.span()).filter(|&span| span > 0)?;
        Some(Slot(ledger.random.u32(0..span)))
    }

    fn resized(&mut self, ledger: &mut Ledger<'_>) {
        (self.ids, self.thrown_out) = build(ledger.slots.capacity());
        for (_, id) in ledger.slots.residents() {
            self.ids.insert(id, ());
        }
        self.ids.run_pending_tasks();
        self.thrown_out.lock().clear();
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, id: u32, slot: Slot) {
        self.slots.insert(id, slot);
    }

    fn removed(&mut self, _ledger: &mut Ledger<'_>, id: u32, _slot: Slot) {
        self.slots.remove(&id);
        // Of use where something else than this policy took the row out.
        if self.ids.contains_key(&id) {
            self.ids.invalidate(&id);
            self.ids.run_pending_tasks();
            self.thrown_out.lock().clear();
        }
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, id: u32, Move { to, .. }: Move) {
        self.slots.insert(id, to);
    }
}
