//! Decisions become samples, and samples decisions.

use super::super::evaluate::of_task;
use super::model;
use crate::classifier::sources;
use rudder_agent::classifier::features::{COUNT, features};
use rudder_agent::classifier::file::{Head, Model};
use rudder_agent::classifier::models::{Forest, Parameters, Standard, TreeNode};
use rudder_agent::classifier::samples::Gain;
use rudder_agent::classifier::steer::ClassifierController;
use rudder_agent::classifier::{ClassifierError, Kind, Task};
use rudder_agent::controller::{Controller, Effect, Impact, Past, View};
use rudder_agent::journal::{Decision, FORMAT};
use rudder_agent::snapshot::Snapshot;
use rudder_agent::tools::{Evict, Grow, Hold, ToolCall};
use std::path::PathBuf;

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

/// A decision made after a window of this hit rate.
fn decision(number: u64, call: ToolCall, hit_rate: f64) -> Decision {
    Decision {
        format: FORMAT,
        number,
        time_ms: number,
        node: None,
        table: None,
        controller: "explore".to_owned(),
        decided_by: "explore".to_owned(),
        snapshot: Snapshot {
            hit_rate: Some(hit_rate),
            network_rows: (1000.0 * (1.0 - hit_rate)).round() as u64,
            ..seen(number)
        },
        proposed: call.clone(),
        reason: "drawn".to_owned(),
        expected: Impact::Same,
        outcome: "done".to_owned(),
        note: None,
        fallback: None,
        call,
        answer: None,
        latency_ms: 0.0,
        effect: None,
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
    let mut idle = decision(7, hold(), 0.5);
    idle.snapshot.hit_rate = None;
    let decisions = [
        decision(1, hold(), 0.5),
        decision(2, evict(), 0.6),
        decision(3, hold(), 0.8), // the window after a replacement: no choice of replacing, but one of growing
        decision(4, grow, 0.8),
        refused,
        decision(6, hold(), 0.5), // the window after it is idle
        idle,
        decision(8, shrink, 0.5),
        decision(20, hold(), 0.5), // decisions are missing before it and after it
        decision(30, hold(), 0.5),
    ];
    let samples = sources::of_decisions(&decisions);
    let short: Vec<_> = samples.iter().map(|sample| (sample.task, sample.acted, sample.amount, sample.begin)).collect();
    let expected = [
        (Task::Replace, false, 0.0, 1.0),
        (Task::Grow, false, 0.0, 1.0),
        (Task::Replace, true, 0.2, 2.0),
        (Task::Grow, false, 0.0, 3.0),
        (Task::Grow, true, 1.5, 4.0),
    ];
    assert_eq!(short, expected);
    assert!((samples[0].hit_rate_change - 0.1).abs() < 1e-9 && (samples[2].network_change + 0.2).abs() < 1e-9);
    assert_eq!((samples[2].begin, samples[2].end), (2.0, 3.0));
    // What the controller will see of that window is what was learned from.
    let past = Past::new(decisions[0].snapshot, hold(), Impact::Same);
    assert_eq!(samples[2].features, features(View { now: &decisions[1].snapshot, past: &[past] }));
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
    let journal = sources::read(&write("journal.jsonl", &lines.join("\n"))).unwrap();
    let other = sources::read(&write("journal.jsonl.1", &lines[..4].join("\n"))).unwrap();
    assert_eq!(journal.name, other.name, "the parts of a rotated journal, and those of other nodes, are one source");
    let replay = serde_json::json!({"trace": "t", "results": [{"controller": "explore:1", "decisions": decisions}]});
    let pretty = sources::read(&write("pretty.json", &serde_json::to_string_pretty(&replay).unwrap())).unwrap();
    let short = sources::read(&write("short.json", &replay.to_string())).unwrap();
    assert!(!journal.samples.is_empty() && journal.samples == pretty.samples && journal.samples == short.samples);
    assert_eq!((pretty.name.as_str(), short.name.as_str()), ("trace t", sources::of_trace("t").as_str()));
    assert_eq!(of_task(&journal.samples, Task::Replace, 1).iter().filter(|sample| sample.acted).count(), 2);

    // Those of two tables, decided on by turns, are those of either.
    let of_table = |name: &str, decision: &Decision| Decision { table: Some(name.to_owned()), ..decision.clone() };
    let by_turns: Vec<Decision> = decisions.iter().flat_map(|one| [of_table("a", one), of_table("b", one)]).collect();
    assert_eq!(sources::of_decisions(&by_turns), [&journal.samples[..], &journal.samples].concat());

    let said = |name, text: &str| sources::read(&write(name, text)).unwrap_err().to_string();
    let several = serde_json::json!([replay, replay]).to_string();
    assert_eq!(sources::read(&write("several.json", &several)).unwrap().samples.len(), 2 * short.samples.len());
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
        let standard = Standard { mean: vec![0.0; COUNT], deviation: vec![1.0; COUNT] };
        let gain = Gain { hit_rate: (0.0, 1.0), network: (0.0, 1.0), wait: (0.0, 1.0) };
        let nodes = vec![
            TreeNode::Split { feature: 0, threshold: 0.4, low: 1, high: 2 },
            TreeNode::Leaf { value: low },
            TreeNode::Leaf { value: high },
        ];
        let parameters = Parameters::Rf(Forest { base: 0.0, rate: 1.0, trees: vec![nodes] });
        Head::new(gain, standard, 0.2, parameters)
    };
    let mut controller =
        ClassifierController::new(Model::new(Kind::Rf, Some(tree(0.9, 0.1)), Some(tree(0.1, 0.2))), 0.0);
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
    let stale = said(Snapshot { stale_rows: 5, ..seen(5) });
    assert_eq!(stale.call.tool(), "refresh", "no model learns that: the rules stand in");
    assert!(stale.reason.starts_with("rules stand in: stale"), "{}", stale.reason);
}

#[test]
fn a_controller_learns_only_when_told_to_and_only_what_it_did_itself() {
    let learned = |rate, tool_seen: ToolCall| {
        let mut controller = ClassifierController::new(model(Kind::Lr), rate);
        let now = seen(5);
        controller.propose(View { now: &now, past: &[] }).unwrap();
        let effect = Some(Effect { hit_rate: (0.5, 0.6), network_share: (0.5, 0.4), as_expected: true });
        let past = [Past { effect, ..Past::new(now, tool_seen, Impact::Same) }];
        controller.propose(View { now: &seen(6), past: &past }).unwrap();
        controller.learned()
    };
    let first = ClassifierController::new(model(Kind::Lr), 0.0).propose(View { now: &seen(5), past: &[] });
    let proposed = first.unwrap().call;
    let other = if proposed == hold() { evict() } else { hold() };
    assert_eq!(learned(0.02, proposed.clone()), 1);
    assert_eq!(learned(0.0, proposed), 0);
    assert_eq!(learned(0.02, other), 0, "the guard refused it");
}

#[test]
fn a_model_that_cannot_be_fine_tuned_says_so_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for kind in Kind::ALL {
        let path = dir.path().join(kind.name());
        model(kind).write(&path).unwrap();
        assert!(ClassifierController::open(&path, 0.0).is_ok());
        let learning = ClassifierController::open(&path, 0.02);
        match kind {
            Kind::Lr | Kind::Mlp => assert!(learning.is_ok(), "{kind}"),
            _ => assert!(matches!(learning, Err(ClassifierError::CannotLearn { kind: named, .. }) if named == kind)),
        }
    }
}
