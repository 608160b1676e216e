//! The connections to each peer: dialled when first needed, kept alive, dialled again after a pause that grows. Owns
//! the pool and its back-off; it must never keep a caller waiting on a peer that is known to be away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quinn::Connection;
use rudder_telemetry::error_chain;

use super::Identity;
use super::context::{PeersContext, code};
use super::dial::{Dialled, dial};
use super::discovery::{AddressFile, Discovery};
use super::error::{DialError, PeerError};
use super::settings::PeersConfig;
use super::stats::PeerStats;
use super::wire::Stamp;

/// All peers by node index.
pub(crate) type Links = BTreeMap<u16, Arc<Link>>;

/// The connections to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: u16,
    address: Mutex<String>,
    /// Where the address is looked up before each dial.
    file: Option<Arc<AddressFile>>,
    slots: Vec<tokio::sync::Mutex<Option<Connection>>>,
    next: AtomicUsize,
    /// Open connections. What `rudder_peer_up` shows is set under this lock: the last value written is the latest.
    open: Mutex<usize>,
    backoff: Mutex<Backoff>,
    met: Mutex<Option<Met>>,
}

/// A link to each other node, whose addresses are listed or found; nothing is dialled.
pub(crate) fn connect_lazily(config: &PeersConfig, identity: Identity) -> Result<Links, PeerError> {
    let addresses = match identity.parts {
        1 => BTreeMap::new(),
        parts => config.find_addresses(parts)?,
    };
    let file = match &config.discovery {
        Discovery::File(path) => Some(Arc::new(AddressFile::new(path.clone(), addresses.clone()))),
        _ => None,
    };
    let others = addresses.into_iter().filter(|(peer, _)| *peer != identity.node);
    let link = |(peer, address)| (peer, Arc::new(Link::new(peer, address, file.clone(), config.connections_per_peer)));
    Ok(others.map(link).collect())
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
    pub(crate) fn new(peer: u16, address: String, file: Option<Arc<AddressFile>>, connections: usize) -> Self {
        let slots = (0..connections).map(|_| tokio::sync::Mutex::new(None)).collect();
        Self {
            peer,
            address: Mutex::new(address),
            file,
            slots,
            next: AtomicUsize::new(0),
            open: Mutex::default(),
            backoff: Mutex::default(),
            met: Mutex::default(),
        }
    }

    /// Where the peer is, as far as this node knows.
    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    /// The address to dial: by the file, where addresses come from one. The file is read beside the runtime's threads,
    /// and no longer than a connection is waited for: it may lie on another machine.
    async fn look_up(&self, shared: &PeersContext) -> String {
        let Some(file) = self.file.clone() else { return self.address() };
        let (peer, again) = (self.peer, self.lock_backoff().failures > 0);
        let looked = tokio::task::spawn_blocking(move || file.address(peer, again));
        if let Ok(Ok(Some(found))) = tokio::time::timeout(shared.connect_timeout(), looked).await {
            let mut address = self.address.lock();
            if *address != found {
                tracing::info!(peer, from = *address, to = found, "peer has another address");
                *address = found;
            }
        }
        self.address()
    }

    /// Where the peer's versions stood; `None` while there never was a connection.
    pub(crate) fn met(&self) -> Option<Met> {
        *self.met.lock()
    }

    /// Notes where the peer's versions stand, before the first request on a new connection. Answers whether it is
    /// another process than at the last one.
    fn note_stamp(&self, stamp: Stamp, since: Instant) -> bool {
        let mut met = self.met.lock();
        match &mut *met {
            Some(met) => std::mem::replace(&mut met.last, stamp).incarnation != stamp.incarnation,
            None => {
                *met = Some(Met { first: stamp, since, last: stamp });
                false
            }
        }
    }

    /// An open connection, dialled if needed. While the peer is in back-off this fails at once.
    pub(crate) async fn connection(self: &Arc<Self>, shared: &Arc<PeersContext>) -> Result<Connection, Away> {
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
        match dial(shared, self.peer, &self.look_up(shared).await).await {
            Ok(Dialled { connection, stamp, since }) => {
                if self.note_stamp(stamp, since) {
                    tracing::info!(peer = self.peer, "peer was restarted: updates of its rows are gone");
                    shared.renewed.notify_one();
                }
                *self.lock_backoff() = Backoff::default();
                self.watch(shared, connection.clone());
                *slot = Some(connection.clone());
                Ok(connection)
            }
            Err(cause) => Err(self.failed(shared, cause)),
        }
    }

    /// Keeps count of the connection for as long as it is open.
    fn watch(self: &Arc<Self>, shared: &Arc<PeersContext>, connection: Connection) {
        tracing::info!(peer = self.peer, address = %connection.remote_address(), "connected to peer");
        let (link, shared, handle) = (Arc::clone(self), Arc::clone(shared), shared.handle.clone());
        link.count(&shared.stats, |open| open + 1);
        handle.spawn(async move {
            let reason = connection.closed().await;
            tracing::info!(peer = link.peer, %reason, "connection to peer closed");
            link.count(&shared.stats, |open| open - 1);
        });
    }

    /// Changes the number of open connections and shows whether there is one.
    fn count(&self, stats: &PeerStats, change: impl FnOnce(usize) -> usize) {
        let mut open = self.open.lock();
        *open = change(*open);
        stats.set_up(self.peer, *open > 0);
    }

    /// Notes a failed dial and sets the pause before the next one.
    fn failed(&self, shared: &PeersContext, cause: DialError) -> Away {
        let config = &shared.config;
        let mut backoff = self.lock_backoff();
        let doubled = config.reconnect_backoff_ms_min.saturating_mul(1 << backoff.failures.min(30));
        let pause = doubled.min(config.reconnect_backoff_ms_max);
        // Up to a quarter earlier, so that the nodes of a cluster do not all dial a returning one together.
        let retry_ms = pause - fastrand::u64(0..=pause / 4);
        backoff.failures += 1;
        backoff.last = Some((cause.clone(), Instant::now() + Duration::from_millis(retry_ms)));
        self.count(&shared.stats, |open| open);
        tracing::warn!(
            peer = self.peer,
            address = self.address(),
            failures = backoff.failures,
            retry_ms,
            cause = error_chain(&cause),
            "cannot reach peer"
        );
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
        self.lock_backoff().last.as_ref().map(|(cause, _)| error_chain(cause))
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        *self.open.lock()
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
            tracing::warn!(peer = self.peer, address = self.address(), "peer is silent, closing its connection");
            connection.close(code::TOO_SLOW, b"silent");
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = Connection> {
        self.slots.iter().filter_map(|slot| slot.try_lock().ok()?.clone())
    }

    fn lock_backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock()
    }
}
