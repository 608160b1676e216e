//! The score policy of the Rudder paper (arXiv 2602.23556) and of its predecessor MassiveGNN (CLUSTER 2024): scores of
//! residents and candidates, replacement of what is stale by what was missed most. It owns the two kinds of scores.
//!
//! One thing tells the two apart, the [`Trigger`]: MassiveGNN replaces on a fixed period (policy `periodic`, static
//! prefetching); Rudder asks at the end of each window for a decision (policy `rudder`). Who decides calls
//! [`Policy::decide`]; until somebody does, every window replaces.
//!
//! Where the reference code fetches a row twice that is both missed and brought in, this one uses the row in hand; and
//! it keeps scores of every remote id, not of the one-hop halo only. Its weaknesses are kept, since it is here to be
//! compared with: scores never recover on a hit, miss counts never decay, and no swap is guarded.

use super::{Ledger, Move, Policy, Slot};
use hashbrown::HashMap;

/// When [`ScorePolicy`] replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Each time this many minibatches have ended. A resident is stale when its score has decayed by one minibatch.
    Period(u32),
    /// Each time this many minibatches have ended, if the last [`Replacement`] was to replace. A resident is stale when
    /// its score has decayed by the minibatches of a window.
    Window(u32),
}

/// What a controller says about the windows to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// Replace what is stale at the end of each window.
    Replace,
    /// Keep the residents.
    Hold,
}

/// Settings of [`ScorePolicy`].
#[derive(Debug, Clone, Copy)]
pub struct ScoreSettings {
    /// When it replaces.
    pub trigger: Trigger,
    /// Share of its score that a resident loses in a minibatch that does not hit it; the paper's α.
    pub alpha: f64,
}

/// Residents examined to choose the one that leaves when the cache shrinks.
const GIVE_UP_SAMPLE: usize = 16;

/// The paper's score policy.
#[derive(Debug)]
pub struct ScorePolicy {
    settings: ScoreSettings,
    replacement: Replacement,
    /// Score below which a resident is stale.
    stale_below: f32,
    /// Per slot: its score, and the minibatch that hit it last.
    residents: Vec<Resident>,
    /// Per absent id: its misses, or the score it left the cache with.
    candidates: HashMap<u32, f32>,
    /// Replacements decided and not yet done: id to slot (`None`: a free one).
    planned: HashMap<u32, Option<Slot>>,
    /// The id that shall come to each slot in `planned`.
    newcomers: HashMap<Slot, u32>,
    /// Whether nobody has asked for the plan yet.
    untold: bool,
    minibatch: u64,
}

#[derive(Debug, Clone, Copy)]
struct Resident {
    score: f32,
    /// Minibatch up to which `score` accounts for decay.
    until: u64,
}

impl ScorePolicy {
    /// The policy for `capacity` slots.
    #[must_use]
    pub fn new(settings: ScoreSettings, capacity: usize) -> Self {
        // The reference code rounds its threshold (1-α)^Δ to three decimals; on a fixed period Δ is 1.
        let delta = match settings.trigger {
            Trigger::Period(_) => 1,
            Trigger::Window(minibatches) => i32::try_from(minibatches).unwrap_or(i32::MAX),
        };
        let stale_below = (((1.0 - settings.alpha).powi(delta) * 1000.0).round() / 1000.0) as f32;
        Self {
            settings,
            replacement: Replacement::Replace,
            stale_below,
            residents: vec![Resident { score: 1.0, until: 0 }; capacity],
            candidates: HashMap::new(),
            planned: HashMap::new(),
            newcomers: HashMap::new(),
            untold: false,
            minibatch: 0,
        }
    }

    /// The score of `slot` after the minibatches that have ended.
    fn score(&self, slot: Slot) -> f32 {
        let Resident { score, until } = self.residents[slot.index()];
        let idle = self.minibatch.saturating_sub(until);
        score * ((1.0 - self.settings.alpha) as f32).powf(idle as f32)
    }

    /// Pairs the stalest residents, and free slots before them, with the candidates missed most.
    fn plan(&mut self, ledger: &Ledger<'_>) {
        self.planned.clear();
        self.newcomers.clear();
        self.untold = true;
        let free = ledger.slots.free();
        let mut stale: Vec<(f32, Slot)> = ledger
            .slots
            .residents()
            .map(|(slot, _)| (self.score(slot), slot))
            .filter(|&(score, _)| score < self.stale_below)
            .collect();
        stale.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        let mut hottest: Vec<(f32, u32)> = self.candidates.iter().map(|(&id, &misses)| (misses, id)).collect();
        let by_misses = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let places = free + stale.len();
        if places == 0 || hottest.is_empty() {
            return;
        }
        if places < hottest.len() {
            hottest.select_nth_unstable_by(places - 1, by_misses);
            hottest.truncate(places);
        }
        hottest.sort_unstable_by(by_misses);
        let slots = std::iter::repeat_n(None, free).chain(stale.into_iter().map(|(_, slot)| Some(slot)));
        self.planned.extend(hottest.into_iter().map(|(_, id)| id).zip(slots));
        self.newcomers.extend(self.planned.iter().filter_map(|(&id, &slot)| Some((slot?, id))));
    }
}

impl Policy for ScorePolicy {
    fn touch(&mut self, _ledger: &mut Ledger<'_>, id: u32, slot: Option<Slot>) {
        match slot {
            // A hit keeps the score: this minibatch's decay, which the end of it would bring, is taken back.
            Some(slot) => {
                let score = self.score(slot);
                self.residents[slot.index()] = Resident { score, until: self.minibatch + 1 };
            }
            None => *self.candidates.entry(id).or_insert(0.0) += 1.0,
        }
    }

    fn end_minibatch(&mut self, ledger: &mut Ledger<'_>) {
        self.minibatch += 1;
        let (Trigger::Period(span) | Trigger::Window(span)) = self.settings.trigger;
        if self.minibatch.is_multiple_of(u64::from(span.max(1))) && self.replacement == Replacement::Replace {
            self.plan(ledger);
        }
    }

    fn decide(&mut self, replacement: Replacement) -> bool {
        let listens = matches!(self.settings.trigger, Trigger::Window(_));
        if listens {
            self.replacement = replacement;
        }
        listens
    }

    fn takes_free_slot(&mut self, _ledger: &mut Ledger<'_>, id: u32) -> bool {
        self.planned.get(&id).is_some_and(Option::is_none)
    }

    fn victim(&mut self, _ledger: &mut Ledger<'_>, id: u32) -> Option<Slot> {
        self.planned.get(&id).copied().flatten()
    }

    fn give_up(&mut self, ledger: &mut Ledger<'_>) -> Option<Slot> {
        let span = Some(ledger.slots.span()).filter(|&span| span > 0)?;
        let drawn: Vec<Slot> = (0..GIVE_UP_SAMPLE).map(|_| Slot(ledger.random.u32(0..span))).collect();
        let held = drawn.into_iter().filter(|&slot| ledger.slots.id(slot).is_some());
        held.min_by(|&a, &b| self.score(a).total_cmp(&self.score(b)))
    }

    fn resized(&mut self, ledger: &mut Ledger<'_>) {
        self.residents.resize(self.residents.len().max(ledger.slots.capacity()), Resident { score: 1.0, until: 0 });
    }

    fn replace_now(&mut self, ledger: &mut Ledger<'_>) -> Vec<u32> {
        self.plan(ledger);
        self.wanted(ledger)
    }

    fn inserted(&mut self, _ledger: &mut Ledger<'_>, id: u32, slot: Slot) {
        if let Some(Some(planned)) = self.planned.remove(&id) {
            self.newcomers.remove(&planned);
        }
        let score = self.candidates.remove(&id).unwrap_or(1.0);
        self.residents[slot.index()] = Resident { score, until: self.minibatch };
    }

    fn removed(&mut self, _ledger: &mut Ledger<'_>, id: u32, slot: Slot) {
        self.candidates.insert(id, self.score(slot));
    }

    fn wanted(&mut self, _ledger: &mut Ledger<'_>) -> Vec<u32> {
        if !std::mem::take(&mut self.untold) {
            return Vec::new();
        }
        let mut ids: Vec<u32> = self.planned.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    fn forget_row(&mut self, id: u32) {
        self.candidates.remove(&id);
        if let Some(Some(planned)) = self.planned.remove(&id) {
            self.newcomers.remove(&planned);
        }
    }

    fn moved(&mut self, _ledger: &mut Ledger<'_>, _id: u32, Move { from, to }: Move) {
        self.residents[to.index()] = self.residents[from.index()];
        if let Some(newcomer) = self.newcomers.remove(&from) {
            self.planned.insert(newcomer, Some(to));
            self.newcomers.insert(to, newcomer);
        }
    }
}
