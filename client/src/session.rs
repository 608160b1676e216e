//! One connection to a daemon: sends calls, and hands each reply to the thread that waits for it. It owns the socket
//! and the leases of calls in flight. It must never give a lease back while the daemon may still write into it.
//!
//! A session has no thread. Of the threads that wait, one reads the socket for all of them. A thread that finds no room
//! to write reads as well: the daemon may have stopped reading until somebody takes its replies.
//!
//! A session belongs to the process that connected. A fork shares its stream and copies its locks as they are, perhaps
//! held by threads that the child does not have. So a forked child takes no lock of its parent's session, and neither
//! reads nor writes its stream.

mod inbox;
mod sender;
mod socket;

pub(crate) use self::inbox::Delivery;
use self::inbox::{Cause, Inbox};
pub(crate) use self::sender::Sender;
use self::socket::{Refusal, connect_within, send_some};
use crate::arena::{ArenaLimit, Pool};
use crate::error::LostCause;
use crate::lock::lock;
use crate::wire::frame::{Frame, FrameBuffer, FrameLimits};
use crate::wire::{MESSAGE_BYTES_MAX, Notice, Reply, Request};
use crate::{ClientError, ConnectOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
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

/// What is asked for a receipt of the calls before it: any call that costs the daemon nothing.
const RECEIPT: Request = Request::Horizon { table: 0 };

/// Calls without answers after which a receipt is asked for.
const RECEIPT_EVERY: usize = 16;

/// Calls without answers whose memory may be out; one more waits for a receipt.
const ONE_WAY_MAX: usize = 256;

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
            pool: Pool::new(ArenaLimit::of_client(options.arena_bytes_max), options.arena_hooks.clone()),
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
        let id = self.sender().send(request, &[], None, Vec::new())?;
        Ok(self.wait(id)?.reply)
    }

    /// Bounds what calls without answers hold: after some of them, asks for a receipt, and waits for it only where the
    /// daemon is far behind. To be called after such a call.
    pub(crate) fn bound_one_way(&self) -> Result<(), ClientError> {
        let inbox = lock(&self.inbox);
        let (calls, is_due) = (inbox.one_way_calls(), !inbox.expects_receipt());
        if calls < RECEIPT_EVERY {
            return Ok(());
        }
        if calls >= ONE_WAY_MAX {
            drop(inbox);
            return self.ask(RECEIPT).map(drop);
        }
        if is_due {
            drop(inbox);
            let id = self.sender().send(RECEIPT, &[], None, Vec::new())?;
            let mut inbox = lock(&self.inbox);
            inbox.abandon(id);
            if inbox.one_way_calls() > 0 {
                inbox.expect_receipt(id);
            }
        } else if inbox.lost.is_none() && !inbox.reading {
            drop(self.read(inbox, RecvFlags::DONTWAIT));
        }
        Ok(())
    }

    /// Ends the session for good: calls in flight fail, rows that were handed out stay.
    pub(crate) fn close(&self) {
        if !self.is_foreign() {
            self.lose(&mut lock(&self.inbox), Cause::Closed);
        }
    }

    /// What the daemon said of calls that it does not answer, since this was last asked.
    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        if self.is_foreign() { Vec::new() } else { lock(&self.inbox).take_notices() }
    }

    /// Keeps what the daemon said on an earlier connection.
    pub(crate) fn keep_notices(&self, notices: Vec<Notice>) {
        lock(&self.inbox).keep_notices(notices);
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
            if let Some(delivery) = inbox.take(id) {
                return refuse_failures(delivery);
            }
            if let Some(cause) = &inbox.lost {
                return Err(cause.clone().into());
            }
            let now = Instant::now();
            if now >= deadline {
                inbox.abandon(id);
                return Err(ClientError::Timeout { timeout_ms: self.timeout_ms });
            }
            if now >= look_up {
                // Without the lock: the function may wait for a thread that wants the inbox.
                drop(inbox);
                let give_up = self.interrupted.is_some_and(|ask| ask());
                inbox = lock(&self.inbox);
                if give_up {
                    inbox.abandon(id);
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
            lock(&self.inbox).abandon(id);
        }
    }

    /// Reads once for all threads, files what came and wakes the threads that wait for it. Nobody else may be reading.
    fn read<'a>(&'a self, mut inbox: MutexGuard<'a, Inbox>, flags: RecvFlags) -> MutexGuard<'a, Inbox> {
        inbox.reading = true;
        drop(inbox);
        let frames = self.read_frames(flags).map_err(Cause::Broken);
        let mut inbox = lock(&self.inbox);
        inbox.reading = false;
        match frames.and_then(|frames| frames.into_iter().try_for_each(|frame| inbox.deliver(frame))) {
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
        inbox.end(cause);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
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

fn refuse_failures(delivery: Delivery) -> Result<Delivery, ClientError> {
    match delivery.reply {
        Reply::Failed { code, message, .. } => Err(ClientError::refused(code, message)),
        _ => Ok(delivery),
    }
}
