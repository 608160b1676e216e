//! What `rudder up` is to start: the configuration that was said, what the dataset and the job add to it, and the
//! place where it will run. It must never start anything, nor let two hosts talk without certificates that they share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use rudder_daemon::config::{Config, Layers};
use rudder_dataset::Manifest;
use rudder_peers::discovery::Discovery;
use rudder_stage::place::Place;
use rudder_stage::{Plan, certify_node, daemon_name, free_addresses, share_a_machine};

use super::UpArgs;
use super::job::{Member, Said, Spot, Way};
use crate::CliError;

/// Keys that `rudder up` chooses where it starts several daemons.
const CHOSEN: [&str; 4] = ["local.socket", "admin.listen", "peers.listen", "peers.addresses"];
/// Folder of the throw-away certificates in a place.
pub(super) const CERTIFICATES: &str = "certs";

/// What is to run, and where.
pub(super) struct Target {
    /// The dataset: a folder by its whole path, or what else `dataset.path` takes.
    pub(super) dataset: String,
    /// Fingerprint of it.
    pub(super) fingerprint: String,
    /// Its parts.
    pub(super) parts: u16,
    /// Where its daemons' files are.
    pub(super) place: Place,
    /// Which node of which job this is.
    pub(super) spot: Spot,
    config: Config,
    /// Keys of [`CHOSEN`] that were said.
    said: Vec<&'static str>,
}

impl Target {
    /// Reads all that is known before anything starts.
    ///
    /// # Errors
    /// A key that cannot be used, a dataset that cannot be read, a job that contradicts itself or the dataset.
    pub(super) fn find(args: &UpArgs) -> Result<Self, CliError> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dataset = absolute(&args.dataset)?;
        let layers = layers(args, &dataset)?;
        let said_keys: Vec<&'static str> = CHOSEN.into_iter().filter(|key| says(&layers, key)).collect();
        let said_node = says(&layers, "node.index");
        let addresses = says(&layers, "peers.discovery") || says(&layers, "peers.addresses");
        let mut config = layers.finish()?;
        if config.admin.listen.port() == 0 {
            // This process asks there whether the daemon is ready.
            config.admin.listen = TcpListener::bind(config.admin.listen).and_then(|free| free.local_addr())?;
        }
        let said = Said {
            node: args.node.or(config.node.index.filter(|_| said_node)),
            nodes: args.nodes.clone(),
            world: args.world,
            rendezvous: args.rendezvous.clone(),
            service: args.service.clone().or_else(|| environment("RUDDER_SERVICE")),
            addresses,
        };
        let mut spot = Spot::find(&said, &environment).map_err(CliError::message)?;
        let (parts, fingerprint) = look_at(&dataset)?;
        if parts == 1 && spot.member.as_ref().is_some_and(|member| member.nodes.is_none()) {
            spot.member = None;
        }
        if let Some(Member { nodes: Some(nodes), .. }) = &spot.member
            && *nodes != parts
        {
            return Err(CliError::message(format!(
                "the dataset has {parts} parts, and the job {nodes} nodes ({}): each node serves one part; import it again \
                 with --parts {nodes}, or run on {parts} nodes",
                spot.by
            )));
        }
        if let Some(member) = spot.member.as_ref().filter(|member| member.node >= parts) {
            let words = format!("this is node {} ({}), and the dataset has {parts} parts", member.node, spot.by);
            return Err(CliError::message(words));
        }
        let which = match &spot.member {
            Some(member) => format!("{} node {}", spot.job, member.node),
            None => spot.job.clone(),
        };
        let place = Place::of(&dataset, &which)?;
        let target = Self { dataset, fingerprint, parts, place, spot, config, said: said_keys };
        target.check(args)?;
        Ok(target)
    }

    /// What can be known to be wrong before anything is started.
    fn check(&self, args: &UpArgs) -> Result<(), CliError> {
        let several = self.spot.member.is_none() && self.parts > 1;
        if let Some(key) = self.said.iter().find(|_| several) {
            let words = format!("{key} is of one daemon, and {} are started here, each with its own", self.parts);
            return Err(CliError::message(words));
        }
        match &self.spot.member {
            Some(member) => self.check_certificates(args, member.node),
            None => Ok(()),
        }
    }

    /// The certificates of this node, which all nodes must have of one authority.
    fn check_certificates(&self, args: &UpArgs, node: u16) -> Result<(), CliError> {
        let peers = self.peers_of(args, node);
        let absent = [&peers.authority, &peers.certificate, &peers.key].into_iter().find(|path| !path.is_file());
        let Some(absent) = absent else { return Ok(()) };
        let last = self.parts - 1;
        Err(CliError::message(format!(
            "several hosts need certificates of one authority, and {} is not there. Make them once, where the key is safe:\n  \
             rudder certs init --out certs && rudder certs issue --authority certs --nodes 0-{last}\nthen give every host \
             ca.pem, and its own node-N.pem and node-N.key (or a folder that all share), and pass --certs DIR",
            absent.display()
        )))
    }

    /// The certificates that node `node` uses.
    fn peers_of(&self, args: &UpArgs, node: u16) -> rudder_peers::PeersConfig {
        let mut config = self.config.clone();
        config.node.index = Some(node);
        if let Some(folder) = &args.certs {
            certify_node(&mut config, folder);
        }
        config.peers
    }

    /// Nodes whose daemons run here.
    pub(super) fn nodes_here(&self) -> Vec<u16> {
        match &self.spot.member {
            Some(member) => vec![member.node],
            None => (0..self.parts).collect(),
        }
    }

    /// How long a daemon may take to drain.
    pub(super) fn drain_ms(&self) -> u64 {
        self.config.node.drain_ms
    }

    /// Where this node meets the others, and how it answers them, if that is how it finds them.
    pub(super) fn meeting(&self, args: &UpArgs) -> Option<(String, rudder_peers::PeersConfig)> {
        let Some(Member { node, way: Way::Meet(host), .. }) = &self.spot.member else { return None };
        let mut peers = self.peers_of(args, *node);
        if !self.said.contains(&"peers.listen") {
            peers.listen = wildcard(args.port);
        }
        Some((with_port(host, args.port), peers))
    }

    /// The daemons to start; `met` are the addresses of all nodes, where they have met.
    ///
    /// # Errors
    /// No ports are free.
    pub(super) fn plans(&self, args: &UpArgs, met: Option<BTreeMap<u16, String>>) -> Result<Vec<Plan>, CliError> {
        match &self.spot.member {
            Some(member) => Ok(vec![self.plan_of_member(args, member, met)]),
            None => self.plans_of_all(),
        }
    }

    /// The one daemon of a node that has peers on other hosts: the same port on every host, HTTP on the next one.
    fn plan_of_member(&self, args: &UpArgs, member: &Member, met: Option<BTreeMap<u16, String>>) -> Plan {
        let mut config = self.config.clone();
        config.node.index = Some(member.node);
        config.peers = self.peers_of(args, member.node);
        if !self.said.contains(&"peers.listen") {
            config.peers.listen = wildcard(args.port);
        }
        if !self.said.contains(&"admin.listen") {
            config.admin.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port.saturating_add(1)));
        }
        match &member.way {
            Way::Configured => {}
            Way::Found(discovery) => {
                config.peers.addresses.clear();
                config.peers.discovery = discovery.clone();
            }
            Way::Listed(hosts) => {
                let port = config.peers.listen.port();
                config.peers.discovery = Discovery::Listed;
                config.peers.addresses = (0..).zip(hosts).map(|(node, host)| (node, with_port(host, port))).collect();
            }
            Way::Meet(_) => {
                config.peers.discovery = Discovery::Listed;
                config.peers.addresses = met.unwrap_or_default();
            }
        }
        self.plan(config)
    }

    /// A daemon for each part, all on this machine, on free ports, with certificates that nobody else has.
    fn plans_of_all(&self) -> Result<Vec<Plan>, CliError> {
        let addresses = free_addresses(usize::from(self.parts))?;
        let several = self.parts > 1;
        let plans = (0..self.parts).map(|node| {
            let mut config = self.config.clone();
            let (peers, admin) = addresses[usize::from(node)];
            config.node.index = Some(node);
            if !self.said.contains(&"admin.listen") {
                config.admin.listen = admin;
            }
            config.peers.discovery = Discovery::Listed;
            config.peers.addresses.clear();
            if several {
                config.peers.listen = peers;
                let others = (0..).zip(&addresses).filter(|(other, _)| *other != node);
                config.peers.addresses = others.map(|(other, (peers, _))| (other, peers.to_string())).collect();
                certify_node(&mut config, &self.place.folder().join(CERTIFICATES));
                share_a_machine(&mut config);
                let journal = &mut config.agent.journal.path;
                if !journal.as_os_str().is_empty() {
                    // One file each.
                    journal.as_mut_os_string().push(format!(".node{node}"));
                }
            }
            self.plan(config)
        });
        Ok(plans.collect())
    }

    fn plan(&self, mut config: Config) -> Plan {
        let node = config.node.index();
        let folder = self.place.folder().join(format!("node{node}"));
        if !self.said.contains(&"local.socket") {
            config.local.socket = folder.join("rudder.sock");
        }
        Plan::new(daemon_name(node), folder, None, config)
    }
}

/// The port that a node answers on, on every address of its host.
fn wildcard(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// `host:port`; a port that is there stays. An address of IPv6 without brackets has none.
fn with_port(host: &str, port: u16) -> String {
    if let Ok(address) = host.parse::<IpAddr>() {
        return SocketAddr::new(address, port).to_string();
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, end)| end.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// Whether the configuration says `key`, or a key below it.
fn says(layers: &Layers, key: &str) -> bool {
    layers.says(key)
}

/// Defaults, file, environment, flags: each over the one before, as `rudderd` does.
fn layers(args: &UpArgs, dataset: &str) -> Result<Layers, CliError> {
    let mut layers = Layers::new();
    if let Some(file) = &args.config {
        layers = layers.file(file)?;
    }
    let ours =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.display().to_string())));
    layers = layers.environment(ours)?.flag("DATASET", "dataset.path", dataset)?;
    for (flag, key, value) in
        [("--capacity", "cache.capacity", &args.capacity), ("--policy", "cache.policy", &args.policy)]
    {
        if let Some(value) = value {
            layers = layers.flag(flag, key, value)?;
        }
    }
    for setting in &args.set {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            CliError::message(format!("--set {setting}: write KEY=VALUE, such as --set cache.policy=lru"))
        })?;
        layers = layers.flag("--set", key.trim(), value.trim())?;
    }
    Ok(layers)
}

/// The dataset's whole path; what names its kind (`kind:path`) keeps it.
fn absolute(dataset: &str) -> Result<String, CliError> {
    let (kind, path) = match dataset.split_once(':') {
        Some((kind, path)) if !kind.contains('/') && !Path::new(dataset).exists() => (format!("{kind}:"), path),
        _ => (String::new(), dataset),
    };
    let whole =
        std::fs::canonicalize(path).map_err(|error| CliError::context(format!("no dataset at {path}"), error))?;
    let text = whole.to_str().ok_or_else(|| CliError::message(format!("{}: not UTF-8", whole.display())))?;
    Ok(format!("{kind}{text}"))
}

/// Parts and fingerprint of a dataset.
fn look_at(dataset: &str) -> Result<(u16, String), CliError> {
    let manifest = Manifest::load(Path::new(dataset))?;
    Ok((manifest.parts, format!("{:016x}", manifest.fingerprint())))
}
