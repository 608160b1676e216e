//! Announced batches over real nodes: rows are there in time, right, and cross the network once.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::{
    Client, ClientError, ConnectOptions, ErrorCode, FetchOptions, Horizon, Loader, Notice, Part, Rows,
};
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
        doomed.announce("feat", &ids, step).unwrap();
    }
    assert!(wait_until(Duration::from_secs(60), || lookahead(&client)["waiting_rows"] == 50), "{}", lookahead(&client));
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

/// What the daemon says of announcements, once it says something.
fn warned(client: &Client) -> Vec<Notice> {
    let mut warnings = Vec::new();
    wait_until(Duration::from_secs(60), || {
        status(client);
        warnings = client.warnings();
        !warnings.is_empty()
    });
    warnings
}

#[test]
fn an_announcement_that_cannot_be_taken_is_refused_and_its_batch_is_served() {
    let cluster = Cluster::start(2, 100, |config| config.lookahead.rows_max = 40).unwrap();
    let client = cluster.client(0).unwrap();
    let error = client.announce("feat", &[1, 100], 0).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::IdOutOfRange));
    assert!(error.to_string().contains("id 100 (position 1"), "{error}");
    client.announce("feat", &(50..90).collect::<Vec<u64>>(), 0).unwrap();
    let batch = client.announce("feat", &[99], 1).unwrap();
    let warnings = warned(&client);
    assert_eq!((warnings.len(), warnings[0].code), (1, ErrorCode::Limit), "{warnings:?}");
    assert!(warnings[0].message.contains("lookahead.rows_max"), "{warnings:?}");
    assert_rows(&client.fetch_batch("feat", &[99], Some(batch)).unwrap(), &[99]);
}

/// Rows that were announced, by a batch that names itself: by the right trainer, once, and in any form else by its ids.
#[test]
fn a_fetch_may_name_its_batch_and_any_other_is_served_by_its_ids() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.budget = 4.0).unwrap();
    let (watcher, one, other) = (cluster.client(0).unwrap(), of_trainer(&cluster, 7), of_trainer(&cluster, 8));
    let ids: Vec<u64> = (990..1040).chain([995, 995]).collect();
    let unasked = |client: &Client, table, ids: &[u64], batch| {
        let options = FetchOptions { batch: Some(batch), learn: true };
        client.fetch_parts_async(&[Part::new(table, ids)], options).unwrap().wait()
    };
    let forgotten = |outcome: Result<Vec<Rows>, ClientError>| outcome.unwrap_err().code();
    let batch = one.announce("feat", &ids, 0).unwrap();
    let unknown = Some(ErrorCode::UnknownBatch);
    // The announcement is on its way, by another connection.
    let here = wait_until(Duration::from_secs(60), || lookahead(&watcher)["waiting_rows"] == 40);
    assert!(here, "{}", lookahead(&watcher));
    assert_eq!(forgotten(unasked(&other, "feat", &ids, batch)), unknown, "another trainer's batch");
    assert_eq!(forgotten(unasked(&one, "feat", &ids[1..], batch)), unknown, "fewer ids");
    assert_eq!(forgotten(unasked(&one, "label", &ids, batch)), unknown, "another table");
    assert_eq!(forgotten(unasked(&one, "feat", &ids, batch + 1)), unknown);
    let process = of_trainer(&cluster, 7);
    assert_rows(&unasked(&process, "feat", &ids, batch).unwrap()[0], &ids);
    let used = wait_until(Duration::from_secs(60), || lookahead(&watcher)["used_batches"] == 1);
    assert!(used, "{}", lookahead(&watcher));
    assert_eq!(forgotten(unasked(&one, "feat", &ids, batch)), unknown, "it was used");
    assert_rows(&one.fetch_batch("feat", &ids, Some(batch)).unwrap(), &ids);
    // Of several tables, and the ids only once.
    let batch = one.next_batch();
    let parts = [Part::new("feat", &ids), Part::new("label", &ids)];
    one.announce_parts(&parts, Some(1), batch).unwrap();
    let rows = one.fetch_parts(&parts, FetchOptions { batch: Some(batch), learn: true }).unwrap();
    assert_rows(&rows[0], &ids);
    let labels: &[i64] = rows[1].as_slice().unwrap();
    assert_eq!(labels.len(), ids.len());
}

#[test]
fn a_batch_in_another_order_is_known_and_said_once() {
    let cluster = Cluster::start(2, 2000, |config| config.lookahead.budget = 4.0).unwrap();
    let client = cluster.client(0).unwrap();
    for step in 0..3u64 {
        let ids: Vec<u64> = (1000 + step * 50..1050 + step * 50).collect();
        client.announce("feat", &ids, step).unwrap();
        let reversed: Vec<u64> = ids.into_iter().rev().collect();
        assert_rows(&client.fetch("feat", &reversed).unwrap(), &reversed);
        let known = wait_until(Duration::from_secs(60), || lookahead(&client)["used_batches"] == step + 1);
        assert!(known, "{}", lookahead(&client));
    }
    assert_eq!(lookahead(&client)["reordered_batches"], 3);
    let warnings = client.warnings();
    assert_eq!((warnings.len(), warnings[0].code), (1, ErrorCode::OtherOrder), "{warnings:?}");
    assert!(warnings[0].message.contains("table `feat`"), "{warnings:?}");
}

/// Fetches for evaluation leave the cache, the announcements and the hit ratio as they were.
#[test]
fn a_fetch_that_teaches_nothing_moves_nothing() {
    let cluster = Cluster::start(2, 2000, |_| ()).unwrap();
    let client = cluster.client(0).unwrap();
    let table = || status(&client)["tables"][0].clone();
    let ids: Vec<u64> = (1000..1100).collect();
    let unlearned = FetchOptions { batch: None, learn: false };
    client.announce("feat", &ids, 0).unwrap();
    assert!(wait_until(Duration::from_secs(60), || table()["lookahead"]["waiting_rows"] == 100));
    let others: Vec<u64> = (1500..1600).collect();
    for ids in [&ids, &others] {
        assert_rows(&client.fetch_parts(&[Part::new("feat", ids)], unlearned).unwrap()[0], ids);
    }
    let after = table();
    assert_eq!((&after["cached_rows"], &after["hit_ratio"]), (&Value::from(0), &Value::Null), "{after}");
    assert_eq!(after["lookahead"]["used_batches"], 0, "{after}");
    let fetched = after["fetched"]["staged"].as_u64().unwrap() + after["fetched"]["peer"].as_u64().unwrap();
    assert_eq!(fetched, 200, "they are counted: {after}");
    assert_rows(&client.fetch("feat", &others).unwrap(), &others);
    assert!(wait_until(Duration::from_secs(60), || table()["cached_rows"].as_u64() > Some(0)), "{}", table());
    assert_rows(&client.fetch("feat", &ids).unwrap(), &ids);
    assert!(wait_until(Duration::from_secs(60), || table()["lookahead"]["used_batches"] == 1), "{}", table());
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
    assert!(wait_until(Duration::from_secs(60), || lookahead(&watcher)["expired_batches"] == 1));
    assert!(is_forgotten(&watcher), "{}", lookahead(&watcher));
}
