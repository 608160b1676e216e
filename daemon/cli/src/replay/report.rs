//! What a replay found, as JSON and as a table. Field names are an interface: `docs/replay.md`.

use super::{Done, Job};
use rudder_core::optimum::HitTotals;
use rudder_lab::replay::{Replayed, Trace};
use serde::Serialize;
use std::time::Duration;

/// All policies and the optimum at one capacity.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) trace: String,
    universe: u64,
    distinct: u64,
    pub(super) capacity_rows: usize,
    requests: u64,
    minibatches: usize,
    /// Minibatches per element of `hit_rates`.
    pub(super) span_minibatches: usize,
    pub(super) results: Vec<Outcome>,
    pub(super) opt: Option<Optimum>,
}

/// One policy.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) policy: &'static str,
    pub(super) lookahead: usize,
    pub(super) hit_rate: f64,
    hits: u64,
    stall_rows: u64,
    network_rows: u64,
    fill_rows: u64,
    evictions: u64,
    shifts: u64,
    pub(super) hit_rates: Vec<f64>,
    seconds: f64,
}

/// Belady's optimum.
#[derive(Debug, Serialize)]
pub(super) struct Optimum {
    pub(super) hit_rate: f64,
    hits: u64,
    network_rows: u64,
    pub(super) hit_rates: Vec<f64>,
    seconds: f64,
}

impl Outcome {
    pub(super) fn new(
        policy: &'static str,
        lookahead: usize,
        replayed: &Replayed,
        span: usize,
        elapsed: Duration,
    ) -> Self {
        Self {
            policy,
            lookahead,
            hit_rate: replayed.totals.hit_rate(),
            hits: replayed.totals.hits,
            stall_rows: replayed.stall_rows,
            network_rows: replayed.network_rows,
            fill_rows: replayed.fill_rows,
            evictions: replayed.evictions,
            shifts: replayed.shifts,
            hit_rates: replayed.totals.hit_rates(span),
            seconds: elapsed.as_secs_f64(),
        }
    }

    /// What it is called in a table or a picture.
    pub(super) fn label(&self) -> String {
        if self.lookahead == 0 { self.policy.to_owned() } else { format!("{} +{}", self.policy, self.lookahead) }
    }
}

impl Optimum {
    pub(super) fn new(totals: &HitTotals, span: usize, elapsed: Duration) -> Self {
        Self {
            hit_rate: totals.hit_rate(),
            hits: totals.hits,
            network_rows: totals.requests - totals.hits,
            hit_rates: totals.hit_rates(span),
            seconds: elapsed.as_secs_f64(),
        }
    }
}

/// The results of `jobs`, which come capacity by capacity with the optimum first.
pub(super) fn collect(trace: &Trace, name: &str, distinct: u64, jobs: &[Job], done: Vec<Done>) -> Vec<Comparison> {
    let mut comparisons: Vec<Comparison> = Vec::new();
    for (job, done) in jobs.iter().zip(done) {
        match done {
            Done::Optimum(opt) => comparisons.push(Comparison {
                trace: name.to_owned(),
                universe: trace.meta.universe,
                distinct,
                capacity_rows: job.capacity_rows,
                requests: trace.requests(),
                minibatches: trace.minibatches(),
                span_minibatches: super::span(trace),
                results: Vec::new(),
                opt: Some(opt),
            }),
            Done::Policy(outcome) => {
                if let Some(comparison) = comparisons.last_mut() {
                    comparison.results.push(outcome);
                }
            }
        }
    }
    comparisons
}

impl Comparison {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header([
            "policy",
            "hits %",
            "of opt %",
            "network %",
            "stalls %",
            "fills %",
            "evictions %",
            "seconds",
        ]);
        let percent = |rows: u64| format!("{:.2}", 100.0 * rows as f64 / self.requests.max(1) as f64);
        let best = self.opt.as_ref().map_or(0, |opt| opt.hits);
        let of_best =
            |hits: u64| if best == 0 { String::from("-") } else { format!("{:.1}", 100.0 * hits as f64 / best as f64) };
        for result in &self.results {
            table.add_row([
                result.label(),
                percent(result.hits),
                of_best(result.hits),
                percent(result.network_rows),
                percent(result.stall_rows),
                percent(result.fill_rows),
                percent(result.evictions),
                format!("{:.2}", result.seconds),
            ]);
        }
        if let Some(opt) = &self.opt {
            let [hits, network] = [opt.hits, opt.network_rows].map(percent);
            let seconds = format!("{:.2}", opt.seconds);
            table.add_row(["opt", &hits, &of_best(opt.hits), &network, "", "", "", &seconds]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        let share = 100.0 * self.capacity_rows as f64 / self.distinct.max(1) as f64;
        format!(
            "{}: {} requests of {} distinct ids; cache of {} rows ({share:.1}%)\n{}\n",
            self.trace,
            self.requests,
            self.distinct,
            self.capacity_rows,
            table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        )
    }
}
