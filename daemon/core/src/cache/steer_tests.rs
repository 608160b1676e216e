//! Tests of what is done to a cache from outside: whatever is grown, shrunk, discarded and renewed, in any order and
//! under any policy, residents stay reachable, rows stay right and the capacity holds.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const IDS: u64 = 64;
const ROW_BYTES: usize = 48;

const ALL: [PolicySpec; 9] = [
    PolicySpec::Static,
    PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(3), alpha: 0.05 }),
    PolicySpec::Score(ScoreSettings { trigger: Trigger::Window(2), alpha: 0.05 }),
    PolicySpec::Lru,
    PolicySpec::Lfu,
    PolicySpec::TinyLfu,
    PolicySpec::S3Fifo,
    PolicySpec::Sieve,
    PolicySpec::Epoch { sample: 16 },
];

fn row_of(id: u64, version: u32) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    for (i, word) in row.chunks_exact_mut(4).enumerate() {
        let value = if i % 2 == 0 { id as u32 } else { version };
        word.copy_from_slice(&value.wrapping_mul(2_654_435_761).wrapping_add(i as u32).to_le_bytes());
    }
    row
}

fn cache(rows: u64, capacity_rows: usize, ceiling_rows: usize, policy: PolicySpec) -> TableCache {
    let spec = CacheSpec {
        table_rows: rows,
        row_bytes: ROW_BYTES,
        capacity_rows,
        ceiling_rows,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    };
    TableCache::new(spec).unwrap()
}

fn held(cache: &TableCache) -> Vec<u64> {
    let mut ids = cache.residents(|_| true);
    ids.sort_unstable();
    ids
}

/// Serves a minibatch of rows of version 0, or of what `versions` says.
fn serve(cache: &TableCache, ids: &[u64], versions: &HashMap<u64, u32>) -> usize {
    let (hit, missed): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| cache.contains(id));
    let row = |id: u64| row_of(id, versions.get(&id).copied().unwrap_or(0));
    let rows: Vec<_> = missed.iter().map(|&id| row(id)).collect();
    let wanted = cache.record(&hit, &missed, |i| Some(&rows[i]), None);
    let rows: Vec<_> = wanted.iter().map(|&id| row(id)).collect();
    cache.fill(&wanted, |i| Some(&rows[i]), Fill::Policy);
    hit.len()
}

#[derive(Debug, Clone)]
enum Step {
    Serve(Vec<u64>),
    Announce(Vec<u64>),
    Resize(usize),
    Discard(Vec<u64>),
    Renew(Vec<u64>),
    Warm(Vec<u64>),
    Replace,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ids = || {
        // An ordered set and a drawn order: a failure can be repeated from its seed.
        prop::collection::btree_set((0..IDS, 0..IDS).prop_map(|(a, b)| a.min(b)), 0..10)
            .prop_map(|ids| ids.into_iter().collect::<Vec<u64>>())
            .prop_shuffle()
    };
    let step = prop_oneof![
        6 => ids().prop_map(Step::Serve),
        1 => ids().prop_map(Step::Announce),
        2 => (0usize..40).prop_map(Step::Resize),
        1 => ids().prop_map(Step::Discard),
        1 => ids().prop_map(Step::Renew),
        1 => ids().prop_map(Step::Warm),
        1 => Just(Step::Replace),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 0..60)
}

fn take(cache: &TableCache, at: u32, step: &Step, versions: &mut HashMap<u64, u32>) {
    let rows = |ids: &[u64], versions: &HashMap<u64, u32>| -> Vec<[u8; ROW_BYTES]> {
        ids.iter().map(|id| row_of(*id, versions.get(id).copied().unwrap_or(0))).collect()
    };
    match step {
        Step::Serve(ids) => {
            cache.tick(Clock { epoch: at / 8, progress: (at % 8) as f32 / 8.0 });
            serve(cache, ids, versions);
        }
        Step::Announce(ids) => {
            cache.announce(crate::cache::Step::new(at + 3), ids.clone());
        }
        Step::Resize(rows) => {
            let before = (cache.capacity_rows(), held(cache).len());
            let resized = cache.resize(*rows);
            assert_eq!((resized.before_rows, resized.after_rows), (before.0, (*rows).min(32)));
            assert_eq!(resized.dropped_rows, before.1.saturating_sub(resized.after_rows), "no more than must go");
        }
        Step::Discard(ids) => {
            let there = ids.iter().filter(|id| cache.contains(**id)).count();
            assert_eq!(cache.discard(ids), there);
        }
        Step::Renew(ids) => {
            ids.iter().for_each(|&id| *versions.entry(id).or_default() += 1);
            let there = ids.iter().filter(|id| cache.contains(**id)).count();
            let rows = rows(ids, versions);
            assert_eq!(cache.renew(ids, |i| Some(&rows[i])), there);
        }
        Step::Warm(ids) => {
            let rows = rows(ids, versions);
            cache.fill(ids, |i| Some(&rows[i]), Fill::Warm);
        }
        Step::Replace => {
            let survey = cache.survey(cache.capacity_rows() - held(cache).len(), 4);
            let wanted = if survey.bring_in.is_empty() { cache.replace_now() } else { survey.bring_in };
            let rows = rows(&wanted, versions);
            assert!(wanted.iter().all(|id| !cache.contains(*id)), "only absent rows are worth bringing in");
            cache.fill(&wanted, |i| Some(&rows[i]), Fill::Tool);
        }
        Step::Forget => cache.forget(),
    }
}

proptest! {
    #[test]
    fn whatever_is_done_residents_are_reachable_and_right(steps in steps(), capacity in 0usize..32) {
        for policy in ALL {
            let twins = [cache(IDS, capacity, 32, policy), cache(IDS, capacity, 32, policy)];
            for twin in &twins {
                twin.set_prior(&[(3, 5.0), (4, 4.0), (60, 1.0)]);
            }
            let mut versions = [HashMap::new(), HashMap::new()];
            for (at, step) in (0u32..).zip(&steps) {
                for (twin, versions) in twins.iter().zip(&mut versions) {
                    take(twin, at, step, versions);
                    let held = held(twin);
                    prop_assert_eq!(held.len() as u64, twin.used_rows(), "{} after {:?}", policy.name(), step);
                    prop_assert!(held.len() <= twin.capacity_rows(), "{} after {:?}", policy.name(), step);
                    let reachable: Vec<u64> = (0..IDS).filter(|&id| twin.contains(id)).collect();
                    prop_assert_eq!(&held, &reachable, "{} after {:?}", policy.name(), step);
                    let reader = twin.read();
                    for &id in &held {
                        let version = versions.get(&id).copied().unwrap_or(0);
                        prop_assert_eq!(reader.get(id).unwrap(), row_of(id, version), "{}: {}", policy.name(), id);
                    }
                }
                prop_assert_eq!(held(&twins[0]), held(&twins[1]), "{} decides alike", policy.name());
            }
        }
    }
}

/// Found by the test above.
#[test]
fn a_chosen_row_that_came_by_itself_is_not_asked_for_again() {
    let cache = cache(IDS, 11, 32, PolicySpec::Static);
    cache.set_prior(&[(3, 5.0), (4, 4.0), (60, 1.0)]);
    let rows: Vec<_> = (0..7).map(|at| row_of(at + 4, 0)).collect();
    cache.fill(&[4, 5, 6, 7, 8, 9, 10], |i| Some(&rows[i]), Fill::Warm);
    cache.resize(5);
    cache.resize(32);
    let wanted = cache.replace_now();
    assert!(wanted.contains(&3) && !wanted.iter().any(|&id| cache.contains(id)), "{wanted:?}");
}

/// Found by the test above, too.
#[test]
fn a_row_that_came_before_it_was_chosen_is_not_asked_for() {
    let cache = cache(IDS, 3, 32, PolicySpec::Static);
    cache.set_prior(&[(3, 5.0), (4, 4.0), (60, 1.0)]);
    cache.resize(1);
    let row = row_of(4, 0);
    cache.fill(&[4], |_| Some(&row), Fill::Warm);
    cache.resize(25);
    let mut wanted = cache.replace_now();
    wanted.sort_unstable();
    assert_eq!(wanted, [3, 60]);
}

const EPOCH: PolicySpec = PolicySpec::Epoch { sample: 16 };

#[test]
fn a_cache_that_shrinks_keeps_its_hottest_rows() {
    let cache = cache(1000, 200, 200, EPOCH);
    let none = HashMap::new();
    let ids: Vec<u64> = (0..200).collect();
    serve(&cache, &ids, &none);
    for _ in 0..3 {
        serve(&cache, &ids[150..], &none);
    }
    let resized = cache.resize(50);
    assert_eq!((resized.dropped_rows, resized.after_rows), (150, 50));
    assert!(resized.moved_rows > 0, "the hot rows lay in high slots");
    assert_eq!(held(&cache), ids[150..]);
    assert_eq!(serve(&cache, &ids[150..], &none), 50);
    assert_eq!(cache.resize(5000).after_rows, 200, "the ceiling holds");
}

#[test]
fn a_cache_that_grows_is_told_its_hottest_absent_rows() {
    let cache = cache(1000, 10, 100, EPOCH);
    let none = HashMap::new();
    for round in 0..4 {
        serve(&cache, &(0..10).collect::<Vec<_>>(), &none);
        serve(&cache, &(20..30 + round).collect::<Vec<_>>(), &none);
    }
    assert!(cache.survey(0, 0).bring_in.is_empty());
    cache.resize(20);
    let survey = cache.survey(10, 0);
    let mut bring_in = survey.bring_in.clone();
    bring_in.sort_unstable();
    assert_eq!(bring_in, (20..30).collect::<Vec<_>>(), "asked for as often as the residents; 30 and later less");
}

#[test]
fn a_turn_over_brings_only_what_beats_a_resident() {
    let cache = cache(1000, 10, 10, PolicySpec::Epoch { sample: 64 });
    let none = HashMap::new();
    serve(&cache, &(0..10).collect::<Vec<_>>(), &none);
    for _ in 0..2 {
        serve(&cache, &(0..5).collect::<Vec<_>>(), &none);
    }
    // Four rows in hand each beat a resident at once; what comes of a survey is what admission left over.
    let before = held(&cache);
    let survey = cache.survey(0, 10);
    assert!(survey.bring_in.is_empty(), "{survey:?} though all that is hot is here: {before:?}");
    cache.discard(&[0, 1, 2]);
    let survey = cache.survey(0, 10);
    assert_eq!(survey.bring_in, [0, 1, 2], "hotter than the five residents that were asked for once");
}

/// Rows are served, grown, shrunk, discarded and renewed under running readers, and every row read is whole and no
/// older than what was renewed before the reader came.
#[test]
fn readers_never_see_a_mixture_while_the_cache_is_steered() {
    const ROWS: u64 = 4096;
    let cache = cache(ROWS, 256, 512, EPOCH);
    let versions: Vec<AtomicU32> = (0..ROWS).map(|_| AtomicU32::new(0)).collect();
    let (done, checked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3u64 {
            let (cache, done, checked, versions) = (&cache, &done, &checked, &versions);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !done.load(Ordering::Relaxed) {
                    let id = random.u64(0..ROWS);
                    let oldest = versions[id as usize].load(Ordering::SeqCst);
                    let reader = cache.read();
                    if let Some(row) = reader.get(id) {
                        let first = row.to_vec();
                        std::thread::yield_now();
                        assert_eq!(first, row, "row of {id} changed while a reader was inside (seed {seed})");
                        let newest = versions[id as usize].load(Ordering::SeqCst) + 1;
                        let fits = (oldest..=newest).any(|version| row == row_of(id, version));
                        assert!(fits, "row of {id} is not of versions {oldest} to {newest} (seed {seed})");
                        checked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(99);
        let mut rounds = 0;
        // Bounded, so that readers that found a wrong row end the test.
        while rounds < 3000 || (rounds < 300_000 && checked.load(Ordering::Relaxed) < 20_000) {
            let base = random.u64(0..ROWS - 32);
            let ids: Vec<u64> = (base..base + 32).collect();
            let known = ids.iter().map(|&id| (id, versions[id as usize].load(Ordering::SeqCst))).collect();
            serve(&cache, &ids, &known);
            match random.u32(0..8) {
                0 => _ = cache.resize(random.usize(64..512)),
                1 => _ = cache.discard(&ids[..4]),
                2 | 3 => {
                    let rows: Vec<_> = ids.iter().map(|id| row_of(*id, known[id] + 1)).collect();
                    cache.renew(&ids, |i| Some(&rows[i]));
                    ids.iter().for_each(|&id| _ = versions[id as usize].fetch_add(1, Ordering::SeqCst));
                }
                _ => {}
            }
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    let stats = cache.stats();
    let counts = [&stats.shrunk_rows, &stats.discarded_rows, &stats.renewed_rows, &stats.evicted_rows];
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 100), "{counts:?}: too little to mean anything");
}

#[test]
fn warmed_rows_that_nobody_asked_for_yet_are_surveyed() {
    let cache = cache(10_000, 8, 8, EPOCH);
    let ids = [1, 9_000];
    let rows = ids.map(|id| row_of(id, 0));
    assert_eq!(cache.fill(&ids, |i| Some(&rows[i]), Fill::Warm), 2);
    assert_eq!(cache.survey(0, 0).cold_share, 1.0, "both are cold");
}
