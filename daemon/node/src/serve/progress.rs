//! Where the trainers of this node are in their training. It owns one position per trainer and makes one clock of
//! them: the mean, so that a trainer a step ahead does not end the epoch for all.

use hashbrown::HashMap;
use rudder_core::cache::Clock;
use rudder_core::lookahead::TrainerId;

/// Positions, in epochs, by trainer.
#[derive(Debug, Default)]
pub(crate) struct Board {
    positions: HashMap<TrainerId, f64>,
    /// As told last.
    steps_per_epoch: u32,
}

impl Board {
    /// A trainer has ended `epoch` epochs and `step` of `steps_per_epoch` steps; answers the clock of all.
    pub(crate) fn report(&mut self, trainer: TrainerId, epoch: u32, step: u32, steps_per_epoch: u32) -> Clock {
        self.steps_per_epoch = steps_per_epoch;
        let share = f64::from(step) / f64::from(steps_per_epoch.max(1));
        self.positions.insert(trainer, f64::from(epoch) + share.min(1.0));
        self.clock()
    }

    /// A trainer is gone; the others go on.
    pub(crate) fn remove(&mut self, trainer: TrainerId) {
        self.positions.remove(&trainer);
    }

    /// Trainers that report.
    pub(crate) fn trainers(&self) -> usize {
        self.positions.len()
    }

    /// Steps of an epoch, as a trainer told them last; 0 if none has.
    pub(crate) fn steps_per_epoch(&self) -> u32 {
        self.steps_per_epoch
    }

    /// The clock of all; the start while nobody reports.
    pub(crate) fn clock(&self) -> Clock {
        let mean = self.positions.values().sum::<f64>() / self.positions.len().max(1) as f64;
        Clock { epoch: mean as u32, progress: mean.fract() as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_mean_of_those_who_are_there() {
        let mut board = Board::default();
        assert_eq!(board.report(TrainerId(1), 0, 5, 10), Clock { epoch: 0, progress: 0.5 });
        assert_eq!(board.report(TrainerId(2), 1, 0, 10).progress, 0.75);
        board.remove(TrainerId(1));
        assert_eq!(board.report(TrainerId(2), 1, 1, 4), Clock { epoch: 1, progress: 0.25 });
    }
}
