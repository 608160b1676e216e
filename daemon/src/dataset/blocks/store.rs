//! The blocks in memory: those that are kept, weighed in bytes, and a ledger of all that exist. It owns the bound; it must
//! never read a file.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::DefaultHashBuilder;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use prometheus::{Histogram, HistogramOpts};

/// A block of a table's shard: number of the table, number of the block.
pub(super) type Key = (u16, u64);

/// Bytes of all blocks that exist, kept or not.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: AtomicU64,
    held_max: AtomicU64,
}

impl Ledger {
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
    ledger: Arc<Ledger>,
}

impl Block {
    /// Room for `bytes` bytes, entered in the ledger for as long as it lives.
    pub(super) fn new(bytes: usize, ledger: &Arc<Ledger>) -> Self {
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

/// A place of a kept block. moka frees what it has let go when no thread can be looking at it any more, which may be a while
/// later: the block is taken out of its place at once, so that only places wait.
struct Kept(Mutex<Option<Arc<Block>>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks that are kept.
pub(super) struct Store {
    kept: Cache<Key, Arc<Kept>, DefaultHashBuilder>,
    pub(super) ledger: Arc<Ledger>,
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
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let kept = Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|_, kept: &Arc<Kept>| {
                let bytes = kept.lock().as_ref().map_or(0, |block| block.bytes.len());
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, kept: Arc<Kept>, cause| {
                drop(kept.lock().take());
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(DefaultHashBuilder::default());
        let help = "Time that the read of a block took.";
        let options = HistogramOpts::new("rudder_block_read_seconds", help).buckets(READ_SECONDS.to_vec());
        let read_seconds = Histogram::with_opts(options)?;
        Ok(Self { kept, ledger: Arc::default(), evicted, read_seconds, capacity_bytes })
    }

    /// The block, if it is kept. Counts as a use of it, and as a wish for it if it is not.
    pub(super) fn get(&self, key: Key) -> Option<Arc<Block>> {
        self.kept.get(&key).and_then(|kept| kept.lock().clone())
    }

    /// As [`Store::get`], for a wish that was counted before.
    pub(super) fn get_again(&self, key: Key) -> Option<Arc<Block>> {
        if self.kept.contains_key(&key) { self.get(key) } else { None }
    }

    /// Offers a block; what is used least is let go for it, or the block itself.
    pub(super) fn offer(&self, key: Key, block: &Arc<Block>) {
        self.kept.insert(key, Arc::new(Kept(Mutex::new(Some(Arc::clone(block))))));
        // moka notes inserts and makes room later, by its own count of entries; a block is large, so do it now.
        self.kept.run_pending_tasks();
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Bytes and number of the blocks that are kept.
    pub(super) fn kept(&self) -> (u64, u64) {
        self.kept.run_pending_tasks();
        (self.kept.weighted_size(), self.kept.entry_count())
    }
}
