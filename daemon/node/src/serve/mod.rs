//! What a node does for its trainers: the local socket, the connections on it, and the fetch path behind them. It owns
//! the limits on what a client may ask for (`session`), the gather, and the bookkeeping with the cache
//! ([`Engine`]). It stands on `dataset`, `cache` and `peers`.
//!
//! **It must never** wait without a limit, do bookkeeping while a trainer waits, or answer a fetch of which one row is
//! not the owner's.

mod ahead;
mod block_metrics;
mod blocks;
mod engine;
mod error;
mod flights;
mod gather;
mod held;
mod insight;
mod metrics;
mod owned;
mod progress;
mod receive;
mod recorder;
mod refresh;
mod replies;
mod session;
mod socket;
mod source;
mod stats;
mod status;
mod steer;
mod timing;
mod update;
mod versions;
mod versions_metrics;

pub use engine::{Engine, EngineError, EngineParts};
pub use error::ServeError;
pub use gather::gather_in_process;
pub use owned::{Owned, OwnedError};
pub use refresh::RefreshAnswer;
pub use source::ShardSource;
pub use status::{EngineStatus, FetchedRows, LookaheadStatus, MemoryStatus, NetworkRows, TableStatus, VersionsStatus};
pub use steer::SteerSettings;

use crate::config::LocalConfig;
use error::RequestError;
use prometheus::IntGauge;
use prometheus::core::Collector;
use replies::Replies;
use socket::Socket;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a failed accept (descriptors exhausted, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT_MS: u64 = 1000;

/// What every connection shares.
struct Shared {
    engine: Arc<Engine>,
    config: LocalConfig,
    status: StatusText,
    stop: CancellationToken,
    fetches: TaskTracker,
    connections: IntGauge,
}

/// Answers what `GET /v1/status` says, as JSON.
pub type StatusText = Arc<dyn Fn() -> String + Send + Sync>;

/// The local side of a node, serving.
pub struct LocalServer {
    shared: Arc<Shared>,
    accepting: CancellationToken,
    sessions: TaskTracker,
}

impl LocalServer {
    /// Binds the socket and begins to accept; to be called inside the runtime that shall serve.
    ///
    /// # Errors
    /// [`ServeError`] when the socket cannot be made.
    pub fn start(engine: Arc<Engine>, config: LocalConfig, status: StatusText) -> Result<Self, ServeError> {
        let socket = Socket::bind(&config)?;
        let connections = IntGauge::new("rudder_local_connections", "Connections of trainers that are open.")?;
        let (stop, fetches) = (CancellationToken::new(), TaskTracker::new());
        let shared = Arc::new(Shared { engine, config, status, stop, fetches, connections });
        let server = Self { shared, accepting: CancellationToken::new(), sessions: TaskTracker::new() };
        tokio::spawn(accept(Arc::clone(&server.shared), socket, server.accepting.clone(), server.sessions.clone()));
        Ok(server)
    }

    /// The metrics of the socket.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.shared.connections.clone())]
    }

    /// Takes no new connections and fetches, lets those under way end within `deadline`, then closes.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.engine.drain();
        self.accepting.cancel();
        self.shared.fetches.close();
        if tokio::time::timeout(deadline, self.shared.fetches.wait()).await.is_err() {
            tracing::warn!(unfinished = self.shared.fetches.len(), "fetches did not end within the drain deadline");
        }
        self.shared.stop.cancel();
        self.sessions.close();
        let _ = tokio::time::timeout(deadline.max(Duration::from_millis(100)), self.sessions.wait()).await;
    }
}

async fn accept(shared: Arc<Shared>, socket: Socket, accepting: CancellationToken, sessions: TaskTracker) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max));
    let mut connection = 0u64;
    loop {
        let accepted = tokio::select! {
            () = accepting.cancelled() => return,
            accepted = socket.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a local connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connection += 1;
        let place = match admit(&stream, &shared.config, &places) {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(%error, "local connection refused");
                sessions.spawn(refuse(stream, error));
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        sessions.spawn(async move {
            let open = Open::new(&shared.connections);
            session::serve(shared, connection, stream).await;
            drop((open, place));
        });
    }
}

/// Counts a connection for as long as it lives.
struct Open(IntGauge);

impl Open {
    fn new(connections: &IntGauge) -> Self {
        connections.inc();
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A place among the connections, if the user on the other side may have one and one is left.
fn admit(
    stream: &UnixStream,
    config: &LocalConfig,
    places: &Arc<Semaphore>,
) -> Result<OwnedSemaphorePermit, RequestError> {
    let peer = stream.peer_cred().map_err(|error| RequestError::Protocol(format!("no credentials: {error}")))?;
    if !socket::is_allowed(peer.uid(), config) {
        return Err(RequestError::Forbidden { uid: peer.uid() });
    }
    Arc::clone(places).try_acquire_owned().map_err(|_| RequestError::Limit {
        what: "one more local connection".to_owned(),
        key: "local.connections_max",
        limit: config.connections_max as u64,
    })
}

/// Says why before it closes.
async fn refuse(stream: UnixStream, error: RequestError) {
    Replies::new(Arc::new(stream), REFUSAL_TIMEOUT_MS).refuse(0, &error, true).await;
}
