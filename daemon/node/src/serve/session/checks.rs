//! The session of a client, and what it may ask: held against the tables and the limits of this daemon. It owns the
//! connection's arenas. It must never believe a length, an offset or a descriptor before it was checked.

use crate::serve::engine::Engine;
use crate::serve::error::RequestError;
use crate::serve::own::out::Out;
use crate::serve::session::replies::Replies;
use crate::serve::settings::LocalConfig;
use crate::serve::trainers::Membership;
use crate::serve::versions::update::{NewRows, RowsIn};
use hashbrown::HashMap;
use parking_lot::Mutex;
use prometheus::IntGauge;
use rudder_client::IdSpace;
use rudder_client::arena::Mapping;
use rudder_client::wire::{ARENA_ALIGN_BYTES, IdRun, IdWidth, PartIds, Place, Reply, RowsCall};
use rudder_core::lookahead::TrainerId;
use rudder_dataset::Table;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Answers what `GET /v1/status` says, as JSON.
pub type StatusText = Arc<dyn Fn() -> String + Send + Sync>;

/// What every connection shares.
pub(crate) struct Local {
    pub(crate) engine: Arc<Engine>,
    pub(crate) config: LocalConfig,
    pub(crate) status: StatusText,
    pub(crate) stop: CancellationToken,
    /// Calls under way.
    pub(crate) calls: TaskTracker,
    pub(crate) connections: IntGauge,
}

/// The other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Number of the connection.
    pub(crate) connection: u64,
    /// Its user, by the kernel's word.
    pub(crate) uid: u32,
}

/// A connection being served.
pub(crate) struct Session {
    pub(crate) local: Arc<Local>,
    pub(crate) peer: Peer,
    pub(crate) replies: Arc<Replies>,
    pub(crate) arenas: HashMap<u32, Arc<Mapping>>,
    pub(crate) fds: VecDeque<OwnedFd>,
    pub(crate) name: Option<String>,
    /// Which numbers its ids are.
    pub(crate) ids: IdSpace,
    /// Empty before Hello.
    pub(crate) member: Option<Arc<Membership>>,
    pub(crate) inflight: Arc<Semaphore>,
}

impl Session {
    pub(crate) fn new(local: &Arc<Local>, peer: Peer, stream: &Arc<UnixStream>) -> Self {
        let replies = Arc::new(Replies::new(Arc::clone(stream), local.config.write_timeout_ms));
        let inflight = Arc::new(Semaphore::new(local.config.inflight_max));
        let (arenas, fds, ids) = (HashMap::new(), VecDeque::new(), IdSpace::default());
        Self { local: Arc::clone(local), peer, replies, arenas, fds, name: None, ids, member: None, inflight }
    }

    /// The trainer to which this connection belongs.
    pub(crate) fn member(&self) -> Result<&Arc<Membership>, RequestError> {
        self.member.as_ref().ok_or(RequestError::Internal("a connection without Hello is served"))
    }

    /// Its number.
    pub(crate) fn trainer(&self) -> Result<TrainerId, RequestError> {
        Ok(self.member()?.id())
    }

    pub(crate) fn add_arena(&mut self, arena: u32, bytes: u64) -> Result<Reply, RequestError> {
        let fd = self.fds.pop_front().ok_or_else(|| {
            RequestError::Protocol("an arena was announced without a descriptor beside it".to_owned())
        })?;
        let config = &self.local.config;
        if self.arenas.contains_key(&arena) {
            return Err(RequestError::Place(format!("arena {arena} is registered already")));
        }
        if self.arenas.len() >= config.arenas_max {
            let what = format!("arena {arena} beside {} others", self.arenas.len());
            return Err(RequestError::Limit { what, key: "local.arenas_max", limit: config.arenas_max as u64 });
        }
        let held: u64 = self.arenas.values().map(|mapping| mapping.bytes() as u64).sum();
        if held.saturating_add(bytes) > config.arena_bytes_max {
            let what = format!("an arena of {bytes} bytes beside {held} in others");
            return Err(RequestError::Limit { what, key: "local.arena_bytes_max", limit: config.arena_bytes_max });
        }
        let mapping = Mapping::adopt(fd, bytes).map_err(|error| RequestError::Arena(Arc::new(error)))?;
        self.arenas.insert(arena, Arc::new(mapping));
        Ok(Reply::Done)
    }

    /// The table, if its rows are what the client believes them to be.
    pub(crate) fn table_of_shape(&self, call: &RowsCall) -> Result<&Table, RequestError> {
        let table = self.table(call.table)?;
        let (dtype, width) = (table.form.dtype(), table.form.width());
        if (dtype, width) == (call.dtype, call.width) {
            return Ok(table);
        }
        Err(RequestError::Shape {
            table: table.name.clone(),
            dtype,
            width,
            asked_dtype: call.dtype,
            asked_width: call.width,
        })
    }

    pub(crate) fn table(&self, number: u16) -> Result<&Table, RequestError> {
        let tables = self.local.engine.base.dataset.tables();
        tables.get(usize::from(number)).ok_or(RequestError::UnknownTable { number, tables: tables.len() })
    }

    /// A number of ids, held against the limit.
    pub(crate) fn count(&self, count: u64) -> Result<usize, RequestError> {
        let limit = self.local.config.ids_max.min(u32::MAX as usize);
        usize::try_from(count).ok().filter(|&count| count <= limit).ok_or_else(|| RequestError::Limit {
            what: format!("a fetch of {count} ids"),
            key: "local.ids_max",
            limit: limit as u64,
        })
    }

    /// The ids of a call that has one run of them.
    pub(crate) fn read_ids(&self, run: &IdRun, payload: &[u8]) -> Result<Vec<u64>, RequestError> {
        let mut left = payload;
        let ids = self.read_run(run, &mut left)?;
        Self::refuse_rest(left)?;
        Ok(ids)
    }

    /// A run of ids, each read once. Inline ones are taken from the front of `left`.
    pub(crate) fn read_run(&self, run: &IdRun, left: &mut &[u8]) -> Result<Vec<u64>, RequestError> {
        let &IdRun { count, width, at } = run;
        let count = self.count(count)?;
        let bytes = count * width.bytes();
        match at {
            Place::Inline => {
                let (ids, rest) = left.split_at_checked(bytes).ok_or_else(|| {
                    let came = left.len();
                    RequestError::Senseless(format!(
                        "{count} ids are announced, {came} bytes of them came, {bytes} were due"
                    ))
                })?;
                *left = rest;
                Ok(match width {
                    IdWidth::Four => words(ids).map(|id| u64::from(u32::from_le_bytes(id))).collect(),
                    IdWidth::Eight => words(ids).map(u64::from_le_bytes).collect(),
                })
            }
            Place::Arena { arena, offset } => {
                let mapping = self.arena(arena, offset, bytes, "ids")?;
                let mut ids = Vec::new();
                match width {
                    IdWidth::Four => mapping.read_narrow_ids(offset as usize, count, &mut ids),
                    IdWidth::Eight => mapping.read_ids(offset as usize, count, &mut ids),
                }
                Ok(ids)
            }
        }
    }

    /// Refuses bytes behind the last inline ids.
    pub(crate) fn refuse_rest(left: &[u8]) -> Result<(), RequestError> {
        match left.len() {
            0 => Ok(()),
            bytes => {
                Err(RequestError::Senseless(format!("{bytes} bytes came behind the ids, which nothing announces")))
            }
        }
    }

    pub(crate) fn place_rows(&self, place: Place, count: usize, row_bytes: usize) -> Result<Out, RequestError> {
        let bytes = count.checked_mul(row_bytes);
        let bytes = bytes.ok_or_else(|| RequestError::Place(format!("{count} rows of {row_bytes} bytes")))?;
        match place {
            Place::Inline if bytes <= self.local.config.inline_bytes_max => Ok(Out::Inline(Mutex::new(vec![0; bytes]))),
            Place::Inline => Err(RequestError::Limit {
                what: format!("{count} rows of {row_bytes} bytes without shared memory"),
                key: "local.inline_bytes_max",
                limit: self.local.config.inline_bytes_max as u64,
            }),
            Place::Arena { arena, offset } => {
                Ok(Out::Arena(Arc::clone(self.arena(arena, offset, bytes, "rows")?), offset as usize))
            }
        }
    }

    pub(crate) fn arena(
        &self,
        arena: u32,
        offset: u64,
        bytes: usize,
        what: &str,
    ) -> Result<&Arc<Mapping>, RequestError> {
        let mapping = self.arenas.get(&arena).ok_or_else(|| unknown_arena(arena))?;
        if !offset.is_multiple_of(ARENA_ALIGN_BYTES) {
            return Err(RequestError::Place(format!(
                "offset {offset} of {what} is no multiple of {ARENA_ALIGN_BYTES}"
            )));
        }
        if !mapping.holds(offset, bytes as u64) {
            let size = mapping.bytes();
            let text = format!(
                "arena {arena} is too small: {bytes} bytes of {what} at offset {offset}, it holds {size}: register a larger one"
            );
            return Err(RequestError::Place(text));
        }
        Ok(mapping)
    }

    /// Holds an update against the table and the limits, and finds its rows.
    pub(crate) fn check_update(&self, call: &RowsCall, payload: Vec<u8>) -> Result<NewRows, RequestError> {
        let table = self.table_of_shape(call)?;
        let PartIds::Given(run) = call.ids else {
            return Err(RequestError::Senseless("an update without ids of its own".to_owned()));
        };
        let count = self.count(run.count)?;
        let (id_bytes, bytes) = (count * run.width.bytes(), count.checked_mul(table.row_bytes));
        let bytes = bytes.ok_or_else(|| RequestError::Place(format!("{count} rows of {} bytes", table.row_bytes)))?;
        let inline_ids = if run.at == Place::Inline { id_bytes } else { 0 };
        let inline_rows = if call.rows == Place::Inline { bytes } else { 0 };
        if payload.len() != inline_ids + inline_rows {
            let (came, due) = (payload.len(), inline_ids + inline_rows);
            return Err(RequestError::Senseless(format!(
                "an update of {count} rows came with {came} bytes behind it, {due} were due"
            )));
        }
        let ids = self.read_ids(&run, &payload[..inline_ids])?;
        let rows = match call.rows {
            Place::Inline => RowsIn::Inline(payload, inline_ids),
            Place::Arena { arena, offset } => {
                RowsIn::Arena(Arc::clone(self.arena(arena, offset, bytes, "rows")?), offset as usize)
            }
        };
        Ok(NewRows { table: usize::from(table.id), ids, rows })
    }
}

/// Ids of `N` bytes each.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|id| id.try_into().unwrap_or([0; N]))
}

/// What to say of an arena that is not registered.
pub(crate) fn unknown_arena(arena: u32) -> RequestError {
    RequestError::Place(format!("arena {arena} is not registered: send AddArena with its memfd first"))
}
