//! One connection to a daemon: sends calls, hands each reply to whoever waits for it. It owns the socket and the leases
//! of calls in flight. It must never give a lease back while the daemon may still write into it.
//!
//! There is no thread of its own: of the threads that wait, one reads the socket for all.

use crate::arena::{Lease, Pool};
use crate::wire::frame::{self, Frame, FrameBuffer, FrameLimits};
use crate::wire::{Answer, Call, ErrorCode, MESSAGE_BYTES_MAX, Reply, Request, codec};
use crate::{ClientError, ConnectOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a blocked read looks at its deadline.
const READ_TICK: Duration = Duration::from_millis(100);

/// Bytes one read takes from the socket.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    pub(crate) pool: Arc<Pool>,
    /// Holds the right to send; the number of the next call.
    sender: Mutex<u64>,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    reader: Mutex<FrameBuffer>,
    lost: AtomicBool,
    timeout_ms: u64,
    /// The process that connected: a fork must not share the stream.
    pub(crate) pid: u32,
}

#[derive(Debug, Default)]
struct Inbox {
    calls: HashMap<u64, Waiting>,
    reading: bool,
    lost: Option<String>,
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

fn relock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(crate) fn connect(options: &ConnectOptions) -> Result<Arc<Self>, ClientError> {
        let path = options.socket_path();
        let fail = |cause| ClientError::Connect { socket: path.clone(), cause };
        let socket = UnixStream::connect(&path).map_err(fail)?;
        socket.set_read_timeout(Some(READ_TICK)).map_err(fail)?;
        socket.set_write_timeout(Some(Duration::from_millis(options.timeout_ms.max(1)))).map_err(fail)?;
        let limits = FrameLimits { message_bytes_max: MESSAGE_BYTES_MAX, payload_bytes_max: u32::MAX as usize };
        Ok(Arc::new(Self {
            socket,
            pool: Pool::new(options.arena_bytes_max),
            sender: Mutex::new(1),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            reader: Mutex::new(FrameBuffer::new(limits)),
            lost: AtomicBool::new(false),
            timeout_ms: options.timeout_ms,
            pid: std::process::id(),
        }))
    }

    /// Whether a later call would need a new connection.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire) || self.pid != std::process::id()
    }

    /// Takes the right to send; what is sent under one right arrives in one piece.
    pub(crate) fn sender(&self) -> Sender<'_> {
        Sender { session: self, next: relock(&self.sender) }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn ask(&self, request: Request) -> Result<Reply, ClientError> {
        let id = self.sender().send(request, &[], None, None)?;
        Ok(self.wait(id)?.reply)
    }

    /// Waits for the reply of call `id`, reading the socket if nobody else does.
    pub(crate) fn wait(&self, id: u64) -> Result<Delivery, ClientError> {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
        let mut inbox = relock(&self.inbox);
        loop {
            if matches!(inbox.calls.get(&id), Some(Waiting::Answered(_)))
                && let Some(Waiting::Answered(delivery)) = inbox.calls.remove(&id)
            {
                return refuse_failures(delivery);
            }
            if let Some(cause) = &inbox.lost {
                let cause = cause.clone();
                inbox.calls.remove(&id);
                return Err(ClientError::Lost(cause));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                abandon(&mut inbox, id);
                return Err(ClientError::Timeout { timeout_ms: self.timeout_ms });
            }
            if inbox.reading {
                inbox = self.arrived.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            inbox.reading = true;
            drop(inbox);
            let frames = self.read_frames();
            inbox = relock(&self.inbox);
            inbox.reading = false;
            match frames.and_then(|frames| frames.into_iter().try_for_each(|frame| deliver(&mut inbox, frame))) {
                Ok(()) => {}
                Err(cause) => self.lose(&mut inbox, cause),
            }
            self.arrived.notify_all();
        }
    }

    /// Stops waiting for call `id`; what it leased is free once the daemon has answered.
    pub(crate) fn abandon(&self, id: u64) {
        abandon(&mut relock(&self.inbox), id);
    }

    fn lose(&self, inbox: &mut Inbox, cause: String) {
        self.lost.store(true, Ordering::Release);
        // The daemon may still be writing into leased memory: those leases are never used again. A new session has a
        // pool of its own; the old pool lives until the last row that was received through it is dropped.
        for (_, call) in inbox.calls.drain() {
            if let Waiting::Open(Some(lease)) | Waiting::Abandoned { _lease: Some(lease) } = call {
                std::mem::forget(lease);
            }
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        inbox.lost = Some(cause);
    }

    /// Reads once and answers the frames that are whole; none if nothing came within a tick.
    fn read_frames(&self) -> Result<Vec<Frame>, String> {
        let mut buffer = relock(&self.reader);
        let mut bytes = [0; READ_BYTES];
        match (&self.socket).read(&mut bytes) {
            Ok(0) => return Err("rudderd closed it".to_owned()),
            Ok(n) => buffer.extend(&bytes[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
        let mut frames = Vec::new();
        while let Some(frame) = buffer.next_frame().map_err(|error| error.to_string())? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn write_all(&self, mut bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if let Some(fd) = fd {
            let fds = [fd];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let sent = rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
            bytes = &bytes[sent..];
        }
        (&self.socket).write_all(bytes)
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
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        let session = self.session;
        {
            let mut inbox = relock(&session.inbox);
            if let Some(cause) = &inbox.lost {
                return Err(ClientError::Lost(cause.clone()));
            }
            inbox.calls.insert(id, Waiting::Open(lease));
        }
        let written = session.write_all(&head, fd).and_then(|()| (&session.socket).write_all(payload));
        if let Err(error) = written {
            let mut inbox = relock(&session.inbox);
            // A daemon that refuses a connection says why before it closes: prefer its words to "broken pipe".
            let cause = session.last_words().unwrap_or_else(|| error.to_string());
            session.lose(&mut inbox, cause.clone());
            session.arrived.notify_all();
            return Err(ClientError::Lost(cause));
        }
        Ok(id)
    }

    /// Leases `bytes`, and tells the daemon of a new arena if one had to be made.
    pub(crate) fn lease(&mut self, bytes: usize) -> Result<Lease, ClientError> {
        let session = self.session;
        let (lease, growth) = session.pool.lease(bytes).map_err(|error| ClientError::Memory(error.to_string()))?;
        let Some(growth) = growth else { return Ok(lease) };
        for arena in growth.dropped {
            let id = self.send(Request::DropArena { arena }, &[], None, None)?;
            session.wait(id)?;
        }
        let (arena, mapping) = growth.added;
        let request = Request::AddArena { arena, bytes: mapping.bytes() as u64 };
        let id = self.send(request, &[], Some(mapping.fd()), None)?;
        session.wait(id)?;
        Ok(lease)
    }
}

impl Session {
    /// The message of a refusal that arrived but was not read, if nobody is reading.
    fn last_words(&self) -> Option<String> {
        let frames = self.read_frames().ok()?;
        frames.iter().find_map(|frame| match codec::decode::<Answer>(&frame.message).ok()?.reply {
            Reply::Failed { message, .. } => Some(message),
            _ => None,
        })
    }
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
fn deliver(inbox: &mut Inbox, frame: Frame) -> Result<(), String> {
    let answer: Answer = codec::decode(&frame.message).map_err(|error| error.to_string())?;
    match inbox.calls.remove(&answer.id) {
        Some(Waiting::Open(lease)) => {
            let delivery = Delivery { reply: answer.reply, payload: frame.payload, lease };
            inbox.calls.insert(answer.id, Waiting::Answered(delivery));
            Ok(())
        }
        Some(Waiting::Abandoned { .. }) => Ok(()),
        Some(Waiting::Answered(_)) => Err(format!("call {} was answered twice", answer.id)),
        None => match answer.reply {
            Reply::Failed { message, .. } => Err(message),
            _ => Err(format!("an answer to call {}, which was never made", answer.id)),
        },
    }
}

fn refuse_failures(delivery: Delivery) -> Result<Delivery, ClientError> {
    match delivery.reply {
        Reply::Failed { code: ErrorCode::Version, message, .. } => Err(ClientError::Protocol(message)),
        Reply::Failed { code, message, .. } => Err(ClientError::Daemon { code, message }),
        _ => Ok(delivery),
    }
}
