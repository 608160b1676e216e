//! Nodes that do not belong together find out at once, in words, on both sides.

use super::*;

/// The error that node 0 gets when it fetches from `server`, and what both sides log.
async fn told(peers: &Peers, log: &Log) -> (DialError, String, String) {
    let begin = Instant::now();
    let error = fetch(peers, &[1, 5, 9]).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(3));
    // The other side logs when it has seen the close.
    for _ in 0..100 {
        if log.text().contains("peer turned away") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = error_chain(&error);
    assert!(text.contains("peer 1 (127.0.0.1:") && text.contains("3 rows"), "{text}");
    match error {
        PeerError::Unreachable { cause, .. } => (cause, text, log.text()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn another_authority() {
    let log = Log::default();
    let _installed = log.install();
    let (ours, theirs) = (authority(), authority());
    let (_server, address) = server(theirs.path(), 1);
    let peers = client(ours.path(), &address, |_| {});
    let (cause, text, log) = told(&peers, &log).await;
    assert!(matches!(cause, DialError::Certificate(_)), "{text}");
    assert!(text.contains("same authority") && text.contains("UnknownIssuer"), "{text}");
    assert!(log.contains("peer turned away"), "{log}");
}

/// The server's certificate is fine, the dialling node's is of another authority.
#[tokio::test]
async fn a_client_of_another_authority() {
    let log = Log::default();
    let _installed = log.install();
    let (ours, theirs) = (authority(), authority());
    let (_server, address) = server(theirs.path(), 1);
    let peers = client(ours.path(), &address, |config| config.authority = theirs.path().join("ca.pem"));
    let (cause, text, log) = told(&peers, &log).await;
    assert!(matches!(cause, DialError::Certificate(_)), "{text}");
    assert!(text.contains("rejected this node's"), "{text}");
    assert!(log.contains("peer turned away") && log.contains("UnknownIssuer"), "{log}");
}

#[tokio::test]
async fn another_node_than_the_one_meant() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 2);
    let peers = client(dir.path(), &address, |_| {});
    let error = error_chain(&fetch(&peers, &[1]).await.unwrap_err());
    assert!(error.contains("node-1.test.rudder") && error.contains("node-2.test.rudder"), "{error}");
}

#[tokio::test]
async fn another_protocol_version() {
    let log = Log::default();
    let _installed = log.install();
    let dir = authority();
    let server = Peers::start_with(&config(dir.path(), 1), identity(1), source(1), 9, Transport::bind).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let (cause, _, log) = told(&peers, &log).await;
    assert_eq!(cause, DialError::Version { ours: PROTOCOL_VERSION, theirs: 9 });
    let ours = format!("it speaks protocol version {PROTOCOL_VERSION}, this node 9");
    assert!(log.contains(&ours), "{log}");
}

#[tokio::test]
async fn another_dataset() {
    let log = Log::default();
    let _installed = log.install();
    let dir = authority();
    let other = Identity { fingerprint: 0xbad, ..identity(1) };
    let server = Peers::start(&config(dir.path(), 1), other, source(1)).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let (cause, text, log) = told(&peers, &log).await;
    assert_eq!(cause, DialError::Fingerprint { ours: 0xfeed, theirs: 0xbad });
    assert!(text.contains("000000000000feed") && text.contains("0000000000000bad"), "{text}");
    assert!(log.contains("fingerprint 000000000000feed, this node's 0000000000000bad"), "{log}");
}

#[tokio::test]
async fn another_number_of_partitions() {
    let log = Log::default();
    let _installed = log.install();
    let dir = authority();
    let other = Identity { parts: 9, ..identity(1) };
    let server = Peers::start(&config(dir.path(), 1), other, source(1)).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let (cause, ..) = told(&peers, &log).await;
    assert_eq!(cause, DialError::Parts { ours: PARTS, theirs: 9 });
}

/// A certificate that is valid, but says another node than the configuration.
#[tokio::test]
async fn credentials_that_cannot_work_are_named() {
    let dir = authority();
    let start = |change: &dyn Fn(&mut PeersConfig)| {
        let mut config = config(dir.path(), 1);
        change(&mut config);
        error_chain(&Peers::start(&config, identity(1), source(1)).unwrap_err())
    };
    let error = start(&|config| config.certificate = dir.path().join("node-2.pem"));
    assert!(error.contains("node-2.pem") && error.contains("node.index is 1"), "{error}");
    let error = start(&|config| config.key = dir.path().join("node-2.key"));
    assert!(error.contains("does not fit"), "{error}");
    let error = start(&|config| config.authority = dir.path().join("nowhere.pem"));
    assert!(error.contains("nowhere.pem") && error.contains("rudder certs init"), "{error}");
    let error = start(&|config| config.certificate = dir.path().join("ca.pem"));
    assert!(error.contains("names no node"), "{error}");
    let error = start(&|config| config.mtu = 900);
    assert!(error.contains("peers.mtu"), "{error}");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = start(&|config| config.listen = taken.local_addr().unwrap());
    assert!(error.contains("peers.listen") && error.contains("in use"), "{error}");
}
