//! Recording what trainers ask for, and every policy in a running node.
#![allow(clippy::unwrap_used)]

use rudder_daemon::config::Policy;
use rudder_daemon::daemon::Daemon;
use rudder_daemon::recording::{TraceCall, TraceError};
use rudder_tests::{Cluster, answer_of, assert_rows};
use std::time::Duration;

#[test]
fn a_recording_is_the_remote_ids_of_each_fetch() {
    let cluster = Cluster::start(2, 2000, |_| ()).unwrap();
    let node = cluster.nodes[0].as_ref().unwrap();
    let client = cluster.client(0).unwrap();
    let table = || "feat".to_owned();
    assert!(matches!(answer_of(node.trace(TraceCall::Take { table: table() })), Err(TraceError::NotRecording { .. })));
    answer_of(node.trace(TraceCall::Start { table: table() })).unwrap();
    client.progress(0, 1, 4).unwrap();
    for ids in [&[5, 1500, 1001, 1500][..], &[1001, 7], &[3, 4]] {
        assert_rows(&client.fetch("feat", ids).unwrap(), ids);
    }
    // Accounts are settled after the rows have gone out.
    let mut seen = Vec::new();
    assert!(rudder_tests::wait_until(Duration::from_secs(10), || {
        let answer = answer_of(node.trace(TraceCall::Take { table: table() })).unwrap();
        assert_eq!((answer.universe, answer.steps_per_epoch, answer.trainers), (2000, 4, 1));
        seen.extend(answer.minibatches.into_iter().map(|minibatch| minibatch.ids));
        seen.len() == 3
    }));
    assert_eq!(seen, [vec![1001, 1500], vec![1001], vec![]]);
    answer_of(node.trace(TraceCall::Stop { table: table() })).unwrap();
    assert!(
        answer_of(node.trace(TraceCall::Start { table: "feet".to_owned() }))
            .unwrap_err()
            .to_string()
            .contains("`feet`")
    );
}

#[test]
fn every_policy_serves_the_owners_rows() {
    for policy in Policy::ALL {
        let started = Cluster::start(2, 2000, |config| {
            config.cache.policy = policy;
            config.cache.period = 2;
        });
        if policy == Policy::Static {
            let error = started.err().unwrap().to_string();
            assert!(error.contains("cache.degrees"), "a dataset without a graph: {error}");
            continue;
        }
        let cluster = started.unwrap();
        let client = cluster.client(0).unwrap();
        for round in 0..60u32 {
            let ids: Vec<u64> = (0..200u64).map(|at| (at * at * 7 + u64::from(round % 5) * 131) % 2000).collect();
            assert_rows(&client.fetch("feat", &ids).unwrap(), &ids);
            client.progress(round / 20, round % 20, 20).unwrap();
        }
        let cached = |client: &rudder_client::Client| {
            let status: serde_json::Value = serde_json::from_str(&client.status().unwrap()).unwrap();
            assert_eq!(status["tables"][0]["policy"], policy.name());
            status["tables"][0]["cached_rows"].as_u64().unwrap()
        };
        let holds =
            rudder_tests::wait_until(Duration::from_secs(10), || (cached(&client) > 0) != (policy == Policy::None));
        assert!(holds, "{policy}: {} rows cached", cached(&client));
    }
}
