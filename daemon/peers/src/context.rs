//! What the dialling and the answering side of a node share. Owns the codes by which connections and streams are
//! closed; it must never hold a lock across a wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::VarInt;
use tokio_util::task::TaskTracker;

use super::buffers::BufferPool;
use super::link::Links;
use super::priority::Turns;
use super::stats::PeerStats;
use super::tls::NodeName;
use super::transport::Transport;
use super::wire::{Hello, HelloDecoder, Refusal, WireError};
use super::{Identity, RowSource};
use crate::settings::PeersConfig;

/// Codes of closed connections and stopped streams, as QUIC carries them.
pub(crate) mod code {
    use super::VarInt;
    /// Nothing is wrong.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// Bytes that are not the protocol.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(1);
    /// The Hello was turned away.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(2);
    /// The node is shutting down.
    pub(crate) const DRAINING: VarInt = VarInt::from_u32(3);
    /// An answer that the other side did not take in time.
    pub(crate) const TOO_SLOW: VarInt = VarInt::from_u32(4);
}

pub(crate) struct PeersContext {
    pub(crate) config: PeersConfig,
    pub(crate) identity: Identity,
    pub(crate) version: u16,
    pub(crate) name: NodeName,
    pub(crate) source: Arc<dyn RowSource>,
    pub(crate) transport: Transport,
    pub(crate) stats: PeerStats,
    pub(crate) links: Links,
    pub(crate) receive_pool: Arc<BufferPool>,
    pub(crate) send_pool: Arc<BufferPool>,
    pub(crate) turns: Turns,
    /// Places for updates that are received and applied.
    pub(crate) updates: tokio::sync::Semaphore,
    /// Bytes of the longest row of any table.
    pub(crate) row_bytes_max: usize,
    /// Told when a peer turns out to be another process than before.
    pub(crate) renewed: tokio::sync::Notify,
    pub(crate) answers: TaskTracker,
    pub(crate) draining: AtomicBool,
    /// Where spans of answers go, if anywhere.
    pub(crate) tracer: std::sync::OnceLock<Arc<rudder_telemetry::spans::Tracer>>,
    pub(crate) handle: tokio::runtime::Handle,
}

impl PeersContext {
    pub(crate) fn hello(&self) -> Hello {
        let Identity { node, parts, fingerprint } = self.identity;
        Hello { node, parts, fingerprint }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.config.connect_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    /// Whether an answer that took this long is written to the log.
    pub(crate) fn is_slow(&self, elapsed: Duration) -> bool {
        let slow_ms = self.config.slow_answer_ms;
        slow_ms > 0 && elapsed >= Duration::from_millis(slow_ms)
    }

    /// What in the Hello of a node whose certificate names `certificate` keeps it out, as its answer would say it.
    pub(crate) fn judge(&self, theirs: &Hello, certificate: u16) -> Option<Refusal> {
        let ours = self.hello();
        if theirs.node != certificate || theirs.node == ours.node {
            return Some(Refusal::Node { hello: theirs.node, certificate });
        }
        if theirs.parts != ours.parts || theirs.node >= ours.parts {
            return Some(Refusal::Parts { ours: ours.parts, yours: theirs.parts });
        }
        let same = theirs.fingerprint == ours.fingerprint;
        (!same).then_some(Refusal::Fingerprint { ours: ours.fingerprint, yours: theirs.fingerprint })
    }
}

/// Why no Hello was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadHelloError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Lost(#[from] quinn::ReadError),
}

/// Reads a Hello or a Hello's reply.
pub(crate) async fn read_hello(recv: &mut quinn::RecvStream) -> Result<HelloDecoder, ReadHelloError> {
    let mut decoder = HelloDecoder::default();
    let mut bytes = [0; 64];
    while decoder.missing() > 0 {
        let most = decoder.missing().min(bytes.len());
        match recv.read(&mut bytes[..most]).await? {
            Some(n) => decoder.push(&bytes[..n])?,
            None => return Err(WireError::Truncated.into()),
        }
    }
    Ok(decoder)
}
