//! The calls of a trainer that change what is held: updates, rows to be brought in, tools. Each runs beside what comes next
//! on the connection, in a place among its requests in flight.

use super::Session;
use crate::serve::error::RequestError;
use crate::serve::update::{NewRows, RowsIn};
use rudder_agent::tools::{ToolCall, Warm};
use rudder_client::wire::{Place, Reply, RowsCall};
use std::future::Future;
use std::sync::Arc;

impl Session {
    /// Writes rows through to their owners.
    pub(super) async fn update(&self, id: u64, call: &RowsCall, payload: Vec<u8>) -> Result<(), RequestError> {
        let new = self.check_update(call, payload)?;
        let engine = Arc::clone(&self.shared.engine);
        self.beside(id, async move { Ok(Reply::Updated { rows: engine.update(new).await? }) }).await
    }

    /// Brings rows into the cache.
    pub(super) async fn warm(
        &self,
        id: u64,
        (table, count, ids): (u16, u64, Place),
        payload: &[u8],
    ) -> Result<(), RequestError> {
        let (table, count) = (self.table(table)?.name.clone(), self.count(count)?);
        let ids = self.read_ids(ids, count, payload)?;
        self.call_tool(id, ToolCall::Warm(Warm { table, ids })).await
    }

    /// Calls a tool.
    pub(super) async fn tool(&self, id: u64, call: &str) -> Result<(), RequestError> {
        self.call_tool(id, ToolCall::parse(call)?).await
    }

    async fn call_tool(&self, id: u64, call: ToolCall) -> Result<(), RequestError> {
        let engine = Arc::clone(&self.shared.engine);
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
        work: impl Future<Output = Result<Reply, RequestError>> + Send + 'static,
    ) -> Result<(), RequestError> {
        if self.shared.engine.is_draining() {
            return Err(RequestError::Draining);
        }
        let permit = Arc::clone(&self.inflight).acquire_owned().await;
        let permit = permit.map_err(|_| RequestError::Internal("the limit on requests in flight is gone"))?;
        let replies = Arc::clone(&self.replies);
        tokio::spawn(self.shared.fetches.track_future(async move {
            match work.await {
                Ok(reply) => replies.send(id, reply, &[]).await,
                Err(error) => {
                    tracing::debug!(%error, "call failed");
                    replies.refuse(id, &error, false).await;
                }
            }
            drop(permit);
        }));
        Ok(())
    }

    /// Holds an update against the table and the limits, and finds its rows.
    fn check_update(&self, call: &RowsCall, payload: Vec<u8>) -> Result<NewRows, RequestError> {
        let table = self.table_of_shape(call)?;
        let count = self.count(call.count)?;
        let (id_bytes, bytes) = (count * size_of::<u64>(), count.checked_mul(table.row_bytes));
        let bytes = bytes.ok_or_else(|| RequestError::Place(format!("{count} rows of {} bytes", table.row_bytes)))?;
        let inline_ids = if call.ids == Place::Inline { id_bytes } else { 0 };
        let inline_rows = if call.rows == Place::Inline { bytes } else { 0 };
        if payload.len() != inline_ids + inline_rows {
            let (came, due) = (payload.len(), inline_ids + inline_rows);
            return Err(RequestError::Senseless(format!(
                "an update of {count} rows came with {came} bytes behind it, {due} were due"
            )));
        }
        let ids = self.read_ids(call.ids, count, &payload[..inline_ids])?;
        let rows = match call.rows {
            Place::Inline => RowsIn::Inline(payload, inline_ids),
            Place::Arena { arena, offset } => {
                RowsIn::Arena(Arc::clone(self.arena(arena, offset, bytes, "rows")?), offset as usize)
            }
        };
        Ok(NewRows { table: usize::from(table.id), ids, rows })
    }
}
