//! Section `[local]`: the socket that the trainers of this node talk to, and a limit on everything they can ask for.

use rudder_settings::{byte_size, octal_mode};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What decides who may connect to the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowedBy {
    /// The list `local.allowed_uids`, beside the permissions of the socket and its folder.
    #[default]
    Uids,
    /// The permissions of the socket and its folder alone.
    Mode,
}

/// Section `[local]`. Counts are per daemon unless said otherwise; sizes are in bytes and may be written as `"4MiB"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// The Unix socket. Its folder must exist and be writable.
    pub socket: PathBuf,
    /// Permission bits of the socket, octal.
    #[serde(with = "octal_mode")]
    pub mode: u32,
    /// Who may connect: `uids` (the daemon's own user, root and `allowed_uids`) or `mode` (whoever the permissions of the socket and its
    /// folder let in).
    pub allowed_by: AllowedBy,
    /// User ids that may connect, beside the daemon's own and root.
    pub allowed_uids: Vec<u32>,
    /// Threads that serve local sessions; 0 = one per core.
    pub threads: usize,
    /// Threads that one large fetch may use to gather rows; 0 = chosen by the daemon.
    pub gather_threads: usize,
    /// Connections at a time; further ones are refused.
    pub connections_max: usize,
    /// Requests of one connection in progress at a time.
    pub inflight_max: usize,
    /// Longest control frame.
    #[serde(with = "byte_size")]
    pub frame_bytes_max: usize,
    /// Most row bytes of one reply to a client without shared memory.
    #[serde(with = "byte_size")]
    pub inline_bytes_max: usize,
    /// Most ids of one fetch.
    pub ids_max: usize,
    /// Most shared-memory arenas of one connection.
    pub arenas_max: usize,
    /// Most bytes of all arenas of one connection.
    #[serde(with = "byte_size")]
    pub arena_bytes_max: u64,
    /// How long a client may leave a reply unread, in milliseconds, before it is disconnected.
    pub write_timeout_ms: u64,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/rudder/rudder.sock"),
            mode: 0o660,
            allowed_by: AllowedBy::Uids,
            allowed_uids: Vec::new(),
            threads: 0,
            gather_threads: 0,
            connections_max: 256,
            inflight_max: 64,
            frame_bytes_max: 4 << 20,
            inline_bytes_max: 64 << 20,
            ids_max: 16_000_000,
            arenas_max: 64,
            arena_bytes_max: 64 << 30,
            write_timeout_ms: 10_000,
        }
    }
}
