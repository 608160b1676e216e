//! The trainers of this node: which connections belong together, and where each trainer is in its training. It owns the
//! numbers by which the rest of the engine knows them. What a trainer has told lives while any of its connections does
//! ([`Membership`]) and is forgotten with the last. It must never hold a lock while it calls a cache.

use crate::serve::books::batches::Batches;
use crate::serve::books::desk::Desk;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rudder_core::cache::Clock;
use rudder_core::lookahead::TrainerId;
use rudder_core::progress::{Board, Progress};
use std::sync::Arc;

/// What makes a trainer: the user behind its connections, whom the kernel vouches for, and the number that they give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TrainerKey {
    pub(crate) uid: u32,
    pub(crate) number: u128,
}

/// Where the trainers of this node are, all together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) clock: Clock,
    /// Trainers that report.
    pub(crate) trainers: usize,
    /// As a trainer told them last; 0 if none has.
    pub(crate) steps_per_epoch: u32,
}

/// The trainers with open connections; never more than there are connections.
#[derive(Debug)]
pub(crate) struct Trainers {
    known: Mutex<Known>,
    desks: Vec<Arc<Desk>>,
    batches: Arc<Batches>,
}

#[derive(Debug, Default)]
struct Known {
    members: HashMap<TrainerKey, Member>,
    board: Board,
    last: u64,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    id: TrainerId,
    connections: usize,
}

/// That a connection belongs to a trainer. With the last of a trainer's, what it has told is forgotten.
#[must_use]
#[derive(Debug)]
pub(crate) struct Membership {
    trainers: Arc<Trainers>,
    key: TrainerKey,
    id: TrainerId,
}

impl Membership {
    /// The trainer.
    pub(crate) fn id(&self) -> TrainerId {
        self.id
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut known = self.trainers.known.lock();
        let Some(member) = known.members.get_mut(&self.key) else { return };
        member.connections -= 1;
        if member.connections == 0 {
            known.members.remove(&self.key);
            known.board.remove(self.id);
            self.trainers.desks.iter().for_each(|desk| desk.leave(self.id));
            self.trainers.batches.leave(self.id);
        }
    }
}

impl Trainers {
    /// Nobody yet; `desks` hear of ticks, and with `batches` of trainers that leave.
    pub(crate) fn new(desks: &[Arc<Desk>], batches: &Arc<Batches>) -> Self {
        Self { known: Mutex::default(), desks: desks.to_vec(), batches: Arc::clone(batches) }
    }

    /// A connection says to which trainer it belongs.
    pub(crate) fn join(self: &Arc<Self>, key: TrainerKey) -> Membership {
        let mut known = self.known.lock();
        let next = known.last + 1;
        let member = known.members.entry(key).or_insert(Member { id: TrainerId(next), connections: 0 });
        member.connections += 1;
        let id = member.id;
        known.last = known.last.max(id.0);
        Membership { trainers: Arc::clone(self), key, id }
    }

    /// A trainer told where it is. Clocks reach each table in the order in which they were made.
    pub(crate) fn report(&self, trainer: TrainerId, progress: Progress) {
        let mut known = self.known.lock();
        let clock = known.board.report(trainer, progress);
        // Under the lock, for the order; a push into a queue each.
        self.desks.iter().for_each(|desk| desk.tick(clock));
    }

    /// Where they are.
    pub(crate) fn progress(&self) -> Standing {
        let Known { board, .. } = &*self.known.lock();
        Standing { clock: board.clock(), trainers: board.trainers(), steps_per_epoch: board.steps_per_epoch() }
    }

    /// Trainers with open connections.
    #[cfg(test)]
    fn connected(&self) -> usize {
        self.known.lock().members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_trainer_share_what_it_told_until_the_last_closes() {
        let trainers = Arc::new(Trainers::new(&[], &Arc::new(Batches::new(0, 0))));
        let key = TrainerKey { uid: 7, number: 1 };
        let (first, second) = (trainers.join(key), trainers.join(key));
        let others = [TrainerKey { uid: 8, number: 1 }, TrainerKey { uid: 7, number: 2 }].map(|key| trainers.join(key));
        assert_eq!(first.id(), second.id());
        assert!(others.iter().all(|other| other.id() != first.id()) && others[0].id() != others[1].id());
        trainers.report(first.id(), Progress { epoch: 1, step: 1, steps_per_epoch: 2 });
        drop(first);
        assert_eq!((trainers.progress().trainers, trainers.progress().clock.epoch), (1, 1));
        drop(second);
        assert_eq!((trainers.progress().trainers, trainers.connected()), (0, 2));
        let again = trainers.join(key);
        assert!(again.id().0 > others[1].id().0, "a trainer that comes back is a new one");
    }
}
