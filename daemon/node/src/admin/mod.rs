//! The HTTP interface for operators, Prometheus and agents of others: `/metrics`, `/healthz`, `/readyz`, `/v1/status`, `/v1/decisions`,
//! `/v1/trace`, `/v1/tools`, `/v1/log`, and the Model Context Protocol at `/mcp`.
//!
//! It reads what the rest of the daemon shows through [`AdminState`] and the collectors registered in [`Metrics`]; it must
//! never be able to slow the fetch path: it has its own limits on connections and waits, and takes no lock of its own while
//! it asks. Every wait ends: the head of a request, the answer, a reader that does not read, the drain.

mod error;
mod local;
mod mcp;
mod metrics;
mod process;
mod routes;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod token;

pub use error::AdminError;
pub use metrics::Metrics;
pub use server::Admin;
pub use settings::AdminConfig;

use crate::recording::{TraceAnswer, TraceCall, TraceError};
use rudder_agent::journal::Decision;
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use rudder_telemetry::logging::LevelError;

/// What the HTTP interface can ask of the daemon. Its calls may block for a short time: they run on blocking threads.
pub trait AdminState: Send + Sync + 'static {
    /// The answer of `/v1/status`.
    fn status(&self) -> serde_json::Value;

    /// Whether the daemon serves fetches now; or why not, in words an operator understands.
    ///
    /// # Errors
    /// The reason, such as `starting: opening the dataset` or `draining`.
    fn ready(&self) -> Result<(), String>;

    /// Whether the threads that serve fetches take up work; while none are to serve, nothing is amiss.
    fn alive(&self) -> bool;

    /// The answer of `POST /v1/trace`.
    ///
    /// # Errors
    /// [`TraceError`] naming the table.
    fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError>;

    /// The last `limit` decisions of the agent, oldest first: the answer of `/v1/decisions`.
    fn decisions(&self, limit: usize) -> Vec<Decision>;

    /// The answer of `POST /v1/tools/{tool}`.
    ///
    /// # Errors
    /// [`ToolError`] naming the argument or table.
    fn tool(&self, call: ToolCall) -> Result<ToolAnswer, ToolError>;

    /// What is logged now: the answer of `GET /v1/log`.
    fn log_level(&self) -> String;

    /// Logs by this level or these directives from now on: `POST /v1/log`.
    ///
    /// # Errors
    /// [`LevelError`], which says what to write.
    fn set_log_level(&self, level: &str) -> Result<(), LevelError>;
}
