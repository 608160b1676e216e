//! The calls of a connection that take a while. It owns their places among the requests in flight: each call holds one
//! until all that follows from it is done. It must never make a call wait for the bookkeeping of another.

use crate::serve::error::RequestError;
use crate::serve::fetch::job::Job;
use crate::serve::own::out::Out;
use crate::serve::session::checks::{IdsCall, Local, Session};
use crate::serve::session::replies::Replies;
use crate::serve::session::translate::Back;
use rudder_agent::tools::{IdsAre, ToolCall, Warm};
use rudder_client::IdSpace;
use rudder_client::wire::{Place, Reply, RowsCall};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::OwnedSemaphorePermit;

impl Session {
    /// A place among the requests in flight.
    async fn place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        if self.local.engine.is_draining() {
            return Err(RequestError::Draining);
        }
        let permit = Arc::clone(&self.inflight).acquire_owned().await;
        permit.map_err(|_| RequestError::Internal("the limit on requests in flight is gone"))
    }

    /// Serves a fetch: at once if all rows are here, else beside what comes next on the connection.
    pub(crate) async fn fetch(&self, id: u64, call: &RowsCall, payload: &[u8]) -> Result<(), RequestError> {
        if self.local.engine.is_draining() {
            return Err(RequestError::Draining);
        }
        let mut job = self.check_fetch(id, call, payload)?;
        self.to_dataset(job.table, &mut job.ids).await?;
        let job = Arc::new(job);
        let place = self.place().await?;
        // One poll here spares fetches that need no peer a trip through the scheduler.
        self.begin(answer_fetch(Arc::clone(&self.local), Arc::clone(&self.replies), job, place)).await;
        Ok(())
    }

    /// Takes an announcement; beside what comes next on the connection, but in the order of the connection's
    /// announcements.
    pub(crate) async fn announce(
        &self,
        id: u64,
        call: &IdsCall,
        step: Option<u64>,
        payload: &[u8],
    ) -> Result<(), RequestError> {
        let (table, count) = (usize::from(self.table(call.table)?.id), self.count(call.count)?);
        let mut ids = self.read_ids(call.ids, count, payload)?;
        self.to_dataset(table, &mut ids).await?;
        let (place, member) = (self.place().await?, Arc::clone(self.member()?));
        let (engine, replies) = (Arc::clone(&self.local.engine), Arc::clone(&self.replies));
        let work = async move { Ok(Reply::Announced { horizon: engine.announce(&member, table, step, &ids).await? }) };
        // The first poll gives it its place in the queue.
        self.begin(answer(replies, id, work, place)).await;
        Ok(())
    }

    /// Begins a call, and leaves it to itself if it has to wait.
    async fn begin(&self, call: impl Future<Output = ()> + Send + 'static) {
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.local.calls.track_future(call));
        let ended = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
        if !ended {
            tokio::spawn(call);
        }
    }

    /// Writes rows through to their owners.
    pub(crate) async fn update(&self, id: u64, call: &RowsCall, payload: Vec<u8>) -> Result<(), RequestError> {
        let mut new = self.check_update(call, payload)?;
        self.to_dataset(new.table, &mut new.ids).await?;
        let engine = Arc::clone(&self.local.engine);
        self.beside(id, async move { Ok(Reply::Updated { rows: engine.update(new).await? }) }).await
    }

    /// Brings rows into the cache.
    pub(crate) async fn warm(&self, id: u64, call: &IdsCall, payload: &[u8]) -> Result<(), RequestError> {
        let (table, count) = (self.table(call.table)?.name.clone(), self.count(call.count)?);
        let ids = self.read_ids(call.ids, count, payload)?;
        self.call_tool(id, ToolCall::Warm(Warm { table, ids, ids_are: Some(self.ids_are()) })).await
    }

    /// Calls a tool.
    pub(crate) async fn tool(&self, id: u64, call: &str) -> Result<(), RequestError> {
        let mut call = ToolCall::parse(call)?;
        if let ToolCall::Warm(warm) = &mut call {
            warm.ids_are.get_or_insert(self.ids_are());
        }
        self.call_tool(id, call).await
    }

    /// Which numbers the ids of this connection are, as tools name them.
    fn ids_are(&self) -> IdsAre {
        match self.ids {
            IdSpace::Original => IdsAre::Original,
            IdSpace::Dataset => IdsAre::Dataset,
        }
    }

    /// Answers the other number of vertices.
    pub(crate) async fn translate(
        &self,
        id: u64,
        call: &IdsCall,
        from: IdSpace,
        payload: &[u8],
    ) -> Result<(), RequestError> {
        let vertices = self.vertices(call.table)?;
        let (ids, back) = self.check_translate(call, payload)?;
        let work = async move { Ok(Whole(Reply::Translated, back.put(&vertices.translate(from, ids).await?))) };
        self.beside(id, work).await
    }

    /// Answers the ids of vertices by their names.
    pub(crate) async fn find_names(&self, id: u64, table: u16, count: u64, names: Vec<u8>) -> Result<(), RequestError> {
        let (vertices, count) = (self.vertices(table)?, self.count(count)?);
        let work = async move { Ok(Whole(Reply::Translated, Back::Inline.put(&vertices.find(count, names).await?))) };
        self.beside(id, work).await
    }

    /// Answers the names of vertices.
    pub(crate) async fn names_of(&self, id: u64, table: u16, count: u64, payload: &[u8]) -> Result<(), RequestError> {
        let vertices = self.vertices(table)?;
        let ids = self.read_ids(Place::Inline, self.count(count)?, payload)?;
        self.beside(id, async move { Ok(Whole(Reply::Translated, vertices.names_of(ids).await?)) }).await
    }

    async fn call_tool(&self, id: u64, call: ToolCall) -> Result<(), RequestError> {
        let engine = Arc::clone(&self.local.engine);
        let work = async move {
            let answer = engine.tool(call).await?;
            let json = serde_json::to_string(&answer);
            Ok(Reply::Tool(json.map_err(|_| RequestError::Internal("an answer of a tool is no JSON"))?))
        };
        self.beside(id, work).await
    }

    /// Answers call `id` with what comes of `work`, once there is a place for it.
    async fn beside(
        &self,
        id: u64,
        work: impl Future<Output = Result<impl Into<Whole> + 'static, RequestError>> + Send + 'static,
    ) -> Result<(), RequestError> {
        let (place, replies) = (self.place().await?, Arc::clone(&self.replies));
        tokio::spawn(self.local.calls.track_future(answer(replies, id, work, place)));
        Ok(())
    }
}

/// A reply, and the bytes behind it.
struct Whole(Reply, Vec<u8>);

impl From<Reply> for Whole {
    fn from(reply: Reply) -> Self {
        Self(reply, Vec::new())
    }
}

/// Answers call `id` with what comes of `work`.
async fn answer(
    replies: Arc<Replies>,
    id: u64,
    work: impl Future<Output = Result<impl Into<Whole> + 'static, RequestError>> + Send + 'static,
    place: OwnedSemaphorePermit,
) {
    match work.await.map(Into::into) {
        Ok(Whole(reply, payload)) => replies.send(id, reply, &payload).await,
        Err(error) => {
            tracing::debug!(%error, "call failed");
            replies.refuse(id, &error, false).await;
        }
    }
    drop(place);
}

/// Fetches and answers. What is owed to the cache is handed on after that; the place is kept until it was taken.
async fn answer_fetch(local: Arc<Local>, replies: Arc<Replies>, job: Arc<Job>, place: OwnedSemaphorePermit) {
    let id = job.request;
    match local.engine.fetch(&job).await {
        Ok(answered) => {
            let reply = Reply::Rows(answered.sources);
            match &job.out {
                Out::Arena(..) => replies.send(id, reply, &[]).await,
                Out::Inline(buffer) => {
                    let payload = std::mem::take(&mut *buffer.lock());
                    replies.send(id, reply, &payload).await;
                }
            }
            local.engine.account(job.table, answered).await;
        }
        Err(error) => {
            tracing::debug!(request = %format_args!("{id:016x}"), %error, "fetch failed");
            replies.refuse(id, &error, false).await;
        }
    }
    drop(place);
}
