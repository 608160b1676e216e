//! The `[peers]` section: where the other daemons are, who this node is to them, and every limit of the network path.
//! Owns the keys, their defaults and their checks; it must never open a file or a socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rudder_settings::{Invalid, Verdict, WAIT_MS, quoted, within, wrong};
use serde::{Deserialize, Serialize};

use crate::discovery::{Discovery, is_address};

/// The smallest UDP payload every QUIC path must carry (RFC 9000, section 14).
pub const MTU_MIN: u16 = 1200;
/// The largest UDP payload that fits an IPv4 packet with room for an IPv6 header.
pub const MTU_MAX: u16 = 65_487;
/// The UDP payload of an ordinary Ethernet path; path discovery reaches it from [`MTU_MIN`] without help.
pub const MTU_DISCOVERED_MAX: u16 = 1452;

/// How this node reaches its peers and answers them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersConfig {
    /// UDP address this node answers its peers on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How the addresses of the other nodes are found; not set = they are listed in `addresses`.
    pub discovery: Discovery,
    /// Node index to `host:port`. Every partition but this node's own needs one, unless `discovery` finds them.
    #[serde(with = "addresses")]
    pub addresses: BTreeMap<u16, String>,
    /// PEM file with the certificates of the cluster's authority (`rudder certs init`); the only roots believed.
    pub authority: PathBuf,
    /// PEM file with this node's certificate (`rudder certs issue`).
    pub certificate: PathBuf,
    /// PEM file with this node's private key.
    pub key: PathBuf,
    /// QUIC connections kept to each peer; requests are spread over them.
    pub connections_per_peer: usize,
    /// Connections accepted from all peers together; more are refused.
    pub connections_max: usize,
    /// Largest UDP payload in bytes. Above 1452 it is used from the first packet on and never lowered, so raise it only
    /// where every path between the nodes carries it (jumbo frames). Above 6550 segmentation offload is switched off.
    pub mtu: u16,
    /// Kernel send and receive buffer asked for on the UDP socket. Too small a one loses packets at high rates.
    pub socket_buffer_bytes: usize,
    /// Longest wait for a connection: name lookup, handshake and Hello together.
    pub connect_timeout_ms: u64,
    /// Longest wait for one fetch, whatever happens inside it.
    pub request_timeout_ms: u64,
    /// Time from which the answer to a peer's request for rows is written to the log, in milliseconds; 0 = never.
    pub slow_answer_ms: u64,
    /// A connection on which nothing arrives for this long is dead: the next request, and the one that waits, dial
    /// again. Well below `request_timeout_ms`, a fetch survives that a peer was killed and started again: the new
    /// process does not know the old connection and cannot say that it is gone.
    pub idle_timeout_ms: u64,
    /// Interval of keep-alive packets; below `idle_timeout_ms`.
    pub keep_alive_ms: u64,
    /// First pause after a failed dial; doubles with each further failure.
    pub reconnect_backoff_ms_min: u64,
    /// Longest pause between dials.
    pub reconnect_backoff_ms_max: u64,
    /// Most rows of one request; longer fetches are split, longer requests from a peer are refused.
    pub request_rows_max: usize,
    /// Requests of one fetch on their way at once.
    pub requests_in_flight: usize,
    /// Rows are sent, and their checksums checked, in blocks of at most this many bytes (but at least one row).
    pub response_block_bytes: usize,
    /// Demand requests of peers answered at once; others wait, at most half of `request_timeout_ms`.
    pub demand_requests_max: usize,
    /// Bulk requests of peers answered at once; others wait, at most half of `request_timeout_ms`.
    pub bulk_requests_max: usize,
    /// Updates of peers received and applied at once, each of up to `request_rows_max` rows; others wait, at most half
    /// of `request_timeout_ms`.
    pub update_requests_max: usize,
    /// Longest a bulk answer holds back one block while demand answers are being sent.
    pub bulk_yield_ms: u64,
    /// How long packets of bulk answers may wait in queues of the network, in milliseconds: bulk is sent no faster than
    /// keeps the queues so short, and leaves room for the trainers' own traffic. 0 = as fast as demand.
    pub bulk_queue_ms: u64,
    /// Streams a peer may have open on one connection.
    pub streams_max: u32,
    /// Unread bytes a peer may have sent on one stream.
    pub stream_window_bytes: u32,
    /// Unread bytes a peer may have sent on one connection, and unacknowledged bytes kept for it.
    pub connection_window_bytes: u32,
    /// Memory kept for reuse between fetches (receiving) and between answers (sending), each.
    pub buffer_pool_bytes: usize,
    /// Threads for the network path; 0 shares the daemon's own.
    pub threads: usize,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7400),
            discovery: Discovery::Listed,
            addresses: BTreeMap::new(),
            authority: PathBuf::from("/etc/rudder/ca.pem"),
            certificate: PathBuf::from("/etc/rudder/node.pem"),
            key: PathBuf::from("/etc/rudder/node.key"),
            connections_per_peer: 1,
            connections_max: 1024,
            mtu: MTU_DISCOVERED_MAX,
            socket_buffer_bytes: 4 << 20,
            connect_timeout_ms: 3_000,
            request_timeout_ms: 10_000,
            slow_answer_ms: 1_000,
            idle_timeout_ms: 6_000,
            keep_alive_ms: 2_000,
            reconnect_backoff_ms_min: 50,
            reconnect_backoff_ms_max: 2_000,
            request_rows_max: 65_536,
            requests_in_flight: 4,
            response_block_bytes: 256 << 10,
            demand_requests_max: 256,
            bulk_requests_max: 16,
            update_requests_max: 4,
            bulk_yield_ms: 20,
            bulk_queue_ms: 5,
            streams_max: 512,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 32 << 20,
            buffer_pool_bytes: 256 << 20,
            threads: 0,
        }
    }
}

impl PeersConfig {
    /// Checks each key, the keys that could contradict each other, and what QUIC can carry; opens nothing.
    ///
    /// # Errors
    /// [`Invalid`] for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        within("peers.mtu", self.mtu, MTU_MIN..=MTU_MAX)?;
        if self.keep_alive_ms >= self.idle_timeout_ms {
            let problem = format!("it must be below idle_timeout_ms ({})", self.idle_timeout_ms);
            let remedy = "write for example a third of that";
            return wrong("peers.keep_alive_ms", self.keep_alive_ms, problem, remedy);
        }
        let (pause_min, pause_max) = (self.reconnect_backoff_ms_min, self.reconnect_backoff_ms_max);
        within("peers.reconnect_backoff_ms_min", pause_min, WAIT_MS)?;
        if pause_min > pause_max {
            let problem = format!("above reconnect_backoff_ms_max ({pause_max})");
            return wrong("peers.reconnect_backoff_ms_min", pause_min, problem, "lower it, or raise the other");
        }
        within("peers.connect_timeout_ms", self.connect_timeout_ms, WAIT_MS)?;
        within("peers.request_timeout_ms", self.request_timeout_ms, WAIT_MS)?;
        let limits = [
            ("peers.connections_per_peer", self.connections_per_peer),
            ("peers.connections_max", self.connections_max),
            ("peers.request_rows_max", self.request_rows_max),
            ("peers.requests_in_flight", self.requests_in_flight),
            ("peers.response_block_bytes", self.response_block_bytes),
            ("peers.demand_requests_max", self.demand_requests_max),
            ("peers.bulk_requests_max", self.bulk_requests_max),
            ("peers.update_requests_max", self.update_requests_max),
            ("peers.streams_max", self.streams_max as usize),
            ("peers.stream_window_bytes", self.stream_window_bytes as usize),
            ("peers.connection_window_bytes", self.connection_window_bytes as usize),
        ];
        // Row counts are sent as 32 bits.
        limits.into_iter().try_for_each(|(key, limit)| within(key, limit, 1..=u32::MAX as usize))?;
        if self.discovery != Discovery::Listed && !self.addresses.is_empty() {
            let problem = "peers.addresses lists the nodes, too";
            return wrong("peers.discovery", quoted(&self.discovery), problem, "remove one of the two");
        }
        self.addresses.iter().try_for_each(|(node, address)| check_address(*node, address))
    }

    /// `host:port` by node index, listed or found, for a dataset of `parts` partitions. Reads the environment and a
    /// file where `discovery` says so.
    ///
    /// # Errors
    /// [`Invalid`] naming `peers.discovery`.
    pub fn find_addresses(&self, parts: u16) -> Result<BTreeMap<u16, String>, Invalid> {
        match self.discovery {
            Discovery::Listed => Ok(self.addresses.clone()),
            _ => self.discovery.addresses(parts, self.listen.port(), &variable),
        }
    }

    /// Whether addresses can be found, as far as that can be told without the dataset.
    ///
    /// # Errors
    /// As [`PeersConfig::find_addresses`].
    pub fn check_discovery(&self) -> Verdict {
        self.discovery.check(&variable)
    }
}

/// A variable of the environment; one that is no text is not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Names are resolved when a peer is dialled, so only the form is checked.
fn check_address(node: u16, address: &str) -> Verdict {
    if is_address(address) {
        return Ok(());
    }
    let key = format!("peers.addresses.{node}");
    wrong(&key, quoted(&address), "not host:port", "write for example \"10.0.0.2:7400\"")
}

/// TOML keys are strings: the node index is written `"3" = "host:7400"`.
mod addresses {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<u16, String>, out: S) -> Result<S::Ok, S::Error> {
        map.iter().map(|(index, address)| (index.to_string(), address)).collect::<BTreeMap<_, _>>().serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<u16, String>, D::Error> {
        let named = BTreeMap::<String, String>::deserialize(input)?;
        let parse = |(index, address): (String, String)| match index.parse::<u16>() {
            Ok(index) => Ok((index, address)),
            Err(_) => Err(D::Error::custom(format!("node index {index:?} is not a number from 0 to 65535"))),
        };
        named.into_iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_survive_toml() {
        let config = PeersConfig { addresses: BTreeMap::from([(3, "host:7400".to_owned())]), ..Default::default() };
        config.check().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<PeersConfig>(&text).unwrap(), config);
    }

    #[test]
    fn a_key_that_cannot_work_is_named() {
        let said = |change: fn(&mut PeersConfig)| {
            let mut config = PeersConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(said(|config| config.mtu = 1100).starts_with("peers.mtu = 1100: out of range"));
        assert!(said(|config| config.keep_alive_ms = 30_000).contains("must be below idle_timeout_ms (6000)"));
        assert!(said(|config| config.bulk_requests_max = 0).starts_with("peers.bulk_requests_max = 0: out of range"));
        assert!(said(|config| config.connect_timeout_ms = 0).starts_with("peers.connect_timeout_ms = 0: out of range"));
        let pauses = said(|config| config.reconnect_backoff_ms_min = 9_000);
        assert!(
            pauses.starts_with("peers.reconnect_backoff_ms_min = 9000: above reconnect_backoff_ms_max"),
            "{pauses}"
        );
        let address = said(|config| _ = config.addresses.insert(3, "nohost".to_owned()));
        assert!(address.starts_with("peers.addresses.3 = \"nohost\": not host:port"), "{address}");
        let both = said(|config| {
            config.addresses.insert(3, "host:7400".to_owned());
            config.discovery = Discovery::Slurm;
        });
        assert!(both.starts_with("peers.discovery = \"slurm\": peers.addresses lists the nodes, too"), "{both}");
        let error = toml::from_str::<PeersConfig>("mut = 1").unwrap_err().to_string();
        assert!(error.contains("unknown field `mut`"), "{error}");
        let error = toml::from_str::<PeersConfig>("[addresses]\nseven = \"a:1\"").unwrap_err().to_string();
        assert!(error.contains("seven"), "{error}");
    }
}
