//! Ends an import that SIGINT, SIGTERM or SIGHUP stops: what it wrote is removed first. It must never catch a signal
//! that the caller had told the process to ignore (`nohup`, a background job of a shell).
//!
//! The signals are blocked in every thread, and one thread waits for them. A handler would not do: METIS puts its own
//! in the place of that for SIGTERM while it works, and jumps from it into a stack that another thread does not have.

use std::fs;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::low_level::emulate_default_handler;

use super::super::{CliError, style};

/// The signals that ask a process to end.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Watches for signals until the process ends. To be called before there are other threads.
pub(super) fn watch() -> Result<(), CliError> {
    let ignored = ignored();
    let mut watched = SigSet::empty();
    for signal in SIGNALS {
        if ignored & (1 << (signal as i32 - 1)) == 0 {
            watched.add(signal);
        }
    }
    watched.thread_block()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Ok(signal) = watched.wait() {
            end(signal);
        }
    })?;
    Ok(())
}

fn end(signal: Signal) {
    let was_at_work = rudder_import::abandon();
    let what = if was_at_work { ": what it had written is removed" } else { "" };
    style::complain(&format!("stopped by {signal}{what}"));
    // As if nobody had caught it: the caller sees which signal it was. This unblocks the signal, too.
    let number = signal as i32;
    let _ = emulate_default_handler(number);
    std::process::exit(128 + number);
}

/// The signals that are ignored, as bits from signal 1.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
