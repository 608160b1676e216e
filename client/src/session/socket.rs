//! The socket of a session: connecting, and sending without blocking. It owns no state. It must never wait longer than
//! the options allow.

use super::{TICK, TIMEOUT_MS_MAX};
use crate::ConnectOptions;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why a connection was not made.
pub(super) enum Refusal {
    /// The kernel refused it.
    Io(io::Error),
    /// [`ConnectOptions::interrupted`] answered `true`.
    Interrupted,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::Io(errno.into())
    }
}

/// How often a daemon that does not listen yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Connects to the socket at `path`. If nobody listens there, waits for a daemon as long as the options say.
pub(super) fn connect_within(path: &Path, options: &ConnectOptions) -> Result<UnixStream, Refusal> {
    let deadline = Instant::now() + Duration::from_millis(options.wait_ms.min(TIMEOUT_MS_MAX));
    loop {
        match connect_once(path, options) {
            Err(Refusal::Io(error)) if is_absent(&error) && Instant::now() < deadline => {}
            outcome => return outcome,
        }
        if options.interrupted.is_some_and(|ask| ask()) {
            return Err(Refusal::Interrupted);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether nobody listens on a socket, or there is none.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Connects now. If the daemon's queue of connections is full, waits up to the options' timeout.
fn connect_once(path: &Path, options: &ConnectOptions) -> Result<UnixStream, Refusal> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let deadline = Instant::now() + Duration::from_millis(options.timeout_ms.min(TIMEOUT_MS_MAX));
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(TICK))?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::AGAIN) if Instant::now() >= deadline => {
                let message = format!("it accepted no connection within {} ms", options.timeout_ms);
                return Err(Refusal::Io(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            Err(Errno::AGAIN | Errno::INTR) if options.interrupted.is_some_and(|ask| ask()) => {
                return Err(Refusal::Interrupted);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends as much of `bytes` as there is room for, with `fd` beside it.
pub(super) fn send_some(socket: &UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let Some(fd) = fd else { return rustix::net::send(socket, bytes, flags) };
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}
