//! Replacement policies: who is worth a slot. A policy is told of every access and asked for victims; it never touches
//! rows, takes no time but the [`Clock`] it is given and no randomness but the generator it is given, so that the
//! daemon and a replay decide alike. All calls come under the table's writer lock.

mod epoch;
mod fixed;
mod lfu;
mod list;
mod lru;
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
pub use rudder::{Decision, ScorePolicy, ScoreSettings, Trigger};
pub use s3fifo::S3FifoPolicy;
pub use sieve::SievePolicy;
pub use spec::PolicySpec;
pub use tinylfu::TinyLfuPolicy;

use super::future::Future;
use super::index::{Index, Touched};
use super::slots::Slots;
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
    /// The step at which the id in question is used next, as far as announced.
    pub next_use: u32,
    /// The generator, seeded by configuration.
    pub random: &'a mut fastrand::Rng,
}

/// The interface of a replacement policy.
pub trait Policy: Send + Debug {
    /// `id` was asked for; `slot` holds its row if it was a hit.
    fn touch(&mut self, ledger: &mut Ledger<'_>, id: u32, slot: Option<u32>);

    /// All accesses of a minibatch have been told.
    fn end_minibatch(&mut self, _ledger: &mut Ledger<'_>) {}

    /// Whether a row in hand may take a free slot.
    fn takes_free_slot(&mut self, _ledger: &mut Ledger<'_>, _id: u32) -> bool {
        true
    }

    /// The slot that `id`, whose row is in hand, shall take from its resident; `None` if it is not worth one.
    fn victim(&mut self, ledger: &mut Ledger<'_>, id: u32) -> Option<u32>;

    /// `id` now lies in `slot`.
    fn inserted(&mut self, _ledger: &mut Ledger<'_>, _id: u32, _slot: u32) {}

    /// `id` lies in `slot` no more.
    fn removed(&mut self, _ledger: &mut Ledger<'_>, _id: u32, _slot: u32) {}

    /// Absent ids that the policy wants brought in although nobody asked; each is named once.
    fn wanted(&mut self, _ledger: &mut Ledger<'_>) -> Vec<u32> {
        Vec::new()
    }

    /// What is known of the ids before anything was accessed: pairs of id and weight, higher is hotter, each id once.
    fn prior(&mut self, _ledger: &mut Ledger<'_>, _weights: &[(u32, f32)]) {}

    /// A controller decided. Answers whether this policy acts on decisions.
    fn decide(&mut self, _decision: Decision) -> bool {
        false
    }

    /// The training moved on. Answers whether what is accessed was found to have shifted, and history was forgotten.
    fn tick(&mut self, _ledger: &mut Ledger<'_>, _clock: Clock) -> bool {
        false
    }
}
