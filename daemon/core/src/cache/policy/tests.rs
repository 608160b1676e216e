//! Each policy against a model that is as simple as its paper's text, on random minibatches; what holds of all of
//! them; and the paper's own policy step by step.

use super::*;
use crate::cache::{CacheSpec, Fill, TableCache};
use crate::lookahead::TrainerId;
use crate::progress::{Board, Progress};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet, VecDeque};

const IDS: u64 = 40;

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

fn cache(policy: PolicySpec, capacity_rows: usize) -> TableCache {
    TableCache::new(CacheSpec {
        table_rows: IDS,
        row_bytes: 0,
        capacity_rows,
        ceiling_rows: capacity_rows,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    })
    .unwrap()
}

fn residents(cache: &TableCache) -> Vec<u64> {
    (0..IDS).filter(|&id| cache.contains(id)).collect()
}

/// Serves a minibatch; answers what was wanted besides.
fn serve(cache: &TableCache, ids: &[u64]) -> Vec<u64> {
    let (hit, missed): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| cache.contains(id));
    let wanted = cache.record(&hit, &missed, |_| Some(&[]), None);
    cache.fill(&wanted, |_| Some(&[]), Fill::Policy);
    wanted
}

/// A policy in its simplest form: who is there, after hits and then misses of each minibatch.
trait Model {
    fn holds(&self, id: u64) -> bool;
    fn hit(&mut self, id: u64);
    fn insert(&mut self, id: u64);
}

struct Lru(usize, VecDeque<u64>);

impl Model for Lru {
    fn holds(&self, id: u64) -> bool {
        self.1.contains(&id)
    }
    fn hit(&mut self, id: u64) {
        self.1.retain(|&other| other != id);
        self.1.push_back(id);
    }
    fn insert(&mut self, id: u64) {
        if self.1.len() == self.0 {
            self.1.pop_front();
        }
        self.1.push_back(id);
    }
}

/// Count and time of the last use by id.
struct Lfu(usize, HashMap<u64, (u64, u64)>, u64);

impl Model for Lfu {
    fn holds(&self, id: u64) -> bool {
        self.1.contains_key(&id)
    }
    fn hit(&mut self, id: u64) {
        self.2 += 1;
        let count = self.1[&id].0 + 1;
        self.1.insert(id, (count, self.2));
    }
    fn insert(&mut self, id: u64) {
        if self.1.len() == self.0 {
            let victim = *self.1.iter().min_by_key(|(_, use_of)| **use_of).unwrap().0;
            self.1.remove(&victim);
        }
        self.2 += 1;
        self.1.insert(id, (1, self.2));
    }
}

/// Oldest first, with the bit; the hand is an index.
struct Sieve(usize, Vec<(u64, bool)>, usize);

impl Model for Sieve {
    fn holds(&self, id: u64) -> bool {
        self.1.iter().any(|entry| entry.0 == id)
    }
    fn hit(&mut self, id: u64) {
        self.1.iter_mut().find(|entry| entry.0 == id).unwrap().1 = true;
    }
    fn insert(&mut self, id: u64) {
        if self.1.len() == self.0 {
            while self.1[self.2].1 {
                self.1[self.2].1 = false;
                self.2 = (self.2 + 1) % self.1.len();
            }
            self.1.remove(self.2);
            // At the newest the hand wraps to the oldest, before the newcomer joins.
            self.2 %= self.1.len().max(1);
        }
        self.1.push((id, false));
    }
}

#[derive(Default)]
struct S3Fifo {
    capacity: usize,
    small: VecDeque<(u64, u8)>,
    main: VecDeque<(u64, u8)>,
    ghosts: VecDeque<u64>,
}

impl S3Fifo {
    fn evict(&mut self) {
        let main_rows = self.capacity - self.capacity / 10;
        if self.main.len() <= main_rows {
            while let Some((id, hits)) = self.small.pop_front() {
                if hits < 2 {
                    self.ghosts.push_back(id);
                    if self.ghosts.len() > main_rows {
                        self.ghosts.pop_front();
                    }
                    return;
                }
                self.main.push_back((id, 0));
            }
        }
        while let Some((id, hits)) = self.main.pop_front() {
            if hits == 0 {
                return;
            }
            self.main.push_back((id, hits - 1));
        }
    }
}

impl Model for S3Fifo {
    fn holds(&self, id: u64) -> bool {
        self.small.iter().chain(&self.main).any(|entry| entry.0 == id)
    }
    fn hit(&mut self, id: u64) {
        let entry = self.small.iter_mut().chain(&mut self.main).find(|entry| entry.0 == id).unwrap();
        entry.1 = (entry.1 + 1).min(3);
    }
    fn insert(&mut self, id: u64) {
        if self.small.len() + self.main.len() == self.capacity {
            self.evict();
        }
        if self.ghosts.contains(&id) {
            self.ghosts.retain(|&ghost| ghost != id);
            self.main.push_back((id, 0));
        } else {
            self.small.push_back((id, 0));
        }
    }
}

fn check(policy: PolicySpec, capacity: usize, model: &mut dyn Model, minibatches: &[Vec<u64>]) {
    let cache = cache(policy, capacity);
    for (at, ids) in minibatches.iter().enumerate() {
        let (hit, missed): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| model.holds(id));
        serve(&cache, ids);
        hit.iter().for_each(|&id| model.hit(id));
        missed.iter().for_each(|&id| model.insert(id));
        let expected: Vec<u64> = (0..IDS).filter(|&id| model.holds(id)).collect();
        assert_eq!(residents(&cache), expected, "{} after minibatch {at} of {minibatches:?}", policy.name());
    }
}

/// Minibatches of unique ids, low ids more often.
fn minibatches() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let id = (0..IDS, 0..IDS).prop_map(|(a, b)| a.min(b));
    let minibatch = prop::collection::vec(id, 0..8).prop_map(|ids| {
        let mut seen = HashSet::new();
        ids.into_iter().filter(|&id| seen.insert(id)).collect()
    });
    prop::collection::vec(minibatch, 0..60)
}

proptest! {
    #[test]
    fn lru_is_its_model(minibatches in minibatches(), capacity in 1usize..16) {
        check(PolicySpec::Lru, capacity, &mut Lru(capacity, VecDeque::new()), &minibatches);
    }

    #[test]
    fn lfu_is_its_model(minibatches in minibatches(), capacity in 1usize..16) {
        check(PolicySpec::Lfu, capacity, &mut Lfu(capacity, HashMap::new(), 0), &minibatches);
    }

    #[test]
    fn sieve_is_its_model(minibatches in minibatches(), capacity in 1usize..16) {
        check(PolicySpec::Sieve, capacity, &mut Sieve(capacity, Vec::new(), 0), &minibatches);
    }

    #[test]
    fn s3fifo_is_its_model(minibatches in minibatches(), capacity in 1usize..24) {
        check(PolicySpec::S3Fifo, capacity, &mut S3Fifo { capacity, ..S3Fifo::default() }, &minibatches);
    }

    #[test]
    fn static_keeps_the_heaviest_and_never_replaces(minibatches in minibatches(), capacity in 1usize..24, known in 0..IDS as u32) {
        let cache = cache(PolicySpec::Static, capacity);
        let prior: Vec<(u32, f32)> = (0..known).map(|id| (id, (id * 7 % IDS as u32) as f32)).collect();
        cache.set_prior(&prior);
        let mut heaviest = prior.clone();
        heaviest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut before = HashSet::new();
        for ids in &minibatches {
            serve(&cache, ids);
            let now: HashSet<u64> = residents(&cache).into_iter().collect();
            prop_assert!(now.is_superset(&before) && now.len() <= capacity);
            prop_assert!(heaviest.iter().take(capacity).all(|&(id, _)| now.contains(&u64::from(id))), "{:?}", now);
            before = now;
        }
    }

    #[test]
    fn every_policy_keeps_to_its_capacity_and_decides_alike_twice(minibatches in minibatches(), capacity in 1usize..16) {
        for policy in ALL {
            let twins = [cache(policy, capacity), cache(policy, capacity)];
            for (step, ids) in (0u32..).zip(&minibatches) {
                for twin in &twins {
                    twin.tick(Clock { epoch: step / 5, progress: (step % 5) as f32 / 5.0 });
                    serve(twin, ids);
                    let held = residents(twin).len();
                    prop_assert!(held <= capacity && held as u64 == twin.used_rows(), "{}: {held}", policy.name());
                }
                prop_assert_eq!(residents(&twins[0]), residents(&twins[1]), "{}", policy.name());
            }
        }
    }
}

#[test]
fn tinylfu_keeps_what_is_used_often_from_a_scan() {
    let cache = cache(PolicySpec::TinyLfu, 4);
    for _ in 0..8 {
        serve(&cache, &[1, 2, 3, 4]);
    }
    for id in 10..IDS {
        serve(&cache, &[id]);
    }
    assert_eq!(residents(&cache), [1, 2, 3, 4]);
    for _ in 0..12 {
        serve(&cache, &[9]);
    }
    assert!(cache.contains(9), "used more often than the residents");
}

#[test]
fn the_papers_policy_replaces_by_decision() {
    let settings = ScoreSettings { trigger: Trigger::Window(2), alpha: 0.5 };
    let cache = cache(PolicySpec::Score(settings), 1);
    assert!(serve(&cache, &[1]).is_empty());
    assert!(serve(&cache, &[1]).is_empty() && cache.contains(1), "in hand when the window ends, with two misses");
    assert!(cache.decide(Replacement::Hold));
    for _ in 0..8 {
        assert!(serve(&cache, &[2]).is_empty());
    }
    assert!(cache.contains(1), "held, however stale");
    assert!(cache.decide(Replacement::Replace));
    serve(&cache, &[3]);
    assert_eq!(serve(&cache, &[3]), [2], "eight misses against two: brought in");
    assert_eq!(residents(&cache), [2]);
    assert!(!self::cache(PolicySpec::Lru, 1).decide(Replacement::Replace), "no other policy listens");
}

#[test]
fn epoch_begins_with_what_it_is_told() {
    let cache = cache(PolicySpec::Epoch { sample: 64 }, 2);
    cache.tick(Clock { epoch: 0, progress: 0.0 });
    cache.set_prior(&[(1, 50.0), (2, 40.0), (3, 1.0)]);
    serve(&cache, &[3, 4]);
    cache.tick(Clock { epoch: 0, progress: 0.1 });
    serve(&cache, &[1, 2]);
    assert_eq!(residents(&cache), [1, 2], "one access each, but many edges");
}

#[test]
fn a_planned_swap_follows_a_resident_that_moves() {
    let settings = ScoreSettings { trigger: Trigger::Window(1), alpha: 0.5 };
    let cache = cache(PolicySpec::Score(settings), 4);
    cache.record(&[], &[0, 1, 2, 3], |_| Some(&[]), None);
    for _ in 0..2 {
        cache.record(&[0, 1, 2], &[], |_| None, None);
    }
    assert_eq!(cache.record(&[0, 1, 2], &[9], |_| None, None), [9], "9 shall come for 3");
    assert_eq!(cache.discard(&[0]), 1);
    assert_eq!(cache.resize(3).moved_rows, 1, "3 moves to the slot of 0");
    assert_eq!(cache.fill(&[9], |_| Some(&[]), Fill::Policy), 1);
    assert!(cache.contains(9) && !cache.contains(3));
}

/// Hit rates of twelve epochs in which each id is asked for as often as in the epoch before, in per cent. `tick`
/// tells the cache of minibatch `at` of `of` in an epoch.
fn rates_of_regular_epochs(shift_at: usize, mut tick: impl FnMut(&TableCache, u32, usize, usize)) -> Vec<f64> {
    let (universe, capacity, batch) = (6_000u64, 900usize, 150usize);
    let policy = PolicySpec::Epoch { sample: 16 };
    let cache = TableCache::new(CacheSpec {
        table_rows: universe,
        row_bytes: 0,
        capacity_rows: capacity,
        ceiling_rows: capacity,
        tracked_rows_max: 0,
        policy,
        seed: 1,
    })
    .unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let accesses = |id: u64| [6, 3, 3, 1, 1, 1, 1, 0, 0, 0][id as usize % 10];
    let mut ids: Vec<u64> = (0..universe).flat_map(|id| std::iter::repeat_n(id, accesses(id))).collect();
    let mut rates = Vec::new();
    for epoch in 0..12u32 {
        if epoch as usize == shift_at {
            ids.iter_mut().for_each(|id| *id = universe - 1 - *id);
        }
        random.shuffle(&mut ids);
        let (mut hits, mut all) = (0, 0);
        let batches = ids.chunks(batch).len();
        for (at, ids) in ids.chunks(batch).enumerate() {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            tick(&cache, epoch, at, batches);
            let (hit, missed): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| cache.contains(id));
            hits += hit.len();
            all += ids.len();
            cache.record(&hit, &missed, |_| Some(&[]), None);
        }
        rates.push(100.0 * hits as f64 / all as f64);
    }
    rates
}

fn share(at: usize, of: usize) -> f32 {
    at as f32 / of as f32
}

#[test]
fn reports_that_overtake_each_other_cost_no_hits() {
    let in_order = rates_of_regular_epochs(12, |cache, epoch, at, of| {
        cache.tick(Clock { epoch, progress: share(at, of) });
    });
    let overtaken = rates_of_regular_epochs(12, |cache, epoch, at, of| {
        cache.tick(Clock { epoch, progress: share(at, of) });
        if at == 0 && epoch > 0 {
            cache.tick(Clock { epoch: epoch - 1, progress: 0.999 });
        }
    });
    assert_eq!(overtaken, in_order);
    assert!(in_order[11] > 48.0, "{in_order:?}");
}

#[test]
fn epochs_that_are_all_called_the_first_are_epochs() {
    let counted = rates_of_regular_epochs(6, |cache, epoch, at, of| {
        cache.tick(Clock { epoch, progress: share(at, of) });
    });
    let first = rates_of_regular_epochs(6, |cache, _, at, of| {
        cache.tick(Clock { epoch: 0, progress: share(at, of) });
    });
    let mut board = Board::default();
    let reported = rates_of_regular_epochs(6, |cache, _, at, of| {
        let progress = Progress { epoch: 0, step: at as u32, steps_per_epoch: of as u32 };
        cache.tick(board.report(TrainerId(1), progress));
    });
    assert_eq!(first, counted);
    assert!(reported[5] > 48.0 && reported[8] > 45.0, "{reported:?}");
}

#[test]
fn a_trainer_that_joins_or_leaves_ends_no_epoch() {
    let counted = rates_of_regular_epochs(12, |cache, epoch, at, of| {
        cache.tick(Clock { epoch, progress: share(at, of) });
    });
    let mut board = Board::default();
    let joined = rates_of_regular_epochs(12, |cache, epoch, at, of| {
        let progress = Progress { epoch, step: at as u32, steps_per_epoch: of as u32 };
        cache.tick(board.report(TrainerId(1), progress));
        // Another looks in from time to time: it begins, says so, and goes.
        if at == of / 2 {
            cache.tick(board.report(TrainerId(2), Progress { epoch: 0, step: 0, steps_per_epoch: of as u32 }));
            board.remove(TrainerId(2));
        }
    });
    assert!(
        joined.iter().zip(&counted).all(|(joined, counted)| (joined - counted).abs() < 1.0),
        "{joined:?} {counted:?}"
    );
}
