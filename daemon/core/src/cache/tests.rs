//! Tests of a whole table cache: no torn rows, no lost slots, and policies that do what they promise.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ROW_BYTES: usize = 256;

/// A row that says whose it is in every word.
fn row_of(id: u64) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    for (i, word) in row.chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&((id as u32).wrapping_mul(2_654_435_761) ^ i as u32).to_le_bytes());
    }
    row
}

fn cache(rows: u64, capacity_rows: usize, policy: PolicySpec) -> TableCache {
    TableCache::new(CacheSpec {
        table_rows: rows,
        row_bytes: ROW_BYTES,
        capacity_rows,
        ceiling_rows: capacity_rows,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    })
    .unwrap()
}

/// Serves one minibatch of unique ids as the daemon does; answers its hits.
fn serve(cache: &TableCache, ids: &[u64]) -> usize {
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    {
        let reader = cache.read();
        for &id in ids {
            match reader.get(id) {
                Some(row) => {
                    assert_eq!(row, row_of(id), "row of {id}");
                    hit.push(id);
                }
                None => missed.push(id),
            }
        }
    }
    let rows: Vec<_> = missed.iter().map(|&id| row_of(id)).collect();
    let wanted = cache.record(&hit, &missed, |i| Some(&rows[i]), None);
    let rows: Vec<_> = wanted.iter().map(|&id| row_of(id)).collect();
    cache.fill(&wanted, |i| Some(&rows[i]), Fill::Policy);
    hit.len()
}

const EPOCH: PolicySpec = PolicySpec::Epoch { sample: 16 };

#[test]
fn free_slots_fill_first_and_none_caches_nothing() {
    let epoch = cache(1000, 10, EPOCH);
    assert_eq!(serve(&epoch, &[1, 2, 3]), 0);
    assert_eq!(serve(&epoch, &[3, 2, 1]), 3);
    assert_eq!(epoch.used_rows(), 3);
    let none = cache(1000, 10, PolicySpec::None);
    assert_eq!(serve(&none, &[1, 2, 3]) + serve(&none, &[1, 2, 3]), 0);
    assert_eq!(none.spec().capacity_rows, 0);
}

#[test]
fn a_newcomer_must_beat_its_victim() {
    let cache = cache(1000, 4, EPOCH);
    for _ in 0..3 {
        serve(&cache, &[1, 2, 3, 4]);
    }
    serve(&cache, &[9]);
    assert!(!cache.contains(9), "one access beats none of three");
    for _ in 0..4 {
        serve(&cache, &[9]);
    }
    assert!(cache.contains(9));
    assert_eq!(cache.used_rows(), 4);
}

/// Two fetches may miss the same rows before the first of them is recorded.
#[test]
fn only_rows_that_won_no_slot_are_refused() {
    let cache = cache(1000, 2, EPOCH);
    let rows: Vec<_> = (0..3).map(row_of).collect();
    for _ in 0..2 {
        cache.record(&[], &[0, 1, 2], |i| (i != 2).then_some(&rows[i][..]), None);
    }
    assert_eq!(
        (cache.used_rows(), cache.stats().refused_rows.load(Ordering::Relaxed)),
        (2, 0),
        "no row was turned away"
    );
    cache.record(&[], &[0, 1, 2], |i| Some(&rows[i][..]), None);
    assert_eq!(cache.stats().refused_rows.load(Ordering::Relaxed), 1);
}

#[test]
fn the_periodic_policy_replaces_on_its_period_only() {
    let settings = ScoreSettings { trigger: Trigger::Period(4), alpha: 0.05 };
    let cache = cache(1000, 2, PolicySpec::Score(settings));
    serve(&cache, &[1, 2]);
    serve(&cache, &[1, 2]);
    serve(&cache, &[1, 3]);
    assert_eq!(cache.used_rows(), 0);
    serve(&cache, &[5]);
    assert!(cache.contains(1) && cache.contains(2), "the two missed most");
    for _ in 0..4 {
        assert!(!cache.contains(7));
        serve(&cache, &[7, 8]);
    }
    // 1 came in with the 3 misses it had, 2 with 2: neither is stale by the paper's threshold yet.
    assert!(cache.contains(1) && cache.contains(2) && !cache.contains(7));
}

#[test]
fn bookkeeping_stays_within_its_bound() {
    let cache = cache(100_000, 4096, EPOCH);
    let ids: Vec<u64> = (0..4096).collect();
    serve(&cache, &ids);
    let per_row = cache.bookkeeping_bytes() as f64 / cache.used_rows() as f64;
    assert!(per_row <= 16.0, "{per_row} bytes per cached row");
}

/// The promise of the module: rows are evicted and overwritten under running gathers, and every row read is whole.
#[test]
fn readers_never_see_a_torn_or_wrong_row() {
    let cache = cache(4096, 64, EPOCH);
    let done = AtomicBool::new(false);
    let checked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..3u64 {
            let (cache, done, checked) = (&cache, &done, &checked);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !done.load(Ordering::Relaxed) {
                    let reader = cache.read();
                    for _ in 0..64 {
                        let id = random.u64(0..4096);
                        if let Some(row) = reader.get(id) {
                            assert_eq!(row, row_of(id), "row of {id}");
                            checked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(99);
        let mut rounds = 0;
        // Bounded, so that readers that found a wrong row end the test.
        while rounds < 3000 || (rounds < 300_000 && checked.load(Ordering::Relaxed) < 20_000) {
            // Ids grow hot in turn, so that admission goes on for ever.
            let base = random.u64(0..4032);
            let ids: Vec<u64> = (base..base + 32).collect();
            serve(&cache, &ids);
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(cache.stats().evicted_rows.load(Ordering::Relaxed) > 1000, "too few evictions to mean anything");
}
