//! The blocks in memory: those that are kept, and a ledger of all that exist. It owns the bound; it must never read a
//! file.
//!
//! moka (TinyLFU admission over LRU) decides which blocks are kept, by key and size; the blocks themselves lie in an
//! index of this module. A look into moka costs 0.2 to 1.5 µs where the index takes 15 ns, and what moka lets go it
//! frees at a time of its own, when no thread can be looking at it any more: here its memory is free at once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{DefaultHashBuilder, HashMap};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use prometheus::{Histogram, HistogramOpts};

/// A block of a table's shard: number of the table, number of the block.
pub(super) type Key = (u16, u64);

/// Bytes of all blocks that exist, kept or not.
#[derive(Debug, Default)]
pub(super) struct BlockLedger {
    held: AtomicU64,
    held_max: AtomicU64,
}

impl BlockLedger {
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn held_max(&self) -> u64 {
        self.held_max.load(Ordering::Relaxed)
    }
}

/// The bytes of some rows of a shard, one after the other.
pub(super) struct Block {
    bytes: Box<[u8]>,
    ledger: Arc<BlockLedger>,
}

impl Block {
    /// Room for `bytes` bytes, entered in the ledger for as long as it lives.
    pub(super) fn new(bytes: usize, ledger: &Arc<BlockLedger>) -> Self {
        let held = ledger.held.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        ledger.held_max.fetch_max(held, Ordering::Relaxed);
        Self { bytes: vec![0; bytes].into_boxed_slice(), ledger: Arc::clone(ledger) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.ledger.held.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Seconds; from a block that the kernel had in memory to a disk that hangs.
const READ_SECONDS: [f64; 12] = [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3, 0.25, 1.0, 5.0];

/// Pieces of the index, each under a lock of its own.
const PIECES: usize = 64;

/// Of this number of looks, one is reported to moka. Taken evenly from hits and misses, they tell it as much: on
/// Zipf-like accesses with exponents from 0 to 1.1 and a cache of an eighth of the blocks, hit rates were equal to
/// those with every look reported, or up to 0.8 points higher (moka's counters end at 15). Of hits alone, the rates
/// fell by up to 5 points.
const LOOKS_PER_NOTE: u8 = 8;

type Piece = Mutex<HashMap<Key, Arc<Block>>>;

/// The blocks that are kept.
struct Index(Box<[Piece]>);

impl Index {
    fn piece(&self, key: Key) -> MutexGuard<'_, HashMap<Key, Arc<Block>>> {
        self.0[key.1 as usize % PIECES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks that are kept, and which of them.
pub(super) struct Store {
    index: Arc<Index>,
    /// Sizes by key.
    choice: Cache<Key, u32, DefaultHashBuilder>,
    pub(super) ledger: Arc<BlockLedger>,
    pub(super) evicted: Arc<AtomicU64>,
    pub(super) read_seconds: Histogram,
    capacity_bytes: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("capacity_bytes", &self.capacity_bytes).finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn new(capacity_bytes: u64) -> prometheus::Result<Self> {
        let index = Arc::new(Index((0..PIECES).map(|_| Piece::default()).collect()));
        let evicted = Arc::new(AtomicU64::new(0));
        let (kept, count) = (Arc::clone(&index), Arc::clone(&evicted));
        let choice = Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|_, bytes: &u32| *bytes)
            .eviction_listener(move |key: Arc<Key>, _, cause| {
                if cause == RemovalCause::Size {
                    drop(kept.piece(*key).remove(&*key));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(DefaultHashBuilder::default());
        let help = "Time that the read of a block took.";
        let options = HistogramOpts::new("rudder_block_read_seconds", help).buckets(READ_SECONDS.to_vec());
        let read_seconds = Histogram::with_opts(options)?;
        Ok(Self { index, choice, ledger: Arc::default(), evicted, read_seconds, capacity_bytes })
    }

    /// The block, if it is kept. Counts as a use of it, and as a wish for it if it is not.
    pub(super) fn get(&self, key: Key) -> Option<Arc<Block>> {
        if fastrand::u8(..LOOKS_PER_NOTE) == 0 {
            let _ = self.choice.get(&key);
        }
        self.get_again(key)
    }

    /// As [`Store::get`], for a look that was counted before.
    pub(super) fn get_again(&self, key: Key) -> Option<Arc<Block>> {
        self.index.piece(key).get(&key).cloned()
    }

    /// Offers a block that is not kept; what is used least is let go for it, or the block itself. Offers of one key
    /// come one at a time.
    pub(super) fn offer(&self, key: Key, block: &Arc<Block>) {
        // First into the index: what moka lets go has to be found there.
        self.index.piece(key).insert(key, Arc::clone(block));
        self.choice.insert(key, u32::try_from(block.bytes.len()).unwrap_or(u32::MAX));
        // moka notes inserts and makes room later, by its own count of entries; a block is large, so do it now.
        self.choice.run_pending_tasks();
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Bytes and number of the blocks that are kept.
    pub(super) fn kept(&self) -> (u64, u64) {
        self.choice.run_pending_tasks();
        (self.choice.weighted_size(), self.choice.entry_count())
    }
}
