//! The connections to each peer: dialled when first needed, kept alive, dialled again after a pause that grows. Owns the
//! pool and its back-off; it must never keep a caller waiting on a peer that is known to be away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError};

use super::error::DialError;
use super::shared::{ReadHelloError, Shared, code, read_hello};
use super::tls::NodeName;
use super::wire::{HelloReply, Refusal, Stamp, hello_frame};

/// TLS alerts are QUIC transport errors from this number on (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// All peers by node index.
pub(crate) type Links = BTreeMap<u16, Arc<Link>>;

/// The connections to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: u16,
    pub(crate) address: String,
    slots: Vec<tokio::sync::Mutex<Option<Connection>>>,
    next: AtomicUsize,
    open: AtomicUsize,
    backoff: Mutex<Backoff>,
    met: Mutex<Option<Met>>,
}

/// Where a peer's versions stood when connections to it were made.
#[derive(Debug, Clone, Copy)]
pub struct Met {
    /// At the first connection: every row that ever came from the peer is as new.
    pub first: Stamp,
    /// When that was.
    pub since: Instant,
    /// At the last connection.
    pub last: Stamp,
}

#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    last: Option<(DialError, Instant)>,
}

/// Why there is no connection, and when the pool will try again.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) cause: DialError,
    pub(crate) retry_ms: u64,
}

impl Link {
    pub(crate) fn new(peer: u16, address: String, connections: usize) -> Self {
        let slots = (0..connections).map(|_| tokio::sync::Mutex::new(None)).collect();
        Self {
            peer,
            address,
            slots,
            next: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            backoff: Mutex::default(),
            met: Mutex::default(),
        }
    }

    /// Where the peer's versions stood; `None` while there never was a connection.
    pub(crate) fn met(&self) -> Option<Met> {
        *self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where the peer's versions stand, before the first request on a new connection. Answers whether it is another
    /// process than at the last one.
    fn meet(&self, stamp: Stamp, since: Instant) -> bool {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *met {
            Some(met) => std::mem::replace(&mut met.last, stamp).incarnation != stamp.incarnation,
            None => {
                *met = Some(Met { first: stamp, since, last: stamp });
                false
            }
        }
    }

    /// An open connection, dialled if there is none. While the peer is in back-off this fails at once.
    pub(crate) async fn connection(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Connection, Away> {
        let slot = &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()];
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(open.clone());
        }
        *slot = None;
        if shared.is_draining() {
            return Err(Away { cause: DialError::ShuttingDown, retry_ms: 0 });
        }
        if let Some(away) = self.away() {
            return Err(away);
        }
        match dial(shared, self).await {
            Ok(connection) => {
                *self.lock_backoff() = Backoff::default();
                self.watch(shared, connection.clone());
                *slot = Some(connection.clone());
                Ok(connection)
            }
            Err(cause) => Err(self.failed(shared, cause)),
        }
    }

    /// Keeps `up` true to the connection's life.
    fn watch(self: &Arc<Self>, shared: &Arc<Shared>, connection: Connection) {
        tracing::info!(peer = self.peer, address = %connection.remote_address(), "connected to peer");
        let (link, shared, handle) = (Arc::clone(self), Arc::clone(shared), shared.handle.clone());
        shared.stats.set_up(link.peer, link.open.fetch_add(1, Ordering::AcqRel) + 1 > 0);
        handle.spawn(async move {
            let reason = connection.closed().await;
            tracing::info!(peer = link.peer, %reason, "connection to peer closed");
            shared.stats.set_up(link.peer, link.open.fetch_sub(1, Ordering::AcqRel) - 1 > 0);
        });
    }

    /// Notes a failed dial and sets the pause before the next one.
    fn failed(&self, shared: &Shared, cause: DialError) -> Away {
        let config = &shared.config;
        let mut backoff = self.lock_backoff();
        let doubled = config.reconnect_backoff_ms_min.saturating_mul(1 << backoff.failures.min(30));
        let pause = doubled.min(config.reconnect_backoff_ms_max);
        // Up to a quarter earlier, so that the nodes of a cluster do not all dial a returning one together.
        let retry_ms = pause - fastrand::u64(0..=pause / 4);
        backoff.failures += 1;
        backoff.last = Some((cause.clone(), Instant::now() + Duration::from_millis(retry_ms)));
        shared.stats.set_up(self.peer, self.open() > 0);
        tracing::warn!(peer = self.peer, address = %self.address, failures = backoff.failures, retry_ms, %cause, "cannot reach peer");
        Away { cause, retry_ms }
    }

    /// The last failure, while its pause lasts.
    pub(crate) fn away(&self) -> Option<Away> {
        let backoff = self.lock_backoff();
        let (cause, until) = backoff.last.as_ref()?;
        let left = until.checked_duration_since(Instant::now())?;
        Some(Away { cause: cause.clone(), retry_ms: left.as_millis() as u64 })
    }

    /// The error of the last dial, if it failed.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock_backoff().last.as_ref().map(|(cause, _)| cause.to_string())
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Round trip time of an open connection.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.open_connections().next().map(|connection| connection.rtt())
    }

    /// Datagrams that arrived so far on the open connections.
    pub(crate) fn heard(&self) -> u64 {
        self.open_connections().map(|connection| connection.stats().udp_rx.datagrams).sum()
    }

    /// Closes every connection. For a peer that did not even acknowledge a request: waiting for the idle time-out would
    /// cost each further caller its own request time-out.
    pub(crate) fn give_up(&self) {
        for connection in self.open_connections() {
            tracing::warn!(peer = self.peer, address = %self.address, "peer is silent, closing its connection");
            connection.close(code::TOO_SLOW, b"silent");
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = Connection> {
        self.slots.iter().filter_map(|slot| slot.try_lock().ok()?.clone())
    }

    fn lock_backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dial(shared: &Arc<Shared>, link: &Link) -> Result<Connection, DialError> {
    match tokio::time::timeout(shared.connect_timeout(), dial_unbounded(shared, link)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::NoAnswer { timeout_ms: shared.config.connect_timeout_ms }),
    }
}

async fn dial_unbounded(shared: &Arc<Shared>, link: &Link) -> Result<Connection, DialError> {
    let address = resolve(&link.address, shared.transport.address).await?;
    let name = NodeName { node: link.peer, cluster: shared.name.cluster.clone() }.to_string();
    let connecting = {
        // quinn spawns the connection's driver on the runtime it finds itself in.
        let _runtime = shared.handle.enter();
        let endpoint = &shared.transport.endpoint;
        endpoint
            .connect_with(shared.transport.client.clone(), address, &name)
            .map_err(|error| DialError::Lost(error.to_string()))?
    };
    let connection = connecting.await.map_err(|error| explain(&error, shared))?;
    let outcome = greet(shared, link, &connection).await;
    if let Err(error) = &outcome {
        connection.close(code::REFUSED, error.to_string().as_bytes());
    }
    outcome.map(|()| connection)
}

/// The first address of `host:port` that this node's socket can send to.
async fn resolve(address: &str, local: SocketAddr) -> Result<SocketAddr, DialError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| DialError::Resolve(error.to_string()))?;
    let mut usable = found.filter(|found| local.is_ipv6() || found.is_ipv4());
    usable.next().ok_or_else(|| DialError::Resolve("no address of the family of peers.listen".to_owned()))
}

/// Exchanges Hellos on the connection's first stream.
async fn greet(shared: &Shared, link: &Link, connection: &Connection) -> Result<(), DialError> {
    let lost = |error: &ConnectionError| explain(error, shared);
    let begin = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    // A failure to send shows, with its reason, when the answer is read.
    let _ = send.write_all(&hello_frame(shared.version, &shared.hello())?).await;
    let _ = send.finish();
    let reply = read_hello(&mut recv).await.map_err(|error| match error {
        ReadHelloError::Wire(error) => error.into(),
        ReadHelloError::Lost(quinn::ReadError::ConnectionLost(error)) => lost(&error),
        ReadHelloError::Lost(error) => DialError::Lost(error.to_string()),
    })?;
    if reply.version() != shared.version {
        return Err(DialError::Version { ours: shared.version, theirs: reply.version() });
    }
    match reply.message()? {
        HelloReply::Refused(refusal) => Err(refused(refusal)),
        HelloReply::Welcome(hello, _) if hello.node != link.peer => Err(DialError::WrongNode { found: hello.node }),
        // The same judgement from this side, should the peer be less strict.
        HelloReply::Welcome(hello, stamp) => match shared.judge(&hello, link.peer) {
            Some(refusal) => Err(refused(turn(refusal))),
            None => {
                if link.meet(stamp, begin) {
                    tracing::info!(peer = link.peer, "peer was restarted: updates of its rows are gone");
                    shared.renewed.notify_one();
                }
                Ok(())
            }
        },
    }
}

/// A refusal as the other side would have said it.
fn turn(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Fingerprint { ours, yours } => Refusal::Fingerprint { ours: yours, yours: ours },
        Refusal::Parts { ours, yours } => Refusal::Parts { ours: yours, yours: ours },
        other => other,
    }
}

fn refused(refusal: Refusal) -> DialError {
    match refusal {
        Refusal::Version { ours, yours } => DialError::Version { ours: yours, theirs: ours },
        Refusal::Fingerprint { ours, yours } => DialError::Fingerprint { ours: yours, theirs: ours },
        Refusal::Parts { ours, yours } => DialError::Parts { ours: yours, theirs: ours },
        other => DialError::Refused(other),
    }
}

/// What a connection's end means to the one who dialled it.
fn explain(error: &ConnectionError, shared: &Shared) -> DialError {
    match error {
        ConnectionError::TimedOut => DialError::NoAnswer { timeout_ms: shared.config.connect_timeout_ms },
        ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
            DialError::Certificate(error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
            DialError::Certificate(format!("it rejected this node's: {close}"))
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::DRAINING => {
            DialError::Refused(Refusal::Draining)
        }
        other => DialError::Lost(other.to_string()),
    }
}
