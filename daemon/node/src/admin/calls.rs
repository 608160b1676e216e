//! How the interface asks without waiting on a thread that others need: locks are waited for on blocking threads, tool
//! calls in tasks of their own, and no more of those at a time than `admin.tool_calls_max`. It owns that limit. A call
//! that was begun keeps its place until it ends, even where its caller has gone: the work goes on.

use crate::daemon::Life;
use crate::recording::{TraceAnswer, TraceCall, TraceError};
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Runs `ask`, which may wait for a lock, away from the threads that serve connections; nothing if it panicked.
pub(super) async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(ask).await.ok()
}

/// Passes calls that take time on to the daemon. Clones share the limit.
#[derive(Clone)]
pub(super) struct Calls {
    life: Arc<Life>,
    places: Arc<Semaphore>,
    limit: usize,
}

impl Calls {
    /// At most `limit` tool calls at a time.
    pub(super) fn new(life: Arc<Life>, limit: usize) -> Self {
        Self { life, places: Arc::new(Semaphore::new(limit)), limit }
    }

    /// Carries out a tool call; nothing if it panicked.
    pub(super) async fn tool(&self, call: ToolCall) -> Option<Result<ToolAnswer, ToolError>> {
        let tool = call.tool();
        let daemon = match self.life.daemon() {
            Ok(daemon) => daemon,
            Err(reason) => return Some(Err(ToolError::NotServing { tool, why: reason.to_owned() })),
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Some(Err(ToolError::Busy { tool, limit: self.limit }));
        };
        let task = tokio::spawn(async move {
            let answer = daemon.tool(call).await;
            drop(place);
            answer
        });
        task.await.ok()
    }

    /// Records accesses, or hands out what was recorded; nothing if that panicked.
    pub(super) async fn trace(&self, call: TraceCall) -> Option<Result<TraceAnswer, TraceError>> {
        match self.life.daemon() {
            Ok(daemon) => tokio::spawn(async move { daemon.trace(call).await }).await.ok(),
            Err(reason) => Some(Err(TraceError::NotServing(reason.to_owned()))),
        }
    }
}
