//! Each model on problems with a known answer, what is held out, and the label. Model files are in `files`, decisions
//! and the controller in `decisions`.

mod decisions;
mod files;

use super::evaluate::{fit_and_evaluate, split};
use super::fit::fit;
use crate::classifier::sources::Source;
use rudder_agent::classifier::features::{COUNT, Features};
use rudder_agent::classifier::file::{Head, Model};
use rudder_agent::classifier::samples::{Gain, Sample};
use rudder_agent::classifier::{ClassifierError, Kind, Task};

/// A sample of an action that changed the hit rate so.
fn sample(change: f64) -> Sample {
    Sample {
        task: Task::Replace,
        features: [0.0; COUNT],
        acted: true,
        amount: 0.1,
        hit_rate_change: change,
        network_change: -change,
        wait_change: -change,
        begin: 0.0,
        end: 1.0,
    }
}

/// Samples of a world where replacing helps exactly where `worth` says so, drawn evenly.
fn world(count: usize, seed: u64, worth: fn(&Features) -> bool) -> Vec<Sample> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draw = |_| {
        let features: Features = std::array::from_fn(|_| random.f64());
        let acted = random.bool();
        let helped = worth(&features) == acted;
        let change = if helped { 0.05 } else { -0.05 } * (0.5 + random.f64());
        let amount = if acted { 0.1 + 0.1 * random.f64() } else { 0.0 };
        Sample { features, acted, amount, ..sample(change) }
    };
    (0..count).map(&mut draw).collect()
}

/// A line, which every model should find.
fn line(features: &Features) -> bool {
    features[0] + features[7] > 1.0
}

/// A band, which no line parts.
fn band(features: &Features) -> bool {
    (features[3] - 0.5).abs() < 0.25
}

/// A cross, which no single feature tells anything of: greedy trees among others that say nothing do not find it.
fn cross(features: &Features) -> bool {
    (features[0] > 0.5) == (features[7] > 0.5)
}

fn accuracy(kind: Kind, worth: fn(&Features) -> bool) -> (f64, f64) {
    // The library's time for support vectors grows faster than the square of the samples.
    let count = if kind == Kind::Svm { 400 } else { 1200 };
    let (fitted, held_out) = (world(count, 4, worth), world(400, 40, worth));
    let (_, evaluation) = fit_and_evaluate(kind, Task::Replace, &fitted, &held_out, 3).unwrap();
    (evaluation.accuracy, evaluation.majority)
}

#[test]
fn every_model_learns_what_it_can() {
    for kind in Kind::ALL {
        let (found, majority) = accuracy(kind, line);
        assert!(found > 0.85 && majority < 0.65, "{kind} on a line: {found}, majority {majority}");
    }
    for kind in [Kind::Mlp, Kind::Rf, Kind::Gbt] {
        let (found, _) = accuracy(kind, band);
        assert!(found > 0.8, "{kind} on a band: {found}");
    }
    let (found, _) = accuracy(Kind::Mlp, cross);
    assert!(found > 0.9, "mlp on a cross: {found}");
    for worth in [band, cross] {
        let (found, _) = accuracy(Kind::Lr, worth);
        assert!(found < 0.65, "a line cannot part them: {found}");
    }
}

fn model(kind: Kind) -> Model {
    let head = fit(kind, Task::Replace, &world(300, 5, line), 6).unwrap();
    Model::new(kind, Some(head), None)
}

#[test]
fn too_few_samples_are_refused_with_their_numbers() {
    let few = fit(Kind::Lr, Task::Replace, &world(30, 1, line), 1).unwrap_err();
    assert!(matches!(few, ClassifierError::TooFew { worth, not, .. } if worth + not == 30), "{few}");
    let one_sided = fit(Kind::Svm, Task::Replace, &world(200, 1, |_| true), 1).unwrap_err();
    assert!(matches!(one_sided, ClassifierError::TooFew { not: 0, .. }), "{one_sided}");
    assert!(fit(Kind::Rf, Task::Grow, &[], 1).is_err());
}

#[test]
fn the_label_is_whether_acting_was_worth_it() {
    let sample = |acted, change| Sample { acted, ..sample(change) };
    let samples = [sample(true, 0.1), sample(true, -0.1), sample(false, 0.1), sample(false, -0.1)];
    let gain = Gain::of(&samples);
    assert_eq!(samples.map(|sample| gain.helped(&sample)), [true, false, true, false]);
    assert_eq!(samples.map(|sample| gain.label(&sample)), [true, false, false, true]);
    // Hits that cost more rows, or more waiting, than they save are no help.
    assert!(!gain.helped(&Sample { network_change: 0.5, ..sample(true, 0.1) }));
    assert!(!gain.helped(&Sample { wait_change: 0.5, ..sample(true, 0.1) }));
}

/// A source with one sample per minibatch of `times`.
fn source(name: &str, times: std::ops::Range<u64>) -> Source {
    let samples = times.map(|time| Sample { begin: time as f64, end: time as f64 + 1.0, ..sample(0.1) }).collect();
    Source { name: name.to_owned(), samples }
}

#[test]
fn of_one_source_what_came_last_is_held_out_in_every_replay_of_it() {
    let halves = split(vec![source("t", 0..100), source("t", 10..100), source("t", 0..60)], 0.2, 1);
    let last_fitted = halves.fitted.iter().map(|sample| sample.end).fold(0.0, f64::max);
    let first_held_out = halves.held_out.iter().map(|sample| sample.begin).fold(f64::MAX, f64::min);
    assert!(last_fitted < first_held_out, "{last_fitted} is seen by both, {first_held_out}");
    let share = halves.held_out.len() as f64 / 250.0;
    assert!((share - 0.2).abs() < 0.03, "{share}");
    assert!(halves.fitted.len() > 190 && halves.from == ["the last 20% of t"], "{:?}", halves.from);
}

#[test]
fn of_several_sources_whole_ones_are_held_out_with_all_their_replays() {
    // Each source at its own times, so that a sample says where it is from.
    let sources: Vec<Source> =
        (0..10).map(|at| source(&format!("t{}", at % 5), 1000 * (at % 5)..1000 * (at % 5) + 20)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 1..=8 {
        let halves = split(sources.clone(), 0.2, seed);
        let of = |samples: &[Sample]| {
            samples.iter().map(|sample| sample.begin as u64 / 1000).collect::<std::collections::BTreeSet<_>>()
        };
        let (fitted, held_out) = (of(&halves.fitted), of(&halves.held_out));
        assert!(fitted.is_disjoint(&held_out) && held_out.len() == 1 && fitted.len() == 4);
        assert_eq!((halves.fitted.len(), halves.held_out.len()), (160, 40), "both replays of it");
        seen.extend(halves.from);
    }
    assert!(seen.len() > 1, "the seed chooses: {seen:?}");
    let two = split(vec![source("a", 0..9), source("b", 0..9)], 0.01, 1);
    assert_eq!((two.fitted.len(), two.held_out.len()), (9, 9), "at least one, and not all");
    assert!(split(Vec::new(), 0.2, 1).held_out.is_empty());
}

#[test]
fn an_evaluation_says_what_was_found_of_what_was_there() {
    // Fitted to a line; held out: where nothing was worth it but a few.
    let held_out: Vec<Sample> = world(4000, 41, line).into_iter().filter(|sample| !line(&sample.features)).collect();
    let gain = |worth: &[Sample]| fit_and_evaluate(Kind::Lr, Task::Replace, &world(800, 4, line), worth, 3).unwrap().1;
    let none = gain(&held_out);
    assert_eq!((none.held_out_worth, none.recall), (0, None));
    assert_eq!(none.confusion.false_act + none.confusion.true_hold, none.held_out as u64);
    let both = gain(&world(500, 42, line));
    let (acts, right) = (both.confusion.true_act + both.confusion.false_act, both.confusion.true_act);
    assert_eq!(both.precision, Some(right as f64 / acts as f64));
    assert_eq!(both.recall, Some(right as f64 / both.held_out_worth as f64));
    let nothing = fit_and_evaluate(Kind::Lr, Task::Replace, &world(800, 4, line), &[], 3).unwrap_err();
    assert!(matches!(nothing, ClassifierError::NothingHeldOut { task: Task::Replace }));
}

#[test]
fn what_never_changed_in_training_says_nothing_later() {
    for kind in Kind::ALL {
        let mut samples = world(400, 5, line);
        samples.iter_mut().for_each(|sample| sample.features[14] = 0.0);
        let head = fit(kind, Task::Replace, &samples, 6).unwrap();
        for probe in world(50, 8, line) {
            let with = |value: f64| {
                let mut features = probe.features;
                features[14] = value;
                head.probability(&features).to_bits()
            };
            assert_eq!(with(0.0), with(0.4), "{kind}");
        }
    }
}

#[test]
fn fine_tuning_follows_a_world_that_changed_but_not_far() {
    let opposite = |features: &Features| !line(features);
    for kind in Kind::ALL {
        let mut head = fit(kind, Task::Replace, &world(400, 5, line), 6).unwrap();
        let before = head.clone();
        let learned = world(600, 7, opposite).iter().filter(|sample| head.learn(sample, 0.02)).count();
        let probes = world(200, 8, opposite);
        let right = |head: &Head| {
            let said = |sample: &&Sample| (head.probability(&sample.features) > 0.5) == opposite(&sample.features);
            probes.iter().filter(said).count()
        };
        match kind {
            Kind::Lr | Kind::Mlp => {
                assert_eq!(learned, 600);
                assert!(right(&head) > right(&before), "{kind}: {} then {}", right(&before), right(&head));
                let distance = head.distance_from_trained();
                assert!(distance > 0.1 && distance <= 0.5 + 1e-9, "{kind}: {distance}");
            }
            _ => assert!(learned == 0 && head == before, "{kind}"),
        }
    }
}
