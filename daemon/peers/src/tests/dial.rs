//! A peer whose name has several addresses, and connections that come and go.

use super::super::dial::dial_each;
use super::super::link::Link;
use super::*;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

/// Rounds of the race.
const ROUNDS: usize = 50_000;

/// Connections in it: more than cores, so that one is interrupted between its two steps.
const FLAPPING: usize = 8;

/// An address that is bound, so that nobody else answers there, and never read.
fn silent() -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn in_a_second() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn the_next_address_is_tried_while_the_first_is_silent() {
    let dir = authority();
    let (server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |_| {});
    let (_bound, dead) = silent();
    let begun = Instant::now();
    let dialled = dial_each(&peers.shared, 1, vec![dead, server.local_addr()], in_a_second()).await.unwrap();
    assert_eq!(dialled.connection.remote_address(), server.local_addr());
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_address_where_another_node_answers_is_passed_over_at_once() {
    let dir = authority();
    let (right, address) = server(dir.path(), 1);
    let (wrong, _) = server(dir.path(), 2);
    let peers = client(dir.path(), &address, |_| {});
    let dialled = dial_each(&peers.shared, 1, vec![wrong.local_addr(), right.local_addr()], in_a_second()).await;
    assert_eq!(dialled.unwrap().connection.remote_address(), right.local_addr());
}

#[tokio::test]
async fn an_error_names_each_address_that_was_tried() {
    let dir = authority();
    let (wrong, address) = server(dir.path(), 2);
    let peers = client(dir.path(), &address, |_| {});
    let (_bound, dead) = silent();
    let begun = Instant::now();
    let error = dial_each(&peers.shared, 1, vec![dead, wrong.local_addr()], in_a_second()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "one time limit for all: {:?}", begun.elapsed());
    let text = error_chain(&error);
    for part in [format!("{dead}: no answer within 1000 ms"), wrong.local_addr().to_string()] {
        assert!(text.contains(&part), "{text}");
    }
    assert!(error.is_transient(), "the silent one may come up");
}

/// Connections that open and close at the same time: what `rudder_peer_up` shows last is how it is.
#[tokio::test]
async fn up_shows_the_latest_of_two_changes() {
    let dir = authority();
    let peers = client(dir.path(), "127.0.0.1:1", |_| {});
    let stats = peers.stats();
    let link = Link::new(1, "127.0.0.1:1".to_owned(), 2);
    let (meeting, wrong) = (Barrier::new(FLAPPING), AtomicUsize::new(0));
    let flap = || {
        for _ in 0..ROUNDS {
            meeting.wait();
            link.count(stats, |open| open + 1);
            link.count(stats, |open| open - 1);
            meeting.wait();
            wrong.fetch_add(usize::from(stats.is_up(1)), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..FLAPPING).for_each(|_| drop(scope.spawn(flap)));
    });
    assert_eq!((link.open(), wrong.into_inner()), (0, 0), "up while no connection was open, of {ROUNDS} rounds");
}
