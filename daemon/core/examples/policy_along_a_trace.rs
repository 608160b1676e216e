//! Drives each policy along the same trace and prints its hit rate beside the optimum's, the bound that no policy
//! beats.
//!
//! `cargo run --release -p rudder-core --example policy_along_a_trace`

use rudder_core::cache::{CacheError, CacheSpec, Clock, Fill, PolicyName, PolicySettings, PolicySpec, TableCache};
use rudder_core::optimum::{Accesses, HitTotals, optimum};
use std::io::Write;

const EPOCHS: u32 = 5;
const MINIBATCHES_PER_EPOCH: usize = 40;
const TABLE_ROWS: u32 = 2_000;
const CAPACITY_ROWS: usize = 200;

/// Minibatches of a skewed workload: the product of two draws makes low ids frequent.
fn trace() -> Vec<Vec<u32>> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..EPOCHS as usize * MINIBATCHES_PER_EPOCH)
        .map(|_| {
            let mut ids: Vec<u32> = (0..100).map(|_| random.u32(0..TABLE_ROWS) * random.u32(0..100) / 100).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        })
        .collect()
}

fn drive(trace: &[Vec<u32>], policy: PolicySpec) -> Result<HitTotals, CacheError> {
    let cache = TableCache::new(CacheSpec {
        table_rows: u64::from(TABLE_ROWS),
        row_bytes: 0,
        capacity_rows: CAPACITY_ROWS,
        ceiling_rows: CAPACITY_ROWS,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    })?;
    let mut totals = HitTotals::default();
    for (at, ids) in trace.iter().enumerate() {
        let (epoch, step) = (at / MINIBATCHES_PER_EPOCH, at % MINIBATCHES_PER_EPOCH);
        cache.tick(Clock { epoch: epoch as u32, progress: step as f32 / MINIBATCHES_PER_EPOCH as f32 });
        let ids = ids.iter().map(|&id| u64::from(id));
        let (hit, missed): (Vec<u64>, Vec<u64>) = ids.partition(|&id| cache.contains(id));
        totals.add(hit.len() as u64, missed.len() as u64);
        totals.end_minibatch();
        let wanted = cache.record(&hit, &missed, |_| Some(&[]), None);
        cache.fill(&wanted, |_| Some(&[]), Fill::Policy);
    }
    Ok(totals)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trace = trace();
    let mut out = std::io::stdout().lock();
    let settings = PolicySettings { period: 10, alpha: 0.05, sample: 16 };
    // `static` chooses by weights known before the first minibatch, which this trace does not have.
    for name in PolicyName::ALL.into_iter().filter(|&name| name != PolicyName::Static) {
        let totals = drive(&trace, name.with(settings))?;
        writeln!(out, "{:>9} {:5.1} % hits", name.name(), 100.0 * totals.hit_rate())?;
    }
    let ids = trace.concat();
    let ends = trace.iter().scan(0, |end, ids| {
        *end += ids.len() as u64;
        Some(*end)
    });
    let offsets: Vec<u64> = std::iter::once(0).chain(ends).collect();
    let accesses = Accesses { universe: u64::from(TABLE_ROWS), offsets: &offsets, ids: &ids };
    let best = optimum(accesses, CAPACITY_ROWS, &mut |_| ());
    writeln!(out, "{:>9} {:5.1} % hits", "optimum", 100.0 * best.hit_rate())?;
    Ok(())
}
