//! How far a trainer has come through one client: where the next loader counts on. It owns two counts and no lock, so
//! that a forked child can use it. It must never count what no loader did.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The counts of one client.
#[derive(Debug)]
pub(crate) struct Course {
    /// The epoch with which the next loader begins.
    epoch: AtomicU32,
    /// The step of the next announcement, by table.
    steps: Box<[AtomicU64]>,
}

impl Course {
    pub(crate) fn new(tables: usize) -> Self {
        Self { epoch: AtomicU32::new(0), steps: (0..tables).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The epoch with which the next loader begins.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// A loader has begun `epoch`: the next one begins with the epoch after it.
    pub(crate) fn begin(&self, epoch: u32) {
        self.epoch.store(epoch.saturating_add(1), Ordering::Relaxed);
    }

    /// A number for the next announcement, above all before it: the daemon takes a step that does not grow for a new
    /// training, and drops what was announced before.
    pub(crate) fn next_step(&self, table: usize) -> u64 {
        self.steps[table].fetch_add(1, Ordering::Relaxed)
    }

    /// An announcement had the number `step` of its caller.
    pub(crate) fn announced(&self, table: usize, step: u64) {
        self.steps[table].fetch_max(step.saturating_add(1), Ordering::Relaxed);
    }
}
