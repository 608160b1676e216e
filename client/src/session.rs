//! One connection to a daemon: sends calls, and hands each reply to the thread that waits for it. It owns the socket
//! and the leases of calls in flight. It must never give a lease back while the daemon may still write into it.
//!
//! A session has no thread. Of the threads that wait, one reads the socket for all of them. A thread that finds no room
//! to write reads as well: the daemon may have stopped reading until somebody takes its replies.
//!
//! A session belongs to the process that connected. A fork shares its stream and copies its locks as they are, perhaps
//! held by threads that the child does not have. So a forked child takes no lock of its parent's session, and neither
//! reads nor writes its stream.

mod socket;

use self::socket::{Refusal, connect_within, send_some};
use crate::arena::{ArenaLimit, Growth, Lease, MemoryError, Pool};
use crate::error::{LostCause, ProtocolError};
use crate::lock::lock;
use crate::wire::frame::{self, Frame, FrameBuffer, FrameLimits};
use crate::wire::{Answer, Call, ErrorCode, MESSAGE_BYTES_MAX, Reply, Request, codec};
use crate::{ClientError, ConnectOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a thread that waits looks at its deadline, and asks whether to give up.
const TICK: Duration = Duration::from_millis(100);

/// Longest timeout, a year: what is longer could not be added to the time of day.
const TIMEOUT_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// Bytes one read takes from the socket.
const READ_BYTES: usize = 64 << 10;

/// Reads that look for a daemon's last words on a broken stream.
const LAST_READS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    pub(crate) pool: Arc<Pool>,
    /// Holds the right to send; the number of the next call.
    sender: Mutex<u64>,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    reader: Mutex<Reader>,
    lost: AtomicBool,
    timeout_ms: u64,
    interrupted: Option<fn() -> bool>,
    /// The process that connected: a fork must not share the stream.
    pid: u32,
}

#[derive(Debug)]
struct Reader {
    frames: FrameBuffer,
    /// Where the socket's bytes arrive; kept, so that a read of a few bytes need not clear it.
    arriving: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Inbox {
    calls: HashMap<u64, Waiting>,
    reading: bool,
    lost: Option<Cause>,
}

/// Why a session ended.
#[derive(Debug, Clone)]
enum Cause {
    Broken(LostCause),
    /// The daemon closed it, and said why.
    Refused(ErrorCode, String),
}

impl From<Cause> for ClientError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Broken(cause) => ClientError::Lost(cause),
            Cause::Refused(code, message) => ClientError::refused(code, message),
        }
    }
}

/// A call in flight, with the lease that its reply fills.
#[derive(Debug)]
enum Waiting {
    Open(Option<Lease>),
    /// Nobody waits any more; the lease goes back when the daemon has answered.
    Abandoned {
        _lease: Option<Lease>,
    },
    Answered(Delivery),
}

/// A reply with all that came with it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) reply: Reply,
    pub(crate) payload: Vec<u8>,
    pub(crate) lease: Option<Lease>,
}

/// The right to send on a session.
pub(crate) struct Sender<'a> {
    session: &'a Session,
    next: MutexGuard<'a, u64>,
}

/// The number of a connection's first call. Numbers of different connections differ, so that a number names one fetch
/// in the logs of all nodes.
fn first_number() -> u64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    (random & (u64::MAX << 32)) | 1
}

impl Session {
    pub(crate) fn connect(options: &ConnectOptions) -> Result<Arc<Self>, ClientError> {
        let path = options.socket_path();
        let fail = |cause| ClientError::Connect { socket: path.clone(), cause };
        let socket = connect_within(&path, options).map_err(|refusal| match refusal {
            Refusal::Io(cause) => fail(cause),
            Refusal::Interrupted => ClientError::Interrupted,
        })?;
        socket.set_read_timeout(Some(TICK)).map_err(fail)?;
        let limits = FrameLimits { message_bytes_max: MESSAGE_BYTES_MAX, payload_bytes_max: u32::MAX as usize };
        Ok(Arc::new(Self {
            socket,
            pool: Pool::new(ArenaLimit::of_client(options.arena_bytes_max)),
            sender: Mutex::new(first_number()),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            reader: Mutex::new(Reader { frames: FrameBuffer::new(limits), arriving: vec![0; READ_BYTES].into() }),
            lost: AtomicBool::new(false),
            timeout_ms: options.timeout_ms.min(TIMEOUT_MS_MAX),
            interrupted: options.interrupted,
            pid: std::process::id(),
        }))
    }

    /// Whether a later call would need a new connection.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire) || self.is_foreign()
    }

    /// Whether another process connected, of which this one is a fork.
    fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    /// Takes the right to send; what is sent under one right arrives in one piece.
    pub(crate) fn sender(&self) -> Sender<'_> {
        Sender { session: self, next: lock(&self.sender) }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn ask(&self, request: Request) -> Result<Reply, ClientError> {
        let id = self.sender().send(request, &[], None, None)?;
        Ok(self.wait(id)?.reply)
    }

    /// Waits for the reply of call `id`, reading the socket if nobody else does.
    pub(crate) fn wait(&self, id: u64) -> Result<Delivery, ClientError> {
        if self.is_foreign() {
            return Err(ClientError::Lost(LostCause::Forked { pid: self.pid }));
        }
        let start = Instant::now();
        let deadline = start + Duration::from_millis(self.timeout_ms);
        let mut look_up = start + TICK;
        let mut inbox = lock(&self.inbox);
        loop {
            if inbox.is_answered(id)
                && let Some(Waiting::Answered(delivery)) = inbox.calls.remove(&id)
            {
                return refuse_failures(delivery);
            }
            if let Some(cause) = &inbox.lost {
                return Err(cause.clone().into());
            }
            let now = Instant::now();
            if now >= deadline {
                abandon(&mut inbox, id);
                return Err(ClientError::Timeout { timeout_ms: self.timeout_ms });
            }
            if now >= look_up {
                // Without the lock: the function may wait for a thread that wants the inbox.
                drop(inbox);
                let give_up = self.interrupted.is_some_and(|ask| ask());
                inbox = lock(&self.inbox);
                if give_up {
                    abandon(&mut inbox, id);
                    return Err(ClientError::Interrupted);
                }
                look_up = now + TICK;
                continue;
            }
            inbox = if inbox.reading {
                let nap = deadline.min(look_up).saturating_duration_since(now);
                self.arrived.wait_timeout(inbox, nap).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.read(inbox, RecvFlags::empty())
            };
        }
    }

    /// Whether [`Session::wait`] for call `id` would return at once. Takes in what has arrived, and never blocks.
    pub(crate) fn is_ready(&self, id: u64) -> bool {
        if self.is_foreign() {
            return true;
        }
        let mut inbox = lock(&self.inbox);
        if !inbox.is_answered(id) && inbox.lost.is_none() && !inbox.reading {
            inbox = self.read(inbox, RecvFlags::DONTWAIT);
        }
        inbox.is_answered(id) || inbox.lost.is_some()
    }

    /// Stops waiting for call `id`; what it leased is free once the daemon has answered.
    pub(crate) fn abandon(&self, id: u64) {
        if !self.is_foreign() {
            abandon(&mut lock(&self.inbox), id);
        }
    }

    /// Reads once for all threads, files what came and wakes the threads that wait for it. Nobody else may be reading.
    fn read<'a>(&'a self, mut inbox: MutexGuard<'a, Inbox>, flags: RecvFlags) -> MutexGuard<'a, Inbox> {
        inbox.reading = true;
        drop(inbox);
        let frames = self.read_frames(flags).map_err(Cause::Broken);
        let mut inbox = lock(&self.inbox);
        inbox.reading = false;
        match frames.and_then(|frames| frames.into_iter().try_for_each(|frame| deliver(&mut inbox, frame))) {
            Ok(()) => self.arrived.notify_all(),
            Err(cause) => self.lose(&mut inbox, cause),
        }
        inbox
    }

    /// Ends the session: calls without an answer fail with `cause`.
    fn lose(&self, inbox: &mut Inbox, cause: Cause) {
        self.lost.store(true, Ordering::Release);
        // The daemon may still be writing into the leases that go back here. Nobody will read them: a lost session
        // sends no call, a new one has a pool of its own, and this pool goes with the last row received through it.
        inbox.calls.retain(|_, call| matches!(call, Waiting::Answered(_)));
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        inbox.lost.get_or_insert(cause);
        self.arrived.notify_all();
    }

    /// Reads once and answers the frames that are whole; an empty list if nothing came within a tick.
    fn read_frames(&self, flags: RecvFlags) -> Result<Vec<Frame>, LostCause> {
        let mut reader = lock(&self.reader);
        let Reader { frames, arriving } = &mut *reader;
        match rustix::net::recv(&self.socket, &mut arriving[..], flags) {
            Ok((0, _)) => return Err(LostCause::Closed),
            Ok((count, _)) => frames.extend(&arriving[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(broken(error)),
        }
        let mut whole = Vec::new();
        while let Some(frame) = frames.next_frame()? {
            whole.push(frame);
        }
        Ok(whole)
    }

    /// Writes `bytes`, with `fd` beside the first of them. Each piece has the session's timeout to find room.
    fn write_all(&self, mut bytes: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut deadline = Instant::now() + timeout;
        while !bytes.is_empty() {
            match send_some(&self.socket, bytes, fd) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    fd = None;
                    deadline = Instant::now() + timeout;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => self.wait_for_room()?,
                Err(Errno::AGAIN) => {
                    let message = format!("no room in the socket for {} ms", self.timeout_ms);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits a tick for room in the socket. Replies that come meanwhile are taken in: the daemon may have stopped
    /// reading because nobody takes them.
    fn wait_for_room(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT | PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() })) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = fds[0].revents();
        if events.contains(PollFlags::IN) && !events.contains(PollFlags::OUT) {
            let inbox = lock(&self.inbox);
            if inbox.reading {
                drop(inbox);
                std::thread::yield_now();
            } else if inbox.lost.is_none() {
                drop(self.read(inbox, RecvFlags::DONTWAIT));
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Forked children may hold copies of the socket, so closing it would not tell the daemon that nobody calls any
        // more.
        if !self.is_foreign() {
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Inbox {
    fn is_answered(&self, id: u64) -> bool {
        matches!(self.calls.get(&id), Some(Waiting::Answered(_)))
    }
}

impl Sender<'_> {
    /// Sends one call; its reply is collected by [`Session::wait`] under the number answered.
    pub(crate) fn send(
        &mut self,
        request: Request,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
        lease: Option<Lease>,
    ) -> Result<u64, ClientError> {
        let id = *self.next;
        *self.next += 1;
        let head = frame::encode_head(&Call { id, request }, payload.len())
            .map_err(|error| ClientError::Protocol(ProtocolError::Call(error)))?;
        let session = self.session;
        {
            let mut inbox = lock(&session.inbox);
            if let Some(cause) = &inbox.lost {
                return Err(cause.clone().into());
            }
            inbox.calls.insert(id, Waiting::Open(lease));
        }
        match session.write_all(&head, fd).and_then(|()| session.write_all(payload, None)) {
            Ok(()) => Ok(id),
            Err(error) => session.broke_off(id, error),
        }
    }

    /// Leases `bytes`, and tells the daemon of a new arena if one had to be made.
    pub(crate) fn lease(&mut self, bytes: usize) -> Result<Lease, ClientError> {
        let session = self.session;
        let (lease, growth) = session.pool.lease(bytes)?;
        let Some(growth) = growth else { return Ok(lease) };
        match self.announce(&growth) {
            Ok(()) => Ok(lease),
            // An arena that the daemon does not know must not serve later fetches.
            Err(error @ ClientError::Daemon { .. }) => {
                session.pool.discard(growth.arena);
                Err(error)
            }
            // No answer came, and the daemon may have taken it.
            Err(error) => {
                session.pool.abandon(growth.arena);
                Err(error)
            }
        }
    }

    /// Registers a new arena at the daemon. Before that it asks the daemon to drop old arenas, so that they do not
    /// count against its limits. It does not wait for these answers: the daemon takes the calls of a connection in
    /// order.
    fn announce(&mut self, growth: &Growth) -> Result<(), ClientError> {
        let session = self.session;
        while let Some(arena) = session.pool.drop_due() {
            let id = self.send(Request::DropArena { arena }, &[], None, None)?;
            session.abandon(id);
            session.pool.drop_sent(arena);
        }
        let request = Request::AddArena { arena: growth.arena, bytes: growth.mapping.bytes() as u64 };
        let id = self.send(request, &[], Some(growth.mapping.fd()), None)?;
        session.wait(id)?;
        Ok(())
    }

    /// Leases room for `rows` rows and what else a call needs; `bytes` are `None` where the sum is beyond memory.
    pub(crate) fn lease_rows(&mut self, rows: usize, bytes: Option<usize>) -> Result<Lease, ClientError> {
        self.lease(bytes.ok_or(MemoryError::TooLarge { rows: rows as u64 })?)
    }
}

impl Session {
    /// The stream broke while call `id` was written. A daemon that refuses says why before it closes: its message,
    /// which may be the answer to this very call, says more than "broken pipe".
    fn broke_off(&self, id: u64, error: io::Error) -> Result<u64, ClientError> {
        let mut inbox = lock(&self.inbox);
        let mut reads_left = if error.kind() == io::ErrorKind::TimedOut { 0 } else { LAST_READS_MAX };
        while reads_left > 0 && inbox.lost.is_none() && !inbox.reading && !inbox.is_answered(id) {
            inbox = self.read(inbox, RecvFlags::DONTWAIT);
            reads_left -= 1;
        }
        self.lose(&mut inbox, Cause::Broken(broken(error)));
        match &inbox.lost {
            Some(cause) if !inbox.is_answered(id) => Err(cause.clone().into()),
            _ => Ok(id),
        }
    }
}

/// The end of a connection whose socket failed.
fn broken(error: impl Into<io::Error>) -> LostCause {
    LostCause::Io(Arc::new(error.into()))
}

fn abandon(inbox: &mut Inbox, id: u64) {
    match inbox.calls.remove(&id) {
        Some(Waiting::Open(lease)) => {
            inbox.calls.insert(id, Waiting::Abandoned { _lease: lease });
        }
        Some(other @ Waiting::Abandoned { .. }) => {
            inbox.calls.insert(id, other);
        }
        Some(Waiting::Answered(_)) | None => {}
    }
}

/// Files a reply under its call.
fn deliver(inbox: &mut Inbox, frame: Frame) -> Result<(), Cause> {
    let answer: Answer = codec::decode(&frame.message).map_err(|error| Cause::Broken(error.into()))?;
    let id = answer.id;
    match inbox.calls.remove(&id) {
        Some(Waiting::Open(lease)) => {
            let delivery = Delivery { reply: answer.reply, payload: frame.payload, lease };
            inbox.calls.insert(id, Waiting::Answered(delivery));
            Ok(())
        }
        Some(Waiting::Abandoned { .. }) => Ok(()),
        Some(Waiting::Answered(_)) => Err(Cause::Broken(LostCause::NotOpen { id })),
        None => match answer.reply {
            Reply::Failed { code, message, .. } => Err(Cause::Refused(code, message)),
            _ => Err(Cause::Broken(LostCause::NotOpen { id })),
        },
    }
}

fn refuse_failures(delivery: Delivery) -> Result<Delivery, ClientError> {
    match delivery.reply {
        Reply::Failed { code, message, .. } => Err(ClientError::refused(code, message)),
        _ => Ok(delivery),
    }
}
