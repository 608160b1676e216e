//! The guard between a proposal and the cache: no controller can do harm. It clamps arguments, and refuses what costs
//! more than it can bring: growth over the ceiling, slots given back that are of use, evictions without hotter
//! candidates, calls too soon after the last, anything costly when the run is nearly over, and what made things worse
//! twice in like states. It owns those rules and must never change what the tools themselves check.

use super::controller::{Effect, Past};
use super::snapshot::Snapshot;
use crate::tools::{Evict, Grow, ToolCall};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Share of the run from which nothing is brought in any more: it would not be used often enough.
const NEARLY_DONE: f64 = 0.97;

/// Share of the memory limit from which no controller is given more, and any may undo growth.
pub(super) const MEMORY_TIGHT: f64 = 0.85;

/// Largest growth of one decision.
pub(super) const GROW_FACTOR_MAX: f64 = 4.0;

/// Smallest share that a decision may shrink a cache to.
pub(super) const GROW_FACTOR_MIN: f64 = 0.5;

/// Rows that turn-overs may bring in, per row that crossed the network: what a bad controller costs, at most.
const TURN_OVER_SHARE: f64 = 0.02;

/// Share of the residents from which such an allowance grows no further.
const TURN_OVER_MAX: f64 = 0.25;

/// A change in the network share counts as a tool's effect only if it exceeds this multiple of the average change from
/// window to window.
const NOISE: f64 = 2.0;

/// Weight of the last window in that average.
const NOISE_WEIGHT: f64 = 0.125;

/// Times that a tool must have made things worse in similar states before it is vetoed.
const STRIKES: u32 = 2;

/// Fewest rows that a decision may leave the cache of a serving node with.
const ROWS_MIN: u64 = 1024;

/// Bounds of the guard; its keys belong to section `[agent]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardSettings {
    /// Windows after a call of a tool in which the agent may not call it again; growth excepted.
    pub cooldown_windows: u64,
    /// Windows for which a tool is vetoed that made things worse twice in like states.
    pub veto_windows: u64,
    /// Rows below which no cache is shrunk. Not a key of the configuration.
    #[serde(skip)]
    pub rows_min: u64,
    /// Whether slots that may be useful are kept. They are wherever trainers wait for rows; a replay that collects
    /// samples gives them back, so that growing can be tried again. Not a key of the configuration.
    #[serde(skip)]
    pub keeps_useful: bool,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self { cooldown_windows: 1, veto_windows: 20, rows_min: ROWS_MIN, keeps_useful: true }
    }
}

/// The guard's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Go on, with arguments that may have been clamped; `clamped` says how.
    Allowed {
        /// The call.
        call: ToolCall,
        /// What was changed, in words.
        clamped: Option<String>,
    },
    /// No, for this reason.
    Refused(&'static str, String),
}

/// A state as coarse as "similar states" means: fullness, hit rate and cold share by tenths, and shifted or not.
type Likeness = (u8, u8, u8, bool);

fn likeness(seen: &Snapshot) -> Likeness {
    let tenth = |share: f64| (share * 10.0).clamp(0.0, 10.0) as u8;
    (tenth(seen.fullness()), tenth(seen.hit_rate.unwrap_or(0.0)), tenth(seen.cold_share), seen.shifted)
}

/// What a call does, as far as strikes are concerned: growth must not pay for what shrinking did.
fn kind(call: &ToolCall, now: &Snapshot) -> &'static str {
    match call {
        ToolCall::Grow(_) if grows(call, now) => "grow",
        ToolCall::Grow(_) => "shrink",
        other => other.tool(),
    }
}

/// The guard and what it remembers.
#[derive(Debug)]
pub struct Guard {
    settings: GuardSettings,
    /// By kind of call and state: times it made things worse, and the window until which it is vetoed.
    strikes: BTreeMap<(&'static str, Likeness), (u32, u64)>,
    /// By tool, the window of its last call.
    last: BTreeMap<&'static str, u64>,
    /// Rows that the cache might hold at the first decision.
    first_capacity_rows: Option<u64>,
    /// Average change of the network share from window to window while nothing is done.
    noise: f64,
    /// Rows that turn-overs may bring in now.
    allowance_rows: f64,
}

/// The rules by which proposals are refused.
pub const RULES: [&str; 9] = [
    "cooldown",
    "veto",
    "nearly-done",
    "no-candidates",
    "no-shift",
    "allowance",
    "in-use",
    "pointless",
    "not-a-decision",
];

impl Guard {
    /// A guard without memories.
    #[must_use]
    pub fn new(settings: GuardSettings) -> Self {
        Self {
            settings,
            strikes: BTreeMap::new(),
            last: BTreeMap::new(),
            first_capacity_rows: None,
            noise: 0.0,
            allowance_rows: 0.0,
        }
    }

    /// Judges `call` after the window `now`.
    pub fn judge(&mut self, call: ToolCall, now: &Snapshot) -> Verdict {
        self.first_capacity_rows.get_or_insert(now.capacity_rows);
        let most = TURN_OVER_MAX * now.cached_rows as f64;
        self.allowance_rows = (self.allowance_rows + TURN_OVER_SHARE * now.network_rows as f64).min(most);
        if matches!(call, ToolCall::Hold(_)) {
            return Verdict::Allowed { call, clamped: None };
        }
        if let Some(refused) = self.refusal(&call, now) {
            return refused;
        }
        let (call, clamped) = match call {
            ToolCall::Grow(grow) => self.clamp_growth(grow, now),
            ToolCall::Evict(evict) => self.clamp_eviction(evict, now),
            other => (other, None),
        };
        if matches!(&call, ToolCall::Grow(grow) if grow.factor == Some(1.0) || grow.rows == Some(now.capacity_rows)) {
            let rows = now.capacity_rows;
            return Verdict::Refused(
                "pointless",
                format!("the cache has {rows} rows, and can have no other number now"),
            );
        }
        self.last.insert(call.tool(), now.window);
        Verdict::Allowed { call, clamped }
    }

    fn refusal(&self, call: &ToolCall, now: &Snapshot) -> Option<Verdict> {
        let refused = |rule, why: String| Some(Verdict::Refused(rule, why));
        // Growth costs nothing on the network but what is then worth its slot, and is bounded by its factor.
        if let Some(&last) = self.last.get(call.tool()).filter(|_| !matches!(call, ToolCall::Grow(_)))
            && now.window.saturating_sub(last) <= self.settings.cooldown_windows
        {
            let windows = now.window - last;
            return refused("cooldown", format!("the last {} was {windows} windows ago", call.tool()));
        }
        if let Some(&(_, until)) = self.strikes.get(&(kind(call, now), likeness(now)))
            && now.window < until
        {
            return refused("veto", format!("{} made things worse twice in states like this", call.tool()));
        }
        if now.run_progress.is_some_and(|progress| progress >= NEARLY_DONE) && costs(call, now) {
            return refused("nearly-done", "the run is nearly over".to_owned());
        }
        match call {
            ToolCall::Grow(_) if kind(call, now) == "shrink" && self.floor(now) >= now.capacity_rows as f64 => {
                refused("in-use", "slots are given back in the last epoch, or where memory is tight".to_owned())
            }
            ToolCall::Evict(evict) if now.hotter_absent_rows == 0 && !evict.forget => {
                refused("no-candidates", "no absent row is hotter than a resident".to_owned())
            }
            ToolCall::Evict(evict) if evict.forget && !now.shifted => {
                refused("no-shift", "history is dropped only when accesses have shifted".to_owned())
            }
            ToolCall::Evict(_) if self.settings.keeps_useful && self.allowance_rows < 1.0 => {
                refused("allowance", "too much of what crossed the network was brought in by turn-overs".to_owned())
            }
            ToolCall::Warm(_) => refused("not-a-decision", "ids are for trainers to name".to_owned()),
            _ => None,
        }
    }

    /// Rows below which the cache is not shrunk. What is cold now may be asked for later, and an empty slot waits for a
    /// row: both are kept, but for rows that a run's last epoch does not ask for again. Where memory is tight, growth
    /// may be undone, and no more.
    fn floor(&self, now: &Snapshot) -> f64 {
        let capacity = now.capacity_rows as f64;
        let mut needed = capacity;
        if now.in_last_epoch() {
            needed -= now.cached_rows as f64 * now.spent_share.clamp(0.0, 1.0);
        }
        if now.memory_share >= MEMORY_TIGHT {
            needed = needed.min(self.first_capacity_rows.unwrap_or(now.capacity_rows) as f64);
        }
        if !self.settings.keeps_useful {
            needed = 0.0;
        }
        needed.max(capacity * GROW_FACTOR_MIN).max(self.settings.rows_min as f64).min(capacity)
    }

    /// Growth in rows, within the ceiling, a factor and the least a cache may have.
    fn clamp_growth(&self, grow: Grow, now: &Snapshot) -> (ToolCall, Option<String>) {
        let capacity = now.capacity_rows as f64;
        let asked = asked_rows(&grow, now);
        let floor = self.floor(now);
        // The first slots of an empty cache are no multiple of nothing.
        let most = (capacity * GROW_FACTOR_MAX).max(self.settings.rows_min as f64);
        let rows = asked.clamp(floor, most.max(floor)).min(now.ceiling_rows.max(now.capacity_rows) as f64).round();
        let clamped = (rows != asked.round()).then(|| format!("{asked:.0} rows became {rows:.0}"));
        // A factor, so that several tables grow alike.
        let call = if capacity > 0.0 {
            Grow { factor: Some(rows / capacity), rows: None, table: grow.table }
        } else {
            Grow { rows: Some(rows as u64), factor: None, table: grow.table }
        };
        (ToolCall::Grow(call), clamped)
    }

    /// No more than there are hotter rows for, and than may be brought in.
    fn clamp_eviction(&mut self, evict: Evict, now: &Snapshot) -> (ToolCall, Option<String>) {
        let residents = now.cached_rows.max(1) as f64;
        let useful = if evict.forget { 1.0 } else { now.hotter_absent_rows as f64 / residents };
        let allowed = if self.settings.keeps_useful { self.allowance_rows / residents } else { 1.0 };
        let fraction = evict.fraction.min(useful).min(allowed).clamp(1e-6, 1.0);
        self.allowance_rows -= fraction * residents;
        let clamped =
            (fraction < evict.fraction).then(|| format!("fraction {:.3} became {fraction:.3}", evict.fraction));
        (ToolCall::Evict(Evict { fraction, ..evict }), clamped)
    }

    /// Learns what a decision did.
    pub fn learn(&mut self, past: &Past, effect: &Effect) {
        let key = (kind(&past.call, &past.seen), likeness(&past.seen));
        match past.call {
            ToolCall::Hold(_) => {
                self.noise += NOISE_WEIGHT * (effect.network_change().abs() - self.noise);
                return;
            }
            // It is called to pull rows again, which is not for hits.
            ToolCall::Refresh(_) => return,
            _ => {}
        }
        if !effect.made_worse(NOISE * self.noise) {
            self.strikes.remove(&key);
            return;
        }
        let entry = self.strikes.entry(key).or_default();
        entry.0 += 1;
        if entry.0 >= STRIKES {
            entry.1 = past.seen.window + 1 + self.settings.veto_windows;
            entry.0 = 0;
        }
    }
}

/// Rows that the cache shall hold; its present capacity if the result is not a number.
fn asked_rows(grow: &Grow, now: &Snapshot) -> f64 {
    let capacity = now.capacity_rows as f64;
    let asked = grow.rows.map_or_else(|| capacity * grow.factor.unwrap_or(1.0), |rows| rows as f64);
    if asked.is_finite() { asked } else { capacity }
}

fn grows(call: &ToolCall, now: &Snapshot) -> bool {
    matches!(call, ToolCall::Grow(grow) if asked_rows(grow, now) >= now.capacity_rows as f64)
}

/// Whether `call` brings rows in that would not have come anyway.
fn costs(call: &ToolCall, now: &Snapshot) -> bool {
    match call {
        ToolCall::Grow(_) => grows(call, now),
        ToolCall::Evict(_) | ToolCall::Warm(_) => true,
        ToolCall::Refresh(_) | ToolCall::Hold(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::controller::Impact;
    use super::*;
    use crate::tools::{Hold, Refresh};
    use proptest::prelude::*;

    const SETTINGS: GuardSettings =
        GuardSettings { cooldown_windows: 2, veto_windows: 10, rows_min: 10, keeps_useful: true };

    fn seen(window: u64) -> Snapshot {
        Snapshot {
            window,
            hit_rate: Some(0.5),
            remote_rows: 10_000,
            network_rows: 5_000,
            capacity_rows: 100,
            cached_rows: 100,
            ceiling_rows: 150,
            hotter_absent_rows: 10,
            ..Snapshot::default()
        }
    }

    fn grow(factor: f64) -> ToolCall {
        ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() })
    }

    fn evict(fraction: f64, forget: bool) -> ToolCall {
        ToolCall::Evict(Evict { fraction, forget, table: None })
    }

    fn rule(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Refused(rule, _) => rule,
            Verdict::Allowed { clamped: Some(_), .. } => "clamped",
            Verdict::Allowed { .. } => "allowed",
        }
    }

    fn judged(call: ToolCall, now: &Snapshot) -> &'static str {
        rule(&Guard::new(SETTINGS).judge(call, now))
    }

    #[test]
    fn each_rule_has_its_refusal() {
        let now = seen(5);
        assert_eq!(judged(ToolCall::Hold(Hold {}), &now), "allowed");
        assert_eq!(judged(grow(1.2), &now), "allowed");
        assert_eq!(judged(grow(1.9), &now), "clamped");
        assert_eq!(judged(grow(2.0), &Snapshot { ceiling_rows: 100, ..now }), "pointless");
        assert_eq!(judged(evict(0.05, false), &now), "allowed");
        assert_eq!(judged(evict(0.5, false), &now), "clamped");
        assert_eq!(judged(evict(0.5, false), &Snapshot { hotter_absent_rows: 0, ..now }), "no-candidates");
        assert_eq!(judged(evict(0.5, true), &now), "no-shift");
        assert_eq!(judged(evict(0.2, true), &Snapshot { shifted: true, ..now }), "allowed");
        let done = Snapshot { run_progress: Some(0.99), ..now };
        assert_eq!(judged(grow(1.2), &done), "nearly-done");
        assert_eq!(
            judged(grow(0.8), &Snapshot { cold_share: 1.0, ..now }),
            "in-use",
            "what is cold may be asked for later"
        );
        assert_eq!(
            judged(grow(0.8), &Snapshot { cached_rows: 10, ..now }),
            "in-use",
            "a cache that fills needs its slots"
        );
        assert_eq!(judged(grow(0.8), &Snapshot { memory_share: 0.9, ..now }), "in-use", "nothing had grown");
        let collecting = GuardSettings { keeps_useful: false, ..SETTINGS };
        assert_eq!(rule(&Guard::new(collecting).judge(grow(0.8), &now)), "allowed", "nobody waits for these rows");
        let last = Snapshot { epochs: 9.5, run_progress: Some(0.95), spent_share: 0.3, ..now };
        assert_eq!(judged(grow(0.7), &last), "allowed", "so much of it is not asked for again");
        assert_eq!(judged(grow(0.6), &last), "clamped");
        assert_eq!(judged(grow(0.5), &Snapshot { cached_rows: 0, ..last }), "in-use", "nothing to give back");
        assert_eq!(judged(ToolCall::Refresh(Refresh::default()), &done), "allowed");
        let warm = crate::tools::Warm { table: "x".to_owned(), ids: vec![1], ids_are: None };
        assert_eq!(judged(ToolCall::Warm(warm), &now), "not-a-decision");
    }

    #[test]
    fn growth_may_be_undone_where_memory_is_tight_and_no_more() {
        let mut guard = Guard::new(SETTINGS);
        assert_eq!(rule(&guard.judge(grow(1.5), &seen(1))), "allowed");
        let tight = Snapshot { capacity_rows: 150, memory_share: 0.9, ..seen(2) };
        let verdict = guard.judge(grow(0.5), &tight);
        let Verdict::Allowed { call: ToolCall::Grow(Grow { factor: Some(factor), .. }), .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!((150.0 * factor).round(), 100.0);
        assert_eq!(rule(&guard.judge(grow(0.9), &Snapshot { capacity_rows: 100, ..tight })), "in-use");
    }

    #[test]
    fn actions_come_with_a_pause_between() {
        let mut guard = Guard::new(SETTINGS);
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(5))), "allowed");
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(7))), "cooldown");
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(7))), "allowed", "another tool");
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(8))), "allowed", "growth needs no pause");
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(8))), "allowed");
    }

    #[test]
    fn what_made_things_worse_twice_is_vetoed_for_a_while() {
        let mut guard = Guard::new(SETTINGS);
        let worse = Effect { hit_rate: (0.5, 0.5), network_share: (0.5, 0.7), as_expected: false };
        for window in [10, 20] {
            assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(window))), "allowed");
            let past = Past::new(seen(window), evict(0.05, false), Impact::Up);
            guard.learn(&past, &worse);
        }
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(25))), "veto");
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(25))), "allowed", "another tool is not");
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(31))), "allowed", "ten windows later");
    }

    #[test]
    fn no_tool_is_blamed_for_what_windows_differ_by() {
        let mut guard = Guard::new(SETTINGS);
        let effect = |after| Effect { hit_rate: (0.5, 0.5), network_share: (0.5, after), as_expected: false };
        let hold = Past::new(seen(1), ToolCall::Hold(Hold {}), Impact::Same);
        (0..40).for_each(|window| guard.learn(&hold, &effect(if window % 2 == 0 { 0.6 } else { 0.4 })));
        for window in [50, 60] {
            guard.learn(&Past::new(seen(window), evict(0.05, false), Impact::Up), &effect(0.65));
        }
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(65))), "allowed");
        for window in [70, 80] {
            guard.learn(&Past::new(seen(window), evict(0.05, false), Impact::Up), &effect(0.8));
            guard.learn(&Past::new(seen(window), ToolCall::Refresh(Refresh::default()), Impact::Same), &effect(0.8));
        }
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(85))), "veto");
        assert_eq!(
            rule(&guard.judge(ToolCall::Refresh(Refresh::default()), &seen(85))),
            "allowed",
            "it is for no hits"
        );
    }

    #[test]
    fn turn_overs_bring_in_a_small_share_of_what_crosses_the_network() {
        let settings = GuardSettings { cooldown_windows: 0, ..SETTINGS };
        let mut guard = Guard::new(settings);
        let mut turned_over = 0.0;
        for window in 1..=500 {
            let now = Snapshot { network_rows: 50, cached_rows: 1000, hotter_absent_rows: 900, ..seen(window) };
            if let Verdict::Allowed { call: ToolCall::Evict(evict), .. } = guard.judge(evict(1.0, false), &now) {
                turned_over += evict.fraction * 1000.0;
            }
        }
        assert!((450.0..=500.0).contains(&turned_over), "2% of 25,000 rows: {turned_over}");
    }

    #[test]
    fn growth_does_not_pay_for_what_shrinking_did() {
        let mut guard = Guard::new(SETTINGS);
        let worse = Effect { hit_rate: (0.5, 0.3), network_share: (0.5, 0.7), as_expected: false };
        [10, 20].iter().for_each(|&window| guard.learn(&Past::new(seen(window), grow(0.5), Impact::Up), &worse));
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(25))), "allowed");
        [10, 20].iter().for_each(|&window| guard.learn(&Past::new(seen(window), grow(1.2), Impact::Up), &worse));
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(25))), "veto");
    }

    proptest! {
        /// Whatever a controller says, what is allowed is within the bounds.
        #[test]
        fn no_growth_leaves_its_bounds(factor in prop::num::f64::ANY, rows in prop::option::of(any::<u64>()), capacity in 0u64..1000, ceiling in 0u64..2000) {
            let now = Snapshot { capacity_rows: capacity, ceiling_rows: ceiling, ..seen(1) };
            let call = ToolCall::Grow(Grow { factor: rows.is_none().then_some(factor), rows, table: None });
            if let Verdict::Allowed { call: ToolCall::Grow(grow), .. } = Guard::new(SETTINGS).judge(call, &now) {
                let rows = grow.rows.map_or(capacity as f64 * grow.factor.unwrap_or(1.0), |rows| rows as f64);
                prop_assert!(rows.is_finite() && rows <= ceiling.max(capacity) as f64 + 0.5, "{} rows", rows);
                prop_assert!(rows >= capacity as f64 * 0.5 - 0.5, "{} rows", rows);
            }
        }
    }
}
