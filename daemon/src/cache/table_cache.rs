//! The cache of one table: rows, index, readers and policy put together, so that no reader ever sees a wrong or torn
//! row while rows come and go. Readers take no lock. Everything that changes residents happens under one writer lock, in
//! four steps: decide, take victims out of the index, wait for the readers inside, write and publish.
//!
//! It does no I/O and knows no clock: the daemon and a replay drive the same code.

use super::future::{BatchKey, Future, NEVER};
use super::index::{Index, Touched};
use super::policy::{Clock, Decision, Ledger, Policy, PolicySpec};
use super::readers::{Inside, Readers};
use super::slab::{self, Slab};
use super::slots::Slots;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most rows a cached table may have: ids are held in 32 bits, and one value is kept for "none".
pub const TABLE_ROWS_MAX: u64 = u32::MAX as u64 - 1;

/// What a cache is made of.
#[derive(Debug, Clone, Copy)]
pub struct CacheSpec {
    /// Rows of the whole table, local and remote: ids are below.
    pub table_rows: u64,
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Rows to hold at most.
    pub capacity_rows: usize,
    /// Who is worth a slot.
    pub policy: PolicySpec,
    /// Seed of the policy's randomness.
    pub seed: u64,
}

/// Why a cache cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Ids do not fit.
    #[error("a table of {rows} rows cannot be cached; the most is {TABLE_ROWS_MAX}")]
    TooManyRows {
        /// Rows of the table.
        rows: u64,
    },
    /// No memory for the rows.
    #[error("no memory for {rows} cached rows of {row_bytes} bytes ({cause}): lower cache.capacity")]
    Memory {
        /// Rows to hold.
        rows: usize,
        /// Bytes of one.
        row_bytes: usize,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// Counters since the start; exact, read at any time.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Rows that a trainer had asked for and that took a slot.
    pub demand_fills: AtomicU64,
    /// Rows that the policy had asked for and that took a slot.
    pub prefetch_fills: AtomicU64,
    /// Rows that lost their slot to a newcomer.
    pub evicted_rows: AtomicU64,
    /// Rows in hand that were not worth a slot.
    pub refused_rows: AtomicU64,
    /// Times that the policy found the accesses shifted and forgot its history.
    pub shifts: AtomicU64,
}

/// A cache of rows of one table.
#[derive(Debug)]
pub struct TableCache {
    spec: CacheSpec,
    slab: Slab,
    index: Index,
    readers: Readers,
    writer: Mutex<Writer>,
    used: AtomicU64,
    tracked: AtomicU64,
    stats: CacheStats,
}

#[derive(Debug)]
struct Writer {
    slots: Slots,
    touched: Touched,
    future: Future,
    random: fastrand::Rng,
    policy: Option<Box<dyn Policy>>,
}

/// A reader's visit. Rows found are valid until it is dropped; hold it for one chunk of a gather.
#[derive(Debug)]
pub struct Reader<'a> {
    cache: &'a TableCache,
    inside: Inside<'a>,
}

/// A row that won a slot.
#[derive(Debug, Clone, Copy)]
struct Placement {
    slot: u32,
    id: u32,
    /// Position of its row among those offered.
    at: usize,
}

impl Writer {
    fn parts<'a>(&'a mut self, index: &'a Index) -> Option<(&'a mut Box<dyn Policy>, Ledger<'a>)> {
        let Self { slots, touched, future, random, policy } = self;
        policy.as_mut().map(|policy| (policy, Ledger { index, slots, touched, future, next_use: NEVER, random }))
    }
}

impl Writer {
    fn note_next_use(&mut self, slot: u32, step: u32) {
        if self.future.is_covering() {
            self.future.set_next_use(slot, step);
        }
    }
}

impl TableCache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn new(spec: CacheSpec) -> Result<Self, CacheError> {
        if spec.table_rows > TABLE_ROWS_MAX {
            return Err(CacheError::TooManyRows { rows: spec.table_rows });
        }
        let ids = usize::try_from(spec.table_rows).map_err(|_| CacheError::TooManyRows { rows: spec.table_rows })?;
        let (capacity, ids) = match spec.policy {
            PolicySpec::None => (0, 0),
            _ => (spec.capacity_rows.min(ids), ids),
        };
        let memory = |cause| CacheError::Memory { rows: capacity, row_bytes: spec.row_bytes, cause };
        let policy = (capacity > 0).then(|| spec.policy.build(capacity)).flatten();
        Ok(Self {
            spec: CacheSpec { capacity_rows: capacity, ..spec },
            slab: Slab::new(capacity, spec.row_bytes).map_err(memory)?,
            index: Index::new(ids),
            readers: Readers::default(),
            writer: Mutex::new(Writer {
                slots: Slots::new(capacity),
                touched: Touched::new(ids),
                future: Future::default(),
                random: fastrand::Rng::with_seed(spec.seed),
                policy,
            }),
            used: AtomicU64::new(0),
            tracked: AtomicU64::new(0),
            stats: CacheStats::default(),
        })
    }

    /// What it was made of; the capacity is what it really has.
    #[must_use]
    pub fn spec(&self) -> &CacheSpec {
        &self.spec
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Rows held now.
    #[must_use]
    pub fn used_rows(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes of rows held now, with their padding.
    #[must_use]
    pub fn row_bytes_held(&self) -> u64 {
        self.used_rows() * self.slab.stride_bytes() as u64
    }

    /// Bytes of bookkeeping now: per slot, and per id that was ever touched.
    #[must_use]
    pub fn bookkeeping_bytes(&self) -> u64 {
        let slots = self.spec.capacity_rows * Slots::BYTES_PER_SLOT;
        slots as u64 + self.tracked.load(Ordering::Relaxed) * Index::BYTES_PER_ID as u64
    }

    /// Asks the processor for the index word of `id`.
    #[inline]
    pub fn prefetch(&self, id: u64) {
        self.index.prefetch(id as u32);
    }

    /// Enters as a reader.
    pub fn read(&self) -> Reader<'_> {
        Reader { cache: self, inside: self.readers.enter() }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accounts for a minibatch that was answered, and offers the rows that had to be fetched: `row(i)` is the row of
    /// `missed[i]`. Answers the ids that the policy wants brought in besides, which [`TableCache::fill`] takes.
    ///
    /// Ids are remote ids of this table; each of `missed` appears once. `consumed` is the announced batch that this
    /// minibatch was, if it was announced; `missed` then are ids of it, in its order.
    pub fn settle<'r>(
        &self,
        hit: &[u32],
        missed: &[u32],
        row: impl Fn(usize) -> &'r [u8],
        consumed: Option<BatchKey>,
    ) -> Vec<u32> {
        let mut guard = self.lock();
        let writer = &mut *guard;
        let next_uses = consumed.map(|key| self.consume(writer, key, missed)).unwrap_or_default();
        let Some((policy, mut ledger)) = writer.parts(&self.index) else { return Vec::new() };
        for &id in hit {
            let slot = ledger.index.slot(id);
            policy.touch(&mut ledger, id, slot);
        }
        for &id in missed {
            policy.touch(&mut ledger, id, None);
        }
        policy.end_minibatch(&mut ledger);
        self.place(writer, (missed, &next_uses), row, &self.stats.demand_fills);
        let Some((policy, mut ledger)) = writer.parts(&self.index) else { return Vec::new() };
        let wanted = policy.wanted(&mut ledger);
        self.tracked.store(writer.touched.ids() as u64, Ordering::Relaxed);
        wanted
    }

    /// Offers rows that nobody asked for: `row(i)` is the row of `ids[i]`. Answers how many took a slot.
    pub fn fill<'r>(&self, ids: &[u32], row: impl Fn(usize) -> &'r [u8]) -> usize {
        self.place(&mut self.lock(), (ids, &[]), row, &self.stats.prefetch_fills)
    }

    /// A trainer has announced that it will use `ids`, remote ids of this table, each once, at `step` of the node.
    pub fn announce(&self, step: u32, ids: Vec<u32>) -> BatchKey {
        let mut writer = self.lock();
        writer.future.cover(self.spec.capacity_rows);
        writer.future.announce(step, ids, |id| self.index.slot(id))
    }

    /// An announced batch will not be used.
    pub fn give_up(&self, key: BatchKey) {
        self.consume(&mut self.lock(), key, &[]);
    }

    /// The ids of an announced batch that are not cached.
    #[must_use]
    pub fn absent(&self, key: BatchKey) -> Vec<u32> {
        let writer = self.lock();
        writer.future.ids(key).iter().copied().filter(|&id| self.index.slot(id).is_none()).collect()
    }

    /// Takes an announced batch away, tells residents their next use, and answers that of each of `missed`.
    fn consume(&self, writer: &mut Writer, key: BatchKey, missed: &[u32]) -> Vec<u32> {
        let (ids, next) = writer.future.consume(key);
        let mut of_missed = Vec::with_capacity(missed.len());
        for (&id, &step) in ids.iter().zip(&next) {
            if missed.get(of_missed.len()) == Some(&id) {
                of_missed.push(step);
            }
            if let Some(slot) = self.index.slot(id) {
                writer.future.set_next_use(slot, step);
            }
        }
        of_missed
    }

    /// Tells the policy where the training is.
    pub fn tick(&self, clock: Clock) {
        let mut writer = self.lock();
        if let Some((policy, mut ledger)) = writer.parts(&self.index) {
            let shifted = policy.tick(&mut ledger, clock);
            self.stats.shifts.fetch_add(u64::from(shifted), Ordering::Relaxed);
        }
    }

    /// Tells the policy what is known before anything was accessed: pairs of id and weight, higher is hotter; each id at most
    /// once. To be called before the cache serves.
    pub fn set_prior(&self, weights: &[(u32, f32)]) {
        let mut writer = self.lock();
        if let Some((policy, mut ledger)) = writer.parts(&self.index) {
            policy.prior(&mut ledger, weights);
        }
    }

    /// Hands the decision of a controller to the policy. Answers whether the policy acts on decisions.
    pub fn decide(&self, decision: Decision) -> bool {
        self.lock().policy.as_mut().is_some_and(|policy| policy.decide(decision))
    }

    /// Whether `id` is cached now.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.index.slot(id).is_some()
    }

    fn place<'r>(
        &self,
        writer: &mut Writer,
        (ids, next_uses): (&[u32], &[u32]),
        row: impl Fn(usize) -> &'r [u8],
        fills: &AtomicU64,
    ) -> usize {
        let mut placements: Vec<Placement> = Vec::new();
        let mut evicted = 0;
        for (at, &id) in ids.iter().enumerate() {
            if self.index.slot(id).is_some() {
                continue;
            }
            let next_use = next_uses.get(at).copied().unwrap_or(NEVER);
            if let Some((slot, replaced)) = self.find_place(writer, id, next_use) {
                evicted += u64::from(replaced);
                placements.push(Placement { slot, id, at });
            }
        }
        // A newcomer may itself have lost its slot to a later one: the last decision stands.
        placements.retain(|placed| writer.slots.id(placed.slot) == Some(placed.id));
        if placements.is_empty() {
            self.stats.refused_rows.fetch_add(ids.len() as u64, Ordering::Relaxed);
            return 0;
        }
        slab::overwrite(&self.slab, &self.readers, placements.iter().map(|placed| (placed.slot, row(placed.at))));
        for placed in &placements {
            self.index.set_slot(placed.id, Some(placed.slot));
        }
        let filled = placements.len();
        fills.fetch_add(filled as u64, Ordering::Relaxed);
        self.stats.evicted_rows.fetch_add(evicted, Ordering::Relaxed);
        self.stats.refused_rows.fetch_add((ids.len() - filled) as u64, Ordering::Relaxed);
        self.used.store(writer.slots.used() as u64, Ordering::Relaxed);
        filled
    }

    /// A slot for `id` and whether a row that readers could find lost it; `None` if it is not worth one.
    fn find_place(&self, writer: &mut Writer, id: u32, next_use: u32) -> Option<(u32, bool)> {
        let any_free = writer.slots.any_free();
        let (policy, mut ledger) = writer.parts(&self.index)?;
        ledger.next_use = next_use;
        if any_free {
            if !policy.takes_free_slot(&mut ledger, id) {
                return None;
            }
            let slot = writer.slots.occupy_free(id)?;
            writer.note_next_use(slot, next_use);
            let (policy, mut ledger) = writer.parts(&self.index)?;
            policy.inserted(&mut ledger, id, slot);
            return Some((slot, false));
        }
        let slot = policy.victim(&mut ledger, id)?;
        let leaver = writer.slots.replace(slot, id);
        writer.note_next_use(slot, next_use);
        let (policy, mut ledger) = writer.parts(&self.index)?;
        // A newcomer of the same call may be the leaver: it was never published, so it does not count as evicted.
        let mut evicted = false;
        if let Some(leaver) = leaver {
            evicted = self.index.slot(leaver).is_some();
            self.index.set_slot(leaver, None);
            policy.removed(&mut ledger, leaver, slot);
        }
        policy.inserted(&mut ledger, id, slot);
        Some((slot, evicted))
    }
}

impl Reader<'_> {
    /// The row of remote id `id`, if it is cached.
    #[inline]
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&[u8]> {
        slab::read(&self.cache.slab, &self.cache.index, &self.inside, u32::try_from(id).ok()?)
    }
}
