//! Announced batches over real nodes: rows are there in time, right, and cross the network once.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::{Client, ConnectOptions, Horizon, Loader};
use rudder_tests::{Cluster, assert_rows, wait_until};
use serde_json::Value;
use std::time::Duration;

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

const REMOTE: std::ops::Range<u64> = 1000..2000;

fn lookahead(client: &Client) -> Value {
    status(client)["tables"][0]["lookahead"].clone()
}

/// Whether nothing announced waits and nothing is held for it, soon.
fn is_forgotten(client: &Client) -> bool {
    wait_until(Duration::from_secs(10), || {
        let now = lookahead(client);
        now["waiting_rows"] == 0 && now["staged_batches"] == 0
    })
}

/// What a fetch of all remote rows finds outside the cache although nobody has asked for it.
fn left_behind(cluster: &Cluster) -> u64 {
    let ids: Vec<u64> = REMOTE.collect();
    let rows = cluster.client(0).unwrap().fetch("feat", &ids).unwrap();
    assert_rows(&rows, &ids);
    rows.sources().staged
}

/// A loader that is broken off and made again announces from the start; what was staged for the batches of before must
/// go.
#[test]
fn what_was_staged_for_batches_that_never_came_is_let_go() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.budget = 4.0).unwrap();
    let (watcher, doomed) = (cluster.client(0).unwrap(), cluster.client(0).unwrap());
    let batch =
        |round: u64, step: u64| -> Vec<u64> { (0..20).map(|i| REMOTE.start + (round * 10 + step) * 20 + i).collect() };
    for round in 0..5 {
        (0..10).for_each(|step| _ = doomed.announce("feat", &batch(round, step), step).unwrap());
        (0..3).for_each(|step| assert_rows(&doomed.fetch("feat", &batch(round, step)).unwrap(), &batch(round, step)));
        let staged = wait_until(Duration::from_secs(10), || lookahead(&watcher)["staged_batches"] != 0);
        assert!(staged, "nothing is staged: {}", lookahead(&watcher));
    }
    drop(doomed);
    assert!(is_forgotten(&watcher), "{}", lookahead(&watcher));
    assert_eq!(left_behind(&cluster), 0);
}

/// Trainers as fast as the daemon: a batch may be used while its rows are being asked for.
#[test]
fn nothing_stays_staged_when_batches_are_used_as_soon_as_they_are_announced() {
    let cluster = Cluster::start(2, 2000, |config| {
        config.lookahead.depth = 1;
        config.lookahead.budget = 4.0;
    })
    .unwrap();
    let watcher = cluster.client(0).unwrap();
    std::thread::scope(|scope| {
        for trainer in 0..6u64 {
            let client = cluster.client(0).unwrap();
            let batch = move |step: u64| -> Vec<u64> {
                (0..30).map(|i| REMOTE.start + (trainer * 331 + step * 37 + i * 7) % 1000).collect()
            };
            scope.spawn(move || {
                client.announce("feat", &batch(0), 0).unwrap();
                for step in 0..700 {
                    client.announce("feat", &batch(step + 1), step + 1).unwrap();
                    assert_rows(&client.fetch("feat", &batch(step)).unwrap(), &batch(step));
                }
            });
        }
    });
    assert!(is_forgotten(&watcher), "{}", lookahead(&watcher));
    let now = lookahead(&watcher);
    assert!(now["used_batches"].as_u64().unwrap() > 4000, "{now}");
    assert_eq!(left_behind(&cluster), 0);
}

fn of_trainer(cluster: &Cluster, number: u128) -> Client {
    Client::connect(ConnectOptions { trainer: Some(number), ..ConnectOptions::at(cluster.socket(0)) }).unwrap()
}

/// One process of a trainer announces, another fetches and reports: announcements belong to the trainer, not to the
/// process.
#[test]
fn announcements_and_progress_live_while_any_connection_of_their_trainer_does() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.budget = 4.0).unwrap();
    let watcher = cluster.client(0).unwrap();
    let (announcer, fetcher, other) = (of_trainer(&cluster, 7), of_trainer(&cluster, 7), of_trainer(&cluster, 8));
    let batch = |step: u64| -> Vec<u64> { (0..50).map(|i| REMOTE.start + step * 50 + i).collect() };
    (0..4).for_each(|step| _ = announcer.announce("feat", &batch(step), step).unwrap());
    announcer.progress(0, 1, 10).unwrap();
    let brought = || status(&watcher)["tables"][0]["network"]["lookahead_rows"].as_u64() >= Some(100);
    assert!(wait_until(Duration::from_secs(10), brought), "{}", status(&watcher));
    // Another trainer's fetch is not the announced one.
    assert_rows(&other.fetch("feat", &batch(3)).unwrap(), &batch(3));
    drop(announcer);
    assert!(fetcher.fetch("feat", &batch(0)).unwrap().sources().staged > 0);
    assert!(
        wait_until(Duration::from_secs(10), || lookahead(&watcher)["used_batches"] == 1),
        "{}",
        lookahead(&watcher)
    );
    assert_eq!(lookahead(&watcher)["waiting_rows"], 150, "{}", lookahead(&watcher));
    assert_eq!(status(&watcher)["trainers_reporting"], 1);
    drop(fetcher);
    assert!(is_forgotten(&watcher), "{}", lookahead(&watcher));
    assert_eq!(lookahead(&watcher)["expired_batches"], 3);
    assert_eq!(status(&watcher)["trainers_reporting"], 0);
}

#[test]
fn announcements_of_a_trainer_that_pauses_expire_by_themselves() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.expire_ms = 200).unwrap();
    let (watcher, pausing) = (cluster.client(0).unwrap(), cluster.client(0).unwrap());
    pausing.announce("feat", &[1001, 1002], 0).unwrap();
    assert_eq!(lookahead(&watcher)["waiting_rows"], 2);
    assert!(is_forgotten(&watcher), "{}", lookahead(&watcher));
    assert_eq!(lookahead(&watcher)["expired_batches"], 1);
}
