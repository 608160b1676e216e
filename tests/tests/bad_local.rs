//! Bad input on the local socket: its sender is answered what was wrong, and all others get right rows.
#![allow(clippy::unwrap_used)]

use rudder_client::wire::{Answer, Call, IdRun, IdWidth, IdsPart, PartIds, Place, Reply, Request, RowsCall, codec};
use rudder_client::{Client, ClientError, ConnectOptions, DType, ErrorCode};
use rudder_tests::raw::{RawClient, Refusal, hello};
use rudder_tests::{Cluster, WIDTH, assert_rows, row_of, wait_until};
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Ids of both nodes of a cluster of 100 rows.
const IDS: [u64; 4] = [99, 0, 50, 3];

fn wide(count: u64, at: Place) -> PartIds {
    PartIds::Given(IdRun { count, width: IdWidth::Eight, at })
}

fn rows_call(table: u16, ids: PartIds, rows: Place) -> RowsCall {
    RowsCall { table, dtype: DType::F32, width: WIDTH, ids, rows }
}

fn fetch_of(parts: Vec<RowsCall>, batch: Option<u64>) -> Request {
    Request::Fetch { parts, batch, learn: true }
}

fn fetch_call(table: u16, count: u64, ids: Place, rows: Place) -> Request {
    fetch_of(vec![rows_call(table, wide(count, ids), rows)], None)
}

fn raw_ids(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Panics unless this very connection still serves right rows.
fn assert_still_serves(raw: &mut RawClient) {
    raw.call(77, fetch_call(0, 4, Place::Inline, Place::Inline), &raw_ids(&IDS), None).unwrap();
    let (Answer { id, reply, .. }, rows) = raw.answer().unwrap();
    assert!(id == 77 && matches!(reply, Reply::Rows(_)), "{reply:?}");
    assert_eq!(rows, IDS.iter().flat_map(|&id| row_of(id)).collect::<Vec<u8>>());
}

fn assert_refused(refusal: &Refusal, code: ErrorCode, closing: bool, words: &[&str]) {
    eprintln!("{:?}: {}", refusal.code, refusal.message);
    assert_eq!((refusal.code, refusal.closing), (code, closing), "{}", refusal.message);
    for words in words {
        assert!(refusal.message.contains(words), "{}\nshould say: {words}", refusal.message);
    }
}

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("rudder-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// A frame of a message that the test writes itself.
fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_le_bytes(), &[0; 4], message].concat()
}

#[test]
fn frames_that_are_oversized_truncated_or_garbage() {
    let cluster = Cluster::start(2, 100, |_| ()).unwrap();
    let bystander = cluster.client(0).unwrap();
    let status = codec::encode(&rudder_client::wire::Call { id: 5, request: Request::Status }).unwrap();
    let trailing = frame(&[&status[..], b"x"].concat());
    let oversized_payload = [&(status.len() as u32).to_le_bytes()[..], &[0xff; 4], &status].concat();
    let truncated_payload = [&(status.len() as u32).to_le_bytes()[..], &[16, 0, 0, 0], &status, &[0; 8]].concat();
    let cases: [(&str, &[u8], &[&str]); 8] = [
        ("oversized", &[0xff; 8], &["message of 4294967295 bytes; the limit is 4194304 (local.frame_bytes_max)"]),
        (
            "oversized payload",
            &oversized_payload,
            &["payload of 4294967295 bytes", "local.inline_bytes_max", "fewer ids"],
        ),
        ("empty", &[0; 8], &["message of 0 bytes", "same version"]),
        ("garbage", &frame(b"\xff\xff\xffgarbage"), &["not a message of this protocol", "same version"]),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n", &["local.frame_bytes_max", "same version"]),
        ("trailing", &trailing, &["1 bytes follow the end", "same version"]),
        ("truncated", &status[..3], &["ended in the middle of a frame, after 3 bytes"]),
        ("truncated payload", &truncated_payload, &["ended in the middle of a frame"]),
    ];
    for greeted in [false, true] {
        for (name, bytes, words) in &cases {
            let mut raw = match greeted {
                false => RawClient::connect(&cluster.socket(0)).unwrap(),
                true => RawClient::greeted(&cluster.socket(0)).unwrap(),
            };
            raw.send(bytes).unwrap();
            raw.finish().unwrap();
            eprint!("{name}: ");
            assert_refused(&raw.refusal().unwrap(), ErrorCode::Protocol, true, words);
            assert!(raw.is_hung_up(), "{name}");
            assert_rows(&bystander.fetch("feat", &IDS).unwrap(), &IDS);
        }
    }
}

#[test]
fn calls_that_break_the_order_or_the_version() {
    let cluster = Cluster::start(2, 100, |_| ()).unwrap();
    let mut raw = RawClient::connect(&cluster.socket(0)).unwrap();
    raw.call(3, Request::Status, &[], None).unwrap();
    let refusal = raw.refusal().unwrap();
    assert_eq!(refusal.id, 3);
    assert_refused(&refusal, ErrorCode::Protocol, true, &["first message", "Hello"]);
    assert!(raw.is_hung_up());

    let mut raw = RawClient::connect(&cluster.socket(0)).unwrap();
    raw.call(1, hello(9), &[], None).unwrap();
    let words = ["version 5 of the local protocol, the client version 9", "install the same version"];
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Version, true, &words);
    assert!(raw.is_hung_up());

    // A Hello of version 3, which had no fields after the trainer.
    let mut raw = RawClient::connect(&cluster.socket(0)).unwrap();
    let mut message = codec::encode(&Call { id: 1, request: hello(3) }).unwrap();
    message.truncate(message.len() - 5);
    raw.send(&[&(message.len() as u32).to_le_bytes()[..], &[0; 4], &message].concat()).unwrap();
    let words = ["version 5 of the local protocol, the client version 3", "install the same version"];
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Version, true, &words);
    assert!(raw.is_hung_up());
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &IDS).unwrap(), &IDS);
}

#[test]
fn requests_that_name_what_is_not_there_leave_the_connection_as_it_was() {
    let cluster = Cluster::start(2, 100, |_| ()).unwrap();
    let mut raw = RawClient::greeted(&cluster.socket(0)).unwrap();
    let refused = |raw: &mut RawClient, request: Request, payload: &[u8], code, words: &[&str]| {
        raw.call(9, request, payload, None).unwrap();
        let refusal = raw.refusal().unwrap();
        assert_eq!(refusal.id, 9);
        assert_refused(&refusal, code, false, words);
        assert_still_serves(raw);
    };
    let inline = |table| fetch_call(table, 4, Place::Inline, Place::Inline);
    let unknown = ["no table with number 7", "2 tables"];
    refused(&mut raw, inline(7), &raw_ids(&IDS), ErrorCode::UnknownTable, &unknown);
    let shape = ["table `label` has rows of i64 × 1; the request expects f32 × 37"];
    refused(&mut raw, inline(1), &raw_ids(&IDS), ErrorCode::Shape, &shape);
    let ids = ["4 ids are announced, 24 bytes"];
    refused(&mut raw, inline(0), &raw_ids(&IDS[..3]), ErrorCode::Argument, &ids);
    let nowhere = Place::Arena { arena: 4, offset: 0 };
    let arena = ["arena 4 is not registered", "AddArena"];
    refused(&mut raw, fetch_call(0, 4, Place::Inline, nowhere), &raw_ids(&IDS), ErrorCode::Arena, &arena);
    refused(&mut raw, Request::DropArena { arena: 4 }, &[], ErrorCode::Arena, &arena);
    let surplus = ["8 bytes came behind the ids"];
    let more = [&IDS[..], &[1]].concat();
    refused(&mut raw, inline(0), &raw_ids(&more), ErrorCode::Argument, &surplus);
}

#[test]
fn fetches_of_several_tables_that_make_no_sense() {
    let cluster = Cluster::start(2, 100, |config| {
        config.local.fetch_tables_max = 3;
        config.local.ids_max = 10;
    })
    .unwrap();
    let mut raw = RawClient::greeted(&cluster.socket(0)).unwrap();
    let four = rows_call(0, wide(4, Place::Inline), Place::Inline);
    let of = |ids| rows_call(0, ids, Place::Inline);
    let mut refused = |parts: Vec<RowsCall>, batch, ids: &[u64], code, words: &[&str]| {
        raw.call(9, fetch_of(parts, batch), &raw_ids(ids), None).unwrap();
        assert_refused(&raw.refusal().unwrap(), code, false, words);
        assert_still_serves(&mut raw);
    };
    let limit = ["a call about 4 tables", "local.fetch_tables_max = 3"];
    refused(
        vec![four, of(PartIds::Of(0)), of(PartIds::Of(0)), of(PartIds::Of(0))],
        None,
        &IDS,
        ErrorCode::Limit,
        &limit,
    );
    let limit = ["a fetch of 12 ids", "local.ids_max = 10"];
    refused(vec![four, of(PartIds::Of(0)), of(PartIds::Of(1))], None, &IDS, ErrorCode::Limit, &limit);
    let beside = ["ids of an announced batch, and others beside them"];
    refused(vec![of(PartIds::Announced(4)), four], Some(5), &IDS, ErrorCode::Argument, &beside);
    let itself = ["part 0 shares the ids of part 0, which is no earlier one"];
    refused(vec![of(PartIds::Of(0))], None, &[], ErrorCode::Argument, &itself);
    refused(vec![four, of(PartIds::Of(7))], None, &IDS, ErrorCode::Argument, &["part 1 shares the ids of part 7"]);
    let nameless = ["ids of an announced batch, in a call that names none"];
    refused(vec![of(PartIds::Announced(4))], None, &[], ErrorCode::Argument, &nameless);
    let unknown = ["no announced batch of number 5", "ask with the ids"];
    refused(vec![of(PartIds::Announced(4))], Some(5), &[], ErrorCode::UnknownBatch, &unknown);
    let wrong = ["table `label` has rows of i64 × 1"];
    let label = rows_call(1, PartIds::Of(0), Place::Inline);
    refused(vec![four, label], None, &IDS, ErrorCode::Shape, &wrong);
    // Two tables in one answer, the second by the first one's ids.
    let label = RowsCall { dtype: DType::I64, width: 1, ..label };
    raw.call(8, fetch_of(vec![four, label], None), &raw_ids(&IDS), None).unwrap();
    let (Answer { reply, .. }, rows) = raw.answer().unwrap();
    let Reply::Rows(answers) = reply else { panic!("{reply:?}") };
    assert_eq!(answers.len(), 2);
    assert_eq!(rows.len(), 4 * (WIDTH as usize * 4 + 8));
    assert_eq!(rows[..4 * WIDTH as usize * 4], IDS.iter().flat_map(|&id| row_of(id)).collect::<Vec<u8>>());
}

/// What is wrong with a call that is not answered comes with the next answer.
#[test]
fn calls_without_answers_that_make_no_sense_are_told_of_later() {
    let cluster = Cluster::start(2, 100, |_| ()).unwrap();
    let mut raw = RawClient::greeted(&cluster.socket(0)).unwrap();
    let of_parts = |parts| Request::Announce { batch: 1, step: None, parts };
    let announce = |table, ids| of_parts(vec![IdsPart { table, ids }]);
    let part = IdsPart { table: 0, ids: wide(1, Place::Inline) };
    let nowhere = wide(4, Place::Arena { arena: 4, offset: 0 });
    let cases: [(Request, &[u64], ErrorCode, &str); 7] = [
        (of_parts(Vec::new()), &[], ErrorCode::Argument, "one table or more"),
        (of_parts(vec![part, part]), &[1, 2], ErrorCode::Argument, "each once"),
        (Request::Progress { epoch: 0, step: 0, steps_per_epoch: 0 }, &[], ErrorCode::Argument, "0 steps per epoch"),
        (announce(7, wide(1, Place::Inline)), &[1], ErrorCode::UnknownTable, "no table with number 7"),
        (announce(0, wide(2, Place::Inline)), &[1, 100], ErrorCode::IdOutOfRange, "id 100 (position 1"),
        (announce(0, nowhere), &[], ErrorCode::Arena, "arena 4 is not registered"),
        (announce(0, PartIds::Announced(1)), &[], ErrorCode::Argument, "ids of an announced batch"),
    ];
    for (request, ids, code, words) in cases {
        raw.call(9, request, &raw_ids(ids), None).unwrap();
        // The bookkeeper may find it only after the next answer.
        let told = wait_until(Duration::from_secs(60), || {
            raw.call(3, Request::Status, &[], None).unwrap();
            let (Answer { id, notices, .. }, _) = raw.answer().unwrap();
            assert_eq!(id, 3, "an answer to a call that has none");
            notices.iter().any(|notice| notice.code == code && notice.message.contains(words))
        });
        assert!(told, "{words}");
        assert_still_serves(&mut raw);
    }
}

#[test]
fn arenas_that_are_unsealed_too_small_or_no_memory() {
    let cluster = Cluster::start(2, 100, |_| ()).unwrap();
    let mut raw = RawClient::greeted(&cluster.socket(0)).unwrap();
    let bystander = cluster.client(0).unwrap();
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let (reading, _writing) = rustix::pipe::pipe().unwrap();
    let cases: [(OwnedFd, u64, &str); 4] = [
        (memfd(4096, SealFlags::GROW), 4096, "not sealed against shrinking: add F_SEAL_SHRINK"),
        (memfd(4096, sealed), 8192, "holds 4096 bytes, 8192 were announced: set its size"),
        (memfd(4096, sealed), 0, "an arena of 0 bytes cannot be mapped"),
        (reading, 4096, "cannot be mapped (is it a memfd?)"),
    ];
    for (fd, bytes, words) in &cases {
        raw.call(2, Request::AddArena { arena: 1, bytes: *bytes }, &[], Some(fd.as_fd())).unwrap();
        assert_refused(&raw.refusal().unwrap(), ErrorCode::Arena, false, &[words]);
        assert_still_serves(&mut raw);
    }
    let small = memfd(4096, sealed);
    raw.call(2, Request::AddArena { arena: 1, bytes: 4096 }, &[], Some(small.as_fd())).unwrap();
    assert_eq!(raw.answer().unwrap().0.reply, Reply::Done);
    let at = |offset| Place::Arena { arena: 1, offset };
    for (count, ids, rows, words) in [
        (100, at(0), at(1024), "arena 1 is too small: 14800 bytes of rows at offset 1024, it holds 4096"),
        (1000, at(0), Place::Inline, "arena 1 is too small: 8000 bytes of ids at offset 0"),
        (1, at(0), at(u64::MAX - 63), "arena 1 is too small"),
        (1, at(8), at(1024), "offset 8 of ids is no multiple of 64"),
    ] {
        raw.call(3, fetch_call(0, count, ids, rows), &[], None).unwrap();
        assert_refused(&raw.refusal().unwrap(), ErrorCode::Arena, false, &[words]);
        assert_still_serves(&mut raw);
    }
    raw.call(4, Request::AddArena { arena: 1, bytes: 4096 }, &[], Some(small.as_fd())).unwrap();
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Arena, false, &["arena 1 is registered already"]);
    assert_still_serves(&mut raw);
    raw.call(5, Request::AddArena { arena: 2, bytes: 4096 }, &[], None).unwrap();
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Protocol, true, &["without a descriptor"]);
    assert!(raw.is_hung_up());
    assert_rows(&bystander.fetch("feat", &IDS).unwrap(), &IDS);
}

#[test]
fn arenas_beyond_the_limits() {
    let limits = |config: &mut rudder_daemon::config::Config| {
        config.local.arenas_max = 2;
        config.local.arena_bytes_max = 3 * 4096;
    };
    let cluster = Cluster::start(2, 100, limits).unwrap();
    let mut raw = RawClient::greeted(&cluster.socket(0)).unwrap();
    let add = |raw: &mut RawClient, arena, bytes| {
        let fd = memfd(bytes, SealFlags::SHRINK);
        raw.call(1, Request::AddArena { arena, bytes }, &[], Some(fd.as_fd())).unwrap();
    };
    add(&mut raw, 0, 4096);
    assert_eq!(raw.answer().unwrap().0.reply, Reply::Done);
    add(&mut raw, 1, 3 * 4096);
    let words = ["an arena of 12288 bytes beside 4096 in others", "local.arena_bytes_max = 12288", "raise it"];
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Limit, false, &words);
    add(&mut raw, 1, 4096);
    assert_eq!(raw.answer().unwrap().0.reply, Reply::Done);
    add(&mut raw, 2, 4096);
    let words = ["arena 2 beside 2 others", "local.arenas_max = 2", "raise it"];
    assert_refused(&raw.refusal().unwrap(), ErrorCode::Limit, false, &words);
    assert_still_serves(&mut raw);
    raw.call(1, Request::DropArena { arena: 0 }, &[], None).unwrap();
    assert_eq!(raw.answer().unwrap().0.reply, Reply::Done);
    add(&mut raw, 2, 4096);
    assert_eq!(raw.answer().unwrap().0.reply, Reply::Done);
    let inline = ConnectOptions { inline: true, ..ConnectOptions::at(cluster.socket(1)) };
    assert_rows(&Client::connect(inline).unwrap().fetch("feat", &IDS).unwrap(), &IDS);
}

#[test]
fn more_connections_than_connections_max() {
    let cluster = Cluster::start(2, 100, |config| config.local.connections_max = 2).unwrap();
    let first = cluster.client(0).unwrap();
    let second = cluster.client(0).unwrap();
    let error = cluster.client(0).map(|_| ()).unwrap_err();
    eprintln!("{error}");
    assert_eq!(error.code(), Some(ErrorCode::Limit), "{error}");
    assert!(error.to_string().contains("local.connections_max = 2"), "{error}");
    assert_rows(&first.fetch("feat", &IDS).unwrap(), &IDS);
    assert_rows(&second.fetch("feat", &IDS).unwrap(), &IDS);
    drop(first);
    let mut third = Err(ClientError::Interrupted);
    assert!(wait_until(Duration::from_secs(30), || {
        third = cluster.client(0);
        third.is_ok()
    }));
    assert_rows(&third.unwrap().fetch("feat", &IDS).unwrap(), &IDS);
}

#[test]
fn a_strangers_user_id() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let stranger = 65_533;
    let as_stranger = |cluster: &Cluster| {
        let socket = cluster.socket(0);
        // User and group ids are a thread's on Linux; the thread ends with this one.
        let attempt = move || {
            let (uid, gid) = (rustix::process::Uid::from_raw(stranger), rustix::process::Gid::from_raw(stranger));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let client = Client::connect(ConnectOptions::at(socket))?;
            client.fetch("feat", &IDS).map(|rows| assert_rows(&rows, &IDS))
        };
        std::thread::spawn(attempt).join().unwrap()
    };
    let open = |mode, allowed: &[u32]| {
        let adapt = |config: &mut rudder_daemon::config::Config| {
            config.local.mode = mode;
            config.local.allowed_uids = allowed.to_vec();
        };
        let cluster = Cluster::start(2, 100, adapt).unwrap();
        std::fs::set_permissions(cluster.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
        cluster
    };
    let guarded = open(0o660, &[]);
    let error = as_stranger(&guarded).unwrap_err();
    assert!(rudder_telemetry::error_chain(&error).contains("Permission denied"), "{error}");
    let refusing = open(0o666, &[]);
    let error = as_stranger(&refusing).unwrap_err();
    eprintln!("{error}");
    assert_eq!(error.code(), Some(ErrorCode::Forbidden), "{error}");
    assert!(error.to_string().contains("user 65533 may not connect"), "{error}");
    assert!(error.to_string().contains("local.allowed_uids"), "{error}");
    assert_rows(&refusing.client(0).unwrap().fetch("feat", &IDS).unwrap(), &IDS);
    as_stranger(&open(0o666, &[stranger])).unwrap();
}
