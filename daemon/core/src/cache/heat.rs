//! How hot an id is: two numbers per id and the EPOCH score made of them. Pure arithmetic; it owns no memory and knows
//! no clock.
//!
//! The score (`shared` design, section 3, "EPOCH score") rests on one fact of minibatch training: every seed is
//! visited once per epoch, so a vertex that was just used is often the *least* likely to come next. From the mean
//! number of accesses in epochs past, the accesses of this epoch so far, and how regular accesses were found to be,
//! it estimates the distance to the next access.

/// Heat of one id, packed into 32 bits: mean accesses per epoch, and accesses of the running epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Heat {
    /// Mean accesses per epoch over the epochs that ended; a prior before the first has.
    pub past: f32,
    /// Accesses in the running epoch; stays at 65,535 once there.
    pub cur: u16,
}

/// The position in the training at which a score is taken, in epochs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Share of the epoch that is over, 0 to 1.
    pub progress: f32,
    /// How long `cur` has been counting: `progress`, unless counting began within the epoch.
    pub span: f32,
    /// How many epochs of evidence `past` stands for; [`PRIOR_EPOCHS`] before the first has ended.
    pub weight: f32,
    /// Accesses per epoch that one unit of `past` stands for: 1 except for a prior that is in other units.
    pub unit: f32,
    /// How far the accesses of an id are the same in every epoch, 0 (a Poisson process) to 1 (one fixed number per
    /// epoch).
    pub regularity: f32,
}

/// Epochs of evidence that a prior stands for. Without a prior it says how fast an id that was never seen is believed
/// to be cold.
pub const PRIOR_EPOCHS: f32 = 0.25;

/// Accesses per epoch below which an id counts as spent. Kept low so that giving back many slots loses few hits: at
/// 0.5, a third of the residents counted as spent at the start of the demo's last epoch, and dropping them cost eight
/// points of hit rate.
const SPENT_RATE: f32 = 0.1;

/// Fewest accesses per epoch of an id whose spread means anything.
const DISPERSION_MEAN_MIN: f64 = 0.5;

/// Regularity that is assumed until two epochs can be compared.
const REGULARITY_START: f32 = 0.33;

impl Phase {
    /// The start of the training.
    pub const START: Phase =
        Phase { progress: 0.0, span: 0.0, weight: PRIOR_EPOCHS, unit: 1.0, regularity: REGULARITY_START };
}

impl Heat {
    /// Unpacks. The mean is a float without sign: 8 bits of exponent, 8 of mantissa (0.2% apart, up to 3e38).
    #[inline]
    #[must_use]
    pub fn unpack(bits: u32) -> Self {
        Self { past: f32::from_bits((bits >> 16) << 15), cur: (bits & 0xffff) as u16 }
    }

    /// Packs, rounding the mean to the nearest that can be held.
    #[inline]
    #[must_use]
    pub fn pack(self) -> u32 {
        let past = (self.past.max(0.0).to_bits() + (1 << 14)) >> 15;
        (past << 16) | u32::from(self.cur)
    }

    /// After one more access.
    #[inline]
    #[must_use]
    pub fn touched(self) -> Self {
        Self { cur: self.cur.saturating_add(1), ..self }
    }

    /// Accesses per epoch, from all that is known: the posterior mean of a Poisson rate whose prior is a gamma
    /// distribution with `past` as its mean and `weight` epochs of evidence.
    #[inline]
    #[must_use]
    pub fn rate(self, phase: Phase) -> f32 {
        let Phase { span, weight, unit, .. } = phase;
        (self.past * unit * weight + f32::from(self.cur)) / (weight + span).max(f32::MIN_POSITIVE)
    }

    /// After the end of an epoch: the running epoch joins the mean.
    #[must_use]
    pub fn rolled(self, phase: Phase) -> Self {
        Self { past: self.rate(phase), cur: 0 }
    }

    /// Accesses that are still to come in the running epoch.
    ///
    /// Say that `m` seeds lead to the id, that each is visited once per epoch, at a time drawn evenly, and that
    /// sampling finds the id from a visited seed with probability `q`. Then `m = mean / q` (`mean` per epoch). Of
    /// those, `visited` were visited so far; given `cur` finds, it is `cur + (m - cur)·x(1-q) / (1-xq)` on average.
    /// What is to come is `q (m - visited) = (mean - q·cur)(1-x) / (1-xq)`: for `q = 0` (many seeds, rare finds) it
    /// does not depend on `cur`, for `q = 1` each access so far is one less to come. `q` is the regularity.
    #[inline]
    fn to_come(self, phase: Phase, rate: f32) -> f32 {
        // Before the first epoch has ended there is no mean but the rate so far.
        let mean = if phase.weight < 1.0 { rate } else { self.past * phase.unit };
        let (q, left) = (phase.regularity, 1.0 - phase.progress);
        let unused = (mean * (phase.span + left) - q * f32::from(self.cur)).max(0.0);
        unused * left / (1.0 - q * phase.span).max(1e-3)
    }

    /// Whether the id is hardly asked for any more before the running epoch ends: at less than `SPENT_RATE` per
    /// epoch.
    #[inline]
    #[must_use]
    pub fn is_spent(self, phase: Phase) -> bool {
        self.to_come(phase, self.rate(phase)) < SPENT_RATE * (1.0 - phase.progress).max(f32::MIN_POSITIVE)
    }

    /// EPOCH score: the inverse of the expected distance, in epochs, to the next access. Higher is hotter.
    #[inline]
    #[must_use]
    pub fn score(self, phase: Phase) -> f32 {
        let left = 1.0 - phase.progress;
        let rate = self.rate(phase);
        let to_come = self.to_come(phase, rate);
        let none_left = (-to_come).exp();
        let distance = (1.0 - none_left) * left / (to_come + 1.0) + none_left * (left + 1.0 / (rate + 0.5));
        1.0 / distance.max(1e-9)
    }

    /// How far the running epoch was from the mean, squared, in units of what a Poisson process would show: 1 on
    /// average for accesses at random, 0 for the same number every epoch. `None` for ids too cold to tell.
    #[must_use]
    pub fn dispersion(self, phase: Phase) -> Option<f64> {
        let (mean, weight) = (f64::from(self.past), f64::from(phase.weight));
        // The mean is itself an estimate, from `weight` epochs: its own spread adds to what is seen.
        let expected = mean * (1.0 + 1.0 / weight);
        (mean >= DISPERSION_MEAN_MIN && phase.weight >= 1.0).then(|| (f64::from(self.cur) - mean).powi(2) / expected)
    }

    /// The score where nobody reports progress: accesses, halved at every roll.
    #[inline]
    #[must_use]
    pub fn frequency(self) -> f32 {
        self.past + f32::from(self.cur)
    }

    /// After a roll without progress: old accesses count half.
    #[must_use]
    pub fn decayed(self) -> Self {
        Self { past: self.frequency() * 0.5, cur: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER: Phase = Phase { progress: 0.5, span: 0.5, weight: 3.0, unit: 1.0, regularity: 0.5 };

    proptest! {
        #[test]
        fn packing_keeps_the_count_and_the_mean(past in 0.0f32..1e6, cur: u16) {
            let back = Heat::unpack(Heat { past, cur }.pack());
            prop_assert_eq!(back.cur, cur);
            prop_assert!((back.past - past).abs() <= past * 0.002 + 1e-30, "{} became {}", past, back.past);
        }

        #[test]
        fn scores_are_finite_and_positive(past in 0.0f32..1e6, cur: u16, progress in 0.0f32..=1.0, weight in 0.0f32..9.0, regularity in 0.0f32..=1.0) {
            let score = Heat { past, cur }.score(Phase { progress, span: progress, weight, unit: 1.0, regularity });
            prop_assert!(score.is_finite() && score > 0.0);
        }

        #[test]
        fn more_past_is_never_colder(past in 0.0f32..100.0, more in 0.01f32..10.0, cur in 0u16..50) {
            let cold = Heat { past, cur }.score(LATER);
            let hot = Heat { past: past + more, cur }.score(LATER);
            prop_assert!(hot >= cold * 0.999, "{} against {}", hot, cold);
        }
    }

    #[test]
    fn what_is_spent_is_not_due_before_the_epoch_ends() {
        let clockwork = Phase { regularity: 0.9, ..LATER };
        assert!(!Heat { past: 2.0, cur: 0 }.is_spent(clockwork) && Heat { past: 2.0, cur: 3 }.is_spent(clockwork));
        assert!(Heat { past: 9.0, cur: 0 }.is_spent(Phase { progress: 1.0, span: 1.0, ..LATER }));
    }

    #[test]
    fn what_was_used_up_this_epoch_is_colder_than_what_is_still_due() {
        let due = Heat { past: 1.0, cur: 0 }.score(LATER);
        let used = Heat { past: 1.0, cur: 1 }.score(LATER);
        assert!(due > used, "{due} against {used}");
    }

    #[test]
    fn the_mean_is_over_the_epochs_that_ended_and_the_prior() {
        let first = Phase { progress: 1.0, span: 1.0, weight: 1.0, ..Phase::START };
        let heat = Heat { past: 2.0, cur: 4 }.rolled(first);
        assert_eq!(heat, Heat { past: 3.0, cur: 0 });
        assert_eq!(Heat { cur: 6, ..heat }.rolled(Phase { weight: 2.0, ..first }), Heat { past: 4.0, cur: 0 });
        let scaled = Phase { unit: 0.5, ..first };
        assert_eq!(Heat { past: 2.0, cur: 4 }.rolled(scaled), Heat { past: 2.5, cur: 0 });
    }

    /// The formula of [`Heat::to_come`] against a simulation of the process it is derived from.
    #[test]
    fn what_is_to_come_is_what_a_simulation_of_seeds_finds() {
        let (seeds, q, x) = (4, 0.6, 0.5);
        let mut random = fastrand::Rng::with_seed(3);
        let mut after = [(0u32, 0u32); 5];
        for _ in 0..200_000 {
            let (mut before_x, mut after_x) = (0, 0);
            for _ in 0..seeds {
                let (time, found) = (random.f64(), random.f64() < q);
                *(if time < x { &mut before_x } else { &mut after_x }) += u32::from(found);
            }
            after[before_x as usize].0 += after_x;
            after[before_x as usize].1 += 1;
        }
        let phase = Phase { progress: x as f32, span: x as f32, weight: 5.0, unit: 1.0, regularity: q as f32 };
        for (cur, (found, runs)) in (0..).zip(after) {
            let heat = Heat { past: seeds as f32 * q as f32, cur };
            let (simulated, formula) =
                (f64::from(found) / f64::from(runs.max(1)), heat.to_come(phase, heat.rate(phase)));
            assert!((simulated - f64::from(formula)).abs() < 0.03, "after {cur}: {simulated} against {formula}");
        }
    }

    #[test]
    fn dispersion_tells_chance_from_clockwork() {
        let phase = Phase { weight: 4.0, ..LATER };
        assert_eq!(Heat { past: 3.0, cur: 3 }.dispersion(phase), Some(0.0));
        assert_eq!(Heat { past: 0.1, cur: 3 }.dispersion(phase), None);
        assert_eq!(Heat { past: 4.0, cur: 9 }.dispersion(phase), Some(5.0));
    }
}
