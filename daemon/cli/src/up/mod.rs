//! `rudder up`: one command that starts the daemons which a machine needs, waits until they are ready, and ends them.
//! Owns the arguments, what is printed, and the way of a process to daemons that it starts or finds. It must never
//! leave the daemons of a failed start behind, nor start a second set beside one that runs.

mod front;
mod job;
mod meet;
mod plan;
mod starter;

use std::path::PathBuf;

use super::{CliError, style};
use plan::Target;
use rudder_stage::place::State;
pub use starter::Mode;

/// Arguments of `rudder up`.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// Folder of the dataset, or another kind that `dataset.path` of rudderd takes
    #[arg(value_name = "DATASET")]
    pub(super) dataset: String,
    /// Rows, share or size of each cache (cache.capacity)
    #[arg(long, value_name = "N|SHARE|SIZE")]
    pub(super) capacity: Option<String>,
    /// Cache policy (cache.policy)
    #[arg(long, value_name = "POLICY")]
    pub(super) policy: Option<String>,
    /// Any key of the configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Configuration of rudderd (TOML) that the flags change
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder with ca.pem, node-N.pem and node-N.key, for several hosts
    #[arg(long, value_name = "DIR")]
    pub(super) certs: Option<PathBuf>,
    /// Index of this node, from 0; by default what the launcher says
    #[arg(long, value_name = "N")]
    pub(super) node: Option<u16>,
    /// Hosts of all nodes in the order of their indices: a,b,c or node[01-04], each with or without :PORT
    #[arg(long, value_name = "HOSTS")]
    pub(super) nodes: Option<String>,
    /// Number of nodes, where neither the launcher nor --nodes tells it; else it must agree
    #[arg(long, value_name = "N")]
    pub(super) world: Option<u16>,
    /// Host of node 0, where the nodes learn each other's addresses
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with_all = ["nodes", "service"])]
    pub(super) rendezvous: Option<String>,
    /// Headless service of the StatefulSet that this pod is of, or a pattern of names with {node} in it;
    /// $RUDDER_SERVICE says the same
    #[arg(long, value_name = "NAME", conflicts_with = "nodes")]
    pub(super) service: Option<String>,
    /// Port of every host of a job: UDP for the peers, TCP where the nodes meet; the next one is for HTTP
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..65535))]
    pub(super) port: u16,
    /// Longest wait until all are ready, in seconds, for the other nodes of a job included
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) wait_s: u64,
    /// Return when all are ready; `rudder down` ends them
    #[arg(long)]
    pub(super) detach: bool,
    /// Share the daemons with every process that does the same; this one goes on until its standard input closes, and
    /// the last ends them
    #[arg(long, conflicts_with = "detach")]
    pub(super) shared: bool,
    /// Print the result as JSON, on one line
    #[arg(long)]
    pub(super) json: bool,
    /// Start and watch the daemons for others
    #[arg(long, value_name = "MODE", hide = true)]
    pub(super) starter: Option<Mode>,
}

/// Starts the daemons, or finds that they run, and says where.
///
/// # Errors
/// What kept them from their start, or ended one of them.
pub fn run(args: &UpArgs) -> Result<(), CliError> {
    rudder_peers::install_tls_provider();
    let target = Target::find(args)?;
    match args.starter {
        Some(mode) => front::start_for_others(args, &target, mode),
        None if args.shared => front::share(args, &target),
        None => front::up(args, &target),
    }
}

/// Says where the daemons are.
fn tell(args: &UpArgs, target: &Target, state: &State, already: bool) -> Result<(), CliError> {
    let first = state.nodes.first().map(|node| node.socket.clone()).unwrap_or_default();
    if args.json {
        return style::print_json_line(&serde_json::json!({
            "dataset": state.dataset, "fingerprint": state.fingerprint, "pid": state.pid, "already_running": already,
            "launcher": target.spot.by, "socket": first, "nodes": state.nodes,
        }));
    }
    let mut text = String::new();
    for node in &state.nodes {
        let socket = node.socket.display();
        text.push_str(&format!("# node {}: {socket}, HTTP on {}, log {}\n", node.node, node.admin, node.log.display()));
    }
    text.push_str(&format!("export RUDDER_SOCKET={}\n", quoted(&first.display().to_string())));
    style::print(&text)
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@%+=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
