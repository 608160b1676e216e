//! Real daemons and real clients that are killed, stopped and told to stop while rows are on their way.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ClientError, ConnectOptions, ErrorCode};
use rudder_daemon::config::{Config, Policy};
use rudder_tests::process::Rudderd;
use rudder_tests::{Cluster, assert_rows, wait_until};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a loaded machine may add to a limit.
const SLACK: Duration = Duration::from_secs(5);
/// Longest wait for what has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(30);
const ROWS: u64 = 1000;
/// Names the socket to the part of this program that is killed.
const SOCKET_VARIABLE: &str = "RUDDER_TEST_VICTIM_SOCKET";

/// Ids of node 1.
fn remote() -> Vec<u64> {
    (ROWS / 2..ROWS).collect()
}

/// Ids of node 0.
fn local() -> Vec<u64> {
    (0..ROWS / 2).collect()
}

/// Two daemons, where each remote row crosses the network each time.
fn pair(adapt: impl Fn(&mut Config)) -> (Cluster, Rudderd, Rudderd) {
    let adapt = |config: &mut Config| {
        config.cache.policy = Policy::None;
        config.peers.reconnect_backoff_ms_max = 100;
        adapt(config);
    };
    let mut cluster = Cluster::prepare(2, ROWS, adapt).unwrap();
    let daemons = [0, 1].map(|index| Rudderd::start(&mut cluster, index).unwrap());
    let [first, second] = daemons;
    // Connected, so that what follows happens to rows and not to a handshake.
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &remote()).unwrap(), &remote());
    (cluster, first, second)
}

fn fetch_until_right(client: &Client, ids: &[u64], limit: Duration) {
    let mut last = None;
    let right = wait_until(limit, || match client.fetch("feat", ids) {
        Ok(rows) => {
            assert_rows(&rows, ids);
            true
        }
        Err(error) => {
            last = Some(error);
            false
        }
    });
    assert!(right, "{last:?}");
}

#[test]
fn a_daemon_killed_while_another_fetches_is_a_bounded_error_and_its_return_is_noticed() {
    let request = Duration::from_secs(4);
    let (mut cluster, first, second) = pair(|config| {
        config.peers.request_timeout_ms = 4_000;
        config.peers.connect_timeout_ms = 1_000;
        config.peers.idle_timeout_ms = 1_000;
        config.peers.keep_alive_ms = 300;
    });
    let client = cluster.client(0).unwrap();
    let bystander = cluster.client(0).unwrap();
    let (fetched, fetches) = mpsc::channel();
    let error = std::thread::scope(|scope| {
        let trainer = scope.spawn(|| {
            loop {
                let begin = Instant::now();
                match client.fetch("feat", &remote()) {
                    Ok(rows) => assert_rows(&rows, &remote()),
                    Err(error) => return (error, begin.elapsed()),
                }
                let _ = fetched.send(());
            }
        });
        (0..20).for_each(|_| fetches.recv_timeout(PATIENCE).unwrap());
        second.kill().unwrap();
        let killed = Instant::now();
        assert_rows(&bystander.fetch("feat", &local()).unwrap(), &local());
        assert!(killed.elapsed() < request + SLACK);
        trainer.join().unwrap()
    });
    let (error, waited) = error;
    eprintln!("after {waited:?}: {error}");
    assert_eq!(error.code(), Some(ErrorCode::PeerUnavailable), "{error}");
    let text = error.to_string();
    assert!(text.contains("500 rows of table `feat`") && text.contains("peer 1 ("), "{text}");
    assert!(waited < request + SLACK, "{waited:?}");
    // The second fetch does not wait for the dead connection once more.
    let begin = Instant::now();
    let error = client.fetch("feat", &remote()).map(|_| ()).unwrap_err();
    eprintln!("after {:?}: {error}", begin.elapsed());
    assert!(error.to_string().contains("is unreachable"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", begin.elapsed());
    let _second = Rudderd::start(&mut cluster, 1).unwrap();
    fetch_until_right(&client, &remote(), PATIENCE);
    drop(first);
}

/// With the limits as they are unless configured: the new process does not know the old connection, and the very first
/// fetch survives finding that out.
#[test]
fn a_peer_killed_and_started_again_between_two_fetches_goes_unnoticed() {
    let (mut cluster, _first, second) = pair(|_| ());
    let client = cluster.client(0).unwrap();
    second.kill().unwrap();
    let _second = Rudderd::start(&mut cluster, 1).unwrap();
    assert_rows(&client.fetch("feat", &remote()).unwrap(), &remote());
}

#[test]
fn a_stopped_peer_is_a_bounded_error_that_names_it() {
    let (cluster, _first, second) = pair(|config| config.peers.request_timeout_ms = 1_000);
    let client = cluster.client(0).unwrap();
    second.stop().unwrap();
    let begin = Instant::now();
    let error = client.fetch("feat", &remote()).map(|_| ()).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", begin.elapsed());
    eprintln!("{error}");
    assert_eq!(error.code(), Some(ErrorCode::PeerUnavailable), "{error}");
    let text = error.to_string();
    assert!(text.contains("peer 1 (") && text.contains("did not send 500 rows within 1000 ms"), "{text}");
    assert!(text.contains("see its log, or raise peers.request_timeout_ms"), "{text}");
    assert_rows(&client.fetch("feat", &local()).unwrap(), &local());
    second.signal(Signal::CONT).unwrap();
    fetch_until_right(&client, &remote(), PATIENCE);
}

/// Not a test: the client that the next test kills. Asks for remote rows, says so, and waits for them.
#[test]
#[ignore = "run by a_client_killed_in_mid_fetch_leaves_nothing_behind"]
fn victim() {
    let Some(socket) = std::env::var_os(SOCKET_VARIABLE) else { return };
    let client = Client::connect(ConnectOptions::at(socket)).unwrap();
    let pending = client.fetch_async("feat", &remote()).unwrap();
    eprintln!("sent");
    pending.wait().unwrap();
    eprintln!("received");
}

#[test]
fn a_client_killed_in_mid_fetch_leaves_nothing_behind() {
    let (cluster, first, second) = pair(|config| config.peers.request_timeout_ms = 60_000);
    let inline = || Client::connect(ConnectOptions { inline: true, ..ConnectOptions::at(cluster.socket(0)) }).unwrap();
    let bystander = inline();
    assert!(wait_until(PATIENCE, || first.mapped_arenas() == 0), "arenas of earlier clients stay mapped");
    second.stop().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env(SOCKET_VARIABLE, cluster.socket(0))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "sent"));
    assert_eq!(first.mapped_arenas(), 1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(lines.all(|line| line.unwrap() != "received"), "the rows were there before the kill");
    assert_rows(&bystander.fetch("feat", &local()).unwrap(), &local());
    // Another trainer waits for the same rows, on the request that the dead one caused.
    let pending = bystander.fetch_async("feat", &remote()).unwrap();
    second.signal(Signal::CONT).unwrap();
    assert_rows(&pending.wait().unwrap(), &remote());
    assert!(wait_until(PATIENCE, || first.mapped_arenas() == 0), "the dead client's arena stays mapped");
    assert_rows(&inline().fetch("feat", &remote()).unwrap(), &remote());
}

/// Whether the daemon says that it drains.
fn is_draining(client: &Client) -> bool {
    client.status().is_ok_and(|status| status.contains("\"draining\":true"))
}

#[test]
fn sigterm_lets_a_fetch_in_flight_end_and_takes_no_other() {
    let (cluster, mut first, second) = pair(|config| {
        config.node.drain_ms = 50_000;
        config.peers.request_timeout_ms = 40_000;
    });
    let client = cluster.client(0).unwrap();
    second.stop().unwrap();
    let pending = client.fetch_async("feat", &remote()).unwrap();
    // Answered after the fetch was taken: calls of one connection are read in their order.
    client.status().unwrap();
    first.signal(Signal::TERM).unwrap();
    assert!(wait_until(PATIENCE, || is_draining(&client)));
    let error = client.fetch("feat", &local()).map(|_| ()).unwrap_err();
    eprintln!("{error}");
    assert_eq!(error.code(), Some(ErrorCode::Draining), "{error}");
    assert!(error.to_string().contains("about to stop") && error.to_string().contains("when it is back"), "{error}");
    assert!(!pending.is_ready());
    second.signal(Signal::CONT).unwrap();
    assert_rows(&pending.wait().unwrap(), &remote());
    assert!(first.ended().unwrap().success(), "{}", first.log());
    assert!(first.log().contains("drained"), "{}", first.log());
    let error = client.fetch("feat", &local()).map(|_| ()).unwrap_err();
    eprintln!("{error}");
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(!cluster.socket(0).exists());
}

#[test]
fn sigterm_ends_at_the_deadline_whatever_is_in_flight() {
    let (mut cluster, mut first, second) = pair(|config| {
        config.node.drain_ms = 1_000;
        config.peers.request_timeout_ms = 60_000;
        config.peers.idle_timeout_ms = 120_000;
    });
    let client = cluster.client(0).unwrap();
    second.stop().unwrap();
    let pending = client.fetch_async("feat", &remote()).unwrap();
    client.status().unwrap();
    let begin = Instant::now();
    first.signal(Signal::TERM).unwrap();
    let error = pending.wait().map(|_| ()).unwrap_err();
    eprintln!("{error}");
    // The answer and the end of the process race.
    let is_told = error.code() == Some(ErrorCode::Draining) && error.to_string().contains("500 rows");
    assert!(is_told || matches!(error, ClientError::Lost(_)), "{error}");
    assert!(first.ended().unwrap().success(), "{}", first.log());
    // The deadline, the grace of two seconds after it, and what a loaded machine adds.
    assert!(begin.elapsed() < Duration::from_secs(1 + 2) + SLACK, "{:?}", begin.elapsed());
    assert!(first.log().contains("did not end within the drain deadline"), "{}", first.log());
    second.signal(Signal::CONT).unwrap();
    let _first = Rudderd::start(&mut cluster, 0).unwrap();
    fetch_until_right(&client, &remote(), PATIENCE);
}
