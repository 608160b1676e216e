//! Section `[admin]`: the HTTP server for operators and Prometheus, and its limits. It must never read the token, only
//! name its file.

use rudder_settings::{Verdict, WAIT_MS, within};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Section `[admin]`. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of the server; loopback unless the operator opens it.
    pub listen: SocketAddr,
    /// A file that holds a bearer token; when set, every path but `/healthz` and `/readyz` demands it.
    pub token_file: Option<PathBuf>,
    /// Longest wait for the head of a request.
    pub header_timeout_ms: u64,
    /// Longest time from a request to its response.
    pub request_timeout_ms: u64,
    /// Connections at a time; further ones wait in the listen queue.
    pub connections_max: usize,
    /// Tool calls in progress at a time; further ones are refused.
    pub tool_calls_max: usize,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7401)),
            token_file: None,
            header_timeout_ms: 5_000,
            request_timeout_ms: 10_000,
            connections_max: 64,
            tool_calls_max: 4,
        }
    }
}

impl AdminConfig {
    /// Checks the limits; opens nothing.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that is out of range.
    pub fn check(&self) -> Verdict {
        within("admin.header_timeout_ms", self.header_timeout_ms, WAIT_MS)?;
        within("admin.request_timeout_ms", self.request_timeout_ms, WAIT_MS)?;
        within("admin.connections_max", self.connections_max, 1..=65_536)?;
        within("admin.tool_calls_max", self.tool_calls_max, 1..=1024)
    }
}
