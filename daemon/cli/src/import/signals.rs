//! Ends an import that SIGINT, SIGTERM or SIGHUP stops: what it wrote is removed first. It must never catch a signal that
//! the caller had told the process to ignore (`nohup`, a background job of a shell).

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::super::{CliError, style};

/// Signals with their names.
const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// Watches for signals until the process ends.
pub(super) fn watch() -> Result<(), CliError> {
    let ignored = ignored();
    let (mut wake, woken) = UnixStream::pair()?;
    let last = Arc::new(AtomicUsize::new(0));
    for (signal, _) in SIGNALS {
        if ignored & (1 << (signal - 1)) == 0 {
            // Handlers run in this order: the number is there when the thread wakes.
            signal_hook::flag::register_usize(signal, Arc::clone(&last), signal as usize)?;
            pipe::register(signal, woken.try_clone()?)?;
        }
    }
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut byte = [0];
        if wake.read(&mut byte).unwrap_or(0) > 0 {
            end(last.load(Ordering::SeqCst) as i32);
        }
    })?;
    Ok(())
}

fn end(signal: i32) {
    let was_at_work = rudder_import::abandon();
    let name = SIGNALS.iter().find(|(number, _)| *number == signal).map_or("a signal", |(_, name)| name);
    let what = if was_at_work { ": what it had written is removed" } else { "" };
    style::complain(&format!("stopped by {name}{what}"));
    // As if nobody had caught it: the caller sees which signal it was.
    let _ = emulate_default_handler(signal);
    std::process::exit(128 + signal);
}

/// The signals that are ignored, as bits from signal 1.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
