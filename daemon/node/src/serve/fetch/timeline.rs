//! Where the time of one fetch went. It owns the stages, and must never cost a fast fetch more than a few readings of
//! the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When the stages of a fetch had ended, as nanoseconds since it arrived.
#[derive(Debug)]
pub(crate) struct Timeline {
    begun: Instant,
    stages: [AtomicU64; 3],
}

/// A stage of a fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    /// What this node holds was copied.
    Gathered,
    /// The peers had answered.
    Landed,
    /// Their rows were copied, and blocks of the own shard were read.
    Placed,
}

impl Timeline {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), stages: Default::default() }
    }

    /// The stage has ended now.
    pub(crate) fn mark(&self, stage: Stage) {
        self.stages[stage as usize].store(self.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Milliseconds of each stage; what never came counts as nothing.
    pub(crate) fn stages_ms(&self) -> [f64; 3] {
        let mut before = 0;
        self.stages.each_ref().map(|stage| {
            let end = stage.load(Ordering::Relaxed).max(before);
            let spent = end - before;
            before = end;
            spent as f64 / 1e6
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_apart_and_a_missing_one_is_nothing() {
        let timeline = Timeline::start();
        timeline.stages[0].store(2_000_000, Ordering::Relaxed);
        timeline.stages[2].store(5_000_000, Ordering::Relaxed);
        assert_eq!(timeline.stages_ms(), [2.0, 0.0, 3.0]);
    }
}
