//! Announcing: tells the daemon which ids coming batches will fetch, so that their rows are there in time and the cache
//! keeps what is used next. [`Loader`] does it for any iterator of batches. It owns the batches between their
//! announcement and their fetch. It must never fetch in another order than it announced, and never end a training
//! because an announcement was refused.

use crate::client::Client;
use crate::{ClientError, Part, Rows};
use std::collections::VecDeque;

/// Batches announced before the first rows have come: until then the daemon may not know how large batches are.
const FIRST_AHEAD: u32 = 8;

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
/// A daemon that refuses an announcement has no room for it now. The batch is fetched like one that was not announced.
#[derive(Debug)]
pub struct Loader<'a, I> {
    client: &'a Client,
    table: usize,
    batches: I,
    horizon: Horizon,
    steps_per_epoch: u32,
    /// Batches that are not fetched yet.
    waiting: VecDeque<Vec<u64>>,
    /// The numbers of those that are announced: the first ones.
    announced: VecDeque<u64>,
    /// Steps fetched, from the start of the first epoch.
    step: u64,
    /// Whether rows have come.
    has_loaded: bool,
    /// The number of the first epoch; `None` before the first fetch, which takes the client's count.
    first_epoch: Option<u32>,
    reports: bool,
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
            steps_per_epoch: steps_per_epoch.max(1),
            waiting: VecDeque::new(),
            announced: VecDeque::new(),
            step: 0,
            has_loaded: false,
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

    /// Announces until enough batches wait, or there are no more.
    fn announce_ahead(&mut self) -> Result<(), ClientError> {
        let (client, table) = (self.client, &self.client.tables()[self.table].name);
        let ahead = match self.horizon {
            // A daemon that wants nothing announced may want it later: one batch is announced at each step.
            Horizon::Daemon => {
                let asked = client.horizon(table)?.max(1);
                if self.has_loaded { asked as usize } else { asked.min(FIRST_AHEAD) as usize }
            }
            Horizon::Batches(batches) => batches as usize,
        };
        loop {
            while ahead > 0 && self.announced.len() < self.waiting.len() {
                let (step, batch) = (client.course.next_step(self.table), client.next_batch());
                let ids = &self.waiting[self.announced.len()];
                client.announce_parts(&[Part::new(table, ids)], Some(step), batch)?;
                self.announced.push_back(batch);
            }
            // The batch that is fetched next is not ahead of itself.
            if self.waiting.len() > ahead {
                return Ok(());
            }
            let Some(ids) = self.batches.next() else { return Ok(()) };
            self.waiting.push_back(ids);
        }
    }

    fn load(&mut self) -> Result<Option<(Vec<u64>, Rows)>, ClientError> {
        self.announce_ahead()?;
        let Some(ids) = self.waiting.pop_front() else { return Ok(None) };
        let batch = self.announced.pop_front();
        if self.reports {
            self.report()?;
        }
        self.step += 1;
        let rows = self.client.fetch_batch(&self.client.tables()[self.table].name, &ids, batch)?;
        self.has_loaded = true;
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
