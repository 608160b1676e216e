//! The pulse of a runtime: a task that notes the time each time a thread takes it up. It owns that note, so that
//! whether the threads are alive can be read without asking them. It must never wait for the runtime that it watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

/// Time from beat to beat.
const BEAT: Duration = Duration::from_millis(250);

/// Beats that may be missing before a runtime counts as stuck, whatever shorter time is asked for: a busy machine is
/// not stuck.
const BEATS_MISSING_MAX: u32 = 4;

/// When the threads of a runtime last took up work.
#[derive(Debug)]
pub(super) struct Pulse {
    started: Instant,
    /// Milliseconds from the start to the last beat.
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// The pulse of the runtime of `handle`, for as long as that runs.
    pub(super) fn of(handle: &Handle) -> Self {
        let (started, last_ms) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let noted = Arc::clone(&last_ms);
        handle.spawn(async move {
            let mut beats = tokio::time::interval(BEAT);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beats.tick().await;
                noted.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        });
        Self { started, last_ms }
    }

    /// Whether it beat `within` this time, or within four beats if that is longer.
    pub(super) fn beats(&self, within: Duration) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last) <= within.max(BEATS_MISSING_MAX * BEAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_whose_threads_are_busy_has_no_pulse() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let pulse = Pulse::of(runtime.handle());
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(pulse.beats(Duration::ZERO), "an idle runtime beats");
        runtime.spawn(async { std::thread::sleep(Duration::from_secs(4)) });
        std::thread::sleep(Duration::from_millis(2_000));
        assert!(!pulse.beats(Duration::from_secs(1)) && pulse.beats(Duration::from_secs(60)));
        let begun = Instant::now();
        while !pulse.beats(Duration::from_secs(1)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never beat again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
