//! Drives a [`TableCache`], and a [`Lookahead`] over it, along a trace as a daemon would, without a network: rows have
//! no bytes, and a row that is asked for is there at once. It owns the order of calls within a minibatch, which must
//! stay that of `serve`.

use super::Trace;
use super::control::{ControlSpec, Controlled, Steering};
use hashbrown::{HashMap, HashSet};
use rudder_core::cache::{BatchKey, CacheError, CacheSpec, Clock, Fill, PolicySpec, TableCache};
use rudder_core::lookahead::{AnnounceError, Announcement, IdsMark, Lookahead, Named, Settings, TrainerId};
use rudder_core::optimum::HitTotals;
use std::sync::atomic::{AtomicU64, Ordering};

/// The one trainer that announces.
const TRAINER: TrainerId = TrainerId(0);

/// What to replay a trace against.
#[derive(Debug, Clone, Copy)]
pub struct ReplaySpec {
    /// The policy.
    pub policy: PolicySpec,
    /// Rows of the cache.
    pub capacity_rows: usize,
    /// Seed of the policy's randomness.
    pub seed: u64,
    /// The number of following minibatches that are announced while one is fetched; 0 announces nothing.
    pub lookahead: usize,
    /// Limits of the lookahead.
    pub ahead: Settings,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Rows found in the cache and rows asked for, in all and over time. Staged rows are no hits: they crossed the
    /// network.
    pub totals: HitTotals,
    /// Rows that a trainer would have waited for.
    pub stall_rows: u64,
    /// Rows that would have crossed the network: those waited for, those staged and those the policy wanted besides.
    pub network_rows: u64,
    /// Rows that took a slot.
    pub fill_rows: u64,
    /// Rows that lost their slot.
    pub evictions: u64,
    /// Times that the policy found the accesses shifted.
    pub shifts: u64,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The cache cannot be made.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The lookahead refused a minibatch.
    #[error("minibatch {minibatch} cannot be announced")]
    Announce {
        /// Which.
        minibatch: usize,
        /// Why.
        source: AnnounceError,
    },
}

/// Replays `trace`. `prior` gives the policy the weights of ids before the first minibatch; `progress` gets the number
/// of minibatches done.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(
    trace: &Trace,
    spec: ReplaySpec,
    prior: &[(u32, f32)],
    progress: &mut dyn FnMut(usize),
) -> Result<Replayed, ReplayError> {
    replay_under(trace, spec, prior, None, progress).map(|(replayed, _)| replayed)
}

/// Replays `trace` as [`replay`] does, under a controller if there is one.
///
/// # Errors
/// [`ReplayError`].
pub fn replay_under(
    trace: &Trace,
    spec: ReplaySpec,
    prior: &[(u32, f32)],
    control: Option<ControlSpec>,
    progress: &mut dyn FnMut(usize),
) -> Result<(Replayed, Option<Controlled>), ReplayError> {
    let cache = TableCache::new(CacheSpec {
        table_rows: trace.meta.universe,
        row_bytes: 0,
        capacity_rows: spec.capacity_rows,
        ceiling_rows: control.as_ref().map_or(0, |control| control.ceiling_rows).max(spec.capacity_rows),
        tracked_rows_max: 0,
        policy: spec.policy,
        seed: spec.seed,
    })?;
    cache.set_prior(prior);
    let per_epoch = trace.meta.minibatches_per_epoch;
    let mut run = Run::new(&cache, spec);
    let universe = if control.is_some() { trace.distinct_ids() } else { Vec::new() };
    let mut steering = control.map(|control| Steering::new(&cache, control, universe));
    let (mut hit, mut missed) = (Vec::new(), Vec::new());
    for m in 0..trace.minibatches() {
        let (epoch, step) = (m as u64 / per_epoch, m as u64 % per_epoch);
        cache.tick(Clock { epoch: epoch as u32, progress: step as f32 / per_epoch as f32 });
        run.announce_up_to(trace, m + spec.lookahead)?;
        look_up(&cache, trace.minibatch(m), &mut hit, &mut missed);
        let before = (run.stall_rows, run.ahead_rows);
        run.record(m, &hit, &missed);
        if let Some(steering) = &mut steering {
            let moved = (run.stall_rows - before.0, run.ahead_rows - before.1);
            steering.after_minibatch(m, (&hit, &missed), moved, (m + 1) as f64 / per_epoch as f64);
        }
        progress(m + 1);
    }
    let controlled = steering.map(Steering::finish);
    let by_tools = controlled.as_ref().map_or(0, |done| done.tool_rows + done.refreshed_rows);
    let (stats, read) = (cache.stats(), |counter: &AtomicU64| counter.load(Ordering::Relaxed));
    let replayed = Replayed {
        totals: run.totals,
        stall_rows: run.stall_rows,
        network_rows: run.stall_rows + run.ahead_rows + by_tools,
        fill_rows: stats.fills.iter().map(read).sum(),
        evictions: read(&stats.evicted_rows),
        shifts: read(&stats.shifts),
    };
    Ok((replayed, controlled))
}

fn look_up(cache: &TableCache, ids: &[u32], hit: &mut Vec<u64>, missed: &mut Vec<u64>) {
    hit.clear();
    missed.clear();
    let reader = cache.read();
    for (at, id) in ids.iter().map(|&id| u64::from(id)).enumerate() {
        if let Some(&ahead) = ids.get(at + 16) {
            cache.prefetch(u64::from(ahead));
        }
        if reader.get(id).is_some() { hit.push(id) } else { missed.push(id) }
    }
}

/// A replay under way.
struct Run<'a> {
    cache: &'a TableCache,
    lookahead: Option<Lookahead>,
    /// Minibatches announced.
    announced: usize,
    /// Rows staged for each batch, and all of them.
    staged: HashMap<BatchKey, Vec<u64>>,
    here: HashSet<u64>,
    totals: HitTotals,
    stall_rows: u64,
    /// Rows brought in before or without being asked for.
    ahead_rows: u64,
}

impl<'a> Run<'a> {
    fn new(cache: &'a TableCache, spec: ReplaySpec) -> Self {
        Self {
            cache,
            lookahead: (spec.lookahead > 0).then(|| Lookahead::new(spec.ahead)),
            announced: 0,
            staged: HashMap::new(),
            here: HashSet::new(),
            totals: HitTotals::default(),
            stall_rows: 0,
            ahead_rows: 0,
        }
    }

    /// Announces minibatches until `last` has been.
    fn announce_up_to(&mut self, trace: &Trace, last: usize) -> Result<(), ReplayError> {
        let Some(lookahead) = &mut self.lookahead else { return Ok(()) };
        while self.announced <= last && self.announced < trace.minibatches() {
            let m = self.announced;
            let number = m as u64;
            let ids = trace.minibatch(m).iter().map(|&id| u64::from(id)).collect();
            // Never looked at: fetches name their batch.
            let mark = IdsMark { ordered: number, unordered: number };
            let announcement = Announcement { batch: number, step: Some(number), mark, ids };
            // Nothing is dropped: minibatches are announced and fetched in order, and no time passes.
            let answer = lookahead.announce(self.cache, TRAINER, announcement, 0);
            answer.horizon.map_err(|source| ReplayError::Announce { minibatch: m, source })?;
            self.announced += 1;
        }
        self.order_ahead();
        Ok(())
    }

    /// Stages what the next minibatches lack, as the budget allows.
    fn order_ahead(&mut self) {
        let Some(lookahead) = &mut self.lookahead else { return };
        let here = &self.here;
        let prefetches = lookahead.plan(self.cache, |ids| ids.into_iter().filter(|id| !here.contains(id)).collect());
        for prefetch in prefetches {
            self.ahead_rows += prefetch.ids.len() as u64;
            self.here.extend(&prefetch.ids);
            self.staged.entry(prefetch.batch).or_default().extend(prefetch.ids);
        }
    }

    /// Counts minibatch `m` and records it in the cache.
    fn record(&mut self, m: usize, hit: &[u64], missed: &[u64]) {
        self.totals.add(hit.len() as u64, missed.len() as u64);
        self.totals.end_minibatch();
        self.stall_rows += missed.iter().filter(|id| !self.here.contains(*id)).count() as u64;
        let named = Named::Batch(m as u64);
        let consumed = self.lookahead.as_mut().and_then(|ahead| ahead.consume(self.cache, TRAINER, named, 0).used);
        let mut wanted = self.cache.record(hit, missed, |_| Some(&[]), consumed);
        if let Some(batch) = consumed {
            for id in self.staged.remove(&batch).unwrap_or_default() {
                self.here.remove(&id);
            }
            self.order_ahead();
        }
        wanted.retain(|id| !self.here.contains(id));
        self.ahead_rows += wanted.len() as u64;
        self.cache.fill(&wanted, |_| Some(&[]), Fill::Policy);
    }
}
