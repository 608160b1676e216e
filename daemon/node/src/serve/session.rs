//! One connection of a trainer: reads its calls, serves them side by side, writes the answers. It owns the connection's
//! arenas and the limits on what the client may ask for. It must never believe a length, an offset or a descriptor before
//! it was checked, and never let one client's mistake touch another.

mod calls;

use super::Shared;
use super::engine::Job;
use super::error::RequestError;
use super::gather::Out;
use super::receive::{Receiver, SAME_VERSION};
use super::replies::Replies;
use super::timing::Timeline;
use hashbrown::HashMap;
use rudder_client::TableInfo;
use rudder_client::arena::Mapping;
use rudder_client::wire::frame::Frame;
use rudder_client::wire::{ARENA_ALIGN_BYTES, Call, PROTOCOL_VERSION, Place, Reply, Request, RowsCall, codec};
use rudder_dataset::Table;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection being served.
pub(super) struct Session {
    shared: Arc<Shared>,
    connection: u64,
    replies: Arc<Replies>,
    arenas: HashMap<u32, Arc<Mapping>>,
    fds: VecDeque<OwnedFd>,
    inflight: Arc<Semaphore>,
    name: Option<String>,
}

/// Serves `stream` until the client leaves, breaks the protocol, or the daemon stops.
pub(super) async fn serve(shared: Arc<Shared>, connection: u64, stream: UnixStream) {
    let stream = Arc::new(stream);
    let replies = Arc::new(Replies::new(Arc::clone(&stream), shared.config.write_timeout_ms));
    let inflight = Arc::new(Semaphore::new(shared.config.inflight_max));
    let (stop, gone) = (shared.stop.clone(), replies.closed());
    let mut receiver = Receiver::new(stream, &shared.config);
    let mut session = Session {
        shared: Arc::clone(&shared),
        connection,
        replies,
        arenas: HashMap::new(),
        fds: VecDeque::new(),
        inflight,
        name: None,
    };
    let reason = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break "the daemon stops".to_owned(),
            () = gone.cancelled() => break "the client does not read its replies".to_owned(),
            received = receiver.receive(&mut session.fds) => match received {
                Ok(true) => {}
                Ok(false) => break "the client left".to_owned(),
                Err(error) => {
                    session.replies.refuse(0, &error, true).await;
                    break error.to_string();
                }
            },
        }
        if let Err(error) = session.handle_frames(&mut receiver).await {
            break error.to_string();
        }
    };
    shared.engine.forget_trainer(connection);
    tracing::debug!(connection, name = session.name, reason, "local connection closed");
}

impl Session {
    /// Serves every whole frame; an error ends the connection, and was told to the client.
    async fn handle_frames(&mut self, receiver: &mut Receiver) -> Result<(), RequestError> {
        loop {
            let call = match receiver.next_frame() {
                Ok(Some(frame)) => Self::decode(frame),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            let (call, payload) = match call {
                Ok(call) => call,
                Err(error) => {
                    self.replies.refuse(0, &error, true).await;
                    return Err(error);
                }
            };
            let id = call.id;
            match self.handle(call, payload).await {
                Ok(()) => {}
                Err(error) => {
                    let closing = matches!(error, RequestError::Version { .. } | RequestError::Protocol(_));
                    self.replies.refuse(id, &error, closing).await;
                    if closing {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn decode(frame: Frame) -> Result<(Call, Vec<u8>), RequestError> {
        let call = codec::decode(&frame.message)
            .map_err(|error| RequestError::Protocol(format!("{error}; {SAME_VERSION}")))?;
        Ok((call, frame.payload))
    }

    async fn handle(&mut self, Call { id, request }: Call, payload: Vec<u8>) -> Result<(), RequestError> {
        if self.name.is_none() && !matches!(request, Request::Hello { .. }) {
            return Err(RequestError::Protocol("the first message of a connection must be Hello".to_owned()));
        }
        let reply = match request {
            Request::Hello { version, name, trainer: _ } => self.welcome(version, &name)?,
            Request::AddArena { arena, bytes } => self.add_arena(arena, bytes)?,
            Request::DropArena { arena } => {
                self.arenas.remove(&arena).ok_or_else(|| unknown_arena(arena))?;
                Reply::Done
            }
            Request::Progress { steps_per_epoch: 0, .. } => {
                return Err(RequestError::Senseless(
                    "progress with 0 steps per epoch; an epoch has 1 or more".to_owned(),
                ));
            }
            Request::Progress { epoch, step, steps_per_epoch } => {
                self.shared.engine.progress(self.connection, epoch, step, steps_per_epoch);
                Reply::Done
            }
            Request::Announce { table, step, count, ids } => {
                let (table, count) = (self.table(table)?, self.count(count)?);
                let ids = self.read_ids(ids, count, &payload)?;
                let horizon = self.shared.engine.announce(
                    self.connection,
                    usize::from(table.id),
                    step.unwrap_or_default(),
                    &ids,
                )?;
                Reply::Announced { horizon }
            }
            Request::Status => Reply::Status((self.shared.status)()),
            Request::Fetch(call) => return self.fetch(id, &call, &payload).await,
            Request::Update(call) => return self.update(id, &call, payload).await,
            Request::Warm { table, count, ids } => return self.warm(id, (table, count, ids), &payload).await,
            Request::Tool { call } => return self.tool(id, &call).await,
        };
        self.replies.send(id, reply, &[]).await;
        Ok(())
    }

    fn welcome(&mut self, version: u16, name: &str) -> Result<Reply, RequestError> {
        if version != PROTOCOL_VERSION {
            return Err(RequestError::Version { ours: PROTOCOL_VERSION, theirs: version });
        }
        tracing::debug!(connection = self.connection, name, "local connection opened");
        self.name = Some(name.chars().take(128).collect());
        let dataset = &self.shared.engine.dataset;
        let tables = dataset.tables().iter().map(|table| TableInfo {
            id: table.id,
            name: table.name.clone(),
            vertex_type: table.vertex_type.clone(),
            dtype: table.dtype,
            width: table.width,
            rows: table.rows,
            local_rows: table.shard.rows(),
        });
        Ok(Reply::Welcome {
            version: PROTOCOL_VERSION,
            node: dataset.node(),
            tables: tables.collect(),
            arena_bytes_max: self.shared.config.arena_bytes_max,
        })
    }

    fn add_arena(&mut self, arena: u32, bytes: u64) -> Result<Reply, RequestError> {
        let fd = self.fds.pop_front().ok_or_else(|| {
            RequestError::Protocol("an arena was announced without a descriptor beside it".to_owned())
        })?;
        let config = &self.shared.config;
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

    /// Serves a fetch: at once if all rows are here, else beside what comes next on the connection.
    async fn fetch(&mut self, id: u64, call: &RowsCall, payload: &[u8]) -> Result<(), RequestError> {
        if self.shared.engine.is_draining() {
            return Err(RequestError::Draining);
        }
        let job = Arc::new(self.check(id, call, payload)?);
        let permit = Arc::clone(&self.inflight).acquire_owned().await;
        let permit = permit.map_err(|_| RequestError::Internal("the limit on requests in flight is gone"))?;
        let task = answer(Arc::clone(&self.shared), Arc::clone(&self.replies), id, job, permit);
        let mut task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.shared.fetches.track_future(task));
        // One poll here spares fetches that need no peer a trip through the scheduler.
        let ended = std::future::poll_fn(|context| Poll::Ready(task.as_mut().poll(context).is_ready())).await;
        if !ended {
            tokio::spawn(task);
        }
        Ok(())
    }

    /// Holds a fetch against the table and the limits, and finds its places.
    fn check(&self, request: u64, call: &RowsCall, payload: &[u8]) -> Result<Job, RequestError> {
        let timeline = Timeline::start();
        let table = self.table_of_shape(call)?;
        let count = self.count(call.count)?;
        let ids = self.read_ids(call.ids, count, payload)?;
        let out = self.place_rows(call.rows, count, table.row_bytes)?;
        Ok(Job { connection: self.connection, request, timeline, table: usize::from(table.id), ids, out })
    }

    /// The table, if its rows are what the client believes them to be.
    fn table_of_shape(&self, call: &RowsCall) -> Result<&Table, RequestError> {
        let table = self.table(call.table)?;
        if (table.dtype, table.width) == (call.dtype, call.width) {
            return Ok(table);
        }
        Err(RequestError::Shape {
            table: table.name.clone(),
            dtype: table.dtype,
            width: table.width,
            asked_dtype: call.dtype,
            asked_width: call.width,
        })
    }

    fn table(&self, number: u16) -> Result<&Table, RequestError> {
        let tables = self.shared.engine.dataset.tables();
        tables.get(usize::from(number)).ok_or(RequestError::UnknownTable { number, tables: tables.len() })
    }

    /// A number of ids, held against the limit.
    fn count(&self, count: u64) -> Result<usize, RequestError> {
        let limit = self.shared.config.ids_max.min(u32::MAX as usize);
        usize::try_from(count).ok().filter(|&count| count <= limit).ok_or_else(|| RequestError::Limit {
            what: format!("a fetch of {count} ids"),
            key: "local.ids_max",
            limit: limit as u64,
        })
    }

    fn read_ids(&self, place: Place, count: usize, payload: &[u8]) -> Result<Vec<u64>, RequestError> {
        let bytes = count * size_of::<u64>();
        match place {
            Place::Inline if payload.len() == bytes => {
                let words = payload.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().unwrap_or_default()));
                Ok(words.collect())
            }
            Place::Inline => {
                let came = payload.len();
                Err(RequestError::Senseless(format!(
                    "{count} ids are announced, {came} bytes of them came, {bytes} were due"
                )))
            }
            Place::Arena { arena, offset } => {
                let mapping = self.arena(arena, offset, bytes, "ids")?;
                let mut ids = Vec::new();
                mapping.read_ids(offset as usize, count, &mut ids);
                Ok(ids)
            }
        }
    }

    fn place_rows(&self, place: Place, count: usize, row_bytes: usize) -> Result<Out, RequestError> {
        let bytes = count.checked_mul(row_bytes);
        let bytes = bytes.ok_or_else(|| RequestError::Place(format!("{count} rows of {row_bytes} bytes")))?;
        match place {
            Place::Inline if bytes <= self.shared.config.inline_bytes_max => {
                Ok(Out::Inline(Mutex::new(vec![0; bytes])))
            }
            Place::Inline => Err(RequestError::Limit {
                what: format!("{count} rows of {row_bytes} bytes without shared memory"),
                key: "local.inline_bytes_max",
                limit: self.shared.config.inline_bytes_max as u64,
            }),
            Place::Arena { arena, offset } => {
                Ok(Out::Arena(Arc::clone(self.arena(arena, offset, bytes, "rows")?), offset as usize))
            }
        }
    }

    fn arena(&self, arena: u32, offset: u64, bytes: usize, what: &str) -> Result<&Arc<Mapping>, RequestError> {
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
}

fn unknown_arena(arena: u32) -> RequestError {
    RequestError::Place(format!("arena {arena} is not registered: send AddArena with its memfd first"))
}

/// Fetches, answers, and then settles with the cache; holds its place among the requests in flight until all is done.
async fn answer(shared: Arc<Shared>, replies: Arc<Replies>, id: u64, job: Arc<Job>, permit: OwnedSemaphorePermit) {
    match shared.engine.fetch(&job).await {
        Ok(answered) => {
            let reply = Reply::Rows(answered.sources);
            match &job.out {
                Out::Arena(..) => replies.send(id, reply, &[]).await,
                Out::Inline(buffer) => {
                    let payload =
                        std::mem::take(&mut *buffer.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                    replies.send(id, reply, &payload).await;
                }
            }
            shared.engine.settle(job.table, answered);
        }
        Err(error) => {
            tracing::debug!(request = %format_args!("{id:016x}"), %error, "fetch failed");
            replies.refuse(id, &error, false).await;
        }
    }
    drop(permit);
}
