//! What can go wrong between peers, each naming the peer, the request and the next thing to do. Owns the module's error
//! types; it must never decide what happens after an error. An error does not repeat its cause, which is its `source`:
//! [`rudder_telemetry::error_chain`] prints both.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::wire::{Refusal, RemoteError, WireError};
use rudder_telemetry::error_chain;

/// Why a connection to a peer did not come about. The pool keeps it and answers it to all callers during the back-off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address does not resolve.
    #[error("its address does not resolve: {0}; check the address in [peers] addresses")]
    Resolve(String),
    /// Nothing answered.
    #[error("no answer within {timeout_ms} ms; is rudderd running there, and does UDP pass?")]
    NoAnswer {
        /// connect_timeout_ms, or the network's own verdict before that.
        timeout_ms: u64,
    },
    /// The certificates do not fit together.
    #[error(
        "the certificates do not fit: {0}; both nodes need certificates of the same authority (rudder certs issue)"
    )]
    Certificate(String),
    /// Another protocol version.
    #[error("it speaks protocol version {theirs}, this node {ours}; run the same release of rudderd on both")]
    Version {
        /// This node's version.
        ours: u16,
        /// The peer's version.
        theirs: u16,
    },
    /// Another dataset.
    #[error(
        "its dataset has fingerprint {theirs:016x}, this node's {ours:016x}; give both the same manifest (dataset.path)"
    )]
    Fingerprint {
        /// This node's fingerprint.
        ours: u64,
        /// The peer's fingerprint.
        theirs: u64,
    },
    /// Another number of partitions.
    #[error("its dataset has {theirs} partitions, this node's {ours}; give both the same dataset (dataset.path)")]
    Parts {
        /// This node's number.
        ours: u16,
        /// The peer's number.
        theirs: u16,
    },
    /// Another node than the one meant.
    #[error("node {found} answers there; check [peers] addresses and the certificate's node")]
    WrongNode {
        /// The node that answered, or its certificate's.
        found: u16,
    },
    /// It turned this node away for another reason.
    #[error("it refused this node")]
    Refused(#[source] Refusal),
    /// Bytes that are not the protocol.
    #[error("its Hello is broken")]
    Wire(#[from] WireError),
    /// The connection went away.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// None of several addresses of the name.
    #[error("none of its addresses can be reached: {}", each(.0))]
    Each(Vec<(SocketAddr, DialError)>),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    ShuttingDown,
}

fn each(tried: &[(SocketAddr, DialError)]) -> String {
    tried.iter().map(|(address, error)| format!("{address}: {}", error_chain(error))).collect::<Vec<_>>().join(" | ")
}

impl DialError {
    /// Whether a later dial may succeed without anybody changing a configuration or a dataset.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Lost(_) | Self::Refused(Refusal::Draining) => true,
            Self::Each(tried) => tried.iter().any(|(_, error)| error.is_transient()),
            _ => false,
        }
    }
}

/// Why rows did not come from a peer, or why the network path did not start.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// A key of the configuration cannot work.
    #[error(transparent)]
    Config(#[from] rudder_settings::Invalid),
    /// A certificate or key file cannot be used.
    #[error("{}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The UDP address cannot be used.
    #[error(
        "cannot listen on UDP {address} (peers.listen); is another rudderd running there? Stop it, or choose another address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// The system gave no threads or sockets.
    #[error("cannot start the network path: {0}")]
    Start(String),
    /// Nobody is known for a partition.
    #[error("no address is known for node {peer}, asked for {rows} rows; add it to [peers] addresses")]
    UnknownPeer {
        /// The partition, which is the index of its node.
        peer: u16,
        /// Rows that were asked for.
        rows: usize,
    },
    /// No connection.
    #[error("peer {peer} ({address}) is unreachable, {rows} rows not fetched, next try in {retry_ms} ms")]
    Unreachable {
        /// The peer.
        peer: u16,
        /// Its configured address.
        address: String,
        /// Rows that were asked for.
        rows: usize,
        /// The last dial's error.
        #[source]
        cause: DialError,
        /// When the pool will dial again.
        retry_ms: u64,
    },
    /// The connection broke during the request, and again during its repetition.
    #[error("peer {peer} ({address}) was lost while it sent {rows} rows: {cause}; is rudderd running there?")]
    Lost {
        /// The peer.
        peer: u16,
        /// Its configured address.
        address: String,
        /// Rows that were asked for.
        rows: usize,
        /// What QUIC says.
        cause: String,
    },
    /// Too slow.
    #[error(
        "peer {peer} ({address}) did not send {rows} rows within {timeout_ms} ms; it is overloaded, stopped or far \
         away: see its log, or raise peers.request_timeout_ms"
    )]
    Timeout {
        /// The peer.
        peer: u16,
        /// Its configured address.
        address: String,
        /// Rows that were asked for.
        rows: usize,
        /// request_timeout_ms.
        timeout_ms: u64,
    },
    /// The peer answered with an error.
    #[error("peer {peer} ({address}) did not answer {rows} rows of table {table}")]
    Remote {
        /// The peer.
        peer: u16,
        /// Its configured address.
        address: String,
        /// Rows that were asked for.
        rows: usize,
        /// The table.
        table: u16,
        /// Its error.
        #[source]
        error: RemoteError,
    },
    /// The peer sent bytes that break the protocol, or rows that do not match their checksum.
    #[error("peer {peer} ({address}) sent a broken answer for {rows} rows of table {table}")]
    Broken {
        /// The peer.
        peer: u16,
        /// Its configured address.
        address: String,
        /// Rows that were asked for.
        rows: usize,
        /// The table.
        table: u16,
        /// What is broken.
        #[source]
        error: WireError,
    },
    /// More bytes than memory can hold.
    #[error("{rows} rows of {row_bytes} bytes do not fit in memory; ask for fewer rows at once")]
    TooLarge {
        /// Rows that were asked for.
        rows: usize,
        /// Bytes of one.
        row_bytes: usize,
    },
    /// This node is shutting down.
    #[error("this node is shutting down; {rows} rows of peer {peer} not fetched")]
    ShuttingDown {
        /// The peer.
        peer: u16,
        /// Rows that were asked for.
        rows: usize,
    },
}

impl PeerError {
    /// Whether the same fetch may succeed later without anybody changing a configuration or a dataset.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Timeout { .. } => true,
            Self::Unreachable { cause, .. } => cause.is_transient(),
            Self::Remote { error, .. } => matches!(error, RemoteError::Busy { .. } | RemoteError::Draining),
            _ => false,
        }
    }
}
