//! The numbers of a run over time, per node, wherever they come from. Owns what is plotted.

use rudder_agent::journal::Decision;

/// What is plotted. The journal's numbers are of windows; those of Prometheus are rates over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    HitRate,
    NetworkRows,
    StallShare,
    CachedRows,
    CapacityRows,
    CeilingRows,
    MemoryShare,
}

/// A value at each of some times, in seconds since 1970; a gap is where nothing is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Series {
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A decision as the report tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) node: String,
    pub(super) number: u64,
    pub(super) at: f64,
    pub(super) tool: &'static str,
    pub(super) call: String,
    pub(super) outcome: String,
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) did: String,
    pub(super) expected: &'static str,
    pub(super) hit_rate: Option<(f64, f64)>,
    pub(super) network_share: Option<(f64, f64)>,
    pub(super) as_expected: Option<bool>,
}

/// One node of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NodeRun {
    pub(super) name: String,
    pub(super) series: Vec<(Measure, Series)>,
    pub(super) decisions: Vec<Told>,
    /// Rows asked of other nodes and rows that crossed the network, where the journal says.
    pub(super) remote_rows: f64,
    pub(super) network_rows: f64,
}

impl Measure {
    pub(super) const ALL: [Measure; 7] = [
        Measure::HitRate,
        Measure::NetworkRows,
        Measure::StallShare,
        Measure::CachedRows,
        Measure::CapacityRows,
        Measure::CeilingRows,
        Measure::MemoryShare,
    ];

    /// Of a window of the journal.
    pub(super) fn of(self, decision: &Decision) -> Option<f64> {
        let seen = &decision.snapshot;
        match self {
            Measure::HitRate => seen.hit_rate,
            Measure::NetworkRows => (seen.seconds > 0.0).then(|| seen.network_rows as f64 / seen.seconds),
            Measure::StallShare => Some(seen.stall_share),
            Measure::CachedRows => Some(seen.cached_rows as f64),
            Measure::CapacityRows => Some(seen.capacity_rows as f64),
            Measure::CeilingRows => Some(seen.ceiling_rows as f64),
            Measure::MemoryShare => (seen.memory_share > 0.0).then_some(seen.memory_share),
        }
    }
}
