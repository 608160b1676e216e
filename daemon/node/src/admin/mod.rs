//! The HTTP interface for operators, Prometheus and external agents: `/metrics`, `/healthz`, `/readyz`, `/v1/status`,
//! `/v1/decisions`, `/v1/trace`, `/v1/tools`, `/v1/log`, and the Model Context Protocol at `/mcp`.
//!
//! It reads what the rest of the daemon shows through [`crate::daemon::Life`] and the collectors registered in
//! [`Metrics`]; it must never be able to slow the fetch path: it has its own limits on connections, tool calls and
//! waits. `/healthz` and `/readyz` read atomics, so that no other request can delay them. Every wait ends: the head of
//! a request, the answer, a reader that does not read, the drain.

mod calls;
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
