//! One request on one stream, from the asking side: sends it, receives the rows or words of the answer into the
//! caller's buffer, checks every block. Owns nothing; it must never wait without its caller's time limit around it.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use quinn::{Connection, ReadError, RecvStream, WriteError};

use super::context::code;
use super::priority::stream_priority;
use super::wire::{Class, Expected, Need, RemoteError, ResponseDecoder, ResponseError, WireError};

/// Why a request brought no rows.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The connection went away; another may do better.
    Lost(String),
    /// The peer answered with an error.
    Remote(RemoteError),
    /// The answer is broken.
    Wire(WireError),
}

impl From<ResponseError> for AskError {
    fn from(error: ResponseError) -> Self {
        match error {
            ResponseError::Wire(error) => Self::Wire(error),
            ResponseError::Remote(error) => Self::Remote(error),
        }
    }
}

impl From<WireError> for AskError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error.to_string()),
            ReadError::Reset(code) => {
                Self::Remote(RemoteError::Internal(format!("it gave the answer up (code {code})")))
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

/// What is to be called before a request leaves.
pub(crate) type Sending<'a> = dyn Fn() + Send + Sync + 'a;

/// Sends `message`, a whole request, and receives what is `expected`; rows or words fill the start of `out`. `sending`
/// is called before the first byte leaves.
pub(crate) async fn exchange(
    connection: &Connection,
    message: Bytes,
    class: Class,
    expected: Expected,
    out: &mut [u8],
    sending: &Sending<'_>,
) -> Result<ResponseDecoder, AskError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| AskError::Lost(error.to_string()))?;
    // Fails only on closed streams, which the write below reports.
    let _ = send.set_priority(stream_priority(class));
    sending();
    match send.write_chunk(message).await {
        // A peer that refuses the request stops the stream; its answer says why.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(error) => return Err(AskError::Lost(error.to_string())),
    }
    let _ = send.finish();
    let outcome = receive(&mut recv, ResponseDecoder::new(expected), out).await;
    if matches!(outcome, Err(AskError::Wire(_))) {
        // Tells the peer that it was not understood.
        let _ = recv.stop(code::PROTOCOL);
    }
    outcome
}

async fn receive(
    recv: &mut RecvStream,
    mut decoder: ResponseDecoder,
    rows: &mut [u8],
) -> Result<ResponseDecoder, AskError> {
    let mut control = [0; 64];
    loop {
        match decoder.need() {
            Need::Control(missing) => {
                let most = missing.min(control.len());
                let n = recv.read(&mut control[..most]).await?.ok_or(WireError::Truncated)?;
                decoder.control(&control[..n])?;
            }
            Need::Payload(range) => {
                let n = recv.read(&mut rows[range]).await?.ok_or(WireError::Truncated)?;
                decoder.advance(n, rows)?;
            }
            Need::End => {
                return match recv.read(&mut control[..1]).await? {
                    None => Ok(decoder),
                    Some(_) => Err(WireError::Excess.into()),
                };
            }
        }
    }
}

/// Runs all of `futures`, at most `at_once` at a time, until the first error.
pub(crate) async fn all<F, E>(futures: Vec<F>, at_once: usize) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    stream::iter(futures).buffer_unordered(at_once).try_collect().await
}
