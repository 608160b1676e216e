//! Section `[log]`: what is logged, and how.

use rudder_settings::{Verdict, check_plain_http, quoted, within, wrong};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};

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
    /// Base URL of a collector of OpenTelemetry (OTLP over HTTP) that gets spans of fetches; empty = spans are not
    /// sent.
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
    /// Checks the level. `Targets` takes any bare word, and any span in brackets, for the name of a target, so that a
    /// misspelt level would silence the log.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid), which says what to write.
    pub fn check(&self) -> Verdict {
        let remedy = "write error, warn, info, debug or trace, or directives such as \"info,rudder_peers=debug\"";
        let level = &self.level;
        let bare = level
            .split(',')
            .map(str::trim)
            .find(|it| it.contains('[') || !it.contains('=') && it.parse::<LevelFilter>().is_err());
        if let Some(bare) = bare {
            return wrong("log.level", quoted(level), format!("`{bare}` is neither a level nor target=level"), remedy);
        }
        within("log.otlp_queue_max", self.otlp_queue_max, 1..=1 << 20)?;
        within("log.otlp_timeout_ms", self.otlp_timeout_ms, 1..=60_000)?;
        if !(0.0..=1.0).contains(&self.otlp_sample) {
            return wrong(
                "log.otlp_sample",
                self.otlp_sample,
                "not a share",
                "write a number from 0 to 1, such as 0.01",
            );
        }
        check_plain_http("log.otlp_endpoint", &self.otlp_endpoint)?;
        match level.parse::<Targets>() {
            Ok(_) => Ok(()),
            Err(error) => wrong("log.level", quoted(level), error.to_string(), remedy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_filters_is_a_level() {
        let check = |level: &str| LogConfig { level: level.to_owned(), ..LogConfig::default() }.check();
        for good in ["warn", "info,rudder_peers=debug", "off,rudder_agent=trace"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, culprit) in [
            ("loud", "`loud`"),
            ("info,[fetch]=debug", "`[fetch]=debug`"),
            ("[fetch{table=feat}]=trace", "`[fetch{table=feat}]=trace`"),
            ("rudder_peers=loud", "rudder_peers=loud"),
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains(culprit) && error.contains("info,rudder_peers=debug"), "{error}");
        }
    }
}
