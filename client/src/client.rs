//! The client: names tables, leases memory, sends fetches and hands out rows. It must never block without a limit, and
//! never let a caller see rows of a fetch that failed.

use crate::arena::Lease;
use crate::session::{Delivery, Session};
use crate::wire::{PROTOCOL_VERSION, Place, Reply, Request, RowSources, TableInfo};
use crate::{ClientError, DType};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Where `rudderd` listens unless it is told otherwise.
pub const STANDARD_SOCKET: &str = "/run/rudder/rudder.sock";

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Path of the socket; `None` takes `$RUDDER_SOCKET`, else [`STANDARD_SOCKET`].
    pub socket: Option<PathBuf>,
    /// Longest wait for a reply, and for room in the socket.
    pub timeout_ms: u64,
    /// Send ids and rows through the socket instead of shared memory.
    pub inline: bool,
    /// Shared memory this client may take.
    pub arena_bytes_max: u64,
    /// A name for the daemon's log; `None` says the process number.
    pub name: Option<String>,
    /// The trainer that this client belongs to; `None` draws a new one. Processes that announce, fetch and report progress for one
    /// trainer share its number; a fork and a reconnect keep it.
    pub trainer: Option<u128>,
    /// Asked ten times a second while a call waits, without any lock held; `true` ends the wait with
    /// [`ClientError::Interrupted`]. For interpreters that must look at their signals.
    pub interrupted: Option<fn() -> bool>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            socket: None,
            timeout_ms: 30_000,
            inline: false,
            arena_bytes_max: 64 << 30,
            name: None,
            trainer: None,
            interrupted: None,
        }
    }
}

impl ConnectOptions {
    /// Options for the socket at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { socket: Some(path.into()), ..Self::default() }
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        let from_environment = || std::env::var_os("RUDDER_SOCKET").map(PathBuf::from);
        self.socket.clone().or_else(from_environment).unwrap_or_else(|| PathBuf::from(STANDARD_SOCKET))
    }
}

/// A connection to the daemon of this node. Threads may share it, and their fetches run side by side. After a fork, or
/// when the daemon was restarted, the next call connects again by itself; only fetches that were in flight are lost.
#[derive(Debug)]
pub struct Client {
    options: ConnectOptions,
    node: u16,
    pub(crate) tables: Arc<[TableInfo]>,
    current: Slot,
}

/// The session of one process. A fork copies a lock as it is, perhaps held by a thread that the child has not: the child
/// never waits for its parent's, it goes on to a slot of its own.
#[derive(Debug)]
struct Slot {
    pid: u32,
    session: Mutex<Option<Arc<Session>>>,
    child: OnceLock<Box<Slot>>,
}

impl Slot {
    fn new(session: Option<Arc<Session>>) -> Self {
        Self { pid: std::process::id(), session: Mutex::new(session), child: OnceLock::new() }
    }

    fn of_this_process(&self) -> &Slot {
        let pid = std::process::id();
        let mut slot = self;
        while slot.pid != pid {
            slot = slot.child.get_or_init(|| {
                // Close our copy of the parent's socket, if its lock is free; the parent keeps its own.
                if let Ok(mut session) = slot.session.try_lock() {
                    session.take();
                }
                Box::new(Slot::new(None))
            });
        }
        slot
    }
}

/// A fetch that was sent. Dropping it gives the rows up.
#[derive(Debug)]
pub struct Pending {
    session: Arc<Session>,
    id: Option<u64>,
    tables: Arc<[TableInfo]>,
    table: usize,
    count: usize,
}

/// Rows in the order of the ids asked for, in shared memory that is this value's until it is dropped.
#[derive(Debug)]
pub struct Rows {
    memory: Memory,
    tables: Arc<[TableInfo]>,
    table: usize,
    count: usize,
    sources: RowSources,
}

#[derive(Debug)]
enum Memory {
    Shared(Lease),
    /// Words, so that every element type is aligned.
    Owned(Vec<u64>),
}

impl Client {
    /// Connects and learns the tables.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens, [`ClientError::Protocol`] if the versions differ.
    pub fn connect(mut options: ConnectOptions) -> Result<Self, ClientError> {
        options.trainer.get_or_insert_with(draw_trainer);
        let (session, node, tables) = open(&options)?;
        Ok(Self { options, node, tables: tables.into(), current: Slot::new(Some(session)) })
    }

    /// Every table of the dataset.
    #[must_use]
    pub fn tables(&self) -> &[TableInfo] {
        &self.tables
    }

    /// The partition that this daemon owns.
    #[must_use]
    pub fn node(&self) -> u16 {
        self.node
    }

    /// The options it was connected with, for instance to connect again in another process.
    #[must_use]
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// [`ClientError::UnknownTable`], which lists the names there are.
    pub fn table(&self, name: &str) -> Result<&TableInfo, ClientError> {
        self.table_index(name).map(|index| &self.tables[index])
    }

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
        let index = self.table_index(table)?;
        let TableInfo { dtype, width, .. } = self.tables[index];
        self.send_fetch(index, dtype, width, ids)
    }

    /// Fetches rows that the caller believes to be `width` elements of `dtype`; the daemon refuses if they are not.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn fetch_expecting(&self, table: &str, dtype: DType, width: u32, ids: &[u64]) -> Result<Rows, ClientError> {
        self.send_fetch(self.table_index(table)?, dtype, width, ids)?.wait()
    }

    /// Says where in the training this trainer is: `epoch` epochs and `step` of `steps_per_epoch` steps have ended. The
    /// cache's scores live on it.
    ///
    /// # Errors
    /// What the connection suffers.
    pub fn progress(&self, epoch: u32, step: u32, steps_per_epoch: u32) -> Result<(), ClientError> {
        match self.on_session(|session| session.ask(Request::Progress { epoch, step, steps_per_epoch }))? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// What `GET /v1/status` of the daemon says, as JSON.
    ///
    /// # Errors
    /// What the connection suffers.
    pub fn status(&self) -> Result<String, ClientError> {
        match self.on_session(|session| session.ask(Request::Status))? {
            Reply::Status(json) => Ok(json),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn table_index(&self, name: &str) -> Result<usize, ClientError> {
        self.tables.iter().position(|table| table.name == name).ok_or_else(|| {
            let known: Vec<String> = self.tables.iter().map(|table| format!("`{}`", table.name)).collect();
            ClientError::UnknownTable { name: name.to_owned(), known: known.join(", ") }
        })
    }

    fn session(&self) -> Result<Arc<Session>, ClientError> {
        let mut current = self.current.of_this_process().session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = current.as_ref().filter(|session| !session.is_lost()) {
            return Ok(Arc::clone(session));
        }
        let (session, _, tables) = open(&self.options)?;
        if tables[..] != self.tables[..] {
            return Err(ClientError::TablesChanged);
        }
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Calls on the session. If that was lost unnoticed, for instance because the daemon was restarted since the last
    /// call, calls once more on a new one: every call may be made twice.
    pub(crate) fn on_session<T>(
        &self,
        call: impl Fn(&Arc<Session>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        match call(&self.session()?) {
            Err(ClientError::Lost(_)) => call(&self.session()?),
            outcome => outcome,
        }
    }

    fn send_fetch(&self, table: usize, dtype: DType, width: u32, ids: &[u64]) -> Result<Pending, ClientError> {
        self.on_session(|session| self.send_fetch_on(session, table, dtype, width, ids))
    }

    fn send_fetch_on(
        &self,
        session: &Arc<Session>,
        table: usize,
        dtype: DType,
        width: u32,
        ids: &[u64],
    ) -> Result<Pending, ClientError> {
        let info = &self.tables[table];
        let count = ids.len() as u64;
        let raw: &[u8] = bytemuck::cast_slice(ids);
        let mut sender = session.sender();
        let id = if self.options.inline {
            let request =
                Request::Fetch { table: info.id, dtype, width, count, ids: Place::Inline, rows: Place::Inline };
            sender.send(request, raw, None, None)?
        } else {
            let too_large = || ClientError::Memory(format!("{count} rows are more than memory can hold"));
            let rows_bytes = ids.len().checked_mul(info.row_bytes()).ok_or_else(too_large)?.next_multiple_of(64);
            let lease = sender.lease(rows_bytes.checked_add(raw.len()).ok_or_else(too_large)?)?;
            lease.write(rows_bytes, raw);
            let at = |offset: usize| Place::Arena { arena: lease.arena(), offset: (lease.offset() + offset) as u64 };
            let (ids, rows) = (at(rows_bytes), at(0));
            sender.send(Request::Fetch { table: info.id, dtype, width, count, ids, rows }, &[], None, Some(lease))?
        };
        drop(sender);
        Ok(Pending {
            session: Arc::clone(session),
            id: Some(id),
            tables: Arc::clone(&self.tables),
            table,
            count: ids.len(),
        })
    }
}

/// A number that no other trainer of this machine has. The kernel's random numbers do not fail once it has booted; before that, the
/// process number and the clock have to do.
fn draw_trainer() -> u128 {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(16) => u128::from_ne_bytes(bytes),
        _ => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() << 32 | u128::from(std::process::id())
        }
    }
}

fn open(options: &ConnectOptions) -> Result<(Arc<Session>, u16, Vec<TableInfo>), ClientError> {
    let session = Session::connect(options)?;
    let name = options.name.clone().unwrap_or_else(|| format!("pid {}", std::process::id()));
    match session.ask(Request::Hello {
        version: PROTOCOL_VERSION,
        name,
        trainer: options.trainer.unwrap_or_default(),
    })? {
        Reply::Welcome { version, node, tables } if version == PROTOCOL_VERSION => Ok((session, node, tables)),
        Reply::Welcome { version, .. } => Err(ClientError::Protocol(format!(
            "it speaks version {version} of the local protocol, this client {PROTOCOL_VERSION}"
        ))),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Protocol(format!("an answer of the wrong kind: {reply:?}"))
}

impl Pending {
    /// The number of this fetch, by which the logs of the daemons know it (there in hexadecimal).
    #[must_use]
    pub fn request(&self) -> Option<u64> {
        self.id
    }

    /// Whether [`Pending::wait`] would return at once, with rows or an error. Never blocks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.id.is_none_or(|id| self.session.is_ready(id))
    }

    /// Waits for the rows.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn wait(mut self) -> Result<Rows, ClientError> {
        let Some(id) = self.id.take() else { return Err(ClientError::Lost("the fetch was given up".to_owned())) };
        let Delivery { reply, payload, lease } = self.session.wait(id)?;
        let Reply::Rows(sources) = reply else { return Err(unexpected(&reply)) };
        let bytes = self.count * self.tables[self.table].row_bytes();
        let memory = match lease {
            Some(lease) => Memory::Shared(lease),
            None if payload.len() == bytes => {
                let mut words = vec![0u64; bytes.div_ceil(8)];
                bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes].copy_from_slice(&payload);
                Memory::Owned(words)
            }
            None => {
                let message = format!("{} bytes of rows came where {bytes} were due", payload.len());
                return Err(ClientError::Protocol(message));
            }
        };
        Ok(Rows { memory, tables: Arc::clone(&self.tables), table: self.table, count: self.count, sources })
    }
}

#[cfg(test)]
impl Pending {
    pub(crate) fn session_pool(&self) -> Arc<crate::arena::Pool> {
        Arc::clone(&self.session.pool)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.session.abandon(id);
        }
    }
}

impl Rows {
    /// The table they are of.
    #[must_use]
    pub fn table(&self) -> &TableInfo {
        &self.tables[self.table]
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no ids were asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.table().row_bytes()
    }

    /// Where the rows came from.
    #[must_use]
    pub fn sources(&self) -> RowSources {
        self.sources
    }

    /// All rows, one behind the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let len = self.count * self.row_bytes();
        match &self.memory {
            Memory::Shared(lease) => lease.bytes(len),
            Memory::Owned(words) => &bytemuck::cast_slice(words)[..len],
        }
    }

    /// All rows, writable: the memory is this value's alone.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.count * self.row_bytes();
        match &mut self.memory {
            Memory::Shared(lease) => lease.bytes_mut(len),
            Memory::Owned(words) => &mut bytemuck::cast_slice_mut(words)[..len],
        }
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        let bytes = self.row_bytes();
        &self.bytes()[i * bytes..(i + 1) * bytes]
    }

    /// All rows as elements, `len() * width` of them.
    ///
    /// # Errors
    /// [`ClientError::Shape`] if `T` has not the size of the table's elements.
    pub fn as_slice<T: bytemuck::Pod>(&self) -> Result<&[T], ClientError> {
        let table = self.table();
        let mismatch = || ClientError::Shape {
            table: format!("table `{}` of {}", table.name, table.dtype),
            row_bytes: table.row_bytes(),
            element_bytes: size_of::<T>(),
        };
        if size_of::<T>() != table.dtype.size() {
            return Err(mismatch());
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| mismatch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_fork_left_held_is_not_waited_for() {
        let slot = Slot { pid: std::process::id() + 1, session: Mutex::new(None), child: OnceLock::new() };
        let _held = slot.session.lock().unwrap();
        let mine = slot.of_this_process();
        assert_eq!(mine.pid, std::process::id());
        assert!(mine.session.try_lock().is_ok());
        assert!(std::ptr::eq(mine, slot.of_this_process()));
    }
}
