//! Meeting a peer without serving anything: what an operator's tool does to find out whether two nodes would understand
//! each other, and how large packets pass between them. It must never answer a peer, and never ask one for rows.

use super::error::{DialError, PeerError};
use super::transport::Transport;
use super::wire::PROTOCOL_VERSION;
use super::{Identity, Peers, RowSource, SourceError};
use crate::settings::PeersConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the size of packets is looked at while it is being found out.
const LOOK: Duration = Duration::from_millis(20);

/// What came of meeting a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The address that answered.
    pub address: SocketAddr,
    /// From the question to the peer's Hello, name lookup and handshake included.
    pub took: Duration,
    /// Round trip time.
    pub rtt: Duration,
    /// Largest UDP payload that was seen to arrive, at most `peers.mtu`.
    pub mtu: u16,
}

/// Nothing to give: nobody can ask, because no address of this endpoint is ever told.
struct Nothing;

impl RowSource for Nothing {
    fn row_bytes(&self, _: u16) -> Option<usize> {
        None
    }

    fn copy_rows(&self, table: u16, _: &[u64], _: &mut [u8]) -> Result<(), SourceError> {
        Err(SourceError::UnknownTable { table })
    }
}

/// Peers that can be met: a handshake with this node's certificate from a free port, so that a daemon may run beside
/// it. Packets begin small and grow up to `peers.mtu` as far as they arrive.
#[derive(Debug)]
pub struct Probe(Arc<Peers>);

impl Probe {
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a key of `config` or a certificate file cannot be used.
    pub fn start(config: &PeersConfig, identity: Identity) -> Result<Self, PeerError> {
        let any = match config.listen.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let config =
            PeersConfig { listen: SocketAddr::new(any, 0), connections_per_peer: 1, threads: 0, ..config.clone() };
        Peers::start_with(&config, identity, Arc::new(Nothing), PROTOCOL_VERSION, Transport::bind_growing).map(Self)
    }

    /// Connects to a peer and measures the path: round trip and packet size. Waits at most `patience` for packets to
    /// grow.
    ///
    /// # Errors
    /// Why there is no connection, within `peers.connect_timeout_ms`.
    pub async fn measure(&self, peer: u16, patience: Duration) -> Result<Meeting, DialError> {
        let begin = Instant::now();
        let shared = &self.0.shared;
        let link = shared.links.get(&peer).ok_or_else(|| DialError::Resolve(format!("node {peer} has none")))?;
        let connection = link.connection(shared).await.map_err(|away| away.cause)?;
        let took = begin.elapsed();
        let mtu = || connection.stats().path.current_mtu;
        let end = Instant::now() + patience;
        while mtu() < shared.config.mtu && Instant::now() < end && connection.close_reason().is_none() {
            tokio::time::sleep(LOOK).await;
        }
        let meeting = Meeting { address: connection.remote_address(), took, rtt: connection.rtt(), mtu: mtu() };
        connection.close(super::context::code::DONE, b"");
        Ok(meeting)
    }
}
