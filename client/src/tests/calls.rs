//! Calls about several tables, calls that are not answered, and the end of a client.

use super::{Line, WIDTH, check, daemon, rows_of};
use crate::wire::{ErrorCode, IdRun, IdWidth, Notice, PartIds, Request};
use crate::{ArenaHooks, Client, ClientError, ConnectOptions, FetchOptions, Ids, Part};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// A daemon that answers all calls, and the requests that it got.
fn recording() -> (super::Daemon, Arc<Mutex<Vec<Request>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&requests);
    let daemon = daemon(move |line, _| {
        while let Some((call, payload)) = line.call() {
            record.lock().unwrap().push(call.request.clone());
            line.serve(&call, &payload);
        }
    });
    (daemon, requests)
}

fn part_ids(request: &Request) -> Vec<PartIds> {
    match request {
        Request::Fetch { parts, .. } => parts.iter().map(|part| part.ids).collect(),
        Request::Announce { parts, .. } => parts.iter().map(|part| part.ids).collect(),
        _ => Vec::new(),
    }
}

fn widths(requests: &Mutex<Vec<Request>>) -> Vec<IdWidth> {
    let width = |ids: PartIds| if let PartIds::Given(IdRun { width, .. }) = ids { Some(width) } else { None };
    requests.lock().unwrap().iter().flat_map(part_ids).filter_map(width).collect()
}

#[test]
fn several_tables_are_one_call_and_the_same_ids_cross_once() {
    for inline in [false, true] {
        let (daemon, requests) = recording();
        let client = Client::connect(ConnectOptions { inline, ..daemon.options() }).unwrap();
        let (ids, other): (Vec<u64>, Vec<i32>) = ((0..100).collect(), vec![7, 7]);
        let parts = [Part::new("feat", &ids), Part::new("small", &ids), Part::new("small", &other)];
        let rows = client.fetch_parts(&parts, FetchOptions::default()).unwrap();
        check(&rows[0], &ids);
        check(&rows[1], &ids);
        check(&rows[2], &[7, 7]);
        let calls: Vec<Vec<PartIds>> =
            requests.lock().unwrap().iter().map(part_ids).filter(|p| !p.is_empty()).collect();
        assert_eq!(calls.len(), 1, "one call");
        assert!(matches!(calls[0][..], [PartIds::Given(_), PartIds::Of(0), PartIds::Given(_)]), "{calls:?}");
        assert!(client.fetch_parts(&[], FetchOptions::default()).unwrap().is_empty());
    }
}

#[test]
fn rows_of_one_table_that_are_kept_keep_no_others() {
    let (daemon, _) = recording();
    let client = daemon.connect();
    let ids: Vec<u64> = (0..100).collect();
    let fetch = || client.fetch_parts(&[Part::new("feat", &ids), Part::new("small", &ids)], FetchOptions::default());
    let mut first = fetch().unwrap();
    let (kept, gone) = (first.pop().unwrap(), first.pop().unwrap());
    let at = gone.bytes().as_ptr();
    drop(gone);
    let second = fetch().unwrap();
    assert_eq!(second[0].bytes().as_ptr(), at, "the first table's memory is used again");
    check(&kept, &ids);
}

#[test]
fn ids_are_as_wide_on_the_wire_as_their_table_needs() {
    let (daemon, requests) = recording();
    let client = daemon.connect();
    let fetch = |table, ids: Ids<'_>| client.fetch_parts(&[Part::new(table, ids)], FetchOptions::default());
    check(&fetch("small", (&[3u64, 999]).into()).unwrap()[0], &[3, 999]);
    check(&fetch("small", (&[3i64, 999]).into()).unwrap()[0], &[3, 999]);
    check(&fetch("feat", (&[3u32, 999]).into()).unwrap()[0], &[3, 999]);
    check(&fetch("feat", (&[3i64, 1 << 33]).into()).unwrap()[0], &[3, 1 << 33]);
    check(&fetch("small", (&[3u64, 1 << 33]).into()).unwrap()[0], &[3, 1 << 33]);
    let (four, eight) = (IdWidth::Four, IdWidth::Eight);
    assert_eq!(widths(&requests), [four, four, four, eight, eight], "an id beyond the table is the daemon's to refuse");
    for table in ["feat", "small"] {
        let error = fetch(table, (&[3i64, -4]).into()).unwrap_err();
        assert!(matches!(error, ClientError::NegativeId { at: 1, id: -4 }), "{error}");
        let error = client.announce_parts(&[Part::new(table, &[3i32, -4])], None, 1).unwrap_err();
        assert!(matches!(error, ClientError::NegativeId { at: 1, id: -4 }), "{error}");
    }
}

#[test]
fn an_announcement_waits_for_nobody_and_keeps_its_ids_until_they_were_read() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let daemon = daemon(move |line, _| {
        let (hello, payload) = line.call().unwrap();
        line.serve(&hello, &payload);
        let (arena, payload) = line.call().unwrap();
        line.serve(&arena, &payload);
        wait.lock().unwrap().recv().unwrap();
        // Ids are read only now, long after the client went on.
        let mut seen = Vec::new();
        while let Some((call, payload)) = line.call() {
            if let PartIds::Given(run) = part_ids(&call.request).first().copied().unwrap_or(PartIds::Of(0)) {
                seen.extend(line.ids(&run, &mut &payload[..]));
            }
            if matches!(call.request, Request::Status) {
                line.answer(call.id, crate::wire::Reply::Status(format!("{seen:?}")), &[]);
            } else {
                line.serve(&call, &payload);
            }
        }
    });
    let client = daemon.connect();
    let expected: Vec<u64> = (0..10).flat_map(|batch| [batch, batch + 1]).collect();
    for batch in 0..10u64 {
        client.announce("feat", &[batch, batch + 1], batch).unwrap();
    }
    client.progress(0, 1, 2).unwrap();
    go.send(()).unwrap();
    assert_eq!(client.status().unwrap(), format!("{expected:?}"));
}

#[test]
fn what_announcements_lease_comes_back_though_they_have_no_answers() {
    let (daemon, requests) = recording();
    let client = Client::connect(ConnectOptions { arena_bytes_max: 16 << 20, ..daemon.options() }).unwrap();
    let ids = vec![5u64; 100_000];
    // 800 MB of ids through 16 MB of memory.
    for step in 0..1000 {
        let announced = client.announce("feat", &ids, step);
        if let Err(error) = announced {
            panic!("step {step}: {error}");
        }
    }
    check(&client.fetch("feat", &[1]).unwrap(), &[1]);
    let receipts = requests.lock().unwrap().iter().filter(|request| matches!(request, Request::Horizon { .. })).count();
    assert!(receipts > 10, "{receipts}");
}

#[test]
fn what_is_wrong_with_an_announcement_is_said_at_once_where_it_is_known_here() {
    let (daemon, requests) = recording();
    let client = daemon.connect();
    let announce = |table, ids: &[u64], step| client.announce(table, ids, step).unwrap_err();
    assert!(matches!(announce("nothing", &[1], None), ClientError::UnknownTable { .. }));
    let beyond = announce("small", &[1, 1000], None);
    assert_eq!(beyond.code(), Some(ErrorCode::IdOutOfRange));
    assert!(
        beyond
            .to_string()
            .contains("id 1000 (position 1 of the batch) is out of range: table `small` has ids 0 to 999"),
        "{beyond}"
    );
    let step = announce("small", &[1], Some(1 << 63));
    assert_eq!(step.code(), Some(ErrorCode::Argument), "{step}");
    assert_eq!(client.progress(0, 0, 0).unwrap_err().code(), Some(ErrorCode::Argument));
    client.status().unwrap();
    assert!(requests.lock().unwrap().iter().all(|request| !request.is_one_way()), "nothing of it was sent");
}

#[test]
fn notices_come_with_the_next_answer_and_only_the_last_ones_are_kept() {
    let daemon = daemon(|line: &mut Line, _| {
        let mut number = 0;
        while let Some((call, payload)) = line.call() {
            if matches!(call.request, Request::Announce { .. }) {
                line.notices.push(Notice { code: ErrorCode::Limit, message: number.to_string() });
                number += 1;
            }
            line.serve(&call, &payload);
        }
    });
    let client = daemon.connect();
    let said = || client.warnings().into_iter().map(|notice| notice.message).collect::<Vec<_>>();
    client.announce("feat", &[1], None).unwrap();
    check(&client.fetch("feat", &[1]).unwrap(), &[1]);
    assert_eq!(said(), ["0"]);
    assert!(said().is_empty());
    (0..100).for_each(|_| _ = client.announce("feat", &[1], None).unwrap());
    client.status().unwrap();
    let last = said();
    assert_eq!((last.len(), last[0].as_str(), last[63].as_str()), (64, "37", "100"));
}

#[test]
fn the_horizon_is_asked_for_once_and_then_comes_with_fetches() {
    let (daemon, requests) = recording();
    let client = daemon.connect();
    assert_eq!((client.horizon("feat").unwrap(), client.horizon("feat").unwrap()), (3, 3));
    check(&client.fetch("small", &[1]).unwrap(), &[1]);
    assert_eq!(client.horizon("small").unwrap(), 3);
    let asked = requests.lock().unwrap().iter().filter(|request| matches!(request, Request::Horizon { .. })).count();
    assert_eq!(asked, 1);
    assert_eq!(client.local_range("v").unwrap(), 3..9);
}

#[test]
fn a_batch_that_the_daemon_forgot_is_asked_for_with_its_ids() {
    let (daemon, requests) = recording();
    let client = daemon.connect();
    let options = FetchOptions { batch: Some(9), learn: false };
    check(&client.fetch_parts(&[Part::new("feat", &[4u64, 5])], options).unwrap()[0], &[4, 5]);
    let fetches: Vec<(Option<u64>, bool)> = requests
        .lock()
        .unwrap()
        .iter()
        .filter_map(|request| match request {
            Request::Fetch { batch, learn, .. } => Some((*batch, *learn)),
            _ => None,
        })
        .collect();
    assert_eq!(fetches, [(Some(9), false), (None, false)]);
    let pending = client.fetch_parts_async(&[Part::new("feat", &[4u64])], options).unwrap();
    assert_eq!(pending.wait().unwrap_err().code(), Some(ErrorCode::UnknownBatch));
}

#[test]
fn a_closed_client_says_so_and_its_rows_stay() {
    let daemon = daemon(|line, _| {
        let (call, payload) = line.until_fetch();
        line.serve(&call, &payload);
        line.serve_all();
    });
    let client = daemon.connect();
    let rows = client.fetch("feat", &[1, 2]).unwrap();
    let ready = client.fetch_async("feat", &[3]).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !ready.is_ready() {
        assert!(Instant::now() < until, "no answer");
    }
    client.close();
    client.close();
    assert!(matches!(client.fetch("feat", &[1]), Err(ClientError::Closed)));
    assert!(matches!(client.announce("feat", &[1], None), Err(ClientError::Closed)));
    assert!(matches!(client.progress(0, 0, 1), Err(ClientError::Closed)));
    check(&rows, &[1, 2]);
    check(&ready.wait().unwrap(), &[3]);
    assert_eq!(rows.bytes(), rows_of(&[1, 2]));
    assert_eq!(client.tables().len(), 2);
}

#[test]
fn a_fetch_in_flight_ends_when_its_client_is_closed() {
    let daemon = daemon(|line, _| {
        line.until_fetch();
        line.serve_all();
    });
    let client = daemon.connect();
    let pending = client.fetch_async("feat", &[1]).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || pending.wait());
        client.close();
        assert!(matches!(waiting.join().unwrap(), Err(ClientError::Closed)));
    });
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[derive(Debug, Default)]
struct Noted(Mutex<Vec<(usize, Option<usize>)>>);

impl ArenaHooks for Noted {
    fn created(&self, address: usize, bytes: usize) {
        self.0.lock().unwrap().push((address, Some(bytes)));
    }

    fn dropped(&self, address: usize) {
        self.0.lock().unwrap().push((address, None));
    }
}

#[test]
fn each_arena_is_told_of_once_and_again_before_it_goes() {
    let (daemon, _) = recording();
    let noted = Arc::new(Noted::default());
    let hooks: Option<Arc<dyn ArenaHooks>> = Some(Arc::clone(&noted) as Arc<dyn ArenaHooks>);
    let client = Client::connect(ConnectOptions { arena_hooks: hooks, ..daemon.options() }).unwrap();
    let told = || noted.0.lock().unwrap().clone();
    assert!(told().is_empty());
    let small = client.fetch("feat", &[1]).unwrap();
    let (first, bytes) = told()[0];
    assert_eq!((told().len(), bytes), (1, Some(16 << 20)));
    assert!((first..first + (16 << 20)).contains(&small.bytes().as_ptr().expose_provenance()));
    drop(small);
    let large = client.fetch("feat", &vec![1; 1 << 20]).unwrap();
    assert_eq!(told().len(), 3, "a larger arena, and the small one is gone: {:?}", told());
    assert!(told().contains(&(first, None)));
    drop(client);
    assert_eq!(told().len(), 3, "rows of it are held");
    let second = told().iter().find(|(address, _)| *address != first).unwrap().0;
    drop(large);
    assert_eq!(told()[3], (second, None));
}

#[test]
fn connecting_waits_for_a_daemon_as_long_as_it_was_told() {
    let path = super::socket_path();
    let options = ConnectOptions { timeout_ms: 5_000, wait_ms: 100, ..ConnectOptions::at(&path) };
    assert!(matches!(Client::connect(options.clone()), Err(ClientError::Connect { .. })));
    let waiting = ConnectOptions { wait_ms: 60_000, ..options };
    let connecting = std::thread::spawn(move || Client::connect(waiting).map(drop));
    std::thread::sleep(Duration::from_millis(50));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (stream, _) = listener.accept().unwrap();
    drop(stream);
    assert!(matches!(connecting.join().unwrap(), Err(ClientError::Lost(_))), "it found the listener");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn updates_and_tool_calls_arrive_as_they_were_sent() {
    for inline in [false, true] {
        let daemon = daemon(|line, _| line.serve_all());
        let client = Client::connect(ConnectOptions { inline, ..daemon.options() }).unwrap();
        for count in [0u64, 1, 7, 1_000] {
            let ids: Vec<u64> = (0..count).map(|i| i * 977).collect();
            let rows: Vec<u64> = ids.iter().flat_map(|&id| [id; WIDTH as usize]).collect();
            assert_eq!(client.update("feat", &ids, bytemuck::cast_slice(&rows)).unwrap(), count);
        }
        let error = client.update("feat", &[1, 2], &[0; 9]).unwrap_err().to_string();
        assert!(error.contains("9 bytes of rows came for 2 ids; table `feat`"), "{error}");
        assert_eq!(client.warm("feat", &[1, 2, 3]).unwrap()["ids"], 3);
        let grown = client.grow(None, Some(1.5), Some("a\"b")).unwrap();
        assert_eq!(grown, serde_json::json!({ "tool": "grow", "factor": 1.5, "table": "a\"b" }));
        let evicted = client.evict(0.25, true, None).unwrap();
        assert_eq!(evicted, serde_json::json!({ "tool": "evict", "fraction": 0.25, "forget": true }));
        assert_eq!(client.refresh(None, None).unwrap(), serde_json::json!({ "tool": "refresh" }));
        assert_eq!(client.hold().unwrap(), serde_json::json!({ "tool": "hold" }));
    }
}
