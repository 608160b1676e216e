//! The known future of a table: minibatches that trainers have announced, and from them the next use of every resident.
//! It owns steps and ids only, and never fetches anything. Within the announced horizon it makes the choice of victims
//! Belady's: keep what is used next, let go what is used last.
//!
//! Time is counted in steps of the node. A batch is announced for a step, and *consumed* when a trainer fetches it.
//! Several trainers announce and fetch in no certain order: for each id all uses that wait are kept, by step, so that
//! the first of those left is the next, whichever was consumed.

use super::slots::{Slot, Slots};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// A step of the node: the time of a use. Steps are above 0, so that an `Option<Step>` takes no more than a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step(NonZeroU32);

impl Step {
    /// The step with this number; 0 counts as 1.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU32::MIN),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The step after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// An announced batch, by the order of announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchKey(u64);

/// No use, as a place in `uses`.
const NONE: u32 = u32::MAX;

/// A use of an id that waits, between the one before and the one after it.
#[derive(Debug, Clone, Copy)]
struct Use {
    step: Step,
    before: u32,
    after: u32,
}

/// The first and the last use of an id that wait.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// For each id its uses that wait, by step.
#[derive(Debug, Default)]
struct Uses {
    uses: Vec<Use>,
    /// Free places in `uses`.
    free: Vec<u32>,
    ends: HashMap<u64, Ends>,
}

impl Uses {
    /// Adds a use of `id` at `step` and answers the step of the first that waits.
    fn add(&mut self, id: u64, step: Step) -> Step {
        let known = self.ends.get(&id).copied();
        // What is announced last is used last, except between trainers that are a step apart.
        let mut before = known.map_or(NONE, |ends| ends.last);
        while before != NONE && self.uses[before as usize].step > step {
            before = self.uses[before as usize].before;
        }
        let first = known.map_or(NONE, |ends| ends.first);
        let after = if before == NONE { first } else { self.uses[before as usize].after };
        let here = self.put(Use { step, before, after });
        if before != NONE {
            self.uses[before as usize].after = here;
        }
        if after != NONE {
            self.uses[after as usize].before = here;
        }
        let ends = self.ends.entry(id).or_insert(Ends { first: here, last: here });
        if before == NONE {
            ends.first = here;
        }
        if after == NONE {
            ends.last = here;
        }
        self.uses[ends.first as usize].step
    }

    fn put(&mut self, new: Use) -> u32 {
        if let Some(place) = self.free.pop() {
            self.uses[place as usize] = new;
            return place;
        }
        self.uses.push(new);
        self.uses.len() as u32 - 1
    }

    /// Takes a use of `id` at `step` away and answers the step of the first that is left, if any.
    fn remove(&mut self, id: u64, step: Step) -> Option<Step> {
        let mut ends = self.ends.get(&id).copied()?;
        let mut at = ends.first;
        while at != NONE && self.uses[at as usize].step != step {
            at = self.uses[at as usize].after;
        }
        if at != NONE {
            let Use { before, after, .. } = self.uses[at as usize];
            match before {
                NONE => ends.first = after,
                before => self.uses[before as usize].after = after,
            }
            match after {
                NONE => ends.last = before,
                after => self.uses[after as usize].before = before,
            }
            self.free.push(at);
        }
        if ends.first == NONE {
            self.ends.remove(&id);
            return None;
        }
        self.ends.insert(id, ends);
        Some(self.uses[ends.first as usize].step)
    }
}

#[derive(Debug)]
struct Batch {
    step: Step,
    ids: Vec<u64>,
}

/// Announced batches and the next uses of residents.
#[derive(Debug, Default)]
pub struct Future {
    batches: BTreeMap<BatchKey, Batch>,
    /// Batches that wait, by step.
    steps: BTreeMap<Step, u32>,
    keys: u64,
    uses: Uses,
    /// Per slot, the step of its resident's next announced use.
    next_use: Vec<Option<Step>>,
    /// Slots by next use; an entry counts only while `next_use` agrees. Holds only steps at which a batch waits.
    due: BTreeMap<Step, Vec<Slot>>,
    /// Slots without an announced use; an entry counts only while `next_use` agrees and the slot is held.
    idle: Vec<Slot>,
    entries: usize,
    covering: bool,
}

impl Future {
    /// Whether any announced batch waits.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Whether next uses of slots are kept: from the first announcement on.
    #[must_use]
    pub fn is_covering(&self) -> bool {
        self.covering
    }

    /// Announced uses that wait.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The ids of a batch that waits.
    #[must_use]
    pub fn ids(&self, key: BatchKey) -> &[u64] {
        self.batches.get(&key).map_or(&[], |batch| &batch.ids)
    }

    /// Takes an announcement: `ids`, each once, will be used at `step`. `slot` tells where an id is cached.
    pub fn announce(&mut self, step: Step, ids: Vec<u64>, slot: impl Fn(u64) -> Option<Slot>) -> BatchKey {
        self.keys += 1;
        let key = BatchKey(self.keys);
        *self.steps.entry(step).or_default() += 1;
        for &id in &ids {
            let next = self.uses.add(id, step);
            if let Some(slot) = slot(id) {
                self.set_next_use(slot, Some(next));
            }
        }
        self.entries += ids.len();
        self.batches.insert(key, Batch { step, ids });
        key
    }

    /// Removes a batch, used or given up, and answers its ids and the step at which each is used next.
    pub fn consume(&mut self, key: BatchKey) -> (Vec<u64>, Vec<Option<Step>>) {
        let Some(Batch { step, ids }) = self.batches.remove(&key) else { return Default::default() };
        self.entries -= ids.len();
        self.leave_step(step);
        let next = ids.iter().map(|&id| self.uses.remove(id, step)).collect();
        (ids, next)
    }

    /// One batch less waits at `step`: after the last one nothing is due there any more.
    fn leave_step(&mut self, step: Step) {
        if let Some(batches) = self.steps.get_mut(&step) {
            *batches -= 1;
            if *batches == 0 {
                self.steps.remove(&step);
                self.due.remove(&step);
            }
        }
        debug_assert!(
            self.due.first_key_value().is_none_or(|(first, _)| self.steps.contains_key(first)),
            "slots are due at a step at which no batch waits"
        );
    }

    /// The step of the next announced use of the resident of `slot`, if any.
    #[inline]
    #[must_use]
    pub fn next_use(&self, slot: Slot) -> Option<Step> {
        self.next_use.get(slot.index()).copied().flatten()
    }

    /// Keeps next uses from now on, of `slots` slots so far.
    pub fn cover(&mut self, slots: usize) {
        self.covering = true;
        let covered = self.next_use.len();
        if slots > covered {
            self.next_use.resize(slots, None);
            self.idle.extend((covered as u32..slots as u32).map(Slot));
        }
    }

    /// Sets the next announced use of the resident of `slot`.
    pub fn set_next_use(&mut self, slot: Slot, step: Option<Step>) {
        let at = slot.index();
        self.cover(at + 1);
        if self.next_use[at] == step {
            return;
        }
        self.next_use[at] = step;
        if let Some(step) = step {
            debug_assert!(self.steps.contains_key(&step), "a use at {step:?}, at which no batch waits");
            self.due.entry(step).or_default().push(slot);
        } else {
            self.push_idle(slot);
        }
    }

    /// A row comes to `slot`, which was free, with `step` as its next announced use.
    pub fn occupied(&mut self, slot: Slot, step: Option<Step>) {
        self.set_next_use(slot, step);
        // A free slot is dropped from the idle ones when it is drawn: it joins them again here.
        if step.is_none() {
            self.push_idle(slot);
        }
    }

    fn push_idle(&mut self, slot: Slot) {
        self.idle.push(slot);
        if self.idle.len() > 2 * self.next_use.len() + 64 {
            self.tidy_idle();
        }
    }

    fn tidy_idle(&mut self) {
        let next_use = &self.next_use;
        self.idle.retain(|&slot| next_use[slot.index()].is_none());
        self.idle.sort_unstable();
        self.idle.dedup();
    }

    /// Up to `sample` slots whose residents have no announced use, drawn at random.
    pub fn draw_idle(&mut self, sample: usize, slots: &Slots, random: &mut fastrand::Rng, mut take: impl FnMut(Slot)) {
        let mut drawn = 0;
        while drawn < sample && !self.idle.is_empty() {
            let at = random.usize(0..self.idle.len());
            let slot = self.idle[at];
            if self.next_use(slot).is_none() && slots.id(slot).is_some() {
                take(slot);
                drawn += 1;
            } else {
                self.idle.swap_remove(at);
            }
        }
    }

    /// The slot whose resident is used last of all that have an announced use, and when.
    pub fn last_due(&mut self) -> Option<(Slot, Step)> {
        while let Some(mut entry) = self.due.last_entry() {
            let step = *entry.key();
            let slots = entry.get_mut();
            while let Some(&slot) = slots.last() {
                if self.next_use.get(slot.index()) == Some(&Some(step)) {
                    return Some((slot, step));
                }
                slots.pop();
            }
            entry.remove();
        }
        None
    }

    /// Bytes that this takes: per slot its next use and a place among the idle slots, per announced use its id, its
    /// place in the order of uses, the ends of that order and a place among the due slots.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let per_slot = 2 * size_of::<u32>();
        let per_use = size_of::<u64>() + size_of::<Slot>() + size_of::<Use>() + size_of::<(u64, Ends)>();
        self.next_use.len() * per_slot + self.entries * per_use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32) -> Step {
        Step::new(number)
    }

    #[test]
    fn each_use_knows_the_next() {
        let mut future = Future::default();
        let cached = |id: u64| (id == 7).then_some(Slot(0));
        let first = future.announce(at(10), vec![7, 8], cached);
        let second = future.announce(at(11), vec![8, 9], cached);
        future.announce(at(13), vec![7], cached);
        assert_eq!(future.next_use(Slot(0)), Some(at(10)));
        assert_eq!(future.consume(first), (vec![7, 8], vec![Some(at(13)), Some(at(11))]));
        assert_eq!(future.consume(second), (vec![8, 9], vec![None, None]));
        assert_eq!(future.entries(), 1);
    }

    #[test]
    fn a_trainer_that_lags_is_linked_to_one_that_leads() {
        let mut future = Future::default();
        future.announce(at(20), vec![5], |_| None);
        let lagging = future.announce(at(18), vec![5], |_| None);
        assert_eq!(future.consume(lagging).1, [Some(at(20))]);
    }

    #[test]
    fn trainers_that_fetch_in_another_order_than_they_announced_leave_no_use_behind() {
        let mut future = Future::default();
        let first = future.announce(at(10), vec![5], |_| None);
        let second = future.announce(at(10), vec![5], |_| None);
        assert_eq!(future.consume(second).1, [Some(at(10))], "the other trainer's use still waits");
        assert_eq!(future.consume(first).1, [None]);
        let ahead = future.announce(at(12), vec![5], |_| None);
        let behind = future.announce(at(11), vec![5], |_| None);
        assert_eq!(future.consume(ahead).1, [Some(at(11))]);
        assert_eq!(future.consume(behind).1, [None]);
        assert!(future.uses.ends.is_empty() && future.uses.free.len() == future.uses.uses.len());
    }

    #[test]
    fn what_is_due_ends_with_its_step() {
        let mut future = Future::default();
        let cached = |id: u64| Some(Slot(id as u32));
        let mut waiting = std::collections::VecDeque::new();
        for step in 0..5_000u32 {
            let ids: Vec<u64> = (0..20).map(|at| u64::from(step * 7 + at * 13) % 100).collect();
            waiting.push_back(future.announce(at(step), ids, cached));
            if waiting.len() > 16
                && let Some(first) = waiting.pop_front()
            {
                let (ids, next) = future.consume(first);
                ids.iter().zip(next).for_each(|(&id, next)| future.set_next_use(Slot(id as u32), next));
            }
            assert!(future.due.len() <= 16, "{} steps are due, 16 batches wait", future.due.len());
        }
        assert!(future.due.values().map(Vec::len).sum::<usize>() <= 16 * 40);
        waiting.into_iter().for_each(|key| drop(future.consume(key)));
        assert!(future.due.is_empty() && future.steps.is_empty());
    }

    #[test]
    fn the_last_due_and_the_idle_are_found_whatever_changed_meanwhile() {
        let mut future = Future::default();
        let mut slots = Slots::new(3, 3);
        (0..3).for_each(|id| assert!(slots.occupy_free(id).is_some()));
        for step in [4, 5, 9] {
            future.announce(at(step), Vec::new(), |_| None);
        }
        future.set_next_use(Slot(0), Some(at(5)));
        future.set_next_use(Slot(1), Some(at(9)));
        future.cover(3);
        assert_eq!(future.last_due(), Some((Slot(1), at(9))));
        future.set_next_use(Slot(1), Some(at(4)));
        assert_eq!(future.last_due(), Some((Slot(0), at(5))));
        let mut idle = Vec::new();
        future.draw_idle(1, &slots, &mut fastrand::Rng::with_seed(1), |slot| idle.push(slot));
        assert_eq!(idle, [Slot(2)]);
        future.set_next_use(Slot(0), None);
        assert_eq!(future.last_due(), Some((Slot(1), at(4))));
    }
}
