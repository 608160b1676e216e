//! Owns what can go wrong in `rudder demo`, each with the culprit and what to do about it. Must never lose a child's last
//! words: a failed process is reported with the end of its log.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Most characters of a child's log that an error repeats.
const LOG_TAIL_CHARS: usize = 1_500;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum DemoError {
    /// A compiled-in file does not decode.
    #[error("the compiled-in {asset} is damaged: {reason}; build the program again from a clean checkout")]
    Asset { asset: &'static str, reason: String },
    /// A file or folder of the run.
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// Another part of Rudder refused while the run was being prepared.
    #[error("cannot {what}")]
    Prepare { what: &'static str, source: Box<dyn Error + Send + Sync> },
    /// The daemon's program is not where it should be.
    #[error(
        "there is no rudderd at {path}: the demo starts the rudderd beside its own program; build both with \
         `cargo build --release -p rudder-daemon --bins`"
    )]
    NoDaemon { path: PathBuf },
    /// The graph and its features need more than there is.
    #[error("{need} needs about {needed_mib} MiB of {of}, and {available_mib} MiB are free; {remedy}")]
    Room { need: String, of: String, needed_mib: u64, available_mib: u64, remedy: &'static str },
    /// Unix sockets have short names.
    #[error(
        "the path of a socket would be too long ({path}, limit {limit} bytes): set TMPDIR to a folder with a shorter \
         name"
    )]
    SocketPath { path: PathBuf, limit: usize },
    /// A process could not be started.
    #[error("cannot start {name}: {source}")]
    Spawn { name: String, source: io::Error },
    /// A process ended that should be running.
    #[error("{name} ended with {status}; the end of its log:\n{log}")]
    Child { name: String, status: String, log: String },
    /// A daemon did not become ready in time.
    #[error("{name} was not ready after {waited_s} s ({reason}); the end of its log:\n{log}")]
    NotReady { name: String, waited_s: u64, reason: String, log: String },
    /// A daemon's HTTP interface said something else than expected.
    #[error("{name}: {reason}")]
    Status { name: String, reason: String },
    /// A message between the demo and a trainer.
    #[error("{who}: {reason}")]
    Control { who: String, reason: String },
    /// Namespaces and shaped links.
    #[error(
        "--link: `{command}` failed: {reason}; it needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and the programs ip and \
         tc; leave --link out to run over loopback"
    )]
    Link { command: String, reason: String },
    /// A trainer's call into the daemon.
    #[error("epoch {epoch}, step {step}")]
    Fetch { epoch: u32, step: u32, source: rudder_client::ClientError },
    /// The demo is being stopped from outside.
    #[error("interrupted")]
    Interrupted,
    /// Rows that were not their owner's.
    #[error("{wrong} of {checked} received rows were not what their owner holds: this is a bug in Rudder")]
    WrongRows { wrong: u64, checked: u64 },
    /// Training depends on the seeds and the rows only, so all policies must end alike.
    #[error("the policies trained different models from the same seeds and rows: this is a bug in Rudder's demo")]
    Models,
}

impl DemoError {
    /// For `map_err`: what was done to which file.
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err`: what another part of Rudder was asked to do.
    pub(super) fn prepare<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Prepare { what, source: source.into() }
    }
}

/// The end of the log at `path`, for an error message; says so where there is none.
pub(super) fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
    if text.is_empty() {
        return "(it wrote nothing)".to_owned();
    }
    let skip = text.chars().count().saturating_sub(LOG_TAIL_CHARS);
    text.chars().skip(skip).collect()
}
