//! The calls of a connection that take a while. It owns their places among the requests in flight: each call holds one
//! until all that follows from it is done. It must never make a call wait for the bookkeeping of another.

use crate::serve::error::RequestError;
use crate::serve::fetch::job::Job;
use crate::serve::own::out::Out;
use crate::serve::session::checks::{Local, Session};
use crate::serve::session::parts::FetchCall;
use crate::serve::session::replies::Replies;
use crate::serve::session::translate::bytes_of;
use futures_util::future::join_all;
use rudder_agent::tools::{IdsAre, ToolCall, Warm};
use rudder_client::IdSpace;
use rudder_client::wire::{IdRun, IdWidth, IdsPart, Place, Reply, RowsAnswer, RowsCall};
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
    pub(crate) async fn fetch(&self, id: u64, call: &FetchCall, payload: &[u8]) -> Result<(), RequestError> {
        if self.local.engine.is_draining() {
            return Err(RequestError::Draining);
        }
        let jobs = self.jobs(id, call, payload).await?;
        let place = self.place().await?;
        // One poll here spares fetches that need no peer a trip through the scheduler.
        self.begin(answer_fetch(Arc::clone(&self.local), Arc::clone(&self.replies), id, jobs, place)).await;
        Ok(())
    }

    /// Takes an announcement; beside what comes next on the connection, but in the order of the connection's
    /// announcements. Nobody hears of it unless it is refused.
    pub(crate) async fn announce(
        &self,
        batch: u64,
        step: Option<u64>,
        parts: &[IdsPart],
        payload: &[u8],
    ) -> Result<(), RequestError> {
        let parts = self.announced(parts, payload).await?;
        let (place, member) = (self.place().await?, Arc::clone(self.member()?));
        let (engine, replies) = (Arc::clone(&self.local.engine), Arc::clone(&self.replies));
        engine.hold(member.id(), batch, &parts);
        // The first poll gives it its place in the queue.
        self.begin(async move {
            if let Err(error) = engine.announce(&member, batch, step, parts).await {
                tracing::debug!(%error, "announcement refused");
                replies.note(&error);
            }
            drop(place);
        })
        .await;
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
    pub(crate) async fn warm(&self, id: u64, table: u16, run: &IdRun, payload: &[u8]) -> Result<(), RequestError> {
        let table = self.table(table)?.name.clone();
        let ids = self.read_ids(run, payload)?;
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
        table: u16,
        from: IdSpace,
        run: &IdRun,
        payload: &[u8],
    ) -> Result<(), RequestError> {
        let vertices = self.vertices(table)?;
        let (ids, back) = self.check_in_place(run, size_of::<u64>(), payload)?;
        let work =
            async move { Ok(Whole(Reply::Translated, back.put(bytes_of(&vertices.translate(from, ids).await?)))) };
        self.beside(id, work).await
    }

    /// Answers which node owns each vertex.
    pub(crate) async fn owners(&self, id: u64, table: u16, run: &IdRun, payload: &[u8]) -> Result<(), RequestError> {
        let vertices = self.vertices(table)?;
        let (ids, back) = self.check_in_place(run, size_of::<u16>(), payload)?;
        self.beside(id, async move { Ok(Whole(Reply::Translated, back.put(vertices.owners(ids).await?))) }).await
    }

    /// Answers the ids of vertices by their names.
    pub(crate) async fn find_names(&self, id: u64, table: u16, count: u64, names: Vec<u8>) -> Result<(), RequestError> {
        let (vertices, count) = (self.vertices(table)?, self.count(count)?);
        let work = async move { Ok(Whole(Reply::Translated, bytes_of(&vertices.find(count, names).await?))) };
        self.beside(id, work).await
    }

    /// Answers the names of vertices.
    pub(crate) async fn names_of(&self, id: u64, table: u16, count: u64, payload: &[u8]) -> Result<(), RequestError> {
        let vertices = self.vertices(table)?;
        let ids = self.read_ids(&IdRun { count, width: IdWidth::Eight, at: Place::Inline }, payload)?;
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

/// Fetches and answers. What is owed to the caches is handed on after that; the place is kept until it was taken.
async fn answer_fetch(
    local: Arc<Local>,
    replies: Arc<Replies>,
    id: u64,
    jobs: Vec<Arc<Job>>,
    place: OwnedSemaphorePermit,
) {
    // All of them, whatever becomes of one: until then they may write to the places of their rows.
    let outcomes = join_all(jobs.iter().map(|job| local.engine.fetch(job))).await;
    match outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        None => {
            let told = outcomes.iter().zip(&jobs).filter_map(|(outcome, job)| {
                let sources = outcome.as_ref().ok()?.sources;
                Some(RowsAnswer { sources, horizon: local.engine.horizon(job.table) })
            });
            let reply = Reply::Rows(told.collect());
            let mut payload = Vec::new();
            for job in &jobs {
                if let Out::Inline(buffer) = &job.out {
                    payload.append(&mut buffer.lock());
                }
            }
            replies.send(id, reply, &payload).await;
        }
        Some(error) => {
            tracing::debug!(request = %format_args!("{id:016x}"), %error, "fetch failed");
            replies.refuse(id, error, false).await;
        }
    }
    for (job, outcome) in jobs.iter().zip(outcomes) {
        if let Ok(answered) = outcome
            && job.learn
        {
            local.engine.account(job.table, answered).await;
        }
    }
    drop(place);
}
