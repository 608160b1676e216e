//! The agent on a running daemon: it sees what a scrape sees, grows a cache that is short of slots up to its ceiling and no
//! further, writes its journal, and is not noticed by trainers when its controller has no answer.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_daemon::config::{Capacity, Config};
use rudder_daemon::lifecycle::Service;
use rudder_tests::{Cluster, assert_rows, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

const ROWS: u64 = 20_000;

fn cluster(controller: &str, adapt: impl Fn(&mut Config)) -> Cluster {
    Cluster::start(2, ROWS, |config| {
        config.cache.capacity = Capacity::Rows(1_000);
        config.cache.tables.entry("label".to_owned()).or_default().policy = Some(rudder_daemon::config::Policy::None);
        config.agent.controller = controller.to_owned();
        config.agent.window_ms = 30_000;
        config.agent.window_minibatches = 4;
        config.agent.ceiling = Some(Capacity::Rows(3_000));
        adapt(config);
    })
    .unwrap()
}

/// Fetches rows of the other node, more than fit, until `done`.
fn train(cluster: &Cluster, limit: Duration, mut done: impl FnMut(&Value) -> bool) -> bool {
    let client = cluster.client(0).unwrap();
    let ids: Vec<u64> = (ROWS / 2..ROWS / 2 + 5_000).collect();
    let begin = Instant::now();
    for step in 0.. {
        for ids in ids.chunks(1_000) {
            assert_rows(&client.fetch("feat", ids).unwrap(), ids);
        }
        client.progress(step / 4, step % 4, 4).unwrap();
        if done(&cluster.nodes[0].as_ref().unwrap().status()) {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
    }
    false
}

#[test]
fn rules_grow_a_cache_that_is_short_of_slots_to_the_agents_ceiling_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("decisions.jsonl");
    let mut cluster = cluster("rules", |config| {
        if config.node.index == 0 {
            config.agent.journal.clone_from(&journal);
        }
    });
    let grown = |status: &Value| {
        status["tables"][0]["capacity_rows"] == 3_000 && status["agent"]["decisions"].as_u64() > Some(6)
    };
    assert!(train(&cluster, Duration::from_secs(60), grown), "{}", cluster.nodes[0].as_ref().unwrap().status());
    let node = cluster.nodes[0].as_ref().unwrap();
    assert_eq!(node.status()["tables"][0]["ceiling_rows"], ROWS / 2, "an operator may go on");
    let decisions = node.decisions(100);
    let first = decisions.iter().find(|decision| decision.call.tool() == "grow").unwrap();
    assert!(first.reason.starts_with("short of slots"), "{first:?}");
    assert!(first.snapshot.remote_rows > 0 && first.snapshot.network_rows > 0, "{first:?}");
    assert!(first.effect.is_some() && first.answer.is_some(), "{first:?}");
    cluster.stop_node(0);
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.lines().count() >= decisions.len(), "the journal holds every decision");
}

#[test]
fn a_model_that_is_not_there_is_stood_in_for_and_fetches_go_on() {
    let cluster = cluster("llm", |config| {
        config.agent.llm_base_url = "http://127.0.0.1:9/v1".to_owned();
        config.agent.llm_model = "nobody".to_owned();
        config.agent.deadline_ms = 500;
    });
    let grown = |status: &Value| status["tables"][0]["capacity_rows"] == 3_000;
    assert!(train(&cluster, Duration::from_secs(60), grown), "rules did not stand in");
    let node = cluster.nodes[0].as_ref().unwrap();
    assert!(wait_until(Duration::from_secs(10), || !node.decisions(1).is_empty()));
    let decision = node.decisions(1).remove(0);
    assert_eq!((decision.controller.as_str(), decision.decided_by.as_str()), ("llm", "rules"));
    assert!(decision.fallback.is_some());
    assert_eq!(node.status()["agent"]["llm"]["model"], "nobody");
}
