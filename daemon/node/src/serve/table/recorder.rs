//! Records the accesses of a table on request: the unique remote ids of each fetch. It owns a bounded queue that
//! somebody must empty; while nobody records it costs one load per fetch. It must never hold more ids than its limit,
//! nor go on when its reader is gone.

use crate::recording::{IDLE_MAX, Recorded};
use parking_lot::Mutex;
use rudder_core::cache::Clock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Most ids that wait to be taken, over all tables' recordings one each: 128 MiB.
const HELD_IDS_MAX: usize = 16 << 20;

/// Most ids answered at once, but at least one minibatch.
const TAKEN_IDS_MAX: usize = 1 << 20;

/// Records one table.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    on: AtomicBool,
    recording: Mutex<Option<Recording>>,
}

#[derive(Debug)]
struct Recording {
    minibatches: VecDeque<Recorded>,
    held_ids: usize,
    dropped: u64,
    taken: Instant,
}

impl Recorder {
    /// Whether anybody records.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Records a fetch of these ids.
    pub(crate) fn record(&self, ids: impl Iterator<Item = u64>, clock: Clock, now: Instant) {
        let mut ids: Vec<u64> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let mut held = self.recording.lock();
        let Some(recording) = held.as_mut() else { return };
        if now.saturating_duration_since(recording.taken) > IDLE_MAX {
            self.on.store(false, Ordering::Relaxed);
            *held = None;
            tracing::warn!("a recording ended: nobody took from it");
        } else if recording.held_ids + ids.len() > HELD_IDS_MAX {
            recording.dropped += 1;
        } else {
            recording.held_ids += ids.len();
            recording.minibatches.push_back(Recorded { epoch: clock.epoch, progress: clock.progress, ids });
        }
    }

    /// Begins; `false` if somebody else records.
    pub(crate) fn start(&self, now: Instant) -> bool {
        let mut held = self.recording.lock();
        let busy = held.as_ref().is_some_and(|other| now.saturating_duration_since(other.taken) <= IDLE_MAX);
        if !busy {
            *held = Some(Recording { minibatches: VecDeque::new(), held_ids: 0, dropped: 0, taken: now });
            self.on.store(true, Ordering::Relaxed);
        }
        !busy
    }

    /// The oldest fetches that wait and the number of those dropped; `None` if nobody records.
    pub(crate) fn take(&self, now: Instant) -> Option<(Vec<Recorded>, u64)> {
        let mut held = self.recording.lock();
        let recording = held.as_mut()?;
        recording.taken = now;
        let (mut minibatches, mut ids) = (Vec::new(), 0);
        while let Some(next) = recording.minibatches.front() {
            if ids > 0 && ids + next.ids.len() > TAKEN_IDS_MAX {
                break;
            }
            ids += next.ids.len();
            minibatches.extend(recording.minibatches.pop_front());
        }
        recording.held_ids -= ids;
        Some((minibatches, recording.dropped))
    }

    /// Ends; `false` if nobody records.
    pub(crate) fn stop(&self) -> bool {
        self.on.store(false, Ordering::Relaxed);
        self.recording.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CLOCK: Clock = Clock { epoch: 2, progress: 0.5 };

    #[test]
    fn what_was_recorded_is_taken_once_in_order_and_unique() {
        let (recorder, now) = (Recorder::default(), Instant::now());
        recorder.record([1].into_iter(), CLOCK, now);
        assert!(!recorder.is_on() && recorder.take(now).is_none() && !recorder.stop());
        assert!(recorder.start(now) && recorder.is_on());
        recorder.record([3, 1, 3].into_iter(), CLOCK, now);
        recorder.record([2].into_iter(), CLOCK, now);
        let (taken, dropped) = recorder.take(now).unwrap();
        assert_eq!(taken.iter().map(|one| one.ids.clone()).collect::<Vec<_>>(), [vec![1, 3], vec![2]]);
        assert_eq!((taken[0].epoch, dropped), (2, 0));
        assert!(recorder.take(now).unwrap().0.is_empty());
        assert!(recorder.stop() && !recorder.is_on());
    }

    #[test]
    fn a_recording_is_bounded_and_ends_when_its_reader_is_gone() {
        let (recorder, now) = (Recorder::default(), Instant::now());
        assert!(recorder.start(now));
        let large = HELD_IDS_MAX as u64 / 2 + 1;
        recorder.record(0..large, CLOCK, now);
        recorder.record(0..large, CLOCK, now);
        assert!(!recorder.start(now), "busy");
        let (taken, dropped) = recorder.take(now).unwrap();
        assert_eq!((taken.len(), taken[0].ids.len(), dropped), (1, large as usize, 1));
        let later = now + IDLE_MAX + Duration::from_secs(1);
        recorder.record([1].into_iter(), CLOCK, later);
        assert!(!recorder.is_on() && recorder.take(later).is_none());
        assert!(recorder.start(later));
        assert!(recorder.start(later + IDLE_MAX + Duration::from_secs(1)), "the other reader is gone");
    }
}
