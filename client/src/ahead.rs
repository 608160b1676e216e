//! What a trainer tells the daemon ahead of need: coming batches and progress. Neither is answered, so that neither
//! holds a trainer up. It owns what is checked here because nobody will say it later. It must never wait for what the
//! daemon makes of an announcement: only for room, where the daemon is hundreds of announcements behind, or shared
//! memory is short or has to grow.

use crate::ClientError;
use crate::client::{Client, unexpected};
use crate::fetch::Carrier;
use crate::given::Part;
use crate::session::Session;
use crate::wire::{ErrorCode, IdSpace, IdsPart, PartIds, Reply, Request, TableInfo};
use std::sync::Arc;

/// The highest step.
const STEP_MAX: u64 = i64::MAX as u64;

impl Client {
    /// A number for a batch that no other batch of this trainer has, in whichever process it is drawn.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.numbers.draw()
    }

    /// Announces that this trainer will fetch exactly `ids`, in this order, at its `step`, a number that grows by one
    /// per step. Without a step, batches follow each other in the order in which their announcements arrive. Answers
    /// the number of the batch, by which the fetch may name it ([`FetchOptions::batch`](crate::FetchOptions::batch)); a
    /// fetch that does not is known by its ids.
    ///
    /// # Errors
    /// As [`Client::announce_parts`].
    pub fn announce(&self, table: &str, ids: &[u64], step: impl Into<Option<u64>>) -> Result<u64, ClientError> {
        let (index, step, batch) = (self.table_index(table)?, step.into(), self.next_batch());
        self.announce_parts(&[Part::new(table, ids)], step, batch)?;
        if let Some(step) = step {
            self.course.announced(index, step);
        }
        Ok(batch)
    }

    /// Announces the batch with number `batch` ([`Client::next_batch`]), which fetches rows of several tables. It
    /// returns once the ids are copied and does not wait for the daemon. What the daemon refuses (too many announced
    /// rows wait, an original id that no vertex has) is kept for [`Client::warnings`]; the fetch of such a batch is
    /// served like any other.
    ///
    /// # Errors
    /// What is known here: an unknown table, a negative id, an id that is not below the rows of a table, a step beyond
    /// 63 bits, no shared memory; and what the connection suffers.
    pub fn announce_parts(&self, parts: &[Part<'_>], step: Option<u64>, batch: u64) -> Result<(), ClientError> {
        if let Some(step) = step.filter(|&step| step > STEP_MAX) {
            let message = format!("step {step} is out of range: steps are numbers up to {STEP_MAX}");
            return Err(ClientError::Daemon { code: ErrorCode::Argument, message });
        }
        let tables = parts.iter().map(|part| self.table(part.table)).collect::<Result<Vec<_>, _>>()?;
        for (part, info) in parts.iter().zip(&tables) {
            self.refuse_beyond(part, info)?;
        }
        self.on_session(|session| {
            self.announce_on(session, parts, &tables, step, batch)?;
            session.bound_one_way()
        })
    }

    /// Refuses ids that the table does not have, as far as this is known without the daemon.
    fn refuse_beyond(&self, part: &Part<'_>, info: &TableInfo) -> Result<(), ClientError> {
        let is_dense = !info.renumbered || self.ids() == IdSpace::Dataset;
        let Some((at, id)) = part.ids.beyond(info.rows).filter(|_| is_dense) else { return Ok(()) };
        if let Some(negative) = part.ids.negative() {
            return Err(negative);
        }
        let TableInfo { name, rows, named, .. } = info;
        let hint = if *named { "; its vertices have names: ask for their ids by name" } else { "" };
        let last = rows.saturating_sub(1);
        let message =
            format!("id {id} (position {at} of the batch) is out of range: table `{name}` has ids 0 to {last}{hint}");
        Err(ClientError::Daemon { code: ErrorCode::IdOutOfRange, message })
    }

    fn announce_on(
        &self,
        session: &Arc<Session>,
        parts: &[Part<'_>],
        tables: &[&TableInfo],
        step: Option<u64>,
        batch: u64,
    ) -> Result<(), ClientError> {
        let mut sender = session.sender();
        let mut carrier = Carrier::new(&mut sender, self.options().inline);
        let mut announced = Vec::with_capacity(parts.len());
        for (at, (part, info)) in parts.iter().zip(tables).enumerate() {
            let is_same = |(other, of): (&Part<'_>, &&TableInfo)| {
                part.ids.is_same(other.ids) && info.vertex_type == of.vertex_type
            };
            let ids = match parts[..at].iter().zip(tables).position(is_same) {
                Some(earlier) => PartIds::Of(earlier as u16),
                None => PartIds::Given(carrier.ids(info, part.ids)?),
            };
            announced.push(IdsPart { table: info.id, ids });
        }
        let Carrier { payload, leases, .. } = carrier;
        sender.send_one_way(Request::Announce { batch, step, parts: announced }, &payload, leases)
    }

    /// Tells the cache how far this trainer has come: `epoch` epochs and `step` of `steps_per_epoch` steps have ended.
    /// The cache's scores are computed from it, so call this at each step. It does not wait for the daemon.
    ///
    /// # Errors
    /// An epoch of no steps, and what the connection suffers.
    pub fn progress(&self, epoch: u32, step: u32, steps_per_epoch: u32) -> Result<(), ClientError> {
        if steps_per_epoch == 0 {
            let message = "progress with 0 steps per epoch; an epoch has 1 or more".to_owned();
            return Err(ClientError::Daemon { code: ErrorCode::Argument, message });
        }
        let request = Request::Progress { epoch, step, steps_per_epoch };
        self.on_session(|session| session.sender().send_one_way(request.clone(), &[], Vec::new()))
    }

    /// How many batches of `table` the daemon would like announced ahead. It is what the daemon said last, with the
    /// last fetch; where it has said nothing, it is asked.
    ///
    /// # Errors
    /// [`ClientError::UnknownTable`], and what the connection suffers.
    pub fn horizon(&self, table: &str) -> Result<u32, ClientError> {
        let index = self.table_index(table)?;
        if let Some(horizon) = self.known().horizon(index) {
            return Ok(horizon);
        }
        let request = Request::Horizon { table: self.tables()[index].id };
        match self.on_session(|session| session.ask(request.clone()))? {
            Reply::Horizon(horizon) => {
                self.known().note_horizon(index, horizon);
                Ok(horizon)
            }
            other => Err(unexpected(&other)),
        }
    }
}
