//! The settings of serving: section `[local]` (the socket that the trainers of this node talk to, and a limit on
//! everything they can ask for) and the part of section `[cache]` by which caches are grown and shrunk while they run.
//! It must never open anything.

use rudder_settings::{Verdict, WAIT_MS, byte_size, octal_mode, quoted, within, wrong};
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
    /// Who may connect: `uids` (the daemon's own user, root and `allowed_uids`) or `mode` (whoever the permissions of
    /// the socket and its folder let in).
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
    /// Most ids of one fetch, over all its tables.
    pub ids_max: usize,
    /// Most tables of one fetch or announcement.
    pub fetch_tables_max: usize,
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
            fetch_tables_max: 256,
            arenas_max: 64,
            arena_bytes_max: 64 << 30,
            write_timeout_ms: 10_000,
        }
    }
}

/// `sun_path` of `sockaddr_un` holds 108 bytes on Linux, one of them the final zero (unix(7)).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

impl LocalConfig {
    /// Checks the limits and the path of the socket; opens nothing.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        if self.mode > 0o777 {
            let value = format!("\"{:04o}\"", self.mode);
            return wrong("local.mode", value, "not permission bits", "write octal digits in quotes, such as \"0660\"");
        }
        if self.socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let problem = format!("longer than the {SOCKET_PATH_BYTES_MAX} bytes a Unix socket's path may have");
            return wrong("local.socket", quoted(&self.socket.display()), problem, "choose a shorter path");
        }
        within("local.threads", self.threads, 0..=1024)?;
        within("local.gather_threads", self.gather_threads, 0..=1024)?;
        within("local.connections_max", self.connections_max, 1..=65_536)?;
        within("local.inflight_max", self.inflight_max, 1..=65_536)?;
        within("local.frame_bytes_max", self.frame_bytes_max, 4 << 10..=1 << 30)?;
        within("local.inline_bytes_max", self.inline_bytes_max, 4 << 10..=1 << 32)?;
        within("local.ids_max", self.ids_max, 1..=1 << 32)?;
        within("local.fetch_tables_max", self.fetch_tables_max, 1..=4096)?;
        within("local.arenas_max", self.arenas_max, 1..=65_536)?;
        within("local.arena_bytes_max", self.arena_bytes_max, 4 << 10..=1 << 50)?;
        within("local.write_timeout_ms", self.write_timeout_ms, WAIT_MS)
    }
}

/// How far caches are grown and shrunk while they run; its keys belong to section `[cache]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SteerSettings {
    /// Share of the memory limit (of the cgroup, else of the machine) that growing may fill, all other memory counted
    /// in.
    pub memory_share: f64,
    /// Share of the memory limit from which caches are shrunk, back to `memory_share`.
    pub pressure_share: f64,
    /// How long a tool call waits for the rows that it brings in before it answers, in milliseconds.
    pub tool_wait_ms: u64,
}

impl Default for SteerSettings {
    fn default() -> Self {
        Self { memory_share: 0.9, pressure_share: 0.95, tool_wait_ms: 5000 }
    }
}

impl SteerSettings {
    /// Checks the shares, alone and against each other, and the wait.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        let shares = [("cache.memory_share", self.memory_share), ("cache.pressure_share", self.pressure_share)];
        for (key, share) in shares {
            if !(share > 0.0 && share <= 1.0) {
                return wrong(key, share, "not above 0 and at most 1", "write a share of the limit, such as 0.9");
            }
        }
        if self.pressure_share < self.memory_share {
            let problem = format!("below cache.memory_share, {}", self.memory_share);
            return wrong("cache.pressure_share", self.pressure_share, problem, "write a share at least as large");
        }
        within("cache.tool_wait_ms", self.tool_wait_ms, WAIT_MS)
    }
}
