//! The EPOCH policy: residents and newcomers are held against each other by the score of [`crate::cache::heat`]. It
//! owns the phase of the training and the shift detector; heat itself lies in the index.

use super::{Clock, Ledger, Policy, Scorer, Slot};
use crate::cache::heat::{Heat, PRIOR_EPOCHS, Phase};

/// Parts of an epoch over which the shift detector compares hit rates.
const PHASES: usize = 8;

/// Share of its hit rate one epoch before below which a part of an epoch counts as shifted.
const SHIFT_RATIO: f64 = 0.8;

/// What is left of `past` after a shift.
const FORGET_SCALE: f32 = 0.03;

/// Fewest accesses on either side of a comparison: below it a hit rate is noise.
const SHIFT_ACCESSES_MIN: u64 = 200;

/// How many standard errors a fall of the hit rate must exceed to be more than the difference between minibatches.
const SHIFT_ERRORS: f64 = 4.0;

/// Fewest ids from which the regularity of accesses is estimated.
const REGULARITY_IDS_MIN: u32 = 100;

/// Highest regularity: beyond it, one access more than foreseen would rule out any other.
const REGULARITY_MAX: f64 = 0.95;

/// Without progress reports, heat is halved each time this many accesses per slot were seen.
const DECAY_ACCESSES_PER_SLOT: u64 = 8;

/// A report that lies back by at most this many epochs has been overtaken by another. One that lies back further is the
/// start of the next epoch, of a trainer that calls each of its epochs the first, or of another run.
const LATE_EPOCHS: f64 = 0.5;

/// What a report of progress means to the running epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// It goes on.
    Within,
    /// The report was overtaken by a later one.
    Late,
    /// Its accesses are complete.
    EpochEnded,
    /// Another epoch begins, but nothing was accessed in this one.
    NothingSeen,
}

/// EPOCH replacement.
#[derive(Debug)]
pub struct EpochPolicy {
    sample: usize,
    /// Sum of the weights of the prior; 0 without one or once it is used up.
    prior_sum: f64,
    /// Accesses in the running epoch.
    accesses: u64,
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
    minibatches: u32,
    /// Sum and sum of squares of the hit rates of its minibatches.
    rates: f64,
    squares: f64,
}

impl Part {
    fn rate(self) -> f64 {
        self.hits as f64 / self.accesses.max(1) as f64
    }

    fn joined(self, other: Part) -> Part {
        Part {
            hits: self.hits + other.hits,
            accesses: self.accesses + other.accesses,
            minibatches: self.minibatches + other.minibatches,
            rates: self.rates + other.rates,
            squares: self.squares + other.squares,
        }
    }
}

/// Compares the hit rate of each part of an epoch with the same part one epoch before.
#[derive(Debug, Default)]
struct ShiftDetector {
    before: [Part; PHASES],
    running: [Part; PHASES],
    at: usize,
    /// Hits and accesses of the running minibatch.
    minibatch: (u64, u64),
}

impl ShiftDetector {
    fn count(&mut self, hit: bool) {
        self.minibatch.0 += u64::from(hit);
        self.minibatch.1 += 1;
    }

    fn end_minibatch(&mut self) {
        let (hits, accesses) = std::mem::take(&mut self.minibatch);
        if accesses > 0 {
            let rate = hits as f64 / accesses as f64;
            let part = &mut self.running[self.at];
            part.hits += hits;
            part.accesses += accesses;
            part.minibatches += 1;
            part.rates += rate;
            part.squares += rate * rate;
        }
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

    /// Whether the part that ended, or the epoch so far, had shifted: small steps show in the longer of the two.
    fn shifted(&self, part: usize) -> bool {
        let so_far = |parts: &[Part; PHASES]| parts[..=part].iter().copied().fold(Part::default(), Part::joined);
        self.has_fallen(self.before[part], self.running[part])
            || self.has_fallen(so_far(&self.before), so_far(&self.running))
    }

    fn has_fallen(&self, before: Part, now: Part) -> bool {
        if before.accesses < SHIFT_ACCESSES_MIN || now.accesses < SHIFT_ACCESSES_MIN {
            return false;
        }
        let fall = before.rate() - now.rate();
        now.rate() < SHIFT_RATIO * before.rate() && fall > SHIFT_ERRORS * self.standard_error(before, now)
    }

    /// Of the difference between two parts, from how much minibatches differed within the epoch before.
    fn standard_error(&self, before: Part, now: Part) -> f64 {
        let sum = |field: fn(&Part) -> f64| self.before.iter().map(field).sum::<f64>();
        let minibatches = sum(|part| f64::from(part.minibatches));
        let mean = sum(|part| part.rates) / minibatches;
        let variance = (sum(|part| part.squares) / minibatches - mean * mean).max(0.0);
        (variance * (1.0 / f64::from(before.minibatches) + 1.0 / f64::from(now.minibatches))).sqrt()
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
            prior_sum: 0.0,
            accesses: 0,
            epoch: None,
            phase: Phase::START,
            shift: ShiftDetector::default(),
            accesses_since_decay: 0,
        }
    }

    fn score(&self, heat: Heat) -> f32 {
        self.scale().score(heat)
    }

    #[inline]
    fn scale(&self) -> Scorer {
        if self.epoch.is_some() { Scorer::Epoch(self.phase) } else { Scorer::Frequency }
    }

    /// The coldest of a sample of slots, if it is colder than `id`.
    fn victim_by_score(&self, ledger: &mut Ledger<'_>, id: u32) -> Option<Slot> {
        self.colder_than(self.score(ledger.index.heat(id)), ledger)
    }

    /// The coldest of a sample of slots, if it is colder than `score`.
    fn colder_than(&self, score: f32, ledger: &mut Ledger<'_>) -> Option<Slot> {
        let span = Some(ledger.slots.span()).filter(|&span| span > 0)?;
        let mut coldest = (score, None);
        for _ in 0..self.sample {
            let slot = Slot(ledger.random.u32(0..span));
            let Some(resident) = ledger.slots.id(slot) else { continue };
            let score = self.score(ledger.index.heat(resident));
            if score < coldest.0 {
                coldest = (score, Some(slot));
            }
        }
        coldest.1
    }

    /// With a known future: the coldest resident that nobody has announced, else the one that is used last.
    fn victim_by_future(&self, ledger: &mut Ledger<'_>, id: u32) -> Option<Slot> {
        let mut coldest: Option<(f32, Slot)> = None;
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
            return (next_use.is_some() || score < self.score(index.heat(id))).then_some(slot);
        }
        let (slot, step) = future.last_due()?;
        next_use.is_some_and(|next| next < step).then_some(slot)
    }

    /// What was learned becomes a faint prior, and counting starts from zero.
    fn forget_history(&mut self, ledger: &mut Ledger<'_>) {
        ledger.index.sweep(ledger.touched, |heat| Heat { past: heat.past * FORGET_SCALE, cur: 0 });
        self.phase = Phase { span: 0.0, weight: PRIOR_EPOCHS, ..self.phase };
        self.shift = ShiftDetector { at: self.shift.at, ..ShiftDetector::default() };
    }

    fn roll(&mut self, ledger: &mut Ledger<'_>) {
        // The epoch has ended, however far the last report before it was.
        let phase = Phase { span: self.phase.span + (1.0 - self.phase.progress), ..self.phase };
        let (mut dispersion, mut ids) = (0.0, 0u32);
        ledger.index.sweep(ledger.touched, |heat| {
            if let Some(of_id) = heat.dispersion(phase) {
                dispersion += of_id;
                ids += 1;
            }
            heat.rolled(phase)
        });
        if ids >= REGULARITY_IDS_MIN {
            self.phase.regularity = (1.0 - dispersion / f64::from(ids)).clamp(0.0, REGULARITY_MAX) as f32;
        }
        self.phase = Phase { weight: phase.weight + phase.span, regularity: self.phase.regularity, ..Phase::START };
        self.prior_sum = 0.0;
        self.accesses = 0;
    }

    /// What a report means while epoch `running` is under way.
    fn meaning_of(&self, running: u32, clock: Clock) -> Report {
        let now = f64::from(running) + f64::from(self.phase.progress);
        let back = now - f64::from(clock.epoch) - f64::from(clock.progress);
        if back > 0.0 && back <= LATE_EPOCHS {
            return Report::Late;
        }
        match clock.epoch == running && back <= 0.0 {
            true => Report::Within,
            false if self.accesses == 0 => Report::NothingSeen,
            false => Report::EpochEnded,
        }
    }

    /// Moves to `progress` of the running epoch.
    fn advance(&mut self, progress: f32) {
        let progress = progress.clamp(0.0, 1.0);
        self.phase.span += (progress - self.phase.progress).max(0.0);
        self.phase.progress = progress;
        if self.prior_sum > 0.0 && self.phase.span > 0.0 {
            // Accesses per epoch as they look so far, over the weights that stand for them.
            self.phase.unit = (self.accesses as f64 / f64::from(self.phase.span) / self.prior_sum) as f32;
        }
    }
}

impl Policy for EpochPolicy {
    fn touch(&mut self, ledger: &mut Ledger<'_>, id: u32, slot: Option<Slot>) {
        ledger.index.update_heat(id, ledger.touched, Heat::touched);
        if self.epoch.is_some() {
            self.shift.count(slot.is_some());
        }
        self.accesses_since_decay += 1;
        self.accesses += 1;
    }

    fn prior(&mut self, ledger: &mut Ledger<'_>, weights: &[(u32, f32)]) {
        for &(id, weight) in weights {
            ledger.index.update_heat(id, ledger.touched, |heat| Heat { past: weight, ..heat });
            self.prior_sum += f64::from(weight);
        }
    }

    fn end_minibatch(&mut self, ledger: &mut Ledger<'_>) {
        self.shift.end_minibatch();
        let window = DECAY_ACCESSES_PER_SLOT * (ledger.slots.capacity() as u64).max(1);
        if self.epoch.is_none() && self.accesses_since_decay >= window {
            self.accesses_since_decay = 0;
            ledger.index.sweep(ledger.touched, Heat::decayed);
        }
    }

    fn victim(&mut self, ledger: &mut Ledger<'_>, id: u32) -> Option<Slot> {
        if ledger.future.is_known() { self.victim_by_future(ledger, id) } else { self.victim_by_score(ledger, id) }
    }

    fn give_up(&mut self, ledger: &mut Ledger<'_>) -> Option<Slot> {
        self.colder_than(f32::INFINITY, ledger)
    }

    fn scorer(&self) -> Option<Scorer> {
        Some(self.scale())
    }

    fn forget(&mut self, ledger: &mut Ledger<'_>) {
        self.forget_history(ledger);
    }

    fn tick(&mut self, ledger: &mut Ledger<'_>, clock: Clock) -> bool {
        let shifted = match self.epoch.map(|running| self.meaning_of(running, clock)) {
            Some(Report::Late) => return false,
            Some(Report::Within) => self.shift.advance(clock.progress),
            Some(Report::EpochEnded) => {
                let shifted = self.shift.end_epoch();
                self.roll(ledger);
                shifted
            }
            Some(Report::NothingSeen) => {
                // Counting begins here: no access belongs to the time before.
                self.phase = Phase { span: 0.0, progress: clock.progress.clamp(0.0, 1.0), ..self.phase };
                self.shift.advance(clock.progress);
                false
            }
            None => false,
        };
        if shifted {
            self.forget_history(ledger);
        }
        if self.epoch.is_none() {
            // Counting begins here, wherever in its epoch the training is.
            self.phase = Phase { progress: clock.progress.clamp(0.0, 1.0), ..self.phase };
        }
        self.advance(clock.progress);
        self.epoch = Some(clock.epoch);
        shifted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty minibatches of 100 accesses, of which `hits` are hits on average, and half of them `spread` more.
    fn fill(detector: &mut ShiftDetector, hits: u64, spread: u64) {
        for minibatch in 0..20 {
            let hits = if minibatch % 2 == 0 { hits + spread } else { hits - spread };
            (0..100).for_each(|i| detector.count(i < hits));
            detector.end_minibatch();
        }
    }

    fn after_an_epoch(hits: u64, spread: u64) -> ShiftDetector {
        let mut detector = ShiftDetector::default();
        for part in 0..PHASES {
            assert!(!detector.advance(part as f32 / PHASES as f32));
            fill(&mut detector, hits, spread);
        }
        assert!(!detector.end_epoch());
        detector
    }

    #[test]
    fn a_fall_of_the_hit_rate_is_seen_at_the_end_of_its_part() {
        let mut detector = after_an_epoch(50, 5);
        fill(&mut detector, 45, 5);
        assert!(!detector.advance(0.13), "a tenth less is noise");
        fill(&mut detector, 35, 5);
        assert!(detector.advance(0.26), "three tenths less is a shift");
    }

    #[test]
    fn a_fall_no_larger_than_minibatches_differ_by_is_no_shift() {
        let mut detector = after_an_epoch(50, 45);
        fill(&mut detector, 35, 30);
        assert!(!detector.advance(0.13), "minibatches differ by more than that");
    }
}
