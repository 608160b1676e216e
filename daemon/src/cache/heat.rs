//! How hot an id is: two numbers per id and the EPOCH score made of them. Pure arithmetic; it owns no memory and knows
//! no clock.
//!
//! The score (`shared` design, section 3, "EPOCH score") rests on one fact of minibatch training: every seed is visited
//! once per epoch, so a vertex that was just used is often the *least* likely to come next. From the mean number of
//! accesses in epochs past and the accesses of this epoch so far it estimates the distance to the next access.

/// Heat of one id, packed into 32 bits: mean accesses per epoch, and accesses of the running epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Heat {
    /// Mean accesses per epoch over the epochs that ended; a prior before the first has.
    pub past: f32,
    /// Accesses in the running epoch; stays at 65,535 once there.
    pub cur: u16,
}

/// The position in the training at which a score is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Share of the epoch that is over, 0 to 1.
    pub progress: f32,
    /// Epochs that `past` is the mean of; 0 in the first.
    pub epochs: u32,
}

/// Epochs that a prior weighs in the first epoch, before there is a past.
const PRIOR_EPOCHS: f32 = 0.25;

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

    /// After the end of an epoch, the `epochs`-th (from 0): the running epoch joins the mean.
    #[must_use]
    pub fn rolled(self, epochs: u32) -> Self {
        let n = epochs as f32;
        Self { past: (self.past * n + f32::from(self.cur)) / (n + 1.0), cur: 0 }
    }

    /// EPOCH score: the inverse of the expected distance, in epochs, to the next access. Higher is hotter.
    #[inline]
    #[must_use]
    pub fn score(self, phase: Phase) -> f32 {
        let x = phase.progress;
        let left = 1.0 - x;
        let cur = f32::from(self.cur);
        // In the first epoch the rate seen so far, tempered by the prior, stands for the past that is not there yet.
        let past = if phase.epochs == 0 { (self.past * PRIOR_EPOCHS + cur) / (PRIOR_EPOCHS + x) } else { self.past };
        let rem = ((past - cur).max(0.0) + 2.0 * past * left) / 3.0;
        let none_left = (-rem).exp();
        let distance = (1.0 - none_left) * left / (rem + 1.0) + none_left * (left + 1.0 / (past + 0.5));
        1.0 / distance.max(1e-9)
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

    const LATER: Phase = Phase { progress: 0.5, epochs: 3 };

    proptest! {
        #[test]
        fn packing_keeps_the_count_and_the_mean(past in 0.0f32..1e6, cur: u16) {
            let back = Heat::unpack(Heat { past, cur }.pack());
            prop_assert_eq!(back.cur, cur);
            prop_assert!((back.past - past).abs() <= past * 0.002 + 1e-30, "{} became {}", past, back.past);
        }

        #[test]
        fn scores_are_finite_and_positive(past in 0.0f32..1e6, cur: u16, progress in 0.0f32..=1.0, epochs in 0u32..9) {
            let score = Heat { past, cur }.score(Phase { progress, epochs });
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
    fn what_was_used_up_this_epoch_is_colder_than_what_is_still_due() {
        let due = Heat { past: 1.0, cur: 0 }.score(LATER);
        let used = Heat { past: 1.0, cur: 1 }.score(LATER);
        assert!(due > used, "{due} against {used}");
    }

    #[test]
    fn the_mean_is_over_the_epochs_that_ended() {
        let heat = Heat { past: 0.0, cur: 4 }.rolled(0);
        assert_eq!(heat, Heat { past: 4.0, cur: 0 });
        assert_eq!(Heat { cur: 1, ..heat }.rolled(1), Heat { past: 2.5, cur: 0 });
    }
}
