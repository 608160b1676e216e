//! Owns what can go wrong in the demo itself, each with the culprit and what to do about it; what goes wrong with
//! processes, files and links is [`StageError`]. It must never print.

use std::error::Error;
use std::io;
use std::path::Path;

use rudder_stage::StageError;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Processes, files, certificates and links.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A compiled-in file does not decode.
    #[error("the compiled-in {asset} is damaged: {reason}; build the program again from a clean checkout")]
    Asset {
        /// Which file.
        asset: &'static str,
        /// What it said, or why it said nothing.
        reason: String,
    },
    /// The graph and its features need more than there is.
    #[error("{need} needs about {needed_mib} MiB of {of}, and {available_mib} MiB are free; {remedy}")]
    Room {
        /// What needs the room.
        need: String,
        /// Of what.
        of: String,
        /// How much it needs.
        needed_mib: u64,
        /// How much is free.
        available_mib: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A message between the demo and a trainer.
    #[error("{who}: {reason}")]
    Control {
        /// Who.
        who: String,
        /// What it said, or why it said nothing.
        reason: String,
    },
    /// A trainer's call into the daemon.
    #[error("epoch {epoch}, step {step}")]
    Fetch {
        /// In which epoch.
        epoch: u32,
        /// At which step.
        step: u32,
        /// Why.
        source: rudder_client::ClientError,
    },
    /// Rows that were not their owner's.
    #[error("{wrong} of {checked} received rows were not what their owner holds: this is a bug in Rudder")]
    WrongRows {
        /// Rows that were wrong.
        wrong: u64,
        /// Rows that were checked.
        checked: u64,
    },
    /// Training depends on the seeds and the rows only, so all policies must end alike.
    #[error("the policies trained different models from the same seeds and rows: this is a bug in Rudder's demo")]
    Models,
}

impl DemoError {
    /// For `map_err`: what was done to which file.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let of = StageError::file(what, path);
        move |source| Self::Stage(of(source))
    }

    /// For `map_err`: what another part of Rudder was asked to do.
    pub(crate) fn prepare<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Stage(StageError::prepare(what)(source))
    }

    /// Whether a process that died may be behind this: its broken connections are noticed before the kernel has
    /// reported its end.
    pub(crate) fn may_hide_a_death(&self) -> bool {
        matches!(self, Self::Control { .. } | Self::Stage(StageError::Status { .. }))
    }
}
