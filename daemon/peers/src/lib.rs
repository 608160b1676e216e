//! Rows between the nodes of a cluster: QUIC with mutual TLS under the cluster's own authority. Owns the endpoint, the
//! pool of connections, the protocol ([`wire`]) and the certificates ([`authority`]); knows of data only what
//! [`RowSource`] tells. It must never answer a node that has not proved who it is, keep a caller waiting beyond
//! `request_timeout_ms`, or hand out rows whose checksum it has not verified. `docs/peers.md` describes the protocol.

mod answer;
mod ask;
pub mod authority;
mod batch;
mod buffers;
mod context;
mod dial;
pub mod discovery;
mod error;
mod link;
mod pacing;
mod priority;
mod probe;
mod rows;
pub mod settings;
mod stats;
mod tls;
mod transport;
mod versions;
pub mod wire;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use buffers::RowBatch;
pub use error::{DialError, PeerError};
pub use link::Met;
pub use probe::{Meeting, Probe};
pub use rows::Wanted;
pub use settings::PeersConfig;
pub use stats::{PeerStats, PeerTotals};
pub use tls::{NodeName, Validity, install_tls_provider, tls_configs};
pub use versions::{Changes, Rewrite, UpdateFailed};
pub use wire::{BLOCK_ROWS, Class, Purpose, RemoteError, RequestId, Stamp};

use bytes::Bytes;

use ask::{AskError, Sending, exchange};
use buffers::BufferPool;
use context::{PeersContext, code};
use link::{Link, connect_lazily};
use priority::Turns;
use rudder_telemetry::spans::Tracer;
use tls::Credentials;
use transport::Transport;
use wire::{Expected, PROTOCOL_VERSION, ResponseDecoder};
#[cfg(test)]
use wire::{Request, RowsRequest, WireError, frame};

/// Shortest wait for peers to learn that this node leaves.
const FAREWELL_MIN: Duration = Duration::from_millis(200);

/// Who this node is to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Index of the node, which is the partition it owns.
    pub node: u16,
    /// Partitions of the dataset.
    pub parts: u16,
    /// Fingerprint of the dataset's manifest.
    pub fingerprint: u64,
}

/// What a node can answer to its peers: rows that it owns, and what was updated of them.
pub trait RowSource: Send + Sync + 'static {
    /// Bytes of one row of a table; `None` when there is no such table.
    fn row_bytes(&self, table: u16) -> Option<usize>;

    /// Copies the rows of `ids` (global, owned by this node) one after the other into `out`, whose length is theirs.
    ///
    /// # Errors
    /// The first id or table that this node cannot answer for.
    fn copy_rows(&self, table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError>;

    /// Where the versions of the rows stand. Rows that never change need no other answer than this.
    fn stamp(&self) -> Stamp {
        Stamp::default()
    }

    /// Which blocks of the table's rows were updated after `since`. Rows copied after this call are as new as its
    /// answer says.
    ///
    /// # Errors
    /// There is no such table.
    fn changes(&self, table: u16, since: Stamp) -> Result<Changes, SourceError> {
        self.row_bytes(table).ok_or(SourceError::UnknownTable { table })?;
        let now = self.stamp();
        Ok(if since.incarnation == now.incarnation { Changes::nothing(now) } else { Changes::everything(now) })
    }

    /// Replaces the rows of `ids` (global, owned by this node; of one that appears twice, the last stays) by `rows` on
    /// behalf of node `peer`, all of them or none. A repetition, known by `writer`, changes nothing. May block.
    ///
    /// # Errors
    /// The first id or table that this node cannot answer for, no room, or [`SourceError::Overtaken`].
    fn update(&self, peer: u16, writer: Stamp, table: u16, ids: &[u64], rows: &[u8]) -> Result<Stamp, SourceError> {
        let _ = (peer, writer, table, ids, rows);
        Err(SourceError::Failed("its rows cannot be updated".to_owned()))
    }
}

/// Why a [`RowSource`] has no rows to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No such table.
    #[error("no table {table}")]
    UnknownTable {
        /// Index asked for.
        table: u16,
    },
    /// An id of another partition.
    #[error("id {id} is not owned by this node")]
    NotOwned {
        /// The id.
        id: u64,
    },
    /// An id beyond the table.
    #[error("id {id} is out of range: the table has {rows} rows")]
    OutOfRange {
        /// The id.
        id: u64,
        /// Rows of the table over all partitions.
        rows: u64,
    },
    /// No room for more updated rows.
    #[error("{rows} updated rows are more than the {rows_max} that dataset.updates_bytes_max allows")]
    UpdatesFull {
        /// Rows that would be held.
        rows: u64,
        /// Rows that may be.
        rows_max: u64,
    },
    /// A later update of the same writer was applied.
    #[error("a later update of the same node was applied already")]
    Overtaken,
    /// The rows could not be had.
    #[error("{0}")]
    Failed(String),
    /// The file that holds the rows could not be read.
    #[error("{0}")]
    Storage(String),
}

impl From<SourceError> for RemoteError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::UnknownTable { table } => Self::UnknownTable { table },
            SourceError::NotOwned { id } => Self::NotOwned { id },
            SourceError::OutOfRange { id, rows } => Self::OutOfRange { id, rows },
            SourceError::UpdatesFull { rows, rows_max } => Self::UpdatesFull { rows, rows_max },
            SourceError::Overtaken => Self::Overtaken,
            SourceError::Failed(text) => Self::Internal(wire::short_text(&text)),
            SourceError::Storage(text) => Self::Storage(wire::short_text(&text)),
        }
    }
}

/// What is known of one peer now.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PeerStatus {
    /// Index of the peer.
    pub node: u16,
    /// Its configured address.
    pub address: String,
    /// Open connections of ours to it.
    pub connections: usize,
    /// Smoothed round trip time of one of them.
    pub rtt_us: Option<u64>,
    /// Bytes of rows it sent to this node.
    pub bytes_received: u64,
    /// Bytes of rows this node sent to it.
    pub bytes_sent: u64,
    /// Why the last dial failed, until one succeeds.
    pub last_error: Option<String>,
    /// Time until the pool dials again, while it pauses.
    pub retry_ms: Option<u64>,
}

/// The network path of a node: answers its peers and fetches from them.
pub struct Peers {
    shared: Arc<PeersContext>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Peers").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

impl Peers {
    /// Binds the UDP address and begins to answer. To be called inside a tokio runtime, which drives everything unless
    /// `config.threads` asks for threads of its own.
    ///
    /// # Errors
    /// When a key of `config`, a certificate file or the address cannot be used.
    pub fn start(config: &PeersConfig, identity: Identity, source: Arc<dyn RowSource>) -> Result<Arc<Self>, PeerError> {
        Self::start_with(config, identity, source, PROTOCOL_VERSION, Transport::bind)
    }

    /// [`Self::start`] with any protocol version, for tests of two that differ, and any way to the network.
    fn start_with(
        config: &PeersConfig,
        identity: Identity,
        source: Arc<dyn RowSource>,
        version: u16,
        bind: fn(&PeersConfig, &Credentials) -> Result<Transport, PeerError>,
    ) -> Result<Arc<Self>, PeerError> {
        config.check()?;
        // The only node of a dataset has nobody to talk to: it takes no port of the network.
        let alone = (identity.parts == 1)
            .then(|| PeersConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..config.clone() });
        let config = alone.as_ref().unwrap_or(config);
        let credentials = match &alone {
            Some(_) => Credentials::alone(identity.node)?,
            None => Credentials::load(config, identity.node)?,
        };
        let start = |error: String| PeerError::Start(error);
        let runtime = own_runtime(config.threads).map_err(|error| start(error.to_string()))?;
        let handle = match &runtime {
            Some(runtime) => runtime.handle().clone(),
            None => tokio::runtime::Handle::try_current().map_err(|error| start(error.to_string()))?,
        };
        let transport = {
            let _runtime = handle.enter();
            bind(config, &credentials)?
        };
        let yield_max = Duration::from_millis(config.bulk_yield_ms);
        let shared = Arc::new(PeersContext {
            config: config.clone(),
            identity,
            version,
            name: credentials.name,
            row_bytes_max: (0..=u16::MAX).map_while(|table| source.row_bytes(table)).max().unwrap_or(0),
            source,
            transport,
            stats: PeerStats::new(identity.node, identity.parts, credentials.ends)
                .map_err(|error| start(error.to_string()))?,
            links: connect_lazily(config, identity)?,
            receive_pool: BufferPool::new(config.buffer_pool_bytes),
            send_pool: BufferPool::new(config.buffer_pool_bytes),
            turns: Turns::new(config.demand_requests_max, config.bulk_requests_max, yield_max),
            updates: tokio::sync::Semaphore::new(config.update_requests_max),
            renewed: tokio::sync::Notify::new(),
            answers: tokio_util::task::TaskTracker::new(),
            draining: AtomicBool::new(false),
            tracer: std::sync::OnceLock::new(),
            handle: handle.clone(),
        });
        tracing::info!(address = %shared.transport.address, name = %shared.name, mtu = config.mtu, "answering peers");
        handle.spawn(answer::accept(Arc::clone(&shared)));
        Ok(Arc::new(Self { shared, runtime }))
    }

    /// Has spans of answers recorded from now on.
    pub fn trace_with(&self, tracer: Arc<Tracer>) {
        let _ = self.shared.tracer.set(tracer);
    }

    /// Bounds the time of requests to a peer, and says what became of them.
    async fn within<T>(
        &self,
        link: &Link,
        (table, rows): (u16, usize),
        requests: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, PeerError> {
        let (shared, peer, heard) = (&self.shared, link.peer, link.heard());
        match tokio::time::timeout(shared.request_timeout(), requests).await {
            Ok(Ok(answer)) => Ok(answer),
            // This node's own end closes its connections: that is no fault of the peer.
            Ok(Err(Failure::Ask(AskError::Lost(_)))) if shared.is_draining() => {
                Err(PeerError::ShuttingDown { peer, rows })
            }
            Ok(Err(failure)) => Err(explain(link, table, rows, failure)),
            Err(_) => {
                if link.heard() == heard {
                    link.give_up();
                }
                let timeout_ms = shared.config.request_timeout_ms;
                Err(PeerError::Timeout { peer, address: link.address(), rows, timeout_ms })
            }
        }
    }

    /// One request, repeated once on a fresh connection when its own was lost. `sending` is called before each try
    /// leaves.
    async fn request(
        &self,
        link: &Arc<Link>,
        message: Bytes,
        class: Class,
        expected: Expected,
        out: &mut [u8],
        sending: &Sending<'_>,
    ) -> Result<ResponseDecoder, Failure> {
        let mut repeated = false;
        loop {
            let connection = link.connection(&self.shared).await.map_err(Failure::Away)?;
            match exchange(&connection, message.clone(), class, expected, out, sending).await {
                Err(AskError::Lost(cause)) if !repeated && !self.shared.is_draining() => {
                    tracing::info!(peer = link.peer, cause, "connection lost, asking again");
                    self.shared.stats.request_repeated(link.peer);
                    repeated = true;
                }
                outcome => return outcome.map_err(Failure::Ask),
            }
        }
    }

    /// What is known of each configured peer.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        let status = |link: &Arc<Link>| {
            let handles = self.shared.stats.peer(link.peer);
            PeerStatus {
                node: link.peer,
                address: link.address(),
                connections: link.open(),
                rtt_us: link.rtt().map(|rtt| rtt.as_micros() as u64),
                bytes_received: handles.map_or(0, |handles| handles.received.get()),
                bytes_sent: handles.map_or(0, |handles| handles.sent.get()),
                last_error: link.last_error(),
                retry_ms: link.away().map(|away| away.retry_ms),
            }
        };
        self.shared.links.values().map(status).collect()
    }

    /// Counters, and the Prometheus collectors for whoever serves them.
    #[must_use]
    pub fn stats(&self) -> &PeerStats {
        &self.shared.stats
    }

    /// The Prometheus collectors of the peers' path.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        self.shared.stats.collectors()
    }

    /// Bytes of memory kept for reuse by coming fetches and answers.
    #[must_use]
    pub fn pooled_bytes(&self) -> usize {
        self.shared.receive_pool.kept_bytes() + self.shared.send_pool.kept_bytes()
    }

    /// The UDP address this node answers on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.transport.address
    }

    /// Refuses new requests, finishes those being answered within `deadline`, then closes every connection.
    pub async fn shutdown(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        self.shared.draining.store(true, Ordering::Release);
        self.shared.answers.close();
        if tokio::time::timeout(deadline, self.shared.answers.wait()).await.is_err() {
            let unfinished = self.shared.answers.len();
            tracing::warn!(unfinished, deadline_ms = deadline.as_millis() as u64, "closing with answers unfinished");
        }
        let endpoint = &self.shared.transport.endpoint;
        endpoint.close(code::DRAINING, b"the node is shutting down");
        let farewell = end.saturating_duration_since(Instant::now()).max(FAREWELL_MIN);
        // Peers that do not hear of it find out by their idle time-out.
        let _ = tokio::time::timeout(farewell, endpoint.wait_idle()).await;
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.transport.endpoint.close(code::DONE, b"");
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}

/// Threads for the network path alone, when they are asked for.
fn own_runtime(threads: usize) -> std::io::Result<Option<tokio::runtime::Runtime>> {
    if threads == 0 {
        return Ok(None);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name("rudder-peers").enable_all().build().map(Some)
}

enum Failure {
    Away(link::Away),
    Ask(AskError),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

fn explain(link: &Link, table: u16, rows: usize, failure: Failure) -> PeerError {
    let (peer, address) = (link.peer, link.address());
    match failure {
        Failure::Away(away) if away.cause == DialError::ShuttingDown => PeerError::ShuttingDown { peer, rows },
        Failure::Away(away) => {
            PeerError::Unreachable { peer, address, rows, cause: away.cause, retry_ms: away.retry_ms }
        }
        Failure::Ask(AskError::Lost(cause)) => PeerError::Lost { peer, address, rows, cause },
        Failure::Ask(AskError::Remote(error)) => PeerError::Remote { peer, address, rows, table, error },
        Failure::Ask(AskError::Wire(error)) => PeerError::Broken { peer, address, rows, table, error },
    }
}
