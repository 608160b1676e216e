//! What the kernel gives this node: limits of a process, room for bursts of packets, large pages, memory. Owns the
//! thresholds. Each check is a function of what was read; the reading is beside it and decides nothing.

use crate::finding::Finding;
use crate::style::{bytes, count, percent};
use rudder_daemon::config::Config;
use rudder_daemon::memory::{MemoryReading, MemorySource};
use rudder_peers::settings::MTU_DISCOVERED_MAX;
use std::path::Path;

/// Descriptors beside those of connections: shards, timers, threads' own.
const DESCRIPTORS_SPARE: u64 = 128;
/// Bookkeeping of a cached row and of a tracked id, the bounds that the cache keeps to.
const ROW_BOOKKEEPING_BYTES: u64 = 16;
const ID_BOOKKEEPING_BYTES: u64 = 8;
/// Bit of CAP_NET_ADMIN in a capability mask (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// What is read of a process: its own, or the running daemon's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// `this shell`, or `the running daemon`.
    pub(super) whose: &'static str,
    /// Most open files; nothing if there is no limit.
    pub(super) files: Option<u64>,
    /// Most address space.
    pub(super) address_space: Option<u64>,
    /// May set socket buffers beyond the system's limits.
    pub(super) net_admin: bool,
}

impl Process {
    /// The process of this number, or this one.
    pub(super) fn read(pid: Option<u32>) -> Option<Self> {
        let (folder, whose) = match pid {
            Some(pid) => (format!("/proc/{pid}"), "the running daemon"),
            None => ("/proc/self".to_owned(), "this shell"),
        };
        let limits = std::fs::read_to_string(format!("{folder}/limits")).ok()?;
        let status = std::fs::read_to_string(format!("{folder}/status")).ok()?;
        Some(Self::of(whose, &limits, &status))
    }

    fn of(whose: &'static str, limits: &str, status: &str) -> Self {
        let soft = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
        let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        Self {
            whose,
            files: soft("Max open files"),
            address_space: soft("Max address space"),
            net_admin: mask >> CAP_NET_ADMIN & 1 == 1,
        }
    }
}

/// Whether there are descriptors for all connections that the configuration admits, and address space for the caches'
/// ceilings.
pub(super) fn limits(process: &Process, config: &Config) -> Vec<Finding> {
    let name = "open files";
    let needed = config.local.connections_max as u64 + config.admin.connections_max as u64 + DESCRIPTORS_SPARE;
    let files = match process.files {
        Some(files) if files < needed => {
            let found = format!(
                "{} may open {} files, but local.connections_max and admin.connections_max admit {} connections",
                process.whose,
                count(files as f64),
                config.local.connections_max + config.admin.connections_max
            );
            let mend =
                format!("LimitNOFILE={needed} or more in the systemd unit, or `ulimit -n {needed}` before rudderd");
            let say = if files < DESCRIPTORS_SPARE { Finding::problem } else { Finding::warning };
            say(name.to_owned(), found, mend)
        }
        Some(files) => {
            Finding::ok(name, format!("{} may open {} files; {needed} are enough", process.whose, count(files as f64)))
        }
        None => Finding::ok(name, format!("{} may open any number of files", process.whose)),
    };
    let space = process.address_space.map(|space| {
        let found =
            format!("{} may map {} only; caches keep room up to their ceiling", process.whose, bytes(space as f64));
        Finding::warning("address space", found, "LimitAS=infinity in the systemd unit, or `ulimit -v unlimited`")
    });
    std::iter::once(files).chain(space).collect()
}

/// Most bytes of a socket's receive and send buffer that a process may ask for.
pub(super) fn socket_limits() -> Option<[u64; 2]> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok();
    Some([read("rmem_max")?, read("wmem_max")?])
}

/// Whether a burst of packets finds room in the kernel.
pub(super) fn buffers(limits: Option<[u64; 2]>, process: &Process, config: &Config) -> Finding {
    let name = "UDP buffers";
    let asked = config.peers.socket_buffer_bytes as u64;
    let Some([receive, send]) = limits else {
        return Finding::ok(name, "not known: /proc/sys/net/core cannot be read here");
    };
    let words = format!("net.core.rmem_max {}, wmem_max {}", bytes(receive as f64), bytes(send as f64));
    if process.net_admin {
        return Finding::ok(name, format!("{} may exceed the limits (CAP_NET_ADMIN); {words}", process.whose));
    }
    if receive.min(send) >= asked {
        return Finding::ok(name, format!("{words}; peers.socket_buffer_bytes asks for {}", bytes(asked as f64)));
    }
    let found = format!("{words}, but peers.socket_buffer_bytes asks for {}: bursts lose packets", bytes(asked as f64));
    let mend = format!(
        "sysctl -w net.core.rmem_max={asked} net.core.wmem_max={asked} (and in /etc/sysctl.d), or grant rudderd CAP_NET_ADMIN"
    );
    // With large packets from the first on, there is no way back from losing them.
    let say = if config.peers.mtu > MTU_DISCOVERED_MAX { Finding::problem } else { Finding::warning };
    say(name.to_owned(), found, mend)
}

/// The word in brackets of a file such as `always [madvise] never`.
pub(super) fn chosen(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, after) = text.split_once('[')?;
    after.split_once(']').map(|(word, _)| word.to_owned())
}

/// Whether the cache, which asks for large pages, gets them; arenas in shared memory get them by the setting for that.
pub(super) fn large_pages(anonymous: Option<&str>, shared: Option<&str>) -> Finding {
    let name = "large pages";
    let shared = shared.map_or_else(String::new, |word| format!("; shared memory (shmem_enabled): {word}"));
    match anonymous {
        None => Finding::ok(name, "not known: this kernel has no transparent_hugepage"),
        Some("never") => {
            let found =
                format!("transparent_hugepage is never: reading cached rows costs more page-table walks{shared}");
            let mend = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::warning(name, found, mend)
        }
        Some(word) => Finding::ok(name, format!("transparent_hugepage: {word}{shared}")),
    }
}

/// A table as far as memory is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableSize {
    pub(super) rows: u64,
    pub(super) remote_rows: u64,
    pub(super) row_bytes: u64,
    pub(super) capacity_rows: u64,
    pub(super) ceiling_rows: u64,
}

/// What is free now under the limit that counts.
pub(super) fn memory_reading(config: &Config) -> Option<MemoryReading> {
    let folder = Some(config.cache.cgroup.as_path()).filter(|folder| !folder.as_os_str().is_empty());
    MemorySource::find(folder).read()
}

/// Whether the caches fit into memory beside what is there. A running daemon's cache is part of what is in use.
pub(super) fn memory(reading: Option<MemoryReading>, config: &Config, tables: &[TableSize], running: bool) -> Finding {
    let name = "memory";
    let Some(MemoryReading { limit_bytes, used_bytes }) = reading else {
        return Finding::ok(name, "not known: neither /proc/meminfo nor a cgroup can be read");
    };
    let (limit, used) = (limit_bytes as f64, used_bytes as f64);
    let words = format!("{} of {} in use ({})", bytes(used), bytes(limit), percent(used / limit.max(1.0)));
    if running {
        return Finding::ok(name, format!("{words}, the running daemon's cache included"));
    }
    let needs = |rows: fn(&TableSize) -> u64| -> f64 {
        let of = |table: &TableSize| {
            let cached = rows(table) * (table.row_bytes + ROW_BOOKKEEPING_BYTES);
            (cached + ID_BOOKKEEPING_BYTES * table.remote_rows.min(table.rows)) as f64
        };
        tables.iter().map(of).sum()
    };
    let (capacity, ceiling) = (needs(|table| table.capacity_rows), needs(|table| table.ceiling_rows));
    let room = limit * config.cache.steer.memory_share - used;
    if capacity > room {
        let found = format!(
            "{words}; the caches need {}, but cache.memory_share leaves {}: they will be lowered at the start",
            bytes(capacity),
            bytes(room)
        );
        let mend = "lower cache.capacity, give the node or cgroup more memory, or stop what uses it";
        let say = if room <= 0.0 { Finding::problem } else { Finding::warning };
        return say(name.to_owned(), found, mend.to_owned());
    }
    let grown = if ceiling > room {
        format!("; not up to their ceiling, {}", bytes(ceiling))
    } else {
        format!(", {} at their ceiling", bytes(ceiling))
    };
    Finding::ok(name, format!("{words}; the caches need {}{grown}", bytes(capacity)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity::{self, Ok, Problem, Warning};

    fn process(files: Option<u64>) -> Process {
        Process { whose: "this shell", files, address_space: None, net_admin: false }
    }

    fn said(finding: &Finding) -> (Severity, String) {
        (finding.verdict, format!("{} -> {}", finding.found, finding.mend.clone().unwrap_or_default()))
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max address space         1048576              unlimited            bytes\n\
                      Max open files            1024                 1048576              files\n";
        let process = Process::of("x", limits, "Name: y\nCapEff:\t0000000000001000\n");
        assert_eq!((process.files, process.address_space, process.net_admin), (Some(1024), Some(1 << 20), true));
        let process = Process::of("x", "Max open files  unlimited unlimited files\n", "CapEff: 0000000000000fff\n");
        assert_eq!((process.files, process.address_space, process.net_admin), (None, None, false));
        assert!(Process::read(None).is_some() && Process::read(Some(std::process::id())).is_some());
    }

    #[test]
    fn few_descriptors_or_little_address_space_are_found() {
        let config = Config::default();
        let judge = |files| said(&limits(&process(files), &config)[0]);
        assert_eq!((judge(Some(1024)).0, judge(None).0), (Ok, Ok));
        let (verdict, text) = judge(Some(256));
        assert!(verdict == Warning && text.contains("LimitNOFILE=448") && text.contains("320 connections"), "{text}");
        assert_eq!(judge(Some(64)).0, Problem);
        let tight = Process { address_space: Some(1 << 30), ..process(None) };
        assert_eq!(said(&limits(&tight, &config)[1]).0, Warning);
    }

    #[test]
    fn small_socket_buffers_are_found_and_worse_with_large_packets() {
        let mut config = Config::default();
        let small = Some([212_992, 4 << 20]);
        let (verdict, text) = said(&buffers(small, &process(None), &config));
        assert!(verdict == Warning && text.contains("sysctl -w net.core.rmem_max=4194304"), "{text}");
        config.peers.mtu = 6500;
        assert_eq!(buffers(small, &process(None), &config).verdict, Problem);
        assert_eq!(buffers(Some([4 << 20; 2]), &process(None), &config).verdict, Ok);
        let admin = Process { net_admin: true, ..process(None) };
        assert_eq!(buffers(small, &admin, &config).verdict, Ok);
    }

    #[test]
    fn no_large_pages_are_found() {
        let (verdict, text) = said(&large_pages(Some("never"), Some("never")));
        assert!(verdict == Warning && text.contains("echo madvise"), "{text}");
        assert_eq!(large_pages(Some("madvise"), Some("never")).verdict, Ok);
        assert_eq!(large_pages(None, None).verdict, Ok);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("enabled"), "always [madvise] never\n").unwrap();
        assert_eq!(chosen(&dir.path().join("enabled")).as_deref(), Some("madvise"));
    }

    #[test]
    fn caches_that_do_not_fit_are_found() {
        let config = Config::default();
        let table = TableSize {
            rows: 2 << 20,
            remote_rows: 1 << 20,
            row_bytes: 1008,
            capacity_rows: 1 << 19,
            ceiling_rows: 1 << 20,
        };
        let judge = |used_bytes| {
            said(&memory(Some(MemoryReading { limit_bytes: 2 << 30, used_bytes }), &config, &[table], false))
        };
        let (verdict, text) = judge(1 << 28);
        assert!(verdict == Ok && text.contains("the caches need 520.0 MiB, 1.0 GiB at their ceiling"), "{text}");
        assert!(judge(1 << 30).1.contains("not up to their ceiling"));
        let (verdict, text) = judge(3 << 29);
        assert!(verdict == Warning && text.contains("lowered at the start"), "{text}");
        assert_eq!(judge(2 << 30).0, Problem);
        let running =
            memory(Some(MemoryReading { limit_bytes: 2 << 30, used_bytes: 3 << 29 }), &config, &[table], true);
        assert_eq!(running.verdict, Ok);
    }
}
