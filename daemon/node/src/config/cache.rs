//! Section `[cache]`: how many remote rows are kept and who is replaced. It must never know how a policy works.

pub use rudder_core::cache::PolicyName as Policy;
use rudder_core::cache::PolicySettings;
use rudder_settings::Capacity;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// What `[cache.tables.NAME]` says otherwise for one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableCacheConfig {
    /// Capacity of this table's cache; absent = `cache.capacity`.
    pub capacity: Option<Capacity>,
    /// Policy of this table's cache; absent = `cache.policy`.
    pub policy: Option<Policy>,
    /// Ceiling of this table's cache; absent = `cache.ceiling`.
    pub ceiling: Option<Capacity>,
}

/// Section `[cache]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Rows kept per table: a number of rows, a share of the table's remote rows, or a size.
    pub capacity: Capacity,
    /// Rows that a cache may be grown to while it runs, in the same forms. Address space is kept for so many.
    pub ceiling: Capacity,
    /// Share of the memory limit (of the cgroup, else of the machine) that growing may fill, all other memory counted in.
    pub memory_share: f64,
    /// Share of the memory limit from which caches are shrunk, back to `memory_share`.
    pub pressure_share: f64,
    /// Time between two looks at the memory in use, in milliseconds; 0 = never look, and know no memory limit.
    pub memory_poll_ms: u64,
    /// Folder of the cgroup whose limit holds; empty = the daemon's own and those around it.
    pub cgroup: PathBuf,
    /// How long a tool call waits for the rows that it brings in before it answers, in milliseconds.
    pub tool_wait_ms: u64,
    /// Who is kept.
    pub policy: Policy,
    /// Minibatches between two replacements (policy `periodic`) or two decisions (policy `rudder`).
    pub period: u32,
    /// Share of its score that a resident row loses in a minibatch that does not ask for it (policies `periodic` and `rudder`).
    pub alpha: f64,
    /// Slots looked at to choose a victim (policy `epoch`).
    pub sample: usize,
    /// Whether the edges from this partition to each remote vertex, where the dataset holds its graph, are read at the start
    /// to tell what will be asked for (policies `epoch` and `static`).
    pub degrees: bool,
    /// Longest time for which a cached or staged row may be served after its owner has changed it, in milliseconds; 0 sets no
    /// bound: rows are then brought up to date by `refresh` only.
    pub staleness_max_ms: u64,
    /// Seed of every random choice of the cache.
    pub seed: u64,
    /// Exceptions by table name. Last, because TOML wants tables after plain keys.
    pub tables: BTreeMap<String, TableCacheConfig>,
}

impl CacheConfig {
    /// The capacity and policy that hold for the table of this name.
    pub fn for_table(&self, name: &str) -> (Capacity, Policy) {
        let table = self.tables.get(name);
        (
            table.and_then(|table| table.capacity).unwrap_or(self.capacity),
            table.and_then(|table| table.policy).unwrap_or(self.policy),
        )
    }

    /// What policies are made with.
    #[must_use]
    pub fn policy_settings(&self) -> PolicySettings {
        PolicySettings { period: self.period, alpha: self.alpha, sample: self.sample }
    }

    /// The ceiling that holds for the table of this name.
    pub fn ceiling_of(&self, name: &str) -> Capacity {
        self.tables.get(name).and_then(|table| table.ceiling).unwrap_or(self.ceiling)
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: Capacity::Share(0.15),
            ceiling: Capacity::Share(1.0),
            memory_share: 0.9,
            pressure_share: 0.95,
            memory_poll_ms: 1000,
            cgroup: PathBuf::new(),
            tool_wait_ms: 5000,
            policy: Policy::Epoch,
            period: 10,
            alpha: 0.05,
            sample: 16,
            degrees: true,
            staleness_max_ms: 0,
            seed: 1,
            tables: BTreeMap::new(),
        }
    }
}
