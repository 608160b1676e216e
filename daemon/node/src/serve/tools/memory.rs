//! How much memory the caches may take, and what is given back when it runs short. It owns the last reading. It must
//! never read memory itself: readings come in as arguments.

use crate::memory::MemoryReading;
use crate::serve::base::Base;
use crate::serve::settings::SteerSettings;
use rudder_core::cache::TableCache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of its configured capacity below which memory pressure does not shrink a cache: little would be won by it.
const FLOOR_SHARE: f64 = 0.05;

/// The memory of the caches.
#[derive(Debug)]
pub(crate) struct Memory {
    base: Arc<Base>,
    settings: SteerSettings,
    /// 0 until there was a reading.
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    shrinks: AtomicU64,
}

/// Bytes that all caches together may hold under `reading`, of which they hold `held` now, so that no more than `share`
/// of the limit is used.
fn room_bytes(reading: MemoryReading, share: f64, held: u64) -> u64 {
    let others = reading.used_bytes.saturating_sub(held);
    ((reading.limit_bytes as f64 * share) as u64).saturating_sub(others)
}

impl Memory {
    pub(crate) fn new(base: &Arc<Base>, settings: SteerSettings) -> Self {
        let (limit_bytes, used_bytes, shrinks) = Default::default();
        Self { base: Arc::clone(base), settings, limit_bytes, used_bytes, shrinks }
    }

    fn note(&self, reading: MemoryReading) {
        self.limit_bytes.store(reading.limit_bytes, Ordering::Relaxed);
        self.used_bytes.store(reading.used_bytes, Ordering::Relaxed);
    }

    /// How full memory was when it was last looked at; zeros while unknown.
    pub(crate) fn reading(&self) -> MemoryReading {
        let (limit_bytes, used_bytes) = (&self.limit_bytes, &self.used_bytes);
        MemoryReading {
            limit_bytes: limit_bytes.load(Ordering::Relaxed),
            used_bytes: used_bytes.load(Ordering::Relaxed),
        }
    }

    /// Times that caches were shrunk because memory ran short.
    pub(crate) fn shrinks(&self) -> u64 {
        self.shrinks.load(Ordering::Relaxed)
    }

    fn held_bytes(&self) -> u64 {
        self.base.tables.iter().map(|table| table.cache.row_bytes_held()).sum()
    }

    /// Most rows that the cache of `table` may be given now, and whether it is memory that says so.
    pub(crate) fn ceiling(&self, table: usize) -> (u64, bool) {
        let cache = &self.base.tables[table].cache;
        let (ceiling, reading) = (cache.spec().ceiling_rows as u64, self.reading());
        if reading.limit_bytes == 0 {
            return (ceiling, false);
        }
        let promised = |cache: &TableCache| (cache.capacity_rows() * cache.slot_bytes()) as u64;
        let others: u64 = self.base.tables.iter().map(|table| promised(&table.cache)).sum::<u64>() - promised(cache);
        let room = room_bytes(reading, self.settings.memory_share, self.held_bytes()).saturating_sub(others);
        let rows = room / (cache.slot_bytes() as u64).max(1);
        if rows < ceiling { (rows, true) } else { (ceiling, false) }
    }

    /// Takes note of how full memory is at the start, and lowers capacities that do not fit into it.
    pub(crate) fn fit(&self, reading: MemoryReading) {
        self.note(reading);
        for (at, table) in self.base.tables.iter().enumerate() {
            let (ceiling, by_memory) = self.ceiling(at);
            let configured_rows = table.cache.capacity_rows();
            if by_memory && ceiling < configured_rows as u64 {
                table.cache.resize(ceiling as usize);
                tracing::warn!(
                    table = self.base.name(at),
                    configured_rows,
                    capacity_rows = ceiling,
                    limit_bytes = reading.limit_bytes,
                    used_bytes = reading.used_bytes,
                    "the configured cache does not fit into the memory limit: lower cache.capacity or raise the limit"
                );
            }
        }
    }

    /// Takes note of how full memory is, and gives some back if it runs short. Answers the bytes of rows that were let
    /// go. Blocks.
    pub(crate) fn relieve(&self, reading: MemoryReading) -> u64 {
        self.note(reading);
        if reading.used_bytes as f64 <= reading.limit_bytes as f64 * self.settings.pressure_share {
            return 0;
        }
        let held = self.held_bytes();
        let room = room_bytes(reading, self.settings.memory_share, held);
        let keep = room as f64 / held.max(1) as f64;
        let mut given_back = 0;
        for (at, table) in self.base.tables.iter().enumerate() {
            let cache = &table.cache;
            let floor = (cache.spec().capacity_rows as f64 * FLOOR_SHARE) as usize;
            let target = ((cache.used_rows() as f64 * keep) as usize).max(floor);
            if keep >= 1.0 || target >= cache.used_rows() as usize {
                continue;
            }
            let resized = cache.resize(target);
            given_back += (resized.dropped_rows * cache.slot_bytes()) as u64;
            tracing::warn!(
                table = self.base.name(at),
                before_rows = resized.before_rows,
                after_rows = resized.after_rows,
                limit_bytes = reading.limit_bytes,
                used_bytes = reading.used_bytes,
                "memory runs short: the cache was shrunk; `rudder tool grow` enlarges it again"
            );
        }
        if given_back > 0 {
            self.shrinks.fetch_add(1, Ordering::Relaxed);
        }
        given_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_others_leave_of_the_share() {
        let reading = MemoryReading { limit_bytes: 1000, used_bytes: 700 };
        assert_eq!(room_bytes(reading, 0.9, 300), 500, "the others use 400 of 900");
        assert_eq!(room_bytes(reading, 0.3, 300), 0);
    }
}
