//! The EPOCH policy: residents and newcomers are held against each other by the score of [`crate::cache::heat`]. It
//! owns the phase of the training and the shift detector; heat itself lies in the index.

use super::{Clock, Ledger, Policy};
use crate::cache::future::NEVER;
use crate::cache::heat::{Heat, Phase};

/// Parts of an epoch over which the shift detector compares hit rates.
const PHASES: usize = 8;

/// Share of its hit rate one epoch before below which a part of an epoch counts as shifted.
const SHIFT_RATIO: f64 = 0.8;

/// What is left of `past` after a shift.
const FORGET_SCALE: f32 = 0.03;

/// Fewest accesses on either side of a comparison: below it a hit rate is noise.
const SHIFT_ACCESSES_MIN: u64 = 1000;

/// Without progress reports, heat is halved each time this many accesses per slot were seen.
const DECAY_ACCESSES_PER_SLOT: u64 = 8;

/// EPOCH replacement.
#[derive(Debug)]
pub struct EpochPolicy {
    sample: usize,
    /// The running epoch, once progress was reported.
    epoch: Option<u32>,
    phase: Phase,
    shift: ShiftDetector,
    accesses_since_decay: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Part {
    hits: u64,
    accesses: u64,
}

/// Compares the hit rate of each part of an epoch with the same part one epoch before.
#[derive(Debug, Default)]
struct ShiftDetector {
    before: [Part; PHASES],
    running: [Part; PHASES],
    at: usize,
}

impl ShiftDetector {
    fn count(&mut self, hit: bool) {
        let part = &mut self.running[self.at];
        part.accesses += 1;
        part.hits += u64::from(hit);
    }

    /// Moves to the part of `progress`; answers whether the part that ended had shifted.
    fn advance(&mut self, progress: f32) -> bool {
        let at = ((progress.clamp(0.0, 1.0) * PHASES as f32) as usize).min(PHASES - 1);
        let ended = self.at;
        if at == ended {
            return false;
        }
        self.at = at;
        self.shifted(ended)
    }

    fn shifted(&self, part: usize) -> bool {
        let (before, now) = (self.before[part], self.running[part]);
        if before.accesses < SHIFT_ACCESSES_MIN || now.accesses < SHIFT_ACCESSES_MIN {
            return false;
        }
        let rate = |part: Part| part.hits as f64 / part.accesses as f64;
        rate(now) < SHIFT_RATIO * rate(before)
    }

    fn end_epoch(&mut self) -> bool {
        let shifted = self.shifted(self.at);
        self.before = std::mem::take(&mut self.running);
        self.at = 0;
        shifted
    }
}

impl EpochPolicy {
    /// A policy that looks for a victim among `sample` slots.
    #[must_use]
    pub fn new(sample: usize) -> Self {
        Self {
            sample: sample.max(1),
            epoch: None,
            phase: Phase { progress: 0.0, epochs: 0 },
            shift: ShiftDetector::default(),
            accesses_since_decay: 0,
        }
    }

    fn score(&self, heat: Heat) -> f32 {
        if self.epoch.is_some() { heat.score(self.phase) } else { heat.frequency() }
    }

    /// The coldest of a sample of slots, if it is colder than `id`.
    fn victim_by_score(&self, ledger: &mut Ledger<'_>, id: u32) -> Option<u32> {
        let capacity = u32::try_from(ledger.slots.capacity()).ok().filter(|&capacity| capacity > 0)?;
        let mut coldest = (self.score(ledger.index.heat(id)), None);
        for _ in 0..self.sample {
            let slot = ledger.random.u32(0..capacity);
            let Some(resident) = ledger.slots.id(slot) else { continue };
            let score = self.score(ledger.index.heat(resident));
            if score < coldest.0 {
                coldest = (score, Some(slot));
            }
        }
        coldest.1
    }

    /// With a known future: the coldest resident that nobody has announced, else the one that is used last.
    fn victim_by_future(&self, ledger: &mut Ledger<'_>, id: u32) -> Option<u32> {
        let mut coldest: Option<(f32, u32)> = None;
        let Ledger { index, slots, future, next_use, random, .. } = ledger;
        future.draw_idle(self.sample, slots, random, |slot| {
            if let Some(resident) = slots.id(slot) {
                let score = self.score(index.heat(resident));
                if coldest.is_none_or(|(least, _)| score < least) {
                    coldest = Some((score, slot));
                }
            }
        });
        if let Some((score, slot)) = coldest {
            return (*next_use != NEVER || score < self.score(index.heat(id))).then_some(slot);
        }
        let (slot, step) = future.last_due()?;
        (*next_use < step).then_some(slot)
    }

    fn forget(&mut self, ledger: &mut Ledger<'_>) {
        ledger.index.sweep(ledger.touched, |heat| Heat { past: heat.past * FORGET_SCALE, cur: 0 });
        self.shift = ShiftDetector { at: self.shift.at, ..ShiftDetector::default() };
    }

    fn roll(&mut self, ledger: &mut Ledger<'_>) {
        let ended = self.phase.epochs;
        ledger.index.sweep(ledger.touched, |heat| heat.rolled(ended));
        self.phase = Phase { progress: 0.0, epochs: ended + 1 };
    }
}

impl Policy for EpochPolicy {
    fn touch(&mut self, ledger: &mut Ledger<'_>, id: u32, slot: Option<u32>) {
        ledger.index.update_heat(id, ledger.touched, Heat::touched);
        if self.epoch.is_some() {
            self.shift.count(slot.is_some());
        }
        self.accesses_since_decay += 1;
    }

    fn end_minibatch(&mut self, ledger: &mut Ledger<'_>) {
        let window = DECAY_ACCESSES_PER_SLOT * (ledger.slots.capacity() as u64).max(1);
        if self.epoch.is_none() && self.accesses_since_decay >= window {
            self.accesses_since_decay = 0;
            ledger.index.sweep(ledger.touched, Heat::decayed);
        }
    }

    fn victim(&mut self, ledger: &mut Ledger<'_>, id: u32) -> Option<u32> {
        if ledger.future.is_known() { self.victim_by_future(ledger, id) } else { self.victim_by_score(ledger, id) }
    }

    fn tick(&mut self, ledger: &mut Ledger<'_>, clock: Clock) -> bool {
        let shifted = match self.epoch {
            Some(running) if running == clock.epoch => self.shift.advance(clock.progress),
            Some(_) => {
                // Forward, or back to the start of another run: either way an epoch's accesses are complete.
                let shifted = self.shift.end_epoch();
                self.roll(ledger);
                shifted
            }
            None => false,
        };
        if shifted {
            self.forget(ledger);
        }
        self.epoch = Some(clock.epoch);
        self.phase.progress = clock.progress.clamp(0.0, 1.0);
        shifted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(detector: &mut ShiftDetector, hits: u64) {
        (0..2000).for_each(|i| detector.count(i < hits));
    }

    #[test]
    fn a_fall_of_the_hit_rate_is_seen_at_the_end_of_its_part() {
        let mut detector = ShiftDetector::default();
        for part in 0..PHASES {
            assert!(!detector.advance(part as f32 / PHASES as f32));
            fill(&mut detector, 1000);
        }
        assert!(!detector.end_epoch());
        fill(&mut detector, 900);
        assert!(!detector.advance(0.13), "a tenth less is noise");
        fill(&mut detector, 700);
        assert!(detector.advance(0.26), "three tenths less is a shift");
    }
}
