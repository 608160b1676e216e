//! Each model on problems with a known answer, through a file and back, and against files that nobody should have written.

use super::evaluate::{fit_and_evaluate, of_task, split};
use super::features::{COUNT, Features, features};
use super::file::{BYTES_MAX, FORMAT, Model};
use super::fit::fit;
use super::models::{Forest, Node};
use super::samples::{self, Gain, Sample};
use super::steer::ClassifierController;
use super::{ClassifierError, Kind, Task};
use crate::agent::controller::{Controller, Effect, Impact, Past, View};
use crate::agent::journal::{Decision, FORMAT as JOURNAL_FORMAT};
use crate::agent::snapshot::Snapshot;
use crate::tools::{Evict, Grow, Hold, ToolCall};
use std::path::{Path, PathBuf};

/// Samples of a world where replacing helps exactly where `worth` says so, drawn evenly.
fn world(count: usize, seed: u64, worth: fn(&Features) -> bool) -> Vec<Sample> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draw = |_| {
        let features: Features = std::array::from_fn(|_| random.f64());
        let acted = random.bool();
        let helped = worth(&features) == acted;
        let change = if helped { 0.05 } else { -0.05 } * (0.5 + random.f64());
        let amount = if acted { 0.1 + 0.1 * random.f64() } else { 0.0 };
        Sample { task: Task::Replace, features, acted, amount, hit_rate_change: change, network_change: -change }
    };
    (0..count).map(&mut draw).collect()
}

/// A line, which every model should find.
fn line(features: &Features) -> bool {
    features[0] + features[7] > 1.0
}

/// A cross, which no line parts.
fn cross(features: &Features) -> bool {
    (features[0] > 0.5) == (features[7] > 0.5)
}

fn accuracy(kind: Kind, worth: fn(&Features) -> bool) -> (f64, f64) {
    let (fitted, held_out) = split(&world(900, 4, worth), 0.25, 2);
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
        let (found, _) = accuracy(kind, cross);
        assert!(found > 0.7, "{kind} on a cross: {found}");
    }
    let (found, _) = accuracy(Kind::Lr, cross);
    assert!(found < 0.65, "a line cannot part a cross: {found}");
}

fn model(kind: Kind) -> Model {
    let head = fit(kind, Task::Replace, &world(300, 5, line), 6).unwrap();
    Model::new(kind, Some(head), None)
}

#[test]
fn the_same_seed_gives_the_same_model_and_a_file_gives_it_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let probes = world(200, 9, line);
    for kind in Kind::ALL {
        let path = dir.path().join(kind.name());
        let trained = model(kind);
        assert_eq!(trained, model(kind), "{kind} twice");
        trained.write(&path).unwrap();
        let read = Model::read(&path).unwrap();
        assert_eq!(trained, read, "{kind}");
        let bits = |model: &Model| {
            let head = model.head(Task::Replace).unwrap();
            probes.iter().map(|probe| head.probability(&probe.features).to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(&trained), bits(&read), "{kind}");
        assert!(bits(&read).windows(2).any(|pair| pair[0] != pair[1]), "{kind} says the same of everything");
    }
}

/// A model file with one text in it changed for another, and what is said of it.
fn said_of(dir: &Path, kind: Kind, change: impl Fn(&str) -> String) -> ClassifierError {
    let path = dir.join("model.json");
    model(kind).write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    std::fs::write(&path, changed).unwrap();
    Model::read(&path).unwrap_err()
}

/// Replaces the first number after `key`.
fn with_number(text: &str, key: &str, number: &str) -> String {
    let at = text.find(key).unwrap() + key.len();
    let end = at + text[at..].find([',', ']', '}']).unwrap();
    format!("{}{number}{}", &text[..at], &text[end..])
}

#[test]
fn files_that_were_never_trained_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let said = |kind, change: &dyn Fn(&str) -> String| {
        let error = said_of(dir.path(), kind, change);
        let text = error.to_string();
        assert!(text.contains("model.json") && text.contains("rudder train"), "{text}");
        error
    };
    let version = said(Kind::Lr, &|text| text.replace("\"format\":1", "\"format\":2"));
    assert!(matches!(version, ClassifierError::Version { found: 2, .. }) && FORMAT == 1);
    let truncated = said(Kind::Gbt, &|text| text[..text.len() / 2].to_owned());
    assert!(matches!(truncated, ClassifierError::Malformed { .. }));
    for number in ["NaN", "null", "1e999", "\"1\""] {
        let wrong = said(Kind::Lr, &|text| with_number(text, "\"weights\":[", number));
        assert!(matches!(wrong, ClassifierError::Malformed { .. }), "{number}");
    }
    let features = said(Kind::Lr, &|text| text.replace("cold_share", "warm_share"));
    assert!(matches!(&features, ClassifierError::Features { what, .. } if what.contains("warm_share")));
    let unknown = said(Kind::Lr, &|text| text.replacen('{', "{\"colour\":1,", 1));
    assert!(matches!(unknown, ClassifierError::Malformed { .. }));
    let parameters: [(Kind, &str, &str); 9] = [
        (Kind::Lr, "\"amount\":", "1.5"),
        (Kind::Lr, "\"deviation\":[", "0"),
        (Kind::Lr, "\"weights\":[", "1,1"),
        (Kind::Mlp, "\"hidden\":[[", "1,1"),
        (Kind::Svm, "\"gamma\":", "-1"),
        (Kind::Svm, "\"support\":[[", "1,1"),
        (Kind::Rf, "\"feature\":", "99"),
        (Kind::Rf, "\"low\":", "0"),
        (Kind::Gbt, "\"high\":", "4000000000"),
    ];
    for (kind, key, number) in parameters {
        let wrong = said(kind, &|text| with_number(text, key, number));
        assert!(matches!(wrong, ClassifierError::Parameters { .. }), "{kind} {key} {number}: {wrong}");
    }
    let other = said(Kind::Rf, &|text| text.replace("\"kind\":\"rf\"", "\"kind\":\"lr\""));
    assert!(matches!(other, ClassifierError::Parameters { .. }));
}

#[test]
fn a_huge_file_is_refused_unread_and_a_missing_one_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.json");
    std::fs::File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
    assert!(matches!(Model::read(&path), Err(ClassifierError::TooLarge { .. })));
    // Of no size, and without an end.
    assert!(matches!(Model::read(Path::new("/dev/zero")), Err(ClassifierError::TooLarge { .. })));
    let missing = Model::read(&dir.path().join("none.json")).unwrap_err();
    assert!(matches!(&missing, ClassifierError::Read { .. }) && missing.to_string().contains("none.json"));
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
    let sample = |acted, change: f64| Sample {
        task: Task::Replace,
        features: [0.0; COUNT],
        acted,
        amount: 0.1,
        hit_rate_change: change,
        network_change: -change,
    };
    let samples = [sample(true, 0.1), sample(true, -0.1), sample(false, 0.1), sample(false, -0.1)];
    let gain = Gain::of(&samples);
    assert_eq!(samples.map(|sample| gain.helped(&sample)), [true, false, true, false]);
    assert_eq!(samples.map(|sample| gain.label(&sample)), [true, false, false, true]);
    // Hits that cost more rows than they save are no help.
    let costly = Sample { network_change: 0.5, ..sample(true, 0.1) };
    assert!(!gain.helped(&costly));
}

fn seen(window: u64) -> Snapshot {
    Snapshot {
        window,
        hit_rate: Some(0.5),
        remote_rows: 1000,
        minibatches: 10,
        network_rows: 500,
        capacity_rows: 100,
        cached_rows: 100,
        ceiling_rows: 200,
        hotter_absent_rows: 10,
        ..Snapshot::default()
    }
}

fn decision(number: u64, call: ToolCall, after: f64) -> Decision {
    Decision {
        format: JOURNAL_FORMAT,
        number,
        time_ms: number,
        controller: "explore".to_owned(),
        decided_by: "explore".to_owned(),
        snapshot: seen(number),
        proposed: call.clone(),
        reason: "drawn".to_owned(),
        expected: Impact::Same,
        outcome: "done".to_owned(),
        note: None,
        fallback: None,
        call,
        answer: None,
        latency_ms: 0.0,
        effect: Some(Effect { hit_rate: (0.5, after), network_share: (0.5, 1.0 - after), as_expected: true }),
    }
}

fn evict() -> ToolCall {
    ToolCall::Evict(Evict { fraction: 0.2, forget: false, table: None })
}

fn hold() -> ToolCall {
    ToolCall::Hold(Hold {})
}

#[test]
fn decisions_become_samples_where_there_was_a_choice() {
    let grow = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
    let shrink = ToolCall::Grow(Grow { factor: Some(0.5), ..Grow::default() });
    let mut refused = decision(5, hold(), 0.5);
    refused.outcome = "refused".to_owned();
    let mut unknown = decision(6, hold(), 0.5);
    unknown.effect = None;
    let decisions = [
        decision(1, hold(), 0.6),
        decision(2, evict(), 0.7),
        decision(3, hold(), 0.5), // the window after a replacement: no choice of replacing, but one of growing
        decision(4, grow, 0.5),
        refused,
        unknown,
        decision(7, shrink, 0.4),
    ];
    let samples = samples::of_decisions(&decisions);
    let short: Vec<_> = samples.iter().map(|sample| (sample.task, sample.acted, sample.amount)).collect();
    let expected = [
        (Task::Replace, false, 0.0),
        (Task::Grow, false, 0.0),
        (Task::Replace, true, 0.2),
        (Task::Grow, false, 0.0),
        (Task::Grow, true, 1.5),
    ];
    assert_eq!(short, expected);
    assert!((samples[0].hit_rate_change - 0.1).abs() < 1e-9 && (samples[2].network_change + 0.2).abs() < 1e-9);
    // What the controller will see of that window is what was learned from.
    let past = Past { seen: seen(1), call: hold(), expected: Impact::Same, effect: decisions[0].effect };
    assert_eq!(samples[2].features, features(View { now: &seen(2), past: &[past] }));
}

#[test]
fn journals_and_replays_give_the_same_samples_and_errors_name_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let decisions: Vec<Decision> =
        (1..=9).map(|number| decision(number, if number % 3 == 0 { evict() } else { hold() }, 0.55)).collect();
    let lines: Vec<String> = decisions.iter().map(|decision| serde_json::to_string(decision).unwrap()).collect();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let journal = samples::read(&write("journal.jsonl", &lines.join("\n"))).unwrap();
    let replay = serde_json::json!({"trace": "t", "results": [{"controller": "explore:1", "decisions": decisions}]});
    let pretty = samples::read(&write("pretty.json", &serde_json::to_string_pretty(&replay).unwrap())).unwrap();
    let short = samples::read(&write("short.json", &replay.to_string())).unwrap();
    assert!(!journal.is_empty() && journal == pretty && journal == short);
    assert_eq!(of_task(&journal, Task::Replace, 1).iter().filter(|sample| sample.acted).count() * 2, 6);

    let said = |name, text: &str| samples::read(&write(name, text)).unwrap_err().to_string();
    let torn = said("torn.jsonl", &format!("{}\n{}", lines[0], &lines[1][..40]));
    assert!(torn.contains("torn.jsonl, line 2: no decision"), "{torn}");
    let version = said("version.jsonl", &lines[0].replacen("\"format\":1", "\"format\":9", 1));
    assert!(version.contains("line 1") && version.contains("format 9"), "{version}");
    let policies = said("policies.json", "{\n  \"results\": [{\"policy\": \"lru\"}]\n}");
    assert!(policies.contains("line 2") && policies.contains("--controller"), "{policies}");
}

#[test]
fn the_controller_does_what_its_model_says_and_says_how_sure_it_is() {
    // One question: is the hit rate at most 0.4? Then act.
    let tree = |low, high| {
        let standard = super::models::Standard { mean: vec![0.0; COUNT], deviation: vec![1.0; COUNT] };
        let gain = Gain { hit_rate: (0.0, 1.0), network: (0.0, 1.0) };
        let nodes = vec![
            Node::Split { feature: 0, threshold: 0.4, low: 1, high: 2 },
            Node::Leaf { value: low },
            Node::Leaf { value: high },
        ];
        let parameters = super::models::Parameters::Rf(Forest { base: 0.0, rate: 1.0, trees: vec![nodes] });
        super::file::Head::new(gain, standard, 0.2, parameters)
    };
    let mut controller =
        ClassifierController::new(Model::new(Kind::Rf, Some(tree(0.9, 0.1)), Some(tree(0.1, 0.2))), false);
    let mut said = |now: Snapshot| controller.propose(View { now: &now, past: &[] }).unwrap();
    let low = said(Snapshot { hit_rate: Some(0.3), ..seen(5) });
    assert_eq!(low.call, evict());
    assert_eq!((low.reason.as_str(), low.expects), ("rf: replacing is worth it with probability 0.900", Impact::Up));
    let high = said(seen(5));
    assert_eq!(high.call, hold());
    assert!(high.reason.contains("growing is worth it with probability 0.200"), "{}", high.reason);
    let none = said(Snapshot { hit_rate: Some(0.3), hotter_absent_rows: 0, ceiling_rows: 100, ..seen(5) });
    assert_eq!((none.call, none.reason.as_str()), (hold(), "rf: nothing to choose"));
    assert!(said(Snapshot { hit_rate: None, ..seen(5) }).reason.starts_with("idle"));
}

#[test]
fn fine_tuning_follows_a_world_that_changed_but_not_far() {
    let opposite = |features: &Features| !line(features);
    for kind in Kind::ALL {
        let mut head = fit(kind, Task::Replace, &world(400, 5, line), 6).unwrap();
        let before = head.clone();
        let learned = world(600, 7, opposite).iter().filter(|sample| head.learn(sample)).count();
        let probes = world(200, 8, opposite);
        let right = |head: &super::file::Head| {
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

#[test]
fn a_controller_learns_only_when_told_to_and_only_what_it_did_itself() {
    let learned = |learning, tool_seen: ToolCall| {
        let mut controller = ClassifierController::new(model(Kind::Lr), learning);
        let now = seen(5);
        controller.propose(View { now: &now, past: &[] }).unwrap();
        let effect = Some(Effect { hit_rate: (0.5, 0.6), network_share: (0.5, 0.4), as_expected: true });
        let past = [Past { seen: now, call: tool_seen, expected: Impact::Same, effect }];
        controller.propose(View { now: &seen(6), past: &past }).unwrap();
        controller.learned()
    };
    let proposed =
        ClassifierController::new(model(Kind::Lr), false).propose(View { now: &seen(5), past: &[] }).unwrap().call;
    let other = if proposed == hold() { evict() } else { hold() };
    assert_eq!(learned(true, proposed.clone()), 1);
    assert_eq!(learned(false, proposed), 0);
    assert_eq!(learned(true, other), 0, "the guard refused it");
}
