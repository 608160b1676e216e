//! Announcing: tells the daemon which ids coming batches will fetch, so that their rows are there in time and the cache
//! keeps what is used next. [`Loader`] does it for any iterator of batches. It owns the batches between their announcement
//! and their fetch, and must never fetch in another order than it announced.

use crate::client::{Client, unexpected};
use crate::wire::{Reply, Request};
use crate::{ClientError, Rows};
use std::collections::VecDeque;

/// How many batches a [`Loader`] announces ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Horizon {
    /// As many as the daemon asks for, which follows the size of its cache.
    #[default]
    Daemon,
    /// This many; 0 announces nothing.
    Batches(u32),
}

/// Yields each batch of ids with its rows, announces those that follow, and reports progress.
#[derive(Debug)]
pub struct Loader<'a, I> {
    client: &'a Client,
    table: String,
    batches: I,
    horizon: Horizon,
    /// What the daemon last asked for.
    asked: u32,
    steps_per_epoch: u32,
    /// Batches announced and not fetched yet.
    waiting: VecDeque<Vec<u64>>,
    /// Steps fetched.
    step: u64,
}

impl Client {
    /// Announces that this trainer will fetch exactly `ids`, in this order, at its `step`, a number that grows by one per
    /// step. Answers how many batches the daemon would like announced ahead. A fetch is known by its ids; one that was not
    /// announced is served as ever.
    ///
    /// # Errors
    /// What the daemon refuses (unknown table, id out of range, too many announced rows) or the connection suffers.
    pub fn announce(&self, table: &str, ids: &[u64], step: u64) -> Result<u32, ClientError> {
        let table = self.tables[self.table_index(table)?].id;
        let request = |count, ids| Request::Announce { table, step: Some(step), count, ids };
        match self.on_session(|session| self.send_ids(session, ids, request))? {
            Reply::Announced { horizon } => Ok(horizon),
            other => Err(unexpected(&other)),
        }
    }
}

impl<'a, I: Iterator<Item = Vec<u64>>> Loader<'a, I> {
    /// Loads the rows of `table` for each batch of ids. `steps_per_epoch` batches are an epoch; `batches` may go on over
    /// many epochs, so that the end of one does not end the lookahead.
    ///
    /// # Errors
    /// [`ClientError::UnknownTable`].
    pub fn new(client: &'a Client, table: &str, batches: I, steps_per_epoch: u32) -> Result<Self, ClientError> {
        client.table(table)?;
        Ok(Self {
            client,
            table: table.to_owned(),
            batches,
            horizon: Horizon::Daemon,
            asked: 1,
            steps_per_epoch: steps_per_epoch.max(1),
            waiting: VecDeque::new(),
            step: 0,
        })
    }

    /// Announces as far ahead as `horizon` says.
    #[must_use]
    pub fn horizon(mut self, horizon: Horizon) -> Self {
        self.horizon = horizon;
        self
    }

    /// Counts steps from `step` on instead of from 0, for a training that goes on where another ended.
    #[must_use]
    pub fn from_step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// Announces until enough batches wait, or there are no more.
    fn announce_ahead(&mut self) -> Result<(), ClientError> {
        loop {
            let ahead = match self.horizon {
                Horizon::Daemon => self.asked,
                Horizon::Batches(batches) => batches,
            };
            // The batch that is fetched next is not ahead of itself.
            if self.waiting.len() > ahead as usize {
                return Ok(());
            }
            let Some(ids) = self.batches.next() else { return Ok(()) };
            if ahead > 0 {
                self.asked = self.client.announce(&self.table, &ids, self.step + self.waiting.len() as u64)?;
            }
            self.waiting.push_back(ids);
        }
    }

    fn load(&mut self) -> Result<Option<(Vec<u64>, Rows)>, ClientError> {
        self.announce_ahead()?;
        let Some(ids) = self.waiting.pop_front() else { return Ok(None) };
        let steps = u64::from(self.steps_per_epoch);
        let epoch = u32::try_from(self.step / steps).unwrap_or(u32::MAX);
        self.client.progress(epoch, (self.step % steps) as u32, self.steps_per_epoch)?;
        self.step += 1;
        let rows = self.client.fetch(&self.table, &ids)?;
        Ok(Some((ids, rows)))
    }
}

impl<I: Iterator<Item = Vec<u64>>> Iterator for Loader<'_, I> {
    type Item = Result<(Vec<u64>, Rows), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.load().transpose()
    }
}
