//! What the cluster tests share: a dataset whose rows tell whose they are, and nodes over it, each with its
//! certificate, talking QUIC over loopback. Nodes run inside the test's process; tests that kill use real processes.

pub mod process;
pub mod raw;
pub mod up_site;

use rudder_client::{Client, ClientError, ConnectOptions, DType, Rows};
use rudder_daemon::config::{Config, ControllerSpec, Policy};
use rudder_daemon::daemon::Daemon;
use rudder_daemon::node::Node;
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use rudder_peers::{authority, install_tls_provider};
use rudder_settings::Capacity;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Any failure of a test's scaffolding.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Elements of a row of table `feat`.
pub const WIDTH: u32 = 37;

/// `GET url`; nothing if there is no answer.
#[must_use]
pub fn get(url: &str) -> Option<rudder_http::Answer> {
    rudder_http::ask(
        url,
        None,
        None,
        rudder_http::Limits { timeout: Duration::from_secs(60), answer_bytes_max: 16 << 20 },
    )
    .ok()
}

/// Row `id` of table `feat`: every element says whose it is.
#[must_use]
pub fn row_of(id: u64) -> Vec<u8> {
    (0..u64::from(WIDTH)).flat_map(|at| ((id * 1_000 + at) as f32).to_le_bytes()).collect()
}

/// Row `id` of table `label`.
#[must_use]
pub fn label_of(id: u64) -> i64 {
    id as i64 * 7 - 3
}

/// Writes a dataset of `rows` vertices over `parts` even ranges: tables `feat` (f32 × [`WIDTH`]) and `label` (i64).
///
/// # Errors
/// What the disk says.
pub fn write_dataset(dir: &Path, rows: u64, parts: u16) -> Result<(), Fault> {
    let starts: Vec<u64> = (0..=u64::from(parts)).map(|part| part * rows / u64::from(parts)).collect();
    let mut writer = DatasetWriter::create(dir, "test", parts, Existing::Refuse)?;
    writer.add_book("_N", BookSpec::Ranges(&starts))?;
    let mut feat = writer.add_table("feat", "_N", DType::F32, &[WIDTH])?;
    let mut label = writer.add_table("label", "_N", DType::I64, &[])?;
    for (part, span) in (0..).map(Part).zip(starts.windows(2)) {
        for id in span[0]..span[1] {
            feat.write_rows(part, &row_of(id))?;
            label.write_rows(part, &label_of(id).to_le_bytes())?;
        }
    }
    writer.close_table(feat)?;
    writer.close_table(label)?;
    writer.finish()?;
    Ok(())
}

/// The original id of each dataset id: 0 to `rows - 1`, each `spread` times as large, in an order of `seed`'s.
#[must_use]
pub fn renumbered(rows: u64, spread: u64, seed: u64) -> Vec<u64> {
    let mut original: Vec<u64> = (0..rows).map(|id| id * spread).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut original);
    original
}

/// Writes a dataset over `parts` even ranges whose vertices were renumbered as `seed` says. Table `feat` is of type
/// `_N`, whose vertex with the original id `i` is called [`name_of`]`(i)`. Table `far` is of type `far`, whose original
/// ids are `1_000_003` times as large. Table `same` is of type `same`, which was not renumbered. Row `i` of each is
/// [`row_of`] of the original id, taken modulo 4,096.
///
/// # Errors
/// What the disk says.
pub fn write_renumbered(dir: &Path, rows: u64, parts: u16, seed: u64) -> Result<(), Fault> {
    let starts: Vec<u64> = (0..=u64::from(parts)).map(|part| part * rows / u64::from(parts)).collect();
    let mut writer = DatasetWriter::create(dir, "renumbered", parts, Existing::Replace)?;
    let types = [("feat", "_N", renumbered(rows, 1, seed)), ("far", "far", renumbered(rows, FAR, seed))];
    for (table, vertex_type, original) in types.into_iter().chain([("same", "same", (0..rows).collect())]) {
        writer.add_book(vertex_type, BookSpec::Ranges(&starts))?;
        writer.set_original_ids(vertex_type, &original)?;
        let mut feat = writer.add_table(table, vertex_type, DType::F32, &[WIDTH])?;
        for (part, span) in (0..).map(Part).zip(starts.windows(2)) {
            for id in span[0]..span[1] {
                feat.write_rows(part, &row_of(original[id as usize] % ROW_KINDS))?;
            }
        }
        writer.close_table(feat)?;
    }
    let names: Vec<String> = (0..rows).map(name_of).collect();
    writer.set_names("_N", names.iter().map(String::as_str))?;
    writer.finish()?;
    Ok(())
}

/// How far apart the original ids of vertex type `far` are in [`write_renumbered`].
pub const FAR: u64 = 1_000_003;

/// How many rows of [`write_renumbered`] differ.
pub const ROW_KINDS: u64 = 4_096;

/// The name of a vertex of type `_N` in [`write_renumbered`].
#[must_use]
pub fn name_of(original: u64) -> String {
    format!("{}", original * 7 + 3_000_000_000)
}

/// An address for each node that stays free while the node is down: loopback is a whole /8, and each test program takes
/// hosts of its own in it, outside the range from which the kernel gives ports.
fn own_addresses(nodes: u16) -> Result<Vec<SocketAddr>, Fault> {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    let host = |node: u16| Ipv4Addr::new(127, 1 + high % 250, low, 1 + (node % 250) as u8);
    let addresses: Vec<SocketAddr> = (0..nodes).map(|node| SocketAddr::from((host(node), port))).collect();
    addresses.iter().try_for_each(|address| UdpSocket::bind(address).map(drop))?;
    Ok(addresses)
}

/// Asks until `done` says so, at most for `limit`; whether it did.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `future` answers; the thread sleeps until then.
pub fn answer_of<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Nodes over one dataset in a folder of their own.
pub struct Cluster {
    dir: tempfile::TempDir,
    /// By index; `None` where a node was stopped.
    pub nodes: Vec<Option<Node>>,
    configs: Vec<Config>,
}

impl Cluster {
    /// Starts `nodes` nodes over `rows` vertices; `adapt` changes each node's configuration first.
    ///
    /// # Errors
    /// What a node says when it does not start.
    pub fn start(nodes: u16, rows: u64, adapt: impl Fn(&mut Config)) -> Result<Self, Fault> {
        let mut cluster = Self::prepare(nodes, rows, adapt)?;
        for index in 0..usize::from(nodes) {
            cluster.start_node(index)?;
        }
        Ok(cluster)
    }

    /// Writes dataset, certificates and configurations, and starts nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prepare(nodes: u16, rows: u64, adapt: impl Fn(&mut Config)) -> Result<Self, Fault> {
        install_tls_provider();
        let dir = tempfile::tempdir()?;
        write_dataset(&dir.path().join("data"), rows, nodes)?;
        let certificates = dir.path().join("certificates");
        authority::init(&certificates, "test", 1, false)?;
        let addresses = own_addresses(nodes)?;
        let mut configs = Vec::new();
        for node in 0..nodes {
            authority::issue(&certificates, node, &certificates, 1, false)?;
            let mut config = Config::default();
            config.node.index = Some(node);
            config.node.drain_ms = 2_000;
            config.dataset.path = dir.path().join("data");
            config.local.socket = dir.path().join(format!("{node}.sock"));
            config.cache.policy = Policy::Epoch;
            // Tests that want one say so.
            config.agent.controller = ControllerSpec::Off;
            config.cache.capacity = Capacity::Share(0.2);
            // Any free port: tests that need another say so.
            config.admin.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            config.peers.listen = addresses[usize::from(node)];
            let others = (0..nodes).filter(|&other| other != node);
            config.peers.addresses = others.map(|other| (other, addresses[usize::from(other)].to_string())).collect();
            config.peers.authority = certificates.join("ca.pem");
            config.peers.certificate = certificates.join(format!("node-{node}.pem"));
            config.peers.key = certificates.join(format!("node-{node}.key"));
            adapt(&mut config);
            configs.push(config);
        }
        Ok(Self { dir, nodes: (0..nodes).map(|_| None).collect(), configs })
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// What the node says.
    pub fn start_node(&mut self, index: usize) -> Result<(), Fault> {
        self.nodes[index] = Some(Node::start(self.configs[index].clone())?);
        Ok(())
    }

    /// Drains and stops a node.
    pub fn stop_node(&mut self, index: usize) {
        if let Some(node) = self.nodes[index].take() {
            node.shutdown(Duration::from_secs(2));
        }
    }

    /// The folder of this cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration of a node.
    pub fn config(&mut self, index: usize) -> &mut Config {
        &mut self.configs[index]
    }

    /// The socket of a node.
    #[must_use]
    pub fn socket(&self, index: usize) -> PathBuf {
        self.configs[index].local.socket.clone()
    }

    /// A client of a node.
    ///
    /// # Errors
    /// What the client says.
    pub fn client(&self, index: usize) -> Result<Client, ClientError> {
        Client::connect(ConnectOptions::at(self.socket(index)))
    }
}

/// Panics unless `rows` are the rows of table `feat` of `ids`, bit for bit.
pub fn assert_rows(rows: &Rows, ids: &[u64]) {
    assert_eq!(rows.len(), ids.len());
    for (i, &id) in ids.iter().enumerate() {
        assert_eq!(rows.row(i), row_of(id), "row {i}, id {id}");
    }
}
