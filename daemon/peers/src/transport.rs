//! QUIC as the row path wants it: sockets with room for bursts, windows, MTU, keep-alive. Owns every quinn setting and
//! the reasons for it; it must never know what the streams carry. The measurements are in `docs/performance.md`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{BatchingRuntime, BatchingSocket};
use super::error::PeerError;
use super::pacing::YieldingFactory;
use super::tls::Credentials;
use crate::settings::{MTU_DISCOVERED_MAX, MTU_MIN, PeersConfig};

/// Segments that quinn hands to the kernel in one call. Ten times the MTU must fit a 64 KiB datagram; the kernel
/// answers a larger batch with EMSGSIZE, which quinn drops, and the transfer stalls for ever.
const SEGMENTS_PER_SEND: usize = 10;
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// First guess of the round trip. The peers of a cluster are near; quinn's 333 ms would space the first handshake
/// packets by a second, which a peer that starts a little later would pay.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// The endpoint, which answers and dials, and the configuration to dial with.
pub(crate) struct Transport {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) client: quinn::ClientConfig,
    pub(crate) address: SocketAddr,
}

impl Transport {
    /// Binds the UDP socket; to be called inside the runtime that shall drive it.
    pub(crate) fn bind(config: &PeersConfig, credentials: &Credentials) -> Result<Self, PeerError> {
        Self::bind_as(config, credentials, || transport_config(config))
    }

    /// [`Self::bind`] with packets that begin small whatever `peers.mtu` says, and grow up to it as far as they arrive:
    /// to find out what a path carries.
    pub(crate) fn bind_growing(config: &PeersConfig, credentials: &Credentials) -> Result<Self, PeerError> {
        Self::bind_as(config, credentials, || {
            let mut transport = transport_config(config)?;
            let mut discovery = MtuDiscoveryConfig::default();
            // The last step of the search is as fine as the answer that is given to people.
            discovery.upper_bound(config.mtu).minimum_change(8);
            transport.initial_mtu(MTU_MIN).min_mtu(MTU_MIN).mtu_discovery_config(Some(discovery));
            Ok(transport)
        })
    }

    fn bind_as(
        config: &PeersConfig,
        credentials: &Credentials,
        transport: impl Fn() -> Result<TransportConfig, PeerError>,
    ) -> Result<Self, PeerError> {
        let start = |error: String| PeerError::Start(error);
        let tls = QuicServerConfig::try_from(credentials.server.clone()).map_err(|e| start(e.to_string()))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(Arc::new(answering(config, transport()?)));
        // Cluster nodes do not change their addresses; a connection that seems to is not followed.
        server.migration(false);
        let tls = QuicClientConfig::try_from(credentials.client.clone()).map_err(|e| start(e.to_string()))?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(Arc::new(transport()?));
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config
            .max_udp_payload_size(config.mtu.max(1472))
            .map_err(|error| start(format!("peers.mtu {}: {error}", config.mtu)))?;
        let listen = |cause| PeerError::Listen { address: config.listen, cause };
        let socket = socket(config).map_err(listen)?;
        let socket = BatchingSocket::new(socket).map_err(listen)?;
        let runtime = Arc::new(BatchingRuntime(socket.clone()));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint_config, Some(server), socket, runtime);
        let endpoint = endpoint.map_err(listen)?;
        let address = endpoint.local_addr().map_err(listen)?;
        Ok(Self { endpoint, client, address })
    }
}

fn transport_config(config: &PeersConfig) -> Result<TransportConfig, PeerError> {
    let mut transport = TransportConfig::default();
    // The sender's buffer is one for all streams: bulk, which fills at most a stream window for each of its places,
    // must leave room that demand can write to.
    let bulk_bytes = u64::from(config.stream_window_bytes).saturating_mul(config.bulk_requests_max as u64);
    let send_window_bytes = bulk_bytes.saturating_add(u64::from(config.connection_window_bytes));
    let idle = IdleTimeout::try_from(Duration::from_millis(config.idle_timeout_ms))
        .map_err(|error| PeerError::Start(format!("peers.idle_timeout_ms: {error}")))?;
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(Duration::from_millis(config.keep_alive_ms.max(1))))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(config.streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(config.stream_window_bytes))
        .receive_window(VarInt::from_u32(config.connection_window_bytes))
        .send_window(send_window_bytes);
    if config.mtu > MTU_DISCOVERED_MAX {
        // Both, always: with the default min_mtu a burst of losses reads as a black hole and the MTU falls to 1200.
        transport.initial_mtu(config.mtu).min_mtu(config.mtu).mtu_discovery_config(None);
    } else {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(config.mtu);
        transport.initial_mtu(MTU_MIN).mtu_discovery_config(Some(discovery));
    }
    transport.enable_segmentation_offload(usize::from(config.mtu) * SEGMENTS_PER_SEND <= DATAGRAM_BYTES_MAX);
    Ok(transport)
}

/// `transport` for the side that answers: bulk goes from there.
fn answering(config: &PeersConfig, mut transport: TransportConfig) -> TransportConfig {
    if config.bulk_queue_ms > 0 {
        let target = Duration::from_millis(config.bulk_queue_ms);
        transport.congestion_controller_factory(Arc::new(YieldingFactory { target }));
    }
    transport
}

/// A bound UDP socket whose kernel buffers hold a burst.
fn socket(config: &PeersConfig) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(config.listen), Type::DGRAM, Some(Protocol::UDP))?;
    if config.listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    let bytes = config.socket_buffer_bytes;
    // The forced variants pass net.core.rmem_max and wmem_max, but need CAP_NET_ADMIN.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, bytes).is_err() {
        socket.set_recv_buffer_size(bytes)?;
    }
    if rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, bytes).is_err() {
        socket.set_send_buffer_size(bytes)?;
    }
    // The kernel reports twice what it was asked for.
    let got = socket.recv_buffer_size()? / 2;
    if got < bytes {
        let hint = "packets will be lost at high rates: raise net.core.rmem_max or grant CAP_NET_ADMIN";
        tracing::warn!(asked_bytes = bytes, got_bytes = got, "UDP receive buffer is smaller than asked; {hint}");
    }
    socket.bind(&config.listen.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
