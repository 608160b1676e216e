//! Announcing: tells the daemon which ids coming batches will fetch, so that their rows are there in time and the cache
//! keeps what is used next. [`Loader`] does it for any iterator of batches. It owns the batches between their
//! announcement and their fetch. It must never fetch in another order than it announced, and never end a training
//! because an announcement was refused.

use crate::client::{Client, unexpected};
use crate::wire::{ErrorCode, Reply, Request};
use crate::{ClientError, Rows};
use std::collections::VecDeque;

/// How many batches a [`Loader`] announces ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Horizon {
    /// The number that the daemon asks for, which follows the size of its cache.
    #[default]
    Daemon,
    /// This many; 0 announces nothing.
    Batches(u32),
}

/// Yields each batch of ids with its rows, announces those that follow, and reports progress.
///
/// The epochs that it reports go on where the client's loader before it ended: a loop that makes a loader for each
/// epoch reports epochs 0, 1, 2, …
///
/// A daemon that refuses an announcement ([`ErrorCode::Limit`]) has no room for it now. The loader keeps the batch,
/// goes on, and announces it at the next step.
#[derive(Debug)]
pub struct Loader<'a, I> {
    client: &'a Client,
    table: usize,
    batches: I,
    horizon: Horizon,
    /// What the daemon last asked for.
    asked: u32,
    steps_per_epoch: u32,
    /// Batches that are not fetched yet.
    waiting: VecDeque<Vec<u64>>,
    /// How many of them are announced, from the front.
    announced: usize,
    /// Steps fetched, from the start of the first epoch.
    step: u64,
    /// The number of the first epoch; `None` before the first fetch, which takes the client's count.
    first_epoch: Option<u32>,
    reports: bool,
}

impl Client {
    /// Announces that this trainer will fetch exactly `ids`, in this order, at its `step`, a number that grows by one
    /// per step. Without a step, batches follow each other in the order in which their announcements arrive. Answers
    /// how many batches the daemon would like announced ahead. A fetch is known by its ids; one that was not announced
    /// is served like any other.
    ///
    /// # Errors
    /// What the daemon refuses (unknown table, id out of range) or the connection suffers. [`ErrorCode::Limit`] means
    /// that too many announced rows wait: go on, and announce later.
    pub fn announce(&self, table: &str, ids: &[u64], step: impl Into<Option<u64>>) -> Result<u32, ClientError> {
        let (table, step) = (self.table_index(table)?, step.into());
        let horizon = self.announce_at(table, ids, step)?;
        if let Some(step) = step {
            self.course.announced(table, step);
        }
        Ok(horizon)
    }

    fn announce_at(&self, table: usize, ids: &[u64], step: Option<u64>) -> Result<u32, ClientError> {
        let table = self.tables[table].id;
        let request = |count, ids| Request::Announce { table, step, count, ids };
        match self.on_session(|session| self.send_ids(session, ids, request))? {
            Reply::Announced { horizon } => Ok(horizon),
            other => Err(unexpected(&other)),
        }
    }
}

impl<'a, I: Iterator<Item = Vec<u64>>> Loader<'a, I> {
    /// Loads the rows of `table` for each batch of ids. `steps_per_epoch` batches are an epoch; `batches` may go on
    /// over many epochs, so that the end of one does not end the lookahead.
    ///
    /// # Errors
    /// [`ClientError::UnknownTable`].
    pub fn new(client: &'a Client, table: &str, batches: I, steps_per_epoch: u32) -> Result<Self, ClientError> {
        Ok(Self {
            client,
            table: client.table_index(table)?,
            batches,
            horizon: Horizon::Daemon,
            asked: 1,
            steps_per_epoch: steps_per_epoch.max(1),
            waiting: VecDeque::new(),
            announced: 0,
            step: 0,
            first_epoch: None,
            reports: true,
        })
    }

    /// Announces as far ahead as `horizon` says.
    #[must_use]
    pub fn horizon(mut self, horizon: Horizon) -> Self {
        self.horizon = horizon;
        self
    }

    /// Begins at `step`, counted from the start of epoch 0, for a training that goes on where another process ended.
    /// Loaders of this client that follow count on from there.
    #[must_use]
    pub fn from_step(mut self, step: u64) -> Self {
        self.step = step;
        self.first_epoch = Some(0);
        self
    }

    /// Whether to report progress and count epochs (`true` unless this is called). A loader for validation does
    /// neither.
    #[must_use]
    pub fn progress(mut self, reports: bool) -> Self {
        self.reports = reports;
        self
    }

    /// Announces until enough batches wait, there are no more, or the daemon has no room.
    fn announce_ahead(&mut self) -> Result<(), ClientError> {
        let ahead = |asked: u32| match self.horizon {
            // A daemon that wants nothing announced may want it later: one batch asks it at each step.
            Horizon::Daemon => asked.max(1) as usize,
            Horizon::Batches(batches) => batches as usize,
        };
        loop {
            while ahead(self.asked) > 0 && self.announced < self.waiting.len() {
                let step = self.client.course.next_step(self.table);
                match self.client.announce_at(self.table, &self.waiting[self.announced], Some(step)) {
                    Ok(asked) => self.asked = asked,
                    Err(error) if error.code() == Some(ErrorCode::Limit) => return Ok(()),
                    Err(error) => return Err(error),
                }
                self.announced += 1;
            }
            // The batch that is fetched next is not ahead of itself.
            if self.waiting.len() > ahead(self.asked) {
                return Ok(());
            }
            let Some(ids) = self.batches.next() else { return Ok(()) };
            self.waiting.push_back(ids);
        }
    }

    fn load(&mut self) -> Result<Option<(Vec<u64>, Rows)>, ClientError> {
        self.announce_ahead()?;
        let Some(ids) = self.waiting.pop_front() else { return Ok(None) };
        self.announced = self.announced.saturating_sub(1);
        if self.reports {
            self.report()?;
        }
        self.step += 1;
        let rows = self.client.fetch(&self.client.tables[self.table].name, &ids)?;
        Ok(Some((ids, rows)))
    }

    /// Reports the step that is about to be fetched.
    fn report(&mut self) -> Result<(), ClientError> {
        let course = &self.client.course;
        let first = *self.first_epoch.get_or_insert_with(|| course.epoch());
        let steps = u64::from(self.steps_per_epoch);
        let epoch = u32::try_from(u64::from(first) + self.step / steps).unwrap_or(u32::MAX);
        course.begin(epoch);
        self.client.progress(epoch, (self.step % steps) as u32, self.steps_per_epoch)
    }
}

impl<I: Iterator<Item = Vec<u64>>> Iterator for Loader<'_, I> {
    type Item = Result<(Vec<u64>, Rows), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.load().transpose()
    }
}
