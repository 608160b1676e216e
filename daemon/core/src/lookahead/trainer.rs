//! The announcements of one trainer. It owns their order, what of them has passed, and the way from the trainer's
//! steps to those of the node. It never touches the cache.

use super::{IdsMark, Named};
use crate::cache::{BatchKey, Step};
use std::collections::{BTreeSet, VecDeque};

/// Steps by which a batch may be fetched after one that was announced for later. A loader with workers keeps workers
/// times prefetch factor batches under way, in PyTorch 2 per worker: this is sixteen workers. What is left behind by
/// more was skipped. More would keep the rows of skipped batches longer than they are worth.
pub const DISORDER_BATCHES: u32 = 32;

/// Passed steps that are known one by one; lower ones count as passed. Announcers of one trainer are less than that
/// apart.
const PASSED_STEPS_MAX: usize = 1024;

/// Steps from now within which a count is believed to go on: the longest horizon, 65,536 batches, counted by sixteen
/// ranks of a job in turn. The node's steps start here, so that none of them lies before 0.
pub(super) const REACH_STEPS: u32 = 1 << 20;

/// An announced batch.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) batch: BatchKey,
    /// The number that the trainer gave to it.
    pub(super) number: u64,
    /// Its step by the trainer's count.
    pub(super) own_step: u64,
    /// Step of the node at which it is due.
    pub(super) step: Step,
    pub(super) mark: IdsMark,
    /// Remote ids in it.
    pub(super) rows: usize,
    /// Rows still to be asked for; `None` until the batch is near.
    pub(super) lacking: Option<Vec<u64>>,
    pub(super) since_ms: u64,
}

/// What an announcement is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// One more batch of the run.
    Follows,
    /// One that waits already.
    Repeats,
    /// The first of a new run.
    Begins,
}

/// Own steps that were used or dropped in this run.
#[derive(Debug, Default)]
struct Passed {
    /// Lower steps have passed.
    floor: u64,
    steps: BTreeSet<u64>,
}

impl Passed {
    fn contains(&self, step: u64) -> bool {
        step < self.floor || self.steps.contains(&step)
    }

    fn add(&mut self, step: u64) {
        self.steps.insert(step);
        if self.steps.len() > PASSED_STEPS_MAX {
            self.floor = self.steps.pop_first().map_or(self.floor, |lowest| lowest + 1);
        }
    }
}

/// One trainer, from its first announcement until it leaves.
#[derive(Debug, Default)]
pub(super) struct Trainer {
    /// What is added to the trainer's own steps to get the node's.
    offset: i64,
    /// Batches that wait, by step.
    pub(super) queue: VecDeque<Waiting>,
    /// The highest own step announced in this run.
    last_own: Option<u64>,
    /// The highest own step that was used in this run.
    last_used: Option<u64>,
    passed: Passed,
    /// Running mean of remote rows per batch.
    pub(super) mean_rows: f64,
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

impl Trainer {
    /// The own step of a batch that is announced without one.
    pub(super) fn next_own(&self) -> u64 {
        self.last_own.map_or(0, |last| last.saturating_add(1))
    }

    /// What an announcement for `step` of ids with this mark is, while the node is at step `now`.
    pub(super) fn arrival(&self, step: u64, mark: IdsMark, now: Step) -> Arrival {
        let placed = signed(step).saturating_add(self.offset);
        let away = placed.saturating_sub(i64::from(now.number())).unsigned_abs();
        if self.passed.contains(step) || away > u64::from(REACH_STEPS) {
            return Arrival::Begins;
        }
        let same_step = self
            .queue
            .iter()
            .rev()
            .take_while(|waiting| waiting.own_step >= step)
            .find(|waiting| waiting.own_step == step);
        match same_step {
            None => Arrival::Follows,
            Some(waiting) if waiting.mark == mark => Arrival::Repeats,
            Some(_) => Arrival::Begins,
        }
    }

    /// Starts a run whose first announced batch is `step`: it is placed where the node is `now`.
    pub(super) fn begin(&mut self, step: u64, now: Step) {
        self.offset = i64::from(now.number()) - signed(step);
        self.last_own = None;
        self.last_used = None;
        self.passed = Passed::default();
    }

    /// The node's step for the trainer's own.
    pub(super) fn node_step(&self, step: u64) -> Step {
        Step::new(signed(step).saturating_add(self.offset).clamp(1, i64::from(u32::MAX)) as u32)
    }

    /// Takes a batch into the queue, by its step.
    pub(super) fn insert(&mut self, waiting: Waiting) {
        self.last_own = self.last_own.max(Some(waiting.own_step));
        let place = self.queue.iter().rposition(|earlier| earlier.own_step < waiting.own_step).map_or(0, |at| at + 1);
        self.queue.insert(place, waiting);
    }

    /// The batch that waits at `step` was announced once more, as `number`.
    pub(super) fn rename(&mut self, step: u64, number: u64) {
        if let Some(waiting) = self.queue.iter_mut().find(|waiting| waiting.own_step == step) {
            waiting.number = number;
        }
    }

    /// Takes the batch of this name out, and those that it leaves too far behind.
    pub(super) fn take(&mut self, named: Named) -> Option<(Waiting, Vec<Waiting>)> {
        let at = self.place_of(named)?;
        let used = self.queue.remove(at)?;
        let last_used = self.last_used.map_or(used.own_step, |last| last.max(used.own_step));
        self.last_used = Some(last_used);
        let oldest = last_used.saturating_sub(u64::from(DISORDER_BATCHES));
        let skipped = self.queue.iter().take_while(|waiting| waiting.own_step < oldest).count();
        let skipped: Vec<Waiting> = self.queue.drain(..skipped).collect();
        self.pass(&used);
        skipped.iter().for_each(|skipped| self.pass(skipped));
        Some((used, skipped))
    }

    /// Where the batch of this name waits. Of batches with the same ids in other orders, the one in this order.
    fn place_of(&self, named: Named) -> Option<usize> {
        let place = |is_it: &dyn Fn(&Waiting) -> bool| self.queue.iter().position(is_it);
        match named {
            Named::Batch(number) => place(&|waiting| waiting.number == number),
            Named::Ids(mark) => place(&|waiting| waiting.mark.ordered == mark.ordered)
                .or_else(|| place(&|waiting| waiting.mark.unordered == mark.unordered)),
        }
    }

    /// Takes out what was announced before `limit_ms`.
    pub(super) fn take_aged(&mut self, limit_ms: u64) -> Vec<Waiting> {
        let (aged, kept): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.queue).into_iter().partition(|waiting| waiting.since_ms < limit_ms);
        self.queue = kept.into();
        aged.iter().for_each(|aged| self.pass(aged));
        aged
    }

    fn pass(&mut self, waiting: &Waiting) {
        self.passed.add(waiting.own_step);
    }

    /// Batches that wait although a later one was used.
    pub(super) fn overdue(&self) -> usize {
        self.queue.iter().take_while(|waiting| Some(waiting.own_step) < self.last_used).count()
    }
}
