//! A client that can break every rule of the local protocol: raw bytes, raw descriptors, raw messages. It must never
//! wait without a limit.

use crate::Fault;
use rudder_client::IdSpace;
use rudder_client::wire::frame::{self, FrameBuffer, FrameLimits};
use rudder_client::wire::{Answer, Call, ErrorCode, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Reply, Request, codec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for anything a daemon owes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection whose every byte the test chooses.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
    frames: FrameBuffer,
}

/// A first message, of `version`.
#[must_use]
pub fn hello(version: u16) -> Request {
    Request::Hello { version, name: "raw".to_owned(), trainer: 1, ids: IdSpace::Dataset, fingerprint: None }
}

/// What a daemon answers to a request that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The call it answers.
    pub id: u64,
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Whether the daemon hangs up.
    pub closing: bool,
}

impl RawClient {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(socket: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let limits = FrameLimits { message_bytes_max: MESSAGE_BYTES_MAX, payload_bytes_max: 1 << 30 };
        Ok(Self { stream, frames: FrameBuffer::new(limits) })
    }

    /// Connects and says Hello, as call 0.
    ///
    /// # Errors
    /// What the kernel says, or an answer that is no welcome.
    pub fn greeted(socket: &Path) -> Result<Self, Fault> {
        let mut client = Self::connect(socket)?;
        client.call(0, hello(PROTOCOL_VERSION), &[], None)?;
        match client.answer()? {
            (Answer { reply: Reply::Welcome { .. }, .. }, _) => Ok(client),
            (other, _) => Err(format!("no welcome: {other:?}").into()),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a well-formed call, with a descriptor beside it if one is given.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn call(&mut self, id: u64, request: Request, payload: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        let mut bytes = frame::encode_head(&Call { id, request }, payload.len())?;
        bytes.extend(payload);
        let Some(fd) = fd else { return Ok(self.send(&bytes)?) };
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(self.send(&bytes[sent..])?)
    }

    /// Sends nothing more; the daemon's answers still arrive.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The next answer and the bytes behind it.
    ///
    /// # Errors
    /// The daemon hung up, sent nothing in time, or what is no answer.
    pub fn answer(&mut self) -> Result<(Answer, Vec<u8>), Fault> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok((codec::decode(&frame.message)?, frame.payload));
            }
            match self.stream.read(&mut bytes)? {
                0 => return Err("the daemon hung up".into()),
                count => self.frames.extend(&bytes[..count]),
            }
        }
    }

    /// The next answer, which must be a refusal.
    ///
    /// # Errors
    /// As [`Self::answer`], and when the daemon is content.
    pub fn refusal(&mut self) -> Result<Refusal, Fault> {
        match self.answer()? {
            (Answer { id, reply: Reply::Failed { code, message, closing }, .. }, _) => {
                Ok(Refusal { id, code, message, closing })
            }
            (other, _) => Err(format!("no refusal: {other:?}").into()),
        }
    }

    /// Whether the daemon hangs up without another word.
    pub fn is_hung_up(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            // So the kernel says it when the daemon left bytes of ours unread.
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
