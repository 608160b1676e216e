//! Replay against what others counted: OPT against a search without cleverness and against the counts that two
//! independent programs gave; traces against malformed files; EPOCH against the policies of the literature on traces of
//! several kinds.

mod control;
mod generate;

use super::*;
use generate::{Recipe, Shape};
use rudder_core::cache::{PolicySpec, ScoreSettings, Trigger};
use rudder_core::lookahead::Settings;
use rudder_core::optimum::optimum;
use serde_json::Map;
use std::path::{Path, PathBuf};

const AHEAD: Settings = Settings {
    depth: 2,
    horizon: 0,
    horizon_factor: 4.0,
    horizon_max: 1 << 20,
    budget: 0.75,
    rows_max: usize::MAX,
    expire_ms: 1000,
};

const EPOCH: PolicySpec = PolicySpec::Epoch { sample: 16 };

/// What is to be no better than EPOCH.
const OTHERS: [PolicySpec; 6] = [
    PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(10), alpha: 0.05 }),
    PolicySpec::Lru,
    PolicySpec::Lfu,
    PolicySpec::TinyLfu,
    PolicySpec::S3Fifo,
    PolicySpec::Sieve,
];

fn hits(trace: &Trace, policy: PolicySpec, capacity_rows: usize, lookahead: usize) -> Replayed {
    let spec = ReplaySpec { policy, capacity_rows, seed: 1, lookahead, ahead: AHEAD };
    replay(trace, spec, &trace.degree, &mut |_| ()).unwrap()
}

fn small() -> Trace {
    Trace::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replay/tests/small")).unwrap()
}

fn recipe(shape: Shape) -> Recipe {
    Recipe { shape, vertices: 12_000, seeds: 0.2, batch: 32, fanouts: [5, 10], epochs: 8, shift_at: None, seed: 5 }
}

/// Belady with bypass, as its definition says it.
fn optimum_by_sorting(trace: &Trace, capacity: usize) -> u64 {
    let next_use = |id: u32, after: usize| (after + 1..trace.minibatches()).find(|&m| trace.minibatch(m).contains(&id));
    let (mut cached, mut hits) = (Vec::<u32>::new(), 0);
    for m in 0..trace.minibatches() {
        let (here, fetched): (Vec<u32>, Vec<u32>) = trace.minibatch(m).iter().partition(|id| cached.contains(id));
        hits += here.len() as u64;
        cached.extend(fetched);
        cached.sort_by_key(|&id| next_use(id, m).unwrap_or(usize::MAX));
        cached.truncate(capacity);
    }
    hits
}

#[test]
fn the_optimum_is_that_of_a_search_without_cleverness() {
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..30 {
        let minibatches: Vec<Vec<u32>> = (0..40)
            .map(|_| {
                let mut ids: Vec<u32> = (0..random.usize(0..9)).map(|_| random.u32(0..30)).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            })
            .collect();
        let trace = Trace::new(30, 10, &minibatches, Vec::new(), Map::new()).unwrap();
        let capacity = random.usize(0..20);
        let totals = optimum(trace.accesses(), capacity, &mut |_| ());
        assert_eq!(totals.hits, optimum_by_sorting(&trace, capacity), "round {round}, capacity {capacity}");
        assert_eq!(totals.requests, trace.requests());
    }
}

/// Counted by a Python program that shares nothing with this one.
#[test]
fn the_optimum_of_the_small_trace_is_known() {
    let trace = small();
    for (capacity, expected) in SMALL_OPTIMA {
        assert_eq!(optimum(trace.accesses(), capacity, &mut |_| ()).hits, expected, "capacity {capacity}");
    }
}

const SMALL_OPTIMA: [(usize, u64); 3] = [(20, 555), (100, 1_183), (300, 1_724)];

/// The traces that lie beside the repository, where they do.
#[test]
fn the_optima_of_the_given_traces_are_exact() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/traces");
    let given = [
        ("debian", 380, 101_306),
        ("debian", 1_140, 163_391),
        ("debian", 3_759, 242_492),
        ("debian", 12_532, 315_969),
        ("debian-4-trainers", 4_900, 529_153),
    ];
    for (name, capacity, expected) in given {
        let dir: PathBuf = traces.join(name);
        if !dir.exists() {
            eprintln!("{} is not here: not checked", dir.display());
            continue;
        }
        let trace = Trace::read(&dir).unwrap();
        assert_eq!(optimum(trace.accesses(), capacity, &mut |_| ()).hits, expected, "{name}, {capacity}");
    }
}

#[test]
fn a_replay_says_the_same_twice_and_no_policy_beats_the_optimum() {
    let trace = small();
    let best = optimum(trace.accesses(), 100, &mut |_| ()).hits;
    for policy in OTHERS.into_iter().chain([EPOCH, PolicySpec::Static, PolicySpec::None]) {
        let once = hits(&trace, policy, 100, 0);
        assert_eq!(once, hits(&trace, policy, 100, 0), "{}", policy.name());
        assert!(once.stall_rows + once.totals.hits == trace.requests() && once.network_rows >= once.stall_rows);
        // What is brought in unasked may beat an optimum that has to ask.
        let unasked = once.network_rows - once.stall_rows;
        assert!(once.totals.hits <= best + unasked, "{}: {} of {best}", policy.name(), once.totals.hits);
        assert!(once.evictions <= once.fill_rows, "{}", policy.name());
    }
}

#[test]
fn epoch_is_level_with_the_best_of_the_literature_on_every_kind_of_trace() {
    let kinds = [
        recipe(Shape::Communities { exponent: 2.3 }),
        recipe(Shape::Communities { exponent: 3.5 }),
        recipe(Shape::SmallWorld),
        Recipe { epochs: 2, ..recipe(Shape::Communities { exponent: 2.3 }) },
        Recipe { shift_at: Some(4), ..recipe(Shape::SmallWorld) },
    ];
    for kind in kinds {
        let trace = generate::generate(kind);
        for share in [0.05, 0.15, 0.25, 0.5] {
            let capacity = (trace.distinct() as f64 * share) as usize;
            let epoch = hits(&trace, EPOCH, capacity, 0).totals.hit_rate();
            for other in OTHERS {
                let rate = hits(&trace, other, capacity, 0).totals.hit_rate();
                assert!(epoch > rate - 0.002, "{kind:?} at {share}: epoch {epoch:.4}, {} {rate:.4}", other.name());
            }
        }
    }
}

#[test]
fn a_shift_of_the_seeds_is_found_once_and_nothing_else_is_taken_for_one() {
    let shifted = generate::generate(Recipe { shift_at: Some(4), ..recipe(Shape::SmallWorld) });
    let steady = generate::generate(recipe(Shape::SmallWorld));
    let capacity = steady.distinct() as usize / 7;
    assert_eq!(hits(&shifted, EPOCH, capacity, 0).shifts, 1);
    assert_eq!(hits(&steady, EPOCH, capacity, 0).shifts, 0);
}

#[test]
fn lookahead_nears_the_optimum_and_spares_the_waiting() {
    let trace = generate::generate(recipe(Shape::Communities { exponent: 2.3 }));
    let capacity = trace.distinct() as usize / 7;
    let best = optimum(trace.accesses(), capacity, &mut |_| ());
    let horizon = 4 * capacity * trace.minibatches() / trace.requests() as usize;
    let ahead = hits(&trace, EPOCH, capacity, horizon);
    let blind = hits(&trace, EPOCH, capacity, 0);
    assert!(ahead.totals.hits > blind.totals.hits);
    assert!(ahead.totals.hits as f64 >= 0.97 * best.hits as f64, "{} of {}", ahead.totals.hits, best.hits);
    let network = (best.requests - best.hits) as f64;
    assert!(ahead.network_rows as f64 <= 1.03 * network, "{} network rows against {network}", ahead.network_rows);
    assert!(ahead.stall_rows * 50 <= trace.requests(), "{} of {} rows waited for", ahead.stall_rows, trace.requests());
}

#[test]
fn a_trace_reads_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let trace = small();
    trace.write(&folder.path().join("copy")).unwrap();
    assert_eq!(Trace::read(&folder.path().join("copy")).unwrap(), trace);
    assert!(trace.distinct() > 0 && trace.requests() > trace.distinct());
    let counted: f32 = trace.frequencies(usize::MAX).iter().map(|&(_, count)| count).sum();
    assert_eq!(counted as u64, trace.requests());
}

#[test]
fn a_wrong_trace_is_refused_by_the_name_of_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let complaint = |dir: &Path| {
        let error = Trace::read(dir).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {cause}")
    };
    assert!(complaint(&dir.join("none")).contains("meta.json"));
    small().write(dir).unwrap();
    let meta = std::fs::read_to_string(dir.join("meta.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(meta.contains(from), "{meta}");
        std::fs::write(dir.join("meta.json"), meta.replace(from, to)).unwrap();
        complaint(dir)
    };
    assert!(with("\"format\": 1", "\"format\": 2").contains("this build reads 1"));
    assert!(with("\"minibatches\": ", "\"minibatches\": 1").contains("need one more offset"));
    assert!(with("\"minibatches_per_epoch\": ", "\"minibatches_per_epoch\": 0, \"x\": ").contains("is 0"));
    assert!(with("\"universe\": ", "\"universe\": 3, \"x\": ").contains("ids.npy: element"));
    assert!(with("\"universe\"", "\"univers\"").contains("missing field"));
    std::fs::write(dir.join("meta.json"), &meta).unwrap();
    let ids = std::fs::read(dir.join("ids.npy")).unwrap();
    std::fs::write(dir.join("ids.npy"), &ids[..ids.len() - 4]).unwrap();
    assert!(complaint(dir).contains("where its shape"));
    std::fs::write(dir.join("ids.npy"), b"no array").unwrap();
    assert!(complaint(dir).contains("ids.npy"));
    let twice = Trace::new(9, 1, &[vec![1, 2], vec![3, 3]], Vec::new(), Map::new()).unwrap_err();
    assert!(twice.to_string().contains("id 3 is twice in minibatch 1"), "{twice}");
}
