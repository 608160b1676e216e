//! Peers that are down, come back, or do not belong here, as a trainer sees them: a bounded wait, words that name the
//! peer and the number of rows, and rows of all others as before. What peers say to each other in raw bytes is tested
//! beside the protocol, in the daemon's module `peers`.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ClientError, ErrorCode};
use rudder_daemon::config::Config;
use rudder_peers::authority;
use rudder_tests::{Cluster, assert_rows, wait_until};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// What a loaded machine may add to a limit.
const SLACK: Duration = Duration::from_secs(5);
const CONNECT_MS: u64 = 700;

fn impatient(config: &mut Config) {
    config.peers.connect_timeout_ms = CONNECT_MS;
    config.peers.request_timeout_ms = 20_000;
    config.peers.reconnect_backoff_ms_max = 100;
}

fn error_of(client: &Client, ids: &[u64]) -> ClientError {
    client.fetch("feat", ids).map(|_| ()).unwrap_err()
}

fn assert_says(error: &ClientError, code: ErrorCode, words: &[&str]) {
    eprintln!("{error}");
    assert_eq!(error.code(), Some(code), "{error}");
    for words in words {
        assert!(error.to_string().contains(words), "{error}\nshould say: {words}");
    }
}

/// Fetches until rows come, which must then be the right ones.
fn assert_comes_back(client: &Client, ids: &[u64]) {
    let mut last = None;
    let back = wait_until(Duration::from_secs(30), || match client.fetch("feat", ids) {
        Ok(rows) => {
            assert_rows(&rows, ids);
            true
        }
        Err(error) => {
            last = Some(error);
            false
        }
    });
    assert!(back, "{last:?}");
}

#[test]
fn a_peer_that_is_down_is_a_bounded_wait_and_is_found_when_it_comes() {
    let mut cluster = Cluster::prepare(2, 1000, impatient).unwrap();
    let address = cluster.config(1).peers.listen;
    cluster.start_node(0).unwrap();
    let client = cluster.client(0).unwrap();
    let ids: Vec<u64> = (490..530).collect();
    let begin = Instant::now();
    let error = error_of(&client, &ids);
    let waited = begin.elapsed();
    let count = "30 rows of table `feat` could not be fetched";
    let peer = format!("peer 1 ({address}) is unreachable");
    assert_says(&error, ErrorCode::PeerUnavailable, &[count, &peer, "is rudderd running there"]);
    assert!(waited < Duration::from_millis(CONNECT_MS) + SLACK, "{waited:?}");
    // A socket that takes packets and never answers is no better.
    let silent = UdpSocket::bind(address).unwrap();
    let begin = Instant::now();
    assert_says(&error_of(&client, &ids), ErrorCode::PeerUnavailable, &[count, &peer, "no answer within 700 ms"]);
    assert!(begin.elapsed() < Duration::from_millis(CONNECT_MS) + SLACK, "{:?}", begin.elapsed());
    assert_rows(&client.fetch("feat", &[0, 499]).unwrap(), &[0, 499]);
    drop(silent);
    cluster.start_node(1).unwrap();
    assert_comes_back(&client, &ids);
    // A peer that is stopped in order is down as well, and back as well.
    cluster.stop_node(1);
    let uncached: Vec<u64> = (600..700).collect();
    let begin = Instant::now();
    assert_says(&error_of(&client, &uncached), ErrorCode::PeerUnavailable, &["peer 1"]);
    assert!(begin.elapsed() < Duration::from_millis(CONNECT_MS) + SLACK, "{:?}", begin.elapsed());
    cluster.start_node(1).unwrap();
    assert_comes_back(&client, &uncached);
}

#[test]
fn a_peer_with_a_certificate_of_another_authority_gets_and_gives_no_row() {
    let mut cluster = Cluster::prepare(2, 1000, impatient).unwrap();
    let ours = cluster.config(1).peers.clone();
    let theirs = cluster.dir().join("another-authority");
    authority::init(&theirs, "test", 1, false).unwrap();
    authority::issue(&theirs, 1, &theirs, 1, false).unwrap();
    let config = &mut cluster.config(1).peers;
    config.authority = theirs.join("ca.pem");
    config.certificate = theirs.join("node-1.pem");
    config.key = theirs.join("node-1.key");
    cluster.start_node(0).unwrap();
    cluster.start_node(1).unwrap();
    let clients = [cluster.client(0).unwrap(), cluster.client(1).unwrap()];
    let remote: Vec<u64> = (500..520).collect();
    for (client, peer, ids) in [(&clients[0], "peer 1 (", remote.clone()), (&clients[1], "peer 0 (", (0..20).collect())]
    {
        let begin = Instant::now();
        let error = error_of(client, &ids);
        assert_says(&error, ErrorCode::PeerFailed, &["20 rows", peer, "same authority", "rudder certs issue"]);
        assert!(begin.elapsed() < Duration::from_millis(CONNECT_MS) + SLACK, "{:?}", begin.elapsed());
    }
    assert_rows(&clients[0].fetch("feat", &[0, 499]).unwrap(), &[0, 499]);
    assert_rows(&clients[1].fetch("feat", &[500, 999]).unwrap(), &[500, 999]);
    // Put right, the same node is let in.
    cluster.stop_node(1);
    cluster.config(1).peers = ours;
    cluster.start_node(1).unwrap();
    assert_comes_back(&clients[0], &remote);
}
