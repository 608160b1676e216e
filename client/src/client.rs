//! The client: connects, names tables and keeps the connection. It owns the session of each process that uses it. It
//! must never block without a limit.

use crate::course::Course;
use crate::error::ProtocolError;
use crate::lock::lock;
use crate::nearest::listed;
use crate::numbers::BatchNumbers;
use crate::session::Session;
use crate::wire::{IdSpace, Notice, PROTOCOL_VERSION, Reply, Request, TableInfo};
use crate::{ArenaHooks, ClientError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
    /// How long connecting waits for a daemon that listens on the socket, in milliseconds; 0 does not wait.
    pub wait_ms: u64,
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
    /// Called for each arena, for instance to pin it for a device.
    pub arena_hooks: Option<Arc<dyn ArenaHooks>>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            socket: None,
            timeout_ms: 30_000,
            wait_ms: 0,
            inline: false,
            arena_bytes_max: 64 << 30,
            name: None,
            trainer: None,
            ids: IdSpace::Original,
            fingerprint: None,
            interrupted: None,
            arena_hooks: None,
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
    known: Arc<Known>,
    pub(crate) course: Course,
    pub(crate) numbers: BatchNumbers,
    closed: AtomicBool,
    current: Slot,
}

/// What a client knows of the tables; fetches that were sent share it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) tables: Box<[TableInfo]>,
    /// By table, the batches that the daemon last wanted announced ahead.
    horizons: Box<[AtomicU32]>,
}

/// Stands for a horizon that no daemon has told.
const UNTOLD: u32 = u32::MAX;

impl Known {
    fn new(tables: Vec<TableInfo>) -> Self {
        Self { horizons: tables.iter().map(|_| AtomicU32::new(UNTOLD)).collect(), tables: tables.into() }
    }

    /// The daemon wants so many batches announced ahead.
    pub(crate) fn note_horizon(&self, table: usize, horizon: u32) {
        self.horizons[table].store(horizon, Ordering::Relaxed);
    }

    /// What the daemon last said.
    pub(crate) fn horizon(&self, table: usize) -> Option<u32> {
        Some(self.horizons[table].load(Ordering::Relaxed)).filter(|&horizon| horizon != UNTOLD)
    }
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
        let (course, known) = (Course::new(tables.len()), Arc::new(Known::new(tables)));
        let (numbers, closed, current) = (BatchNumbers::default(), AtomicBool::new(false), Slot::new(Some(session)));
        Ok(Self { options, node, known, course, numbers, closed, current })
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
        &self.known.tables
    }

    pub(crate) fn known(&self) -> &Arc<Known> {
        &self.known
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
        self.table_index(name).map(|index| &self.tables()[index])
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
        self.tables().iter().position(|table| table.name == name).ok_or_else(|| {
            let known = listed(name, self.tables().iter().map(|table| table.name.as_str()));
            ClientError::UnknownTable { name: name.to_owned(), known }
        })
    }

    /// Ends the connection of this process: calls in flight fail, and so does every later call. Rows that were handed
    /// out stay.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let session = lock(&self.current.of_this_process().session).take();
        if let Some(session) = session {
            session.close();
        }
    }

    /// What the daemon said of announcements and progress, which are not answered, since this was last called: refused
    /// announcements, batches that were fetched in another order than announced. Only the last ones are kept.
    pub fn warnings(&self) -> Vec<Notice> {
        let session = lock(&self.current.of_this_process().session).clone();
        session.map(|session| session.take_notices()).unwrap_or_default()
    }

    fn session(&self) -> Result<Arc<Session>, ClientError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ClientError::Closed);
        }
        let mut current = lock(&self.current.of_this_process().session);
        if let Some(session) = current.as_ref().filter(|session| !session.is_lost()) {
            return Ok(Arc::clone(session));
        }
        let Opened { session, tables, .. } = open(&self.options)?;
        if tables[..] != self.tables()[..] {
            return Err(ClientError::TablesChanged);
        }
        let before = current.replace(Arc::clone(&session));
        drop(current);
        if let Some(before) = before {
            session.keep_notices(before.take_notices());
        }
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
