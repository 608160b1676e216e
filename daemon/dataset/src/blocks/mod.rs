//! Shards through a bounded cache of blocks, in place of memory maps: for datasets larger than memory, and for disks on
//! which a page fault may take long or fail. It owns the open files, the blocks in memory and the threads that read. It
//! must never map a file, keep more than it was given room for, or wait without a limit.

mod error;
mod file;
mod readers;
mod store;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use rustix::fs::Advice;
use serde::Serialize;

use super::error::DatasetError;
use super::part::LocalRow;
use super::settings::BlockSettings;
pub use error::{BlockCacheError, ReadError};
pub(super) use file::Layout;
use file::{ReadAt, ShardFile};
use readers::{Ask, ReadThreads};
use store::{Block, Store};

/// Blocks looked up ahead of the one that rows are copied from.
const BLOCKS_AHEAD: usize = 4;

/// Rows of a block asked for ahead of the one that is copied.
const ROWS_AHEAD: usize = 4;

/// The blocks of a node's shards.
pub struct BlockCache {
    settings: BlockSettings,
    store: Arc<Store>,
    readers: ReadThreads,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The state of a block cache, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BlockCacheStatus {
    /// Bytes that may be kept.
    pub capacity_bytes: u64,
    /// Bytes that are kept.
    pub cached_bytes: u64,
    /// Blocks that are kept.
    pub cached_blocks: u64,
    /// Bytes of all blocks in memory: those kept, those being read, and those on their way to who asked.
    pub held_bytes: u64,
    /// The most that `held_bytes` has been.
    pub held_bytes_max: u64,
    /// Blocks let go for others, or not kept after they were read.
    pub evicted_blocks: u64,
}

/// What happened to the blocks of one shard, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockShardStatus {
    /// Rows whose block was in memory when they were asked for.
    pub resident_rows: u64,
    /// Rows whose block had to be waited for.
    pub awaited_rows: u64,
    /// Blocks read.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Time that callers waited for blocks, all of them together.
    pub wait_seconds: f64,
}

impl BlockCache {
    /// An empty cache with its reading threads.
    ///
    /// # Errors
    /// [`BlockCacheError`] when the kernel gives no threads.
    pub fn new(settings: BlockSettings) -> Result<Arc<Self>, BlockCacheError> {
        let store = Arc::new(Store::new(settings.cache_bytes)?);
        let reads_max = settings.reads_max;
        let readers =
            ReadThreads::start(reads_max, &store).map_err(|cause| BlockCacheError::Threads { reads_max, cause })?;
        Ok(Arc::new(Self { settings, store, readers }))
    }

    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> BlockCacheStatus {
        let (cached_bytes, cached_blocks) = self.store.kept();
        BlockCacheStatus {
            capacity_bytes: self.store.capacity_bytes(),
            cached_bytes,
            cached_blocks,
            held_bytes: self.store.ledger.held(),
            held_bytes_max: self.store.ledger.held_max(),
            evicted_blocks: self.store.evicted.load(Ordering::Relaxed),
        }
    }

    /// The histogram of the time that reads of blocks took.
    #[must_use]
    pub fn read_seconds(&self) -> &prometheus::Histogram {
        &self.store.read_seconds
    }
}

/// A row that is wanted, and the number by which its taker knows it. In order of rows, those of one block are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedRow {
    /// The row of the shard.
    pub row: LocalRow,
    /// The taker's number.
    pub at: u32,
}

/// A shard whose rows are read by blocks.
#[derive(Debug)]
pub struct BlockShard {
    cache: Arc<BlockCache>,
    file: Arc<ShardFile>,
}

impl BlockShard {
    /// The shard in `file`, which is laid out as `layout` says; an error when a block of it is larger than the cache.
    pub(super) fn open(cache: &Arc<BlockCache>, layout: &Layout<'_>, file: File) -> Result<Self, DatasetError> {
        // A hint: rows are asked for here and there, so that reading ahead would be in vain.
        if let Err(error) = rustix::fs::fadvise(&file, 0, None, Advice::Random) {
            tracing::debug!(%error, path = %layout.path.display(), "the kernel did not take the advice for a shard");
        }
        Self::over(cache, layout, Box::new(file))
    }

    fn over(cache: &Arc<BlockCache>, layout: &Layout<'_>, source: Box<dyn ReadAt>) -> Result<Self, DatasetError> {
        let file = ShardFile::new(layout, source, cache.settings.block_bytes);
        let (block_bytes, cache_bytes) = (file.span(0).bytes as u64, cache.settings.cache_bytes);
        if block_bytes > cache_bytes {
            let (path, row_bytes) = (file.path, file.row_bytes);
            return Err(DatasetError::BlockTooLarge { path, cache_bytes, block_bytes, row_bytes });
        }
        Ok(Self { cache: Arc::clone(cache), file: Arc::new(file) })
    }

    /// The cache that the shard is read through.
    #[must_use]
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> BlockShardStatus {
        let counts = &self.file.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BlockShardStatus {
            resident_rows: read(&counts.resident_rows),
            awaited_rows: read(&counts.awaited_rows),
            reads: read(&counts.reads),
            read_bytes: read(&counts.read_bytes),
            read_errors: read(&counts.read_errors),
            wait_seconds: read(&counts.wait_ns) as f64 / 1e9,
        }
    }

    /// Hands to `put` the rows of `wanted` whose blocks are in memory, by their takers' numbers, and adds the others to
    /// `absent`. `wanted` is in order, and all its rows are below the shard's. Never waits. `touch` sees the rows a
    /// while before they are handed over, to have them brought near the core.
    pub fn take_resident(
        &self,
        wanted: &[WantedRow],
        absent: &mut Vec<WantedRow>,
        touch: impl Fn(&[u8]),
        mut put: impl FnMut(u32, &[u8]),
    ) {
        let mut resident = 0;
        let mut touched: VecDeque<(Arc<Block>, &[WantedRow])> = VecDeque::with_capacity(BLOCKS_AHEAD);
        for run in self.runs(wanted) {
            let Some(block) = self.cache.store.get((self.file.table, self.block_of(run[0].row))) else {
                absent.extend_from_slice(run);
                continue;
            };
            resident += run.len() as u64;
            run.iter().take(ROWS_AHEAD).for_each(|wanted| touch(self.row_in(block.bytes(), wanted.row)));
            if touched.len() == BLOCKS_AHEAD
                && let Some((block, run)) = touched.pop_front()
            {
                self.hand_over(run, block.bytes(), &touch, &mut put);
            }
            touched.push_back((block, run));
        }
        touched.iter().for_each(|(block, run)| self.hand_over(run, block.bytes(), &touch, &mut put));
        self.file.counts.resident_rows.fetch_add(resident, Ordering::Relaxed);
    }

    /// Hands all rows of `wanted` to `put`, reading the blocks they are in: `wanted` is in order, and all its rows are
    /// below the shard's. Blocks the calling thread, never longer than the time-out without a block arriving.
    ///
    /// # Errors
    /// The first block that could not be read. Some rows may have been handed over.
    pub fn read(&self, wanted: &[WantedRow], put: impl FnMut(u32, &[u8])) -> Result<(), Arc<ReadError>> {
        let begin = Instant::now();
        let outcome = self.read_all(wanted, put);
        let counts = &self.file.counts;
        counts.wait_ns.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if outcome.is_ok() {
            counts.awaited_rows.fetch_add(wanted.len() as u64, Ordering::Relaxed);
        }
        outcome
    }

    fn read_all(&self, wanted: &[WantedRow], mut put: impl FnMut(u32, &[u8])) -> Result<(), Arc<ReadError>> {
        let ask = Arc::new(Ask::default());
        let mut runs = self.runs(wanted);
        let mut awaited: HashMap<u64, &[WantedRow]> = HashMap::new();
        loop {
            // As many as are read at a time: enough to keep every reader at work, and fair to who asks beside.
            for run in runs.by_ref().take(self.cache.settings.reads_max.saturating_sub(awaited.len())) {
                let block = self.block_of(run[0].row);
                awaited.insert(block, run);
                self.cache.readers.submit((self.file.table, block), &self.file, &ask);
            }
            let Some(&some) = awaited.keys().next() else { break };
            let arrived = ask.wait(Duration::from_millis(self.cache.settings.read_timeout_ms));
            if arrived.is_empty() {
                return Err(Arc::new(self.timeout(some)));
            }
            for (block, outcome) in arrived {
                let loan = outcome?;
                self.hand_over(awaited.remove(&block).unwrap_or_default(), loan.bytes(), &|_| (), &mut put);
            }
        }
        Ok(())
    }

    /// `wanted`, cut into runs of rows of one block.
    fn runs<'a>(&self, wanted: &'a [WantedRow]) -> impl Iterator<Item = &'a [WantedRow]> {
        let rows_per_block = self.file.rows_per_block;
        let mut rest = wanted;
        std::iter::from_fn(move || {
            let first = rest.first()?.row.0;
            let end = LocalRow((first / rows_per_block + 1) * rows_per_block);
            let run = rest.iter().take_while(|wanted| wanted.row < end).count();
            let (run, others) = rest.split_at(run);
            rest = others;
            Some(run)
        })
    }

    fn block_of(&self, row: LocalRow) -> u64 {
        row.0 / self.file.rows_per_block
    }

    fn hand_over(&self, run: &[WantedRow], block: &[u8], touch: &impl Fn(&[u8]), put: &mut impl FnMut(u32, &[u8])) {
        for (i, wanted) in run.iter().enumerate() {
            if let Some(ahead) = run.get(i + ROWS_AHEAD) {
                touch(self.row_in(block, ahead.row));
            }
            put(wanted.at, self.row_in(block, wanted.row));
        }
    }

    fn row_in<'a>(&self, block: &'a [u8], row: LocalRow) -> &'a [u8] {
        let start = (row.0 % self.file.rows_per_block) as usize * self.file.row_bytes;
        &block[start..start + self.file.row_bytes]
    }

    fn timeout(&self, block: u64) -> ReadError {
        let span = self.file.span(block);
        ReadError::Timeout {
            path: self.file.path.clone(),
            offset: span.offset,
            bytes: span.bytes,
            timeout_ms: self.cache.settings.read_timeout_ms,
        }
    }
}
