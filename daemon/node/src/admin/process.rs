//! Metrics of the process itself, read from `/proc` at each scrape, under the names that Prometheus' own clients use.
//! Where `/proc` cannot be read they are absent from the scrape.

use prometheus::{
    Counter, Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// Linux reports process times to user space in hundredths of a second on every architecture we build for (`USER_HZ`,
/// time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads resident memory, open descriptors and processor time.
pub(super) struct ProcessCollector {
    resident_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    cpu_seconds: Counter,
    start_seconds: Gauge,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let start_seconds = gauge("process_start_time_seconds", "When the daemon started, in seconds since 1970")?;
        start_seconds.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        Ok(Self {
            resident_bytes: gauge("process_resident_memory_bytes", "Memory of the daemon that is resident")?,
            open_fds: gauge("process_open_fds", "File descriptors that are open")?,
            max_fds: gauge("process_max_fds", "File descriptors that may be open")?,
            cpu_seconds: Counter::new("process_cpu_seconds_total", "Processor time spent, user and system")?,
            start_seconds,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident_bytes, &self.open_fds, &self.max_fds, &self.start_seconds];
        gauges.into_iter().flat_map(Collector::desc).chain(self.cpu_seconds.desc()).collect()
    }

    #[allow(clippy::cast_precision_loss)] // sizes and counts below 2^53
    fn collect(&self) -> Vec<MetricFamily> {
        let readings = [
            (&self.resident_bytes, resident_bytes().map(|bytes| bytes as f64)),
            (&self.open_fds, fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64)),
            (&self.max_fds, max_fds().map(|descriptors| descriptors as f64)),
            (&self.start_seconds, Some(self.start_seconds.get())),
        ];
        let mut families = Vec::new();
        for (gauge, value) in readings {
            if let Some(value) = value {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        if let Some(spent) = cpu_seconds() {
            // A counter only moves forward; two scrapes at once may leave it a tick apart.
            self.cpu_seconds.inc_by((spent - self.cpu_seconds.get()).max(0.0));
            families.extend(self.cpu_seconds.collect());
        }
        families
    }
}

/// The soft limit; nothing if there is none.
fn max_fds() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// `VmRSS` of `/proc/self/status`, which is in KiB.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Fields 14 and 15 of `/proc/self/stat` (proc(5)), counted after the program's name, which may hold spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured() {
        let resident = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert_eq!(ProcessCollector::new().unwrap().collect().len(), 5);
    }
}
