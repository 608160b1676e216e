//! Owns what can go wrong on the stage, each with the culprit and what to do about it. Must never lose a child's last
//! words: a failed process is reported with the end of its log.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Most characters of a child's log that an error repeats.
const LOG_TAIL_CHARS: usize = 1_500;

/// Why the stage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file or folder of the run.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another part of Rudder refused while the run was being prepared.
    #[error("cannot {what}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The daemon's program is not where it should be.
    #[error(
        "there is no rudderd at {path}: daemons are started from the rudderd beside its own program; build both with \
         `cargo build --release`"
    )]
    NoDaemon {
        /// The file or folder.
        path: PathBuf,
    },
    /// Unix sockets have short names.
    #[error(
        "the path of a socket would be too long ({path}, limit {limit} bytes): set TMPDIR (for `rudder up` XDG_RUNTIME_DIR) \
         to a folder with a shorter name"
    )]
    SocketPath {
        /// The file or folder.
        path: PathBuf,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A folder that another user could have prepared.
    #[error("{path} is not a folder of this user alone: remove it, or set XDG_RUNTIME_DIR to one that is")]
    Foreign {
        /// The file or folder.
        path: PathBuf,
    },
    /// A process could not be started.
    #[error("cannot start {name}: {source}")]
    Spawn {
        /// Which process.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A process ended that should be running.
    #[error("{name} ended with {status}; the end of its log:\n{log}")]
    Child {
        /// Which process.
        name: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A daemon did not become ready in time.
    #[error("{name} was not ready after {waited_s} s ({reason}); the end of its log:\n{log}")]
    NotReady {
        /// Which process.
        name: String,
        /// How long it was waited for, in seconds.
        waited_s: u64,
        /// What it said, or why it said nothing.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// A daemon's HTTP interface said something else than expected.
    #[error("{name}: {reason}")]
    Status {
        /// Which process.
        name: String,
        /// What it said, or why it said nothing.
        reason: String,
    },
    /// Namespaces and shaped links.
    #[error(
        "--link: `{command}` failed: {reason}; it needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and the programs ip and \
         tc; leave --link out to run over loopback"
    )]
    Link {
        /// The command.
        command: String,
        /// What it said, or why it said nothing.
        reason: String,
    },
    /// The run is being stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl StageError {
    /// For `map_err`: what was done to which file.
    pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err`: what another part of Rudder was asked to do.
    pub fn prepare<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Prepare { what, source: source.into() }
    }
}

/// The end of the log at `path`, for an error message; says so if there is no log.
pub(crate) fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
    if text.is_empty() {
        return "(it wrote nothing)".to_owned();
    }
    let skip = text.chars().count().saturating_sub(LOG_TAIL_CHARS);
    text.chars().skip(skip).collect()
}
