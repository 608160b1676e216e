//! The client against a daemon of a few lines that each test scripts: what the real one never does, or not on demand.

mod arenas;
mod calls;
mod loaders;

use crate::arena::Mapping;
use crate::wire::frame::{self, FrameBuffer, FrameLimits};
use crate::wire::{
    Answer, Call, ErrorCode, IdRun, IdWidth, MESSAGE_BYTES_MAX, Notice, PROTOCOL_VERSION, PartIds, Place, Reply,
    Request, RowsAnswer, RowsCall, codec,
};
use crate::{Client, ClientError, ConnectOptions, DType, RowSources, TableInfo};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::{HashMap, VecDeque};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const WIDTH: u32 = 4;

/// One connection as the daemon sees it.
struct Line {
    stream: UnixStream,
    buffer: FrameBuffer,
    fds: VecDeque<OwnedFd>,
    arenas: HashMap<u32, Mapping>,
    arena_bytes_max: u64,
    fingerprint: u64,
    /// Goes with the next answer.
    notices: Vec<Notice>,
    /// Batches to announce ahead.
    horizon: u32,
}

impl Line {
    fn call(&mut self) -> Option<(Call, Vec<u8>)> {
        loop {
            if let Some(frame) = self.buffer.next_frame().unwrap() {
                return Some((codec::decode(&frame.message).unwrap(), frame.payload));
            }
            let mut bytes = vec![0; 64 << 10];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let count = rustix::net::recvmsg(&self.stream, into, &mut ancillary, RecvFlags::empty()).ok()?.bytes;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            if count == 0 {
                return None;
            }
            self.buffer.extend(&bytes[..count]);
        }
    }

    fn answer(&mut self, id: u64, reply: Reply, payload: &[u8]) {
        let notices = std::mem::take(&mut self.notices);
        let head = frame::encode_head(&Answer { id, reply, notices }, payload.len()).unwrap();
        // The client may be gone: some tests want that.
        let _ = self.stream.write_all(&head).and_then(|()| self.stream.write_all(payload));
    }

    fn fail(&mut self, id: u64, code: ErrorCode, message: &str) {
        self.answer(id, Reply::Failed { code, message: message.to_owned(), closing: false }, &[]);
    }

    /// Does what a daemon does: row `i` is `WIDTH` times the id, as `u64`.
    fn serve(&mut self, call: &Call, payload: &[u8]) {
        match &call.request {
            Request::Hello { .. } => {
                let table = |id, name: &str, rows| TableInfo {
                    id,
                    name: name.into(),
                    vertex_type: "v".into(),
                    dtype: DType::I64,
                    width: WIDTH,
                    shape: vec![WIDTH],
                    rows,
                    local_rows: 1,
                    renumbered: false,
                    named: false,
                };
                let tables = vec![table(0, "feat", 1 << 40), table(1, "small", 1000)];
                let arena_bytes_max = self.arena_bytes_max;
                let (version, fingerprint) = (PROTOCOL_VERSION, self.fingerprint);
                let welcome = Reply::Welcome { version, node: 3, tables, fingerprint, arena_bytes_max };
                self.answer(call.id, welcome, &[]);
            }
            Request::AddArena { arena, bytes } => {
                let mapping = Mapping::adopt(self.fds.pop_front().unwrap(), *bytes).unwrap();
                let held: u64 = self.arenas.values().map(|mapping| mapping.bytes() as u64).sum();
                if held + bytes > self.arena_bytes_max {
                    return self.fail(call.id, ErrorCode::Limit, "local.arena_bytes_max");
                }
                assert!(self.arenas.insert(*arena, mapping).is_none());
                self.answer(call.id, Reply::Done, &[]);
            }
            Request::DropArena { arena } => {
                assert!(self.arenas.remove(arena).is_some());
                self.answer(call.id, Reply::Done, &[]);
            }
            Request::Fetch { parts, batch: None, .. } => self.fetch(call.id, parts, payload),
            Request::Fetch { batch: Some(_), .. } => self.fail(call.id, ErrorCode::UnknownBatch, "forgotten"),
            Request::Progress { .. } | Request::Announce { .. } => {}
            Request::Horizon { .. } => self.answer(call.id, Reply::Horizon(self.horizon), &[]),
            Request::Update(RowsCall { ids: PartIds::Given(ids), rows, .. }) => {
                self.update(call.id, ids, *rows, payload);
            }
            Request::Update(_) => self.fail(call.id, ErrorCode::Argument, "no ids"),
            Request::Warm { ids: IdRun { count, .. }, .. } => {
                self.answer(call.id, Reply::Tool(format!("{{\"ids\":{count}}}")), &[]);
            }
            Request::Tool { call: text } => self.answer(call.id, Reply::Tool(text.clone()), &[]),
            Request::Status => self.answer(call.id, Reply::Status("{}".into()), &[]),
            Request::LocalRange { .. } => self.answer(call.id, Reply::LocalRange { start: 3, end: 9 }, &[]),
            Request::Translate { .. }
            | Request::FindNames { .. }
            | Request::NamesOf { .. }
            | Request::Owners { .. } => {
                self.fail(call.id, ErrorCode::Argument, "this daemon translates no ids");
            }
        }
    }

    /// The ids of a run; inline ones are the first of `payload`.
    fn ids(&self, run: &IdRun, payload: &mut &[u8]) -> Vec<u64> {
        let (count, mut ids) = (run.count as usize, Vec::new());
        match (run.at, run.width) {
            (Place::Inline, width) => {
                let (of_run, rest) = payload.split_at(count * width.bytes());
                *payload = rest;
                ids.extend(of_run.chunks(width.bytes()).map(|id| {
                    let mut wide = [0; 8];
                    wide[..id.len()].copy_from_slice(id);
                    u64::from_le_bytes(wide)
                }));
            }
            (Place::Arena { arena, offset }, IdWidth::Four) => {
                self.arenas[&arena].read_narrow_ids(offset as usize, count, &mut ids);
            }
            (Place::Arena { arena, offset }, IdWidth::Eight) => {
                self.arenas[&arena].read_ids(offset as usize, count, &mut ids);
            }
        }
        ids
    }

    /// Accepts an update whose rows are what a fetch of the ids would give.
    fn update(&mut self, id: u64, run: &IdRun, rows: Place, payload: &[u8]) {
        let mut left = payload;
        let ids = self.ids(run, &mut left);
        let rows = match rows {
            Place::Inline => left.to_vec(),
            Place::Arena { arena, offset } => {
                let mut out = vec![0; ids.len() * WIDTH as usize * 8];
                self.arenas[&arena].read(offset as usize, &mut out);
                out
            }
        };
        if rows == rows_of(&ids) {
            self.answer(id, Reply::Updated { rows: ids.len() as u64 }, &[]);
        } else {
            self.fail(id, ErrorCode::Protocol, "other rows than sent");
        }
    }

    fn fetch(&mut self, id: u64, parts: &[RowsCall], payload: &[u8]) {
        let (mut left, mut all, mut inline) = (payload, Vec::<Vec<u64>>::new(), Vec::new());
        for part in parts {
            let ids = match &part.ids {
                PartIds::Given(IdRun { at: Place::Arena { arena, .. }, .. }) if !self.arenas.contains_key(arena) => {
                    return self.fail(id, ErrorCode::Arena, "unknown arena");
                }
                PartIds::Given(run) => self.ids(run, &mut left),
                PartIds::Of(earlier) => all[*earlier as usize].clone(),
                PartIds::Announced(_) => return self.fail(id, ErrorCode::Argument, "no batch"),
            };
            match part.rows {
                Place::Inline => inline.extend(rows_of(&ids)),
                Place::Arena { arena, offset } => self.arenas[&arena].write(offset as usize, &rows_of(&ids)),
            }
            all.push(ids);
        }
        let horizon = self.horizon;
        let answer = |ids: &Vec<u64>| {
            let sources = RowSources { local: ids.len() as u64, ..RowSources::default() };
            RowsAnswer { sources, horizon }
        };
        self.answer(id, Reply::Rows(all.iter().map(answer).collect()), &inline);
    }

    /// Serves until the client goes.
    fn serve_all(&mut self) {
        while let Some((call, payload)) = self.call() {
            self.serve(&call, &payload);
        }
    }

    /// Serves up to the first fetch, and answers that.
    fn until_fetch(&mut self) -> (Call, Vec<u8>) {
        loop {
            let (call, payload) = self.call().unwrap();
            if matches!(call.request, Request::Fetch { .. }) {
                return (call, payload);
            }
            self.serve(&call, &payload);
        }
    }
}

/// The rows of `ids`, as bytes.
fn rows_of(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| [*id; WIDTH as usize]).flat_map(u64::to_le_bytes).collect()
}

fn socket_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("rudder-client-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(name)
}

/// A listening socket, gone with this value.
struct Daemon(ConnectOptions);

impl Daemon {
    fn options(&self) -> ConnectOptions {
        self.0.clone()
    }

    fn connect(&self) -> Client {
        Client::connect(self.options()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.socket_path());
    }
}

/// A daemon that serves each connection by `script`, one after the other.
fn daemon(script: impl Fn(&mut Line, u32) + Send + 'static) -> Daemon {
    let path = socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let limits = FrameLimits { message_bytes_max: MESSAGE_BYTES_MAX, payload_bytes_max: 1 << 30 };
            let buffer = FrameBuffer::new(limits);
            let mut line = Line {
                stream: stream.unwrap(),
                buffer,
                fds: VecDeque::new(),
                arenas: HashMap::new(),
                arena_bytes_max: 1 << 40,
                fingerprint: 0xfeed,
                notices: Vec::new(),
                horizon: 3,
            };
            script(&mut line, number as u32);
        }
    });
    Daemon(ConnectOptions { timeout_ms: 5_000, ..ConnectOptions::at(path) })
}

fn check(rows: &crate::Rows, ids: &[u64]) {
    let expected: Vec<u64> = ids.iter().flat_map(|id| [*id; WIDTH as usize]).collect();
    assert_eq!(rows.as_slice::<u64>().unwrap(), expected);
}

#[test]
fn rows_arrive_in_the_lease_and_a_dropped_lease_is_used_again() {
    let daemon = daemon(|line, _| line.serve_all());
    let client = daemon.connect();
    let first = client.fetch("feat", &[3, 1, 3]).unwrap();
    check(&first, &[3, 1, 3]);
    let second = client.fetch("feat", &[9]).unwrap();
    check(&first, &[3, 1, 3]);
    check(&second, &[9]);
    let at = first.bytes().as_ptr();
    drop(first);
    assert_eq!(client.fetch("feat", &[7, 8, 9]).unwrap().bytes().as_ptr(), at);
    assert_eq!(client.fetch("feat", &[]).unwrap().len(), 0);
    check(&client.fetch("feat", &vec![5; 1 << 20]).unwrap(), &vec![5; 1 << 20]);
}

#[test]
fn a_late_answer_is_a_timeout_and_only_then_gives_its_memory_back() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let daemon = daemon(move |line, _| {
        let (late, payload) = line.until_fetch();
        wait.lock().unwrap().recv().unwrap();
        line.serve(&late, &payload);
        line.serve_all();
    });
    let client = Client::connect(ConnectOptions { timeout_ms: 300, ..daemon.options() }).unwrap();
    let start = Instant::now();
    assert!(matches!(client.fetch("feat", &[1]), Err(ClientError::Timeout { timeout_ms: 300 })));
    assert!(start.elapsed() < Duration::from_secs(2));
    let next = client.fetch_async("feat", &[2]).unwrap();
    assert!(!next.is_ready());
    go.send(()).unwrap();
    let next = next.wait().unwrap();
    check(&next, &[2]);
    let third = client.fetch("feat", &[3]).unwrap();
    assert!(third.bytes().as_ptr() < next.bytes().as_ptr(), "the late fetch's run was not given back");
}

#[test]
fn a_wait_can_be_interrupted_and_the_client_goes_on() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    let daemon = daemon(|line, _| {
        line.until_fetch();
        line.serve_all();
    });
    let interrupted: fn() -> bool = || STOP.fetch_add(1, Ordering::Relaxed) == 1;
    let client = Client::connect(ConnectOptions { interrupted: Some(interrupted), ..daemon.options() }).unwrap();
    let start = Instant::now();
    assert!(matches!(client.fetch("feat", &[1]), Err(ClientError::Interrupted)));
    assert!(start.elapsed() < Duration::from_secs(2));
    check(&client.fetch("feat", &[2]).unwrap(), &[2]);
}

#[test]
fn a_daemon_that_accepts_nobody_is_not_waited_for_without_end() {
    let daemon = Daemon(ConnectOptions { timeout_ms: 300, ..ConnectOptions::at(socket_path()) });
    let path = daemon.0.socket_path();
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let error = Client::connect(daemon.options()).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("within 300 ms"), "{cause}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_daemon_that_goes_fails_what_is_unanswered_keeps_what_is_and_is_found_again() {
    let daemon = daemon(|line, number| {
        if number == 0 {
            let (first, payload) = line.until_fetch();
            line.until_fetch();
            line.serve(&first, &payload);
            line.stream.shutdown(std::net::Shutdown::Both).unwrap();
        } else {
            line.serve_all();
        }
    });
    let client = daemon.connect();
    let answered = client.fetch_async("feat", &[4]).unwrap();
    let unanswered = client.fetch_async("feat", &[5]).unwrap();
    assert!(matches!(unanswered.wait(), Err(ClientError::Lost(_))));
    assert!(answered.is_ready());
    let rows = answered.wait().unwrap();
    check(&client.fetch("feat", &[6]).unwrap(), &[6]);
    drop(client);
    check(&rows, &[4]);
}

#[test]
fn a_daemon_that_was_restarted_between_two_calls_goes_unnoticed() {
    let (gone, restarted) = mpsc::channel();
    let daemon = daemon(move |line, number| {
        if number == 0 {
            let (hello, payload) = line.call().unwrap();
            line.serve(&hello, &payload);
            line.stream.shutdown(std::net::Shutdown::Both).unwrap();
            gone.send(()).unwrap();
        } else {
            line.serve_all();
        }
    });
    let client = daemon.connect();
    restarted.recv().unwrap();
    check(&client.fetch("feat", &[6]).unwrap(), &[6]);
}

#[test]
fn a_lost_session_leaves_no_memory_behind() {
    let daemon = daemon(|line, _| {
        line.until_fetch();
        line.stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let client = daemon.connect();
    let pending = client.fetch_async("feat", &[4]).unwrap();
    let pool = std::sync::Arc::downgrade(&pending.session_pool());
    assert!(matches!(pending.wait(), Err(ClientError::Lost(_))));
    drop(client);
    assert!(pool.upgrade().is_none(), "the arenas of the lost session are still mapped");
}

#[test]
fn the_words_of_a_daemon_that_closes_reach_the_caller() {
    let daemon = daemon(|line, _| {
        let closing = Reply::Failed { code: ErrorCode::Limit, message: "connections_max is 1".into(), closing: true };
        line.answer(0, closing, &[]);
        line.stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    for _ in 0..20 {
        let error = Client::connect(daemon.options()).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (Some(ErrorCode::Limit), "connections_max is 1"));
    }
}

#[test]
fn a_daemon_that_writes_before_it_reads_on_does_not_stall_an_inline_client() {
    let daemon = daemon(|line, _| line.serve_all());
    let client = Client::connect(ConnectOptions { inline: true, ..daemon.options() }).unwrap();
    let ids: Vec<u64> = (0..300_000).collect();
    let start = Instant::now();
    let pending: Vec<_> = (0..4).map(|_| client.fetch_async("feat", &ids).unwrap()).collect();
    for fetch in pending {
        check(&fetch.wait().unwrap(), &ids);
    }
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_timeout_without_end_is_no_panic() {
    let daemon = daemon(|line, _| line.serve_all());
    let client = Client::connect(ConnectOptions { timeout_ms: u64::MAX, ..daemon.options() }).unwrap();
    check(&client.fetch("feat", &[1]).unwrap(), &[1]);
}

#[test]
fn every_connection_of_a_client_says_the_same_trainer() {
    let ((said, trainers), (broke, broken)) = (mpsc::channel(), mpsc::channel());
    let daemon = daemon(move |line, number| {
        while let Some((call, payload)) = line.call() {
            line.serve(&call, &payload);
            match call.request {
                Request::Hello { trainer, .. } => said.send(trainer).unwrap(),
                // The first connection breaks after a fetch, so that the client makes a second one.
                Request::Fetch { .. } if number == 0 => {
                    line.stream.shutdown(std::net::Shutdown::Both).unwrap();
                    return broke.send(()).unwrap();
                }
                _ => {}
            }
        }
    });
    let client = daemon.connect();
    check(&client.fetch("feat", &[0]).unwrap(), &[0]);
    // A fetch that is in flight while the connection breaks would be lost.
    broken.recv().unwrap();
    check(&client.fetch("feat", &[1]).unwrap(), &[1]);
    assert_eq!([(); 2].map(|()| trainers.recv().unwrap()), [client.trainer(); 2]);
    // The daemon serves one connection after the other.
    drop(client);
    let mine = Client::connect(ConnectOptions { trainer: Some(7), ..daemon.options() }).unwrap();
    assert_eq!((mine.trainer(), trainers.recv().unwrap()), (7, 7));
}

#[test]
fn threads_share_one_connection() {
    let daemon = daemon(|line, _| line.serve_all());
    let client = daemon.connect();
    thread::scope(|scope| {
        for thread in 0..8u64 {
            let client = &client;
            scope.spawn(move || {
                for i in 0..200 {
                    let ids: Vec<u64> = (0..thread * 50 + 1).map(|k| k * 1000 + i).collect();
                    check(&client.fetch("feat", &ids).unwrap(), &ids);
                }
            });
        }
    });
}
