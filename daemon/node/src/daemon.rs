//! What a node is to those who watch and steer it: [`Daemon`] is all that they can ask of it, [`Life`] says whether it
//! is there yet and for how much longer. It owns the phases. It must never wait: what takes time is a future or runs on
//! the caller's thread.

use crate::recording::{TraceAnswer, TraceCall, TraceError};
use parking_lot::RwLock;
use prometheus::IntGauge;
use prometheus::core::Collector;
use rudder_agent::journal::Decision;
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How long the threads that serve fetches may take up no work before `/healthz` says so; below the time that probes
/// wait.
const ALIVE_WITHIN: Duration = Duration::from_secs(4);

/// An answer that takes time. It borrows nothing, so that it can outlive the connection that asked for it.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What can be asked of a running node: by HTTP, by the Model Context Protocol, and by those who start and stop it.
pub trait Daemon: Send + Sync + 'static {
    /// The answer of `/v1/status` while the node serves and drains. Takes locks for a short time.
    fn status(&self) -> Value;

    /// Whether fetches are served now. Reads an atomic: never waits.
    fn ready(&self) -> bool;

    /// Whether the threads that serve fetches took up work `within` this time. Reads atomics: never waits.
    fn alive(&self, within: Duration) -> bool;

    /// The last `limit` decisions of the agent, oldest first.
    fn decisions(&self, limit: usize) -> Vec<Decision>;

    /// The metrics of all its modules.
    fn collectors(&self) -> Vec<Box<dyn Collector>>;

    /// Carries out a tool call; the answer may take as long as `cache.tool_wait_ms` says, and longer where peers are
    /// unreachable.
    ///
    /// # Errors
    /// [`ToolError`] naming the argument or table.
    fn tool(&self, call: ToolCall) -> Answer<Result<ToolAnswer, ToolError>>;

    /// Records accesses, or hands out what was recorded.
    ///
    /// # Errors
    /// [`TraceError`] naming the table.
    fn trace(&self, call: TraceCall) -> Answer<Result<TraceAnswer, TraceError>>;

    /// Takes no new work, lets work in progress end, and returns after `deadline` at the latest. Blocks.
    fn shutdown(&self, deadline: Duration);
}

/// Where a daemon is in its life.
#[derive(Clone)]
pub enum Phase {
    /// The node does not exist yet.
    Starting,
    /// Fetches are served.
    Serving(Arc<dyn Daemon>),
    /// Work in progress ends.
    Draining(Arc<dyn Daemon>),
}

/// The phase of one daemon, for all who ask. No lock is held longer than it takes to clone an `Arc`.
pub struct Life {
    phase: RwLock<Phase>,
    ready: IntGauge,
}

impl Life {
    /// A daemon that starts. `ready` is kept at 1 while it serves, else 0.
    #[must_use]
    pub fn new(ready: IntGauge) -> Self {
        Self { phase: RwLock::new(Phase::Starting), ready }
    }

    /// Goes on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.ready.set(i64::from(matches!(phase, Phase::Serving(_))));
        *self.phase.write() = phase;
    }

    /// The node.
    ///
    /// # Errors
    /// What the start still waits for, in words that an operator understands.
    pub fn daemon(&self) -> Result<Arc<dyn Daemon>, &'static str> {
        match &*self.phase.read() {
            Phase::Starting => Err("starting: the dataset is being opened and checked"),
            Phase::Serving(daemon) | Phase::Draining(daemon) => Ok(Arc::clone(daemon)),
        }
    }

    /// The answer of `/readyz`.
    ///
    /// # Errors
    /// Why fetches are not served now, in words an operator understands.
    pub fn ready(&self) -> Result<(), &'static str> {
        if matches!(*self.phase.read(), Phase::Draining(_)) {
            return Err("draining: the daemon is stopping");
        }
        if self.daemon()?.ready() { Ok(()) } else { Err("the node does not serve fetches yet") }
    }

    /// The answer of `/healthz`. While a daemon starts or drains, it is healthy.
    #[must_use]
    pub fn alive(&self) -> bool {
        match self.phase.read().clone() {
            Phase::Serving(daemon) => daemon.alive(ALIVE_WITHIN),
            Phase::Starting | Phase::Draining(_) => true,
        }
    }

    /// The answer of `/v1/status`. Takes locks for a short time.
    #[must_use]
    pub fn status(&self) -> Value {
        match self.daemon() {
            Ok(daemon) => daemon.status(),
            Err(reason) => json!({"ready": false, "reason": reason}),
        }
    }

    /// The last `limit` decisions of the agent, oldest first: the answer of `/v1/decisions`.
    #[must_use]
    pub fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.daemon().map(|daemon| daemon.decisions(limit)).unwrap_or_default()
    }
}
