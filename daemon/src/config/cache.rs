//! Section `[cache]`: how many remote rows are kept and who is replaced. It must never know how a policy works.

use super::Capacity;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Which rows the cache keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// No cache: every remote row is fetched from its owner, as DistDGL does.
    None,
    /// The score policy of the Rudder paper, replacing on a fixed period of minibatches: static prefetching.
    Periodic,
    /// EPOCH scores with guarded admission.
    #[default]
    Epoch,
}

impl Policy {
    /// All policies, in the order the documentation names them.
    pub const ALL: [Policy; 3] = [Policy::None, Policy::Periodic, Policy::Epoch];

    /// The name used in configuration, flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Periodic => "periodic",
            Policy::Epoch => "epoch",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| format!("unknown policy `{text}`: expected none, periodic or epoch"))
    }
}

/// What `[cache.tables.NAME]` says otherwise for one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableCacheConfig {
    /// Capacity of this table's cache; absent = `cache.capacity`.
    pub capacity: Option<Capacity>,
    /// Policy of this table's cache; absent = `cache.policy`.
    pub policy: Option<Policy>,
}

/// Section `[cache]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Rows kept per table: a number of rows, a share of the table's remote rows, or a size.
    pub capacity: Capacity,
    /// Who is kept.
    pub policy: Policy,
    /// Minibatches between two replacements (policy `periodic`).
    pub period: u32,
    /// Score threshold below which a resident row is replaced (policy `periodic`).
    pub alpha: f64,
    /// Slots looked at to choose a victim (policy `epoch`).
    pub sample: usize,
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
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: Capacity::Share(0.15),
            policy: Policy::Epoch,
            period: 10,
            alpha: 0.05,
            sample: 16,
            seed: 1,
            tables: BTreeMap::new(),
        }
    }
}
