//! What trainers have announced, and what to bring in for it: which batch a fetch was, which rows the next batches lack,
//! and how many of them may be asked for now. It owns the queues of announcements of one table, the budget and the
//! horizon. Staged rows themselves stay with the engine, outside the cache, until their batch has been used.
//!
//! **It must never** do I/O or read a clock: time comes in as an argument, requests go out as [`Order`]s, so that the
//! daemon and a replay run the same code.

#[cfg(test)]
mod tests;

use crate::cache::{BatchKey, TableCache};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Weight of the newest batch in the running mean of rows per batch.
const MEAN_WEIGHT: f64 = 0.1;

/// What bounds lookahead; section `[lookahead]` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Batches assembled ahead of their use.
    pub depth: u32,
    /// Batches that trainers shall announce ahead; 0 follows capacity and batch size.
    pub horizon: u32,
    /// Batches of horizon per batch that fits into the cache: with 4·C/R announced batches, of C slots and R remote rows per
    /// batch, Belady's choice inside the horizon gives 94% to 99.9% of the optimum's hits, with 8·C/R all but all of them
    /// (measured; see `docs/replay.md`).
    pub horizon_factor: f64,
    /// Most batches that trainers are asked to announce.
    pub horizon_max: u32,
    /// Rows that may be brought in per batch, as a share of the rows of a mean batch.
    pub budget: f64,
    /// Announced rows that may wait, over all trainers.
    pub rows_max: usize,
    /// Time after which an announcement that did not come true is dropped.
    pub expire_ms: u64,
}

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

/// Rows to ask peers for, for a batch to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The batch.
    pub batch: BatchKey,
    /// Remote ids, each once.
    pub ids: Vec<u32>,
}

/// What became of announcements, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches announced.
    pub announced: u64,
    /// Of them, batches that were fetched.
    pub used: u64,
    /// Of them, batches that never were: skipped, too old, or their trainer left.
    pub expired: u64,
    /// Rows that were not brought in ahead because the budget was spent.
    pub over_budget_rows: u64,
}

#[derive(Debug)]
struct Announced {
    batch: BatchKey,
    /// Step of the node at which it is due.
    step: u32,
    /// Fingerprint of the ids as the trainer gave them.
    print: u64,
    /// Remote ids in it.
    rows: usize,
    /// Rows still to be ordered; `None` until the batch is near.
    lacking: Option<Vec<u32>>,
    since_ms: u64,
}

#[derive(Debug, Default)]
struct Trainer {
    /// What is added to the trainer's own steps to get the node's.
    offset: i64,
    queue: VecDeque<Announced>,
    mean_rows: f64,
}

/// Announcements of one table.
#[derive(Debug)]
pub struct Lookahead {
    settings: Settings,
    trainers: HashMap<u64, Trainer>,
    /// Step of the node that comes next.
    now: u32,
    /// Rows that may be ordered now.
    tokens: f64,
    waiting_rows: usize,
    counts: Counts,
}

impl Lookahead {
    /// Nothing announced.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, trainers: HashMap::new(), now: 0, tokens: 0.0, waiting_rows: 0, counts: Counts::default() }
    }

    /// What became of announcements.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Announced rows that wait for their use.
    #[must_use]
    pub fn waiting_rows(&self) -> usize {
        self.waiting_rows
    }

    /// Whether this trainer has announced anything that waits.
    #[must_use]
    pub fn expects(&self, trainer: u64) -> bool {
        self.trainers.get(&trainer).is_some_and(|trainer| !trainer.queue.is_empty())
    }

    /// Takes an announcement of `ids`, the remote ids of a batch, each once in the order of their first use, for the
    /// trainer's own `step`; `print` is the fingerprint by which its fetch will be known. Answers how many batches the
    /// trainer should announce ahead.
    ///
    /// # Errors
    /// [`AnnounceError::TooMany`].
    pub fn announce(
        &mut self,
        cache: &TableCache,
        trainer: u64,
        (step, print, ids): (u64, u64, Vec<u32>),
        now_ms: u64,
    ) -> Result<u32, AnnounceError> {
        let rows = ids.len();
        if self.waiting_rows + rows > self.settings.rows_max {
            let (waiting, limit) = (self.waiting_rows, self.settings.rows_max);
            return Err(AnnounceError::TooMany { rows, waiting, limit });
        }
        let step = self.node_step(cache, trainer, step);
        let batch = cache.announce(step, ids);
        let entry = self.trainers.entry(trainer).or_default();
        if entry.mean_rows == 0.0 {
            entry.mean_rows = rows as f64;
            self.tokens += f64::from(self.settings.depth) * self.settings.budget * rows as f64;
        }
        entry.mean_rows += MEAN_WEIGHT * (rows as f64 - entry.mean_rows);
        entry.queue.push_back(Announced { batch, step, print, rows, lacking: None, since_ms: now_ms });
        self.waiting_rows += rows;
        self.counts.announced += 1;
        Ok(self.horizon(cache.capacity_rows()))
    }

    /// Batches that a trainer should announce ahead, for a cache of `capacity` rows.
    #[must_use]
    pub fn horizon(&self, capacity: usize) -> u32 {
        if self.settings.horizon > 0 {
            return self.settings.horizon;
        }
        let rows_per_step: f64 = self.trainers.values().map(|trainer| trainer.mean_rows).sum();
        let batches = self.settings.horizon_factor * capacity as f64 / rows_per_step.max(1.0);
        (batches.ceil() as u32).clamp(self.settings.depth + 1, self.settings.horizon_max.max(self.settings.depth + 1))
    }

    /// The node's step for a trainer's own. Trainers of one job count alike and share the node's count; one that counts
    /// otherwise, or begins anew, is placed where the node is now.
    fn node_step(&mut self, cache: &TableCache, trainer: u64, step: u64) -> u32 {
        if self.trainers.is_empty() {
            self.now = u32::try_from(step).unwrap_or(0);
        }
        let now = i64::from(self.now);
        let entry = self.trainers.entry(trainer).or_default();
        let placed = step as i64 + entry.offset;
        let last = entry.queue.back().map(|last| i64::from(last.step));
        let follows = last.is_none_or(|last| placed > last);
        let reach = i64::from(self.settings.horizon_max) + 1;
        if !follows {
            let stale = std::mem::take(&mut entry.queue);
            self.drop_all(cache, stale);
        }
        let entry = self.trainers.entry(trainer).or_default();
        if !follows || (last.is_none() && !(now - reach..=now + reach).contains(&placed)) {
            entry.offset = now - step as i64;
        }
        u32::try_from(step as i64 + entry.offset).unwrap_or(self.now)
    }

    /// A trainer fetches ids with this fingerprint: answers the announced batch that this is, if any. Batches that it
    /// skipped are dropped, and so are old ones; both are answered too, for what was staged for them.
    pub fn consume(
        &mut self,
        cache: &TableCache,
        trainer: u64,
        print: u64,
        now_ms: u64,
    ) -> (Option<BatchKey>, Vec<BatchKey>) {
        let Some(entry) = self.trainers.get_mut(&trainer) else { return (None, Vec::new()) };
        let oldest_ms = now_ms.saturating_sub(self.settings.expire_ms);
        let found = entry.queue.iter().position(|announced| announced.print == print);
        let aged = entry.queue.iter().take_while(|announced| announced.since_ms < oldest_ms).count();
        let stale: VecDeque<Announced> = entry.queue.drain(..found.unwrap_or(aged)).collect();
        let used = found.and_then(|_| entry.queue.pop_front());
        let dropped = self.drop_all(cache, stale);
        let Some(used) = used else { return (None, dropped) };
        self.now = self.now.max(used.step.saturating_add(1));
        self.waiting_rows -= used.rows;
        self.counts.used += 1;
        self.refill(trainer);
        (Some(used.batch), dropped)
    }

    fn refill(&mut self, trainer: u64) {
        let of_batch = self.trainers.get(&trainer).map_or(0.0, |trainer| trainer.mean_rows);
        let of_step: f64 = self.trainers.values().map(|trainer| trainer.mean_rows).sum();
        let most = f64::from(self.settings.depth) * self.settings.budget * of_step;
        self.tokens = (self.tokens + self.settings.budget * of_batch).min(most);
    }

    /// A trainer is gone: what it announced will not come true. Answers the batches.
    pub fn leave(&mut self, cache: &TableCache, trainer: u64) -> Vec<BatchKey> {
        let queue = self.trainers.remove(&trainer).map(|trainer| trainer.queue).unwrap_or_default();
        self.drop_all(cache, queue)
    }

    fn drop_all(&mut self, cache: &TableCache, queue: VecDeque<Announced>) -> Vec<BatchKey> {
        queue
            .into_iter()
            .map(|announced| {
                cache.give_up(announced.batch);
                self.waiting_rows -= announced.rows;
                self.counts.expired += 1;
                announced.batch
            })
            .collect()
    }

    /// Rows to ask for now: what the batches of the next steps lack, nearest first, within the budget. `lacking` takes
    /// ids that are not cached and leaves those that are not on their way either.
    pub fn plan(&mut self, cache: &TableCache, lacking: impl Fn(Vec<u32>) -> Vec<u32>) -> Vec<Order> {
        let last = self.now.saturating_add(self.settings.depth);
        let mut near: Vec<(u32, u64, usize)> = Vec::new();
        for (&trainer, state) in &self.trainers {
            let due = state.queue.iter().enumerate().take_while(|(_, announced)| announced.step < last);
            near.extend(due.map(|(at, announced)| (announced.step, trainer, at)));
        }
        near.sort_unstable();
        let mut orders = Vec::new();
        let mut tokens = self.tokens.max(0.0) as usize;
        for (_, trainer, at) in near {
            let Some(announced) = self.trainers.get_mut(&trainer).and_then(|state| state.queue.get_mut(at)) else {
                continue;
            };
            let first_look = announced.lacking.is_none();
            let wanted = announced.lacking.take().unwrap_or_else(|| cache.absent(announced.batch));
            let mut ids = lacking(wanted);
            let rest = ids.split_off(ids.len().min(tokens));
            if first_look {
                self.counts.over_budget_rows += rest.len() as u64;
            }
            announced.lacking = Some(rest);
            tokens -= ids.len();
            self.tokens -= ids.len() as f64;
            if !ids.is_empty() {
                orders.push(Order { batch: announced.batch, ids });
            }
        }
        // The filter could not know of what was ordered for the batches before.
        dedup_across(&mut orders);
        orders
    }
}

/// Keeps each id in the first order that names it.
fn dedup_across(orders: &mut Vec<Order>) {
    if orders.len() > 1 {
        let mut seen = hashbrown::HashSet::new();
        orders.iter_mut().for_each(|order| order.ids.retain(|&id| seen.insert(id)));
        orders.retain(|order| !order.ids.is_empty());
    }
}
