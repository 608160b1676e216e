//! Writing to a trainer's socket. It owns the order of bytes on the way out: one reply at a time, whole. It must never
//! wait longer than its limit for a client that does not read.

use crate::serve::error::RequestError;
use crate::serve::notices::Notices;
use rudder_client::wire::{Answer, Reply, frame};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The writing half of a connection.
pub(crate) struct Replies {
    stream: Arc<UnixStream>,
    turn: Mutex<()>,
    closed: CancellationToken,
    timeout: Duration,
    notices: Arc<Notices>,
}

impl Replies {
    pub(crate) fn new(stream: Arc<UnixStream>, write_timeout_ms: u64) -> Self {
        let timeout = Duration::from_millis(write_timeout_ms);
        Self { stream, turn: Mutex::new(()), closed: CancellationToken::new(), timeout, notices: Arc::default() }
    }

    /// Cancelled when the client is given up.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// What goes with the next reply.
    pub(crate) fn notices(&self) -> &Arc<Notices> {
        &self.notices
    }

    /// Keeps for the next reply that a call failed which is not answered.
    pub(crate) fn note(&self, error: &RequestError) {
        self.notices.say(error.code(), error.to_string());
    }

    /// Tells the client that call `id` failed.
    pub(crate) async fn refuse(&self, id: u64, error: &RequestError, closing: bool) {
        self.send(id, Reply::Failed { code: error.code(), message: error.to_string(), closing }, &[]).await;
    }

    /// Sends a reply; a client that does not take it in time is given up.
    pub(crate) async fn send(&self, id: u64, reply: Reply, payload: &[u8]) {
        let answer = Answer { id, reply, notices: self.notices.take() };
        let head = match frame::encode_head(&answer, payload.len()) {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(%error, "a reply cannot be encoded");
                self.closed.cancel();
                return;
            }
        };
        let turn = self.turn.lock().await;
        if self.closed.is_cancelled() {
            return;
        }
        let written = tokio::time::timeout(self.timeout, self.write(&head, payload)).await;
        drop(turn);
        if !matches!(written, Ok(Ok(()))) {
            self.closed.cancel();
        }
    }

    async fn write(&self, mut head: &[u8], mut payload: &[u8]) -> io::Result<()> {
        while !head.is_empty() || !payload.is_empty() {
            match self.stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(payload)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let of_head = written.min(head.len());
                    head = &head[of_head..];
                    payload = &payload[written - of_head..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
