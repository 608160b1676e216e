//! Nodes of one process that talk over real sockets on loopback.

mod dial;
mod faults;
mod hello;
mod pacing;
mod probe;
mod rows;
mod versions;

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rudder_telemetry::error_chain;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;

pub(super) const ROW_BYTES: usize = 40;
pub(super) const PARTS: u16 = 4;
/// Ids are owned round-robin: node = id % PARTS.
pub(super) const ROWS: u64 = 4_000_000;

/// The one true row of an id.
pub(super) fn truth(id: u64) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    for (i, part) in row.chunks_mut(8).enumerate() {
        part.copy_from_slice(&xxh3_64_with_seed(&id.to_le_bytes(), i as u64).to_le_bytes());
    }
    row
}

pub(super) struct Truth {
    pub(super) node: u16,
    /// Called with the table before rows are copied.
    pub(super) before: Box<dyn Fn(u16) + Send + Sync>,
    /// Writing peer, its number, ids and bytes of rows of each update.
    pub(super) updates: Mutex<Vec<(u16, Stamp, usize, usize)>>,
}

impl RowSource for Truth {
    fn row_bytes(&self, table: u16) -> Option<usize> {
        (table < 2).then_some(ROW_BYTES)
    }

    fn copy_rows(&self, table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
        (self.before)(table);
        for (id, row) in ids.iter().zip(out.chunks_mut(ROW_BYTES)) {
            match *id {
                id if id >= ROWS => return Err(SourceError::OutOfRange { id, rows: ROWS }),
                id if id % u64::from(PARTS) != u64::from(self.node) => return Err(SourceError::NotOwned { id }),
                id => row.copy_from_slice(&truth(id)),
            }
        }
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        Stamp { incarnation: self.node.into(), clock: 3 }
    }

    /// Of every seventh block, every other row changed after clock 1; none after clock 3.
    fn changes(&self, table: u16, since: Stamp) -> Result<Changes, SourceError> {
        let now = self.stamp();
        match table {
            0..2 if since.incarnation != now.incarnation => Ok(Changes::everything(now)),
            0..2 if since.clock >= 3 => Ok(Changes::nothing(now)),
            0..2 => {
                let rows = ROWS / u64::from(PARTS);
                let blocks = (0..rows.div_ceil(64) as usize).step_by(7).map(|block| (block, u64::MAX / 3));
                Ok(Changes::of_blocks(now, rows, blocks))
            }
            _ => Err(SourceError::UnknownTable { table }),
        }
    }

    fn update(&self, peer: u16, writer: Stamp, table: u16, ids: &[u64], rows: &[u8]) -> Result<Stamp, SourceError> {
        (self.before)(table);
        for (id, row) in ids.iter().zip(rows.chunks(ROW_BYTES)) {
            match *id {
                id if id % u64::from(PARTS) != u64::from(self.node) => return Err(SourceError::NotOwned { id }),
                id => assert_eq!(row, truth(id), "id {id}"),
            }
        }
        self.updates.lock().unwrap().push((peer, writer, ids.len(), rows.len()));
        Ok(Stamp { clock: 4, ..self.stamp() })
    }
}

pub(super) fn authority() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    super::authority::init(dir.path(), "test", 2, false).unwrap();
    for node in 0..PARTS {
        super::authority::issue(dir.path(), node, dir.path(), 2, false).unwrap();
    }
    dir
}

pub(super) fn config(authority: &Path, node: u16) -> PeersConfig {
    PeersConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        authority: authority.join("ca.pem"),
        certificate: authority.join(format!("node-{node}.pem")),
        key: authority.join(format!("node-{node}.key")),
        connect_timeout_ms: 1_000,
        request_timeout_ms: 5_000,
        ..Default::default()
    }
}

pub(super) fn identity(node: u16) -> Identity {
    Identity { node, parts: PARTS, fingerprint: 0xfeed }
}

pub(super) fn source(node: u16) -> Arc<Truth> {
    Arc::new(Truth { node, before: Box::new(|_| {}), updates: Mutex::default() })
}

/// A node that answers, and its address.
pub(super) fn server(authority: &Path, node: u16) -> (Arc<Peers>, String) {
    let peers = Peers::start(&config(authority, node), identity(node), source(node)).unwrap();
    let address = peers.local_addr().to_string();
    (peers, address)
}

/// Node 0, which knows node 1 by `address`.
pub(super) fn client(authority: &Path, address: &str, change: impl FnOnce(&mut PeersConfig)) -> Arc<Peers> {
    let mut config = config(authority, 0);
    config.addresses.insert(1, address.to_owned());
    change(&mut config);
    Peers::start(&config, identity(0), source(0)).unwrap()
}

pub(super) async fn fetch(peers: &Peers, ids: &[u64]) -> Result<RowBatch, PeerError> {
    peers.fetch(1, 0, ROW_BYTES, ids, Class::Demand).await
}

pub(super) fn check(batch: &RowBatch, ids: &[u64]) {
    assert_eq!(batch.len(), ids.len());
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(batch.row(i), truth(*id), "row {i}, id {id}");
    }
}

/// Collects what the current thread logs.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn install(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
