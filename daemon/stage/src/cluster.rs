//! Owns the daemons of one run: their configuration files, their start, the wait until they are ready, their counters
//! and their end. Must never talk to them but as any operator can: TOML, signals, HTTP.

use std::iter::Sum;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::door::Door;
use crate::error::StageError;
use crate::link::Port;
use crate::role::{DaemonRole, Role};
use crate::stage::Stage;
use rudder_daemon::config::{AgentConfig, Config};
use rudder_peers::authority;

/// Certificates live for a day: they are thrown away with the run folder.
const CERTIFICATE_DAYS: u32 = 1;
/// Name of the cluster in them.
const CLUSTER_NAME: &str = "demo";
/// Base of the longest wait for a daemon to be ready; reading and checking its shards comes on top.
const READY_BASE: Duration = Duration::from_secs(30);
/// Slowest disk that is waited for.
const READ_BYTES_PER_S: u64 = 50 << 20;
/// Longest waits of a daemon for a connection to a peer, and for a peer's answer: all of them share this machine with
/// their trainers, and at the first step everybody wants everything at once. With the defaults, a fetch fails where
/// sixteen daemons had half a core.
const CONNECT_TIMEOUT_MS: u64 = 20_000;
const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// How often readiness is asked for.
const READY_POLL: Duration = Duration::from_millis(10);
/// Time a daemon of the demo gets to drain when its run is over, and the time after which it is killed.
const DRAIN: Duration = Duration::from_secs(5);
const KILL: Duration = Duration::from_secs(15);
/// Longest path of a Unix socket: `sun_path` less its ending zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Ports inside a namespace of its own; each further daemon in it takes the next two.
const NAMESPACE_PORTS: [u16; 2] = [7400, 7401];
/// Prefix of the daemons' names on the stage.
const NAME: &str = "rudderd of node ";

/// What all runs share.
pub struct Site {
    /// The `rudderd` to start.
    pub program: PathBuf,
    /// Folder of the dataset.
    pub dataset: PathBuf,
    /// Its size: the time that daemons get to check it depends on it.
    pub dataset_bytes: u64,
    /// Folder of the certificates, as [`certify`] makes them.
    pub certificates: PathBuf,
    /// Nodes of the cluster.
    pub nodes: u16,
    /// Who steers the caches; `journal` is the folder of all journals.
    pub agent: AgentConfig,
    /// One per node with `--link`, none without.
    pub ports: Vec<Port>,
}

/// The `rudderd` beside this program.
///
/// # Errors
/// [`StageError::NoDaemon`], which says how to build it.
pub fn find_daemon() -> Result<PathBuf, StageError> {
    let own = std::env::current_exe().map_err(StageError::prepare("find this program's file"))?;
    let path = own.with_file_name("rudderd");
    if path.is_file() { Ok(path) } else { Err(StageError::NoDaemon { path }) }
}

/// Makes an authority and a certificate for each node in `folder`.
///
/// # Errors
/// The files cannot be written.
pub fn certify(folder: &Path, nodes: u16) -> Result<(), StageError> {
    let failed = || StageError::prepare("make the certificates");
    std::fs::create_dir_all(folder).map_err(StageError::file("create", folder))?;
    authority::init(folder, CLUSTER_NAME, CERTIFICATE_DAYS, false).map_err(failed())?;
    (0..nodes).try_for_each(|node| {
        authority::issue(folder, node, folder, CERTIFICATE_DAYS, false).map(|_| ()).map_err(failed())
    })
}

/// Tells a daemon of the certificates in `folder`, as [`certify`] makes them.
pub fn certify_node(config: &mut Config, folder: &Path) {
    let node = config.node.index();
    config.peers.authority = folder.join("ca.pem");
    config.peers.certificate = folder.join(format!("node-{node}.pem"));
    config.peers.key = folder.join(format!("node-{node}.key"));
}

/// Gives a daemon the patience that it needs where all daemons of a cluster share one machine.
pub fn share_a_machine(config: &mut Config) {
    config.peers.connect_timeout_ms = CONNECT_TIMEOUT_MS;
    config.peers.request_timeout_ms = REQUEST_TIMEOUT_MS;
}

/// Fails if a socket called `name` in `folder` would have too long a path.
pub fn check_socket_path(path: &Path) -> Result<(), StageError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(StageError::SocketPath { path: path.to_owned(), limit: SOCKET_PATH_BYTES_MAX });
    }
    Ok(())
}

/// One running daemon.
pub struct Daemon {
    /// The node whose rows it owns.
    pub node: u16,
    /// Its socket for trainers.
    pub socket: PathBuf,
    /// Its HTTP interface.
    pub door: Door,
}

/// What a daemon counted for one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapedCounters {
    /// Rows that its cache may hold.
    pub capacity_rows: u64,
    /// Rows of other nodes that were in the cache.
    pub hit_rows: u64,
    /// Rows that had been brought in for an announced minibatch.
    pub staged_rows: u64,
    /// Rows for which a trainer waited on a peer.
    pub missed_rows: u64,
    /// Rows that peers sent, for any reason.
    pub network_rows: u64,
    /// Bytes of rows that peers sent.
    pub network_bytes: u64,
}

impl ScrapedCounters {
    /// What was counted since `before`; the capacity is what it is.
    pub fn since(self, before: Self) -> Self {
        Self {
            capacity_rows: self.capacity_rows,
            hit_rows: self.hit_rows - before.hit_rows,
            staged_rows: self.staged_rows - before.staged_rows,
            missed_rows: self.missed_rows - before.missed_rows,
            network_rows: self.network_rows - before.network_rows,
            network_bytes: self.network_bytes - before.network_bytes,
        }
    }
}

impl Sum for ScrapedCounters {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            capacity_rows: sum.capacity_rows + one.capacity_rows,
            hit_rows: sum.hit_rows + one.hit_rows,
            staged_rows: sum.staged_rows + one.staged_rows,
            missed_rows: sum.missed_rows + one.missed_rows,
            network_rows: sum.network_rows + one.network_rows,
            network_bytes: sum.network_bytes + one.network_bytes,
        })
    }
}

/// A daemon that is to be started.
pub struct Plan {
    /// Who it will be.
    pub daemon: Daemon,
    /// Folder of its configuration and its log; made if it is not there.
    pub folder: PathBuf,
    /// The whole configuration.
    pub config: Config,
}

impl Plan {
    /// The daemon called `name` whose files lie in `folder`, as `config` says it.
    pub fn new(name: String, folder: PathBuf, namespace: Option<PathBuf>, config: Config) -> Self {
        let door = Door { name, admin: config.admin.listen, namespace };
        let daemon = Daemon { node: config.node.index(), socket: config.local.socket.clone(), door };
        Self { daemon, folder, config }
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("rudderd.log")
    }
}

/// The name of a node's daemon on the stage.
pub fn daemon_name(node: u16) -> String {
    format!("{NAME}{node}")
}

/// The daemons of one run.
pub struct Cluster<'a> {
    stage: &'a Stage,
    /// By node; several of one node come one after the other.
    pub daemons: Vec<Daemon>,
}

impl<'a> Cluster<'a> {
    /// Starts `copies` daemons per node with their files in `folder`, their configurations changed by `adapt`, and
    /// waits until all are ready. The first daemons of all nodes know each other, and so do the second, and so on.
    ///
    /// # Errors
    /// A daemon does not start, ends, or is not ready in time.
    pub fn start(
        stage: &'a Stage,
        site: &Site,
        folder: &Path,
        copies: u16,
        adapt: &dyn Fn(&mut Config),
    ) -> Result<Self, StageError> {
        let addresses = addresses(site, copies)?;
        let mut plans = Vec::new();
        for (node, copy) in (0..site.nodes).flat_map(|node| (0..copies).map(move |copy| (node, copy))) {
            let at = |node: u16| addresses[usize::from(node) * usize::from(copies) + usize::from(copy)];
            let (peer, admin) = at(node);
            let suffix = if copies == 1 { String::new() } else { format!("-{copy}") };
            let place = folder.join(format!("node{node}{suffix}"));
            let namespace = site.ports.get(usize::from(node)).map(|port| port.namespace.clone());
            let mut config = Config::default();
            config.node.index = Some(node);
            config.node.drain_ms = DRAIN.as_millis() as u64;
            config.dataset.path.clone_from(&site.dataset);
            config.local.socket = place.join("rudder.sock");
            config.peers.listen = peer;
            let others = (0..site.nodes).filter(|&other| other != node);
            config.peers.addresses = others.map(|other| (other, at(other).0.to_string())).collect();
            certify_node(&mut config, &site.certificates);
            share_a_machine(&mut config);
            config.admin.listen = admin;
            config.agent.clone_from(&site.agent);
            adapt(&mut config);
            plans.push(Plan::new(format!("{}{suffix}", daemon_name(node)), place, namespace, config));
        }
        let limit = READY_BASE + Duration::from_secs(site.dataset_bytes / READ_BYTES_PER_S);
        Self::launch(stage, &site.program, plans, limit)
    }

    /// Starts the planned daemons by the `rudderd` at `program`, and waits until all are ready, at most for `limit`.
    ///
    /// # Errors
    /// A daemon does not start, ends, or is not ready in time.
    pub fn launch(stage: &'a Stage, program: &Path, plans: Vec<Plan>, limit: Duration) -> Result<Self, StageError> {
        plans.iter().try_for_each(|plan| plan.spawn(stage, program))?;
        let cluster = Self { stage, daemons: plans.into_iter().map(|plan| plan.daemon).collect() };
        cluster.wait_until_ready(limit)?;
        Ok(cluster)
    }

    fn wait_until_ready(&self, limit: Duration) -> Result<(), StageError> {
        let begun = Instant::now();
        for daemon in &self.daemons {
            loop {
                self.stage.check()?;
                let reason = match daemon.door.ask("/readyz", None) {
                    Ok((200, _)) => break,
                    Ok((_, said)) => said.trim().to_owned(),
                    Err(reason) => reason,
                };
                if begun.elapsed() > limit {
                    return Err(StageError::NotReady {
                        name: daemon.door.name.clone(),
                        waited_s: limit.as_secs(),
                        reason,
                        log: self.stage.log_tail(&daemon.door.name),
                    });
                }
                std::thread::sleep(READY_POLL);
            }
        }
        Ok(())
    }

    /// What each daemon counted for the table of this name.
    ///
    /// # Errors
    /// A daemon does not answer, or its status lacks a field.
    pub fn counters(&self, table: &str) -> Result<Vec<ScrapedCounters>, StageError> {
        self.daemons.iter().map(|daemon| daemon.counters(table)).collect()
    }

    /// Ends the daemons as an operator would, by SIGTERM.
    ///
    /// # Errors
    /// One had to be killed, or ended with a failure.
    pub fn stop(self) -> Result<(), StageError> {
        self.stop_within(KILL)
    }

    /// As [`Cluster::stop`], with another time after which what has not ended is killed.
    ///
    /// # Errors
    /// One had to be killed, or ended with a failure.
    pub fn stop_within(self, limit: Duration) -> Result<(), StageError> {
        self.stage.end(NAME, true, limit)
    }
}

impl Plan {
    fn spawn(&self, stage: &Stage, program: &Path) -> Result<(), StageError> {
        check_socket_path(&self.daemon.socket)?;
        std::fs::create_dir_all(&self.folder).map_err(StageError::file("create", &self.folder))?;
        let file = self.folder.join("rudderd.toml");
        let text = self.config.effective_toml().map_err(StageError::prepare("write a configuration"))?;
        std::fs::write(&file, text).map_err(StageError::file("write", &file))?;
        let namespace = self.daemon.door.namespace.clone();
        let role = DaemonRole { program: program.to_owned(), config: file, namespace };
        let mut command = Role::<()>::Daemon(role).command(&self.folder.join("role.json"))?;
        // The configuration file says everything; what the environment says is for other daemons.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("RUDDER_") {
                command.env_remove(key);
            }
        }
        stage.spawn(&self.daemon.door.name, &mut command, &self.log())
    }
}

impl Daemon {
    fn counters(&self, table: &str) -> Result<ScrapedCounters, StageError> {
        let text = self.door.demand("/v1/status", None)?;
        let status: Value = serde_json::from_str(&text).map_err(|error| self.door.fault(error.to_string()))?;
        counters_of(&status, table).map_err(|reason| self.door.fault(reason))
    }
}

/// Reads the counters of the table called `name` out of `/v1/status`.
fn counters_of(status: &Value, name: &str) -> Result<ScrapedCounters, String> {
    let number = |value: &Value, path: &str| {
        value.pointer(path).and_then(Value::as_u64).ok_or_else(|| format!("its status has no number {path}"))
    };
    let tables = status.get("tables").and_then(Value::as_array).ok_or("its status has no tables")?;
    let is_ours = |table: &&Value| table.get("name").and_then(Value::as_str) == Some(name);
    let table = tables.iter().find(is_ours).ok_or("its status does not know the table")?;
    let peers = status.get("peers").and_then(Value::as_array).ok_or("its status has no peers")?;
    let mut network_bytes = 0;
    for peer in peers {
        network_bytes += number(peer, "/bytes_received")?;
    }
    Ok(ScrapedCounters {
        capacity_rows: number(table, "/capacity_rows")?,
        hit_rows: number(table, "/fetched/cache")?,
        staged_rows: number(table, "/fetched/staged")?,
        missed_rows: number(table, "/fetched/peer")?,
        network_rows: number(table, "/network/demand_rows")?
            + number(table, "/network/prefetch_rows")?
            + number(table, "/network/lookahead_rows")?,
        network_bytes,
    })
}

/// Addresses of each daemon, `copies` per node: for its peers (UDP) and for HTTP.
fn addresses(site: &Site, copies: u16) -> Result<Vec<(SocketAddr, SocketAddr)>, StageError> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if !site.ports.is_empty() {
        let [peer, admin] = NAMESPACE_PORTS;
        let pair = |port: &Port, copy| (SocketAddr::from((port.address, peer + 2 * copy)), loopback(admin + 2 * copy));
        return Ok(site.ports.iter().flat_map(|port| (0..copies).map(move |copy| pair(port, copy))).collect());
    }
    free_addresses(usize::from(site.nodes) * usize::from(copies))
}

/// Free addresses of this machine, for the peers (UDP) and for HTTP of each of `count` daemons. All are held until all
/// are found. Another process may take one before the daemon does; it then says so.
///
/// # Errors
/// The kernel gives none.
pub fn free_addresses(count: usize) -> Result<Vec<(SocketAddr, SocketAddr)>, StageError> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = || -> std::io::Result<_> { Ok((UdpSocket::bind(loopback(0))?, TcpListener::bind(loopback(0))?)) };
    let held: std::io::Result<Vec<_>> = (0..count).map(|_| free()).collect();
    let held = held.map_err(StageError::prepare("find free ports"))?;
    let pairs: std::io::Result<Vec<_>> =
        held.iter().map(|(udp, tcp)| Ok((udp.local_addr()?, tcp.local_addr()?))).collect();
    pairs.map_err(StageError::prepare("find free ports"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_daemon::config::ControllerSpec;

    #[test]
    fn a_socket_path_beyond_the_kernels_limit_is_refused() {
        assert!(check_socket_path(Path::new("/tmp/x.sock")).is_ok());
        let error = check_socket_path(Path::new(&"x".repeat(108))).unwrap_err().to_string();
        assert!(error.contains("TMPDIR"), "{error}");
    }

    #[test]
    fn daemons_get_ports_of_their_own() {
        let site = Site {
            program: PathBuf::new(),
            dataset: PathBuf::new(),
            dataset_bytes: 0,
            certificates: PathBuf::new(),
            nodes: 8,
            agent: AgentConfig { controller: ControllerSpec::Off, ..AgentConfig::default() },
            ports: Vec::new(),
        };
        let found = addresses(&site, 2).unwrap();
        let mut ports: Vec<u16> = found.iter().map(|(peer, _)| peer.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16);
    }

    #[test]
    fn a_status_without_a_counter_names_what_is_missing() {
        let mut status = serde_json::json!({
            "tables": [{"name": "feat", "capacity_rows": 7, "fetched": {"local": 1, "cache": 2, "staged": 0, "peer": 3},
                        "network": {"demand_rows": 2, "prefetch_rows": 4, "lookahead_rows": 1, "bytes": 9}}],
            "peers": [{"bytes_received": 10}, {"bytes_received": 20}],
        });
        let counters = counters_of(&status, "feat").unwrap();
        assert_eq!((counters.hit_rows, counters.missed_rows, counters.network_rows), (2, 3, 7));
        assert_eq!((counters.capacity_rows, counters.network_bytes), (7, 30));
        status["tables"][0]["network"]["prefetch_rows"].take();
        assert_eq!(counters_of(&status, "feat").unwrap_err(), "its status has no number /network/prefetch_rows");
    }
}
