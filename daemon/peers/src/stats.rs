//! What the peers' path counts. Owns its Prometheus handles (kept per peer: looking one up by label costs more than
//! counting) and plain counters that `status` reads; it must never register itself anywhere.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts};

use super::tls::Ends;

/// Seconds; from a single row on one machine to a fetch that times out.
const REQUEST_SECONDS: [f64; 15] =
    [100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Totals over all peers since start.
#[derive(Debug, Default, serde::Serialize)]
pub struct PeerTotals {
    /// Rows that peers sent to this node.
    pub rows_received: AtomicU64,
    /// Their bytes, without headers.
    pub bytes_received: AtomicU64,
    /// Rows that this node sent to peers.
    pub rows_sent: AtomicU64,
    /// Their bytes, without headers.
    pub bytes_sent: AtomicU64,
    /// Fetches that ended in an error.
    pub fetches_failed: AtomicU64,
    /// Requests repeated on a fresh connection.
    pub requests_repeated: AtomicU64,
}

/// Every counter of the peers' path.
#[derive(Debug)]
pub struct PeerStats {
    /// Totals over all peers.
    pub totals: PeerTotals,
    bytes: IntCounterVec,
    seconds: HistogramVec,
    up: IntGaugeVec,
    failed: IntCounterVec,
    repeated: IntCounterVec,
    ends: IntGaugeVec,
    queue: GaugeVec,
    peers: Vec<Option<PeerHandles>>,
}

/// The handles of one peer.
#[derive(Debug)]
pub(crate) struct PeerHandles {
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    pub(crate) seconds: Histogram,
    pub(crate) failed: IntCounter,
    pub(crate) repeated: IntCounter,
}

impl PeerStats {
    /// Counters for the peers of `node` among nodes 0 to `parts`, whose certificates end as `ends` says.
    pub(crate) fn new(node: u16, parts: u16, ends: Ends) -> Result<Self, prometheus::Error> {
        let bytes = IntCounterVec::new(
            Opts::new("rudder_peer_bytes_total", "Bytes of rows exchanged with a peer, without headers."),
            &["peer", "direction"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "rudder_peer_request_seconds",
                "Time of one fetch from a peer, all its requests together.",
            )
            .buckets(REQUEST_SECONDS.to_vec()),
            &["peer"],
        )?;
        let up = IntGaugeVec::new(
            Opts::new(
                "rudder_peer_up",
                "1 while a connection of ours to the peer is open, 0 otherwise; absent until one was needed.",
            ),
            &["peer"],
        )?;
        let failed = IntCounterVec::new(
            Opts::new("rudder_peer_failed_fetches_total", "Fetches from a peer that ended in an error."),
            &["peer"],
        )?;
        let repeated = IntCounterVec::new(
            Opts::new("rudder_peer_repeated_requests_total", "Requests repeated on a fresh connection to the peer."),
            &["peer"],
        )?;
        let until = IntGaugeVec::new(
            Opts::new(
                "rudder_certificate_not_after_timestamp_seconds",
                "When the certificate that the daemon has loaded ends, in seconds since 1970.",
            ),
            &["certificate"],
        )?;
        let queue = GaugeVec::new(
            Opts::new(
                "rudder_peer_queue_seconds",
                "How long packets to the peer waited on their way when a bulk answer to it was last sent.",
            ),
            &["peer"],
        )?;
        // A node without peers shows its certificate to nobody.
        if parts > 1 {
            until.with_label_values(&["node"]).set(ends.node);
            until.with_label_values(&["authority"]).set(ends.authority);
        }
        let handles = |peer: u16| {
            let peer = peer.to_string();
            PeerHandles {
                received: bytes.with_label_values(&[&*peer, "received"]),
                sent: bytes.with_label_values(&[&*peer, "sent"]),
                seconds: seconds.with_label_values(&[&*peer]),
                failed: failed.with_label_values(&[&*peer]),
                repeated: repeated.with_label_values(&[&*peer]),
            }
        };
        let peers = (0..parts).map(|peer| (peer != node).then(|| handles(peer))).collect();
        Ok(Self { totals: PeerTotals::default(), bytes, seconds, up, failed, repeated, ends: until, queue, peers })
    }

    /// The collectors, for whoever serves `/metrics`.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.bytes.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.up.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.repeated.clone()),
            Box::new(self.ends.clone()),
            Box::new(self.queue.clone()),
        ]
    }

    pub(crate) fn peer(&self, peer: u16) -> Option<&PeerHandles> {
        self.peers.get(usize::from(peer))?.as_ref()
    }

    /// Whether there is an open connection to `peer`, once one was dialled for.
    pub(crate) fn set_up(&self, peer: u16, open: bool) {
        self.up.with_label_values(&[&*peer.to_string()]).set(i64::from(open));
    }

    /// Packets to `peer` waited this long on their way.
    pub(crate) fn set_queue(&self, peer: u16, queue: Duration) {
        self.queue.with_label_values(&[&*peer.to_string()]).set(queue.as_secs_f64());
    }

    /// A fetch from `peer` ended in an error.
    pub(crate) fn fetch_failed(&self, peer: u16) {
        self.totals.fetches_failed.fetch_add(1, Relaxed);
        if let Some(handles) = self.peer(peer) {
            handles.failed.inc();
        }
    }

    /// A request to `peer` is repeated on a fresh connection.
    pub(crate) fn request_repeated(&self, peer: u16) {
        self.totals.requests_repeated.fetch_add(1, Relaxed);
        if let Some(handles) = self.peer(peer) {
            handles.repeated.inc();
        }
    }

    pub(crate) fn received(&self, peer: u16, rows: usize, bytes: usize) {
        self.totals.rows_received.fetch_add(rows as u64, Relaxed);
        self.totals.bytes_received.fetch_add(bytes as u64, Relaxed);
        if let Some(handles) = self.peer(peer) {
            handles.received.inc_by(bytes as u64);
        }
    }

    pub(crate) fn sent(&self, peer: u16, rows: usize, bytes: usize) {
        self.totals.rows_sent.fetch_add(rows as u64, Relaxed);
        self.totals.bytes_sent.fetch_add(bytes as u64, Relaxed);
        if let Some(handles) = self.peer(peer) {
            handles.sent.inc_by(bytes as u64);
        }
    }
}
