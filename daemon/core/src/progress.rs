//! How far the trainers of a node are in their training. It owns one position per trainer and makes one clock of
//! them: the mean, so that a trainer a step ahead does not end the epoch for all.
//!
//! **The clock must never** fall: policies take an epoch that ends for an epoch of accesses. Therefore a trainer that
//! joins, leaves or counts from zero again is placed, by whole epochs, where the node is.

use crate::cache::Clock;
use crate::lookahead::TrainerId;
use hashbrown::HashMap;

/// A fall of a trainer's own progress by more than this many epochs is the start of its next epoch. Loaders that are
/// iterated again call each of their epochs the first.
const FALL_EPOCHS: f64 = 0.5;

/// A trainer that joins within this many epochs of the others, whole epochs aside, is of their job and keeps its own
/// share of the epoch.
const ALIGNED_EPOCHS: f64 = 0.1;

/// What a trainer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Epochs that the trainer has ended, by its own count.
    pub epoch: u32,
    /// Steps that it has ended in the running epoch.
    pub step: u32,
    /// Steps of one epoch.
    pub steps_per_epoch: u32,
}

impl Progress {
    fn epochs(self) -> f64 {
        let share = f64::from(self.step) / f64::from(self.steps_per_epoch.max(1));
        f64::from(self.epoch) + share.min(1.0)
    }
}

#[derive(Debug, Clone, Copy)]
struct Position {
    /// Epochs by the trainer's own count.
    own: f64,
    /// Epochs that are added to get the node's count; whole ones, except for a trainer that joined others in between.
    offset: f64,
}

/// Positions of the trainers of a node.
#[derive(Debug, Default)]
pub struct Board {
    positions: HashMap<TrainerId, Position>,
    /// The furthest that the clock has been, in epochs; `None` before the first report.
    furthest: Option<f64>,
    /// As reported last.
    steps_per_epoch: u32,
}

impl Board {
    /// Takes a trainer's report; answers the clock of all.
    pub fn report(&mut self, trainer: TrainerId, progress: Progress) -> Clock {
        self.steps_per_epoch = progress.steps_per_epoch;
        let own = progress.epochs();
        let offset = match self.positions.get(&trainer) {
            Some(last) if last.own - own > FALL_EPOCHS => last.offset + (last.own - own).round(),
            Some(last) => last.offset,
            None => self.furthest.map_or(0.0, |furthest| self.place(furthest - own)),
        };
        self.positions.insert(trainer, Position { own, offset });
        self.advance();
        self.clock()
    }

    /// The offset of a trainer that joins `gap` epochs behind the clock.
    fn place(&self, gap: f64) -> f64 {
        let whole = gap.round();
        if (gap - whole).abs() <= ALIGNED_EPOCHS {
            whole
        } else if self.positions.is_empty() {
            // Another run begins, and with it the next epoch: what was accessed before does not belong to it.
            gap.ceil()
        } else {
            gap
        }
    }

    /// A trainer is gone; the others go on.
    pub fn remove(&mut self, trainer: TrainerId) {
        if self.positions.remove(&trainer).is_none() || self.positions.is_empty() {
            return;
        }
        // Without a trainer that was far ahead or behind, the mean would jump: the others stay where the clock is.
        self.positions.values_mut().for_each(|position| position.offset = position.offset.round());
        let gap = (self.furthest.unwrap_or(0.0) - self.mean()).round();
        self.positions.values_mut().for_each(|position| position.offset += gap);
        self.advance();
    }

    /// Trainers that report.
    #[must_use]
    pub fn trainers(&self) -> usize {
        self.positions.len()
    }

    /// Steps of an epoch, as a trainer reported them last; 0 before the first report.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u32 {
        self.steps_per_epoch
    }

    /// The clock of all; the start before the first report.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let furthest = self.furthest.unwrap_or(0.0);
        Clock { epoch: furthest as u32, progress: furthest.fract() as f32 }
    }

    fn mean(&self) -> f64 {
        let sum: f64 = self.positions.values().map(|position| position.own + position.offset).sum();
        sum / self.positions.len().max(1) as f64
    }

    fn advance(&mut self) {
        let mean = self.mean();
        self.furthest = Some(self.furthest.map_or(mean, |furthest| furthest.max(mean)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(epoch: u32, step: u32) -> Progress {
        Progress { epoch, step, steps_per_epoch: 10 }
    }

    const A: TrainerId = TrainerId(1);
    const B: TrainerId = TrainerId(2);

    #[test]
    fn the_clock_is_the_mean_of_those_who_are_there() {
        let mut board = Board::default();
        assert_eq!(board.report(A, at(0, 5)), Clock { epoch: 0, progress: 0.5 });
        board.report(B, at(0, 5));
        assert_eq!(board.report(B, at(0, 9)).progress, 0.7);
        board.remove(A);
        assert_eq!(
            board.report(B, Progress { epoch: 1, step: 1, steps_per_epoch: 4 }),
            Clock { epoch: 1, progress: 0.25 }
        );
    }

    #[test]
    fn one_that_joins_at_epoch_0_takes_nothing_back() {
        let mut board = Board::default();
        board.report(A, at(7, 3));
        assert_eq!(board.report(B, at(0, 0)), Clock { epoch: 7, progress: 7.3f64.fract() as f32 });
        board.report(A, at(7, 9));
        let clock = board.report(B, at(0, 6));
        assert_eq!((clock.epoch, (clock.progress * 100.0).round()), (7, 90.0));
        board.remove(A);
        assert_eq!(board.report(B, at(1, 0)).epoch, 8, "whoever is left ends epochs where it ends its own");
    }

    #[test]
    fn one_that_leads_and_leaves_takes_nothing_back_and_stops_nobody() {
        let mut board = Board::default();
        board.report(A, at(0, 0));
        board.report(B, at(0, 0));
        board.report(A, at(6, 0));
        assert_eq!(board.clock().epoch, 3);
        board.remove(A);
        assert_eq!(board.clock(), Clock { epoch: 3, progress: 0.0 });
        assert_eq!(board.report(B, at(0, 6)).progress, 0.6f32, "the clock goes on with the one that is left");
    }

    #[test]
    fn a_loader_that_calls_each_epoch_the_first_ends_epochs() {
        let mut board = Board::default();
        for epoch in 0..5 {
            for step in 0..10 {
                let clock = board.report(A, at(0, step));
                assert_eq!((clock.epoch, (clock.progress * 10.0).round()), (epoch, step as f32));
            }
        }
        // Three epochs in one iteration, then once more.
        board.report(A, at(2, 9));
        assert_eq!(board.report(A, at(0, 0)).epoch, 7);
    }

    proptest! {
        #[test]
        fn the_clock_never_falls(events in prop::collection::vec((0u64..4, 0u32..6, 0u32..10), 1..200)) {
            let mut board = Board::default();
            let mut last = f64::NEG_INFINITY;
            for (trainer, epoch, step) in events {
                match epoch {
                    5 => board.remove(TrainerId(trainer)),
                    epoch => {
                        board.report(TrainerId(trainer), at(epoch, step));
                    }
                }
                let clock = board.clock();
                let now = f64::from(clock.epoch) + f64::from(clock.progress);
                prop_assert!(now >= last, "{} after {}", now, last);
                last = now;
            }
        }
    }
}
