//! Section `[cache]`: how many remote rows are kept and which are replaced. It must never know how a policy works.

use crate::serve::SteerSettings;
pub use rudder_core::cache::PolicyName as Policy;
use rudder_core::cache::{PolicySettings, TABLE_ROWS_MAX};
use rudder_settings::{Capacity, Verdict, WAIT_MS, within, wrong};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Below, owners would be asked more often than they can answer.
const STALENESS_MS_MIN: u64 = 50;

/// Exceptions for one table, `[cache.tables.NAME]`.
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
    /// Rows that a cache may be grown to while it runs, in the same forms. Address space is reserved for all of them.
    pub ceiling: Capacity,
    /// Rows of a table of more than 2^32 - 2 of which the cache may know whether it holds them and how hot they are,
    /// 16 bytes each; it holds at most half as many. Smaller tables have no such limit.
    pub tracked_rows_max: usize,
    /// How far caches are grown and shrunk while they run.
    #[serde(flatten)]
    pub steer: SteerSettings,
    /// Time between two readings of the memory in use, in milliseconds; 0 = memory is not read, and no memory limit is
    /// known.
    pub memory_poll_ms: u64,
    /// Folder of the cgroup whose limit holds; empty = the daemon's own and those around it.
    pub cgroup: PathBuf,
    /// Which rows are kept.
    pub policy: Policy,
    /// Minibatches between two replacements (policy `periodic`) or two decisions (policy `rudder`).
    pub period: u32,
    /// Share of its score that a resident row loses in a minibatch that does not ask for it (policies `periodic` and
    /// `rudder`).
    pub alpha: f64,
    /// Slots looked at to choose a victim (policy `epoch`).
    pub sample: usize,
    /// Whether the edges from this partition to each remote vertex, where the dataset holds its graph, are read at the
    /// start to tell what will be asked for (policies `epoch` and `static`).
    pub degrees: bool,
    /// Longest time for which a cached or staged row may be served after its owner has changed it, in milliseconds; 0
    /// sets no bound: rows are then brought up to date by `refresh` only.
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

    /// Most rows that the cache of a table of `table_rows` rows may hold, whatever capacity and ceiling say: half of
    /// those that are tracked, in the tables that [`CacheConfig::tracked_rows_max`] is for.
    #[must_use]
    pub fn rows_max(&self, table_rows: u64) -> u64 {
        let tracked = (self.tracked_rows_max + 1).next_power_of_two() / 2;
        if table_rows > TABLE_ROWS_MAX { tracked as u64 / 2 } else { u64::MAX }
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

impl CacheConfig {
    /// Checks each key, and those of the section that could contradict each other.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        within("cache.period", self.period, 1..=u32::MAX)?;
        within("cache.tracked_rows_max", self.tracked_rows_max, 1 << 12..=1 << 31)?;
        if !(self.alpha > 0.0 && self.alpha <= 1.0) {
            return wrong("cache.alpha", self.alpha, "not above 0 and at most 1", "write for example 0.05");
        }
        if self.staleness_max_ms != 0 {
            within("cache.staleness_max_ms", self.staleness_max_ms, STALENESS_MS_MIN..=*WAIT_MS.end())?;
        }
        within("cache.memory_poll_ms", self.memory_poll_ms, 0..=*WAIT_MS.end())?;
        within("cache.sample", self.sample, 1..=1024)?;
        self.steer.check()?;
        self.check_policy("cache", self.policy)?;
        check_ceiling("cache", self.capacity, self.ceiling)?;
        for (name, table) in &self.tables {
            let section = format!("cache.tables.{name}");
            let (capacity, policy) = self.for_table(name);
            self.check_policy(&section, policy)?;
            if table.capacity.is_some() || table.ceiling.is_some() {
                check_ceiling(&section, capacity, self.ceiling_of(name))?;
            }
        }
        Ok(())
    }

    /// The policy `static` chooses by the edges of the graph.
    fn check_policy(&self, section: &str, policy: Policy) -> Verdict {
        if policy == Policy::Static && !self.degrees {
            let problem = format!("{section}.policy is static, which chooses its rows by the edges of the graph");
            return wrong("cache.degrees", false, problem, "write true, or choose another policy");
        }
        Ok(())
    }
}

/// A cache starts with `capacity` and may grow to `ceiling`. Without the dataset only two of the same form compare.
fn check_ceiling(section: &str, capacity: Capacity, ceiling: Capacity) -> Verdict {
    if capacity > ceiling {
        let problem = format!("below the capacity that the cache starts with, {capacity}");
        return wrong(&format!("{section}.ceiling"), ceiling, problem, format!("write {capacity} or more"));
    }
    Ok(())
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: Capacity::Share(0.15),
            ceiling: Capacity::Share(1.0),
            tracked_rows_max: 1 << 26,
            steer: SteerSettings::default(),
            memory_poll_ms: 1000,
            cgroup: PathBuf::new(),
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
