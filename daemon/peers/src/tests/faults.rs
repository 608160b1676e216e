//! Peers that are away, die, lie or talk garbage: a bounded, typed error for the one who asked, and no harm to others.

use quinn::{Connection, RecvStream, SendStream, VarInt};

use super::super::context::read_hello;
use super::super::wire::{BlockHeader, HelloReply, ResponseHeader, UpdateRequest, hello_frame};
use super::*;

/// A node 1 whose answers the test writes: `script` gets each request stream with the number of its connection.
async fn impostor<F, R>(authority: &Path, script: F) -> String
where
    F: Fn(usize, Connection, SendStream, RecvStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let config = config(authority, 1);
    let transport = Transport::bind(&config, &Credentials::load(&config, 1).unwrap()).unwrap();
    let address = transport.address.to_string();
    tokio::spawn(async move {
        for nth in 0.. {
            let connection = transport.endpoint.accept().await.unwrap().await.unwrap();
            let (mut send, mut recv) = connection.accept_bi().await.unwrap();
            read_hello(&mut recv).await.unwrap();
            let hello = wire::Hello { node: 1, parts: PARTS, fingerprint: 0xfeed };
            send.write_all(&hello_frame(PROTOCOL_VERSION, &HelloReply::Welcome(hello, Stamp::default())).unwrap())
                .await
                .unwrap();
            send.finish().unwrap();
            while let Ok((send, recv)) = connection.accept_bi().await {
                script(nth, connection.clone(), send, recv).await;
            }
        }
    });
    address
}

fn block(ids: &[u64]) -> Vec<u8> {
    let rows: Vec<u8> = ids.iter().flat_map(|id| truth(*id)).collect();
    let checksum = xxhash_rust::xxh3::xxh3_64(&rows);
    let mut bytes = frame(&BlockHeader::Rows { rows: ids.len() as u32, checksum }).unwrap();
    bytes.extend(rows);
    bytes
}

#[tokio::test]
async fn a_peer_that_is_down_fails_within_bounds_and_then_at_once() {
    let dir = authority();
    // Bound, so that nobody else answers there, and never read.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let peers = client(dir.path(), &address, |config| {
        config.connect_timeout_ms = 300;
        config.reconnect_backoff_ms_min = 2_000;
    });
    let begin = Instant::now();
    let error = fetch(&peers, &[1; 77]).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(1_500), "{:?}", begin.elapsed());
    let text = error_chain(&error);
    assert!(error.is_transient() && text.contains("77 rows") && text.contains("peer 1"), "{text}");
    assert!(text.contains(&address) && text.contains("is rudderd running there"), "{text}");
    // During the back-off nobody waits.
    let begin = Instant::now();
    let error = fetch(&peers, &[1]).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    assert!(matches!(error, PeerError::Unreachable { retry_ms: 1.., .. }), "{error}");
    let status = &peers.status()[0];
    assert!(status.connections == 0 && status.last_error.is_some() && status.retry_ms.is_some());
    assert_eq!(peers.stats().totals.fetches_failed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_peer_that_comes_up_late_is_found() {
    let dir = authority();
    let (first, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.reconnect_backoff_ms_max = 100);
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    first.shutdown(Duration::ZERO).await;
    drop(first);
    assert!(fetch(&peers, &[1]).await.is_err());
    assert_eq!(peers.status()[0].connections, 0);
    let mut again = config(dir.path(), 1);
    again.listen = address.parse().unwrap();
    let _second = Peers::start(&again, identity(1), source(1)).unwrap();
    let begin = Instant::now();
    while fetch(&peers, &[1]).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(peers.status()[0].last_error, None);
}

#[tokio::test]
async fn a_connection_lost_in_mid_answer_is_made_good_once() {
    let dir = authority();
    let script = |nth: usize, connection: Connection, mut send: SendStream, _recv| async move {
        let header = frame(&ResponseHeader::Rows { count: 2 }).unwrap();
        send.write_all(&header).await.unwrap();
        let block = block(&[1, 5]);
        if nth == 0 {
            send.write_all(&block[..50]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            connection.close(VarInt::from_u32(77), b"killed");
        } else {
            send.write_all(&block).await.unwrap();
            send.finish().unwrap();
        }
    };
    let peers = client(dir.path(), &impostor(dir.path(), script).await, |_| {});
    check(&fetch(&peers, &[1, 5]).await.unwrap(), &[1, 5]);
    assert_eq!(peers.stats().totals.requests_repeated.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_lost_twice_is_an_error() {
    let dir = authority();
    let script = |_, connection: Connection, _, _| async move { connection.close(VarInt::from_u32(77), b"killed") };
    let peers = client(dir.path(), &impostor(dir.path(), script).await, |_| {});
    let error = fetch(&peers, &[1, 5]).await.unwrap_err();
    assert!(matches!(&error, PeerError::Lost { peer: 1, rows: 2, cause, .. } if cause.contains("killed")), "{error}");
}

#[tokio::test]
async fn a_corrupt_block_is_detected() {
    let dir = authority();
    let script = |_, _, mut send: SendStream, _| async move {
        let mut bytes = frame(&ResponseHeader::Rows { count: 3 }).unwrap();
        bytes.extend(block(&[1]));
        bytes.extend(block(&[5, 9]));
        *bytes.last_mut().unwrap() ^= 1;
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
    };
    let peers = client(dir.path(), &impostor(dir.path(), script).await, |_| {});
    let error = fetch(&peers, &[1, 5, 9]).await.unwrap_err();
    let checksum = WireError::Checksum { first: 1, last: 2 };
    assert!(matches!(&error, PeerError::Broken { error, .. } if *error == checksum), "{error}");
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_told_apart() {
    let dir = authority();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let script = move |_, _, mut send: SendStream, _| {
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        async move {
            let header = frame(&ResponseHeader::Rows { count: 1 }).unwrap();
            let bytes = match nth {
                0 => vec![0xff; 100],
                1 => [header, block(&[1])[..20].to_vec()].concat(),
                2 => [header, block(&[1]), vec![0]].concat(),
                3 => [header, block(&[1, 5])].concat(),
                _ => return std::future::pending().await,
            };
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
        }
    };
    let peers = client(dir.path(), &impostor(dir.path(), script).await, |config| config.request_timeout_ms = 300);
    let expected = [
        WireError::Oversized { bytes: 65_535 },
        WireError::Truncated,
        WireError::Excess,
        WireError::BlockRows { announced: 2, due: 1 },
    ];
    for expected in expected {
        let error = fetch(&peers, &[1]).await.unwrap_err();
        assert!(matches!(&error, PeerError::Broken { error, .. } if *error == expected), "{error}");
    }
    let begin = Instant::now();
    let error = fetch(&peers, &[1]).await.unwrap_err();
    assert!(matches!(error, PeerError::Timeout { timeout_ms: 300, .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_millis(1_000));
}

/// A client with a good certificate that writes what it likes.
async fn vandal(authority: &Path, address: &str) -> (Transport, Connection) {
    let config = config(authority, 3);
    let transport = Transport::bind(&config, &Credentials::load(&config, 3).unwrap()).unwrap();
    let address = address.parse().unwrap();
    let connecting = transport.endpoint.connect_with(transport.client.clone(), address, "node-1.test.rudder").unwrap();
    let connection = connecting.await.unwrap();
    (transport, connection)
}

#[tokio::test]
async fn garbage_on_a_stream_is_answered_and_hurts_nobody() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |_| {});
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    // As a Hello: the connection is closed with a code and words.
    let hello = |rest: &[u8]| [b"RDPR", &PROTOCOL_VERSION.to_le_bytes()[..], rest].concat();
    let garbage = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), hello(b"\xff\xff"), hello(b"\x02\x00\xff\xff"), b"RD".to_vec()];
    for garbage in &garbage {
        let (_transport, connection) = vandal(dir.path(), &address).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(garbage).await.unwrap();
        send.finish().unwrap();
        match connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, code::PROTOCOL, "{close}");
                assert!(!close.reason.is_empty());
            }
            other => panic!("{other}"),
        }
    }
    // As a request, after a good Hello: an answer in words, and the connection lives on.
    let (_transport, connection) = vandal(dir.path(), &address).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello = wire::Hello { node: 3, parts: PARTS, fingerprint: 0xfeed };
    send.write_all(&hello_frame(PROTOCOL_VERSION, &hello).unwrap()).await.unwrap();
    read_hello(&mut recv).await.unwrap().message::<HelloReply>().unwrap();
    let request = RowsRequest { table: 0, row_bytes: ROW_BYTES as u32, count: 3, class: Class::Demand, request: 7 };
    let head = frame(&Request::Rows(request)).unwrap();
    let truncated = [head.clone(), vec![0; 20]].concat();
    let excess = [head, vec![0; 25]].concat();
    let update_request =
        UpdateRequest { table: 0, row_bytes: ROW_BYTES as u32, count: 1, writer: Stamp::default(), checksum: 7 };
    let update = |request| frame(&Request::Update(request)).unwrap();
    let damaged = [update(update_request), vec![0; 8 + ROW_BYTES]].concat();
    let long = update(UpdateRequest { row_bytes: u32::MAX, count: 60_000, ..update_request });
    let huge = frame(&Request::Rows(RowsRequest { count: u32::MAX, ..request })).unwrap();
    for (garbage, says) in [
        (vec![0xff; 3_000], "over the limit"),
        (vec![3, 0, 0xff, 0xff, 0xff], "does not decode"),
        (truncated, "ended inside"),
        (excess, "follow the last"),
        (huge, "TooManyRows"),
        (damaged, "do not match their checksum"),
        (long, "the longest row here has 40"),
    ] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let _ = send.write_all(&garbage).await;
        let _ = send.finish();
        let answer = recv.read_to_end(2_000).await.unwrap();
        let mut decoder = ResponseDecoder::new(Expected::Rows { count: 3, row_bytes: ROW_BYTES });
        decoder.control(&answer[..2]).unwrap();
        let error = format!("{:?}", decoder.control(&answer[2..]).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(connection.close_reason(), None);
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shutdown_finishes_answers_and_refuses_new_ones() {
    let dir = authority();
    let (entered, waits) = std::sync::mpsc::channel();
    let before = Box::new(move |table| {
        if table == 1 {
            let _ = entered.send(());
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let server = Peers::start(
        &config(dir.path(), 1),
        identity(1),
        Arc::new(Truth { node: 1, before, updates: Mutex::default() }),
    )
    .unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let slow = Arc::clone(&peers);
    let slow = tokio::spawn(async move { slow.fetch(1, 1, ROW_BYTES, &[1, 5], Class::Demand).await });
    tokio::task::spawn_blocking(move || waits.recv()).await.unwrap().unwrap();
    let begin = Instant::now();
    let drain = tokio::spawn(async move { server.shutdown(Duration::from_secs(5)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = fetch(&peers, &[1]).await.unwrap_err();
    assert!(matches!(refused, PeerError::Remote { error: RemoteError::Draining, .. }), "{refused}");
    check(&slow.await.unwrap().unwrap(), &[1, 5]);
    drain.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    // And this node's own fetches end with its shutdown.
    peers.shutdown(Duration::from_secs(1)).await;
    assert!(matches!(fetch(&peers, &[1]).await, Err(PeerError::ShuttingDown { peer: 1, rows: 1 })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_peer_says_busy() {
    let dir = authority();
    let before = Box::new(|table| {
        if table == 1 {
            std::thread::sleep(Duration::from_millis(600));
        }
    });
    let config = PeersConfig { demand_requests_max: 1, request_timeout_ms: 400, ..config(dir.path(), 1) };
    let server =
        Peers::start(&config, identity(1), Arc::new(Truth { node: 1, before, updates: Mutex::default() })).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let slow = Arc::clone(&peers);
    let slow = tokio::spawn(async move { slow.fetch(1, 1, ROW_BYTES, &[1], Class::Demand).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = fetch(&peers, &[1]).await.unwrap_err();
    assert!(matches!(error, PeerError::Remote { error: RemoteError::Busy { limit: 1, .. }, .. }), "{error}");
    check(&slow.await.unwrap().unwrap(), &[1]);
}

/// As by SIGSTOP: the peer's sockets stay, nobody reads them.
#[tokio::test]
async fn a_peer_that_falls_silent_costs_one_time_out() {
    let dir = authority();
    let path = dir.path().to_owned();
    let (address, addresses) = std::sync::mpsc::channel();
    let (freeze, frozen) = std::sync::mpsc::channel::<()>();
    let node = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_server, own) = server(&path, 1);
            address.send(own).unwrap();
            while frozen.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Blocks the node's only thread until the test ends.
            let _ = frozen.recv();
        });
    });
    let peers = client(dir.path(), &addresses.recv().unwrap(), |config| {
        config.request_timeout_ms = 400;
        config.connect_timeout_ms = 200;
        config.reconnect_backoff_ms_min = 2_000;
    });
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    freeze.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = fetch(&peers, &[1, 5]).await.unwrap_err();
    assert!(matches!(error, PeerError::Timeout { rows: 2, .. }), "{error}");
    // The silent connection is closed, so that the next fetch finds the peer away, and the ones after that at once.
    assert!(matches!(fetch(&peers, &[1]).await, Err(PeerError::Unreachable { .. })));
    let begin = Instant::now();
    assert!(matches!(fetch(&peers, &[1]).await, Err(PeerError::Unreachable { .. })));
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    assert_eq!(peers.status()[0].connections, 0);
    drop(freeze);
    node.join().unwrap();
}
