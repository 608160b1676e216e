//! How much memory there is: the limit of the cgroup the daemon runs in, or of the machine, and what of it is in use
//! and could not be taken back. It owns the reading of those files and nothing else; what follows from it is decided by
//! `serve`.

use std::path::{Path, PathBuf};

/// Where version 2 of cgroups is mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Memory of the machine or of the cgroup with the least left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryReading {
    /// Bytes that may be used.
    pub limit_bytes: u64,
    /// Bytes in use, excluding the page cache, which the kernel can reclaim.
    pub used_bytes: u64,
}

/// Where to read.
#[derive(Debug, Clone)]
pub struct MemorySource {
    /// The daemon's cgroup and those around it.
    cgroups: Vec<PathBuf>,
    meminfo: PathBuf,
}

impl MemorySource {
    /// The cgroup in `dir`, or, without one, the daemon's own and all around it.
    #[must_use]
    pub fn find(dir: Option<&Path>) -> Self {
        let cgroups = match dir {
            Some(dir) => vec![dir.to_owned()],
            None => own_cgroups(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        };
        Self { cgroups, meminfo: PathBuf::from("/proc/meminfo") }
    }

    /// What is so now, of the cgroup or machine with the least left; nothing if the kernel does not say.
    #[must_use]
    pub fn read(&self) -> Option<MemoryReading> {
        let machine = std::fs::read_to_string(&self.meminfo).ok().and_then(|text| of_machine(&text));
        let cgroups = self.cgroups.iter().filter_map(|dir| of_cgroup(dir));
        cgroups.chain(machine).min_by_key(|reading| reading.limit_bytes.saturating_sub(reading.used_bytes))
    }
}

/// The cgroup that `/proc/self/cgroup` names, and its ancestors.
fn own_cgroups(text: &str) -> Vec<PathBuf> {
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let own = Path::new(MOUNT).join(path);
    own.ancestors().take_while(|dir| dir.starts_with(MOUNT)).map(Path::to_owned).collect()
}

fn of_cgroup(dir: &Path) -> Option<MemoryReading> {
    let number = |name: &str| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number: no limit.
    let limit_bytes = [number("memory.max"), number("memory.high")].into_iter().flatten().min()?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let field = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    let files = field("active_file ") + field("inactive_file ");
    Some(MemoryReading { limit_bytes, used_bytes: number("memory.current")?.saturating_sub(files) })
}

fn of_machine(text: &str) -> Option<MemoryReading> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let limit_bytes = field("MemTotal:")?;
    Some(MemoryReading { limit_bytes, used_bytes: limit_bytes.saturating_sub(field("MemAvailable:")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_with_the_least_left_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let source = MemorySource::find(Some(dir.path()));
        let machine = source.read().unwrap();
        assert!(machine.limit_bytes > 1 << 20, "nothing in the directory: the machine's");
        write("memory.max", "1000000\n");
        write("memory.high", "max\n");
        write("memory.current", "700000\n");
        write("memory.stat", "anon 1\nactive_file 100000\ninactive_file 50000\n");
        assert_eq!(source.read(), Some(MemoryReading { limit_bytes: 1_000_000, used_bytes: 550_000 }));
        write("memory.high", "600000\n");
        assert_eq!(source.read().unwrap().limit_bytes, 600_000);
        write("memory.max", "max\n");
        write("memory.high", "max\n");
        assert!(source.read().unwrap().limit_bytes > 1 << 20);
    }

    #[test]
    fn ancestors_are_looked_at_up_to_the_mount() {
        let paths = own_cgroups("0::/system.slice/rudderd.service\n");
        let expected = ["/sys/fs/cgroup/system.slice/rudderd.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert!(own_cgroups("1:memory:/x\n").is_empty());
    }

    #[test]
    fn the_machine_is_read_in_kibibytes() {
        let reading = of_machine("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:    40 kB\n");
        assert_eq!(reading, Some(MemoryReading { limit_bytes: 102_400, used_bytes: 61_440 }));
    }
}
