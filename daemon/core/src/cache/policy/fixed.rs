//! Static prefetching: the ids of highest prior weight stay in the cache for good. The weight is what is known before
//! training, such as the edges from this partition to the id (the policy "degree" of PaGraph: Lin, Li, Miao, Liu and
//! Xu, SoCC 2020) or its frequency in a presampled trace (GNNLab: Yang, Tang, Song, Wang, Yin, Chen, Ding and Zhou,
//! EuroSys 2022). No parameters.
//!
//! The chosen rows are brought in at the start, a bounded number per minibatch, and taken where they come by earlier.
//! Slots that no id of the prior claims go to whoever comes first. Nothing is ever replaced. When the cache grows,
//! the next in the order of weights are chosen; when it shrinks, the rows that came last go.

use super::{Ledger, Policy, Slot};
use hashbrown::HashSet;

/// Most rows asked for at the end of one minibatch.
const WANTED_ROWS_MAX: usize = 65_536;

/// Static prefetching.
#[derive(Debug, Default)]
pub struct StaticPolicy {
    /// Chosen and not yet resident.
    awaited: HashSet<u32>,
    /// All ids of the prior, the hottest last, as far as they were not chosen yet.
    others: Vec<u32>,
    /// Ids chosen so far.
    chosen: usize,
    /// Chosen and not yet asked for, the hottest last.
    unasked: Vec<u32>,
}

impl StaticPolicy {
    /// Chooses the hottest of those left until each slot has one.
    fn choose(&mut self, ledger: &Ledger<'_>) {
        let more = ledger.slots.capacity().saturating_sub(self.chosen).min(self.others.len());
        let mut next = self.others.split_off(self.others.len() - more);
        self.chosen += more;
        // One that came by itself, into a slot that no chosen row claimed, is here already.
        next.retain(|&id| ledger.index.slot(id).is_none());
        self.awaited.extend(&next);
        self.unasked.splice(0..0, next);
    }
}

impl Policy for StaticPolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, _id: u32, _slot: Option<Slot>) {}

    fn prior(&mut self, ledger: &mut Ledger<'_>, weights: &[(u32, f32)]) {
        let mut hottest = weights.to_vec();
        hottest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        self.others = hottest.iter().rev().map(|&(id, _)| id).collect();
        self.choose(ledger);
    }

    fn takes_free_slot(&mut self, ledger: &mut Ledger<'_>, id: u32) -> bool {
        self.awaited.contains(&id) || ledger.slots.free() > self.awaited.len()
    }

    fn victim(&mut self, _ledger: &mut Ledger<'_>, _id: u32) -> Option<Slot> {
        None
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, id: u32, _slot: Slot) {
        self.awaited.remove(&id);
    }

    fn resized(&mut self, ledger: &mut Ledger<'_>) {
        self.choose(ledger);
        // After shrinking, what was chosen last and is not here is chosen no more.
        while self.awaited.len() > ledger.slots.free() && !self.unasked.is_empty() {
            let coldest = self.unasked.remove(0);
            // One that came by itself stays chosen.
            if self.awaited.remove(&coldest) {
                self.others.push(coldest);
                self.chosen -= 1;
            }
        }
    }

    fn replace_now(&mut self, ledger: &mut Ledger<'_>) -> Vec<u32> {
        self.wanted(ledger)
    }

    fn wanted(&mut self, _ledger: &mut Ledger<'_>) -> Vec<u32> {
        let mut wanted = Vec::new();
        while wanted.len() < WANTED_ROWS_MAX {
            let Some(id) = self.unasked.pop() else { break };
            if self.awaited.contains(&id) {
                wanted.push(id);
            }
        }
        wanted
    }
}
