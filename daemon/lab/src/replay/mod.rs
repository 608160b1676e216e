//! Replays recorded accesses against the cache's own code, with no network and no clock: how good a policy is, exactly
//! and repeatably, beside the optimum ([`rudder_core::optimum`]). It owns traces ([`Trace`]) and the drive
//! ([`replay()`]). It must never decide anything that the cache decides in a running daemon.

mod control;
mod drive;
mod trace;

#[cfg(test)]
mod tests;

pub use control::{ControlSpec, Controlled};
pub use drive::{ReplayError, ReplaySpec, Replayed, replay, replay_under};
pub use trace::{FORMAT_VERSION, Trace, TraceError, TraceMeta};
