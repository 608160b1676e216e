//! Replacement policies: who is worth a slot. A policy sees every access and chooses victims; it never touches
//! rows, takes no time but the [`Clock`] it is given and no randomness but the generator it is given, so that the
//! daemon and a replay decide alike. All calls come under the table's writer lock.

mod epoch;
mod fixed;
mod lfu;
mod list;
mod lru;
mod name;
mod rudder;
mod s3fifo;
mod sieve;
mod spec;
mod tinylfu;

#[cfg(test)]
mod tests;

pub use epoch::EpochPolicy;
pub use fixed::StaticPolicy;
pub use lfu::LfuPolicy;
pub use lru::LruPolicy;
pub use name::{PolicyName, PolicySettings};
pub use rudder::{Replacement, ScorePolicy, ScoreSettings, Trigger};
pub use s3fifo::S3FifoPolicy;
pub use sieve::SievePolicy;
pub use spec::PolicySpec;
pub use tinylfu::TinyLfuPolicy;

use super::future::{Future, Step};
use super::heat::{Heat, Phase};
use super::index::{Index, Touched};
use super::slots::{Slot, Slots};
use std::fmt::Debug;

/// Where the training is, as the trainers of this node report it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Epochs ended, of the mean trainer.
    pub epoch: u32,
    /// Share of the epoch that is over, 0 to 1.
    pub progress: f32,
}

/// What a policy may look at and change.
#[derive(Debug)]
pub struct Ledger<'a> {
    /// Slots and heat of every id.
    pub index: &'a Index,
    /// Ids of every slot.
    pub slots: &'a Slots,
    /// Which ids have heat.
    pub touched: &'a mut Touched,
    /// What trainers have announced.
    pub future: &'a mut Future,
    /// The step at which the id in question is used next, if that is announced.
    pub next_use: Option<Step>,
    /// The generator, seeded by configuration.
    pub random: &'a mut fastrand::Rng,
}

/// How hot an id is to the policy now: a value, so that many ids can be scored without the writer lock.
#[derive(Debug, Clone, Copy)]
pub enum Scorer {
    /// EPOCH scores at this position in the training.
    Epoch(Phase),
    /// Decayed accesses, where nobody reports progress.
    Frequency,
}

impl Scorer {
    /// The score of an id with this heat; higher is hotter.
    #[inline]
    #[must_use]
    pub fn score(self, heat: Heat) -> f32 {
        match self {
            Scorer::Epoch(phase) => heat.score(phase),
            Scorer::Frequency => heat.frequency(),
        }
    }

    /// Whether an id with this heat is unlikely to be asked for again in the running epoch; false where epochs are
    /// not known.
    #[inline]
    #[must_use]
    pub fn is_spent(self, heat: Heat) -> bool {
        matches!(self, Scorer::Epoch(phase) if phase.weight >= 1.0 && heat.is_spent(phase))
    }

    /// The score below which a resident is cold: not expected again within an epoch, or, where epochs are not known,
    /// asked for less than twice recently.
    #[must_use]
    pub fn cold_below(self) -> f32 {
        match self {
            Scorer::Epoch(_) => 1.0,
            Scorer::Frequency => 2.0,
        }
    }

    /// Minimum score at which an absent row is worth prefetching: what would not be cold. Infinite until one full
    /// epoch has been seen: a row that was asked for once in the first tenth of an epoch looks far hotter than it is.
    #[must_use]
    pub fn worth_fetching(self) -> f32 {
        match self {
            Scorer::Epoch(phase) if phase.weight < 1.0 => f32::INFINITY,
            Scorer::Epoch(_) | Scorer::Frequency => self.cold_below(),
        }
    }
}

/// A row that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The slot that it left.
    pub from: Slot,
    /// The slot that holds it now.
    pub to: Slot,
}

/// The interface of a replacement policy. Its ids are numbers of rows ([`crate::cache::index`]).
pub trait Policy: Send + Debug {
    /// `id` was asked for; `slot` holds its row if it was a hit.
    fn touch(&mut self, ledger: &mut Ledger<'_>, id: u32, slot: Option<Slot>);

    /// All accesses of a minibatch have been reported.
    fn end_minibatch(&mut self, _ledger: &mut Ledger<'_>) {}

    /// Whether a row in hand may take a free slot.
    fn takes_free_slot(&mut self, _ledger: &mut Ledger<'_>, _id: u32) -> bool {
        true
    }

    /// The slot that `id`, whose row is in hand, should take from its resident; `None` if it is not worth one.
    fn victim(&mut self, ledger: &mut Ledger<'_>, id: u32) -> Option<Slot>;

    /// `id` now lies in `slot`.
    fn inserted(&mut self, _ledger: &mut Ledger<'_>, _id: u32, _slot: Slot) {}

    /// `id` no longer lies in `slot`.
    fn removed(&mut self, _ledger: &mut Ledger<'_>, _id: u32, _slot: Slot) {}

    /// The row of `id` was moved from one slot to another.
    fn moved(&mut self, ledger: &mut Ledger<'_>, id: u32, Move { from, to }: Move) {
        self.removed(ledger, id, from);
        self.inserted(ledger, id, to);
    }

    /// Absent ids that the policy wants brought in although nobody asked; each is named once.
    fn wanted(&mut self, _ledger: &mut Ledger<'_>) -> Vec<u32> {
        Vec::new()
    }

    /// `id`, which is not cached, is from now on the number of another row: nothing of what was learned of it holds.
    fn forget_row(&mut self, _id: u32) {}

    /// A slot whose resident should leave because the cache shrinks.
    fn give_up(&mut self, ledger: &mut Ledger<'_>) -> Option<Slot> {
        ledger.slots.span().checked_sub(1).map(Slot)
    }

    /// The cache may hold another number of rows from now on.
    fn resized(&mut self, _ledger: &mut Ledger<'_>) {}

    /// How hot ids are, cached or not; `None` if the policy keeps no record of ids that are not cached.
    fn scorer(&self) -> Option<Scorer> {
        None
    }

    /// Replaces stale residents now instead of at the end of the period. Returns the absent ids to bring in for that.
    fn replace_now(&mut self, _ledger: &mut Ledger<'_>) -> Vec<u32> {
        Vec::new()
    }

    /// Forgets what was learned: accesses have changed.
    fn forget(&mut self, _ledger: &mut Ledger<'_>) {}

    /// What is known about ids before the first access: pairs of id and weight, higher is hotter, each id once.
    fn prior(&mut self, _ledger: &mut Ledger<'_>, _weights: &[(u32, f32)]) {}

    /// A controller decided. Answers whether this policy acts on decisions.
    fn decide(&mut self, _replacement: Replacement) -> bool {
        false
    }

    /// The training moved on. Answers whether what is accessed was found to have shifted, and history was forgotten.
    fn tick(&mut self, _ledger: &mut Ledger<'_>, _clock: Clock) -> bool {
        false
    }
}
