//! Section `[log]`: what is logged, and how.

use rudder_settings::{Invalid, check_plain_http, quoted, within, wrong};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

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
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,rudder_peers=debug`.
    pub level: String,
    /// Shape of a log line.
    pub format: LogFormat,
    /// Time from which a fetch is written to the log with where its time went, in milliseconds; 0 = never.
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

impl LogConfig {
    /// Checks the level. `EnvFilter` takes any bare word for the name of a target, so that a misspelt level would silence the log.
    ///
    /// # Errors
    /// [`Invalid`], which says what to write.
    pub fn validate(&self) -> Result<(), Invalid> {
        let remedy = "write error, warn, info, debug or trace, or directives such as \"info,rudder_peers=debug\"";
        let level = &self.level;
        let bare = level
            .split(',')
            .map(str::trim)
            .find(|directive| !directive.contains(['=', '[', ']']) && directive.parse::<LevelFilter>().is_err());
        if let Some(bare) = bare {
            return wrong("log.level", quoted(level), format!("`{bare}` is no level"), remedy);
        }
        within("log.otlp_queue_max", self.otlp_queue_max, 1..=1 << 20)?;
        within("log.otlp_timeout_ms", self.otlp_timeout_ms, 1..=60_000)?;
        if !(0.0..=1.0).contains(&self.otlp_sample) {
            return wrong("log.otlp_sample", self.otlp_sample, "no share", "write a number from 0 to 1, such as 0.01");
        }
        check_plain_http("log.otlp_endpoint", &self.otlp_endpoint)?;
        match EnvFilter::builder().parse(level) {
            Ok(_) => Ok(()),
            Err(error) => wrong("log.level", quoted(level), error.to_string(), remedy),
        }
    }
}
