//! Owns the result of the demo, which is the JSON of `--json`, whose names are stable. Must never
//! show a number that was not measured in this run.
use serde::{Deserialize, Serialize};

use rudder_stage::ScrapedCounters;

/// The graph that was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphReport {
    /// Vertices.
    pub vertices: u64,
    /// Undirected edges.
    pub edges: u64,
    /// Parts, which is nodes.
    pub partitions: u16,
    /// Undirected edges whose ends lie on different nodes.
    pub edge_cut: u64,
}

/// What one policy did. Counts and rows are summed over all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The cache policy.
    pub policy: String,
    /// Minibatches announced ahead.
    pub lookahead: u32,
    /// Whether each trainer had a daemon of its own, with its part of the capacity.
    pub private: bool,
    /// Rows that the caches hold.
    pub capacity_rows: u64,
    /// Share of the remote rows that were in the cache.
    pub hit_rate: f64,
    /// Rows of other nodes that trainers asked for, while training.
    pub remote_rows: u64,
    /// Of these, rows that had been brought in for an announced minibatch.
    pub staged_rows: u64,
    /// Of these, rows that a trainer had to wait for.
    pub stall_rows: u64,
    /// Share of the remote rows of the epochs after the first that a trainer had to wait for.
    pub later_stall_share: f64,
    /// As `hit_rate`, of each epoch.
    pub epoch_hit_rates: Vec<f64>,
    /// Rows that crossed the network for any reason, while training.
    pub network_rows: u64,
    /// Bytes of these rows, as the receiving daemons counted them.
    pub network_bytes: u64,
    /// Seconds inside `fetch`, mean over the trainers.
    pub stall_seconds: f64,
    /// Wall time of each epoch.
    pub epoch_seconds: Vec<f64>,
    /// Share of the test vertices that the trained model classifies correctly.
    pub accuracy: f64,
    /// Received rows that were compared with their true content; the test's are among them.
    pub rows_checked: u64,
    /// Of these, rows that were not their owner's.
    pub wrong_rows: u64,
    /// What each daemon counted, by node.
    pub daemons: Vec<DaemonReport>,
}

/// What one daemon counted while its trainers trained; fields as in [`RunReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Which node.
    pub node: u16,
    /// Rows that the caches hold.
    pub capacity_rows: u64,
    /// Rows of other nodes that were in the cache.
    pub hit_rows: u64,
    /// Rows that had been brought in for an announced minibatch.
    pub staged_rows: u64,
    /// Rows that a trainer waited for.
    pub stall_rows: u64,
    /// Rows that crossed the network.
    pub network_rows: u64,
}

impl DaemonReport {
    /// What daemon `node` counted.
    pub fn new(node: u16, counted: &ScrapedCounters) -> Self {
        Self {
            node,
            capacity_rows: counted.capacity_rows,
            hit_rows: counted.hit_rows,
            staged_rows: counted.staged_rows,
            stall_rows: counted.missed_rows,
            network_rows: counted.network_rows,
        }
    }
}

/// Trainers that share the daemon of their node against trainers that have one each, with as much memory in all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sharing {
    /// The cache policy.
    pub policy: String,
    /// Minibatches announced ahead.
    pub lookahead: u32,
    /// Rows that crossed the network with shared daemons.
    pub shared_network_rows: u64,
    /// Rows that crossed the network with private daemons.
    pub private_network_rows: u64,
    /// Shared over private.
    pub ratio: f64,
}

/// Each run with private daemons beside the same run with shared ones.
pub fn sharing(runs: &[RunReport]) -> Vec<Sharing> {
    let private = runs.iter().filter(|run| run.private);
    let compare = |run: &RunReport| {
        let same =
            |other: &&RunReport| !other.private && (&other.policy, other.lookahead) == (&run.policy, run.lookahead);
        let shared = runs.iter().find(same)?;
        Some(Sharing {
            policy: run.policy.clone(),
            lookahead: run.lookahead,
            shared_network_rows: shared.network_rows,
            private_network_rows: run.network_rows,
            ratio: shared.network_rows as f64 / run.network_rows.max(1) as f64,
        })
    };
    private.filter_map(compare).collect()
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// The graph.
    pub graph: GraphReport,
    /// Floats per row.
    pub dim: u32,
    /// Epochs of each run.
    pub epochs: u32,
    /// Trainers of each node.
    pub trainers: u32,
    /// The runs, in their order.
    pub runs: Vec<RunReport>,
    /// With `--private`: shared daemons against private ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sharing: Vec<Sharing>,
}
