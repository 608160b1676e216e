//! Rows arrive bit for bit, in order, and wrong requests get errors that name the culprit.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_bit_for_bit_over_split_requests() {
    let dir = authority();
    let (server, address) = server(dir.path(), 1);
    // 1,000 rows per request and 7 per block: both kinds of split, uneven ends, several requests at once.
    let peers = client(dir.path(), &address, |config| {
        config.request_rows_max = 1_000;
        config.connections_per_peer = 2;
    });
    for count in [0, 1, 6, 999, 1_000, 1_001, 25_003] {
        let ids: Vec<u64> = (0..count).map(|_| fastrand::u64(0..ROWS / 4) * 4 + 1).collect();
        for class in [Class::Demand, Class::Bulk] {
            check(&peers.fetch(1, 0, ROW_BYTES, &ids, class).await.unwrap(), &ids);
        }
    }
    let status = &peers.status()[0];
    assert_eq!((status.node, status.connections, status.last_error.clone()), (1, 2, None));
    let rows = 2 * (1 + 6 + 999 + 1_000 + 1_001 + 25_003);
    assert_eq!(peers.stats().totals.rows_received.load(Ordering::Relaxed), rows);
    assert_eq!(server.stats().totals.rows_sent.load(Ordering::Relaxed), rows);
    assert_eq!(status.bytes_received, rows * ROW_BYTES as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fetches_at_once_keep_their_rows_apart() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |_| {});
    let fetches: Vec<_> = (0..64)
        .map(|_| {
            let peers = Arc::clone(&peers);
            tokio::spawn(async move {
                let ids: Vec<u64> = (0..500).map(|_| fastrand::u64(0..ROWS / 4) * 4 + 1).collect();
                check(&fetch(&peers, &ids).await.unwrap(), &ids);
            })
        })
        .collect();
    for fetch in fetches {
        fetch.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_and_a_jumbo_mtu_work() {
    for mtu in [1_200, 1_452, 6_500, 9_000] {
        let dir = authority();
        let start = |node: u16, address: Option<String>| {
            let mut config = config(dir.path(), node);
            config.mtu = mtu;
            config.addresses = address.map(|address| (1 - node, address)).into_iter().collect();
            Peers::start(&config, identity(node), source(node)).unwrap()
        };
        let server = start(1, None);
        let peers = start(0, Some(server.local_addr().to_string()));
        let ids: Vec<u64> = (0..60_000).map(|i| i * 4 + 1).collect();
        check(&fetch(&peers, &ids).await.unwrap(), &ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peers_own_threads_serve_callers_of_any_runtime() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.threads = 1);
    let other = Arc::clone(&peers);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { check(&fetch(&other, &[1, 5]).await.unwrap(), &[1, 5]) });
    });
    thread.join().unwrap();
    // The first caller's runtime is gone, its connection is not.
    check(&fetch(&peers, &[9]).await.unwrap(), &[9]);
    assert_eq!(peers.stats().totals.requests_repeated.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_name_the_culprit() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.request_rows_max = 100_000);
    let remote = |outcome: Result<RowBatch, PeerError>| match outcome.unwrap_err() {
        PeerError::Remote { peer: 1, rows, table, error, .. } => (rows, table, error),
        other => panic!("{other}"),
    };
    let not_owned = remote(fetch(&peers, &[1, 5, 6, 9]).await);
    assert_eq!(not_owned, (4, 0, RemoteError::NotOwned { id: 6 }));
    let out_of_range = remote(fetch(&peers, &[1, ROWS + 1]).await);
    assert_eq!(out_of_range, (2, 0, RemoteError::OutOfRange { id: ROWS + 1, rows: ROWS }));
    let table = remote(peers.fetch(1, 7, ROW_BYTES, &[1], Class::Demand).await);
    assert_eq!(table, (1, 7, RemoteError::UnknownTable { table: 7 }));
    let width = remote(peers.fetch(1, 1, ROW_BYTES + 4, &[1], Class::Demand).await);
    assert_eq!(width, (1, 1, RemoteError::RowBytes { theirs: 40, asked: 44 }));
    let ids: Vec<u64> = (0..65_537).map(|i| i * 4 + 1).collect();
    let too_many = remote(fetch(&peers, &ids).await);
    assert_eq!(too_many.2, RemoteError::TooManyRows { rows: 65_537, rows_max: 65_536 });
    let unknown = peers.fetch(2, 0, ROW_BYTES, &[1, 2], Class::Demand).await.unwrap_err().to_string();
    assert!(unknown.contains("node 2") && unknown.contains("2 rows"), "{unknown}");
    // None of it hurt the connection.
    check(&fetch(&peers, &[1]).await.unwrap(), &[1]);
    assert_eq!(peers.status()[0].connections, 1);
}

/// Holds table 1 (asked for as bulk) until released, or until the test has failed anyway.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn demand_is_answered_while_every_place_for_bulk_is_taken() {
    let dir = authority();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let before = Box::new(move |table| {
        if table == 1 {
            let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(Duration::from_secs(2));
        }
    });
    let config = PeersConfig { bulk_requests_max: 2, ..config(dir.path(), 1) };
    let server =
        Peers::start(&config, identity(1), Arc::new(Truth { node: 1, before, updates: Mutex::default() })).unwrap();
    let peers = client(dir.path(), &server.local_addr().to_string(), |_| {});
    let bulk: Vec<_> = (0..8)
        .map(|_| {
            let peers = Arc::clone(&peers);
            tokio::spawn(async move { peers.fetch(1, 1, ROW_BYTES, &[1, 5], Class::Bulk).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..20 {
        check(&fetch(&peers, &[1, 9]).await.unwrap(), &[1, 9]);
    }
    assert!(bulk.iter().all(|bulk| !bulk.is_finished()));
    drop(release);
    for bulk in bulk {
        check(&bulk.await.unwrap().unwrap(), &[1, 5]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_demand_fetch_overtakes_a_large_bulk_fetch() {
    let dir = authority();
    let (_server, address) = server(dir.path(), 1);
    let peers = client(dir.path(), &address, |config| config.request_timeout_ms = 60_000);
    let bulk_peers = Arc::clone(&peers);
    let bulk = tokio::spawn(async move {
        let ids: Vec<u64> = (0..2_000_000).map(|i| i % 1_000_000 * 4 + 1).collect();
        bulk_peers.fetch(1, 0, ROW_BYTES, &ids, Class::Bulk).await.map(|batch| batch.len())
    });
    // The bulk fetch is on its way once its bytes flow.
    tokio::time::sleep(Duration::from_millis(30)).await;
    for _ in 0..5 {
        check(&fetch(&peers, &[1, 9]).await.unwrap(), &[1, 9]);
    }
    assert!(!bulk.is_finished(), "five demand fetches of two rows took longer than 80 MB of bulk");
    assert_eq!(bulk.await.unwrap().unwrap(), 2_000_000);
}
