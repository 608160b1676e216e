//! Changes and updates between nodes: what was sent is what arrives, once, and what makes no sense changes nothing.

use super::*;

const WRITER: Stamp = Stamp { incarnation: 77, clock: 100 };

fn rewrite<'a>(ids: &'a [u64], rows: &'a [u8]) -> Rewrite<'a> {
    Rewrite { table: 0, row_bytes: ROW_BYTES, ids, rows, writer: WRITER }
}

fn rows_of(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|&id| truth(id)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_arrive_as_they_are() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let rows = ROWS / u64::from(PARTS);
    // Small blocks: the words come in several.
    let peers = client(dir.path(), &address, |config| config.response_block_bytes = 64);
    assert!(peers.met(1).is_none());
    let source = source(1);
    for since in [Stamp { incarnation: 1, clock: 0 }, Stamp { incarnation: 1, clock: 3 }, Stamp::default()] {
        let changes = peers.changes(1, 0, rows, since).await.unwrap();
        assert_eq!(changes, source.changes(0, since).unwrap());
    }
    let met = peers.met(1).unwrap();
    assert_eq!((met.first, met.last), (source.stamp(), source.stamp()));
    let changes = peers.changes(1, 0, rows, met.first).await.unwrap();
    assert!(changes.is_empty() && !changes.holds(0));
    let changes = peers.changes(1, 0, rows, Stamp { clock: 0, ..met.first }).await.unwrap();
    assert!(
        changes.holds(0) && !changes.holds(63) && !changes.holds(64) && changes.holds(7 * 64) && !changes.is_empty()
    );
    // A bitmap of another length than that of the part is no answer.
    let broken = peers.changes(1, 0, rows * 2, Stamp { clock: 0, ..met.first }).await.unwrap_err();
    assert!(matches!(broken, PeerError::Broken { error: WireError::BlockRows { .. }, .. }), "{broken}");
    let unknown = peers.changes(1, 9, rows, met.first).await.unwrap_err();
    assert!(matches!(unknown, PeerError::Remote { error: RemoteError::UnknownTable { table: 9 }, .. }), "{unknown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_arrive_bit_for_bit_in_numbered_pieces() {
    let dir = authority();
    let source = source(1);
    let server = Peers::start(&config(dir.path(), 1), identity(1), Arc::clone(&source) as Arc<dyn RowSource>).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |config| config.request_rows_max = 1_000);
    let ids: Vec<u64> = (0..2_500).map(|i| i * 4 + 1).collect();
    peers.update(1, rewrite(&ids, &rows_of(&ids))).await.unwrap();
    peers.update(1, rewrite(&[], &[])).await.unwrap();
    let number = |clock| Stamp { clock, ..WRITER };
    let pieces = [(0, number(100), 1_000, 40_000), (0, number(101), 1_000, 40_000), (0, number(102), 500, 20_000)];
    assert_eq!(source.updates.lock().unwrap()[..], pieces);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_fails_says_what_was_applied() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.request_rows_max = 10);
    let mut ids: Vec<u64> = (0..30).map(|i| i * 4 + 1).collect();
    ids[25] = 6;
    let failed = peers.update(1, rewrite(&ids, &rows_of(&ids))).await.unwrap_err();
    assert_eq!(failed.applied, 20);
    assert!(error_chain(&failed).contains("10 rows of table 0: it does not own id 6"), "{failed}");
    let failed = peers.update(1, Rewrite { row_bytes: 20, ..rewrite(&[1], &[0; 20]) }).await.unwrap_err();
    let PeerError::Remote { error, .. } = failed.cause else { panic!("{failed}") };
    assert_eq!(error, RemoteError::RowBytes { theirs: 40, asked: 20 });
    let failed = peers.update(3, rewrite(&[3], &[0; 40])).await.unwrap_err();
    assert!(matches!(failed.cause, PeerError::UnknownPeer { peer: 3, rows: 1 }), "{failed}");
    // None of it hurt the connection.
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    assert_eq!(peers.status()[0].connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn updates_wait_for_a_place_and_are_told_when_there_is_none() {
    let dir = authority();
    let before = Box::new(|_| std::thread::sleep(Duration::from_millis(400)));
    let slow = Truth { node: 1, before, updates: Mutex::default() };
    let config = PeersConfig { update_requests_max: 1, request_timeout_ms: 500, ..config(dir.path(), 1) };
    let server = Peers::start(&config, identity(1), Arc::new(slow)).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let both = [1u64, 5].map(|id| {
        let peers = Arc::clone(&peers);
        tokio::spawn(async move { peers.update(1, rewrite(&[id], &rows_of(&[id]))).await })
    });
    let mut outcomes = Vec::new();
    for update in both {
        outcomes.push(update.await.unwrap().map_err(|failed| error_chain(&failed)));
    }
    outcomes.sort();
    assert_eq!(outcomes[0], Ok(()));
    assert!(outcomes[1].as_ref().unwrap_err().contains("busy"), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_as_another_process_is_noticed() {
    let dir = authority();
    let (server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.reconnect_backoff_ms_max = 50);
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    server.shutdown(Duration::from_secs(1)).await;
    drop(server);
    struct Reborn(Arc<Truth>);
    impl RowSource for Reborn {
        fn row_bytes(&self, table: u16) -> Option<usize> {
            self.0.row_bytes(table)
        }
        fn copy_rows(&self, table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
            self.0.copy_rows(table, ids, out)
        }
        fn stamp(&self) -> Stamp {
            Stamp { incarnation: 500, clock: 0 }
        }
    }
    let config = PeersConfig { listen: address.parse().unwrap(), ..config(dir.path(), 1) };
    let begin = Instant::now();
    // The tasks of the first one let go of the port when they have noticed.
    let _server = loop {
        match Peers::start(&config, identity(1), Arc::new(Reborn(source(1)))) {
            Ok(server) => break server,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    while fetch(&peers, &[5]).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::timeout(Duration::from_secs(5), peers.renewed()).await.unwrap();
    let met = peers.met(1).unwrap();
    assert_eq!((met.first.incarnation, met.last.incarnation), (1, 500));
    assert!(peers.changes(1, 0, ROWS / 4, met.first).await.unwrap().all);
}
