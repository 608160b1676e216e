//! A replay under a controller: the same pilot, guard and tools as in the daemon, on windows of minibatches instead of
//! seconds. It owns the cost model: rows over the network (for trainers, for tools and for refreshing), rows waited
//! for, rows that took a slot, rows served though their owner had changed them, and memory over time.

use hashbrown::HashSet;
use rudder_agent::controller::{Controller, View};
use rudder_agent::guard::GuardSettings;
use rudder_agent::journal::Decision;
use rudder_agent::pilot::{Asked, Occasion, Pilot};
use rudder_agent::rules::Rules;
use rudder_agent::snapshot::{Counters, Observer};
use rudder_agent::tools::{Brought, Done, Evict, Evicted, Grow, Grown, Refreshed, ToolAnswer, ToolCall};
use rudder_core::cache::{Fill, TableCache};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What a run is steered by.
pub struct ControlSpec {
    /// Who decides.
    pub controller: Box<dyn Controller>,
    /// Minibatches per decision.
    pub window: usize,
    /// Rows that the cache may grow to.
    pub ceiling_rows: usize,
    /// Rows that owners change per minibatch, drawn among the ids of the trace; at most all of them.
    pub updates: f64,
    /// What bounds the guard.
    pub guard: GuardSettings,
    /// Epochs of the run.
    pub epochs: Option<u32>,
    /// Seed of the updates.
    pub seed: u64,
}

/// What steering cost and did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Controlled {
    /// Rows that tools brought in.
    pub tool_rows: u64,
    /// Rows that refreshing pulled again.
    pub refreshed_rows: u64,
    /// Rows served from the cache though their owner had changed them.
    pub stale_rows_served: u64,
    /// Sum over minibatches of the rows that might be held.
    pub row_minibatches: u64,
    /// Each decision, with what it did.
    pub decisions: Vec<Decision>,
}

/// Steers one run.
pub(super) struct Steering<'a> {
    cache: &'a TableCache,
    spec: ControlSpec,
    pilot: Pilot,
    observer: Observer,
    counters: Counters,
    /// Cached rows that their owners have changed since.
    stale: HashSet<u64>,
    number: u64,
    random: fastrand::Rng,
    /// Ids that updates are drawn from.
    universe: Vec<u32>,
    due_updates: f64,
    done: Controlled,
}

impl<'a> Steering<'a> {
    pub(super) fn new(cache: &'a TableCache, spec: ControlSpec, universe: Vec<u32>) -> Self {
        let mut observer = Observer::new(spec.epochs);
        observer.observe(Counters::default());
        Self {
            cache,
            pilot: Pilot::new(Box::new(Rules), spec.guard),
            observer,
            counters: Counters::default(),
            stale: HashSet::new(),
            number: 0,
            random: fastrand::Rng::with_seed(spec.seed),
            universe,
            due_updates: 0.0,
            done: Controlled::default(),
            spec,
        }
    }

    /// Minibatch `m` was answered, of which `hit` were cached and `missed` were not; `waited` had to be waited for;
    /// `ahead` rows were brought in besides, without tools; `epochs` counts the epochs that are over.
    pub(super) fn after_minibatch(
        &mut self,
        m: usize,
        (hit, missed): (&[u64], &[u64]),
        (waited, ahead): (u64, u64),
        epochs: f64,
    ) {
        // What was just fetched is as its owner has it.
        missed.iter().for_each(|id| _ = self.stale.remove(id));
        self.done.stale_rows_served += hit.iter().filter(|id| self.stale.contains(*id)).count() as u64;
        self.done.row_minibatches += self.cache.capacity_rows() as u64;
        self.change_rows();
        let counters = &mut self.counters;
        counters.seconds += 1.0;
        counters.minibatches += 1;
        counters.remote_rows += (hit.len() + missed.len()) as u64;
        counters.hit_rows += hit.len() as u64;
        counters.stall_rows += waited;
        counters.network_rows += waited + ahead;
        counters.epochs = epochs;
        if (m + 1).is_multiple_of(self.spec.window.max(1)) {
            self.end_window(m);
        }
    }

    fn change_rows(&mut self) {
        self.due_updates += self.spec.updates.clamp(0.0, self.universe.len() as f64);
        while self.due_updates >= 1.0 && !self.universe.is_empty() {
            self.due_updates -= 1.0;
            let id = u64::from(self.universe[self.random.usize(0..self.universe.len())]);
            if self.cache.contains(id) {
                self.stale.insert(id);
            }
        }
    }

    fn end_window(&mut self, m: usize) {
        let cache = self.cache;
        self.stale.retain(|&id| cache.contains(id));
        let stats = self.cache.stats();
        let weighed = self.cache.weigh();
        let counters = &mut self.counters;
        counters.fill_rows = stats.fills.iter().map(|fills| fills.load(Ordering::Relaxed)).sum();
        counters.evicted_rows = stats.evicted_rows.load(Ordering::Relaxed);
        counters.shifts = stats.shifts.load(Ordering::Relaxed);
        counters.capacity_rows = self.cache.capacity_rows() as u64;
        counters.cached_rows = self.cache.used_rows();
        counters.ceiling_rows = self.spec.ceiling_rows as u64;
        counters.stale_rows = self.stale.len() as u64;
        (counters.cold_share, counters.spent_share) = (weighed.cold_share, weighed.spent_share);
        counters.hotter_absent_rows = weighed.hotter_absent_rows as u64;
        let Some(now) = self.observer.observe(*counters) else { return };
        self.done.decisions.extend(self.pilot.close(&now));
        let begin = Instant::now();
        let answer = self.spec.controller.propose(View { now: &now, past: self.pilot.past() });
        let latency_ms = begin.elapsed().as_secs_f64() * 1e3;
        let asked = Asked { controller: self.spec.controller.name(), answer, latency_ms };
        self.number += 1;
        let call = self.pilot.decide(&now, asked, Occasion { number: self.number, time_ms: m as u64 });
        let answer = self.carry_out(&call);
        self.pilot.carried_out(Ok(answer));
    }

    fn carry_out(&mut self, call: &ToolCall) -> ToolAnswer {
        let table = "trace".to_owned();
        let done = match call {
            ToolCall::Grow(Grow { rows, factor, .. }) => {
                let now = self.cache.capacity_rows();
                let wished = rows.map_or_else(
                    || (now as f64 * factor.unwrap_or(1.0)).round() as usize,
                    |rows| usize::try_from(rows).unwrap_or(usize::MAX),
                );
                let resized = self.cache.resize(wished.min(self.spec.ceiling_rows));
                let free = resized.after_rows.saturating_sub(self.cache.used_rows() as usize);
                let grew = resized.after_rows > resized.before_rows;
                let brought = self.bring_in(&if grew { self.cache.worth_bringing(free, 0) } else { Vec::new() });
                Done::Grow(Grown {
                    table,
                    before_rows: resized.before_rows as u64,
                    after_rows: resized.after_rows as u64,
                    ceiling_rows: self.spec.ceiling_rows as u64,
                    limited_by: (wished > self.spec.ceiling_rows).then(|| "ceiling".to_owned()),
                    dropped_rows: resized.dropped_rows as u64,
                    brought,
                })
            }
            ToolCall::Evict(Evict { fraction, forget, .. }) => {
                if *forget {
                    self.cache.forget();
                }
                let residents = self.cache.used_rows() as usize;
                let turnover = (residents as f64 * fraction).ceil() as usize;
                let free = self.cache.capacity_rows().saturating_sub(residents);
                let before = self.cache.stats().evicted_rows.load(Ordering::Relaxed);
                let brought = self.bring_in(&self.cache.worth_bringing(free, turnover));
                Done::Evict(Evicted {
                    table,
                    resident_rows: residents as u64,
                    turnover_rows_max: turnover as u64,
                    evicted_rows: self.cache.stats().evicted_rows.load(Ordering::Relaxed) - before,
                    forgot: *forget,
                    brought,
                })
            }
            ToolCall::Refresh(_) => {
                let changed = self.stale.len() as u64;
                self.stale.clear();
                self.done.refreshed_rows += changed;
                self.counters.network_rows += changed;
                Done::Refresh(Refreshed {
                    table,
                    checked_rows: self.cache.used_rows(),
                    changed_rows: changed,
                    repulled_rows: changed,
                    unreachable: Vec::new(),
                })
            }
            ToolCall::Warm(_) | ToolCall::Hold(_) => {
                self.cache.hold();
                return ToolAnswer { tool: call.tool().to_owned(), tables: Vec::new() };
            }
        };
        ToolAnswer { tool: call.tool().to_owned(), tables: vec![done] }
    }

    fn bring_in(&mut self, ids: &[u64]) -> Brought {
        let rows = ids.len() as u64;
        let filled = self.cache.fill(ids, |_| Some(&[]), Fill::Tool) as u64;
        self.done.tool_rows += rows;
        self.counters.network_rows += rows;
        Brought { asked_rows: rows, filled_rows: filled, refused_rows: rows - filled, pending_rows: 0 }
    }

    /// What it all came to.
    pub(super) fn finish(mut self) -> Controlled {
        if let Some(open) = self.pilot.open() {
            self.done.decisions.push(open.clone());
        }
        self.done
    }
}
