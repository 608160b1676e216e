//! Fetches over real nodes: every row is the owner's row, in the order asked for.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ConnectOptions, DType, ErrorCode};
use rudder_daemon::daemon::Daemon;
use rudder_tests::{Cluster, assert_rows, label_of, wait_until};
use std::time::Duration;

/// A small generator, so that failures repeat.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn rows_are_the_owners_rows_in_the_order_of_the_ids() {
    let cluster = Cluster::start(3, 3000, |_| ()).unwrap();
    let mut number = numbers(1);
    for inline in [false, true] {
        let options = ConnectOptions { inline, ..ConnectOptions::at(cluster.socket(1)) };
        let client = Client::connect(options).unwrap();
        for round in 0..200 {
            let ids: Vec<u64> = (0..number(400)).map(|_| number(3000)).collect();
            let rows = client.fetch("feat", &ids).unwrap();
            assert_rows(&rows, &ids);
            let sources = rows.sources();
            assert_eq!(sources.local + sources.cache + sources.staged + sources.peer, ids.len() as u64);
            client.progress(round / 20, round % 20, 20).unwrap();
        }
        let labels = client.fetch("label", &[2999, 0, 1500, 0]).unwrap();
        assert_eq!(labels.as_slice::<i64>().unwrap(), [2999, 0, 1500, 0].map(label_of));
    }
    let status: serde_json::Value = serde_json::from_str(&cluster.client(1).unwrap().status().unwrap()).unwrap();
    let feat = &status["tables"][0];
    assert_eq!(feat["capacity_rows"], 400);
    assert_eq!(feat["cached_rows"], 400);
    assert!(feat["fetched"]["cache"].as_u64().unwrap() > 1000, "{feat}");
    assert!(feat["network"]["demand_rows"].as_u64().unwrap() <= feat["fetched"]["peer"].as_u64().unwrap());
}

/// What a node's metrics of this name say.
fn gauges(cluster: &Cluster, node: usize, name: &str) -> Vec<f64> {
    let collectors = cluster.nodes[node].as_ref().unwrap().collectors();
    let families: Vec<_> = collectors.iter().flat_map(|collector| collector.collect()).collect();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map(|family| family.get_metric().iter()).into_iter().flatten();
    metrics.map(|metric| metric.get_gauge().get_value()).collect()
}

#[test]
fn a_peer_that_nobody_needs_is_not_down() {
    let mut cluster = Cluster::start(3, 3000, |_| ()).unwrap();
    let client = cluster.client(0).unwrap();
    assert_rows(&client.fetch("feat", &[1, 2]).unwrap(), &[1, 2]);
    assert!(gauges(&cluster, 0, "rudder_peer_up").is_empty() && gauges(&cluster, 0, "rudder_hit_ratio").is_empty());
    assert_rows(&client.fetch("feat", &[1500]).unwrap(), &[1500]);
    assert_eq!(gauges(&cluster, 0, "rudder_peer_up"), [1.0], "of the two, one was needed");
    assert_eq!(gauges(&cluster, 0, "rudder_hit_ratio"), [0.0]);
    cluster.stop_node(1);
    assert!(wait_until(Duration::from_secs(30), || gauges(&cluster, 0, "rudder_peer_up") == [0.0]));
}

#[test]
fn many_fetches_are_in_flight_on_one_connection() {
    let cluster = Cluster::start(2, 2000, |_| ()).unwrap();
    let client = cluster.client(0).unwrap();
    let mut number = numbers(2);
    let batches: Vec<Vec<u64>> = (0..40).map(|_| (0..300).map(|_| number(2000)).collect()).collect();
    let pending: Vec<_> = batches.iter().map(|ids| client.fetch_async("feat", ids).unwrap()).collect();
    for (pending, ids) in pending.into_iter().zip(&batches).rev() {
        assert_rows(&pending.wait().unwrap(), ids);
    }
    std::thread::scope(|scope| {
        for ids in &batches {
            scope.spawn(|| assert_rows(&client.fetch("feat", ids).unwrap(), ids));
        }
    });
}

#[test]
fn a_row_for_the_cache_that_several_wait_for_crosses_the_network_once() {
    let cluster =
        Cluster::start(2, 2000, |config| config.cache.capacity = rudder_settings::Capacity::Share(1.0)).unwrap();
    let ids: Vec<u64> = (1000..2000).collect();
    let clients: Vec<Client> = (0..4).map(|_| cluster.client(0).unwrap()).collect();
    let pending: Vec<_> = clients.iter().map(|client| client.fetch_async("feat", &ids).unwrap()).collect();
    for pending in pending {
        assert_rows(&pending.wait().unwrap(), &ids);
    }
    let status: serde_json::Value = serde_json::from_str(&clients[0].status().unwrap()).unwrap();
    let crossed = status["tables"][0]["network"]["demand_rows"].as_u64().unwrap();
    assert!((1000..4000).contains(&crossed), "{crossed} rows crossed for 4 times 1000");
}

#[test]
fn wrong_requests_name_the_culprit_and_harm_nobody() {
    let cluster = Cluster::start(2, 100, |config| config.local.ids_max = 1000).unwrap();
    let client = cluster.client(0).unwrap();
    let fails =
        |result: Result<rudder_client::Rows, rudder_client::ClientError>, code: Option<ErrorCode>, words: &str| {
            let error = result.map(|_| ()).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            eprintln!("{words}: {error}");
        };
    fails(client.fetch("feet", &[1]), None, "no table `feet`; the daemon serves `feat`, `label`; did you mean `feat`?");
    fails(client.fetch("feat", &[1, 100]), Some(ErrorCode::IdOutOfRange), "id 100 (position 1");
    fails(client.fetch("feat", &[u64::MAX]), Some(ErrorCode::IdOutOfRange), "ids 0 to 99");
    fails(client.fetch_expecting("feat", DType::F16, 37, &[1]), Some(ErrorCode::Shape), "f32 × 37");
    fails(client.fetch_expecting("feat", DType::F32, 36, &[1]), Some(ErrorCode::Shape), "f32 × 36");
    fails(client.fetch("feat", &[1; 1001]), Some(ErrorCode::Limit), "local.ids_max = 1000");
    assert_rows(&client.fetch("feat", &[99, 0]).unwrap(), &[99, 0]);
    assert_rows(&client.fetch("feat", &[]).unwrap(), &[]);
}

#[test]
fn a_node_without_peers_needs_no_certificate_and_no_port() {
    let cluster = Cluster::start(1, 1_000, |config| {
        config.peers.authority = "/nowhere/ca.pem".into();
        config.peers.certificate = "/nowhere/node.pem".into();
        config.peers.key = "/nowhere/node.key".into();
        // A port that nobody may take.
        config.peers.listen = "192.0.2.1:1".parse().unwrap();
    })
    .unwrap();
    let ids: Vec<u64> = (0..1_000).rev().collect();
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &ids).unwrap(), &ids);
}
