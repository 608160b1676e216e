//! Tests of announcements, budget and expiry, against a cache without rows.

use super::*;
use crate::cache::{CacheSpec, PolicySpec};

const SETTINGS: Settings = Settings {
    depth: 2,
    horizon: 0,
    horizon_factor: 4.0,
    horizon_max: 64,
    budget: 1.0,
    rows_max: 1000,
    expire_ms: 1000,
};

fn cache() -> TableCache {
    let policy = PolicySpec::Epoch { sample: 16 };
    TableCache::new(CacheSpec { table_rows: 1000, row_bytes: 0, capacity_rows: 10, ceiling_rows: 10, policy, seed: 1 })
        .unwrap()
}

const ONE: TrainerId = TrainerId(1);

fn said(step: u64, fingerprint: u64, ids: impl IntoIterator<Item = u32>) -> Announcement {
    Announcement { step: Some(step), fingerprint, ids: ids.into_iter().collect() }
}

/// Announces for trainer 1 at time 0 what makes nothing void.
fn announce(ahead: &mut Lookahead, cache: &TableCache, announcement: Announcement) -> u32 {
    let Announced { dropped, horizon } = ahead.announce(cache, ONE, announcement, 0);
    assert!(dropped.is_empty());
    horizon.unwrap()
}

fn all(ids: Vec<u32>) -> Vec<u32> {
    ids
}

#[test]
fn the_next_batches_are_ordered_and_a_fetch_is_known_by_its_ids() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    for step in 0..4u32 {
        announce(&mut ahead, &cache, said(u64::from(step), u64::from(step) + 100, [step, step + 1]));
    }
    let orders: Vec<Vec<u32>> = ahead.plan(&cache, all).into_iter().map(|order| order.ids).collect();
    assert_eq!(orders, [vec![0, 1], vec![2]], "two batches, each row once");
    assert!(ahead.plan(&cache, |_| Vec::new()).is_empty());
    let Consumed { used, dropped } = ahead.consume(&cache, ONE, 100, 0);
    assert!(used.is_some() && dropped.is_empty());
    let next = ahead.plan(&cache, |ids| ids.into_iter().filter(|&id| id > 2).collect());
    assert_eq!(next.iter().flat_map(|order| order.ids.clone()).collect::<Vec<_>>(), [3]);
    let unannounced = ahead.consume(&cache, ONE, 999, 0);
    assert!(unannounced.used.is_none() && unannounced.dropped.is_empty(), "an unannounced fetch harms nothing");
    let Consumed { used, dropped } = ahead.consume(&cache, ONE, 103, 0);
    assert!(used.is_some() && dropped.is_empty(), "two others may still be fetched");
    assert_eq!(ahead.counts(), Counts { announced: 4, used: 2, expired: 0, over_budget_rows: 0 });
    assert_eq!(ahead.waiting_rows(), 4);
}

#[test]
fn the_budget_holds_back_and_refills() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { budget: 0.5, ..SETTINGS });
    for step in 0..6u32 {
        announce(&mut ahead, &cache, said(u64::from(step), u64::from(step), step * 10..step * 10 + 10));
    }
    let ordered = |orders: &[Prefetch]| orders.iter().map(|order| order.ids.len()).sum::<usize>();
    assert_eq!(ordered(&ahead.plan(&cache, all)), 10, "the start is worth two half batches");
    assert_eq!(ordered(&ahead.plan(&cache, all)), 0);
    assert!(ahead.consume(&cache, ONE, 0, 0).used.is_some());
    assert_eq!(ordered(&ahead.plan(&cache, all)), 5);
}

#[test]
fn what_does_not_come_true_expires() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    announce(&mut ahead, &cache, said(0, 7, [1, 2]));
    assert!(ahead.announce(&cache, ONE, said(1, 8, [3]), 900).dropped.is_empty());
    assert_eq!(ahead.consume(&cache, ONE, 99, 1500).dropped.len(), 1, "older than the limit");
    let again = ahead.announce(&cache, ONE, said(1, 9, [4]), 1500);
    assert!(again.horizon.is_ok());
    assert_eq!(again.dropped.len(), 1, "a trainer that begins again has dropped its old plans");
    assert_eq!(ahead.leave(&cache, ONE).len(), 1);
    assert_eq!((ahead.waiting_rows(), ahead.counts().expired), (0, 3));
    assert!(ahead.announce(&cache, TrainerId(2), said(0, 1, vec![0; 1001]), 0).horizon.is_err());
}

#[test]
fn the_horizon_follows_capacity_and_batches() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    assert_eq!(announce(&mut ahead, &cache, said(0, 1, 0..5)), 8);
    let second = ahead.announce(&cache, TrainerId(2), said(0, 1, 0..5), 0);
    assert_eq!(second.horizon, Ok(4), "two trainers share the cache");
    assert!(second.dropped.is_empty());
    let mut fixed = Lookahead::new(Settings { horizon: 16, ..SETTINGS });
    assert_eq!(announce(&mut fixed, &cache, said(0, 1, [1])), 16);
}

/// With the future known to the end, what stays cached is Belady's choice: hits are those of the optimum.
#[test]
fn a_known_future_gives_the_optimum() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { horizon_max: 10_000, rows_max: 1 << 20, ..SETTINGS });
    let mut random = fastrand::Rng::with_seed(3);
    let batches: Vec<Vec<u32>> = (0..400)
        .map(|_| {
            let mut ids: Vec<u32> = (0..6).map(|_| random.u32(0..8) * random.u32(0..8)).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        })
        .collect();
    for (step, ids) in (0u64..).zip(&batches) {
        announce(&mut ahead, &cache, said(step, step, ids.clone()));
    }
    let mut hits = 0;
    for (step, ids) in (0u64..).zip(&batches) {
        let Consumed { used: batch, .. } = ahead.consume(&cache, ONE, step, 0);
        let (hit, missed): (Vec<u32>, Vec<u32>) = ids.iter().partition(|&&id| cache.contains(id));
        hits += hit.len();
        cache.settle(&hit, &missed, |_| Some(&[]), batch);
    }
    assert_eq!(hits, optimum(&batches, 10));
}

/// Belady with bypass: after each batch, keep of the cached and the fetched those used next.
fn optimum(batches: &[Vec<u32>], capacity: usize) -> usize {
    let next_use = |id: u32, after: usize| batches.iter().skip(after + 1).position(|batch| batch.contains(&id));
    let mut cached: Vec<u32> = Vec::new();
    let mut hits = 0;
    for (at, ids) in batches.iter().enumerate() {
        hits += ids.iter().filter(|id| cached.contains(id)).count();
        cached.extend(ids.iter().filter(|id| !cached.contains(id)).copied().collect::<Vec<_>>());
        cached.sort_by_key(|&id| next_use(id, at).unwrap_or(usize::MAX));
        cached.truncate(capacity);
    }
    hits
}
