//! A peer that goes silent in the middle, as a stopped process does: tool calls still answer when they said they would,
//! and what the agent sees of the other owners stays true.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_agent::tools::ToolCall;
use rudder_daemon::config::{Config, ControllerSpec};
use rudder_daemon::daemon::Daemon;
use rudder_settings::Capacity;
use rudder_tests::process::Rudderd;
use rudder_tests::{Cluster, answer_of, assert_rows, get, row_of, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// No connection is given up while a test runs: who does not answer is waited for.
fn patient(config: &mut Config) {
    config.peers.idle_timeout_ms = 120_000;
    config.peers.request_timeout_ms = 120_000;
}

/// What node 0's agent saw last, by the address that the daemon says it answers on.
fn seen(daemon: &Rudderd) -> Option<Value> {
    let log = daemon.log();
    let address = log.split("local_addr=").nth(1)?.split_whitespace().next()?.to_owned();
    let url = format!("http://{address}/v1/decisions?limit=1");
    let decisions: Value = serde_json::from_str(&get(&url)?.text).ok()?;
    Some(decisions[0]["snapshot"].clone())
}

#[test]
fn rows_that_one_owner_has_changed_are_counted_while_another_is_silent() {
    let mut cluster = Cluster::prepare(3, 3_000, |config| {
        patient(config);
        config.cache.capacity = Capacity::Share(1.0);
        if config.node.index() == 0 {
            // It holds, and looks.
            config.agent.controller = ControllerSpec::Schedule(1_000_000);
            config.agent.window_ms = 300;
        }
    })
    .unwrap();
    let daemons: Vec<Rudderd> = (0..3).map(|node| Rudderd::start(&mut cluster, node).unwrap()).collect();
    let (client, owner) = (cluster.client(0).unwrap(), cluster.client(2).unwrap());
    let remote: Vec<u64> = (1_000..3_000).collect();
    let cached = || client.fetch("feat", &remote).unwrap().sources().cache == remote.len() as u64;
    assert!(wait_until(Duration::from_secs(60), cached), "rows are not cached");
    daemons[1].stop().unwrap();
    let changed: Vec<u64> = (2_000..2_200).collect();
    let rows: Vec<u8> = changed.iter().flat_map(|&id| row_of(id + 7)).collect();
    owner.update("feat", &changed, &rows).unwrap();
    let mut last = None;
    let counted = wait_until(Duration::from_secs(60), || {
        last = seen(&daemons[0]);
        last.as_ref().is_some_and(|seen| seen["stale_rows"].as_u64() >= Some(changed.len() as u64))
    });
    assert!(counted, "{last:?}");
}

#[test]
fn a_tool_call_waits_once_however_many_tables_it_is_about() {
    const WAIT: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::prepare(2, 20_000, |config| {
        patient(config);
        config.cache.capacity = Capacity::Rows(500);
        config.cache.steer.tool_wait_ms = WAIT.as_millis() as u64;
    })
    .unwrap();
    cluster.start_node(0).unwrap();
    let daemon = Rudderd::start(&mut cluster, 1).unwrap();
    let (client, node) = (cluster.client(0).unwrap(), cluster.nodes[0].as_ref().unwrap());
    let hot: Vec<u64> = (10_000..11_500).collect();
    for _ in 0..2 {
        assert_rows(&client.fetch("feat", &hot).unwrap(), &hot);
        client.fetch("label", &hot).unwrap();
    }
    let refused = |table: usize| node.status()["tables"][table]["refused_rows"].as_u64();
    assert!(wait_until(Duration::from_secs(60), || refused(0) == Some(2_000) && refused(1) == Some(2_000)));
    daemon.stop().unwrap();
    let begin = Instant::now();
    let answer = answer_of(node.tool(ToolCall::from_arguments("grow", json!({"factor": 4})).unwrap())).unwrap();
    let took = begin.elapsed();
    let answer = serde_json::to_value(&answer).unwrap();
    for table in answer["tables"].as_array().unwrap() {
        let brought = &table["brought"];
        assert!(brought["asked_rows"].as_u64() > Some(0), "{answer}");
        assert_eq!(brought["pending_rows"], brought["asked_rows"], "{answer}");
    }
    assert_eq!(answer["tables"].as_array().unwrap().len(), 2, "{answer}");
    assert!(took >= WAIT && took < 2 * WAIT, "{took:?}");
}

/// Calls that wait for a silent peer use up the deadline of a drain; what ends after them must not have one of its own.
#[test]
fn a_drain_ends_at_its_deadline_whatever_is_under_way() {
    let mut cluster = Cluster::prepare(2, 2_000, |config| {
        patient(config);
        config.local.inflight_max = 1;
    })
    .unwrap();
    cluster.start_node(0).unwrap();
    let silent = Rudderd::start(&mut cluster, 1).unwrap();
    let client = cluster.client(0).unwrap();
    assert_rows(&client.fetch("feat", &[1_500]).unwrap(), &[1_500]);
    silent.stop().unwrap();
    let node = cluster.nodes[0].take().unwrap();
    std::thread::scope(|scope| {
        // The second waits on its connection for the place of the first.
        for id in [1_600, 1_700] {
            let client = &client;
            scope.spawn(move || assert!(client.fetch("feat", &[id]).is_err()));
        }
        std::thread::sleep(Duration::from_millis(300));
        let begin = Instant::now();
        node.shutdown(Duration::from_secs(2));
        assert!(begin.elapsed() < Duration::from_millis(3_000), "the drain took {:?}", begin.elapsed());
        drop(node);
    });
}
