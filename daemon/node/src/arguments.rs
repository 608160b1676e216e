//! The command line of `rudderd`: its flags and what they say, here in the library so that `rudder man` and `rudder
//! completions` can tell of them. What the flags do to the configuration is the daemon's.

use clap::Parser;
use std::path::PathBuf;

/// Serves feature rows to the trainers of this node: its own part of the dataset, a cache of the others', and its
/// peers.
///
/// Flags win over environment variables RUDDER_SECTION__KEY, those over the file, that over the defaults; every key is
/// in docs/configuration.md. SIGTERM and SIGINT drain within node.drain_ms, another one a second later or more stops at
/// once; SIGHUP reads the configuration again and takes over log.level.
#[derive(Debug, Parser)]
#[command(name = "rudderd", version)]
pub struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Validate the configuration, and the classifier that it names, and exit: status 0 if they can be used, 64 if not
    #[arg(long)]
    pub check: bool,
    /// Print the configuration that is in effect as TOML, and exit
    #[arg(long, conflicts_with = "check")]
    pub print_config: bool,
    /// The partition this daemon owns (node.index)
    #[arg(long, value_name = "N")]
    pub node_index: Option<String>,
    /// Folder of the dataset, or `distdgl:GRAPH.json` for a DistDGL partition (dataset.path)
    #[arg(long, value_name = "DIR|distdgl:FILE")]
    pub dataset: Option<String>,
    /// Unix socket for the trainers (local.socket)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Address of the HTTP interface (admin.listen)
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// UDP address for the peers (peers.listen)
    #[arg(long, value_name = "ADDR")]
    pub peers_listen: Option<String>,
    /// Rows, share or size of the cache (cache.capacity)
    #[arg(long, value_name = "N|SHARE|SIZE")]
    pub capacity: Option<String>,
    /// Cache policy: none, static, periodic, rudder, lru, lfu, tinylfu, s3fifo, sieve or epoch (cache.policy)
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or directives (log.level)
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}
