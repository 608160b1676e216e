//! Updates over real nodes: owners have them at once, their writers read them at once, the others when they refresh or
//! when the bound on staleness says so.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::{Client, ConnectOptions, ErrorCode};
use rudder_daemon::config::{Config, Policy};
use rudder_settings::Capacity;
use rudder_tests::{Cluster, WIDTH, assert_rows, row_of, wait_until};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Row `id` as it is after update number `version`.
fn row_at(id: u64, version: u64) -> Vec<u8> {
    (0..u64::from(WIDTH)).flat_map(|at| ((id * 1_000 + at + version * 100_000_000) as f32).to_le_bytes()).collect()
}

fn write(client: &Client, ids: &[u64], version: u64) {
    let rows: Vec<u8> = ids.iter().flat_map(|&id| row_at(id, version)).collect();
    assert_eq!(client.update("feat", ids, &rows).unwrap(), ids.len() as u64);
}

#[track_caller]
fn assert_version(client: &Client, ids: &[u64], version: u64) {
    let rows = client.fetch("feat", ids).unwrap();
    for (i, &id) in ids.iter().enumerate() {
        assert_eq!(rows.row(i), row_at(id, version), "row {i}, id {id} is not of version {version}");
    }
}

fn status(client: &Client) -> Value {
    let status: Value = serde_json::from_str(&client.status().unwrap()).unwrap();
    status["tables"][0]["versions"].clone()
}

/// Everything remote fits into the caches.
fn cluster(nodes: u16, staleness_max_ms: u64) -> Cluster {
    Cluster::start(nodes, u64::from(nodes) * 1_000, |config| {
        config.cache.capacity = Capacity::Share(1.0);
        config.cache.staleness_max_ms = staleness_max_ms;
    })
    .unwrap()
}

/// Fetches until all of `ids` come from the cache.
fn cache(client: &Client, ids: &[u64]) {
    let cached = || client.fetch("feat", ids).unwrap().sources().cache == ids.len() as u64;
    assert!(wait_until(Duration::from_secs(10), cached), "rows are not cached");
}

/// Rows of node 0 and of node 1.
const OWN: [u64; 4] = [0, 1, 64, 999];
const REMOTE: [u64; 4] = [1_000, 1_001, 1_500, 1_999];

#[test]
fn a_writer_and_the_owner_see_an_update_at_once_and_others_when_they_refresh() {
    let cluster = cluster(2, 0);
    for inline in [false, true] {
        let options = |node| ConnectOptions { inline, ..ConnectOptions::at(cluster.socket(node)) };
        let (a, b) = (Client::connect(options(0)).unwrap(), Client::connect(options(1)).unwrap());
        let all = [OWN, REMOTE].concat();
        let base = if inline { 3 } else { 0 };
        cache(&a, &REMOTE);
        cache(&b, &OWN);
        // A writes rows of both, of which it had cached the remote ones.
        write(&a, &all, base + 1);
        assert_version(&a, &all, base + 1);
        assert_version(&b, &REMOTE, base + 1);
        // B has A's rows cached: old until it refreshes.
        if inline {
            assert_version(&b, &OWN, 3);
        } else {
            assert_rows(&b.fetch("feat", &OWN).unwrap(), &OWN);
        }
        let answer = b.refresh(None, Some("feat")).unwrap();
        assert_eq!(answer["tables"][0]["unreachable"], serde_json::json!([]), "{answer}");
        assert_eq!(answer["tables"][0]["changed_rows"], 4, "{answer}");
        assert_eq!(answer["tables"][0]["repulled_rows"], 4, "{answer}");
        assert_version(&b, &OWN, base + 1);
        assert_eq!(b.fetch("feat", &OWN).unwrap().sources().cache, 4);
        // B writes what A has cached.
        write(&b, &REMOTE, base + 2);
        assert_version(&a, &REMOTE, base + 1);
        a.refresh(None, None).unwrap();
        assert_version(&a, &REMOTE, base + 2);
        // Nothing has changed since: nothing is fetched.
        let answer = a.refresh(Some(0.0), None).unwrap();
        assert_eq!(answer["tables"][0]["changed_rows"], 0, "{answer}");
        assert_eq!(answer["tables"].as_array().unwrap().len(), 2, "{answer}");
        // Asked a moment ago: not asked again.
        let answer = a.refresh(Some(60.0), None).unwrap();
        assert_eq!(answer["tables"][0]["checked_rows"], 0, "{answer}");
        write(&b, &OWN, base + 3);
        assert_version(&a, &OWN, base + 3);
        assert_version(&b, &OWN, base + 3);
        write(&a, &REMOTE, base + 3);
    }
    let (a, b) = (status(&cluster.client(0).unwrap()), status(&cluster.client(1).unwrap()));
    assert_eq!((a["updates"].clone(), a["update_rows"].clone()), (4.into(), 24.into()), "{a}");
    assert_eq!((b["applied_updates"].clone(), b["applied_rows"].clone()), (6.into(), 24.into()), "{b}");
    assert_eq!((b["updated_rows"].clone(), b["stale_rows"].clone()), (4.into(), 8.into()), "{b}");
    assert!(a["revalidation_age_seconds"].as_f64().unwrap() < 60.0, "{a}");
}

/// Without a cache, whatever is on its way or was just answered to others, a fetch that begins when the owner's update
/// has returned gets the new row.
#[test]
fn without_a_cache_no_fetch_gets_a_row_older_than_itself() {
    for no_cache in [
        |config: &mut Config| config.cache.policy = Policy::None,
        |config: &mut Config| {
            config.cache.policy = Policy::Lru;
            config.cache.capacity = Capacity::Rows(0);
        },
    ] {
        let cluster = Cluster::start(2, 20_000, no_cache).unwrap();
        let (reader, other, owner) =
            (cluster.client(0).unwrap(), cluster.client(0).unwrap(), cluster.client(1).unwrap());
        let (ids, last) = ((10_000..20_000).collect::<Vec<u64>>(), [19_999]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // One that asks for the same rows all the time: its requests are there to be joined at every moment.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    other.fetch("feat", &ids).unwrap();
                }
            });
            let mut old = 0;
            for version in 1..=60 {
                reader.fetch("feat", &ids).unwrap();
                write(&owner, &last, version);
                old += usize::from(reader.fetch("feat", &ids).unwrap().row(9_999) != row_at(19_999, version));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(old, 0, "of 60 fetches that began after the owner's update had returned got the old row");
        });
    }
}

#[test]
fn of_an_id_that_appears_twice_the_last_row_stays() {
    let cluster = cluster(2, 0);
    let client = cluster.client(0).unwrap();
    for id in [3, 1_003] {
        let rows: Vec<u8> = [row_at(id, 1), row_at(id + 1, 2), row_at(id, 3)].concat();
        assert_eq!(client.update("feat", &[id, id + 1, id], &rows).unwrap(), 2);
        assert_version(&client, &[id], 3);
        assert_version(&client, &[id + 1], 2);
    }
    assert_eq!(client.update("feat", &[] as &[u64], &[]).unwrap(), 0);
}

#[test]
fn a_bound_on_staleness_is_kept() {
    const BOUND: Duration = Duration::from_millis(600);
    let cluster = cluster(2, BOUND.as_millis() as u64);
    let (a, b) = (cluster.client(0).unwrap(), cluster.client(1).unwrap());
    cache(&a, &REMOTE);
    let ids: Vec<u64> = (1_000..2_000).collect();
    cache(&a, &ids);
    for version in 1..6 {
        write(&b, &ids, version);
        let changed = Instant::now();
        let mut old = Duration::ZERO;
        loop {
            let asked = changed.elapsed();
            let rows = a.fetch("feat", &ids).unwrap();
            let wrong = ids.iter().enumerate().filter(|&(i, &id)| rows.row(i) != row_at(id, version)).count();
            if wrong == 0 {
                break;
            }
            old = asked;
            assert!(old < BOUND, "{wrong} rows were served {old:?} after their owner had changed them");
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("version {version}: old rows were served for {old:?} of {BOUND:?}");
        assert_eq!(a.fetch("feat", &ids).unwrap().sources().cache, 1_000, "renewed in place");
    }
}

#[test]
fn rows_of_an_owner_that_cannot_be_asked_are_not_served_beyond_the_bound() {
    let mut cluster = cluster(2, 1_000);
    let a = cluster.client(0).unwrap();
    cache(&a, &REMOTE);
    cluster.stop_node(1);
    let stopped = Instant::now();
    let mut last = Duration::ZERO;
    let refused = wait_until(Duration::from_secs(20), || {
        let asked = stopped.elapsed();
        match a.fetch("feat", &REMOTE) {
            Ok(_) => last = asked,
            Err(error) => assert_eq!(error.code(), Some(ErrorCode::PeerUnavailable), "{error}"),
        }
        last < asked
    });
    assert!(refused && last < Duration::from_millis(1_000), "served until {last:?}");
    let status = status(&a);
    assert_eq!(status["expired_rows"], 4, "{status}");
    assert!(status["failed_refreshes"].as_u64().unwrap() > 0, "{status}");
}

#[test]
fn rows_of_a_restarted_owner_are_looked_after() {
    let mut cluster = cluster(2, 0);
    let a = cluster.client(0).unwrap();
    cache(&a, &REMOTE);
    write(&a, &REMOTE, 1);
    assert_version(&a, &REMOTE, 1);
    cluster.stop_node(1);
    // Without a bound, what is cached is served.
    assert_version(&a, &REMOTE, 1);
    cluster.start_node(1).unwrap();
    // The updates went with the process; the first contact with the new one shows it.
    let others: Vec<u64> = (1_100..1_110).collect();
    assert!(wait_until(Duration::from_secs(20), || a.fetch("feat", &others).is_ok()));
    let revalidated = || a.fetch("feat", &REMOTE).unwrap().row(3) == row_of(REMOTE[3]);
    assert!(wait_until(Duration::from_secs(10), revalidated));
    assert_rows(&a.fetch("feat", &REMOTE).unwrap(), &REMOTE);
    assert_eq!(a.fetch("feat", &REMOTE).unwrap().sources().cache, 4);
    // And it can be written again.
    write(&a, &REMOTE, 2);
    assert_version(&a, &REMOTE, 2);
}

#[test]
fn announced_rows_that_were_staged_and_then_changed_are_fetched_anew() {
    let cluster = Cluster::start(2, 2_000, |config| {
        config.cache.policy = rudder_daemon::config::Policy::None;
        config.lookahead.budget = 4.0;
    })
    .unwrap();
    let (a, b) = (cluster.client(0).unwrap(), cluster.client(1).unwrap());
    let staged = |client: &Client| {
        let status: Value = serde_json::from_str(&client.status().unwrap()).unwrap();
        status["tables"][0]["network"]["lookahead_rows"].as_u64().unwrap()
    };
    // The owner writes: old until a refresh. This node writes: new at once.
    for (version, writer) in [(1, &b), (2, &a)] {
        let before = staged(&a);
        // A fetch first: batches are staged from a trainer's second step on.
        a.announce("feat", &[1_800 + version], version * 10).unwrap();
        a.announce("feat", &REMOTE, version * 10 + 1).unwrap();
        a.fetch("feat", &[1_800 + version]).unwrap();
        assert!(wait_until(Duration::from_secs(10), || staged(&a) >= before + 4), "nothing is staged");
        write(writer, &REMOTE, version);
        if version == 1 {
            a.refresh(None, None).unwrap();
        }
        assert_version(&a, &REMOTE, version);
    }
}

#[test]
fn updates_that_cannot_be_applied_name_the_culprit() {
    let mut cluster = Cluster::start(2, 2_000, |config| {
        config.cache.capacity = Capacity::Share(1.0);
        // Ten rows.
        config.dataset.updates_bytes_max = 10 * u64::from(WIDTH * 4 + 12);
        config.peers.request_timeout_ms = 1_000;
        config.peers.connect_timeout_ms = 500;
    })
    .unwrap();
    let a = cluster.client(0).unwrap();
    let fails = |ids: &[u64], code: ErrorCode, words: &[&str]| {
        let rows: Vec<u8> = ids.iter().flat_map(|&id| row_at(id, 9)).collect();
        let error = a.update("feat", ids, &rows).unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        words.iter().for_each(|words| assert!(error.to_string().contains(words), "{words}: {error}"));
        eprintln!("{error}");
    };
    fails(&[5, 2_000], ErrorCode::IdOutOfRange, &["id 2000 (position 1"]);
    let own: Vec<u64> = (0..11).collect();
    let theirs: Vec<u64> = (1_000..1_011).collect();
    fails(&own, ErrorCode::Limit, &["11 rows of an update of table `feat`", "0 were", "dataset.updates_bytes_max"]);
    cache(&a, &theirs);
    fails(&theirs, ErrorCode::Limit, &["11 rows of an update", "0 were", "peer 1", "dataset.updates_bytes_max"]);
    assert_rows(&a.fetch("feat", &own).unwrap(), &own);
    assert_rows(&a.fetch("feat", &theirs).unwrap(), &theirs);
    write(&a, &own[..10], 1);
    assert_version(&a, &own[..10], 1);
    cache(&a, &theirs);
    cluster.stop_node(1);
    let mixed = [0, 1, 1_000, 1_001];
    fails(&mixed, ErrorCode::PeerUnavailable, &["2 rows of an update", "2 were", "peer 1"]);
    assert_version(&a, &mixed[..2], 9);
    // Whether node 1 has the others is not known: they are served by nobody else.
    assert_eq!(a.fetch("feat", &mixed[2..]).map(|_| ()).unwrap_err().code(), Some(ErrorCode::PeerUnavailable));
    assert_rows(&a.fetch("feat", &theirs[2..]).unwrap(), &theirs[2..]);
    assert_eq!(status(&a)["failed_updates"], 3);
}

#[test]
fn trainers_call_tools() {
    let cluster = cluster(2, 0);
    for inline in [false, true] {
        let options = ConnectOptions { inline, ..ConnectOptions::at(cluster.socket(0)) };
        let client = Client::connect(options).unwrap();
        let ids: Vec<u64> = if inline { (1_000..1_100).collect() } else { (900..1_050).collect() };
        let warmed = client.warm("feat", &ids).unwrap();
        assert_eq!(warmed["tables"][0]["brought"]["filled_rows"], 50, "{warmed}");
        let remote: Vec<u64> = ids.into_iter().filter(|&id| id >= 1_000).collect();
        assert_eq!(client.fetch("feat", &remote).unwrap().sources().cache, remote.len() as u64);
        let grown = client.grow(Some(500), None, Some("feat")).unwrap();
        assert_eq!(grown["tables"][0]["after_rows"], 500, "{grown}");
        assert_eq!(client.evict(0.1, false, None).unwrap()["tool"], "evict");
        assert_eq!(client.hold().unwrap()["tool"], "hold");
        let code = |call: &str| client.tool(call).map(|_| ()).unwrap_err().code();
        assert_eq!(code("{\"tool\":\"shrink\"}"), Some(ErrorCode::Argument));
        assert_eq!(code("no json"), Some(ErrorCode::Argument));
        assert_eq!(code("{\"tool\":\"grow\",\"factor\":2.0,\"table\":\"feet\"}"), Some(ErrorCode::UnknownTable));
        assert_eq!(client.warm("feat", &[5_000]).map(|_| ()).unwrap_err().code(), Some(ErrorCode::Argument));
        assert_eq!(client.refresh(Some(-1.0), None).map(|_| ()).unwrap_err().code(), Some(ErrorCode::Argument));
    }
}
