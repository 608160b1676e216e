//! What a table's cache is made of, why it cannot be made, and what it counts. It owns the choice of the index: by id,
//! or by number where ids do not fit into 32 bits.

use super::index::Index;
use super::numbers::Numbers;
use super::policy::PolicySpec;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of a table up to which ids are held as they are, in 32 bits; one value is kept for "none". In larger tables
/// the cache numbers the rows that it has seen.
pub const TABLE_ROWS_MAX: u64 = u32::MAX as u64 - 1;

/// What a cache is made of.
#[derive(Debug, Clone, Copy)]
pub struct CacheSpec {
    /// Rows of the whole table, local and remote: ids are below.
    pub table_rows: u64,
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Rows to hold at most, at the start.
    pub capacity_rows: usize,
    /// Highest capacity that can be set later; address space is reserved for it. At least `capacity_rows`.
    pub ceiling_rows: usize,
    /// Rows of a table of more than [`TABLE_ROWS_MAX`] of which the cache may know at a time whether it holds them and
    /// how hot they are; smaller tables have no such limit. Twice the ceiling at least.
    pub tracked_rows_max: usize,
    /// Who gets a slot.
    pub policy: PolicySpec,
    /// Seed of the policy's randomness.
    pub seed: u64,
}

/// Why a cache cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// More rows are to be held than are tracked.
    #[error(
        "{ceiling} cached rows of a table of {rows} rows are too many for cache.tracked_rows_max = {tracked_rows_max}: raise \
         it to 2 * {ceiling} or more, or lower cache.ceiling and cache.capacity"
    )]
    TooFewTracked {
        /// Rows of the table.
        rows: u64,
        /// Rows that may be held.
        ceiling: usize,
        /// Rows that may be tracked.
        tracked_rows_max: usize,
    },
    /// A policy whose choice needs every row's number.
    #[error(
        "the policy `{policy}` cannot serve a table of {rows} rows, only tables of up to {TABLE_ROWS_MAX}: choose another \
         (cache.policy, cache.tables.NAME.policy)"
    )]
    Policy {
        /// Its name.
        policy: &'static str,
        /// Rows of the table.
        rows: u64,
    },
    /// No memory for the index.
    #[error("no address space to index a table of {rows} rows ({cause}): raise the limit (ulimit -v, LimitAS=)")]
    Index {
        /// Rows of the table.
        rows: u64,
        /// What the kernel said.
        cause: io::Error,
    },
    /// No memory for the rows.
    #[error(
        "no address space for {rows} cached rows of {row_bytes} bytes ({cause}): lower cache.capacity or cache.ceiling"
    )]
    Memory {
        /// Rows to hold.
        rows: usize,
        /// Bytes of one.
        row_bytes: usize,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// Counters since the start; exact, read at any time.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Rows that took a slot, by [`Fill`].
    pub fills: [AtomicU64; Fill::ALL.len()],
    /// Rows that lost their slot to a newcomer.
    pub evicted_rows: AtomicU64,
    /// Rows that lost their slot because the cache shrank.
    pub shrunk_rows: AtomicU64,
    /// Rows that were thrown out because they may be old.
    pub discarded_rows: AtomicU64,
    /// Rows that were overwritten with a newer version.
    pub renewed_rows: AtomicU64,
    /// Rows in hand that were not worth a slot.
    pub refused_rows: AtomicU64,
    /// Times that the policy found the accesses shifted and forgot its history.
    pub shifts: AtomicU64,
}

/// Why a row is offered to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// A trainer had asked for it.
    Demand,
    /// The policy had asked for it.
    Policy,
    /// A tool call brought it in: room was made, or a colder row was to go.
    Tool,
    /// A trainer has asked to have it cached, without using it yet. It takes a free slot whatever the policy thinks.
    Warm,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 4] = [Fill::Demand, Fill::Policy, Fill::Tool, Fill::Warm];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fill::Demand => "demand",
            Fill::Policy => "prefetch",
            Fill::Tool => "tool",
            Fill::Warm => "warm",
        }
    }
}

impl CacheStats {
    /// Rows that took a slot for `reason`.
    #[must_use]
    pub fn filled(&self, reason: Fill) -> u64 {
        self.fills[reason as usize].load(Ordering::Relaxed)
    }
}

impl CacheSpec {
    /// The index of a cache that may hold `ceiling` of `rows` rows.
    pub(super) fn index(&self, rows: usize, ceiling: usize) -> Result<Index, CacheError> {
        if rows as u64 <= TABLE_ROWS_MAX {
            return Index::new(rows).map_err(|cause| CacheError::Index { rows: rows as u64, cause });
        }
        let (rows, tracked_rows_max) = (rows as u64, self.tracked_rows_max);
        if self.policy.needs_prior() {
            return Err(CacheError::Policy { policy: self.policy.name(), rows });
        }
        let count = Numbers::count_for(ceiling, tracked_rows_max);
        let count = count.ok_or(CacheError::TooFewTracked { rows, ceiling, tracked_rows_max })?;
        Index::numbered(count).map_err(|cause| CacheError::Index { rows, cause })
    }
}
