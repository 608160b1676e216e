//! Fetches: of one table or of several in one call. It owns where the rows of each table go and what is sent for their
//! ids, and must never let a caller see rows of a fetch that failed.

use crate::client::{ALIGN_BYTES, Client, Known, unexpected};
use crate::error::ProtocolError;
use crate::given::{Ids, Part, Unwritten};
use crate::rows::{Memory, Rows};
use crate::session::{Delivery, Sender, Session};
use crate::wire::{ErrorCode, IdRun, IdWidth, PartIds, Place, Reply, Request, RowsAnswer, RowsCall, TableInfo};
use crate::{ClientError, DType, arena::Lease};
use std::sync::Arc;

/// What a fetch is beside its tables and ids.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// The number of the announced batch that this is; then its ids are not sent again.
    pub batch: Option<u64>,
    /// Whether the daemon's caches learn from it. Fetches for evaluation should teach them nothing.
    pub learn: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { batch: None, learn: true }
    }
}

/// A fetch of one table that was sent. Dropping it gives the rows up.
#[derive(Debug)]
pub struct Pending(PendingParts);

/// A fetch that was sent. Dropping it gives the rows up.
#[derive(Debug)]
pub struct PendingParts {
    session: Arc<Session>,
    id: u64,
    /// Whether nobody waits yet.
    open: bool,
    known: Arc<Known>,
    /// By part, the table and the number of ids.
    parts: Vec<(usize, usize)>,
}

/// One table of a fetch, as the client believes it to be.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    table: usize,
    dtype: DType,
    width: u32,
    ids: Ids<'a>,
}

impl Client {
    /// Fetches the rows of `ids`, local and remote mixed, in any order, duplicates allowed.
    ///
    /// # Errors
    /// What the daemon refuses (unknown table, id out of range, a peer that is gone, …) or the connection suffers.
    pub fn fetch(&self, table: &str, ids: &[u64]) -> Result<Rows, ClientError> {
        self.fetch_async(table, ids)?.wait()
    }

    /// Sends a fetch and returns at once; several may be in flight.
    ///
    /// # Errors
    /// As [`Client::fetch`], for what fails before anything is sent.
    pub fn fetch_async(&self, table: &str, ids: &[u64]) -> Result<Pending, ClientError> {
        Ok(Pending(self.fetch_parts_async(&[Part::new(table, ids)], FetchOptions::default())?))
    }

    /// Fetches the rows of a batch of one table, which [`Client::announce`] may have given a number.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn fetch_batch(&self, table: &str, ids: &[u64], batch: Option<u64>) -> Result<Rows, ClientError> {
        only(self.fetch_parts(&[Part::new(table, ids)], FetchOptions { batch, learn: true })?)
    }

    /// Fetches rows that the caller believes to be `width` elements of `dtype`; the daemon refuses if they are not.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn fetch_expecting(&self, table: &str, dtype: DType, width: u32, ids: &[u64]) -> Result<Rows, ClientError> {
        let wanted = Wanted { table: self.table_index(table)?, dtype, width, ids: ids.into() };
        Pending(self.send_fetch(&[wanted], FetchOptions::default())?).wait()
    }

    /// Fetches rows of several tables with one call, for about the price of one table: ids that are the same slice
    /// cross once. A batch that the daemon has forgotten is asked for with its ids. Answers the rows by part.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn fetch_parts(&self, parts: &[Part<'_>], options: FetchOptions) -> Result<Vec<Rows>, ClientError> {
        match self.fetch_parts_async(parts, options)?.wait() {
            Err(error) if options.batch.is_some() && error.code() == Some(ErrorCode::UnknownBatch) => {
                self.fetch_parts_async(parts, FetchOptions { batch: None, ..options })?.wait()
            }
            outcome => outcome,
        }
    }

    /// Sends a fetch of several tables and returns at once. With the number of a batch, the ids themselves are not
    /// sent: [`ErrorCode::UnknownBatch`] of [`PendingParts::wait`] says that the daemon has forgotten it; send the
    /// fetch again without the number.
    ///
    /// # Errors
    /// As [`Client::fetch`], for what fails before anything is sent.
    pub fn fetch_parts_async(&self, parts: &[Part<'_>], options: FetchOptions) -> Result<PendingParts, ClientError> {
        let wanted = parts.iter().map(|part| {
            let table = self.table_index(part.table)?;
            let TableInfo { dtype, width, .. } = self.tables()[table];
            Ok(Wanted { table, dtype, width, ids: part.ids })
        });
        self.send_fetch(&wanted.collect::<Result<Vec<_>, ClientError>>()?, options)
    }

    fn send_fetch(&self, parts: &[Wanted<'_>], options: FetchOptions) -> Result<PendingParts, ClientError> {
        self.on_session(|session| self.send_fetch_on(session, parts, options))
    }

    fn send_fetch_on(
        &self,
        session: &Arc<Session>,
        parts: &[Wanted<'_>],
        options: FetchOptions,
    ) -> Result<PendingParts, ClientError> {
        let FetchOptions { batch, learn } = options;
        let mut sender = session.sender();
        let mut carrier = Carrier::new(&mut sender, self.options().inline);
        let mut calls = Vec::with_capacity(parts.len());
        for (at, wanted) in parts.iter().enumerate() {
            let &Wanted { table, dtype, width, ids } = wanted;
            let info = &self.tables()[table];
            let same = || parts[..at].iter().position(|other| self.is_same(wanted, other));
            let (ids, rows) = match (batch, same()) {
                (Some(_), _) => (PartIds::Announced(ids.len() as u64), carrier.rows(info, ids.len())?),
                (None, Some(earlier)) => (PartIds::Of(earlier as u16), carrier.rows(info, ids.len())?),
                (None, None) => {
                    let (run, rows) = carrier.rows_and_ids(info, ids)?;
                    (PartIds::Given(run), rows)
                }
            };
            calls.push(RowsCall { table: info.id, dtype, width, ids, rows });
        }
        let Carrier { payload, leases, .. } = carrier;
        let id = sender.send(Request::Fetch { parts: calls, batch, learn }, &payload, None, leases)?;
        drop(sender);
        let parts = parts.iter().map(|wanted| (wanted.table, wanted.ids.len())).collect();
        Ok(PendingParts { session: Arc::clone(session), id, open: true, known: Arc::clone(self.known()), parts })
    }

    /// Whether two parts have the same ids of the same vertices.
    fn is_same(&self, one: &Wanted<'_>, other: &Wanted<'_>) -> bool {
        let vertex_type = |wanted: &Wanted<'_>| &self.tables()[wanted.table].vertex_type;
        one.ids.is_same(other.ids) && vertex_type(one) == vertex_type(other)
    }
}

/// Finds places for what goes with a call: in shared memory, or behind its message.
pub(crate) struct Carrier<'s, 'a> {
    sender: &'s mut Sender<'a>,
    inline: bool,
    pub(crate) payload: Vec<u8>,
    /// One per place that was found.
    pub(crate) leases: Vec<Lease>,
}

impl<'s, 'a> Carrier<'s, 'a> {
    pub(crate) fn new(sender: &'s mut Sender<'a>, inline: bool) -> Self {
        Self { sender, inline, payload: Vec::new(), leases: Vec::new() }
    }

    /// Room for rows, in a lease of its own: rows of one table that are kept must not keep those of the others.
    fn rows(&mut self, info: &TableInfo, rows: usize) -> Result<Place, ClientError> {
        if self.inline {
            return Ok(Place::Inline);
        }
        let lease = self.sender.lease_rows(rows, rows.checked_mul(info.row_bytes()))?;
        Ok(self.keep(lease, 0))
    }

    /// Room for the rows of `ids`, and the ids.
    fn rows_and_ids(&mut self, info: &TableInfo, ids: Ids<'_>) -> Result<(IdRun, Place), ClientError> {
        if self.inline {
            return Ok((self.ids(info, ids)?, Place::Inline));
        }
        let rows_bytes =
            ids.len().checked_mul(info.row_bytes()).and_then(|bytes| bytes.checked_next_multiple_of(ALIGN_BYTES));
        self.fitting(info, ids, |carrier, width| {
            let bytes = rows_bytes.and_then(|bytes| bytes.checked_add(ids.len() * width.bytes()));
            let lease = carrier.sender.lease_rows(ids.len(), bytes)?;
            let first = rows_bytes.unwrap_or_default();
            ids.write(width, |at, bytes| lease.write(first + at, bytes))?;
            let at = lease.place(first);
            Ok((at, carrier.keep(lease, 0)))
        })
    }

    /// The ids.
    pub(crate) fn ids(&mut self, info: &TableInfo, ids: Ids<'_>) -> Result<IdRun, ClientError> {
        let (run, ()) = self.fitting(info, ids, |carrier, width| {
            let bytes = ids.len() * width.bytes();
            if carrier.inline {
                let before = carrier.payload.len();
                carrier.payload.resize(before + bytes, 0);
                let out = &mut carrier.payload[before..];
                let written = ids.write(width, |at, bytes| out[at..at + bytes.len()].copy_from_slice(bytes));
                if written.is_err() {
                    carrier.payload.truncate(before);
                }
                return written.map(|()| (Place::Inline, ()));
            }
            let lease = carrier.sender.lease(bytes)?;
            ids.write(width, |at, bytes| lease.write(at, bytes))?;
            Ok((carrier.keep(lease, 0), ()))
        })?;
        Ok(run)
    }

    /// Bytes that the daemon reads.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<Place, ClientError> {
        if self.inline {
            self.payload.extend_from_slice(bytes);
            return Ok(Place::Inline);
        }
        let lease = self.sender.lease(bytes.len())?;
        lease.write(0, bytes);
        Ok(self.keep(lease, 0))
    }

    /// Has `write` write the ids as narrow as they are; answers where they are, and what it says beside.
    fn fitting<T>(
        &mut self,
        info: &TableInfo,
        ids: Ids<'_>,
        write: impl Fn(&mut Self, IdWidth) -> Result<(Place, T), Unwritten>,
    ) -> Result<(IdRun, T), ClientError> {
        let mut width = ids.width(info.rows);
        loop {
            match write(self, width) {
                Ok((at, beside)) => return Ok((IdRun { count: ids.len() as u64, width, at }, beside)),
                Err(Unwritten::TooWide) => width = IdWidth::Eight,
                Err(Unwritten::Wrong(error)) => return Err(error),
            }
        }
    }

    fn keep(&mut self, lease: Lease, offset: usize) -> Place {
        let place = lease.place(offset);
        self.leases.push(lease);
        place
    }
}

impl Pending {
    /// The number of this fetch, by which the logs of the daemons know it (there in hexadecimal).
    #[must_use]
    pub fn request(&self) -> u64 {
        self.0.request()
    }

    /// Whether [`Pending::wait`] would return at once, with rows or an error. Never blocks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    /// Waits for the rows.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn wait(self) -> Result<Rows, ClientError> {
        only(self.0.wait()?)
    }
}

/// The rows of a fetch of one table.
fn only(mut rows: Vec<Rows>) -> Result<Rows, ClientError> {
    let missing = || ClientError::Protocol(ProtocolError::Reply { reply: "rows of no table".to_owned() });
    rows.pop().ok_or_else(missing)
}

impl PendingParts {
    /// As [`Pending::request`].
    #[must_use]
    pub fn request(&self) -> u64 {
        self.id
    }

    /// Whether [`PendingParts::wait`] would return at once, with rows or an error. Never blocks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.session.is_ready(self.id)
    }

    /// Waits for the rows, by part.
    ///
    /// # Errors
    /// As [`Client::fetch`]; [`ErrorCode::UnknownBatch`] where the fetch names a batch that the daemon has forgotten.
    pub fn wait(mut self) -> Result<Vec<Rows>, ClientError> {
        self.open = false;
        let Delivery { reply, payload, leases } = self.session.wait(self.id)?;
        let Reply::Rows(answers) = reply else { return Err(unexpected(&reply)) };
        if answers.len() != self.parts.len() {
            return Err(unexpected(&Reply::Rows(answers)));
        }
        let row_bytes = |&(table, count): &(usize, usize)| count * self.known.tables[table].row_bytes();
        let due: usize = self.parts.iter().map(row_bytes).sum();
        let is_shared = leases.len() == self.parts.len();
        if !is_shared && payload.len() != due {
            return Err(ClientError::Protocol(ProtocolError::RowBytes { came: payload.len(), due }));
        }
        let (mut rows, mut left, mut leases) = (Vec::with_capacity(self.parts.len()), &payload[..], leases.into_iter());
        for (part, RowsAnswer { sources, horizon }) in self.parts.iter().zip(answers) {
            let (table, count) = *part;
            self.known.note_horizon(table, horizon);
            let memory = match leases.next() {
                Some(lease) => Memory::Shared(lease),
                None => {
                    let (of_part, rest) = left.split_at(row_bytes(part));
                    left = rest;
                    let mut words = vec![0u64; of_part.len().div_ceil(8)];
                    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..of_part.len()].copy_from_slice(of_part);
                    Memory::Owned(words)
                }
            };
            rows.push(Rows { memory, known: Arc::clone(&self.known), table, count, sources });
        }
        Ok(rows)
    }
}

#[cfg(test)]
impl Pending {
    pub(crate) fn session_pool(&self) -> Arc<crate::arena::Pool> {
        Arc::clone(&self.0.session.pool)
    }
}

impl Drop for PendingParts {
    fn drop(&mut self) {
        if self.open {
            self.session.abandon(self.id);
        }
    }
}
