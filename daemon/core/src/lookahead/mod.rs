//! What trainers have announced, and what to bring in for it: which batch a fetch was, which rows the next batches
//! lack, and how many of them may be asked for now. It owns the queues of announcements of one table, the budget and
//! the horizon. Staged rows themselves stay with the engine, outside the cache, until their batch has been used.
//!
//! **It must never** do I/O or read a clock: time comes in as an argument, requests go out as [`Prefetch`]es, so that
//! the daemon and a replay run the same code.

mod dropped;
mod settings;
#[cfg(test)]
mod tests;
mod trainer;

pub use dropped::Dropped;
pub use settings::Settings;
pub use trainer::DISORDER_BATCHES;

use crate::cache::{BatchKey, Step, TableCache};
use hashbrown::{HashMap, HashSet};
use trainer::{Arrival, REACH_STEPS, Trainer, Waiting};

/// Weight of the newest batch in the running mean of rows per batch.
const MEAN_WEIGHT: f64 = 0.1;

/// Why an announcement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Too many rows wait.
    #[error("{rows} more announced rows, {waiting} wait already; the limit is {limit}")]
    TooMany {
        /// Rows of the announcement.
        rows: usize,
        /// Rows that wait.
        waiting: usize,
        /// `lookahead.rows_max`.
        limit: usize,
    },
}

/// A trainer of this node, whichever of its processes speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrainerId(pub u64);

/// A batch that a trainer will fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The number that the trainer gave to it, by which its fetch may name it.
    pub batch: u64,
    /// The trainer's own number of the step; `None` stands for the order of arrival.
    pub step: Option<u64>,
    /// By which a fetch of its ids is known.
    pub mark: IdsMark,
    /// Remote ids of the batch, each once, in the order of their first use.
    pub ids: Vec<u64>,
}

/// Two fingerprints of the ids of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdsMark {
    /// Of the ids in their order.
    pub ordered: u64,
    /// The same for the same ids in any order.
    pub unordered: u64,
}

/// By what a fetch is known as an announced batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It names the batch's number.
    Batch(u64),
    /// It has these ids.
    Ids(IdsMark),
}

/// What to do after an announcement.
#[must_use]
#[derive(Debug)]
pub struct Announced {
    /// Batches that the announcement or the time has made void.
    pub dropped: Dropped,
    /// Batches that the trainer should announce ahead, or why this one was refused.
    pub horizon: Result<u32, AnnounceError>,
}

/// What to do after a fetch.
#[must_use]
#[derive(Debug)]
pub struct Consumed {
    /// The announced batch that the fetch was, if it was announced.
    pub used: Option<BatchKey>,
    /// Whether it was known by its ids, and they came in another order than announced.
    pub reordered: bool,
    /// Batches that the fetch or the time has made void.
    pub dropped: Dropped,
}

/// Rows to ask peers for, ahead of the batch that needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// The batch.
    pub batch: BatchKey,
    /// Remote ids, each once.
    pub ids: Vec<u64>,
}

/// What became of announcements, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnnouncementCounts {
    /// Batches announced.
    pub announced: u64,
    /// Of them, batches that were fetched.
    pub used: u64,
    /// Of those, batches whose ids came in another order than announced.
    pub reordered: u64,
    /// Announced batches that never were fetched: skipped, too old, or their trainer left.
    pub expired: u64,
    /// Rows that were not brought in ahead because the budget was spent.
    pub over_budget_rows: u64,
}

/// Announcements of one table.
#[derive(Debug)]
pub struct Lookahead {
    settings: Settings,
    trainers: HashMap<TrainerId, Trainer>,
    /// Batches that wait for their use.
    waiting: HashSet<BatchKey>,
    /// Step of the node that comes next.
    now: Step,
    /// Rows that may be ordered now.
    tokens: f64,
    waiting_rows: usize,
    /// No announcement that waits was made before.
    oldest_ms: u64,
    counts: AnnouncementCounts,
}

impl Lookahead {
    /// Nothing announced.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            trainers: HashMap::new(),
            waiting: HashSet::new(),
            now: Step::new(REACH_STEPS),
            tokens: 0.0,
            waiting_rows: 0,
            oldest_ms: u64::MAX,
            counts: AnnouncementCounts::default(),
        }
    }

    /// What became of announcements.
    #[must_use]
    pub fn counts(&self) -> AnnouncementCounts {
        self.counts
    }

    /// Announced rows that wait for their use.
    #[must_use]
    pub fn waiting_rows(&self) -> usize {
        self.waiting_rows
    }

    /// Whether this batch still waits for its use.
    #[must_use]
    pub fn waits(&self, batch: BatchKey) -> bool {
        self.waiting.contains(&batch)
    }

    /// Whether this trainer has announced anything that waits.
    #[must_use]
    pub fn expects(&self, trainer: TrainerId) -> bool {
        self.trainers.get(&trainer).is_some_and(|trainer| !trainer.queue.is_empty())
    }

    /// Takes an announcement. Announcements of one trainer may come out of order: one with a lower step than the last
    /// takes its place among those that wait. A step that has passed, or that waits with other ids, says
    /// that the trainer has begun again: what it had announced before is dropped. The same announcement twice counts
    /// once.
    pub fn announce(
        &mut self,
        cache: &TableCache,
        trainer: TrainerId,
        announcement: Announcement,
        now_ms: u64,
    ) -> Announced {
        let Announcement { batch: number, step, mark, ids } = announcement;
        let mut dropped = self.expire(cache, now_ms);
        let known = self.trainers.get(&trainer);
        let step = step.unwrap_or_else(|| known.map_or(0, Trainer::next_own));
        let arrival = known.map_or(Arrival::Begins, |known| known.arrival(step, mark, self.now));
        if arrival == Arrival::Repeats {
            if let Some(known) = self.trainers.get_mut(&trainer) {
                known.rename(step, number);
            }
            return Announced { dropped, horizon: Ok(self.horizon(cache.capacity_rows())) };
        }
        if arrival == Arrival::Begins {
            let stale = self.trainers.get_mut(&trainer).map(|trainer| std::mem::take(&mut trainer.queue));
            dropped.merge(self.drop_all(cache, stale.unwrap_or_default()));
        }
        let rows = ids.len();
        if self.waiting_rows + rows > self.settings.rows_max {
            let (waiting, limit) = (self.waiting_rows, self.settings.rows_max);
            return Announced { dropped, horizon: Err(AnnounceError::TooMany { rows, waiting, limit }) };
        }
        let now = self.now;
        let entry = self.trainers.entry(trainer).or_default();
        if arrival == Arrival::Begins {
            entry.begin(step, now);
        }
        if entry.mean_rows == 0.0 {
            entry.mean_rows = rows as f64;
            self.tokens += f64::from(self.settings.depth) * self.settings.budget * rows as f64;
        }
        entry.mean_rows += MEAN_WEIGHT * (rows as f64 - entry.mean_rows);
        let node_step = entry.node_step(step);
        let batch = cache.announce(node_step, ids);
        entry.insert(Waiting {
            batch,
            number,
            own_step: step,
            step: node_step,
            mark,
            rows,
            lacking: None,
            since_ms: now_ms,
        });
        self.waiting.insert(batch);
        self.waiting_rows += rows;
        self.oldest_ms = self.oldest_ms.min(now_ms);
        self.counts.announced += 1;
        self.assert_sums();
        Announced { dropped, horizon: Ok(self.horizon(cache.capacity_rows())) }
    }

    /// Batches that a trainer should announce ahead, for a cache of `capacity` rows: never more than may wait if all
    /// trainers do so.
    #[must_use]
    pub fn horizon(&self, capacity: usize) -> u32 {
        let rows_per_step = self.rows_per_step().max(1.0);
        let admitted = (self.settings.rows_max as f64 / rows_per_step) as u32;
        let wanted = match self.settings.horizon {
            0 => {
                let batches = self.settings.horizon_factor * capacity as f64 / rows_per_step;
                (batches.ceil() as u32).min(self.settings.horizon_max).max(self.settings.depth + 1)
            }
            fixed => fixed,
        };
        wanted.min(admitted).max(1)
    }

    fn rows_per_step(&self) -> f64 {
        self.trainers.values().map(|trainer| trainer.mean_rows).sum()
    }

    /// A trainer fetches a batch, or ids that may be those of one. Batches that it announced before that one and has
    /// not fetched wait on if they are at most [`DISORDER_BATCHES`] steps behind, else they are dropped.
    pub fn consume(&mut self, cache: &TableCache, trainer: TrainerId, named: Named, now_ms: u64) -> Consumed {
        let taken = self.trainers.get_mut(&trainer).and_then(|trainer| trainer.take(named));
        let Some((used, skipped)) = taken else {
            return Consumed { used: None, reordered: false, dropped: self.expire(cache, now_ms) };
        };
        let reordered = matches!(named, Named::Ids(mark) if mark.ordered != used.mark.ordered);
        self.counts.reordered += u64::from(reordered);
        self.now = self.now.max(used.step.next());
        self.waiting.remove(&used.batch);
        self.waiting_rows -= used.rows;
        self.counts.used += 1;
        self.refill(trainer);
        let mut dropped = self.drop_all(cache, skipped);
        dropped.merge(self.expire(cache, now_ms));
        Consumed { used: Some(used.batch), reordered, dropped }
    }

    fn refill(&mut self, trainer: TrainerId) {
        let of_batch = self.trainers.get(&trainer).map_or(0.0, |trainer| trainer.mean_rows);
        let most = f64::from(self.settings.depth) * self.settings.budget * self.rows_per_step();
        self.tokens = (self.tokens + self.settings.budget * of_batch).min(most);
    }

    /// A trainer is gone: what it announced will not come true.
    pub fn leave(&mut self, cache: &TableCache, trainer: TrainerId) -> Dropped {
        let queue = self.trainers.remove(&trainer).map(|trainer| trainer.queue).unwrap_or_default();
        self.drop_all(cache, queue)
    }

    /// Drops what was announced longer ago than `expire_ms`, of all trainers.
    pub fn expire(&mut self, cache: &TableCache, now_ms: u64) -> Dropped {
        let limit_ms = now_ms.saturating_sub(self.settings.expire_ms);
        if self.oldest_ms >= limit_ms {
            return Dropped::default();
        }
        let aged: Vec<Waiting> = self.trainers.values_mut().flat_map(|trainer| trainer.take_aged(limit_ms)).collect();
        let waiting = self.trainers.values().flat_map(|trainer| &trainer.queue);
        self.oldest_ms = waiting.map(|waiting| waiting.since_ms).min().unwrap_or(u64::MAX);
        self.drop_all(cache, aged)
    }

    fn drop_all(&mut self, cache: &TableCache, stale: impl IntoIterator<Item = Waiting>) -> Dropped {
        let mut dropped = Dropped::default();
        for waiting in stale {
            cache.drop_announced(waiting.batch);
            self.waiting.remove(&waiting.batch);
            self.waiting_rows -= waiting.rows;
            self.counts.expired += 1;
            dropped.0.push(waiting.batch);
        }
        self.assert_sums();
        dropped
    }

    /// What is counted is what the queues hold.
    fn assert_sums(&self) {
        let queued = || self.trainers.values().flat_map(|trainer| &trainer.queue);
        debug_assert_eq!(self.waiting_rows, queued().map(|waiting| waiting.rows).sum::<usize>());
        debug_assert_eq!(self.waiting.len(), queued().count());
    }

    /// Rows to ask for now: what the next `depth` batches of each trainer lack, nearest first, within the budget.
    /// `lacking` takes ids that are not cached and leaves those that are not on their way either.
    pub fn plan(&mut self, cache: &TableCache, lacking: impl Fn(Vec<u64>) -> Vec<u64>) -> Vec<Prefetch> {
        let depth = self.settings.depth as usize;
        let mut near: Vec<(Step, TrainerId, usize)> = Vec::new();
        for (&trainer, state) in &self.trainers {
            let next = state.queue.iter().enumerate().take(state.overdue() + depth);
            near.extend(next.map(|(at, waiting)| (waiting.step, trainer, at)));
        }
        near.sort_unstable();
        let mut prefetches = Vec::new();
        let mut tokens = self.tokens.max(0.0) as usize;
        for (_, trainer, at) in near {
            let Some(waiting) = self.trainers.get_mut(&trainer).and_then(|state| state.queue.get_mut(at)) else {
                continue;
            };
            let first_look = waiting.lacking.is_none();
            let wanted = waiting.lacking.take().unwrap_or_else(|| cache.absent(waiting.batch));
            let mut ids = lacking(wanted);
            let rest = ids.split_off(ids.len().min(tokens));
            if first_look {
                self.counts.over_budget_rows += rest.len() as u64;
            }
            waiting.lacking = Some(rest);
            tokens -= ids.len();
            self.tokens -= ids.len() as f64;
            if !ids.is_empty() {
                prefetches.push(Prefetch { batch: waiting.batch, ids });
            }
        }
        // The filter could not know what is asked for here for the batches before.
        dedup_across(&mut prefetches);
        prefetches
    }
}

/// Keeps each id in the first prefetch that names it.
fn dedup_across(prefetches: &mut Vec<Prefetch>) {
    if prefetches.len() > 1 {
        let mut seen = HashSet::new();
        prefetches.iter_mut().for_each(|prefetch| prefetch.ids.retain(|&id| seen.insert(id)));
        prefetches.retain(|prefetch| !prefetch.ids.is_empty());
    }
}
