//! Meeting a peer, as `rudder doctor` does.

use super::*;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

fn probe(authority: &Path, address: &str, change: impl FnOnce(&mut PeersConfig)) -> Probe {
    let mut config = config(authority, 0);
    config.addresses.insert(1, address.to_owned());
    change(&mut config);
    Probe::start(&config, identity(0)).unwrap()
}

#[tokio::test]
async fn a_peer_is_met_and_packets_grow_as_far_as_both_ends_allow() {
    let dir = authority();
    let (server, address) = server(dir.path(), 1);
    let meeting = probe(dir.path(), &address, |_| {}).measure(1, PATIENCE).await.unwrap();
    assert_eq!((meeting.address, meeting.mtu), (server.local_addr(), 1452));
    assert!(meeting.rtt > Duration::ZERO && meeting.took >= meeting.rtt, "{meeting:?}");
    // The peer takes no more than its own peers.mtu.
    let larger = probe(dir.path(), &address, |config| config.mtu = 6000);
    let meeting = larger.measure(1, Duration::from_millis(800)).await.unwrap();
    assert!((1400..=1472).contains(&meeting.mtu), "{meeting:?}");
}

#[tokio::test]
async fn large_packets_are_found_to_arrive() {
    let dir = authority();
    let jumbo = PeersConfig { mtu: 6000, ..config(dir.path(), 1) };
    let server = Peers::start(&jumbo, identity(1), source(1)).unwrap();
    let probe = probe(dir.path(), &server.local_addr().to_string(), |config| config.mtu = 6000);
    assert_eq!(probe.measure(1, PATIENCE).await.unwrap().mtu, 6000);
}

#[tokio::test]
async fn who_does_not_answer_or_does_not_fit_is_told_in_time() {
    let dir = authority();
    let begin = Instant::now();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let met = probe(dir.path(), &address, |_| {}).measure(1, PATIENCE).await;
    assert_eq!(met, Err(DialError::NoAnswer { timeout_ms: 1_000 }));
    let (_server, address) = server(dir.path(), 2);
    let met = probe(dir.path(), &address, |_| {}).measure(1, PATIENCE).await;
    assert!(matches!(met, Err(DialError::Certificate(_))), "{met:?}");
    assert!(begin.elapsed() < PATIENCE);
}
