//! Drives a [`TableCache`] over a trace as a daemon would, without a network: rows have no bytes, a row that is missing is
//! there at once. It owns the order of calls within a minibatch, which must stay that of `serve`.

use super::{Trace, TraceTotals};
use crate::cache::{CacheError, CacheSpec, Clock, PolicySpec, TableCache};
use std::sync::atomic::Ordering;

/// What to replay a trace against.
#[derive(Debug, Clone, Copy)]
pub struct ReplaySpec {
    /// The policy.
    pub policy: PolicySpec,
    /// Rows of the cache.
    pub capacity_rows: usize,
    /// Seed of the policy's randomness.
    pub seed: u64,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Hits and requests, in all and over time.
    pub totals: TraceTotals,
    /// Rows that a trainer would have waited for.
    pub stall_rows: u64,
    /// Rows that would have crossed the network: those waited for and those that the policy wanted besides.
    pub network_rows: u64,
    /// Rows that took a slot.
    pub fill_rows: u64,
    /// Rows that lost their slot.
    pub evictions: u64,
    /// Times that the policy found the accesses shifted.
    pub shifts: u64,
}

/// Replays `trace`. `prior` is what the policy is told before the first minibatch; `progress` gets the number of minibatches
/// done.
///
/// # Errors
/// [`CacheError`] when a cache for it cannot be made.
pub fn replay(
    trace: &Trace,
    spec: ReplaySpec,
    prior: &[(u32, f32)],
    progress: &mut dyn FnMut(usize),
) -> Result<Replayed, CacheError> {
    let cache = TableCache::new(CacheSpec {
        table_rows: trace.meta.universe,
        row_bytes: 0,
        capacity_rows: spec.capacity_rows,
        policy: spec.policy,
        seed: spec.seed,
    })?;
    cache.set_prior(prior);
    let per_epoch = trace.meta.minibatches_per_epoch;
    let (mut totals, mut prefetched) = (TraceTotals::default(), 0);
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    for m in 0..trace.minibatches() {
        let (epoch, step) = (m as u64 / per_epoch, m as u64 % per_epoch);
        cache.tick(Clock { epoch: epoch as u32, progress: step as f32 / per_epoch as f32 });
        look_up(&cache, trace.minibatch(m), &mut hit, &mut missed);
        totals.add(hit.len() as u64, missed.len() as u64);
        let wanted = cache.settle(&hit, &missed, |_| &[]);
        prefetched += wanted.len() as u64;
        cache.fill(&wanted, |_| &[]);
        totals.end_minibatch();
        progress(m + 1);
    }
    let (stats, stall_rows) = (cache.stats(), totals.requests - totals.hits);
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Replayed {
        totals,
        stall_rows,
        network_rows: stall_rows + prefetched,
        fill_rows: read(&stats.demand_fills) + read(&stats.prefetch_fills),
        evictions: read(&stats.evicted_rows),
        shifts: read(&stats.shifts),
    })
}

fn look_up(cache: &TableCache, ids: &[u32], hit: &mut Vec<u32>, missed: &mut Vec<u32>) {
    hit.clear();
    missed.clear();
    let reader = cache.read();
    for &id in ids {
        if reader.get(u64::from(id)).is_some() { hit.push(id) } else { missed.push(id) }
    }
}
