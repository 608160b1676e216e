//! The log of a daemon: where its lines go, in what shape, and which of them. It owns the filter, which can be changed
//! while the daemon runs. It must never fail a daemon: a level that cannot be read is refused and the one before it
//! stays.

use crate::{LogConfig, LogFormat};
use parking_lot::Mutex;
use rudder_settings::Invalid;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// The running log of this process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Logging {
    level: Arc<Mutex<String>>,
    /// Nothing where the process keeps its own log.
    filter: Option<reload::Handle<Targets, Registry>>,
}

/// Why a level was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It cannot be read.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The process keeps its own log.
    #[error("the log of this process cannot be changed: {0}")]
    Fixed(String),
}

impl Logging {
    /// Starts the log of the process: lines to standard error. Once per process.
    #[must_use]
    pub fn start(config: &LogConfig) -> Self {
        // The level was validated with the configuration.
        let (filter, handle) = reload::Layer::new(config.level.parse::<Targets>().unwrap_or_default());
        let lines = tracing_subscriber::registry().with(filter);
        let started = match config.format {
            LogFormat::Text => {
                let ansi =
                    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                lines.with(tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(ansi)).try_init()
            }
            LogFormat::Json => lines.with(tracing_subscriber::fmt::layer().json().with_writer(io::stderr)).try_init(),
        };
        let level = Arc::new(Mutex::new(config.level.clone()));
        Self { level, filter: started.is_ok().then_some(handle) }
    }

    /// What is logged now: a level, or directives.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().clone()
    }

    /// Logs by this level or these directives from now on.
    ///
    /// # Errors
    /// [`LevelError`]; the level before stays.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        LogConfig { level: level.to_owned(), ..LogConfig::default() }.check()?;
        let filter =
            self.filter.as_ref().ok_or_else(|| LevelError::Fixed("it was not started by rudderd".to_owned()))?;
        let targets = level.parse::<Targets>().map_err(|error| LevelError::Fixed(error.to_string()))?;
        filter.reload(targets).map_err(|error| LevelError::Fixed(error.to_string()))?;
        let before = std::mem::replace(&mut *self.level.lock(), level.to_owned());
        tracing::info!(level, before, "the log level was changed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_before_it_is_taken() {
        let (_layer, handle) = reload::Layer::<Targets, Registry>::new(Targets::new());
        let logging = Logging { level: Arc::new(Mutex::new("info".to_owned())), filter: Some(handle) };
        logging.set_level("info,rudder_peers=debug").unwrap();
        assert_eq!(logging.level(), "info,rudder_peers=debug");
        let error = logging.set_level("loud").unwrap_err().to_string();
        assert!(error.contains("loud") && error.contains("debug"), "{error}");
        assert_eq!(logging.level(), "info,rudder_peers=debug");
        assert!(matches!(Logging::default().set_level("debug"), Err(LevelError::Fixed(_))));
    }
}
