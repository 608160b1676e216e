//! Section `[log]`: what is logged, and how.

use serde::{Deserialize, Serialize};

/// Shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Section `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,rudder_daemon::peers=debug`.
    pub level: String,
    /// Shape of a log line.
    pub format: LogFormat,
    /// Time from which a fetch is told of in the log, with where its time went, in milliseconds; 0 = never.
    pub slow_fetch_ms: u64,
    /// Base URL of a collector of OpenTelemetry (OTLP over HTTP) that gets spans of fetches; empty = none.
    pub otlp_endpoint: String,
    /// Share of the fetches that are traced, the same ones on all nodes.
    pub otlp_sample: f64,
    /// Spans that may wait to be sent; further ones are lost.
    pub otlp_queue_max: usize,
    /// Longest wait for the collector, in milliseconds.
    pub otlp_timeout_ms: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: String::from("info"),
            format: LogFormat::Text,
            slow_fetch_ms: 1_000,
            otlp_endpoint: String::new(),
            otlp_sample: 0.01,
            otlp_queue_max: 8_192,
            otlp_timeout_ms: 5_000,
        }
    }
}
