//! The guard between a proposal and the cache: no controller can do harm. It clamps arguments, and refuses what costs more than
//! it can bring: growth over the ceiling, evictions without hotter candidates, calls too soon after the last, anything costly
//! when the run is nearly over, and what made things worse twice in like states. It owns those rules and must never change
//! what the tools themselves check.

use super::controller::{Effect, Past};
use super::snapshot::Snapshot;
use crate::tools::{Evict, Grow, ToolCall};
use std::collections::BTreeMap;

/// Share of the run from which nothing is brought in any more: it would not be used often enough.
const NEARLY_DONE: f64 = 0.97;

/// Share of the memory limit from which no controller is given more, and any may give back what is of use.
pub(super) const MEMORY_TIGHT: f64 = 0.85;

/// Largest growth of one decision.
pub(super) const GROW_FACTOR_MAX: f64 = 4.0;

/// Smallest share that a decision may shrink a cache to.
pub(super) const GROW_FACTOR_MIN: f64 = 0.5;

/// Times that a tool must have made things worse in like states before it is vetoed.
const STRIKES: u32 = 2;

/// Bounds of the guard, from section `[agent]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardSettings {
    /// Windows after an action in which no other is allowed.
    pub cooldown_windows: u64,
    /// Windows for which a tool that made things worse twice is vetoed.
    pub veto_windows: u64,
    /// Rows below which no cache is shrunk.
    pub rows_min: u64,
    /// Whether slots that are of use are kept. They are wherever trainers wait for rows; a replay that collects samples gives them
    /// back, so that growing can be tried again.
    pub keeps_useful: bool,
}

/// What the guard says.
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

/// A state as coarse as "like states" means: fullness, hit rate and cold share by tenths, and shifted or not.
type Likeness = (u8, u8, u8, bool);

fn likeness(seen: &Snapshot) -> Likeness {
    let tenth = |share: f64| (share * 10.0).clamp(0.0, 10.0) as u8;
    (tenth(seen.fullness()), tenth(seen.hit_rate.unwrap_or(0.0)), tenth(seen.cold_share), seen.shifted)
}

/// The guard and what it remembers.
#[derive(Debug)]
pub struct Guard {
    settings: GuardSettings,
    /// By tool and state: times it made things worse, and the window until which it is vetoed.
    strikes: BTreeMap<(&'static str, Likeness), (u32, u64)>,
    /// By tool, the window of its last call.
    last: BTreeMap<&'static str, u64>,
}

/// The rules by which proposals are refused.
pub const RULES: [&str; 7] =
    ["cooldown", "veto", "nearly-done", "no-candidates", "no-shift", "pointless", "not-a-decision"];

impl Guard {
    /// A guard without memories.
    #[must_use]
    pub fn new(settings: GuardSettings) -> Self {
        Self { settings, strikes: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// Judges `call` after the window `now`.
    pub fn judge(&mut self, call: ToolCall, now: &Snapshot) -> Verdict {
        if matches!(call, ToolCall::Hold(_)) {
            return Verdict::Allowed { call, clamped: None };
        }
        if let Some(refused) = self.refusal(&call, now) {
            return refused;
        }
        let (call, clamped) = match call {
            ToolCall::Grow(grow) => self.clamp_growth(grow, now),
            ToolCall::Evict(evict) => clamp_eviction(evict, now),
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
        if let Some(&(_, until)) = self.strikes.get(&(call.tool(), likeness(now)))
            && now.window < until
        {
            return refused("veto", format!("{} made things worse twice in states like this", call.tool()));
        }
        if now.run_progress.is_some_and(|progress| progress >= NEARLY_DONE) && costs(call, now) {
            return refused("nearly-done", "the run is nearly over".to_owned());
        }
        match call {
            ToolCall::Evict(evict) if now.hotter_absent_rows == 0 && !evict.forget => {
                refused("no-candidates", "no absent row is hotter than a resident".to_owned())
            }
            ToolCall::Evict(evict) if evict.forget && !now.shifted => {
                refused("no-shift", "history is dropped only when accesses have shifted".to_owned())
            }
            ToolCall::Warm(_) => refused("not-a-decision", "ids are for trainers to name".to_owned()),
            _ => None,
        }
    }

    /// Growth in rows, within the ceiling, a factor and the least a cache may have.
    fn clamp_growth(&self, grow: Grow, now: &Snapshot) -> (ToolCall, Option<String>) {
        let capacity = now.capacity_rows as f64;
        let asked = grow.rows.map_or_else(|| capacity * grow.factor.unwrap_or(1.0), |rows| rows as f64);
        let asked = if asked.is_finite() { asked } else { capacity };
        let kept = if self.settings.keeps_useful { needed(now) } else { 0.0 };
        let floor = (capacity * GROW_FACTOR_MIN).max(self.settings.rows_min as f64).max(kept).min(capacity);
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

    /// Learns what a decision did.
    pub fn learn(&mut self, past: &Past, effect: &Effect) {
        let key = (past.call.tool(), likeness(&past.seen));
        if matches!(past.call, ToolCall::Hold(_)) {
            return;
        }
        if !effect.made_worse() {
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

/// Rows that are of use: slots of others may be given back, and all of them where memory is tight. A cache that cannot tell has none to
/// spare.
fn needed(now: &Snapshot) -> f64 {
    let useless = if now.in_last_epoch() { now.spent_share } else { now.cold_share };
    if now.memory_share >= MEMORY_TIGHT { 0.0 } else { now.cached_rows as f64 * (1.0 - useless.clamp(0.0, 1.0)) }
}

/// Whether `call` brings rows in that would not have come anyway.
fn costs(call: &ToolCall, now: &Snapshot) -> bool {
    match call {
        ToolCall::Grow(Grow { factor: Some(factor), .. }) => *factor > 1.0,
        ToolCall::Grow(Grow { rows: Some(rows), .. }) => *rows > now.capacity_rows,
        ToolCall::Grow(_) | ToolCall::Evict(_) | ToolCall::Warm(_) => true,
        ToolCall::Refresh(_) | ToolCall::Hold(_) => false,
    }
}

/// No more than there are hotter rows for.
fn clamp_eviction(evict: Evict, now: &Snapshot) -> (ToolCall, Option<String>) {
    let useful = (now.hotter_absent_rows as f64 / now.cached_rows.max(1) as f64).clamp(1e-6, 1.0);
    let fraction = if evict.forget { evict.fraction } else { evict.fraction.min(useful) };
    let clamped = (fraction < evict.fraction).then(|| format!("fraction {:.3} became {fraction:.3}", evict.fraction));
    (ToolCall::Evict(Evict { fraction, ..evict }), clamped)
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
            remote_rows: 100,
            network_rows: 50,
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
        assert_eq!(judged(grow(0.1), &Snapshot { cold_share: 1.0, ..now }), "clamped");
        assert_eq!(judged(grow(2.0), &Snapshot { ceiling_rows: 100, ..now }), "pointless");
        assert_eq!(judged(evict(0.05, false), &now), "allowed");
        assert_eq!(judged(evict(0.5, false), &now), "clamped");
        assert_eq!(judged(evict(0.5, false), &Snapshot { hotter_absent_rows: 0, ..now }), "no-candidates");
        assert_eq!(judged(evict(0.5, true), &now), "no-shift");
        assert_eq!(judged(evict(0.5, true), &Snapshot { shifted: true, ..now }), "allowed");
        let done = Snapshot { run_progress: Some(0.99), ..now };
        assert_eq!(judged(grow(1.2), &done), "nearly-done");
        assert_eq!(judged(grow(0.8), &Snapshot { cold_share: 0.2, ..done }), "allowed", "shrinking costs nothing");
        let full = Snapshot { cached_rows: 100, cold_share: 0.1, ..now };
        assert_eq!(judged(grow(0.9), &full), "allowed");
        assert_eq!(judged(grow(0.8), &full), "clamped", "only a tenth is of no use");
        let all = Snapshot { cold_share: 0.0, ..full };
        assert_eq!(judged(grow(0.8), &all), "pointless", "all of it is of use");
        let collecting = GuardSettings { keeps_useful: false, ..SETTINGS };
        assert_eq!(rule(&Guard::new(collecting).judge(grow(0.8), &all)), "allowed", "nobody waits for these rows");
        assert_eq!(
            judged(grow(0.8), &Snapshot { memory_share: 0.9, ..full }),
            "allowed",
            "others need the memory more"
        );
        let last = Snapshot { epochs: 9.5, run_progress: Some(0.95), spent_share: 0.5, ..full };
        assert_eq!(judged(grow(0.5), &last), "allowed", "half of it is not asked for again");
        assert_eq!(judged(ToolCall::Refresh(Refresh::default()), &done), "allowed");
        let warm = crate::tools::Warm { table: "x".to_owned(), ids: vec![1] };
        assert_eq!(judged(ToolCall::Warm(warm), &now), "not-a-decision");
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
            let past = Past { seen: seen(window), call: evict(0.05, false), expected: Impact::Up, effect: None };
            guard.learn(&past, &worse);
        }
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(25))), "veto");
        assert_eq!(rule(&guard.judge(grow(1.2), &seen(25))), "allowed", "another tool is not");
        assert_eq!(rule(&guard.judge(evict(0.05, false), &seen(31))), "allowed", "ten windows later");
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
