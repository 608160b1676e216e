//! Serves the local socket: accepts connections, refuses those that may not be, and takes all of them down again. It
//! owns the limit on connections and the deadline of the drain.

use crate::serve::engine::Engine;
use crate::serve::error::{RequestError, ServeError};
use crate::serve::session::checks::{Local, Peer, StatusText};
use crate::serve::session::connection;
use crate::serve::session::replies::Replies;
use crate::serve::session::socket::{self, Socket};
use crate::serve::settings::LocalConfig;
use prometheus::IntGauge;
use prometheus::core::Collector;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a failed accept (descriptors exhausted, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long sessions and bookkeepers may take to end even where the calls have used up the deadline: they only have to
/// stop.
const STOP_GRACE: Duration = Duration::from_millis(100);

/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT_MS: u64 = 1000;

/// The local side of a node, serving.
pub struct LocalServer {
    local: Arc<Local>,
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
        let (stop, calls) = (CancellationToken::new(), TaskTracker::new());
        let local = Arc::new(Local { engine, config, status, stop, calls, connections });
        let server = Self { local, accepting: CancellationToken::new(), sessions: TaskTracker::new() };
        tokio::spawn(accept(Arc::clone(&server.local), socket, server.accepting.clone(), server.sessions.clone()));
        Ok(server)
    }

    /// The metrics of the socket.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.local.connections.clone())]
    }

    /// Takes no new connections and calls, lets those under way end, then closes, all of it within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        self.local.engine.drain();
        self.accepting.cancel();
        self.local.calls.close();
        if tokio::time::timeout_at(end, self.local.calls.wait()).await.is_err() {
            tracing::warn!(unfinished = self.local.calls.len(), "calls did not end within the drain deadline");
        }
        self.local.stop.cancel();
        self.sessions.close();
        let end = end.max(Instant::now() + STOP_GRACE);
        let _ = tokio::time::timeout_at(end, self.sessions.wait()).await;
        let engine = Arc::clone(&self.local.engine);
        let _ = tokio::time::timeout_at(end, tokio::task::spawn_blocking(move || engine.end())).await;
    }
}

async fn accept(local: Arc<Local>, socket: Socket, accepting: CancellationToken, sessions: TaskTracker) {
    let places = Arc::new(Semaphore::new(local.config.connections_max));
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
        let (uid, place) = match admit(&stream, &local.config, &places) {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::warn!(%error, "local connection refused");
                sessions.spawn(refuse(stream, error));
                continue;
            }
        };
        let (local, peer) = (Arc::clone(&local), Peer { connection, uid });
        sessions.spawn(async move {
            let open = Open::new(&local.connections);
            connection::serve(local, peer, stream).await;
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

/// The user on the other side and a place among the connections, if that user may have one and one is left.
fn admit(
    stream: &UnixStream,
    config: &LocalConfig,
    places: &Arc<Semaphore>,
) -> Result<(u32, OwnedSemaphorePermit), RequestError> {
    let peer = stream.peer_cred().map_err(|error| RequestError::Protocol(format!("no credentials: {error}")))?;
    if !socket::is_allowed(peer.uid(), config) {
        return Err(RequestError::Forbidden { uid: peer.uid() });
    }
    let place = Arc::clone(places).try_acquire_owned().map_err(|_| RequestError::Limit {
        what: "one more local connection".to_owned(),
        key: "local.connections_max",
        limit: config.connections_max as u64,
    })?;
    Ok((peer.uid(), place))
}

/// Says why before it closes.
async fn refuse(stream: UnixStream, error: RequestError) {
    Replies::new(Arc::new(stream), REFUSAL_TIMEOUT_MS).refuse(0, &error, true).await;
}
