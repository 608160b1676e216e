//! A peer whose name has several addresses.

use super::super::dial::dial_each;
use super::*;

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
