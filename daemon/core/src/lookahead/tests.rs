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
    TableCache::new(CacheSpec {
        table_rows: 1000,
        row_bytes: 0,
        capacity_rows: 10,
        ceiling_rows: 10,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    })
    .unwrap()
}

const ONE: TrainerId = TrainerId(1);

/// The mark of ids that are `number`.
fn mark(number: u64) -> IdsMark {
    IdsMark { ordered: number, unordered: number }
}

/// A fetch of ids that are `number`.
fn by_ids(number: u64) -> Named {
    Named::Ids(mark(number))
}

fn said(step: u64, fingerprint: u64, ids: impl IntoIterator<Item = u64>) -> Announcement {
    Announcement { batch: fingerprint, step: Some(step), mark: mark(fingerprint), ids: ids.into_iter().collect() }
}

/// Announces for trainer 1 at time 0 what makes nothing void.
fn announce(ahead: &mut Lookahead, cache: &TableCache, announcement: Announcement) -> u32 {
    let Announced { dropped, horizon } = ahead.announce(cache, ONE, announcement, 0);
    assert!(dropped.is_empty());
    horizon.unwrap()
}

fn all(ids: Vec<u64>) -> Vec<u64> {
    ids
}

#[test]
fn the_next_batches_are_ordered_and_a_fetch_is_known_by_its_ids() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    for step in 0..4 {
        announce(&mut ahead, &cache, said(step, step + 100, [step, step + 1]));
    }
    let orders: Vec<Vec<u64>> = ahead.plan(&cache, all).into_iter().map(|order| order.ids).collect();
    assert_eq!(orders, [vec![0, 1], vec![2]], "two batches, each row once");
    assert!(ahead.plan(&cache, |_| Vec::new()).is_empty());
    let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(100), 0);
    assert!(used.is_some() && dropped.is_empty());
    let next = ahead.plan(&cache, |ids| ids.into_iter().filter(|&id| id > 2).collect());
    assert_eq!(next.iter().flat_map(|order| order.ids.clone()).collect::<Vec<_>>(), [3]);
    let unannounced = ahead.consume(&cache, ONE, by_ids(999), 0);
    assert!(unannounced.used.is_none() && unannounced.dropped.is_empty(), "an unannounced fetch harms nothing");
    let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(103), 0);
    assert!(used.is_some() && dropped.is_empty(), "two others may still be fetched");
    let counts = AnnouncementCounts { announced: 4, used: 2, reordered: 0, expired: 0, over_budget_rows: 0 };
    assert_eq!(ahead.counts(), counts);
    assert_eq!(ahead.waiting_rows(), 4);
}

#[test]
fn a_fetch_is_known_by_its_number_and_by_its_ids_in_any_order() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    let sorted = |ordered| IdsMark { ordered, unordered: 7 };
    for (step, batch) in [(0, 50), (1, 51), (2, 52)] {
        let mark = sorted(step);
        announce(&mut ahead, &cache, Announcement { batch, step: Some(step), mark, ids: vec![step] });
    }
    let step_of = |consumed: &Consumed| (consumed.used.is_some(), consumed.reordered);
    assert_eq!(step_of(&ahead.consume(&cache, ONE, Named::Ids(sorted(1)), 0)), (true, false), "in the same order");
    assert_eq!(step_of(&ahead.consume(&cache, ONE, Named::Batch(51), 0)), (false, false), "used before");
    assert_eq!(step_of(&ahead.consume(&cache, ONE, Named::Ids(sorted(9)), 0)), (true, true), "in another order");
    assert_eq!(step_of(&ahead.consume(&cache, ONE, Named::Batch(52), 0)), (true, false), "by its number");
    let counts = AnnouncementCounts { announced: 3, used: 3, reordered: 1, expired: 0, over_budget_rows: 0 };
    assert_eq!(ahead.counts(), counts);
}

#[test]
fn a_batch_that_is_announced_twice_is_known_by_its_last_number() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    let again = |batch| Announcement { batch, step: Some(7), mark: mark(1), ids: vec![3] };
    announce(&mut ahead, &cache, again(50));
    announce(&mut ahead, &cache, again(51));
    assert!(ahead.consume(&cache, ONE, Named::Batch(51), 0).used.is_some());
}

#[test]
fn the_budget_holds_back_and_refills() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { budget: 0.5, ..SETTINGS });
    for step in 0..6u64 {
        announce(&mut ahead, &cache, said(step, step, step * 10..step * 10 + 10));
    }
    let ordered = |orders: &[Prefetch]| orders.iter().map(|order| order.ids.len()).sum::<usize>();
    assert_eq!(ordered(&ahead.plan(&cache, all)), 10, "the start is worth two half batches");
    assert_eq!(ordered(&ahead.plan(&cache, all)), 0);
    assert!(ahead.consume(&cache, ONE, by_ids(0), 0).used.is_some());
    assert_eq!(ordered(&ahead.plan(&cache, all)), 5);
}

#[test]
fn what_does_not_come_true_expires() {
    let cache = cache();
    let mut ahead = Lookahead::new(SETTINGS);
    announce(&mut ahead, &cache, said(0, 7, [1, 2]));
    assert!(ahead.announce(&cache, ONE, said(1, 8, [3]), 900).dropped.is_empty());
    assert_eq!(ahead.consume(&cache, ONE, by_ids(99), 1500).dropped.len(), 1, "older than the limit");
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
    let batches: Vec<Vec<u64>> = (0..400)
        .map(|_| {
            let mut ids: Vec<u64> = (0..6).map(|_| random.u64(0..8) * random.u64(0..8)).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        })
        .collect();
    for (step, ids) in (0u64..).zip(&batches) {
        announce(&mut ahead, &cache, said(step, step, ids.clone()));
    }
    let mut hits = 0;
    for (step, rows) in (0u64..).zip(&batches) {
        let Consumed { used: batch, .. } = ahead.consume(&cache, ONE, by_ids(step), 0);
        let (hit, missed): (Vec<u64>, Vec<u64>) = rows.iter().partition(|&&id| cache.contains(id));
        hits += hit.len();
        cache.record(&hit, &missed, |_| Some(&[]), batch);
    }
    assert_eq!(hits, optimum(&batches, 10));
}

/// Belady with bypass: after each batch, keep of the cached and the fetched those used next.
fn optimum(batches: &[Vec<u64>], capacity: usize) -> usize {
    let next_use = |id: u64, after: usize| batches.iter().skip(after + 1).position(|batch| batch.contains(&id));
    let mut cached: Vec<u64> = Vec::new();
    let mut hits = 0;
    for (at, ids) in batches.iter().enumerate() {
        hits += ids.iter().filter(|id| cached.contains(id)).count();
        cached.extend(ids.iter().filter(|id| !cached.contains(id)).copied().collect::<Vec<_>>());
        cached.sort_by_key(|&id| next_use(id, at).unwrap_or(usize::MAX));
        cached.truncate(capacity);
    }
    hits
}

/// Announces batch `step` of ten rows that no other batch has.
fn ten(step: u64) -> Announcement {
    said(step, step + 1000, step * 10..step * 10 + 10)
}

#[test]
fn a_beginning_says_what_it_made_void() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 1 << 20, ..SETTINGS });
    let mut staged = HashSet::new();
    for round in 0..5u64 {
        for step in 0..10 {
            let announced = ahead.announce(&cache, ONE, said(step, round * 10 + step, [round * 10 + step]), 0);
            for batch in announced.dropped {
                assert!(!ahead.waits(batch));
                staged.remove(&batch);
            }
            staged.extend(ahead.plan(&cache, all).into_iter().map(|prefetch| prefetch.batch));
        }
        for step in 0..3 {
            let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(round * 10 + step), 0);
            for batch in used.into_iter().chain(dropped) {
                staged.remove(&batch);
            }
            staged.extend(ahead.plan(&cache, all).into_iter().map(|prefetch| prefetch.batch));
        }
    }
    for batch in ahead.leave(&cache, ONE) {
        staged.remove(&batch);
    }
    assert!(staged.is_empty(), "{} batches are staged for nobody", staged.len());
}

#[test]
fn what_all_trainers_are_asked_for_fits() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 100, horizon_factor: 64.0, ..SETTINGS });
    assert_eq!(announce(&mut ahead, &cache, ten(0)), 10);
    let second = ahead.announce(&cache, TrainerId(2), ten(0), 0);
    assert_eq!(second.horizon, Ok(5), "two trainers share the rows that may wait");
    let mut large = Lookahead::new(Settings { rows_max: 12, horizon: 16, ..SETTINGS });
    assert_eq!(announce(&mut large, &cache, ten(0)), 1, "depth + 1 batches do not fit");
    assert!(second.dropped.is_empty());
}

#[test]
fn a_trainer_that_pauses_holds_nothing_against_the_others() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 20, ..SETTINGS });
    announce(&mut ahead, &cache, ten(0));
    announce(&mut ahead, &cache, ten(1));
    assert!(ahead.announce(&cache, TrainerId(2), ten(0), 500).horizon.is_err());
    let late = ahead.announce(&cache, TrainerId(2), ten(0), 1001);
    assert_eq!((late.dropped.len(), late.horizon.is_ok()), (2, true));
    assert_eq!(ahead.expire(&cache, 2002).len(), 1);
    assert_eq!(ahead.waiting_rows(), 0);
}

#[test]
fn a_loader_iterated_again_is_staged_to_depth_only() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { budget: 16.0, rows_max: 1 << 20, ..SETTINGS });
    for epoch in 0..2u64 {
        let mut staged = HashSet::new();
        for served in 0..60u64 {
            for step in if served == 0 { 0..32 } else { served + 31..served + 32 } {
                announce(&mut ahead, &cache, said(step, epoch * 1000 + step, [epoch * 100 + step]));
                staged.extend(ahead.plan(&cache, all).into_iter().map(|prefetch| prefetch.batch));
            }
            let Consumed { used, .. } = ahead.consume(&cache, ONE, by_ids(epoch * 1000 + served), 0);
            staged.remove(&used.unwrap());
            staged.extend(ahead.plan(&cache, all).into_iter().map(|prefetch| prefetch.batch));
            assert!(staged.len() <= 2, "epoch {epoch}: {} batches are staged, the depth is 2", staged.len());
        }
        // What was announced beyond the end of the epoch is fetched too.
        (60..91).for_each(|step| assert!(ahead.consume(&cache, ONE, by_ids(epoch * 1000 + step), 0).used.is_some()));
    }
}

#[test]
fn two_samplers_that_take_turns_are_one_run() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 1 << 20, ..SETTINGS });
    for step in [1, 3, 0, 5, 2, 7, 4, 6] {
        announce(&mut ahead, &cache, ten(step));
    }
    let orders: Vec<u64> = ahead.plan(&cache, all).iter().map(|prefetch| prefetch.ids[0]).collect();
    assert_eq!(orders, [0, 10], "the batches that come first, not those that were announced first");
    for step in [1, 0, 2, 4, 3] {
        let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(step + 1000), 0);
        assert!(used.is_some() && dropped.is_empty(), "step {step}");
    }
    announce(&mut ahead, &cache, ten(5));
    assert_eq!((ahead.counts().announced, ahead.counts().expired), (8, 0), "the same again counts once");
    let again = ahead.announce(&cache, ONE, said(1, 77, [1]), 0);
    assert_eq!(again.dropped.len(), 3, "a step that was used begins another run");
    announce(&mut ahead, &cache, said(0, 78, [2]));
    let other = ahead.announce(&cache, ONE, said(0, 79, [3]), 0);
    assert_eq!(other.dropped.len(), 2, "so does one that waits with other ids");
}

#[test]
fn batches_that_are_left_behind_are_dropped() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 1 << 20, ..SETTINGS });
    let last = u64::from(DISORDER_BATCHES) + 3;
    for step in 0..=last {
        announce(&mut ahead, &cache, ten(step));
    }
    let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(last + 1000), 0);
    assert_eq!((used.is_some(), dropped.len()), (true, 3));
}

#[test]
fn without_steps_the_order_of_arrival_counts() {
    let cache = cache();
    let mut ahead = Lookahead::new(Settings { rows_max: 1 << 20, ..SETTINGS });
    for batch in 0..6u64 {
        announce(&mut ahead, &cache, Announcement { batch, step: None, mark: mark(batch), ids: vec![batch] });
    }
    let orders: Vec<u64> = ahead.plan(&cache, all).iter().flat_map(|prefetch| prefetch.ids.clone()).collect();
    assert_eq!(orders, [0, 1]);
    let step = |step| Announcement { batch: 0, step, mark: mark(u64::MAX), ids: vec![9] };
    let far = ahead.announce(&cache, ONE, step(Some(u64::MAX)), 0);
    assert_eq!((far.horizon.is_ok(), far.dropped.len()), (true, 6), "a count far off is another run");
    assert!(ahead.announce(&cache, ONE, step(None), 0).dropped.is_empty());
}

/// The rules of announcements, said plainly, with a list.
#[derive(Debug, Default)]
struct Naive {
    waiting: Vec<(u64, u64)>,
    passed: Vec<u64>,
}

impl Naive {
    fn announce(&mut self, step: u64, fingerprint: u64) -> usize {
        if self.waiting.contains(&(step, fingerprint)) && !self.passed.contains(&step) {
            return 0;
        }
        let begins = self.passed.contains(&step) || self.waiting.iter().any(|&(waits, _)| waits == step);
        let dropped = if begins { std::mem::take(self).waiting.len() } else { 0 };
        self.waiting.push((step, fingerprint));
        self.waiting.sort_unstable();
        dropped
    }

    fn consume(&mut self, fingerprint: u64) -> Option<usize> {
        let at = self.waiting.iter().position(|&(_, waits)| waits == fingerprint)?;
        let (used, _) = self.waiting.remove(at);
        self.passed.push(used);
        let highest = self.passed.iter().copied().max().unwrap_or(0);
        let (left, kept): (Vec<_>, Vec<_>) =
            self.waiting.iter().partition(|&&(step, _)| step + u64::from(DISORDER_BATCHES) < highest);
        self.passed.extend(left.iter().map(|&(step, _)| step));
        self.waiting = kept;
        Some(left.len())
    }
}

proptest::proptest! {
    /// Samplers and fetchers of one trainer in any order: what waits is what the plain rules say, and no row is lost.
    #[test]
    fn announcements_in_any_order_follow_the_plain_rules(
        events in proptest::collection::vec((proptest::bool::weighted(0.6), 0u64..80, 0u64..8), 1..300),
    ) {
        let cache = cache();
        let mut ahead = Lookahead::new(Settings { rows_max: 1 << 20, ..SETTINGS });
        let mut naive = Naive::default();
        for (announces, step, variant) in events {
            // Most batches have one content, few another.
            let fingerprint = step * 2 + u64::from(variant == 0);
            if announces {
                let announced = ahead.announce(&cache, ONE, said(step, fingerprint, [step]), 0);
                assert_eq!(announced.dropped.len(), naive.announce(step, fingerprint));
            } else {
                let Consumed { used, dropped, .. } = ahead.consume(&cache, ONE, by_ids(fingerprint), 0);
                assert_eq!(used.map(|_| dropped.len()), naive.consume(fingerprint));
            }
            assert_eq!(ahead.waiting_rows(), naive.waiting.len());
            assert_eq!(ahead.expects(ONE), !naive.waiting.is_empty());
        }
        assert_eq!(ahead.leave(&cache, ONE).len(), naive.waiting.len());
        assert_eq!(ahead.waiting_rows(), 0);
    }
}
