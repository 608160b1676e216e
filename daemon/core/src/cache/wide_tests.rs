//! Tests of tables whose ids do not fit into 32 bits: the rows are right whatever numbers change hands, in a bounded
//! amount of memory, and policies decide as they do in small tables while there are numbers enough.

use super::*;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const TABLE_ROWS: u64 = 5_000_000_000;

const ALL: [PolicySpec; 8] = [
    PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(3), alpha: 0.05 }),
    PolicySpec::Score(ScoreSettings { trigger: Trigger::Window(2), alpha: 0.05 }),
    PolicySpec::Lru,
    PolicySpec::Lfu,
    PolicySpec::TinyLfu,
    PolicySpec::S3Fifo,
    PolicySpec::Sieve,
    PolicySpec::Epoch { sample: 16 },
];

fn spec(table_rows: u64, capacity_rows: usize, tracked_rows_max: usize, policy: PolicySpec) -> CacheSpec {
    CacheSpec {
        table_rows,
        row_bytes: 8,
        capacity_rows,
        ceiling_rows: capacity_rows,
        tracked_rows_max,
        policy,
        seed: 1,
    }
}

/// Serves a minibatch of which each row is its id, and checks what was cached of it. Answers the hits.
fn serve(cache: &TableCache, ids: &[u64]) -> usize {
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    for &id in ids {
        match cache.read().get(id) {
            Some(row) => {
                assert_eq!(row, id.to_le_bytes(), "another id's row for {id}");
                hit.push(id);
            }
            None => missed.push(id),
        }
    }
    let rows = |ids: &[u64]| ids.iter().map(|id| id.to_le_bytes()).collect::<Vec<_>>();
    let of_missed = rows(&missed);
    let wanted = cache.record(&hit, &missed, |i| Some(&of_missed[i]), None);
    let of_wanted = rows(&wanted);
    cache.fill(&wanted, |i| Some(&of_wanted[i]), Fill::Policy);
    hit.len()
}

fn minibatch(random: &mut fastrand::Rng, of: u64) -> Vec<u64> {
    let drawn = || random.u64(0..of).min(random.u64(0..of)) * 40_000_003 + 600_000_000;
    let mut seen = HashSet::new();
    std::iter::repeat_with(drawn).take(40).filter(|&id| seen.insert(id)).collect()
}

#[test]
fn rows_are_right_whatever_numbers_change_hands() {
    for policy in ALL {
        // As few numbers as there may be, so that they change hands all the time, and all ids above 2^32 but a few.
        let cache = TableCache::new(spec(TABLE_ROWS * 1_000_000, 2_048, 4_096, policy)).unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let mut hits = 0;
        for round in 0..3_000u32 {
            hits += serve(&cache, &minibatch(&mut random, 8_000));
            if round % 50 == 0 {
                let some = cache.residents(|id| id % 3 == 0);
                assert!(some.iter().all(|&id| cache.contains(id) && id % 3 == 0));
                let renewed: Vec<u64> = some.iter().take(20).copied().collect();
                let rows: Vec<_> = renewed.iter().map(|id| id.to_le_bytes()).collect();
                assert_eq!(cache.renew(&renewed, |i| Some(&rows[i])), renewed.len());
                assert_eq!(cache.discard(&renewed), renewed.len());
                assert!(renewed.iter().all(|&id| !cache.contains(id)));
            }
        }
        let held = cache.residents(|_| true);
        assert_eq!(held.len() as u64, cache.used_rows());
        assert!(held.len() <= 2_048 && held.len() > 1_000, "{policy:?} holds {}", held.len());
        for id in held {
            assert_eq!(cache.read().get(id), Some(&id.to_le_bytes()[..]), "{policy:?}");
        }
        assert!(hits > 20_000, "{policy:?}: {hits} hits");
        assert!(cache.survey(10, 10).bring_in.iter().all(|&id| !cache.contains(id)));
        let bookkeeping = cache.bookkeeping_bytes();
        assert!(bookkeeping <= 2_048 * 4 + 4_096 * 16, "{policy:?}: {bookkeeping} bytes of bookkeeping");
    }
}

/// With numbers for all ids, a policy decides as in a small table.
#[test]
fn policies_decide_as_in_small_tables() {
    for policy in [PolicySpec::Lru, PolicySpec::Lfu, PolicySpec::Sieve, PolicySpec::S3Fifo] {
        let small = TableCache::new(spec(1_000, 64, 0, policy)).unwrap();
        let large = TableCache::new(spec(TABLE_ROWS, 64, 1 << 16, policy)).unwrap();
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..500 {
            let mut seen = HashSet::new();
            let ids: Vec<u64> = (0..20).map(|_| random.u64(0..200)).filter(|&id| seen.insert(id)).collect();
            let far: Vec<u64> = ids.iter().map(|&id| id + 4_500_000_000).collect();
            assert_eq!(serve(&small, &ids), serve(&large, &far), "{policy:?}");
        }
        let mut held: Vec<u64> = large.residents(|_| true).into_iter().map(|id| id - 4_500_000_000).collect();
        let mut as_small = small.residents(|_| true);
        held.sort_unstable();
        as_small.sort_unstable();
        assert_eq!(held, as_small, "{policy:?}");
    }
}

#[test]
fn announced_rows_of_large_tables_are_known_by_their_ids() {
    let cache = TableCache::new(spec(TABLE_ROWS, 10, 4_096, PolicySpec::Epoch { sample: 16 })).unwrap();
    let (near, far) = (7, 7 + (1 << 32));
    serve(&cache, &[far]);
    let key = cache.announce(Step::new(3), vec![near, far, 4_999_999_999]);
    assert_eq!(cache.absent(key), [near, 4_999_999_999]);
    cache.drop_announced(key);
}

#[test]
fn what_cannot_work_is_refused_when_the_cache_is_made() {
    let refused = |spec| TableCache::new(spec).map(|_| ()).unwrap_err().to_string();
    let error = refused(spec(TABLE_ROWS, 100, 1 << 16, PolicySpec::Static));
    assert!(error.contains("`static` cannot serve a table of 5000000000 rows"), "{error}");
    let error = refused(spec(TABLE_ROWS, 3_000, 4_096, PolicySpec::Lru));
    assert!(error.contains("cache.tracked_rows_max = 4096") && error.contains("2 * 3000"), "{error}");
    TableCache::new(spec(TABLE_ROWS, 3_000, 0, PolicySpec::None)).unwrap();
    TableCache::new(spec(TABLE_ROWS_MAX, 3_000, 0, PolicySpec::Lru)).unwrap();
}

#[test]
fn readers_see_right_rows_while_numbers_change_hands() {
    let cache = TableCache::new(spec(TABLE_ROWS * 1_000_000, 256, 4_096, PolicySpec::Lru)).unwrap();
    let (stop, readers_found) = (AtomicBool::new(false), AtomicU32::new(0));
    let end = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (cache, stop, readers_found) = (&cache, &stop, &readers_found);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut found = 0;
                while !stop.load(Ordering::Relaxed) {
                    for id in minibatch(&mut random, 2_000) {
                        if let Some(row) = cache.read().get(id) {
                            assert_eq!(row, id.to_le_bytes());
                            found += 1;
                            readers_found.fetch_add(u32::from(found == 1), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(9);
        // On a busy machine a reader may begin late.
        let mut rounds = 0;
        while rounds < 400 || (readers_found.load(Ordering::Relaxed) < 2 && Instant::now() < end) {
            serve(&cache, &minibatch(&mut random, 20_000));
            serve(&cache, &minibatch(&mut random, 2_000));
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(readers_found.into_inner(), 2, "both readers found rows");
}
