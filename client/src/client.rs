//! The client: names tables, leases memory and sends fetches. It must never block without a limit, and
//! never let a caller see rows of a fetch that failed.

use crate::course::Course;
use crate::error::ProtocolError;
use crate::lock::lock;
use crate::nearest::listed;
use crate::rows::{Memory, Rows};
use crate::session::{Delivery, Session};
use crate::wire::{IdSpace, PROTOCOL_VERSION, Place, Reply, Request, RowsCall, TableInfo};
use crate::{ClientError, DType};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Where `rudderd` listens unless its configuration says otherwise.
pub const STANDARD_SOCKET: &str = "/run/rudder/rudder.sock";

/// Bytes of the alignment that every place in an arena has.
pub(crate) const ALIGN_BYTES: usize = crate::wire::ARENA_ALIGN_BYTES as usize;

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Path of the socket; `None` takes `$RUDDER_SOCKET`, or [`STANDARD_SOCKET`] if that is unset or empty.
    pub socket: Option<PathBuf>,
    /// Longest wait for a reply, and for room in the socket. More than a year counts as a year.
    pub timeout_ms: u64,
    /// Send ids and rows through the socket instead of shared memory.
    pub inline: bool,
    /// Shared memory this client may take; the daemon may have a lower limit.
    pub arena_bytes_max: u64,
    /// A name for the daemon's log; `None` takes the process number.
    pub name: Option<String>,
    /// The trainer that this client belongs to; `None` draws a new one. Processes that announce, fetch and report
    /// progress for one trainer share its number; a fork and a reconnect keep it.
    pub trainer: Option<u128>,
    /// Which numbers ids are, where the import renumbered vertices: by default those of the user's own files.
    pub ids: IdSpace,
    /// Fingerprint of the dataset that the daemon must serve; `None` takes any. [`Client::options`] holds that of the
    /// first connection, so that no reconnection, fork or other process takes rows of another dataset for its own.
    pub fingerprint: Option<u64>,
    /// Called ten times a second while a call waits, without any lock held; `true` ends the wait with
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
            ids: IdSpace::Original,
            fingerprint: None,
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
        let from_environment = || std::env::var_os("RUDDER_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
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
    pub(crate) course: Course,
    current: Slot,
}

/// The session of one process. A fork copies a lock as it is, perhaps held by a thread that the child does not have. So
/// the child never waits for its parent's lock: it has a slot of its own.
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
    id: u64,
    /// Whether nobody waits yet.
    open: bool,
    tables: Arc<[TableInfo]>,
    table: usize,
    count: usize,
}

impl Client {
    /// Connects and learns the tables.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens, [`ClientError::Protocol`] if the versions differ,
    /// [`ClientError::TablesChanged`] if the dataset has another fingerprint than the options want.
    pub fn connect(mut options: ConnectOptions) -> Result<Self, ClientError> {
        options.trainer.get_or_insert_with(draw_trainer);
        let Opened { session, node, tables, fingerprint } = open(&options)?;
        options.fingerprint = Some(fingerprint);
        let course = Course::new(tables.len());
        Ok(Self { options, node, tables: tables.into(), course, current: Slot::new(Some(session)) })
    }

    /// The trainer that this client belongs to. Another process that connects with the same number belongs to it, too.
    #[must_use]
    pub fn trainer(&self) -> u128 {
        self.options.trainer.unwrap_or_default()
    }

    /// Which numbers the ids of this client are.
    #[must_use]
    pub fn ids(&self) -> IdSpace {
        self.options.ids
    }

    /// Fingerprint of the dataset, with every checksum in it.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.options.fingerprint.unwrap_or_default()
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

    /// Tells the cache how far this trainer has come: `epoch` epochs and `step` of `steps_per_epoch` steps have ended.
    /// The cache's scores are computed from it, so call this at each step.
    ///
    /// # Errors
    /// What the connection suffers.
    pub fn progress(&self, epoch: u32, step: u32, steps_per_epoch: u32) -> Result<(), ClientError> {
        match self.on_session(|session| session.ask(Request::Progress { epoch, step, steps_per_epoch }))? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The state of the daemon, the same as its `GET /v1/status`, as JSON.
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
            let known = listed(name, self.tables.iter().map(|table| table.name.as_str()));
            ClientError::UnknownTable { name: name.to_owned(), known }
        })
    }

    fn session(&self) -> Result<Arc<Session>, ClientError> {
        let mut current = lock(&self.current.of_this_process().session);
        if let Some(session) = current.as_ref().filter(|session| !session.is_lost()) {
            return Ok(Arc::clone(session));
        }
        let Opened { session, tables, .. } = open(&self.options)?;
        if tables[..] != self.tables[..] {
            return Err(ClientError::TablesChanged);
        }
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Calls on the session. If the session turns out to be lost, for instance because the daemon was restarted since
    /// the last call, calls once more on a new one: every call may be made twice.
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
            let call = RowsCall { table: info.id, dtype, width, count, ids: Place::Inline, rows: Place::Inline };
            sender.send(Request::Fetch(call), raw, None, None)?
        } else {
            let rows_bytes = ids.len().saturating_mul(info.row_bytes()).checked_next_multiple_of(ALIGN_BYTES);
            let bytes = rows_bytes.and_then(|bytes| bytes.checked_add(raw.len()));
            let lease = sender.lease_rows(ids.len(), bytes)?;
            let rows_bytes = rows_bytes.unwrap_or_default();
            lease.write(rows_bytes, raw);
            let at = |offset: usize| Place::Arena { arena: lease.arena(), offset: (lease.offset() + offset) as u64 };
            let (ids, rows) = (at(rows_bytes), at(0));
            let call = RowsCall { table: info.id, dtype, width, count, ids, rows };
            sender.send(Request::Fetch(call), &[], None, Some(lease))?
        };
        drop(sender);
        Ok(Pending {
            session: Arc::clone(session),
            id,
            open: true,
            tables: Arc::clone(&self.tables),
            table,
            count: ids.len(),
        })
    }
}

/// A number that no other trainer of this machine has. The kernel's random numbers do not fail once it has booted;
/// before that, the process number and the clock have to do.
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

/// A session whose daemon has welcomed the client.
struct Opened {
    session: Arc<Session>,
    node: u16,
    tables: Vec<TableInfo>,
    fingerprint: u64,
}

fn open(options: &ConnectOptions) -> Result<Opened, ClientError> {
    let session = Session::connect(options)?;
    let name = options.name.clone().unwrap_or_else(|| format!("pid {}", std::process::id()));
    match session.ask(Request::Hello {
        version: PROTOCOL_VERSION,
        name,
        trainer: options.trainer.unwrap_or_default(),
        ids: options.ids,
        fingerprint: options.fingerprint,
    })? {
        Reply::Welcome { version, node, tables, fingerprint, arena_bytes_max } if version == PROTOCOL_VERSION => {
            if let Some(table) = tables.iter().find(|table| !table.is_consistent()) {
                // Arrays over rows go by the shape: it must never reach beyond them.
                let (name, shape, width) = (&table.name, &table.shape, table.width);
                let reply = format!("table `{name}` with rows of shape {shape:?} and {width} elements");
                return Err(ClientError::Protocol(ProtocolError::Reply { reply }));
            }
            session.pool.limit_by_daemon(arena_bytes_max);
            Ok(Opened { session, node, tables, fingerprint })
        }
        Reply::Welcome { version, .. } => {
            Err(ClientError::Protocol(ProtocolError::Version { ours: PROTOCOL_VERSION, theirs: version }))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Protocol(ProtocolError::Reply { reply: format!("{reply:?}") })
}

impl Pending {
    /// The number of this fetch, by which the logs of the daemons know it (there in hexadecimal).
    #[must_use]
    pub fn request(&self) -> u64 {
        self.id
    }

    /// Whether [`Pending::wait`] would return at once, with rows or an error. Never blocks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.session.is_ready(self.id)
    }

    /// Waits for the rows.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn wait(mut self) -> Result<Rows, ClientError> {
        self.open = false;
        let Delivery { reply, payload, lease } = self.session.wait(self.id)?;
        let Reply::Rows(sources) = reply else { return Err(unexpected(&reply)) };
        let bytes = self.count * self.tables[self.table].row_bytes();
        let memory = match lease {
            Some(lease) => Memory::Shared(lease),
            None if payload.len() == bytes => {
                let mut words = vec![0u64; bytes.div_ceil(8)];
                bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes].copy_from_slice(&payload);
                Memory::Owned(words)
            }
            None => return Err(ClientError::Protocol(ProtocolError::RowBytes { came: payload.len(), due: bytes })),
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
        if self.open {
            self.session.abandon(self.id);
        }
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
