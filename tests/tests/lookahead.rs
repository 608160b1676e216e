//! Announced batches over real nodes: rows are there in time, right, and cross the network once.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::{Horizon, Loader};
use rudder_tests::{Cluster, assert_rows};
use serde_json::Value;

fn status(client: &rudder_client::Client) -> Value {
    serde_json::from_str(&client.status().unwrap()).unwrap()
}

/// Batches of ids, half of them remote, that come again every epoch in another order.
fn batches(epochs: u64) -> Vec<Vec<u64>> {
    let of_epoch = |epoch: u64| {
        (0..20u64).map(move |step| (0..50).map(|i| ((step + epoch * 7) % 20 * 100 + i * 2) % 2000).collect())
    };
    (0..epochs).flat_map(of_epoch).collect()
}

#[test]
fn announced_rows_are_staged_and_right() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.budget = 4.0).unwrap();
    let client = cluster.client(0).unwrap();
    let all = batches(4);
    let loader = Loader::new(&client, "feat", all.clone().into_iter(), 20).unwrap().horizon(Horizon::Batches(6));
    let mut peer = 0;
    for (at, (loaded, ids)) in loader.zip(&all).enumerate() {
        let (loaded_ids, rows) = loaded.unwrap();
        assert_eq!(&loaded_ids, ids, "batch {at}");
        assert_rows(&rows, ids);
        peer += rows.sources().peer;
        // A step of training: what is ordered ahead has the time that it has there.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while status(&client)["tables"][0]["lookahead"]["used_batches"] != at + 1 && std::time::Instant::now() < until {
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    let status = status(&client);
    let table = &status["tables"][0];
    assert_eq!(table["lookahead"]["used_batches"], all.len(), "{table}");
    assert_eq!(table["lookahead"]["expired_batches"], 0);
    assert_eq!(table["lookahead"]["waiting_rows"], 0);
    let staged = table["fetched"]["staged"].as_u64().unwrap();
    assert!(staged > 10 * peer.max(1), "{staged} staged, {peer} waited for: {table}");
    let network =
        table["network"]["demand_rows"].as_u64().unwrap() + table["network"]["lookahead_rows"].as_u64().unwrap();
    assert_eq!(network, staged + peer, "each row that was not cached crossed once");
}

#[test]
fn a_trainer_that_dies_leaves_nothing_behind() {
    let cluster = Cluster::start(2, 2000, |_| ()).unwrap();
    let client = cluster.client(0).unwrap();
    let doomed = cluster.client(0).unwrap();
    for step in 0..5u64 {
        let ids: Vec<u64> = (1000 + step * 10..1010 + step * 10).collect();
        assert!(doomed.announce("feat", &ids, step).unwrap() > 0);
    }
    assert_eq!(status(&client)["tables"][0]["lookahead"]["waiting_rows"], 50);
    drop(doomed);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while status(&client)["tables"][0]["lookahead"]["waiting_rows"] != 0 {
        assert!(std::time::Instant::now() < until, "announcements of a dead trainer wait for ever");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(status(&client)["tables"][0]["lookahead"]["expired_batches"], 5);
    let ids: Vec<u64> = (900..1100).collect();
    assert_rows(&client.fetch("feat", &ids).unwrap(), &ids);
}

#[test]
fn an_announcement_of_a_wrong_id_is_refused() {
    let cluster = Cluster::start(2, 100, |config| config.lookahead.rows_max = 40).unwrap();
    let client = cluster.client(0).unwrap();
    let error = client.announce("feat", &[1, 100], 0).unwrap_err().to_string();
    assert!(error.contains("id 100 (position 1"), "{error}");
    client.announce("feat", &(50..90).collect::<Vec<u64>>(), 0).unwrap();
    let error = client.announce("feat", &[99], 1).unwrap_err().to_string();
    assert!(error.contains("lookahead.rows_max"), "{error}");
}
