//! One connection of a trainer: reads its calls and hands them on. It owns the order in which they are begun, and that
//! a connection ends in good order. It must never wait for the work of a call.

use crate::serve::error::RequestError;
use crate::serve::session::checks::{Local, Peer, Session, unknown_arena};
use crate::serve::session::parts::FetchCall;
use crate::serve::session::receive::{Receiver, SAME_VERSION};
use crate::serve::trainers::TrainerKey;
use rudder_client::wire::frame::Frame;
use rudder_client::wire::{Call, PROTOCOL_VERSION, Reply, Request, codec};
use rudder_client::{IdSpace, TableInfo};
use rudder_core::progress::Progress;
use rudder_dataset::Table;
use std::ops::Range;
use std::sync::Arc;
use tokio::net::UnixStream;

/// Serves `stream` until the client leaves, breaks the protocol, or the daemon stops.
pub(crate) async fn serve(local: Arc<Local>, peer: Peer, stream: UnixStream) {
    let stream = Arc::new(stream);
    let mut session = Session::new(&local, peer, &stream);
    let (stop, gone) = (local.stop.clone(), session.replies.closed());
    let mut receiver = Receiver::new(stream, &local.config);
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
    tracing::debug!(connection = peer.connection, name = session.name, reason, "local connection closed");
}

impl Session {
    /// Serves every whole frame; an error ends the connection, and was told to the client.
    async fn handle_frames(&mut self, receiver: &mut Receiver) -> Result<(), RequestError> {
        loop {
            let call = match receiver.next_frame() {
                Ok(Some(frame)) => self.decode(frame),
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
            let (id, is_one_way) = (call.id, call.request.is_one_way());
            match self.handle(call, payload).await {
                Ok(()) => {}
                Err(error) if is_one_way && !error.closes() => self.replies.note(&error),
                Err(error) => {
                    let closing = error.closes();
                    self.replies.refuse(id, &error, closing).await;
                    if closing {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn decode(&self, frame: Frame) -> Result<(Call, Vec<u8>), RequestError> {
        let call = codec::decode(&frame.message).map_err(|error| {
            let first = self.name.is_none().then(|| codec::version_of_hello(&frame.message)).flatten();
            match first.filter(|&theirs| theirs != PROTOCOL_VERSION) {
                Some(theirs) => RequestError::Version { ours: PROTOCOL_VERSION, theirs },
                None => RequestError::Protocol(format!("{error}; {SAME_VERSION}")),
            }
        })?;
        Ok((call, frame.payload))
    }

    async fn handle(&mut self, Call { id, request }: Call, payload: Vec<u8>) -> Result<(), RequestError> {
        if self.name.is_none() && !matches!(request, Request::Hello { .. }) {
            return Err(RequestError::Protocol("the first message of a connection must be Hello".to_owned()));
        }
        let reply = match request {
            Request::Hello { version, name, trainer, ids, fingerprint } => {
                self.welcome(&Hello { version, name, trainer, ids, fingerprint })?
            }
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
                self.local.engine.trainers.report(self.trainer()?, Progress { epoch, step, steps_per_epoch });
                return Ok(());
            }
            Request::Announce { batch, step, parts } => return self.announce(batch, step, &parts, &payload).await,
            Request::Horizon { table } => Reply::Horizon(self.local.engine.horizon(usize::from(self.table(table)?.id))),
            Request::Status => Reply::Status((self.local.status)()),
            Request::Fetch { parts, batch, learn } => {
                return self.fetch(id, &FetchCall { parts, batch, learn }, &payload).await;
            }
            Request::Update(call) => return self.update(id, &call, payload).await,
            Request::Warm { table, ids } => return self.warm(id, table, &ids, &payload).await,
            Request::Tool { call } => return self.tool(id, &call).await,
            Request::Translate { table, from, ids } => return self.translate(id, table, from, &ids, &payload).await,
            Request::Owners { table, ids } => return self.owners(id, table, &ids, &payload).await,
            Request::LocalRange { table } => {
                let Range { start, end } = self.vertices(table)?.local_range()?;
                Reply::LocalRange { start, end }
            }
            Request::FindNames { table, count } => return self.find_names(id, table, count, payload).await,
            Request::NamesOf { table, count } => return self.names_of(id, table, count, &payload).await,
        };
        self.replies.send(id, reply, &[]).await;
        Ok(())
    }

    fn welcome(&mut self, hello: &Hello) -> Result<Reply, RequestError> {
        if hello.version != PROTOCOL_VERSION {
            return Err(RequestError::Version { ours: PROTOCOL_VERSION, theirs: hello.version });
        }
        let dataset = &self.local.engine.base.dataset;
        let fingerprint = dataset.fingerprint();
        if let Some(known) = hello.fingerprint.filter(|&known| known != fingerprint) {
            return Err(RequestError::DatasetChanged { ours: fingerprint, known });
        }
        tracing::debug!(connection = self.peer.connection, name = hello.name, "local connection opened");
        let key = TrainerKey { uid: self.peer.uid, number: hello.trainer };
        self.member = Some(Arc::new(self.local.engine.trainers.join(key)));
        self.name = Some(hello.name.chars().take(128).collect());
        self.ids = hello.ids;
        Ok(Reply::Welcome {
            version: PROTOCOL_VERSION,
            node: dataset.node().0,
            tables: dataset.tables().iter().map(table_info).collect(),
            fingerprint,
            arena_bytes_max: self.local.config.arena_bytes_max,
        })
    }
}

/// What a client says of itself, as [`Request::Hello`] has it.
struct Hello {
    version: u16,
    name: String,
    trainer: u128,
    ids: IdSpace,
    fingerprint: Option<u64>,
}

/// A table as clients see it.
fn table_info(table: &Table) -> TableInfo {
    TableInfo {
        id: table.id,
        name: table.name.clone(),
        vertex_type: table.vertex_type.clone(),
        dtype: table.form.dtype(),
        width: table.form.width(),
        shape: table.form.shape().to_vec(),
        rows: table.rows,
        local_rows: table.shard.rows(),
        renumbered: table.ids.is_some(),
        named: table.names.is_some(),
    }
}
