//! The cache of one table: rows, index, readers and policy put together, so that no reader ever sees a wrong or torn
//! row while rows come and go. Readers take no lock. Everything that changes residents happens under one writer lock,
//! in four steps: decide, take victims out of the index, wait for the readers inside, write and publish.
//!
//! It does no I/O and knows no clock: the daemon and a replay drive the same code.

use super::future::{BatchKey, Future, Step};
use super::index::{Index, Touched};
use super::policy::{Clock, Ledger, Policy, PolicySpec, Replacement};
use super::readers::{Inside, Readers};
use super::slab::{self, Slab};
use super::slots::{Slot, Slots};
use super::spec::{CacheError, CacheSpec, CacheStats, Fill};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many index words ahead are asked for while accesses are counted.
const TOUCHES_AHEAD: usize = 16;

/// A cache of rows of one table.
#[derive(Debug)]
pub struct TableCache {
    spec: CacheSpec,
    pub(super) slab: Slab,
    pub(super) index: Index,
    pub(super) readers: Readers,
    writer: Mutex<Writer>,
    /// Held while the capacity changes, or residents must not move.
    pub(super) resizing: Mutex<()>,
    capacity: AtomicUsize,
    used: AtomicU64,
    tracked: AtomicU64,
    /// Bytes that announcements take.
    future_bytes: AtomicUsize,
    pub(super) stats: CacheStats,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) slots: Slots,
    pub(super) touched: Touched,
    pub(super) future: Future,
    random: fastrand::Rng,
    pub(super) policy: Option<Box<dyn Policy>>,
}

/// A reader's visit. Rows found are valid until it is dropped; hold it for one chunk of a gather.
#[derive(Debug)]
pub struct Reader<'a> {
    cache: &'a TableCache,
    inside: Inside<'a>,
}

/// Rows in hand.
#[derive(Debug, Clone, Copy)]
struct Offer<'a> {
    /// Those without a number are not worth a slot.
    ids: &'a [u64],
    /// By position in `ids`, the step of the next announced use; shorter where nothing is announced.
    next_uses: &'a [Option<Step>],
}

/// A row that won a slot.
#[derive(Debug, Clone, Copy)]
struct Placement<'r> {
    slot: Slot,
    number: u32,
    row: &'r [u8],
}

impl Writer {
    pub(super) fn parts<'a>(&'a mut self, index: &'a Index) -> Option<(&'a mut Box<dyn Policy>, Ledger<'a>)> {
        let Self { slots, touched, future, random, policy } = self;
        policy.as_mut().map(|policy| (policy, Ledger { index, slots, touched, future, next_use: None, random }))
    }
}

impl Writer {
    /// Gives each of `ids` a number, as far as there are any. An id of the same call may lose its own again.
    fn give_numbers(&mut self, index: &Index, ids: &[u64]) {
        if !index.is_numbered() {
            return;
        }
        for &id in ids {
            let first = self.random.usize(..);
            index.give_number(id, first, |number| {
                if let Some(policy) = &mut self.policy {
                    policy.forget_row(number);
                }
            });
        }
    }

    fn note_next_use(&mut self, slot: Slot, step: Option<Step>) {
        if self.future.is_covering() {
            self.future.set_next_use(slot, step);
        }
    }

    /// `slot`, which was free, has a resident that is used next at `step`.
    pub(super) fn note_occupied(&mut self, slot: Slot, step: Option<Step>) {
        if self.future.is_covering() {
            self.future.occupied(slot, step);
        }
    }

    /// Takes the resident of `slot` out of the cache. The slot may be written again once readers were waited out.
    pub(super) fn release(&mut self, index: &Index, slot: Slot) -> Option<u32> {
        let id = self.slots.id(slot)?;
        index.clear_slot(id);
        if let Some((policy, mut ledger)) = self.parts(index) {
            policy.removed(&mut ledger, id, slot);
        }
        self.note_next_use(slot, None);
        self.slots.release(slot)
    }
}

impl TableCache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn new(spec: CacheSpec) -> Result<Self, CacheError> {
        let rows = match spec.policy {
            PolicySpec::None => 0,
            _ => usize::try_from(spec.table_rows).unwrap_or(usize::MAX),
        };
        let capacity = spec.capacity_rows.min(rows);
        let ceiling = spec.ceiling_rows.min(rows).max(capacity);
        let index = spec.index(rows, ceiling)?;
        let memory = |cause| CacheError::Memory { rows: ceiling, row_bytes: spec.row_bytes, cause };
        let policy = (ceiling > 0).then(|| spec.policy.build(capacity)).flatten();
        Ok(Self {
            spec: CacheSpec { capacity_rows: capacity, ceiling_rows: ceiling, ..spec },
            slab: Slab::new(ceiling, spec.row_bytes).map_err(memory)?,
            readers: Readers::default(),
            resizing: Mutex::default(),
            capacity: AtomicUsize::new(capacity),
            writer: Mutex::new(Writer {
                slots: Slots::new(capacity, ceiling),
                touched: Touched::new(index.len()),
                future: Future::default(),
                random: fastrand::Rng::with_seed(spec.seed),
                policy,
            }),
            index,
            used: AtomicU64::new(0),
            tracked: AtomicU64::new(0),
            future_bytes: AtomicUsize::new(0),
            stats: CacheStats::default(),
        })
    }

    /// What it was made of; capacity and ceiling are what it really began with.
    #[must_use]
    pub fn spec(&self) -> &CacheSpec {
        &self.spec
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Rows that may be held now.
    #[must_use]
    pub fn capacity_rows(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes that one cached row takes, with its padding.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.slab.stride_bytes()
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

    /// Bytes of bookkeeping now: per slot, per touched id, and per announced use.
    #[must_use]
    pub fn bookkeeping_bytes(&self) -> u64 {
        let slots = self.capacity_rows() * Slots::BYTES_PER_SLOT;
        let future = self.future_bytes.load(Ordering::Relaxed);
        (slots + future) as u64 + self.tracked.load(Ordering::Relaxed) * self.index.bytes_per_number() as u64
    }

    /// Asks the processor for the index word of `id`.
    #[inline]
    pub fn prefetch(&self, id: u64) {
        self.index.prefetch(id);
    }

    /// Enters as a reader.
    pub fn read(&self) -> Reader<'_> {
        Reader { cache: self, inside: self.readers.enter() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Updates the counters that are read without the lock.
    pub(super) fn publish_sizes(&self, writer: &Writer) {
        self.capacity.store(writer.slots.capacity(), Ordering::Relaxed);
        self.used.store(writer.slots.used() as u64, Ordering::Relaxed);
    }

    /// Accounts for a minibatch that was answered, and offers the rows that had to be fetched: `row(i)` is the row of
    /// `missed[i]`, or nothing where it may not be kept; it is called under the writer lock. Returns the ids that the
    /// policy wants brought in besides; pass their rows to [`TableCache::fill`].
    ///
    /// Ids are remote ids of this table; each of `missed` appears once. `consumed` is the announced batch that this
    /// minibatch was, if it was announced; `missed` then are ids of it, in its order.
    pub fn record<'r>(
        &self,
        hit: &[u64],
        missed: &[u64],
        row: impl Fn(usize) -> Option<&'r [u8]>,
        consumed: Option<BatchKey>,
    ) -> Vec<u64> {
        let mut guard = self.lock();
        let writer = &mut *guard;
        let next_uses = consumed.map(|key| self.consume(writer, key, missed)).unwrap_or_default();
        writer.give_numbers(&self.index, missed);
        let Some((policy, mut ledger)) = writer.parts(&self.index) else { return Vec::new() };
        for (at, &id) in hit.iter().enumerate() {
            if let Some(&ahead) = hit.get(at + TOUCHES_AHEAD) {
                self.index.prefetch(ahead);
            }
            let Some(number) = self.index.number(id) else { continue };
            let slot = ledger.index.slot(number);
            policy.touch(&mut ledger, number, slot);
        }
        for number in missed.iter().filter_map(|&id| self.index.number(id)) {
            policy.touch(&mut ledger, number, None);
        }
        policy.end_minibatch(&mut ledger);
        self.place(writer, Offer { ids: missed, next_uses: &next_uses }, row, Fill::Demand);
        let Some((policy, mut ledger)) = writer.parts(&self.index) else { return Vec::new() };
        let wanted = policy.wanted(&mut ledger);
        self.tracked.store(writer.touched.ids() as u64, Ordering::Relaxed);
        self.ids_of(wanted)
    }

    /// The ids of rows that the policy named by their numbers.
    pub(super) fn ids_of(&self, numbers: Vec<u32>) -> Vec<u64> {
        numbers.into_iter().filter_map(|number| self.index.id(number)).collect()
    }

    /// Offers rows that no trainer waits for: `row(i)` is the row of `ids[i]`, or nothing where it may not be kept;
    /// it is asked under the writer lock. Answers how many took a slot.
    pub fn fill<'r>(&self, ids: &[u64], row: impl Fn(usize) -> Option<&'r [u8]>, reason: Fill) -> usize {
        let mut writer = self.lock();
        writer.give_numbers(&self.index, ids);
        self.place(&mut writer, Offer { ids, next_uses: &[] }, row, reason)
    }

    /// A trainer has announced that it will use `ids`, remote ids of this table, each once, at `step` of the node.
    pub fn announce(&self, step: Step, ids: Vec<u64>) -> BatchKey {
        let mut writer = self.lock();
        let span = writer.slots.span() as usize;
        writer.future.cover(span);
        let key = writer.future.announce(step, ids, |id| self.index.slot_of(id));
        self.future_bytes.store(writer.future.bytes(), Ordering::Relaxed);
        key
    }

    /// An announced batch will not be used.
    pub fn drop_announced(&self, key: BatchKey) {
        self.consume(&mut self.lock(), key, &[]);
    }

    /// The ids of an announced batch that are not cached.
    #[must_use]
    pub fn absent(&self, key: BatchKey) -> Vec<u64> {
        let writer = self.lock();
        writer.future.ids(key).iter().copied().filter(|&id| self.index.slot_of(id).is_none()).collect()
    }

    /// Takes an announced batch away, tells residents their next use, and answers that of each of `missed`.
    fn consume(&self, writer: &mut Writer, key: BatchKey, missed: &[u64]) -> Vec<Option<Step>> {
        let (ids, next) = writer.future.consume(key);
        self.future_bytes.store(writer.future.bytes(), Ordering::Relaxed);
        let mut of_missed = Vec::with_capacity(missed.len());
        for (&id, &step) in ids.iter().zip(&next) {
            if missed.get(of_missed.len()) == Some(&id) {
                of_missed.push(step);
            }
            if let Some(slot) = self.index.slot_of(id) {
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

    /// Tells the policy what is known before anything was accessed: pairs of id and weight, higher is hotter; each id
    /// at most once. To be called before the cache serves, and of use in tables of up to `TABLE_ROWS_MAX` rows only.
    pub fn set_prior(&self, weights: &[(u32, f32)]) {
        if self.index.is_numbered() {
            return;
        }
        let mut writer = self.lock();
        if let Some((policy, mut ledger)) = writer.parts(&self.index) {
            policy.prior(&mut ledger, weights);
        }
    }

    /// Hands the decision of a controller to the policy. Answers whether the policy acts on decisions.
    pub fn decide(&self, replacement: Replacement) -> bool {
        self.lock().policy.as_mut().is_some_and(|policy| policy.decide(replacement))
    }

    /// Whether `id` is cached now.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.index.slot_of(id).is_some()
    }

    fn place<'r>(
        &self,
        writer: &mut Writer,
        Offer { ids, next_uses }: Offer<'_>,
        row: impl Fn(usize) -> Option<&'r [u8]>,
        reason: Fill,
    ) -> usize {
        let mut placements: Vec<Placement<'_>> = Vec::new();
        let (mut evicted, mut offered) = (0, 0);
        // No number changes hands in here: those of newcomers are theirs although nobody finds them cached yet.
        for (at, &id) in ids.iter().enumerate() {
            if self.index.slot_of(id).is_some() {
                continue;
            }
            let Some(row) = row(at) else { continue };
            offered += 1;
            let Some(number) = self.index.number(id) else { continue };
            let next_use = next_uses.get(at).copied().flatten();
            if let Some((slot, replaced)) = self.find_place(writer, number, next_use, reason) {
                evicted += u64::from(replaced);
                placements.push(Placement { slot, number, row });
            }
        }
        // A newcomer may itself have lost its slot to a later one: the last decision stands.
        placements.retain(|placed| writer.slots.id(placed.slot) == Some(placed.number));
        let filled = placements.len();
        self.stats.refused_rows.fetch_add(offered - filled as u64, Ordering::Relaxed);
        if filled == 0 {
            return 0;
        }
        slab::overwrite(&self.slab, &self.readers, placements.iter().map(|placed| (placed.slot, placed.row)));
        for placed in &placements {
            self.index.set_slot(placed.number, placed.slot, &mut writer.touched);
        }
        self.stats.fills[reason as usize].fetch_add(filled as u64, Ordering::Relaxed);
        self.stats.evicted_rows.fetch_add(evicted, Ordering::Relaxed);
        self.tracked.store(writer.touched.ids() as u64, Ordering::Relaxed);
        self.publish_sizes(writer);
        filled
    }

    /// A slot for the row with number `id` and whether a row that readers could find lost it; `None` if it is not
    /// worth one.
    fn find_place(&self, writer: &mut Writer, id: u32, next_use: Option<Step>, reason: Fill) -> Option<(Slot, bool)> {
        let any_free = writer.slots.any_free();
        let (policy, mut ledger) = writer.parts(&self.index)?;
        ledger.next_use = next_use;
        if any_free {
            if !policy.takes_free_slot(&mut ledger, id) && reason != Fill::Warm {
                return None;
            }
            let slot = writer.slots.occupy_free(id)?;
            writer.note_occupied(slot, next_use);
            let (policy, mut ledger) = writer.parts(&self.index)?;
            policy.inserted(&mut ledger, id, slot);
            return Some((slot, false));
        }
        let slot = policy.victim(&mut ledger, id)?;
        let leaver = writer.slots.replace(slot, id)?;
        writer.note_next_use(slot, next_use);
        let (policy, mut ledger) = writer.parts(&self.index)?;
        // A newcomer of the same call may be the leaver: it was never published, so it does not count as evicted.
        let evicted = self.index.slot(leaver).is_some();
        self.index.clear_slot(leaver);
        policy.removed(&mut ledger, leaver, slot);
        policy.inserted(&mut ledger, id, slot);
        Some((slot, evicted))
    }
}

impl Reader<'_> {
    /// The row of remote id `id`, if it is cached.
    #[inline]
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&[u8]> {
        slab::read(&self.cache.slab, &self.cache.index, &self.inside, id)
    }
}
