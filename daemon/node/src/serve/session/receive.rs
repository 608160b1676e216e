//! Reading from a trainer's socket: bytes and the descriptors that come with them. It owns the frame buffer, and must
//! never keep more descriptors than a client may still need.

use crate::serve::error::RequestError;
use crate::serve::settings::LocalConfig;
use rudder_client::wire::frame::{Frame, FrameBuffer, FrameError, FrameLimits};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What to do about bytes that make no sense.
pub(crate) const SAME_VERSION: &str = "is this a client of the same version as this daemon?";

/// Bytes one read takes.
const READ_BYTES: usize = 64 << 10;

/// Descriptors one message may carry.
const FDS_PER_MESSAGE: usize = 4;

/// Descriptors that may wait for the message that names them.
const FDS_WAITING_MAX: usize = 8;

/// The reading half of a connection.
pub(crate) struct Receiver {
    stream: Arc<UnixStream>,
    frames: FrameBuffer,
    bytes: Vec<u8>,
}

impl Receiver {
    pub(crate) fn new(stream: Arc<UnixStream>, config: &LocalConfig) -> Self {
        let limits =
            FrameLimits { message_bytes_max: config.frame_bytes_max, payload_bytes_max: config.inline_bytes_max };
        Self { stream, frames: FrameBuffer::new(limits), bytes: vec![0; READ_BYTES] }
    }

    /// Waits for bytes; false when the client has closed. Safe to cancel.
    pub(crate) async fn receive(&mut self, fds: &mut VecDeque<OwnedFd>) -> Result<bool, RequestError> {
        loop {
            let broken = |error: io::Error| RequestError::Protocol(format!("the connection broke: {error}"));
            self.stream.readable().await.map_err(broken)?;
            let (stream, bytes) = (&*self.stream, &mut self.bytes);
            match stream.try_io(Interest::READABLE, || receive_once(stream, bytes, fds)) {
                Ok(0) => {
                    return if self.frames.pending_bytes() == 0 {
                        Ok(false)
                    } else {
                        let came = self.frames.pending_bytes();
                        Err(RequestError::Protocol(format!(
                            "the connection ended in the middle of a frame, after {came} bytes"
                        )))
                    };
                }
                Ok(read) => {
                    if fds.len() > FDS_WAITING_MAX {
                        return Err(RequestError::Protocol("descriptors came that no message names".to_owned()));
                    }
                    self.frames.extend(&self.bytes[..read]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// The next whole frame, if there is one.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, RequestError> {
        self.frames.next_frame().map_err(|error| match error {
            FrameError::MessageTooLong { .. } => {
                RequestError::Protocol(format!("{error} (local.frame_bytes_max); {SAME_VERSION}"))
            }
            FrameError::PayloadTooLong { .. } => RequestError::Protocol(format!(
                "{error} (local.inline_bytes_max); send fewer ids or rows at once, or raise it"
            )),
            FrameError::Empty => RequestError::Protocol(format!("{error}; {SAME_VERSION}")),
        })
    }
}

fn receive_once(stream: &UnixStream, bytes: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        let open = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        return Err(io::Error::other(descriptors_lost(open, limit)));
    }
    Ok(message.bytes)
}

/// Why the kernel did not deliver descriptors: the message had more than there was room for, or this process has no
/// more `limit` for them, of which it has `open`, if that could be counted at all.
fn descriptors_lost(open: Option<usize>, limit: Option<u64>) -> String {
    let limit_text = limit.map_or("no limit".to_owned(), |limit| format!("a limit of {limit}"));
    let is_full = match (open, limit) {
        // Counting them takes one.
        (Some(open), Some(limit)) => open as u64 + FDS_PER_MESSAGE as u64 >= limit,
        // The folder cannot even be opened.
        (None, _) => true,
        (Some(_), None) => false,
    };
    if is_full {
        format!(
            "descriptors were lost: this daemon has no more left ({limit_text}); raise LimitNOFILE of its unit (ulimit -n) or lower \
             local.connections_max"
        )
    } else {
        format!(
            "descriptors were lost: the client sent more than {FDS_PER_MESSAGE} in one message, or this daemon had none left \
             ({} open, {limit_text})",
            open.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel says the same of a client that sends too many and of a daemon that cannot take one more.
    #[test]
    fn lost_descriptors_are_blamed_on_the_client_only_if_the_daemon_has_some_left() {
        let full = descriptors_lost(Some(1022), Some(1024));
        assert!(full.contains("this daemon has no more left") && full.contains("LimitNOFILE"), "{full}");
        assert!(!full.contains("the client sent"), "{full}");
        assert_eq!(descriptors_lost(None, Some(1024)), full);
        let many = descriptors_lost(Some(50), Some(1024));
        assert!(many.contains("the client sent more than 4") && many.contains("50 open, a limit of 1024"), "{many}");
    }
}
